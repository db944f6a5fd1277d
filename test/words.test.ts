// What a model is told, whatever the app: the order of things, when to stop, and the menu. It runs
// on the sample app, and on yours.

import { describe, expect, test } from "bun:test";
import type { App } from "../main.ts";
import { loadApp } from "./app.ts";
import { sampleApp } from "./sample-app.ts";
import { gateway, mint } from "./support.ts";

interface Schema { type?: unknown; properties?: Record<string, Schema>; description?: string }
interface Listed {
  name: string;
  title: string;
  description: string;
  annotations: Record<string, boolean>;
  inputSchema: Schema;
  outputSchema: Schema;
}

const CLIENT = {
  protocolVersion: "2025-11-25",
  capabilities: {},
  clientInfo: { name: "test", version: "1" },
};
const READS = ["begin_session", "health", "user_get_profile", "user_get_state"];
const ALSO_READS = ["user_list_actions", "config_get_rules", "config_get_persona"];
const COMMON = [...READS, ...ALSO_READS, "user_undo", "user_forget_me"];

/** Hosts review an order in a description as prompt injection. */
const ORDERS = new RegExp(`\\b(${[
  "must", "always", "never", "should", "shall", "need to", "have to", "has to", "required to",
  "important", "critical", "ensure", "make sure", "remember to", "do not", "don't", "please",
  "immediately", "ignore", "before (you|any|calling)", "call (this|it|begin_session)", "instead of",
].join("|")})\\b|!`, "i");

test.each<[string, boolean]>([
  ["You must call this first.", true],
  ["Please call begin_session, then this.", true],
  ["Save often!", true],
  ["Returns the rules that begin_session gave.", false],
])("the list of orders knows one: %p", (words, isOrder) => {
  expect(ORDERS.test(words)).toBe(isOrder);
});

/** Every schema in a schema, and itself. */
function within(value: unknown): Schema[] {
  if (typeof value !== "object" || value === null) return [];
  return [value, ...Object.values(value).flatMap(within)];
}

