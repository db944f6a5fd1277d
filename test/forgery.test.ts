// The forger's table, to be read aloud: tokens and session keys that are good in everything but one thing, in the order
// of the checks that refuse them. Beside each is the page that asks for the check. A forger hears the same words
// whatever was wrong; the log says which check it was; and the store is never asked.

import { afterEach, beforeEach, describe, expect, setSystemTime, test } from "bun:test";
import { compactVerify, decodeJwt, decodeProtectedHeader, exportJWK, exportSPKI, generateKeyPair, SignJWT, type CryptoKey } from "jose";
import { type Store, sqliteStore } from "../main.ts";
import { desk, goodClaims, ISSUER, keyServer, mint, publicJwk, RESOURCE, signInKey, type ToolResult } from "./support.ts";

const NOON = new Date("2026-11-21T12:00:00.000Z"); // the clock stands still, or is set
const at = (seconds: number) => setSystemTime(new Date(NOON.getTime() + seconds * 1000));
const noon = NOON.getTime() / 1000;
beforeEach(() => void at(0));
afterEach(() => void setSystemTime());

// ---- The room: whoever gets in is seen, because begin_session asks the store who they are ----

/** A store, and what was asked of it. */
function watched(store: Store) {
  const asked: string[] = [];
  const watching = new Proxy(store, {
    get: (target, name: keyof Store) => (typeof target[name] === "function" ? (asked.push(name), target[name]) : target[name]),
  });
  return { store: watching, asked };
}

// Our sign-in service publishes keys of every kind that we take, of two that we don't, and three by mistake.
const keys = new Map<string, CryptoKey>();
const published: object[] = [publicJwk, { kty: "oct", k: "c2hhcmVk".repeat(6), kid: "shared", alg: "HS256", use: "sig" }];
for (const [kid, alg, entry] of [
  ["PS256", "PS256", { use: "sig" }], ["ES256", "ES256", { use: "sig" }], ["Ed25519", "Ed25519", { use: "sig" }], ["RS512", "RS512", { use: "sig" }], ["ES512", "ES512", { use: "sig" }],
  ["for-encryption", "RS256", { use: "enc" }], ["for-wrapping", "RS256", { key_ops: ["wrapKey"] }],
] as const) {
  const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true });
  keys.set(kid, privateKey);
  published.push({ ...(await exportJWK(publicKey)), kid, alg, ...entry });
}
const stranger = await generateKeyPair("RS256", { extractable: true });
const strangersJwk = { ...(await exportJWK(stranger.publicKey)), kid: "test-key", alg: "RS256", use: "sig" };

const { store, asked } = watched(await sqliteStore(":memory:"));
const fetched: string[] = [];
const room = await desk({ store, env: { RATE_LIMIT_PER_MINUTE: "100000" }, keys: async (request) => (fetched.push(request.url), keyServer(published)(request)) });

/** begin_session with this Authorization header: the answer, the log, and what was asked of the store. */
async function knock(authorization: string) {
  room.log.length = asked.length = 0;
  const response = await room.send("/mcp", {
    method: "POST",
    headers: { "content-type": "application/json", accept: "application/json, text/event-stream", authorization },
    body: JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/call", params: { name: "begin_session", arguments: {} } }),
  });
  return { status: response.status, challenge: response.headers.get("www-authenticate"), body: await response.text(), log: [...room.log], asked: [...asked] };
}

// ---- The forger's tools ----

const encode = (part: unknown) => Buffer.from(typeof part === "string" ? part : JSON.stringify(part)).toString("base64url");
const sign = async (input: string, key = signInKey.privateKey) =>
  `${input}.${Buffer.from(await crypto.subtle.sign("RSASSA-PKCS1-v1_5", key, Buffer.from(input))).toString("base64url")}`;
/** Signed with our service's own key, whatever the parts say: a library would refuse to. */
const signed = (header: object, payload: unknown = goodClaims(), key?: CryptoKey) =>
  sign(`${encode({ alg: "RS256", kid: "test-key", typ: "at+jwt", ...header })}.${encode(payload)}`, key);
