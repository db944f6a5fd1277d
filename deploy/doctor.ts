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
