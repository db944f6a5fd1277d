// `bun run doctor URL`: comes to a remote MCP server as Claude, ChatGPT, Cursor or VS Code do, ours
// or anybody's, and prints a line a step; under what is wrong stands the way out. It ends with code
// 1 when something failed.
//
//   … URL              as far as one comes without signing in (to a gateway of this machine with
//                      its mock-auth.ts: all the way)
//   … URL --sign-in    through your browser, as a person does
//   TOKEN=… … URL      with an access token that you have (--token T works; `ps` shows it)
//
// What is said of main.ts is true of the gateway in this repository, the rest of any server.
// A certificate of your own is trusted by NODE_EXTRA_CA_CERTS=ca.pem. Registering leaves up to four
// clients called "doctor" at the sign-in service. A token goes to URL and nowhere else, and is
// never printed. The file needs nothing from here but the package jose: it can be copied alone.

import { createHash, randomBytes } from "node:crypto";
import { lookup } from "node:dns/promises";
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
  /** Is told each line as it comes. */
  tell?: (line: Line) => void;
  timeout?: number; // milliseconds a request may take: by default claude.ai's limit
  clientDocument?: string; // the client_id of an app that is a URL: by default Claude Code's
}
type Json = Record<string, unknown>;

const ALGORITHMS = ["RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519"]; // what ours takes
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

// ---- What a visit knows, and says ----

class Visit {
  readonly lines: Line[] = [];
  readonly secrets = new Set<string>(); // never shown, whoever says them
  readonly verifier = this.keep(random());
  readonly state = random();
  callback = "http://127.0.0.1:33418/callback"; // nobody listens there, unless somebody signs in
  refusal = 0; // the status that came instead of the 401
  challenge = "";
  clockAhead = 0; // the server's, in seconds
  metadata: Json | undefined; // of the server, RFC 9728
  resource: string; // what a token is asked for
  issuer = "";
  service: Json | undefined; // the sign-in service's metadata, RFC 8414
  keys: JSONWebKeySet | undefined;
  scope = "";
  client: Json | undefined;
  pageProblem = ""; // of the sign-in page
  token = "";
  isMinted = false; // for somebody who is not real
  isStray = false; // somebody gave us a token that is for another server
  isIn = false; // the server takes the token
  tools: Json[] = [];

  constructor(readonly url: string, readonly at: URL, readonly options: Options) {
    this.resource = url;
  }
  /** What the server calls itself, right or wrong: if that is another place, it is asked for no
   *  token. A server can call itself what it likes, and would be brought the tokens of others. */
  get ownName() {
    const own = URL.parse(text(this.metadata?.resource));
    const isKin = own?.host === this.at.host
      || (own && isHere(own) && isHere(this.at) && own.port === this.at.port);
    return isKin ? text(this.metadata?.resource) : this.url;
  }
  keep(secret: string): string {
    if (secret.length > 3) this.secrets.add(secret);
    return secret;
  }
  /** What a server says could turn a terminal's text around, or tell a secret back. */
  private plain(words: string): string {
    const line = words.replace(/\s+/g, " ").replace(/\p{C}/gu, "");
    const hidden = [...this.secrets].reduce((all, one) => all.replaceAll(one, "(hidden)"), line);
    const seen = hidden.replace(/eyJ[\w-]{8,}[\w.-]*/g, "(a token)");
    return seen.length > 400 ? `${seen.slice(0, 399)}…` : seen;
  }
  private add(outcome: Line["outcome"], step: string, says: string, fix: string): void {
    const line = { step, outcome, says: this.plain(says), ...(fix && { fix: this.plain(fix) }) };
    this.lines.push(line);
    this.options.tell?.(line);
  }
  ok = (step: string, says: string) => this.add("ok", step, says, "");
  warn = (step: string, says: string, fix: string) => this.add("warn", step, says, fix);
  fail = (step: string, says: string, fix: string) => this.add("FAIL", step, says, fix);
  skip = (step: string, why: string, fix = "") => this.add("skipped", step, why, fix);
  /** It has to be so. */
  demand(step: string, isSo: boolean, says: string, otherwise: string, fix: string): void {
    if (isSo) this.ok(step, says);
    else this.fail(step, otherwise, fix);
  }
  /** It should be so. */
  advise(step: string, isSo: boolean, says: string, otherwise: string, fix: string): void {
    if (isSo) this.ok(step, says);
    else this.warn(step, otherwise, fix);
  }
}

// ---- Requests ----

interface Answer {
  status: number;
  headers: Headers;
  json: Json | undefined; // in an event stream, the first answer
  body: string;
  isHtml: boolean;
}

/** Over http anybody on the way reads along; and nobody far away sends us into this machine. */
function isSafe({ at }: Visit, url: unknown): boolean {
  const target = URL.parse(text(url));
  if (!target) return false;
  if (isHere(target)) return isHere(at) && /^https?:$/.test(target.protocol);
  return target.protocol === "https:";
}

/** @throws Trouble, when nothing came that could be read. */
async function ask(visit: Visit, step: string, url: string, init: RequestInit = {}) {
  if (!isSafe(visit, url)) {
    throw new Trouble(step, `${url || "nothing"} is no https URL`, "name it in full: https://…");
  }
  const { timeout = 10_000 } = visit.options;
  const target = new URL(url);
  const started = performance.now();
  try {
    // Who sends us elsewhere is not followed: a token or a code could go along.
    const signal = AbortSignal.timeout(timeout);
    const headers = { "accept-encoding": "identity", ...init.headers }; // 32 KB may unpack to 2 GB
    const options = { ...init, headers, redirect: "manual", signal, decompress: false } as const;
    const response = await fetch(target, options);
    const answer = await read(response, init.method);
    const took = performance.now() - started;
    if (took > 0.3 * timeout) {
      visit.warn(step, `slow: ${(took / 1000).toFixed(1)} s`, `claude.ai waits 10 s: is it far \
away, or asleep until somebody comes? Keep one instance running`);
    }
    return answer;
  } catch (error) {
    throw new Trouble(step, ...wordsFor(error as Error, target, timeout));
  }
}

async function read(response: Response, method = "GET"): Promise<Answer> {
  const { status, headers } = response;
  const type = headers.get("content-type") ?? "";
  const isStream = type.includes("text/event-stream");
  const decoder = new TextDecoder();
  let body = "";
  // A stream may stay open after the answer; one that was asked nothing may hold none, for ever.
  const isSilent = isStream && method === "GET";
  if (isSilent) void response.body?.cancel(); // not waited for
  for await (const chunk of (!isSilent && response.body) || []) {
    body += decoder.decode(chunk as Uint8Array, { stream: true });
    if (body.length > BODY_BYTES) throw new Error(TOO_LARGE);
    if (isStream && answerIn(body)) break;
  }
  const json = isStream ? answerIn(body) : parse(body);
  const isHtml = type.includes("html") || /^\s*<(!doctype|html)/i.test(body);
  return { status, headers, json, body, isHtml };
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
  const dataOf = (event: string) => [...event.matchAll(/^data: ?(.*)$/gm)].map((match) => match[1]);
  return events
    .map((event) => parse(dataOf(event).join("\n")))
    .find((message) => message && ("result" in message || "error" in message));
}

