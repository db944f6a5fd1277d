// Section 10: the program as an operator meets it. How it starts, why it doesn't, what it prints,
// and how it ends. (What takes long is in proof/start.proof.ts.)

import { Database } from "bun:sqlite";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { closeSync, constants, openSync, readSync } from "node:fs";
import { copyFile, readdir, symlink } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type LogLine, logTo } from "../main.ts";
import { FILE, loadApp } from "./app.ts";
import { atEnd } from "./cleanup.ts";
import {
  askedToEnd, expectRefusedStart, freePort, logOf, personAt, publicJwk, ROOT, runToEnd, scratch,
  startGateway, until,
} from "./support.ts";

setDefaultTimeout(20_000); // milliseconds: programs are started by the dozen

const POSIX = process.platform !== "win32";
if (!POSIX) console.warn("SKIPPED on Windows: signals, a log pipe that nobody drains, a terminal");

type Gateway = Awaited<ReturnType<typeof startGateway>>;
const openAt = ({ mcp }: Gateway, name = "Notebook") => `The ${name} is open at ${mcp}`;
const mockAt = ({ url }: Gateway) => `${url}/mock-auth (mock-auth.ts)`;

// ---- It starts ----

describe.concurrent("A start", () => {
  test("of your app, with only a port set, says where it is open, and what with", async () => {
    const { name, slug } = await loadApp();
    const CWD = await scratch();
    const gateway = await startGateway({ CWD, DATABASE_URL: "" }, FILE);
    const call = await personAt(gateway, "ada");
    expect((await call("user_get_state")).isError).toBeUndefined();
    const memory = `sqlite:${slug}.sqlite`;
    const says = `${openAt(gateway, name)}; sign-in: ${mockAt(gateway)}; memory: ${memory}\n`;
    expect(gateway.err.text).toBe(says);
    expect(await readdir(CWD)).toContain(`${slug}.sqlite`);
    await gateway.stop();
  });

  test("asks for the sign-in service's keys, and warns when there are none", async () => {
    const asked: string[] = [];
    const service = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch: ({ url }) => {
        asked.push(new URL(url).pathname);
        if (url.endsWith("/good")) return Response.json({ keys: [publicJwk] });
        return new Response("<!doctype html><title>Not here</title>", { status: 404 });
      },
    });
    atEnd(() => service.stop(true));
    const AUTH_ISSUER = `http://127.0.0.1:${service.port}`;
    const from = (path: string) =>
      startGateway({ AUTH_ISSUER, AUTH_JWKS_URL: AUTH_ISSUER + path });
    const [good, gone] = await Promise.all([from("/good"), from("/gone")]);
    const warns = ({ err }: Gateway) => err.text.includes("\nWARNING: AUTH_JWKS_URL gives no keys");
    await until(() => warns(gone) && asked.length === 2);
    expect(warns(good)).toBe(false);
    expect(asked.sort()).toEqual(["/gone", "/good"]);
    await Promise.all([good.stop(), gone.stop()]);
  });

  test("finds what was saved before, and takes a session of then", async () => {
    const env = {
      DATABASE_URL: `sqlite:${join(await scratch(), "kept.sqlite")}`,
      SESSION_SIGNING_SECRET: "s".repeat(43),
      PORT: String(await freePort()),
    };
    const first = await startGateway(env);
    const call = await personAt(first, "ada");
    await call("user_write", { mood: "calm" });
    await first.stop();
    const second = await startGateway(env);
    expect((await call("user_get_state")).structuredContent!.state.mood).toBe("calm");
    await second.stop();
  });
});

// ---- It refuses to start ----

describe.concurrent("A start is refused, with code 1 and one line,", () => {
  test.each<[string, Record<string, string>, RegExp]>([
    ["with a short secret", { SESSION_SIGNING_SECRET: "hunter2" }, /SESSION_SIGNING_SECRET takes/],
    [
      "with a SQLite file where it can't be",
      { DATABASE_URL: "sqlite:/no/such/hunter2/a.sqlite" },
      /the database that DATABASE_URL names can't be used \(.*ENOENT/,
    ],
  ])("%s", (_, env, says) => expectRefusedStart(env, says));

  test("when another program has the port", async () => {
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
    const { port } = other.address() as AddressInfo;
    const err = `Cannot start: PORT ${port} is taken by another program.\n`;
    expect(await runToEnd({ PORT: String(port) })).toEqual({ out: "", err, code: 1 });
    other.close();
  });

  test("by a Bun that is too old", async () => {
    const folder = await scratch();
    for (const file of ["main.ts", "mock-auth.ts"]) {
      await copyFile(join(ROOT, file), join(folder, file));
    }
    await symlink(join(ROOT, "node_modules"), join(folder, "node_modules"), "junction");
    const wanted = { version: "1.0.0", type: "module", engines: { bun: ">=99" } };
    await Bun.write(join(folder, "package.json"), JSON.stringify(wanted));
    const err = `Cannot start: Bun >=99 is needed (this is ${Bun.version}).\n`;
    expect(await runToEnd({}, join(folder, "main.ts"))).toEqual({ out: "", err, code: 1 });
  });
});

