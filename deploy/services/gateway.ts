// Our gateway in a process of its own, and what ends when the driver does.

import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Service } from "./service.ts";

// ---- What is started here ends here ----

const jobs: (() => unknown)[] = [];
export const atEnd = (job: () => unknown): void => void jobs.push(job);
export async function tidyUp() {
  for (const job of jobs.splice(0).reverse()) {
    await Promise.try(job).catch((error: Error) => console.error(`Left behind: ${error.message}`));
  }
}
for (const signal of ["SIGINT", "SIGTERM"]) {
  process.on(signal, () => void tidyUp().then(() => process.exit(130)));
}
export async function scratch() {
  const folder = await mkdtemp(join(tmpdir(), "reading-room-services-"));
  atEnd(() => rm(folder, { recursive: true, force: true, maxRetries: 5 }));
  return folder;
}

/** Below the ports that the system hands out by itself. */
export async function freePort(): Promise<number> {
  const port = 10_000 + Math.floor(Math.random() * 20_000);
  const server = createServer();
  const isFree = await new Promise<boolean>((tell) =>
    server.once("error", () => tell(false)).listen(port, "127.0.0.1", () => tell(true)));
  await new Promise((done) => server.close(done));
  return isFree ? port : freePort();
}

// ---- The gateway ----

export interface Gateway {
  url: URL;
  log(): string[]; // the lines about what was refused
  restart(): Promise<void>;
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
  const run = async () => {
    const child = Bun.spawn([process.execPath, join(import.meta.dir, "../../main.ts")], {
      cwd: folder, env, stdout: "pipe", stderr: "pipe",
    });
    atEnd(() => child.kill());
    let said = "";
    void read(child.stdout, (text) => out += text);
    void read(child.stderr, (text) => said += text);
    await until(async () => (await fetch(new URL("/health", url))).ok, 10_000);
    await Bun.sleep(300); // it has asked for the keys by then
    if (/WARNING|Cannot/.test(said)) throw new Error(said);
    return async () => { child.kill(); await child.exited; };
  };
  let stop = await run();
  return {
    url,
    log: () => out.split("\n").filter((line) => line.includes('"refused"')),
    restart: async () => { await stop(); stop = await run(); },
  };
}
async function read(stream: ReadableStream<Uint8Array>, tell: (text: string) => void) {
  const decoder = new TextDecoder();
  for await (const chunk of stream) tell(decoder.decode(chunk, { stream: true }));
}

/** @returns after how many milliseconds it was so. @throws after `ms`. */
export async function until(isSo: () => Promise<boolean>, ms: number) {
  const began = performance.now();
  const passed = () => Math.round(performance.now() - began);
  while (!(await isSo().catch(() => false))) {
    if (passed() > ms) throw new Error(`not so after ${ms} ms`);
    await Bun.sleep(100);
  }
  return passed();
}

/** The status that a token gets, and what the log then says of it. */
export async function knock({ url, log }: Gateway, token: string) {
  const before = log().length;
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
  await until(async () => log().length > before, 2_000);
  return { status, why: (JSON.parse(log().at(-1)!) as { why: string }).why };
}