const TOO_LARGE = "over 256 KiB came";
const CHAIN = "host apps trust known authorities alone: get a certificate of one, and serve its \
whole chain (fullchain.pem). For a try on this machine: NODE_EXTRA_CA_CERTS=ca.pem";
const NETWORK: Record<string, [says: string, fix: string]> = {
  ENOTFOUND: ["there is no host of that name", "check the spelling, and the DNS record"],
  EAI_AGAIN: ["no name server answers", "check this machine's own connection"],
  ECONNREFUSED: ["refused, nobody listens there",
    "start the server; check the port, and in a container that it listens on HOST=0.0.0.0"],
  ECONNRESET: ["the connection was closed without an answer",
    "is it http:// where https:// is served? Otherwise the server's or the proxy's log knows"],
  EPROTO: ["no TLS on that port", "https:// needs a certificate there: use the proxy's address"],
  CERT_HAS_EXPIRED: ["its certificate has expired", "renew it, and reload the server that uses it"],
  CERT_NOT_YET_VALID: ["its certificate is not valid yet", "check the clocks of both machines"],
  ERR_TLS_CERT_ALTNAME_INVALID: ["its certificate is for another host name",
    "get one that names this host, or paste the name that it is for"],
  DEPTH_ZERO_SELF_SIGNED_CERT: ["its certificate is self-signed", CHAIN],
  SELF_SIGNED_CERT_IN_CHAIN: ["its certificate is of an authority that nobody knows", CHAIN],
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: ["its certificate's issuer is not known", CHAIN],
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: ["its certificate's issuer is not known", CHAIN],
};
function wordsFor(error: Error & { code?: unknown }, { host }: URL, ms: number): [string, string] {
  if (error.name === "TimeoutError") {
    return [`${host}: no answer within ${ms / 1000} s`, "is it asleep, overloaded, or behind a \
firewall that drops what it refuses?"];
  }
  const code = String(error.code ?? error.message);
  const [says, fix] = NETWORK[code] ?? [code, "look at the server's log, and the way to it"];
  return [`${host}: ${says}`, fix];
}

/** What a service says of an error. */
function reasonIn({ status, headers, json, isHtml }: Answer): string {
  const to = headers.get("location");
  if (to) return `${status}, a redirect to ${to},`;
  const error = isObject(json?.error) ? json.error.message : json?.error;
  const said = [error, json?.error_description].map(text).filter(Boolean).join(": ");
  return `${status}${isHtml ? " and a web page" : ""}${said && ` (${said})`}`;
}
/** In a word: claude.ai and VS Code compare byte for byte, people don't. */
function difference(came: string, wanted: string): string {
  const [a, b] = [URL.parse(came), URL.parse(wanted)];
  if (!a || !b) return "no URL";
  if (`${came}/` === wanted || came === `${wanted}/`) return "a slash at the end";
  if (a.protocol !== b.protocol) return `${a.protocol}// instead of ${b.protocol}//`;
  if (a.hostname !== b.hostname) return "another host";
  if (a.port !== b.port) return "another port";
  return a.href === b.href ? "written otherwise" : "another path";
}

// ---- The walk ----
// In the order of a host app. Each of these says its lines; what it learns is in the visit.

const WALK = [
  checkUrl, knock, knockAsOthers, knockByGet, // the door
  askForHealth, askForCors, bringMadeUpToken,
  readMetadata, readService, readKeys, bringForgedToken, // what anybody may see
  register, openSignInPage, openByDocument, getToken, readToken, // getting in
  speak2025, speak2026, readTools, bringWrongToken, useGate, // inside
];