/** A good token, with one part of it changed after it was signed. */
const altered = async (part: number, change: (part: string) => string) =>
  (await mint()).split(".").map((text, index) => (index === part ? change(text) : text)).join(".");
/** A good token but for these claims, of whatever type. */
const claiming = (claims: Record<string, unknown>) => mint(claims);
const unsigned = (alg: unknown) => `${encode({ alg, kid: "test-key", typ: "at+jwt" })}.${encode(goodClaims())}.`;
const hs256 = (secret: Uint8Array, kid = "test-key") => new SignJWT(goodClaims()).setProtectedHeader({ alg: "HS256", kid, typ: "at+jwt" }).sign(secret);
const text = (words: string) => new TextEncoder().encode(words);

/** What is wrong with it, the page that says so, what the log says, and the forgery. */
type Row = [wrong: string, source: string, check: string, forge: () => string | Promise<string>];

const grammar: Row[] = [
  ["nothing after Bearer", "RFC 6750, 2.1", "ERR_JWS_INVALID", () => ""],
  ["a word", "RFC 7519, 7.2", "ERR_JWS_INVALID", () => "garbage"],
  ["two dots and nothing else", "RFC 7519, 7.2", "ERR_JWS_INVALID", () => ".."],
  ["letters beyond ASCII", "RFC 6750, 2.1", "ERR_JWS_INVALID", () => "ä.ö.ü"],
  ["two parts", "RFC 7515, 7.1", "ERR_JWS_INVALID", async () => (await mint()).split(".").slice(0, 2).join(".")],
  ["four parts", "RFC 7515, 7.1", "ERR_JWS_INVALID", async () => `${await mint()}.more`],
  ["five parts, as if encrypted", "RFC 7516, 9", "ERR_JWS_INVALID", () => `${encode({ alg: "RSA-OAEP", enc: "A256GCM", kid: "test-key" })}.a.b.c.d`],
  ["two tokens", "RFC 6750, 2.1", "ERR_JWS_INVALID", async () => `${await mint()}, Bearer ${await mint()}`],
  ["the same token written as JSON", "RFC 7515, 7.2", "ERR_JWS_INVALID", async () => {
    const [protectedHeader, payload, signature] = (await mint()).split(".");
    return JSON.stringify({ payload, protected: protectedHeader, signature });
  }],
  ["a header that isn't JSON", "RFC 7519, 7.2", "ERR_JWS_INVALID", () => altered(0, () => encode("not JSON"))],
  ["a header that is a list", "RFC 7519, 7.2", "ERR_JWS_INVALID", () => altered(0, () => encode([{ alg: "RS256" }]))],
  ["a payload that isn't JSON", "RFC 7519, 7.2", "ERR_JWT_INVALID", () => signed({}, "not JSON")],
  ["a payload that is a list", "RFC 7519, 7.2", "ERR_JWT_INVALID", () => signed({}, [goodClaims()])],
  ["a payload that is a number", "RFC 7519, 7.2", "ERR_JWT_INVALID", () => signed({}, 5)],
  ["a payload of null", "RFC 7519, 7.2", "ERR_JWT_INVALID", () => signed({}, null)],
  ["a token inside a token", "RFC 8725, 3.3", "ERR_JWT_INVALID", async () => signed({ cty: "JWT" }, await mint())],
  ["a payload that says it is not encoded", "RFC 7797, 7", "ERR_JWT_INVALID", () =>
    sign(`${encode({ alg: "RS256", kid: "test-key", typ: "at+jwt", b64: false, crit: ["b64"] })}.${JSON.stringify(goodClaims())}`)],
  ["an extension that must be understood", "RFC 7515, 4.1.11", "ERR_JOSE_NOT_SUPPORTED", () => signed({ crit: ["exp"], exp: 1 })],
  ["a list of extensions with none in it", "RFC 7515, 4.1.11", "ERR_JWS_INVALID", () => signed({ crit: [] })],
];

