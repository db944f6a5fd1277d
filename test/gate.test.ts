// The gate: every call of every tool passes it, also of a tool that is added later.

import { afterEach, expect, setSystemTime, test } from "bun:test";
import { z } from "zod";
import { type App, READS, Refusal, tool, type ToolContext } from "../main.ts";
import { type Notebook, sampleApp } from "./sample-app.ts";
import { gateway, ISSUER, mint, type ToolResult } from "./support.ts";

const NOON = Date.parse("2026-11-21T12:00:00.000Z");
const at = (seconds: number) => void setSystemTime(new Date(NOON + seconds * 1000));

// Deadlines are counted by a clock that nobody sets. These tests set it.
const now = performance.now.bind(performance);
let ahead = 0;
const later = (ms: number) => {
  ahead += ms;
  performance.now = () => now() + ahead;
};
afterEach(() => {
  setSystemTime();
  performance.now = now;
  ahead = 0;
});

type Room = Awaited<ReturnType<typeof gateway>>;
interface Listed {
  name: string;
  inputSchema: { properties: Record<string, object>; required?: string[] };
}
const textOf = ({ content }: ToolResult) => content[0]!.text;
const menu = async ({ rpc }: Room): Promise<Listed[]> =>
  (await rpc("tools/list", {}, await mint())).body.result.tools;
const namesOf = async (room: Room) => (await menu(room)).map(({ name }) => name);

const OPEN = ["begin_session", "health"];
const NO_SESSION =
  "No valid session. Call begin_session, then repeat this call with the new session key.";
const CANT = /^The Notebook can't continue right now\. /;
/** Complete and right, for the tools that want something. */
const RIGHT: Record<string, object> = {
  domain_get_word: { word: "fern" },
  user_write: { notes: { a: "hello" } },
  user_seal: { name: "a" },
};

type Run = (args: object, context: ToolContext<Notebook>) => Promise<object>;
/** The sample app with one more tool, user_lend. */
function lending(run: Run, more: object = {}): App<Notebook> {
  const user_lend = tool({
    title: "Lend",
    description: "Lends something.",
    annotations: READS,
    input: {},
    output: { lent: z.unknown() },
    run: run as never,
    ...more,
  });
  return { ...sampleApp, tools: { ...sampleApp.tools, user_lend } };
}

// ---- Without a session, nothing ----

const faults: [string, (room: Room) => Promise<object>][] = [
  ["missing", async () => ({})],
  ["null", async () => ({ session: null })],
  ["in a list", async ({ enter }) => ({ session: [(await enter()).session] })],
  ["of another alphabet", async () => ({ session: "+".repeat(18) })],
  ["too long", async ({ enter }) => ({ session: `${(await enter()).session}A` })],
  ["made up", async () => ({ session: "A".repeat(18) })],
  ["over", async ({ enter }) => {
    at(-3600);
    const { session } = await enter();
    at(0);
    return { session };
  }],
  ["another person's", async ({ enter }) => ({ session: (await enter("ben")).session })],
  ["the code that erases", async ({ enter }) => {
    const { structuredContent } = await (await enter()).use("user_forget_me");
    return { session: structuredContent!.confirm };
  }],
];
test.each(faults)("with a session that is %s, all tools but two refuse", async (_, make) => {
  const room = await gateway({ app: lending(async () => ({ lent: true })) });
  at(0);
  const ada = await room.enter("ada");
  await ada.use("user_write", { notes: { a: "before" } });
  const args = await make(room);
  room.log.length = 0;

  const gated = (await namesOf(room)).filter((name) => !OPEN.includes(name));
  for (const name of gated) {
    for (const rest of [{}, RIGHT[name], { nonsense: 1 }]) {
      const { isError, content, ...more } = await room.call(name, { ...rest, ...args }, ada.token);
      expect([name, isError, content[0]!.text, more]).toEqual([name, true, NO_SESSION, {}]);
      expect(room.log.at(-1)).toMatchObject({ tool: name, outcome: "refused", why: "session" });
    }
  }
  expect(gated).toContain("user_lend"); // somebody added it, and forgot to think of this
  expect(gated.length).toBe(12);
  const { state } = (await ada.use("user_get_state")).structuredContent!;
  expect(state.notes).toEqual({ a: "before" });
});

