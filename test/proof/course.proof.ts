// COURSE.md is true: the line that each row's attack needs stands in the section that it names, the
// test is the one that noticed (as `bun run mutants` wrote into TESTING.md), and the command, typed
// as it stands, shows what it says. (Whoever deletes COURSE.md is done with this file, too.)

import { afterAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { FILE } from "../app.ts";
import { ROOT, scratch, startGateway } from "../support.ts";
import { MAIN_MUTANTS } from "./mutants-main.ts";
import { MOCK_AUTH_MUTANTS } from "./mutants-mock-auth.ts";

const page = Bun.file(join(ROOT, "COURSE.md"));
const text = (await page.exists()) && FILE === "main.ts" ? await page.text() : "";
const cellsOf = (line: string) =>
  line.split(/(?<!\\)\|/).slice(1, -1).map((cell) => cell.trim().replaceAll("\\|", "|"));
const code = (cell: string) => cell.match(/^`(.*)`$/)![1]!;
const rows = text.split("\n").filter((line) => /^\| \d+ \|/.test(line)).map(cellsOf);
const functions = text.match(/```sh\n([^]*?)```/)?.[1] ?? "";

describe.skipIf(text === "")("COURSE.md", async () => {
  const cwd = await scratch();
  // Its commands say 8000, and start in the repository's folder: here they are typed elsewhere.
  const server = await startGateway({ CWD: cwd, DATABASE_URL: "sqlite:course.sqlite" }, FILE);
  const elsewhere = (words: string) => words.replaceAll("localhost:8000", `localhost:${server.port}`);
  const env = { ...process.env, PORT: String(server.port), PACE: "0",
    DATABASE_URL: `sqlite:${join(cwd, "course.sqlite")}` };
  afterAll(() => server.stop());

  test("has fourteen rows", () => {
    expect(rows.map(([number]) => Number(number))).toEqual(rows.map((_, n) => n + 1));
    expect(rows).toHaveLength(14);
  });
  /** The section of a file in which a text stands, as its header says it. */
  async function sectionOf(file: string, from: string) {
    const before = (await Bun.file(join(ROOT, file)).text()).split(from)[0]!;
    const headers = before.match(/^\/\/ ---- \d+\. .+? -+$/gm) ?? [];
    const title = headers.at(-1)?.replace(/^\/\/ ---- (.+?)(: YOURS)? -+$/, "$1") ?? "before 1";
    return file === "main.ts" ? title : `${file}, ${title}`;
  }
  const attacks = [
    ...MAIN_MUTANTS.map((one) => ({ ...one, file: "main.ts" })),
    ...MOCK_AUTH_MUTANTS.map((one) => ({ ...one, file: "mock-auth.ts" })),
  ];
  test.each(rows)("row %s: %s", async (...cells) => {
    const [, , section, attack, noticed, command, says] = cells as [
      string, string, string, string, string, string, string];
    const { file, from, tests } = attacks.find((one) => one.attack === attack)!;
    expect(await sectionOf(file, from)).toBe(section);
    const [, by, title] = noticed.match(/^`(.+)`: \*(.+)\*$/)!;
    expect(by).toBe(tests);
    const table = await Bun.file(join(ROOT, "TESTING.md")).text();
    const killed = table.split("\n").filter((line) => line.startsWith(`| ${attack} | `));
    expect(killed).toEqual([expect.stringContaining(title!)]);

    const script = elsewhere(`${functions}\n${code(command)}`);
    const child = Bun.spawn(["bash", "-c", script], { cwd: ROOT, env, stderr: "pipe" });
    const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()]);
    expect(out + err).toContain(elsewhere(code(says)));
  });
});
