// Section 3: whose token is this? What opens the door and what doesn't, one fault at a time; what
// happens without keys to check with; and who is here then. (proof/forgery.proof.ts goes on.)

import { afterEach, expect, setSystemTime, spyOn, test } from "bun:test";
import { exportJWK, generateKeyPair, type CryptoKey } from "jose";
import { type LogLine, sqliteStore, tokenCheck } from "../main.ts";
import { atEnd } from "./cleanup.ts";
import { gateway, goodClaims, ISSUER, keyServer, mint, publicJwk, RESOURCE, signInKey }
  from "./support.ts";

type Room = Awaited<ReturnType<typeof gateway>>;
afterEach(() => void setSystemTime());

const ORIGIN = "http://localhost:8000";
const METADATA = `resource_metadata="${ORIGIN}/.well-known/oauth-protected-resource/mcp"`;
const HEADERS = {
  "content-type": "application/json",
  accept: "application/json, text/event-stream",
};
const LIST = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/list", params: {} });
const now = () => Math.floor(Date.now() / 1000);

/** Asks for the menu with this Authorization header. */
async function knock({ send, log }: Room, authorization?: string) {
  log.length = 0;
  const headers = { ...HEADERS, ...(authorization !== undefined && { authorization }) };
  const response = await send("/mcp", { method: "POST", headers, body: LIST });
  return {
    status: response.status,
    challenge: response.headers.get("www-authenticate"),
    retryAfter: response.headers.get("retry-after"),
    body: await response.text(),
    log: [...log] as Partial<LogLine>[],
  };
}

// A service that publishes a key of each kind that we take, and one of a kind that we don't.
const others = new Map<string, CryptoKey>();
const published: object[] = [publicJwk];
for (const alg of ["PS256", "ES256", "ES384", "EdDSA", "Ed25519", "RS384"]) {
  const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true });
  others.set(alg, privateKey);
  published.push({ ...(await exportJWK(publicKey)), kid: alg, use: "sig" });
}
const by = (alg: string, header = {}) => () =>
  mint({}, { alg, kid: alg, ...header }, others.get(alg));
const without = (claim: string) => () => mint({ [claim]: undefined });
const stranger = (await generateKeyPair("RS256")).privateKey;

const room = await gateway({ keys: keyServer(published) });

// ---- Good tokens ----

test.each<[string, () => Promise<string>]>([
  ["a good token", () => mint()],
  ["our audience among others", () => mint({ aud: ["https://other.example/mcp", RESOURCE] })],
  ["an expiry right ahead", () => mint({ exp: now() + 3 })],
  ["an expiry a year ahead", () => mint({ exp: now() + 365 * 24 * 3600 })],
  ["a clock that is ahead of ours", () => mint({ nbf: now() + 3, iat: now() + 3 })],
  ["no kid, and one key that fits", by("ES384", { kid: undefined })],
  ["no typ", () => mint({}, { typ: undefined })],
  ["typ JWT", () => mint({}, { typ: "JWT" })],
  ["typ application/at+jwt", () => mint({}, { typ: "application/at+jwt" })],
  ["Keycloak's own typ", () => mint({ typ: "Bearer" })],
  ["a sub of 255 characters", () => mint({ sub: "a".repeat(255) })],
  ["a sub beyond ASCII", () => mint({ sub: "läser|🙂 o'neil" })],
  ["claims nobody asked for", () => mint({ role: "admin", email: 5 })],
  ["a key for PS256", by("PS256")],
  ["a key for ES256", by("ES256")],
  ["a key for ES384", by("ES384")],
  ["a key for EdDSA", by("EdDSA")],
  ["a key for Ed25519", by("Ed25519")],
])("%s opens the door", async (_, token) => {
  expect(await knock(room, `Bearer ${await token()}`)).toMatchObject({ status: 200, log: [] });
});

test.each(["bearer ", "BEARER ", "Bearer   "])('the scheme may be written "%s"', async (scheme) => {
  expect((await knock(room, scheme + (await mint()))).status).toBe(200);
});

// ---- Bad tokens ----

