// What a run takes from this machine, and gives back at its end, also after Ctrl+C.

import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

type Job = () => unknown;
const jobs: Job[] = [];
/** Done when all is over, last come first served. */
export const atEnd = (job: Job): void => void jobs.push(job);
export async function tidyUp() {
  for (const job of jobs.splice(0).reverse()) {
    await Promise.try(job).catch((error: Error) => console.error(`Left behind: ${error.message}`));
  }
}

export async function scratch() {
  const folder = await mkdtemp(join(tmpdir(), "connector-services-"));
  atEnd(() => rm(folder, { recursive: true, force: true, maxRetries: 5 }));
  return folder;
}

/** Below the ports that the system hands out by itself. */
export async function freePort(): Promise<number> {
  const port = 10_000 + Math.floor(Math.random() * 20_000);
  const server = createServer();
  const isFree = await new Promise<boolean>((tell) =>
    server.once("error", () => tell(false)).listen(port, "127.0.0.1", () => tell(true)));
  await new Promise((done) => server.close(done));
  return isFree ? port : freePort();
}

/** @returns after how many milliseconds it was so. @throws after `ms`. */
export async function until(isSo: () => Promise<boolean>, ms: number) {
  const began = performance.now();
  const passed = () => Math.round(performance.now() - began);
  while (!(await isSo().catch(() => false))) {
    if (passed() > ms) throw new Error(`not so after ${ms} ms`);
    await Bun.sleep(100);
  }
  return passed();
}