export async function diagnose(url: string, options: Options = {}): Promise<Line[]> {
  const visit = new Visit(url, URL.parse(url) ?? new URL("https://nowhere.invalid"), options);
  const listener = options.signIn && listen(visit.state);
  if (listener) visit.callback = listener.url;
  for (const step of WALK) {
    try {
      await step(visit, listener);
    } catch (error) {
      if (!(error instanceof Trouble)) { // what came had a form that nobody thought of
        visit.fail(step.name, String(error), "the server answers with something that is very odd");
        continue;
      }
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
  const written = `${origin}${url === origin ? "" : pathname}${search}`;
  const stop = (says: string, fix: string) => {
    throw new Stop("URL", says, fix);
  };
  if (!URL.canParse(url)) stop(`${url || "nothing"} is no URL`, "it looks like https://host/mcp");
  if (!isSafe(visit, url)) {
    stop(`${protocol}// is taken by no host app`, "serve it by https (a proxy or a tunnel does)");
  }
  if (username) stop("has a name or password in it", "take it out: sign-in goes by token");
  if (hash) stop(`has a fragment in it, ${hash}`, `paste ${written}`);
  if (url !== written) stop("apps write it otherwise, and compare", `paste ${written}`);
  if (url.endsWith("/")) {
    visit.warn("URL", "ends in a slash", "apps compare byte for byte, and people forget it");
  } else if (pathname !== "/mcp") {
    visit.warn("URL", `its path is ${pathname}`, "claude.ai is known to want /mcp");
  } else visit.ok("URL", isHere(at) ? "on this machine (apps in a cloud can't reach it)" : "https");
}

const MCP = {
  "content-type": "application/json",
  accept: "application/json, text/event-stream",
};
const LATEST = "2025-11-25"; // of those that begin with a handshake
const INFO = { name: "doctor", version: "1" };
const hello = (protocolVersion: string) =>
  ({ protocolVersion, capabilities: {}, clientInfo: INFO });
/** A message to the server, with the token if there is one. */
function post(method: string, params: object, token = "", headers: object = {}): RequestInit {
  const authorization = token && { authorization: `Bearer ${token}` };
  const id = method.startsWith("notifications/") ? {} : { id: 1 };
  return {
    method: "POST",
    headers: { ...MCP, ...authorization, ...headers },
    body: JSON.stringify({ jsonrpc: "2.0", ...id, method, params }),
  };
}

const PRIVATE = /^(10\.|127\.|169\.254\.|192\.168\.|172\.(1[6-9]|2\d|3[01])\.|::1$|f[cd]|fe80)/;
/** What this machine reaches, a cloud may not. */
async function checkReach(visit: Visit): Promise<void> {
  const { protocol, hostname } = visit.at;
  const { address = "" } = await lookup(hostname).catch(() => ({ address: "" }));
  if (!isHere(visit.at) && PRIVATE.test(address)) {
    visit.warn("reach", `answers, at ${address}`, "apps in a cloud can't reach such an address");
  } else if (!isHere(visit.at) && process.env.NODE_EXTRA_CA_CERTS) {
    visit.warn("reach", "answers, by TLS; NODE_EXTRA_CA_CERTS is set here",
      "apps in a cloud trust known authorities alone: try once without it");
  } else visit.ok("reach", protocol === "https:" ? "answers, by TLS" : "answers");
}
/** The first request of all. */
async function knock(visit: Visit): Promise<void> {
  const { url } = visit;
  const first = post("initialize", hello(LATEST));
  const answer = await ask(visit, "reach", url, first).catch((error: Trouble) => {
    throw new Stop(error.step, error.message, error.fix);
  });
  await checkReach(visit);
  if (answer.status !== 401) {
    visit.refusal = answer.status;
    const says = `${reasonIn(answer)} instead of 401`;
    if ([502, 504].includes(answer.status)) { // what follows would be the proxy's
      throw new Stop("POST without a token", says, adviceFor(answer));
    }
    visit.fail("POST without a token", says, adviceFor(answer));
    visit.skip("WWW-Authenticate", "it comes with the 401");
  } else {
    visit.ok("POST without a token", "401");
    checkChallenge(visit, answer.headers.get("www-authenticate") ?? "");
  }
  const date = Date.parse(answer.headers.get("date") ?? "");
  if (Number.isNaN(date)) return visit.skip("clock", "there is no Date header to compare");
  visit.clockAhead = Math.round((date - Date.now()) / 1000);
  const seconds = Math.abs(visit.clockAhead);
  visit.demand("clock", seconds <= 30, "agrees with this machine's (a proxy's may be what is seen)",
    `${seconds} s ${visit.clockAhead > 0 ? "ahead of" : "behind"} this machine's`,
    "set both by NTP: by a wrong clock good tokens are over, or not yet good");
}
function adviceFor({ status, headers, isHtml }: Answer): string {
  if (headers.has("location")) return "paste where it leads, or let it answer here: a POST stays";
  if (isHtml && status < 500) {
    return "a bot filter or a login is in front: let what comes to this path through without it";
  }
  if (status < 300) return "apps sign in on a 401 alone: switch it on (main.ts: no AUTH_DISABLED)";
  switch (status) {
    case 403: return "main.ts says so to a Host that its RESOURCE_URL does not name (does the \
proxy pass Host on?); else it is a firewall";
    case 404: return "check the path: that of main.ts is /mcp";
    case 405: return "check the path: this one takes no POST";
    case 429: return "wait a minute: that is its rate limit";
    case 502: case 503: case 504: return "the proxy does not find the server: is it running?";
  }
  return status >= 500 ? "look at the server's log" : "look at the token before anything else";
}
function checkChallenge(visit: Visit, challenge: string): void {
  const wanted = `WWW-Authenticate: Bearer resource_metadata="${knownPath(visit.at)}"`;
  if (!/\bBearer\b/i.test(challenge)) {
    const came = challenge ? `WWW-Authenticate: ${challenge}` : "the 401 has no WWW-Authenticate";
    return visit.fail("WWW-Authenticate", came, `answer ${wanted} (or does a proxy take it out?)`);
  }
  visit.challenge = challenge;
  if (!/\bresource_metadata=/.test(challenge)) {
    visit.warn("WWW-Authenticate", "without resource_metadata", `answer ${wanted}`);
  } else if (/\berror=/.test(challenge)) {
    visit.warn("WWW-Authenticate", "names an error, though no token was sent",
      "leave error= out: apps take it for a bad token (RFC 6750, section 3.1)");
  } else visit.ok("WWW-Authenticate", "Bearer, and where the metadata is");
}
const knownPath = ({ origin, pathname }: URL) =>
  `${origin}/.well-known/oauth-protected-resource${pathname.replace(/\/$/, "")}`;

/** A filter may let through what is not known to be a robot, or what is. */
async function knockAsOthers(visit: Visit): Promise<void> {
  const step = "as Claude, ChatGPT";
  const wanted = visit.refusal || 401;
  const refused: string[] = [];
  for (const agent of ["Claude-User", "openai-mcp/1.0.0"]) {
    const message = post("initialize", hello(LATEST), "", { "user-agent": agent });
    const answer = await ask(visit, step, visit.url, message);
    if (answer.status !== wanted) refused.push(`${agent}: ${reasonIn(answer)}`);
  }
  visit.demand(step, refused.length === 0, "the same to their user agents", refused.join("; "),
    "a bot filter is in front: let what comes to this path through, whoever it says it is");
}
/** Where it says how it is, as ours does. */
async function askForHealth(visit: Visit): Promise<void> {
  const { status, json } = await ask(visit, "/health", `${visit.at.origin}/health`);
  if (text(json?.status) === "") return;
  visit.demand("/health", status === 200, text(json?.status), `${status} (${json?.status})`,
    "its store can't do what a visit needs: look at DATABASE_URL and the log");
}
/** What some apps begin with. */
async function knockByGet(visit: Visit): Promise<void> {
  const step = "GET without a token";
  const answer = await ask(visit, step, visit.url, { headers: { accept: "text/event-stream" } });
  const says = `${reasonIn(answer)} instead of 401 or 405`;
  const fix = "some apps begin with a GET, and sign in on its 401";
  if (answer.status >= 500) return visit.fail(step, says, fix);
  visit.advise(step, [401, 405].includes(answer.status), String(answer.status), says, fix);
}
/** What a browser asks before it lets a page call. */
async function askForCors(visit: Visit): Promise<void> {
  const origin = "http://localhost:6274"; // MCP Inspector's
  const asked = ["authorization", "content-type", "mcp-protocol-version"];
  const { status, headers } = await ask(visit, "CORS", visit.url, {
    method: "OPTIONS",
    headers: {
      origin,
      "access-control-request-method": "POST",
      "access-control-request-headers": asked.join(","),
    },
  });
  const allowed = (headers.get("access-control-allow-headers") ?? "").toLowerCase();
  const isAllowed = ["*", origin].includes(headers.get("access-control-allow-origin") ?? "")
    && asked.every((name) => allowed.split(/\s*,\s*/).includes(name)) && status < 300;
  visit.advise("CORS", isAllowed, "apps in a browser may call", "apps in a browser can't call",
    `MCP Inspector is one: answer OPTIONS before sign-in, and allow ${origin} and ${asked}`);
}
async function bringMadeUpToken(visit: Visit): Promise<void> {
  const step = "made-up token";
  const token = visit.keep(`made-up.${random()}`);
  const answer = await ask(visit, step, visit.url, post("initialize", hello(LATEST), token));
  if (answer.status === visit.refusal) return visit.skip(step, `${answer.status}, as above`);
  if (answer.status !== 401) {
    return visit.fail(step, `${reasonIn(answer)} instead of 401`,
      answer.status < 300 ? "ANYBODY GETS IN: check each token's signature, issuer and audience"
        : NO_KEYS);
  }
  const isNamed = /error="?invalid_token/.test(answer.headers.get("www-authenticate") ?? "");
  visit.advise(step, isNamed, "401 invalid_token", "401, without invalid_token",
    'add error="invalid_token" to WWW-Authenticate, by which apps fetch a new one (if it is \
there: does a proxy take Authorization out?)');
}

// ---- What anybody may see ----

/** A JSON document, or why there is none. */
async function fetchJson(visit: Visit, step: string, url: string): Promise<Json | string> {
  try {
    const answer = await ask(visit, step, url, { headers: { accept: "application/json" } });
    if (answer.status !== 200) return `${url} answers ${reasonIn(answer)}`;
    const type = answer.headers.get("content-type") ?? "nothing";
    if (!/\bjson\b/.test(type)) return `${url} is sent as ${type}, not as application/json`;
    return answer.json ?? `${url} is not a JSON object`;
  } catch (error) {
    return (error as Error).message;
  }
}

/** RFC 9728: of the server itself. */
async function readMetadata(visit: Visit): Promise<void> {
  const { at, url, challenge } = visit;
  const known = knownPath(at);
  const [, named = known] = /\bresource_metadata="?([^",\s]*)/.exec(challenge) ?? [];
  const fix = `serve it at ${known}, as JSON and before sign-in (RFC 9728, section 3)`;
  const first = await fetchJson(visit, "server metadata", named);
  const second = named === known ? first : await fetchJson(visit, "at its known path", known);
  visit.demand("server metadata", isObject(first), named, String(first), fix);
  if (second !== first) {
    visit.advise("at its known path", isObject(second), known, String(second), fix);
  }
  visit.metadata = [first, second].find(isObject);
  if (!visit.metadata) { // so that what follows can be seen, too
    const place = `${at.origin}/.well-known/oauth-protected-resource`;
    const root = await fetchJson(visit, "server metadata", place);
    if (!isObject(root)) return;
    visit.metadata = root;
  }
  const { resource, authorization_servers, scopes_supported } = visit.metadata;
  const calls = text(resource);
  visit.demand("resource", calls === url, "is this URL, byte for byte",
    `is ${calls || "missing"} instead of ${url} (${difference(calls, url)})`,
    `paste what the server calls itself, or let it call itself ${url} (main.ts: RESOURCE_URL)`);
  const [issuer = "", ...others] = list(authorization_servers).map(text);
  const isUsable = isSafe(visit, issuer);
  if (isUsable) visit.issuer = issuer;
  visit.demand("sign-in service", isUsable,
    others.length > 0 ? `${issuer}; claude.ai never looks at the others` : issuer,
    `authorization_servers begins with ${issuer || "nothing"}`,
    "name the sign-in service's issuer, an https URL (main.ts: AUTH_ISSUER)");
  const scopes = list(scopes_supported);
  const isClean = !scopes.includes("offline_access");
  visit.demand("scopes", isClean, scopes.join(" ") || "none are asked for",
    "scopes_supported lists offline_access", "take it out: only the sign-in service may list it");
}