const encode = (part: object) => Buffer.from(JSON.stringify(part)).toString("base64url");
async function hmacByPublicKey(): Promise<string> {
  const head = `${encode({ alg: "HS256", kid: "test-key" })}.${encode(goodClaims())}`;
  const spki = await crypto.subtle.exportKey("spki", signInKey.publicKey);
  const secret = Buffer.from(spki).toString("base64");
  return `${head}.${new Bun.CryptoHasher("sha256", secret).update(head).digest("base64url")}`;
}
/** The same signature in another spelling: its last character has four bits that mean nothing. */
const respelled = (token: string) => {
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  return token.slice(0, -1) + alphabet[alphabet.indexOf(token.at(-1)!) + 1];
};
const year = 366 * 24 * 3600;

test.each<[string, string, () => Promise<string>]>([
  ["nonsense", "form", async () => "nonsense"],
  ["an opaque token", "form", async () => "oat_1234567890.abcdef"],
  ["a tab in its signature", "form", async () => (await mint()).replace(/(.{9})$/, "\t$1")],
  ["padding at its end", "form", async () => `${await mint()}==`],
  ["its signature respelled", "form", async () => respelled(await mint())],
  ["no signature", "ERR_J", async () => `${encode({ alg: "none" })}.${encode(goodClaims())}.`],
  ["the public key as a shared secret", "ERR_J", hmacByPublicKey],
  ["an algorithm that nobody chose", "ERR_J", by("RS384")],
  ["a stranger's signature", "ERR_J", () => mint({}, {}, stranger)],
  ["an unknown key", "ERR_J", () => mint({}, { kid: "unknown" })],
  ["another issuer", "iss", () => mint({ iss: "https://elsewhere.example" })],
  ["an issuer with a slash", "iss", () => mint({ iss: `${ISSUER}/` })],
  ["no issuer", "iss", without("iss")],
  ["another audience", "aud", () => mint({ aud: "https://elsewhere.example/mcp" })],
  ["an audience without its path", "aud", () => mint({ aud: "http://localhost:8000" })],
  ["no audience", "aud", without("aud")],
  ["an expiry that is over", "exp", () => mint({ exp: now() - 1 })],
  ["no expiry", "exp", without("exp")],
  ["an expiry ages ahead", "exp", () => mint({ exp: now() + year + 60 })],
  ["an expiry in milliseconds", "exp", () => mint({ exp: Date.now() })],
  ["a beginning ahead", "nbf", () => mint({ nbf: now() + 60 })],
  ["no sub", "sub", without("sub")],
  ["an empty sub", "sub", () => mint({ sub: "" })],
  ["a sub of 256 characters", "sub", () => mint({ sub: "a".repeat(256) })],
  ["a sub with NUL", "sub", () => mint({ sub: "ada\0" })],
  ["a sub with half a character", "sub", () => mint({ sub: "ada\ud83d" })],
  ["a logout token's typ", "typ", () => mint({}, { typ: "logout+jwt" })],
  ["a proof's typ", "typ", () => mint({}, { typ: "dpop+jwt" })],
  ["an ID token's typ, inside", "typ", () => mint({ typ: "ID" }, { typ: "JWT" })],
  ["a refresh token's typ, inside", "typ", () => mint({ typ: "Refresh" }, { typ: "JWT" })],
  ["an offline token's typ, inside", "typ", () => mint({ typ: "Offline" }, { typ: "JWT" })],
  ["a logout token's typ, inside", "typ", () => mint({ typ: "Logout" }, { typ: "JWT" })],
  ["a key that it is bound to", "cnf", () => mint({ cnf: { jkt: "x" } })],
  ["scopes that can't be read", "scope", () => mint({ scope: { read: true } })],
])("a token with %s is 401, and the log names the check of %s", async (_, check, token) => {
  const { status, challenge, body, log } = await knock(room, `Bearer ${await token()}`);
  expect(status).toBe(401);
  expect(challenge).toStartWith('Bearer error="invalid_token", ');
  expect(challenge).toEndWith(METADATA);
  expect(body).toBe('{"error":"invalid_token"}');
  expect(log).toMatchObject([{ outcome: "refused" }]);
  expect(log[0]!.why).toStartWith(`sign-in: ${check}`);
});

test.each<[string, Record<string, unknown>, string, string]>([
  [
    "aud",
    { aud: "http://localhost:8000" },
    `aud has to be ${RESOURCE}`,
    `sign-in: aud, aud has to be ${RESOURCE}, came "http://localhost:8000"`,
  ],
  [
    "iss",
    { iss: "https://elsewhere.example" },
    `iss has to be ${ISSUER}`,
    `sign-in: iss, iss has to be ${ISSUER}, came "https://elsewhere.example"`,
  ],
])("who brings a wrong %s is told what we take", async (_, claims, told, why) => {
  const { challenge, log } = await knock(room, `Bearer ${await mint(claims)}`);
  const said = `error="invalid_token", error_description="${told}"`;
  expect(challenge).toBe(`Bearer ${said}, ${METADATA}`);
  expect(log).toMatchObject([{ why }]); // and the log, what came
});

