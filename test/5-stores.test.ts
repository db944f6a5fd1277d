// What the stores promise, checked on both: SQLite, and a real PostgreSQL. TEST_DATABASE_URL names one of your own.

import { Database } from "bun:sqlite";
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, spyOn, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { chmod, chown } from "node:fs/promises";
import { dirname, join } from "node:path";
import postgres from "postgres";
import { type Action, merge, type Patch, postgresStore, Refusal, type State, type Store, sqliteStore } from "../main.ts";
import { busyWriter, desk, type PostgresServer, postgresServer, save, scratch } from "./support.ts";

setDefaultTimeout(30_000); // the first PostgreSQL server of a run is unpacked and initialised

let server: PostgresServer;
beforeAll(async () => { server = await postgresServer(); });
afterAll(() => server.stop());

/** A person nobody has met: a database that was named in TEST_DATABASE_URL may hold others. */
const somebody = () => `https://sign-in.example|${crypto.randomUUID()}`;
const nothing: State = { reading: null, shelf: {} };
const keys = (count: number, name = "k") => Array.from({ length: count }, (_, index) => `${name}${index}`);
const shelfOf = (names: string[]) => Object.fromEntries(names.map((name) => [name, `page of ${name}`]));
const caught = (work: Promise<unknown>): Promise<unknown> => work.then(() => "no error", (error) => error);

interface Kind { kind: Store["kind"]; place(): Promise<string>; open(place: string): Promise<Store>; emails(place: string, id: string): Promise<unknown[]> }
const kinds: Kind[] = [
  {
    kind: "sqlite",
    place: async () => join(await scratch(), "room.sqlite"),
    open: sqliteStore,
    async emails(place, id) {
      const db = new Database(place);
      const rows = db.query<{ email: string | null }, [string]>("select email from users where id = ?").all(id);
      db.close();
      return rows.map((row) => row.email);
    },
  },
  {
    kind: "postgres",
    place: async () => process.env.TEST_DATABASE_URL ?? (await server.database()),
    open: postgresStore,
    async emails(place, id) {
      const sql = postgres(place, { max: 1 });
      const rows = await sql<{ email: string | null }[]>`select email from users where id = ${id}`;
      await sql.end();
      return rows.map((row) => row.email);
    },
  },
];

