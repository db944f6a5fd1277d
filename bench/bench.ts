// What does a call cost, beside servers that do the same work?
//
//   $ bun run bench                                everything; writes bench/RESULTS.md
//   $ bun run bench get_article /16                the cells whose names hold all these words, and
//                                                  the parts "cold start", "slow save", memory
//   $ ROUNDS=5 SECONDS=4 bun run bench             more rounds, longer cells
//
// 1. The Reading Room, `bun run main.ts` as it is, on SQLite and on Postgres, in both revisions.
// 2. Beside it other servers (contenders/) that do the same for one tool, domain_get_article: they
//    check a token (RS256, issuer, audience; by jose) and a session key (HMAC), check the arguments
//    (zod), and return the same article, structured and as text (work.ts). Bare Bun is a floor, not a
//    server: it knows no other message of the protocol.
// 3. Cold starts. 4. A save on a Postgres that is far away. 5. Memory over a million calls.
//
// How: the load is wrk's, one thread of it, on the same machine (load.ts). CPU is what the operating
// system counts for the server's process, user and system, of all its threads, by the calls that were
// answered; it is the figure to compare by, as it depends least on what else the machine does (usage.ts).
// Each server first has to answer right and to refuse two bad tokens, another's session key and a bad
// argument (answers.ts). During a load, any other status than 200, a socket error, an answer of another
// size than a right one, or a line in the log that isn't a success, fails the cell, and the run.
// Sixteen people call in turn, each with a token of their own.
//
// Ends with code 1 if a target of verdict.ts is missed.

import { loadavg } from "node:os";
import { join } from "node:path";
import postgres from "postgres";
import { tidyUp } from "../test/cleanup.ts";
import { postgresServer, scratch } from "../test/support.ts";
import { measureCells } from "./cells.ts";
import { measureColdStarts } from "./cold.ts";
import { measureMemory } from "./memory.ts";
import { fullReport, shortReport } from "./report.ts";
import { measureSave } from "./save.ts";
import { type Found, headline, missedTargets } from "./verdict.ts";

const loadBefore = loadavg()[0]!;
const rounds = Number(process.env.ROUNDS ?? 3);
const seconds = Number(process.env.SECONDS ?? 2);
const words = [...process.argv.slice(2), ...(process.env.ONLY ?? "").split(" ")].filter(Boolean);
const isWanted = (name: string) => words.every((word) => name.includes(word));

async function run(): Promise<number> {
  if (!Bun.which("wrk")) {
    console.error("The load generator is missing: apt-get install wrk, or brew install wrk.");
    return 1;
  }
  const database = await postgresServer();
  const sqliteUrl = `sqlite:${join(await scratch(), "alone.sqlite")}`;
  const found: Found = { cells: await measureCells(await database.database(), rounds, seconds, isWanted) };
  if (isWanted("cold start")) found.cold = await measureColdStarts(sqliteUrl);
  if (isWanted("slow save")) found.save = await measureSave(await database.database());
  if (isWanted("memory")) found.memory = await measureMemory(sqliteUrl);

  if (found.cells.length === 0 && !found.cold && !found.save && !found.memory) {
    console.error(`Nothing here is called "${words.join(" ")}".`);
    return 1;
  }
  const missed = missedTargets(found);
  if (words.length === 0) {
    const postgresVersion = await versionOf(await database.database());
    const report = fullReport(found, missed, { rounds, seconds, postgresVersion, loadBefore });
    await Bun.write(join(import.meta.dir, "RESULTS.md"), report);
  }
  if (headline(found.cells).length > 0) console.log(shortReport(found));
  for (const one of missed) console.log(`missed: ${one}`);
  return missed.length > 0 ? 1 : 0;
}

async function versionOf(url: string): Promise<string> {
  const sql = postgres(url, { max: 1 });
  const [row] = await sql`show server_version`;
  await sql.end();
  return String(row?.server_version);
}

process.on("SIGINT", () => tidyUp().finally(() => process.exit(130)));
process.exitCode = await run().finally(tidyUp);
