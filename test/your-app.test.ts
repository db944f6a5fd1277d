// What holds for your app, whatever it is about: these stay when you rewrite app.test.ts. They
// know it by what loadApp() returns, and by the three calls of its rehearsal.

import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { readConfig, sqliteStore } from "../main.ts";
import { version } from "../package.json";
import { FILE, loadApp, REHEARSAL } from "./app.ts";
import { rehearse, sqliteEnv } from "./rehearsals.ts";
import { gateway, placesHere, ROOT, startGateway, type ToolResult } from "./support.ts";
import { surfaceAccepted, surfaceNow } from "./surface.ts";

const app = await loadApp();
type Call = { tool: string; args: object };
const script: { missing: Call; read: Call; save: Call } =
  await Bun.file(join(ROOT, REHEARSAL)).json();
const { missing, read, save } = script;
const textOf = ({ content }: ToolResult) => content[0]!.text;

test("`about` says in a sentence or two to a person what it is", () => {
  expect(app.about).toMatch(/^[^\n]{20,300}\.$/);
});

test("its website and its privacy page, if it names any, are https", () => {
  for (const link of [app.website, app.privacy]) expect(link ?? "https://").toStartWith("https://");
});

test("no word that a host reviewed has changed (`bun run surface` accepts new ones)", async () => {
  expect(await surfaceNow()).toEqual(await surfaceAccepted());
});

test(`${REHEARSAL} has three calls of this app, and the rehearsal holds`, async () => {
  const env = await sqliteEnv();
  const server = await startGateway(env, FILE);
  const { out, err } = await rehearse(server.mcp, script, env);
  const trouble = (out + err).match(/^\d+\. .*\n( +(?!NOT).*\n)* +NOT (HELD|SHOWN) .*$/gm) ?? [];
  expect(trouble).toEqual([]);
  expect(out).toEndWith(" 12 of 12 held.\n");
  await server.stop();
});

// ---- What others read of it ----

test("`bun run skill` prints its rules and persona, with a head that says when", () => {
  const child = Bun.spawnSync(["bun", join(ROOT, "deploy/skill.ts")], { env: process.env });
  const text = child.stdout.toString();
  const [, head, body] = text.split(/^---$/m);
  expect(head).toMatch(new RegExp(`^\nname: ${app.slug}\ndescription: ".{20,1024}"\n$`));
  for (const words of [app.rules, app.persona, "we fail closed"]) expect(body).toContain(words);
});

test.skipIf(FILE !== "main.ts")("deploy/server.json describes it as the registry takes it",
  async () => {
  const entry = await Bun.file(join(ROOT, "deploy/server.json")).json();
  const { title, version: told } = entry;
  expect({ title, version: told }).toEqual({ title: app.name, version }); // of package.json
  expect(entry.name).toMatch(/^[A-Za-z0-9.-]+\/[A-Za-z0-9._-]+$/);
  expect(entry.description).toMatch(/^.{10,100}$/);
  expect(entry.remotes).toEqual([
    { type: "streamable-http", url: expect.stringMatching(/^https:\/\/[^/]+\/mcp$/) },
  ]);
});

test.skipIf(FILE !== "main.ts").each([
  [".mcp.json", "mcpServers"], ["opencode.json", "mcp"],
  [".vscode/mcp.json", "servers"], [".cursor/mcp.json", "mcpServers"],
])("%s names the local gateway to an agent, as the terminal does", async (file, key) => {
  const { [key]: servers } = await Bun.file(join(ROOT, file)).json();
  const url = readConfig({}, app.slug).resourceUrl;
  // The same name: an agent in this folder takes both for one.
  expect(servers).toEqual({ [app.slug]: expect.objectContaining({ url }) });
});

// ---- Its tools ----

test(`${REHEARSAL}: missing is refused, read and save are taken`, async () => {
  const { use } = await (await gateway({ app })).enter();
  const said = Object.entries(script).map(async ([name, { tool, args }]) => {
    const { isError, content } = await use(tool, args);
    return `${name} ${isError ? `is refused: ${content[0]!.text}` : "is taken"}`;
  });
  expect(await Promise.all(said)).toEqual([
    expect.stringMatching(/^missing is refused: /), "read is taken", "save is taken",
  ]);
});

const names = Object.keys(app.tools);

test.each(names)("%s does nothing without the key, nor with an argument that it doesn't name",
  async (name) => {
  const room = await gateway({ app });
  const { token, use } = await room.enter();
  expect(textOf(await room.call(name, {}, token))).toStartWith("No valid session.");
  const odd = await use(name, { user_id: "ben" });
  expect([odd.isError, textOf(odd)])
    .toEqual([true, expect.stringContaining("user_id is not known here")]);
  expect((await use("user_list_actions")).structuredContent!.actions).toEqual([]);
});