test("of any other fault the caller is told nothing; the log says when it was no JWT", async () => {
  const { challenge, log } = await knock(room, "Bearer oat_1234567890");
  expect(challenge).toBe(`Bearer error="invalid_token", ${METADATA}`);
  expect(log).toMatchObject([{ why: "sign-in: form, came not a JWT" }]);
});

test("what a forged token says is not in the log", async () => {
  const { log } = await knock(room, `Bearer ${await mint({ aud: "canary" }, {}, stranger)}`);
  expect(JSON.stringify(log)).not.toContain("canary");
});

// ---- No token ----

const good = await mint();
test.each<[string, string | undefined]>([
  ["nothing", undefined],
  ["an empty header", ""],
  ["another scheme", "Basic YWRhOndvcmQ="],
  ["a good token under another scheme", `DPoP ${good}`],
  ["a good token under a scheme that begins alike", `Bearerish ${good}`],
  ["a good token without a scheme", good],
])("who brings %s is told where to sign in, and of no error", async (_, authorization) => {
  const { status, challenge, log } = await knock(room, authorization);
  expect({ status, challenge }).toEqual({ status: 401, challenge: `Bearer ${METADATA}` });
  expect(log).toEqual([]);
});

const inJson = JSON.stringify({ ...JSON.parse(LIST), access_token: good });
test.each<[string, string, RequestInit]>([
  ["the query", `/mcp?access_token=${good}`, { headers: HEADERS, body: LIST }],
  ["the body", "/mcp", { headers: HEADERS, body: inJson }],
  ["a cookie", "/mcp", { headers: { ...HEADERS, cookie: `access_token=${good}` }, body: LIST }],
])("a good token in %s is no token", async (_, path, init) => {
  const response = await room.send(path, { method: "POST", ...init });
  expect(response.status).toBe(401);
  expect(response.headers.get("www-authenticate")).toBe(`Bearer ${METADATA}`);
});

test("two tokens are not a choice", async () => {
  const headers = new Headers({ ...HEADERS, host: "localhost:8000" });
  for (const token of [good, await mint({ sub: "ben" })]) {
    headers.append("authorization", `Bearer ${token}`);
  }
  const request = new Request(RESOURCE, { method: "POST", headers, body: LIST });
  expect((await room.fetch(request)).status).toBe(401);
});

// ---- Scopes that every token has to carry ----

const scoped = await gateway({ env: { AUTH_SCOPES: "one:a two:b" } });
test.each<[string, object, number]>([
  ["none", {}, 403],
  ["one of two", { scope: "one:a" }, 403],
  ["one that begins alike", { scope: "one:a two:bc" }, 403],
  ["both run together", { scope: "one:a,two:b" }, 403],
  ["both among others", { scope: "openid two:b email one:a" }, 200],
  ["both, named scp", { scp: "one:a two:b" }, 200],
  ["both, as a list", { scope: ["one:a", "two:b"] }, 200],
])("where two scopes are wanted, a token with %s", async (_, claims, status) => {
  const answer = await knock(scoped, `Bearer ${await mint({ sub: "ada", ...claims })}`);
  expect(answer.status).toBe(status);
  if (status === 200) return;
  const said = 'error="insufficient_scope", scope="one:a two:b"';
  expect(answer.challenge).toBe(`Bearer ${said}, ${METADATA}`);
  expect(answer.log).toMatchObject([{ sub: "ada", outcome: "refused", why: "sign-in: scope" }]);
});

test("once one of the app's own scopes is wanted, both are offered", async () => {
  const own = await gateway({ env: { AUTH_SCOPES: "openid notebook:read" } });
  const both = "openid notebook:read notebook:write"; // apps ask for what is offered: to save, too
  expect((await knock(own)).challenge).toBe(`Bearer scope="${both}", ${METADATA}`);
  const metadata = await own.send("/.well-known/oauth-protected-resource/mcp");
  expect(await metadata.json()).toMatchObject({ scopes_supported: both.split(" ") });
  const reader = await mint({ scope: "openid notebook:read" });
  expect((await knock(own, `Bearer ${reader}`)).status).toBe(200);
});

