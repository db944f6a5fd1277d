// What the tests of `bun run rehearse` share.

import { Database } from "bun:sqlite";
import { expect } from "bun:test";
import { readdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { atEnd } from "./cleanup.ts";
import { ROOT, scratch } from "./support.ts";

/** `bun run rehearse` at full speed, with these three calls or those of seed/rehearsal.json. */
export async function rehearse(url: string, script?: object, env?: Record<string, string>) {
  const { child, out, err } = await startRehearsal(url, script, env);
  return { out: await out, err: await err, code: await child.exited };
}
export async function startRehearsal(
  url: string,
  script?: object,
  env: Record<string, string> = {},
) {
  const cwd = await scratch();
  const file = join(cwd, "rehearsal.json");
  if (script) await Bun.write(file, JSON.stringify(script));
  const child = Bun.spawn(["bun", join(ROOT, "test/rehearse.ts"), url, ...(script ? [file] : [])], {
    cwd,
    env: { PATH: process.env.PATH!, PACE: "0", ...env },
    stdout: "pipe",
    stderr: "pipe",
    timeout: 60_000, // milliseconds
  });
  atEnd(() => child.kill("SIGKILL"));
  return { child, out: child.stdout.text(), err: child.stderr.text() };
}

export const sqliteEnv = async () => ({ DATABASE_URL: `sqlite:${join(await scratch(), "kept.sqlite")}` });
export const fileOf = ({ DATABASE_URL }: { DATABASE_URL: string }) => DATABASE_URL.slice("sqlite:".length);
/** The file is where it was, and nobody is in it. */
export async function expectNothingLeft(env: { DATABASE_URL: string }): Promise<void> {
  const names = await readdir(dirname(fileOf(env)));
  expect(names.filter((name) => !/^kept\.sqlite(-wal|-shm)?$/.test(name))).toEqual([]);
  using db = new Database(fileOf(env), { readonly: true });
  expect(db.query("select id from users").all()).toEqual([]);
}
