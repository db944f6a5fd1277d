// Section 10, what takes longer: the other reasons not to start, what is never printed of a real
// database's address, and how it ends when a call can't be finished.

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { atEnd } from "../cleanup.ts";
import {
  askedToEnd, expectRefusedStart, freePort, personAt, postgresServer, ROOT, runToEnd, scratch,
  startGateway, until,
} from "../support.ts";

setDefaultTimeout(30_000); // milliseconds

const POSIX = process.platform !== "win32";
if (!POSIX) console.warn("SKIPPED on Windows: signals");

// ---- It starts ----

test("a start without sign-in, or for others to reach, says so loudly", async () => {
  const open = await startGateway({ AUTH_DISABLED: "1" });
  expect(open.err.text).toMatch(/sign-in: none[^\n]*\nWARNING: AUTH_DISABLED=1: nobody is asked/);
  await open.stop();
  const tunnel = await startGateway({ RESOURCE_URL: "https://tunnel.example/mcp" });
  expect(tunnel.err.text).toContain("\nWARNING: RESOURCE_URL is public");
  await tunnel.stop();
});

test.each<[string, unknown]>([
  ["without a key", { keys: [] }],
  ["that is none", "<!doctype html>"],
])("a key set %s is warned of at the start", async (_, body) => {
  const fetch = () => Response.json(body);
  const service = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch });
  const AUTH_ISSUER = `http://127.0.0.1:${service.port}`;
  const gateway = await startGateway({ AUTH_ISSUER, AUTH_JWKS_URL: `${AUTH_ISSUER}/jwks.json` });
  await until(() => gateway.err.text.includes("\nWARNING: AUTH_JWKS_URL gives no keys"), 3_000);
  await gateway.stop();
  await service.stop(true);
});

// ---- It refuses to start ----

describe("A start is refused, with code 1 and one line,", () => {
  test.each<[string, Record<string, string>, RegExp]>([
    ["with a PORT that is no number", { PORT: "eighty" }, /PORT takes .* \(got .*eighty/],
    ["in production with nothing set", { NODE_ENV: "production" }, /RESOURCE_URL takes/],
    [
      "with a SQLite file that is something else",
      { DATABASE_URL: `sqlite:${import.meta.path}` },
      /the database that DATABASE_URL names can't be used \(.*SQLITE_NOTADB/,
    ],
    [
      "with a Postgres that isn't there",
      { DATABASE_URL: "postgres://someone:hunter2@127.0.0.1:1/hunter2" },
      /the database that DATABASE_URL names can't be used \(.*ECONNREFUSED/,
    ],
    [
      "when HOST is no address of this machine",
      {
        HOST: "203.0.113.9",
        RESOURCE_URL: "https://app.example.com/mcp",
        AUTH_ISSUER: "https://sign-in.example.com",
        AUTH_JWKS_URL: "https://sign-in.example.com/jwks.json",
        SESSION_SIGNING_SECRET: "s".repeat(43),
      },
      /HOST .*203\.0\.113\.9/,
    ],
  ])("%s", (_, env, says) => expectRefusedStart(env, says));

  test("beside another gateway on the same port", async () => {
    const first = await startGateway();
    const err = `Cannot start: PORT ${first.port} is taken by another program.\n`;
    expect(await runToEnd({ PORT: String(first.port) })).toEqual({ out: "", err, code: 1 });
    await first.stop();
  });

  test.each<[string, string, RegExp]>([
    ["says why", 'new StartError("Cannot start: no seed.")', /^Cannot start: no seed\.\n$/],
    ["breaks", 'new TypeError("hunter2")', /^Cannot start: TypeError broken\.ts:2\.\n$/],
  ])("when the app %s", async (_, error, says) => {
    const file = join(await scratch(), "broken.ts");
    const main = JSON.stringify(join(ROOT, "main.ts"));
    await Bun.write(file, `import { start, StartError } from ${main};
      await start(async () => { throw ${error}; });`);
    const { out, err, code } = await runToEnd({}, file);
    expect({ out, code }).toEqual({ out: "", code: 1 });
    expect(err).toMatch(says);
  });
});

// ---- What it prints ----

const SCRIPT = process.platform === "linux" && Bun.which("script");
if (!SCRIPT) console.warn("SKIPPED: what a person sees at a terminal (needs Linux's `script`)");

/** What a terminal shows of a start, until Ctrl+C. */
async function screenOf(DATABASE_URL: string): Promise<string> {
  const PORT = String(await freePort());
  const command = `exec bun ${join(ROOT, "test/sample-gateway.ts")}`;
  const child = Bun.spawn(["script", "-qec", command, "/dev/null"], {
    cwd: tmpdir(),
    env: { PATH: process.env.PATH!, PORT, DATABASE_URL },
    stdin: "pipe",
    stdout: "pipe",
  });
  atEnd(() => child.kill("SIGKILL"));
  let screen = "";
  const reading = (async () => {
    for await (const chunk of child.stdout) screen += new TextDecoder().decode(chunk);
  })();
  await until(() => screen.includes("in a browser"));
  child.stdin.write("\u0003");
  child.stdin.flush();
  await child.exited;
  await reading;
  return screen;
}

test("of a Postgres address the host is printed, never more, on a terminal or not", async () => {
  const server = await postgresServer();
  const DATABASE_URL = await server.database();
  const gateway = await startGateway({ DATABASE_URL });
  await (await personAt(gateway, "ada"))("user_write", { mood: "calm" });
  expect(gateway.err.text).toMatch(/; memory: postgres at 127\.0\.0\.1\n$/);
  await gateway.stop();
  const screen = SCRIPT ? await screenOf(DATABASE_URL) : "";
  if (SCRIPT) expect(screen).toMatch(/memory {4}postgres at 127\.0\.0\.1\s/);
  for (const printed of [gateway.out.text, gateway.err.text, screen]) {
    expect(printed).not.toContain("secret-password");
    expect(printed).not.toContain("reader");
  }
  await server.stop();
});

// ---- It ends ----

describe.skipIf(!POSIX)("It ends", () => {
  test("on SIGINT like on SIGTERM: a call under way is answered, and the code is 0", async () => {
    const { gateway, writer, save } = await askedToEnd("SIGINT");
    await writer.release();
    expect(await save).toMatchObject({ structuredContent: { state: { mood: "calm" } } });
    expect(await gateway.child.exited).toBe(0);
  });

  test("within ten seconds, though a call can't be finished: that one is told so", async () => {
    const begun = performance.now();
    const { gateway, writer, save } = await askedToEnd("SIGTERM");
    const text = expect.stringContaining("can't continue right now");
    expect(await save).toMatchObject({ isError: true, content: [{ text }] });
    expect(await gateway.child.exited).toBe(0);
    expect(performance.now() - begun).toBeLessThan(10_000);
    await writer.release();
  });

  test("within ten seconds, though a client never finishes what it is asking", async () => {
    const gateway = await startGateway();
    const token = await gateway.token("ada");
    const socket = connect(gateway.port, "127.0.0.1").on("error", () => {});
    const head = [
      "POST /mcp HTTP/1.1", "Host: localhost", `Authorization: Bearer ${token}`,
      "Content-Type: application/json", "Content-Length: 100", "", "{",
    ];
    socket.write(head.join("\r\n"));
    await personAt(gateway, "ada"); // answered after that arrived
    const begun = performance.now();
    gateway.child.kill("SIGTERM");
    expect(await gateway.child.exited).toBe(0);
    expect(performance.now() - begun).toBeLessThan(10_000);
    socket.destroy();
  });
});