// ---- Keys that can't be had ----

/** A gateway whose sign-in service gives its keys like this, and how often it was asked. */
async function withService(answer: (request: Request) => Response | Promise<Response>) {
  const service = { asked: 0, answer };
  const keys = async (request: Request) => {
    if (!request.url.endsWith("/jwks.json")) return undefined;
    service.asked++;
    return service.answer(request);
  };
  return { service, ...(await gateway({ keys })) };
}
const keySet = () => Response.json({ keys: published });
const megabyte = "x".repeat(1024 * 1024);

test.each<[string, () => Response]>([
  ["answers 500", () => new Response("down", { status: 500 })],
  ["answers 404", () => new Response("nothing here", { status: 404 })],
  ["answers 429 with good keys", () => Response.json({ keys: published }, { status: 429 })],
  ["sends a page", () => new Response("<!doctype html><title>Maintenance</title>")],
  ["breaks off", () => new Response('{"keys": [')],
  ["sends no keys", () => Response.json({})],
  ["sends what isn't keys", () => Response.json({ keys: ["key"] })],
  ["sends half a key", () => Response.json({ keys: [{ ...publicJwk, n: undefined }] })],
  ["sends a megabyte", () => Response.json({ keys: published, megabyte })],
  ["can't be reached", () => { throw new TypeError("fetch failed: 10.0.0.7"); }],
])("when the key service %s, a good token is 503, never 401", async (_, trouble) => {
  const { status, challenge, retryAfter, body, log } =
    await knock(await withService(trouble), `Bearer ${good}`);
  expect({ status, challenge, body })
    .toEqual({ status: 503, challenge: null, body: '{"error":"temporarily_unavailable"}' });
  expect(retryAfter).toMatch(/^[1-9]\d*$/);
  expect(log).toMatchObject([{ outcome: "failed" }]);
  expect(log[0]!.error).toMatch(/^sign-in: \S/);
  expect(JSON.stringify(log)).not.toMatch(/10\.0\.0\.7|localhost/); // a message can hold a host
});

test("a good token that fits two keys, and names neither, is 503", async () => {
  const token = await mint({}, { kid: undefined });
  expect(await knock(room, `Bearer ${token}`)).toMatchObject({ status: 503, challenge: null });
});

test("of a key set without end no more than 64 KiB are read", async () => {
  let sent = 0;
  const chunk = new TextEncoder().encode(" ".repeat(16 * 1024));
  const pull = (stream: ReadableStreamDefaultController) => {
    sent += chunk.length;
    stream.enqueue(chunk);
  };
  const endless = await withService(() => new Response(new ReadableStream({ pull })));
  const { status, log } = await knock(endless, `Bearer ${good}`);
  expect(status).toBe(503);
  expect(log[0]!.error).toContain("64 KiB");
  expect(sent).toBeLessThan(160 * 1024);
});

test.concurrent.each<[string, () => Response]>([
  ["says so", () => new Response("down", { status: 500 })],
  ["sends a page instead", () => new Response("<!doctype html><title>Maintenance</title>")],
])("a key service in trouble that %s is asked once a second", async (_, trouble) => {
  const { service, ...gate } = await withService(trouble);
  const made = await Promise.all(Array.from({ length: 50 }, (_, n) => mint({}, { kid: `${n}` })));
  for (const token of [...made, good]) {
    expect((await knock(gate, `Bearer ${token}`)).status).toBe(503);
  }
  expect(service.asked).toBe(1);
  service.answer = keySet;
  await Bun.sleep(1_050);
  expect((await knock(gate, `Bearer ${good}`)).status).toBe(200);
  expect(service.asked).toBe(2);
});

test.concurrent("a key service that falls silent is given up on within 5 s", async () => {
  const silent = () => new Promise<Response>(() => {});
  const half = new ReadableStream({ start: (stream) => stream.enqueue('{"keys": [') });
  const service = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: ({ url }) => (url.endsWith("/half") ? new Response(half) : silent()),
  });
  atEnd(() => service.stop(true));
  const begun = performance.now();
  const AUTH_ISSUER = `http://127.0.0.1:${service.port}`;
  const answers = await Promise.all(["/silent", "/half"].map(async (path) => {
    const env = { AUTH_ISSUER, AUTH_JWKS_URL: AUTH_ISSUER + path };
    const gate = await gateway({ env, keys: async () => undefined });
    return knock(gate, `Bearer ${await mint({ iss: AUTH_ISSUER })}`);
  }));
  expect(answers.map(({ status }) => status)).toEqual([503, 503]);
  expect(performance.now() - begun).toBeLessThan(5_000);
});

