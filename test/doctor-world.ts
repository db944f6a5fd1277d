// What `bun run doctor` is tried against: a gateway with its sign-in service on one port of this
// process, where one thing at a time goes wrong between them and the doctor; a person's browser;
// and certificates that are not good.

import { createSign, generateKeyPairSync, randomBytes } from "node:crypto";
import { join } from "node:path";
import { importJWK, type JWTPayload, SignJWT } from "jose";
import { diagnose, type Line, type Options } from "../deploy/doctor.ts";
import { mockAuth } from "../mock-auth.ts";
import { atEnd } from "./cleanup.ts";
import { sampleApp } from "./sample-app.ts";
import { freePort, gateway, ROOT, scratch } from "./support.ts";

type Maybe<Value> = Value | undefined;
/** Answers instead of the gateway, or changes its answer, or leaves it alone: undefined. */
export type Fault = (
  request: Request,
  forward: (changed?: Request) => Promise<Response>,
) => Promise<Maybe<Response>> | Maybe<Response>;
const none: Fault = () => undefined;

export async function openWorld() {
  const port = await freePort();
  const origin = `http://localhost:${port}`;
  const issuer = `${origin}/mock-auth`;
  const url = `${origin}/mcp`;
  const keyFile = join(await scratch(), "key.json");
  const service = await mockAuth({
    issuer, resourceUrl: url, host: "127.0.0.1", app: sampleApp, keyFile,
  });
  const env = { PORT: String(port), RATE_LIMIT_PER_MINUTE: "100000" };
  const room = await gateway({ env, keys: service });
  let fault = none;
  const server = Bun.serve({
    port,
    hostname: "127.0.0.1",
    async fetch(request) {
      const forward = (changed = request) => room.fetch(changed);
      return (await fault(request, forward)) ?? forward();
    },
  });
  // An app's document, elsewhere: the service reads none of its own origin.
  const documents = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: ({ url: client_id }) =>
      Response.json({ client_id, redirect_uris: ["http://localhost/callback"] }),
  });
  const clientDocument = `http://127.0.0.1:${documents.port}/app.json`;
  atEnd(() => Promise.all([server.stop(true), documents.stop(true)]));

  const visit = (made = none, options: Options = {}, at = url): Promise<Line[]> => {
    fault = made;
    return diagnose(at, { clientDocument, ...options });
  };
  /** A token that the service could have made: a good one, but for these claims. */
  const sign = async (claims: JWTPayload = {}) => {
    const published = await service(new Request(`${issuer}/jwks.json`));
    const { keys: [key] } = (await published!.json()) as { keys: { kid: string }[] };
    const now = Math.floor(Date.now() / 1000);
    const good = { iss: issuer, aud: url, sub: "doctor", iat: now, exp: now + 600 };
    return new SignJWT({ ...good, ...claims })
      .setProtectedHeader({ alg: "RS256", typ: "at+jwt", kid: key!.kid })
      .sign(await importJWK(await Bun.file(keyFile).json(), "RS256"));
  };
  return { url, origin, visit, sign };
}

// ---- Faults ----

const tokenOf = (request: Request) =>
  request.headers.get("authorization")?.replace("Bearer ", "") ?? "";
/** Whether this is the "GET /path" that is meant. */
const isIt = (request: Request, what: string) =>
  `${request.method} ${new URL(request.url).pathname}` === what;
type Headers_ = Record<string, string | undefined>; // undefined takes one out
async function copy(response: Response, change: (body: string) => string, changed: Headers_ = {}) {
  const body = response.status === 204 ? null : change(await response.text());
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(changed)) {
    if (value === undefined) headers.delete(name);
    else headers.set(name, value);
  }
  return new Response(body, { status: response.status, headers });
}

/** "GET /path" answers this. */
export const answers = (what: string, make: () => Response): Fault => (request) =>
  isIt(request, what) ? make() : undefined;
/** The JSON at "GET /path" is changed. */
export const changes =
  (what: string, change: (json: Record<string, any>) => void): Fault =>
  async (request, forward) => {
    if (!isIt(request, what)) return undefined;
    return copy(await forward(), (body) => {
      const json = JSON.parse(body);
      change(json);
      return JSON.stringify(json);
    });
  };
/** The words that come back from POST /mcp are changed. */
export const says = (change: (body: string) => string): Fault => async (request, forward) =>
  isIt(request, "POST /mcp") ? copy(await forward(), change) : undefined;
export const headers = (what: string, changed: Headers_): Fault => async (request, forward) =>
  isIt(request, what) ? copy(await forward(), (body) => body, changed) : undefined;

