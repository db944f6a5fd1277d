// Section 7: the short key, and the gate that every call of every tool passes.

import { afterEach, expect, setSystemTime, test } from "bun:test";
import { callTool, keysFor, readConfig, Refusal, sqliteStore, tools } from "../main.ts";
import { desk, ISSUER, mint, type ToolResult } from "./support.ts";

afterEach(() => void setSystemTime());

const OPENED = new Date("2026-11-21T07:00:00.000Z");
const at = (seconds: number) => setSystemTime(new Date(OPENED.getTime() + seconds * 1000));
const SECRET = "s".repeat(43);
const READER = `${ISSUER}|reader-A`;
const NO_SESSION = "No valid session. Call begin_session, then repeat this call with the new session key.";
const refusedAtTheGate: ToolResult = { isError: true, content: [{ type: "text", text: NO_SESSION }] };

/** Past HTTP and sign-in, straight at the gate: for rows by the hundred. */
const store = await sqliteStore(":memory:");
async function gate(name: string, args: Record<string, unknown>, secret = SECRET, id = READER, arrived = performance.now()) {
  const app = { config: readConfig({ SESSION_SIGNING_SECRET: secret }), store, articles: [], log: () => {} };
  const person = { id, sub: "reader-A", email: null, scopes: [] };
  return (await callTool(app, name, args, person, arrived)) as ToolResult;
}
const issue = async (id = READER) => (await gate("begin_session", {}, SECRET, id)).structuredContent!.session as string;
async function opens(session: unknown, secret = SECRET, id = READER): Promise<boolean> {
  const result = await gate("config_get_rules", { session }, secret, id);
  if (result.isError) expect(result).toEqual(refusedAtTheGate);
  return !result.isError;
}

// ---- The key ----

test("a session key is at most 24 characters that any model can type", async () => {
  const room = await desk();
  for (let reader = 0; reader < 20; reader++) {
    at(reader * 1_000_003);
    expect((await room.enter(`reader-${reader}`)).session).toMatch(/^[A-Za-z0-9_-]{1,24}$/);
  }
});

test("begin_session says how long its key lasts, and that is the truth", async () => {
  at(0);
  const room = await desk();
  const { token, session, use } = await room.enter("reader-A", { exp: OPENED.getTime() / 1000 + 24 * 3600 });
  expect((await room.call("begin_session", {}, token)).structuredContent!.expires_in_seconds).toBe(3600);
  at(3599.9);
  expect(await use("user_get_state")).not.toHaveProperty("isError");
  at(3600);
  expect(await use("user_get_state")).toEqual(refusedAtTheGate);
  at(30 * 24 * 3600);
  expect(await room.call("user_get_state", { session }, await mint({ sub: "reader-A" }))).toEqual(refusedAtTheGate);
  at(1800);
  expect(await use("user_get_state")).not.toHaveProperty("isError");
});

test("several keys of one person live side by side", async () => {
  const room = await desk();
  at(0);
  const first = await room.enter("reader-A");
  at(60);
  const second = await room.enter("reader-A");
  expect(second.session).not.toBe(first.session);
  for (const { use } of [first, second]) expect(await use("user_get_state")).not.toHaveProperty("isError");
});

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
test("a key with any one character changed is refused", async () => {
  const session = await issue();
  expect(await opens(session)).toBe(true);
  for (let index = 0; index < session.length; index++) {
    for (const character of ALPHABET.replace(session[index]!, "")) expect(await opens(session.slice(0, index) + character + session.slice(index + 1))).toBe(false);
  }
});

test("every character after the expiry depends on who it was issued to", async () => {
  at(0);
  const keys = await Promise.all(Array.from({ length: 200 }, (_, reader) => issue(`${ISSUER}|reader-${reader}`)));
  for (let index = 6; index < 24; index++) expect(new Set(keys.map((key) => key[index])).size).toBeGreaterThan(30);
});

test("a key's expiry cannot be moved", async () => {
  at(0);
  const first = await issue();
  at(600);
  const second = await issue();
  expect([await opens(first), await opens(second)]).toEqual([true, true]);
  expect(await opens(second.slice(0, 6) + first.slice(6))).toBe(false);
  expect(await opens(first.slice(0, 6) + second.slice(6))).toBe(false);
});