const algorithm: Row[] = [
  ["no alg", "RFC 7515, 4.1.1", "ERR_JWS_INVALID", () => unsigned(undefined)],
  ["a list for an alg", "RFC 7515, 4.1.1", "ERR_JWS_INVALID", () => signed({ alg: ["RS256"] })],
  ["alg none and no signature", "RFC 8725, 3.2", "ERR_JOSE_ALG_NOT_ALLOWED", () => unsigned("none")],
  ["alg None, for whoever compares with none", "RFC 8725, 3.2", "ERR_JOSE_ALG_NOT_ALLOWED", () => unsigned("None")],
  ["alg none over a good signature", "RFC 8725, 3.2", "ERR_JOSE_ALG_NOT_ALLOWED", () => signed({ alg: "none" })],
  ["our public key's PEM as an HMAC secret", "RFC 8725, 3.1", "ERR_JOSE_ALG_NOT_ALLOWED", async () => hs256(text(await exportSPKI(signInKey.publicKey)))],
  ["our public key's JWK as an HMAC secret", "RFC 8725, 3.1", "ERR_JOSE_ALG_NOT_ALLOWED", () => hs256(text(JSON.stringify(publicJwk)))],
  ["our public key's modulus as an HMAC secret", "RFC 8725, 3.1", "ERR_JOSE_ALG_NOT_ALLOWED", () => hs256(Buffer.from(publicJwk.n!, "base64url"))],
  ["an HMAC secret that was published by mistake", "RFC 8725, 3.1", "ERR_JOSE_ALG_NOT_ALLOWED", () => hs256(Buffer.from("c2hhcmVk".repeat(6), "base64url"), "shared")],
  ["RS512, though the key for it is published", "RFC 8725, 3.1", "ERR_JOSE_ALG_NOT_ALLOWED", () => mint({}, { alg: "RS512", kid: "RS512" }, keys.get("RS512"))],
  ["ES512, though the key for it is published", "RFC 8725, 3.1", "ERR_JOSE_ALG_NOT_ALLOWED", () => mint({}, { alg: "ES512", kid: "ES512" }, keys.get("ES512"))],
];

const BROKEN = "ERR_JWS_SIGNATURE_VERIFICATION_FAILED";
const NO_KEY = "ERR_JWKS_NO_MATCHING_KEY";
const key: Row[] = [
  ["no signature", "RFC 7515, 5.2", BROKEN, () => altered(2, () => "")],
  ["one character of the signature changed", "RFC 7515, 5.2", BROKEN, () => altered(2, (part) => (part[0] === "A" ? "B" : "A") + part.slice(1))],
  ["half a signature", "RFC 7515, 5.2", BROKEN, () => altered(2, (part) => part.slice(0, part.length / 2))],
  ["the signature of another token", "RFC 7515, 5.2", BROKEN, async () => (await mint()).replace(/[^.]*$/, (await mint({ sub: "reader-B" })).split(".")[2]!)],
  ["the payload changed after signing", "RFC 7515, 5.2", BROKEN, () => altered(1, () => encode({ ...goodClaims(), sub: "reader-B" }))],
  ["the header changed after signing", "RFC 7515, 5.2", BROKEN, () => altered(0, () => encode({ alg: "RS256", kid: "test-key", typ: "JWT" }))],
  ["a stranger's key under our kid", "RFC 8725, 3.3", BROKEN, () => mint({}, {}, stranger.privateKey)],
  ["a stranger's key, enclosed in the header", "RFC 8725, 3.10", BROKEN, () => signed({ jwk: strangersJwk }, goodClaims(), stranger.privateKey)],
  ["a stranger's key, and in the header where to fetch it", "RFC 8725, 3.10", BROKEN, () => signed({ jku: "https://stranger.example/jwks.json" }, goodClaims(), stranger.privateKey)],
  ["a stranger's key, and in the header a certificate for it", "RFC 8725, 3.10", BROKEN, () => signed({ x5u: "https://stranger.example/key.pem", x5c: ["MIIB"] }, goodClaims(), stranger.privateKey)],
  ["a signature by PS256 that says RS256", "RFC 8725, 3.1", BROKEN, async () => (await mint({}, { alg: "PS256" }, keys.get("PS256"))).replace(/^[^.]+/, encode({ alg: "RS256", kid: "test-key" }))],
  ["an ECDSA signature of nothing but zeros", "RFC 8725, 3.4", BROKEN, () => `${encode({ alg: "ES256", kid: "ES256", typ: "at+jwt" })}.${encode(goodClaims())}.${Buffer.alloc(64).toString("base64url")}`],
  ["an Ed25519 signature of nothing but zeros", "RFC 8725, 3.4", BROKEN, () => `${encode({ alg: "Ed25519", kid: "Ed25519", typ: "at+jwt" })}.${encode(goodClaims())}.${Buffer.alloc(64).toString("base64url")}`],
  ["a kid that nobody published", "RFC 8725, 3.10", NO_KEY, () => mint({}, { kid: "unheard-of" })],
  ["a kid that climbs out of a folder", "RFC 8725, 3.10", NO_KEY, () => mint({}, { kid: "../../../../dev/null" })],
  ["a kid that asks a database", "RFC 8725, 3.10", NO_KEY, () => mint({}, { kid: "x' union select 'test-key" })],
  ["a number for a kid", "RFC 7515, 4.1.4", NO_KEY, () => signed({ kid: 5 })],
  ["the kid of a key for another algorithm", "RFC 8725, 3.1", NO_KEY, () => mint({}, { kid: "ES256" })],
  ["a published key that is for encryption", "RFC 7517, 4.2", NO_KEY, () => mint({}, { kid: "for-encryption" }, keys.get("for-encryption"))],
  ["a published key that is for wrapping keys", "RFC 7517, 4.3", NO_KEY, () => mint({}, { kid: "for-wrapping" }, keys.get("for-wrapping"))],
];

