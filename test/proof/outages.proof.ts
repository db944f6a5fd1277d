// What else can go wrong: rows that somebody holds, connections that are cut at every point,
// replicas that start at once, a pooler or a slow network in between, a full disk, a stop.
//
//   RUNS=20 bun test ./test/proof/outages.proof.ts        more of what is done several times

import { Database } from "bun:sqlite";
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { chmod, writeFile } from "node:fs/promises";
import { type AddressInfo, connect, createServer } from "node:net";
import { join } from "node:path";
import postgres from "postgres";
import { postgresStore, sqliteStore, type Store } from "../../main.ts";
import {
  busyWriter, freePort, gateway, personAt, postgresIsHere, type PostgresServer, postgresServer,
  ROOT, scratch, startGateway, until,
} from "../support.ts";
import { atEnd } from "../cleanup.ts";
import { asOwner, networkTo, speakTls, timed } from "./network.ts";

setDefaultTimeout(60_000);
const RUNS = Number(process.env.RUNS ?? 3);
const RATE = { RATE_LIMIT_PER_MINUTE: "100000" };
const CANT = "The Notebook can't continue right now.";
const PGBOUNCER = "/usr/sbin/pgbouncer";
const many = (count: number) => Array.from({ length: count }, (_, n) => n);

let server: PostgresServer;
beforeAll(async () => {
  if (!postgresIsHere) throw new Error("PostgreSQL's binaries are not installed");
  server = await postgresServer();
  await speakTls(await server.database());
});
const opened: Store[] = [];
afterAll(() => Promise.all(opened.map((store) => store.close())), 20_000);
async function openStore(url: string): Promise<Store> {
  const store = await postgresStore(url);
  opened.push(store);
  return store;
}
async function behindNetwork(tls = "") {
  const network = await networkTo(await server.database());
  return { network, ...(await gateway({ store: await openStore(network.url + tls), env: RATE })) };
}

// ---- A row that somebody holds ----

test.concurrent("a row that somebody holds stops its person within five seconds, and nobody else",
  async () => {
  const url = await server.database();
  const { enter, send } = await gateway({ store: await openStore(url), env: RATE });
  const [stuck, free] = [await enter("ada"), await enter("ben")];
  await stuck.use("user_write", { mood: "before" });
  const elsewhere = postgres(url, { max: 1 });
  const waiting = async () => (await elsewhere`select 1 from pg_stat_activity
    where datname = current_database() and wait_event_type = 'Lock'`).length;
  await elsewhere`begin`;
  await elsewhere`select * from user_state where user_id = 'local|ada' for update`;

  const theirs = Promise.all(many(30).map(() => timed(stuck.use("user_write", { mood: "late" }))));
  for (const n of many(20)) {
    const { result, ms } = await timed(free.use("user_write", { mood: `m${n}` }));
    expect(result.isError).toBeUndefined();
    expect(ms).toBeLessThan(700);
    expect((await send("/health")).status).toBe(200);
    await Bun.sleep(50);
  }
  for (const { result, ms } of await theirs) {
    expect(result.content[0]!.text).toStartWith(CANT);
    expect(ms).toBeLessThan(5_000);
  }
  expect(await waiting()).toBe(0);
  await elsewhere`rollback`;
  await Bun.sleep(200);
  expect((await stuck.use("user_get_state")).structuredContent!.state.mood).toBe("before");
  expect((await stuck.use("user_write", { mood: "after" })).isError).toBeUndefined();
  await elsewhere.end();
});

// ---- Connections: how many, and whose ----

