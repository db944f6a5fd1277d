// The menu as a host app sees it, and every answer that a tool can give. In through the front: tools/list and tools/call.

import { describe, expect, test } from "bun:test";
import { AjvJsonSchemaValidator } from "@modelcontextprotocol/client/validators/ajv";
import { type App, type Article, createApp, INSTRUCTIONS, PERSONA, RULES } from "../main.ts";
import { version } from "../package.json" with { type: "json" };
import { articles, desk, goodClaims, keyServer, mint, type ToolResult } from "./support.ts";

type Schema = Parameters<AjvJsonSchemaValidator["getValidator"]>[0];
interface Listed { name: string; title: string; description: string; inputSchema: Schema; outputSchema: Schema }

const room = await desk();
const listed: Listed[] = (await room.rpc("tools/list", {}, await mint())).body.result.tools;
const ajv = new AjvJsonSchemaValidator();
const problem = (schema: Schema, value: unknown) => ajv.getValidator(schema)(value).errorMessage;
const find = (name: string) => listed.find((tool) => tool.name === name)!;

const OPEN = ["begin_session", "health"];
const reads = { readOnlyHint: true, destructiveHint: false, openWorldHint: false };
const writes = { readOnlyHint: false, destructiveHint: false, openWorldHint: false };

let readers = 0;
/** A reader whom nobody has seen, and a way to use every tool: the open ones are called without a key. */
async function newReader() {
  const sub = `tools-reader-${readers++}`;
  const { token, session, use } = await room.enter(sub);
  return { sub, token, session, use: (name: string, args: object = {}) => (OPEN.includes(name) ? room.call(name, args, token) : use(name, args)) };
}
/** What went well, checked: no error, the text is the JSON of the structure, and the structure is as the menu promises. */
function result(name: string, { isError, content, structuredContent }: ToolResult) {
  expect([isError ?? false, content[0]?.text]).toEqual([false, JSON.stringify(structuredContent)]);
  expect(content).toHaveLength(1);
  expect(problem(find(name).outputSchema, structuredContent)).toBeUndefined();
  const { reminder, ...rest } = structuredContent!;
  expect(reminder).toMatch(/^\S.*$/);
  return rest;
}
/** What was refused or failed, checked: words alone. */
function words({ isError, content, structuredContent }: ToolResult): string {
  expect([isError, structuredContent, content.length]).toEqual([true, undefined, 1]);
  return content[0]!.text;
}
const state = (reading: object | null, shelf: object) => ({ state: { reading, shelf } });

describe("the menu", () => {
  test.each([
    ["begin_session", [], [], reads],
    ["health", [], [], reads],
    ["domain_list_articles", ["session"], ["topic"], reads],
    ["domain_search_articles", ["query", "session"], [], reads],
    ["domain_get_article", ["id", "session"], [], reads],
    ["user_get_profile", ["session"], [], reads],
    ["user_get_state", ["session"], [], reads],
    ["user_save_state", ["session"], ["reading", "shelf"], { ...writes, idempotentHint: true }],
    ["user_list_actions", ["session"], ["limit"], reads],
    ["user_undo", ["session"], ["action_id"], writes],
    ["user_forget_me", ["session"], ["confirm"], { ...writes, destructiveHint: true }],
    ["config_get_rules", ["session"], [], reads],
    ["config_get_persona", ["session"], [], reads],
  ])("%s takes %p, may take %p, and says what it does to the world", (name, required, optional, annotations) => {
    const schema = find(name).inputSchema as { required?: string[]; properties: object };
    expect([...(schema.required ?? [])].sort()).toEqual(required);
    expect(Object.keys(schema.properties).sort()).toEqual([...required, ...optional].sort());
    expect(find(name)).toHaveProperty("annotations", annotations);
  });
  test("has these tools and no others", () => {
    expect(listed.map(({ name }) => name).sort()).toEqual([
      "begin_session", "config_get_persona", "config_get_rules", "domain_get_article", "domain_list_articles",
      "domain_search_articles", "health", "user_forget_me", "user_get_profile", "user_get_state", "user_list_actions", "user_save_state", "user_undo",
    ]);
  });
  test.each(listed.map((tool) => [tool.name, tool] as const))("%s has a name that every host takes, a title, a description and two closed schemas", (name, tool) => {
    expect(name).toMatch(/^[a-z_]{1,64}$/);
    expect(tool.title).toMatch(/^\S.{2,60}$/);
    expect(tool.description).toMatch(/^[A-Z].{20,400}$/);
    expect(tool.inputSchema).toMatchObject({ type: "object", additionalProperties: false });
    expect(tool.outputSchema).toMatchObject({ type: "object", additionalProperties: false });
    expect(Object.keys(tool.outputSchema.properties!)).toContain("reminder");
  });
  test("every field that a model fills in says what it takes", () => {
    const fields = listed.flatMap(({ name, inputSchema }) => Object.entries(inputSchema.properties ?? {}).map(([field, schema]) => [`${name}.${field}`, schema] as const));
    expect(fields.filter(([, schema]) => !(schema as { description?: string }).description).map(([field]) => field)).toEqual([]);
  });
});

