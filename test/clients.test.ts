// Both official clients, the newer one in both eras of the protocol, against a gateway in a process
// of its own.

import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import * as newer from "@modelcontextprotocol/client";
import { Client as OlderClient } from "@modelcontextprotocol/sdk/client/index.js";
import {
  StreamableHTTPClientTransport as OlderTransport,
} from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import type { Transport } from "@modelcontextprotocol/sdk/shared/transport.js";
import { scratch, startGateway, type ToolResult } from "./support.ts";

let gateway: Awaited<ReturnType<typeof startGateway>>;
const env = {
  DATABASE_URL: `sqlite:${join(await scratch(), "clients.sqlite")}`,
  SESSION_SIGNING_SECRET: "c".repeat(43),
  RATE_LIMIT_PER_MINUTE: "9",
};
beforeAll(async () => void (gateway = await startGateway(env)));
afterAll(() => gateway.stop());

interface Visit {
  call(name: string, args?: object): Promise<ToolResult>;
  tools(): Promise<string[]>;
  instructions(): string | undefined;
  revision(): string | undefined;
  close(): Promise<void>;
}
type Connect = (token?: string) => Promise<Visit>;

const older: Connect = async (token) => {
  const client = new OlderClient({ name: "older", version: "1" });
  const headers: Record<string, string> = token ? { Authorization: `Bearer ${token}` } : {};
  const transport = new OlderTransport(new URL(gateway.mcp), { requestInit: { headers } });
  await client.connect(transport as Transport); // its type does not know exactOptionalPropertyTypes
  return {
    call: async (name, args = {}) =>
      (await client.callTool({ name, arguments: { ...args } })) as ToolResult,
    tools: async () => (await client.listTools()).tools.map(({ name }) => name),
    instructions: () => client.getInstructions(),
    revision: () => transport.protocolVersion,
    close: () => client.close(),
  };
};
const inEra = (mode: newer.VersionNegotiationMode): Connect => async (token) => {
  const client = new newer.Client(
    { name: "newer", version: "1" },
    { versionNegotiation: { mode } },
  );
  const options = token ? { authProvider: { token: async () => token } } : {};
  await client.connect(new newer.StreamableHTTPClientTransport(new URL(gateway.mcp), options));
  return {
    call: async (name, args = {}) =>
      (await client.callTool({ name, arguments: { ...args } })) as ToolResult,
    tools: async () => (await client.listTools()).tools.map(({ name }) => name),
    instructions: () => client.getInstructions(),
    revision: () => client.getNegotiatedProtocolVersion(),
    close: () => client.close(),
  };
};

const clients: [string, string, Connect][] = [
  ["the older client", "2025-11-25", older],
  ["the newer client in the 2025 era", "2025-11-25", inEra("legacy")],
  ["the newer client in the 2026 era", "2026-07-28", inEra({ pin: "2026-07-28" })],
  ["the newer client, left to choose", "2026-07-28", inEra("auto")],
];

test.each(clients)("%s, without a token, is told to sign in (%s)", async (_, __, connect) => {
  const error = await connect().then(
    (visit) => visit.close(),
    (error: { code?: unknown; status?: unknown }) => error,
  );
  expect([error?.code, error?.status]).toContain(401);
});

test("the newer client finds out from the 401 alone where to sign in", async () => {
  const refused = await fetch(gateway.mcp, { method: "POST" });
  const { resourceMetadataUrl } = newer.extractWWWAuthenticateParams(refused);
  const metadata = await newer.discoverOAuthProtectedResourceMetadata(gateway.mcp, {
    resourceMetadataUrl: resourceMetadataUrl!,
  });
  expect(metadata).toMatchObject({
    resource: gateway.mcp,
    authorization_servers: [`${gateway.url}/mock-auth`],
  });
});

test.each(clients)("%s (%s) saves, goes, and finds it again", async (who, revision, connect) => {
  const token = await gateway.token(who);
  const first = await connect(token);
  expect(first.revision()).toBe(revision);
  expect(first.instructions()).toContain("begin_session");
  expect(await first.tools()).toContain("user_write");
  const { session, state } = (await first.call("begin_session")).structuredContent!;
  expect(state).toEqual({ mood: null, notes: {} });
  const { structuredContent } = await first.call("domain_get_word", { session, word: "fern" });
  expect(structuredContent!.meaning).toBe("a green plant");
  const refused = await first.call("domain_get_word", { session, word: "moss" });
  expect([refused.isError, refused.content[0]!.text]).toEqual([
    true,
    expect.stringMatching(/^No word "moss"\./),
  ]);
  const saved = { mood: "calm", notes: { a: `as ${who} says` } };
  expect((await first.call("user_write", { session, ...saved })).isError).toBeFalsy();
  await first.close();

  const second = await connect(token);
  expect((await second.call("begin_session")).structuredContent!.state).toEqual(saved);
  const again = await second.call("user_get_state", { session });
  expect(again.structuredContent!.state).toEqual(saved);

  // A runaway loop is told so, in words that reach whoever called the tool.
  const calls = async () => {
    for (;;) await second.call("health");
  };
  const error = await calls().catch((error: Error) => error);
  expect(error.message).toMatch(/more than 9 calls in a minute: .*wait \d+ seconds/);
  expect(await second.tools()).toContain("health");
  await second.close();
});

test("a restart ends no visit: sign-in, session and what was kept hold", async () => {
  const token = await gateway.token("ada");
  const before = await older(token);
  const { session } = (await before.call("begin_session")).structuredContent!;
  await before.call("user_write", { session, mood: "calm" });
  await before.close();
  await gateway.stop();
  gateway = await startGateway({ ...env, PORT: String(gateway.port) });
  const after = await older(token);
  const { structuredContent } = await after.call("user_get_state", { session });
  expect(structuredContent!.state.mood).toBe("calm");
  await after.close();
});
