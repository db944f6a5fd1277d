// What `interface Store` promises, kept by both: SQLite, and a real PostgreSQL.

import { Database } from "bun:sqlite";
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, spyOn, test } from "bun:test";
import { chmodSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import postgres from "postgres";
import { postgresStore, type Receipt, type Row, type Store, sqliteStore } from "../main.ts";
import { type Notebook } from "./sample-app.ts";
import {
  busyWriter, gateway, mint, type Place, postgresIsHere, postgresPlace, type PostgresServer,
  postgresServer, ROOT, scratch, sqlitePlace,
} from "./support.ts";

setDefaultTimeout(30_000); // the first PostgreSQL server of a run is unpacked and initialised

let server: Promise<PostgresServer> | undefined;
const newPostgresPlace = async () => postgresPlace(await (server ??= postgresServer()));

/** A person nobody has met. */
const somebody = () => `https://sign-in.example|${crypto.randomUUID()}`;
const settled = (work: Promise<unknown>) => work.then((value) => value, (error: Error) => error);
const RATE = { RATE_LIMIT_PER_MINUTE: "100000" };

async function known(store: Store, email: string | null = null) {
  const id = somebody();
  await store.welcome(id, email);
  return { id, row: (await store.read(id))! };
}
const receipt: Receipt = {
  id: "AAAAAAAA", at: "2026-11-21T07:00:00.000Z", tool: "user_write", ref: "1a2b3c4d",
  undoable: true, undone: false, changes: [{ key: "mood", before: null, after: "calm" }],
};

const kinds = [
  { kind: "sqlite" as const, place: sqlitePlace },
  { kind: "postgres" as const, place: newPostgresPlace },
];
describe.each(kinds)("The $kind store", ({ kind, place: newPlace }) => {
  const missing = kind === "postgres" && !postgresIsHere;
  if (missing) return test.skip("NOT TESTED: PostgreSQL's binaries are not installed", () => {});

  let place: Place;
  let store: Store;
  const opened: { close(): Promise<void> }[] = [];
  /** Another database than the one that most tests share. */
  const elsewhere = async () => {
    const place = await newPlace();
    opened.push(place);
    return place;
  };
  const openAt = async (place: Place) => {
    const store = await place.store();
    opened.push(store);
    return store;
  };
  beforeAll(async () => {
    place = await elsewhere();
    store = await openAt(place);
  });
  afterAll(async () => { for (const one of opened.reverse()) await one.close(); });

  test("says what it is, and that a visit would work", async () => {
    expect(store.kind).toBe(kind);
    expect(await store.ping()).toBeUndefined();
  });

  // ---- Who is known ----

  test("knows nobody who has not been here", async () => {
    expect(await store.read(somebody())).toBeUndefined();
  });

  test("makes a person known once, however often they come, and keeps their latest e-mail",
    async () => {
    const before = Date.now();
    const { id, row } = await known(store, "ada@example.com");
    expect(row).toEqual({
      memberSince: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
      email: "ada@example.com",
      state: {},
      receipts: [],
      version: expect.stringMatching(/^[\w-]{16}$/),
    });
    expect(Math.abs(Date.parse(row.memberSince!) - before)).toBeLessThan(5_000);
    await Bun.sleep(5); // so that a second "since" would be another
    for (const email of ["ada@new.example", null, "o'hara@例え.example"]) {
      await store.welcome(id, email);
      expect(await store.read(id)).toEqual({ ...row, email });
    }
  });

  test("makes one person of ten welcomes at once", async () => {
    const id = somebody();
    const rows = Array.from({ length: 10 }, async () => {
      await store.welcome(id, null);
      return store.read(id);
    });
    const [first, ...others] = await Promise.all(rows);
    for (const row of others) expect(row).toEqual(first);
  });

  // ---- A change ----

  test("writes state and receipts together, and gives them another version", async () => {
    const { id, row } = await known(store, "ada@example.com");
    const next = { state: { mood: "calm" }, receipts: [receipt] };
    expect(await store.commit(id, row.version, next)).toBe(true);
    const after = (await store.read(id))!;
    expect(after).toEqual({ ...row, ...next, version: expect.any(String) });
    expect(after.version).not.toBe(row.version);
  });

  test("writes nothing on a version that is not the one there any more", async () => {
    const { id, row } = await known(store);
    const { id: other } = await known(store);
    await store.commit(id, row.version, { state: { mood: "calm" }, receipts: [receipt] });
    const before = await store.read(id);
    const late = { state: { mood: "late" }, receipts: [] };
    for (const [person, version] of [
      [id, row.version], [id, ""], [id, "made up"], [other, before!.version],
      [somebody(), row.version],
    ] as const) {
      expect(await store.commit(person, version, late)).toBe(false);
    }
    expect(await store.read(id)).toEqual(before);
    expect((await store.read(other))!.state).toEqual({});
  });

  test("lets one of ten changes of the same version through", async () => {
    const { id, row } = await known(store);
    const writes = Array.from({ length: 10 }, (_, n) =>
      store.commit(id, row.version, { state: { n }, receipts: [] }));
    expect((await Promise.all(writes)).filter(Boolean)).toHaveLength(1);
  });

  test.each([
    ["quotes and backslashes", `she said: "it's \\ here", then \\" and \\u0041`],
    ["SQL", "'); drop table users; -- $1 ? :x"],
    ["accents, composed and not", "Café Zoé, Cafe\u0301 Zoe\u0301"],
    ["characters beyond 16 bits", "🕯️ 👩🏽‍🚀 𝒽"],
    ["right-to-left, and spaces that look like none", "עברית\u200f\u00a0\u2028\ufeff"],
    ["control characters other than NUL", "\u0001\t\r\n\u001b\u007f"],
    ["JSON", `{"mood":null}`],
  ])("gives back %s exactly as written, as a name and as a value", async (_, text) => {
    const { id, row } = await known(store);
    const changes = [{ key: "notes", entry: text, after: text }];
    const next = { state: { [text]: text }, receipts: [{ ...receipt, changes }] };
    expect(await store.commit(id, row.version, next)).toBe(true);
    expect(await store.read(id)).toMatchObject(next);
  });

  test("keeps people apart whose ids look alike", async () => {
    const id = somebody();
    const ids = [id, `${id} `, id.toUpperCase(), `${id}%`, `${id}'`, `${id}é`, `${id}e\u0301`];
    for (const one of ids) {
      await store.welcome(one, one);
      const { version } = (await store.read(one))!;
      await store.commit(one, version, { state: { mine: one }, receipts: [] });
    }
    for (const one of ids) {
      expect(await store.read(one)).toMatchObject({ email: one, state: { mine: one } });
    }
  });

  // ---- Forgetting ----

  test("forgets the person whose version it was told, and nobody else", async () => {
    const ada = await known(store, "ada@example.com");
    const ben = await known(store, "ben@example.com");
    for (const version of ["", "made up", ben.row.version]) {
      expect(await store.forget(ada.id, version)).toBe(false);
    }
    expect(await store.read(ada.id)).toEqual(ada.row);
    expect(await store.forget(ada.id, ada.row.version)).toBe(true);
    expect(await store.read(ada.id)).toBeUndefined();
    const left = await place.rows<{ n: number | string }>(`
      select count(*) as n from user_state where user_id = '${ada.id}'
      union all select count(*) from users where id = '${ada.id}'`);
    expect(left.map(({ n }) => Number(n))).toEqual([0, 0]);
    expect(await store.read(ben.id)).toEqual(ben.row);
  });

  test("is reached by no change from before a forgetting, though the person has come back",
    async () => {
    const { id, row } = await known(store);
    await store.forget(id, row.version);
    await store.welcome(id, null);
    const late = { state: { mood: "old" }, receipts: [receipt] };
    expect(await store.commit(id, row.version, late)).toBe(false);
    expect(await store.forget(id, row.version)).toBe(false);
    expect(await store.read(id)).toMatchObject({ state: {}, receipts: [] });
  });

  // ---- What one person alone may have ----

  const named = crypto.randomUUID();
  const reserve = (who: { id: string; row: Row }, ...names: string[]) => {
    const next = { state: { mine: names }, receipts: [] };
    return store.commit(who.id, who.row.version, next, names.map((one) => `${named} ${one}`));
  };
  const reserved = async (prefix = "") =>
    (await store.reserved(`${named} ${prefix}`)).map((name) => name.slice(named.length + 1)).sort();
  const now = async ({ id }: { id: string }) => ({ id, row: (await store.read(id))! });

  test("gives what ten people reserve to one, and writes nothing for the others", async () => {
    const people = await Promise.all(Array.from({ length: 10 }, () => known(store)));
    const outcomes = await Promise.all(people.map(async (one, n) =>
      settled(reserve(one, "noon", `own ${n}`))));
    expect(outcomes.filter((one) => one === true)).toHaveLength(1);
    for (const [n, one] of people.entries()) {
      if (outcomes[n] === true) continue;
      expect(await store.read(one.id)).toEqual(one.row);
      if (outcomes[n] !== false) expect(outcomes[n]).toMatchObject({ why: "taken" });
    }
    expect(await reserved("own")).toEqual([`own ${outcomes.indexOf(true)}`]);
  });

  test("keeps what is reserved through other changes, until one drops it",
    async () => {
    const [ada, ben] = [await known(store), await known(store)];
    await reserve(ada, "one", "two", "two");
    await reserve(await now(ada), "two", "three");
    expect(await reserved("t")).toEqual(["three", "two"]);
    expect(await settled(reserve(ben, "one", "two"))).toMatchObject({ why: "taken" });
    expect(await reserve(ben, "one")).toBe(true);
    expect(await reserved("t")).toEqual(["three", "two"]); // hers are hers still
    await reserve(await now(ada));
    expect(await reserve(await now(ben), "one", "two")).toBe(true);
  });

  test("frees what was reserved by whoever is forgotten", async () => {
    const [ada, ben] = [await known(store), await known(store)];
    await reserve(ada, "forgotten");
    const { id, row } = await now(ada);
    await store.forget(id, row.version);
    expect(await reserved("forgotten")).toEqual([]);
    expect(await reserve(ben, "forgotten")).toBe(true);
  });

  test("takes the beginning of what is reserved letter by letter", async () => {
    await reserve(await known(store), "a_b", "aXb", "A_B", "a%b", "é");
    expect(await reserved("a_")).toEqual(["a_b"]);
    expect(await reserved("a%")).toEqual(["a%b"]);
    expect(await reserved("é")).toEqual(["é"]);
  });

  test.each([
    ["that is gone", ["drop table user_reserved"]],
    ["with a rule of its owner's", [
      "create unique index own_rule on user_state (state) where state <> '{}'",
    ]],
  ])("tells what is reserved by somebody from a table %s", async (_, changes) => {
    const where = await elsewhere();
    const own = await openAt(where);
    const [ada, ben] = [await known(own), await known(own)];
    const next = { state: { same: true }, receipts: [] };
    const write = ({ id, row }: typeof ada, name: string) =>
      settled(own.commit(id, row.version, next, [name]));
    for (const change of changes) await where.rows(change);
    const outcomes = [await write(ada, "x"), await write(ben, "y")];
    expect(outcomes.at(-1)).toBeInstanceOf(Error);
    for (const outcome of outcomes) expect(Object(outcome)).not.toHaveProperty("why");
  });

  // ---- Several at once, and later ----

  test("keeps forty changes of one person at once through two stores, and what each did",
    async () => {
    const stores = [store, await openAt(place)];
    const sub = crypto.randomUUID();
    const ways = await Promise.all(stores.map(async (store) =>
      (await gateway({ store, env: RATE })).enter(sub)));
    const changes = Array.from({ length: 40 }, (_, n) => ({ [`n${n % 20}`]: `${n}` }));
    const results = await Promise.all(changes.map((notes, n) =>
      ways[n % 2]!.use("user_write", { notes })));
    expect(results.filter(({ isError }) => isError)).toEqual([]);

    const { state, receipts } = (await store.read(`local|${sub}`))! as Row & { state: Notebook };
    expect(receipts).toHaveLength(40);
    const told: Record<string, unknown> = {}; // what the receipts come to, one after the other
    for (const { changes: [unit] } of receipts.toReversed()) {
      expect(unit!.before).toBe(told[unit!.entry!]);
      told[unit!.entry!] = unit!.after;
    }
    expect(state.notes).toEqual(told as Record<string, string>);
  });

  test("a visit and an erasing at the same moment both work, and leave all of a person or nothing",
    async () => {
    const { enter } = await gateway({ store, env: RATE });
    const sub = crypto.randomUUID();
    for (let n = 0; n < 20; n++) {
      const { use } = await enter(sub);
      await use("user_write", { mood: "calm" });
      const { confirm } = (await use("user_forget_me")).structuredContent!;
      const [forgotten, again] = await Promise.all([
        use("user_forget_me", { confirm }),
        enter(sub).then(({ use }) => use("user_get_state")),
      ]);
      expect(forgotten.structuredContent).toMatchObject({ forgotten: true });
      expect(again.structuredContent).toHaveProperty("state");
      expect((await store.read(`local|${sub}`))?.state ?? {}).toEqual({});
    }
  });

  test("has everything after a restart", async () => {
    const where = await elsewhere();
    const before = await where.store();
    const { id, row } = await known(before, "ada@example.com");
    await before.commit(id, row.version, { state: { mood: "calm" }, receipts: [receipt] });
    const kept = await before.read(id);
    await before.close();
    expect(await (await openAt(where)).read(id)).toEqual(kept);
  });

  // ---- Tables that were there already ----

  const json = kind === "sqlite" ? "text" : "jsonb";
  test.each<[string, string[]]>([
    ["without keys", [
      "create table users (id text primary key, email text)",
      `create table user_state (user_id text, state ${json})`,
    ]],
    ["with keys", [
      "create table users (id text primary key, email text, name text)",
      `create table user_state (
        user_id text primary key references users (id), state ${json} not null)`,
    ]],
  ])("takes tables as a learner made them, %s: rows are kept, columns added", async (_, tables) => {
    const where = await elsewhere();
    for (const table of ["user_reserved", "user_state", "users"]) {
      await where.rows(`drop table ${table}`);
    }
    for (const table of tables) await where.rows(table);
    await where.rows(`insert into users (id, email)
      values ('local|ada', 'a@b.example'), ('local|ben', null)`);
    await where.rows(`insert into user_state (user_id, state)
      values ('local|ada', '{"mood": "old", "notes": {"a": "1"}}')`);

    const store = await openAt(where);
    const { enter, send } = await gateway({ store, env: RATE });
    expect((await send("/health")).status).toBe(200);
    const ada = await enter("ada");
    expect((await store.read("local|ada"))!.version).toMatch(/^[\w-]{16}$/);
    const kept = { mood: "old", notes: { a: "1" } };
    expect((await ada.use("user_get_state")).structuredContent!.state).toEqual(kept);
    await ada.use("user_write", { mood: "new" });
    expect((await ada.use("user_undo")).structuredContent!.state).toEqual(kept);
    const { profile } = (await ada.use("user_get_profile")).structuredContent!;
    expect(profile.member_since).toMatch(/^\d{4}-/);
    const ben = await enter("ben"); // had no state yet
    expect((await ben.use("user_write", { mood: "new" })).isError).toBeUndefined();
    const { confirm } = (await ada.use("user_forget_me")).structuredContent!;
    expect((await ada.use("user_forget_me", { confirm })).structuredContent!.forgotten).toBe(true);
    expect(await where.rows<{ id: string }>("select id from users")).toEqual([{ id: "local|ben" }]);
  });

  test.each([["table", "column"], ["table"], ["column"]])(
    "takes the tables of the last release, without %s, and reserves from then on",
    async (...missing) => {
    const where = await elsewhere();
    const { id } = await known(await openAt(where));
    const on = kind === "postgres" ? " on user_state" : "";
    await where.rows(`drop trigger user_reserved${on}`);
    if (missing.includes("table")) await where.rows("drop table user_reserved");
    if (missing.includes("column")) {
      await where.rows("alter table user_state drop column reserved");
    }
    await where.rows(kind === "sqlite" // one of that name that does nothing
      ? "create trigger user_reserved after update on user_state begin select 1; end"
      : `create trigger user_reserved before update on user_state
          for each row execute function suppress_redundant_updates_trigger()`);

    const store = await openAt(where);
    const [ada, ben] = [{ id, row: (await store.read(id))! }, await known(store)];
    const next = { state: {}, receipts: [] };
    expect(await store.commit(ada.id, ada.row.version, next, ["noon"])).toBe(true);
    expect(await store.reserved("")).toEqual(["noon"]);
    expect(await settled(store.commit(ben.id, ben.row.version, next, ["noon"])))
      .toMatchObject({ why: "taken" });
  });

  // ---- What a visit needs ----

  test("does not call itself well while a visit would fail", async () => {
    const where = await elsewhere();
    const { send, call, enter } = await gateway({ store: await openAt(where), env: RATE });
    const { token } = await enter();
    const columns = ["users.created_at", "users.email", "user_state.version",
      "user_state.receipts", "user_state.state"];
    for (const column of columns) {
      const [table, name] = column.split(".");
      await where.rows(`alter table ${table} rename column ${name} to gone`);
      expect([column, (await send("/health")).status]).toEqual([column, 503]);
      for (const tool of ["health", "begin_session"]) {
        const { content } = await call(tool, {}, token);
        expect(content[0]!.text).toStartWith("The Notebook can't continue right now.");
      }
      await where.rows(`alter table ${table} rename column gone to ${name}`);
      expect((await send("/health")).status).toBe(200);
    }
    for (const table of ["user_reserved", "user_state"]) {
      await where.rows(`drop table ${table}`);
      expect([table, (await send("/health")).status]).toEqual([table, 503]);
    }
  });
});

// ---- Postgres alone ----

describe.skipIf(!postgresIsHere)("A Postgres", () => {
  const opened: { close(): Promise<void> }[] = [];
  afterAll(async () => { for (const one of opened.reverse()) await one.close(); });
  async function at() {
    const place = await newPostgresPlace();
    const store = await place.store();
    opened.push(place, store);
    return { place, store };
  }
  /** A role that may do what is granted, and a store that works as that role. */
  async function asRole(place: Place, grants: string) {
    const role = `role_${crypto.randomUUID().replaceAll("-", "")}`;
    await place.rows(`create role ${role} login`);
    await place.rows(`grant ${grants} on users, user_state, user_reserved to ${role}`);
    const url = place.url.replace("//reader:", `//${role}:`);
    return { role, open: () => postgresStore(url) };
  }

  test("sorts what is reserved by bytes, whatever the language of the database", async () => {
    const { place } = await at();
    const [row] = await place.rows<{ collname: string }>(`select collname from pg_attribute
      join pg_collation c on c.oid = attcollation
      where attrelid = 'user_reserved'::regclass and attname = 'name'`);
    expect(row!.collname).toBe("C");
  });

  test("role that may select, insert, update and delete alone starts when the tables are right",
    async () => {
    const { place } = await at();
    const { open } = await asRole(place, "select, insert, update, delete");
    const store = await open();
    opened.push(store);
    const { enter, send } = await gateway({ store });
    expect((await send("/health")).status).toBe(200);
    const { use } = await enter();
    await use("user_write", { mood: "calm" });
    expect((await use("user_undo")).structuredContent!.state.mood).toBe(null);
    const { confirm } = (await use("user_forget_me")).structuredContent!;
    expect((await use("user_forget_me", { confirm })).structuredContent!.forgotten).toBe(true);

    await place.rows("alter table user_state drop column version");
    expect(await settled(open())).toMatchObject({ code: "42501" }); // it may not mend them
  });

  test("role that has lost a right that a visit needs is not called well", async () => {
    const { place } = await at();
    const { role, open } = await asRole(place, "select, insert, update, delete");
    const store = await open();
    opened.push(store);
    const { send, call } = await gateway({ store, env: RATE });
    const rights = ["users", "user_state"].flatMap((table) =>
      ["select", "insert", "update"].map((right) => `${right} on ${table}`));
    const later = ["select on user_reserved", "insert on user_reserved"]; // not at its beginning
    for (const right of [...rights, ...later]) {
      await place.rows(`revoke ${right} from ${role}`);
      const opening = await call("begin_session", {}, await mint({ sub: right }));
      expect([right, opening.isError ?? false]).toEqual([right, rights.includes(right)]);
      expect([right, (await send("/health")).status]).toEqual([right, 503]);
      await place.rows(`grant ${right} to ${role}`);
    }
    expect((await send("/health")).status).toBe(200);
  });

  test("visit whose person is erased at the same moment elsewhere is a visit", async () => {
    const { place, store } = await at();
    await place.rows(`create function erase() returns trigger language plpgsql as
      $$ begin delete from users where id = new.user_id; return new; end $$`);
    await place.rows(`create trigger elsewhere before insert on user_state
      for each row execute function erase()`);
    const { call } = await gateway({ store });
    const opening = await call("begin_session", {}, await mint());
    expect(opening.structuredContent).toMatchObject({ state: { mood: null, notes: {} } });
  });

  test("person who is back as somebody new while they are erased is left alone", async () => {
    const { place, store } = await at();
    const { use } = await (await gateway({ store })).enter();
    await place.rows(`create function back() returns trigger language plpgsql as
      $$ begin
        insert into users (id) values (old.id);
        insert into user_state (user_id, state, version) values (old.id, '{}', 'new');
        return old;
      end $$`);
    await place.rows(`create trigger elsewhere after delete on users
      for each row execute function back()`);
    const { confirm } = (await use("user_forget_me")).structuredContent!;
    const erased = await use("user_forget_me", { confirm });
    expect(erased.structuredContent).toMatchObject({ forgotten: true });
    expect(await store.read("local|ada")).toMatchObject({ version: "new" });
  });

  describe("row that somebody holds", () => {
    /** Somebody else's transaction, until it is let go. */
    async function held(place: Place, ...statements: string[]) {
      const sql = postgres(place.url, { max: 1, onnotice: () => {} });
      await sql.unsafe("begin");
      for (const statement of statements) await sql.unsafe(statement);
      return async () => { await sql.unsafe("rollback"); await sql.end(); };
    }
    const waiting = async (place: Place) => (await place.rows<{ pid: number }>(`
      select pid from pg_stat_activity
      where datname = current_database() and wait_event_type = 'Lock'`)).length;

    test.concurrent("makes nobody wait in the database: a change is false, and nothing is left",
      async () => {
      const { place, store } = await at();
      const { id, row } = await known(store, "ada@example.com");
      const letGo = await held(place,
        `select * from user_state where user_id = '${id}' for update`,
        `select * from users where id = '${id}' for update`);
      const asked = performance.now();
      const next = { state: { mood: "late" }, receipts: [] };
      const results = await Promise.all([
        store.commit(id, row.version, next),
        store.forget(id, row.version),
        store.welcome(id, "new@example.com"),
      ]);
      expect(results).toEqual([false, false, undefined]);
      expect(performance.now() - asked).toBeLessThan(1_500);
      expect(await waiting(place)).toBe(0);
      await letGo();
      await Bun.sleep(100); // in which a late one would be written
      expect(await store.read(id)).toEqual(row);
    });

    test.concurrent("makes an erasing wait no longer: what can be erased is", async () => {
      const { place, store } = await at();
      const { id, row } = await known(store);
      const letGo = await held(place, `select * from users where id = '${id}' for update`);
      const asked = performance.now();
      expect(await store.forget(id, row.version)).toBe(true);
      expect(performance.now() - asked).toBeLessThan(1_500);
      expect(await waiting(place)).toBe(0);
      await letGo();
      expect(await store.read(id)).toMatchObject({ state: {}, receipts: [], version: "" });
    });

    test.concurrent("keeps nobody else waiting, though twelve of them are asked for", async () => {
      const { place, store } = await at();
      const twelve = await Promise.all(Array.from({ length: 12 }, () => known(store)));
      const letGo = await held(place, "select * from user_state for update");
      const next = { state: { mood: "late" }, receipts: [] };
      const theirs = Promise.all(twelve.map(({ id, row }) => store.commit(id, row.version, next)));
      const asked = performance.now();
      const { id, row } = await known(store); // a thirteenth
      expect(await store.commit(id, row.version, next)).toBe(true);
      await store.ping();
      expect(performance.now() - asked).toBeLessThan(1_000);
      expect(await theirs).toEqual(twelve.map(() => false));
      await letGo();
    });

    test.concurrent("is no reason to write somebody down after their welcome was given up",
      async () => {
      const { place, store } = await at();
      const id = somebody();
      const letGo = await held(place, `insert into users (id) values ('${id}')`);
      await settled(store.welcome(id, null)); // whichever way, it has settled
      await letGo();
      await Bun.sleep(100);
      expect(await store.read(id)).toBeUndefined();
    });

    test.concurrent("does not make an erasing say that nothing was erased when something was",
      async () => {
      const { place, store } = await at();
      const { enter } = await gateway({ store });
      const { use } = await enter();
      await use("user_write", { mood: "calm" });
      const { confirm } = (await use("user_forget_me")).structuredContent!;
      const letGo = await held(place, "select * from users for update");
      const erasing = use("user_forget_me", { confirm });
      await Bun.sleep(500);
      await letGo();
      expect((await erasing).structuredContent).toMatchObject({ forgotten: true });
      expect(await place.rows("select * from users")).toEqual([]);
    });
  });
});

// ---- SQLite alone ----

describe("A SQLite file", () => {
  const visitAt = async (path: string) => {
    const store = await sqliteStore(path);
    const { enter, send, log } = await gateway({ store, env: RATE });
    return { store, send, log, ...(await enter()) };
  };

  test("is written through to the disk at every change, and readers don't wait for a writer",
    async () => {
    const run = spyOn(Database.prototype, "run"); // what a connection was told shows nowhere else
    const store = await sqliteStore(join(await scratch(), "test.sqlite"));
    const db = run.mock.contexts[0] as Database;
    run.mockRestore();
    expect(db.query("pragma synchronous").get()).toEqual({ synchronous: 2 }); // FULL
    expect(db.query("pragma journal_mode").get()).toEqual({ journal_mode: "wal" });
    await store.close();
  });

  const mood = "a lasting canary";
  /** Whether it is in the file, and in SQLite's log beside it. */
  const holds = (path: string) =>
    [path, `${path}-wal`].map((file) => readFileSync(file).includes(mood));
  const forget = async (use: Awaited<ReturnType<typeof visitAt>>["use"]) => {
    const { confirm } = (await use("user_forget_me")).structuredContent!;
    await use("user_forget_me", { confirm });
  };

  test("holds nothing any more of somebody who was erased, nor does the log beside it", async () => {
    const path = join(await scratch(), "test.sqlite");
    const first = await visitAt(path);
    await first.use("user_write", { mood });
    await first.store.close(); // now it is in the file itself …
    const { store, use } = await visitAt(path);
    await use("user_write", { notes: { a: "one" } }); // … and with the next change in the log
    expect(holds(path)).toEqual([true, true]);
    await forget(use);
    expect(holds(path)).toEqual([false, false]);
    await store.close();
  });

  test("holds nothing of them either, once another program has read to its end", async () => {
    const path = join(await scratch(), "test.sqlite");
    const { store, use } = await visitAt(path);
    await use("user_write", { mood });
    const reader = new Database(path);
    reader.run("begin");
    reader.query("select * from user_state").all();
    await forget(use);
    expect(holds(path)).toContain(true);
    reader.close(true);
    await use("user_get_profile");
    expect(holds(path)).toEqual([false, false]);
    await store.close();
  });

  test.skipIf(process.platform === "win32")("is its owner's alone to read, new or old",
    async () => {
    const path = join(await scratch(), "test.sqlite");
    const mode = (file: string) => (statSync(file).mode & 0o777).toString(8);
    for (const before of ["made here", "made earlier"]) {
      const store = await sqliteStore(path);
      await known(store);
      const files = [path, `${path}-wal`, `${path}-shm`];
      expect([before, ...files.map(mode)]).toEqual([before, "600", "600", "600"]);
      await store.close();
      chmodSync(path, 0o644);
    }
  });

  test.skipIf(process.platform === "win32").each([
    ["deleted", (path: string) => rmSync(path)],
    ["moved away", (path: string) => renameSync(path, `${path}.old`)],
    ["replaced", (path: string) => {
      new Database(`${path}.new`, { create: true }).close();
      Bun.spawnSync(["cp", path, `${path}.new`]);
      renameSync(`${path}.new`, path);
    }],
  ])("that is %s while we run fails closed: nothing is acknowledged that is not there",
    async (_, harm) => {
    const path = join(await scratch(), "test.sqlite");
    const { store, send, log, use } = await visitAt(path);
    expect((await use("user_write", { mood: "kept" })).isError).toBeUndefined();
    harm(path);
    for (const name of ["user_write", "user_get_state"]) {
      const { content } = await use(name, name === "user_write" ? { mood: "lost" } : {});
      expect(content[0]!.text).toStartWith("The Notebook can't continue right now.");
      expect(log.at(-1)!.error).toBe("the SQLite file was moved or deleted");
    }
    expect((await send("/health")).status).toBe(503);
    await store.close();
  });

  test.concurrent("that another program is writing to makes a change wait, and nobody else",
    async () => {
    const path = join(await scratch(), "test.sqlite");
    const { store, use } = await visitAt(path);
    const writer = await busyWriter(path);
    let isDone = false;
    const waiting = use("user_write", { mood: "calm" }).finally(() => { isDone = true; });
    let longest = 0; // that this process was held up
    for (const end = performance.now() + 400; performance.now() < end; await Bun.sleep(20)) {
      const from = performance.now();
      expect((await use("domain_list_words")).isError).toBeUndefined();
      expect((await use("user_get_state")).structuredContent!.state.mood).toBe(null);
      longest = Math.max(longest, performance.now() - from);
    }
    expect(longest).toBeLessThan(200);
    await Bun.sleep(400); // longer than one statement has patience
    expect(isDone).toBe(false);
    await writer.release();
    expect((await waiting).structuredContent!.state.mood).toBe("calm");
    await store.close();
  });

  test.concurrent("that another program is writing to is opened once it lets go", async () => {
    const path = join(await scratch(), "test.sqlite");
    const writer = await busyWriter(path);
    const opening = sqliteStore(path);
    await Bun.sleep(200);
    await writer.release();
    await (await opening).close();
  });

  test.concurrent("can be opened and written by two programs at the same moment", async () => {
    const path = join(await scratch(), "test.sqlite");
    const script = `
      const { sqliteStore } = await import("./main.ts");
      const [, path, start, name] = process.argv;
      while (Date.now() < Number(start)) {}
      const store = await sqliteStore(path);
      await store.welcome("ada", null);
      for (let n = 0; n < 20;) {
        const { version, state } = await store.read("ada");
        const next = { state: { ...state, [name + n]: "x" }, receipts: [] };
        if (await store.commit("ada", version, next)) n++;
      }
      await store.close();`;
    const start = String(Date.now() + 500);
    const programs = ["one", "two"].map((name) => Bun.spawn(
      ["bun", "-e", script, path, start, name],
      { cwd: ROOT, stdout: "inherit", stderr: "pipe" }));
    for (const program of programs) {
      expect(await new Response(program.stderr).text()).toBe("");
      expect(await program.exited).toBe(0);
    }
    const store = await sqliteStore(path);
    expect(Object.keys((await store.read("ada"))!.state)).toHaveLength(40);
    await store.close();
  });
});
