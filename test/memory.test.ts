// A person's memory: what a change is, its receipt, how it is taken back, and who waits for whom.

import { describe, expect, test } from "bun:test";
import { z } from "zod";
import { type App, changedUnits, queueByPerson, type Receipt, sqliteStore, tool } from "../main.ts";
import type { ToolContext } from "../main.ts";
import { type Notebook, sampleApp } from "./sample-app.ts";
import { gateway, type ToolResult } from "./support.ts";

const ADA = "local|ada"; // how the stores know her
const RATE = { RATE_LIMIT_PER_MINUTE: "100000" };
type Gateway = Awaited<ReturnType<typeof gateway>>;
const rowOf = (at: Gateway) => at.store.read(ADA);

/** A gateway, and Ada's hands in it. */
async function visit(app: App = sampleApp) {
  const at = await gateway({ app, env: RATE });
  const { use } = await at.enter("ada");
  const write = async (patch: object) => {
    const { structuredContent, content } = await use("user_write", patch);
    return (structuredContent?.state ?? content[0]!.text) as Notebook | string;
  };
  const undo = async (action_id?: string) => {
    const args = action_id ? { action_id } : {};
    const { structuredContent, content } = await use("user_undo", args);
    return (structuredContent?.state ?? content[0]!.text) as Notebook | string;
  };
  const actions = async (limit = 100) =>
    (await use("user_list_actions", { limit })).structuredContent!.actions as
      { id: string; at: string; tool: string; summary: string; undone: boolean; ref: string }[];
  return { at, use, write, undo, actions };
}

// ---- What differs ----

describe("What a change touched", () => {
  const empty = { mood: null, notes: {}, list: [] };
  const odd = JSON.parse('{"constructor": "x", "toString": "y"}') as Record<string, string>;
  test.each<[string, object, object, object[]]>([
    ["nothing: nothing", { mood: "good", notes: { a: "1" } },
      { mood: "good", notes: { a: "1" } }, []],
    ["the order of the keys is no difference", { notes: { a: "1", b: "2" } },
      { notes: { b: "2", a: "1" } }, []],
    ["a value", { mood: null }, { mood: "good" }, [{ key: "mood", before: null, after: "good" }]],
    ["a value that is an object is one unit", { mood: { a: 1, b: 2 } }, { mood: { a: 1, b: 3 } },
      [{ key: "mood", before: { a: 1, b: 2 }, after: { a: 1, b: 3 } }]],
    ["a list is one unit", { list: [1] }, { list: [1, 2] },
      [{ key: "list", before: [1], after: [1, 2] }]],
    ["an entry that is new", { notes: {} }, { notes: { a: "1" } },
      [{ key: "notes", entry: "a", before: undefined, after: "1" }]],
    ["an entry that is gone", { notes: { a: "1" } }, { notes: {} },
      [{ key: "notes", entry: "a", before: "1", after: undefined }]],
    ["two entries, and not the third", { notes: { a: "1", b: "2", c: "3" } },
      { notes: { a: "x", c: "3", d: "4" } }, [
        { key: "notes", entry: "a", before: "1", after: "x" },
        { key: "notes", entry: "b", before: "2", after: undefined },
        { key: "notes", entry: "d", before: undefined, after: "4" },
      ]],
    ["a key that the old state did not have", {}, { notes: { a: "1" }, mood: "good" }, [
      { key: "notes", entry: "a", before: undefined, after: "1" },
      { key: "mood", before: undefined, after: "good" },
    ]],
    ["names that every object has", { notes: {} }, { notes: odd }, [
      { key: "notes", entry: "constructor", before: undefined, after: "x" },
      { key: "notes", entry: "toString", before: undefined, after: "y" },
    ]],
    ["a value under a name that every object has", {}, { constructor: "x" },
      [{ key: "constructor", before: undefined, after: "x" }]],
  ])("%s", (_, before, after, units) => {
    expect(changedUnits(empty, before, after) as object[]).toEqual(units);
  });
});

// ---- Receipts ----

