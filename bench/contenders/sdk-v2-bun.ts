// The official SDK, v2, on Bun, as its documentation deploys it: requireBearerAuth in front of
// createMcpHandler, whose factory makes an McpServer for each request. Both revisions on one URL.

import {
  createMcpHandler, getOAuthProtectedResourceMetadataUrl, hostHeaderValidationResponse,
  localhostAllowedHostnames, McpServer, OAuthError, OAuthErrorCode, requireBearerAuth,
} from "@modelcontextprotocol/server";
import { z } from "zod";
import { audience, BadToken, callTool, description, input, output, port, TOOL, verify } from "../work.ts";

const resource = new URL(audience);
const gate = requireBearerAuth({
  resourceMetadataUrl: getOAuthProtectedResourceMetadataUrl(resource),
  expectedResource: resource,
  verifier: {
    async verifyAccessToken(token) {
      const { sub, expiresAt } = await verify(token).catch((error) => {
        if (error instanceof BadToken) throw new OAuthError(OAuthErrorCode.InvalidToken, error.message);
        throw error;
      });
      return { token, clientId: "", scopes: [], expiresAt, resource, extra: { sub } };
    },
  },
});

const inputSchema = z.object(input);
const outputSchema = z.object(output);
const handler = createMcpHandler(({ authInfo }) => {
  const server = new McpServer({ name: "bench", version: "1.0.0" });
  server.registerTool(
    TOOL,
    { title: "Read an article", description, inputSchema, outputSchema, annotations: { readOnlyHint: true } },
    async (args) => callTool(args, String(authInfo?.extra?.sub)),
  );
  return server;
});

Bun.serve({
  hostname: "127.0.0.1",
  port,
  async fetch(request) {
    const refused = hostHeaderValidationResponse(request, localhostAllowedHostnames());
    if (refused) return refused;
    const authInfo = await gate(request);
    return authInfo instanceof Response ? authInfo : handler.fetch(request, { authInfo });
  },
});
