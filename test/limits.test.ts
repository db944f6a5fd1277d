// What a runaway loop and a token that may not write run into: the budget of a person, and the scopes of a token.

import { heapStats } from "bun:jsc";
import { afterEach, describe, expect, setSystemTime, test } from "bun:test";
import * as newer from "@modelcontextprotocol/client";
import { Client as OlderClient } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport as OlderTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import type { Transport } from "@modelcontextprotocol/sdk/shared/transport.js";
import { rateLimit } from "../main.ts";
import { desk, ISSUER, mint, RESOURCE, startGateway } from "./support.ts";

// The machine has a clock that people set (setSystemTime), and one that only runs: this one.
let elapsed = 1_000_000;
const now = performance.now;
const fakeTime = () => void (performance.now = () => elapsed); // a spy would remember every call
const pass = (seconds: number) => void (elapsed += seconds * 1000);
afterEach(() => {
  setSystemTime();
  performance.now = now;
});

type Room = Awaited<ReturnType<typeof desk>>;
const limited = (calls: number) => desk({ env: { RATE_LIMIT_PER_MINUTE: String(calls) } });
const health = (room: Room, token: string) => room.rpc("tools/call", { name: "health", arguments: {} }, token);
async function statuses(room: Room, token: string, calls: number): Promise<number[]> {
  const all: number[] = [];
  for (let call = 0; call < calls; call++) all.push((await health(room, token)).status);
  return all;
}
const oks = (calls: number) => Array<number>(calls).fill(200);