const issuer: Row[] = [
  ["no issuer", "RFC 9068, 2.2", "iss", () => claiming({ iss: undefined })],
  ["another issuer", "RFC 8725, 3.8", "iss", () => mint({ iss: "https://elsewhere.example" })],
  ["our issuer's origin", "RFC 9068, 4", "iss", () => mint({ iss: "http://localhost:8000" })],
  ["our issuer with a slash", "RFC 9068, 4", "iss", () => mint({ iss: `${ISSUER}/` })],
  ["our issuer in capitals", "RFC 7519, 4.1.1", "iss", () => mint({ iss: ISSUER.toUpperCase() })],
  ["our issuer by another name", "RFC 9068, 4", "iss", () => mint({ iss: ISSUER.replace("localhost", "127.0.0.1") })],
  ["an issuer that ours begins", "RFC 9068, 4", "iss", () => mint({ iss: `${ISSUER}.elsewhere.example` })],
  ["a list with our issuer in it", "RFC 7519, 4.1.1", "iss", () => claiming({ iss: [ISSUER] })],
];

const AUDIENCE = "MCP authorization, Token Handling";
const audience: Row[] = [
  ["no audience", "RFC 9068, 2.2", "aud", () => claiming({ aud: undefined })],
  ["another server of the same sign-in service", AUDIENCE, "aud", () => mint({ aud: "https://elsewhere.example/mcp" })],
  ["the app it was given to: an ID token", "RFC 8725, 3.12", "aud", () => mint({ aud: "some-client-id" })],
  ["the sign-in service itself", "MCP security best practices, Token Passthrough", "aud", () => mint({ aud: ISSUER })],
  ["a list without us", "RFC 7519, 4.1.3", "aud", () => mint({ aud: ["https://elsewhere.example/mcp", ISSUER] })],
  ["an empty list", "RFC 7519, 4.1.3", "aud", () => mint({ aud: [] })],
  ["an empty audience", "RFC 7519, 4.1.3", "aud", () => mint({ aud: "" })],
  ["our origin", "RFC 8725, 3.9", "aud", () => mint({ aud: "http://localhost:8000" })],
  ["our URL with a slash", "RFC 8725, 3.9", "aud", () => mint({ aud: `${RESOURCE}/` })],
  ["our URL in capitals", "RFC 7519, 4.1.3", "aud", () => mint({ aud: RESOURCE.toUpperCase() })],
  ["our URL by another name", "RFC 8725, 3.9", "aud", () => mint({ aud: "http://127.0.0.1:8000/mcp" })],
  ["our URL at another port", "RFC 8725, 3.9", "aud", () => mint({ aud: "http://localhost:8001/mcp" })],
  ["a URL that ours begins", "RFC 8725, 3.9", "aud", () => mint({ aud: `${RESOURCE}-admin` })],
  ["the beginning of our URL", "RFC 8725, 3.9", "aud", () => mint({ aud: RESOURCE.slice(0, -1) })],
  ["two URLs in one string, ours first", "RFC 7519, 4.1.3", "aud", () => mint({ aud: `${RESOURCE} https://elsewhere.example/mcp` })],
  ["a list in a list", "RFC 7519, 4.1.3", "aud", () => claiming({ aud: [[RESOURCE]] })],
  ["an object with our URL as a key", "RFC 7519, 4.1.3", "aud", () => claiming({ aud: { [RESOURCE]: true } })],
];