const key = await issue(); // keys with one fault are in the table of forgery.test.ts
test.each<[string, string, string]>([
  ["another person", SECRET, `${ISSUER}|reader-B`],
  ["a person whose name begins alike", SECRET, `${READER} `],
  ["the same sub of another issuer", SECRET, "https://elsewhere.example|reader-A"],
  ["the same person under another secret", `${SECRET}s`, READER],
])("a key does not open the room for %s", async (_, secret, person) => {
  expect(await opens(key)).toBe(true);
  expect(await opens(key, secret, person)).toBe(false);
});

test("a redeploy with the same secret honours the key, and one with another does not", async () => {
  const { token, session } = await (await desk()).enter("reader-A");
  const [same, other] = [await desk(), await desk({ env: { SESSION_SIGNING_SECRET: "t".repeat(43) } })];
  expect(await same.call("user_get_state", { session }, token)).not.toHaveProperty("isError");
  expect(await other.call("user_get_state", { session }, token)).toEqual(refusedAtTheGate);
});

test("a gateway that trusts another issuer does not take its reader of the same name for ours", async () => {
  const { session } = await (await desk()).enter("reader-A");
  const other = await desk({ env: { AUTH_ISSUER: "http://localhost:8000/other", AUTH_JWKS_URL: `${ISSUER}/jwks.json` } });
  const token = await mint({ sub: "reader-A", iss: other.config.issuer });
  expect(await other.call("user_get_state", { session }, token)).toEqual(refusedAtTheGate);
});

test("a key made for one purpose, or about one thing, is no key for another", () => {
  const keys = keysFor(SECRET, READER);
  const key = keys.make("forget", 300, "as it is now");
  expect(keys.check("forget", key, "as it is now")).toBe(true);
  expect(keys.check("session", key, "as it is now")).toBe(false);
  expect(keys.check("forget", key, "as it was")).toBe(false);
});

// ---- The gate ----

interface Listed { name: string; inputSchema: { properties?: Record<string, unknown>; required?: string[] } }
const menu = async (room: Awaited<ReturnType<typeof desk>>): Promise<Listed[]> => (await room.rpc("tools/list", {}, await mint())).body.result.tools;
const listed = await menu(await desk());
const open = ["begin_session", "health"];
const gated = listed.map(({ name }) => name).filter((name) => !open.includes(name));
/** Complete and right, so that nothing but the gate is left to refuse them. */
const rightArguments: Record<string, object> = {
  domain_search_articles: { query: "library" },
  domain_get_article: { id: "a1" },
  user_save_state: { reading: { id: "a1", position: "first" }, shelf: { a2: "second" } },
};

test("the menu that the gate is checked against is the whole table", () => {
  expect(listed.map(({ name }) => name)).toEqual(Object.keys(tools));
  expect(gated.length).toBe(Object.keys(tools).length - 2);
});

test.each(listed)("$name lists a session exactly if it needs one", ({ name, inputSchema }) => {
  expect("session" in (inputSchema.properties ?? {})).toBe(!open.includes(name));
  expect(inputSchema.required?.includes("session") ?? false).toBe(!open.includes(name));
});

const faults: [string, (own: { session: string }, other: { session: string }) => object][] = [
  ["no session", () => ({})],
  ["a made-up session", () => ({ session: "A".repeat(24) })],
  ["an expired session", ({ session }) => (at(3601), { session })],
  ["another person's session", (_, { session }) => ({ session })],
];
test.each(gated.flatMap((name) => faults.map(([fault, make]): [string, string, (typeof make)] => [name, fault, make])))("%s with %s is refused, whatever else is right or wrong, and does nothing", async (name, _, make) => {
  at(0);
  const room = await desk();
  const [own, other] = [await room.enter("reader-A"), await room.enter("reader-B")];
  const before = { reading: null, shelf: { a3: "where I was" } };
  await own.use("user_save_state", { shelf: before.shelf });
  const args = make(own, other);
  const token = await mint({ sub: "reader-A" });
  for (const others of [{}, rightArguments[name], { nonsense: 1 }, { id: 5, query: 5, topic: 5, limit: "x", shelf: 5 }]) {
    expect(await room.call(name, { ...args, ...others }, token)).toEqual(refusedAtTheGate);
  }
  expect(await room.store.readState(READER)).toEqual(before);
});