test("what isn't there is refused in words, with a way on", async () => {
  const { use } = await (await gateway({ app })).enter();
  const refused = await use(missing.tool, missing.args);
  expect(refused.isError).toBe(true);
  expect(textOf(refused)).toMatch(/^(?!No valid session)\S.{20,}\.$/);
});

test("what it looks up is the same in both revisions of the protocol", async () => {
  const room = await gateway({ app });
  const { token, session, use } = await room.enter();
  const { body } = await room.modern(read.tool, { arguments: { session, ...read.args } }, token);
  const older = await use(read.tool, read.args);
  expect([older.isError, older.structuredContent]).toEqual([undefined, expect.any(Object)]);
  expect(body.result.structuredContent).toEqual(older.structuredContent);
});

// ---- What is kept ----

describe.each(await placesHere())("What is kept in %s", (_, open) => {
  const opened = async () => {
    const place = await open();
    const { enter } = await gateway({ app, store: await place.store() });
    const at = async (sub: string) => {
      const { use } = await enter(sub);
      return { use, state: async () => (await use("user_get_state")).structuredContent!.state };
    };
    return { place, at };
  };

  test("is told in the next visit, and to nobody else", async () => {
    const { at } = await opened();
    const ada = await at("ada");
    expect(await ada.state()).toEqual(app.empty);
    expect((await ada.use(save.tool, save.args)).isError).toBeUndefined();
    expect(await (await at("ada")).state()).toEqual(await ada.state());
    expect(await ada.state()).not.toEqual(app.empty);
    expect(await (await at("ben")).state()).toEqual(app.empty);
  });
  test("is one line in the summary, whatever there is; to read changes nothing", async () => {
    const { use, state } = await (await opened()).at("ada");
    const line = async () => (await use("user_get_state")).structuredContent!.summary;
    expect(await line()).toMatch(/^\S.*$/);
    await use(save.tool, save.args);
    expect(await line()).toMatch(/^\S.*$/);
    const before = [await state(), (await use("user_list_actions")).structuredContent];
    for (const { tool, args } of [read, missing]) await use(tool, args);
    expect([await state(), (await use("user_list_actions")).structuredContent]).toEqual(before);
  });
  test.skipIf(!app.tools[save.tool]?.annotations.idempotentHint)(
    "is the same when it is saved twice: a host may repeat it", async () => {
    const { use, state } = await (await opened()).at("ada");
    await use(save.tool, save.args);
    const once = await state();
    expect((await use(save.tool, save.args)).isError).toBeUndefined();
    expect(await state()).toEqual(once);
    expect((await use("user_list_actions")).structuredContent!.actions).toHaveLength(1);
  });
  test.skipIf(!app.reserves)("is one person's, if the app reserves it", async () => {
    const { at } = await opened();
    const [ada, ben] = [await at("ada"), await at("ben")];
    await ada.use(save.tool, save.args);
    const names = app.reserves!(await ada.state());
    expect(`\`save\` is the call that reserves something: ${names}`).not.toEndWith(": ");
    expect((await ben.use(save.tool, save.args)).isError).toBe(true);
    expect(await ben.state()).toEqual(app.empty);
  });
  test("has a receipt in words, and goes back as it was, unless it is final", async () => {
    const { use, state } = await (await opened()).at("ada");
    await use(save.tool, save.args);
    const kept = await state();
    const { actions: [receipt] } = (await use("user_list_actions")).structuredContent!;
    expect(receipt).toMatchObject({ tool: save.tool, summary: expect.stringMatching(/\S{3}/) });
    const undone = await use("user_undo");
    const isFinal = app.tools[save.tool]!.undoable === false;
    expect(undone.isError ?? false).toBe(isFinal);
    expect(await state()).toEqual(isFinal ? kept : app.empty);
  });
  test("is gone from the database once the person is forgotten", async () => {
    const { place, at } = await opened();
    const { use } = await at("ada");
    await use(save.tool, save.args);
    const { confirm } = (await use("user_forget_me")).structuredContent!;
    expect((await use("user_forget_me", { confirm })).structuredContent!.forgotten).toBe(true);
    for (const table of ["users", "user_state", "user_reserved"]) {
      expect([table, await place.rows(`select * from ${table}`)]).toEqual([table, []]);
    }
  });
});

test("when its memory is gone, a save says so in words that make the model stop", async () => {
  const store = await sqliteStore(":memory:");
  const { use } = await (await gateway({ app, store })).enter();
  await store.close();
  const failed = await use(save.tool, save.args);
  expect(failed.isError).toBe(true);
  expect(textOf(failed)).toMatch(/can't continue right now\..* don't answer from memory/);
});
