// `bun run rehearse` when it is broken off, where it must not play, and on Postgres, whose store is
// stopped by a lock that keeps everybody out.

import { expect, setDefaultTimeout, test } from "bun:test";
import { sqliteStore } from "../../main.ts";
import { atEnd } from "../cleanup.ts";
import {
  expectNothingLeft, fileOf, rehearse, sqliteEnv, startRehearsal,
} from "../rehearsals.ts";
import { sampleRehearsal } from "../sample-app.ts";
import {
  expectRefusedStart, freePort, personAt, postgresServer, startGateway, until,
} from "../support.ts";

setDefaultTimeout(60_000); // milliseconds

const memoryIsGone = ({ url }: { url: string }) =>
  until(() => fetch(`${url}/health`).then(({ status }) => status === 503));

test.skipIf(process.platform === "win32").each(["SIGINT", "SIGTERM", "SIGHUP"] as const)(
  "%s while the memory is gone brings it back, and erases the two people",
  async (signal) => {
    const env = await sqliteEnv();
    const gateway = await startGateway(env);
    const playing = await startRehearsal(gateway.mcp, sampleRehearsal, { ...env, PACE: "100" });
    await memoryIsGone(gateway);
    playing.child.kill(signal);
    expect(await playing.child.exited).toBe(1);
    expect((await playing.out).trim()).toEndWith("the memory is where it was, and the two people are erased.");
    await expectNothingLeft(env);
    expect((await fetch(`${gateway.url}/health`)).status).toBe(200);
    await gateway.stop();
  },
);

test.skipIf(process.platform === "win32")(
  "Ctrl+C at the very moment when the memory is about to go leaves it where it is",
  async () => {
    for (let round = 0; round < 6; round++) {
      const word = round % 2 === 0;
      const env = await sqliteEnv();
      const gateway = await startGateway(env);
      const playing = await startRehearsal(gateway.mcp, sampleRehearsal, { ...env, PACE: "60" });
      const isNext = () => gateway.out.text.includes(word ? '"why":"word"' : '"tool":"health"');
      while (!isNext()) await Bun.sleep(0); // the last steps before
      playing.child.kill("SIGINT");
      expect(await playing.child.exited).toBe(1);
      await expectNothingLeft(env);
      await gateway.stop();
    }
  },
);

test("what a rehearsal that was killed left is mended by the next, before it looks for a server", async () => {
  const env = { ...(await sqliteEnv()), PORT: String(await freePort()) };
  const first = await startGateway(env);
  await (await personAt(first, "ada"))("user_write", { mood: "calm" });
  const playing = await startRehearsal(first.mcp, sampleRehearsal, { ...env, PACE: "500" });
  await memoryIsGone(first);
  const meanwhile = await rehearse(first.mcp, sampleRehearsal, env);
  expect(meanwhile.err).toContain(`another rehearsal is at it (process ${playing.child.pid})`);
  playing.child.kill("SIGKILL");
  await playing.child.exited;
  await first.stop();
  await expectRefusedStart({ DATABASE_URL: env.DATABASE_URL }, /the database .* can't be used/);
  const next = await rehearse(first.mcp, sampleRehearsal, env);
  expect(next.out).toContain(`${fileOf(env)} was gone: it is back`);
  expect(next.err).toContain("nobody answers");
  const second = await startGateway(env);
  const { state } = (await (await personAt(second, "ada"))("user_get_state")).structuredContent!;
  expect(state.mood).toBe("calm");
  await second.stop();
});
test("a file that is there beside one that was left moved is not written over", async () => {
  const env = await sqliteEnv();
  const gateway = await startGateway(env);
  const moved = `${fileOf(env)}.moved-by-the-rehearsal`;
  await Bun.write(moved, "somebody's memory");
  const { out, err, code } = await rehearse(gateway.mcp, sampleRehearsal, env);
  expect({ out, code }).toEqual({ out: "", code: 1 });
  expect(err).toContain(`both ${fileOf(env)} and ${moved} are there: keep one`);
  expect(await Bun.file(moved).text()).toBe("somebody's memory");
  await gateway.stop();
});

test.each<[string, string, RegExp]>([
  ["says that one may sign in at it, for somebody else's", "#", /of this machine alone/],
  ["sends us on to somebody else's", "", /it signs in by the local mock-auth\.ts/],
])("no token goes to a server that %s", async (_, ending, says) => {
  const gateway = await startGateway();
  const elsewhere = `${gateway.url}/mock-auth/token?sub=ada&aud=${gateway.mcp}${ending}`;
  const heard: string[] = [];
  const hostile = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: ({ url, headers }) => {
      const { pathname, origin } = new URL(url);
      heard.push(headers.get("authorization") ?? "");
      if (pathname === "/mock-auth/token") return Response.redirect(elsewhere);
      const signIn = ending ? elsewhere : `${origin}/mock-auth`;
      return Response.json({ name: "\u001b[2J", slug: "it", url: `${origin}/mcp`, signIn });
    },
  });
  atEnd(() => hostile.stop(true));
  const { out, err } = await rehearse(`http://127.0.0.1:${hostile.port}/mcp`, sampleRehearsal);
  expect([out, heard.join("")]).toEqual(["", ""]);
  expect(err).toMatch(says);
  await gateway.stop();
});