// ---- It logs ----

test("stdout has a JSON line for each call, and nothing that was said", async () => {
  const path = join(await scratch(), "log.sqlite");
  const gateway = await startGateway({ DATABASE_URL: `sqlite:${path}` });
  const email = "canary@canary.example";
  const query = `sub=ada&aud=${gateway.mcp}&email=${email}`;
  const token = await (await fetch(`${gateway.url}/mock-auth/token?${query}`)).text();
  const post = async (authorization: string, name: string, args: object) => {
    const accept = "application/json, text/event-stream";
    const response = await fetch(`${gateway.mcp}?canary=canary`, {
      method: "POST",
      headers: { authorization, accept, "content-type": "application/json", "x-canary": "canary" },
      body: JSON.stringify({
        jsonrpc: "2.0", id: 1, method: "tools/call", params: { name, arguments: args },
      }),
    });
    return response.text();
  };
  const call = (name: string, args: object) => post(`Bearer ${token}`, name, args);

  const opened = await call("begin_session", { session: "canary" });
  const session = opened.match(/"session":"([\w-]{18})"/)![1]!;
  await call("user_write", { session, mood: "canary", notes: { canary: "canary" } });
  await call("user_write", { session, canary: "canary" });
  await call("domain_get_word", { session, word: "canary" });
  await call("user_get_state", { session: "canary-canary-canary-cana" });
  await call("no_such_canary", { session });
  await post(`Bearer ${token}canary`, "health", {});
  const db = new Database(path);
  db.run("drop table user_state");
  db.close();
  await call("user_get_state", { session });
  await call("health", { session });
  await until(() => logOf(gateway).length >= 9);

  const facts = {
    at: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
    ref: expect.stringMatching(/^[0-9a-f]{8}$/),
  };
  const line = (tool: string, rest: object) =>
    ({ ...facts, sub: "ada", tool, ...rest, ms: expect.any(Number) });
  const failed = { outcome: "failed", error: expect.any(String) };
  const logged = logOf(gateway);
  expect<object[]>(logged).toEqual([
    line("begin_session", { outcome: "ok" }),
    line("user_write", { outcome: "ok" }),
    line("user_write", { outcome: "refused", why: "arguments" }),
    line("domain_get_word", { outcome: "refused", why: "word" }),
    line("user_get_state", { outcome: "refused", why: "session" }),
    line("unknown", { outcome: "refused", why: "tool" }),
    { ...facts, outcome: "refused", why: expect.stringMatching(/^sign-in: /) },
    line("user_get_state", failed),
    line("health", failed),
  ]);
  expect(new Set(logged.map(({ ref }) => ref)).size).toBe(9);
  const printed = gateway.out.text + gateway.err.text;
  expect(printed).not.toContain("canary");
  for (const part of [session, ...token.split(".")]) expect(printed).not.toContain(part);
  await gateway.stop();
});

/** A gateway whose log goes into a pipe that nobody reads. */
async function unreadGateway() {
  const pipe = join(await scratch(), "log");
  spawnSync("mkfifo", [pipe]);
  const reader = openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK);
  const writer = openSync(pipe, constants.O_WRONLY);
  const port = await freePort();
  const child = Bun.spawn(["bun", join(ROOT, "test/sample-gateway.ts")], {
    cwd: await scratch(), // where no .env is
    env: { PATH: process.env.PATH!, PORT: String(port), DATABASE_URL: "sqlite::memory:" },
    stdout: writer,
    stderr: "ignore",
  });
  atEnd(() => child.kill("SIGKILL"));
  closeSync(writer);
  const url = `http://localhost:${port}`;
  await until(() => fetch(`${url}/health`).then(({ ok }) => ok, () => false));
  const knock = async () => {
    const headers = { authorization: "Bearer nonsense" };
    const signal = AbortSignal.timeout(3_000);
    return (await fetch(`${url}/mcp`, { method: "POST", headers, signal })).status;
  };
  for (let calls = 0; calls < 3_000; calls += 100) { // far more than a pipe holds
    expect(await Promise.all(Array.from({ length: 100 }, knock))).toEqual(Array(100).fill(401));
  }
  const readAll = async () => {
    let text = "";
    const buffer = Buffer.alloc(64 * 1024);
    await until(() => {
      try {
        for (let size; (size = readSync(reader, buffer)) > 0;) text += buffer.toString("utf8", 0, size);
      } catch { /* nothing there right now */ }
      return text.split("\n").length > 3_000;
    });
    const lines = text.trim().split("\n").map((line) => JSON.parse(line) as { dropped?: number });
    expect(lines).toHaveLength(3_000);
    expect(lines.filter(({ dropped }) => dropped)).toEqual([]);
  };
  return { child, reader, knock, readAll };
}

