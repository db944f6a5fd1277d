// `bun run deploy/doctor.ts URL`: comes to a remote MCP server as Claude, ChatGPT, Cursor or VS Code
// do, ours or anybody's, and prints a line a step; under what is wrong stands the way out. It ends
// with code 1 when something failed.
//
//   … URL                    as far as one comes without signing in (to a gateway of this machine
//                            with its mock-auth.ts: all the way)
//   … URL --sign-in          through the browser, as a person does
//   TOKEN=… … URL            with an access token that you have (--token T shows it to `ps`)
//
// A certificate of your own: NODE_EXTRA_CA_CERTS=ca.pem. Registering leaves up to four clients named
// "doctor" at the sign-in service. A token goes to URL and nowhere else, and none is ever printed.
// This file needs nothing of the repository but the package jose: copy it alone.

import { createHash, randomBytes } from "node:crypto";
import { parseArgs } from "node:util";
import { compactVerify, createLocalJWKSet, decodeJwt, decodeProtectedHeader } from "jose";
import type { JSONWebKeySet, JWK } from "jose";

export interface Line {
  step: string;
  outcome: "ok" | "warn" | "FAIL" | "skipped";
  says: string;
  fix?: string;
}
export interface Options {
  token?: string | undefined;
  /** Signs in through a browser, which this opens at a URL. */
  signIn?: ((url: string) => void) | undefined;
  tell?: (line: Line) => void; // each line as it comes
  timeout?: number; // milliseconds a request may take: claude.ai's limit
  clientDocument?: string; // the client_id of an app that is a URL
}
type Json = Record<string, unknown>;

const ALGORITHMS = ["RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519"];
const BODY_BYTES = 256 * 1024;
const CLAUDE_CODE = "https://claude.ai/oauth/claude-code-client-metadata";
const REDIRECTS = {
  Claude: ["https://claude.ai/api/mcp/auth_callback", "https://claude.com/api/mcp/auth_callback"],
  ChatGPT: ["https://chatgpt.com/connector_platform_oauth_redirect"],
  Cursor: [ // all three in one registration: who refuses one refuses Cursor
    "cursor://anysphere.cursor-mcp/oauth/callback",
    "https://www.cursor.com/agents/mcp/oauth/callback",
    "http://localhost:8787/callback",
  ],
};

const text = (value: unknown) => (typeof value === "string" ? value : "");
const list = (value: unknown): unknown[] => (Array.isArray(value) ? value : []);
const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const random = () => randomBytes(32).toString("base64url");
const isHere = ({ hostname }: URL) => /^(localhost|127(\.\d+){3}|\[::1\])$/.test(hostname);

/** A step can't go on; the walk can. */
class Trouble extends Error {
  constructor(readonly step: string, says: string, readonly fix: string) {
    super(says);
  }
}
/** Nor can the walk. */
class Stop extends Trouble {}

// ---- What one visit knows ----

class Visit {
  readonly lines: Line[] = [];
  readonly secrets = new Set<string>(); // never shown, whoever says them
  readonly verifier = this.keep(random());
  readonly state = random();
  callback = "http://127.0.0.1:33418/callback"; // nobody listens there, unless somebody signs in
  challenge = ""; // of the 401
  refusal = 0; // what came instead of it
  clockAhead = 0; // the server's, in seconds
  metadata: Json | undefined; // the server's own, RFC 9728
  issuer = "";
  service: Json | undefined; // the sign-in service's metadata, RFC 8414
  keys: JSONWebKeySet | undefined;
  client: Json | undefined;
  scope = "";
  token = "";
  isMinted = false; // for a person who is not real
  isForUs = true; // the token names this server as its audience
  tools: Json[] = [];

  constructor(readonly url: string, readonly at: URL, readonly options: Options) {}

  keep(secret: string): string {
    if (secret.length > 3) this.secrets.add(secret);
    return secret;
  }
  /** What a server says could turn a terminal's text around, or tell a secret back. */
  private plain(words: string): string {
    const hidden = [...this.secrets].reduce((all, one) => all.replaceAll(one, "(hidden)"), words);
    const line = hidden.replace(/eyJ[\w-]+\.[\w-]*(\.[\w-]*)*/g, "(a token)").replace(/\s+/g, " ");
    const seen = line.replace(/\p{C}/gu, "");
    return seen.length > 400 ? `${seen.slice(0, 399)}…` : seen;
  }
  private add(outcome: Line["outcome"], step: string, says: string, fix = ""): void {
    const line = { step, outcome, says: this.plain(says), ...(fix && { fix: this.plain(fix) }) };
    this.lines.push(line);
    this.options.tell?.(line);
  }
  ok = (step: string, says: string) => this.add("ok", step, says);
  warn = (step: string, says: string, fix: string) => this.add("warn", step, says, fix);
  fail = (step: string, says: string, fix: string) => this.add("FAIL", step, says, fix);
  skip = (step: string, why: string, fix = "") => this.add("skipped", step, why, fix);
  /** The usual line: it is so, or it isn't. */
  expect(step: string, isSo: boolean, says: string, otherwise: [says: string, fix: string]): boolean {
    if (isSo) this.ok(step, says);
    else this.fail(step, ...otherwise);
    return isSo;
  }
}

// ---- Requests ----

interface Answer {
  status: number;
  headers: Headers;
  body: string;
  json: Json | undefined; // in an event stream, the first answer
  isHtml: boolean;
}

/** @throws Trouble, when nothing came that could be read. */
async function ask(visit: Visit, step: string, url: string, init: RequestInit = {}) {
  const target = URL.parse(url);
  const isSafe = target?.protocol === "https:"
    || (target?.protocol === "http:" && isHere(target) && isHere(visit.at));
  if (!target || !isSafe) {
    throw new Trouble(step, `${url || "nothing"} is no https URL`, "name its full https:// address");
  }
  const { timeout = 10_000 } = visit.options;
  const started = performance.now();
  try {
    // Who sends us elsewhere is not followed: a token or a code could go along.
    const signal = AbortSignal.timeout(timeout);
    const response = await fetch(target, { ...init, redirect: "manual", signal });
    const answer = await read(response, init.method ?? "GET");
    const seconds = (performance.now() - started) / 1000;
    if (seconds > 3) {
      visit.warn(step, `slow: ${seconds.toFixed(1)} s`, "claude.ai gives up after 10 s; a server \
that sleeps takes that long to wake up: keep one instance running");
    }
    return answer;
  } catch (error) {
    if (error === TOO_LARGE) throw new Trouble(step, `${target.host} sends over 256 KiB`, "say less");
    throw new Trouble(step, ...wordsFor(error as Error & { code?: unknown }, target, timeout));
  }
}

