import { expect, test } from "bun:test";
import { INSTRUCTIONS, PERSONA, RULES, tools } from "../main.ts";
import { desk, mint } from "./support.ts";

test("the instructions name begin_session where every host still reads: within their first 512 characters", () => {
  expect(INSTRUCTIONS.slice(0, 512)).toContain("begin_session");
  expect(INSTRUCTIONS.slice(0, 512)).toContain("60 minutes");
});

test("the rules tell the model to fail closed: no answer from memory, no invented shelf", () => {
  const paragraph = RULES.split("\n").find((line) => line.includes("fail closed")) ?? "";
  expect(paragraph).toContain("can't continue"); // the words that a failure begins with
  expect(paragraph).toContain("tell the reader");
  expect(paragraph).toContain("don't answer from memory");
  expect(paragraph).toContain("don't invent");
});

/** Hosts review an order in a description as prompt injection. */
const ORDERS = /\b(must|always|never|should|shall|need to|have to|has to|required? to|important|critical|crucial|ensure|make sure|remember to|do not|don't|please|immediately|call (this|it|begin_session)|before (you|any|calling)|ignore|instead of)\b|!/i;

test.each([
  ["You must call this first.", true],
  ["Always call begin_session before any other tool.", true],
  ["You should save.", true],
  ["Do not guess!", true],
  ["Call begin_session, then this.", true],
  ["Returns the house rules that begin_session gave.", false],
])("the list of orders recognises one: %p", (description, isOrder) => {
  expect(ORDERS.test(description)).toBe(isOrder);
});

test("no title and no description in tools/list gives the model an order", async () => {
  const { body } = await (await desk()).rpc("tools/list", {}, await mint());
  const told: string[] = [];
  const visit = (value: unknown, key = ""): void => {
    if (typeof value === "string" && ["title", "description"].includes(key)) told.push(value);
    else if (value && typeof value === "object") for (const [name, part] of Object.entries(value)) visit(part, name);
  };
  visit(body.result.tools);
  expect(told.length).toBeGreaterThanOrEqual(2 * Object.keys(tools).length); // a title and a description each, and those of the fields
  expect(told.filter((words) => ORDERS.test(words))).toEqual([]);
});

test("the instructions state facts as well: they give the model no order", () => {
  expect(INSTRUCTIONS).not.toMatch(ORDERS);
});

test("begin_session's description says what it returns, that the others need it and how long the key lasts", async () => {
  const { description } = tools.begin_session;
  for (const fact of ["session key", "other tools need", "60 minutes", "rules", "persona", "state"]) expect(description).toContain(fact);
});

test("begin_session returns the key and how long it lasts, rules, persona and the reader's state, and one line as a reminder", async () => {
  const { structuredContent } = await (await desk()).call("begin_session", {}, await mint());
  expect(structuredContent).toEqual({
    session: expect.stringMatching(/^[\w-]{1,24}$/),
    expires_in_seconds: 3600,
    rules: RULES,
    persona: PERSONA,
    state: { reading: null, shelf: {} },
    reminder: expect.stringMatching(/^\S.*$/),
  });
});

test.each([
  ["health", {}],
  ["domain_list_articles", {}],
  ["domain_search_articles", { query: "bread" }],
  ["domain_get_article", { id: "a2" }],
  ["user_get_profile", {}],
  ["user_get_state", {}],
  ["user_save_state", { reading: null }],
  ["config_get_rules", {}],
  ["config_get_persona", {}],
])("%s reminds in one line that fits what happened", async (name, args) => {
  const room = await desk();
  const reader = await room.enter();
  const { structuredContent } = name === "health" ? await room.call(name, args, reader.token) : await reader.use(name, args);
  expect(structuredContent?.reminder).toMatch(/^\S.{10,200}$/);
  expect(structuredContent?.reminder).not.toMatch(/tell the reader so/); // those words are for a failure; this went well
});
