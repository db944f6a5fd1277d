// A careless model: any tool, in any order, with any session, for two people at once. After every step the database holds
// what a much simpler model in memory says it should, and nobody has seen a byte of what the other one saved.
//
//   PROPERTY_RUNS=2000 bun test test/properties.test.ts        longer; a failure prints the seed and the shortest sequence
//   PROPERTY_SEED=… bun test test/properties.test.ts           the same sequences again

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { desk, ISSUER, mint, type Place, postgresPlace, postgresServer, type PostgresServer, sqlitePlace, type ToolResult } from "./support.ts";

const RUNS = Number(process.env.PROPERTY_RUNS ?? 60);
const SEED = process.env.PROPERTY_SEED ? Number(process.env.PROPERTY_SEED) : undefined;
let server: PostgresServer;
beforeAll(async () => void (server = await postgresServer()), 60_000);
afterAll(() => server.stop());

// ---- The model: what a shelf is, told once more and in another way ----

type Open = { id: string; position: string } | null;
interface Saving { reading?: Open; shelf?: Record<string, string | null> }
/** One cell of what is remembered ("reading", or the id of an article) and what a step made of it. */
interface Step { cell: string; from: string | null; to: string | null }
interface Receipt { tool: "user_save_state" | "user_undo"; steps: Step[]; undone: boolean; id?: string }

class Reader {
  known = false;
  cells = new Map<string, string>(); // the value of each cell, as JSON
  receipts: Receipt[] = []; // oldest first

  copy(): Reader {
    const other = new Reader();
    other.known = this.known;
    other.cells = new Map(this.cells);
    other.receipts = this.receipts.map((receipt) => ({ ...receipt }));
    return other;
  }
  state() {
    const shelf = [...this.cells].filter(([cell]) => cell !== "reading").map(([cell, value]): [string, string] => [cell, JSON.parse(value)]);
    return { reading: JSON.parse(this.cells.get("reading") ?? "null") as Open, shelf: Object.fromEntries(shelf) };
  }
  private apply(tool: Receipt["tool"], wanted: [cell: string, value: string | null][]) {
    const steps = wanted.map(([cell, to]): Step => ({ cell, from: this.cells.get(cell) ?? null, to })).filter(({ from, to }) => from !== to);
    for (const { cell, to } of steps) to === null ? this.cells.delete(cell) : this.cells.set(cell, to);
    if (steps.length > 0) this.receipts.push({ tool, steps, undone: false });
    this.known ||= steps.length > 0;
  }
  save({ reading, shelf = {} }: Saving) {
    const json = (value: Open | string) => (value === null ? null : JSON.stringify(typeof value === "string" ? value : { id: value.id, position: value.position }));
    this.apply("user_save_state", [...(reading === undefined ? [] : [["reading", json(reading)] as [string, string | null]]), ...Object.entries(shelf).map(([cell, value]): [string, string | null] => [cell, json(value)])]);
  }
  /** What an undo should come to: the receipt that is taken back, or why not. */
  undo(id: string | undefined): Receipt | "no such" | "overlap" {
    const standing = this.receipts.filter(({ tool, undone }) => tool === "user_save_state" && !undone);
    const target = id === undefined ? standing.at(-1) : standing.find((receipt) => receipt.id === id);
    if (!target) return "no such";
    const later = standing.slice(standing.indexOf(target) + 1).flatMap(({ steps }) => steps.map(({ cell }) => cell));
    if (target.steps.some(({ cell }) => later.includes(cell))) return "overlap";
    target.undone = true;
    this.apply("user_undo", target.steps.map(({ cell, from }) => [cell, from]));
    return target;
  }
  forget() {
    Object.assign(this, new Reader());
  }
}

// ---- What a careless model does ----

const PEOPLE = ["anna", "ben"] as const;
const canary = (who: number) => `canary-of-${PEOPLE[who]}-7f3a`;
type Which = "newest" | "own" | "undone" | "theirs" | "made up";
type Session = "right" | "none" | "theirs" | "made up" | "the code";
type Command =
  | { does: "save"; who: number; session: Session; patch: Saving }
  | { does: "save badly"; who: number; args: object }
  | { does: "undo"; who: number; session: Session; which: Which; pick: number }
  | { does: "ask to forget"; who: number; session: Session }
  | { does: "forget"; who: number; session: Session; code: "the last" | "theirs" | "the session" | "made up" }
  | { does: "at once"; saves: { who: number; patch: Saving }[] }
  | { does: "call"; who: number; session: Session; name: string; args: object };

