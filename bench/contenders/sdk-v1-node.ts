// The official SDK, v1, on Express and Node, as its stateless example deploys it (answers are event
// streams, which is its default), with its own requireBearerAuth.

import type { IncomingMessage, ServerResponse } from "node:http";
import type { AuthInfo } from "@modelcontextprotocol/sdk/server/auth/types.js";
import { InvalidTokenError } from "@modelcontextprotocol/sdk/server/auth/errors.js";
import { requireBearerAuth } from "@modelcontextprotocol/sdk/server/auth/middleware/bearerAuth.js";
import { createMcpExpressApp } from "@modelcontextprotocol/sdk/server/express.js";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import { audience, BadToken, callTool, description, input, output, port, TOOL, verify } from "../work.ts";

const resource = new URL(audience);
const signedIn = requireBearerAuth({
  resourceMetadataUrl: `${resource.origin}/.well-known/oauth-protected-resource/mcp`,
  expectedResource: resource,
  verifier: {
    async verifyAccessToken(token) {
      const { sub, expiresAt } = await verify(token).catch((error) => {
        throw error instanceof BadToken ? new InvalidTokenError(error.message) : error;
      });
      return { token, clientId: "", scopes: [], expiresAt, resource, extra: { sub } };
    },
  },
});

function makeServer() {
  const server = new McpServer({ name: "bench", version: "1.0.0" });
  server.registerTool(
    TOOL,
    {
      title: "Read an article",
      description,
      inputSchema: input,
      outputSchema: output,
      annotations: { readOnlyHint: true },
    },
    async (args, { authInfo }) => callTool(args, String(authInfo?.extra?.sub)),
  );
  return server;
}

type Asked = IncomingMessage & { body: unknown; auth?: AuthInfo };
const app = createMcpExpressApp();
app.post("/mcp", signedIn, async (request: Asked, response: ServerResponse) => {
  const server = makeServer();
  const transport = new StreamableHTTPServerTransport();
  response.on("close", () => {
    void transport.close();
    void server.close();
  });
  await server.connect(transport as Parameters<McpServer["connect"]>[0]);
  await transport.handleRequest(request, response, request.body);
});
app.listen(port, "127.0.0.1");
