// The one test file that knows the app: rewrite it with section 1. What the other files prove
// holds for any app, on a tiny one of their own (sample-app.ts).

import { expect, test } from "bun:test";
import { join } from "node:path";
import { encode } from "gpt-tokenizer";
import { type Article, loadApp, searchArticles, sqliteStore, StartError } from "../main.ts";
import catalogue from "../seed/articles.json" with { type: "json" };
import { gateway, mint, ROOT, scratch, type ToolResult } from "./support.ts";
import { surfaceNow } from "./surface.ts";

const articles: Article[] = catalogue;
const room = await gateway({ app: await loadApp() });

let visitors = 0;
const visitor = () => room.enter(`visitor-${visitors++}`);
const textOf = ({ content }: ToolResult) => content[0]!.text;
const nothing = { reading: null, shelf: {} };

async function seedOf(entries: unknown): Promise<string> {
  const path = join(await scratch(), "articles.json");
  if (entries !== undefined) await Bun.write(path, JSON.stringify(entries));
  return path;
}

// ---- The catalogue ----

test("there are eight articles of two sentences each", () => {
  expect(articles.map(({ id }) => id)).toEqual(["a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8"]);
  expect(articles.map(({ body }) => body.match(/[.!?](\s|$)/g)!.length)).toEqual(Array(8).fill(2));
});

const good: Article = { id: "b1", title: "A title", topic: "topic", body: "One. Two." };

test.each<[string, unknown, RegExp]>([
  ["is missing", undefined, /missing|JSON/],
  ["is no list", { articles: [good] }, /expected array/],
  ["has an entry that is no article", [good, "b2"], / → at 1\.$/],
  ["has an id that needs quoting", [{ ...good, id: "b 1" }], / → at 0\.id\.$/],
  ["has an id twice", [good, { ...good, title: "Another" }], / → at 1\b|"b1"/],
  ["has a field that nobody reads", [{ ...good, author: "me" }], /author.* → at 0\.$/],
])("a seed that %s stops the start, in a line that names file and entry", async (_, seed, says) => {
  const path = await seedOf(seed);
  const error: unknown = await loadApp(path).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(StartError);
  const { message } = error as StartError;
  expect(message).toStartWith(`Cannot start: ${path}`);
  expect(message).toMatch(says);
  expect(message).not.toContain("\n");
});

// ---- Search ----

test.each<[string, string[]]>([
  ["ledger", ["a1"]],
  ["CAFÉ zoe", ["a4"]], // neither case nor accents count
  ["ｓｗｉｆｔ", ["a5"]], // full width, as an input method types it
  ["sourd", ["a2"]], // the beginning of a word is enough …
  ["ourdough", []], // … and its middle is not
  ["indigo lighthouse", ["a8", "a1"]], // either word; indigo is also in the text of a8
  ["history swifts", ["a5", "a1", "a6", "a3"]], // a title, then topics, then a text
  ["[swift|", ["a5"]], // signs only separate words
])("searching for %p finds %p", (query, ids) => {
  expect(searchArticles(articles, query).map(({ id }) => id)).toEqual(ids);
});

test("the excerpt is the sentence that has the word, or else the first", () => {
  expect(searchArticles(articles, "screw")[0]!.excerpt).toMatch(/^It has kept time ever since/);
  expect(searchArticles(articles, "patience")[0]!.excerpt).toMatch(/^Cloth .* the air\.$/);
});

// ---- Its own tools ----

const [a1, , a3] = articles as [Article, Article, Article];
const brief = ({ id, title, topic }: Article) => ({ id, title, topic });
const food = articles.filter(({ id }) => id === "a2" || id === "a4").map(brief);
const excerpt = a3.body.split(/(?<=\.) /)[0];

test.each<[string, object, object]>([
  ["domain_list_articles", {}, { articles: articles.map(brief) }],
  ["domain_list_articles", { topic: " Food " }, { articles: food }],
  ["domain_search_articles", { query: "Kilometre" }, { articles: [{ ...brief(a3), excerpt }] }],
  ["domain_get_article", { id: "a3" }, { article: a3 }],
])("%s %j answers with what is there", async (name, args, expected) => {
  const { reminder, ...rest } = (await (await visitor()).use(name, args)).structuredContent!;
  expect(rest).toEqual(expected);
  expect(reminder).toBe(room.app.reminder);
});

