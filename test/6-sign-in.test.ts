// Section 6: whose token is this? What opens the door, what is no token at all, and what happens when there are no keys to
// check with. Tokens with one fault, and the check that refuses each, are the table of forgery.test.ts.

import { afterAll, afterEach, expect, setSystemTime, test } from "bun:test";
import { exportJWK, generateKeyPair, type CryptoKey } from "jose";
import { sqliteStore } from "../main.ts";
import { desk, freePort, goodClaims, ISSUER, keyServer, mint, publicJwk, RESOURCE } from "./support.ts";

type Desk = Awaited<ReturnType<typeof desk>>;
afterEach(() => void setSystemTime());

const METADATA = "http://localhost:8000/.well-known/oauth-protected-resource/mcp";
const listTools = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/list", params: {} });
const headers = { "content-type": "application/json", accept: "application/json, text/event-stream" };

/** POST /mcp with this Authorization header, and what was logged of it. */
async function knock({ send, log }: Desk, authorization?: string) {
  log.length = 0;
  const response = await send("/mcp", { method: "POST", headers: { ...headers, ...(authorization !== undefined && { authorization }) }, body: listTools });
  return { status: response.status, challenge: response.headers.get("www-authenticate"), retryAfter: response.headers.get("retry-after"), body: await response.text(), log: [...log] };
}
const now = () => Math.floor(Date.now() / 1000);
/** A good token but for these claims, of whatever type. */
const claiming = (claims: Record<string, unknown>) => mint(claims);
const encode = (part: unknown) => Buffer.from(typeof part === "string" ? part : JSON.stringify(part)).toString("base64url");

// One service that publishes a key of every kind that we take.
const taken = ["PS256", "ES256", "ES384", "EdDSA", "Ed25519"];
const others = new Map<string, CryptoKey>();
const published: object[] = [publicJwk];
for (const alg of taken) {
  const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true });
  others.set(alg, privateKey);
  published.push({ ...(await exportJWK(publicKey)), kid: alg, alg, use: "sig" });
}
const room = await desk({ keys: keyServer(published) });

// ---- Good tokens ----

test.each<[string, () => Promise<string>]>([
  ["a good token", () => mint()],
  ["our audience among others", () => mint({ aud: ["https://elsewhere.example/mcp", RESOURCE] })],
  ["an expiry right ahead", () => mint({ exp: now() + 5 })],
  ["an expiry a year ahead", () => mint({ exp: now() + 365 * 24 * 3600 })],
  ["a clock a little ahead of ours", () => mint({ nbf: now() + 3, iat: now() + 3 })],
  ["an nbf that is over", () => mint({ nbf: now() - 60 })],
  ["no kid, and one key that fits", () => mint({}, { kid: undefined })],
  ["no typ", () => mint({}, { typ: undefined })],
  ["typ JWT", () => mint({}, { typ: "JWT" })],
  ["typ jwt", () => mint({}, { typ: "jwt" })],
  ["typ at+jwt", () => mint({}, { typ: "at+jwt" })],
  ["typ AT+JWT", () => mint({}, { typ: "AT+JWT" })],
  ["typ application/at+jwt", () => mint({}, { typ: "application/at+jwt" })],
  ["a sub of one character", () => mint({ sub: "a" })],
  ["a sub of 255 characters", () => mint({ sub: "a".repeat(255) })],
  ["a sub beyond ASCII", () => mint({ sub: "läser|🙂 o'neil" })],
  ["claims that nobody asked for", () => mint({ role: "admin", azp: "x", email: 5 })],
  ...taken.map((alg): [string, () => Promise<string>] => [`a key for ${alg}`, () => mint({}, { alg, kid: alg }, others.get(alg))]),
])("%s opens the door", async (_, token) => {
  expect(await knock(room, `Bearer ${await token()}`)).toMatchObject({ status: 200, challenge: null });
});

test.each(["Bearer ", "bearer ", "BEARER ", "bEaReR ", "Bearer   "])('the scheme may be written "%s"', async (scheme) => {
  expect((await knock(room, scheme + (await mint()))).status).toBe(200);
});

