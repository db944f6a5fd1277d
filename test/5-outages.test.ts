// What else can go wrong under load: a row that somebody locks, a database that restarts, a disk that is full, a file that is
// damaged, keys that are huge, a gateway that is told to stop. What the caller hears, and that nothing acknowledged is lost.

import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { Database } from "bun:sqlite";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createServer, type AddressInfo } from "node:net";
import postgres from "postgres";
import { postgresStore } from "../main.ts";
import { desk, freePort, ISSUER, type PostgresServer, postgresServer, publicJwk, readerAt, ROOT, scratch, startGateway, type ToolResult } from "./support.ts";

setDefaultTimeout(40_000);
let server: PostgresServer;
beforeAll(async () => { server = await postgresServer(); });
afterAll(() => server.stop());

const CANT = "The Reading Room can't continue right now.";
const timed = async <T>(work: Promise<T>) => {
  const start = performance.now();
  return { result: await work, ms: performance.now() - start };
};
test("a row that another session has locked stops its reader, and nobody else", async () => {
  const url = await server.database();
  const [store, elsewhere] = [await postgresStore(url), postgres(url, { max: 1 })];
  const room = await desk({ store, env: { RATE_LIMIT_PER_MINUTE: "1000" } });
  const [stuck, free] = [await room.enter("reader-A"), await room.enter("reader-B")];
  await stuck.use("user_save_state", { shelf: { a1: "before" } });
  const holding = elsewhere.begin(async (sql) => {
    await sql`select * from user_state where user_id = ${`${ISSUER}|reader-A`} for update`;
    const waiting = Array.from({ length: 30 }, (_, n) => timed(stuck.use("user_save_state", { shelf: { a2: `turn ${n}` } })));
    for (let n = 0; n < 20; n++) {
      const { result, ms } = await timed(free.use("user_save_state", { shelf: { a3: `turn ${n}` } }));
      expect(result).not.toHaveProperty("isError");
      expect(ms).toBeLessThan(500);
    }
    for (const { result, ms } of await Promise.all(waiting)) {
      expect(result.content[0]!.text).toStartWith(CANT);
      expect(ms).toBeLessThan(5_000);
    }
  });
  await holding;
  expect((await stuck.use("user_save_state", { shelf: { a2: "after" } })).structuredContent!.state.shelf).toEqual({ a1: "before", a2: "after" });
  await Promise.all([store.close(), elsewhere.end()]);
});

test("a Postgres that restarts under load costs the calls under way, and no acknowledged save", async () => {
  const frail = await postgresServer();
  const gateway = await startGateway({ DATABASE_URL: await frail.database(), RATE_LIMIT_PER_MINUTE: "1000000" });
  const acknowledged = new Map<string, string>();
  let failed = 0;
  let running = true;
  const workers = await Promise.all(Array.from({ length: 8 }, async (_, n) => ({ n, use: await readerAt(gateway, `reader-${n}`) })));
  const load = workers.map(async ({ n, use }) => {
    for (let turn = 0; running; turn++) {
      const place = `turn ${turn}`;
      const { isError } = await use("user_save_state", { shelf: { a1: place } });
      if (isError) failed++;
      else acknowledged.set(`reader-${n}`, place);
    }
  });
  await Bun.sleep(400);
  await frail.stop();
  await Bun.sleep(300);
  await frail.start();
  await Bun.sleep(600);
  running = false;
  await Promise.all(load);
  expect(failed).toBeGreaterThan(0);
  for (const { n, use } of workers) {
    expect((await use("user_get_state")).structuredContent!.state.shelf.a1).toBe(acknowledged.get(`reader-${n}`)!);
  }
  expect(gateway.child.exitCode).toBe(null);
  await gateway.stop();
  await frail.stop();
});

