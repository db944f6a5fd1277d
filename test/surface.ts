// What a host shows a reviewer, and a model reads: hosts freeze what they reviewed, so a word of it
// changes only on purpose. `bun run surface` accepts the words as they are now.

import { join } from "node:path";
import { createServer, readConfig, sqliteStore } from "../main.ts";
import { loadApp, ROOT, SURFACE } from "./app.ts";

const FILE = join(ROOT, SURFACE);
const HEADERS = {
  host: "localhost",
  "content-type": "application/json",
  accept: "application/json, text/event-stream",
};

export interface Surface {
  instructions: string;
  rules: string;
  persona: string;
  tools: { outputSchema?: object }[];
}
/** As a host app gets it from the server. */
export async function surfaceNow(load = loadApp): Promise<Surface> {
  const app = await load();
  const config = readConfig({ AUTH_DISABLED: "1" }, app.slug);
  const store = await sqliteStore(":memory:");
  const serve = createServer({ app, config, store, log: () => {} });
  const ask = async (method: string, params: object) => {
    const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method, params });
    const request = new Request(config.resourceUrl, { method: "POST", headers: HEADERS, body });
    const text = await (await serve(request)).text();
    return JSON.parse(text.match(/^data: (.*)$/m)?.[1] ?? text).result;
  };
  const clientInfo = { name: "surface", version: "1" };
  const hello = { protocolVersion: "2025-11-25", capabilities: {}, clientInfo };
  const { instructions } = await ask("initialize", hello);
  const opened = await ask("tools/call", { name: "begin_session", arguments: {} });
  const { rules, persona } = opened.structuredContent;
  const { tools } = await ask("tools/list", {});
  return { instructions, rules, persona, tools };
}
export const surfaceAccepted = async (): Promise<Surface> => Bun.file(FILE).json();

if (import.meta.main) {
  const now = `${JSON.stringify(await surfaceNow(), null, 2)}\n`;
  const isSame = now === (await Bun.file(FILE).text().catch(() => ""));
  await Bun.write(FILE, now);
  console.log(`${SURFACE} ${isSame ? "already said so" : "has the words as they are now"}`);
}