describe.each([["", ""], [" over TLS", "?sslmode=require"]])("A network%s", (_, tls) => {
  test.concurrent.each([1, 2, 3, 4, 5, 6])(
    "that hangs up at our message %d is knocked at once a call, and works afterwards",
      async (messages) => {
      const { network, store, enter } = await behindNetwork(tls);
      const { use } = await enter();
      network.turn("hangs up"); // none is open any more
      await Bun.sleep(50);
      network.turn("hangs up soon", { messages });
      network.knocks = 0;
      for (const n of many(10)) {
        const { isError, structuredContent } = await use("user_write", { mood: `m${n}` });
        expect(isError || structuredContent!.state.mood === `m${n}`).toBe(true);
      }
      expect(network.knocks).toBeGreaterThan(0);
      expect(network.knocks).toBeLessThanOrEqual(22); // a change is a read and a write, at least
      const before = network.knocks;
      await Bun.sleep(1_500); // in which nobody asks for anything
      expect(network.knocks).toBe(before);
      network.turn("fine");
      expect((await use("user_write", { mood: "after" })).isError).toBeUndefined();
      await store.close();
      await until(() => network.open.size === 0, 2_000);
    });

  test.concurrent("that hangs up after many calls is knocked at no more often", async () => {
    const { network, store } = await behindNetwork(tls);
    await Promise.all(many(30).map(() => store.ping()));
    network.turn("hangs up");
    await Bun.sleep(50);
    network.knocks = 0;
    while (network.knocks === 0) { // the store may not have heard of it yet
      await expect(store.read("ada")).rejects.toThrow();
    }
    expect(network.knocks).toBe(1);
  });

  test.concurrent("that says nothing for a long time has few connections, and no rush afterwards",
    async () => {
    const { network, store } = await behindNetwork(tls);
    network.turn("says nothing");
    network.knocks = 0;
    let most = 0;
    const calls: Promise<unknown>[] = [];
    for (const end = Date.now() + 12_000; Date.now() < end; await Bun.sleep(100)) {
      calls.push(...many(3).map(() => store.read("ada").catch(() => {})));
      most = Math.max(most, network.open.size);
    }
    await Promise.all(calls);
    expect(most).toBeLessThanOrEqual(30);
    await until(() => network.open.size === 0, 3_000); // also those that were half-way open
    const before = network.knocks;
    network.turn("fine");
    await Promise.all(many(5).map(() => store.read("ada")));
    await Bun.sleep(500);
    expect(network.knocks - before).toBeLessThanOrEqual(5);
  });

  test.concurrent("that is left alone has no connection after a while, which is no loss",
    async () => {
    const { network, store } = await behindNetwork(tls);
    const pings = () => Promise.all(many(5).map(() => store.ping()));
    await pings();
    expect(network.open.size).toBeGreaterThan(0);
    await until(() => network.open.size === 0, 25_000);
    await pings();
  });

  test.concurrent("that is used for long does not make us keep what is closed", async () => {
    const { network, store } = await behindNetwork(tls);
    await Promise.all(many(30).map(() => store.ping()));
    expect(network.open.size).toBeLessThanOrEqual(10);
    for (const n of many(10)) {
      network.turn("hangs up"); // while nobody asks
      network.turn("fine");
      await Bun.sleep(150);
      expect([n, await store.read("ada")]).toEqual([n, undefined]);
    }
    await store.close();
    await until(() => network.open.size === 0, 2_000);
  });
});

/** How many of this machine's connections to a port wait to be taken (SYN_SENT). */
async function knocking(port: string): Promise<number> {
  const to = `:${Number(port).toString(16).toUpperCase().padStart(4, "0")} 02 `;
  return (await Bun.file("/proc/net/tcp").text()).split(to).length - 1;
}
test.concurrent.skipIf(process.platform !== "linux")(
  "connections that nobody takes are given up (NOT TESTED but on Linux)",
  async () => {
    const url = new URL(await server.database());
    const script = `
      const { connect, createServer } = require("net");
      const [, target, port] = process.argv;
      createServer((near) => {
        const far = connect(target, "127.0.0.1").on("error", () => {});
        near.on("error", () => {}).pipe(far).pipe(near);
      }).listen({ port, host: "127.0.0.1", backlog: 1 }, () => console.log("open"));`;
    const port = String(await freePort());
    const entrance = Bun.spawn(["bun", "-e", script, url.port, port], { stdout: "pipe" });
    atEnd(() => entrance.kill("SIGKILL"));
    await entrance.stdout.getReader().read();
    url.port = port;
    const store = await openStore(url.href);

    entrance.kill("SIGSTOP"); // it takes nobody any more, and soon nobody more can wait
    const crowd = many(700).map(() => connect(Number(port), "127.0.0.1").on("error", () => {}));
    await Bun.sleep(500);
    const before = await knocking(port);
    expect(before).toBeGreaterThan(0);
    await Promise.all(many(30).map(() => store.read("ada").catch(() => {})));
    const ours = await knocking(port) - before;
    expect(ours).toBeGreaterThan(0);
    expect(ours).toBeLessThanOrEqual(10);
    await Bun.sleep(1_500);
    expect(await knocking(port)).toBe(before);
    for (const socket of crowd) socket.destroy();
    entrance.kill("SIGCONT"); // the crowd is let in first, and may leave no place for a while
    await until(() => store.read("ada").then((row) => row === undefined, () => false));
  });

test.concurrent("a store that is closed while it connects leaves no connection", async () => {
  const { network, store } = await behindNetwork();
  network.turn("hangs up");
  await Bun.sleep(50);
  network.turn("says nothing");
  const asked = many(5).map(() => store.read("ada").catch(() => {}));
  await until(() => network.open.size > 0);
  await store.close();
  await until(() => network.open.size === 0, 2_000);
  await Promise.all(asked);
});

// ---- Several, and something in between ----

test(`replicas that start at once on an empty database all start (${RUNS} times)`, async () => {
  for (const _ of many(RUNS)) {
    const url = await server.database();
    const stores = await Promise.all(many(4).map(() => openStore(url)));
    await Promise.all(stores.map((store, n) => store.welcome(`p${n}`, null)));
    for (const n of many(4)) expect(await stores[0]!.read(`p${n}`)).toMatchObject({ state: {} });
  }
});

