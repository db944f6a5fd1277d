// Two people do anything, in any order and at once. After every step the store holds what a much
// simpler model in memory says it should, and nobody has seen a byte of the other's.
//
//   RUNS=2000 bun test ./test/proof/properties.proof.ts   longer; a failure prints seed and steps
//   SEED=… bun test ./test/proof/properties.proof.ts      the same again

import { beforeAll, describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { ChangedUnit } from "../../main.ts";
import {
  gateway, type Place, postgresIsHere, postgresPlace, type PostgresServer, postgresServer,
  sqlitePlace, type ToolResult,
} from "../support.ts";
import type { Notebook } from "../sample-app.ts";

const RUNS = Number(process.env.RUNS ?? 40);
const SEED = process.env.SEED ? { seed: Number(process.env.SEED) } : {};
let server: PostgresServer;
beforeAll(async () => { if (postgresIsHere) server = await postgresServer(); }, 60_000);

// ---- The model: what a notebook is, told once more and in another way ----

interface Patch { mood?: string | null; notes?: Record<string, string | null> }
/** "mood", or "note NAME": what it was and became. `null`: it was not there. */
interface Step { cell: string; from: string | null; to: string | null }
interface Made { id: string; isUndo: boolean; isFinal: boolean; undone: boolean; steps: Step[] }

class Model {
  cells = new Map<string, string>();
  made: Made[] = []; // oldest first
  version = 0; // of what a forget code is about
  code?: { code: string; version: number } | undefined;

  state(): Notebook {
    const notes = [...this.cells].filter(([cell]) => cell !== "mood")
      .map(([cell, text]) => [cell.slice("note ".length), text]);
    return { mood: this.cells.get("mood") ?? null, notes: Object.fromEntries(notes) };
  }
  private apply(wanted: [cell: string, to: string | null][], kind: Partial<Made> = {}): void {
    const steps = wanted.map(([cell, to]) => ({ cell, from: this.cells.get(cell) ?? null, to }))
      .filter(({ from, to }) => from !== to);
    for (const { cell, to } of steps) {
      if (to === null) this.cells.delete(cell);
      else this.cells.set(cell, to);
    }
    if (steps.length === 0) return;
    this.made.push({ id: "", isUndo: false, isFinal: false, undone: false, steps, ...kind });
    this.version++;
  }
  write({ mood, notes = {} }: Patch, kind: Partial<Made> = {}): void {
    const wanted: [string, string | null][] = mood === undefined ? [] : [["mood", mood]];
    for (const [name, text] of Object.entries(notes)) wanted.push([`note ${name}`, text]);
    this.apply(wanted, kind);
  }
  /** What is taken back, or which words say why not. */
  undo(id: string | undefined): Made | RegExp {
    const canBe = ({ isUndo, isFinal, undone }: Made) => !isUndo && !isFinal && !undone;
    const target = id === undefined
      ? this.made.findLast(({ isUndo, undone }) => !isUndo && !undone)
      : this.made.find((one) => one.id === id);
    if (!target || target.undone) return /no such action/;
    if (!canBe(target)) return /can't be undone/;
    const later = this.made.slice(this.made.indexOf(target) + 1)
      .filter(({ isUndo, undone }) => !isUndo && !undone);
    const touched = later.flatMap(({ steps }) => steps.map(({ cell }) => cell));
    const isCovered = target.steps.some(({ cell }) => touched.includes(cell));
    if (isCovered) return /while a later change to the same thing stands/;
    target.undone = true;
    this.apply(target.steps.map(({ cell, from }) => [cell, from]), { isUndo: true });
    return target;
  }
  forget(): void {
    this.cells.clear();
    this.made = [];
    this.version++;
    this.code = undefined;
  }
}
const stepOf = ({ key, entry, before, after }: ChangedUnit): Step => ({
  cell: entry === undefined ? key : `note ${entry}`,
  from: (before ?? null) as string | null,
  to: (after ?? null) as string | null,
});

// ---- What they do ----

type Which = "newest" | "any of mine" | "theirs" | "made up";
type Code = "mine" | "theirs" | "made up";
type Command =
  | { does: "write"; who: number; patch: Patch }
  | { does: "seal"; who: number; name: string }
  | { does: "undo"; who: number; which: Which; pick: number }
  | { does: "ask to forget"; who: number }
  | { does: "forget"; who: number; code: Code }
  | { does: "all at once"; writes: { who: number; name: string; text: string }[] };

const who = fc.nat({ max: 1 });
const name = fc.constantFrom("a", "b", "constructor", "__x", "🕯");
const text = fc.oneof(fc.constantFrom("", "x", `she said: "it's \\ here" %_ {}`),
  fc.string({ unit: "grapheme", maxLength: 20 }).map((text) => text.replaceAll("\0", "")));
const patch: fc.Arbitrary<Patch> = fc.record({
  mood: fc.option(text, { freq: 3 }),
  notes: fc.dictionary(name, fc.option(text, { freq: 3 }), { maxKeys: 3, noNullPrototype: true }),
}, { requiredKeys: [] });
const which = fc.constantFrom<Which>("newest", "newest", "any of mine", "any of mine", "theirs",
  "made up");
const code = fc.constantFrom<Code>("mine", "mine", "theirs", "made up");
const pick = fc.nat({ max: 30 });
const does = <T extends string>(what: T) => fc.constant(what);
const command: fc.Arbitrary<Command> = fc.oneof(
  { weight: 9, arbitrary: fc.record({ does: does("write"), who, patch }) },
  { weight: 1, arbitrary: fc.record({ does: does("seal"), who, name }) },
  { weight: 7, arbitrary: fc.record({ does: does("undo"), who, which, pick }) },
  { weight: 1, arbitrary: fc.record({ does: does("ask to forget"), who }) },
  { weight: 1, arbitrary: fc.record({ does: does("forget"), who, code }) },
  { weight: 2, arbitrary: fc.record({
    does: does("all at once"),
    writes: fc.uniqueArray(fc.record({ who, name, text }), {
      minLength: 2, maxLength: 6, selector: ({ who, name }) => `${who} ${name}`,
    }),
  }) },
);

// ---- The play ----

const mark = (who: number) => `mark-of-${who}`;
/** Whatever anybody writes, they put their mark in it. */
const marked = (who: number, text: string | null) => text === null ? null : `${mark(who)} ${text}`;
const markedPatch = (who: number, { mood, notes }: Patch): Patch => ({
  ...(mood !== undefined && { mood: marked(who, mood)?.slice(0, 40).toWellFormed() ?? null }),
  ...(notes && { notes: Object.fromEntries(Object.entries(notes).map(([name, text]) =>
    [name, marked(who, text)])) }),
});

const kinds = [
  { kind: "sqlite", place: sqlitePlace },
  { kind: "postgres", place: () => postgresPlace(server) },
];
describe.each(kinds)("On $kind", ({ kind, place: newPlace }) => {
  if (kind === "postgres" && !postgresIsHere) {
    return test.skip("NOT TESTED: PostgreSQL's binaries are not installed", () => {});
  }
  let calls = 0;

  async function play(place: Place, at: Awaited<ReturnType<typeof gateway>>, commands: Command[]) {
    await place.rows("delete from user_state");
    await place.rows("delete from users");
    const models = [new Model(), new Model()] as const;
    const people = [await at.enter("anna"), await at.enter("ben")] as const;
    const ids = ["local|anna", "local|ben"] as const;

    const use = async (who: number, tool: string, args: object = {}): Promise<ToolResult> => {
      calls++;
      const result = await people[who]!.use(tool, args);
      expect(JSON.stringify(result)).not.toContain(mark(1 - who));
      expect(result.content[0]!.text).not.toContain("can't continue");
      return result;
    };
    const compare = async () => {
      for (const [who, model] of models.entries()) {
        const { structuredContent } = await use(who, "user_get_state");
        expect(structuredContent!.state).toEqual(model.state());
        const receipts = (await at.store.read(ids[who]!))?.receipts ?? [];
        const byCell = ({ cell: a }: Step, { cell: b }: Step) => (a < b ? -1 : 1);
        const stored = receipts.toReversed().map(({ tool, undone, changes }) => ({
          isUndo: tool === "user_undo", undone, steps: changes.map(stepOf).sort(byCell),
        }));
        const modelled = model.made.map(({ isUndo, undone, steps }) =>
          ({ isUndo, undone, steps: steps.toSorted(byCell) }));
        expect(stored).toEqual(modelled);
        model.made.forEach((one, index) => { one.id = receipts.at(-1 - index)!.id; });
      }
    };

    for (const step of commands) {
      switch (step.does) {
        case "write": {
          const patch = markedPatch(step.who, step.patch);
          models[step.who]!.write(patch);
          await use(step.who, "user_write", patch);
          break;
        }
        case "seal":
          models[step.who]!.write({ notes: { [step.name]: "sealed" } }, { isFinal: true });
          await use(step.who, "user_seal", { name: step.name });
          break;
        case "undo": {
          const from = models[step.which === "theirs" ? 1 - step.who : step.who]!.made;
          const named = from[step.pick % (from.length || 1)]?.id ?? "AAAAAAAA";
          const id = step.which === "made up" ? "AAAAAAAA" : named;
          const args = step.which === "newest" ? {} : { action_id: id };
          const expected = models[step.who]!.undo(args.action_id);
          const { structuredContent, content } = await use(step.who, "user_undo", args);
          if (expected instanceof RegExp) expect(content[0]!.text).toMatch(expected);
          else expect(structuredContent!.undone).toBe(expected.id);
          break;
        }
        case "ask to forget": {
          const { structuredContent } = await use(step.who, "user_forget_me");
          const { version } = models[step.who]!;
          models[step.who]!.code = { code: structuredContent!.confirm, version };
          break;
        }
        case "forget": {
          const [mine, theirs] = [models[step.who]!, models[1 - step.who]!];
          const known = { mine: mine.code, theirs: theirs.code, "made up": undefined }[step.code];
          const confirm = known?.code ?? "A".repeat(18);
          const { structuredContent } = await use(step.who, "user_forget_me", { confirm });
          const isGood = step.code === "mine" && mine.code?.version === mine.version;
          expect(structuredContent?.forgotten ?? false).toBe(isGood);
          if (!isGood) break;
          mine.forget();
          await at.enter(["anna", "ben"][step.who]!); // and comes back
          break;
        }
        case "all at once": { // of different things: so any order comes to the same state
          const results = await Promise.all(step.writes.map(({ who, name, text }) =>
            use(who, "user_write", { notes: { [name]: marked(who, text) } })));
          expect(results.filter(({ isError }) => isError)).toEqual([]);
          for (const [who, model] of models.entries()) { // in the order that it happened
            const { receipts } = (await at.store.read(ids[who]!))!;
            const happened = receipts.slice(0, receipts.length - model.made.length).toReversed();
            const order = happened.map(({ changes }) => changes[0]!.entry!);
            const mine = step.writes.filter((write) => write.who === who);
            mine.sort((a, b) => order.indexOf(a.name) - order.indexOf(b.name));
            for (const { name, text } of mine) {
              model.write({ notes: { [name]: marked(who, text) } });
            }
          }
        }
      }
      await compare();
    }
    expect(JSON.stringify(at.log)).not.toContain("mark-of-");
    at.log.length = 0;
  }

  test(`whatever two people do, each has what they should, and nobody else's (${RUNS} sequences)`,
    async () => {
    const place = await newPlace();
    const store = await place.store();
    const at = await gateway({ store, env: { RATE_LIMIT_PER_MINUTE: "1000000" } });
    const started = performance.now();
    const sequences = fc.array(command, { minLength: 5, maxLength: 30, size: "max" });
    const property = fc.asyncProperty(sequences, (commands) => play(place, at, commands));
    await fc.assert(property, { numRuns: RUNS, ...SEED });
    const ms = Math.round(performance.now() - started);
    console.log(`${kind}: ${RUNS} sequences, ${calls} calls, ${ms} ms`);
    await store.close();
    await place.close();
  }, 3_600_000);
});
