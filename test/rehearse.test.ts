// `bun run rehearse`, played against a gateway in a process of its own: each step is shown and holds,
// in the log as in the transcript; and it notices when one doesn't. (What it does when it is broken
// off, and with Postgres, is in proof/rehearse.proof.ts.)

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { expectNothingLeft, rehearse, sqliteEnv } from "./rehearsals.ts";
import { sampleRehearsal } from "./sample-app.ts";
import { logOf, startGateway, until } from "./support.ts";

setDefaultTimeout(20_000); // milliseconds: programs are started

describe.concurrent("The rehearsal", () => {
  test("shows each step, and each holds", async () => {
    const env = await sqliteEnv();
    const gateway = await startGateway(env);
    const { out, err, code } = await rehearse(gateway.mcp, sampleRehearsal, env);
    expect({ err, code }).toEqual({ err: "", code: 0 });
    expect(out).not.toMatch(/NOT (HELD|SHOWN)/);
    expect(out).toEndWith(" 12 of 12 held.\n");
    expect(out).not.toMatch(/"(session|confirm)":"(?!\(|abcdefgh1234567890)/); // no key of anybody
    await expectNothingLeft(env);

    await until(() => logOf(gateway).length >= 24);
    const came = logOf(gateway).map(({ sub, tool, outcome, why }) =>
      [sub!.replace(/-[0-9a-f]{4}$/, ""), tool, why ?? outcome].join(" "));
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
      "ada user_get_state ok", // what it saved …
      "ada user_list_actions ok", // … and its receipt
      "ada begin_session ok",
      "ada begin_session ok",
      "ada user_forget_me ok",
      "ada user_forget_me ok",
      "ada begin_session ok", // nothing of her is left, nor of Ben
      "ada user_forget_me ok",
      "ada user_forget_me ok",
      "ben begin_session ok",
      "ben user_forget_me ok",
      "ben user_forget_me ok",
    ]);
    await gateway.stop();
  });

  const { missing, read } = sampleRehearsal;
  test.each<[string, object, string]>([
    ["something that isn't there is there", { missing: read }, "It asks for what isn't there"],
    ["nothing can be looked up", { read: missing }, "It looks something up"],
    ["a save keeps nothing", { save: { tool: "user_write", args: {} } }, "It saves something"],
  ])("ends with code 1 when %s", async (_, changed, title) => {
    const env = await sqliteEnv();
    const gateway = await startGateway(env);
    const { out, code } = await rehearse(gateway.mcp, { ...sampleRehearsal, ...changed }, env);
    expect(code).toBe(1);
    expect(out).toMatch(new RegExp(`${title}.*\n.*\n.*\n {3}NOT HELD`));
    expect(out).toEndWith(" 11 of 12 held.\n");
    await expectNothingLeft(env);
    await gateway.stop();
  });

  test("says what it can't show, and counts it", async () => {
    const gateway = await startGateway(); // its memory is no file
    const { out, code } = await rehearse(gateway.mcp, {});
    expect(code).toBe(0);
    expect(out.match(/NOT SHOWN .*/g)).toEqual([
      expect.stringContaining('rehearsal.json: "missing" has to name a tool of this app (got undefined)'),
      expect.stringContaining("notebook.sqlite is not what the server keeps"),
      expect.stringContaining('rehearsal.json: "missing" has to name a tool of this app (got undefined)'),
    ]);
    expect(out).toEndWith(" 6 of 6 held. 3 could not be shown here.\n");
    await gateway.stop();
  });
});
