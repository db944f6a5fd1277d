// The forger's table, to be read aloud: tokens and session keys that are good in everything but one
// thing, in the order of the checks that refuse them. Beside each is the page that asks for the
// check. A forger hears the same words whatever was wrong; the log says which check it was; and the
// store is never asked.

import { afterEach, beforeEach, describe, expect, setSystemTime, test } from "bun:test";
import {
  compactVerify,
  decodeJwt,
  decodeProtectedHeader,
  exportJWK,
  exportSPKI,
  generateKeyPair,
  SignJWT,
  type CryptoKey,
} from "jose";
import { type Store, sqliteStore } from "../../main.ts";
import {
  gateway,
  goodClaims,
  ISSUER,
  keyServer,
  mint,
  publicJwk,
  RESOURCE,
  signInKey,
} from "../support.ts";

const NOON = new Date("2026-11-21T12:00:00.000Z"); // the clock stands still, or is set
const noon = NOON.getTime() / 1000;
const at = (seconds: number) => void setSystemTime(new Date(NOON.getTime() + seconds * 1000));
beforeEach(() => at(0));
afterEach(() => void setSystemTime());

// ---- The room: whoever gets in is seen, because begin_session asks the store who they are ----

/** A store, and what was asked of it. */
function watched(store: Store) {
  const asked: string[] = [];
  const watching = new Proxy(store, {
    get(target, name: keyof Store) {
      if (typeof target[name] === "function") asked.push(name);
      return target[name];
    },
  });
  return { store: watching, asked };
}

// Our service publishes keys of every kind that we take, of four that we don't, and two by mistake.
const keys = new Map<string, CryptoKey>();
const shared = "c2hhcmVk".repeat(6);
const published: object[] = [
  publicJwk,
  { kty: "oct", k: shared, kid: "shared", alg: "HS256", use: "sig" },
];
for (const [kid, alg, entry] of [
  ["PS256", "PS256", { use: "sig" }],
  ["ES256", "ES256", { use: "sig" }],
  ["ES384", "ES384", { use: "sig" }],
  ["Ed25519", "Ed25519", { use: "sig" }],
  ["RS384", "RS384", { use: "sig" }],
  ["RS512", "RS512", { use: "sig" }],
  ["PS512", "PS512", { use: "sig" }],
  ["ES512", "ES512", { use: "sig" }],
  ["for-encryption", "RS256", { use: "enc" }],
  ["for-wrapping", "RS256", { key_ops: ["wrapKey"] }],
] as const) {
  const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true });
  keys.set(kid, privateKey);
  published.push({ ...(await exportJWK(publicKey)), kid, alg, ...entry });
}
const stranger = await generateKeyPair("RS256", { extractable: true });
const strangersJwk = { ...(await exportJWK(stranger.publicKey)), kid: "test-key", alg: "RS256" };

const { store, asked } = watched(await sqliteStore(":memory:"));
const fetched: string[] = [];
const room = await gateway({
  store,
  env: { RATE_LIMIT_PER_MINUTE: "100000" },
  keys: async (request) => {
    fetched.push(request.url);
    return keyServer(published)(request);
  },
});

/** begin_session with this Authorization header: the answer, the log, and what was asked. */
async function knock(authorization: string) {
  room.log.length = asked.length = 0;
  const params = { name: "begin_session", arguments: {} };
  const response = await room.send("/mcp", {
    method: "POST",
    headers: {
      "content-type": "application/json",
      accept: "application/json, text/event-stream",
      authorization,
    },
    body: JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/call", params }),
  });
  const body = await response.text();
  const challenge = response.headers.get("www-authenticate");
  return { status: response.status, challenge, body, log: [...room.log], asked: [...asked] };
}

// ---- The forger's tools ----

const encode = (part: unknown) =>
  Buffer.from(typeof part === "string" ? part : JSON.stringify(part)).toString("base64url");
async function sign(input: string, key = signInKey.privateKey): Promise<string> {
  const signature = await crypto.subtle.sign("RSASSA-PKCS1-v1_5", key, Buffer.from(input));
  return `${input}.${Buffer.from(signature).toString("base64url")}`;
}
const GOOD = { alg: "RS256", kid: "test-key", typ: "at+jwt" };
/** Signed with our service's own key, whatever the parts say: a library would refuse to. */
const signed = (header: object, payload: unknown = goodClaims(), key?: CryptoKey) =>
  sign(`${encode({ ...GOOD, ...header })}.${encode(payload)}`, key);