test("with a session, each tool answers, and its text is the JSON of its structure", async () => {
  const room = await gateway();
  const { use } = await room.enter();
  await use("user_write", { mood: "calm" });
  for (const name of await namesOf(room)) {
    const result = await use(name, RIGHT[name]);
    expect([name, result.isError]).toEqual([name, undefined]);
    expect(JSON.parse(textOf(result))).toEqual(result.structuredContent);
    expect(result.structuredContent!.reminder).toMatch(/^[^\n]+$/);
  }
});

test("the menu asks for a session wherever one is needed, and nowhere else", async () => {
  const room = await gateway({ app: lending(async () => ({})) });
  for (const { name, inputSchema } of await menu(room)) {
    const asks = "session" in inputSchema.properties;
    const requires = inputSchema.required?.includes("session") ?? false;
    expect([name, asks, requires]).toEqual([name, !OPEN.includes(name), !OPEN.includes(name)]);
  }
});

test.each(OPEN)("%s ignores a session, and does not send it back", async (name) => {
  const { call } = await gateway();
  for (const session of ["SENT-4711".padEnd(18, "A"), ["SENT-4711"], { a: "SENT-4711" }]) {
    const result = await call(name, { session }, await mint());
    expect(result.isError).toBeUndefined();
    expect(JSON.stringify(result)).not.toContain("SENT-4711");
  }
});

test.each(["no_such_tool", "Begin_Session", "constructor", "__proto__", ""])(
  'a tool that does not exist ("%s") is a protocol error, logged without its name',
  async (name) => {
    const room = await gateway();
    const { status, body } = await room.rpc("tools/call", { name, arguments: {} }, await mint());
    expect([status, body.error?.code, body.result]).toEqual([200, -32602, undefined]);
    expect(room.log).toMatchObject([{ tool: "unknown", outcome: "refused", why: "tool" }]);
  },
);

// ---- Arguments ----

test("every tool refuses an argument that it does not know, and names it", async () => {
  const room = await gateway();
  const { use, token } = await room.enter();
  for (const name of await namesOf(room)) {
    for (const unknown of ["sub", "user_id", "Session", "constructor"]) {
      const args = { ...RIGHT[name], [unknown]: "ben" };
      const ask = OPEN.includes(name) ? room.call(name, args, token) : use(name, args);
      const answer = await ask;
      const { isError, structuredContent } = answer;
      expect([name, isError, structuredContent]).toEqual([name, true, undefined]);
      expect(textOf(answer)).toStartWith(`${unknown} is not known here`);
      expect(room.log.at(-1)).toMatchObject({ outcome: "refused", why: "arguments" });
    }
  }
});

const tooMany = Object.fromEntries([...Array(21).keys()].map((n) => [`note ${n}`, "x"]));
test.each<[name: string, field: string, got: string, args: object, takes: string]>([
  ["domain_get_word", "word", "nothing", {}, "string"],
  ["domain_get_word", "word", "a number", { word: 5 }, "string"],
  ["domain_get_word", "word", "null", { word: null }, "string"],
  ["domain_get_word", "word", "51 letters", { word: "x".repeat(51) }, "<=50 characters"],
  ["user_write", "mood", "a list", { mood: ["calm"] }, "string"],
  ["user_write", "mood", "half a character", { mood: "\\\udcda" }, "well-formed text"],
  ["user_write", "notes", "a list", { notes: ["a"] }, "object"],
  ["user_write", "notes.a", "a number", { notes: { a: 5 } }, "string"],
  ["user_write", "notes.a", "281 letters", { notes: { a: "x".repeat(281) } }, "<=280 characters"],
  ["user_write", "notes", "NUL in a value", { notes: { a: "x\0" } }, "text without NUL"],
  ["user_write", "notes", "NUL in a name", { notes: { "a\0": "x" } }, "text without NUL"],
  ["user_write", "notes", "half a character", { notes: { a: "\ud83d" } }, "well-formed text"],
  ["user_write", "notes", "21 of them", { notes: tooMany }, "at most 20 notes"],
  ["user_list_actions", "limit", "0", { limit: 0 }, ">=1"],
  ["user_list_actions", "limit", "101", { limit: 101 }, "<=100"],
  ["user_list_actions", "limit", "half a number", { limit: 1.5 }, "int"],
  ["user_list_actions", "limit", "a word", { limit: "5" }, "number"],
])("%s: %s can't be %s, and hears so", async (name, field, _, args, takes) => {
  const { enter, log } = await gateway();
  const { use } = await enter();
  const answer = await use(name, args);
  expect([answer.isError, answer.structuredContent]).toEqual([true, undefined]);
  expect(textOf(answer)).toContain(field);
  expect(textOf(answer)).toContain(takes);
  expect(log.at(-1)!.outcome).toBe("refused");
  const { state } = (await use("user_get_state")).structuredContent!;
  expect(state).toEqual(sampleApp.empty);
});

