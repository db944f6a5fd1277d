// A sign-in service for the desk: what the service you rent does, small enough to read. It checks everything that it
// advertises, because a stand-in that is easier to please than the real thing teaches the wrong thing.
//
// main.ts mounts it at the origin of RESOURCE_URL; on its own it is `bun run mock-auth.ts` (port 9000, this machine only).
// The sections are the requests in the order a host app sends them.
//
//   1. GET  /.well-known/oauth-authorization-server    what can you do?
//   2. POST /register                                  this is who I am (or: my name is a URL, read it there)
//   3. GET  /authorize                                 a person wants to let me in
//   4. POST /authorize                                 … and says yes, or no
//   5. POST /token                                     the code, please, and later: a fresh token
//   6. GET  /jwks.json                                 the gateway: with which key do you sign?
//   7. GET  /token?sub=&aud=                           a token for a curl, without a click

import { createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { lookup } from "node:dns";
import { chmod, readFile, writeFile } from "node:fs/promises";
import http from "node:http";
import https from "node:https";
import { BlockList, isIP, type LookupFunction } from "node:net";
import { calculateJwkThumbprint, exportJWK, generateKeyPair, importJWK, jwtVerify, SignJWT, type CryptoKey, type JWK, type JWTPayload } from "jose";
import { z } from "zod";

export interface MockAuthOptions {
  app?: unknown;
  /** The issuer, byte for byte as in its tokens and its metadata. */
  issuer: string;
  /** The gateway it signs people in for: the one audience of its tokens. */
  resourceUrl: string;
  /** The address it is served on; beyond this machine it refuses to start. */
  host: string;
  /** resourceUrl is public: strangers can reach the consent page, so it asks for the passphrase. */
  tunnel?: boolean;
  /** What the gateway wants in every token. */
  scopes?: string[];
  /** Seconds that an access token lives; MOCK_AUTH_LIFETIME sets it too, for demos of expiry. */
  lifetime?: number;
  /** Where the signing key lives between starts. */
  keyFile?: string;
  passphrase?: string;
}
type Handler = (request: Request) => Promise<Response | undefined>;
/** A host app: registered here, read from its own site, or (`unchecked`) taken at its word because we are offline. */
interface Client { id: string; name: string; redirectUris: string[]; unchecked?: boolean }
/** What a person is asked to allow, and what a code stands for. */
interface Grant { clientId: string; redirectUri: string; challenge: string; scope: string; state?: string | undefined; filled?: { name: string; ticked: string[] } }

/** What a person can tick on the page: a token that names any of these is held to what it names. */
const CHOICES: Record<string, string> = { "reading-room:read": "read the catalogue and your shelf", "reading-room:write": "save and undo in your name" };
const CODE_SECONDS = 60;
const TICKET_SECONDS = 600;
const REFRESH_SECONDS = 30 * 24 * 3600;
const isLoopback = (host: string) => /^(localhost|127(\.\d{1,3}){3}|\[?::1\]?)$/i.test(host);
const sha256 = (text: string) => createHash("sha256").update(text).digest("base64url");
const equal = (a: string, b: string) => timingSafeEqual(Buffer.from(sha256(a)), Buffer.from(sha256(b)));
const isName = (text: string) => /^[^\p{C}]{1,64}$/u.test(text) && text.trim() === text;

/** An answer of RFC 6749, section 5.2: `error` for the program, `problem` for whoever reads its log. */
class Refused extends Error {
  constructor(readonly error: string, problem: string, readonly status = 400) { super(problem); }
}

/** Answers the requests of one issuer, and undefined to everything else. */
export async function mockAuth(options: MockAuthOptions): Promise<Handler> {
  const { issuer, resourceUrl, tunnel = !isLoopback(new URL(resourceUrl).hostname), lifetime = Number(process.env.MOCK_AUTH_LIFETIME || 600) } = options;
  if (!(lifetime >= 1)) throw new Error("MOCK_AUTH_LIFETIME takes a number of seconds, 1 or more");
  if (!isLoopback(options.host) || process.env.NODE_ENV === "production") throw new Error("mock-auth.ts runs on a desk only: HOST is not this machine, or NODE_ENV is production");
  const key = await signingKey(options.keyFile ?? `${import.meta.dir}/.mock-auth-key.json`);
  const { pathname, origin } = new URL(issuer);
  const base = pathname.replace(/\/$/, "");
  const passphrase = options.passphrase ?? randomBytes(8).toString("hex").replace(/(.{4})(?=.)/g, "$1-");
  const scopes = [...new Set([...(options.scopes ?? []), ...Object.keys(CHOICES), "offline_access"])];
  if (tunnel) console.error(`mock-auth: RESOURCE_URL is public, so signing in takes this passphrase:  ${passphrase}`);

  // A restart signs nobody out: registrations and refresh tokens carry what they mean, sealed with the signing key's
  // secret. Only what must happen once is remembered here, and it is gone with the process.
  const seal = (kind: string, payload: object, seconds: number) =>
    new SignJWT(payload as JWTPayload).setProtectedHeader({ alg: "HS256", typ: kind }).setExpirationTime(Math.floor(Date.now() / 1000) + seconds).sign(key.secret);
  const unseal = async <T>(kind: string, token: string): Promise<T | undefined> =>
    jwtVerify(token, key.secret, { algorithms: ["HS256"], typ: kind }).then(({ payload }) => payload as T, () => undefined);
  const codes = new Map<string, Grant & { sub: string; expires: number; family: string; used: boolean }>();
  const spent = new Map<string, number>(); // family of refresh tokens: the newest generation that was used; Infinity: revoked
  const recentNames: string[] = [];
  let [wrongTries, waiting] = [0, 0];

  // ---- 1. GET /.well-known/oauth-authorization-server (RFC 8414; OpenID Connect Discovery) ----
  const metadata = {
    issuer,
    authorization_endpoint: `${origin}${base}/authorize`,
    token_endpoint: `${origin}${base}/token`,
    registration_endpoint: `${origin}${base}/register`,
    jwks_uri: `${origin}${base}/jwks.json`,
    response_types_supported: ["code"],
    response_modes_supported: ["query"],
    grant_types_supported: ["authorization_code", "refresh_token"],
    code_challenge_methods_supported: ["S256"],
    token_endpoint_auth_methods_supported: ["none"],
    client_id_metadata_document_supported: true,
    authorization_response_iss_parameter_supported: true,
    scopes_supported: scopes,
  };
  const openId = { ...metadata, subject_types_supported: ["public"], id_token_signing_alg_values_supported: ["RS256"] };

  // ---- 2. POST /register (RFC 7591), or a client_id that is a URL (Client ID Metadata Document) ----
  const ClientMetadata = z.object({
    client_name: z.string().max(200).optional(),
    redirect_uris: z.array(z.unknown()).min(1).max(20),
    token_endpoint_auth_method: z.string().optional(),
  });
  /** The usable ones: one that is not does not sink the others. */
  const usable = (uris: unknown[]) => uris.filter((uri): uri is string => typeof uri === "string" && isRedirect(uri));

  async function register(request: Request): Promise<Response> {
    const asked = ClientMetadata.safeParse(await request.json().catch(() => undefined));
    if (!asked.success) throw new Refused("invalid_client_metadata", "the body is a JSON object with redirect_uris, a list");
    const redirect_uris = usable(asked.data.redirect_uris);
    if (redirect_uris.length === 0) throw new Refused("invalid_redirect_uri", "none of redirect_uris can be used");
    const client_name = asked.data.client_name?.replace(/\p{C}/gu, "") || "An app without a name"; // nothing that turns the text around
    const client_id = await seal("client", { name: client_name, redirectUris: redirect_uris, jti: crypto.randomUUID() }, 10 * 365 * 24 * 3600);
    const granted = { client_id, client_id_issued_at: Math.floor(Date.now() / 1000), client_name, redirect_uris,
      token_endpoint_auth_method: "none", grant_types: metadata.grant_types_supported, response_types: ["code"] };
    return Response.json(granted, { status: 201, headers: { "Cache-Control": "no-store" } });
  }

  async function findClient(id: string, redirectUri: string): Promise<Client> {
    if (!/^https?:\/\//.test(id)) {
      const registered = await unseal<{ name: string; redirectUris: string[] }>("client", id);
      if (!registered) throw new Refused("invalid_client", "this app is not registered here");
      return { id, ...registered };
    }
    const url = URL.parse(id);
    const mayFetch = url && !url.hash && !url.username && !url.password && url.pathname !== "/" && url.href === id &&
      (url.protocol === "https:" || (!tunnel && isLoopback(url.hostname)));
    if (!mayFetch) throw new Refused("invalid_client", "client_id is not the https URL of a document");
    const text = await fetchDocument(url, tunnel).catch((error) => (error instanceof Refused ? Promise.reject(error) : undefined));
    // Without internet the document can't be had. On a desk, an app that calls back to this machine may go on, unchecked.
    if (text === undefined) {
      if (tunnel || !isLoopback(URL.parse(redirectUri)?.hostname ?? "")) throw new Refused("invalid_client", "the document that client_id names can't be fetched");
      return { id, name: url.hostname, redirectUris: [redirectUri], unchecked: true };
    }
    const document = ClientMetadata.extend({ client_id: z.literal(id), client_secret: z.never().optional() }).safeParse(parse(text));
    if (!document.success || /^client_secret/.test(document.data.token_endpoint_auth_method ?? "")) {
      throw new Refused("invalid_client", "the document that client_id names is not about this client_id, or not one of a public app");
    }
    // private_key_jwt, which ChatGPT's document names, passes: the exact redirect and PKCE hold either way.
    return { id, name: document.data.client_name || url.hostname, redirectUris: usable(document.data.redirect_uris) };
  }

  // ---- 3. GET /authorize (OAuth 2.1, section 4.1; RFC 7636, 8707, 9207) ----
  async function authorize(request: Request, asked: URLSearchParams): Promise<Response> {
    const get = single(asked);
    const redirectUri = get("redirect_uri") ?? "";
    const client = await findClient(get("client_id") ?? "", redirectUri);
    // Before this line nothing is sent anywhere but to the person's own screen.
    if (!isRedirect(redirectUri) || !client.redirectUris.some((known) => sameRedirect(known, redirectUri))) {
      throw new Refused("invalid_request", "redirect_uri is not one that this app registered");
    }
    const state = asked.get("state") ?? undefined;
    try {
      for (const name of new Set(asked.keys())) get(name); // a doubled parameter means two things to two readers
      if (get("response_type") !== "code") throw new Refused(get("response_type") ? "unsupported_response_type" : "invalid_request", "response_type takes code");
      if ((get("response_mode") ?? "query") !== "query") throw new Refused("invalid_request", "response_mode takes query");
      if (get("code_challenge_method") !== "S256") throw new Refused("invalid_request", "code_challenge_method takes S256");
      const challenge = get("code_challenge") ?? "";
      if (!/^[\w-]{43}$/.test(challenge)) throw new Refused("invalid_request", "code_challenge takes the 43 characters of a SHA-256");
      if ((get("resource") ?? resourceUrl) !== resourceUrl) throw new Refused("invalid_target", `resource takes ${resourceUrl}`);
      if (get("prompt") === "none") throw new Refused("interaction_required", "nobody is let in without a click");
      const scope = scopes.filter((known) => get("scope")?.split(" ").includes(known)).join(" ");
      return await consentPage(request, client, { clientId: client.id, redirectUri, challenge, scope, state });
    } catch (error) {
      if (error instanceof Refused) return sendBack(redirectUri, { error: error.error, error_description: error.message, state });
      throw error;
    }
  }

  /** Back to the app. `iss` (RFC 9207) tells it which of its sign-in services is speaking. */
  function sendBack(redirectUri: string, answer: Record<string, string | undefined>): Response {
    const query = new URLSearchParams(Object.entries({ ...answer, iss: issuer }).filter((pair): pair is [string, string] => pair[1] !== undefined));
    return new Response(null, { status: 303, headers: { Location: `${redirectUri}${redirectUri.includes("?") ? "&" : "?"}${query}`, ...PRIVATE } });
  }

  // The form carries a ticket: what was checked, sealed and tied to a cookie of this browser. Another site can neither make
  // one nor submit one (CSRF), and nothing that was checked can be changed on the way.
  async function consentPage(request: Request, client: Client, grant: Grant, problem = "", status = 200): Promise<Response> {
    const cookie = browserOf(request) ?? randomBytes(24).toString("base64url");
    const ticket = await seal("ticket", { ...grant, client: { name: client.name, unchecked: client.unchecked }, browser: sha256(cookie) }, TICKET_SECONDS);
    const html = consentHtml({ client, grant, ticket, problem, tunnel, resourceUrl, action: `${base}/authorize`, names: tunnel ? [] : recentNames });
    return new Response(html, { status, headers: {
      ...HTML, "Set-Cookie": `consent=${cookie}; Path=${base}/authorize; HttpOnly; SameSite=Lax; Max-Age=3600${origin.startsWith("https:") ? "; Secure" : ""}` } });
  }
  const browserOf = (request: Request) => request.headers.get("cookie")?.match(/(?:^|; )consent=([\w-]{32})(?:;|$)/)?.[1];

  // ---- 4. POST /authorize ----
  async function decide(request: Request): Promise<Response> {
    const fields = await formOf(request);
    const form = single(fields);
    const ticket = await unseal<Grant & { client: Client; browser: string }>("ticket", form("ticket") ?? "");
    if (!ticket || !equal(sha256(browserOf(request) ?? ""), ticket.browser)) {
      throw new Refused("invalid_request", "this page is too old, or was not made for this browser: go back to your app and start again", 403);
    }
    const { clientId, redirectUri, state } = ticket;
    const ticked = fields.getAll("scope").filter((scope) => Object.hasOwn(CHOICES, scope)); // never none: that would allow all
    const again = (problem: string) => consentPage(request, { ...ticket.client, id: clientId, redirectUris: [redirectUri] },
      { ...ticket, filled: { name: form("name") ?? "", ticked } }, problem, 400);
    if (form("decision") === "deny") return sendBack(redirectUri, { error: "access_denied", state });
    if (form("decision") !== "allow") return again("Please press Allow or Deny.");
    const sub = form("name")?.trim() ?? "";
    if (!isName(sub)) return again("Please say who you are: a name of at most 64 characters.");
    if (tunnel && !(await isPassphrase(form("passphrase")))) return again("That is not the passphrase.");
    if (ticked.length === 0) return again("Please tick what the app may do, or press Deny.");
    const scope = [...ticket.scope.split(" ").filter((asked) => asked && !Object.hasOwn(CHOICES, asked)), ...ticked].join(" ");
    if (!recentNames.includes(sub)) recentNames.splice(0, recentNames.length, ...[sub, ...recentNames].slice(0, 5));
    const code = randomBytes(32).toString("base64url");
    const now = Date.now();
    for (const [old, { expires }] of codes) if (expires < now - 600_000) codes.delete(old); // kept a while, to notice a replay
    codes.set(code, { ...ticket, scope, sub, expires: now + CODE_SECONDS * 1000, family: randomBytes(9).toString("base64url"), used: false });
    return sendBack(redirectUri, { code, state });
  }

  /** Wrong ones cost a second more each: the passphrase is long, and nobody should enjoy guessing. */
  async function isPassphrase(given: string | undefined): Promise<boolean> {
    if (equal(given?.trim() ?? "", passphrase)) {
      wrongTries = 0;
      return true;
    }
    if (waiting >= 8) throw new Refused("temporarily_unavailable", "too many wrong passphrases at once: wait a little", 429);
    waiting++;
    await Bun.sleep(Math.max(0, Math.min(++wrongTries - 2, 10)) * 1000);
    waiting--;
    return false;
  }

  // ---- 5. POST /token (OAuth 2.1, sections 3.2 and 4.3; RFC 9700, section 4.14) ----
  async function exchange(request: Request): Promise<Response> {
    const form = await formOf(request);
    const get = single(form);
    for (const name of new Set(form.keys())) get(name);
    const need = (name: string) => get(name) || fail("invalid_request", `${name} is missing`);
    const clientId = need("client_id");
    const isUrl = /^https?:\/\//.test(clientId);
    if (request.headers.has("authorization") || get("client_secret") || (!isUrl && !(await unseal("client", clientId)))) {
      throw new Refused("invalid_client", "this app is not registered here, or claims a secret that it never got", 401);
    }
    if ((get("resource") ?? resourceUrl) !== resourceUrl) throw new Refused("invalid_target", `resource takes ${resourceUrl}`);

    const grantType = need("grant_type");
    if (grantType === "authorization_code") {
      const code = codes.get(need("code"));
      const [verifier, redirectUri] = [need("code_verifier"), need("redirect_uri")];
      if (code?.used) spent.set(code.family, Infinity); // somebody else had it: what it gave is void too
      if (!code || code.used || code.expires < Date.now()) throw new Refused("invalid_grant", "this code is unknown, used or over");
      code.used = true; // also when what follows fails: one try
      const proven = /^[\w.~-]{43,128}$/.test(verifier) && equal(sha256(verifier), code.challenge);
      if (!proven || code.clientId !== clientId || code.redirectUri !== redirectUri) throw new Refused("invalid_grant", "this code was given for another app, address or verifier");
      return tokens({ family: code.family, generation: 0, clientId, sub: code.sub, scope: code.scope });
    }
    if (grantType === "refresh_token") {
      const old = await unseal<Refresh>("refresh", need("refresh_token"));
      const last = spent.get(old?.family ?? "") ?? -1;
      // Rotation with a grace: the one before stays good until its successor is first used, since hosts refresh in parallel
      // and an answer can be lost. For the same reason a dead one is refused, and no more: RFC 9700, section 4.14.2, would end
      // the whole family. (A bigger service does, and keeps `spent` in its database; ours forgets it at a restart.)
      if (!old || old.clientId !== clientId || old.resource !== resourceUrl || last > old.generation) throw new Refused("invalid_grant", "this refresh token is not good, or no longer");
      const wanted = get("scope")?.split(" ") ?? old.scope.split(" ");
      const mayDo = wanted.some((scope) => Object.hasOwn(CHOICES, scope)); // never none: that would allow all
      if (!mayDo || !wanted.every((scope) => old.scope.split(" ").includes(scope))) throw new Refused("invalid_scope", "more than the person allowed");
      spent.set(old.family, old.generation);
      return tokens({ ...old, generation: old.generation + 1 }, wanted.join(" "));
    }
    throw new Refused("unsupported_grant_type", "grant_type takes authorization_code or refresh_token");
  }

  interface Refresh { family: string; generation: number; clientId: string; sub: string; scope: string; resource?: string }
  async function tokens({ family, generation, clientId, sub, scope }: Refresh, granted = scope): Promise<Response> {
    const access_token = await sign({ sub, aud: resourceUrl, client_id: clientId, ...(granted && { scope: granted }) }, lifetime);
    const refresh_token = await seal("refresh", { family, generation, clientId, sub, scope, resource: resourceUrl, jti: crypto.randomUUID() }, REFRESH_SECONDS);
    return Response.json({ access_token, token_type: "Bearer", expires_in: lifetime, refresh_token, scope: granted }, { headers: PRIVATE });
  }
  /** RFC 9068, section 2: the type keeps other JWTs of this issuer from passing for an access token. */
  function sign(claims: JWTPayload, seconds: number): Promise<string> {
    const now = Math.floor(Date.now() / 1000);
    return new SignJWT({ iss: issuer, iat: now, exp: now + seconds, jti: crypto.randomUUID(), ...claims })
      .setProtectedHeader({ alg: "RS256", typ: "at+jwt", kid: key.published.kid! }).sign(key.private);
  }

  // ---- 7. GET /token: no CORS and no sniffing, so a page elsewhere can make a browser ask but never read ----
  async function mint(asked: URLSearchParams): Promise<Response> {
    const get = single(asked);
    const [sub, aud, ttl] = [get("sub") ?? "", get("aud") ?? "", get("ttl") ?? "3600"];
    if (tunnel && !(await isPassphrase(get("passphrase")))) throw new Refused("access_denied", "passphrase is not the one printed in the terminal", 403);
    if (!isName(sub)) throw new Refused("invalid_request", "sub takes the name of whoever the token is for");
    const here = !tunnel && isLoopback(URL.parse(aud)?.hostname ?? "");
    if (aud !== resourceUrl && !here) throw new Refused("invalid_target", "aud takes the URL of a gateway on this machine");
    if (!/^-?\d{1,8}$/.test(ttl)) throw new Refused("invalid_request", "ttl takes a number of seconds");
    const token = await sign({ sub, aud, client_id: "curl", ...(get("email") && { email: get("email") }), ...(get("scope") && { scope: get("scope") }) }, Number(ttl));
    return new Response(token, { headers: { "Content-Type": "text/plain; charset=utf-8", ...PRIVATE } });
  }

  // Who answers what. Pages get an error page, programs the JSON of RFC 6749; and only programs get CORS.
  type Route = { [method: string]: (request: Request, url: URL) => Response | Promise<Response> };
  const wellKnown: Route = { GET: () => Response.json(metadata) };
  const openIdConfiguration: Route = { GET: () => Response.json(openId) };
  const routes: Record<string, Route> = {
    [`/.well-known/oauth-authorization-server${base}`]: wellKnown,
    [`/.well-known/openid-configuration${base}`]: openIdConfiguration,
    [`${base}/.well-known/openid-configuration`]: openIdConfiguration,
    [`${base}/register`]: { POST: register },
    [`${base}/authorize`]: { GET: (request, url) => authorize(request, url.searchParams), POST: decide },
    [`${base}/token`]: { GET: (_, url) => mint(url.searchParams), POST: exchange },
    [`${base}/jwks.json`]: { GET: () => Response.json({ keys: [key.published] }) }, // ---- 6. GET /jwks.json (RFC 7517) ----
  };
  return async (request) => {
    const url = URL.parse(request.url);
    const route = url && Object.hasOwn(routes, url.pathname) ? routes[url.pathname] : undefined;
    if (!url || !route) return undefined;
    // A tunnel that hides behind a local Host would let strangers in without the passphrase.
    if (!tunnel && (request.headers.has("forwarded") || request.headers.has("x-forwarded-host"))) {
      return Response.json({ error: "access_denied", error_description: "this desk is reached through a tunnel: start it with RESOURCE_URL" }, { status: 403 });
    }
    const method = request.method === "HEAD" ? "GET" : request.method;
    const isPage = url.pathname === `${base}/authorize`;
    const isMint = url.pathname === `${base}/token` && method === "GET";
    const cors: Record<string, string> = isPage || isMint ? {} : { "Access-Control-Allow-Origin": "*" };
    if (method === "OPTIONS") {
      return new Response(null, { status: 204, headers: { ...cors, "Access-Control-Allow-Methods": "GET, POST", "Access-Control-Allow-Headers": "Content-Type, Authorization, MCP-Protocol-Version" } });
    }
    const handle = Object.hasOwn(route, method) ? route[method] : undefined;
    let response: Response;
    try {
      response = handle ? await handle(request, url) : new Response(null, { status: 405, headers: { Allow: Object.keys(route).join(", ") } });
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      response = isPage ? new Response(errorHtml(error.message), { status: error.status, headers: HTML })
        : Response.json({ error: error.error, error_description: error.message }, { status: error.status, headers: { ...PRIVATE, ...(error.status === 401 && { "WWW-Authenticate": "Basic" }) } });
    }
    for (const [name, value] of Object.entries(cors)) response.headers.set(name, value);
    return response;
  };
}

// ---- What the sections share ----

// A token is valid JavaScript, and without the last two a page elsewhere could load it as a script and read it.
const PRIVATE = { "Cache-Control": "no-store", Pragma: "no-cache", "Referrer-Policy": "no-referrer",
  "X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin" };
// No form-action: Chromium would hold the redirects after Allow to it, and with them the way back to the app.
const HTML = {
  ...PRIVATE, "Content-Type": "text/html; charset=utf-8",
  "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'", "X-Frame-Options": "DENY",
};
function fail(error: string, problem: string): never {
  throw new Refused(error, problem);
}
const parse = (text: string): unknown => { try { return JSON.parse(text); } catch { return undefined; } };

/** Reads a parameter; one that is there twice is refused (OAuth 2.1, section 3.1). */
const single = (params: URLSearchParams) => (name: string): string | undefined =>
  params.getAll(name).length > 1 ? fail("invalid_request", `${name} is there twice`) : params.get(name) || undefined;

async function formOf(request: Request): Promise<URLSearchParams> {
  const type = request.headers.get("content-type")?.split(";")[0]?.trim().toLowerCase();
  if (type !== "application/x-www-form-urlencoded") fail("invalid_request", "the body is application/x-www-form-urlencoded");
  const body = await request.text();
  if (body.length > 16_384) fail("invalid_request", "the body is too long");
  return new URLSearchParams(body);
}

/** https; http to this machine; or an app's own scheme (cursor://…). Never one that runs or reads something here. */
function isRedirect(uri: string): boolean {
  const url = URL.parse(uri);
  if (!url || uri.length > 2000 || /[\s\\]/.test(uri) || uri.includes("#") || url.username || url.password) return false;
  if (url.protocol === "https:") return true;
  if (url.protocol === "http:") return isLoopback(url.hostname);
  return /^[a-z][a-z0-9+.-]*:\/./i.test(uri) && !/^(javascript|data|file|vbscript|blob|about|view-source|filesystem|wss?|ftp|smb|jar|chrome|intent|mailto|tel|sms|search(-ms)?|ms-[\w-]+):/i.test(uri);
}
/** Exactly the same, but for the port of a redirect to this machine, which an app picks as it goes (RFC 8252, section 7.3). */
function sameRedirect(known: string, asked: string): boolean {
  const portless = (uri: string) => uri.replace(/^(http:\/\/[^/?]*?):\d+(?=[/?]|$)/, "$1");
  return known === asked || (isLoopback(new URL(known).hostname) && portless(known) === portless(asked));
}

const PRIVATE_NETS = new BlockList();
for (const net of ["0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
  "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"]) {
  PRIVATE_NETS.addSubnet(net.split("/")[0]!, Number(net.split("/")[1]), "ipv4");
}
/** Of IPv6, only what is routed in the world (2000::/3) less what stands for something else: documentation, 6to4, Teredo. */
const isPublic = (address: string) =>
  isIP(address) === 4 ? !PRIVATE_NETS.check(address, "ipv4") : /^[23][0-9a-f]{3}:/i.test(address) && !/^(2001:1?[0-9a-f]{0,2}:|2001:db8:|2002:|3fff:)/i.test(address);

/** A client's document: at most 64 KiB, within three seconds, no redirect; from a tunnel's desk only off a public address. */
function fetchDocument(url: URL, publicOnly: boolean): Promise<string> {
  // Checked where the name is resolved: an address checked before would be another one by the time of the call.
  const guarded: LookupFunction = (host, options, done) =>
    lookup(host, { ...options, all: true }, (error, addresses) => {
      if (!error && publicOnly && !addresses.every(({ address }) => isPublic(address))) return done(new Error("not a public address"), "", 4);
      if (error || options.all) return done(error, addresses);
      return done(null, addresses[0]!.address, addresses[0]!.family);
    });
  const literal = url.hostname.replace(/^\[|\]$/g, "");
  if (publicOnly && isIP(literal) && !isPublic(literal)) return Promise.reject(new Error("not a public address"));
  return new Promise((resolve, reject) => {
    const get = url.protocol === "https:" ? https.get : http.get;
    const request = get(url, { lookup: guarded, headers: { accept: "application/json" }, signal: AbortSignal.timeout(3_000) }, (response) => {
      const status = response.statusCode ?? 0;
      if (status !== 200) {
        reject(status >= 500 ? new Error("not now") : new Refused("invalid_client", `the document that client_id names answers ${status}`));
        return void request.destroy();
      }
      const chunks: Buffer[] = [];
      let size = 0;
      response.on("data", (chunk: Buffer) => ((size += chunk.length) > 65_536 ? (reject(new Refused("invalid_client", "the document that client_id names is too large")), request.destroy()) : chunks.push(chunk)));
      response.on("end", () => resolve(Buffer.concat(chunks).toString("utf8")));
      response.on("error", reject);
    });
    request.on("error", reject);
  });
}

interface SigningKey { private: CryptoKey; published: JWK; secret: Uint8Array }
/** The key outlives a restart; only its owner can read the file. */
async function signingKey(file: string): Promise<SigningKey> {
  let saved = await readFile(file, "utf8").catch(() => undefined);
  if (!saved) {
    const { privateKey } = await generateKeyPair("RS256", { extractable: true });
    await writeFile(file, JSON.stringify(await exportJWK(privateKey)), { mode: 0o600, flag: "wx" }).catch(() => {}); // another start may have been first
    saved = await readFile(file, "utf8");
  }
  await chmod(file, 0o600);
  const jwk = JSON.parse(saved) as JWK;
  const kid = await calculateJwkThumbprint(jwk);
  return {
    private: (await importJWK(jwk, "RS256")) as CryptoKey,
    published: { kty: "RSA", n: jwk.n!, e: jwk.e!, kid, alg: "RS256", use: "sig" },
    secret: createHmac("sha256", jwk.d!).update("mock-auth seals").digest(),
  };
}

// ---- The page: plain HTML, no script ----

const html = Bun.escapeHTML;
const frame = (title: string, body: string) => `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>${html(title)}</title>
<style>
  :root { color-scheme: light dark; --ink: light-dark(#26221c, #ece6da); --paper: light-dark(#f6f1e7, #1d1a16); --card: light-dark(#fffdf8, #28241e); --line: light-dark(#ddd3c0, #463f34); --accent: light-dark(#7a3b1d, #e0a070); }
  body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: var(--paper); color: var(--ink); font: 17px/1.5 Georgia, "Times New Roman", serif; }
  main { box-sizing: border-box; width: min(30rem, 100% - 2rem); margin: 1rem; padding: 2rem; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
  h1 { margin: 0 0 1rem; font-size: 1.45rem; line-height: 1.25; font-weight: normal; overflow-wrap: anywhere; }
  dl { margin: 0 0 1.25rem; } dt { color: color-mix(in srgb, var(--ink) 65%, transparent); font-size: .85rem; } dd { margin: 0 0 .5rem; overflow-wrap: anywhere; }
  label { display: block; margin: 0 0 1rem; } input { box-sizing: border-box; width: 100%; margin-top: .25rem; padding: .6rem .7rem; font: inherit; color: inherit; background: var(--paper); border: 1px solid var(--line); border-radius: 6px; }
  button { margin-right: .75rem; padding: .6rem 1.4rem; font: inherit; color: inherit; background: none; border: 1px solid var(--line); border-radius: 6px; cursor: pointer; }
  #allow { color: var(--card); background: var(--accent); border-color: var(--accent); } :focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
  fieldset { margin: 0 0 1.25rem; padding: .5rem .8rem; border: 1px solid var(--line); border-radius: 6px; } legend { font-size: .85rem; } .box { margin: .25rem 0; } .box input { width: auto; margin: 0 .4rem 0 0; accent-color: var(--accent); }
  p { margin: 0 0 1rem; } .note { padding: .6rem .8rem; border-left: 3px solid var(--accent); background: var(--paper); } footer { margin-top: 1.25rem; font-size: .85rem; }
</style><main>${body}</main></html>`;

function consentHtml(page: { client: Client; grant: Grant; ticket: string; problem: string; tunnel: boolean; resourceUrl: string; action: string; names: string[] }): string {
  const { client, grant, ticket, problem, tunnel, resourceUrl, action, names } = page;
  const target = new URL(grant.redirectUri);
  const asked = Object.keys(CHOICES).filter((scope) => grant.scope.split(" ").includes(scope));
  const ticked = grant.filled?.ticked ?? (asked.length > 0 ? asked : Object.keys(CHOICES));
  const boxes = Object.entries(CHOICES).map(([scope, means]) =>
    `<label class="box"><input type="checkbox" name="scope" value="${scope}"${ticked.includes(scope) ? " checked" : ""}> ${means}</label>`).join("");
  return frame("Let this app in?", `
  <h1>Let <strong>${html(client.name)}</strong> use your Reading Room?</h1>
  ${client.unchecked ? `<p class="note">This app could not be checked: its own page, ${html(client.id)}, can't be reached from here. Go on only if you started it yourself.</p>` : ""}
  ${problem ? `<p class="note" role="alert">${html(problem)}</p>` : ""}
  <dl>
    ${/^https?:/.test(client.id) && !client.unchecked ? `<dt>It comes from</dt><dd>${html(new URL(client.id).host)}</dd>` : ""}
    <dt>It asks for</dt><dd>your shelf at ${html(resourceUrl)}</dd>
    <dt>Then you go to</dt><dd>${html(/^https?:$/.test(target.protocol) ? target.host : `${target.protocol}//${target.host}`)}${isLoopback(target.hostname) ? " (an app on this machine)" : ""}</dd>
  </dl>
  <form method="post" action="${html(action)}">
    <input type="hidden" name="ticket" value="${html(ticket)}">
    <label>Who are you?<input id="name" name="name" required maxlength="64" autocomplete="off" autofocus placeholder="a name" value="${html(grant.filled?.name ?? "")}"${names.length > 0 ? ' list="names"' : ""}></label>
    ${names.length > 0 ? `<datalist id="names">${names.map((name) => `<option value="${html(name)}">`).join("")}</datalist>` : ""}
    ${tunnel ? `<label>The passphrase from the terminal<input id="passphrase" name="passphrase" type="password" required autocomplete="off"></label>` : ""}
    <fieldset><legend>It may</legend>${boxes}</fieldset>
    <button id="allow" name="decision" value="allow">Allow</button>
    <button id="deny" name="decision" value="deny" formnovalidate>Deny</button>
  </form>
  <footer>This desk's own sign-in service${tunnel ? "" : ": whoever you say you are, you are"}.</footer>`);
}
const errorHtml = (problem: string) => frame("That did not work", `<h1>That did not work</h1><p class="note">The reason: ${html(problem)}.</p>
  <p>Nothing was given to anyone. Close this page and start again in your app.</p>`);

if (import.meta.main) {
  const issuer = "http://localhost:9000";
  const host = process.env.HOST || "127.0.0.1";
  const handle = await mockAuth({ issuer, host, resourceUrl: process.env.RESOURCE_URL || "http://localhost:8000/mcp" }).catch((error: Error) => {
    console.error(`Cannot start: ${error.message}.`);
    process.exit(1);
  });
  Bun.serve({
    hostname: host.replace(/^\[|\]$/g, ""), port: 9000, development: false, reusePort: false,
    fetch: async (request) => {
      if (!isLoopback(request.headers.get("host")?.replace(/:\d+$/, "") ?? "")) return new Response("Not served under this Host.\n", { status: 403 });
      return (await handle(request)) ?? Response.json({ error: "not_found" }, { status: 404 });
    },
  });
  console.log(`mock-auth is open at ${issuer}\n\n  AUTH_ISSUER=${issuer} AUTH_JWKS_URL=${issuer}/jwks.json bun run main.ts`);
}