/** RFC 8414, then OpenID Connect Discovery: of the sign-in service. */
async function readService(visit: Visit): Promise<void> {
  const { issuer } = visit;
  const at = URL.parse(issuer);
  if (!at) return visit.skip("service metadata", "no sign-in service is known");
  const path = at.pathname.replace(/\/$/, "");
  const places = new Set([
    `${at.origin}/.well-known/oauth-authorization-server${path}`,
    `${at.origin}/.well-known/openid-configuration${path}`,
    `${at.origin}${path}/.well-known/openid-configuration`,
  ]);
  const problems: string[] = [];
  for (const place of places) {
    const found = await fetchJson(visit, "service metadata", place);
    if (isObject(found)) {
      visit.service = found;
      visit.ok("service metadata", place);
      return checkService(visit, found);
    }
    problems.push(found);
  }
  visit.fail("service metadata", problems.join("; "), `does it run, and is that issuer right? It \
is what "issuer" says in the service's discovery document (main.ts: AUTH_ISSUER)`);
}
function checkService(visit: Visit, service: Json): void {
  const { issuer } = visit;
  const calls = text(service.issuer);
  visit.demand("issuer", calls === issuer, "calls itself as the server calls it",
    `calls itself ${calls || "nothing"}, and the server ${issuer} (${difference(calls, issuer)})`,
    `the server has to name it byte for byte (main.ts: AUTH_ISSUER=${calls})`);
  const has = (name: string, value: string) => list(service[`${name}_supported`]).includes(value);
  const bad = ["authorization_endpoint", "token_endpoint"]
    .filter((name) => !isSafe(visit, service[name]));
  visit.demand("endpoints", bad.length === 0, "authorize and token",
    `${bad.join(" and ")}: no https URL`, "its metadata has to name both");
  visit.demand("PKCE", has("code_challenge_methods", "S256"), "S256",
    "code_challenge_methods_supported lacks S256", "switch PKCE on: apps go no further without it");
  const grants = list(service.grant_types_supported ?? ["authorization_code"]);
  if (!has("response_types", "code") || !grants.includes("authorization_code")) {
    visit.fail("grants", `response types ${service.response_types_supported}, grants ${grants}`,
      "switch the authorization code flow on: code and authorization_code");
  } else {
    visit.advise("grants", grants.includes("refresh_token"), "code and refresh",
      "grant_types_supported lacks refresh_token",
      "switch it on, or people sign in anew each time a token is over");
  }
  const registers = isSafe(visit, service.registration_endpoint);
  const documents = service.client_id_metadata_document_supported === true;
  const none = has("token_endpoint_auth_methods", "none");
  const fix = documents
    ? 'add "none" to token_endpoint_auth_methods_supported: Claude takes up CIMD with both alone'
    : "switch on dynamic client registration (RFC 7591), or CIMD with the method none";
  if (registers && documents && !none) {
    visit.warn("client registration", "can register; their documents (CIMD) are not used", fix);
  } else {
    const ways = [registers && "registration", documents && none && "documents (CIMD)"];
    const found = ways.filter(Boolean).join(" and ");
    const how = `say who they are by ${found}`;
    visit.demand("client registration", found !== "", how, "have no way to say who they are", fix);
  }
  visit.advise("ChatGPT (iss)", service.authorization_response_iss_parameter_supported === true,
    "can use its stable client id", "has no stable client id here: it has to register",
    "send iss with the code, and say authorization_response_iss_parameter_supported (RFC 9207)");
}