test.each(open)("%s needs no session, and takes none", async (name) => {
  const room = await desk();
  const { token, session } = await room.enter();
  expect(await room.call(name, {}, token)).not.toHaveProperty("isError");
  expect(await room.call(name, { session }, token)).toMatchObject({ isError: true, content: [{ text: expect.stringMatching(/^session /) }] });
});

test.each(listed.map(({ name }) => name))("%s answers what it is rightly asked, with a reminder of one line", async (name) => {
  const room = await desk();
  const { token, session, use } = await room.enter();
  await use("user_save_state", { shelf: { a1: "something to take back" } });
  const result = await room.call(name, { ...(gated.includes(name) && { session }), ...rightArguments[name] }, token);
  expect(result).not.toHaveProperty("isError");
  expect(result.structuredContent!.reminder).toMatch(/^[^\n]+$/);
  expect(JSON.parse(result.content[0]!.text)).toEqual(result.structuredContent);
});

// ---- A tool that somebody adds ----

const table: Record<string, unknown> = tools;
/** Adds a tool to the table for as long as `visit` takes. */
async function withTool<T>(name: string, call: () => Promise<object>, visit: (room: Awaited<ReturnType<typeof desk>>) => Promise<T>, entry = {}): Promise<T> {
  table[name] = { ...tools.health, ...entry, call };
  try {
    return await visit(await desk());
  } finally {
    delete table[name];
  }
}

test("a tool that is added to the table is listed with a session, and gated", async () => {
  let calls = 0;
  await withTool("user_lend", async () => ({ calls: ++calls }), async (room) => {
    const added = (await menu(room)).find(({ name }) => name === "user_lend");
    expect(added?.inputSchema).toMatchObject({ properties: { session: { type: "string" } }, required: ["session"], additionalProperties: false });
    const [own, other] = [await room.enter("reader-A"), await room.enter("reader-B")];
    for (const args of [{}, { session: "A".repeat(24) }, { session: other.session }, { session: "" }]) expect(await room.call("user_lend", args, own.token)).toEqual(refusedAtTheGate);
    expect(calls).toBe(0);
    expect((await own.use("user_lend")).structuredContent).toMatchObject({ calls: 1, reminder: expect.any(String) });
  });
  expect(gated).not.toContain("user_lend");
});

test.each(["user_burn", "begin", "Begin_Session", "healthz", "", "constructor", "toString", "hasOwnProperty", "__proto__"])('a tool that does not exist ("%s") is a protocol error, logged without its name', async (name) => {
  const room = await desk();
  const { status, body } = await room.rpc("tools/call", { name, arguments: {} }, await mint({ sub: "reader-A" }));
  expect({ status, code: body.error?.code }).toEqual({ status: 200, code: -32602 });
  expect(room.log).toEqual([{ at: expect.any(String), ref: expect.any(String), sub: "reader-A", tool: "unknown", outcome: "refused", why: "tool", ms: expect.any(Number) }]);
});

// ---- Wrong arguments ----

test.each(listed.map(({ name }) => name))("%s refuses an argument that it does not know", async (name) => {
  const room = await desk();
  const { session, token } = await room.enter("reader-A");
  const args = { ...(gated.includes(name) && { session }), ...rightArguments[name] };
  for (const unknown of ["nonsense", "sub", "user_id", "Session", "session_", "constructor", "toString"]) {
    const { isError, content, ...rest } = await room.call(name, { ...args, [unknown]: "x" }, token);
    expect({ isError, rest: "structuredContent" in rest, text: content[0]!.text }).toEqual({ isError: true, rest: false, text: expect.stringMatching(new RegExp(`^${unknown} `)) as unknown as string });
    expect(room.log.at(-1)).toMatchObject({ outcome: "refused", why: "arguments", tool: name });
  }
});