// ---- Bad tokens: forgery.test.ts has the table ----

test("two Authorization headers are not a choice", async () => {
  const both = new Headers(headers);
  for (const token of [await mint(), await mint({ sub: "reader-B" })]) both.append("authorization", `Bearer ${token}`);
  both.set("host", "localhost:8000");
  expect((await room.app(new Request("http://localhost:8000/mcp", { method: "POST", headers: both, body: listTools }))).status).toBe(401);
});

// ---- No token ----

const good = await mint();
test.each<[string, string | undefined]>([
  ["nothing", undefined],
  ["an empty header", ""],
  ["Basic", `Basic ${encode("reader:word")}`],
  ["a good token under another scheme", `DPoP ${good}`],
  ["a good token under a scheme that begins alike", `Bearerish ${good}`],
  ["a good token without a scheme", good],
])("who sends %s is told where to sign in, and of no error", async (_, authorization) => {
  expect(await knock(room, authorization)).toMatchObject({ status: 401, challenge: `Bearer resource_metadata="${METADATA}"`, log: [] });
});

test.each<[string, string, RequestInit]>([
  ["the query", `/mcp?access_token=${good}`, { headers, body: listTools }],
  ["a form", "/mcp", { headers: { ...headers, "content-type": "application/x-www-form-urlencoded" }, body: `access_token=${good}` }],
  ["the JSON", "/mcp", { headers, body: JSON.stringify({ ...JSON.parse(listTools), access_token: good, params: { _meta: { authorization: `Bearer ${good}` } } }) }],
  ["a cookie", "/mcp", { headers: { ...headers, cookie: `access_token=${good}` }, body: listTools }],
])("a good token in %s is no token", async (_, path, init) => {
  const response = await room.send(path, { method: "POST", ...init });
  expect([response.status, response.headers.get("www-authenticate")]).toEqual([401, `Bearer resource_metadata="${METADATA}"`]);
});

// ---- Scopes ----

const scoped = await desk({ env: { AUTH_SCOPES: "read:shelf write:shelf" } });
test.each<[string, unknown]>([
  ["none", undefined],
  ["an empty one", ""],
  ["one of two", "read:shelf"],
  ["the other of two", "write:shelf"],
  ["others", "read write shelf"],
  ["one that begins alike", "read:shelf write:shelves"],
  ["both run together", "read:shelf,write:shelf"],
])("a good token without every scope is 403 and told which: %s", async (_, scope) => {
  const { log, ...answer } = await knock(scoped, `Bearer ${await claiming({ scope })}`);
  expect(answer).toMatchObject({ status: 403, challenge: `Bearer error="insufficient_scope", scope="read:shelf write:shelf", resource_metadata="${METADATA}"` });
  expect(log).toEqual([{ at: expect.any(String), ref: expect.any(String), outcome: "refused", why: "sign-in: scope" }]);
});
test.each(["read:shelf write:shelf", "openid write:shelf email read:shelf"])("a good token with every scope passes: %s", async (scope) => {
  expect((await knock(scoped, `Bearer ${await mint({ scope })}`)).status).toBe(200);
});
test("a bad token is 401 before its scopes are looked at", async () => {
  const { status, challenge } = await knock(scoped, `Bearer ${await mint({ aud: "https://elsewhere.example/mcp" })}`);
  expect([status, challenge]).toEqual([401, `Bearer error="invalid_token", scope="read:shelf write:shelf", resource_metadata="${METADATA}"`]);
});

// ---- Keys that can't be had ----

const keySet = () => Response.json({ keys: [publicJwk] });
let answerKeys: (request: Request) => Response | Promise<Response> = keySet;
const service = Bun.serve({ port: 0, hostname: "127.0.0.1", idleTimeout: 30, fetch: (request) => (new URL(request.url).pathname === "/good.json" ? keySet() : answerKeys(request)) });
afterAll(() => service.stop(true));
const issuer = `http://127.0.0.1:${service.port}`;
/** A gateway that fetches its keys over the network. */
const networked = (jwks = `${issuer}/jwks.json`) => desk({ env: { AUTH_ISSUER: issuer, AUTH_JWKS_URL: jwks }, keys: async () => undefined });