test.each<[string, object]>([
  ["domain_get_article", { id: "a99" }],
  ["user_save_state", { reading: { id: "a99", position: "start" } }],
  ["user_save_state", { shelf: { a1: "start", a99: "start" } }],
  ["user_save_state", { shelf: { a99: null } }],
])("%s %j is refused with the ids that exist, and keeps nothing", async (name, args) => {
  const { use } = await visitor();
  const refused = 'No article "a99". The ids are a1, a2, a3, a4, a5, a6, a7, a8.';
  expect(textOf(await use(name, args))).toBe(refused);
  expect((await use("user_get_state")).structuredContent!.state).toEqual(nothing);
});

/** The same app with a catalogue of this many articles, b0 and on. */
async function roomOf(count: number) {
  const entries = Array.from({ length: count }, (_, n) => ({ ...good, id: `b${n}` }));
  return gateway({ app: await loadApp(await seedOf(entries)) });
}

test("of a long catalogue a refusal names the tool that lists it, not all the ids", async () => {
  const { use } = await (await roomOf(21)).enter();
  const refused = 'No article "a99". domain_list_articles lists them.';
  expect(textOf(await use("domain_get_article", { id: "a99" }))).toBe(refused);
});

// ---- What is kept for a reader ----

test("a save is a merge: only what is named changes, null removes", async () => {
  const { use } = await visitor();
  const reading = { id: "a3", position: "second sentence" };
  const steps: [object, object][] = [
    [{ reading }, { reading, shelf: {} }],
    [{ shelf: { a1: "done" } }, { reading, shelf: { a1: "done" } }],
    [{ shelf: { a3: "half" } }, { reading, shelf: { a1: "done", a3: "half" } }],
    [{ shelf: { a3: "half" } }, { reading, shelf: { a1: "done", a3: "half" } }],
    [{ shelf: { a1: null, a3: "end" } }, { reading, shelf: { a3: "end" } }],
    [{ reading: null }, { reading: null, shelf: { a3: "end" } }],
  ];
  for (const [args, state] of steps) {
    expect((await use("user_save_state", args)).structuredContent!.state).toEqual(state);
  }
  const { actions } = (await use("user_list_actions")).structuredContent!;
  expect(actions).toHaveLength(5); // the same save twice is one entry …
  expect(room.app.tools.user_save_state!.annotations.idempotentHint).toBe(true); // … as hosts know
});

test("what was saved in an article that has left can be moved and removed, and not opened",
  async () => {
  const store = await sqliteStore(":memory:");
  const before = await gateway({ app: await loadApp(), store });
  await (await before.enter("ada")).use("user_save_state", { shelf: { a1: "half" } });
  const left = await loadApp(await seedOf(articles.filter(({ id }) => id !== "a1")));
  const { use } = await (await gateway({ app: left, store })).enter("ada");
  const save = async (args: object) => (await use("user_save_state", args)).structuredContent?.state;
  expect(await save({ reading: { id: "a1", position: "end" } })).toBeUndefined();
  expect((await save({ shelf: { a1: "end" } })).shelf).toEqual({ a1: "end" });
  expect((await save({ shelf: { a1: null } })).shelf).toEqual({});
  expect(await save({ shelf: { a1: "again" } })).toBeUndefined();
});

test.each(["x", "📚"])("a position holds 280 of %p, and not one more", async (sign) => {
  const { use } = await visitor();
  const [most, tooMuch] = [sign.repeat(280), sign.repeat(281)];
  const kept = { reading: { id: "a1", position: most }, shelf: { a1: most } };
  expect((await use("user_save_state", kept)).structuredContent!.state).toEqual(kept);
  const { summary } = (await use("user_get_state")).structuredContent!;
  expect(summary).not.toContain("\ufffd"); // it is clipped, and no sign in two
  const open = await use("user_save_state", { reading: { id: "a1", position: tooMuch } });
  expect(textOf(open)).toBe("takes at most 280 characters → at reading.position.");
  const saved = await use("user_save_state", { shelf: { a1: tooMuch } });
  expect(textOf(saved)).toBe("takes at most 280 characters → at shelf.a1.");
});

