// A Postgres that goes away, and comes back. What a model is told meanwhile, seen from the front, and that nothing which
// was acknowledged is lost.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { createConnection, createServer, type AddressInfo, type Socket } from "node:net";
import { postgresStore } from "../main.ts";
import { desk, freePort, ISSUER, keyServer, mint, type PostgresServer, postgresServer, readerAt, save, startGateway, type ToolResult, until } from "./support.ts";

setDefaultTimeout(30_000);

let steady: PostgresServer; // stays up: the network in front of it does not
let frail: PostgresServer; // is stopped and frozen
beforeAll(async () => { [steady, frail] = await Promise.all([postgresServer(), postgresServer()]); });
const started: Bun.Subprocess[] = [];
afterAll(async () => {
  for (const child of started) child.kill("SIGKILL");
  await Promise.all([steady.stop(), frail.stop()]);
});

type Mood =
  | "fine"
  | "hangs up" // on whoever is connected, and on whoever connects
  | "says nothing" // takes connections and bytes, and passes nothing on
  | "is late" // by four seconds, each way
  | "loses the last answer" // of a save: passes on what makes it last, and hangs up
  | "falls silent half-way" // once a save has reached the database, and before the answer
  | "hangs up half-way";

const writesState = (bytes: Buffer) => /do\s+update\s+set\s+state/.test(bytes.toString("latin1"));

/** A database behind a network that has moods. */
async function behindNetwork(server: PostgresServer) {
  const direct = await server.database();
  const url = new URL(direct);
  const target = Number(url.port);
  const network = { mood: "fine" as Mood, knocks: 0 };
  const lines = new Set<Socket>();

  const entrance = createServer((near) => {
    network.knocks++;
    near.on("error", () => {});
    if (network.mood === "hangs up") return void near.resume().end(); // politely: postgres.js then tries again, for ever
    const far = createConnection(target, "127.0.0.1").on("error", () => {});
    let silent = false;
    let prepared = false;
    let inTransaction = false;
    lines.add(near);
    near.on("close", () => (lines.delete(near), far.end()));
    far.on("close", () => near.destroy());
    near.on("data", async (bytes: Buffer) => {
      if (network.mood === "says nothing") silent = true;
      if (network.mood === "is late") await Bun.sleep(4_000);
      if (silent) return;
      const runs = prepared; // a statement is sent to be prepared, and then to be run
      prepared = writesState(bytes);
      if (network.mood === "falls silent half-way") silent = runs;
      const hangsUp = (network.mood === "hangs up half-way" && prepared)
        || (network.mood === "loses the last answer" && (bytes.includes("commit") || (runs && !inTransaction)));
      inTransaction ||= bytes.includes("begin");
      far.write(bytes, () => hangsUp && near.destroy());
    });
    far.on("data", async (bytes: Buffer) => {
      if (network.mood === "says nothing") silent = true;
      if (network.mood === "is late") await Bun.sleep(4_000);
      if (!silent) near.write(bytes);
    });
  });
  await new Promise<void>((resolve) => entrance.listen(0, "127.0.0.1", resolve));
  url.port = String((entrance.address() as AddressInfo).port);
  return Object.assign(network, {
    direct, // the way around it
    url: url.href,
    turn(mood: Mood) {
      network.mood = mood;
      if (mood === "hangs up") for (const line of lines) line.destroy();
    },
  });
}

const SECRETS = /a-very-secret-password|127\.0\.0\.1|postgres(ql)?:|\b(select|insert|update|jsonb|ECONNREFUSED \S)\b/i;
const timed = async <T>(work: Promise<T>) => {
  const from = performance.now();
  const result = await work;
  return { result, ms: performance.now() - from };
};

interface Fault { break(): Promise<void> | void; mend(): Promise<void> | void; url: string }
const throughNetwork = (mood: Mood) => async (): Promise<Fault> => {
  const network = await behindNetwork(steady);
  return { url: network.url, break: () => network.turn(mood), mend: () => network.turn("fine") };
};

