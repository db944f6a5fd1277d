// The shortest proof that it works: start here.

import { expect, test } from "bun:test";
import { loadApp } from "./app.ts";
import { gateway, mint } from "./support.ts";

test("everything imports", async () => {
  const { createServer } = await import("../main.ts");
  const { mockAuth } = await import("../mock-auth.ts");
  expect([typeof createServer, typeof mockAuth]).toEqual(["function", "function"]);
  expect((await loadApp()).slug).not.toBeEmpty();
});

test("a valid token resolves its subject", async () => {
  const { call, log } = await gateway();
  const opened = await call("begin_session", {}, await mint({ sub: "ada" }));
  expect(opened.isError).toBeUndefined();
  expect(log).toMatchObject([{ sub: "ada", tool: "begin_session", outcome: "ok" }]);
});

test("a wrong-audience token is rejected", async () => {
  const { rpc } = await gateway();
  const { status, headers } = await rpc("tools/list", {}, await mint({ aud: "https://elsewhere.example/mcp" }));
  expect(status).toBe(401);
  expect(headers.get("www-authenticate")).toContain('error="invalid_token"');
});

test("two subjects stay isolated", async () => {
  const { enter, call } = await gateway();
  const [ada, ben] = [await enter("ada"), await enter("ben")];
  await ada.use("user_write", { notes: { first: "hello" } });
  expect((await ada.use("user_get_state")).structuredContent!.state.notes).toEqual({ first: "hello" });
  expect((await ben.use("user_get_state")).structuredContent!.state.notes).toEqual({});

  const borrowed = await call("user_get_state", { session: ada.session }, ben.token);
  expect(borrowed.content[0]!.text).toStartWith("No valid session.");
});

test("a call with no session is refused", async () => {
  const { call } = await gateway();
  const refused = await call("user_get_state", {}, await mint());
  expect(refused.isError).toBe(true);
  expect(refused.content[0]!.text).toStartWith("No valid session. Call begin_session");
});