/** A good token, with one part of it changed after it was signed. */
const altered = async (part: number, change: (part: string) => string) =>
  (await mint()).split(".").map((text, n) => (n === part ? change(text) : text)).join(".");
/** A good token but for these claims, of whatever type. */
const claiming = (claims: Record<string, unknown>) => mint(claims);
/** A good token but for its payload as JSON text, which says what JSON.stringify can't. */
const saying = (from: string, to: string) =>
  signed({}, JSON.stringify({ ...goodClaims(), exp: 5 }).replace(from, to));
const unsigned = (alg: unknown) => `${encode({ ...GOOD, alg })}.${encode(goodClaims())}.`;
const hs256 = (secret: Uint8Array, kid = "test-key") =>
  new SignJWT(goodClaims()).setProtectedHeader({ alg: "HS256", kid, typ: "at+jwt" }).sign(secret);
const text = (words: string) => new TextEncoder().encode(words);
const zeros = (alg: string) => {
  const header = encode({ alg, kid: alg, typ: "at+jwt" });
  return `${header}.${encode(goodClaims())}.${Buffer.alloc(64).toString("base64url")}`;
};
/** The last character of 256 bytes in base64url has four bits that mean nothing. */
const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const nextLetter = (part: string) =>
  part.slice(0, -1) + ALPHABET[ALPHABET.indexOf(part.at(-1)!) + 1]!;

/** What is wrong with it, the page that says so, what the log says, and the forgery. */
type Row = [wrong: string, source: string, check: string, forge: () => string | Promise<string>];

const FORM = "form";
const grammar: Row[] = [
  ["nothing after Bearer", "RFC 6750, 2.1", FORM, () => ""],
  ["a word", "RFC 7519, 7.2", FORM, () => "garbage"],
  ["a token of another kind", "RFC 7519, 7.2", FORM, () => "ya29.a0AfH6SMBx_opaque"],
  ["two dots and nothing else", "RFC 7519, 7.2", "ERR_JWS_INVALID", () => ".."],
  ["letters beyond ASCII", "RFC 6750, 2.1", FORM, () => "ä.ö.ü"],
  ["two parts", "RFC 7515, 7.1", FORM, async () => (await mint()).replace(/\.[^.]*$/, "")],
  ["four parts", "RFC 7515, 7.1", FORM, async () => `${await mint()}.more`],
  ["five parts, as if encrypted", "RFC 7516, 9", FORM, () => `${encode({ alg: "dir" })}.a.b.c.d`],
  ["two tokens", "RFC 6750, 2.1", FORM, async () => `${await mint()}, Bearer ${await mint()}`],
  ["the same token written as JSON", "RFC 7515, 7.2", FORM, async () => {
    const [header, payload, signature] = (await mint()).split(".");
    return JSON.stringify({ payload, protected: header, signature });
  }],
  ["a TAB in the signature", "RFC 7515, 2", FORM, () =>
    altered(2, (part) => `${part.slice(0, 9)}\t${part.slice(9)}`)],
  ["base64's padding", "RFC 7515, 2", FORM, () => altered(2, (part) => `${part}==`)],
  ["base64's other alphabet", "RFC 7515, 2", FORM, async () =>
    (await saying('"ada"', '"ada???>>>"')).replaceAll("_", "/").replaceAll("-", "+")],
  ["bits that mean nothing", "RFC 4648, 3.5", FORM, () => altered(2, nextLetter)],
  ["a header that isn't JSON", "RFC 7519, 7.2", "ERR_JWS_INVALID", () =>
    altered(0, () => encode("not JSON"))],
  ["a header that is a list", "RFC 7519, 7.2", "ERR_JWS_INVALID", () =>
    altered(0, () => encode([{ alg: "RS256" }]))],
  ["a payload that isn't JSON", "RFC 7519, 7.2", "ERR_JWT_INVALID", () => signed({}, "not JSON")],
  ["a payload that is a list", "RFC 7519, 7.2", "ERR_JWT_INVALID", () =>
    signed({}, [goodClaims()])],
  ["a payload of null", "RFC 7519, 7.2", "ERR_JWT_INVALID", () => signed({}, null)],
  ["a token inside a token", "RFC 8725, 3.3", "ERR_JWT_INVALID", async () =>
    signed({ cty: "JWT" }, await mint())],
  ["a payload that is not encoded", "RFC 7797, 7", FORM, () =>
    sign(`${encode({ ...GOOD, b64: false, crit: ["b64"] })}.${JSON.stringify(goodClaims())}`)],
  ["an extension to be understood", "RFC 7515, 4.1.11", "ERR_JOSE_NOT_SUPPORTED", () =>
    signed({ crit: ["exp"], exp: 1 })],
  ["a list of no extensions", "RFC 7515, 4.1.11", "ERR_JWS_INVALID", () => signed({ crit: [] })],
];

