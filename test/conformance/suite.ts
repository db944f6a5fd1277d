// Runs the suite and reads what it found. It prints "passed" even against a closed port, and forgives a
// baseline that names what isn't there, or what doesn't count for a revision: so its exit code is one judge,
// and `problemsOf` another.

import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { ROOT, scratch } from "../support.ts";

const SUITE = join(ROOT, "node_modules/@modelcontextprotocol/conformance/dist/index.js");

interface Check {
  id: string;
  status: "SUCCESS" | "FAILURE" | "WARNING" | "SKIPPED" | "INFO";
  errorMessage?: string;
}
export interface Run {
  exitCode: number;
  announced: number; // how many scenarios it said it would run
  scenarios: Map<string, Check[]>;
  complaint: string; // how its stderr begins
}

/** One command of the suite. `watch` sees what it prints, as it prints it. */
export async function runSuite(command: string[], watch?: (output: string) => void): Promise<Run> {
  const folder = await scratch();
  const child = Bun.spawn(["bun", SUITE, ...command, "--output-dir", folder], {
    cwd: folder,
    env: { PATH: process.env.PATH!, HOME: folder },
    stdout: "pipe",
    stderr: "pipe",
    timeout: 45_000, // milliseconds: it waits for a person for five minutes
  });
  const complaints = child.stderr.text();
  let output = "";
  for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) {
    output += chunk;
    watch?.(output);
  }
  const announced = Number(output.match(/^Running .*\((\d+) scenarios\)/m)?.[1] ?? 0);
  const complaint = (await complaints).slice(0, 300);
  return { exitCode: await child.exited, announced, scenarios: await resultsIn(folder), complaint };
}

/** The suite gives each scenario a folder, named for it and for the time; without checks, if it broke off. */
async function resultsIn(folder: string): Promise<Run["scenarios"]> {
  const scenarios: Run["scenarios"] = new Map();
  for (const name of (await readdir(folder)).sort()) {
    const scenario = name.match(/^(?:authorization-)?server-(.+)-\d{4}-\d\d-\d\dT[\dZ-]+$/)?.[1];
    if (!scenario) continue;
    const file = Bun.file(join(folder, name, "checks.json"));
    const brokeOff: Check = { id: scenario, status: "FAILURE", errorMessage: "it broke off" };
    scenarios.set(scenario, (await file.exists()) ? await file.json() : [brokeOff]);
  }
  return scenarios;
}

/** What the baseline expects to fail, `scenario` or `scenario:check`. @throws for a line without a reason. */
export async function readBaseline(file: string): Promise<string[]> {
  const text = await Bun.file(file).text();
  const entries = text.split("\n").filter((line) => /^\s*-/.test(line));
  const bare = entries.filter((line) => !/^ {2}- \S+ # \S+ \S+/.test(line));
  if (bare.length > 0) throw new Error(`${file} gives no reason for ${bare.join(", ")}`);
  return (Bun.YAML.parse(text) as { server: string[] }).server;
}

/** A warning is a failure, too: the suite sees it so as soon as there is a baseline. */
const isBad = ({ status }: Check) => status === "FAILURE" || status === "WARNING";

/** What failed, in the words of a baseline: the scenario alone, where the baseline names it as a whole. */
function failuresOf({ scenarios }: Run, baseline: string[]): Map<string, string> {
  const failures = new Map<string, string>();
  for (const [scenario, checks] of scenarios) {
    for (const { id, errorMessage = "a warning" } of checks.filter(isBad)) {
      failures.set(baseline.includes(scenario) ? scenario : `${scenario}:${id}`, errorMessage);
    }
  }
  return failures;
}

/** Empty, if what fails is what the baseline says, no more and no less, and everything was run. */
export function problemsOf(run: Run, baseline: string[]): string[] {
  const failures = failuresOf(run, baseline);
  const problems = [...failures]
    .filter(([name]) => !baseline.includes(name))
    .map(([name, message]) => `fails: ${name} (${message})`);
  const gone = baseline.filter((name) => !failures.has(name));
  problems.push(...gone.map((name) => `passes, or wasn't tried: ${name}`));
  if (run.scenarios.size === 0) problems.push(`nothing was run: ${run.complaint}`);
  const { size } = run.scenarios;
  if (size !== run.announced) problems.push(`ran ${size} of ${run.announced} scenarios`);
  if (run.exitCode !== 0) problems.push(`the suite ended with ${run.exitCode}`);
  return problems;
}

/** A line of the table in TESTING.md. */
export function rowOf(name: string, run: Run, baseline: string[]): string {
  const all = [...run.scenarios.values()];
  const failed = all.filter((checks) => checks.some(isBad));
  const passed = all.filter((checks) => !failed.includes(checks) && checks.some(isTried));
  const untried = all.length - failed.length - passed.length;
  const unexpected = problemsOf(run, baseline).length;
  const good = all.flat().filter(({ status }) => status === "SUCCESS");
  const counts = [all, passed, failed].map(({ length }) => length);
  const cells = [name, ...counts, untried, unexpected, good.length, baseline.length];
  return `| ${cells.join(" | ")} |`;
}
/** Every answer is held to the protocol's schema, too: that alone tries no scenario. */
const isTried = ({ id, status }: Check) => status === "SUCCESS" && id !== "wire-schema-valid";
const HEAD = ["against", "scenarios", "pass", "fail", "nothing to try", "unexpected", "checks that pass",
  "lines in the baseline"];
export const TABLE_HEAD = `| ${HEAD.join(" | ")} |\n|${"---|".repeat(HEAD.length)}`;
