// `bun run mutants`: takes a line out of a copy of main.ts or mock-auth.ts, one at a time, and runs
// the tests that hold it. Every mutant has to die, by a test that says so. The table goes into
// TESTING.md (`--check`: only compares). A word as an argument picks the rows that contain it, and
// shows them: what was taken out, and which test noticed.

import { mkdtempSync, rmSync } from "node:fs";
import { chmod, cp, mkdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { MAIN_MUTANTS, type Mutant } from "./mutants-main.ts";
import { MOCK_AUTH_MUTANTS } from "./mutants-mock-auth.ts";

const ROOT = join(import.meta.dir, "../..");
const COPIED = ["main.ts", "mock-auth.ts", "package.json", "bunfig.toml", "tsconfig.json", "seed",
  "README.md", "AGENTS.md", ".env.example", "test"];
const CORES = availableParallelism();
const BEGIN = "<!-- mutants: written by `bun run mutants` -->";
const END = "<!-- /mutants -->";

interface Row extends Mutant {
  file: string;
}
const all: Row[] = [
  ...MAIN_MUTANTS.map((mutant) => ({ ...mutant, file: "main.ts" })),
  ...MOCK_AUTH_MUTANTS.map((mutant) => ({ ...mutant, file: "mock-auth.ts" })),
];
const check = process.argv.includes("--check");
const word = process.argv.slice(2).find((argument) => argument !== "--check");
const rows = word ? all.filter((row) => JSON.stringify(row).includes(word)) : all;

/** Everything that a run makes is in here, also what the tests make, and goes with it. */
const folder = mkdtempSync(join(tmpdir(), "connector-mutants-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
/** Again and again: a PostgreSQL that is ending may still write. */
async function remove(path: string): Promise<void> {
  for (let tries = 1; ; tries++) {
    const problem = await rm(path, { recursive: true, force: true }).catch((error) => error);
    if (!problem) return;
    if (tries === 50) throw problem;
    await Bun.sleep(100);
  }
}
const running = new Set<Bun.Subprocess>();
let stopped = false;
async function stop() {
  stopped = true;
  for (const run of running) run.kill();
  for (const run of running) await run.exited;
  await remove(folder);
  process.exit(1);
}
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, stop);
await chmod(folder, 0o755); // PostgreSQL, which does not run as root, has to get in

/** A copy of the project, to be mutated. */
async function copyProject(name: string): Promise<string> {
  const copy = join(folder, name);
  for (const part of COPIED) await cp(join(ROOT, part), join(copy, part), { recursive: true });
  await symlink(join(ROOT, "node_modules"), join(copy, "node_modules"), "junction");
  return copy;
}
/** The name of the first test that fails in there; undefined if all pass. After a failure
 *  `bun test` cleans nothing up: its processes end with it, and its files are removed here. */
async function firstFailure(copy: string, tests: string, only = ""): Promise<string | undefined> {
  if (stopped) return new Promise(() => {}); // the process is about to end
  const TMPDIR = join(copy, "tmp");
  await mkdir(TMPDIR);
  const which = only ? ["--test-name-pattern", only] : [];
  const how = ["--no-orphans", "--bail", "--timeout", "60000"];
  const run = Bun.spawn(["bun", "test", ...how, ...which, `./${tests}`], {
    cwd: copy,
    stdout: "ignore",
    stderr: "pipe",
    env: { ...process.env, FORCE_COLOR: "0", TMPDIR },
  });
  running.add(run);
  const [said, code] = await Promise.all([new Response(run.stderr).text(), run.exited]);
  running.delete(run);
  await remove(TMPDIR);
  if (code === 0) return undefined;
  const failed = said.match(/^\(fail\) (.*?)( \[[\d.]+m?s\])?$/m)?.[1];
  if (!failed) throw new Error(`the tests did not run: ${said.trim().slice(-200)}`);
  return failed;
}
/** Runs jobs on all cores, each with a copy of its own. Two copies more take jobs from the end,
 *  where those are that wait more than they work. */
async function inParallel<T>(jobs: T[], work: (copy: string, job: T) => Promise<void>) {
  const left = [...jobs];
  await Promise.all(copies.map(async (copy, index) => {
    const next = () => (index < CORES ? left.shift() : left.pop());
    for (let job = next(); job !== undefined; job = next()) await work(copy, job);
  }));
}
const names = Array.from({ length: CORES + 2 }, (_, n) => `copy-${n}`);
const copies = await Promise.all(names.map(copyProject));

const problems: string[] = [];
const killers = new Map<Row, string>();
const originals = new Map<string, string>();
for (const name of ["main.ts", "mock-auth.ts"]) {
  originals.set(name, await readFile(join(ROOT, name), "utf8"));
}
async function kill(copy: string, row: Row): Promise<void> {
  const original = originals.get(row.file)!;
  const times = original.split(row.from).length - 1;
  if (times !== 1) throw new Error(`its line is there ${times} times`);
  await writeFile(join(copy, row.file), original.replace(row.from, () => row.to));
  try {
    const killer = await firstFailure(copy, row.tests, row.only);
    if (!killer) throw new Error("it survived");
    killers.set(row, killer);
  } finally {
    await writeFile(join(copy, row.file), original);
  }
}

const isSlow = ({ tests }: Mutant) => tests.includes("/proof/");
const slowLast = rows.toSorted((a, b) => Number(isSlow(a)) - Number(isSlow(b)));
// A test that fails anyway would kill every mutant.
await inParallel([...Map.groupBy(slowLast, ({ tests }) => tests)], async (copy, [tests, held]) => {
  const only = held.every(({ only }) => only) ? held.map(({ only }) => only).join("|") : "";
  const failed = await firstFailure(copy, tests, only).catch(String);
  if (failed) problems.push(`${tests} fails without a mutant: ${failed}`);
});
await inParallel(slowLast, (copy, row) =>
  kill(copy, row).catch(({ message }) => {
    problems.push(`${row.file}: ${row.attack} (${row.tests}): ${message}`);
  }));

const cell = (text: string) => text.trim().replaceAll("|", "¦").replaceAll(/\s+/g, " ");
const line = (row: Row) => {
  const without = cell(row.from).replaceAll("`", "'");
  const tests = row.tests.replace(/^test\//, "");
  const killer = cell(killers.get(row) ?? "NONE");
  return `| ${cell(row.attack)} | \`${without}\` | ${tests} | ${killer} |`;
};
const HEAD = ["| what gets in | without, or weaker | tests | which says so |", "|---|---|---|---|"];
const written = [BEGIN, ...HEAD, ...rows.map(line), END].join("\n");
const page = await readFile(join(ROOT, "TESTING.md"), "utf8");
const found = page.match(new RegExp(`${BEGIN}[^]*${END}`))?.[0] ?? "";
/** Of tests that run side by side, another may be the first to fail. */
const withoutKillers = (table: string) => table.replaceAll(/[^|\n]*\|$/gm, "");
if (check && !word && withoutKillers(found) !== withoutKillers(written)) {
  problems.push("TESTING.md has another table: bun run mutants");
}
if (!check && !word) {
  const next = found ? page.replace(found, () => written) : `${page.trimEnd()}\n\n${written}\n`;
  await writeFile(join(ROOT, "TESTING.md"), next);
}
if (rows.length === 0) problems.push(`no row says ${word}`);
if (word) {
  for (const row of killers.keys()) {
    console.log(`${row.attack}\n  without   ${row.file}: ${row.from.trim()}`);
    console.log(`  noticed   ${row.tests}: ${killers.get(row)}`);
  }
}
console.log(`${rows.length} mutants, ${killers.size} dead`);
for (const problem of problems) console.log(`  ${problem}`);
process.exit(problems.length > 0 ? 1 : 0);