const ALG = "ERR_JOSE_ALG_NOT_ALLOWED";
const CONFUSION = "RFC 8725, 3.1";
const algorithm: Row[] = [
  ["no alg", "RFC 7515, 4.1.1", "ERR_JWS_INVALID", () => unsigned(undefined)],
  ["a list for an alg", "RFC 7515, 4.1.1", "ERR_JWS_INVALID", () => signed({ alg: ["RS256"] })],
  ["alg none and no signature", "RFC 8725, 3.2", ALG, () => unsigned("none")],
  ["alg None", "RFC 8725, 3.2", ALG, () => unsigned("None")],
  ["alg none over a good signature", "RFC 8725, 3.2", ALG, () => signed({ alg: "none" })],
  ["our public PEM as an HMAC secret", CONFUSION, ALG, async () =>
    hs256(text(await exportSPKI(signInKey.publicKey)))],
  ["our public JWK as an HMAC secret", CONFUSION, ALG, () =>
    hs256(text(JSON.stringify(publicJwk)))],
  ["our modulus as an HMAC secret", CONFUSION, ALG, () =>
    hs256(Buffer.from(publicJwk.n!, "base64url"))],
  ["an HMAC secret published by mistake", CONFUSION, ALG, () =>
    hs256(Buffer.from(shared, "base64url"), "shared")],
  ...["RS384", "RS512", "PS512", "ES512"].map((alg): Row => [
    `${alg}, though the key for it is published`, CONFUSION, ALG,
    () => mint({}, { alg, kid: alg }, keys.get(alg)),
  ]),
];

const BROKEN = "ERR_JWS_SIGNATURE_VERIFICATION_FAILED";
const NO_KEY = "ERR_JWKS_NO_MATCHING_KEY";
const strange = (header: object) => signed(header, goodClaims(), stranger.privateKey);
const key: Row[] = [
  ["no signature", "RFC 7515, 5.2", BROKEN, () => altered(2, () => "")],
  ["one letter of the signature changed", "RFC 7515, 5.2", BROKEN, () =>
    altered(2, (part) => (part[0] === "A" ? "B" : "A") + part.slice(1))],
  ["half a signature", "RFC 7515, 5.2", BROKEN, () => altered(2, (part) => part.slice(0, 172))],
  ["the signature of another token", "RFC 7515, 5.2", BROKEN, async () => {
    const [, , other] = (await mint({ sub: "ben" })).split(".");
    return altered(2, () => other!);
  }],
  ["the payload changed after signing", "RFC 7515, 5.2", BROKEN, () =>
    altered(1, () => encode({ ...goodClaims(), sub: "ben" }))],
  ["the header changed after signing", "RFC 7515, 5.2", BROKEN, () =>
    altered(0, () => encode({ ...GOOD, typ: "JWT" }))],
  ["a stranger's key under our kid", "RFC 8725, 3.3", BROKEN, () => strange({})],
  ["a stranger's key, enclosed", "RFC 8725, 3.10", BROKEN, () => strange({ jwk: strangersJwk })],
  ["a stranger's key, and where to get it", "RFC 8725, 3.10", BROKEN, () =>
    strange({ jku: "https://stranger.example/jwks.json" })],
  ["a stranger's key, and its certificate", "RFC 8725, 3.10", BROKEN, () =>
    strange({ x5u: "https://stranger.example/key.pem", x5c: ["MIIB"] })],
  ["a signature by PS256 that says RS256", CONFUSION, BROKEN, async () => {
    const token = await mint({}, { alg: "PS256" }, keys.get("PS256"));
    return token.replace(/^[^.]+/, encode({ alg: "RS256", kid: "test-key" }));
  }],
  ["an ECDSA signature of zeros", "RFC 8725, 3.4", BROKEN, () => zeros("ES256")],
  ["an Ed25519 signature of zeros", "RFC 8725, 3.4", BROKEN, () => zeros("Ed25519")],
  ["a kid that nobody published", "RFC 8725, 3.10", NO_KEY, () => mint({}, { kid: "unheard-of" })],
  ["a kid that climbs out of a folder", "RFC 8725, 3.10", NO_KEY, () =>
    mint({}, { kid: "../../../../dev/null" })],
  ["a kid that asks a database", "RFC 8725, 3.10", NO_KEY, () =>
    mint({}, { kid: "x' union select 'test-key" })],
  ["a number for a kid", "RFC 7515, 4.1.4", NO_KEY, () => signed({ kid: 5 })],
  ["the kid of a key for another algorithm", CONFUSION, NO_KEY, () => mint({}, { kid: "ES256" })],
  ["a published key for encryption", "RFC 7517, 4.2", NO_KEY, () =>
    mint({}, { kid: "for-encryption" }, keys.get("for-encryption"))],
  ["a published key for wrapping keys", "RFC 7517, 4.3", NO_KEY, () =>
    mint({}, { kid: "for-wrapping" }, keys.get("for-wrapping"))],
];

