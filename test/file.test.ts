// main.ts as a text: its map is true, its lines and functions fit a screen, and reading it does
// nothing. And the tests that README.md names exist.

import { expect, test } from "bun:test";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { dependencies } from "../package.json" with { type: "json" };
import { ROOT, scratch } from "./support.ts";

const linesOf = async (file: string) => (await Bun.file(join(ROOT, file)).text()).split("\n");
const pick = (from: string[], pattern: RegExp) =>
  from.flatMap((line) => line.match(pattern)?.[1] ?? []);

const lines = await linesOf("main.ts");
const intro = lines.slice(0, lines.findIndex((line) => !line.startsWith("//")));
const headers = pick(lines, /^\/\/ ---- (\d+\. .+?) -+$/);

test("the map at the top names the sections, in order", () => {
  expect(headers.map((header) => parseInt(header))).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  expect(pick(intro, /^\/\/ {2,3}(\d+\. \S+(?: \S+)*) {2,}\S/)).toEqual(headers);
});

test("the way of a request, drawn under the map, passes sections that exist", () => {
  const drawn = intro.filter((line) => line.includes("──▶")).join("\n");
  const titles = headers.map((header) => header.replace(": YOURS", ""));
  const named = titles.filter((title) => drawn.includes(title));
  expect(named.length).toBeGreaterThan(4);
  const rest = named.reduce((text, title) => text.replaceAll(title, ""), drawn);
  expect(rest).not.toMatch(/\d/); // a number without its section
});

test("YOURS marks the one section to rewrite, in the map and at its head, and nothing else", () => {
  expect(lines.filter((line) => line.includes("YOURS"))).toEqual([
    expect.stringMatching(/^\/\/ {3}1\. The app: YOURS /),
    expect.stringMatching(/^\/\/ ---- 1\. The app: YOURS -+$/),
  ]);
});

/** Top-level functions with a body, and how many lines each takes. (A table of tools is none.) */
function functionsOf(text: string[]) {
  const begins = /^(?:export )?(?:(?:async )?function (\w+)|const (\w+) = .*=> \{$)/;
  return text.flatMap((line, at) => {
    const name = line.match(begins)?.slice(1).find(Boolean);
    const body = text.slice(at).findIndex((later) => /^\}/.test(later) && !later.endsWith("{"));
    return name && !line.endsWith("}") ? [{ name, lines: body + 1 }] : [];
  });
}

test.each(["main.ts", "mock-auth.ts"])("%s fits a screen: 100 columns, 60 lines", async (file) => {
  const text = await linesOf(file);
  expect(functionsOf(text).length).toBeGreaterThan(5);
  const wide = text.flatMap((line, at) => ([...line].length > 100 ? [`${file}:${at + 1}`] : []));
  const long = functionsOf(text).filter((one) => one.lines > 60);
  expect({ wide, long }).toEqual({ wide: [], long: [] });
});

test.each(["main.ts", "mock-auth.ts"])("importing %s does nothing", async (file) => {
  const cwd = await scratch(); // where a file would appear
  const program = `await import(${JSON.stringify(join(ROOT, file))})`;
  const child = Bun.spawn(["bun", "-e", program], {
    cwd,
    env: { PATH: process.env.PATH!, PORT: "0", DATABASE_URL: "sqlite:opened.sqlite" },
    stdout: "pipe",
    stderr: "pipe",
    timeout: 5_000, // milliseconds: an open port would keep it alive
  });
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  const done = { out, err, code: await child.exited, files: await readdir(cwd) };
  expect(done).toEqual({ out: "", err: "", code: 0, files: [] });
});

test("main.ts and mock-auth.ts know the same proxies", async () => {
  const files = await Promise.all(["main.ts", "mock-auth.ts"].map(linesOf));
  const [ours, theirs] = files.map((text) => pick(text, /^ {2}(\/forwarded\|.*\/);$/));
  expect(ours).toHaveLength(1);
  expect(theirs).toEqual(ours!);
});

test("four packages are all that runs", () => {
  const four = ["@modelcontextprotocol/server", "jose", "postgres", "zod"];
  expect(Object.keys(dependencies)).toEqual(four);
});

const PAGES = [...new Bun.Glob("{README,AGENTS,COURSE}.md").scanSync(ROOT)];
test("every test that README.md, AGENTS.md and COURSE.md name is there", async () => {
  const words = (await Promise.all(PAGES.map(linesOf))).flat().join("\n");
  const files = [...new Bun.Glob("test/**/*.ts").scanSync(ROOT)];
  const named = words.match(/\btest\/[\w/.-]+\.ts\b/g) ?? [];
  expect(named).not.toBeEmpty();
  expect(named.filter((name) => !files.includes(name))).toEqual([]);
});
