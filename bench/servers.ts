// The servers that are measured, each in a process of its own, and sixteen people who use it.

import { join } from "node:path";
import { exportJWK, generateKeyPair, SignJWT } from "jose";
import { atEnd } from "../test/cleanup.ts";
import { freePort, ROOT, scratch } from "../test/support.ts";
import { exchange } from "./load.ts";
import { type Era, operations, type Person, requestOf } from "./requests.ts";
import { resultOf } from "./answers.ts";
import { makeSession } from "./work.ts";

const PEOPLE = 16; // a person may make a million calls a minute at most

export interface Contender {
  name: string;
  runtime: "Bun" | "Node";
  file: string; // in contenders/
  env: Record<string, string>;
  eras: Era[];
}
const OLD: Era[] = ["2025-11-25"];
const BOTH: Era[] = [...OLD, "2026-07-28"];
const LITE: Era[] = ["2025-06-18"]; // the newest that mcp-lite knows
const CACHED = { TOKENS: "cached" };
const bun = (name: string, file: string, eras: Era[], env = {}): Contender =>
  ({ name, runtime: "Bun", file, eras, env });
const node = (name: string, file: string): Contender =>
  ({ name, runtime: "Node", file, eras: OLD, env: {} });

export const ours = bun("Reading Room", "../../main.ts", BOTH);
export const bare = bun("bare Bun.serve", "bare-bun.ts", BOTH);
export const sdkV2 = bun("SDK v2", "sdk-v2-bun.ts", BOTH);
export const sdkV1 = node("SDK v1 on Express", "sdk-v1-node.ts");
export const others = [
  bare,
  bun("bare Bun.serve, tokens cached", "bare-bun.ts", BOTH, CACHED),
  sdkV2,
  sdkV1,
  bun("mcp-lite", "mcp-lite-bun.ts", LITE),
  bun("mcp-lite, tokens cached", "mcp-lite-bun.ts", LITE, CACHED),
  node("fastmcp", "fastmcp-node.ts"),
];

/** How a contender is started on a port. */
export interface Launch {
  command: string[];
  env: Record<string, string>;
}
export interface Server {
  contender: Contender;
  launch: Launch;
  process: Process;
  port: number;
  people: Person[];
  badTokens: Record<string, string>; // a good one, but for what its name says
}

// ---- A process ----

export interface Process {
  pid: number;
  /** What it logged, but for calls that went well. */
  complaints(): Promise<string>;
  stop(): Promise<void>;
}

/** What is logged of a call that went well: by ours, and by fastmcp. */
const ROUTINE = '"outcome":"ok"|Stateless HTTP Stream request handled';

/** What it prints goes to a program that reads it, as a log would anywhere, and keeps the rest. */
async function run({ command, env }: Launch): Promise<Process> {
  const folder = await scratch();
  const log = join(folder, "log");
  const reader = `exec grep --line-buffered -vE '${ROUTINE}' > '${log}'`;
  const script = `exec "$@" > >(${reader}) 2>&1`; // exec: the process is the server
  const child = Bun.spawn(["bash", "-c", script, "bash", ...command], {
    cwd: folder,
    env,
    stdio: ["ignore", "ignore", "inherit"],
  });
  const stop = async () => {
    child.kill("SIGKILL");
    await child.exited;
  };
  atEnd(stop);
  return { pid: child.pid, stop, complaints: () => Bun.file(log).text().catch(() => "") };
}

/** Waits until a request is answered by 200, asking every millisecond. */
export async function firstAnswer(port: number, request: string): Promise<void> {
  for (const end = Date.now() + 15_000; Date.now() < end; await Bun.sleep(1)) {
    const answer = await exchange(port, request).catch(() => undefined);
    if (answer?.status === 200) return;
  }
  throw new Error("no first answer");
}

/** A process that answers. @throws with what it said, if it never does. */
async function started(launch: Launch, port: number, request: string): Promise<Process> {
  const process = await run(launch);
  await firstAnswer(port, request).catch(async (error: Error) => {
    throw new Error(`${launch.command.join(" ")}: ${error.message}: ${await process.complaints()}`);
  });
  return process;
}

// ---- Ours ----

