// Two gateways on one Postgres behind nginx: a session of one is honoured by the other, one is
// killed under load, and both start at once on an empty database.
//
//   RUNS=20 bun test ./test/proof/scale-out.proof.ts        more starts

import { expect, setDefaultTimeout, test } from "bun:test";
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import {
  callOver, freePort, postgresIsHere, postgresServer, scratch, startGateway, until,
} from "../support.ts";
import { atEnd } from "../cleanup.ts";

setDefaultTimeout(120_000);
const RUNS = Number(process.env.RUNS ?? 3);
const NGINX = process.env.NGINX ?? "/usr/sbin/nginx";
const WORKERS = 16;
const missing = !existsSync(NGINX) ? ` (NOT TESTED: there is no ${NGINX})`
  : postgresIsHere ? "" : " (NOT TESTED: PostgreSQL's binaries are not installed)";

test.skipIf(missing !== "")(`two gateways behind nginx are as good as one, and better${missing}`,
  async () => {
  const [postgres, folder, front] = [await postgresServer(), await scratch(), await freePort()];
  const [one, two] = [await freePort(), await freePort()];
  const url = `http://localhost:${front}/mcp`;
  const start = (port: number, database: string) => startGateway({
    PORT: String(port), RESOURCE_URL: url, DATABASE_URL: database, RATE_LIMIT_PER_MINUTE: "1000000",
    SESSION_SIGNING_SECRET: "the same secret on both, forty-three chars",
  });
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    .map((kind) => `${kind}_temp_path ${folder};`).join(" ");
  await writeFile(join(folder, "nginx.conf"), `
    daemon off; pid ${folder}/nginx.pid; error_log ${folder}/error.log; events {}
    http {
      access_log off; ${temporary}
      upstream notebooks {
        server 127.0.0.1:${one} max_fails=1 fail_timeout=1s;
        server 127.0.0.1:${two} max_fails=1 fail_timeout=1s;
      }
      server {
        listen 127.0.0.1:${front};
        location / {
          proxy_pass http://notebooks; proxy_http_version 1.1;
          proxy_set_header Host $http_host; proxy_set_header Connection "";
        }
      }
    }`);

  // Both at once, on a database that is empty.
  for (let run = 0; run < RUNS; run++) {
    const database = await postgres.database();
    const both = await Promise.all([start(one, database), start(two, database)]);
    expect([run, ...both.map(({ child }) => child.exitCode)]).toEqual([run, null, null]);
    await Promise.all(both.map(({ stop }) => stop()));
  }

  const database = await postgres.database();
  const [left, right] = await Promise.all([start(one, database), start(two, database)]);
  const nginx = spawn(NGINX, ["-c", join(folder, "nginx.conf"), "-e", join(folder, "error.log")],
    { stdio: "ignore" });
  const ended = new Promise((resolve) => nginx.once("exit", resolve));
  atEnd(() => (nginx.kill(), ended)); // before its folder goes
  await until(() => fetch(`http://localhost:${front}/health`).then(({ ok }) => ok, () => false));
  const token = await (await fetch(
    `http://localhost:${front}/mock-auth/token?sub=ada&aud=${url}`)).text();
  const call = (name: string, args: object, to = url) =>
    callOver(to, token, name, args, { signal: AbortSignal.timeout(10_000) });

  // A session of one is good at the other: the secret is the same.
  const { session } = (await call("begin_session", {}, left.mcp)).structuredContent!;
  for (const to of [left.mcp, right.mcp]) {
    for (let n = 0; n < 5; n++) {
      expect((await call("user_get_state", { session }, to)).isError).toBeUndefined();
    }
  }

  // One is killed under load: nginx goes on with the other, and nothing acknowledged is lost.
  const acknowledged: string[] = [];
  let [failed, isRunning] = [0, true];
  const load = Array.from({ length: WORKERS }, async (_, worker) => {
    for (let turn = 0; isRunning; turn++) {
      const note = `worker ${worker}, turn ${turn}`;
      const args = { session, notes: { [`w${worker}`]: note } };
      const answer = await call("user_write", args).catch(() => undefined);
      if (answer && !answer.isError) acknowledged[worker] = note;
      else failed++;
    }
  });
  await Bun.sleep(1_000);
  right.child.kill("SIGKILL");
  await Bun.sleep(2_000);
  isRunning = false;
  await Promise.all(load);
  expect(acknowledged.filter(Boolean)).toHaveLength(WORKERS);
  expect(failed).toBeLessThanOrEqual(WORKERS); // what was under way at the one that died

  const again = await start(two, database);
  const { state } = (await call("user_get_state", { session }, again.mcp)).structuredContent!;
  for (const [worker, note] of acknowledged.entries()) {
    const turn = Number(note.split(" ").at(-1));
    expect(Number(state.notes[`w${worker}`].split(" ").at(-1))).toBeGreaterThanOrEqual(turn);
  }
  await Promise.all([left.stop(), again.stop()]);
});