async function readKeys(visit: Visit): Promise<void> {
  if (!visit.service) return visit.skip("signing keys", "no sign-in service is known");
  if (!visit.service.jwks_uri) {
    return visit.warn("signing keys", "no jwks_uri", "main.ts could not check its tokens");
  }
  const step = "signing keys";
  const found = await fetchJson(visit, step, text(visit.service.jwks_uri));
  const fix = "it publishes its signing keys there (main.ts: AUTH_JWKS_URL)";
  if (!isObject(found)) return visit.fail(step, found, fix);
  const keys = list(found.keys).filter(isObject) as JWK[];
  if (keys.some(({ kty, d, k }) => kty === "oct" || d || k)) {
    return visit.fail(step, "A PRIVATE OR SHARED KEY IS PUBLISHED: anybody can make tokens",
      "replace it, and publish public members by name: kty, kid, n and e, or crv, x and y");
  }
  if (JSON.stringify(found).length > 65_536) {
    return visit.fail(step, "over 64 KiB, which main.ts does not read", "take old keys out");
  }
  const usable = keys.filter(({ kty = "", use = "sig", alg = "RS256" }) =>
    /^(RSA|EC|OKP)$/.test(kty) && use === "sig" && ALGORITHMS.includes(alg));
  if (usable.length === 0) {
    return visit.fail(step, `none of ${keys.length} signs by ${ALGORITHMS.join(", ")}`, fix);
  }
  visit.keys = { keys: usable };
  const algorithms = new Set(usable.map(({ alg, kty }) => alg ?? kty));
  visit.advise(step, usable.every(({ kid }) => kid), [...algorithms].join(", "),
    "one has no kid", "give each key one: by that a new key is noticed");
}

/** Right in all that can be read, and signed by nobody: it opens what only reads a token. */
async function bringForgedToken(visit: Visit): Promise<void> {
  const { url, issuer, keys, service } = visit;
  const step = "forged token";
  if (!issuer) return;
  const now = Math.floor(Date.now() / 1000);
  const { kid, alg = "RS256" } = keys?.keys[0] ?? {};
  const claims = { iss: issuer, aud: url, sub: "doctor-forged", iat: now, exp: now + 60 };
  const parts = [{ alg, kid, typ: "at+jwt" }, claims]
    .map((part) => Buffer.from(JSON.stringify(part)).toString("base64url"));
  const forged = visit.keep([...parts, randomBytes(256).toString("base64url")].join("."));
  const message = post("initialize", hello(LATEST), forged);
  const { status } = await ask(visit, step, url, message);
  if (status === visit.refusal) return visit.skip(step, `${status}, as above`);
  visit.demand(step, status === 401, "401", `${status} instead of 401`,
    status < 300 ? "ANYBODY GETS IN, AS ANYBODY: check the signature of each token"
      : `${NO_KEYS}${service ? ` It has to be ${service.jwks_uri}` : ""}`);
}
const NO_KEYS = "see its log: has it no keys to check a token with? (main.ts: AUTH_JWKS_URL)";

// ---- Getting in ----

/** RFC 7591: once for the walk itself, and once for each app whose redirects may be refused. */
async function register(visit: Visit): Promise<void> {
  const { service, metadata, challenge } = visit;
  const named = /\bscope="([^"]*)"/.exec(challenge)?.[1]?.split(" ");
  const scopes = new Set(named ?? list(metadata?.scopes_supported).map(text));
  visit.scope = [...scopes].join(" ");
  const endpoint = text(service?.registration_endpoint);
  if (!endpoint) return visit.skip("register", "no registration is known");
  const own = { "this machine": [visit.callback] };
  for (const [app, redirects] of Object.entries({ ...own, ...REDIRECTS })) {
    const client = await registerOne(visit, app, endpoint, redirects);
    if (app in own) visit.client = client;
  }
  // Apps register without it, and ask for it: so does Claude Code.
  if (list(service?.scopes_supported).includes("offline_access")) scopes.add("offline_access");
  visit.scope = [...scopes].join(" ");
}
async function registerOne(visit: Visit, app: string, url: string, redirect_uris: string[]) {
  const step = `register ${app}`;
  const answer = await ask(visit, step, url, {
    method: "POST",
    headers: { "content-type": "application/json", accept: "application/json" },
    body: JSON.stringify({
      client_name: "doctor",
      redirect_uris,
      grant_types: ["authorization_code", "refresh_token"],
      response_types: ["code"],
      token_endpoint_auth_method: "none",
      ...(visit.scope && { scope: visit.scope }),
    }),
  });
  const { client_id, client_secret, registration_access_token } = answer.json ?? {};
  visit.keep(text(client_secret));
  visit.keep(text(registration_access_token));
  const kept = list(answer.json?.redirect_uris ?? redirect_uris);
  const lost = redirect_uris.filter((uri) => !kept.includes(uri));
  const isTaken = answer.status < 300 && text(client_id) !== "";
  const isRight = isTaken && lost.length === 0;
  const says = isTaken ? `not with ${lost.join(", ")}` : `refused: ${reasonIn(answer)}`;
  const scope = visit.scope && ` and the scopes ${visit.scope} (main.ts: AUTH_SCOPES)`;
  const fix = `it has to let apps register with ${redirect_uris.join(", ")}${scope}`;
  if (/ChatGPT|Cursor/.test(app)) { // some services take no redirect like theirs, however set
    visit.advise(step, isRight, 'a client "doctor" is left there', says,
      `${fix}; or else that app stays out`);
  } else visit.demand(step, isRight, 'a client "doctor" is left there', says, fix);
  return isTaken ? answer.json : undefined;
}

