// COURSE.md is true: each row's section, test and attack are there, and its command, typed as it
// stands, shows what it says. (Whoever deletes COURSE.md is done with this file, too.)

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
  test.each(rows)("row %s: %s", async (...cells) => {
    const [, , section, tested, attack, command, says] = cells as [
      string, string, string, string, string, string, string];
    const main = await Bun.file(join(ROOT, "main.ts")).text();
    expect(main).toMatch(new RegExp(`^// ---- ${section}(: YOURS)? -+$`, "m"));
    const [, file, title] = tested.match(/^`(.+)`: “(.+)”$/)!;
    const isThere = (await Bun.file(join(ROOT, file!)).text()).includes(title!);
    expect([title, isThere]).toEqual([title, true]);
    const attacks = [...MAIN_MUTANTS, ...MOCK_AUTH_MUTANTS].map((one) => one.attack);
    expect(attacks).toContain(attack);

    const script = elsewhere(`${functions}\n${code(command)}`);
    const child = Bun.spawn(["bash", "-c", script], { cwd: ROOT, env, stderr: "pipe" });
    const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()]);
    expect(out + err).toContain(elsewhere(code(says)));
  });
});
