// The work that every contender does for one call, whatever serves it: a token (RS256, by jose),
// a session key (by HMAC, as `keysFor` in main.ts), the arguments (by zod), and one article.
// It runs on Bun and on Node.

import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { createRemoteJWKSet, errors, jwtVerify } from "jose";
import { z } from "zod";
import articles from "../seed/articles.json" with { type: "json" };

const { PORT = "", ISSUER = "", AUDIENCE = "", JWKS_URL = "", SESSION_SECRET = "" } = process.env;
export const port = Number(PORT);
export const audience = AUDIENCE;

// ---- The token ----

export interface Person {
  sub: string;
  expiresAt: number; // seconds
}
/** The caller's fault: a 401. */
export class BadToken extends Error {}

const keys = createRemoteJWKSet(new URL(JWKS_URL || "http://localhost"));

/** @throws BadToken */
export async function verify(token: string): Promise<Person> {
  const checks = { algorithms: ["RS256"], issuer: ISSUER, audience: AUDIENCE };
  const { payload } = await jwtVerify(token, keys, checks).catch((error) => {
    throw error instanceof errors.JOSEError ? new BadToken(error.code) : error;
  });
  const { sub, exp } = payload;
  if (!sub || !exp) throw new BadToken("claims");
  return { sub, expiresAt: exp };
}

/** The same, but a token that passed is believed for a minute. */
export function cached(check: typeof verify): typeof verify {
  const known = new Map<string, { person: Person; until: number }>();
  return async (token) => {
    const seen = known.get(token);
    if (seen && seen.until > Date.now()) return seen.person;
    const person = await check(token);
    if (known.size >= 10_000) known.clear();
    known.set(token, { person, until: Math.min(Date.now() + 60_000, person.expiresAt * 1000) });
    return person;
  };
}

/** For contenders that bring no bearer check of their own. @throws BadToken */
export async function personOf(header: string | null | undefined, check: typeof verify) {
  const [scheme = "", token = ""] = (header ?? "").split(" ");
  if (scheme.toLowerCase() !== "bearer") throw new BadToken("none");
  return check(token);
}

// ---- The session key ----

function sign(secret: string, head: string, sub: string) {
  const mac = createHmac("sha256", secret).update(JSON.stringify(["session", sub, head]));
  return head + mac.digest("base64url").slice(0, 10);
}
export function makeSession(secret: string, sub: string, seconds = 3600) {
  const head = randomBytes(6);
  head.writeUInt32BE(Math.floor(Date.now() / 1000) + seconds);
  return sign(secret, head.toString("base64url"), sub);
}
export function isSession(given: string, sub: string) {
  if (!/^[\w-]{18}$/.test(given)) return false;
  const head = given.slice(0, 8);
  const isOurs = timingSafeEqual(Buffer.from(given), Buffer.from(sign(SESSION_SECRET, head, sub)));
  return isOurs && Buffer.from(head, "base64url").readUInt32BE() > Date.now() / 1000;
}

// ---- The tool ----

export const TOOL = "domain_get_article";
export const description = "Returns one article with its full text, by its id.";
export const input = { id: z.string(), session: z.string() };
const text = z.string();
export const output = { article: z.strictObject({ id: text, title: text, topic: text, body: text }) };

const byId = new Map(articles.map((article) => [article.id, article]));

/** Why it can't be had is said to the model, not thrown. */
export function getArticle({ id, session }: { id: string; session: string }, sub: string) {
  if (!isSession(session, sub)) return { refused: "No valid session." };
  const article = byId.get(id);
  return article ? { article } : { refused: "No such article." };
}

/** One call of the tool, as the protocol wants its result. */
export function callTool(args: { id: string; session: string }, sub: string) {
  const { article, refused } = getArticle(args, sub);
  if (!article) return { isError: true, content: [{ type: "text" as const, text: refused }] };
  const structuredContent = { article };
  const content = [{ type: "text" as const, text: JSON.stringify(structuredContent) }];
  return { content, structuredContent };
}