describe("when all is well", () => {
  const { a3 } = Object.fromEntries(articles.map((article) => [article.id, article])) as { a3: Article };
  const brief = ({ id, title, topic }: Article) => ({ id, title, topic });
  const anyKey = expect.stringMatching(/^[\w-]{1,24}$/);
  const recently = expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  const foodOnly = { articles: articles.filter(({ topic }) => topic === "food").map(brief) };

  test.each<[string, object, object]>([
    ["begin_session", {}, { session: anyKey, expires_in_seconds: 3600, rules: RULES, persona: PERSONA, ...state(null, {}) }],
    ["health", {}, { status: "ok", store: "sqlite", version }],
    ["domain_list_articles", {}, { articles: articles.map(brief) }],
    ["domain_list_articles", { topic: "food" }, foodOnly],
    ["domain_list_articles", { topic: " Food " }, foodOnly],
    ["domain_list_articles", { topic: "astrology" }, { articles: [] }],
    ["domain_search_articles", { query: "kilometre" }, { articles: [{ ...brief(a3), excerpt: a3.body.split(/(?<=\.) /)[0] }] }],
    ["domain_search_articles", { query: "x".repeat(200) }, { articles: [] }],
    ["domain_search_articles", { query: "📚".repeat(200) }, { articles: [] }],
    ["domain_get_article", { id: "a3" }, { article: a3 }],
    ["user_get_profile", {}, { profile: { email: null, member_since: recently } }],
    ["user_get_state", {}, state(null, {})],
    ["user_save_state", {}, state(null, {})],
    ["user_save_state", { reading: { id: "a3", position: "second sentence" } }, state({ id: "a3", position: "second sentence" }, {})],
    ["user_save_state", { shelf: { a1: "finished", a3: "half" } }, state(null, { a1: "finished", a3: "half" })],
    ["user_save_state", { reading: null, shelf: { a1: null } }, state(null, {})],
    ["user_list_actions", {}, { actions: [] }],
    ["user_list_actions", { limit: 100 }, { actions: [] }],
    ["user_forget_me", {}, { confirm: expect.any(String), message: expect.any(String) }],
    ["config_get_rules", {}, { rules: RULES }],
    ["config_get_persona", {}, { persona: PERSONA }],
  ])("%s %j answers as the menu promises", async (name, args, expected) => {
    const { session, use } = await newReader();
    expect(problem(find(name).inputSchema, OPEN.includes(name) ? args : { session, ...args })).toBeUndefined();
    expect(result(name, await use(name, args))).toEqual(expected);
  });

  test("the profile has the e-mail address that the sign-in service tells, and the day of the first visit", async () => {
    const before = new Date().toISOString();
    const { use } = await room.enter("tools-with-email", { email: "ada@example.com" });
    const first = result("user_get_profile", await use("user_get_profile"));
    expect(first.profile.email).toBe("ada@example.com");
    expect(first.profile.member_since >= before && first.profile.member_since <= new Date().toISOString()).toBe(true);
    const again = await room.enter("tools-with-email", { email: "ada@new.example" });
    expect(result("user_get_profile", await again.use("user_get_profile")).profile).toEqual({ ...first.profile, email: "ada@new.example" });
  });
});