describe.each<[string, App]>([
  ["the sample app", sampleApp],
  ["your app", await loadApp()],
])("%s", (_, app) => {
  const room = gateway({ app });
  const menu = async (): Promise<Listed[]> => {
    const { body } = await (await room).rpc("tools/list", {}, await mint());
    return body.result.tools;
  };
  const hello = async () =>
    (await (await room).rpc("initialize", CLIENT, await mint())).body.result;

  test("the order of things is in the first 512 characters of the instructions", async () => {
    const first = ((await hello()).instructions as string).slice(0, 512);
    for (const fact of ["begin_session", "session key", "other tool (but health)", "60 minutes"]) {
      expect(first).toContain(fact);
    }
  });

  test("instructions and rules both say when to stop, and what not to do then", async () => {
    const { structuredContent } = await (await room).call("begin_session", {}, await mint());
    for (const words of [(await hello()).instructions, structuredContent!.rules] as string[]) {
      const from = words.slice(words.indexOf("When begin_session can't be reached"));
      expect(from).toMatch(/any tool fails, is refused with no way on, or doesn't answer/);
      expect(from).toMatch(/tell the person.*don't answer from memory.*don't invent/);
    }
  });

  test("rules and persona are the app's own, in begin_session and in config_*", async () => {
    const { token, use } = await (await room).enter();
    const opened = (await (await room).call("begin_session", {}, token)).structuredContent!;
    const { rules } = (await use("config_get_rules")).structuredContent!;
    const { persona } = (await use("config_get_persona")).structuredContent!;
    expect(opened).toMatchObject({ rules, persona });
    expect(rules).toStartWith(app.rules);
    expect(persona).toBe(app.persona);
  });

  test("rules and persona are phrased as cooperation", () => {
    expect(`${app.rules} ${app.persona}`).not.toMatch(/\b(must|always|never|obey|do not)\b|!/i);
  });

  test("tools are all that is announced, and nobody waits for a change of them", async () => {
    expect((await hello()).capabilities).toEqual({ tools: {} });
  });

  test("the menu is the common tools and the app's own", async () => {
    const names = (await menu()).map(({ name }) => name).sort();
    expect(names).toEqual([...COMMON, ...Object.keys(app.tools)].sort());
  });

  test("each tool of the app is in one of the three groups", () => {
    for (const name of Object.keys(app.tools)) expect(name).toMatch(/^(domain|user|config)_/);
  });

  test("each tool has a name that every host takes, a title and closed schemas", async () => {
    for (const tool of await menu()) {
      expect(tool.name).toMatch(/^[a-z_]{1,64}$/);
      expect(tool.title).toMatch(/^\S.{2,60}$/);
      expect(tool.description).toMatch(/^[A-Z].{15,400}\.$/);
      const closed = { type: "object", additionalProperties: false };
      expect(tool).toMatchObject({ inputSchema: closed, outputSchema: closed });
      expect(tool.outputSchema.properties).toHaveProperty("reminder");
    }
  });

  test("each tool says whether it only reads; one alone destroys; none reaches out", async () => {
    for (const { name, annotations } of await menu()) {
      const { readOnlyHint, destructiveHint, openWorldHint } = annotations;
      const readOnly = app.tools[name]?.annotations.readOnlyHint;
      const reads = readOnly ?? [...READS, ...ALSO_READS].includes(name);
      expect([name, readOnlyHint, destructiveHint, openWorldHint])
        .toEqual([name, reads, name === "user_forget_me", false]);
    }
  });

  test("titles, descriptions and instructions give no orders", async () => {
    const texts = (await menu()).flatMap(({ title, description, inputSchema }) =>
      [title, description, ...within(inputSchema).map((schema) => schema.description ?? "")]);
    const { instructions } = await hello();
    texts.push(instructions.replace(/When begin_session can't be reached.*/, ""), app.reminder);
    texts.push(...Object.values(app.tools).map(({ reminder }) => reminder ?? ""));
    expect(texts.filter((text) => ORDERS.test(text))).toEqual([]);
  });

  test("no argument is called after a person: who is here comes from the token", async () => {
    const PERSON = /^(user|person|owner|sub|e?-?mail|account|customer|member)(_?id)?$/i;
    const named = (await menu()).flatMap(({ name, inputSchema }) =>
      Object.keys(inputSchema.properties ?? {}).filter((argument) => PERSON.test(argument))
        .map((argument) => `${name}.${argument}`));
    expect(named).toEqual([]);
  });

  test("each tool that the words name is there", async () => {
    const names = (await menu()).map(({ name }) => name);
    const { instructions, rules, persona, reminder } = app;
    const said = [instructions, rules, persona, reminder].join(" ");
    const named = said.match(/\b(domain|user|config)_[a-z_]*[a-z]\b/g) ?? [];
    expect(named.filter((name) => !names.includes(name))).toEqual([]);
  });

  test("every argument says what it takes", async () => {
    const silent = (await menu()).flatMap(({ name, inputSchema }) =>
      Object.entries(inputSchema.properties ?? {})
        .filter(([, { description }]) => !description)
        .map(([argument]) => `${name}.${argument}`));
    expect(silent).toEqual([]);
  });

  test("no field has a list of types, which some hosts can't read", async () => {
    const schemas = (await menu()).flatMap(within);
    expect(schemas.length).toBeGreaterThan(50);
    expect(schemas.filter(({ type }) => Array.isArray(type))).toEqual([]);
  });

  test("a reminder is one line, and each common tool has its own", async () => {
    const { token, use } = await (await room).enter("reminded");
    const own = Object.values(app.tools).flatMap(({ reminder }) => reminder ?? []);
    const reminders = [app.reminder];
    for (const name of COMMON.filter((one) => one !== "user_undo")) {
      const open = name === "begin_session" || name === "health";
      const result = await (open ? (await room).call(name, {}, token) : use(name));
      reminders.push(result.structuredContent!.reminder);
    }
    for (const reminder of [...reminders, ...own]) expect(reminder).toMatch(/^\S.{10,200}$/);
    expect(new Set(reminders).size).toBe(reminders.length);
  });
});
