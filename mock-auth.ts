// A local sign-in service in one file: what the service you rent does, small enough to read. It
// checks everything that it advertises, because a stand-in that is easier to please than the real
// thing teaches the wrong thing.
//
// main.ts mounts it at the origin of RESOURCE_URL, so there is nothing to start. On its own it is
// `bun run mock-auth.ts`, at http://localhost:9000. The sections are the requests in the order a
// host app sends them:
//
//   0. Options                                      what it is told, and won't start with
//   1. GET /.well-known/oauth-authorization-server  what can you do?
//   2. POST /register                               this is who I am (or: read it at my URL)
//   3. GET /authorize                               a person wants to let me in
//   4. POST /authorize                              … and says yes, or no
//   5. POST /token                                  the code, please; later: a fresh token
//   6. GET /jwks.json                               the gateway: with which key do you sign?
//   7. GET /token                                   a token for a curl, without a click
//   8. Every request                                who answers it, and who is turned away
//   9. Keys and seals                               how it remembers without a database
//  10. The pages                                    plain HTML, no script
//  11. Start                                        the only section that runs by itself

import { createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import dns from "node:dns/promises";
import fs from "node:fs/promises";
import { BlockList } from "node:net";
import { calculateJwkThumbprint, exportJWK, generateKeyPair, importJWK } from "jose";
import { type CryptoKey, type JWK, type JWTPayload, jwtVerify, SignJWT } from "jose";
import { z } from "zod";

// ---- 0. Options ---------------------------------------------------------------------------------
// Whoever asks here is let in under any name, so this is for one machine: beyond loopback and in
// production it refuses to start. A tunnel is the exception that somebody asks for by name, with an
// https RESOURCE_URL: strangers reach it then, and signing in takes a passphrase.

export interface MockAuthOptions {
  /** The issuer, byte for byte as in its tokens and its metadata; no slash at its end. */
  issuer: string;
  /** The gateway it signs people in for: the one audience of its tokens. */
  resourceUrl: string;
  /** The address it is served on. */
  host: string;
  /** The scopes are `slug:read` and `slug:write`; what they allow is said in these words. */
  app: { slug: string; name: string; scopes: { read: string; write: string } };
  /** Others can reach it. By default so, unless resourceUrl is http on this machine. */
  tunnel?: boolean;
  /** What the gateway wants in every token. */
  scopes?: string[];
  /** Where the signing key lives between starts. */
  keyFile?: string;
  /** By default a random one, printed on stderr. */
  passphrase?: string;
}

/** Stops the start; its message is the one line that the operator reads. */
export class StartError extends Error {
  override name = "StartError";
}

/** An answer of RFC 6749, section 5.2: `error` for the program, the message for its log. */
class Refused extends Error {
  constructor(readonly error: string, problem: string, readonly status: number) {
    super(problem);
  }
}
function refuse(error: string, problem: string, status = 400): never {
  throw new Refused(error, problem, status);
}

/** Where the key is kept: beside this file, or where an executable was started (in itself it can't
 *  write). */
const HOME = Bun.isStandaloneExecutable ? "." : import.meta.dir;
const CODE_SECONDS = 60;
const PAGE_SECONDS = 600;
const REFRESH_SECONDS = 30 * 24 * 3600;
const REGISTRATION_SECONDS = 10 * 365 * 24 * 3600;
const BODY_BYTES = 65_536; // of a request, or of an app's own document

type Service = Awaited<ReturnType<typeof openService>>;

/** @throws StartError naming the variable or the file that is wrong. */
async function openService(options: MockAuthOptions) {
  const { issuer, resourceUrl, host, app, scopes = [] } = options;
  if (!isLoopback(host) || process.env.NODE_ENV === "production") {
    const takes = "HOST takes an address of this machine, and NODE_ENV not production";
    throw new StartError(`Cannot start: for mock-auth.ts ${takes}.`);
  }
  const isLocal = resourceUrl.startsWith("http:") && isLoopback(hostOf(resourceUrl));
  const { tunnel = !isLocal, passphrase = randomPassphrase() } = options;
  if (tunnel) console.error(`mock-auth: signing in takes the passphrase  ${passphrase}`);
  const lifetime = process.env.MOCK_AUTH_LIFETIME || "600"; // seconds, of an access token
  if (!/^[1-9]\d{0,4}$/.test(lifetime) || Number(lifetime) > 86_400) {
    const takes = "takes a whole number of seconds from 1 to 86400";
    throw new StartError(`Cannot start: MOCK_AUTH_LIFETIME ${takes} (got ${lifetime}).`);
  }
  const choices = new Map([
    [`${app.slug}:read`, app.scopes.read],
    [`${app.slug}:write`, app.scopes.write],
  ]);
  const wanted = [...new Set([...scopes, ...choices.keys()])];
  return {
    issuer,
    base: new URL(issuer).pathname.replace(/\/$/, ""),
    resourceUrl,
    app,
    tunnel,
    passphrase,
    lifetime: Number(lifetime),
    choices, // what a person can tick: a token that names any of these is held to what it names
    scopes: [...new Set([...wanted, "offline_access"])],
    // Of a token for a curl that names none: a gateway that wants scopes would not take it.
    usual: scopes.length > 0 ? wanted.join(" ") : undefined,
    keys: await openKeys(options.keyFile ?? `${HOME}/.mock-auth-key.json`),
    steps: new Map<string, number>(), // how far each sign-in has come: section 5
    guesses: { wrong: 0, waiting: 0 }, // at the passphrase
  };
}

const randomPassphrase = () => randomBytes(8).toString("hex").match(/.{4}/g)!.join("-");
const LOOPBACK = /^(localhost|127(\.\d{1,3}){3}|\[?::1\]?)$/i;
const isLoopback = (host: string) => LOOPBACK.test(host);
const hostOf = (url: string) => URL.parse(url)?.hostname ?? "";

// ---- 1. GET /.well-known/oauth-authorization-server ---------------------------------------------
// RFC 8414: host apps believe this document. Some lines decide whether the big ones come at all:
// `none` beside client_id_metadata_document_supported (Claude), and the `iss` parameter (ChatGPT).
// The last two are for those who look for OpenID Connect Discovery instead.

const metadataOf = ({ issuer, scopes }: Service) => ({
  issuer,
  authorization_endpoint: `${issuer}/authorize`,
  token_endpoint: `${issuer}/token`,
  registration_endpoint: `${issuer}/register`,
  jwks_uri: `${issuer}/jwks.json`,
  response_types_supported: ["code"],
  response_modes_supported: ["query"],
  grant_types_supported: ["authorization_code", "refresh_token"],
  code_challenge_methods_supported: ["S256"],
  token_endpoint_auth_methods_supported: ["none"],
  client_id_metadata_document_supported: true,
  authorization_response_iss_parameter_supported: true,
  scopes_supported: scopes,
  subject_types_supported: ["public"],
  id_token_signing_alg_values_supported: ["RS256"],
});

// ---- 2. POST /register --------------------------------------------------------------------------
// RFC 7591: anybody may register, so a registration proves nothing. What counts is that a code goes
// to a redirect_uri named in it, and nowhere else. An app whose client_id is a URL does not come
// here: its name and redirects are read at that URL (Client ID Metadata Document).

/** A host app; `unchecked`: taken at its word, because its URL can't be reached. */
interface Client {
  id: string;
  name: string;
  redirectUris: string[];
  unchecked?: boolean;
}

const ClientMetadata = z.object({
  // \p{C} and \p{DI}: what is not seen, and may turn the text around it
  client_name: z.string().max(200)
    .transform((name) => name.replace(/[\p{C}\p{DI}]/gu, "").trim())
    .optional(),
  // one that can't be used does not sink the others
  redirect_uris: z.array(z.unknown()).min(1).max(20).transform((uris) => uris.filter(isRedirect)),
  token_endpoint_auth_method: z.string().optional(),
});

async function register(service: Service, request: Request): Promise<Response> {
  const { data } = ClientMetadata.safeParse(await parseJson(await readBody(request)));
  if (!data) refuse("invalid_client_metadata", "the body is JSON with redirect_uris, a list");
  const { client_name, redirect_uris: redirectUris } = data;
  const name = client_name || "An app without a name";
  if (redirectUris.length === 0) refuse("invalid_redirect_uri", "redirect_uris has none to use");
  const granted = {
    client_id: await seal(service, "client", { name, redirectUris }, REGISTRATION_SECONDS),
    client_id_issued_at: secondsNow(),
    client_name: name,
    redirect_uris: redirectUris,
    token_endpoint_auth_method: "none",
    grant_types: ["authorization_code", "refresh_token"],
    response_types: ["code"],
  };
  return Response.json(granted, { status: 201, headers: PRIVATE });
}

/** https; http to this machine; or an app's own scheme (cursor://…), unless that acts here. */
function isRedirect(uri: unknown): uri is string {
  // printable ASCII without # and \, about which parsers of a URL disagree
  if (typeof uri !== "string" || !/^[!"$-[\]-~]{1,2000}$/.test(uri)) return false;
  const url = URL.parse(uri);
  if (!url || url.username || url.password) return false;
  if (url.protocol === "https:") return true;
  if (url.protocol === "http:") return isLoopback(url.hostname);
  const isAddress = uri.slice(url.protocol.length).startsWith("/");
  return isAddress && !ACTS_HERE.includes(url.protocol) && !url.protocol.startsWith("ms-");
}
const ACTS_HERE = `javascript: vbscript: data: blob: about: view-source: file: filesystem: jar:
  chrome: chrome-extension: moz-extension: resource: devtools: intent: itms-services: ws: wss: ftp:
  shell: cmd: telnet: ldap: vnc: afp: nfs: smb: mailto: tel: sms: search: search-ms:`.split(/\s+/);

/** The same, but for the port on this machine, which an app picks as it goes (RFC 8252, 7.3). */
function isSameRedirect(known: string, given: string): boolean {
  const withoutPort = (uri: string) => uri.replace(/^(http:\/\/[^/?]*?):\d+(?=[/?]|$)/, "$1");
  return withoutPort(known) === withoutPort(given);
}

async function findClient(service: Service, id: string, redirectUri: string): Promise<Client> {
  if (isUrl(id)) return findClientAtUrl(service, id, redirectUri);
  const client = await unseal(service, "client", id);
  if (!client) refuse("invalid_client", "this app is not registered here");
  return { id, name: client.name, redirectUris: client.redirectUris };
}

async function findClientAtUrl({ issuer, tunnel }: Service, id: string, redirectUri: string) {
  const url = URL.parse(id);
  const isPlain = url?.href === id && !id.includes("#") && !url.username && !url.password;
  const mayFetch = id.startsWith("https:") || (!tunnel && isLoopback(hostOf(id)));
  // Of our own origin, we would ask ourselves, and that request could make us ask again.
  if (!isPlain || !mayFetch || url.pathname === "/" || placeOf(id) === placeOf(issuer)) {
    refuse("invalid_client", "client_id is not the https URL of a document elsewhere");
  }
  const fetched = Promise.race([fetchDocument(url, tunnel), Bun.sleep(3_000)]);
  const text = await fetched.catch((problem) => {
    if (problem instanceof Refused) throw problem;
  });
  // Without internet the document can't be had. Locally, an app that calls back to this machine may
  // go on, unchecked: else no app that has such a client_id could be tried offline.
  if (!text) {
    const isHere = !tunnel && isLoopback(hostOf(redirectUri));
    if (!isHere) refuse("invalid_client", "the document of client_id can't be fetched");
    return { id, name: url.hostname, redirectUris: [redirectUri], unchecked: true };
  }
  const { data } = ClientMetadata.extend({
    client_id: z.literal(id),
    client_secret: z.never().optional(),
  }).safeParse(await parseJson(text));
  // private_key_jwt, which ChatGPT's document names, passes without the assertion that a real
  // service demands: redirect and PKCE hold either way.
  if (!data || data.token_endpoint_auth_method?.startsWith("client_secret")) {
    refuse("invalid_client", "that document is not about this client_id, or not of a public app");
  }
  return { id, name: data.client_name || url.hostname, redirectUris: data.redirect_uris };
}

/** Host and port: this machine is one place, whatever it is called. */
const placeOf = (url: string) =>
  URL.parse(url)?.host.replace(/^(localhost|127[.\d]+|\[::1\])/, "here");

/** @throws Refused when what is there is no document, and other errors when nothing is. */
async function fetchDocument(url: URL, publicOnly: boolean): Promise<string> {
  // Strangers choose this URL, and it must not lead into our network; locally, an app on this
  // machine may have its document here. Called is the very address that was checked: asked again,
  // the name's owner could give another.
  const servername = url.hostname.replace(/^\[|\]$/g, "");
  const { address, family } = await dns.lookup(servername, { order: "ipv4first" });
  if (!isPublic(address) && (publicOnly || !isLoopback(address))) {
    throw new Error("neither public nor of this machine");
  }
  const target = new URL(url);
  target.hostname = family === 6 ? `[${address}]` : address;
  const response = await fetch(target, {
    headers: { host: url.host, "accept-encoding": "identity" },
    tls: { servername }, // the certificate is the name's
    redirect: "manual",
    decompress: false, // 64 KiB can hold a gigabyte
    keepalive: false,
    signal: AbortSignal.timeout(3_000),
  });
  const { status } = response;
  if (status >= 500) throw new Error("not now");
  if (status !== 200) refuse("invalid_client", `the document of client_id answers ${status}`);
  return readBody(response);
}

const NOT_PUBLIC = {
  ipv4: `0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24
    192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24
    224.0.0.0/4 240.0.0.0/4`,
  // All but 2000::/3, which is routed in the world; and what stands for something else in there.
  ipv6: "::/3 4000::/2 8000::/1 2001::/23 2001:db8::/32 2002::/16 3fff::/20",
};

function isPublic(address: string): boolean {
  const family = address.includes(":") ? "ipv6" : "ipv4";
  const nets = new BlockList();
  for (const net of NOT_PUBLIC[family].split(/\s+/)) {
    const [start = "", bits] = net.split("/");
    nets.addSubnet(start, Number(bits), family);
  }
  return !nets.check(address, family);
}

// ---- 3. GET /authorize --------------------------------------------------------------------------
// OAuth 2.1, section 4.1. Until it is known that the redirect_uri is the app's own, a problem is
// shown to the person and sent to nobody: else any link could send people anywhere by way of us.
// After that, a problem goes to that redirect_uri without a click. Anybody may register one, so a
// link can still send people to an address that somebody registered.

/** What a person is asked to allow. */
interface Ask extends Back {
  signIn: string; // its id, from here to the last refresh token
  client: Client;
  challenge: string;
  wanted: string[]; // scopes
}
interface Back {
  redirectUri: string;
  state: string;
}

async function authorize(service: Service, request: Request, query: URLSearchParams) {
  const fields = fieldsOf(query, ["client_id", "redirect_uri"]);
  const { client_id = "", redirect_uri: redirectUri = "" } = fields;
  const client = await findClient(service, client_id, redirectUri);
  const isKnown = client.redirectUris.some((known) => isSameRedirect(known, redirectUri));
  if (!isKnown || !isRedirect(redirectUri)) {
    const shown = redirectUri.slice(0, 200);
    refuse("invalid_request", `redirect_uri is not one that this app registered: ${shown}`);
  }
  const back = { redirectUri, state: query.get("state") ?? "" };
  try {
    const terms = checkTerms(service, fieldsOf(query));
    const ask = { signIn: crypto.randomUUID(), client, ...back, ...terms };
    return await consentPage(service, request, ask);
  } catch (problem) {
    if (!(problem instanceof Refused)) throw problem;
    const answer = { error: problem.error, error_description: problem.message };
    return sendBack(service, back, answer);
  }
}

/** PKCE (RFC 7636) and the one resource (RFC 8707) are not optional here. */
function checkTerms(service: Service, fields: Fields) {
  const { response_type, response_mode = "query", code_challenge_method, prompt } = fields;
  const { code_challenge: challenge = "", scope = "" } = fields;
  if (!response_type) refuse("invalid_request", "response_type is missing");
  if (response_type !== "code") refuse("unsupported_response_type", "response_type takes code");
  if (response_mode !== "query") refuse("invalid_request", "response_mode takes query");
  if (code_challenge_method !== "S256" || !/^[\w-]{43}$/.test(challenge)) {
    refuse("invalid_request", "code_challenge takes a SHA-256, and code_challenge_method S256");
  }
  checkResource(service, fields);
  if (prompt === "none") refuse("interaction_required", "nobody is let in without a click");
  const names = scope.split(" ");
  return { challenge, wanted: service.scopes.filter((known) => names.includes(known)) };
}

function checkResource({ resourceUrl }: Service, { resource = resourceUrl }: Fields): void {
  if (resource !== resourceUrl) refuse("invalid_target", `resource takes ${resourceUrl}`);
}

/** Back to the app. `iss` (RFC 9207) tells it which of its sign-in services is speaking. */
function sendBack({ issuer }: Service, { redirectUri, state }: Back, answer: object): Response {
  const params = new URLSearchParams({ ...answer, ...(state && { state }), iss: issuer });
  const separator = redirectUri.includes("?") ? "&" : "?";
  const headers = { ...PRIVATE, Location: `${redirectUri}${separator}${params}` };
  return new Response(null, { status: 303, headers });
}

/** What was filled in, when the form comes back with a problem. */
interface Filled {
  problem: string;
  name: string;
  ticked: string[];
}

/** The form carries a ticket: what was checked, sealed, and tied to a cookie of this browser. So
 *  another site can neither make one nor submit one (CSRF). */
async function consentPage(service: Service, request: Request, ask: Ask, filled?: Filled) {
  const cookie = browserOf(request) ?? randomBytes(24).toString("base64url");
  const ticket = await seal(service, "ticket", { ...ask, browser: sha256(cookie) }, PAGE_SECONDS);
  const secure = service.issuer.startsWith("https:") ? "; Secure" : "";
  const attributes = `Path=${service.base}/authorize; HttpOnly; SameSite=Lax; Max-Age=3600`;
  return new Response(consentHtml(service, ask, ticket, filled), {
    status: filled ? 400 : 200,
    headers: { ...HTML, "Set-Cookie": `consent=${cookie}; ${attributes}${secure}` },
  });
}
const browserOf = (request: Request) =>
  request.headers.get("cookie")?.match(/(?:^|; )consent=([\w-]{32})(?:;|$)/)?.[1];

// ---- 4. POST /authorize -------------------------------------------------------------------------
// A person has read the page and pressed a button. Of the form nothing is believed but what they
// chose; the rest comes out of the ticket. Of the scopes on the page, the app gets those that were
// ticked; what it asked for besides (offline_access, what the gateway wants in every token) is
// granted unasked. One page buys one code, however often it is sent.

async function decide(service: Service, request: Request): Promise<Response> {
  const form = await formOf(request);
  const fields = fieldsOf(form, ["ticket", "decision", "name", "passphrase"]);
  const ask = await unseal(service, "ticket", fields.ticket);
  if (ask?.browser !== sha256(browserOf(request) ?? "")) {
    refuse("invalid_request", "this page is too old, or was not made for this browser", 403);
  }
  if (fields.decision === "deny") return sendBack(service, ask, { error: "access_denied" });
  const name = plainName(fields.name ?? "");
  const ticked = form.getAll("scope").filter((scope) => service.choices.has(scope));
  const problem = await problemOf(service, fields, name, ticked);
  if (problem) return consentPage(service, request, ask, { problem, name, ticked });

  const { signIn, client, redirectUri, challenge } = ask;
  if (service.steps.has(signIn)) refuse("invalid_request", "this page was answered already", 403);
  service.steps.set(signIn, PAGE_ANSWERED);
  const others = ask.wanted.filter((scope) => !service.choices.has(scope));
  const content = {
    signIn,
    clientHash: sha256(client.id),
    redirectUri,
    challenge,
    sub: name,
    scope: [...others, ...ticked].join(" "),
    expires: secondsNow() + CODE_SECONDS,
  };
  // Sealed for longer than it is good, to notice when it is brought again.
  const code = await seal(service, "code", content, PAGE_SECONDS);
  return sendBack(service, ask, { code });
}

/** What the person should do about the form, if anything. */
async function problemOf(service: Service, fields: Fields, name: string, ticked: string[]) {
  if (fields.decision !== "allow") return "Please press Allow or Deny.";
  if (!isName(name)) return "Please say who you are: a name of at most 64 characters.";
  if (!(await isWelcome(service, fields))) return "That is not the passphrase.";
  // a token that names neither would be held to neither
  if (ticked.length === 0) return "Please tick what the app may do, or press Deny.";
  return undefined;
}

// One spelling for each name, and nothing unseen in it. Letters of two alphabets can still
// look alike.
const NAME = /^[^\p{C}\p{DI}]{1,64}$/u;
const plainName = (text: string) => text.normalize("NFKC").trim();
const isName = (text: string) => NAME.test(text) && plainName(text) === text;

/** A wrong passphrase costs a second more each time, and at most eight can wait at once. That slows
 *  a person down; what keeps strangers out is the passphrase, by default 64 random bits. */
async function isWelcome(service: Service, { passphrase = "" }: Fields): Promise<boolean> {
  const { tunnel, guesses } = service;
  if (!tunnel) return true;
  const given = Buffer.from(sha256(passphrase.trim()));
  const isRight = timingSafeEqual(given, Buffer.from(sha256(service.passphrase)));
  if (isRight) {
    guesses.wrong = 0;
    return true;
  }
  if (guesses.waiting >= 8) {
    refuse("temporarily_unavailable", "too many wrong passphrases at once: wait a little", 429);
  }
  guesses.waiting++;
  guesses.wrong++;
  const seconds = Math.min(guesses.wrong - 2, 10); // two are mistyped, the rest guessed
  await Bun.sleep(Math.max(0, seconds) * 1000);
  guesses.waiting--;
  return false;
}

// ---- 5. POST /token -----------------------------------------------------------------------------
// OAuth 2.1, sections 3.2, 4.1.3 and 4.3. The danger is a code or a refresh token that somebody
// copied on its way. So each belongs to one app, a code also to one redirect_uri and one PKCE
// verifier, and each is one step of a sign-in: when a step that was taken comes back, the sign-in
// ends. Which ones ended is kept in memory: a restart forgets it, and their refresh tokens are good
// again. A bigger service keeps the steps in its database.

const PAGE_ANSWERED = 1;
const CODE_REDEEMED = 2; // the first refresh token is step 3, its successor 4, …
const ENDED = Infinity;

/** What a code and a refresh token stand for. */
interface Grant {
  signIn: string;
  clientHash: string; // a client_id can be long
  sub: string;
  scope: string;
}
interface Refresh extends Grant {
  step: number;
  resource: string;
}

async function exchange(service: Service, request: Request): Promise<Response> {
  const fields = fieldsOf(await formOf(request));
  const need = (name: string) => fields[name] ?? refuse("invalid_request", `${name} is missing`);
  const clientId = need("client_id");
  const isKnown = isUrl(clientId) || (await unseal(service, "client", clientId));
  if (!isKnown || fields.client_secret || request.headers.has("authorization")) {
    refuse("invalid_client", "this app is not registered here, or has a secret of its own", 401);
  }
  checkResource(service, fields);
  const grantType = need("grant_type");
  if (grantType === "authorization_code") return redeemCode(service, need, fields.redirect_uri);
  if (grantType === "refresh_token") return refresh(service, need, fields.scope);
  return refuse("unsupported_grant_type", "grant_type takes authorization_code or refresh_token");
}

type Need = (name: string) => string;

/** OAuth 2.1 has no redirect_uri here, OAuth 2.0 has: it counts when it is sent. */
async function redeemCode(service: Service, need: Need, redirectUri?: string): Promise<Response> {
  const [verifier, clientId] = [need("code_verifier"), need("client_id")];
  const code = await unseal(service, "code", need("code"));
  if (!code) refuse("invalid_grant", "this code is unknown or over");
  const isProven = /^[\w.~-]{43,128}$/.test(verifier) && sha256(verifier) === code.challenge;
  const isElsewhere = redirectUri && redirectUri !== code.redirectUri;
  // First of all: else whoever has the code, but not the verifier, could end its owner's sign-in.
  if (!isProven || isElsewhere || code.clientHash !== sha256(clientId)) {
    refuse("invalid_grant", "this code was given for another app, redirect_uri or code_verifier");
  }
  const taken = service.steps.get(code.signIn);
  // One try. At a second one, somebody else has the code and its verifier.
  service.steps.set(code.signIn, taken === PAGE_ANSWERED ? CODE_REDEEMED : ENDED);
  if (taken !== PAGE_ANSWERED) refuse("invalid_grant", "this code was used: what it gave is void");
  if (code.expires <= secondsNow()) refuse("invalid_grant", "this code is over");
  const { signIn, clientHash, sub, scope } = code;
  const step = CODE_REDEEMED + 1;
  const grant = { signIn, clientHash, sub, scope, step, resource: service.resourceUrl };
  return giveTokens(service, grant, clientId, scope);
}

/** Rotation with a grace, since hosts refresh in parallel and answers are lost: a token is good
 *  until its successor is first used. Then it is refused, and the one before it ends the sign-in
 *  (RFC 9700, section 4.14.2). The price: all successors of one token are good, so a thief who
 *  refreshes in turn with the owner is not noticed until one of them falls two steps behind. */
async function refresh(service: Service, need: Need, wanted?: string): Promise<Response> {
  const { steps, resourceUrl, choices } = service;
  const clientId = need("client_id");
  const old = await unseal(service, "refresh", need("refresh_token"));
  if (old?.clientHash !== sha256(clientId) || old.resource !== resourceUrl) {
    refuse("invalid_grant", "this refresh token is over, or for another app or gateway");
  }
  const newest = steps.get(old.signIn) ?? old.step;
  if (old.step < newest - 1) steps.set(old.signIn, ENDED);
  if (old.step < newest) refuse("invalid_grant", "this refresh token was replaced");
  const scope = wanted ?? old.scope;
  const names = scope.split(" ");
  const isAllowed = names.every((name) => old.scope.split(" ").includes(name));
  if (!isAllowed || !names.some((name) => choices.has(name))) {
    refuse("invalid_scope", "scope takes what the person allowed, or a part of it");
  }
  steps.set(old.signIn, old.step);
  return giveTokens(service, { ...old, step: old.step + 1 }, clientId, scope);
}

async function giveTokens(service: Service, grant: Refresh, clientId: string, scope: string) {
  const { resourceUrl, lifetime } = service;
  const claims = { sub: grant.sub, aud: resourceUrl, client_id: clientId, scope };
  const tokens = {
    access_token: await signAccessToken(service, claims, lifetime),
    token_type: "Bearer",
    expires_in: lifetime,
    // Of all that was allowed, though the app may have asked for less this time.
    refresh_token: await seal(service, "refresh", grant, REFRESH_SECONDS),
    scope,
  };
  return Response.json(tokens, { headers: PRIVATE });
}

// ---- 6. GET /jwks.json --------------------------------------------------------------------------
// RFC 7517: the gateway fetches the public key and asks nothing else of us; that is why one sign-in
// service can be replaced by another. Publish a key by naming its public members: a copy of the
// private one, less what somebody remembered to delete, has given away many keys.

const jwksOf = ({ keys }: Service) => ({ keys: [keys.published] });

/** RFC 9068, section 2: the type keeps other JWTs of this issuer from passing for access tokens. */
function signAccessToken({ issuer, keys }: Service, claims: JWTPayload, seconds: number) {
  const iat = secondsNow();
  const payload = { iss: issuer, iat, exp: iat + seconds, jti: crypto.randomUUID(), ...claims };
  return new SignJWT(payload)
    .setProtectedHeader({ alg: "RS256", typ: "at+jwt", kid: keys.published.kid })
    .sign(keys.private);
}

// ---- 7. GET /token ------------------------------------------------------------------------------
// A token as plain text, for a curl: ?sub=&aud=[&email=][&scope=][&ttl=SECONDS]. Any page can make
// a browser ask for it too, so none may read the answer: no CORS, no sniffing, same origin.

async function mint(service: Service, query: URLSearchParams): Promise<Response> {
  const { resourceUrl, tunnel } = service;
  const fields = fieldsOf(query);
  if (!(await isWelcome(service, fields))) {
    refuse("access_denied", "passphrase is not the one printed in the terminal", 403);
  }
  const { sub = "", aud = "", ttl = "3600", email, scope = service.usual } = fields;
  if (!isName(sub)) refuse("invalid_request", "sub takes the name of whoever the token is for");
  const isHere = !tunnel && isLoopback(hostOf(aud));
  if (aud !== resourceUrl && !isHere) refuse("invalid_target", "aud takes a local gateway");
  if (!/^-?\d{1,8}$/.test(ttl)) refuse("invalid_request", "ttl takes a number of seconds");
  const claims = { sub, aud, client_id: "curl", email, scope };
  const token = await signAccessToken(service, claims, Number(ttl));
  const headers = new Headers({ ...PRIVATE, "Content-Type": "text/plain; charset=utf-8" });
  if (aud !== resourceUrl) {
    const warning = `a token for ${new URL(aud).href}: the gateway here takes ${resourceUrl}`;
    console.error(`mock-auth: ${warning}`);
    headers.set("Warning", `199 mock-auth "${warning}"`);
  }
  return new Response(token, { headers });
}

// ---- 8. Every request ---------------------------------------------------------------------------
// Pages get an error page, programs the JSON of RFC 6749, and programs alone get CORS: with it on
// the consent page, any site could read a person's ticket.

type Handler = (request: Request) => Promise<Response | undefined>;
type Answer = (request: Request, query: URLSearchParams) => Response | Promise<Response>;

/**
 * Answers the requests of one issuer, and undefined to everything else.
 * @throws StartError when it may not start here, or with this.
 */
export async function mockAuth(options: MockAuthOptions): Promise<Handler> {
  const service = await openService(options);
  const { base, tunnel } = service;
  const metadata = () => Response.json(metadataOf(service));
  const routes = new Map<string, Answer>([
    [`GET /.well-known/oauth-authorization-server${base}`, metadata],
    [`GET /.well-known/openid-configuration${base}`, metadata],
    [`GET ${base}/.well-known/openid-configuration`, metadata],
    [`POST ${base}/register`, (request) => register(service, request)],
    [`GET ${base}/authorize`, (request, query) => authorize(service, request, query)],
    [`POST ${base}/authorize`, (request) => decide(service, request)],
    [`POST ${base}/token`, (request) => exchange(service, request)],
    [`GET ${base}/jwks.json`, () => Response.json(jwksOf(service))],
    [`GET ${base}/token`, (_, query) => mint(service, query)],
    [`GET ${base || "/"}`, () => new Response(deskHtml(service), { headers: HTML })],
  ]);
  return async (request) => {
    const url = URL.parse(request.url); // a Host can be anything
    if (!url) return undefined;
    const { pathname, searchParams } = url;
    const allowed = ["GET", "POST"].filter((method) => routes.has(`${method} ${pathname}`));
    if (allowed.length === 0) return undefined;
    const method = request.method === "HEAD" ? "GET" : request.method;
    const found = routes.get(`${method} ${pathname}`);
    const isPage = pathname === `${base}/authorize`;
    const isMint = pathname === `${base}/token` && method === "GET";
    const answer = async () => {
      if (!tunnel && isForwarded(request)) refuse("access_denied", FORWARDED, 403);
      if (method === "OPTIONS") return new Response(null, { status: 204, headers: PREFLIGHT });
      if (found) return found(request, searchParams);
      return new Response(null, { status: 405, headers: { Allow: allowed.join(", ") } });
    };
    const response = await answer().catch((problem) => refusal(problem, isPage));
    if (!isPage && !isMint) response.headers.set("Access-Control-Allow-Origin", "*");
    return response;
  };
}

/** Something stands between the caller and us, so the caller may be anywhere. A tunnel that hides
 *  behind a local Host would else let strangers in without the passphrase. */
export function isForwarded(request: Request): boolean {
  return [...request.headers.keys()].some((name) => PROXIES.test(name));
}
const PROXIES = // as in main.ts
  /forwarded|^(via$|cdn-loop|(x-(original|real|envoy|amzn)|cf|fly|ngrok|tailscale)-)|(-|client)ip$/;
const FORWARDED = "this came through a proxy: start with the https RESOURCE_URL of the proxy";

/** @throws what is not a refusal. */
function refusal(problem: unknown, isPage: boolean): Response {
  if (!(problem instanceof Refused)) throw problem;
  const { error, message, status } = problem;
  if (isPage) return new Response(errorHtml(message), { status, headers: HTML });
  const headers = new Headers(PRIVATE);
  if (status === 401) headers.set("WWW-Authenticate", "Basic"); // RFC 6749, section 5.2
  return Response.json({ error, error_description: message }, { status, headers });
}

const PREFLIGHT = {
  "Access-Control-Allow-Methods": "GET, POST",
  "Access-Control-Allow-Headers": "Content-Type, Authorization, MCP-Protocol-Version",
};
// A token is valid JavaScript: without the last two, a page elsewhere could load it as a script.
const PRIVATE = {
  "Cache-Control": "no-store",
  "Referrer-Policy": "no-referrer",
  "X-Content-Type-Options": "nosniff",
  "Cross-Origin-Resource-Policy": "same-origin",
};
// No form-action: Chromium would hold the way back to the app, after Allow, to it.
const HTML = {
  ...PRIVATE,
  "Content-Type": "text/html; charset=utf-8",
  "Content-Security-Policy":
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
  "X-Frame-Options": "DENY",
};

type Fields = Record<string, string | undefined>;
/** An empty one counts as not sent; one that is there twice is refused (OAuth 2.1, section 3.1). */
function fieldsOf(params: URLSearchParams, names = [...params.keys()]): Fields {
  const twice = names.find((name) => params.getAll(name).length > 1);
  if (twice) refuse("invalid_request", `${twice} is there twice`);
  return Object.fromEntries(names.map((name) => [name, params.get(name) || undefined]));
}

async function formOf(request: Request): Promise<URLSearchParams> {
  const type = request.headers.get("content-type") ?? "";
  const isForm = /^application\/x-www-form-urlencoded *(;|$)/i.test(type);
  if (!isForm) refuse("invalid_request", "the body is application/x-www-form-urlencoded");
  return new URLSearchParams(await readBody(request));
}

async function readBody({ body }: Request | Response): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of body ?? []) {
    bytes += chunk.length;
    if (bytes > BODY_BYTES) refuse("invalid_request", "this is too large: it takes 64 KiB");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString();
}
async function parseJson(text: string): Promise<unknown> {
  return new Response(text).json().catch(() => undefined);
}
const isUrl = (text: string) => /^https?:\/\//.test(text);

// ---- 9. Keys and seals --------------------------------------------------------------------------
// A restart signs nobody out, and there is no database: registrations, pages, codes and refresh
// tokens carry what they mean, sealed with a secret made from the signing key. Each kind is sealed
// as its own: else a registration, which anybody gets, would pass for a refresh token.

interface Sealed {
  client: { name: string; redirectUris: string[] };
  ticket: Ask & { browser: string };
  code: Grant & { redirectUri: string; challenge: string; expires: number };
  refresh: Refresh;
}

type Kind = keyof Sealed;

function seal<K extends Kind>({ keys }: Service, kind: K, content: Sealed[K], seconds: number) {
  return new SignJWT({ ...content, jti: crypto.randomUUID() })
    .setProtectedHeader({ alg: "HS256", typ: kind })
    .setExpirationTime(secondsNow() + seconds)
    .sign(keys.secret);
}

/** Undefined: of another kind, changed, over, or not ours. */
async function unseal<K extends Kind>({ keys }: Service, kind: K, text = "") {
  const checks = { algorithms: ["HS256"], typ: kind };
  const opened = await jwtVerify<Sealed[K]>(text, keys.secret, checks).catch(() => undefined);
  return opened?.payload;
}

const secondsNow = () => Math.floor(Date.now() / 1000);
const sha256 = (text: string) => createHash("sha256").update(text).digest("base64url");

/** Outlives a restart, and only its owner can read the file. @throws StartError naming it. */
async function openKeys(file: string) {
  try {
    const saved = await fs.readFile(file, "utf8").catch(() => makeKeyFile(file));
    const jwk = JSON.parse(saved) as JWK;
    const { n, e, d } = jwk;
    if (!d) throw new Error("not a private key");
    await fs.chmod(file, 0o600); // not before: by a link it could be another's file
    const kid = await calculateJwkThumbprint(jwk);
    return {
      private: (await importJWK(jwk, "RS256")) as CryptoKey,
      published: { kty: "RSA", n, e, kid, alg: "RS256", use: "sig" },
      secret: createHmac("sha256", d).update("mock-auth seals").digest(),
    };
  } catch {
    const problem = "can't be written, or holds no signing key: delete it to get a new one";
    throw new StartError(`Cannot start: ${file} ${problem}.`);
  }
}

async function makeKeyFile(file: string): Promise<string> {
  const { privateKey } = await generateKeyPair("RS256", { extractable: true });
  const made = JSON.stringify(await exportJWK(privateKey));
  // wx: when another start was first, its key stands.
  await fs.writeFile(file, made, { mode: 0o600, flag: "wx" }).catch(() => Bun.sleep(100));
  return fs.readFile(file, "utf8");
}

// ---- 10. The pages ------------------------------------------------------------------------------
// What an app says of itself and what a person typed is anybody's text: all of it is escaped, or a
// hostile name would write its own page. The person sees who asks, for what, and where the answer
// goes: the last is what a liar can't choose.

const safe = Bun.escapeHTML;

const deskOf = ({ name }: Service["app"]) => `This is a practice sign-in service on the desk, the
  machine that ${safe(name)} runs on: there are no accounts. It asks for no password of yours:
  whoever you say you are, you are.`;

function consentHtml(service: Service, ask: Ask, ticket: string, filled?: Filled): string {
  const { app, base, tunnel } = service;
  const name = safe(ask.client.name);
  const passphrase = `<label>The passphrase from the terminal <input id="passphrase"
      name="passphrase" type="password" required autocomplete="off"></label>`;
  return frame("Let this app in?", `
  <h1>Let <strong>${name}</strong> use ${safe(app.name)} in your name?</h1>
  ${filled ? `<p class="note" role="alert">${safe(filled.problem)}</p>` : ""}
  ${factsHtml(service, ask)}
  <form method="post" action="${safe(base)}/authorize">
    <input type="hidden" name="ticket" value="${safe(ticket)}">
    <label>Who are you? <input id="name" name="name" value="${safe(filled?.name ?? "")}"
      placeholder="a name" required maxlength="64" autofocus></label>
    ${tunnel ? passphrase : ""}
    <fieldset><legend>It may</legend>${boxesHtml(service, ask, filled)}</fieldset>
    <button id="allow" name="decision" value="allow">Allow</button>
    <button id="deny" name="decision" value="deny" formnovalidate>Deny</button>
  </form>
  <footer>${deskOf(app)}</footer>`);
}

/** For a person who opens the issuer itself. */
const deskHtml = ({ app }: Service) => frame("A practice sign-in service", `
  <h1>Here people sign in to ${safe(app.name)}</h1>
  <p>There is nothing to do here: Claude, or what else you connect, opens the right page itself.</p>
  <footer>${deskOf(app)}</footer>`);

function factsHtml({ app, resourceUrl }: Service, { client, redirectUri }: Ask): string {
  const to = new URL(redirectUri);
  const goal = isUrl(redirectUri) ? to.host : `${to.protocol}//${to.host}`;
  const here = isLoopback(to.hostname) ? " (an app on this machine)" : "";
  const host = URL.parse(client.id)?.host ?? "";
  const from = isUrl(client.id) ? `<dt>It comes from</dt><dd>${safe(host)}</dd>` : "";
  const unchecked = `<p class="note">This app could not be checked: its own page,
    ${safe(client.id)}, can't be reached from here. Go on only if you started it yourself.</p>`;
  return `${client.unchecked ? unchecked : ""}
  <dl>${client.unchecked ? "" : from}
    <dt>It asks for</dt><dd>${safe(app.name)} at ${safe(resourceUrl)}</dd>
    <dt>Then you go to</dt><dd>${safe(goal)}${here}</dd>
  </dl>`;
}

/** Ticked is what the app asks for, or all, until the person has ticked otherwise. */
function boxesHtml({ choices }: Service, ask: Ask, filled?: Filled): string {
  const all = [...choices.keys()];
  const asked = all.filter((scope) => ask.wanted.includes(scope));
  const ticked = filled?.ticked ?? (asked.length > 0 ? asked : all);
  const boxes = [...choices].map(([scope, means]) => {
    const checked = ticked.includes(scope) ? "checked" : "";
    const box = `<input type="checkbox" name="scope" value="${safe(scope)}" ${checked}>`;
    return `<label class="box">${box} ${safe(means)}</label>`;
  });
  return boxes.join("");
}

const errorHtml = (problem: string) => frame("That did not work", `
  <h1>That did not work</h1>
  <p class="note">The reason: ${safe(problem)}.</p>
  <p>Nothing was given to anyone. Close this page and start again in your app.</p>`);

const frame = (title: string, body: string) => `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>${title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
  :root { color-scheme: light dark; --ink: light-dark(#26221c, #ece6da);
    --paper: light-dark(#f6f1e7, #1d1a16); --card: light-dark(#fffdf8, #28241e);
    --line: light-dark(#ddd3c0, #463f34); --accent: light-dark(#7a3b1d, #e0a070); }
  body { margin: 0; min-height: 100vh; display: grid; place-items: center;
    background: var(--paper); color: var(--ink); font: 17px/1.5 Georgia, serif; }
  main { box-sizing: border-box; width: min(30rem, 100% - 2rem); margin: 1rem; padding: 2rem;
    background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
  h1 { margin: 0 0 1rem; font-size: 1.45rem; line-height: 1.25; font-weight: normal; }
  h1, dd, .note { overflow-wrap: anywhere; } dd { margin: 0 0 .5rem; }
  dl, p, fieldset, label { display: block; margin: 0 0 1rem; } .box { margin: .25rem 0; }
  dt, legend, footer { font-size: .85rem; }
  input, button, fieldset { padding: .6rem .8rem; font: inherit; color: inherit;
    background: var(--paper); border: 1px solid var(--line); border-radius: 6px; }
  input { box-sizing: border-box; width: 100%; margin-top: .25rem; }
  .box { display: flex; gap: .6rem; align-items: baseline; }
  .box input { flex: none; width: auto; accent-color: var(--accent); }
  button { margin-right: .75rem; padding: .6rem 1.4rem; cursor: pointer; }
  #allow { color: var(--card); background: var(--accent); border-color: var(--accent); }
  :focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
  .note { padding: .6rem .8rem; border-left: 3px solid var(--accent); background: var(--paper); }
  footer { margin-top: 1.25rem; }
</style>
<main>${body}</main></html>`;

// ---- 11. Start ----------------------------------------------------------------------------------
// Nothing above runs on import: main.ts mounts it, and tests take it apart. Alone it has an origin
// and a key URL of its own, as the service you will rent does.

async function main(): Promise<void> {
  const { loadApp } = await import("./main.ts");
  const issuer = "http://localhost:9000";
  const host = process.env.HOST || "127.0.0.1";
  const resourceUrl = process.env.RESOURCE_URL || "http://localhost:8000/mcp";
  const handle = await mockAuth({ issuer, host, resourceUrl, app: await loadApp() });
  Bun.serve({
    hostname: host.replace(/^\[|\]$/g, ""),
    port: 9000,
    development: false, // no error page with paths and stacks
    reusePort: false, // else a second one would start beside the first
    fetch: async (request) => {
      // A page elsewhere can give its name our address (DNS rebinding), but can't change its Host.
      const name = request.headers.get("host")?.replace(/:\d+$/, "") ?? "";
      if (!isLoopback(name)) return new Response("Not served under this Host.\n", { status: 403 });
      return (await handle(request)) ?? Response.json({ error: "not_found" }, { status: 404 });
    },
  });
  console.log(`mock-auth is open at ${issuer}. To let a gateway trust it:\n`);
  console.log(`  AUTH_ISSUER=${issuer} AUTH_JWKS_URL=${issuer}/jwks.json bun run main.ts`);
}

if (import.meta.main) {
  await main().catch((error: Error) => {
    console.error(error.name === "StartError" ? error.message : `Cannot start: ${error.message}`);
    process.exit(1);
  });
}