describe.each(kinds)("The $kind store", ({ kind, place, open, emails }) => {
  let where: string;
  let store: Store;
  beforeAll(async () => {
    where = await place();
    store = await open(where);
  });
  afterAll(() => store.close());

  test("says what it is, and that it answers", async () => {
    expect(store.kind).toBe(kind);
    expect(await store.ping()).toBeUndefined();
  });

  // ---- Who is known ----

  test("makes a person known once, however often they come", async () => {
    const person = somebody();
    const before = Date.now();
    const first = await store.welcome(person, "ada@example.com");
    expect(first.memberSince).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
    expect(Math.abs(Date.parse(first.memberSince) - before)).toBeLessThan(60_000);
    await Bun.sleep(5); // so that a second "since" would be another
    expect(await store.welcome(person, "ada@example.com")).toEqual(first);
    expect(await emails(where, person)).toEqual(["ada@example.com"]);
  });

  test("keeps the latest e-mail that a person came with, also when it is none", async () => {
    const person = somebody();
    for (const email of ["ada@example.com", "ada@new.example", null, "o'hara@例え.example"]) {
      await store.welcome(person, email);
      expect(await emails(where, person)).toEqual([email]);
    }
  });

  test("greets one person on ten devices at once with one memberSince", async () => {
    const person = somebody();
    const greetings = await Promise.all(keys(10).map(() => store.welcome(person, null)));
    expect(new Set(greetings.map(({ memberSince }) => memberSince)).size).toBe(1);
    expect(await emails(where, person)).toEqual([null]);
  });

  test("finds nothing for somebody who saved nothing, known or not", async () => {
    const person = somebody();
    expect(await store.readState(person)).toEqual(nothing);
    expect((await store.welcome(person, null)).state).toEqual(nothing);
    expect(await store.readState(person)).toEqual(nothing);
  });

  test("keeps a save of somebody it has not met, and greets them with it later", async () => {
    const person = somebody();
    await save(store, person, { shelf: { a1: "the end" } });
    expect((await store.welcome(person, "late@example.com")).state).toEqual({ reading: null, shelf: { a1: "the end" } });
    expect(await emails(where, person)).toEqual(["late@example.com"]);
  });

  // ---- A save is a merge ----

  const reading = { id: "a3", position: "second sentence" };
  const shelf = { a1: "finished", a3: "second sentence" };
  const full: State = { reading, shelf };
  test.each<[string, Patch[], State]>([
    ["an empty save changes nothing, from nothing", [{}], nothing],
    ["an empty save changes nothing of what is there", [full, {}], full],
    ["a save of both keeps both", [full], full],
    ["a save of reading leaves the shelf alone", [full, { reading: { id: "a2", position: "top" } }], { reading: { id: "a2", position: "top" }, shelf }],
    ["a save of one place leaves the others and reading alone", [full, { shelf: { a2: "top" } }], { reading, shelf: { ...shelf, a2: "top" } }],
    ["a place that is saved again is replaced", [full, { shelf: { a1: "the last line" } }], { reading, shelf: { ...shelf, a1: "the last line" } }],
    ["an empty shelf takes nothing off the shelf", [full, { shelf: {} }], full],
    ["reading null closes what is open, and nothing else", [full, { reading: null }], { reading: null, shelf }],
    ["a null takes one article off the shelf, and nothing else", [full, { shelf: { a1: null } }], { reading, shelf: { a3: "second sentence" } }],
    ["one save may put one article on the shelf and take another off", [full, { shelf: { a1: null, a2: "top" } }], { reading, shelf: { a3: "second sentence", a2: "top" } }],
    ["taking off what isn't there is no failure, from nothing", [{ reading: null, shelf: { a9: null } }], nothing],
    ["taking off what isn't there changes nothing of what is there", [full, { shelf: { a9: null } }], full],
    ["the last article can be taken off", [{ shelf: { a1: "x" } }, { shelf: { a1: null } }], nothing],
    ["what was taken off can be put back", [full, { shelf: { a1: null } }, { shelf: { a1: "again" } }], { reading, shelf: { ...shelf, a1: "again" } }],
    ["the same save twice is one entry", [full, full], full],
    ["an empty place is a place", [{ shelf: { a1: "" }, reading: { id: "a1", position: "" } }], { reading: { id: "a1", position: "" }, shelf: { a1: "" } }],
    ["a place may look like null", [{ shelf: { a1: "null" } }], { reading: null, shelf: { a1: "null" } }],
  ])("%s", async (_, patches, expected) => {
    const person = somebody();
    let answer: State | undefined;
    for (const patch of patches) answer = await save(store, person, patch);
    expect(answer).toEqual(expected);
    expect(await store.readState(person)).toEqual(expected);
    expect((await store.welcome(person, null)).state).toEqual(expected);
  });

  test.each([
    ["quotes and backslashes", `she said: "it's \\ here", then \\" and \\u0041`],
    ["SQL", "'); drop table users; -- $1 ? :x"],
    ["accents, composed and not", "Café Zoé, Cafe\u0301 Zoe\u0301"],
    ["emoji and other characters beyond 16 bits", "🕯️ 👩🏽‍🚀 𝒽"],
    ["right-to-left, and spaces that look like none", "עברית\u200f\u00a0\u2028\ufeff"],
    ["control characters other than NUL", "\u0001\t\r\n\u001b\u007f"],
    ["280 characters", "é".repeat(280)],
    ["280 emoji", "🕯".repeat(280)],
    ["JSON", `{"reading":null,"shelf":{}}`],
  ])("gives back %s exactly as saved", async (_, position) => {
    const person = somebody();
    const state = { reading: { id: "a1", position }, shelf: { a1: position } };
    expect(await save(store, person, state)).toEqual(state);
    expect(await store.readState(person)).toEqual(state);
  });

  test.each(["__proto__", "constructor", "toString", "shelf", "reading", "0", "$.a", "a b", `"`, "\\", "'", "🕯", "x".repeat(32)])(
    "takes %j for a name like any other", async (name) => {
      const person = somebody();
      const other = { plain: "kept" };
      await save(store, person, { shelf: other });
      const patch = JSON.parse(`{${JSON.stringify(name)}: "here"}`) as Record<string, string>; // a literal would set the prototype
      const entries = ({ shelf }: State) => Object.entries(shelf).map(String).sort();
      expect(entries(await save(store, person, { shelf: patch }))).toEqual([`${name},here`, "plain,kept"].sort());
      expect(entries(await store.readState(person))).toEqual([`${name},here`, "plain,kept"].sort());
      const [{ inverse }] = (await store.listActions(person, 1)) as [Action];
      expect(Object.entries(inverse.shelf ?? {})).toEqual([[name, null]]);
      const removal = JSON.parse(`{${JSON.stringify(name)}: null}`) as Record<string, null>;
      expect(entries(await save(store, person, { shelf: removal }))).toEqual(["plain,kept"]);
    },
  );

  // ---- The limit ----

  test("a 201st article is refused, and nothing of that save is kept", async () => {
    const person = somebody();
    const two_hundred = { reading: { id: "k0", position: "top" }, shelf: shelfOf(keys(200)) };
    expect(await save(store, person, two_hundred)).toEqual(two_hundred);

    const refused = await caught(save(store, person, { reading: null, shelf: { k0: "elsewhere", one_more: "top" } }));
    expect(refused).toBeInstanceOf(Refusal);
    expect(refused).toMatchObject({ why: "shelf", message: expect.stringContaining("200") });
    expect(await store.readState(person)).toEqual(two_hundred);
  });

  test("somebody with 200 articles may move in them, close one, and swap one for another", async () => {
    const person = somebody();
    await save(store, person, { shelf: shelfOf(keys(200)) });
    expect((await save(store, person, { shelf: { k7: "moved" } })).shelf).toMatchObject({ k7: "moved" });
    expect(Object.keys((await save(store, person, { shelf: { k0: null, new: "top" } })).shelf)).toHaveLength(200);
    expect(Object.keys((await save(store, person, { shelf: { k1: null } })).shelf)).toHaveLength(199);
  });

  test("a first save of 201 articles leaves nothing behind", async () => {
    const person = somebody();
    expect(await caught(save(store, person, { reading, shelf: shelfOf(keys(201)) }))).toBeInstanceOf(Refusal);
    expect(await store.readState(person)).toEqual(nothing);
  });

  // ---- The receipts ----

  test("every change leaves one receipt, newest first, with what it set and what it would take to go back", async () => {
    const person = somebody();
    expect(await store.listActions(person, 20)).toEqual([]);
    await save(store, person, full);
    await save(store, person, { reading: null, shelf: { a1: null, a2: "top" } });
    const receipt = { id: expect.stringMatching(/^[\w-]{4,40}$/), at: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/), tool: "user_save_state", undone: false };
    const actions = await store.listActions(person, 20);
    expect(new Set(actions.map(({ id }) => id)).size).toBe(2);
    expect(actions).toEqual([
      { ...receipt, change: { reading: null, shelf: { a1: null, a2: "top" } }, inverse: { reading, shelf: { a1: "finished", a2: null } } },
      { ...receipt, change: full, inverse: { reading: null, shelf: { a1: null, a3: null } } },
    ]);
    expect(await store.listActions(person, 1)).toEqual(actions.slice(0, 1));
  });

  test("what changes nothing, and what is refused, leaves no receipt, and does not make a person known", async () => {
    const person = somebody();
    for (const patch of [{}, { reading: null }, { shelf: { a9: null } }]) await save(store, person, patch);
    await caught(save(store, person, { shelf: shelfOf(keys(201)) }));
    expect(await emails(where, person)).toEqual([]);
    await save(store, person, full);
    await save(store, person, full);
    expect(await store.listActions(person, 20)).toHaveLength(1);
  });

  test("what a change throws reaches the caller, and nothing is kept", async () => {
    const person = somebody();
    await save(store, person, full);
    const failure = new Error("changed my mind");
    expect(await caught(store.change(person, "user_save_state", () => { throw failure; }))).toBe(failure);
    expect(await store.readState(person)).toEqual(full);
    expect(await store.listActions(person, 20)).toHaveLength(1);
  });

  test("a change sees as many of the person's own last actions as it asked for, newest first", async () => {
    const [person, other] = [somebody(), somebody()];
    for (const key of keys(5)) await save(store, person, { shelf: shelfOf([key]) });
    await save(store, other, full);
    let seen: unknown;
    await store.change(person, "user_undo", (now, past) => (seen = past, merge(now, {})), 3);
    expect(seen).toEqual(await store.listActions(person, 3));
    expect(seen).toHaveLength(3);
    await store.change(person, "user_undo", (now, past) => (seen = past, merge(now, {})));
    expect(seen).toEqual([]);
  });

  test("a change that undoes an action marks it, and leaves a receipt of its own; nobody else's can be marked", async () => {
    const [person, other] = [somebody(), somebody()];
    await save(store, person, full);
    await save(store, other, full);
    const [{ id }, theirs] = [(await store.listActions(person, 1))[0]!, (await store.listActions(other, 1))[0]!];
    await store.change(person, "user_undo", (now) => ({ ...merge(now, { reading: null }), undoes: id }));
    await store.change(person, "user_undo", (now) => ({ ...merge(now, { shelf: { a1: null } }), undoes: theirs.id }));
    expect((await store.listActions(person, 20)).map(({ tool, undone }) => [tool, undone])).toEqual([["user_undo", false], ["user_undo", false], ["user_save_state", true]]);
    expect(await store.listActions(other, 20)).toEqual([theirs]);
  });

  // ---- Forgetting ----

  test("forgetting erases the person, their shelf and their history, and nobody else's", async () => {
    const [person, other] = [somebody(), somebody()];
    for (const one of [person, other]) {
      await store.welcome(one, "ada@example.com");
      await save(store, one, full);
      await save(store, one, { shelf: { a2: "top" } });
    }
    expect(await store.forget(person, () => true)).toMatchObject({ saved: 3, actions: 2, forgotten: true });
    expect([await emails(where, person), await store.readState(person), await store.listActions(person, 20)]).toEqual([[], nothing, []]);
    expect(await store.forget(person, () => true)).toMatchObject({ saved: 0, actions: 0 });
    expect([await emails(where, other), (await store.listActions(other, 20)).length]).toEqual([["ada@example.com"], 2]);
    expect(Object.keys((await store.readState(other)).shelf)).toHaveLength(3);
  });

  test("without agreement nothing is erased, and any change alters the mark that was agreed to", async () => {
    const person = somebody();
    const markOf = async (id: string) => (await store.forget(id, () => false)).mark;
    const marks = [await markOf(person)];
    const changes = [() => store.welcome(person, null), () => save(store, person, full), () => save(store, person, { reading: null }), () => save(store, person, full),
      () => store.forget(person, () => true), () => store.welcome(person, null)];
    for (const change of changes) {
      await change();
      marks.push(await markOf(person));
      expect(await markOf(person)).toBe(marks.at(-1)!);
    }
    marks.splice(5, 1); // forgotten is like never met
    expect(new Set(marks).size).toBe(marks.length);
    const { mark } = await store.forget(person, () => false);
    expect((await store.forget(person, (now) => now !== mark)).forgotten).toBe(false);
    expect(await emails(where, person)).toEqual([null]);
    expect((await store.forget(person, (now) => now === mark)).forgotten).toBe(true);
  });

  test("a save and a forgetting at the same moment leave all of the save or none of it", async () => {
    for (const _ of keys(10)) {
      const person = somebody();
      await save(store, person, { shelf: { a1: "old" } });
      await Promise.all([save(store, person, { shelf: { a2: "new" } }), store.forget(person, () => true)]);
      const [state, actions] = [await store.readState(person), await store.listActions(person, 20)];
      expect([Object.keys(state.shelf), actions.length]).toEqual(actions.length === 0 ? [[], 0] : [["a2"], 1]);
    }
  });

  // ---- Whose it is ----

  test("two people never see or change each other's shelves, however alike their ids", async () => {
    const tail = crypto.randomUUID();
    const people = [`https://one.example|${tail}`, `https://two.example|${tail}`, `https://one.example|${tail} `, `https://one.example|${tail.toUpperCase()}`,
      `https://one.example|${tail}%`, `https://one.example|${tail}'`, `https://one.example|${tail}é`, `https://one.example|${tail}e\u0301`];
    for (const [index, person] of people.entries()) await save(store, person, { shelf: { a1: `mine ${index}` } });
    await save(store, people[0]!, { reading, shelf: { a1: null } });
    expect(await store.readState(people[0]!)).toEqual({ reading, shelf: {} });
    for (const [index, person] of people.entries()) {
      if (index > 0) expect(await store.readState(person)).toEqual({ reading: null, shelf: { a1: `mine ${index}` } });
    }
  });

  // ---- At the same moment ----

  test("forty saves at the same moment are all kept", async () => {
    const person = somebody();
    await Promise.all(keys(40).map((key) => save(store, person, { shelf: shelfOf([key]) })));
    expect((await store.readState(person)).shelf).toEqual(shelfOf(keys(40)));
    expect(await store.listActions(person, 100)).toHaveLength(40);
  });

  test("forty saves at the same moment through four replicas are all kept, and so is what was open", async () => {
    const person = somebody();
    const replicas = await Promise.all(keys(4).map(() => open(where)));
    await Promise.all([
      ...keys(40).map((key, index) => save(replicas[index % 4]!, person, { shelf: shelfOf([key]) })),
      save(replicas[0]!, person, { reading }),
    ]);
    expect(await store.readState(person)).toEqual({ reading, shelf: shelfOf(keys(40)) });
    await Promise.all(replicas.map((replica) => replica.close()));
  });

  test("saves at the same moment never pass the limit together", async () => {
    const person = somebody();
    await save(store, person, { shelf: shelfOf(keys(195)) });
    const answers = await Promise.all(keys(10, "late").map((key) => caught(save(store, person, { shelf: shelfOf([key]) }))));
    expect(answers.filter((answer) => answer instanceof Refusal)).toHaveLength(5);
    expect(Object.keys((await store.readState(person)).shelf)).toHaveLength(200);
  });

  // ---- Later ----

  test("everything is there after a restart", async () => {
    const person = somebody();
    const before = await open(where);
    const { memberSince } = await before.welcome(person, "ada@example.com");
    await save(before, person, full);
    const actions = await before.listActions(person, 20);
    expect(actions).toHaveLength(1);
    await before.close();

    const after = await open(where);
    expect(await after.readState(person)).toEqual(full);
    expect(await after.welcome(person, "ada@example.com")).toEqual({ memberSince, state: full });
    expect(await after.listActions(person, 20)).toEqual(actions);
    await after.close();
  });
});