const time: Row[] = [
  ["no expiry", "RFC 9068, 2.2", "exp", () => claiming({ exp: undefined })],
  ["an expiry of null", "RFC 7519, 4.1.4", "exp", () => claiming({ exp: null })],
  ["an expiry in words", "RFC 7519, 4.1.4", "exp", () => claiming({ exp: String(noon + 3600) })],
  ["an expiry of true", "RFC 7519, 4.1.4", "exp", () => claiming({ exp: true })],
  ["over for an hour", "MCP authorization, Token Handling", "exp", () => mint({ exp: noon - 3600 })],
  ["over for three seconds", "RFC 7519, 4.1.4", "exp", () => mint({ exp: noon - 3 })],
  ["over this very second", "RFC 7519, 4.1.4", "exp", () => mint({ exp: noon })],
  ["over since 1970", "RFC 7519, 4.1.4", "exp", () => mint({ exp: 0 })],
  ["an expiry in milliseconds, good for ages", "RFC 7519, 2", "exp", () => mint({ exp: (noon + 3600) * 1000 })],
  ["an expiry that never comes", "RFC 7519, 2", "exp", () => signed({}, JSON.stringify({ ...goodClaims(), exp: 5 }).replace('"exp":5', '"exp":1e999'))],
  ["not valid for another minute", "RFC 7519, 4.1.5", "nbf", () => mint({ nbf: noon + 60 })],
  ["not valid until tomorrow, in words", "RFC 7519, 4.1.5", "nbf", () => claiming({ nbf: "tomorrow" })],
];

const subject: Row[] = [
  ["nobody", "RFC 9068, 2.2", "sub", () => claiming({ sub: undefined })],
  ["an empty name", "RFC 8725, 3.8", "sub", () => mint({ sub: "" })],
  ["null", "RFC 7519, 4.1.2", "sub", () => claiming({ sub: null })],
  ["a number", "RFC 7519, 4.1.2", "sub", () => claiming({ sub: 5 })],
  ["a list", "RFC 7519, 4.1.2", "sub", () => claiming({ sub: ["test-user-001"] })],
  ["an object", "RFC 7519, 4.1.2", "sub", () => claiming({ sub: { id: "test-user-001" } })],
  ["a name that ends in NUL", "RFC 8725, 3.8", "sub", () => mint({ sub: "test-user-001\0" })],
  ["a name of two lines", "RFC 8725, 3.8", "sub", () => mint({ sub: "test-user\n001" })],
  ["a name that clears the terminal", "RFC 8725, 3.8", "sub", () => mint({ sub: "test\u001b[2Juser" })],
  ["a name with a control character beyond ASCII", "RFC 8725, 3.8", "sub", () => mint({ sub: "test\u0085user" })],
  ["a name with half a character", "RFC 8725, 3.7", "sub", () => mint({ sub: "test-user-\ud83d" })],
  ["a name of 256 characters", "RFC 8725, 3.8", "sub", () => mint({ sub: "a".repeat(256) })],
];