const issuer: Row[] = [
  ["no issuer", "RFC 9068, 2.2", "iss", () => claiming({ iss: undefined })],
  ["another issuer", "RFC 8725, 3.8", "iss", () => mint({ iss: "https://elsewhere.example" })],
  ["our issuer's origin", "RFC 9068, 4", "iss", () => mint({ iss: "http://localhost:8000" })],
  ["our issuer with a slash", "RFC 9068, 4", "iss", () => mint({ iss: `${ISSUER}/` })],
  ["our issuer in capitals", "RFC 7519, 4.1.1", "iss", () => mint({ iss: ISSUER.toUpperCase() })],
  ["our issuer by another name", "RFC 9068, 4", "iss", () =>
    mint({ iss: ISSUER.replace("localhost", "127.0.0.1") })],
  ["an issuer that ours begins", "RFC 9068, 4", "iss", () => mint({ iss: `${ISSUER}.a.example` })],
  ["a list with our issuer in it", "RFC 7519, 4.1.1", "iss", () => claiming({ iss: [ISSUER] })],
  ["the name of mock-auth.ts's people", "RFC 9068, 4", "iss", () => mint({ iss: "local" })],
];

const TOKENS = "MCP authorization, Token Handling";
const audience: Row[] = [
  ["no audience", "RFC 9068, 2.2", "aud", () => claiming({ aud: undefined })],
  ["another server of that service", TOKENS, "aud", () => mint({ aud: "https://a.example/mcp" })],
  ["the app it was given to: an ID token", "RFC 8725, 3.12", "aud", () => mint({ aud: "client" })],
  ["the sign-in service itself", TOKENS, "aud", () => mint({ aud: ISSUER })],
  ["a list without us", "RFC 7519, 4.1.3", "aud", () => mint({ aud: ["https://a.a", ISSUER] })],
  ["an empty list", "RFC 7519, 4.1.3", "aud", () => mint({ aud: [] })],
  ["an empty audience", "RFC 7519, 4.1.3", "aud", () => mint({ aud: "" })],
  ["our origin", "RFC 8725, 3.9", "aud", () => mint({ aud: "http://localhost:8000" })],
  ["our URL with a slash", "RFC 8725, 3.9", "aud", () => mint({ aud: `${RESOURCE}/` })],
  ["our URL in capitals", "RFC 7519, 4.1.3", "aud", () => mint({ aud: RESOURCE.toUpperCase() })],
  ["our URL by another name", "RFC 8725, 3.9", "aud", () =>
    mint({ aud: "http://127.0.0.1:8000/mcp" })],
  ["our URL at another port", "RFC 8725, 3.9", "aud", () =>
    mint({ aud: "http://localhost:8001/mcp" })],
  ["a URL that ours begins", "RFC 8725, 3.9", "aud", () => mint({ aud: `${RESOURCE}-admin` })],
  ["the beginning of our URL", "RFC 8725, 3.9", "aud", () => mint({ aud: RESOURCE.slice(0, -1) })],
  ["two URLs in one text", "RFC 7519, 4.1.3", "aud", () =>
    mint({ aud: `${RESOURCE} https://a.example` })],
  ["a list in a list", "RFC 7519, 4.1.3", "aud", () => claiming({ aud: [[RESOURCE]] })],
  ["an object with our URL as a key", "RFC 7519, 4.1.3", "aud", () =>
    claiming({ aud: { [RESOURCE]: true } })],
];