const TOO_LARGE = new Error("too large");
async function read(response: Response, method: string): Promise<Answer> {
  const { status, headers } = response;
  const type = headers.get("content-type") ?? "";
  const isStream = type.includes("text/event-stream");
  const decoder = new TextDecoder();
  let [body, json]: [string, Json | undefined] = ["", undefined];
  // A stream may stay open after the answer, and one that was not asked anything has none.
  if (!(isStream && method === "GET")) {
    for await (const chunk of response.body ?? []) {
      body += decoder.decode(chunk as Uint8Array, { stream: true });
      if (body.length > BODY_BYTES) throw TOO_LARGE;
      if (isStream && (json = answerIn(body))) break;
    }
  } else await response.body?.cancel();
  if (!isStream) json = parse(body);
  return { status, headers, body, json, isHtml: /html/.test(type) || /^\s*<(!doctype|html)/i.test(body) };
}
function parse(body: string): Json | undefined {
  try {
    const value: unknown = JSON.parse(body);
    return isObject(value) ? value : undefined;
  } catch {
    return undefined;
  }
}
function answerIn(stream: string): Json | undefined {
  const events = stream.replaceAll("\r\n", "\n").split("\n\n").slice(0, -1);
  const messages = events.map((event) =>
    parse([...event.matchAll(/^data: ?(.*)$/gm)].map(([, data]) => data).join("\n")));
  return messages.find((message) => message && ("result" in message || "error" in message));
}

const CHAIN = "serve the whole chain (certificate and intermediates: fullchain.pem), from an \
authority that everybody trusts; one of your own is trusted here by NODE_EXTRA_CA_CERTS=ca.pem, \
and by no host app";
const NETWORK: Record<string, [says: string, fix: string]> = {
  ENOTFOUND: ["there is no host of that name", "check the spelling, and the DNS record"],
  EAI_AGAIN: ["no name server answers", "check this machine's own connection"],
  ECONNREFUSED: ["refused: nobody listens there",
    "start the server; check the port, and in a container that it listens on HOST=0.0.0.0"],
  ECONNRESET: ["the connection was closed without an answer",
    "is it http:// where https:// is served? Otherwise the server's or proxy's log knows"],
  EPROTO: ["no TLS on that port", "https:// needs a certificate there: use the proxy's address"],
  CERT_HAS_EXPIRED: ["its certificate has expired", "renew it, and reload the server that uses it"],
  CERT_NOT_YET_VALID: ["its certificate is not valid yet", "check both machines' clocks"],
  ERR_TLS_CERT_ALTNAME_INVALID: ["its certificate is for another host name",
    "get one that names this host"],
  DEPTH_ZERO_SELF_SIGNED_CERT: ["its certificate is self-signed", CHAIN],
  SELF_SIGNED_CERT_IN_CHAIN: ["its certificate is self-signed", CHAIN],
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: ["its certificate's issuer is not known", CHAIN],
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: ["its certificate's issuer is not known", CHAIN],
};
function wordsFor(error: Error & { code?: unknown }, { host }: URL, ms: number): [string, string] {
  const slow = "is the server asleep, overloaded, or behind a firewall that drops what it refuses?";
  if (error.name === "TimeoutError") return [`${host}: no answer within ${ms / 1000} s`, slow];
  const code = String(error.code ?? error.name);
  const [says, fix] = NETWORK[code] ?? [`can't be reached (${code})`, "check network and address"];
  return [`${host}: ${says}`, fix];
}

/** What a service says of an error, for a person. */
function reasonIn({ status, json, isHtml }: Answer): string {
  const error = isObject(json?.error) ? json.error.message : json?.error;
  const said = [error, json?.error_description].map(text).filter(Boolean).join(": ");
  return `${status}${isHtml ? ", a web page" : ""}${said && `, ${said}`}`;
}
/** claude.ai and VS Code compare byte for byte. */
function difference(came: string, wanted: string): string {
  const [a, b] = [URL.parse(came), URL.parse(wanted)];
  if (!a || !b) return "no URL";
  if (`${came}/` === wanted || came === `${wanted}/`) return "a slash at the end";
  if (a.protocol !== b.protocol) return `${a.protocol}// instead of ${b.protocol}//`;
  if (a.hostname !== b.hostname) return "another host";
  if (a.port !== b.port) return "another port";
  return a.href === b.href ? "written otherwise" : "another path";
}

// ---- The walk, in the order of a host app ----

const WALK = [
  checkUrl, knock, knockOtherwise, readMetadata, readService, readKeys, // what anybody may read
  register, openSignInPage, getToken, readToken, // getting in
  speak2025, speak2026, readTools, bringWrongToken, useGate, // inside
];

/** Walks. The lines are also told one by one. */
export async function diagnose(url: string, options: Options = {}): Promise<Line[]> {
  const at = URL.parse(url);
  const visit = new Visit(url, at ?? new URL("https://nowhere.invalid"), options);
  const listener = options.signIn && listen(visit.state);
  if (listener) visit.callback = listener.url;
  for (const step of WALK) {
    try {
      await step(visit, listener);
    } catch (error) {
      if (!(error instanceof Trouble)) throw error;
      visit.fail(error.step, error.message, error.fix);
      if (!(error instanceof Stop)) continue;
      visit.skip("the rest", "mend that first");
      break;
    }
  }
  listener?.stop();
  return visit.lines;
}