test.each([
  'what is \\u0000 in "JSON"',
  "\\\\ud800",
  "📚 مكتبة 👩‍👩‍👧 \u0001\t\r\n\ufffd",
  "'; drop table users; --",
])(
  "text that only looks dangerous comes back as it was: %j",
  async (text) => {
    const { use } = await (await gateway()).enter();
    await use("user_write", { notes: { [text]: text } });
    const { state } = (await use("user_get_state")).structuredContent!;
    expect(state.notes).toEqual({ [text]: text });
  },
);

const LONG = { letters: "n", emoji: "🙂", quotes: '"', lines: "a\n", halves: "\ud83d" };
test.each(Object.entries(LONG))(
  "of 10,000 %s a refusal repeats 40 characters at most, in 300 whole bytes",
  async (_, letter) => {
    const long = letter.repeat(10_000);
    const { use } = await (await gateway()).enter();
    for (const args of [
      { [long]: 1 },
      { notes: long },
      { notes: { a: long } },
      { notes: { [long]: 5, [`${letter.repeat(50)}b`]: 5, [`${letter.repeat(50)}c`]: 5 } },
      { mood: [long] },
    ]) {
      const text = textOf(await use("user_write", args));
      expect(Buffer.byteLength(text)).toBeLessThanOrEqual(300);
      expect(text.isWellFormed()).toBe(true);
      expect(text).not.toContain(letter.repeat(41));
      expect(text).not.toContain("\n");
    }
  },
);

// ---- What a tool gives back ----

const Quiz = { question: z.string(), choices: z.array(z.strictObject({ text: z.string() })) };
test.each<[string, object]>([
  ["more than the menu says", { question: "?", choices: [], answer: "SECRET" }],
  ["more, deeper down", { question: "?", choices: [{ text: "a", right: "SECRET" }] }],
  ["less than the menu says", { question: "SECRET" }],
  ["something else", { question: ["SECRET"], choices: [] }],
])("a tool that returns %s fails closed, and the log says why", async (_, result) => {
  const { enter, log } = await gateway({ app: lending(async () => result, { output: Quiz }) });
  const answer = await (await enter()).use("user_lend");
  expect(textOf(answer)).toMatch(CANT);
  expect(JSON.stringify([answer, log])).not.toContain("SECRET");
  expect(log.at(-1)).toMatchObject({ tool: "user_lend", outcome: "failed" });
  expect(log.at(-1)!.error).toContain("output schema");
});

const SECRET = "postgres://reader:hunter2@db.internal:5432/room";
const throws = (reason: unknown) => async () => {
  throw reason;
};
const odd = Object.assign(new TypeError(SECRET), { cause: new Error(SECRET), query: SECRET });
test.each<[string, Run]>([
  ["throws an error", throws(new Error(SECRET))],
  ["throws an error with a secret in every corner", throws(odd)],
  ["throws several errors", throws(new AggregateError([new Error(SECRET)], SECRET))],
  ["throws a string", throws(SECRET)],
  ["throws nothing", throws(undefined)],
  ["throws before there is a promise", () => {
    throw new Error(SECRET);
  }],
  ["returns nothing", async () => undefined as never],
  ["returns what JSON can't say", async () => ({ lent: [5n, SECRET] })],
])("a tool that %s makes the model stop, and tells nothing", async (_, run) => {
  const { enter, log } = await gateway({ app: lending(run) });
  const { use, token, session } = await enter("ada");
  log.length = 0;
  const answer = await use("user_lend");
  expect([answer.isError, answer.structuredContent]).toEqual([true, undefined]);
  expect(textOf(answer)).toMatch(CANT);
  for (const words of ["tell the person", "don't answer from memory", "don't invent"]) {
    expect(textOf(answer)).toContain(words);
  }
  const ref = textOf(answer).match(/ \(ref ([0-9a-f]{8})\)$/)![1]!;
  expect(log).toMatchObject([{ ref, sub: "ada", tool: "user_lend", outcome: "failed" }]);
  for (const secret of ["hunter2", "db.internal", session, token]) {
    expect(JSON.stringify([answer, log])).not.toContain(secret);
  }
});