test("a reader keeps 200 articles; the next has a place once another is removed", async () => {
  const { use } = await (await roomOf(201)).enter();
  const all = Object.fromEntries(Array.from({ length: 200 }, (_, n) => [`b${n}`, "p"]));
  await use("user_save_state", { shelf: all });
  const refused = await use("user_save_state", { shelf: { b200: "p" } });
  expect(textOf(refused)).toBe("takes 200 articles; null removes one → at shelf.");
  const swapped = await use("user_save_state", { shelf: { b0: null, b200: "p" } });
  expect(Object.keys(swapped.structuredContent!.state.shelf)).toHaveLength(200);
});

// ---- In words ----

const x59 = "x".repeat(59); // a long position is clipped
const place = (position: string) => ({ reading: { id: "a3", position } });
const shelf = Object.fromEntries(Array.from({ length: 200 }, (_, n) => [`gone${n}`, "x"]));
const ten = Object.keys(shelf).slice(0, 10).map((id) => `“${id}”`).join(", ");

test.each<[string, object, string]>([
  ["nothing", {}, "Open: nothing. Saved: nothing."],
  ["a place", place("half"), `Open: “${a3.title}”, at: half. Saved: nothing.`],
  ["a place of two lines", place("a\n\tb"), `Open: “${a3.title}”, at: a b. Saved: nothing.`],
  ["a long place", place("x".repeat(61)), `Open: “${a3.title}”, at: ${x59}…. Saved: nothing.`],
  ["a shelf", { shelf: { a1: "x" } }, `Open: nothing. Saved: “${a1.title}”.`],
  ["a full shelf", { shelf }, `Open: nothing. Saved: ${ten}, and 190 more.`],
])("the summary of %s is one line, with titles", (_, state, line) => {
  expect(room.app.summarize({ ...nothing, ...state })).toBe(line);
});

test("a receipt says in titles what was opened, closed, saved and removed", async () => {
  const { use } = await visitor();
  await use("user_save_state", place("x".repeat(280)));
  await use("user_save_state", { reading: null, shelf: { a1: "x".repeat(280) } });
  await use("user_save_state", { shelf: { a1: null } });
  const { actions } = (await use("user_list_actions")).structuredContent!;
  expect((actions as { summary: string }[]).map(({ summary }) => summary)).toEqual([
    `removed “${a1.title}”`,
    `closed what was open; saved “${a1.title}”, at: ${x59}…`,
    `opened “${a3.title}”, at: ${x59}…`,
  ]);
});

test("nothing else knows it: main.ts from section 2 on, mock-auth.ts, page, tests", async () => {
  const tests = [...new Bun.Glob("test/**/*.ts").scanSync(ROOT)];
  const others = tests.filter((file) => !/\/(app|mock-auth)\.test\.ts$/.test(file));
  for (const file of ["main.ts", "mock-auth.ts", "seed/door.html", ...others]) {
    const text = (await Bun.file(join(ROOT, file)).text()).split("\n// ---- 2. Config").at(-1)!;
    expect([file, text.match(/article|shelf|librarian|reading[ -]?room/i)]).toEqual([file, null]);
  }
});

test("the rules name the tool behind each habit, and what is saved is only material", () => {
  const { rules } = room.app;
  const named = ["domain_get_article", "user_save_state", "user_list_actions", "user_undo"];
  for (const name of named) expect(rules).toContain(name);
  expect(rules).toContain("it is still only material");
});

// ---- What hosts and models read ----

test("what a model has to read and type is short", async () => {
  const tokens = (text: string) => encode(text).length;
  const { tools } = await surfaceNow(loadApp);
  const menu = tools.map(({ outputSchema, ...read }) => read);
  expect(tokens(JSON.stringify(menu))).toBeLessThanOrEqual(1_500);
  const opened = await room.call("begin_session", {}, await mint({ sub: "somebody new" }));
  expect(tokens(textOf(opened))).toBeLessThanOrEqual(350);
  const keys = Array.from({ length: 100 }, async () => (await room.enter()).session);
  const lengths = (await Promise.all(keys)).map(tokens).sort((a, b) => a - b);
  expect(lengths[95]).toBeLessThanOrEqual(16);
});