async function checkUrl(visit: Visit): Promise<void> {
  const { url, at } = visit;
  const { protocol, hash, username, pathname, search, origin } = at;
  const bare = `${origin}${url === origin ? "" : pathname}${search}`;
  const stop = (says: string, fix: string) => {
    throw new Stop("URL", says, fix);
  };
  if (!URL.canParse(url)) stop(`${url || "nothing"} is no URL`, "it looks like https://host/mcp");
  if (username) stop("holds a name or a password", "take it out: sign-in is by token");
  if (hash) stop(`holds a fragment (${hash})`, `paste ${bare}`);
  if (protocol !== "https:" && !(protocol === "http:" && isHere(at))) {
    stop(`is ${protocol}//`, "host apps take https alone (http on this machine): get a certificate, \
or a tunnel");
  }
  if (url !== bare) stop("is not written as a host app writes it", `paste ${bare}`);
  if (url.endsWith("/")) {
    return visit.warn("URL", "ends in a slash", "apps compare it byte for byte: without is safer");
  }
  if (pathname !== "/mcp") {
    return visit.warn("URL", `its path is ${pathname}`, "claude.ai is known to want /mcp");
  }
  visit.ok("URL", isHere(at) ? "of this machine: apps in a cloud can't reach it" : "https, plain");
}

const JSON_TYPE = { "content-type": "application/json" };
const MCP = { ...JSON_TYPE, accept: "application/json, text/event-stream" };
const INFO = { name: "doctor", version: "1" };
const hello = (protocolVersion: string) =>
  ({ protocolVersion, capabilities: {}, clientInfo: INFO });
const message = (method: string, params: object) =>
  JSON.stringify({ jsonrpc: "2.0", id: 1, method, params });

/** The first request of all: without a token. */
async function knock(visit: Visit): Promise<void> {
  const body = message("initialize", hello("2025-11-25"));
  const init = { method: "POST", headers: MCP, body };
  const answer = await ask(visit, "reach", visit.url, init).catch((error: Trouble) => {
    throw new Stop(error.step, error.message, error.fix);
  });
  visit.ok("reach", `${visit.at.host} answers${visit.at.protocol === "https:" ? ", by TLS" : ""}`);
  const { status, headers } = answer;
  const to = headers.get("location");
  if (status === 401) {
    visit.ok("no token", "401");
    checkChallenge(visit, headers.get("www-authenticate") ?? "");
  } else {
    visit.refusal = status;
    visit.fail("no token", to ? `${status}, sent on to ${to}` : `${reasonIn(answer)} instead of 401`,
      to ? "paste the address it redirects to, or let it answer here: a POST is not sent on"
        : adviceFor(answer));
    visit.skip("challenge", "it comes with the 401");
  }
  const date = Date.parse(headers.get("date") ?? "");
  visit.clockAhead = Number.isNaN(date) ? 0 : (date - Date.now()) / 1000;
  const seconds = Math.round(Math.abs(visit.clockAhead));
  if (Number.isNaN(date)) visit.skip("clock", "no Date header to compare with");
  else {
    visit.expect("clock", seconds <= 30, "as this machine's", [
      `the server's is ${seconds} s ${visit.clockAhead > 0 ? "ahead of" : "behind"} this machine's`,
      "let both keep time by NTP: a token is refused when its times are not now",
    ]);
  }
}
function adviceFor({ status, isHtml }: Answer): string {
  if (isHtml && status < 500) {
    return "a bot filter or a login page answers for it: let POSTs to this path through to the server";
  }
  if (status < 300) return "hosts sign in on a 401 alone: switch sign-in on (here: no AUTH_DISABLED)";
  if (status === 403) return "401 is what starts sign-in; ours says 403 to a Host or an Origin that \
RESOURCE_URL does not name, a firewall to what it takes for a bot";
  if (status === 404) return "check the path: ours answers at /mcp";
  if (status === 405) return "that path takes no POST: is it the URL of the MCP endpoint?";
  if (status === 429) return "its rate limit: wait a minute";
  if (status >= 500) return "look at the server's log; for 502 to 504, whether the proxy finds it";
  return "the server has to answer 401 before it looks at anything else";
}
function checkChallenge(visit: Visit, challenge: string): void {
  if (!/\bBearer\b/i.test(challenge)) {
    const came = challenge ? `WWW-Authenticate is ${challenge}` : "no WWW-Authenticate";
    return visit.fail("challenge", came, `answer the 401 with WWW-Authenticate: Bearer \
resource_metadata="${knownPath(visit.at)}" (a proxy may have removed it)`);
  }
  visit.challenge = challenge;
  if (!/\bresource_metadata=/.test(challenge)) {
    return visit.warn("challenge", "Bearer, without resource_metadata", "name the metadata's URL");
  }
  if (/\berror=/.test(challenge)) {
    return visit.warn("challenge", "names an error, though no token was sent", "leave error= out: \
some apps take it for a bad token (RFC 6750, section 3.1)");
  }
  visit.ok("challenge", "Bearer, with resource_metadata");
}
const knownPath = ({ origin, pathname }: URL) =>
  `${origin}/.well-known/oauth-protected-resource${pathname.replace(/\/$/, "")}`;

/** What some apps begin with, a browser asks first, and a stranger brings. */
async function knockOtherwise(visit: Visit): Promise<void> {
  const { url, refusal } = visit;
  const get = await ask(visit, "GET", url, { headers: { accept: "text/event-stream" } });
  if ([401, 405].includes(get.status)) visit.ok("GET", String(get.status));
  else if (get.status === refusal) visit.skip("GET", `${refusal}, as above`);
  else if (get.status >= 500) visit.fail("GET", reasonIn(get), "some apps begin with GET: 401 or 405");
  else visit.warn("GET", `${reasonIn(get)}, not 401 or 405`, "some apps begin with GET");

  const origin = "http://localhost:6274"; // MCP Inspector's
  const asked = ["authorization", "content-type", "mcp-protocol-version"];
  const preflight = await ask(visit, "CORS", url, {
    method: "OPTIONS",
    headers: {
      origin,
      "access-control-request-method": "POST",
      "access-control-request-headers": asked.join(","),
    },
  });
  const allowed = (name: string) => preflight.headers.get(`access-control-allow-${name}`) ?? "";
  const names = allowed("headers").toLowerCase().split(/\s*,\s*/);
  const missing = asked.filter((name) => !names.includes(name));
  if (preflight.status >= 300 || !["*", origin].includes(allowed("origin"))) {
    visit.warn("CORS", `${preflight.status}: a page at ${origin} may not call`, "clients that run \
in a browser (MCP Inspector) need Access-Control-Allow-Origin on OPTIONS, before sign-in");
  } else if (missing.length > 0) {
    visit.warn("CORS", `does not allow ${missing}`, "name it in Access-Control-Allow-Headers");
  } else visit.ok("CORS", "clients in a browser may call");

  const made = visit.keep(`made-up.${random()}`);
  const stranger = await ask(visit, "made-up token", url, asToken(made, "tools/list", {}));
  if (stranger.status === refusal) return visit.skip("made-up token", `${refusal}, as above`);
  const says = stranger.headers.get("www-authenticate") ?? "";
  if (stranger.status === 401 && !/error="?invalid_token/.test(says)) {
    return visit.warn("made-up token", "401, without invalid_token", 'say error="invalid_token": \
apps then fetch a new token');
  }
  visit.expect("made-up token", stranger.status === 401, "401 invalid_token", [
    `${reasonIn(stranger)} instead of 401`,
    stranger.status < 300 ? "ANYBODY GETS IN: check signature, issuer and audience of each token"
      : "every bad token is a 401; 503 means that it has no keys to check with (AUTH_JWKS_URL)",
  ]);
}
const asToken = (token: string, method: string, params: object, headers: object = {}) =>
  ({ method: "POST", headers: { ...MCP, authorization: `Bearer ${token}`, ...headers },
    body: message(method, params) });

