// `bun run mutants`: takes a line out of a copy of main.ts or mock-auth.ts, one at a time, and runs
// the tests that hold it. Every mutant has to die, by a test that says so. The table goes into
// TESTING.md (`--check`: only compares). A word as an argument picks the rows that contain it.

import { cp, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { MAIN_MUTANTS, type Mutant } from "./mutants-main.ts";

const ROOT = join(import.meta.dir, "../..");
const COPIED = ["main.ts", "mock-auth.ts", "package.json", "bunfig.toml", "tsconfig.json", "seed"];
const ALSO = ["README.md", "AGENTS.md", ".env.example", "test"];
const BEGIN = "<!-- mutants: written by `bun run mutants` -->";
const END = "<!-- /mutants -->";

interface Row extends Mutant {
  file: string;
}
const mockAuth = "./mutants-mock-auth.ts";
const { MOCK_AUTH_MUTANTS } = (await import(mockAuth).catch(() => ({ MOCK_AUTH_MUTANTS: [] }))) as {
  MOCK_AUTH_MUTANTS: Mutant[];
};
const all: Row[] = [
  ...MAIN_MUTANTS.map((mutant) => ({ ...mutant, file: "main.ts" })),
  ...MOCK_AUTH_MUTANTS.map((mutant) => ({ ...mutant, file: "mock-auth.ts" })),
];
const check = process.argv.includes("--check");
const word = process.argv.slice(2).find((argument) => argument !== "--check");
const rows = word ? all.filter((row) => JSON.stringify(row).includes(word)) : all;

const copies: string[] = [];
/** A copy of the project, to be mutated. */
async function copyProject(): Promise<string> {
  const copy = await mkdtemp(join(tmpdir(), "connector-mutant-"));
  copies.push(copy);
  for (const name of [...COPIED, ...ALSO]) {
    await cp(join(ROOT, name), join(copy, name), { recursive: true });
  }
  await symlink(join(ROOT, "node_modules"), join(copy, "node_modules"), "dir");
  return copy;
}
/** The name of the first test that fails in there; undefined if all pass. */
async function firstFailure(copy: string, tests: string, only = ""): Promise<string | undefined> {
  const which = only ? ["--test-name-pattern", only] : [];
  const command = ["bun", "test", "--bail", "--timeout", "60000", ...which, `./${tests}`];
  const run = Bun.spawn(command, {
    cwd: copy,
    stdout: "ignore",
    stderr: "pipe",
    env: { ...process.env, FORCE_COLOR: "0" },
  });
  const [said, code] = await Promise.all([new Response(run.stderr).text(), run.exited]);
  if (code === 0) return undefined;
  const failed = said.match(/^\(fail\) (.*?)( \[[\d.]+m?s\])?$/m)?.[1];
  if (!failed) throw new Error(`the tests did not run: ${said.trim().slice(-200)}`);
  return failed;
}
/** Runs jobs on all cores, each with a copy of its own. */
async function inParallel<T>(jobs: T[], work: (copy: string, job: T) => Promise<void>) {
  const left = [...jobs];
  await Promise.all(Array.from({ length: Math.max(2, availableParallelism()) }, async () => {
    const copy = await copyProject();
    for (let job = left.shift(); job !== undefined; job = left.shift()) await work(copy, job);
  }));
}

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

try {
  // A test that fails anyway would kill every mutant.
  const needed = new Map(rows.map((row) => [`${row.tests} ${row.only ?? ""}`, row]));
  await inParallel([...needed.values()], async (copy, { tests, only }) => {
    const failed = await firstFailure(copy, tests, only).catch(({ message }) => message as string);
    if (failed) problems.push(`${tests} fails without a mutant: ${failed}`);
  });
  await inParallel(rows, (copy, row) =>
    kill(copy, row).catch(({ message }) => {
      problems.push(`${row.file}: ${row.attack} (${row.tests}): ${message}`);
    }));
} finally {
  for (const copy of copies) await rm(copy, { recursive: true, force: true });
}

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
if (check && withoutKillers(found) !== withoutKillers(written)) {
  problems.push("TESTING.md has another table: bun run mutants");
}
if (!check && !word) {
  const next = found ? page.replace(found, () => written) : `${page.trimEnd()}\n\n${written}\n`;
  await writeFile(join(ROOT, "TESTING.md"), next);
}
console.log(`${rows.length} mutants, ${killers.size} dead`);
for (const problem of problems) console.log(`  ${problem}`);
process.exit(problems.length > 0 ? 1 : 0);