const KIND = "RFC 8725, 3.11";
const kind: Row[] = [
  ["a logout token", KIND, "typ", () => mint({}, { typ: "logout+jwt" })],
  ["a security event", KIND, "typ", () => mint({}, { typ: "secevent+jwt" })],
  ["a DPoP proof", KIND, "typ", () => mint({}, { typ: "dpop+jwt" })],
  ["an answer to an introspection", KIND, "typ", () => mint({}, { typ: "token-introspection+jwt" })],
  ["a kind that ends like ours", "RFC 9068, 2.1", "typ", () => mint({}, { typ: "not-at+jwt" })],
  ["a kind that begins like ours", "RFC 9068, 2.1", "typ", () => mint({}, { typ: "at+jwt+more" })],
  ["our kind of another tree", "RFC 7515, 4.1.9", "typ", () => mint({}, { typ: "text/at+jwt" })],
  ["an empty kind", KIND, "typ", () => mint({}, { typ: "" })],
  ["a list of kinds", "RFC 7515, 4.1.9", "typ", () => signed({ typ: ["at+jwt"] })],
  ["a kind of null", "RFC 7515, 4.1.9", "typ", () => signed({ typ: null })],
  ["bound to a key, sent as if it were not", "RFC 9449, 7.2", "cnf", () => mint({ cnf: { jkt: "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" } })],
  ["bound to a certificate, sent as if it were not", "RFC 7800, 3.1", "cnf", () => mint({ cnf: { "x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2" } })],
  ["bound to nothing", "RFC 7800, 3.1", "cnf", () => claiming({ cnf: null })],
];

const tokens: Record<string, Row[]> = { grammar, algorithm, key, issuer, audience, time, subject, kind };
const METADATA = "http://localhost:8000/.well-known/oauth-protected-resource/mcp";

describe.each(Object.entries(tokens))("the token's %s", (_, rows) => {
  test.each(rows)("%s (%s)", async (_, __, check, forge) => {
    const { log, asked, ...answer } = await knock(`Bearer ${await forge()}`);
    expect(answer).toEqual({ status: 401, challenge: `Bearer error="invalid_token", resource_metadata="${METADATA}"`, body: '{"error":"invalid_token"}' });
    expect(log).toEqual([{ at: NOON.toISOString(), ref: expect.stringMatching(/^[0-9a-f]{8}$/), outcome: "refused", why: `sign-in: ${check}` }]);
    expect(asked).toEqual([]);
  });
});

describe("the table itself", () => {
  test("a good token gets in, and then the store is asked: the rows above would have been seen", async () => {
    expect(await knock(`Bearer ${await mint()}`)).toMatchObject({ status: 200, challenge: null, log: [{ outcome: "ok", sub: "test-user-001" }], asked: ["welcome"] });
    expect((await knock(`Bearer ${await signed({})}`)).status).toBe(200);
    for (const kid of ["PS256", "ES256", "Ed25519"]) expect((await knock(`Bearer ${await mint({}, { alg: kid, kid }, keys.get(kid))}`)).status).toBe(200);
  });

  // With a clean signature and one header field or claim that differs from a good token's, there is nothing else to refuse it.
  test.each([...issuer, ...audience, ...time, ...subject, ...kind])("%s is wrong in that alone", async (_, __, check, forge) => {
    const [forged, good] = [await forge(), await mint()];
    await compactVerify(forged, signInKey.publicKey);
    const parts = (token: string) => new Map([...Object.entries(decodeProtectedHeader(token)), ...Object.entries(decodeJwt(token))]);
    const [ours, theirs] = [parts(forged), parts(good)];
    expect([...new Set([...ours.keys(), ...theirs.keys()])].filter((name) => !Bun.deepEquals(ours.get(name), theirs.get(name)))).toEqual([check]);
  });

  test("no address that a token named was ever fetched", () => {
    expect(new Set(fetched.map((url) => new URL(url).hostname))).toEqual(new Set(["localhost"]));
  });

  test("no two rows are the same, and there are at least sixty", async () => {
    const all = Object.values(tokens).flat();
    expect(all.length).toBeGreaterThanOrEqual(60);
    expect(new Set(all.map(([wrong, _, check]) => `${check}: ${wrong}`)).size).toBe(all.length);
  });
});