// ---- What anybody may read ----

/** A JSON document, or why there is none. */
async function fetchJson(visit: Visit, step: string, url: string): Promise<Json | string> {
  const answer = await ask(visit, step, url, { headers: { accept: "application/json" } });
  const to = answer.headers.get("location");
  if (to) return `${url} redirects (${answer.status}) to ${to}`;
  if (answer.status !== 200) return `${url} answers ${reasonIn(answer)}`;
  const type = answer.headers.get("content-type") ?? "nothing";
  if (!/\bjson\b/.test(type)) return `${url} is sent as ${type}, not application/json`;
  return answer.json ?? `${url} holds no JSON object`;
}

/** RFC 9728: of the server itself. */
async function readMetadata(visit: Visit): Promise<void> {
  const { at, url } = visit;
  const known = knownPath(at);
  const named = /\bresource_metadata="?([^",\s]*)/.exec(visit.challenge)?.[1];
  const first = await fetchJson(visit, "metadata", named ?? known);
  const second = named && named !== known ? await fetchJson(visit, "known path", known) : first;
  const root = `${at.origin}/.well-known/oauth-protected-resource`;
  const fix = `serve it at ${known}, as JSON and without sign-in (RFC 9728, section 3)`;
  if (typeof first === "string") visit.fail("metadata", first, fix);
  else visit.ok("metadata", named ? "where the challenge says" : "at its known path");
  if (second !== first) {
    if (typeof second === "string") visit.warn("known path", second, fix);
    else visit.ok("known path", "there too");
  }
  const found = [first, second, await fetchJson(visit, "metadata", root)].find(isObject);
  visit.metadata = found;
  if (!found) return;

  const resource = text(found.resource);
  visit.expect("resource", resource === url, "is the URL, byte for byte", [
    `says ${resource || "nothing"}, and you typed ${url} (${difference(resource, url)})`,
    `paste what it says, or let the server call itself what you paste (here: RESOURCE_URL=${url})`,
  ]);
  const [issuer = "", ...others] = list(found.authorization_servers).map(text);
  visit.issuer = issuer;
  visit.expect("authorization server", issuer !== "",
    `${issuer}${others.length > 0 ? " (the first; claude.ai ignores the others)" : ""}`,
    ["authorization_servers is empty", "name the issuer of the sign-in service (here: AUTH_ISSUER)"]);
  visit.expect("scopes", !list(found.scopes_supported).includes("offline_access"),
    list(found.scopes_supported).join(" ") || "none asked for", [
      "scopes_supported lists offline_access",
      "take it out: it belongs to the sign-in service's metadata (claude.ai)",
    ]);
}

/** RFC 8414, then OpenID Connect Discovery: of the sign-in service. */
async function readService(visit: Visit): Promise<void> {
  const { issuer } = visit;
  if (!issuer) return visit.skip("sign-in service", "nobody names one");
  const at = URL.parse(issuer);
  const path = at?.pathname.replace(/\/$/, "");
  const places = [
    `${at?.origin}/.well-known/oauth-authorization-server${path}`,
    `${at?.origin}/.well-known/openid-configuration${path}`,
    `${issuer.replace(/\/$/, "")}/.well-known/openid-configuration`,
  ];
  const problems: string[] = [];
  for (const place of at ? places : [issuer]) {
    const found = await fetchJson(visit, "sign-in service", place);
    if (typeof found === "string") problems.push(found);
    else visit.service ??= found;
    if (visit.service) break;
  }
  const { service } = visit;
  if (!service) {
    return visit.fail("sign-in service", problems[0]!, `none of its ${problems.length} known places \
has metadata: is the issuer right (here: AUTH_ISSUER)? It is the "issuer" of its discovery document`);
  }
  visit.ok("sign-in service", problems.length > 0 ? "by OpenID Connect Discovery" : "by RFC 8414");
  visit.expect("issuer", service.issuer === issuer, "calls itself what the server calls it", [
    `calls itself ${text(service.issuer)} and the server calls it ${issuer} \
(${difference(text(service.issuer), issuer)})`,
    `name it byte for byte as it does (here: AUTH_ISSUER=${text(service.issuer)})`,
  ]);
  checkService(visit, service);
}
function checkService(visit: Visit, service: Json): void {
  const isSecure = (name: string) => {
    const url = URL.parse(text(service[name]));
    return url !== null && (url.protocol === "https:" || (isHere(url) && isHere(visit.at)));
  };
  const bad = ["authorization_endpoint", "token_endpoint"].filter((name) => !isSecure(name));
  visit.expect("endpoints", bad.length === 0, "for authorizing and for tokens",
    [`${bad.join(" and ")}: no https URL`, "the sign-in service has to name both"]);
  const has = (name: string, value: string) => list(service[`${name}_supported`]).includes(value);
  visit.expect("PKCE", has("code_challenge_methods", "S256"), "S256",
    ["code_challenge_methods_supported lacks S256", "switch PKCE on there: apps refuse to go on"]);
  const grants = service.grant_types_supported ?? ["authorization_code"];
  const codes = has("response_types", "code") && list(grants).includes("authorization_code");
  if (codes && !list(grants).includes("refresh_token")) {
    visit.warn("grants", "no refresh_token in grant_types_supported",
      "without it people sign in anew whenever a token runs out");
  } else {
    visit.expect("grants", codes, "code and refresh", ["response_types_supported lacks code, or \
grant_types_supported authorization_code", "switch the authorization code flow on there"]);
  }
  const registers = isSecure("registration_endpoint");
  const says = service.client_id_metadata_document_supported === true;
  const none = has("token_endpoint_auth_methods", "none");
  const ways = [registers && "registration", says && none && "documents (CIMD)"].filter(Boolean);
  const fixNone = 'add "none" to token_endpoint_auth_methods_supported: apps have no secret';
  if (registers && says && !none) {
    visit.warn("apps", "registration; not documents: they need none too", fixNone);
  } else {
    visit.expect("apps", ways.length > 0, `by ${ways.join(" and ")}`, [
      "can't say who they are: neither registration nor documents",
      says ? fixNone : "switch on dynamic client registration (RFC 7591), or CIMD, there",
    ]);
  }
  if (service.authorization_response_iss_parameter_supported === true) visit.ok("ChatGPT", "iss");
  else {
    visit.warn("ChatGPT", "no authorization_response_iss_parameter_supported",
      "without iss (RFC 9207) ChatGPT has no stable client id there: it has to register");
  }
}