const YEAR = 366 * 24 * 3600;
const time: Row[] = [
  ["no expiry", "RFC 9068, 2.2", "exp", () => claiming({ exp: undefined })],
  ["an expiry of null", "RFC 7519, 4.1.4", "exp", () => claiming({ exp: null })],
  ["an expiry in words", "RFC 7519, 4.1.4", "exp", () => claiming({ exp: String(noon + 3600) })],
  ["an expiry of true", "RFC 7519, 4.1.4", "exp", () => claiming({ exp: true })],
  ["over for an hour", TOKENS, "exp", () => mint({ exp: noon - 3600 })],
  ["over for three seconds", "RFC 7519, 4.1.4", "exp", () => mint({ exp: noon - 3 })],
  ["over this very second", "RFC 7519, 4.1.4", "exp", () => mint({ exp: noon })],
  ["over since 1970", "RFC 7519, 4.1.4", "exp", () => mint({ exp: 0 })],
  ["good for a year and a second", "RFC 7519, 2", "exp", () => mint({ exp: noon + YEAR + 1 })],
  ["an expiry in milliseconds", "RFC 7519, 2", "exp", () => mint({ exp: (noon + 3600) * 1000 })],
  ["an expiry that never comes", "RFC 7519, 2", "exp", () => saying('"exp":5', '"exp":1e999')],
  ["not valid for another minute", "RFC 7519, 4.1.5", "nbf", () => mint({ nbf: noon + 60 })],
  ["not valid until tomorrow, in words", "RFC 7519, 4.1.5", "nbf", () =>
    claiming({ nbf: "tomorrow" })],
];

const subject: Row[] = [
  ["nobody", "RFC 9068, 2.2", "sub", () => claiming({ sub: undefined })],
  ["an empty name", "RFC 8725, 3.8", "sub", () => mint({ sub: "" })],
  ["null", "RFC 7519, 4.1.2", "sub", () => claiming({ sub: null })],
  ["a number", "RFC 7519, 4.1.2", "sub", () => claiming({ sub: 5 })],
  ["a list", "RFC 7519, 4.1.2", "sub", () => claiming({ sub: ["ada"] })],
  ["an object", "RFC 7519, 4.1.2", "sub", () => claiming({ sub: { id: "ada" } })],
  ["a name that ends in NUL", "RFC 8725, 3.8", "sub", () => mint({ sub: "ada\0" })],
  ["a name of two lines", "RFC 8725, 3.8", "sub", () => mint({ sub: "ada\nben" })],
  ["a name that clears the terminal", "RFC 8725, 3.8", "sub", () => mint({ sub: "a\u001b[2Jb" })],
  ["a control character beyond ASCII", "RFC 8725, 3.8", "sub", () => mint({ sub: "a\u0085b" })],
  ["half a character", "RFC 8725, 3.7", "sub", () => mint({ sub: "ada-\ud83d" })],
  ["a name of 256 characters", "RFC 8725, 3.8", "sub", () => mint({ sub: "a".repeat(256) })],
];

