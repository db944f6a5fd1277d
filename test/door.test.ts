// The front door: the page and its facts, and the board of the last calls. (What the page makes of
// them in a browser is in proof/door.proof.ts.)

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { connect } from "node:net";
import type { LogLine } from "../main.ts";
import { sampleApp } from "./sample-app.ts";
import {
  gateway, mint, personAt, PROXY_HEADERS, RESOURCE, startGateway, until,
} from "./support.ts";

const PUBLIC = {
  HOST: "0.0.0.0",
  RESOURCE_URL: "https://notes.example.com/mcp",
  AUTH_ISSUER: "https://sign-in.example.com",
  AUTH_JWKS_URL: "https://sign-in.example.com/keys",
  DATABASE_URL: "sqlite::memory:",
};
const TUNNEL = { RESOURCE_URL: PUBLIC.RESOURCE_URL };
type Gateway = Awaited<ReturnType<typeof gateway>>;
const factsOf = async ({ send }: Gateway, headers: Record<string, string> = {}) =>
  (await send("/door.json", { headers })).json() as Promise<Record<string, any>>;

describe("The page", () => {
  const room = gateway();
  const load = async () => {
    const response = await (await room).send("/");
    return { headers: response.headers, html: await response.text() };
  };

  test("runs only what carries the nonce of this answer, and asks nobody else", async () => {
    const { headers, html } = await load();
    expect(headers.get("content-type")).toBe("text/html; charset=utf-8");
    const policy = headers.get("content-security-policy")!;
    const nonce = policy.match(/'nonce-([\w-]{30,})'/)![1]!;
    const rules = Object.fromEntries(policy.split("; ").map((rule) => rule.split(/ (.*)/)));
    expect(rules).toEqual({
      "default-src": "'none'",
      "script-src": `'nonce-${nonce}'`,
      "style-src": `'nonce-${nonce}'`,
      "connect-src": "'self'",
      "img-src": "'self'",
      "base-uri": "'none'",
      "form-action": "'none'",
      "frame-ancestors": "'none'",
    });
    const opened = html.match(/<(script|style)\b[^>]*>/g)!;
    expect(opened).toEqual([`<style nonce="${nonce}">`, `<script nonce="${nonce}">`]);
    expect(html).not.toContain("NONCE");
    expect((await load()).html).not.toContain(nonce);
  });
  test("is one file: it loads nothing, and writes no text of others as HTML", async () => {
    const { html } = await load();
    expect(html).not.toMatch(/\bsrc=|@import|url\(|<link rel="(?!icon)|<(iframe|form|base|object)/);
    expect(html).not.toMatch(/innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b/);
  });
});

describe("Its facts", () => {
  test("are name, URL, sign-in and board, and locally what the AI sees", async () => {
    const room = await gateway();
    const { body } = await room.rpc("tools/list", {}, await mint());
    const hello = await room.rpc("initialize", {
      protocolVersion: "2025-11-25", capabilities: {}, clientInfo: { name: "a", version: "1" },
    }, await mint());
    const { name, slug, about } = sampleApp;
    expect(await factsOf(room)).toEqual({
      name, slug, about,
      url: RESOURCE,
      signIn: "http://localhost:8000/mock-auth",
      board: true,
      instructions: hello.body.result.instructions,
      tools: body.result.tools,
    });
  });
  test.each<[string, Record<string, string>, object]>([
    ["in public: no board, and no menu before sign-in", PUBLIC, {
      url: PUBLIC.RESOURCE_URL, signIn: PUBLIC.AUTH_ISSUER, board: false,
    }],
    ["in public with DOOR_MENU=1: the menu, and no board", { ...PUBLIC, DOOR_MENU: "1" }, {
      url: PUBLIC.RESOURCE_URL, signIn: PUBLIC.AUTH_ISSUER, board: false,
      instructions: expect.any(String), tools: expect.any(Array),
    }],
    ["in a tunnel: no board", TUNNEL, {
      url: PUBLIC.RESOURCE_URL, signIn: "https://notes.example.com/mock-auth", board: false,
      instructions: expect.any(String), tools: expect.any(Array),
    }],
    ["without sign-in: that there is none", { AUTH_DISABLED: "1" }, {
      url: RESOURCE, signIn: null, board: true,
      instructions: expect.any(String), tools: expect.any(Array),
    }],
  ])("%s", async (_, env, expected) => {
    const { name, slug, about } = sampleApp;
    expect<object>(await factsOf(await gateway({ env }))).toEqual({ name, slug, about, ...expected });
  });
  test("have the app's website and privacy page, when it has them; hosts get the first", async () => {
    const links = { website: "https://notes.example/", privacy: "https://notes.example/privacy" };
    const room = await gateway({ app: { ...sampleApp, ...links } });
    expect(await factsOf(room)).toMatchObject(links);
    const { body } = await room.modern("health", { arguments: {} }, await mint());
    const { websiteUrl } = body.result._meta["io.modelcontextprotocol/serverInfo"];
    expect(websiteUrl).toBe(links.website);
  });
  test("say nothing about a person", async () => {
    const room = await gateway();
    const before = await factsOf(room);
    const { use } = await room.enter("canary", { email: "canary@canary.example" });
    await use("user_write", { mood: "canary" });
    expect(await factsOf(room)).toEqual(before);
  });
});

// ---- The board ----

/** Reads the board of a gateway: what has come until now is in `lines`. */
async function watch(open: () => Promise<Response>) {
  const response = await open();
  const board = { response, lines: [] as LogLine[], text: "", done: false, leave: () => {} };
  if (response.status !== 200) return board;
  const reader = response.body!.getReader();
  board.leave = () => void reader.cancel(); // noticed at its next sign of life: not waited for
  void (async () => {
    const decoder = new TextDecoder();
    for (;;) {
      const { value, done } = await reader.read().catch(() => ({ value: undefined, done: true }));
      if (done) break;
      board.text += decoder.decode(value as Uint8Array, { stream: true });
      const events = board.text.split("\n\n").filter((event) => event.startsWith("data: "));
      board.lines = events.map((event) => JSON.parse(event.slice("data: ".length)));
    }
    board.done = true;
  })();
  await until(() => board.text.length > 0); // opened, whether or not there is something to show
  return board;
}
const watchIn = ({ send }: Gateway, init?: RequestInit) => watch(() => send("/board", init));

describe("The board", () => {
  test("shows the log's own lines as they come: calls and refused sign-ins", async () => {
    const room = await gateway();
    const board = await watchIn(room);
    expect(board.response.headers.get("content-type")).toBe("text/event-stream");
    expect(board.lines).toEqual([]);

    const { use } = await room.enter("ada");
    const refused = await room.call("user_get_state", {}, await mint());
    expect(refused.isError).toBe(true);
    await use("user_write", { mood: "calm" });
    await room.send("/mcp", { method: "POST", headers: { authorization: "Bearer nonsense" } });
    await until(() => board.lines.length === 4);
    expect(board.lines).toEqual(room.log);
    expect(board.lines).toMatchObject([
      { sub: "ada", tool: "begin_session", outcome: "ok", ms: expect.any(Number) },
      { sub: "ada", tool: "user_get_state", outcome: "refused", why: "session" },
      { sub: "ada", tool: "user_write", outcome: "ok" },
      { outcome: "refused", why: expect.stringMatching(/^sign-in: form/) },
    ]);
    board.leave();
  });

  test("has no token, key, argument or anything that was saved", async () => {
    const room = await gateway();
    const board = await watchIn(room);
    const { token, session, use } = await room.enter("ada", { email: "canary@canary.example" });
    await use("user_write", { mood: "canary", notes: { canary: "canary" } });
    await use("user_write", { canary: "canary" });
    await use("domain_get_word", { word: "canary" });
    await use("canary").catch(() => {});
    await room.call("user_get_state", { session: "canary" }, token);
    await until(() => board.lines.length === 6);
    expect(board.text).not.toContain("canary");
    for (const secret of [session, ...token.split(".")]) expect(board.text).not.toContain(secret);
    board.leave();
  });

  test("has the last 200 lines for who comes late, and no more", async () => {
    const room = await gateway({ env: { RATE_LIMIT_PER_MINUTE: "1000" } });
    const token = await mint();
    for (let call = 0; call < 205; call++) await room.call("health", {}, token);
    const board = await watchIn(room);
    await until(() => board.lines.length >= 200);
    expect(board.lines).toEqual(room.log.slice(-200));
    await room.call("health", {}, token);
    await until(() => board.lines.length === 201);
    expect(board.lines.at(-1)).toEqual(room.log.at(-1)!);
    board.leave();
  });

  test("holds nothing for who doesn't read: they find the last 200, and missed the rest", async () => {
    const room = await gateway({ env: { RATE_LIMIT_PER_MINUTE: "1000" } });
    const reader = (await room.send("/board")).body!.getReader();
    await reader.read();
    const token = await mint();
    for (let call = 0; call < 300; call++) await room.call("health", {}, token);
    let text = "";
    const last = JSON.stringify(room.log.at(-1));
    while (!text.includes(last)) text += new TextDecoder().decode((await reader.read()).value);
    expect(text.split("data: ").length - 1).toBeLessThan(280); // one that was asked for, and 200
    void reader.cancel();
  });

  test("two watch at once, each from where they came in, and one leaves", async () => {
    const room = await gateway();
    const token = await mint();
    const early = await watchIn(room);
    await room.call("health", {}, token);
    const late = await watchIn(room);
    early.leave();
    await room.call("health", {}, token);
    await until(() => late.lines.length === 2);
    expect(late.lines).toEqual(room.log);
    late.leave();
  });

  test.each<[string, Record<string, string>, RequestInit]>([
    ["in public", PUBLIC, {}],
    ["in public, asked as this machine", PUBLIC, { headers: { host: "127.0.0.1" } }],
    ["in public with the menu", { ...PUBLIC, DOOR_MENU: "1" }, {}],
    ["in production on this machine", { ...PUBLIC, HOST: "", NODE_ENV: "production" }, {}],
    ["in a tunnel", TUNNEL, {}],
    ["in a tunnel, asked as this machine", TUNNEL, { headers: { host: "localhost:8000" } }],
    ["for a POST", {}, { method: "POST" }],
  ])("there is none %s", async (_, env, init) => {
    const { send } = await gateway({ env });
    const response = await send("/board", init);
    expect([response.status, await response.json()]).toEqual([404, { error: "not_found" }]);
  });
  test.each(PROXY_HEADERS)("%s means a tunnel that nobody told us of: none", async (header) => {
    const room = await gateway();
    const headers = { [header]: "198.51.100.7" };
    expect((await room.send("/board", { headers })).status).toBe(404);
    expect((await factsOf(room, headers)).board).toBe(false);
  });
  test("no page elsewhere can read it", async () => {
    const { send } = await gateway();
    for (const headers of [{ origin: "https://evil.example" }, { host: "evil.example" }]) {
      expect((await send("/board", { headers })).status).toBe(403);
    }
  });
});

describe("The board of a gateway in a process of its own", () => {
  let live: Awaited<ReturnType<typeof startGateway>>;
  beforeAll(async () => void (live = await startGateway({ RATE_LIMIT_PER_MINUTE: "100000" })));
  afterAll(() => live.stop());

  test("asked by HEAD it is there", async () => {
    const response = await fetch(`${live.url}/board`, { method: "HEAD" });
    expect([response.status, await response.text()]).toEqual([200, ""]);
  });

  test("who doesn't read holds nobody up", async () => {
    const socket = connect(live.port, "127.0.0.1");
    socket.write("GET /board HTTP/1.1\r\nHost: localhost\r\n\r\n");
    socket.pause();
    const call = await personAt(live, "ada");
    for (let round = 0; round < 60; round++) {
      const answers = await Promise.all(Array.from({ length: 50 }, () => call("health")));
      const working = answers.filter(({ structuredContent }) => structuredContent?.status === "ok");
      expect(working).toHaveLength(50);
    }
    const other = await watch(() => fetch(`${live.url}/board`));
    await until(() => other.lines.length >= 200);
    other.leave();
    socket.destroy();
  });

  test("a board that is watched does not hold the end up", async () => {
    const own = await startGateway();
    const board = await watch(() => fetch(`${own.url}/board`));
    const asked = performance.now();
    own.child.kill("SIGTERM");
    expect(await own.child.exited).toBe(0);
    expect(performance.now() - asked).toBeLessThan(2_000);
    await until(() => board.done);
  });
});