const who = fc.nat({ max: 1 });
const session = fc.oneof({ weight: 12, arbitrary: fc.constant<Session>("right") }, { weight: 1, arbitrary: fc.constantFrom<Session>("none", "theirs", "made up", "the code") });
const article = fc.constantFrom("a1", "a2", "a3", "a4");
const words = fc.oneof(fc.constantFrom("", "x", "the second line", "it's \"here\" \\ %_ {}", "ünï 🙂"), fc.string({ unit: "grapheme", maxLength: 30 }).map((text) => text.replaceAll("\0", "")));
const patch: fc.Arbitrary<Saving> = fc.record({
  reading: fc.option(fc.record({ id: article, position: words }), { freq: 3 }),
  shelf: fc.dictionary(article, fc.option(words, { freq: 3 }), { maxKeys: 3, noNullPrototype: true }),
}, { requiredKeys: [] });
const bad = fc.constantFrom<object>({ shelf: { a99: "x" } }, { reading: { id: "nowhere", position: "x" } }, { shelf: { a1: "x".repeat(281) } }, { shelf: { a1: "\0" } }, { shelf: { a1: "\ud83d" } },
  { shelf: { a1: 5 } }, { shelf: "a1" }, { reading: "a1" }, { reading: { id: "a1" } }, { reading: null, nonsense: true }, { shelf: { a1: "good", a99: "bad" } });
/** For the tools that the model above has no opinion about; a tool that is added is called with nothing, and with nonsense. */
const argumentsOf: Record<string, fc.Arbitrary<object>> = {
  domain_list_articles: fc.record({ topic: fc.constantFrom("history", "food", "nothing") }, { requiredKeys: [] }),
  domain_search_articles: fc.record({ query: fc.oneof(words, fc.constantFrom("bread", canary(0), canary(1))) }),
  domain_get_article: fc.record({ id: fc.oneof(article, words) }),
  user_list_actions: fc.record({ limit: fc.oneof(fc.integer({ min: 1, max: 100 }), fc.constantFrom<unknown>(0, 101, "x")) }, { requiredKeys: [] }),
};
const handled = ["user_save_state", "user_undo", "user_forget_me"];
const listed = ((await (await desk()).rpc("tools/list", {}, await mint())).body.result.tools as { name: string }[]).map(({ name }) => name);
const others = listed.filter((name) => !handled.includes(name));
const call = fc.constantFrom(...others).chain((name) => fc.record({
  does: fc.constant("call" as const), who, session, name: fc.constant(name),
  args: fc.oneof({ weight: 5, arbitrary: argumentsOf[name] ?? fc.constant({}) }, { weight: 1, arbitrary: fc.constantFrom<object>({ nonsense: 1 }, { sub: "anna" }, { user_id: `${ISSUER}|anna` }) }),
}));
const command: fc.Arbitrary<Command> = fc.oneof(
  { weight: 9, arbitrary: fc.record({ does: fc.constant("save" as const), who, session, patch }) },
  { weight: 1, arbitrary: fc.record({ does: fc.constant("save badly" as const), who, args: bad }) },
  { weight: 7, arbitrary: fc.record({ does: fc.constant("undo" as const), who, session, which: fc.constantFrom<Which>("newest", "newest", "own", "own", "undone", "theirs", "made up"), pick: fc.nat({ max: 30 }) }) },
  { weight: 1, arbitrary: fc.record({ does: fc.constant("ask to forget" as const), who, session }) },
  { weight: 1, arbitrary: fc.record({ does: fc.constant("forget" as const), who, session, code: fc.constantFrom("the last" as const, "the last" as const, "the last" as const, "theirs" as const, "the session" as const, "made up" as const) }) },
  { weight: 2, arbitrary: fc.record({ does: fc.constant("at once" as const), saves: fc.array(fc.record({ who, patch }), { minLength: 2, maxLength: 3 }) }) },
  { weight: 5, arbitrary: call },
);
const permutations = <T>(list: T[]): T[][] => (list.length < 2 ? [list] : list.flatMap((first, index) => permutations(list.toSpliced(index, 1)).map((rest) => [first, ...rest])));