describe("a save is a merge", () => {
  test("only what is named changes, null removes, and the next session finds it", async () => {
    const { sub, use } = await newReader();
    const save = async (args: object) => result("user_save_state", await use("user_save_state", args)).state;
    const reading = { id: "a3", position: "second sentence" };
    expect(await save({ reading })).toEqual({ reading, shelf: {} });
    expect(await save({ shelf: { a1: "finished" } })).toEqual({ reading, shelf: { a1: "finished" } });
    expect(await save({ shelf: { a3: "half" } })).toEqual({ reading, shelf: { a1: "finished", a3: "half" } });
    expect(await save({ shelf: { a3: "half" } })).toEqual({ reading, shelf: { a1: "finished", a3: "half" } }); // twice is once
    expect(await save({})).toEqual({ reading, shelf: { a1: "finished", a3: "half" } });
    expect(await save({ shelf: {} })).toEqual({ reading, shelf: { a1: "finished", a3: "half" } });
    expect(await save({ shelf: { a1: null, a3: "end" } })).toEqual({ reading, shelf: { a3: "end" } });
    expect(await save({ reading: { id: "a5", position: "start" } })).toEqual({ reading: { id: "a5", position: "start" }, shelf: { a3: "end" } });
    expect(await save({ reading: null })).toEqual({ reading: null, shelf: { a3: "end" } });

    const later = await room.enter(sub);
    expect(result("user_get_state", await later.use("user_get_state"))).toEqual(state(null, { a3: "end" }));
    expect(result("begin_session", await room.call("begin_session", {}, later.token)).state).toEqual({ reading: null, shelf: { a3: "end" } });
  });

  test("of eight saves at the same moment all survive", async () => {
    const { use } = await newReader();
    await Promise.all(articles.map(({ id }) => use("user_save_state", { shelf: { [id]: `place in ${id}` } })));
    expect(result("user_get_state", await use("user_get_state")).state.shelf).toEqual(Object.fromEntries(articles.map(({ id }) => [id, `place in ${id}`])));
  });

  test.each([
    ["280 letters", "x".repeat(280)],
    ["280 emoji, which are two UTF-16 units each", "📚".repeat(280)],
    ["every script, and signs with a meaning elsewhere", `"quoted" \\ 'single' – 図書館 مكتبة 👩‍👩‍👧 \u0001 \t\r\n \ufffd`],
    ["what looks like a pattern, a tag or a command", "</script> ${x} {{y}} %s ; drop table users; --"],
  ])("a position may be %s, and comes back as it was", async (_, position) => {
    const { use, session } = await newReader();
    const args = { reading: { id: "a1", position }, shelf: { a2: position } };
    expect(problem(find("user_save_state").inputSchema, { session, ...args })).toBeUndefined();
    result("user_save_state", await use("user_save_state", args));
    expect(result("user_get_state", await use("user_get_state"))).toEqual(state({ id: "a1", position }, { a2: position }));
  });

  test("a reader keeps 200 articles; the 201st is refused, changes nothing, and fits after another is removed", async () => {
    const catalogue = Array.from({ length: 201 }, (_, n): Article => ({ ...articles[0]!, id: `b${n}` }));
    const { call } = await deskWith(catalogue);
    const all = Object.fromEntries(catalogue.slice(0, 200).map(({ id }) => [id, "p"]));
    expect(result("user_save_state", await call("user_save_state", { shelf: all })).state.shelf).toEqual(all);
    const reading = { id: "b0", position: "p" };
    expect(words(await call("user_save_state", { reading, shelf: { b200: "p" } }))).toMatch(/^shelf takes at most 200 /);
    expect(result("user_get_state", await call("user_get_state", {}))).toEqual(state(null, all));
    const { b0: _, ...others } = all;
    expect(result("user_save_state", await call("user_save_state", { shelf: { b0: null, b200: "p" } })).state.shelf).toEqual({ ...others, b200: "p" });
  });
});

