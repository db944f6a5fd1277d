// What a runaway loop and a token that may not write run into: the budget of a person, and the
// scopes of a token.

import { heapStats } from "bun:jsc";
import { afterEach, describe, expect, setSystemTime, test } from "bun:test";
import { rateLimit } from "../main.ts";
import { sampleApp } from "./sample-app.ts";
import { gateway, mint } from "./support.ts";

// The machine has a clock that people set (setSystemTime), and one that only runs: this one.
const now = performance.now.bind(performance);
let elapsed = 1_000_000;
const fakeTime = () => void (performance.now = () => elapsed);
const pass = (seconds: number) => void (elapsed += seconds * 1000);
afterEach(() => {
  setSystemTime();
  performance.now = now;
});

type Room = Awaited<ReturnType<typeof gateway>>;
const limited = (calls: number) => gateway({ env: { RATE_LIMIT_PER_MINUTE: String(calls) } });
const health = (room: Room, token: string) =>
  room.rpc("tools/call", { name: "health", arguments: {} }, token);
async function statuses(room: Room, token: string, calls: number): Promise<number[]> {
  const all: number[] = [];
  for (let call = 0; call < calls; call++) all.push((await health(room, token)).status);
  return all;
}
const oks = (calls: number) => Array<number>(calls).fill(200);

