// The whole program, as an operator meets it: how it starts, why it doesn't, what it prints, and how it ends.

import { Database } from "bun:sqlite";
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cp, mkdir, symlink } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { busyWriter, freePort, ROOT, scratch, startGateway, type ToolResult, until } from "./support.ts";

setDefaultTimeout(30_000);

type Gateway = Awaited<ReturnType<typeof startGateway>>;
const started: Bun.Subprocess[] = [];
afterAll(async () => { for (const child of started) child.kill("SIGKILL"), await child.exited; });
async function start(env: Record<string, string> = {}): Promise<Gateway> {
  const gateway = await startGateway(env);
  started.push(gateway.child);
  return gateway;
}

/** A client over the wire; like many, it opens a connection a call. */
function client(url: string, token: string) {
  const call = async (name: string, args: object = {}): Promise<ToolResult & { error?: object }> => {
    const response = await fetch(url, {
      method: "POST",
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json", accept: "application/json, text/event-stream", connection: "close" },
      body: JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/call", params: { name, arguments: args } }),
    });
    const text = await response.text();
    const { result, error } = JSON.parse(text.match(/^data: ([^\n]*)$/m)?.[1] ?? text);
    return { ...result, ...(error && { error }) };
  };
  const enter = async () => {
    const session = (await call("begin_session")).structuredContent!.session as string;
    return { session, use: (name: string, args: object = {}) => call(name, { session, ...args }) };
  };
  return { call, enter };
}
const lines = (gateway: Gateway) => gateway.out.text.split("\n").filter(Boolean);

// ---- It starts ----

test("bun run main.ts, with nothing set but a port, answers its first call", async () => {
  const gateway = await start();
  const { use } = await client(gateway.mcp, await gateway.token("reader-A")).enter();
  expect((await use("domain_list_articles")).structuredContent!.articles).not.toBeEmpty();
  expect(gateway.err.text).toBe("");
});

test("a shelf in a SQLite file outlives a restart, and so does a session under the same secret", async () => {
  const folder = await scratch();
  const env = { DATABASE_URL: `sqlite:${join(folder, "room.sqlite")}`, SESSION_SIGNING_SECRET: "s".repeat(43), PORT: String(await freePort()) };
  const state = { reading: { id: "a3", position: "second sentence" }, shelf: { a1: "finished" } };

  const first = await start(env);
  const token = await first.token("reader-A");
  const { use } = await client(first.mcp, token).enter();
  expect((await use("user_save_state", state)).structuredContent).toMatchObject({ state });
  await first.stop();

  await start(env);
  expect((await use("user_get_state")).structuredContent).toMatchObject({ state });
});

// ---- It refuses to start ----

/** Runs a program that is expected to refuse. */
async function refusal(env: Record<string, string>, folder = ROOT) {
  const child = Bun.spawn(["bun", "run", join(folder, "main.ts")], {
    cwd: tmpdir(),
    env: { PATH: process.env.PATH!, HOME: process.env.HOME ?? tmpdir(), PORT: String(await freePort()), DATABASE_URL: "sqlite::memory:", ...env },
    stdout: "pipe",
    stderr: "pipe",
    timeout: 12_000, // it did start
  });
  const [out, err, code] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text(), child.exited]);
  return { out, err, code };
}