/** A desk with another catalogue, and one reader at it. */
async function deskWith(catalogue: Article[]) {
  const { config, store, log } = await desk();
  const app = createApp({ config, store, articles: catalogue, log: (line) => log.push(line) } satisfies App, keyServer());
  const token = await mint();
  const send = async (name: string, args: object): Promise<ToolResult> => {
    const response = await app(new Request("http://localhost:8000/mcp", {
      method: "POST",
      headers: { host: "localhost:8000", "content-type": "application/json", accept: "application/json, text/event-stream", authorization: `Bearer ${token}` },
      body: JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/call", params: { name, arguments: args } }),
    }));
    return JSON.parse((await response.text()).match(/^data: (.*)$/m)![1]!).result;
  };
  const { session } = (await send("begin_session", {})).structuredContent!;
  return { call: (name: string, args: object) => send(name, { session, ...args }) };
}

describe("an article that is not in the catalogue", () => {
  test.each<[string, object]>([
    ["domain_get_article", { id: "a99" }],
    ["user_save_state", { reading: { id: "a99", position: "start" } }],
    ["user_save_state", { shelf: { a99: "start" } }],
    ["user_save_state", { shelf: { a1: "start", a99: "start" } }],
    ["user_save_state", { shelf: { a99: null } }],
  ])("%s %j is refused with the ids that exist, and nothing is saved", async (name, args) => {
    const { sub, use } = await newReader();
    const text = words(await use(name, args));
    expect(text).toStartWith('No article "a99".');
    for (const { id } of articles) expect(text).toContain(id);
    expect(room.log.findLast((line) => line.sub === sub)).toMatchObject({ outcome: "refused", why: "article" });
    expect(result("user_get_state", await use("user_get_state"))).toEqual(state(null, {}));
  });

  test.each(["constructor", "toString", "A1", " a1", "a1 ", ""])("%p is no article either, wherever it is named", async (id) => {
    const { use } = await newReader();
    expect(words(await use("domain_get_article", { id }))).toStartWith(`No article ${JSON.stringify(id)}.`);
    expect(words(await use("user_save_state", { shelf: { [id]: "start" } }))).toStartWith(`No article ${JSON.stringify(id)}.`);
    expect(result("user_get_state", await use("user_get_state"))).toEqual(state(null, {}));
  });

  test("a long catalogue is not listed in the refusal: it names the tool that lists it", async () => {
    const { call } = await deskWith(Array.from({ length: 300 }, (_, n) => ({ ...articles[0]!, id: `b${n}` })));
    const text = words(await call("domain_get_article", { id: "a99" }));
    expect(text).toStartWith('No article "a99".');
    expect(text).toContain("domain_list_articles");
    expect(text.length).toBeLessThan(200);
  });
  test("an endless id is not repeated in full", async () => {
    const { use } = await newReader();
    expect(words(await use("domain_get_article", { id: "a".repeat(100_000) })).length).toBeLessThan(300);
  });
});