const KIND_ALONE = /^sign-in: \w+( \w+)?( main\.ts:\d+)?$/; // no message: it can hold a host

test.each<[string, () => Response | Promise<Response>]>([
  ["500", () => new Response("down", { status: 500 })],
  ["404", () => new Response("nothing here", { status: 404 })],
  ["429 with good keys", () => Response.json({ keys: [publicJwk] }, { status: 429 })],
  ["a redirect to good keys", () => Response.redirect(`${issuer}/good.json`)],
  ["a page", () => new Response("<!doctype html><title>Maintenance</title>", { headers: { "content-type": "text/html" } })],
  ["half a JSON", () => new Response('{"keys": [')],
  ["an empty body", () => new Response("")],
  ["an empty object", () => Response.json({})],
  ["a list", () => Response.json([publicJwk])],
  ["keys that aren't objects", () => Response.json({ keys: ["key"] })],
  ["a key without its number", () => Response.json({ keys: [{ ...publicJwk, n: undefined }] })],
  ["silence", () => new Promise<Response>(() => {})],
  ["a beginning, then silence", () => new Response(new ReadableStream({ start: (stream) => stream.enqueue('{"keys": [') }))],
])("when the key service answers %s, a good token is 503 within 5 s, and good again once it recovers", async (_, trouble) => {
  const gateway = await networked();
  const token = await mint({ iss: issuer });
  answerKeys = trouble;
  const started = performance.now();
  const { log, ...answer } = await knock(gateway, `Bearer ${token}`);
  expect(performance.now() - started).toBeLessThan(5_000);
  expect(answer).toEqual({ status: 503, challenge: null, retryAfter: expect.stringMatching(/^[1-9]\d*$/) as unknown as string, body: '{"error":"temporarily_unavailable"}' });
  expect(log).toEqual([{ at: expect.any(String), ref: expect.any(String), outcome: "failed", error: expect.stringMatching(KIND_ALONE) }]);
  answerKeys = keySet;
  setSystemTime(new Date(Date.now() + 11 * 60_000)); // whatever was remembered of the bad answer is old by now
  expect((await knock(gateway, `Bearer ${await mint({ iss: issuer })}`)).status).toBe(200);
});

test("when nobody listens where the keys should be, a good token is 503", async () => {
  const gateway = await networked(`http://127.0.0.1:${await freePort()}/jwks.json`);
  expect(await knock(gateway, `Bearer ${await mint({ iss: issuer })}`)).toMatchObject({ status: 503, retryAfter: expect.any(String), log: [{ outcome: "failed", error: expect.stringMatching(KIND_ALONE) }] });
});

test("a token that is bad by itself is 401, even when no keys can be had", async () => {
  answerKeys = () => new Response("down", { status: 500 });
  expect((await knock(await networked(), "Bearer garbage")).status).toBe(401);
  const unsigned = `${encode({ alg: "none", kid: "test-key" })}.${encode(goodClaims())}.`;
  expect((await knock(await networked(), `Bearer ${unsigned}`)).status).toBe(401);
});

test("keys that are known serve on while the key service is away", async () => {
  answerKeys = keySet;
  const gateway = await networked();
  const token = await mint({ iss: issuer });
  expect((await knock(gateway, `Bearer ${token}`)).status).toBe(200);
  answerKeys = () => new Response("down", { status: 500 });
  expect((await knock(gateway, `Bearer ${token}`)).status).toBe(200);
});