/** POST /mcp without a token answers this. */
export const toStrangers = (make: () => Response): Fault => (request) =>
  isIt(request, "POST /mcp") && !tokenOf(request) ? make() : undefined;
/** POST /mcp with a token answers this, when token or message are so. */
export const toTokens =
  (isSo: (token: string, body: string) => boolean, make: (id: unknown) => Response): Fault =>
  async (request) => {
    const token = tokenOf(request);
    if (!isIt(request, "POST /mcp") || !token) return undefined;
    const body = await request.clone().text();
    return isSo(token, body) ? make(JSON.parse(body).id) : undefined;
  };
export const result = (value: object) => (id: unknown) =>
  Response.json({ jsonrpc: "2.0", id, result: value });
export const page = (status: number) =>
  new Response("<!doctype html><title>Just a moment</title>", {
    status,
    headers: { "content-type": "text/html" },
  });

// ---- A person ----

/** Opens the page and presses Allow: the browser's way back, which `alter` may change. */
export async function pressAllow(authorize: string, alter: (back: URL) => void = () => {}) {
  const opened = await fetch(authorize);
  const [, ticket = ""] = (await opened.text()).match(/name="ticket" value="([^"]*)"/) ?? [];
  const [cookie = ""] = opened.headers.get("set-cookie")?.split(";") ?? [];
  const allowed = await fetch(authorize.split("?")[0]!, {
    method: "POST",
    headers: { cookie },
    body: new URLSearchParams({ ticket, name: "Ada", decision: "allow", scope: "notebook:read" }),
    redirect: "manual",
  });
  const back = new URL(allowed.headers.get("location")!);
  alter(back);
  return fetch(back, { headers: { connection: "close" } });
}

// ---- The command ----

export async function run(args: string[], env: Record<string, string> = {}) {
  const child = Bun.spawn(["bun", join(ROOT, "deploy/doctor.ts"), ...args], {
    env: { PATH: process.env.PATH!, ...env },
    stdout: "pipe",
    stderr: "pipe",
    timeout: 20_000, // milliseconds
  });
  atEnd(() => child.kill("SIGKILL"));
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  return { out, err, code: await child.exited };
}

// ---- Certificates ----

/** X.509 by hand: a certificate that vouches for itself, and is good until `days` from now. */
function certificate(host: string, days: number) {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const der = (tag: number, ...parts: Uint8Array[]) => {
    const body = Buffer.concat(parts);
    const bytes = body.length > 255 ? [body.length >> 8, body.length & 255] : [body.length];
    const size = body.length > 127 ? [0x80 + bytes.length, ...bytes] : bytes;
    return Buffer.concat([Buffer.from([tag, ...size]), body]);
  };
  const sequence = (...parts: Uint8Array[]) => der(0x30, ...parts);
  const oid = (hex: string) => der(0x06, Buffer.from(hex, "hex"));
  const time = (inDays: number) => {
    const at = new Date(Date.now() + inDays * 86_400_000).toISOString();
    return der(0x17, Buffer.from(`${at.replace(/\D/g, "").slice(2, 14)}Z`));
  };
  const algorithm = sequence(oid("2a8648ce3d040302")); // ECDSA with SHA-256
  const name = sequence(der(0x31, sequence(oid("550403"), der(0x0c, Buffer.from(host)))));
  const hosts = der(0x04, sequence(der(0x82, Buffer.from(host))));
  const content = sequence(
    der(0xa0, der(0x02, Buffer.from([2]))), // version 3
    der(0x02, Buffer.from([1, ...randomBytes(8)])),
    algorithm,
    name,
    sequence(time(days - 60), time(days)),
    name,
    publicKey.export({ type: "spki", format: "der" }),
    der(0xa3, sequence(sequence(oid("551d11"), hosts))),
  );
  const signature = createSign("sha256").update(content).sign(privateKey);
  const whole = sequence(content, algorithm, der(0x03, Buffer.from([0]), signature));
  const lines = whole.toString("base64").replace(/.{64}/g, "$&\n");
  const cert = `-----BEGIN CERTIFICATE-----\n${lines}\n-----END CERTIFICATE-----\n`;
  return { cert, key: privateKey.export({ type: "pkcs8", format: "pem" }) as string };
}
export async function tlsServer({ host = "localhost", days = 30 } = {}) {
  const tls = certificate(host, days);
  const file = join(await scratch(), "ca.pem");
  await Bun.write(file, tls.cert);
  const fetch = () => new Response(null, { status: 401 });
  const server = Bun.serve({ port: 0, hostname: "127.0.0.1", tls, fetch });
  atEnd(() => server.stop(true));
  return { url: `https://localhost:${server.port}/mcp`, file };
}
