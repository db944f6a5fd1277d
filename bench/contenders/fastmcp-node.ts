// fastmcp on Node: httpStream, stateless, with its `authenticate`; answers are event streams, which is
// its default.

import { FastMCP } from "fastmcp";
import { z } from "zod";
import { BadToken, description, getArticle, input, output, personOf, port, TOOL, verify } from "../work.ts";

const server = new FastMCP<{ sub: string }>({
  name: "bench",
  version: "1.0.0",
  authenticate: async ({ headers }) => {
    const { sub } = await personOf(headers.authorization, verify).catch((error) => {
      throw error instanceof BadToken ? new Response(null, { status: 401 }) : error;
    });
    return { sub };
  },
});
server.addTool({
  name: TOOL,
  description,
  annotations: { title: "Read an article", readOnlyHint: true },
  parameters: z.object(input),
  outputSchema: z.object(output),
  // It writes the JSON text beside what a tool returns by itself.
  execute: async (args, { session }) => {
    const { article, refused } = getArticle(args, session?.sub ?? "");
    if (!article) return { isError: true, content: [{ type: "text", text: refused }] };
    return { article };
  },
});
await server.start({ transportType: "httpStream", httpStream: { host: "127.0.0.1", port, stateless: true } });