test("a change leaves a receipt: when, with which tool, in words, and the ref of its log line",
  async () => {
  const { at, write, actions } = await visit();
  await write({ mood: "calm", notes: { sea: "blue" } });
  await write({ notes: { sea: null } });
  const receipt = {
    id: expect.stringMatching(/^[\w-]{8}$/),
    at: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
    tool: "user_write",
    undone: false,
  };
  const refs = at.log.filter(({ tool }) => tool === "user_write").map(({ ref }) => ref);
  expect(await actions()).toEqual([
    { ...receipt, summary: "sea is gone", ref: refs[1]! },
    { ...receipt, summary: "mood is 'calm'; sea is 'blue'", ref: refs[0]! },
  ]);
  expect(await actions(1)).toHaveLength(1);
});

test("what changes nothing, only reads, or is refused leaves no receipt and the version as it is",
  async () => {
  const { at, use, write, actions } = await visit();
  await write({ mood: "calm" });
  const { version } = (await rowOf(at))!;
  await write({});
  await write({ mood: "calm", notes: { never: null } });
  await use("user_get_state");
  await write({ mood: 5 });
  await use("user_undo", { action_id: "AAAAAAAA" });
  expect(await actions()).toHaveLength(1);
  expect((await rowOf(at))!.version).toBe(version);
});

test("a change that State does not take is refused in words, and nothing of it is kept",
  async () => {
  const { at, write } = await visit();
  const twenty = Object.fromEntries(Array.from({ length: 20 }, (_, n) => [`n${n}`, "x"]));
  await write({ notes: twenty });
  const before = await rowOf(at);
  expect(await write({ mood: "new", notes: { n0: "y", more: "x" } })).toContain("at most 20 notes");
  expect(await rowOf(at)).toEqual(before!);
});

test("the newest hundred receipts are kept", async () => {
  const { at, write, actions } = await visit();
  for (let n = 0; n < 103; n++) await write({ mood: `m${n}` });
  const kept = await actions();
  expect([kept.length, (await rowOf(at))!.receipts.length]).toEqual([100, 100]);
  expect([kept[0]!.summary, kept[99]!.summary]).toEqual(["mood is 'm102'", "mood is 'm3'"]);
});

test("receipts are kept up to 512 KiB together, and the newest however large", async () => {
  const { at, write } = await visit();
  const page = (letter: string) =>
    Object.fromEntries(Array.from({ length: 20 }, (_, n) => [`n${n}`, letter.repeat(280)]));
  const letters = ["é", "ü"]; // two bytes each
  for (let n = 0; n < 40; n++) await write({ notes: page(letters[n % 2]!) });
  const { receipts } = (await rowOf(at))!;
  const size = Buffer.byteLength(JSON.stringify(receipts));
  expect(size).toBeLessThan(512 * 1024 + 2);
  expect(size + Buffer.byteLength(JSON.stringify(receipts[0]))).toBeGreaterThan(512 * 1024);
});

test("a list of a hundred actions is at most 32 KB", async () => {
  const { use, write } = await visit();
  const page = (letter: string) =>
    Object.fromEntries(Array.from({ length: 2 }, (_, n) => [`n${n}`, letter.repeat(280)]));
  for (let n = 0; n < 100; n++) await write({ notes: page("éü"[n % 2]!) });
  const { structuredContent } = await use("user_list_actions", { limit: 100 });
  expect(structuredContent!.actions).toHaveLength(100);
  expect(Buffer.byteLength(JSON.stringify(structuredContent!.actions))).toBeLessThan(32_000);
});

// ---- Undo ----

