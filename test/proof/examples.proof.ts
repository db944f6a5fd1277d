// To begin from an example, as README.md says: it is put in the place of section 1, without its
// imports and its last line, and what is in its folder into seed/. Then the type check passes, and
// what holds for every app holds: nothing else of the repository has to be touched.

import { expect, test } from "bun:test";
import { cp, readdir, rm, symlink } from "node:fs/promises";
import { basename, join } from "node:path";
import { FILE } from "../app.ts";
import { ROOT, scratch } from "../support.ts";

const examples = (await readdir(join(ROOT, "examples")).catch(() => []))
  .filter((name) => name.endsWith(".ts"));
const KEPT = ["mock-auth.ts", "package.json", "bunfig.toml", "tsconfig.json", "seed", "test",
  "deploy", "README.md", "AGENTS.md", ".env.example", ".mcp.json", "opencode.json", ".vscode",
  ".cursor"];
const FOR_ANY_APP = ["smoke", "words", "your-app", "file", "start"]
  .map((name) => `test/${name}.test.ts`);

/** main.ts with this text in the place of its section 1. */
async function withSection1(text: string): Promise<string> {
  const main = await Bun.file(join(ROOT, "main.ts")).text();
  const [, before, , after] = main.match(
    /^([^]*\n\/\/ ---- 1\. The app: YOURS -+\n)([^]*?)(\n\/\/ ---- 2\. Config -+\n[^]*)$/)!;
  return `${before}\n${text}${after}`;
}
/** Without its head, its imports and its last line. */
const bodyOf = (example: string) => example
  .replace(/^(\/\/.*\n|\n)*/, "").replace(/^import [^;]+;\n/gm, "")
  .replace(/\nif \(import\.meta\.main\).*\n$/, "");

const here = test.skipIf(FILE !== "main.ts");
here.each(examples)("%s holds in the place of section 1", async (file) => {
  const name = basename(file, ".ts");
  const copy = await scratch();
  for (const part of KEPT) await cp(join(ROOT, part), join(copy, part), { recursive: true });
  await symlink(join(ROOT, "node_modules"), join(copy, "node_modules"), "junction");
  await Bun.write(join(copy, "test/app.test.ts"), ""); // the copier writes their own
  await rm(join(copy, "deploy/services"), { recursive: true, force: true });

  const example = await Bun.file(join(ROOT, "examples", file)).text();
  const text = bodyOf(example).replaceAll(`{import.meta.dir}/${name}/`, "{import.meta.dir}/seed/");
  await Bun.write(join(copy, "main.ts"), await withSection1(text));
  const folder = join(ROOT, "examples", name);
  for (const part of await readdir(folder)) {
    if (part.endsWith(".json")) await cp(join(folder, part), join(copy, "seed", part));
  }
  const run = (...command: string[]) => {
    const env = { ...process.env, CI: "" };
    const done = Bun.spawnSync([process.execPath, ...command], { cwd: copy, env });
    return [done.exitCode, `${done.stdout}${done.stderr}`.match(/^(\(fail\).*|.*error.*)$/gm)];
  };
  const server = JSON.parse(await Bun.file(join(copy, "deploy/server.json")).text());
  const title = text.match(/^ {4}name: "(.+)",$/m)![1];
  await Bun.write(join(copy, "deploy/server.json"), JSON.stringify({ ...server, title }));
  expect(run("test/surface.ts")).toEqual([0, null]);
  expect(run("x", "tsc", "--noEmit")).toEqual([0, null]);
  expect(run("test", ...FOR_ANY_APP)).toEqual([0, null]);
}, 120_000);
