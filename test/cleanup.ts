// Runs before the tests, for what has to happen after them: a run leaves nothing behind. (Under
// `bun test` the process's "exit" event never comes; afterAll does.)

import { afterAll } from "bun:test";
import { engines } from "../package.json";

if (!Bun.semver.satisfies(Bun.version, engines.bun)) {
  throw new Error(`The tests need Bun ${engines.bun} (this is ${Bun.version})`);
}

type Job = () => unknown;
const jobs: Job[] = ((globalThis as { atEnd?: Job[] }).atEnd ??= []);

/** Does this when all tests are over, last come first served. */
export const atEnd = (job: Job): void => void jobs.push(job);

/** For a program that is not a test, and has to say itself when it is over. A job that fails keeps none of
 *  the others from being done. @throws what the first of those threw. */
export async function tidyUp(): Promise<void> {
  const failures: unknown[] = [];
  for (const job of jobs.splice(0).reverse()) {
    await Promise.try(job).catch((error) => failures.push(error));
  }
  if (failures.length > 0) throw failures[0];
}

try {
  afterAll(tidyUp, 60_000); // a database's folder is large, and the machine may be busy
} catch {
  // Not under `bun test`: there is no afterAll, and the program calls tidyUp.
}
