// Both official clients, the older and the newer one in both eras of the protocol, against a gateway in a process of its own.

import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import * as newer from "@modelcontextprotocol/client";
import { Client as OlderClient } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport as OlderTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import type { Transport } from "@modelcontextprotocol/sdk/shared/transport.js";
import { scratch, startGateway, type ToolResult } from "./support.ts";

let gateway: Awaited<ReturnType<typeof startGateway>>;
const env = { DATABASE_URL: `sqlite:${join(await scratch(), "room.sqlite")}`, SESSION_SIGNING_SECRET: "c".repeat(43) };
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
  const transport = new OlderTransport(new URL(gateway.mcp), { requestInit: { headers: token ? { Authorization: `Bearer ${token}` } : {} } });
  await client.connect(transport as Transport); // its own type does not know exactOptionalPropertyTypes
  return {
    call: async (name, args = {}) => (await client.callTool({ name, arguments: { ...args } })) as ToolResult,
    tools: async () => (await client.listTools()).tools.map((tool) => tool.name),
    instructions: () => client.getInstructions(),
    revision: () => transport.protocolVersion,
    close: () => client.close(),
  };
};
const inEra = (mode: newer.VersionNegotiationMode): Connect => async (token) => {
  const client = new newer.Client({ name: "newer", version: "1" }, { versionNegotiation: { mode } });
  await client.connect(new newer.StreamableHTTPClientTransport(new URL(gateway.mcp), token ? { authProvider: { token: async () => token } } : {}));
  return {
    call: async (name, args = {}) => (await client.callTool({ name, arguments: { ...args } })) as ToolResult,
    tools: async () => (await client.listTools()).tools.map((tool) => tool.name),
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
  const error = await connect().then((visit) => visit.close(), (error: { code?: unknown; status?: unknown }) => error);
  expect([error?.code, error?.status]).toContain(401);
});

test("the newer client finds out from the 401 alone where to sign in", async () => {
  const { resourceMetadataUrl } = newer.extractWWWAuthenticateParams(await fetch(gateway.mcp, { method: "POST" }));
  const metadata = await newer.discoverOAuthProtectedResourceMetadata(gateway.mcp, { resourceMetadataUrl: resourceMetadataUrl! });
  expect(metadata).toMatchObject({ resource: gateway.mcp, authorization_servers: [`${gateway.url}/mock-auth`] });
});

test.each(clients)("%s (%s) reads, saves and goes; a new connection finds the place again, and so does one after a restart", async (who, revision, connect) => {
  const token = await gateway.token(who);
  const reading = { id: "a3", position: `second sentence, says ${who}` };
  const begin = async (visit: Visit) => {
    const { structuredContent } = await visit.call("begin_session");
    return structuredContent as { session: string; state: object };
  };

  const first = await connect(token);
  expect(first.revision()).toBe(revision);
  expect(first.instructions()).toContain("begin_session");
  expect(await first.tools()).toContain("user_save_state");
  const { session, state } = await begin(first);
  expect(state).toEqual({ reading: null, shelf: {} });
  expect((await first.call("domain_get_article", { session, id: "a3" })).structuredContent?.article.title).toBe("A Short Walk Through Deep Time");
  expect((await first.call("domain_get_article", { session, id: "a99" })).content[0]?.text).toStartWith('No article "a99".');
  expect((await first.call("user_save_state", { session, reading, shelf: { a1: "finished" } })).isError).toBeFalsy();
  await first.close();

  const saved = { reading, shelf: { a1: "finished" } };
  const second = await connect(token);
  const again = await begin(second);
  expect(again.state).toEqual(saved);
  expect((await second.call("user_get_state", { session: again.session })).structuredContent?.state).toEqual(saved);
  await second.close();

  await gateway.stop();
  gateway = await startGateway({ ...env, PORT: String(gateway.port) });
  const third = await connect(token); // signed in still: the sign-in service kept its key
  expect((await third.call("user_get_state", { session })).structuredContent?.state).toEqual(saved); // and the key from before holds
  expect((await begin(third)).state).toEqual(saved);
  await third.close();
});