const KIND = "RFC 8725, 3.11";
const KEYCLOAK = "Keycloak's typ claim";
const kind: Row[] = [
  ["a logout token", KIND, "typ", () => mint({}, { typ: "logout+jwt" })],
  ["a security event", KIND, "typ", () => mint({}, { typ: "secevent+jwt" })],
  ["a DPoP proof", KIND, "typ", () => mint({}, { typ: "dpop+jwt" })],
  ["a kind that ends like ours", "RFC 9068, 2.1", "typ", () => mint({}, { typ: "not-at+jwt" })],
  ["a kind that begins like ours", "RFC 9068, 2.1", "typ", () => mint({}, { typ: "at+jwt+more" })],
  ["our kind of another tree", "RFC 7515, 4.1.9", "typ", () => mint({}, { typ: "text/at+jwt" })],
  ["an empty kind", KIND, "typ", () => mint({}, { typ: "" })],
  ["a list of kinds", "RFC 7515, 4.1.9", "typ", () => signed({ typ: ["at+jwt"] })],
  ["a kind of null", "RFC 7515, 4.1.9", "typ", () => signed({ typ: null })],
];
const claimedKind: Row[] = ["ID", "Refresh", "Offline", "Logout", "id"].map((typ): Row => [
  `${typ}, as the payload says`, KEYCLOAK, "typ", () => claiming({ typ }),
]);
const binding: Row[] = [
  ["to a key, sent as if it were not", "RFC 9449, 7.2", "cnf", () =>
    mint({ cnf: { jkt: "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" } })],
  ["to a certificate, sent as if it were not", "RFC 7800, 3.1", "cnf", () =>
    mint({ cnf: { "x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2" } })],
  ["to nothing", "RFC 7800, 3.1", "cnf", () => claiming({ cnf: null })],
];
const UNREADABLE = "RFC 6749, 3.3";
const scope: Row[] = [
  ["a number", UNREADABLE, "scope", () => claiming({ scope: 5 })],
  ["an object", UNREADABLE, "scope", () => claiming({ scope: { "notebook:read": true } })],
  ["a quotation mark", UNREADABLE, "scope", () => claiming({ scope: 'notebook:read "' })],
  ["a line of a header", UNREADABLE, "scope", () => claiming({ scope: "a\r\nx-evil: 1" })],
  ["letters beyond ASCII", UNREADABLE, "scope", () => claiming({ scope: "notebook:réad" })],
];

const tokens: Record<string, Row[]> = {
  grammar,
  algorithm,
  key,
  issuer,
  audience,
  time,
  subject,
  kind,
  "claimed kind": claimedKind,
  binding,
  scope,
};
const METADATA = "http://localhost:8000/.well-known/oauth-protected-resource/mcp";
/** For these two alone the challenge says which one we take: both are public. */
const HINTS: Record<string, string> = { iss: ISSUER, aud: RESOURCE };

describe.each(Object.entries(tokens))("the token's %s", (_, rows) => {
  test.each(rows)("%s (%s)", async (_, __, check, forge) => {
    const { log, asked, ...answer } = await knock(`Bearer ${await forge()}`);
    const hint = HINTS[check] ? `error_description="[^"]*${HINTS[check]}[^"]*", ` : "";
    expect(answer).toEqual({
      status: 401,
      challenge: expect.stringMatching(
        new RegExp(`^Bearer error="invalid_token", ${hint}resource_metadata="${METADATA}"$`),
      ),
      body: '{"error":"invalid_token"}',
    });
    expect(log).toMatchObject([{ at: NOON.toISOString(), outcome: "refused" }]);
    expect(log[0]!.why).toMatch(new RegExp(`^sign-in: ${check}\\b`));
    expect(log[0]!.sub).toBeUndefined(); // it is a name that nobody has proved
    expect(asked).toEqual([]);
  });
});