async function readKeys(visit: Visit): Promise<void> {
  if (!visit.service) return visit.skip("keys", "no sign-in service is known");
  const url = text(visit.service.jwks_uri);
  if (!url) {
    return visit.warn("keys", "no jwks_uri", "tokens can only be checked by asking the service: a \
gateway like ours can't");
  }
  const found = await fetchJson(visit, "keys", url);
  const fix = "it has to publish its public signing keys there (here: AUTH_JWKS_URL)";
  if (typeof found === "string") return visit.fail("keys", found, fix);
  const keys = list(found.keys).filter(isObject) as JWK[];
  if (keys.some(({ kty, d, k }) => kty === "oct" || d || k)) {
    return visit.fail("keys", "A PRIVATE OR SHARED KEY IS PUBLISHED: anybody can make tokens",
      "make a new key, publish its public members alone (kty, kid, n and e, or crv, x and y)");
  }
  const usable = keys.filter(({ kty = "", use = "sig", alg = ALGORITHMS[0]! }) =>
    /^(RSA|EC|OKP)$/.test(kty) && use === "sig" && ALGORITHMS.includes(alg));
  if (JSON.stringify(found).length > 65_536) return visit.fail("keys", "over 64 KiB", "drop old keys");
  visit.keys = { keys };
  if (usable.length > 0 && usable.every(({ kid }) => !kid)) {
    return visit.warn("keys", "no key has a kid", "give each one: or a new key is not noticed");
  }
  const algorithms = [...new Set(usable.map(({ alg, kty }) => alg ?? kty))];
  visit.expect("keys", usable.length > 0, `${usable.length} to sign with (${algorithms.join(", ")})`, [
    `none of ${keys.length} is for signing with ${ALGORITHMS.join(", ")}`, fix]);
}

// ---- Getting in ----

/** RFC 7591. One for the walk itself, and one for each app whose redirects may be refused. */
async function register(visit: Visit): Promise<void> {
  const { service, metadata, challenge } = visit;
  const named = /\bscope="([^"]*)"/.exec(challenge)?.[1]?.split(" ");
  const scopes = new Set(named ?? list(metadata?.scopes_supported).map(text));
  if (list(service?.scopes_supported).includes("offline_access")) scopes.add("offline_access");
  visit.scope = [...scopes].join(" "); // what most apps ask for
  const url = text(service?.registration_endpoint);
  if (!url) return visit.skip("register", "no registration is known");
  const apps = { "this machine": [visit.callback], ...REDIRECTS };
  for (const [app, redirects] of Object.entries(apps)) {
    const client = await registerOne(visit, `register: ${app}`, url, redirects);
    if (app === "this machine") visit.client = client;
  }
}
async function registerOne(visit: Visit, step: string, url: string, redirect_uris: string[]) {
  const answer = await ask(visit, step, url, {
    method: "POST",
    headers: { ...JSON_TYPE, accept: "application/json" },
    body: JSON.stringify({
      client_name: "doctor",
      redirect_uris,
      grant_types: ["authorization_code", "refresh_token"],
      response_types: ["code"],
      token_endpoint_auth_method: "none",
      ...(visit.scope && { scope: visit.scope }),
    }),
  });
  visit.keep(text(answer.json?.client_secret));
  visit.keep(text(answer.json?.registration_access_token));
  const kept = list(answer.json?.redirect_uris ?? redirect_uris);
  const lost = redirect_uris.filter((uri) => !kept.includes(uri));
  const isFine = answer.status < 300 && text(answer.json?.client_id) !== "";
  const fix = `let apps register with ${redirect_uris.join(", ")}`;
  if (isFine && lost.length > 0) visit.fail(step, `it dropped ${lost.join(", ")}`, fix);
  else visit.expect(step, isFine, "a client is left there", [`refused: ${reasonIn(answer)}`, fix]);
  return isFine ? answer.json : undefined;
}

const sha256 = (secret: string) => createHash("sha256").update(secret).digest("base64url");
function authorizeUrl(visit: Visit, changes: Record<string, string> = {}): string {
  const url = URL.parse(text(visit.service?.authorization_endpoint));
  const params = {
    response_type: "code",
    client_id: text(visit.client?.client_id),
    redirect_uri: visit.callback,
    state: visit.state,
    code_challenge: sha256(visit.verifier),
    code_challenge_method: "S256",
    resource: visit.url,
    scope: visit.scope,
    prompt: visit.scope.includes("offline_access") ? "consent" : "",
    ...changes,
  };
  for (const [name, value] of Object.entries(params)) if (value) url?.searchParams.set(name, value);
  return url?.href ?? "";
}

