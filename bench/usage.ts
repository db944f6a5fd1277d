// What a process has used: CPU time, user and system, of all its threads; and resident memory.

import { readFileSync } from "node:fs";

const ticks = process.platform === "linux" ? Number(run("getconf", "CLK_TCK")) : 0; // a second

function run(...command: string[]) {
  return Bun.spawnSync(command).stdout.toString().trim();
}

/** Seconds of CPU since the process started. Its children's are not in it: no contender has any. */
export function cpuSeconds(pid: number): number {
  if (process.platform === "linux") {
    // proc(5): the name, in parentheses, may hold anything; utime and stime are fields 14 and 15.
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").replace(/^.*\) /s, "").split(" ");
    return (Number(fields[11]) + Number(fields[12])) / ticks;
  }
  // [[DD-]HH:]MM:SS.ss
  const [seconds = 0, minutes = 0, hours = 0, days = 0] =
    run("ps", "-o", "time=", "-p", String(pid)).split(/[:-]/).map(Number).reverse();
  return seconds + 60 * (minutes + 60 * (hours + 24 * days));
}

/** Resident memory in MB (of 1024 × 1024 bytes). */
export function memoryOf(pid: number): number {
  return Number(run("ps", "-o", "rss=", "-p", String(pid))) / 1024;
}

/** Of some numbers the one that so many of them (0 to 1) are at or below. */
export function quantile(values: number[], part: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(part * sorted.length) - 1)] ?? NaN;
}
export const median = (values: number[]) => quantile(values, 0.5);
