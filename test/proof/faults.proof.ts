// A Postgres that goes away, and comes back: what a model is told meanwhile, seen from the front,
// and that nothing which was acknowledged is lost.
//
//   bun test ./test/proof/faults.proof.ts        `bun run faults` does it twenty times

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { postgresStore, type Store } from "../../main.ts";
import {
  freePort, gateway, mint, keyServer, personAt, postgresIsHere, type PostgresServer, postgresServer,
  startGateway, type ToolResult, until,
} from "../support.ts";
import { asOwner, type Mood, type Network, networkTo, speakTls, timed } from "./network.ts";

setDefaultTimeout(40_000);
const RATE = { RATE_LIMIT_PER_MINUTE: "100000" };
const CANT = "The Notebook can't continue right now.";
const SECRETS = /very-secret|127\.0\.0\.1|postgres(ql)?:|\b(select|insert|update|jsonb)\b/i;

let steady: PostgresServer; // stays up, and speaks TLS to whoever asks
let frail: PostgresServer; // is stopped and frozen
beforeAll(async () => {
  if (!postgresIsHere) throw new Error("PostgreSQL's binaries are not installed");
  [steady, frail] = await Promise.all([postgresServer(), postgresServer()]);
  await speakTls(await steady.database());
});
const opened: Store[] = [];
afterAll(() => Promise.all(opened.map((store) => store.close())), 20_000);
async function openStore(url: string): Promise<Store> {
  const store = await postgresStore(url);
  opened.push(store);
  return store;
}
async function behindNetwork(tls = false) {
  const network = await networkTo(await steady.database());
  const store = await openStore(network.url + (tls ? "?sslmode=require" : ""));
  return { network, ...(await gateway({ store, env: RATE })) };
}

// ---- The life of a fault ----

interface Fault { url: string; break(): Promise<void> | void; mend(): Promise<void> | void }
const throughNetwork = (mood: Mood, tls = false, delay = 0) => async (): Promise<Fault> => {
  const network = await networkTo(await steady.database());
  const url = network.url + (tls ? "?sslmode=require" : "");
  return { url, break: () => network.turn(mood, { delay }), mend: () => network.turn("fine") };
};
const OPEN = ["begin_session", "health"];
const TOOLS = [...OPEN, "user_get_profile", "user_get_state", "user_list_actions",
  "user_write", "user_write", "user_seal", "user_undo", "user_forget_me"];
const argumentsOf = (tool: string) =>
  tool === "user_write" ? { notes: { b: "a note that must not be quoted" } }
  : tool === "user_seal" ? { name: "b" } : {};
/** What the text says of what may have been done; a blind second undo takes back another change. */
const FATE: Record<string, RegExp> = {
  user_write: /may or may not have been kept; it is safe to repeat/,
  user_seal: /may or may not have been done/,
  user_undo: /may or may not have been done/,
  user_forget_me: /may or may not have been done/,
};

/** All is well, it breaks, every tool is asked twice, it is mended, and all is well at once. */
async function live(fault: Fault) {
  const store = await openStore(fault.url);
  const { call, send, enter, log } = await gateway({ store, env: RATE });
  const { token, use } = await enter();
  const kept = { mood: "calm", notes: { a: "first" } };
  expect((await use("user_write", kept)).structuredContent!.state).toEqual(kept);
  await Promise.all(TOOLS.map(() => use("user_get_state"))); // every connection has been used
  const before = log.length;
  const answers: ToolResult[] = [];

  await fault.break();
  for (const connections of ["that were open", "that are new"]) {
    const ask = (name: string) => OPEN.includes(name) ? call(name, {}, token)
      : use(name, argumentsOf(name));
    const [health, words, ...told] = await Promise.all([
      timed(send("/health")),
      timed(use("domain_list_words")),
      ...TOOLS.map((name) => timed(ask(name))),
    ]);
    expect([connections, health.result.status]).toEqual([connections, 503]);
    expect(words.result.isError).toBeUndefined();
    expect(words.ms).toBeLessThan(1_000);
    for (const ms of [health.ms, ...told.map(({ ms }) => ms)]) expect(ms).toBeLessThan(5_000);
    for (const [index, { result }] of told.entries()) {
      const name = TOOLS[index]!;
      const { text } = result.content[0]!;
      expect([name, result.isError, text.slice(0, CANT.length)]).toEqual([name, true, CANT]);
      expect(result).not.toHaveProperty("structuredContent");
      expect(text).toMatch(/don't answer from memory.*don't invent/);
      if (FATE[name]) expect(text).toMatch(FATE[name]);
      else expect(text).not.toContain("may or may not");
      const ref = text.match(/\(ref ([0-9a-f]{8})\)/)?.[1];
      const logged = log.filter((line) => line.ref === ref);
      expect(logged).toMatchObject([{ tool: name, outcome: "failed", error: expect.any(String) }]);
      answers.push(result);
    }
  }
  const said = JSON.stringify([answers, log.slice(before)]);
  expect(said).not.toMatch(SECRETS);
  expect(said).not.toMatch(new RegExp(`\\b${new URL(fault.url).port}\\b|must not be quoted`));

  await fault.mend();
  const first = await use("user_get_state");
  expect(first.structuredContent?.state).toMatchObject(kept); // nothing acknowledged is lost
  expect((await use("user_write", { notes: { c: "on we go" } })).structuredContent!.state)
    .toMatchObject({ ...kept, notes: { ...kept.notes, c: "on we go" } });
  expect((await call("begin_session", {}, token)).isError).toBeUndefined();
  expect((await send("/health")).status).toBe(200);
}