describe("Undo", () => {
  /** Writes what is given, and takes back the change with that number; null: the newest. */
  type Step = object | number | null;
  const state = (mood: string | null, notes: Record<string, string> = {}) => ({ mood, notes });
  const OVERLAP = "while a later change to the same thing stands";
  const NONE = "no such action to undo";

  test.each<[string, Step[], Notebook | string]>([
    ["takes back the newest change", [{ mood: "a" }, { mood: "b" }, null], state("a")],
    ["takes back the whole of a change", [{ mood: "a", notes: { x: "1" } }, null], state(null)],
    ["puts back what was removed", [{ notes: { x: "1" } }, { notes: { x: null } }, null],
      state(null, { x: "1" })],
    ["takes back the one that is named, and no later one of other things",
      [{ notes: { x: "1" } }, { mood: "b" }, 0], state("b")],
    ["leaves other entries of a collection alone",
      [{ notes: { x: "1", y: "1" } }, { notes: { x: "2" } }, { notes: { y: "2" } }, 1],
      state(null, { x: "1", y: "2" })],
    ["refuses a change that a later one touched", [{ mood: "a" }, { mood: "b" }, 0], OVERLAP],
    ["refuses it also when they share one of two things",
      [{ mood: "a", notes: { x: "1" } }, { notes: { x: "2" } }, 0], OVERLAP],
    ["takes it back once the later one is undone",
      [{ mood: "a" }, { mood: "b" }, null, 0], state(null)],
    ["walks back to the beginning", [{ mood: "a" }, { mood: "b" }, { mood: "c" }, null, null, null],
      state(null)],
    ["goes no further", [{ mood: "a" }, null, null], NONE],
    ["walks past what was saved in between", [{ mood: "a" }, { mood: "b" }, null, { mood: "c" },
      null, null], state(null)],
    ["does no change twice", [{ mood: "a" }, { notes: { x: "1" } }, 0, 0], NONE],
    ["has nothing to take back at first", [null], NONE],
    ["takes a name that every object has for an entry like any other",
      [{ notes: { constructor: "1" } }, { notes: { toString: "2" } }, 0],
      state(null, { toString: "2" })],
  ])("%s", async (_, steps, expected) => {
    const { write, undo, actions } = await visit();
    const written: string[] = []; // the ids of the changes, oldest first
    let last: Notebook | string = "nothing happened";
    for (const step of steps) {
      if (step === null) last = await undo();
      else if (typeof step === "number") last = await undo(written[step]!);
      else {
        last = await write(step);
        written.push((await actions(1))[0]!.id);
      }
    }
    if (typeof expected === "string") expect(last).toContain(expected);
    else expect(last).toEqual(expected);
  });

  test("of an undo is refused: it has a receipt of its own, that says what it did", async () => {
    const { write, undo, actions } = await visit();
    await write({ mood: "a" });
    await undo();
    const [back, there] = await actions();
    expect([back!.tool, back!.undone, there!.undone]).toEqual(["user_undo", false, true]);
    expect(back!.summary).toStartWith("undo: ");
    expect(await undo(back!.id)).toContain("can't be undone");
  });

  test("of a change that is final is refused, whatever became of its tool", async () => {
    const { at, use, undo, actions } = await visit();
    await use("user_seal", { name: "letter" });
    const [sealed] = await actions();
    expect(await undo(sealed!.id)).toContain("final");
    expect(await undo()).toContain("final");

    const { user_seal: _, ...tools } = sampleApp.tools; // the tool is gone, its receipt is not
    const later = await gateway({ app: { ...sampleApp, tools }, store: at.store, env: RATE });
    const again = await later.enter("ada");
    const { content } = await again.use("user_undo", { action_id: sealed!.id });
    expect(content[0]!.text).toContain("final");
  });

  test("of one change from two devices at once happens once; two undos at once take back two",
    async () => {
    const { use, write, undo, actions } = await visit();
    for (const mood of ["a", "b", "c"]) await write({ mood });
    const { id } = (await actions(1))[0]!;
    const both = await Promise.all([undo(id), undo(id)]);
    expect(both.filter((result) => typeof result === "string")).toHaveLength(1);
    await Promise.all([undo(), undo()]);
    expect((await use("user_get_state")).structuredContent!.state.mood).toBe(null);
  });

  test("of somebody else's change is no such action", async () => {
    const { at, write, actions } = await visit();
    await write({ mood: "a" });
    const { id } = (await actions(1))[0]!;
    const ben = await at.enter("ben");
    expect((await ben.use("user_undo", { action_id: id })).content[0]!.text).toContain(NONE);
    expect((await actions(1))[0]!.undone).toBe(false);
  });
});

// ---- A State that changes ----