describe("the budget of a person", () => {
  test("is 120 calls a minute, if nobody says otherwise", async () => {
    expect((await gateway()).config.callsPerMinute).toBe(120);
  });

  test.each([1, 3])("%d calls pass, and the next is told how long to wait", async (calls) => {
    const room = await limited(calls);
    const token = await mint();
    expect(await statuses(room, token, calls)).toEqual(oks(calls));
    const { status, headers, body } = await health(room, token);
    const wait = headers.get("retry-after")!;
    expect([status, wait]).toEqual([429, expect.stringMatching(/^(59|60)$/)]);
    expect(body.error).toContain(`wait ${wait} seconds`);
    expect(room.log.at(-1)).toMatchObject({ tool: "health", outcome: "refused", why: "rate" });
  });

  test("is one, whatever the token, session, address or revision of the protocol", async () => {
    const room = await limited(7);
    const [first, second] = [await room.enter(), await room.enter("ada", { jti: "another" })]; // 2
    const state = { name: "user_get_state", arguments: { session: first.session } };
    const scoped = await mint({ scope: "openid notebook:read notebook:write" });
    const body = JSON.stringify({ jsonrpc: "2.0", id: "x", method: "tools/call", params: state });
    const headers = {
      host: "127.0.0.1:8000",
      "x-forwarded-for": "198.51.100.7",
      "mcp-session-id": "x",
      "content-type": "application/json",
      accept: "application/json, text/event-stream",
      authorization: `bearer ${second.token}`,
    };
    const ways = [
      () => health(room, first.token),
      () => room.rpc("tools/call", state, second.token),
      () => room.modern("health", { arguments: {} }, first.token),
      () => health(room, scoped),
      () => room.send("/mcp/", { method: "POST", body, headers }),
    ];
    for (const way of ways) expect((await way()).status).toBe(200); // 7
    for (const way of ways) expect((await way()).status).toBe(429);
  });

  test("counts calls alone: the greeting and the menu go on working", async () => {
    const room = await limited(1);
    const token = await mint();
    const clientInfo = { name: "test", version: "1" };
    const hello = { protocolVersion: "2025-11-25", capabilities: {}, clientInfo };
    const rest = async () => [
      (await room.rpc("initialize", hello, token)).status,
      (await room.rpc("tools/list", {}, token)).status,
      (await room.rpc("ping", {}, token)).status,
    ];
    for (let round = 0; round < 3; round++) expect(await rest()).toEqual(oks(3));
    expect(await statuses(room, token, 2)).toEqual([200, 429]);
    expect(await rest()).toEqual(oks(3));
  });

  test("counts what is refused, unknown, forbidden or fails as well", async () => {
    const room = await limited(5);
    const token = await mint();
    const call = async (name: string, args: object, bearer = token) =>
      (await room.rpc("tools/call", { name, arguments: args }, bearer)).status;
    expect(await call("user_get_state", {})).toBe(200); // no session
    expect(await call("health", { nonsense: 1 })).toBe(200);
    expect(await call("no_such_tool", {})).toBe(200);
    expect(await call("user_write", {}, await mint({ scope: "notebook:read" }))).toBe(403);
    await room.store.close();
    expect(await call("health", {})).toBe(200); // can't continue
    expect(await call("health", {})).toBe(429);
  });

  test.each<[string, object]>([
    ["an id", { method: "tools/call", params: { name: "health", arguments: {} } }],
    ["parameters", { id: 1, method: "tools/call" }],
    ["a name", { id: 1, method: "tools/call", params: { name: ["health"] } }],
    ["any sense", { id: 1, method: "tools/call", params: { name: { toString: "health" } } }],
  ])("counts a call without %s", async (_, message) => {
    const room = await limited(1);
    const token = await mint();
    const { status } = await room.send("/mcp", {
      method: "POST",
      body: JSON.stringify({ jsonrpc: "2.0", ...message }),
      headers: {
        "content-type": "application/json",
        accept: "application/json, text/event-stream",
        authorization: `Bearer ${token}`,
      },
    });
    expect(status).toBeLessThan(500);
    expect((await health(room, token)).status).toBe(429);
  });

  test("slows nobody else, and a bad token costs its supposed owner nothing", async () => {
    const room = await limited(2);
    expect(await statuses(room, await mint(), 3)).toEqual([200, 200, 429]);
    for (const sub of ["ben", "ada ", "Ada", "ad"]) {
      expect(await statuses(room, await mint({ sub }), 2)).toEqual(oks(2));
    }
    const forged = await mint({ sub: "cleo", aud: "https://elsewhere.example/mcp" });
    expect(await statuses(room, forged, 3)).toEqual([401, 401, 401]);
    expect((await health(room, await mint({ sub: "cleo" }))).status).toBe(200);
  });

  test("is there again after a minute, even for one who kept knocking", async () => {
    fakeTime();
    const room = await limited(2);
    const token = await mint();
    expect(await statuses(room, token, 3)).toEqual([200, 200, 429]);
    for (let second = 1; second < 60; second += 7) {
      pass(second === 1 ? 1 : 7);
      const { status, headers } = await health(room, token);
      expect([status, headers.get("retry-after")]).toEqual([429, String(60 - second)]);
    }
    pass(3);
    expect(await statuses(room, token, 3)).toEqual([200, 200, 429]);
  });

  test("is there for one who waited as long as Retry-After says", async () => {
    fakeTime();
    const room = await limited(1);
    const token = await mint();
    await health(room, token);
    pass(17.3);
    const wait = Number((await health(room, token)).headers.get("retry-after"));
    expect(wait).toBe(43);
    pass(wait);
    expect((await health(room, token)).status).toBe(200);
  });

  test.each([-3600, 3600])("a clock that is set by %d s locks nobody out", async (seconds) => {
    fakeTime();
    const room = await limited(2);
    expect(await statuses(room, await mint(), 3)).toEqual([200, 200, 429]);
    setSystemTime(new Date(Date.now() + seconds * 1000));
    pass(60);
    expect(await statuses(room, await mint(), 3)).toEqual([200, 200, 429]);
  });

  test("is remembered for its minute, however many others come", () => {
    fakeTime();
    const secondsToWait = rateLimit(2);
    for (const wait of [0, 0, 60]) expect(secondsToWait("loop")).toBe(wait);
    pass(30);
    for (let n = 0; n < 50_000; n++) secondsToWait(`somebody ${n}`);
    expect(secondsToWait("loop")).toBe(30);
    pass(30);
    expect(secondsToWait("loop")).toBe(0);
  });

  test("is not remembered for all time", () => {
    fakeTime();
    const secondsToWait = rateLimit(2);
    const heapAfter = (minute: number) => {
      for (let n = 0; n < 2_000; n++) {
        pass(0.03); // 2,000 a minute
        secondsToWait(`somebody with a rather long name, ${minute} ${n}`);
      }
      Bun.gc(true);
      return heapStats().heapSize;
    };
    for (const minute of [1, 2]) heapAfter(minute);
    const before = heapAfter(3);
    for (let minute = 4; minute < 14; minute++) heapAfter(minute);
    expect(heapAfter(14) - before).toBeLessThan(1_000_000); // 22,000 people would take 4 MB
  });
});