test("a password in DATABASE_URL is not read aloud", async () => {
  const env = await sqliteEnv();
  const gateway = await startGateway(env);
  const DATABASE_URL = "postgresql://owner:hunter2@ep-x.aws.neon.tech/neondb";
  const { out, err } = await rehearse(gateway.mcp, sampleRehearsal, { DATABASE_URL });
  expect(out).toContain("NOT SHOWN   DATABASE_URL is not the server's");
  expect(out + err).not.toContain("hunter2");
  await gateway.stop();
});

test("a file of that name that is not the server's is left where it is", async () => {
  const gateway = await startGateway();
  const other = await sqliteEnv();
  await (await sqliteStore(fileOf(other))).close();
  const { out, code } = await rehearse(gateway.mcp, sampleRehearsal, other);
  expect(code).toBe(0);
  expect(out.match(/NOT SHOWN .*/g)).toEqual([expect.stringContaining("is not what the server keeps")]);
  await gateway.stop();
});

test.each<[string, () => Promise<string>, RegExp]>([
  ["nobody", async () => `http://localhost:${await freePort()}/mcp`, /nobody answers at .*PORT/],
  ["no URL", async () => "nonsense", /nonsense is no URL/],
  ["a web page", async () => pageServer("<title>Hello</title>"), /is no gateway of this kind/],
  ["another program's JSON", async () => pageServer('{"name":"it"}'), /is no gateway of this kind/],
  ["no sign-in", async () => (await startGateway({ AUTH_DISABLED: "1" })).mcp, /sign-in is off \(AUTH_DISABLED\)/],
])("what it needs is said in a line: with %s", async (_, where, says) => {
  const { out, err, code } = await rehearse(await where(), sampleRehearsal);
  expect({ out, code }).toEqual({ out: "", code: 1 });
  expect(err).toMatch(/^The rehearsal can't begin: [^\n]*\.\n$/);
  expect(err).toMatch(says);
});
test("nor does it play where others come in: through a tunnel", async () => {
  const gateway = await startGateway({ RESOURCE_URL: "https://tunnel.example/mcp" });
  const { err } = await rehearse(gateway.mcp, sampleRehearsal);
  expect(err).toContain("calls itself https://tunnel.example/mcp");
  await gateway.stop();
});

async function pageServer(text: string): Promise<string> {
  const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response(text) });
  atEnd(() => server.stop(true));
  return `http://127.0.0.1:${server.port}/mcp`;
}

test("each step of the rehearsal is shown and holds, on Postgres", async () => {
  const server = await postgresServer();
  const env = { DATABASE_URL: await server.database() };
  const gateway = await startGateway(env);
  const { out, err, code } = await rehearse(gateway.mcp, sampleRehearsal, env);
  expect({ err, code }).toEqual({ err: "", code: 0 });
  expect(out).toMatch(/The memory is gone.*\n.*\n.* can't continue right now\./);
  expect(out).toEndWith(" 12 of 12 held.\n");
  await gateway.stop();
});

test("a Postgres that is not the server's is left alone, and so is one elsewhere", async () => {
  const server = await postgresServer();
  const other = await startGateway({ DATABASE_URL: await server.database() });
  for (const [DATABASE_URL, why] of [
    [await server.database(), "is not the server's"],
    ["sqlite:nothing-here.sqlite", "names no Postgres on this machine"],
    ["postgres://reader@db.example.com/app", "names no Postgres on this machine"],
  ] as const) {
    const { out, code } = await rehearse(other.mcp, sampleRehearsal, { DATABASE_URL });
    expect([code, out.match(/NOT SHOWN .*/g)]).toEqual([0, [expect.stringContaining(why)]]);
  }
  await other.stop();
});