/** What a browser that is not signed in gets. */
async function openSignInPage(visit: Visit): Promise<void> {
  const { service, client, issuer } = visit;
  const look = async (step: string, changes: Record<string, string>) => {
    const url = authorizeUrl(visit, changes);
    const answer = await ask(visit, step, url, { headers: { accept: "text/html" } });
    const to = URL.parse(answer.headers.get("location") ?? "", url);
    const error = to?.searchParams.get("error");
    const why = to?.searchParams.get("error_description") ?? "";
    const problem = error ? `${error}: ${why}` : answer.status >= 400 && reasonIn(answer);
    return { to: to?.href ?? "", problem, says: to ? `leads on to ${to.host}` : "a page" };
  };
  if (!service?.authorization_endpoint) return visit.skip("sign-in page", "no endpoint is known");
  if (client) {
    const page = await look("sign-in page", {});
    visit.expect("sign-in page", !page.problem, page.says, [`refused: ${page.problem}`,
      `the service has to take resource=${visit.url} (${visit.scope || "no scope"}) from any app`]);
    const open = await look("without PKCE", { code_challenge: "", code_challenge_method: "" });
    if (open.problem) visit.ok("without PKCE", "refused");
    else visit.warn("without PKCE", `${open.says}, too`, "make PKCE a must there, if it isn't later");
    const elsewhere = "http://127.0.0.1:33418/not-registered";
    const led = await look("other redirect", { redirect_uri: elsewhere });
    if (!led.to.startsWith(elsewhere)) visit.ok("other redirect", "not sent there");
    else visit.warn("other redirect", "sent there, unregistered", "compare it exactly: codes leak");
  } else visit.skip("sign-in page", "no client is registered");

  const { clientDocument = CLAUDE_CODE } = visit.options;
  if (service.client_id_metadata_document_supported !== true) {
    return visit.skip("by document", "the service doesn't offer it: apps register");
  }
  const changes = { client_id: clientDocument, redirect_uri: "http://localhost:33418/callback" };
  const page = await look("by document", changes);
  const fix = `let it fetch ${clientDocument} (does it reach the internet?) and take any port of this \
machine in its redirects`;
  if (!page.problem) visit.ok("by document", `${page.says} for ${clientDocument}`);
  else if (isHere(new URL(issuer))) visit.warn("by document", `refused: ${page.problem}`, fix);
  else visit.fail("by document", `refused: ${page.problem}`, fix);
}

/** Where the browser comes back to. */
type Listener = ReturnType<typeof listen>;
function listen(state: string) {
  const { promise, resolve } = Promise.withResolvers<URLSearchParams | undefined>();
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch(request) {
      const { pathname, searchParams } = new URL(request.url);
      // Any page can call here; only who saw our request knows the state.
      const isOurs = pathname === "/callback" && searchParams.get("state") === state;
      if (isOurs) resolve(searchParams);
      const words = isOurs ? "Thank you. Go back to the terminal." : "Not the sign-in that is awaited.";
      return new Response(`${words}\n`, { status: isOurs ? 200 : 400 });
    },
  });
  const timer = setTimeout(() => resolve(undefined), 300_000);
  const stop = () => {
    clearTimeout(timer);
    void server.stop();
  };
  return { url: `http://127.0.0.1:${server.port}/callback`, came: promise, stop };
}

const HOW_TO_SIGN_IN = "sign in with --sign-in, or bring a token in the variable TOKEN";
async function getToken(visit: Visit, listener?: Listener): Promise<void> {
  const { at, options, client, service } = visit;
  const given = options.token?.trim().replace(/^Bearer +/i, "") ?? "";
  if (/[^!-~]/.test(given)) return visit.fail("token", "holds what no token holds", "copy it anew");
  if (given) {
    visit.token = visit.keep(given);
    return visit.ok("token", "yours");
  }
  if (listener) return signIn(visit, listener);
  // One for somebody who is not real is made on this machine alone, by who is beside the gateway.
  if (at.protocol === "http:" && isHere(at) && visit.issuer === `${at.origin}/mock-auth`) {
    visit.token = await mint(visit, visit.url);
    visit.isMinted = visit.token !== "";
    if (visit.isMinted) return visit.ok("token", "made by mock-auth.ts, for nobody real");
  }
  visit.skip("token", "none, so nothing behind sign-in was seen", HOW_TO_SIGN_IN);
}
const DOCTOR = `doctor-${randomBytes(3).toString("hex")}`;
async function mint(visit: Visit, aud: string): Promise<string> {
  const url = `${visit.at.origin}/mock-auth/token?${new URLSearchParams({ sub: DOCTOR, aud })}`;
  const { status, body } = await ask(visit, "token", url);
  return status === 200 && /^[\w-]+\.[\w-]+\.[\w-]+$/.test(body) ? visit.keep(body) : "";
}

async function signIn(visit: Visit, listener: Listener): Promise<void> {
  const { client, service, options, issuer } = visit;
  if (!client || !service) return visit.skip("sign-in", "no client is registered");
  options.signIn!(authorizeUrl(visit));
  const back = await listener.came;
  if (!back) return visit.fail("sign-in", "nobody came back within 5 minutes", "try again");
  const error = back.get("error");
  if (error) {
    const why = `${error}: ${back.get("error_description") ?? ""}`;
    return visit.fail("sign-in", why, "the service's log knows more");
  }
  const iss = back.get("iss") ?? "";
  const says = service.authorization_response_iss_parameter_supported === true;
  if (iss ? iss !== issuer : says) {
    return visit.fail("sign-in", `came back with iss ${iss || "missing"}, not ${issuer}`,
      "the iss parameter has to be the issuer (RFC 9207): ChatGPT refuses another");
  }
  visit.ok("sign-in", "came back with a code and the state");
  const code = visit.keep(back.get("code") ?? "");
  const { callback: redirect_uri, verifier: code_verifier } = visit;
  const refresh = await swap(visit, "code for token", {
    grant_type: "authorization_code", code, redirect_uri, code_verifier,
  });
  if (visit.token && !refresh) {
    visit.warn("refresh", "no refresh token came", "people sign in anew whenever a token runs out: \
allow offline_access there");
  } else if (refresh) {
    await swap(visit, "refresh", { grant_type: "refresh_token", refresh_token: refresh });
  }
}
/** Takes the token, and gives the refresh token. */
async function swap(visit: Visit, step: string, fields: Record<string, string>) {
  const { client_id, client_secret } = visit.client!;
  const secret = text(client_secret);
  const all = { ...fields, client_id: text(client_id), resource: visit.url };
  const answer = await ask(visit, step, text(visit.service!.token_endpoint), {
    method: "POST",
    headers: { accept: "application/json" },
    body: new URLSearchParams({ ...all, ...(secret && { client_secret: secret }) }),
  });
  const token = visit.keep(text(answer.json?.access_token));
  const refresh = visit.keep(text(answer.json?.refresh_token));
  const isFine = answer.status === 200 && token !== ""
    && /^bearer$/i.test(text(answer.json?.token_type));
  if (isFine) visit.token = token;
  visit.expect(step, isFine, `a token${refresh && ", and one to refresh it"}`, [
    `refused: ${reasonIn(answer)}`,
    "it has to give a Bearer token to an app without a secret, for PKCE and resource alone",
  ]);
  return refresh;
}

