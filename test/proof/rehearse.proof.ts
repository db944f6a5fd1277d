// `bun run rehearse` on Postgres: the store is stopped by a lock that keeps everybody out.

import { expect, test } from "bun:test";
import { sampleRehearsal } from "../sample-app.ts";
import { postgresServer, rehearse, startGateway } from "../support.ts";

test("each step of the rehearsal is shown and holds, on Postgres", async () => {
  const server = await postgresServer();
  const env = { DATABASE_URL: await server.database() };
  const gateway = await startGateway(env);
  const { out, err, code } = await rehearse(gateway.mcp, sampleRehearsal, env);
  expect({ err, code }).toEqual({ err: "", code: 0 });
  expect(out).toMatch(/The memory is gone.*\n.*\n.* can't continue right now\./);
  expect(out).toEndWith("\n13 of 13 held.\n");
  await gateway.stop();
}, 60_000);

test("a Postgres that is not the server's is left alone, and so is one elsewhere", async () => {
  const server = await postgresServer();
  const other = await startGateway({ DATABASE_URL: await server.database() });
  for (const [DATABASE_URL, why] of [
    [await server.database(), "is not the server's"],
    ["postgres://reader@db.example.com/app", "names no Postgres on this machine"],
  ] as const) {
    const { out, code } = await rehearse(other.mcp, sampleRehearsal, { DATABASE_URL });
    expect([code, out.match(/NOT SHOWN .*/g)]).toEqual([0, [expect.stringContaining(why)]]);
  }
  await other.stop();
}, 60_000);