describe("While Postgres", () => {
  test.concurrent.each<[string, () => Promise<Fault>]>([
    ["is behind something that hangs up", throughNetwork("hangs up")],
    ["is behind something that says nothing", throughNetwork("says nothing")],
    ["answers far too late", throughNetwork("is slow", false, 4_000)],
    ["hangs up, over TLS", throughNetwork("hangs up", true)],
    ["says nothing, over TLS", throughNetwork("says nothing", true)],
  ])("%s, every tool says so in time, and the first call after it works",
    async (_, fault) => live(await fault()));

  test.each<[string, (url: string) => Fault]>([
    ["is stopped", (url) => ({ url, break: frail.stop, mend: frail.start })],
    ["is frozen", (url) => ({ url, break: frail.freeze, mend: frail.thaw })],
  ])("%s, every tool says so in time, and the first call after it works",
    async (_, fault) => live(fault(await frail.database())));
});

describe("A loss while nobody asks", () => {
  test("as in a restart is not noticed", async () => {
    const store = await openStore(await frail.database());
    await Promise.all(Array.from({ length: 5 }, (_, n) => store.welcome(`p${n}`, null)));
    await frail.stop();
    await frail.start();
    expect(await store.read("p0")).toMatchObject({ state: {} });
  });
  test.each([["", false], [", over TLS", true]])("is not noticed, however often%s",
    async (_, tls) => {
    const { network, store } = await behindNetwork(tls);
    for (let n = 0; n < 5; n++) {
      await store.ping();
      network.turn("hangs up");
      network.turn("fine");
      await Bun.sleep(100 + n * 30); // until we have heard of it
    }
    await store.ping();
  });
});

// ---- A save whose fate is unknown ----

describe("A save that is cut off half-way", () => {
  test.concurrent.each<[Mood, boolean]>([
    ["hangs up at a write", true],
    ["falls silent at a write", true],
  ])("by a network that %s is called unknown, and may be repeated", async (mood) => {
    const { network, enter } = await behindNetwork();
    const { use } = await enter();
    network.turn(mood);
    const { isError, content } = await use("user_write", { mood: "ferry" });
    expect(isError).toBe(true);
    expect(content[0]!.text).toMatch(/may or may not have been kept; it is safe to repeat/);
    network.turn("fine");
    expect((await use("user_write", { mood: "ferry" })).isError).toBeUndefined();
    expect((await use("user_list_actions")).structuredContent!.actions).toHaveLength(1);
  });

  test.concurrent("does not stand in the way of the next", async () => {
    const { network, enter } = await behindNetwork();
    const { use } = await enter();
    network.turn("falls silent at a write");
    expect((await use("user_write", { notes: { a: "1" } })).isError).toBe(true);
    network.turn("fine");
    const { result, ms } = await timed(use("user_write", { notes: { b: "2" } }));
    expect(result.structuredContent!.state.notes).toMatchObject({ b: "2" });
    expect(ms).toBeLessThan(1_000);
  });

  test.concurrent("is not written later, over a newer one", async () => {
    const { network, enter } = await behindNetwork();
    const elsewhere = await gateway({ store: await openStore(network.direct) });
    const [here, there] = [await enter(), await elsewhere.enter()];
    network.turn("says nothing");
    expect((await here.use("user_write", { mood: "old" })).isError).toBe(true);
    await there.use("user_write", { mood: "new" });
    network.turn("fine");
    await Bun.sleep(1_500); // in which the old one would arrive
    expect((await there.use("user_get_state")).structuredContent!.state.mood).toBe("new");
  });
});

test.concurrent.each([500, 600, 700, 800, 900])(
  "nobody is written down after their begin_session was said to have failed (%d ms each way)",
  async (delay) => {
    const { network, store, call } = await behindNetwork();
    await store.ping(); // a connection is open
    network.turn("is slow", { delay });
    const told = await call("begin_session", {}, await mint());
    const then = await rowsOf(network, "ada");
    expect(told.isError).toBe(true);
    await Bun.sleep(2_500);
    expect(await rowsOf(network, "ada")).toEqual(then);
  });
async function rowsOf({ direct }: Network, sub: string) {
  const store = await postgresStore(direct);
  const row = await store.read(`local|${sub}`);
  await store.close();
  return row;
}