const SECRET = "a secret of the bench, and of nothing else";
const { PATH = "", HOME = "" } = process.env;
const nameOf = (index: number) => `reader-${10 + index}`;
const audienceOf = (port: number) => `http://localhost:${port}/mcp`;
const everybody = <T>(make: (sub: string) => Promise<T>) =>
  Promise.all(Array.from({ length: PEOPLE }, (_, index) => make(nameOf(index))));
/** Another character in the middle of the signature. */
const forge = (token: string) =>
  `${token.slice(0, -100)}${token.at(-100) === "A" ? "B" : "A"}${token.slice(-99)}`;

/** `bun run main.ts`, as it is: with the sign-in service that it mounts locally. */
export async function startOurs(databaseUrl: string): Promise<Server> {
  const port = await freePort();
  const env = {
    PATH,
    HOME,
    PORT: String(port),
    DATABASE_URL: databaseUrl,
    RATE_LIMIT_PER_MINUTE: "1000000",
    SESSION_SIGNING_SECRET: SECRET,
  };
  const launch = { command: ["bun", "run", join(ROOT, "main.ts")], env };
  const process = await started(launch, port, `GET /health HTTP/1.1\r\nHost: localhost:${port}\r\n\r\n`);
  const mint = async (sub: string, aud = audienceOf(port)) =>
    (await fetch(`http://localhost:${port}/mock-auth/token?sub=${sub}&aud=${aud}&ttl=3600`)).text();
  const people = await everybody(async (sub) => {
    const visitor = { token: await mint(sub), session: "" };
    const answer = await exchange(port, requestOf(port, "2025-11-25", operations.begin, visitor));
    return { ...visitor, session: String(resultOf(answer)?.structuredContent?.session) };
  });
  const elsewhere = await mint(nameOf(0), audienceOf(1));
  const badTokens = { forged: forge(people[0]!.token), "for another audience": elsewhere };
  return { contender: ours, launch, process, port, people, badTokens };
}

// ---- The others ----

/** A sign-in service for the others: its public key, which they fetch once. */
const { privateKey, publicKey } = await generateKeyPair("RS256", { extractable: true });
const jwk = { ...(await exportJWK(publicKey)), kid: "bench", alg: "RS256", use: "sig" };
const keys = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => Response.json({ keys: [jwk] }) });
atEnd(() => keys.stop(true));
const ISSUER = `http://127.0.0.1:${keys.port}`;

/** A token with the claims that mock-auth.ts gives ours. */
function mint(sub: string, aud: string) {
  const iat = Math.floor(Date.now() / 1000);
  const jti = crypto.randomUUID();
  const claims = { iss: ISSUER, iat, exp: iat + 3600, jti, sub, aud, client_id: "curl" };
  const header = { alg: "RS256", typ: "at+jwt", kid: "bench" };
  return new SignJWT(claims).setProtectedHeader(header).sign(privateKey);
}

export async function startOther(contender: Contender): Promise<Server> {
  const port = await freePort();
  const env = {
    PATH,
    HOME,
    NODE_ENV: "production",
    PORT: String(port),
    ISSUER,
    AUDIENCE: audienceOf(port),
    JWKS_URL: `${ISSUER}/jwks.json`,
    SESSION_SECRET: SECRET,
    ...contender.env,
  };
  const launch = { command: await commandOf(contender), env };
  const people = await everybody(async (sub) =>
    ({ token: await mint(sub, audienceOf(port)), session: makeSession(SECRET, sub) }));
  const elsewhere = await mint(nameOf(0), audienceOf(1));
  const badTokens = { forged: forge(people[0]!.token), "for another audience": elsewhere };
  const request = requestOf(port, contender.eras[0]!, operations.getArticle, people[0]!);
  const process = await started(launch, port, request);
  return { contender, launch, process, port, people, badTokens };
}

/** Node 20 reads no TypeScript: our two files become one, the packages stay where they are. */
async function commandOf({ runtime, file }: Contender) {
  const source = join(import.meta.dir, "contenders", file);
  if (runtime === "Bun") return ["bun", "run", source];
  const outdir = join(import.meta.dir, "node_modules", ".bench");
  const built = await Bun.build({
    entrypoints: [source], target: "node", packages: "external", outdir, naming: "[name].mjs",
  });
  return ["node", built.outputs[0]!.path];
}