// ---- Session keys ----

const SECRET = "s".repeat(43); // what desk() signs with
const NO_SESSION = "No valid session. Call begin_session, then repeat this call with the new session key.";
const refused = { isError: true, content: [{ type: "text", text: NO_SESSION }] };

/** What a forger may hold when the clock stands at noon: their own key, other people's, other rooms', and codes for other things. */
async function hand() {
  at(-600);
  const earlier = (await room.enter("reader-A")).session; // issued ten minutes ago
  at(0);
  const own = await room.enter("reader-A");
  await own.use("user_save_state", { reading: null, shelf: { a1: "kept" } });
  const code = (await own.use("user_forget_me")).structuredContent!.confirm as string;
  const elsewhere = await desk({ env: { AUTH_ISSUER: "http://localhost:8000/other", AUTH_JWKS_URL: `${ISSUER}/jwks.json` } });
  return {
    own: own.session, earlier, code, use: own.use, token: own.token,
    others: (await room.enter("reader-B")).session,
    namesake: (await room.enter("reader-A ")).session,
    elsewhere: (await elsewhere.enter("reader-A", { iss: elsewhere.config.issuer })).session,
    otherSecret: (await (await desk({ env: { SESSION_SIGNING_SECRET: `${SECRET}s` } })).enter("reader-A")).session,
  };
}
type Hand = Awaited<ReturnType<typeof hand>>;
/** A key begins with four bytes that say when it is over; the rest vouches for them. */
const expiryOf = (key: string) => Buffer.from(key, "base64url").readUInt32BE();
const expiring = (key: string, expiry: number) => {
  const bytes = Buffer.from(key, "base64url");
  bytes.writeUInt32BE(expiry);
  return bytes.toString("base64url");
};
const HIJACKING = "MCP security best practices, Session Hijacking";

type SessionRow = [wrong: string, source: string, forge: (hand: Hand) => unknown];
const sessions: Record<string, SessionRow[]> = {
  missing: [
    ["not there", HIJACKING, () => undefined],
    ["null", HIJACKING, () => null],
    ["empty", HIJACKING, () => ""],
    ["a number", HIJACKING, () => 5],
    ["true", HIJACKING, () => true],
    ["a list with the key in it", HIJACKING, ({ own }) => [own]],
    ["an object with the key in it", HIJACKING, ({ own }) => ({ session: own })],
    ["an object that says it is the key", HIJACKING, ({ own }) => ({ toString: own, length: 24 })],
    ["the sign-in token instead", HIJACKING, ({ token }) => token],
  ],
  altered: [
    ["a word", HIJACKING, () => "session"],
    ["made up, of the right length", HIJACKING, () => "A".repeat(24)],
    ["made up of the alphabet's other end", HIJACKING, () => "_".repeat(24)],
    ["without its last character", HIJACKING, ({ own }) => own.slice(0, -1)],
    ["without its first character", HIJACKING, ({ own }) => own.slice(1)],
    ["cut down to its expiry", HIJACKING, ({ own }) => own.slice(0, 6)],
    ["one character longer", HIJACKING, ({ own }) => `${own}A`],
    ["twice over", HIJACKING, ({ own }) => own + own],
    ["with base64's padding", HIJACKING, ({ own }) => `${own}=`],
    ["with a space after", HIJACKING, ({ own }) => `${own} `],
    ["with a space before", HIJACKING, ({ own }) => ` ${own}`],
    ["with a line end after", HIJACKING, ({ own }) => `${own}\n`],
    ["with NUL after", HIJACKING, ({ own }) => `${own}\0`],
    ["with a space for its last character", HIJACKING, ({ own }) => `${own.slice(0, 23)} `],
    ["in capitals", HIJACKING, ({ own }) => own.toUpperCase()],
    ["backwards", HIJACKING, ({ own }) => [...own].reverse().join("")],
    ["in base64's other alphabet", HIJACKING, ({ own }) => `${own.slice(0, 22)}+/`],
    ["ending beyond ASCII", HIJACKING, ({ own }) => `${own.slice(0, 23)}ä`],
    ["ending in half a character", HIJACKING, ({ own }) => `${own.slice(0, 23)}\ud83d`],
    ["24 emoji", HIJACKING, () => "🙂".repeat(24)],
    ["a hundred thousand characters", HIJACKING, () => "A".repeat(100_000)],
    ["its last character another", HIJACKING, ({ own }) => own.slice(0, 23) + (own[23] === "A" ? "E" : "A")],
    ["an earlier key with a later key's expiry", HIJACKING, ({ own, earlier }) => expiring(earlier, expiryOf(own))],
    ["its expiry a second later", HIJACKING, ({ own }) => expiring(own, expiryOf(own) + 1)],
    ["its expiry the end of time", HIJACKING, ({ own }) => expiring(own, 0xffff_ffff)],
  ],
  expired: [
    ["over this very second", HIJACKING, ({ own }) => (at(3600), own)],
    ["over for a second", HIJACKING, ({ own }) => (at(3601), own)],
    ["over for a month", HIJACKING, ({ own }) => (at(30 * 24 * 3600), own)],
    ["over, and a newer one is good", HIJACKING, ({ earlier }) => (at(3100), earlier)],
  ],
  "another's": [
    ["another reader's", HIJACKING, ({ others }) => others],
    ["a reader's whose name begins like ours", HIJACKING, ({ namesake }) => namesake],
    ["our namesake's of another issuer", "RFC 7519, 4.1.2", ({ elsewhere }) => elsewhere],
    ["ours, from a room with another secret", HIJACKING, ({ otherSecret }) => otherSecret],
  ],
  "another purpose's": [
    ["the code that erases", "RFC 8725, 3.12", ({ code }) => code],
  ],
};