describe("A start with", () => {
  test.each<[string, string, Record<string, string>]>([
    ["a PORT that is no number", "PORT", { PORT: "eighty" }],
    ["a RESOURCE_URL that is not its /mcp", "RESOURCE_URL", { RESOURCE_URL: "http://localhost:8000/" }],
    ["an issuer without its keys", "AUTH_JWKS_URL", { AUTH_ISSUER: "https://sign-in.example" }],
    ["an issuer over http", "AUTH_ISSUER", { AUTH_ISSUER: "http://sign-in.example", AUTH_JWKS_URL: "https://sign-in.example/keys" }],
    ["scopes that no token can carry", "AUTH_SCOPES", { AUTH_SCOPES: 'a"b' }],
    ["a database of another kind", "DATABASE_URL", { DATABASE_URL: "mysql://reader:hunter2-hunter2@db.example/room" }],
    ["a Postgres URL that is none", "DATABASE_URL", { DATABASE_URL: "postgres://reader:hunter2-hunter2@db.example:port/room" }],
    ["a SQLite file in a folder that isn't there", "DATABASE_URL", { DATABASE_URL: "sqlite:/no/such/folder/room.sqlite" }],
    ["a SQLite file that is something else", "DATABASE_URL", { DATABASE_URL: `sqlite:${import.meta.path}` }],
    ["a short secret", "SESSION_SIGNING_SECRET", { SESSION_SIGNING_SECRET: "hunter2-hunter2" }],
    ["the secret of .env.example", "SESSION_SIGNING_SECRET", { SESSION_SIGNING_SECRET: "replace-me-with-the-output-of-openssl-rand" }],
    ["sign-in turned off in production", "AUTH_DISABLED", { AUTH_DISABLED: "1", NODE_ENV: "production" }],
    ["nothing set in production", "RESOURCE_URL", { NODE_ENV: "production", DATABASE_URL: "" }],
    ["nothing set and a door to the street", "RESOURCE_URL", { HOST: "0.0.0.0", DATABASE_URL: "" }],
  ])("%s ends with code 1 and one line about %s", async (_, variable, env) => {
    const { out, err, code } = await refusal(env);
    expect(err).toMatch(new RegExp(`^Cannot start: .*\\b${variable}\\b.*\\n$`));
    expect(err).not.toMatch(/hunter2|replace-me|\bat\b.*:\d+:\d+/);
    expect(out).toBe("");
    expect(code).toBe(1);
  });

  test("a PORT that is taken ends with code 1 and one line about PORT", async () => {
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
    const { port } = other.address() as { port: number };
    const { out, err, code } = await refusal({ PORT: String(port) });
    expect(err).toBe(`Cannot start: PORT ${port} is taken by another program.\n`);
    expect(out).toBe("");
    expect(code).toBe(1);
    other.close();
  });

  const good = { id: "a1", title: "A title", topic: "a topic", body: "A body." };
  test.each<[string, string | undefined, RegExp]>([
    ["no seed at all", undefined, /articles\.json is missing/],
    ["a seed that is not JSON", "[{", /articles\.json .*not a JSON list/],
    ["a seed that is no list", "{}", /articles\.json .*not a JSON list/],
    ["an id that is there twice", JSON.stringify([good, { ...good, id: "a2" }, { ...good, title: "Another" }]), /entry 3 \("a1"\): .*taken/],
    ["an empty title", JSON.stringify([good, { ...good, id: "a2", title: " " }]), /entry 2 \("a2"\): .*title/],
    ["a field that nobody knows", JSON.stringify([{ ...good, author: "?" }]), /entry 1 \("a1"\): .*author/],
    ["an entry that is nothing", JSON.stringify([good, null]), /entry 2 /],
  ])("%s ends with code 1 and one line that names the entry", async (_, seed, names) => {
    const folder = await scratch();
    for (const file of ["main.ts", "mock-auth.ts", "package.json"]) await cp(join(ROOT, file), join(folder, file));
    await symlink(join(ROOT, "node_modules"), join(folder, "node_modules"));
    await mkdir(join(folder, "seed"));
    if (seed !== undefined) await Bun.write(join(folder, "seed/articles.json"), seed);
    const { out, err, code } = await refusal({}, folder);
    expect(err).toMatch(/^Cannot start: .*\n$/);
    expect(err).toMatch(names);
    expect(out).toBe("");
    expect(code).toBe(1);
  });
});

// ---- It prints ----

test("stdout carries one JSON line a tool call, with these fields and no other", async () => {
  const path = join(await scratch(), "room.sqlite");
  const gateway = await start({ DATABASE_URL: `sqlite:${path}` });
  const { call, enter } = client(gateway.mcp, await gateway.token("reader-A"));
  const { use } = await enter();
  await use("user_save_state", { shelf: { a1: "x" } });
  await use("domain_get_article", { id: "a99" });
  await use("user_get_state", { limit: 3 });
  await call("user_get_state");
  await call("no_such_tool");
  const db = new Database(path);
  db.run("drop table user_state");
  db.close();
  await use("user_get_state");
  await fetch(`${gateway.url}/healthz`);
  await fetch(gateway.mcp, { method: "POST", headers: { authorization: "Bearer nonsense" }, body: "{}" });
  await fetch(gateway.mcp, { method: "POST", body: "{}" });

  const facts = { at: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:]{8}\.\d{3}Z$/), ref: expect.stringMatching(/^[0-9a-f]{8}$/), sub: "reader-A", ms: expect.any(Number) };
  const refused = { outcome: "refused", why: expect.any(String) };
  await until(() => lines(gateway).length >= 8);
  expect(lines(gateway).map((line) => JSON.parse(line))).toEqual([
    { ...facts, tool: "begin_session", outcome: "ok" },
    { ...facts, tool: "user_save_state", outcome: "ok" },
    { ...facts, tool: "domain_get_article", ...refused },
    { ...facts, tool: "user_get_state", ...refused },
    { ...facts, tool: "user_get_state", ...refused },
    { ...facts, tool: expect.any(String), ...refused },
    { ...facts, tool: "user_get_state", outcome: "failed", error: expect.any(String) },
    { at: facts.at, ref: facts.ref, outcome: "refused", why: expect.stringContaining("sign-in") },
  ]);
  expect(new Set(lines(gateway).map((line) => JSON.parse(line).ref)).size).toBe(8);
  expect(gateway.err.text).toBe("");
});