describe("the budget of a person", () => {
  test.each([1, 3, 120])("%d calls a minute pass, and the next is told how long to wait", async (calls) => {
    const room = await limited(calls);
    const token = await mint();
    expect(await statuses(room, token, calls)).toEqual(oks(calls));
    const { status, headers, body } = await health(room, token);
    const wait = headers.get("retry-after")!;
    expect({ status, wait, body }).toEqual({ status: 429, wait: expect.stringMatching(/^(59|60)$/) as unknown as string, body: { error: expect.stringMatching(new RegExp(`\\b${wait} seconds\\b`)) } });
    expect(headers.get("content-type")).toStartWith("application/json");
    expect(room.log.at(-1)).toEqual({ at: expect.any(String), ref: expect.any(String), sub: "test-user-001", tool: "health", outcome: "refused", why: "rate", ms: expect.any(Number) });
  });

  test("without a setting it is 120", async () => {
    expect((await desk()).config.callsPerMinute).toBe(120);
  });

  test("it is one budget, whatever the token, session, address, connection or revision of the protocol", async () => {
    const room = await limited(9);
    const scoped = await mint({ sub: "reader-A", scope: "openid reading-room:read reading-room:write" });
    const [first, second] = [await room.enter("reader-A"), await room.enter("reader-A", { jti: "another", client_id: "another-app", email: "a@example.com" })]; // 2
    const ways: (() => Promise<{ status: number }>)[] = [
      () => health(room, first.token),
      () => health(room, second.token),
      () => room.rpc("tools/call", { name: "user_get_state", arguments: { session: first.session } }, second.token),
      () => room.rpc("tools/call", { name: "user_get_state", arguments: { session: second.session } }, first.token),
      () => room.modern("health", { arguments: {} }, first.token),
      () => health(room, scoped),
      () => room.send("/mcp/", { method: "POST", body: JSON.stringify({ jsonrpc: "2.0", id: "x", method: "tools/call", params: { name: "health", arguments: {} } }), headers: {
        host: "127.0.0.1:8000", "x-forwarded-for": "198.51.100.7", "user-agent": "another", origin: "http://localhost:3000", "mcp-session-id": "x",
        "content-type": "application/json", accept: "application/json, text/event-stream", authorization: `bearer ${second.token}`,
      } }),
    ];
    for (const way of ways) expect((await way()).status).toBe(200); // 9
    for (const way of ways) expect((await way()).status).toBe(429);
  });

  test("what a browser client is told it may also read", async () => {
    const room = await limited(1);
    const token = await mint();
    await health(room, token);
    const { status, headers } = await room.modern("health", { arguments: {} }, token, {}, { origin: "http://localhost:3000" });
    expect(status).toBe(429);
    expect(headers.get("access-control-expose-headers")).toMatch(/\bRetry-After\b/i);
    expect(headers.get("access-control-allow-origin")).toBe("http://localhost:3000");
  });

  test("initialize, tools/list, ping and notifications are not counted, and go on working", async () => {
    const room = await limited(2);
    const token = await mint();
    const rest = async () => [
      (await room.rpc("initialize", { protocolVersion: "2025-11-25", capabilities: {}, clientInfo: { name: "x", version: "1" } }, token)).status,
      (await room.rpc("tools/list", {}, token)).status,
      (await room.rpc("ping", {}, token)).status,
    ];
    for (let round = 0; round < 5; round++) expect(await rest()).toEqual(oks(3));
    expect(await statuses(room, token, 3)).toEqual([200, 200, 429]);
    expect(await rest()).toEqual(oks(3));
  });

  test("calls that are refused or fail count as well", async () => {
    const room = await limited(6);
    const token = await mint();
    const full = await mint({ scope: "reading-room:read" });
    const call = async (name: string, args: object, bearer = token) => (await room.rpc("tools/call", { name, arguments: args }, bearer)).status;
    expect(await call("user_get_state", {})).toBe(200); // no session
    expect(await call("domain_get_article", { id: "a99", session: "A".repeat(24) })).toBe(200);
    expect(await call("health", { nonsense: 1 })).toBe(200);
    expect(await call("no_such_tool", {})).toBe(200);
    expect(await call("user_save_state", {}, full)).toBe(403);
    await room.store.close();
    expect(await call("health", {})).toBe(200); // can't continue
    expect(await call("health", {})).toBe(429);
  });

  test.each<[string, (token: string) => object]>([
    ["a call without an id", () => ({ jsonrpc: "2.0", method: "tools/call", params: { name: "health", arguments: {} } })],
    ["a call with a broken id", () => ({ jsonrpc: "2.0", id: { a: 1 }, method: "tools/call", params: { name: "health", arguments: {} } })],
    ["a call without parameters", () => ({ jsonrpc: "2.0", id: 1, method: "tools/call" })],
    ["a call whose tool is a list", () => ({ jsonrpc: "2.0", id: 1, method: "tools/call", params: { name: ["health"] } })],
  ])("%s counts, whatever comes of it", async (_, message) => {
    const room = await limited(1);
    const token = await mint();
    await room.send("/mcp", { method: "POST", body: JSON.stringify(message(token)), headers: { "content-type": "application/json", accept: "application/json, text/event-stream", authorization: `Bearer ${token}` } });
    expect((await health(room, token)).status).toBe(429);
  });

  test("nobody else is slowed: another reader, or one of the same name elsewhere", async () => {
    const room = await limited(2);
    const token = await mint({ sub: "reader-A" });
    expect(await statuses(room, token, 5)).toEqual([200, 200, 429, 429, 429]);
    for (const sub of ["reader-B", "reader-A ", "Reader-A", "reader-"]) expect(await statuses(room, await mint({ sub }), 2)).toEqual(oks(2));
  });

  test("a bad token costs its supposed owner nothing", async () => {
    const room = await limited(1);
    for (let call = 0; call < 5; call++) expect((await health(room, await mint({ aud: "https://elsewhere.example/mcp" }))).status).toBe(401);
    expect((await health(room, await mint())).status).toBe(200);
  });

  test("after a minute it is open again, even to one who kept knocking", async () => {
    fakeTime();
    const room = await limited(2);
    const token = await mint();
    expect(await statuses(room, token, 3)).toEqual([200, 200, 429]);
    for (let second = 1; second < 60; second++) {
      pass(1);
      const { status, headers } = await health(room, token);
      expect([status, headers.get("retry-after")]).toEqual([429, String(60 - second)]);
    }
    pass(1);
    expect(await statuses(room, token, 3)).toEqual([200, 200, 429]);
    pass(60);
    expect(await statuses(room, token, 3)).toEqual([200, 200, 429]);
  });

  test("one who waits as long as Retry-After says is let in", async () => {
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

  test.each([["back by a minute", -60], ["back by an hour", -3600], ["back by ten years", -315_360_000], ["on by a minute", 60], ["on by a day", 86_400], ["on by ten years", 315_360_000]])("a clock that is set %s locks nobody out", async (_, seconds) => {
    fakeTime();
    const start = Date.now();
    const room = await limited(2);
    expect(await statuses(room, await mint(), 3)).toEqual([200, 200, 429]);
    setSystemTime(new Date(start + seconds * 1000));
    const token = await mint();
    const wait = (await health(room, token)).headers.get("retry-after");
    if (wait !== null) expect(Number(wait)).toBeWithin(1, 61);
    pass(60);
    expect(await statuses(room, token, 3)).toEqual([200, 200, 429]);
    expect(await statuses(room, await mint({ sub: "reader-B" }), 2)).toEqual(oks(2));
  });

  test("it remembers the people of one minute, not of all time", () => {
    fakeTime();
    const secondsToWait = rateLimit(2);
    const crowd = (minute: number) => {
      for (let person = 0; person < 5_000; person++) {
        elapsed += 12; // 5,000 a minute
        if (secondsToWait(`${ISSUER}|a reader whose name is rather long, of the minute ${minute}, number ${person}`) !== 0) throw new Error("refused");
      }
      Bun.gc(true);
      return heapStats().heapSize;
    };
    crowd(0);
    const before = crowd(1);
    for (let minute = 2; minute < 40; minute++) crowd(minute);
    expect(crowd(40) - before).toBeLessThan(2_000_000); // 195,000 people would take 40 MB and more
  }, 20_000);

  test("a crowd within the minute makes nobody forget who is over the limit", () => {
    fakeTime();
    const secondsToWait = rateLimit(2);
    for (const wait of [0, 0, 60]) expect(secondsToWait("loop")).toBe(wait);
    pass(30);
    for (let person = 0; person < 50_000; person++) secondsToWait(`reader ${person}`);
    expect(secondsToWait("loop")).toBe(30);
    pass(29.9);
    expect(secondsToWait("loop")).toBe(1);
    pass(0.1);
    for (const wait of [0, 0, 60]) expect(secondsToWait("loop")).toBe(wait);
    expect(secondsToWait("reader 1")).toBe(0);
    expect(secondsToWait("reader 1")).toBeGreaterThan(0);
  });

  test("a loop of 10,000 calls is not felt by a second reader", async () => {
    const gateway = await startGateway();
    try {
      const post = async (token: string, name: string, args: object) => {
        const response = await fetch(gateway.mcp, { method: "POST", headers: { "content-type": "application/json", accept: "application/json, text/event-stream", authorization: `Bearer ${token}` },
          body: JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/call", params: { name, arguments: args } }) });
        return { status: response.status, text: await response.text() };
      };
      const [loop, reader] = [await gateway.token("loop"), await gateway.token("reader")];
      const { text } = await post(reader, "begin_session", {});
      const { session } = JSON.parse(text.match(/^data: (.*)$/m)?.[1] ?? text).result.structuredContent;
      const seen = new Map<number, number>();
      let left = 10_000;
      const started = performance.now();
      const looping = Promise.all(Array.from({ length: 16 }, async () => {
        while (left-- > 0) {
          const { status } = await post(loop, "health", {});
          seen.set(status, (seen.get(status) ?? 0) + 1);
        }
      }));
      const waits: number[] = [];
      while (left > 0 && waits.length < 100) {
        const asked = performance.now();
        const { status, text: answer } = await (waits.length % 2 === 0 ? post(reader, "user_get_state", { session })
          : post(reader, "user_save_state", { session, shelf: { a1: `place ${waits.length}` } }));
        waits.push(performance.now() - asked);
        expect({ status, refused: answer.includes('"isError":true') }).toEqual({ status: 200, refused: false });
        await Bun.sleep(10);
      }
      const called = waits.length;
      await looping;
      waits.sort((a, b) => a - b);
      console.log(`10,000 calls in ${Math.round(performance.now() - started)} ms; the other reader's ${called}: median ${waits[called >> 1]!.toFixed(1)} ms, 99 % within ${waits[Math.floor(called * 0.99)]!.toFixed(1)} ms`);
      expect([...seen.keys()].sort()).toEqual([200, 429]);
      expect(seen.get(200)! % 120).toBe(0); // 120, and as many again if the loop took over a minute
      expect(called).toBeGreaterThan(20);
      expect(waits.at(-1)!).toBeLessThan(2_000);
    } finally {
      await gateway.stop();
    }
  }, 90_000);

  /** The app in this process as an address to fetch from. */
  const front = (room: Room) => async (url: string | URL, init: RequestInit = {}) => {
    const headers = new Headers(init.headers);
    headers.set("host", "localhost:8000");
    return room.app(new Request(String(url), { ...init, headers }));
  };
  const inEra = (mode: newer.VersionNegotiationMode) => async (room: Room, token: string) => {
    const client = new newer.Client({ name: "newer", version: "1" }, { versionNegotiation: { mode } });
    await client.connect(new newer.StreamableHTTPClientTransport(new URL(RESOURCE), { authProvider: { token: async () => token }, fetch: front(room) }));
    return () => client.callTool({ name: "health", arguments: {} });
  };
  test.each<[string, (room: Room, token: string) => Promise<() => Promise<unknown>>]>([
    ["the older official client", async (room, token) => {
      const client = new OlderClient({ name: "older", version: "1" });
      await client.connect(new OlderTransport(new URL(RESOURCE), { requestInit: { headers: { Authorization: `Bearer ${token}` } }, fetch: front(room) }) as Transport);
      return () => client.callTool({ name: "health", arguments: {} });
    }],
    ["the newer official client in the 2025 era", inEra("legacy")],
    ["the newer official client in the 2026 era", inEra({ pin: "2026-07-28" })],
  ])("%s hands the wait in words to whoever called the tool", async (_, connect) => {
    const room = await limited(1);
    const call = await connect(room, await mint());
    await call();
    const error = await call().then(() => undefined, (error: Error) => error);
    expect(error?.message).toMatch(/\bwait \d+ seconds\b/);
    expect((await room.rpc("tools/list", {}, await mint())).status).toBe(200);
  });
});

// ---- Least privilege ----

interface Listed { name: string; annotations: { readOnlyHint: boolean } }
const menu = (await (await desk()).rpc("tools/list", {}, await mint())).body.result.tools as Listed[];
const needs: Record<string, object> = { domain_search_articles: { query: "library" }, domain_get_article: { id: "a1" }, user_save_state: { shelf: { a2: "saved by a scope" } } };
const [READ, WRITE] = ["reading-room:read", "reading-room:write"];

describe("least privilege", () => {
  test("the tools that write are the ones that the table below takes for writing", () => {
    expect(menu.filter(({ annotations }) => !annotations.readOnlyHint).map(({ name }) => name).sort()).toEqual(["user_forget_me", "user_save_state", "user_undo"]);
  });

  test.each<[scope: unknown, reads: boolean, writes: boolean]>([
    // A service that can't define scopes of ours is unaffected.
    [undefined, true, true],
    ["", true, true],
    ["openid profile email offline_access", true, true],
    ["reading-room", true, true],
    ["reading-rooms:read", true, true],
    ["my-reading-room:read", true, true],
    ["Reading-Room:read", true, true],
    [READ, true, false],
    [`openid ${READ}`, true, false],
    [`${READ} ${READ}`, true, false],
    [`  ${READ}  openid `, true, false],
    [WRITE, false, true],
    [`${READ} ${WRITE}`, true, true],
    [`${WRITE} openid ${READ}`, true, true],
    // Whoever names any of ours is held to what is named.
    ["reading-room:x", false, false],
    ["reading-room:", false, false],
    ["reading-room:reader", false, false],
    ["reading-room:read-more", false, false],
    ["reading-room:READ", false, false],
    ["reading-room:*", false, false],
    ["openid reading-room:admin", false, false],
    [`reading-room:x ${READ}`, true, false],
    [`reading-room:x ${WRITE}`, false, true],
  ])("a token with the scope %p: reads %p, writes %p", async (scope, reads, writes) => {
    const room = await desk();
    const all = await room.enter("reader-A");
    await all.use("user_save_state", { shelf: { a1: "before" } });
    const token = await mint({ sub: "reader-A", ...(scope !== undefined && { scope }) });
    const held = String(scope ?? "").split(" ").filter(Boolean);
    for (const { name, annotations: { readOnlyHint } } of menu) {
      const open = name === "begin_session" || name === "health";
      const before = await room.store.readState(`${ISSUER}|reader-A`);
      for (const send of [() => room.rpc("tools/call", { name, arguments: { ...(!open && { session: all.session }), ...needs[name] } }, token),
        () => room.modern(name, { arguments: { ...(!open && { session: all.session }), ...needs[name] } }, token)]) {
        const { status, headers, body } = await send();
        if (readOnlyHint ? reads : writes) {
          expect({ name, status, error: body.result.isError ?? false }).toEqual({ name, status: 200, error: name === "user_undo" && body.result.isError === true && before.shelf.a1 === undefined });
          continue;
        }
        const needed = readOnlyHint ? READ : WRITE;
        const challenge = headers.get("www-authenticate") ?? "";
        expect({ name, status, challenge }).toEqual({ name, status: 403, challenge: expect.stringMatching(/^Bearer error="insufficient_scope", scope="[^"]+", resource_metadata="http:\/\/localhost:8000\/\.well-known\/oauth-protected-resource\/mcp"$/) as unknown as string });
        // RFC 6750, section 3: the scope that is needed. With what is held, or a host that asks for just this loses the rest.
        expect(new Set(/scope="([^"]+)"/.exec(challenge)![1]!.split(" ").filter(Boolean))).toEqual(new Set([...held, needed!]));
        expect(body).toEqual({ error: "insufficient_scope" });
        expect(room.log.at(-1)).toMatchObject({ sub: "reader-A", tool: name, outcome: "refused", why: "scope" });
        expect(await room.store.readState(`${ISSUER}|reader-A`)).toEqual(before);
      }
    }
  });

  test("with a token that may read, a visit begins, and goes on after a refusal", async () => {
    const room = await desk();
    const reader = await room.enter("reader-A", { scope: READ! });
    expect((await room.rpc("tools/call", { name: "user_save_state", arguments: { session: reader.session, shelf: { a1: "x" } } }, reader.token)).status).toBe(403);
    for (const name of ["user_get_state", "domain_list_articles", "user_list_actions", "config_get_rules"]) expect(await reader.use(name)).not.toHaveProperty("isError");
    expect((await room.rpc("tools/list", {}, reader.token)).body.result.tools.length).toBe(menu.length);
    // The host asks for more, the person says yes, and the same session goes on.
    expect(await room.call("user_save_state", { session: reader.session, shelf: { a1: "x" } }, await mint({ sub: "reader-A", scope: `${READ} ${WRITE}` }))).not.toHaveProperty("isError");
  });

  test("a header that names another tool than the body does not get round it", async () => {
    const room = await desk();
    const { session } = await room.enter("reader-A");
    const token = await mint({ sub: "reader-A", scope: READ! });
    const { status } = await room.modern("user_save_state", { arguments: { session, shelf: { a1: "x" } } }, token, {}, { "mcp-name": "user_get_state" });
    expect(status).toBe(403);
    expect((await room.store.readState(`${ISSUER}|reader-A`)).shelf).toEqual({});
  });

  test("a tool that is not there tells a token that may only read nothing new", async () => {
    const room = await desk();
    for (const name of ["user_burn", "constructor", "__proto__"]) {
      expect((await room.rpc("tools/call", { name, arguments: {} }, await mint({ scope: READ! }))).body.error).toMatchObject({ code: -32602 });
      expect((await room.rpc("tools/call", { name, arguments: {} }, await mint({ scope: "reading-room:x" }))).status).toBe(403);
    }
  });

  test.each<[string, unknown]>([["an accent", "é"], ["letters beyond Latin-1", "книга"], ["an emoji", "🙂"], ["a line end", "a\r\nx-evil:1"], ["a quotation mark", 'a"b'], ["a number", 5]])(
    "a token whose scopes can't be read for %s may do nothing at all", async (_, odd) => {
      const room = await desk();
      const scope = typeof odd === "string" ? `${READ} ${odd}` : odd;
      const { status, headers } = await room.rpc("tools/call", { name: "user_save_state", arguments: {} }, await mint({ scope }));
      expect(status).toBe(401);
      expect(headers.get("www-authenticate")).toMatch(/^Bearer error="invalid_token", resource_metadata="[^"]+"$/);
    });

  test.each<[string, Record<string, unknown>]>([["a list", { scope: [READ] }], ["scp", { scp: READ }], ["a list in scp", { scp: [READ] }]])("a token that may only read is held to it when its service says so as %s", async (_, claims) => {
    const room = await desk();
    expect((await room.rpc("tools/call", { name: "user_save_state", arguments: {} }, await mint(claims))).status).toBe(403);
  });

  test.each<[string, string, number, number]>([
    ["what every token must have, and no scope of ours", "shelf:use", 200, 200],
    ["both, to read", `shelf:use ${READ}`, 200, 403],
    ["both, to write", `shelf:use ${WRITE}`, 403, 200],
    ["all of them", `shelf:use ${READ} ${WRITE}`, 200, 200],
    ["ours, without what every token must have", `${READ} ${WRITE}`, 403, 403],
    ["nothing", "", 403, 403],
  ])("where AUTH_SCOPES asks for more, a token with %s is held to both", async (_, scope, reads, writes) => {
    const room = await desk({ env: { AUTH_SCOPES: "shelf:use" } });
    const { session } = await room.enter("reader-A", { scope: "shelf:use" });
    const token = await mint({ sub: "reader-A", scope });
    const read = await room.rpc("tools/call", { name: "user_get_state", arguments: { session } }, token);
    const write = await room.rpc("tools/call", { name: "user_save_state", arguments: { session, shelf: { a1: "x" } } }, token);
    expect([read.status, write.status]).toEqual([reads, writes]);
    for (const { status, headers } of [read, write].filter(({ status }) => status === 403)) {
      expect({ status, challenge: headers.get("www-authenticate") }).toEqual({ status, challenge: expect.stringMatching(/^Bearer error="insufficient_scope", scope="[^"]*\bshelf:use\b[^"]*", resource_metadata="/) as unknown as string });
    }
  });
});
