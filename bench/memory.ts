// Part 5: resident memory of one process over a million calls.

import { join } from "node:path";
import { scratch } from "../test/support.ts";
import { expectRight } from "./answers.ts";
import { load } from "./load.ts";
import { operations, requestsOf } from "./requests.ts";
import { startOurs } from "./servers.ts";
import { median, memoryOf } from "./usage.ts";

const STEP = 100_000;
const STEPS = 10;

export interface MemoryLine {
  megabytes: number[]; // after each hundred thousand calls
  isFlat: boolean;
}

export async function measureMemory(sqliteUrl: string): Promise<MemoryLine> {
  const server = await startOurs(sqliteUrl);
  const { contender, process, port, people } = server;
  const file = join(await scratch(), "requests");
  const megabytes: number[] = [];
  let calls = 0;
  let perSecond = 0;
  for (let burst = 0; megabytes.length < STEPS; burst++) {
    const era = contender.eras[burst % 2]!; // both, in turn
    await Bun.write(file, requestsOf(port, era, operations.getArticle, people));
    const bytes = await expectRight(server, era, operations.getArticle);
    const left = STEP * (megabytes.length + 1) - calls;
    const seconds = burst === 0 ? 1 : Math.min(5, Math.max(1, Math.floor(left / perSecond)));
    const counted = await load(port, file, 16, seconds, bytes);
    calls += counted.calls;
    perSecond = counted.perSecond;
    if (calls < STEP * (megabytes.length + 1)) continue;
    megabytes.push(Math.round(memoryOf(process.pid)));
    console.error(`memory after ${calls} calls: ${megabytes.at(-1)} MB`);
  }
  await process.stop();
  return { megabytes, isFlat: isFlat(megabytes) };
}

/** The last is at most a tenth above the median of the second half. */
export function isFlat(megabytes: number[]): boolean {
  const secondHalf = megabytes.slice(megabytes.length / 2);
  return secondHalf.at(-1)! <= 1.1 * median(secondHalf);
}