test("a token that is no JWT is 401, keys or not", async () => {
  const { service, ...gate } = await withService(() => new Response("down", { status: 500 }));
  expect((await knock(gate, "Bearer nonsense")).status).toBe(401);
  expect(service.asked).toBe(0);
});

test("keys that are known serve on while the service is away, for ten minutes", async () => {
  const { service, ...gate } = await withService(keySet);
  expect((await knock(gate, `Bearer ${good}`)).status).toBe(200);
  service.answer = () => new Response("down", { status: 500 });
  setSystemTime(new Date(Date.now() + 9 * 60_000));
  expect((await knock(gate, `Bearer ${await mint({ jti: "2" })}`)).status).toBe(200);
  setSystemTime(new Date(Date.now() + 2 * 60_000)); // a key that was withdrawn has to go some day
  expect((await knock(gate, `Bearer ${await mint({ jti: "3" })}`)).status).toBe(503);
});

test("a new key is seen within ten seconds, without asking at every call", async () => {
  const { service, ...gate } = await withService(() => Response.json({ keys: [publicJwk] }));
  expect((await knock(gate, `Bearer ${good}`)).status).toBe(200);
  const next = await by("ES256")();
  for (const token of [next, next, next]) {
    expect((await knock(gate, `Bearer ${token}`)).status).toBe(401);
  }
  expect(service.asked).toBe(1);
  service.answer = keySet;
  await Bun.sleep(1_050); // … nor oftener than once a second, by the clock that can't be set
  setSystemTime(new Date(Date.now() + 10_500));
  expect((await knock(gate, `Bearer ${next}`)).status).toBe(200);
  expect(service.asked).toBe(2);
});

// ---- A token that was verified a moment ago ----

/** Verifies tokens, and counts how often somebody asked for the key to do it with. */
function countingCheck() {
  const asked = { times: 0, key: signInKey.publicKey };
  const check = tokenCheck(room.config, async () => {
    asked.times++;
    return asked.key;
  });
  return { asked, check };
}

test("a token is verified once a minute, and again when the minute is over", async () => {
  const { asked, check } = countingCheck();
  const timer = spyOn(globalThis, "setTimeout");
  const first = await check(good);
  const [[minuteIsOver, ms]] = timer.mock.calls as unknown as [[() => void, number]];
  timer.mockRestore();
  expect(first.sub).toBe("ada");
  expect(await check(good)).toBe(first);
  expect({ times: asked.times, ms }).toEqual({ times: 1, ms: 60_000 });

  minuteIsOver();
  asked.key = (await generateKeyPair("RS256")).publicKey; // the old one was withdrawn
  await expect(check(good)).rejects.toThrow("SIGNATURE");
  expect(asked.times).toBe(2);
});

test("… and every time once it has ended", async () => {
  const { check } = countingCheck();
  const token = await mint({ exp: now() + 30 });
  await check(token);
  setSystemTime(new Date(Date.now() + 29_000));
  await check(token);
  setSystemTime(new Date(Date.now() + 1_500));
  await expect(check(token)).rejects.toThrow("exp");
});

test("a refusal is not remembered, nor that nobody could check", async () => {
  const { asked, check } = countingCheck();
  const early = await mint({ nbf: now() + 20 });
  await expect(check(early)).rejects.toThrow("nbf");
  setSystemTime(new Date(Date.now() + 20_000));
  expect((await check(early)).sub).toBe("ada");

  asked.key = (await generateKeyPair("RS256")).publicKey;
  await expect(check(good)).rejects.toThrow("SIGNATURE");
  asked.key = signInKey.publicKey;
  expect((await check(good)).sub).toBe("ada");
});

test("a token that was never verified is not somebody else's who was", async () => {
  const { check } = countingCheck();
  const [head, claims, signature] = good.split(".");
  const ben = Buffer.from(JSON.stringify({ ...goodClaims(), sub: "ben" })).toString("base64url");
  await check(good);
  await expect(check(`${head}.${ben}.${signature}`)).rejects.toThrow("SIGNATURE");
  await expect(check(`${head}.${claims}.${signature} `)).rejects.toThrow("form");
  expect((await check(await mint({ sub: "ben" }))).sub).toBe("ben");
});