test.skipIf(!POSIX)("a log that nobody reads keeps nobody waiting, and loses nothing", async () => {
  const { child, reader, knock, readAll } = await unreadGateway();
  await readAll();

  closeSync(reader); // whoever read the log has gone
  for (let calls = 0; calls < 30; calls++) { // it would notice after a tenth of a second
    expect(await knock()).toBe(401);
    await Bun.sleep(25);
  }
  child.kill("SIGKILL");
  await child.exited;
});

test.skipIf(!POSIX)("at the end the log waits a second for who reads late", async () => {
  const { child, readAll } = await unreadGateway();
  child.kill("SIGTERM");
  await Bun.sleep(200);
  await readAll();
  expect(await child.exited).toBe(0);
});

test("what a slow log would have us hold beyond 1 MiB is dropped, and counted", async () => {
  const written: string[] = [];
  const taken: (() => void)[] = [];
  const log = logTo({ write: (text, done) => (written.push(text), taken.push(done)) });
  const big = "x".repeat(1024 * 1024);
  const line = (ref: string): LogLine => ({ at: "now", ref, outcome: "ok" });
  const text = (ref: string, more = {}) => `${JSON.stringify({ ...line(ref), ...more })}\n`;
  const nextTurn = () => new Promise((resolve) => setImmediate(resolve));
  log(line("1"));
  log(line(big));
  log(line("3"));
  await nextTurn();
  for (const ref of ["4", "5"]) log(line(ref));
  await nextTurn();
  for (const done of taken.splice(0)) done();
  log(line("6"));
  log(line("7"));
  await nextTurn();
  expect(written).toEqual([text("1") + text(big), text("6", { dropped: 3 }) + text("7")]);
});

test.skipIf(!POSIX)("a pipe that is read too late holds little, and says what is missing", async () => {
  const script = `const { logTo } = await import("${ROOT}/main.ts");
    const log = logTo(process.stdout);
    const line = { at: "now", ref: "x".repeat(1000), outcome: "ok" };
    for (let n = 0; n < 6000; n++) { log(line); if (n % 100 === 0) await Bun.sleep(1); }
    await Bun.sleep(1500); // by then somebody reads
    log(line);`;
  const child = Bun.spawn(["sh", "-c", `bun -e '${script}' | (sleep 1; cat)`], { cwd: ROOT });
  const out = await child.stdout.text();
  const lines = out.trim().split("\n").map((text) => JSON.parse(text) as { dropped?: number });
  expect(lines.length).toBeLessThan(2_000); // of 6,001 of 1 KB
  expect(lines.at(-1)!.dropped).toBe(6_001 - lines.length);
});

const TERMINAL = process.platform === "linux" && Bun.which("script");
if (!TERMINAL) console.warn("SKIPPED: what a person sees at a terminal (needs Linux's `script`)");
test.skipIf(!TERMINAL)("at a terminal a person is told what to paste, and no secret", async () => {
  const port = String(await freePort());
  const secret = "hunter2-".repeat(5);
  const command = `exec bun run ${join(ROOT, "test/sample-gateway.ts")}`;
  const child = Bun.spawn(["script", "-qec", command, "/dev/null"], {
    cwd: tmpdir(),
    env: {
      PATH: process.env.PATH!, PORT: port, DATABASE_URL: "sqlite::memory:",
      SESSION_SIGNING_SECRET: secret,
    },
    stdin: "pipe",
    stdout: "pipe",
  });
  atEnd(() => child.kill("SIGKILL"));
  let screen = "";
  const reading = (async () => {
    for await (const chunk of child.stdout) screen += new TextDecoder().decode(chunk);
  })();
  const url = `http://localhost:${port}/mcp`;
  await until(() => screen.includes("in a browser"));
  for (const told of [
    `The Notebook is open at ${url}`,
    `sign-in   http://localhost:${port}/mock-auth (mock-auth.ts)`,
    "memory    sqlite::memory:",
    `claude mcp add --transport http notebook ${url}`,
    "any app       open the URL above in a browser",
  ]) expect(screen).toContain(told);
  expect(screen).not.toContain("hunter2");
  child.stdin.write("\u0003"); // Ctrl+C
  child.stdin.flush();
  expect(await child.exited).toBe(0);
  await reading;
});

// ---- It ends ----

describe.skipIf(!POSIX).concurrent("It ends on SIGTERM", () => {
  test("once a call under way is answered, with code 0", async () => {
    const { gateway, writer, save } = await askedToEnd("SIGTERM");
    expect(gateway.child.exitCode).toBe(null);
    await writer.release();
    expect(await save).toMatchObject({ structuredContent: { state: { mood: "calm" } } });
    expect(await gateway.child.exited).toBe(0);
    await until(() => gateway.out.text.includes('"user_write"')); // its line is written, too
    expect(gateway.err.text).toMatch(/^The Notebook is open at [^\n]*\n$/);
  });

  test("at once, when it is asked twice", async () => {
    const { gateway, writer, save } = await askedToEnd("SIGTERM");
    const begun = performance.now();
    gateway.child.kill("SIGTERM");
    expect(await gateway.child.exited).toBe(1);
    expect(performance.now() - begun).toBeLessThan(1_000);
    expect(await save).toBeInstanceOf(Error);
    await writer.release();
  });
});
