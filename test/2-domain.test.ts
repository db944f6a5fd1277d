import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { type Article, loadArticles, searchArticles, StartError } from "../main.ts";
import { articles, desk, scratch } from "./support.ts";

const sentences = (body: string) => body.match(/[^.!?]+[.!?]/g)?.map((sentence) => sentence.trim()) ?? [];
const ids = (query: string, among = articles) => searchArticles(among, query).map(({ id }) => id);

describe("the catalogue", () => {
  test("has eight articles, a1 to a8, of two sentences each", () => {
    expect(articles.map(({ id }) => id)).toEqual(["a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8"]);
    for (const { id, body } of articles) expect([id, sentences(body).length]).toEqual([id, 2]);
  });

  const good: Article = { id: "b1", title: "Title", topic: "topic", body: "One. Two." };
  test.each<[string, unknown, string]>([
    ["that is missing", undefined, "is missing"],
    ["that is no list", { articles: [good] }, "is not a JSON list"],
    ["with an entry that is no article", [good, "b2"], "entry 2"],
    ["with an id that needs quoting", [{ ...good, id: "b 1" }], "entry 1"],
    ["with an id that is taken", [good, { ...good, title: "Another" }], "entry 2"],
    ["with an empty body", [{ ...good, body: " " }], "body"],
    ["with a field that nobody reads", [{ ...good, author: "me" }], "author"],
  ])("a seed file %s stops the start, in one line that says where", async (_, seed, where) => {
    const path = join(await scratch(), "articles.json");
    if (seed !== undefined) await Bun.write(path, JSON.stringify(seed));
    const error = await loadArticles(path).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(StartError);
    const { message } = error as StartError;
    expect(message).toContain(path);
    expect(message).toContain(where);
    expect(message).not.toContain("\n");
  });
});

describe("search", () => {
  test.each([
    ["ledger", ["a1"]],
    ["LEDGER", ["a1"]],
    ["cafe zoe", ["a4"]],
    ["CAFÉ ZOÉ", ["a4"]],
    ["cafe\u0301 zoe\u0301", ["a4"]], // the accents as characters of their own
    ["ｓｗｉｆｔ", ["a5"]], // full width, as an input method types it
    ["sourd", ["a2"]], // the beginning of a word is enough
    ["ourdough", []], // the middle of one is not
    ["indigo lighthouse", ["a8", "a1"]], // one of the words is enough; indigo is in a8's text as well
    ["swift swift swift", ["a5"]],
    ["history", ["a1", "a6", "a3"]], // a topic, then a word of a text
  ])("%p finds %p", (query, found) => {
    expect(ids(query)).toEqual(found);
  });

  test.each([
    ["a word that is nowhere", "zeppelin"],
    ["nothing", ""],
    ["blanks", " \t\n"],
    ["punctuation only", "?!… — «»"],
    ["accents without letters", "\u0301\u0308"],
    ["emoji", "📚🦉"],
    ["a script that no article is written in", "図書館 библиотека مكتبة"],
    ["a pattern, which is text like any other", ".*"],
    ["a NUL", "\0"],
    ["half a character", "\ud83d"],
    ["a very long word", "x".repeat(100_000)],
    ["a very long phrase", "zz ".repeat(30_000)],
  ])("%s finds nothing, without an error", (_, query) => {
    expect(searchArticles(articles, query)).toEqual([]);
  });

  test.each(["swift+b)", "[swift]", "swift|", "^swift$", "\\swift", "([swift", "swift%' or 1=1 --"])("characters with a meaning elsewhere, as in %p, separate words", (query) => {
    expect(ids(query)).toContain("a5");
  });

  const article = (id: string, rest: Partial<Article>): Article => ({ id, title: "T", topic: "t", body: "B.", ...rest });
  test("a word in the title beats one in the topic beats one in the text", () => {
    const among = [article("text", { body: "An owl." }), article("topic", { topic: "owls" }), article("title", { title: "The Owl" }), article("none", {})];
    expect(ids("owl", among)).toEqual(["title", "topic", "text"]);
  });
  test("two words found beat one", () => {
    const among = [article("one", { body: "An owl sleeps." }), article("two", { body: "An owl hunts by night." })];
    expect(ids("owl night", among)).toEqual(["two", "one"]);
  });
  test("what is equally good stays in the catalogue's order", () => {
    const among = ["z", "a", "m"].map((id) => article(id, { title: "Owl" }));
    expect(ids("owl", among)).toEqual(["z", "a", "m"]);
  });

  test.each([
    ["Библиотека у моря", "библиотека"],
    ["Η βιβλιοθήκη", "βιβλιοθηκη"],
    ["مكتبة صغيرة", "مكتبة"],
    ["पुस्तकालय", "पुस्तकालय"],
    ["図書館 の 夜", "図書館"],
    ["İstanbul", "istanbul"],
  ])("an article in another script, %p, is found by %p", (title, query) => {
    expect(ids(query, [...articles, article("other", { title })])).toEqual(["other"]);
  });

  test.each([
    ["ansel", "a6", /^In the town of Ansel /],
    ["mapmakers", "a6", /^Old mapmakers drew /],
    ["ZOE", "a4", /the Café Zoé/],
    ["stove", "a7", /^The clockmaker listened /],
    ["screw", "a7", /^It has kept time /],
  ])("the excerpt for %p is the sentence of %s that has the word", (query, id, sentence) => {
    const [best] = searchArticles(articles, query);
    const { body } = articles.find((candidate) => candidate.id === id)!;
    expect(best?.id).toBe(id);
    expect(best?.excerpt).toMatch(sentence);
    expect(sentences(body)).toContain(best!.excerpt);
  });
  test("an article found by its title alone is shown with its first sentence", () => {
    const [best] = searchArticles(articles, "patience");
    expect(best?.excerpt).toBe(sentences(articles[7]!.body)[0]!);
  });
  test("a hit tells id, title, topic and excerpt, and not the whole text", () => {
    expect(searchArticles(articles, "swift").map((hit) => Object.keys(hit).sort())).toEqual([["excerpt", "id", "title", "topic"]]);
  });
  test("searching leaves the catalogue as it was", () => {
    const before = JSON.stringify(articles);
    searchArticles(articles, "history");
    expect(JSON.stringify(articles)).toBe(before);
  });
  test("the tool finds what the function finds", async () => {
    const reader = await (await desk()).enter();
    const { structuredContent } = await reader.use("domain_search_articles", { query: "cafe zoe" });
    expect(structuredContent?.articles).toEqual(searchArticles(articles, "cafe zoe"));
    expect((await reader.use("domain_search_articles", { query: "zeppelin" })).structuredContent?.articles).toEqual([]);
  });
});
