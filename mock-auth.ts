// A sign-in service for the desk: what the service you rent does, small enough to read.
//
// Mounted in main.ts at the origin of RESOURCE_URL, or on its own: `bun run mock-auth.ts` (port 9000, this machine only).
// Its sections are the requests, in the order they come.
//
//   1. GET /.well-known/oauth-authorization-server   who am I
//   2. GET /jwks.json                                with which key do I sign
//   3. GET /token?sub=&aud=                          a token for a curl, without a click

import { chmod, readFile, writeFile } from "node:fs/promises";
import { calculateJwkThumbprint, exportJWK, generateKeyPair, importJWK, SignJWT, type CryptoKey, type JWK } from "jose";

export interface MockAuthOptions {
  /** The issuer, byte for byte as in its tokens and its metadata. */
  issuer: string;
  /** The audience of the gateway it signs people in for. */
  resourceUrl: string;
  /** Where the signing key lives between starts. */
  keyFile?: string;
}
type Handler = (request: Request) => Promise<Response | undefined>;

const isLoopback = (host: string) => /^(localhost|127(\.\d{1,3}){3}|\[::1\])$/i.test(host);
const KEY_FILE = `${import.meta.dir}/.mock-auth-key.json`;

/** Answers the requests of one issuer, and undefined to every other. */
export async function mockAuth({ issuer, resourceUrl, keyFile = KEY_FILE }: MockAuthOptions): Promise<Handler> {
  const key = await signingKey(keyFile);
  const { pathname, origin } = new URL(issuer);
  const base = pathname === "/" ? "" : pathname;

  return async (request) => {
    const url = new URL(request.url);
    if (request.method !== "GET" && request.method !== "HEAD") return undefined;

    // ---- 1. GET /.well-known/oauth-authorization-server (RFC 8414, section 3: before the issuer's path) ----
    if (url.pathname === `/.well-known/oauth-authorization-server${base}`) {
      return Response.json({ issuer, jwks_uri: `${origin}${base}/jwks.json`, response_types_supported: [], grant_types_supported: [] });
    }
    // ---- 2. GET /jwks.json ----
    if (url.pathname === `${base}/jwks.json`) return Response.json({ keys: [key.published] });
    // ---- 3. GET /token: for a curl in a workshop; no CORS, so a page elsewhere can't read it ----
    if (url.pathname === `${base}/token`) return mint(url.searchParams);
    return undefined;
  };

  async function mint(asked: URLSearchParams): Promise<Response> {
    const [sub, aud, ttl = "3600"] = [asked.get("sub"), asked.get("aud"), asked.get("ttl") ?? undefined];
    const refuse = (problem: string) => new Response(`${problem}\n`, { status: 400 });
    if (!sub) return refuse("sub is missing: who should the token be for?");
    const target = aud ? URL.parse(aud) : null;
    if (!aud || !target || !(aud === resourceUrl || isLoopback(target.hostname))) return refuse("aud takes the URL of a server on this machine");
    if (!/^-?\d{1,7}$/.test(ttl)) return refuse("ttl takes a number of seconds");
    const now = Math.floor(Date.now() / 1000);
    const token = await new SignJWT({
      client_id: "curl",
      ...(asked.has("email") && { email: asked.get("email") }),
      ...(asked.has("scope") && { scope: asked.get("scope") }),
    })
      .setProtectedHeader({ alg: "RS256", typ: "at+jwt", kid: key.published.kid! }) // RFC 9068, section 2
      .setIssuer(issuer).setSubject(sub).setAudience(aud).setIssuedAt(now).setExpirationTime(now + Number(ttl)).setJti(crypto.randomUUID())
      .sign(key.private);
    return new Response(token, { headers: { "Content-Type": "text/plain", "Cache-Control": "no-store" } });
  }
}

interface SigningKey { private: CryptoKey; published: JWK }

/** The key outlives a restart, so nobody is signed out by one; only its owner can read the file. */
async function signingKey(file: string): Promise<SigningKey> {
  let saved = await readFile(file, "utf8").catch(() => undefined);
  if (!saved) {
    const { privateKey } = await generateKeyPair("RS256", { extractable: true });
    const fresh = JSON.stringify(await exportJWK(privateKey));
    await writeFile(file, fresh, { mode: 0o600, flag: "wx" }).catch(() => {}); // another start may have been first
    saved = await readFile(file, "utf8");
  }
  await chmod(file, 0o600);
  const jwk = JSON.parse(saved) as JWK;
  const kid = await calculateJwkThumbprint(jwk);
  return {
    private: (await importJWK(jwk, "RS256")) as CryptoKey,
    published: { kty: "RSA", n: jwk.n!, e: jwk.e!, kid, alg: "RS256", use: "sig" },
  };
}

if (import.meta.main) {
  const issuer = "http://localhost:9000";
  const handle = await mockAuth({ issuer, resourceUrl: "http://localhost:8000/mcp" });
  Bun.serve({
    hostname: "127.0.0.1",
    port: 9000,
    development: false,
    fetch: async (request) => {
      const host = request.headers.get("host")?.replace(/:\d+$/, "") ?? "";
      if (!isLoopback(host)) return new Response("Not served under this Host.\n", { status: 403 });
      return (await handle(request)) ?? new Response("Not found.\n", { status: 404 });
    },
  });
  console.log(`mock-auth is open at ${issuer}\n\n  AUTH_ISSUER=${issuer} AUTH_JWKS_URL=${issuer}/jwks.json bun run main.ts`);
}