/** What the server will check. */
async function readToken(visit: Visit): Promise<void> {
  const { token, url, issuer, keys, clockAhead } = visit;
  if (!token) return;
  const now = Date.now() / 1000;
  let claims, header;
  try {
    [claims, header] = [decodeJwt<Json>(token), decodeProtectedHeader(token)];
  } catch {
    return visit.skip("in the token", "opaque, not a JWT: the server alone can read it",
      "a gateway of our kind takes JWTs: switch them on at the sign-in service");
  }
  const { aud, iss, exp, iat } = claims;
  visit.isForUs = [aud].flat().includes(url);
  visit.expect("audience", visit.isForUs, url, [
    `aud is ${JSON.stringify(aud) ?? "missing"}, not ${url}`,
    "let the sign-in service put the URL into aud (an API, resource or audience setting there)",
  ]);
  visit.expect("issuer of token", iss === issuer || !issuer, text(iss), [
    `iss is ${JSON.stringify(iss) ?? "missing"}, not ${issuer}`,
    "name the issuer as its tokens do, byte for byte (here: AUTH_ISSUER)",
  ]);
  const left = (exp ?? 0) - now;
  const ahead = (iat ?? 0) - Math.max(now, now + clockAhead);
  if (ahead > 5) {
    visit.fail("times", `made ${Math.round(ahead)} s in the future`,
      "the sign-in service's clock is ahead: let all keep time by NTP");
  } else {
    visit.expect("times", left > 0 && left < 366 * 86_400, `good for ${Math.round(left)} s more`, [
      left > 0 ? "lasts over a year (milliseconds?)" : `exp is ${exp ?? "missing"}: over`,
      "fetch a new one; if it is new, look at the clocks of both, and at exp (in seconds)",
    ]);
  }
  if (!keys) return visit.skip("signature", "no keys are known");
  const set = createLocalJWKSet(keys);
  const problem = await compactVerify(token, set, { algorithms: ALGORITHMS })
    .then(() => "", ({ code }: { code: string }) => code);
  visit.expect("signature", !problem, `${header.alg}, by one of the keys`, [
    `${problem} (alg ${header.alg}, kid ${header.kid})`,
    "a key set of another service or environment? (here: AUTH_JWKS_URL is its jwks_uri)",
  ]);
}

// ---- Inside, with the token ----

interface Reply extends Answer {
  result: Json | undefined;
}
async function send(visit: Visit, step: string, method: string, params: object, headers: object) {
  const answer = await ask(visit, step, visit.url, asToken(visit.token, method, params, headers));
  return { ...answer, result: isObject(answer.json?.result) ? answer.json.result : undefined };
}
const isIn = (visit: Visit) => visit.token !== "" && visit.isForUs;

/** With a handshake. */
async function speak2025(visit: Visit): Promise<void> {
  if (!visit.token) return visit.skip("inside", "needs a token");
  if (!visit.isForUs) return visit.skip("inside", "the token is not for this server");
  for (const version of ["2025-11-25", "2025-06-18"]) {
    const opened = await send(visit, version, "initialize", hello(version), {});
    const agreed = text(opened.result?.protocolVersion);
    if (!opened.result) {
      visit.fail(version, `initialize: ${reasonIn(opened)}`, [401, 403].includes(opened.status)
        ? "it refuses the token: WWW-Authenticate and its log say why (here: the check's name)"
        : "it has to answer by a JSON-RPC result, as JSON or as an event stream");
      continue;
    }
    const session = opened.headers.get("mcp-session-id");
    const headers = { "mcp-protocol-version": agreed, ...(session && { "mcp-session-id": session }) };
    const authorization = `Bearer ${visit.token}`;
    const init = { method: "POST", headers: { ...MCP, authorization, ...headers } };
    const note = JSON.stringify({ jsonrpc: "2.0", method: "notifications/initialized" });
    await ask(visit, version, visit.url, { ...init, body: note });
    const listed = await listTools(visit, version, headers);
    if (session) await ask(visit, version, visit.url, { ...init, method: "DELETE" });
    if (!listed) continue;
    visit.tools = listed;
    const other = agreed === version ? "" : `, in ${agreed} instead`;
    visit.ok(version, `${listed.length} tools${other}`);
  }
}
/** All pages of the menu, or a FAIL. */
async function listTools(visit: Visit, step: string, headers: object, more: object = {}) {
  const tools: Json[] = [];
  let cursor = "";
  for (let page = 0; page < 20; page++) {
    const params = { ...more, ...(cursor && { cursor }) };
    const reply = await send(visit, step, "tools/list", params, headers);
    if (!reply.result) {
      visit.fail(step, `tools/list: ${reasonIn(reply)}`, "the server's log knows more");
      return undefined;
    }
    tools.push(...list(reply.result.tools).filter(isObject));
    cursor = text(reply.result.nextCursor);
    if (!cursor) break;
  }
  return tools;
}

/** Without one: what a client is and can do is said in each request. */
async function speak2026(visit: Visit): Promise<void> {
  if (!isIn(visit)) return;
  const [step, prefix] = ["2026-07-28", "io.modelcontextprotocol/"];
  const params = { _meta: {
    [`${prefix}protocolVersion`]: step,
    [`${prefix}clientInfo`]: INFO,
    [`${prefix}clientCapabilities`]: {},
  } };
  const headers = (method: string) => ({ "mcp-protocol-version": step, "mcp-method": method });
  const found = await send(visit, step, "server/discover", params, headers("server/discover"));
  if (!found.result && found.status < 500) {
    return visit.warn(step, `not spoken: ${reasonIn(found)}`, "apps then speak 2025-11-25");
  }
  const tools = await listTools(visit, step, headers("tools/list"), params);
  if (tools) visit.ok(step, `${tools.length} tools, without a handshake`);
}