const fills: [string, string][] = [["words", "word ".repeat(20_000)], ["emoji", "🙂".repeat(20_000)], ["quotation marks", '"'.repeat(20_000)], ["accents", "é".repeat(20_000)], ["halves of characters", "\ud83d".repeat(20_000)]];
const wrong: [string, string, (fill: string) => object][] = [
  ["domain_list_articles", "topic", (topic) => ({ topic })],
  ["domain_search_articles", "query", (query) => ({ query })],
  ["domain_get_article", "id", (text) => ({ id: [text] })],
  ["user_save_state", "reading", (position) => ({ reading: { id: "a1", position } })],
  ["user_save_state", "shelf", (a1) => ({ shelf: { a1 } })],
];
test.each(wrong.flatMap(([name, field, make]) => fills.map(([kind, fill]): [string, string, string, string, typeof make] => [name, field, kind, fill, make])))("%s complains about %s in at most 300 whole bytes, however many %s it got", async (name, field, _, fill, make) => {
  const { use } = await (await desk()).enter();
  for (const shift of ["", "x", "xx", "xxx"]) {
    const { isError, content: [answer] } = await use(name, make(shift + fill));
    const text = answer!.text;
    expect({ isError, begins: text.slice(0, field.length + 7), whole: text.isWellFormed() && !text.includes("\ufffd") }).toEqual({ isError: true, begins: `${field} takes `, whole: true });
    expect(Buffer.byteLength(text)).toBeLessThanOrEqual(300);
    expect(text).toContain("got ");
  }
});

test.each([["letters", "n".repeat(100_000)], ["emoji", "🙂".repeat(1_000)], ["accents", "é".repeat(1_000)], ["marks", "\n\"'<>{}".repeat(1_000)]])("an unknown argument with a very long name of %s is refused in at most 300 whole bytes", async (_, long) => {
  const { use } = await (await desk()).enter();
  for (const shift of ["", "x", "xx", "xxx"]) {
    const { isError, content: [answer] } = await use("user_save_state", { [shift + long]: long });
    const text = answer!.text;
    expect({ isError, begins: text.startsWith((shift + long).slice(0, 20)), whole: text.isWellFormed() && !text.includes("\ufffd") }).toEqual({ isError: true, begins: true, whole: true });
    expect(Buffer.byteLength(text)).toBeLessThanOrEqual(300);
  }
});

test("an unknown argument's value is not repeated at any length", async () => {
  const { use } = await (await desk()).enter();
  for (const [, fill] of fills) {
    const { text } = (await use("user_get_state", { nonsense: fill })).content[0]!;
    expect(text).toStartWith("nonsense ");
    expect(Buffer.byteLength(text)).toBeLessThanOrEqual(300);
  }
});

test("an unknown article's id is named, but not at any length", async () => {
  const { use } = await (await desk()).enter();
  expect((await use("domain_get_article", { id: "a99" })).content[0]!.text).toStartWith('No article "a99".');
  const { text } = (await use("domain_get_article", { id: `x${"🙂".repeat(20_000)}` })).content[0]!;
  expect(text).toStartWith('No article "x🙂');
  expect(text.length).toBeLessThan(300);
});

// ---- Whatever goes wrong ----

const hunter = "postgres://reader:hunter2@db.internal:5432/room";
const CANT_GO_ON = /^The Reading Room can't continue right now\. .*tell the reader.+don't answer from memory.+don't invent .+ \(ref ([0-9a-f]{8})\)$/;
const reject = (reason: unknown) => async () => { throw reason; };
const cycle: Record<string, unknown> = {};
cycle.self = cycle;

test.each<[string, () => Promise<object>]>([
  ["an error", reject(new Error(`connect ECONNREFUSED ${hunter}`))],
  ["an error of a kind of its own", reject(Object.assign(new TypeError(hunter, { cause: new Error(hunter) }), { query: hunter, code: "ECONNREFUSED" }))],
  ["several errors", reject(new AggregateError([new Error(hunter)], hunter))],
  ["a string", reject(hunter)],
  ["an object", reject({ message: hunter })],
  ["null", reject(null)],
  ["undefined", reject(undefined)],
  ["an error at once, before any promise", () => { throw new Error(hunter); }],
  ["an answer that JSON can't say", async () => ({ shelf: 5n, hunter })],
  ["an answer without end", async () => ({ ...cycle, hunter })],
])("a tool that comes up with %s makes the model stop, and tells nothing", async (_, call) => {
  await withTool("user_lend", call, async (room) => {
    const { use, session, token } = await room.enter("reader-A");
    room.log.length = 0;
    const result = await use("user_lend");
    expect(result).toEqual({ isError: true, content: [{ type: "text", text: expect.stringMatching(CANT_GO_ON) as unknown as string }] });
    const { text } = result.content[0]!;
    expect(text).not.toContain("safe to repeat"); // nothing was to be saved
    const ref = text.match(CANT_GO_ON)?.[1];
    expect(room.log).toEqual([{ at: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/), ref: ref!, sub: "reader-A", tool: "user_lend", outcome: "failed", error: expect.any(String), ms: expect.any(Number) }]);
    for (const secret of ["hunter2", "db.internal", "5432", session, token]) expect(JSON.stringify([result, room.log])).not.toContain(secret);
  });
});

