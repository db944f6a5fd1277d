// `bun run compile`: one executable, without node_modules or any file beside it, started in an
// empty folder on both stores.

import { expect, test } from "bun:test";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { scripts, version } from "../../package.json" with { type: "json" };
import { loadApp } from "../../main.ts";
import {
  personAt, postgresIsHere, postgresServer, ROOT, scratch, startGateway,
} from "../support.ts";

const folder = await scratch();
const program = join(folder, "program");
const command = scripts.compile.replace(/--outfile .*/, `--outfile ${program}`).split(" ");
const built = Bun.spawnSync([process.execPath, ...command.slice(1)], { cwd: ROOT });

test("it is built by the command of package.json", () => {
  expect([built.exitCode, built.stderr.toString()].join(" ")).toStartWith("0 ");
  expect(Bun.file(program).size).toBeGreaterThan(1_000_000);
});

const stores = ["sqlite", ...(postgresIsHere ? ["postgres"] : [])];
test.each(stores)("on %s it has its catalogue and its page, and keeps what is saved", async (kind) => {
  const cwd = await scratch();
  // Of somebody who can write there: nothing that it says is done.
  await Bun.write(join(cwd, "bunfig.toml"), 'preload = ["./preloaded.ts"]');
  await Bun.write(join(cwd, "preloaded.ts"), 'console.error("preloaded")');
  const url = kind === "sqlite" ? "sqlite:kept.sqlite" : await (await postgresServer()).database();
  const env = { CWD: cwd, DATABASE_URL: url, PROGRAM: program };
  const first = await startGateway(env);
  const page = await fetch(first.url);
  expect([page.status, await page.text()]).toEqual([200, expect.stringContaining("<!doctype html>")]);
  const icon = await fetch(`${first.url}/favicon.ico`);
  expect(icon.headers.get("content-type")).toBe("image/png");
  const { save, read } = await Bun.file(join(ROOT, "seed/rehearsal.json")).json();
  const ask = await personAt(first, "ada");
  expect((await ask("health")).structuredContent).toMatchObject({ store: kind, version });
  expect((await ask(read.tool, read.args)).isError).toBeUndefined();
  expect((await ask(save.tool, save.args)).isError).toBeUndefined();
  const { state } = (await ask("user_get_state")).structuredContent!;
  expect(await first.stop()).toBe(0);

  const again = await startGateway(env);
  const back = await personAt(again, "ada");
  expect((await back("user_get_state")).structuredContent!.state).toEqual(state);
  expect(await again.stop()).toBe(0);
  expect(again.err.text).toContain(`The ${(await loadApp()).name} is open at ${again.mcp}`);
  const left = (await readdir(cwd)).filter((name) => !/^kept.sqlite|bunfig|preloaded/.test(name));
  expect(left).toEqual([".mock-auth-key.json"]); // the folder, not the executable, has the key
  expect(again.err.text).not.toContain("preloaded");
});