describe("the table itself", () => {
  test("a good token gets in, and then the store is asked: the rows would be seen", async () => {
    const { status, challenge, log, asked } = await knock(`Bearer ${await mint()}`);
    expect([status, challenge]).toEqual([200, null]);
    expect(log).toMatchObject([{ outcome: "ok", sub: "ada" }]);
    expect(asked).toContain("welcome");
  });

  test.each<[string, () => Promise<string>]>([
    ["signed by the forger's own tool", () => signed({})],
    ...["PS256", "ES256", "ES384", "Ed25519"].map((alg): [string, () => Promise<string>] => [
      `signed with ${alg}`, () => mint({}, { alg, kid: alg }, keys.get(alg)),
    ]),
    ["without a kind", () => signed({ typ: undefined })],
    ["of the kind application/at+jwt", () => mint({}, { typ: "application/AT+JWT" })],
    ["of the kind JWT, and Bearer in itself", () => mint({ typ: "Bearer" }, { typ: "JWT" })],
    ["good for a year", () => mint({ exp: noon + YEAR })],
    ["over in a second", () => mint({ exp: noon + 1 })],
    ["valid in four seconds, by a clock ahead of ours", () => mint({ nbf: noon + 4 })],
    ["with us in a list of audiences", () => mint({ aud: ["https://a.example", RESOURCE] })],
    ["of a name of 255 characters", () => mint({ sub: "a".repeat(255) })],
    ["of a name in another script", () => mint({ sub: "ада 📚" })],
  ])("a good token %s gets in", async (_, make) => {
    expect((await knock(`Bearer ${await make()}`)).status).toBe(200);
  });

  // With a clean signature and one field that differs, there is nothing else to refuse it.
  const alone = [...issuer, ...audience, ...time, ...subject, ...kind, ...claimedKind, ...binding];
  test("each of these rows is wrong in one thing alone", async () => {
    const good = await mint();
    const parts = (token: string) =>
      new Map([decodeProtectedHeader(token), decodeJwt(token)].flatMap(Object.entries));
    for (const [wrong, , check, forge] of alone) {
      const forged = await forge();
      await compactVerify(forged, signInKey.publicKey);
      const [ours, theirs] = [parts(forged), parts(good)];
      const names = [...new Set([...ours.keys(), ...theirs.keys()])];
      const differing = names.filter((name) => !Bun.deepEquals(ours.get(name), theirs.get(name)));
      expect([wrong, differing]).toEqual([wrong, [check]]);
    }
  });

  test("no address that a token named was ever fetched", () => {
    expect(new Set(fetched.map((url) => new URL(url).hostname))).toEqual(new Set(["localhost"]));
  });

  test("no two rows are the same", () => {
    const all = Object.entries(tokens).flatMap(([name, rows]) =>
      rows.map(([wrong]) => `${name}: ${wrong}`));
    expect(new Set(all).size).toBe(all.length);
  });
});

// ---- Session keys ----

const SECRET = "s".repeat(43); // what gateway() signs with
const NO_SESSION =
  "No valid session. Call begin_session, then repeat this call with the new session key.";
const ELSEWHERE = { AUTH_ISSUER: "http://localhost:7/other", AUTH_JWKS_URL: `${ISSUER}/jwks.json` };