test.concurrent("slow keys and a Postgres that says nothing still leave an answer in time",
  async () => {
  const { network, store } = await behindNetwork();
  const keys = keyServer();
  const { call } = await gateway({
    store, keys: async (request) => Bun.sleep(1_500).then(() => keys(request)),
  });
  network.turn("says nothing");
  const { result, ms } = await timed(call("begin_session", {}, await mint()));
  expect(ms).toBeLessThan(5_000);
  expect(result.content[0]!.text).toStartWith(CANT);
});

test.concurrent("of saves under a network that keeps hanging up, every acknowledged one is kept",
  async () => {
  const { network, enter } = await behindNetwork();
  const { use } = await enter();
  const acknowledged: string[] = [];
  let failed = 0;
  for (let n = 0; n < 80; n++) {
    const mood = `m${n}`;
    if (n % 4 === 3) setTimeout(() => (network.turn("hangs up"), network.turn("fine")), n % 7);
    if ((await use("user_write", { mood })).isError) failed++;
    else acknowledged.push(mood);
  }
  expect(failed).toBeGreaterThan(0);
  expect(acknowledged.length).toBeGreaterThan(30);
  const row = (await rowsOf(network, "ada"))!;
  const kept = row.receipts.map(({ changes }) => changes[0]!.after);
  expect(acknowledged.filter((mood) => !kept.includes(mood))).toEqual([]);
});

test.concurrent("a gateway whose connections are lost in the middle of saves goes on, and is quiet",
  async () => {
  const network = await networkTo(await steady.database());
  const at = await startGateway({ DATABASE_URL: network.url, ...RATE });
  const greeting = at.err.text;
  const use = await personAt(at, "ada");
  let n = 0;
  const write = () => use("user_write", { mood: `m${n++}` });
  expect((await write()).isError).toBeUndefined();
  for (const mood of ["hangs up at a write", "hangs up", "hangs up soon"] as const) {
    network.turn(mood, { messages: 2 });
    for (let turn = 0; turn < 3; turn++) {
      expect((await write()).content[0]!.text).toStartWith(CANT);
    }
    network.turn("fine");
    expect((await write()).isError).toBeUndefined();
  }
  expect(at.err.text).toBe(greeting);
  expect(at.child.exitCode).toBe(null);
  await at.stop();
});

// ---- At the start ----

describe("A gateway whose Postgres", () => {
  const unwell = (mood: Mood, tls = "") => async () => {
    const network = await networkTo(await steady.database());
    network.turn(mood, { messages: 1 });
    return network.url + tls;
  };
  test.concurrent.each<[string, () => Promise<string>]>([
    ["is not there", async () =>
      `postgres://reader:a-very-secret-password@127.0.0.1:${await freePort()}/room`],
    ["says nothing", unwell("says nothing")],
    ["says nothing, over TLS", unwell("says nothing", "?sslmode=require")],
    ["hangs up", unwell("hangs up")],
    ["hangs up at the first word", unwell("hangs up soon")],
    ["has no such database", async () => (await steady.database()).replace(/\w+$/, "no_such_room")],
    ["speaks no TLS", async () => `${await frail.database()}?sslmode=require`],
  ])("%s does not start, and says so in one line without the password", async (_, url) => {
    const from = performance.now();
    const { child, out, err } = await startGateway({ DATABASE_URL: await url() });
    expect(await child.exited).toBe(1);
    expect(performance.now() - from).toBeLessThan(12_000); // 7 of it for the database
    await until(() => err.text.endsWith("\n"));
    expect(err.text).toMatch(/^Cannot start: .*DATABASE_URL.*\n$/);
    expect(err.text).not.toMatch(SECRETS);
    expect(out.text).toBe("");
  });

  test.concurrent("sleeps, and takes four seconds to wake, starts", async () => {
    const network = await networkTo(await steady.database());
    network.turn("is slow", { delay: 1_000 }); // a connection takes a few messages
    setTimeout(() => network.turn("fine"), 3_900);
    expect(await (await openStore(network.url)).read("ada")).toBeUndefined();
  });

  test("goes away under load and comes back answers again, in the same process", async () => {
    const at = await startGateway({ DATABASE_URL: await frail.database(), ...RATE });
    const acknowledged = new Map<number, string>();
    const people = await Promise.all(Array.from({ length: 8 }, (_, n) => personAt(at, `p${n}`)));
    let [failed, running] = [0, true];
    const load = people.map(async (use, n) => {
      for (let turn = 0; running; turn++) {
        const mood = `turn ${turn}`;
        if ((await use("user_write", { mood })).isError) failed++;
        else acknowledged.set(n, mood);
      }
    });
    await Bun.sleep(300);
    await frail.stop();
    await Bun.sleep(300);
    await frail.start();
    await Bun.sleep(400);
    running = false;
    await Promise.all(load);
    expect(failed).toBeGreaterThan(0);
    for (const [n, use] of people.entries()) {
      const { state } = (await use("user_get_state")).structuredContent!;
      expect(state.mood).toBe(acknowledged.get(n)!);
    }
    expect(at.child.exitCode).toBe(null);
    await asOwner(await frail.database(), "select 1");
    await at.stop();
  });
});