describe.each(["sqlite", "postgres"] as const)("on %s", (kind) => {
  let place: Place;
  let room: Awaited<ReturnType<typeof desk>>;
  let people: { id: string; token: string; session: string }[];
  beforeAll(async () => {
    place = kind === "sqlite" ? await sqlitePlace() : await postgresPlace(server);
    room = await desk({ store: await place.store(), env: { RATE_LIMIT_PER_MINUTE: "1000000" } });
    people = await Promise.all(PEOPLE.map(async (sub, who) => {
      const { token, session } = await room.enter(sub, { email: `${canary(who)}@example.com`, exp: Math.floor(Date.now() / 1000) + 24 * 3600 });
      return { id: `${ISSUER}|${sub}`, token, session };
    }));
  }, 30_000);
  afterAll(async () => {
    await room.store.close();
    await place.close();
  });

  const parsed = (value: unknown) => (typeof value === "string" ? JSON.parse(value) : value);
  /** What the database holds about somebody, in the model's terms. */
  async function stored(who: number) {
    const is = `= '${people[who]!.id}'`;
    const [users, states, actions] = await Promise.all([
      place.rows(`select id from users where id ${is}`),
      place.rows<{ state: unknown }>(`select state from user_state where user_id ${is}`),
      place.rows<{ id: string; tool: string; change: unknown; inverse: unknown; undone: unknown }>(`select id, tool, change, inverse, undone from actions where user_id ${is} order by seq`),
    ]);
    return {
      known: users.length,
      state: states.length === 0 ? { reading: null, shelf: {} } : parsed(states[0]!.state),
      actions: actions.map(({ tool, change, inverse, undone }) => ({ tool, undone: Boolean(undone), change: parsed(change), inverse: parsed(inverse) })),
      ids: actions.map(({ id }) => id),
    };
  }
  /** The same, of the model. */
  function expected(reader: Reader) {
    const side = (steps: Step[], end: "from" | "to") => {
      const value = (json: string | null) => (json === null ? null : JSON.parse(json));
      const shelf = steps.filter(({ cell }) => cell !== "reading").map((step) => [step.cell, value(step[end])]);
      const reading = steps.find(({ cell }) => cell === "reading");
      return { ...(reading && { reading: value(reading[end]) }), ...(shelf.length > 0 && { shelf: Object.fromEntries(shelf) }) };
    };
    return { state: reader.state(), actions: reader.receipts.map(({ tool, undone, steps }) => ({ tool, undone, change: side(steps, "to"), inverse: side(steps, "from") })) };
  }

  let commands = 0;
  const called = new Map<string, number>();
  async function play(sequence: Command[]) {
    await place.rows("delete from users");
    const models = [new Reader(), new Reader()];
    const codes: ({ code: string; marks: number } | undefined)[] = [undefined, undefined];
    const changes = [0, 0]; // how often each one's records changed
    const marks = ["0 0", "0 0"];
    room.log.length = 0;

    const send = async (who: number, name: string, args: object, key: Session = "right"): Promise<ToolResult> => {
      const [me, them] = [people[who]!, people[1 - who]!];
      const sessions: Record<Session, object> = {
        right: { session: me.session }, none: {}, theirs: { session: them.session }, "made up": { session: "A".repeat(24) }, "the code": { session: codes[who]?.code ?? "" },
      };
      commands++;
      called.set(name, (called.get(name) ?? 0) + 1);
      const open = name === "begin_session" || name === "health";
      const { status, body } = await room.rpc("tools/call", { name, arguments: { ...(!open && sessions[key]), ...args } }, me.token);
      expect(status).toBe(200);
      expect(JSON.stringify(body)).not.toContain(canary(1 - who));
      const result = body.result as ToolResult;
      const text = result.content[0]!.text;
      expect(text).not.toStartWith("The Reading Room can't continue");
      if (result.isError) expect(result.structuredContent).toBeUndefined();
      if (!open && key !== "right") expect(text).toStartWith("No valid session.");
      return result;
    };
    const own = (who: number, patch: Saving): Saving => ({ // whatever anybody saves, they put their mark in it
      ...(patch.reading !== undefined && { reading: patch.reading && { ...patch.reading, position: `${canary(who)} ${patch.reading.position}` } }),
      ...(patch.shelf && { shelf: Object.fromEntries(Object.entries(patch.shelf).map(([id, position]) => [id, position === null ? null : `${canary(who)} ${position}`])) }),
    });

    for (const step of sequence) {
      switch (step.does) {
        case "save": {
          const patch = own(step.who, step.patch);
          const result = await send(step.who, "user_save_state", patch, step.session);
          if (step.session !== "right") break;
          models[step.who]!.save(patch);
          expect(result.structuredContent?.state).toEqual(models[step.who]!.state());
          break;
        }
        case "save badly":
          expect((await send(step.who, "user_save_state", step.args)).isError).toBe(true);
          break;
        case "undo": {
          const model = models[step.who]!;
          const from = { newest: [], own: model.receipts.filter(({ tool }) => tool === "user_save_state"), undone: model.receipts.filter(({ undone, tool }) => undone || tool === "user_undo"), theirs: models[1 - step.who]!.receipts, "made up": [] }[step.which];
          const id = step.which === "newest" ? undefined : from[step.pick % (from.length || 1)]?.id ?? "AAAAAAAA";
          const result = await send(step.who, "user_undo", id === undefined ? {} : { action_id: id }, step.session);
          if (step.session !== "right") break;
          const outcome = model.undo(id);
          if (typeof outcome === "string") expect(result.content[0]!.text).toMatch({ "no such": /no such action/, overlap: /later/ }[outcome]);
          else expect([result.structuredContent?.undone, result.structuredContent?.state]).toEqual([outcome.id, model.state()]);
          break;
        }
        case "ask to forget": {
          const result = await send(step.who, "user_forget_me", {}, step.session);
          if (step.session === "right") codes[step.who] = { code: result.structuredContent!.confirm, marks: changes[step.who]! };
          break;
        }
        case "forget": {
          const mine = codes[step.who];
          const confirm = { "the last": mine?.code, theirs: codes[1 - step.who]?.code, "the session": people[step.who]!.session, "made up": "A".repeat(24) }[step.code] ?? "nothing";
          const result = await send(step.who, "user_forget_me", { confirm }, step.session);
          if (step.session !== "right") break;
          const good = step.code === "the last" && mine !== undefined && mine.marks === changes[step.who];
          if (models[step.who]!.known || !good) expect(result.structuredContent?.forgotten ?? false).toBe(good); // of nobody there is nothing to erase
          if (good) models[step.who]!.forget(), (codes[step.who] = undefined);
          break;
        }
        case "at once": {
          const saves = step.saves.map(({ who, patch }) => ({ who, patch: own(who, patch) }));
          const results = await Promise.all(saves.map(({ who, patch }) => send(who, "user_save_state", patch)));
          const answers = results.map(({ structuredContent }) => JSON.stringify(structuredContent?.state, (_, value) => (value?.constructor === Object ? Object.fromEntries(Object.entries(value).sort()) : value)));
          const after = await Promise.all([stored(0), stored(1)]);
          // One after the other, in some order: the one that explains the answers and the receipts.
          const order = permutations(saves.map((_, index) => index)).find((order) => {
            const tried = models.map((model) => model.copy());
            const told = order.every((index) => {
              tried[saves[index]!.who]!.save(saves[index]!.patch);
              const { reading, shelf } = tried[saves[index]!.who]!.state();
              return answers[index] === JSON.stringify({ reading: reading && { id: reading.id, position: reading.position }, shelf: Object.fromEntries(Object.entries(shelf).sort()) });
            });
            return told && tried.every((model, who) => Bun.deepEquals(expected(model), { state: after[who]!.state, actions: after[who]!.actions }));
          });
          if (!order) throw new Error(`no order of these saves explains what came of them: ${JSON.stringify({ saves, answers, after })}`);
          for (const index of order) models[saves[index]!.who]!.save(saves[index]!.patch);
          break;
        }
        case "call": {
          const result = await send(step.who, step.name, step.args, step.session);
          const model = models[step.who]!;
          if (["begin_session", "user_get_profile"].includes(step.name) && !result.isError) model.known = true;
          const { state, actions } = result.structuredContent ?? {};
          if (state) expect(state).toEqual(model.state());
          if (actions) {
            const limit = (step.args as { limit?: number }).limit ?? 20;
            expect(actions.map(({ id, tool, undone }: { id: string; tool: string; undone: boolean }) => ({ id, tool, undone }))).toEqual(model.receipts.toReversed().slice(0, limit).map(({ id, tool, undone }) => ({ id: id!, tool, undone })));
          }
        }
      }
      for (const [who, model] of models.entries()) {
        const { known, ids, ...rest } = await stored(who);
        expect(rest).toEqual(expected(model));
        if (model.known) expect(known).toBe(1);
        model.known = known === 1; // a save that changes nothing may make somebody known
        const mark = `${known} ${ids.length}`; // who becomes known, and each receipt, makes it another state
        if (mark !== marks[who]) changes[who]!++;
        marks[who] = mark;
        model.receipts.forEach((receipt, index) => (receipt.id ??= ids[index]!));
        expect(model.receipts.map(({ id }) => id!)).toEqual(ids);
      }
    }
    expect(JSON.stringify(room.log)).not.toContain("canary");
  }

  test(`a careless model can do nothing that the rules don't say, and sees nothing of anybody else's (${RUNS} sequences)`, async () => {
    const started = performance.now();
    await fc.assert(fc.asyncProperty(fc.array(command, { minLength: 10, maxLength: 40, size: "max" }), play), { numRuns: RUNS, ...(SEED !== undefined && { seed: SEED }) });
    console.log(`${kind}: ${RUNS} sequences, ${commands} calls in ${Math.round(performance.now() - started)} ms`);
    expect([...called.keys()].sort()).toEqual([...listed].sort());
  }, 3_600_000);
});