test("on a network of 10 ms forty saves of one person at once are all kept in time", async () => {
  const { network, enter, store } = await behindNetwork();
  const { use } = await enter();
  await Promise.all(many(10).map(() => store.read("ada")));
  network.turn("is slow", { delay: 5 }); // each way
  const one = await timed(use("user_write", { mood: "one" }));
  const forty = await timed(Promise.all(many(40).map((n) =>
    timed(use("user_write", { notes: { [`n${n % 20}`]: `${n}` } })))));
  const failed = forty.result.filter(({ result }) => result.isError);
  const slowest = Math.max(...forty.result.map(({ ms }) => ms));
  console.log(`10 ms there and back: one save ${Math.round(one.ms)} ms, \
forty at once ${Math.round(forty.ms)} ms, the slowest ${Math.round(slowest)} ms`);
  expect(failed).toEqual([]);
  expect((await store.read("local|ada"))!.receipts).toHaveLength(41);
});

const missing = existsSync(PGBOUNCER) ? "" : ` (NOT TESTED: there is no ${PGBOUNCER})`;
test.skipIf(missing !== "")(`PgBouncer in transaction mode makes no difference${missing}`,
  async () => {
  const direct = new URL(await server.database());
  const [folder, port] = [await scratch(), await freePort()];
  const [ini, users] = [join(folder, "pgbouncer.ini"), join(folder, "users.txt")];
  await writeFile(users, `"reader" "a-very-secret-password"\n`);
  await writeFile(ini, `[databases]
* = host=127.0.0.1 port=${direct.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = plain
auth_file = ${users}
pool_mode = transaction
default_pool_size = 3
`);
  for (const path of [folder, ini, users]) await chmod(path, 0o755);
  const asNobody = process.getuid?.() === 0 ? ["-u", "nobody"] : [];
  const child = spawn(PGBOUNCER, [...asNobody, ini], { stdio: "ignore" });
  atEnd(() => child.kill("SIGKILL"));
  direct.port = String(port);
  await until(() => asOwner(direct.href, "select 1").then(() => true, () => false));

  const store = await openStore(direct.href);
  const { enter, send } = await gateway({ store, env: RATE });
  const { use } = await enter();
  const results = await Promise.all(many(40).map((n) =>
    use("user_write", { notes: { [`n${n % 20}`]: `${n}` } })));
  expect(results.filter(({ isError }) => isError)).toEqual([]);
  expect((await store.read("local|ada"))!.receipts).toHaveLength(40);
  expect((await use("user_undo")).isError).toBeUndefined();
  const others = await Promise.all(many(20).map(async (n) => {
    const { use } = await enter(`p${n}`);
    return use("user_write", { mood: "x" });
  }));
  expect(others.filter(({ isError }) => isError)).toEqual([]);
  const { confirm } = (await use("user_forget_me")).structuredContent!;
  expect((await use("user_forget_me", { confirm })).structuredContent!.forgotten).toBe(true);
  expect((await send("/health")).status).toBe(200);
});

// ---- A connection string as the Neon console prints it ----

describe("A connection string as the Neon console prints it", () => {
  const asked = "?sslmode=require&channel_binding=require";

  test("opens a store whose every connection is encrypted", async () => {
    const url = await server.database();
    const store = await openStore(url + asked);
    await Promise.all(many(8).map((n) => store.welcome(`p${n}`, null)));
    const sql = postgres(url, { max: 1 });
    const connections = await sql<{ version: string | null }[]>`
      select version from pg_stat_ssl join pg_stat_activity using (pid)
      where datname = current_database() and pid <> pg_backend_pid()`;
    expect(connections.length).toBeGreaterThan(0);
    for (const { version } of connections) expect(version).toMatch(/^TLSv1\.[23]$/);
    await sql.end();
  });

  test("away from this machine, refuses a server that nobody vouches for", async () => {
    const elsewhere = (await server.database()).replace("127.0.0.1", "0.0.0.0"); // leads here, too
    const refused = { code: "DEPTH_ZERO_SELF_SIGNED_CERT" };
    await expect(postgresStore(elsewhere + asked)).rejects.toMatchObject(refused);
  });

  test("asks for the server by its name", async () => {
    let hello = "";
    const entrance = createServer((socket) => {
      socket.on("error", () => {});
      socket.once("data", () => {
        socket.write("S"); // yes, we speak TLS
        socket.once("data", (bytes) => { hello = bytes.toString("latin1"); socket.destroy(); });
      });
    });
    await new Promise<void>((resolve) => entrance.listen(0, "127.0.0.1", resolve));
    const { port } = entrance.address() as AddressInfo;
    const url = `postgres://reader:secret@localhost:${port}/room${asked}`;
    await expect(postgresStore(url)).rejects.toThrow();
    expect(hello).toContain("localhost"); // server_name, RFC 6066, section 3
    entrance.close();
  });
});