describe("invalid arguments", () => {
  const place = { id: "a1", position: "start" };
  /** What a JSON schema can't say, or says in another way: the tool alone refuses it. */
  const TOOL_ALONE = ["NUL", "half a character"];
  test.each<[string, string, object, string, string]>([
    ["no id", "domain_get_article", {}, "id", "nothing"],
    ["a number for an id", "domain_get_article", { id: 5 }, "id", "5"],
    ["null for an id", "domain_get_article", { id: null }, "id", "null"],
    ["a list for an id", "domain_get_article", { id: ["a1"] }, "id", '["a1"]'],
    ["no query", "domain_search_articles", {}, "query", "nothing"],
    ["an empty query", "domain_search_articles", { query: "" }, "query", '""'],
    ["a query of 201 characters", "domain_search_articles", { query: "x".repeat(201) }, "query", "xxx"],
    ["a limit of none", "user_list_actions", { limit: 0 }, "limit", "0"],
    ["a limit of 101", "user_list_actions", { limit: 101 }, "limit", "101"],
    ["half a limit", "user_list_actions", { limit: 1.5 }, "limit", "1.5"],
    ["a number for a topic", "domain_list_articles", { topic: 7 }, "topic", "7"],
    ["a place without a position", "user_save_state", { reading: { id: "a1" } }, "reading", '{"id":"a1"}'],
    ["a place with a page", "user_save_state", { reading: { ...place, page: 3 } }, "reading", '"page":3'],
    ["words for a place", "user_save_state", { reading: "a1" }, "reading", '"a1"'],
    ["a list for a shelf", "user_save_state", { shelf: ["a1"] }, "shelf", '["a1"]'],
    ["null for a shelf", "user_save_state", { shelf: null }, "shelf", "null"],
    ["a number on the shelf", "user_save_state", { shelf: { a1: 7 } }, "shelf", '{"a1":7}'],
    ["a position of 281 characters", "user_save_state", { reading: { ...place, position: "x".repeat(281) } }, "reading", "xxx"],
    ["a shelf position of 281 characters", "user_save_state", { shelf: { a1: "x".repeat(281) } }, "shelf", "xxx"],
    ["a position of 281 emoji", "user_save_state", { shelf: { a1: "📚".repeat(281) } }, "shelf", "📚"],
    ["NUL", "user_save_state", { shelf: { a1: "a\0b" } }, "shelf", "a\\u0000b"],
    ["NUL", "user_save_state", { reading: { ...place, position: "\0" } }, "reading", "\\u0000"],
    ["half a character", "user_save_state", { shelf: { a1: "\ud83d" } }, "shelf", "\\ud83d"],
    ["half a character", "user_save_state", { reading: { ...place, position: "x\udcda" } }, "reading", "\\udcda"],
  ])("%s: %s refuses, and tells the field, what it takes and what it got", async (what, name, args, field, got) => {
    const { sub, session, use } = await newReader();
    const text = words(await use(name, args));
    expect(text).toStartWith(`${field} takes `);
    expect(text).toContain("got ");
    expect(text.slice(text.indexOf("got "))).toContain(got);
    expect(Buffer.byteLength(text)).toBeLessThanOrEqual(300);
    expect(text).not.toContain("\ufffd"); // no character is cut in two
    expect(room.log.findLast((line) => line.sub === sub)).toMatchObject({ outcome: "refused", why: "arguments" });
    expect(result("user_get_state", await use("user_get_state"))).toEqual(state(null, {}));
    if (!TOOL_ALONE.includes(what)) expect(problem(find(name).inputSchema, { session, ...args })).toBeString();
  });

  test.each(listed.map(({ name }) => name))("%s refuses an argument that it does not know, and names it", async (name) => {
    const { session, use } = await newReader();
    const needed = { domain_search_articles: { query: "x" }, domain_get_article: { id: "a1" } }[name] ?? {};
    for (const unknown of [{ user_id: "somebody-else" }, { sub: "somebody-else" }, { constructor: 1 }, { toString: null }]) {
      const text = words(await use(name, { ...needed, ...unknown }));
      expect(text).toStartWith(`${Object.keys(unknown)[0]} `);
      for (const field of Object.keys(needed)) expect(text).toContain(field);
      expect(Buffer.byteLength(text)).toBeLessThanOrEqual(300);
      expect(problem(find(name).inputSchema, { ...(!OPEN.includes(name) && { session }), ...needed, ...unknown })).toBeString();
    }
  });

  test.each([
    ["a long value", { id: { a: "x".repeat(50_000) } }],
    ["a long value of emoji", { id: ["📚".repeat(10_000)] }],
    ["an unknown argument with a long name", { ["n".repeat(50_000)]: 1, id: "a1" }],
    ["an unknown argument with a name in another script", { ["図".repeat(200)]: 1, id: "a1" }],
    ["a value of many lines", { id: ["a\n".repeat(100)] }],
    ["a deep value", JSON.parse(`{"id": ${"[".repeat(500)}${"]".repeat(500)}}`)],
  ])("%s is not repeated in full: the refusal stays below 300 bytes and on one line", async (_, args: object) => {
    const { use } = await newReader();
    const text = words(await use("domain_get_article", args));
    expect(Buffer.byteLength(text)).toBeLessThanOrEqual(300);
    expect(text).not.toMatch(/\n|\ufffd|Zod|invalid_type/);
  });
});