describe.each(Object.entries(sessions))("the session key is %s", (_, rows) => {
  test.each(rows)("%s (%s)", async (_, __, forge) => {
    const held = await hand();
    expect(await held.use("user_get_state")).not.toHaveProperty("isError"); // everything else is right
    const session = forge(held);
    const token = await mint({ sub: "reader-A" });
    room.log.length = asked.length = 0;
    const { status, headers, body } = await room.rpc("tools/call", { name: "user_save_state", arguments: { session, shelf: { a1: "forged" } } }, token);
    expect({ status, challenge: headers.get("www-authenticate"), result: body.result }).toEqual({ status: 200, challenge: null, result: refused }); // a 401 would start a sign-in
    expect(room.log).toEqual([{ at: expect.any(String), ref: expect.any(String), sub: "reader-A", tool: "user_save_state", outcome: "refused", why: "session", ms: expect.any(Number) }]);
    expect(asked).toEqual([]);
  });
});

// The other way round: what opens the room must not erase it. To tell what there is to erase, the store is read.
describe("the code that erases is another purpose's, or another's", () => {
  test.each<SessionRow>([
    ["the session key", "RFC 8725, 3.12", ({ own }) => own],
    ["the code's last character another", HIJACKING, ({ code }) => code.slice(0, 23) + (code[23] === "A" ? "E" : "A")],
    ["another reader's session key", HIJACKING, ({ others }) => others],
    ["the code, over this very second", HIJACKING, ({ code }) => (at(300), code)],
    ["the code, and something was saved since", HIJACKING, async ({ code, use }) => (await use("user_save_state", { reading: { id: "a2", position: "since" } }), code)],
    ["yes", HIJACKING, () => "yes"],
    ["empty", HIJACKING, () => ""],
  ])("%s (%s)", async (_, __, forge) => {
    const held = await hand();
    const confirm = await forge(held);
    room.log.length = asked.length = 0;
    const result: ToolResult = await held.use("user_forget_me", { confirm });
    expect([result.isError, result.content[0]!.text]).toEqual([true, expect.stringMatching(/^confirm .*Nothing was erased\.$/)]);
    expect(room.log).toMatchObject([{ outcome: "refused", why: "confirm", tool: "user_forget_me" }]);
    expect(new Set(asked)).toEqual(new Set(["forget"]));
    expect((await held.use("user_get_state")).structuredContent!.state.shelf).toEqual({ a1: "kept" });
  });
});