// ---- Postgres alone ----

test("two replicas that start at once on an empty Postgres database both start", async () => {
  for (const _ of keys(10)) {
    const url = await server.database();
    const replicas = await Promise.all([postgresStore(url), postgresStore(url), postgresStore(url)]);
    const person = somebody();
    await Promise.all(replicas.map((replica, index) => save(replica, person, { shelf: shelfOf([`k${index}`]) })));
    expect((await replicas[0]!.readState(person)).shelf).toEqual(shelfOf(keys(3)));
    await Promise.all(replicas.map((replica) => replica.close()));
  }
});

describe("A connection string as the Neon console prints it", () => {
  const neon = (url: string) => `${url}?sslmode=require&channel_binding=require`;
  const admin = async (url: string, statements: string[]) => {
    const sql = postgres(url, { max: 1 });
    for (const statement of statements) await sql.unsafe(statement);
    await sql.end();
  };
  let url: string;
  beforeAll(async () => {
    const folder = await scratch();
    const [key, certificate] = [join(folder, "server.key"), join(folder, "server.crt")];
    const made = spawnSync("openssl", ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", key, "-out", certificate]);
    if (made.status !== 0) throw new Error(`openssl: ${made.stderr || made.error}`);
    await chmod(folder, 0o755);
    await chmod(key, 0o600);
    if (process.getuid?.() === 0) await chown(key, 65_534, 65_534); // whom support.ts runs the server as
    url = await server.database();
    await admin(url, [`alter system set ssl_cert_file = '${certificate}'`, `alter system set ssl_key_file = '${key}'`, "alter system set ssl = on", "select pg_reload_conf()"]);
  });
  afterAll(() => admin(url, ["alter system reset ssl", "select pg_reload_conf()"]));

  test("opens a store whose every connection is encrypted", async () => {
    const store = await postgresStore(neon(url));
    const person = somebody();
    await Promise.all(keys(8).map((key) => save(store, person, { shelf: shelfOf([key]) })));

    const sql = postgres(url, { max: 1 });
    const connections = await sql<{ ssl: boolean; version: string | null }[]>`
      select ssl, version from pg_stat_ssl join pg_stat_activity using (pid)
      where datname = current_database() and pid <> pg_backend_pid()`;
    expect(connections.length).toBeGreaterThan(0);
    for (const connection of connections) expect(connection).toMatchObject({ ssl: true, version: expect.stringMatching(/^TLSv1\.[23]$/) });
    await sql.end();
    await store.close();
  });

  test("away from this machine, refuses a server that nobody vouches for", async () => {
    const elsewhere = neon(url).replace("127.0.0.1", "0.0.0.0"); // leads here too, but doesn't say so
    expect(await caught(postgresStore(elsewhere))).toMatchObject({ code: "DEPTH_ZERO_SELF_SIGNED_CERT" });
  });
});

// ---- SQLite alone ----

describe("A SQLite file", () => {
  /** The connection that a store holds: some of what it was told shows nowhere else. */
  async function opened() {
    const path = join(await scratch(), "room.sqlite");
    const run = spyOn(Database.prototype, "run");
    const store = await sqliteStore(path);
    const db = run.mock.contexts[0] as Database;
    run.mockRestore();
    return { path, store, db };
  }

  test("is in WAL mode, so that readers do not wait for a writer", async () => {
    const { path, store } = await opened();
    await save(store, "ada", { shelf: { a1: "x" } });
    const other = new Database(path, { readonly: true });
    expect(other.query("pragma journal_mode").get()).toEqual({ journal_mode: "wal" });
    other.close();
    await store.close();
  });

  test("is written through to the disk at every save", async () => {
    const { store, db } = await opened();
    expect(db.query("pragma synchronous").get()).toEqual({ synchronous: 2 }); // FULL
    await store.close();
  });

  test("holds no shelf and no history without their owner", async () => {
    const { store, db } = await opened();
    expect(() => db.run("insert into user_state values ('nobody', '{}')")).toThrow("FOREIGN KEY");
    await save(store, "ada", { shelf: { a1: "x" } });
    db.run("delete from users where id = 'ada'");
    expect([db.query("select * from user_state").all(), db.query("select * from actions").all()]).toEqual([[], []]);
    await store.close();
  });

  test("that another program is writing to makes a save wait, and nothing else", async () => {
    const path = join(await scratch(), "room.sqlite");
    const store = await sqliteStore(path);
    const { enter, send } = await desk({ store });
    const { use } = await enter();
    const writer = await busyWriter(path);

    let settled = false;
    const waiting = use("user_save_state", { shelf: { a1: "half-way" } }).finally(() => { settled = true; });
    let longest = 0; // that this process was held up, while others were served
    for (const end = performance.now() + 500; performance.now() < end; ) {
      const from = performance.now();
      expect((await use("domain_get_article", { id: "a1" })).isError).toBeUndefined();
      expect((await use("user_get_state")).structuredContent).toMatchObject({ state: nothing });
      expect((await send("/healthz")).status).toBe(200);
      longest = Math.max(longest, performance.now() - from);
      await Bun.sleep(20);
    }
    expect(longest).toBeLessThan(250);
    expect(settled).toBe(false);

    await writer.release();
    expect((await waiting).structuredContent).toMatchObject({ state: { shelf: { a1: "half-way" } } });
    await store.close();
  });

  test("that another program never lets go of fails a save within five seconds, and says so", async () => {
    const path = join(await scratch(), "room.sqlite");
    const store = await sqliteStore(path);
    const { enter, log } = await desk({ store });
    const { use } = await enter();
    const writer = await busyWriter(path);

    const from = performance.now();
    const { isError, content } = await use("user_save_state", { shelf: { a1: "half-way" } });
    expect(performance.now() - from).toBeLessThan(5_000);
    expect(isError).toBe(true);
    expect(content[0]!.text).toMatch(/^The Reading Room can't continue right now\..*may or may not have been kept.*safe to repeat/);
    expect(log.at(-1)).toMatchObject({ tool: "user_save_state", outcome: "failed", error: expect.stringContaining("SQLITE_BUSY") });

    await writer.release();
    expect((await use("user_save_state", { shelf: { a1: "half-way" } })).structuredContent).toMatchObject({ state: { shelf: { a1: "half-way" } } });
    await store.close();
  });

  test("serves two programs that open and write it at the same moment", async () => {
    const path = join(await scratch(), "room.sqlite");
    const script = `const { merge, sqliteStore } = await import(process.argv[1]);
      while (Date.now() < Number(process.argv[3])) {}
      const store = await sqliteStore(process.argv[2]);
      for (let n = 0; n < 20; n++) await store.change("ada", "user_save_state", (now) => merge(now, { shelf: { [process.argv[4] + n]: "x" } }));
      await store.close();`;
    const start = String(Date.now() + 400);
    const writers = ["one", "two"].map((name) =>
      Bun.spawn(["bun", "-e", script, join(dirname(import.meta.dir), "main.ts"), path, start, name], { stdout: "inherit", stderr: "pipe" }));
    for (const writer of writers) {
      expect(await new Response(writer.stderr).text()).toBe("");
      expect(await writer.exited).toBe(0);
    }
    const store = await sqliteStore(path);
    expect(Object.keys((await store.readState("ada")).shelf)).toHaveLength(40);
    await store.close();
  });
});