const sha256 = (secret: string) => createHash("sha256").update(secret).digest("base64url");
function authorizeUrl(visit: Visit, changes: Record<string, string> = {}): string {
  const url = new URL(text(visit.service?.authorization_endpoint));
  const params = {
    response_type: "code",
    client_id: text(visit.client?.client_id),
    redirect_uri: visit.callback,
    state: visit.state,
    code_challenge: sha256(visit.verifier),
    code_challenge_method: "S256",
    resource: visit.resource,
    scope: visit.scope,
    prompt: visit.scope.includes("offline_access") ? "consent" : "",
    ...changes,
  };
  for (const [name, value] of Object.entries(params)) if (value) url.searchParams.set(name, value);
  return url.href;
}
/** What a browser gets that is not signed in. */
async function openPage(visit: Visit, step: string, changes: Record<string, string> = {}) {
  const url = authorizeUrl(visit, changes);
  const answer = await ask(visit, step, url, { headers: { accept: "text/html" } });
  const location = answer.headers.get("location");
  const to = location ? URL.parse(location, url) : null;
  const error = to?.searchParams.get("error");
  const why = to?.searchParams.get("error_description") ?? "";
  const problem = error ? `${error} ${why}` : answer.status >= 400 ? reasonIn(answer) : "";
  return { to: to?.href ?? "", problem, says: to ? `leads on to ${to.host}` : "a page to sign in" };
}
async function openSignInPage(visit: Visit): Promise<void> {
  const { service, client, scope } = visit;
  if (!client || !isSafe(visit, service?.authorization_endpoint)) {
    return visit.skip("sign-in page", "needs an endpoint, and a client that is registered");
  }
  let page = await openPage(visit, "sign-in page");
  if (page.problem && visit.ownName !== visit.url) { // named above: it shall not hide what follows
    visit.resource = visit.ownName;
    page = await openPage(visit, "sign-in page");
  }
  if (!page.problem && page.to.startsWith(visit.callback)) {
    visit.fail("sign-in page", "A CODE COMES BACK, and nobody was asked who they are",
      "let the service ask for a sign-in first: like this anybody gets a token");
  } else {
    visit.demand("sign-in page", !page.problem, page.says, `refused: ${page.problem}`,
      `it has to take resource=${visit.resource}${scope && ` and scope=${scope}`} from any app\
${/offline_access/.test(page.problem) ? "; or let it list offline_access no longer" : ""}`);
  }
  visit.pageProblem = page.problem;
  const bare = { code_challenge: "", code_challenge_method: "" };
  const open = await openPage(visit, "without PKCE", bare);
  visit.advise("without PKCE", open.problem !== "", "refused", `${open.says}, as with it`,
    "make PKCE a must at the service, unless it looks later: without it a stolen code is good");
  const elsewhere = "http://127.0.0.1:33418/elsewhere";
  const { to } = await openPage(visit, "other redirect", { redirect_uri: elsewhere });
  visit.advise("other redirect", !to.startsWith(elsewhere), "nobody is sent there",
    "people are sent where no app registered", "compare it byte for byte: codes leak that way");
}
/** An app whose client_id is the URL of a document about itself. */
async function openByDocument(visit: Visit): Promise<void> {
  const { service, issuer, options: { clientDocument: client_id = CLAUDE_CODE } } = visit;
  const documents = service?.client_id_metadata_document_supported === true;
  if (!documents && visit.client) return; // apps register: nobody misses them
  if (!documents || !isSafe(visit, service?.authorization_endpoint)) {
    return visit.skip("client as a document", "no service that reads them is known");
  }
  const redirect_uri = "http://localhost:33418/callback";
  const asks = { client_id, redirect_uri };
  const { says, problem } = await openPage(visit, "client as a document", asks);
  if (problem && problem === visit.pageProblem) {
    return visit.skip("client as a document", "refused, as above");
  }
  const fix = `it has to reach ${client_id}, and take any port of this machine`;
  const otherwise = `refused: ${problem}`;
  const isLocal = isHere(new URL(issuer)); // and may have no internet to read it in
  if (problem && !isLocal) visit.fail("client as a document", otherwise, fix);
  else visit.advise("client as a document", !problem, `${says}, for ${client_id}`, otherwise, fix);
}

/** Where the browser comes back to. */
type Listener = ReturnType<typeof listen>;
function listen(state: string) {
  const { promise, resolve } = Promise.withResolvers<URLSearchParams | undefined>();
  const timer = setTimeout(() => resolve(undefined), 300_000);
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch(request) {
      const { pathname, searchParams } = new URL(request.url);
      // Any page can call here; the state is known to who saw our request.
      const isOurs = pathname === "/callback" && searchParams.get("state") === state;
      if (isOurs) resolve(searchParams);
      const words = isOurs ? "Thank you. Go back to the terminal." : "This state is not ours.";
      return new Response(`${words}\n`, { status: isOurs ? 200 : 400 });
    },
  });
  const stop = () => {
    clearTimeout(timer);
    void server.stop();
  };
  return { url: `http://127.0.0.1:${server.port}/callback`, came: promise, stop };
}

async function getToken(visit: Visit, listener?: Listener): Promise<void> {
  const given = visit.options.token?.trim().replace(/^Bearer +/i, "") ?? "";
  if (/[^!-~]/.test(given)) return visit.fail("token", "holds what no token holds", "copy it anew");
  if (given) {
    visit.token = visit.keep(given);
    return visit.ok("token", "yours");
  }
  if (listener) return signIn(visit, listener);
  visit.token = await mint(visit, visit.resource);
  visit.isMinted = visit.token !== "";
  if (visit.isMinted) visit.ok("token", "made by mock-auth.ts, for somebody who is not real");
  else visit.skip("token", "none", "to see more: --sign-in, or a token in the variable TOKEN");
}
/** A token for somebody who is not real, or "": only a mock-auth.ts beside the gateway, both on
 *  this machine, is asked for one. */
async function mint(visit: Visit, aud: string): Promise<string> {
  const { at, issuer, state } = visit;
  if (at.protocol !== "http:" || !isHere(at) || issuer !== `${at.origin}/mock-auth`) return "";
  const who = new URLSearchParams({ sub: `doctor-${state.slice(0, 6)}`, aud });
  const { status, body } = await ask(visit, "token", `${issuer}/token?${who}`);
  return status === 200 && /^[\w-]+\.[\w-]+\.[\w-]+$/.test(body) ? visit.keep(body) : "";
}

