// Our gateway in a process of its own, told of a sign-in service as its README says.

import { join } from "node:path";
import { atEnd, scratch, until } from "./machine.ts";
import type { Service } from "./service.ts";

export interface Gateway {
  url: URL;
  refusals(): string[]; // why, one for each that it has logged
  restart(env?: Record<string, string>): Promise<void>;
}

export async function startGateway(resource: string, service: Service): Promise<Gateway> {
  const url = new URL(resource);
  const folder = await scratch();
  const env = {
    PATH: process.env.PATH!,
    PORT: url.port,
    RESOURCE_URL: resource,
    AUTH_ISSUER: service.issuer,
    AUTH_JWKS_URL: service.jwksUrl,
    AUTH_SCOPES: service.authScopes ?? "",
    DATABASE_URL: `sqlite:${join(folder, "kept.sqlite")}`,
    SESSION_SIGNING_SECRET: crypto.randomUUID(),
  };
  let out = "";
  const run = async (more: Record<string, string> = {}) => {
    const child = Bun.spawn([process.execPath, join(import.meta.dir, "../../main.ts")], {
      cwd: folder, env: { ...env, ...more }, stdout: "pipe", stderr: "pipe",
    });
    const stop = async () => {
      child.kill();
      await child.exited;
    };
    atEnd(stop);
    let said = "";
    void read(child.stdout, (text) => out += text);
    void read(child.stderr, (text) => said += text);
    const isUp = async () => (await fetch(new URL("/health", url))).ok;
    await until(isUp, 10_000).catch(() => { throw new Error(said); });
    await Bun.sleep(500); // by then it has asked for the keys, and warned if it got none
    if (said.includes("WARNING")) throw new Error(said);
    return stop;
  };
  let stop = await run();
  return {
    url,
    refusals() {
      const lines = out.split("\n").slice(0, -1).map((line) => JSON.parse(line) as LogLine);
      return lines.flatMap(({ outcome, why }) => outcome === "refused" ? [why ?? ""] : []);
    },
    async restart(more) {
      await stop();
      stop = await run(more);
    },
  };
}
interface LogLine {
  outcome: string;
  why?: string;
}

async function read(stream: ReadableStream<Uint8Array>, tell: (text: string) => void) {
  const decoder = new TextDecoder();
  for await (const chunk of stream) tell(decoder.decode(chunk, { stream: true }));
}

/** The status that a token gets and, if it is none, why. */
export async function knock({ url, refusals }: Gateway, token: string) {
  const before = refusals().length;
  const { status } = await fetch(url, {
    method: "POST",
    headers: {
      authorization: `Bearer ${token}`,
      "content-type": "application/json",
      accept: "application/json, text/event-stream",
    },
    body: JSON.stringify({
      jsonrpc: "2.0", id: 1, method: "tools/call", params: { name: "health", arguments: {} },
    }),
  });
  if (status === 200) return { status, why: "" };
  await until(async () => refusals().length > before, 2_000);
  return { status, why: refusals().at(-1)! };
}