describe("When State changes", () => {
  const sessions = { SESSION_SIGNING_SECRET: "k".repeat(43), ...RATE };
  /** The same app with another State, on the same memory. */
  async function opened(app: App, earlier?: Gateway) {
    return gateway({ app, env: sessions, ...(earlier && { store: earlier.store }) });
  }

  test("a key that is new is there, as in the empty state, and undo goes on", async () => {
    const before = await opened(sampleApp);
    const ada = await before.enter("ada");
    await ada.use("user_write", { notes: { sea: "blue" } });
    const State = z.strictObject({
      mood: z.string().nullable(),
      notes: z.record(z.string(), z.string()),
      pages: z.number(),
    });
    const empty = { ...sampleApp.empty, pages: 1 };
    const wider = { ...sampleApp, State, empty } as unknown as App;
    const { use } = await (await opened(wider, before)).enter("ada");
    const state = { mood: null, notes: { sea: "blue" }, pages: 1 };
    expect((await use("user_get_state")).structuredContent!.state).toEqual(state);
    expect((await use("user_undo")).structuredContent!.state).toEqual({ ...state, notes: {} });
  });

  test("what is stored and no longer fits fails closed, the log says so, and it can be forgotten",
    async () => {
    const before = await opened(sampleApp);
    const ada = await before.enter("ada");
    await ada.use("user_write", { notes: { sea: "blue" } });
    const State = z.strictObject({ mood: z.null(), notes: z.record(z.string(), z.number()) });
    const narrow = { ...sampleApp, State } as unknown as App;
    const after = await opened(narrow, before);
    const use = (name: string, args: object = {}) =>
      after.call(name, { session: ada.session, ...args }, ada.token);

    const stored = await rowOf(before);
    for (const name of ["begin_session", "user_get_state", "user_write", "user_undo"]) {
      const { text } = (await use(name)).content[0]!;
      expect(text).toStartWith("The Notebook can't continue right now.");
      expect(after.log.at(-1)).toMatchObject({ tool: name, outcome: "failed" });
      expect(after.log.at(-1)!.error).toBe("what is stored is not what State takes now");
    }
    expect(await rowOf(before)).toEqual(stored!);
    const { confirm } = (await use("user_forget_me")).structuredContent!;
    expect((await use("user_forget_me", { confirm })).structuredContent!.forgotten).toBe(true);
    expect((await after.enter("ada")).session).toBeString();
  });
});

// ---- Turns ----

describe("A person's changes", () => {
  const later = () => Promise.withResolvers<string>();

  test("take turns, in the order they came; another person's don't wait", async () => {
    const inTurn = queueByPerson();
    const [first, second] = [later(), later()];
    const seen: string[] = [];
    const work = (name: string, promise: Promise<string>) => async () => {
      seen.push(`${name} begins`);
      return promise.finally(() => seen.push(`${name} ends`));
    };
    const all = [
      inTurn("ada", work("first", first.promise)),
      inTurn("ada", work("second", second.promise)),
      inTurn("ben", work("ben's", Promise.resolve("c"))),
    ];
    second.resolve("b");
    expect(await all[2]!).toBe("c");
    expect(seen).toEqual(["first begins", "ben's begins", "ben's ends"]);
    first.resolve("a");
    expect(await Promise.all(all)).toEqual(["a", "b", "c"]);
    expect(seen.slice(3)).toEqual(["first ends", "second begins", "second ends"]);
  });

  test("wait for each that came before, not for the first alone", async () => {
    const inTurn = queueByPerson();
    const [first, second] = [later(), later()];
    const turns = [first, second].map(({ promise }) => inTurn("ada", () => promise));
    first.resolve("a");
    await turns[0]!;
    let begun = false;
    const third = inTurn("ada", async () => (begun = true));
    await Bun.sleep(1);
    expect(begun).toBe(false);
    second.resolve("b");
    await third;
    expect(begun).toBe(true);
  });

  test("go on after one that fails, and the failure is its caller's alone", async () => {
    const inTurn = queueByPerson();
    const failing = inTurn("ada", () => Promise.reject(new Error("no")));
    const next = inTurn("ada", async () => "yes");
    await expect(failing).rejects.toThrow("no");
    expect(await next).toBe("yes");
  });

  test("leave nothing behind once they are done", async () => {
    const inTurn = queueByPerson();
    const results: WeakRef<object>[] = [];
    for (let n = 0; n < 200; n++) {
      const result = await inTurn(`person ${n}`, async () => ({ n }));
      results.push(new WeakRef(result));
    }
    await Bun.sleep(5);
    Bun.gc(true);
    const held = results.filter((result) => result.deref() !== undefined).length;
    expect(held).toBeLessThan(20); // a collector may keep a few; the queue would keep all
    await inTurn("ada", async () => 0); // the queue is still in use
  });

  test("made at the same moment are all kept, each with its receipt", async () => {
    const { at, write } = await visit();
    const names = Array.from({ length: 20 }, (_, n) => `n${n}`);
    await Promise.all([...names, ...names].map((name, n) => write({ notes: { [name]: `${n}` } })));
    const { state, receipts } = (await rowOf(at))!;
    expect(Object.keys((state as Notebook).notes).sort()).toEqual(names.toSorted());
    const kept = receipts.map(({ changes }: Receipt) => Number(changes[0]!.after));
    expect(kept.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 40 }, (_, n) => n));
  });
});