test("a new key is taken once it is published, and an unknown kid does not make us ask at every call", async () => {
  let asked = 0;
  let keys: object[] = [publicJwk];
  answerKeys = () => (asked++, Response.json({ keys }));
  const gateway = await networked();
  const next = () => mint({ iss: issuer }, { alg: "ES256", kid: "ES256" }, others.get("ES256"));
  expect((await knock(gateway, `Bearer ${await mint({ iss: issuer })}`)).status).toBe(200);
  for (let call = 0; call < 5; call++) expect((await knock(gateway, `Bearer ${await next()}`)).status).toBe(401);
  expect(asked).toBe(1);
  keys = published;
  setSystemTime(new Date(Date.now() + 11_000));
  expect((await knock(gateway, `Bearer ${await next()}`)).status).toBe(200);
  expect((await knock(gateway, `Bearer ${await mint({ iss: issuer })}`)).status).toBe(200);
  expect(asked).toBe(2);
});

// ---- Who is here ----

test("the same sub from another issuer is another person", async () => {
  const store = await sqliteStore(":memory:");
  const here = await desk({ store });
  const there = await desk({ store, env: { AUTH_ISSUER: "http://localhost:8000/other", AUTH_JWKS_URL: `${ISSUER}/jwks.json` } });
  const [ours, theirs] = [await here.enter("reader-A"), await there.enter("reader-A", { iss: there.config.issuer })];
  await ours.use("user_save_state", { shelf: { a1: "ours" } });
  expect((await theirs.use("user_get_state")).structuredContent).toMatchObject({ state: { reading: null, shelf: {} } });
  expect((await ours.use("user_get_state")).structuredContent).toMatchObject({ state: { shelf: { a1: "ours" } } });
  expect((await store.readState(`${ISSUER}|reader-A`)).shelf).toEqual({ a1: "ours" });
});

test("nothing in a request can name a person, except the token", async () => {
  const room = await desk();
  const { token, session } = await room.enter("reader-A");
  const other = "reader-B";
  const { body } = await room.rpc("tools/call", {
    name: "user_save_state", arguments: { session, shelf: { a1: "first" } }, sub: other, user: other, authInfo: { extra: { person: { id: `${ISSUER}|${other}`, sub: other } } },
    _meta: { sub: other, user_id: `${ISSUER}|${other}` },
  }, token);
  expect(body.result.structuredContent.state.shelf).toEqual({ a1: "first" });
  expect((await room.store.readState(`${ISSUER}|${other}`)).shelf).toEqual({});
  expect(room.log.map((line) => line.sub)).toEqual(["reader-A", "reader-A"]);
  for (const name of ["sub", "user", "user_id", "email", "person"]) {
    expect(await room.call("begin_session", { [name]: other }, token)).toMatchObject({ isError: true, content: [{ text: expect.stringMatching(new RegExp(`^${name} `)) }] });
    expect(await room.call("user_get_state", { session, [name]: other }, token)).toMatchObject({ isError: true });
  }
});

test.each<[string, unknown, string | null]>([
  ["an address", "a@example.com", "a@example.com"],
  ["none", undefined, null],
  ["null", null, null],
  ["an empty one", "", null],
  ["a number", 5, null],
  ["a list", ["a@example.com"], null],
  ["one with NUL", "a@example.com\0", null],
  ["one that no mail server would take", `${"a".repeat(320)}@example.com`, null],
])("the e-mail address is the token's, or null: %s", async (_, email, expected) => {
  const { use } = await (await desk()).enter("reader-A", { email });
  expect((await use("user_get_profile")).structuredContent!.profile.email).toBe(expected);
});

test.each<[string, () => Promise<string | undefined>]>([
  ["nothing", async () => undefined],
  ["garbage", async () => "garbage"],
  ["somebody's good token", () => mint({ sub: "reader-A", email: "a@example.com" })],
])("with AUTH_DISABLED=1 everybody is local-demo, whoever brings %s", async (_, bring) => {
  const room = await desk({ env: { AUTH_DISABLED: "1" } });
  const token = await bring();
  const { session } = (await room.rpc("tools/call", { name: "begin_session", arguments: {} }, token)).body.result.structuredContent;
  const { body } = await room.rpc("tools/call", { name: "user_get_profile", arguments: { session } }, token);
  expect(body.result.structuredContent.profile.email).toBe(null);
  expect(room.log.map((line) => line.sub)).toEqual(["local-demo", "local-demo"]);
});