test("the log names an unexpected error's kind, code and place, and not its words", async () => {
  const stack = `TypeError: ${SECRET}\n    at lend (/srv/app/main.ts:321:7)`;
  const error = Object.assign(new TypeError(SECRET), { code: "ECONNREFUSED", stack });
  const { enter, log } = await gateway({ app: lending(throws(error)) });
  await (await enter()).use("user_lend");
  expect(log.at(-1)!.error).toBe("TypeError ECONNREFUSED main.ts:321");
});

test("a Refusal's words reach the model, and its reason the log", async () => {
  const run = throws(new Refusal("lent", "It is lent already. Try another."));
  const { enter, log } = await gateway({ app: lending(run) });
  const answer = await (await enter()).use("user_lend");
  expect(answer).toEqual({
    isError: true,
    content: [{ type: "text", text: "It is lent already. Try another." }],
  });
  expect(log.at(-1)).toMatchObject({ tool: "user_lend", outcome: "refused", why: "lent" });
});

const NOTHING = /right now\. Please tell/;
test.each<[string, RegExp]>([
  ["user_get_state", NOTHING],
  ["user_list_actions", NOTHING],
  ["user_write", /may or may not have been kept; it is safe to repeat\. Please tell/],
  ["user_seal", /may or may not have been done; user_list_actions will tell\. Please tell/],
  ["user_undo", /may or may not have been done; user_list_actions will tell\. Please tell/],
])("when %s fails, its words about what was done are true of it", async (name, words) => {
  const { enter, store } = await gateway();
  const { use } = await enter();
  await store.close();
  expect(textOf(await use(name, RIGHT[name]))).toMatch(words);
});

// ---- Time ----

/** A call whose body takes this long to arrive. */
async function slowly(room: Room, token: string, name: string, args: object, ms: number) {
  const params = { name, arguments: args };
  const message = { jsonrpc: "2.0", id: 1, method: "tools/call", params };
  const body = new ReadableStream({
    pull(controller) {
      later(ms);
      controller.enqueue(Buffer.from(JSON.stringify(message)));
      controller.close();
    },
  }, { highWaterMark: 0 });
  const response = await room.send("/mcp", {
    method: "POST",
    headers: {
      "content-type": "application/json",
      accept: "application/json, text/event-stream",
      authorization: `Bearer ${token}`,
    },
    body,
  });
  const text = await response.text();
  return JSON.parse(text.match(/^data: (.*)$/m)?.[1] ?? text).result as ToolResult;
}

test("a tool that never answers is answered for, 4.5 s after the request came", async () => {
  const room = await gateway({ app: lending(() => new Promise(() => {})) });
  const { token, session } = await room.enter();
  const started = now();
  const answer = await slowly(room, token, "user_lend", { session }, 4_300);
  expect(now() - started).toBeWithin(150, 1_000); // 200 ms are left
  expect(textOf(answer)).toMatch(CANT);
  expect(room.log.at(-1)).toMatchObject({ outcome: "failed", error: "no answer in time" });
});

test("what a tool does after its time is up harms nobody", async () => {
  let failed = false;
  const run = async () => {
    await Bun.sleep(150);
    failed = true;
    throw new Error("too late to matter");
  };
  const room = await gateway({ app: lending(run) });
  const { token, session, use } = await room.enter();
  await slowly(room, token, "user_lend", { session }, 4_450);
  while (!failed) await Bun.sleep(10);
  expect((await use("user_get_state")).isError).toBeUndefined();
  expect(room.log.filter(({ tool }) => tool === "user_lend").length).toBe(1);
});