/** What a forger may hold at noon: their own keys, other people's, and codes for other things. */
async function hand() {
  at(-600);
  const earlier = (await room.enter()).session; // issued ten minutes ago
  at(0);
  const own = await room.enter();
  await own.use("user_write", { mood: null, notes: { a: "kept", b: null } });
  const elsewhere = await gateway({ env: ELSEWHERE });
  const otherSecret = await gateway({ env: { SESSION_SIGNING_SECRET: `${SECRET}s` } });
  return {
    own: own.session,
    earlier,
    use: own.use,
    token: own.token,
    code: (await own.use("user_forget_me")).structuredContent!.confirm as string,
    others: (await room.enter("ben")).session,
    namesake: (await room.enter("ada ")).session,
    elsewhere: (await elsewhere.enter("ada", { iss: elsewhere.config.issuer })).session,
    otherSecret: (await otherSecret.enter()).session,
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
/** By then the service's keys are asked for again, which happens once a second at most. */
const later = async (seconds: number, key: string) => {
  at(seconds);
  await Bun.sleep(1_000);
  return key;
};
const changed = (key: string) => key.slice(0, 17) + (key[17] === "A" ? "E" : "A");

// MCP security best practices, Session Hijacking; and RFC 8725, 3.12 for another purpose's.
type SessionRow = [wrong: string, forge: (hand: Hand) => unknown];
const sessions: Record<string, SessionRow[]> = {
  missing: [
    ["not there", () => undefined],
    ["null", () => null],
    ["empty", () => ""],
    ["a number", () => 5],
    ["true", () => true],
    ["a list with the key in it", ({ own }) => [own]],
    ["an object that says it is the key", ({ own }) => ({ toString: own, length: 18 })],
    ["the sign-in token instead", ({ token }) => token],
  ],
  altered: [
    ["made up, of the right length", () => "A".repeat(18)],
    ["made up of the alphabet's other end", () => "_".repeat(18)],
    ["without its last character", ({ own }) => own.slice(0, -1)],
    ["without its first character", ({ own }) => own.slice(1)],
    ["cut down to its expiry", ({ own }) => own.slice(0, 6)],
    ["one character longer", ({ own }) => `${own}A`],
    ["twice over", ({ own }) => own + own],
    ["with base64's padding", ({ own }) => `${own}=`],
    ["with a space after", ({ own }) => `${own} `],
    ["with a line end after", ({ own }) => `${own}\n`],
    ["with a space for its last character", ({ own }) => `${own.slice(0, 17)} `],
    ["in capitals", ({ own }) => own.toUpperCase()],
    ["in base64's other alphabet", ({ own }) => `${own.slice(0, 16)}+/`],
    ["ending beyond ASCII", ({ own }) => `${own.slice(0, 17)}ä`],
    ["ending in half a character", ({ own }) => `${own.slice(0, 17)}\ud83d`],
    ["18 emoji", () => "🙂".repeat(18)],
    ["a hundred thousand characters", () => "A".repeat(100_000)],
    ["its last character another", ({ own }) => changed(own)],
    ["an earlier key with a later expiry", ({ own, earlier }) => expiring(earlier, expiryOf(own))],
    ["its expiry a second later", ({ own }) => expiring(own, expiryOf(own) + 1)],
    ["its expiry the end of time", ({ own }) => expiring(own, 0xffff_ffff)],
  ],
  expired: [
    ["over this very second", ({ own }) => later(3600, own)],
    ["over for a month", ({ own }) => later(30 * 24 * 3600, own)],
    ["over, and a newer one is good", ({ earlier }) => later(3100, earlier)],
  ],
  "another's": [
    ["another person's", ({ others }) => others],
    ["a person's whose name begins like ours", ({ namesake }) => namesake],
    ["our namesake's of another issuer", ({ elsewhere }) => elsewhere],
    ["ours, from a room with another secret", ({ otherSecret }) => otherSecret],
  ],
  "another purpose's": [["the code that erases", ({ code }) => code]],
};

describe.each(Object.entries(sessions))("the session key is %s", (_, rows) => {
  test.each(rows)("%s", async (_, forge) => {
    const held = await hand();
    expect((await held.use("user_get_state")).isError).toBeUndefined(); // all else is right
    const session = await forge(held);
    const token = await mint();
    room.log.length = asked.length = 0;
    const call = { name: "user_write", arguments: { session, mood: "forged" } };
    const { status, headers, body } = await room.rpc("tools/call", call, token);
    // A 401 would make the host start a sign-in.
    expect([status, headers.get("www-authenticate")]).toEqual([200, null]);
    expect(body.result).toEqual({ isError: true, content: [{ type: "text", text: NO_SESSION }] });
    expect(room.log).toMatchObject([{ sub: "ada", tool: "user_write", why: "session" }]);
    expect(asked).toEqual([]);
  });
});

// The other way round: what opens the room must not erase it. The store is read, and no more.
describe("the code that erases", () => {
  test.each<SessionRow>([
    ["is the session key", ({ own }) => own],
    ["has another last character", ({ code }) => changed(code)],
    ["is another person's session key", ({ others }) => others],
    ["is over this very second", ({ code }) => (at(300), code)],
    ["is older than the last save", async ({ code, use }) => {
      await use("user_write", { notes: { b: "since" } });
      return code;
    }],
    ["is yes", () => "yes"],
    ["is empty", () => ""],
  ])("%s", async (_, forge) => {
    const held = await hand();
    const confirm = await forge(held);
    room.log.length = asked.length = 0;
    const { isError, content } = await held.use("user_forget_me", { confirm });
    expect([isError, content[0]!.text]).toEqual([
      true,
      expect.stringMatching(/^confirm .*Nothing was erased\.$/),
    ]);
    expect(room.log).toMatchObject([{ tool: "user_forget_me", why: "confirm" }]);
    expect(new Set(asked)).toEqual(new Set(["read"]));
    const { state } = (await held.use("user_get_state")).structuredContent!;
    expect(state.notes.a).toBe("kept");
  });
});
