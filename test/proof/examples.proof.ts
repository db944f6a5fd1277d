// To begin from an example, as README.md says, and nothing else: its text in the place of section 1
// without the imports and the last line, /seed/ in the path of its seed, its files in seed/, its
// test as test/app.test.ts, the name where step 4 puts it. Then the type check passes, its own test
// does, and what holds for every app.

import { expect, test } from "bun:test";
import { cp, readdir, rm, symlink } from "node:fs/promises";
import { basename, join } from "node:path";
import { FILE } from "../app.ts";
import { ROOT, scratch } from "../support.ts";

const examples = (await readdir(join(ROOT, "examples")).catch(() => []))
  .filter((name) => name.endsWith(".ts"));
const KEPT = ["mock-auth.ts", "package.json", "bunfig.toml", "tsconfig.json", "seed", "test",
  "deploy", "README.md", "AGENTS.md", ".env.example"];
const AGENTS = [".mcp.json", "opencode.json", ".vscode/mcp.json", ".cursor/mcp.json"];
const TESTS = ["app", "smoke", "words", "your-app", "file", "start"]
  .map((name) => `test/${name}.test.ts`);
const read = (...path: string[]) => Bun.file(join(ROOT, ...path)).text();

/** main.ts with this text in the place of its section 1. */
async function withSection1(text: string): Promise<string> {
  const [, before, , after] = (await read("main.ts")).match(
    /^([^]*\n\/\/ ---- 1\. The app: YOURS -+\n)([^]*?)(\n\/\/ ---- 2\. Config -+\n[^]*)$/)!;
  return `${before}\n${text}${after}`;
}
const withoutImports = (text: string) => text
  .replace(/^(\/\/.*\n|\n)*/, "").replace(/^import [^;]+;\n/gm, "")
  .replace(/\nif \(import\.meta\.main\).*\n$/, "");

const here = test.skipIf(FILE !== "main.ts");
here.each(examples)("%s holds in the place of section 1", async (file) => {
  const name = basename(file, ".ts");
  const copy = await scratch();
  for (const part of KEPT) await cp(join(ROOT, part), join(copy, part), { recursive: true });
  await rm(join(copy, "deploy/services"), { recursive: true, force: true });
  await symlink(join(ROOT, "node_modules"), join(copy, "node_modules"), "junction");

  const text = withoutImports(await read("examples", file)).replace(`/${name}/`, "/seed/");
  await Bun.write(join(copy, "main.ts"), await withSection1(text));
  for (const part of await readdir(join(ROOT, "examples", name))) {
    const isSeed = part.endsWith(".json") && part !== "surface.json";
    if (isSeed) await cp(join(ROOT, "examples", name, part), join(copy, "seed", part));
  }
  const own = (await read("examples", name, `${name}.test.ts`))
    .replace('"../../main.ts"', '"../main.ts"').replace(`"../${name}.ts"`, '"../main.ts"')
    .replaceAll('"../../test/', '"./').replace('from "./lessons', 'from "../seed/lessons')
    .replace('from "./pages', 'from "../seed/pages');
  await Bun.write(join(copy, "test/app.test.ts"), own);

  const [, slug] = text.match(/^ {4}slug: "(.+)",$/m)!;
  const [, title] = text.match(/^ {4}name: "(.+)",$/m)!;
  const entry = JSON.parse(await read("deploy/server.json")) as object;
  await Bun.write(join(copy, "deploy/server.json"), JSON.stringify({ ...entry, title }));
  for (const agents of AGENTS) {
    const named = (await read(agents)).replace(/"[a-z-]+"(?=: \{ "(type|url))/, `"${slug}"`);
    await Bun.write(join(copy, agents), named);
  }
  const run = (...command: string[]) => {
    const done = Bun.spawnSync([process.execPath, ...command], { cwd: copy });
    return [done.exitCode, `${done.stdout}${done.stderr}`.match(/^(\(fail\).*|.*error.*)$/gm)];
  };
  expect(run("test/surface.ts")).toEqual([0, null]);
  expect(run("x", "tsc", "--noEmit")).toEqual([0, null]);
  expect(run("test", ...TESTS)).toEqual([0, null]);
}, 120_000);
