// mcp-lite on Bun: one McpServer and its own HTTP transport. It brings no sign-in check, and takes
// what one found as authInfo. TOKENS=cached believes a token for a minute.

import { McpServer, StreamableHttpTransport } from "mcp-lite";
import { z } from "zod";
import { BadToken, cached, personOf, port, verify } from "../work.ts";
import { callTool, description, input, output, TOOL } from "../work.ts";

const check = process.env.TOKENS === "cached" ? cached(verify) : verify;

const server = new McpServer({
  name: "bench",
  version: "1.0.0",
  schemaAdapter: (schema) => z.toJSONSchema(schema as z.ZodType),
});
server.tool(TOOL, {
  title: "Read an article",
  description,
  inputSchema: z.object(input),
  outputSchema: z.object(output),
  annotations: { readOnlyHint: true },
  handler: (args, { authInfo }) => callTool(args, String(authInfo?.extra?.sub)),
});
const handle = new StreamableHttpTransport({ allowedHosts: [`localhost:${port}`] }).bind(server);

Bun.serve({
  hostname: "127.0.0.1",
  port,
  async fetch(request) {
    try {
      const { sub, expiresAt } = await personOf(request.headers.get("authorization"), check);
      return await handle(request, { authInfo: { token: "", scopes: [], expiresAt, extra: { sub } } });
    } catch (error) {
      const status = error instanceof BadToken ? 401 : 500;
      return Response.json({ error: "refused" }, { status, headers: { "WWW-Authenticate": "Bearer" } });
    }
  },
});