test("a thousand tokens are remembered, and no more", async () => {
  const { asked, check } = countingCheck();
  const tokens = await Promise.all(Array.from({ length: 1_001 }, (_, n) => mint({ jti: `${n}` })));
  for (const token of tokens) await check(token);
  await check(tokens[0]!);
  await check(tokens[999]!);
  expect(asked.times).toBe(1_001);
  expect((await check(tokens[1_000]!)).sub).toBe("ada");
  expect(asked.times).toBe(1_002);
});

// ---- Who is here ----

const notes = (text: string) => ({ notes: { first: text } });

test("whoever mock-auth.ts signs in is the same person behind any port or tunnel", async () => {
  const store = await sqliteStore(":memory:");
  const keys = async ({ url }: Request) => (url.endsWith("/jwks.json") ? keySet() : undefined);
  let before: string | undefined;
  for (const env of [
    { PORT: "8000" },
    { PORT: "8123" },
    { RESOURCE_URL: "https://tunnel.example/mcp" },
    { AUTH_ISSUER: "http://localhost:9000", AUTH_JWKS_URL: "http://localhost:9000/jwks.json" },
  ]) {
    const { config, enter } = await gateway({ store, env, keys });
    const { use } = await enter("ada", { iss: config.issuer, aud: config.resourceUrl });
    expect((await use("user_get_state")).structuredContent!.state.notes.first).toBe(before);
    before = config.issuer;
    await use("user_write", notes(before));
  }
  expect((await store.read("local|ada"))!.receipts).toHaveLength(4);
});

test("the same sub at a rented service is another person", async () => {
  const store = await sqliteStore(":memory:");
  const AUTH_ISSUER = "https://sign-in.example";
  const rented = { AUTH_ISSUER, AUTH_JWKS_URL: `${ISSUER}/jwks.json` };
  const ours = await (await gateway({ store })).enter("ada");
  const theirs = await (await gateway({ store, env: rented })).enter("ada", { iss: AUTH_ISSUER });
  await ours.use("user_write", notes("ours"));
  expect((await theirs.use("user_get_state")).structuredContent!.state.notes).toEqual({});
  await theirs.use("user_write", notes("theirs"));
  const stateOf = async (id: string) => (await store.read(id))!.state;
  expect(await stateOf(`${AUTH_ISSUER}|ada`)).toMatchObject(notes("theirs"));
  expect(await stateOf("local|ada")).toMatchObject(notes("ours"));
});

test("nothing in a request can name a person, except the token", async () => {
  const { enter, rpc, call, store, log } = await gateway();
  const { token, session } = await enter("ada");
  const ben = { sub: "ben", user_id: "local|ben", person: { id: "local|ben", sub: "ben" } };
  const save = { name: "user_write", arguments: { session, ...notes("mine") } };
  const sent = { ...save, ...ben, authInfo: { extra: ben }, _meta: ben };
  const { body } = await rpc("tools/call", sent, token);
  expect(body.result.structuredContent.state).toMatchObject(notes("mine"));
  for (const name of ["sub", "user_id", "email", "person"]) {
    expect((await call("user_get_state", { session, [name]: "ben" }, token)).isError).toBe(true);
  }
  expect(new Set(log.map(({ sub }) => sub))).toEqual(new Set(["ada"]));
  expect(await store.read("local|ben")).toBeUndefined();
});

test.each<[string, unknown, string | null]>([
  ["an address", "ada@example.com", "ada@example.com"],
  ["none", undefined, null],
  ["an empty one", "", null],
  ["a number", 5, null],
  ["one with NUL", "ada@example.com\0", null],
  ["one of 321 characters", `${"a".repeat(309)}@example.com`, null],
])("the e-mail address is the token's, or null: %s", async (_, email, expected) => {
  const { use } = await (await gateway()).enter("ada", { email });
  expect((await use("user_get_profile")).structuredContent!.profile.email).toBe(expected);
});

test("with AUTH_DISABLED=1 everybody is local-demo, whatever they bring", async () => {
  const { rpc, log } = await gateway({ env: { AUTH_DISABLED: "1" } });
  for (const token of [undefined, "nonsense", await mint({ sub: "ada" })]) {
    const { status } = await rpc("tools/call", { name: "begin_session", arguments: {} }, token);
    expect(status).toBe(200);
  }
  expect(log.map(({ sub }) => sub)).toEqual(Array(3).fill("local-demo"));
});
