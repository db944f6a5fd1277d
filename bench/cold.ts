// Part 3: from spawning the process to its first answered call, which is a whole one: signed in, with a
// session. What it needs is there beforehand: the key it signs with, the database, the token.

import { tmpdir } from "node:os";
import { operations, requestOf } from "./requests.ts";
import { bare, type Contender, sdkV1, sdkV2 } from "./servers.ts";
import { firstAnswer, type Server, startOther, startOurs } from "./servers.ts";
import { median } from "./usage.ts";

const TIMES = 7;

async function coldStart({ contender, launch, port, people }: Server): Promise<number> {
  const request = requestOf(port, contender.eras[0]!, operations.getArticle, people[0]!);
  const from = performance.now();
  const { command, env } = launch;
  const child = Bun.spawn(command, { cwd: tmpdir(), env, stdio: ["ignore", "ignore", "ignore"] });
  try {
    await firstAnswer(port, request);
    return performance.now() - from;
  } finally {
    child.kill("SIGKILL");
    await child.exited;
  }
}

/** Milliseconds, the median of several, taken in turn. */
export async function measureColdStarts(sqliteUrl: string): Promise<Map<Contender, number>> {
  const servers = [await startOurs(sqliteUrl)];
  for (const other of [bare, sdkV2, sdkV1]) servers.push(await startOther(other));
  for (const { process } of servers) await process.stop();
  const found = new Map(servers.map(({ contender }) => [contender, [] as number[]]));
  for (let time = 0; time < TIMES; time++) {
    for (const server of servers) found.get(server.contender)!.push(await coldStart(server));
  }
  const medians = [...found].map(([contender, times]) => [contender, median(times)] as const);
  for (const [{ name }, ms] of medians) console.error(`cold start, ${name}: ${ms.toFixed(0)} ms`);
  return new Map(medians);
}