test("no token, session key, argument, saved text or e-mail is ever printed", async () => {
  const path = join(await scratch(), "room.sqlite");
  const secret = "canary-secret-".repeat(3);
  const gateway = await start({ DATABASE_URL: `sqlite:${path}`, SESSION_SIGNING_SECRET: secret });
  const token = await (await fetch(`${gateway.url}/mock-auth/token?sub=reader-A&aud=${gateway.mcp}&email=canary@canary.example`)).text();
  const { call, enter } = client(`${gateway.mcp}?canary=canary`, token);
  const { session, use } = await enter();

  const visit = async () => {
    for (const name of ["user_get_profile", "user_get_state", "domain_list_articles", "config_get_rules", "no_such_canary"]) await use(name);
    await use("user_save_state", { shelf: { a1: "canary in a place" }, reading: { id: "a2", position: "canary" } });
    await use("user_save_state", { shelf: { canary: "canary" } });
    await use("user_save_state", { shelf: { a1: `canary ${"x".repeat(281)}` } });
    await use("user_save_state", { canary: "canary" });
    await use("domain_search_articles", { query: "canary" });
    await use("domain_get_article", { id: "canary" });
    await call("user_get_state", { session: "canary-canary-canary-cana" });
    await call("begin_session", { email: "canary" });
  };
  await visit();
  for (const bad of [`${token}canary`, "canary", `${token.split(".").slice(0, 2).join(".")}.canary`]) {
    await fetch(`${gateway.mcp}?canary`, { method: "POST", headers: { authorization: `Bearer ${bad}`, "x-canary": "canary" }, body: `{"canary": ` });
  }
  await fetch(`${gateway.mcp}`, { method: "POST", headers: { authorization: `Bearer ${token}` }, body: `{"canary": ` });
  await fetch(`${gateway.url}/canary`, { headers: { origin: "https://canary.example" } });
  const db = new Database(path);
  db.run("create trigger broken before insert on user_state begin select raise(abort, 'canary in an error'); end");
  db.run("create trigger broken_too before update on user_state begin select raise(abort, 'canary in an error'); end");
  db.close();
  expect((await use("user_save_state", { shelf: { a1: "canary in another place" } })).isError).toBe(true);
  await visit();

  await client(gateway.mcp, await gateway.token("the-last-one")).call("begin_session");
  await until(() => gateway.out.text.includes("the-last-one"));
  const printed = gateway.out.text + gateway.err.text;
  expect(printed).not.toContain("canary");
  expect(printed).not.toContain(session);
  for (const part of token.split(".")) expect(printed).not.toContain(part);
  expect(printed).not.toContain(secret);
});

const onLinux = process.platform === "linux" && Bun.which("script");
if (!onLinux) console.warn("SKIPPED: what a person sees at a terminal needs `script` as on Linux");
test.skipIf(!onLinux)("at a terminal, a person is greeted with the URL and the commands, reads lines made for people, and leaves with Ctrl+C", async () => {
  const port = String(await freePort());
  const child = Bun.spawn(["script", "-qec", `exec bun run ${join(ROOT, "main.ts")}`, "/dev/null"], {
    cwd: tmpdir(),
    env: { PATH: process.env.PATH!, HOME: process.env.HOME ?? tmpdir(), PORT: port, DATABASE_URL: "sqlite::memory:" },
    stdin: "pipe",
    stdout: "pipe",
  });
  started.push(child);
  let screen = "";
  const reading = (async () => { for await (const chunk of child.stdout) screen += new TextDecoder().decode(chunk); })();
  const url = `http://localhost:${port}/mcp`;
  await until(() => screen.includes("begin_session"));
  expect(screen).toContain(`open at ${url}`);
  expect(screen).toContain("sqlite::memory:");
  expect(screen).toContain(`claude mcp add --transport http reading-room ${url}`);
  expect(screen).toContain(`TOKEN=$(curl -s "http://localhost:${port}/mock-auth/token?`);

  const token = await (await fetch(`http://localhost:${port}/mock-auth/token?sub=reader-A&aud=${url}`)).text();
  await client(url, token).enter();
  await until(() => /\d\d:\d\d:\d\d +ok +begin_session +reader-A/.test(screen));
  expect(screen).not.toContain('{"at"');

  child.stdin.write("\u0003");
  child.stdin.flush();
  expect(await child.exited).toBe(0);
  await reading;
});