// ---- A SQLite file ----

test.concurrent("a file that another program never lets go of fails a change in time", async () => {
  const path = join(await scratch(), "test.sqlite");
  const store = await sqliteStore(path);
  opened.push(store);
  const { use } = await (await gateway({ store })).enter();
  const writer = await busyWriter(path);
  const { result, ms } = await timed(use("user_write", { mood: "late" }));
  expect(result.content[0]!.text).toStartWith(CANT);
  expect(ms).toBeLessThan(5_000);
  await writer.release();
  await Bun.sleep(300);
  expect((await use("user_get_state")).structuredContent!.state.mood).toBe(null);
});

test.concurrent("a disk that is full is said in words, and what was acknowledged is there",
  async () => {
  const [folder, port] = [await scratch(), await freePort()];
  const file = join(folder, "test.sqlite");
  const env = {
    PATH: process.env.PATH!, HOME: folder, PORT: String(port), ...RATE,
    DATABASE_URL: `sqlite:${file}`,
  };
  const start = `trap '' XFSZ; ulimit -f 600; exec bun run ${join(ROOT, "test/sample-gateway.ts")}`;
  const quiet = { stdout: "ignore", stderr: "ignore" } as const;
  const child = Bun.spawn(["bash", "-c", start], { env, cwd: folder, ...quiet });
  atEnd(() => child.kill("SIGKILL"));
  const url = `http://localhost:${port}`;
  await until(() => fetch(`${url}/health`).then(({ ok }) => ok, () => false));
  const token = async (sub: string) =>
    (await fetch(`${url}/mock-auth/token?sub=${sub}&aud=${url}/mcp`)).text();
  const use = await personAt({ url, mcp: `${url}/mcp`, token }, "ada");
  let kept = -1;
  let told = "";
  for (let n = 0; n < 200 && told === ""; n++) {
    const notes = { a: `${n} `.padEnd(280, "x") };
    const { isError, content } = await use("user_write", { notes });
    if (isError) told = content[0]!.text;
    else kept = n;
  }
  expect(told).toStartWith(CANT);
  expect(kept).toBeGreaterThan(5); // then it was full
  expect((await use("domain_list_words")).isError).toBeUndefined();
  child.kill();
  await child.exited;
  const db = new Database(file);
  const { state } = db.query("select state from user_state").get() as { state: string };
  expect(JSON.parse(state).notes.a).toStartWith(`${kept} `);
  db.close();
});

test.concurrent.each([["is no database", false], ["is damaged", true]])(
  "a file that %s stops the start in one line", async (_, wasDatabase) => {
    const file = join(await scratch(), "test.sqlite");
    await writeFile(file, "this is a shopping list, and a long one: ".repeat(200));
    if (wasDatabase) {
      await Bun.file(file).delete();
      const db = new Database(file);
      db.run("create table users (id text)");
      db.close();
      const bytes = new Uint8Array(await Bun.file(file).arrayBuffer());
      await writeFile(file, bytes.fill(0x7f, 40, 2_000));
    }
    const { child, err } = await startGateway({ DATABASE_URL: `sqlite:${file}` });
    expect(await child.exited).toBe(1);
    expect(err.text).toMatch(/^Cannot start: .*DATABASE_URL.*SQLITE_\w+.*\n$/);
    expect(err.text.trim().split("\n")).toHaveLength(1);
  });

// ---- A stop ----

test("a gateway that is told to stop under load exits 0, and has kept what it acknowledged",
  async () => {
  const url = await server.database();
  const at = await startGateway({ DATABASE_URL: url, ...RATE });
  const people = await Promise.all(many(12).map((n) => personAt(at, `p${n}`)));
  const acknowledged = new Map<number, number>();
  const load = people.map(async (use, n) => {
    for (let turn = 0; ; turn++) {
      const answer = await use("user_write", { mood: `${turn}` }).catch(() => undefined);
      if (!answer) return; // nobody there any more
      expect(answer.isError).toBeUndefined();
      acknowledged.set(n, turn);
    }
  });
  await Bun.sleep(500);
  at.child.kill("SIGTERM");
  const { result, ms } = await timed(at.child.exited);
  expect(result).toBe(0);
  expect(ms).toBeLessThan(10_000);
  await Promise.all(load);
  const store = await openStore(url);
  for (const [n, turn] of acknowledged) {
    expect(turn).toBeGreaterThan(3);
    const { mood } = (await store.read(`local|p${n}`))!.state as { mood: string };
    expect([turn, turn + 1]).toContain(Number(mood)); // or one more, whose answer the exit cut off
  }
});