async function signIn(visit: Visit, { came }: Listener): Promise<void> {
  const { client, service, options, issuer } = visit;
  const ends = [service?.authorization_endpoint, service?.token_endpoint];
  if (!client || !ends.every((url) => isSafe(visit, url))) {
    return visit.skip("sign-in", "needs endpoints, and a client that is registered");
  }
  options.signIn!(authorizeUrl(visit));
  const back = await came;
  const error = back?.get("error");
  if (!back || error) {
    const said = `${error} ${back?.get("error_description") ?? ""}`;
    const why = back ? said : "nobody came back in 5 minutes";
    return visit.fail("sign-in", why, `try again; the sign-in service's log knows more\
${visit.scope ? "" : ". If nobody said no: are scopes to be named? (main.ts: AUTH_SCOPES)"}`);
  }
  const iss = back.get("iss") ?? "";
  // Else an issuer could name another's page for us to sign in on, and get the code of there.
  const authorizesAt = URL.parse(text(service?.authorization_endpoint))?.origin;
  if (!iss && authorizesAt !== URL.parse(issuer)?.origin) {
    return visit.fail("sign-in", `a code came from ${authorizesAt}, without iss: it is not used`,
      "let the service send its issuer along with the code (RFC 9207)");
  }
  if (iss ? iss !== issuer : service?.authorization_response_iss_parameter_supported === true) {
    return visit.fail("sign-in", `iss is ${iss || "missing"} instead of ${issuer}`,
      "the service has to send its issuer along with the code (RFC 9207)");
  }
  visit.ok("sign-in", "came back with a code, and our state");
  const refresh_token = await swap(visit, "code for a token", {
    grant_type: "authorization_code",
    code: visit.keep(back.get("code") ?? ""),
    redirect_uri: visit.callback,
    code_verifier: visit.verifier,
  });
  if (refresh_token) await swap(visit, "refresh", { grant_type: "refresh_token", refresh_token });
  else if (visit.token) {
    visit.warn("refresh", "no refresh token came", "people sign in anew each time a token is over: \
allow offline_access to apps");
  }
}
/** Takes the token, and gives the refresh token. */
async function swap(visit: Visit, step: string, fields: Record<string, string>) {
  const { client_id, client_secret } = visit.client!;
  const secret = text(client_secret); // some give one, asked or not
  const all = { ...fields, client_id: text(client_id), resource: visit.resource };
  const answer = await ask(visit, step, text(visit.service!.token_endpoint), {
    method: "POST",
    headers: { accept: "application/json" },
    body: new URLSearchParams({ ...all, ...(secret && { client_secret: secret }) }),
  });
  const { access_token, refresh_token, token_type } = answer.json ?? {};
  const token = visit.keep(text(access_token));
  const isTaken = answer.status === 200 && token !== "" && /^bearer$/i.test(text(token_type));
  if (isTaken) visit.token = token;
  visit.demand(step, isTaken, refresh_token ? "with one to refresh it by" : "a Bearer token",
    `refused: ${reasonIn(answer)}`, "an app has no secret: PKCE and resource have to be enough");
  return isTaken ? visit.keep(text(refresh_token)) : "";
}

/** What the server is going to check. */
async function readToken(visit: Visit): Promise<void> {
  const { token, url, ownName, issuer, keys, clockAhead } = visit;
  if (!token) return;
  let claims, header;
  try {
    [claims, header] = [decodeJwt(token), decodeProtectedHeader(token)];
  } catch {
    return visit.skip("token content", "opaque: the server alone can read it",
      "main.ts takes JWTs: switch them on at the sign-in service");
  }
  const { aud, iss, exp = 0, iat = 0 } = claims;
  const isFor = [aud].flat().some((one) => one === url || one === ownName);
  visit.isStray = !isFor && !visit.isMinted;
  visit.demand("token audience", isFor, [aud].flat().join(", "),
    `aud is ${JSON.stringify(aud) ?? "missing"} instead of ${url}`,
    "let the sign-in service put this URL into aud (an API, resource or audience setting there)");
  visit.demand("token issuer", iss === issuer || !issuer, text(iss),
    `iss is ${iss} instead of ${issuer}`,
    "name the issuer byte for byte as its tokens do (main.ts: AUTH_ISSUER)");
  const now = Date.now() / 1000;
  const left = Math.round(exp - now);
  const ahead = Math.round(iat - Math.max(now, now + clockAhead));
  if (ahead > 5) {
    visit.fail("token times", `made ${ahead} s in the future`,
      "set the sign-in service's clock by NTP");
  } else {
    visit.demand("token times", left > 0 && left < 366 * 86_400, `good for ${left} s more`,
      left > 0 ? "good for over a year" : `over since ${-left} s (exp ${exp})`,
      "fetch a new one; if it is new: exp is in seconds, and clocks are set by NTP");
  }
  if (!keys) return visit.skip("token signature", "no keys are known");
  const options = { algorithms: ALGORITHMS };
  const problem = await compactVerify(token, createLocalJWKSet(keys), options)
    .then(() => "", (error: Error) => error.message);
  visit.demand("token signature", !problem, `${header.alg}, by one of the keys`,
    `${problem} (alg ${header.alg}, kid ${header.kid})`,
    "are the keys those of this service? (main.ts: AUTH_JWKS_URL is its jwks_uri)");
}

// ---- Inside, with the token ----

async function call(visit: Visit, step: string, method: string, params: object, headers: object) {
  const answer = await ask(visit, step, visit.url, post(method, params, visit.token, headers));
  const { result } = answer.json ?? {};
  return { ...answer, result: isObject(result) ? result : undefined };
}
/** The menu, or a FAIL. */
async function listTools(visit: Visit, step: string, headers: object, params = {}) {
  const listed = await call(visit, step, "tools/list", params, headers);
  if (listed.result) return list(listed.result.tools).filter(isObject);
  visit.fail(step, `tools/list: ${reasonIn(listed)}, no result`, "the server's log knows more");
  return undefined;
}

const NOT_COME = "it says that no token came: does a proxy take Authorization out?";
const REFUSED = "its log names the check. If the lines above are ok, it is its clock, or (main.ts) \
AUTH_ISSUER, AUTH_JWKS_URL or AUTH_SCOPES";
/** With a handshake. */
async function speak2025(visit: Visit): Promise<void> {
  if (!visit.token || visit.isStray) {
    const why = visit.token ? "that token is for another: it is not sent here" : "needs a token";
    return visit.skip("protocol and tools", why);
  }
  for (const version of [LATEST, "2025-06-18"]) {
    const step = `MCP ${version}`;
    const opened = await call(visit, step, "initialize", hello(version), {});
    if ([401, 403].includes(opened.status)) {
      const why = opened.headers.get("www-authenticate") ?? reasonIn(opened);
      const hasCome = opened.status === 403 || /\berror=/.test(why);
      return visit.fail(step, `refuses the token: ${why}`, hasCome ? REFUSED : NOT_COME);
    }
    if (!opened.result) {
      visit.fail(step, `initialize: ${reasonIn(opened)}, no result`,
        [404, 405].includes(opened.status) ? adviceFor(opened) : NO_KEYS);
      continue;
    }
    visit.isIn = true;
    const agreed = text(opened.result.protocolVersion);
    const session = opened.headers.get("mcp-session-id");
    const headers = {
      "mcp-protocol-version": agreed,
      ...(session && { "mcp-session-id": session }),
    };
    await call(visit, step, "notifications/initialized", {}, headers);
    const tools = await listTools(visit, step, headers);
    if (!tools) continue;
    visit.tools = tools;
    visit.ok(step, `${tools.length} tools${agreed === version ? "" : `, in ${agreed}`}`);
  }
}
/** Without one: each request says what the client is and can do. */
async function speak2026(visit: Visit): Promise<void> {
  if (!visit.isIn) return;
  const [version, prefix] = ["2026-07-28", "io.modelcontextprotocol/"];
  const step = `MCP ${version}`;
  const params = {
    _meta: {
      [`${prefix}protocolVersion`]: version,
      [`${prefix}clientInfo`]: INFO,
      [`${prefix}clientCapabilities`]: {},
    },
  };
  const headers = (method: string) => ({ "mcp-protocol-version": version, "mcp-method": method });
  const found = await call(visit, step, "server/discover", params, headers("server/discover"));
  if (!found.result && found.status < 500) {
    return visit.warn(step, `is not spoken: ${reasonIn(found)}`, "apps go back to 2025-11-25");
  }
  const tools = await listTools(visit, step, headers("tools/list"), params);
  if (tools) visit.ok(step, `${tools.length} tools`);
}