test("a tool that writes into the state it was given is kept, with its receipt", async () => {
  const scribble = tool({
    ...sampleApp.tools.user_seal!,
    undoable: true,
    input: {},
    output: { state: sampleApp.State },
    run: async (_, { memory }: ToolContext<Notebook>) => ({
      state: await memory.change((state) => {
        state.notes.wall = "scribbled";
        return state;
      }),
    }),
  });
  const at = await gateway({ app: { ...sampleApp, tools: { user_scribble: scribble } } });
  const { use } = await at.enter();
  await use("user_scribble");
  expect((await use("user_get_state")).structuredContent!.state.notes).toEqual({ wall: "scribbled" });
  expect((await use("user_undo")).structuredContent!.state.notes).toEqual({});
});

describe("What one person alone may have", () => {
  // The name of a note is one person's, of all people.
  const app = { ...sampleApp, reserves: ({ notes }: Notebook) => Object.keys(notes) };
  const textOf = ({ content }: ToolResult) => content[0]!.text;
  const TAKEN =
    "Somebody else has that by now, so nothing was changed. Something else may be free.";

  test("is refused to the next in words, with nothing else of their change kept", async () => {
    const { enter, log } = await gateway({ app });
    const [ada, ben] = [await enter("ada"), await enter("ben")];
    await ada.use("user_write", { notes: { noon: "mine" } });
    const refused = await ben.use("user_write", { mood: "late", notes: { noon: "mine", one: "" } });
    expect(textOf(refused)).toBe(TAKEN);
    expect(log.at(-1)).toMatchObject({ sub: "ben", outcome: "refused", why: "taken" });
    expect((await ben.use("user_get_state")).structuredContent!.state).toEqual(sampleApp.empty);
    expect((await ben.use("user_list_actions")).structuredContent!.actions).toEqual([]);
  });
  test("is free again after an undo, a removal and an erasing, and not to be had back while taken",
    async () => {
    const { enter } = await gateway({ app });
    const [ada, ben] = [await enter("ada"), await enter("ben")];
    const take = ({ use }: typeof ada) => use("user_write", { notes: { noon: "mine" } });
    await take(ada);
    await ada.use("user_undo");
    expect((await take(ben)).isError).toBeUndefined();
    await ben.use("user_write", { notes: { noon: null } });
    await take(ada);
    expect(textOf(await ben.use("user_undo"))).toBe(TAKEN); // of its removal
    const { confirm } = (await ada.use("user_forget_me")).structuredContent!;
    await ada.use("user_forget_me", { confirm });
    expect((await ben.use("user_undo")).isError).toBeUndefined();
  });
  test("is reserved at the next change, if it was kept before the app reserved", async () => {
    const store = await sqliteStore(":memory:");
    const before = await gateway({ store });
    const take = { notes: { noon: "mine" } };
    for (const who of ["ada", "ben"]) await (await before.enter(who)).use("user_write", take);
    const { enter } = await gateway({ app, store });
    const [ada, ben] = [await enter("ada"), await enter("ben")];
    expect((await ada.use("user_write", { mood: "calm" })).isError).toBeUndefined();
    expect(textOf(await ben.use("user_write", { mood: "calm" }))).toBe(TAKEN);
    const without = await ben.use("user_write", { mood: "calm", notes: { noon: null } });
    expect(without.isError).toBeUndefined();
  });
  test.each([["empty", ""], ["of 201 characters", "n".repeat(201)], ["a control character", "\t"]])(
    "has no name that is %s: that is the app's mistake, and nothing is kept", async (_, name) => {
    const reserves = () => [name];
    const { enter, log } = await gateway({ app: { ...sampleApp, reserves } });
    const { use } = await enter();
    const failed = await use("user_write", { mood: "calm" });
    expect(textOf(failed)).toContain("can't continue right now");
    expect(log.at(-1)!.error).toStartWith("reserves gave a name that is empty, not plain");
    expect((await use("user_get_state")).structuredContent!.state).toEqual(sampleApp.empty);
  });
});