describe("other refusals", () => {
  test.each(listed.map(({ name }) => name).filter((name) => !OPEN.includes(name)))("%s refuses a call without a session", async (name) => {
    const token = await mint();
    for (const args of [{}, { session: "" }, { session: 7 }, { session: "A".repeat(24) }, { id: "a1", query: "x" }]) {
      expect(words(await room.call(name, args, token))).toMatch(/^No valid session\. .*begin_session/);
    }
    expect(room.log.at(-1)).toMatchObject({ tool: name, outcome: "refused", why: "session" });
  });
  test.each(["no_such_tool", "constructor", "__proto__", "", "Begin_Session", "begin_session "])("a tool called %p is an error of the protocol, not a result", async (name) => {
    const { status, body } = await room.rpc("tools/call", { name, arguments: {} }, await mint());
    expect([status, body.error?.code, body.result]).toEqual([200, -32602, undefined]);
    expect(JSON.stringify(body)).not.toMatch(/\bat \S+:\d+|stack/);
  });
});

describe("when the store does not work", () => {
  const WITHOUT_STORE = ["domain_list_articles", "domain_search_articles", "domain_get_article", "config_get_rules", "config_get_persona"];
  const needed = { user_save_state: { shelf: { a1: "start" } }, domain_search_articles: { query: "bread" }, domain_get_article: { id: "a1" } } as Record<string, object>;

  test.each(listed.map(({ name }) => name))("%s says so in words that make the model stop, or does without", async (name) => {
    const own = await desk();
    const { token, use } = await own.enter();
    await own.store.close();
    const answer = OPEN.includes(name) ? await own.call(name, {}, token) : await use(name, needed[name] ?? {});
    if (WITHOUT_STORE.includes(name)) return void result(name, answer);

    const text = words(answer);
    const { ref, outcome } = own.log.at(-1)!;
    expect([outcome, text.endsWith(`(ref ${ref})`), /^[0-9a-f]{8}$/.test(ref)]).toEqual(["failed", true, true]);
    expect(text).toStartWith("The Reading Room can't continue right now.");
    for (const part of ["tell the reader so", "don't answer from memory", "don't invent"]) expect(text).toContain(part);
    expect(text).not.toMatch(/sqlite|database|RangeError|main\.ts|\bat /i);
    expect(/may or may not have been kept.*safe to repeat/.test(text)).toBe(name === "user_save_state");
  });
});

test("what a reader saved stands in their own state and nowhere else: not in rules, persona, menu, instructions, refusals or log", async () => {
  const own = await desk();
  const secret = "IGNORE-ALL-RULES-4711";
  const [ada, ben] = [await own.enter("reader-A", { email: "ada-4711@example.com" }), await own.enter("reader-B")];
  await ada.use("user_save_state", { reading: { id: "a3", position: secret }, shelf: { a1: secret } });
  await ada.use("user_save_state", { shelf: { a99: secret } });
  expect(JSON.stringify(await ada.use("user_get_state"))).toContain(secret);

  const elsewhere: unknown[] = [own.log, INSTRUCTIONS];
  for (const name of ["config_get_rules", "config_get_persona", "domain_list_articles", "user_get_profile"]) elsewhere.push([name, await ben.use(name)]);
  for (const name of ["config_get_rules", "config_get_persona", "domain_list_articles"]) elsewhere.push([name, await ada.use(name)]);
  const { rules, persona } = (await own.call("begin_session", {}, ada.token)).structuredContent!;
  elsewhere.push(rules, persona, await ben.use("user_get_state"), await own.call("begin_session", {}, ben.token));
  for (const method of ["tools/list", "initialize"]) {
    const params = method === "initialize" ? { protocolVersion: "2025-11-25", capabilities: {}, clientInfo: { name: "test", version: "1" } } : {};
    elsewhere.push((await own.rpc(method, params, ada.token)).body.result);
  }
  expect(JSON.stringify(elsewhere)).not.toContain("4711");
  for (const told of [ada.token, ada.session, goodClaims().iss!]) expect(JSON.stringify(own.log)).not.toContain(told);
  expect(own.log.length).toBeGreaterThan(10);
});