/** What one tool does wrong can hide them all. */
async function readTools(visit: Visit): Promise<void> {
  const { tools } = visit;
  const those = (isSo: (tool: Json) => boolean) =>
    tools.filter(isSo).map(({ name }) => JSON.stringify(name)).join(", ");
  if (tools.length === 0) return;
  const names = tools.map(({ name }) => name);
  const odd = those(({ name }) =>
    !/^[a-zA-Z0-9_-]{1,64}$/.test(text(name)) || names.indexOf(name) !== names.lastIndexOf(name));
  visit.demand("tool names", !odd, "are fine", `${odd}: invalid, or there twice`,
    "at most 64 of A-Z a-z 0-9 _ - : one invalid name can hide the whole connector");
  const hints = ["readOnlyHint", "destructiveHint", "openWorldHint"];
  const bare = those(({ annotations: said }) =>
    hints.some((hint) => typeof (isObject(said) && said[hint]) !== "boolean" || !isObject(said)));
  visit.advise("tool hints", !bare, "all three on each", `not all on ${bare}`,
    `ChatGPT wants ${hints.join(", ")} on each`);
  const broken = those(({ inputSchema: input }) => !isObject(input) || input.type !== "object");
  if (broken) {
    return visit.fail("tool schemas", `the input of ${broken} is no object`,
      'say "type": "object"');
  }
  const typed = those((tool) => /"type":\[/.test(JSON.stringify(tool)));
  visit.advise("tool schemas", !typed, "each input is an object", `a list of types in ${typed}`,
    "say anyOf: some apps take one type alone");
}

/** The audience is the check that people forget. A mock-auth.ts makes a token for another server;
 *  elsewhere nobody does, so there it is no step that somebody could make green. */
const WRONG_TOKEN = "token for another";
async function bringWrongToken(visit: Visit): Promise<void> {
  const { at, token, isIn } = visit;
  if (!isIn) return;
  const step = WRONG_TOKEN;
  const wrong = await mint(visit, "http://localhost:1/another-server-on-purpose");
  if (wrong) {
    const { status } = await ask(visit, step, visit.url, post("initialize", hello(LATEST), wrong));
    if (status === visit.refusal) visit.skip(step, `${status}, as above`);
    else {
      visit.demand(step, status === 401, "401", `${status} instead of 401`,
        "A TOKEN FOR ANOTHER SERVER OPENS THIS ONE: check the audience");
    }
  } else visit.skip(step, "none can be had from that service");
  if (!isHere(at)) return;
  const origin = "https://elsewhere.example";
  const stranger = post("initialize", hello(LATEST), token, { origin });
  const page = await ask(visit, "foreign Origin", visit.url, stranger);
  visit.advise("foreign Origin", page.status === 403, "a page elsewhere is refused",
    `${page.status} to a page elsewhere`, "answer 403: any page could call this machine");
}

/** begin_session and its key, where there are any. */
async function useGate(visit: Visit): Promise<void> {
  const has = (name: string) => visit.tools.some((tool) => tool.name === name);
  if (!visit.isIn || !has("begin_session") || !has("user_get_state")) return;
  const use = async (name: string, args: object = {}) => {
    const params = { name, arguments: args };
    const headers = { "mcp-protocol-version": LATEST };
    const { result } = await call(visit, name, "tools/call", params, headers);
    const said = list(result?.content).filter(isObject).map((part) => text(part.text)).join(" ");
    const given = isObject(result?.structuredContent) ? result.structuredContent : {};
    return { isError: !result || result.isError === true, said, given };
  };
  const opened = await use("begin_session");
  const session = visit.keep(text(opened.given.session));
  visit.demand("begin_session", session !== "", "gives a key", opened.said || "no key",
    "without its store it fails closed: look at /health, DATABASE_URL and the log");
  const bare = await use("user_get_state");
  visit.demand("gate", bare.isError && bare.said.startsWith("No valid session."),
    "shut without the key", "A CALL WITHOUT THE KEY IS LET IN, or refused otherwise",
    "callTool has to ask for the key, of each tool but begin_session and health");
  if (session) {
    const keyed = await use("user_get_state", { session });
    visit.demand("with the key", !keyed.isError, "open", keyed.said, "look at the server's log");
  }
  if (!visit.isMinted || !session) return;
  const { given } = await use("user_forget_me", { session }); // who is not real leaves nothing
  await use("user_forget_me", { session, confirm: visit.keep(text(given.confirm)) });
}

// ---- The command ----

export function summary(lines: Line[]): string {
  const those = (outcome: string) => {
    const steps = lines.filter((line) => line.outcome === outcome).map(({ step }) => step);
    return [...new Set(steps)].join(", ");
  };
  const [failed, unseen, odd] = [those("FAIL"), those("skipped"), those("warn")];
  const isAll = unseen === "" || unseen === WRONG_TOKEN;
  const first = failed ? `FAILED: ${failed}.` : isAll ? "All green." : "Nothing failed.";
  const rest = [unseen && `Not seen: ${unseen}.`, odd && `Worth a look: ${odd}.`];
  return [first, ...rest].filter(Boolean).join(" ");
}
function print({ step, outcome, says, fix }: Line): void {
  console.log(`${outcome.padEnd(9)}${step.padEnd(24)}${says}`);
  if (fix) console.log(`${" ".repeat(33)}-> ${fix}`);
}
function readCommand() {
  try {
    const options = { token: { type: "string" }, "sign-in": { type: "boolean" } } as const;
    const { values, positionals } = parseArgs({ allowPositionals: true, options });
    const [url = "", ...more] = positionals;
    if (url && more.length === 0) return { url, ...values };
  } catch {
    // an option that is not known
  }
  console.error("Which server? bun run doctor https://host/mcp [--sign-in | --token T]");
  return process.exit(2);
}

if (import.meta.main) {
  const { url, token, "sign-in": signsIn } = readCommand();
  const show = (link: string) => console.log(`\nOpen this, and sign in:\n\n${link}\n`);
  const lines = await diagnose(url, {
    token: token ?? (signsIn ? "" : process.env.TOKEN),
    signIn: signsIn ? show : undefined,
    tell: print,
  });
  console.log(`\n${summary(lines)}`);
  process.exit(lines.some(({ outcome }) => outcome === "FAIL") ? 1 : 0);
}