/** What one tool does wrong can hide them all. */
function readTools(visit: Visit): void {
  const { tools } = visit;
  if (!isIn(visit) || tools.length === 0) return;
  const names = tools.map(({ name }) => text(name));
  const odd = names.filter((name, at) =>
    !/^[a-zA-Z0-9_-]{1,64}$/.test(name) || names.indexOf(name) !== at);
  visit.expect("tool names", odd.length === 0, "letters, digits, _ and -", [
    `${odd.map((name) => JSON.stringify(name)).join(", ")}: invalid, or there twice`,
    "rename: at most 64 of A-Z a-z 0-9 _ -; one such name can hide the whole connector",
  ]);
  const hints = ["readOnlyHint", "destructiveHint", "openWorldHint"];
  const bare = tools.filter(({ annotations }) =>
    hints.some((hint) => typeof (isObject(annotations) && annotations[hint]) !== "boolean"));
  if (bare.length === 0) visit.ok("tool hints", hints.join(", "));
  else {
    visit.warn("tool hints", `not on ${bare.map(({ name }) => name).join(", ")}`,
      `ChatGPT wants ${hints.join(", ")} on each`);
  }
  const isSchema = (schema: unknown) => isObject(schema) && schema.type === "object";
  const broken = tools.filter(({ inputSchema }) => !isSchema(inputSchema)).map(({ name }) => name);
  const typed = tools.filter((tool) => /"type":\[/.test(JSON.stringify(tool)));
  if (broken.length === 0 && typed.length > 0) {
    return visit.warn("schemas", `a list of types in ${typed.map(({ name }) => name).join(", ")}`,
      "write anyOf: some apps take one type alone");
  }
  visit.expect("schemas", broken.length === 0, "each input is an object", [
    `the input of ${broken.join(", ")} is not an object`, 'say "type": "object"']);
}

/** The line that people forget: the audience. */
async function bringWrongToken(visit: Visit): Promise<void> {
  const { at, token, isForUs } = visit;
  if (!token) return;
  const step = "token for another";
  const wrong = isForUs ? visit.isMinted && await mint(visit, "http://localhost:1/mcp") : token;
  if (!wrong) return visit.skip(step, "that service makes none for this test");
  const { status } = await ask(visit, step, visit.url, asToken(wrong, "tools/list", {}));
  visit.expect(step, status === 401, "401", [`${status} instead of 401`, "check the audience of \
each token: one that was made for another server opens this one"]);
  if (!isForUs || !isHere(at)) return;
  const origin = { origin: "https://elsewhere.example" };
  const page = await ask(visit, "Origin", visit.url, asToken(token, "tools/list", {}, origin));
  if (page.status === 403) visit.ok("Origin", "a page elsewhere is refused");
  else visit.warn("Origin", `${page.status} to a page elsewhere`, "answer 403 (DNS rebinding)");
}

/** The gate, where there is one like ours. */
async function useGate(visit: Visit): Promise<void> {
  const has = (name: string) => visit.tools.some((tool) => tool.name === name);
  if (!isIn(visit) || !has("begin_session") || !has("user_get_state")) return;
  const call = async (name: string, args: object) => {
    const params = { name, arguments: args };
    const { result } = await send(visit, name, "tools/call", params, {
      "mcp-protocol-version": "2025-11-25",
    });
    const said = list(result?.content).filter(isObject).map((part) => text(part.text)).join(" ");
    const data = isObject(result?.structuredContent) ? result.structuredContent : {};
    return { isError: result?.isError === true || !result, said, data };
  };
  const opened = await call("begin_session", {});
  const session = visit.keep(text(opened.data.session));
  visit.expect("begin_session", session !== "", "gives a key", [
    opened.said || "no key came", "it fails closed when its store does: see /health and the log"]);
  const bare = await call("user_get_state", {});
  visit.expect("gate", bare.isError && bare.said.startsWith("No valid session."),
    "refuses a call without the key", ["A CALL WITHOUT THE KEY IS LET IN, or refused otherwise",
      "a tool that is not in begin_session's list of open ones goes through callTool's gate"]);
  if (session) {
    const { isError, said } = await call("user_get_state", { session });
    visit.expect("with the key", !isError, "user_get_state answers", [said, "see the server's log"]);
  }
  const { status } = await ask(visit, "health", `${visit.at.origin}/health`);
  visit.expect("health", status === 200, "200",
    [`/health answers ${status}`, "its store can't do what a visit needs: look at DATABASE_URL"]);
  if (!visit.isMinted || !session) return;
  const { data } = await call("user_forget_me", { session }); // who is not real leaves nothing behind
  await call("user_forget_me", { session, confirm: text(visit.keep(text(data.confirm))) });
}

// ---- The command ----

export function summary(lines: Line[]): string {
  const named = (outcome: string) => [...new Set(
    lines.filter((line) => line.outcome === outcome).map(({ step }) => step),
  )];
  const [failed, skipped, warned] = [named("FAIL"), named("skipped"), named("warn")];
  const rest = [
    skipped.length > 0 && `Not seen: ${skipped.join(", ")}.`,
    warned.length > 0 && `Worth a look: ${warned.join(", ")}.`,
  ].filter(Boolean);
  const first = failed.length > 0 ? `FAILED: ${failed.join(", ")}.`
    : skipped.length > 0 ? "Nothing failed, but not everything was seen." : "All green.";
  return [first, ...rest].join(" ");
}
function print({ step, outcome, says, fix }: Line): void {
  console.log(`${outcome.padEnd(8)}${step.padEnd(23)}${says}`);
  if (fix) console.log(`${" ".repeat(8)}${"→".padStart(21)}  ${fix}`);
}

if (import.meta.main) {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { token: { type: "string" }, "sign-in": { type: "boolean" } },
  });
  const [url] = positionals;
  if (!url) {
    console.error("Which server? bun run deploy/doctor.ts https://host/mcp [--sign-in]");
    process.exit(2);
  }
  const show = (link: string) => console.log(`\nOpen this in your browser, and sign in:\n\n${link}\n`);
  const lines = await diagnose(url, {
    token: values.token ?? process.env.TOKEN,
    signIn: values["sign-in"] ? show : undefined,
    tell: print,
  });
  console.log(`\n${summary(lines)}`);
  process.exit(lines.some(({ outcome }) => outcome === "FAIL") ? 1 : 0);
}
