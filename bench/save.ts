// Part 4: how long a person waits for a save, when Postgres is ten milliseconds away and back. One
// person saves again and again, who has done so a hundred times: as much as the record of changes holds.

import { join } from "node:path";
import postgres from "postgres";
import { atEnd } from "../test/cleanup.ts";
import { operations, requestOf } from "./requests.ts";
import { startOurs } from "./servers.ts";
import { median, quantile } from "./usage.ts";

const ROUND_TRIP = 10; // milliseconds
const WARM_SAVES = 110;
const SAVES = 60;

export interface SaveTimes {
  roundTrip: number; // milliseconds, measured
  median: number;
  p90: number;
}

async function slowed(url: string, delay: number) {
  const far = new URL(url);
  const proxy = Bun.spawn(["bun", "run", join(import.meta.dir, "slow-proxy.ts")], {
    env: { ...process.env, DELAY: String(delay), TARGET: far.port },
    stdout: "pipe",
  });
  const stop = () => proxy.kill("SIGKILL");
  atEnd(stop);
  const { value } = await proxy.stdout.getReader().read();
  far.port = new TextDecoder().decode(value).trim();
  return { url: far.href, stop, roundTrip: await roundTripTo(far.href) };
}
/** The wire alone is not all of it: programs that sleep wake up a little late. So what is set is what a
 *  client measures. */
async function tenMillisecondsAway(url: string) {
  const first = await slowed(url, ROUND_TRIP / 2);
  first.stop();
  return slowed(url, (ROUND_TRIP - (first.roundTrip - ROUND_TRIP)) / 2);
}
/** Of one message and its answer: a simple query. */
async function roundTripTo(url: string) {
  const sql = postgres(url, { max: 1, fetch_types: false, onnotice: () => {} });
  await sql.unsafe("select 1").simple();
  const trips = await timed(SAVES, () => sql.unsafe("select 1").simple());
  await sql.end();
  return median(trips);
}
async function timed(times: number, work: (time: number) => Promise<unknown>) {
  const found: number[] = [];
  for (let time = 0; time < times; time++) {
    const from = performance.now();
    await work(time);
    found.push(performance.now() - from);
  }
  return found;
}

export async function measureSave(postgresUrl: string): Promise<SaveTimes> {
  const proxy = await tenMillisecondsAway(postgresUrl);
  const { process, port, people } = await startOurs(proxy.url);
  const save = async (time: number) => {
    const request = requestOf(port, "2025-11-25", operations.save, people[0]!, time);
    const [head = "", body = ""] = request.split("\r\n\r\n");
    const lines = head.split("\r\n").slice(1); // without POST /mcp
    const headers = lines.map((line) => line.split(/: (.*)/, 2) as [string, string]);
    const response = await fetch(`http://localhost:${port}/mcp`, { method: "POST", headers, body });
    const text = await response.text();
    const isSaid = text.includes(`Stopped at line ${100 + time}`) && !text.includes('"isError":true');
    const isKept = response.ok && isSaid;
    if (!isKept) throw new Error(`not saved: ${response.status} ${text.slice(0, 200)}`);
  };
  await timed(WARM_SAVES, save);
  const saves = await timed(SAVES, save);
  await process.stop();
  proxy.stop();
  const found = { roundTrip: proxy.roundTrip, median: median(saves), p90: quantile(saves, 0.9) };
  const took = `median ${found.median.toFixed(1)} ms, p90 ${found.p90.toFixed(1)} ms`;
  console.error(`a save at ${found.roundTrip.toFixed(2)} ms: ${took}`);
  return found;
}