/** The whole life of a fault: all is well, it breaks, every tool is asked twice, it is mended, all is well. */
async function live(fault: Fault) {
  const store = await postgresStore(fault.url);
  const { call, send, enter, log } = await desk({ store });
  const { token, use } = await enter();
  const kept = { reading: { id: "a3", position: "second sentence" }, shelf: { a1: "finished" } };
  expect((await use("user_save_state", kept)).structuredContent).toMatchObject({ state: kept });
  await Promise.all(["a", "b", "c", "d", "e"].map(() => use("user_get_state"))); // every connection has been used
  const before = log.length;
  const answers: ToolResult[] = [];

  await fault.break();
  for (const _ of ["with the connections that were open", "with new ones"]) {
    const asked = ["begin_session", "health", "user_get_profile", "user_get_state", "user_list_actions", "user_save_state", "user_save_state", "user_undo", "user_forget_me"];
    const [health, article, ...told] = await Promise.all([
      timed(send("/healthz")),
      timed(use("domain_get_article", { id: "a1" })),
      ...asked.map((name) => timed(name === "begin_session" || name === "health" ? call(name, {}, token)
        : use(name, name === "user_save_state" ? { shelf: { a2: "a place that must not be quoted" } } : {}))),
    ]);
    expect(health.ms).toBeLessThan(5_000);
    expect(health.result.status).toBe(503);
    expect(await health.result.json()).toEqual({ status: "unavailable" });
    expect(article.ms).toBeLessThan(1_000);
    expect(article.result.structuredContent).toMatchObject({ article: { id: "a1" } });
    for (const [index, { result, ms }] of told.entries()) {
      expect(ms).toBeLessThan(5_000);
      expect(result.isError).toBe(true);
      expect(result).not.toHaveProperty("structuredContent");
      const { text } = result.content[0]!;
      expect(text).toStartWith("The Reading Room can't continue right now.");
      expect(text).toContain("don't answer from memory");
      expect(text).toContain("don't invent");
      if (asked[index] === "user_save_state") expect(text).toMatch(/may or may not have been kept.*safe to repeat/);
      else expect(text).not.toContain("safe to repeat"); // a second undo takes back one change more
      const ref = text.match(/\(ref ([0-9a-f]{8})\)/)?.[1];
      expect(log.filter((line) => line.ref === ref)).toMatchObject([{ tool: asked[index], outcome: "failed", error: expect.any(String) }]);
      answers.push(result);
    }
  }
  const said = JSON.stringify([answers, log.slice(before)]);
  expect(said).not.toMatch(SECRETS);
  expect(said).not.toMatch(new RegExp(`\\b${new URL(fault.url).port}\\b|must not be quoted`));

  await fault.mend();
  const { state } = (await use("user_get_state")).structuredContent!;
  expect(state).toMatchObject(kept); // nothing acknowledged is lost
  const after = { ...kept, shelf: { ...kept.shelf, a2: "on we go" } };
  expect((await use("user_save_state", { shelf: { a2: "on we go" } })).structuredContent).toMatchObject({ state: after });
  expect((await call("begin_session", {}, token)).structuredContent).toMatchObject({ state: after });
  expect((await send("/healthz")).status).toBe(200);
  await store.close();
}

describe("While Postgres", () => {
  test.concurrent.each<[string, () => Promise<Fault>]>([
    ["is behind something that hangs up", throughNetwork("hangs up")],
    ["is behind something that takes connections and says nothing", throughNetwork("says nothing")],
    ["answers far too late", throughNetwork("is late")],
  ])("%s, every tool that needs it says so in time, and the first call after it works", async (_, fault) => live(await fault()));

  test.each<[string, () => Promise<Fault>]>([
    ["is stopped", async () => ({ url: await frail.database(), break: frail.stop, mend: frail.start })],
    ["is frozen", async () => ({ url: await frail.database(), break: frail.freeze, mend: frail.thaw })],
  ])("%s, every tool that needs it says so in time, and the first call after it works", async (_, fault) => live(await fault()));
});

test("a Postgres that restarts between two calls is not noticed", async () => {
  const store = await postgresStore(await frail.database());
  await Promise.all(["a1", "a2", "a3", "a4", "a5"].map((id) => save(store, "ada", { shelf: { [id]: "x" } })));
  await frail.stop();
  await frail.start();
  expect(Object.keys((await store.readState("ada")).shelf)).toHaveLength(5);
  await store.close();
});

test.concurrent("a save whose acknowledgement is lost is called unknown, was kept, and may be repeated", async () => {
  const network = await behindNetwork(steady);
  const store = await postgresStore(network.url);
  const { enter } = await desk({ store });
  const { use } = await enter();
  const place = { shelf: { a1: "the ferry" } };

  network.turn("loses the last answer");
  const { isError, content } = await use("user_save_state", place);
  expect(isError).toBe(true);
  expect(content[0]!.text).toMatch(/may or may not have been kept.*safe to repeat/);
  network.turn("fine");
  await until(async () => Bun.deepEquals((await store.readState(`${ISSUER}|test-user-001`)).shelf, place.shelf));
  expect((await use("user_save_state", place)).structuredContent).toMatchObject({ state: { reading: null, ...place } });
  await store.close();
});

test.concurrent("a save that failed is not written later, over a newer one", async () => {
  const network = await behindNetwork(steady);
  const [store, elsewhere] = await Promise.all([postgresStore(network.url), postgresStore(network.direct)]);
  network.turn("hangs up");
  for (const _ of ["with the connection that was open", "with a new one"]) {
    await expect(save(store, "ada", { shelf: { a1: "old" } })).rejects.toThrow();
  }
  await save(elsewhere, "ada", { shelf: { a1: "new" } });
  network.turn("fine");
  await Bun.sleep(300); // in which the old one would arrive
  expect(await elsewhere.readState("ada")).toMatchObject({ shelf: { a1: "new" } });
  await Promise.all([store.close(), elsewhere.close()]);
});

