// What holds for your app, whatever it is about: these stay when you rewrite app.test.ts.

import { expect, test } from "bun:test";
import { loadApp } from "../main.ts";
import { rehearse, sqliteEnv } from "./rehearsals.ts";
import { startGateway } from "./support.ts";
import { surfaceAccepted, surfaceNow } from "./surface.ts";

test("`about` says in a sentence or two to a person what it is", async () => {
  const { about = "" } = await loadApp();
  expect(about).toMatch(/^[^\n]{20,300}\.$/);
});

test("no word that a host reviewed has changed (`bun run surface` accepts what is new)", async () => {
  expect(await surfaceNow()).toEqual(await surfaceAccepted());
});

test("seed/rehearsal.json has three calls of this app, and the rehearsal holds", async () => {
  const env = await sqliteEnv();
  const server = await startGateway(env, "main.ts");
  const { out, err } = await rehearse(server.mcp, undefined, env);
  const trouble = (out + err).match(/^\d+\. .*\n( +(?!NOT).*\n)* +NOT (HELD|SHOWN) .*$/gm) ?? [];
  expect(trouble).toEqual([]);
  expect(out).toEndWith(" 12 of 12 held.\n");
  await server.stop();
});
