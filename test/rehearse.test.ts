// `bun run rehearse`, played against a gateway in a process of its own: each step is shown and holds,
// in the log as in the transcript; and it notices when one doesn't. (On Postgres, where a stopped
// store takes seconds: proof/rehearse.proof.ts.)

import { expect, setDefaultTimeout, test } from "bun:test";
import { readdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { LogLine } from "../main.ts";
import { sampleRehearsal } from "./sample-app.ts";
import { freePort, rehearse, scratch, startGateway, until } from "./support.ts";

setDefaultTimeout(20_000); // milliseconds: programs are started

const sqlite = async () => ({ DATABASE_URL: `sqlite:${join(await scratch(), "kept.sqlite")}` });

test("each step of the rehearsal is shown and holds", async () => {
  const env = await sqlite();
  const gateway = await startGateway(env);
  const { out, err, code } = await rehearse(gateway.mcp, sampleRehearsal, env);
  expect({ err, code }).toEqual({ err: "", code: 0 });
  expect(out).not.toMatch(/NOT (HELD|SHOWN)/);
  expect(out).toEndWith("\n13 of 13 held.\n");

  const log = () => gateway.out.text.trim().split("\n").map((line): LogLine => JSON.parse(line));
  await until(() => log().length >= 19);
  const came = log().map(({ sub, tool, outcome, why }) =>
    [sub!.replace("rehearsal-", ""), tool, why ?? outcome].join(" "));
  expect(came).toEqual([
    "ada user_get_state session",
    "ada user_get_state session",
    "ben begin_session ok",
    "ada user_get_state session",
    "ada begin_session ok",
    "ada user_get_state arguments",
    "ada domain_get_word word",
    "ada health ok",
    "ada user_get_state failed",
    "ada user_get_state ok",
    "ada domain_get_word ok",
    "ada user_write ok",
    "ada begin_session ok",
    "ada begin_session ok",
    "ada user_forget_me ok",
    "ada user_forget_me ok",
    "ben begin_session ok",
    "ben user_forget_me ok",
    "ben user_forget_me ok",
  ]);
  await gateway.stop();
});

test("it ends with code 1 when something gets through", async () => {
  const env = await sqlite();
  const gateway = await startGateway(env);
  const { out, code } = await rehearse(gateway.mcp, { ...sampleRehearsal, missing: sampleRehearsal.read }, env);
  expect(code).toBe(1);
  const folder = dirname(env.DATABASE_URL.slice("sqlite:".length));
  expect((await readdir(folder)).filter((name) => name.includes("moved"))).toEqual([]);
  expect(out).toMatch(/It asks for what isn't there\n.*\n.*\n {3}NOT HELD/);
  expect(out).toEndWith("\n12 of 13 held.\n");
  await gateway.stop();
});

test("what can't be shown is said, and counted", async () => {
  const gateway = await startGateway(); // its memory is no file
  const { out, code } = await rehearse(gateway.mcp, {});
  expect(code).toBe(0);
  expect(out.match(/NOT SHOWN .*/g)).toEqual([
    expect.stringContaining("has to name three calls of this app"),
    expect.stringContaining("notebook.sqlite is not what the server keeps"),
    expect.stringContaining("has to name three calls of this app"),
  ]);
  expect(out).toEndWith("\n7 of 7 held. 3 could not be shown here.\n");
  await gateway.stop();
});

test("it needs a server, and says so", async () => {
  const nobody = `http://localhost:${await freePort()}/mcp`;
  const err = `The rehearsal can't begin: nobody answers at ${nobody}. Start the server first: bun \
run main.ts.\n`;
  expect(await rehearse(nobody, sampleRehearsal)).toEqual({ out: "", err, code: 1 });
});
test("it needs two readers, and says so", async () => {
  const gateway = await startGateway({ AUTH_DISABLED: "1" });
  const err = `The rehearsal can't begin: sign-in is off (AUTH_DISABLED), and it needs two \
readers.\n`;
  expect(await rehearse(gateway.mcp, sampleRehearsal)).toEqual({ out: "", err, code: 1 });
  await gateway.stop();
});