test.concurrent("a sign-in service that takes its time and a Postgres that says nothing still leave an answer in time", async () => {
  const network = await behindNetwork(steady);
  const store = await postgresStore(network.url);
  const { call } = await desk({ store, keys: async (request) => Bun.sleep(1_800).then(() => keyServer()(request)) });
  network.turn("says nothing");
  const { result, ms } = await timed(call("begin_session", {}, await mint()));
  expect(ms).toBeLessThan(5_000);
  expect(result.content[0]!.text).toStartWith("The Reading Room can't continue right now.");
  await store.close();
});

test.concurrent("a save that was cut off half-way does not stand in the way of the next", async () => {
  const network = await behindNetwork(steady);
  const store = await postgresStore(network.url);
  await save(store, "ada", { shelf: { a1: "the quay" } });

  network.turn("falls silent half-way");
  await expect(save(store, "ada", { shelf: { a1: "the ferry" } })).rejects.toThrow();
  network.turn("fine");
  expect(await save(store, "ada", { shelf: { a2: "the island" } })).toMatchObject({ shelf: { a2: "the island" } });
  await store.close();
});

test.concurrent("a connection that is lost in the middle of a save is no reason for the gateway to end", async () => {
  const network = await behindNetwork(steady);
  const gateway = await startGateway({ DATABASE_URL: network.url });
  started.push(gateway.child);
  const use = await readerAt(gateway, "ada");
  let page = 0;
  const place = () => use("user_save_state", { shelf: { a1: `page ${page++}` } });
  expect(await place()).toHaveProperty("structuredContent");
  network.turn("hangs up half-way");
  for (const _ of ["once", "twice"]) {
    const told = await place();
    expect(told.content[0]!.text).toStartWith("The Reading Room can't continue right now.");
    expect((await fetch(`${gateway.url}/healthz`)).status).toBe(200);
  }
  network.turn("fine");
  expect(await place()).toHaveProperty("structuredContent");
  expect(gateway.err.text).toBe("");
  expect(gateway.child.exitCode).toBe(null);
});

test.concurrent("of saves under a network that keeps hanging up, every acknowledged one is kept", async () => {
  const network = await behindNetwork(steady);
  const [store, elsewhere] = await Promise.all([postgresStore(network.url), postgresStore(network.direct)]);
  const acknowledged: string[] = [];
  let failed = 0;
  for (let n = 0; n < 60; n++) {
    if (n % 4 === 3) setTimeout(() => (network.turn("hangs up"), network.turn("fine")), n % 5); // while the next save is under way
    await save(store, "ada", { shelf: { [`k${n}`]: "x" } }).then(() => acknowledged.push(`k${n}`), () => failed++);
  }
  expect(failed).toBeGreaterThan(0);
  expect(acknowledged.length).toBeGreaterThan(10);
  const { shelf } = await elsewhere.readState("ada");
  expect(acknowledged.filter((key) => !(key in shelf))).toEqual([]);
  await Promise.all([store.close(), elsewhere.close()]);
});

test.concurrent("something that hangs up is not stormed with connections, neither while calls wait nor after", async () => {
  const network = await behindNetwork(steady);
  const store = await postgresStore(network.url);
  await store.ping();
  network.turn("hangs up");
  network.knocks = 0;
  for (const end = Date.now() + 3_000; Date.now() < end; await Bun.sleep(100)) {
    await Promise.allSettled(["a", "b", "c", "d", "e"].map((person) => store.readState(person)));
  }
  const meanwhile = network.knocks;
  await Bun.sleep(500); // in which nobody asks for anything
  network.turn("fine");
  expect(meanwhile).toBeLessThan(200);
  expect(network.knocks - meanwhile).toBeLessThan(20);
  await store.close();
});

// ---- At the start ----

describe("A gateway whose Postgres", () => {
  test.concurrent.each<[string, () => Promise<string>]>([
    ["is not there", async () => `postgres://reader:a-very-secret-password@127.0.0.1:${await freePort()}/room`],
    ["takes connections and says nothing", async () => {
      const network = await behindNetwork(steady);
      network.turn("says nothing");
      return network.url;
    }],
    ["takes connections and hangs up", async () => {
      const network = await behindNetwork(steady);
      network.turn("hangs up");
      return network.url;
    }],
    ["has no such database", async () => (await steady.database()).replace(/\w+$/, "no_such_room")],
  ])("%s does not start, and says so in one line without the password", async (_, url) => {
    const from = performance.now();
    const { child, out, err } = await startGateway({ DATABASE_URL: await url() });
    expect(await child.exited).toBe(1);
    expect(performance.now() - from).toBeLessThan(10_000);
    await until(() => err.text.endsWith("\n"));
    expect(err.text).toMatch(/^Cannot start: .*DATABASE_URL.*\n$/);
    expect(err.text).not.toMatch(SECRETS);
    expect(out.text).toBe("");
  });
});