// ---- It ends ----

const gone = (gateway: Gateway) => fetch(`${gateway.url}/healthz`, { headers: { connection: "close" } }).then(() => false, () => true);

describe.each(["SIGTERM", "SIGINT"] as const)("On %s", (signal) => {
  test.concurrent("an idle gateway is gone at once, with code 0", async () => {
    const gateway = await start();
    await client(gateway.mcp, await gateway.token("reader-A")).enter();
    const from = performance.now();
    gateway.child.kill(signal);
    expect(await gateway.child.exited).toBe(0);
    expect(performance.now() - from).toBeLessThan(2_000);
    expect(gateway.err.text).toBe("");
  });

  /** A gateway that is asked to end in the middle of a save, which another program holds up. */
  async function endedMidway() {
    const path = join(await scratch(), "room.sqlite");
    const gateway = await start({ DATABASE_URL: `sqlite:${path}` });
    const { use } = await client(gateway.mcp, await gateway.token("reader-A")).enter();
    const writer = await busyWriter(path);
    const save = use("user_save_state", { shelf: { a1: "half-way" } }).catch((error: Error) => error);
    for (let read = 0; read < 3; read++) await use("user_get_state"); // answered after the save arrived
    gateway.child.kill(signal);
    await until(() => gone(gateway));
    expect(gateway.child.exitCode).toBe(null);
    return { path, gateway, writer, save };
  }

  test.concurrent("a call under way is finished and answered, nobody new is let in, and the code is 0", async () => {
    const { path, gateway, writer, save } = await endedMidway();
    await writer.release();
    expect(await save).toMatchObject({ structuredContent: { state: { shelf: { a1: "half-way" } } } });
    expect(await gateway.child.exited).toBe(0);
    const db = new Database(path);
    expect(db.query("select state from user_state").values().flat().join()).toContain("half-way");
    db.close();
  });

  test.concurrent("a call that can't be finished is answered too, and all is over within ten seconds", async () => {
    const from = performance.now();
    const { gateway, writer, save } = await endedMidway();
    expect(await save).toMatchObject({ isError: true, content: [{ text: expect.stringContaining("can't continue right now") }] });
    expect(await gateway.child.exited).toBe(0);
    expect(performance.now() - from).toBeLessThan(10_000);
    await writer.release();
  });

  test.concurrent("a second one ends it at once", async () => {
    const { gateway, writer, save } = await endedMidway();
    const from = performance.now();
    gateway.child.kill(signal);
    expect(await gateway.child.exited).toBe(1);
    expect(performance.now() - from).toBeLessThan(1_000);
    expect(await save).toBeInstanceOf(Error);
    await writer.release();
  });
});

test.concurrent("a client that never finishes what it is asking does not keep a gateway from ending within ten seconds", async () => {
  const gateway = await start();
  const token = await gateway.token("reader-A");
  const socket = connect(gateway.port, "127.0.0.1").on("error", () => {});
  socket.write(`POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${token}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{`);
  await client(gateway.mcp, token).enter(); // answered after that arrived
  const from = performance.now();
  gateway.child.kill("SIGTERM");
  expect(await gateway.child.exited).toBe(0);
  expect(performance.now() - from).toBeLessThan(10_000);
  socket.destroy();
});

test("a second gateway on the same port does not start beside the first", async () => {
  const first = await startGateway();
  const second = await startGateway({ PORT: String(first.port) });
  expect(await second.child.exited).toBe(1);
  expect(second.err.text).toBe(`Cannot start: PORT ${first.port} is taken by another program.\n`);
  await first.stop();
});

test.each([["bad host", "ENOTFOUND"], ["203.0.113.9", "EADDRNOTAVAIL"]])("a HOST that is no address of this machine, %s, is named in one line", async (host) => {
  const street = {
    HOST: host, RESOURCE_URL: "https://room.example.com/mcp", AUTH_ISSUER: "https://sign-in.example.com",
    AUTH_JWKS_URL: "https://sign-in.example.com/jwks.json", SESSION_SIGNING_SECRET: "s".repeat(43),
  };
  const gateway = await startGateway(street);
  expect(await gateway.child.exited).toBe(1);
  expect(gateway.err.text).toBe(`Cannot start: HOST takes an address of this machine (got "${host}").\n`);
});