test("a disk that is full is said in words, articles can still be read, and what was acknowledged is there afterwards", async () => {
  const [folder, port] = [await scratch(), await freePort()];
  const file = join(folder, "room.sqlite");
  const env = { PATH: process.env.PATH!, HOME: folder, PORT: String(port), DATABASE_URL: `sqlite:${file}`, SESSION_SIGNING_SECRET: "s".repeat(43) };
  const child = Bun.spawn(["bash", "-c", `trap '' XFSZ; ulimit -f 600; exec bun run ${join(ROOT, "main.ts")}`], { env, cwd: folder, stdout: "ignore", stderr: "pipe" });
  const url = `http://localhost:${port}`;
  for (const end = Date.now() + 10_000; Date.now() < end; await Bun.sleep(50)) if (await fetch(`${url}/healthz`).then((r) => r.ok, () => false)) break;
  const token = async (sub: string) => (await fetch(`${url}/mock-auth/token?sub=${sub}&aud=${url}/mcp`)).text();
  const use = await readerAt({ url, mcp: `${url}/mcp`, token }, "reader-A");
  let kept = -1;
  let refused: ToolResult | undefined;
  for (let n = 0; n < 110 && !refused; n++) {
    const result = await use("user_save_state", { shelf: { a1: `${n} `.padEnd(280, "x") } });
    if (result.isError) refused = result;
    else kept = n;
  }
  expect(refused?.content[0]!.text).toStartWith(CANT);
  expect(kept).toBeGreaterThan(5); // then it was full
  expect(await use("domain_get_article", { id: "a1" })).not.toHaveProperty("isError");
  child.kill();
  await child.exited;
  const db = new Database(file);
  expect(JSON.parse((db.query("select state from user_state").get() as { state: string }).state).shelf.a1).toStartWith(`${kept} `);
  db.close();
});

test.each([["is no database", "this is a shopping list, and a long one: ".repeat(200)], ["is damaged", undefined]])(
  "a SQLite file that %s stops the start in one line", async (_, content) => {
    const file = join(await scratch(), "room.sqlite");
    if (content) await writeFile(file, content);
    else {
      const db = new Database(file);
      db.run("create table users (id text)");
      db.close();
      const bytes = new Uint8Array(await Bun.file(file).arrayBuffer());
      await writeFile(file, bytes.fill(0x7f, 40, 2_000));
    }
    const gateway = await startGateway({ DATABASE_URL: `sqlite:${file}` });
    expect(await gateway.child.exited).toBe(1);
    expect(gateway.err.text).toMatch(/^Cannot start: the database that DATABASE_URL names can't be used \(SQLiteError SQLITE_\w+[^\n]*\)\.\n$/);
  });

test("a sign-in service that publishes megabytes of keys does not keep its reader waiting", async () => {
  const others = Array.from({ length: 5_000 }, (_, n) => ({ ...publicJwk, kid: `another-${n}` }));
  const body = JSON.stringify({ keys: [...others, publicJwk] });
  const room = await desk({ keys: async (request) => (request.url === `${ISSUER}/jwks.json` ? new Response(body) : undefined) });
  const { result, ms } = await timed(room.enter());
  expect(await result.use("user_get_state")).not.toHaveProperty("isError");
  expect(ms).toBeLessThan(5_000);
});

test("a gateway that is told to stop under load exits 0, and has kept every save that it acknowledged", async () => {
  const url = await server.database();
  const gateway = await startGateway({ DATABASE_URL: url, RATE_LIMIT_PER_MINUTE: "1000000" });
  const use = await readerAt(gateway, "reader-A");
  let acknowledged = 0;
  const load = Array.from({ length: 12 }, async (_, n) => {
    for (let turn = 0; ; turn++) {
      const answer = await use("user_save_state", { shelf: { [`a${(n % 8) + 1}`]: `${n}, ${turn}` } }).catch(() => undefined);
      if (!answer) return; // nobody there any more
      expect(answer).not.toHaveProperty("isError");
      acknowledged++;
    }
  });
  await Bun.sleep(500);
  const start = performance.now();
  gateway.child.kill("SIGTERM");
  expect(await gateway.child.exited).toBe(0);
  expect(performance.now() - start).toBeLessThan(10_000);
  await Promise.all(load);
  expect(acknowledged).toBeGreaterThan(50);
  const sql = postgres(url, { max: 1 });
  const [{ count } = { count: 0 }] = await sql<{ count: number }[]>`select count(*)::int as count from actions`;
  expect(count).toBeGreaterThanOrEqual(acknowledged);
  expect(count).toBeLessThanOrEqual(acknowledged + 12); // written, and the answer cut off by the exit
  await sql.end();
});

test("a Postgres behind a name is asked for by that name when the connection is encrypted, as Neon needs it", async () => {
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
  await expect(postgresStore(`postgres://reader:secret@localhost:${port}/room?sslmode=require&channel_binding=require`)).rejects.toThrow();
  expect(hello).toContain("localhost"); // server_name, RFC 6066, section 3
  entrance.close();
});
