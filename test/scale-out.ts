// Two gateways on one Postgres behind nginx: a session of one is honoured by the other, one is killed under load, and both
// start at once on an empty database. `bun run scale-out` prints the table; it needs nginx (NGINX names it) and takes a minute.

import { spawn } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { freePort, postgresServer, scratch, startGateway } from "./support.ts";

const STARTS = Number(process.env.STARTS ?? 20);
const SECRET = "the same secret on both, forty-three chars";
const rows: string[] = [];
let failed = false;
const row = (what: string, seen: string, good: boolean) => {
  rows.push(`| ${what} | ${seen} | ${good ? "yes" : "NO"} |`);
  failed ||= !good;
};

const postgres = await postgresServer();
const folder = await scratch();
const front = await freePort();
const url = `http://localhost:${front}/mcp`;
const [one, two] = [await freePort(), await freePort()];
const gateway = (port: number, database: string) =>
  startGateway({ PORT: String(port), RESOURCE_URL: url, DATABASE_URL: database, SESSION_SIGNING_SECRET: SECRET, RATE_LIMIT_PER_MINUTE: "1000000" });

await writeFile(join(folder, "nginx.conf"), `
daemon off; pid ${folder}/nginx.pid; error_log ${folder}/error.log; events {}
http {
  access_log off; client_body_temp_path ${folder}; proxy_temp_path ${folder}; fastcgi_temp_path ${folder}; uwsgi_temp_path ${folder}; scgi_temp_path ${folder};
  upstream rooms { server 127.0.0.1:${one} max_fails=1 fail_timeout=1s; server 127.0.0.1:${two} max_fails=1 fail_timeout=1s; }
  server { listen 127.0.0.1:${front}; location / { proxy_pass http://rooms; proxy_http_version 1.1; proxy_set_header Host $http_host; proxy_set_header Connection ""; } }
}`);

// ---- Both at once on an empty database ----
let started = 0;
for (let n = 0; n < STARTS; n++) {
  const database = await postgres.database();
  const both = await Promise.all([gateway(one, database), gateway(two, database)]);
  if (both.every(({ child }) => child.exitCode === null)) started++;
  await Promise.all(both.map(({ stop }) => stop()));
}
row("both started at once on an empty database", `${started} of ${STARTS} times both ran`, started === STARTS);

// ---- One session, two gateways ----
const database = await postgres.database();
let [left, right] = await Promise.all([gateway(one, database), gateway(two, database)]);
const nginx = spawn(process.env.NGINX ?? "nginx", ["-c", join(folder, "nginx.conf"), "-e", join(folder, "error.log")], { stdio: "ignore" });
process.on("exit", () => nginx.kill());
for (const end = Date.now() + 5_000; Date.now() < end; await Bun.sleep(50)) if (await fetch(`http://localhost:${front}/healthz`).then((r) => r.ok, () => false)) break;

const token = await (await fetch(`http://localhost:${front}/mock-auth/token?sub=reader-A&aud=${url}`)).text();
async function call(name: string, args: object, to = url): Promise<{ ok: boolean; text: string; session?: string }> {
  const response = await fetch(to, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json", accept: "application/json, text/event-stream" },
    body: JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/call", params: { name, arguments: args } }),
    signal: AbortSignal.timeout(10_000),
  });
  const body = await response.text();
  const { result } = JSON.parse(body.match(/^data: ([^\n]*)$/m)?.[1] ?? body) as { result?: { isError?: boolean; content: [{ text: string }]; structuredContent?: { session?: string } } };
  return { ok: response.ok && result?.isError !== true, text: result?.content[0].text ?? body, ...(result?.structuredContent?.session && { session: result.structuredContent.session }) };
}
const { session } = await call("begin_session", {}, left.mcp);
const honoured = (await Promise.all([left.mcp, right.mcp].flatMap((to) => Array.from({ length: 10 }, () => call("user_get_state", { session }, to))))).filter(({ ok }) => ok).length;
row("a session of one gateway at both", `${honoured} of 20 calls answered`, honoured === 20);

// ---- One of them killed under load ----
const WORKERS = 16;
let [done, lost, acknowledged, unreadable] = [0, 0, 0, 0];
let killed = false;
const end = Date.now() + 6_000;
const worker = async (n: number) => {
  const id = `a${(n % 8) + 1}`;
  for (let turn = 0; Date.now() < end; turn++) {
    const answer = await call("user_save_state", { session, shelf: { [id]: `worker ${n}, turn ${turn}` } }).catch(() => ({ ok: false, text: "" }));
    if (answer.ok) [done, acknowledged] = [done + 1, acknowledged + 1];
    else lost++;
  }
};
const killing = Bun.sleep(2_000).then(() => { killed = true; right.child.kill("SIGKILL"); });
await Promise.all([killing, ...Array.from({ length: WORKERS }, (_, n) => worker(n))]);
row(`one killed under load of ${WORKERS} connections`, `${done} calls answered, ${lost} failed`, killed && lost <= WORKERS && done > 200);
const actions = await call("user_list_actions", { session, limit: 100 });
if (!actions.ok) unreadable++;
right = await gateway(two, database);
const back = await call("user_get_state", { session }, right.mcp);
row("the killed one, started again", back.ok ? "answers with the same shelf" : back.text, back.ok && unreadable === 0 && acknowledged > 0);

console.log(["| what | seen | good |", "|---|---|---|", ...rows].join("\n"));
await Promise.all([left.stop(), right.stop()]);
await postgres.stop();
process.exit(failed ? 1 : 0);
