// What `bun run doctor` is tried against: a gateway with its sign-in service on one port of this process, between
// which and the doctor one thing at a time goes wrong; a person's browser; and certificates that are not good.

import { createSign, generateKeyPairSync, randomBytes } from "node:crypto";
import { join } from "node:path";
import { importJWK, type JWTPayload, SignJWT } from "jose";
import { diagnose, type Line, type Options } from "../deploy/doctor.ts";
import { mockAuth } from "../mock-auth.ts";
import { atEnd } from "./cleanup.ts";
import { sampleApp } from "./sample-app.ts";
import { freePort, gateway, ROOT, scratch } from "./support.ts";

/** Answers instead of the gateway, or changes what it answers, or leaves it alone (undefined). */
export type Fault = (request: Request, forward: (changed?: Request) => Promise<Response>) =>
  Promise<Response | undefined> | Response | undefined;

/** `visit` walks through it once, with a fault if one is named. */
export async function openWorld() {
  const port = await freePort();
  const origin = `http://localhost:${port}`;
  const url = `${origin}/mcp`;
  const keyFile = join(await scratch(), "key.json");
  const service = await mockAuth({ issuer: `${origin}/mock-auth`, resourceUrl: url, host: "127.0.0.1", app: sampleApp, keyFile });
  const room = await gateway({ env: { PORT: String(port), RATE_LIMIT_PER_MINUTE: "100000" }, keys: service });
  let fault: Fault = () => undefined;
  const server = Bun.serve({
    port,
    hostname: "127.0.0.1",
    development: false,
    idleTimeout: 30,
    async fetch(request) {
      const forward = (changed = request) => room.fetch(changed);
      return (await fault(request, forward)) ?? forward();
    },
  });
  // Its document is elsewhere: a service reads none of its own origin.
  const documents = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: ({ url: client_id }) => Response.json({ client_id, client_name: "An app", redirect_uris: ["http://localhost/callback"] }),
  });
  atEnd(() => Promise.all([server.stop(true), documents.stop(true)]));
  const visit = async (made: Fault = () => undefined, options: Options = {}, at = url): Promise<Line[]> => {
    fault = made;
    return diagnose(at, { clientDocument: `http://127.0.0.1:${documents.port}/app.json`, ...options });
  };
  /** A token that the service could have made. */
  const sign = async (claims: JWTPayload = {}) => {
    const jwk = await Bun.file(keyFile).json();
    const { keys } = await (await service(new Request(`${origin}/mock-auth/jwks.json`)))!.json() as { keys: { kid: string }[] };
    const now = Math.floor(Date.now() / 1000);
    return new SignJWT({ iss: `${origin}/mock-auth`, aud: url, sub: "doctor", iat: now, exp: now + 600, ...claims })
      .setProtectedHeader({ alg: "RS256", typ: "at+jwt", kid: keys[0]!.kid })
      .sign(await importJWK(jwk, "RS256"));
  };
  return { url, origin, visit, sign };
}

// ---- Faults ----

const pathOf = (request: Request) => new URL(request.url).pathname;
const tokenOf = (request: Request) => request.headers.get("authorization")?.replace("Bearer ", "") ?? "";
const hits = (request: Request, what: string) => {
  const [method, path] = what.split(" ");
  return request.method === method && pathOf(request) === path;
};
const copy = (response: Response, body: string | null, headers: Record<string, string | undefined> = {}) => {
  const all = new Headers(response.headers);
  for (const [name, value] of Object.entries(headers)) value === undefined ? all.delete(name) : all.set(name, value);
  return new Response(body, { status: response.status, headers: all });
};

/** "GET /path" answers this. */
export const answers = (what: string, make: () => Response): Fault => (request) => hits(request, what) ? make() : undefined;
/** The JSON at "GET /path" is changed. */
export const changes = (what: string, change: (json: Record<string, any>) => void): Fault => async (request, forward) => {
  if (!hits(request, what)) return undefined;
  const response = await forward();
  const json = await response.json() as Record<string, any>;
  change(json);
  return copy(response, JSON.stringify(json));
};
/** The words of the answers to POST /mcp are changed. */
export const says = (change: (text: string) => string): Fault => async (request, forward) => {
  if (!hits(request, "POST /mcp")) return undefined;
  const response = await forward();
  return copy(response, change(await response.text()));
};
export const headers = (what: string, changed: Record<string, string | undefined>): Fault => async (request, forward) => {
  if (!hits(request, what)) return undefined;
  const response = await forward();
  return copy(response, response.status === 204 ? null : await response.text(), changed);
};
/** POST /mcp without a token answers this; other requests, and those with a token, are left alone. */
export const toStrangers = (make: () => Response): Fault => (request) =>
  hits(request, "POST /mcp") && !tokenOf(request) ? make() : undefined;
