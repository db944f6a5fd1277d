// Runs before the tests, for what has to happen after them: a run leaves nothing behind. (Under
// `bun test` the process's "exit" event never comes; afterAll does.)

import { afterAll } from "bun:test";

type Job = () => unknown;
const jobs: Job[] = ((globalThis as { atEnd?: Job[] }).atEnd ??= []);

/** Does this when all tests are over, last come first served. */
export const atEnd = (job: Job): void => void jobs.push(job);

afterAll(async () => {
  for (const job of jobs.splice(0).reverse()) await job();
}, 60_000); // a database's folder is large, and the machine may be busy