test("a tool that throws before there is a promise leaves nothing to go off later", async () => {
  const room = await gateway({ app: lending(() => {
    throw new Error(SECRET);
  }) });
  const { token, session } = await room.enter();
  expect(textOf(await slowly(room, token, "user_lend", { session }, 4_400))).toMatch(CANT);
  await Bun.sleep(200); // a rejection that nobody handles would end the process here
});

test.each([
  [0, true],
  [3_000, true],
  [3_600, false], // less than a second is left: nobody could say what became of a write
  [4_600, false],
])("a change whose body took %d ms to arrive is carried out: %p", async (ms, kept) => {
  const room = await gateway();
  const { token, session, use } = await room.enter();
  const answer = await slowly(room, token, "user_write", { session, mood: "late" }, ms);
  expect(CANT.test(textOf(answer))).toBe(!kept);
  const { state } = (await use("user_get_state")).structuredContent!;
  expect(state.mood).toBe(kept ? "late" : null);
});

test("a visit whose answer nobody will hear writes nobody down", async () => {
  const room = await gateway();
  const token = await mint();
  expect(textOf(await slowly(room, token, "begin_session", {}, 3_600))).toMatch(CANT);
  expect(await room.store.read("local|ada")).toBeUndefined();
  expect(textOf(await slowly(room, token, "begin_session", {}, 0))).not.toMatch(CANT);
  expect(await room.store.read("local|ada")).toBeDefined();
});

test("a tool is not even begun once its time is over", async () => {
  let begun = 0;
  const room = await gateway({ app: lending(async () => ({ lent: ++begun })) });
  const { token, session } = await room.enter();
  expect(textOf(await slowly(room, token, "user_lend", { session }, 4_600))).toMatch(CANT);
  expect(begun).toBe(0);
});

// ---- The log ----

test("a call is one line, with who, what and how long, and nothing that was said", async () => {
  const { enter, log } = await gateway();
  const { use, token, session } = await enter("ada", { email: "ada@private.example" });
  await use("user_write", { notes: { private_name: "a private note" } });
  await use("domain_get_word", { word: "a private question" });
  await use("user_write", { notes: ["a private list"] });
  const seen = log.map(({ at, ref, ms, ...rest }) => {
    expect([at, ref]).toEqual([
      expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
      expect.stringMatching(/^[0-9a-f]{8}$/),
    ]);
    expect(ms).toBeWithin(0, 5_000);
    return rest;
  });
  expect(seen).toEqual([
    { sub: "ada", tool: "begin_session", outcome: "ok" },
    { sub: "ada", tool: "user_write", outcome: "ok" },
    { sub: "ada", tool: "domain_get_word", outcome: "refused", why: "word" },
    { sub: "ada", tool: "user_write", outcome: "refused", why: "arguments" },
  ]);
  expect(new Set(log.map(({ ref }) => ref)).size).toBe(4);
  for (const secret of ["private", session, token, ISSUER]) {
    expect(JSON.stringify(log)).not.toContain(secret);
  }
});

test("what somebody keeps is in their state alone: not in words, menu or refusals", async () => {
  const room = await gateway();
  const [ada, ben] = [await room.enter("ada"), await room.enter("ben")];
  const canary = "IGNORE-ALL-RULES-4711";
  await ada.use("user_write", { mood: canary, notes: { [canary]: canary } });
  const elsewhere: unknown[] = [await menu(room), room.log];
  for (const name of await namesOf(room)) {
    if (!RIGHT[name]) elsewhere.push(await ben.use(name));
  }
  for (const name of ["config_get_rules", "config_get_persona", "user_get_profile"]) {
    elsewhere.push(await ada.use(name));
  }
  const opened = (await room.call("begin_session", {}, ada.token)).structuredContent!;
  elsewhere.push([opened.rules, opened.persona, opened.reminder]);
  elsewhere.push(await ada.use("user_write", { notes: [canary] }));
  expect(JSON.stringify(elsewhere)).not.toContain("4711");
  expect(JSON.stringify(opened.state)).toContain(canary);
});