/** POST /mcp with a token that is so (or whose message is so) answers this. */
export const toTokens = (isSo: (token: string, body: string) => boolean, make: (id: unknown) => Response): Fault => async (request) => {
  if (!hits(request, "POST /mcp") || !tokenOf(request)) return undefined;
  const body = await request.clone().text();
  return isSo(tokenOf(request), body) ? make(JSON.parse(body).id) : undefined;
};
export const result = (value: object) => (id: unknown) => Response.json({ jsonrpc: "2.0", id, result: value });
export const page = (status: number) => new Response("<!doctype html><title>Just a moment</title>", { status, headers: { "content-type": "text/html" } });

// ---- A person ----

/** Opens the page and presses Allow: the browser's way back, which `alter` may change. */
export async function pressAllow(authorize: string, alter: (back: URL) => void = () => {}): Promise<Response> {
  const opened = await fetch(authorize);
  const ticket = (await opened.text()).match(/name="ticket" value="([^"]*)"/)![1]!;
  const cookie = opened.headers.get("set-cookie")!.split(";")[0]!;
  const form = new URLSearchParams([["ticket", ticket], ["name", "Ada"], ["decision", "allow"], ["scope", "notebook:read"], ["scope", "notebook:write"]]);
  const allowed = await fetch(authorize.split("?")[0]!, { method: "POST", body: form, headers: { cookie }, redirect: "manual" });
  const back = new URL(allowed.headers.get("location")!);
  alter(back);
  return fetch(back, { headers: { connection: "close" } });
}

// ---- The command ----

export async function run(args: string[], env: Record<string, string> = {}) {
  const child = Bun.spawn(["bun", join(ROOT, "deploy/doctor.ts"), ...args], {
    env: { PATH: process.env.PATH!, ...env }, stdout: "pipe", stderr: "pipe", timeout: 20_000,
  });
  atEnd(() => child.kill("SIGKILL"));
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  return { out, err, code: await child.exited };
}

// ---- Certificates ----

/** A certificate that signs itself, written out by hand (X.509 in DER), and a server that has it. */
export async function tlsServer({ host = "localhost", days = 30 } = {}) {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const der = (tag: number, ...parts: Uint8Array[]) => {
    const body = Buffer.concat(parts);
    const size = body.length < 128 ? [body.length] : body.length < 256 ? [0x81, body.length] : [0x82, body.length >> 8, body.length & 255];
    return Buffer.concat([Buffer.from([tag, ...size]), body]);
  };
  const oid = (hex: string) => der(0x06, Buffer.from(hex, "hex"));
  const time = (inDays: number) => der(0x17, Buffer.from(`${new Date(Date.now() + inDays * 86_400_000).toISOString().replace(/\D/g, "").slice(2, 14)}Z`));
  const ecdsaWithSha256 = der(0x30, oid("2a8648ce3d040302"));
  const name = der(0x30, der(0x31, der(0x30, oid("550403"), der(0x0c, Buffer.from(host)))));
  const altName = der(0x30, oid("551d11"), der(0x04, der(0x30, der(0x82, Buffer.from(host)))));
  const signed = der(0x30,
    der(0xa0, der(0x02, Buffer.from([2]))), // version 3
    der(0x02, Buffer.concat([Buffer.from([1]), randomBytes(8)])),
    ecdsaWithSha256, name, der(0x30, time(days - 60), time(days)), name,
    publicKey.export({ type: "spki", format: "der" }),
    der(0xa3, der(0x30, altName)));
  const signature = createSign("sha256").update(signed).sign(privateKey);
  const certificate = der(0x30, signed, ecdsaWithSha256, der(0x03, Buffer.from([0]), signature));
  const cert = `-----BEGIN CERTIFICATE-----\n${certificate.toString("base64").replace(/.{64}/g, "$&\n")}\n-----END CERTIFICATE-----\n`;
  const file = join(await scratch(), "ca.pem");
  await Bun.write(file, cert);
  const server = Bun.serve({
    port: 0, hostname: "127.0.0.1",
    tls: { cert, key: privateKey.export({ type: "pkcs8", format: "pem" }) as string },
    fetch: () => new Response(null, { status: 401 }),
  });
  atEnd(() => server.stop(true));
  return { url: `https://localhost:${server.port}/mcp`, file };
}