test("the log names an unexpected error's kind, code and place", async () => {
  const error = Object.assign(new TypeError(hunter), { code: "ECONNREFUSED", stack: `TypeError: ${hunter}\n    at lend (/srv/room/main.ts:321:7)` });
  await withTool("user_lend", reject(error), async (room) => {
    const { use } = await room.enter();
    await use("user_lend");
    expect(room.log.at(-1)!.error).toBe("TypeError ECONNREFUSED main.ts:321");
  });
});

test("a failed call that writes says that it is safe to repeat", async () => {
  await withTool("user_lend", reject(new Error(hunter)), async (room) => {
    const { use } = await room.enter();
    const { text } = (await use("user_lend")).content[0]!;
    expect(text).toMatch(CANT_GO_ON);
    expect(text).toMatch(/may or may not have been kept.+safe to repeat/);
  }, { annotations: tools.user_save_state.annotations });
});

test("a Refusal's words reach the model, and its reason the log", async () => {
  await withTool("user_lend", reject(new Refusal("lent", "Lent already. Try a2.")), async (room) => {
    const { use } = await room.enter();
    expect(await use("user_lend")).toEqual({ isError: true, content: [{ type: "text", text: "Lent already. Try a2." }] });
    expect(room.log.at(-1)).toMatchObject({ tool: "user_lend", outcome: "refused", why: "lent" });
  });
});

test("a tool that does not answer is answered for within 5 s, and may fail later without harm", async () => {
  let [calls, late] = [0, 0];
  const slow = [() => new Promise<never>(() => {}), () => Bun.sleep(4_900).then(() => (late++, reject(new Error(hunter))()))];
  await withTool("user_lend", () => slow[calls++ % 2]!(), async (room) => {
    const { use } = await room.enter();
    const started = performance.now();
    const answers = await Promise.all([use("user_lend"), use("user_lend")]);
    expect(performance.now() - started).toBeLessThan(5_000);
    for (const { content } of answers) expect(content[0]!.text).toStartWith("The Reading Room can't continue right now.");
    expect(room.log.slice(1)).toMatchObject(Array(2).fill({ outcome: "failed", error: expect.stringMatching(/^no answer in time/) }));
    await Bun.sleep(600);
    expect([late, room.log.length]).toEqual([1, 3]);
  });
}, 10_000);

test("the 5 s begin when the request does: what sign-in took is not given twice", async () => {
  await withTool("user_lend", () => new Promise<never>(() => {}), async () => {
    const started = performance.now();
    expect((await gate("user_lend", { session: await issue() }, SECRET, READER, started - 4_300)).isError).toBe(true);
    expect(performance.now() - started).toBeLessThan(1_000);
  });
});

test("a call is one line in the log, with who, what and how long, and nothing that was said", async () => {
  const room = await desk({ store: await sqliteStore(":memory:") });
  const { use, token, session } = await room.enter("reader-A");
  await use("user_save_state", { shelf: { a1: "a very private place" } });
  await use("domain_search_articles", { query: "a very private question" });
  await use("domain_search_articles", { query: ["a very private list"] });
  expect(room.log).toEqual([["begin_session", "ok"], ["user_save_state", "ok"], ["domain_search_articles", "ok"], ["domain_search_articles", "refused", "arguments"]].map(([tool, outcome, why]) => ({
    at: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/), ref: expect.stringMatching(/^[0-9a-f]{8}$/), sub: "reader-A", tool, outcome, ...(why && { why }), ms: expect.any(Number),
  })) as unknown as typeof room.log);
  for (const secret of ["private", session, token, ISSUER]) expect(JSON.stringify(room.log)).not.toContain(secret);
  expect(new Set(room.log.map(({ ref }) => ref)).size).toBe(4);
});