// ---- Least privilege ----

interface Listed {
  name: string;
  annotations: { readOnlyHint: boolean };
}
const menu = (await (await gateway()).rpc("tools/list", {}, await mint())).body.result
  .tools as Listed[];
const RIGHT: Record<string, object> = {
  domain_get_word: { word: "fern" },
  user_write: { notes: { b: "by a scope" } },
  user_seal: { name: "c" },
};
const [READ, WRITE] = ["notebook:read", "notebook:write"];

describe("the scopes of a token", () => {
  test.each<[scope: unknown, reads: boolean, writes: boolean]>([
    // A service that can't define scopes of ours is unaffected.
    [undefined, true, true],
    ["", true, true],
    ["openid profile email offline_access", true, true],
    ["notebooks:read", true, true],
    ["my-notebook:read", true, true],
    ["Notebook:read", true, true],
    // Whoever names one of ours is held to what is named.
    [READ, true, false],
    [`openid ${READ}`, true, false],
    [`  ${READ}  openid `, true, false],
    [WRITE, false, true],
    [`${READ} ${WRITE}`, true, true],
    [`notebook:x ${READ}`, true, false],
  ])("%p: reads %p, writes %p", async (scope, reads, writes) => {
    const room = await gateway();
    const { session, use } = await room.enter();
    await use("user_write", { notes: { a: "before" } });
    const { state } = (await use("user_get_state")).structuredContent!;
    const token = await mint(scope === undefined ? {} : { scope });
    const held = String(scope ?? "").split(" ").filter(Boolean);
    for (const { name, annotations: { readOnlyHint } } of menu) {
      const args = { arguments: { session, ...RIGHT[name] } };
      const allowed = readOnlyHint ? reads : writes;
      for (const { status, headers, body } of [
        await room.rpc("tools/call", { name, ...args }, token),
        await room.modern(name, args, token),
      ]) {
        expect([name, status]).toEqual([name, allowed ? 200 : 403]);
        if (allowed) continue;
        const challenge = headers.get("www-authenticate")!;
        expect(challenge).toStartWith('Bearer error="insufficient_scope", ');
        // RFC 6750, section 3: what is needed; with what is held, or a host would lose the rest.
        const wanted = [...held, readOnlyHint ? READ : WRITE].join(" ");
        expect(challenge).toContain(`scope="${wanted}", resource_metadata="http`);
        expect(body).toEqual({ error: "insufficient_scope" });
        expect(room.log.at(-1)).toMatchObject({ tool: name, outcome: "refused", why: "scope" });
      }
    }
    if (writes) return;
    expect((await use("user_get_state")).structuredContent!.state).toEqual(state);
  });

  test("the tools that write are those that say so", () => {
    const writing = menu.filter(({ annotations }) => !annotations.readOnlyHint);
    const names = writing.map(({ name }) => name).sort();
    expect(names).toEqual(["user_forget_me", "user_seal", "user_undo", "user_write"]);
  });

  test("a visit goes on after a refusal, with the same session", async () => {
    const room = await gateway();
    const { session, use } = await room.enter("ada", { scope: READ! });
    const save = { name: "user_write", arguments: { session, mood: "calm" } };
    expect((await room.rpc("tools/call", save, await mint({ scope: READ }))).status).toBe(403);
    expect((await use("user_get_state")).isError).toBeUndefined();
    const more = await mint({ scope: `${READ} ${WRITE}` });
    expect((await room.rpc("tools/call", save, more)).body.result.isError).toBeUndefined();
  });

  test("a header that names another tool than the body does not get round it", async () => {
    const room = await gateway();
    const { session, token, use } = await room.enter("ada", { scope: READ! });
    const header = { "mcp-name": "user_get_state" };
    const args = { arguments: { session, mood: "calm" } };
    expect((await room.modern("user_write", args, token, {}, header)).status).toBe(403);
    expect((await use("user_get_state")).structuredContent!.state).toEqual(sampleApp.empty);
  });

  test("a tool that is not there counts as reading", async () => {
    const room = await gateway();
    for (const name of ["no_such_tool", "constructor", "__proto__"]) {
      const call = { name, arguments: {} };
      const { body } = await room.rpc("tools/call", call, await mint({ scope: READ }));
      expect(body.error.code).toBe(-32602);
      const { status } = await room.rpc("tools/call", call, await mint({ scope: WRITE }));
      expect(status).toBe(403);
    }
  });

  test.each<[string, Record<string, unknown>]>([
    ["a list", { scope: [READ] }],
    ["scp", { scp: READ }],
    ["a list in scp", { scp: [READ] }],
    ["scp beside an empty scope", { scope: "", scp: [READ] }],
    ["scp beside a scope of others", { scope: "openid", scp: READ }],
  ])("hold when a service says them as %s", async (_, claims) => {
    const room = await gateway();
    const save = { name: "user_write", arguments: {} };
    expect((await room.rpc("tools/call", save, await mint(claims))).status).toBe(403);
  });

  test.each<[string, unknown]>([
    ["an accent", `${READ} é`],
    ["an emoji", `${READ} 🙂`],
    ["a line end", `${READ} a\r\nx-evil:1`],
    ["a quotation mark", `${READ} a"b`],
    ["a number", 5],
    ["an object", { [READ!]: true }],
    ["a list in a list", [[READ, "x"]]],
    ["an object in a list", [{ n: 1 }]],
  ])("that can't be read for %s allow nothing at all", async (_, scope) => {
    const room = await gateway();
    const { status, headers } = await health(room, await mint({ scope }));
    expect([status, headers.get("www-authenticate")]).toEqual([
      401,
      expect.stringMatching(/^Bearer error="invalid_token", resource_metadata="[^"]+"$/),
    ]);
  });

  test.each<[string, string, number, number]>([
    ["what every token must have, and none of ours", "files:use", 200, 200],
    ["both, to read", `files:use ${READ}`, 200, 403],
    ["both, to write", `files:use ${WRITE}`, 403, 200],
    ["all of them", `files:use ${READ} ${WRITE}`, 200, 200],
    ["ours alone", `${READ} ${WRITE}`, 403, 403],
    ["nothing", "", 403, 403],
  ])("where AUTH_SCOPES asks for more: %s", async (_, scope, reads, writes) => {
    const room = await gateway({ env: { AUTH_SCOPES: "files:use" } });
    const { session } = await room.enter("ada", { scope: "files:use" });
    const token = await mint({ scope });
    const call = (name: string, args: object = {}) =>
      room.rpc("tools/call", { name, arguments: { session, ...args } }, token);
    const [read, write] = [await call("user_get_state"), await call("user_write", { mood: "x" })];
    expect([read.status, write.status]).toEqual([reads, writes]);
    for (const { status, headers } of [read, write]) {
      const challenge = headers.get("www-authenticate") ?? "";
      expect(challenge.includes("insufficient_scope")).toBe(status === 403);
      expect(/scope="[^"]*files:use/.test(challenge)).toBe(status === 403);
    }
  });
  test("a token without a scope of AUTH_SCOPES can't see the menu either", async () => {
    const room = await gateway({ env: { AUTH_SCOPES: "files:use files:share" } });
    const list = async (scope: string) =>
      (await room.rpc("tools/list", {}, await mint({ scope }))).status;
    expect([await list("files:use files:share"), await list("files:use")]).toEqual([200, 403]);
    const why = "sign-in: scope";
    expect(room.log.at(-1)).toMatchObject({ sub: "ada", outcome: "refused", why });
  });
});
