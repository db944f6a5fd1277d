// A floor, not a server: the shared work and hand-written JSON-RPC on Bun.serve, and nothing else of
// the protocol. TOKENS=cached believes a token for a minute.

import { z } from "zod";
import { BadToken, cached, callTool, input, personOf, port, TOOL, verify } from "../work.ts";

const check = process.env.TOKENS === "cached" ? cached(verify) : verify;
const Call = z.object({
  jsonrpc: z.literal("2.0"),
  id: z.union([z.string(), z.int()]),
  method: z.literal("tools/call"),
  params: z.object({ name: z.literal(TOOL), arguments: z.object(input) }),
});

async function answer(request: Request) {
  const { sub } = await personOf(request.headers.get("authorization"), check);
  const { data, error } = Call.safeParse(await request.json());
  if (error) return Response.json({ error: "not a call that is known here" }, { status: 400 });
  return Response.json({ jsonrpc: "2.0", id: data.id, result: callTool(data.params.arguments, sub) });
}

Bun.serve({
  hostname: "127.0.0.1",
  port,
  fetch: (request) => answer(request).catch((error) => {
    const status = error instanceof BadToken ? 401 : 500;
    return Response.json({ error: "refused" }, { status, headers: { "WWW-Authenticate": "Bearer" } });
  }),
});
