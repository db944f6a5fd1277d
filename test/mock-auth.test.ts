// The local sign-in service, in the order of its sections. What it answers and what it refuses is in tables; the long
// tables, whatever takes seconds, and whatever needs a process of its own are in proof/mock-auth.test.ts.

import { afterAll, afterEach, describe, expect, setSystemTime, spyOn, test } from "bun:test";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createLocalJWKSet, decodeJwt, decodeProtectedHeader, type JSONWebKeySet, jwtVerify } from "jose";
import { isForwarded, mockAuth, type MockAuthOptions } from "../mock-auth.ts";
import {
  altered, APP, ask, BOTH, CALLBACK, callbackOf, CHALLENGE, consentPage, encode, errorOf, expectErrorPage, goodExchange, goodRequest, ISSUER, mint,
  newCode, openLocal, openTunnel, ORIGIN, type Params, PASSPHRASE, postForm, postJson, PUBLIC, READ, read, redeem, refresh, register,
  registration, RESOURCE, send, sha256, signIn, STATE, submit, tokensOf, WRITE,
} from "./host-app.ts";
import { freePort, PROXY_HEADERS, ROOT, scratch } from "./support.ts";

const folder = await scratch();
const open = (options: Partial<MockAuthOptions> = {}) => openLocal({ keyFile: join(folder, "key.json"), ...options });
const tunnelled = (options: Partial<MockAuthOptions> = {}) => openTunnel({ keyFile: join(folder, "key.json"), ...options });

// What it tells the operator is heard here, not in the report.
const printed: string[] = [];
const stderr = spyOn(console, "error").mockImplementation((line: string) => void printed.push(line));
afterAll(() => stderr.mockRestore());

const local = await open();
const tunnel = await tunnelled();
const other = await open({ keyFile: join(folder, "other.json") });
const app = await register(local);
const otherApp = await register(local, { client_name: "Another app" });
const appOfOther = await register(other);
const given = await signIn(local, app);
const openPage = await consentPage(local, goodRequest(app)); // never answered with Allow
const { ticket } = openPage.hidden;

afterEach(() => void setSystemTime());
const inSeconds = (seconds: number) => setSystemTime(new Date(Date.now() + seconds * 1000));
const payloadOf = (sealed: string) => Buffer.from(sealed.split(".")[1]!, "base64url").toString();

// ---- The file ----

test("the map at the top names the sections, in order", async () => {
  const text = await Bun.file(join(ROOT, "mock-auth.ts")).text();
  const map = [...text.matchAll(/^\/\/ +(\d+\. .*?)  +\S/gm)].map(([, title]) => title);
  const headers = [...text.matchAll(/^\/\/ ---- (\d+\. .*?) -+$/gm)].map(([, title]) => title);
  expect(map).toHaveLength(12);
  expect(headers).toEqual(map);
});

test("knows nothing of what main.ts is about", async () => {
  expect(await Bun.file(join(ROOT, "mock-auth.ts")).text()).not.toMatch(/reading.room|shelf|\breaders?\b|article|notes:/i);
});

// ---- 0. Options ----

describe("the start is stopped by", () => {
  const saved = { ...process.env };
  afterEach(() => {
    process.env.NODE_ENV = saved.NODE_ENV ?? "test";
    delete process.env.MOCK_AUTH_LIFETIME;
  });
  const problemOf = (options: Partial<MockAuthOptions> = {}) => open(options).then(() => "none", (error: Error) => error);

  test.each(["0.0.0.0", "::", "[::]", "192.168.1.5", "example.com", "localhost.example.com", "127.0.0.1.example.com", ""])("HOST=%s", async (host) => {
    expect(await problemOf({ host })).toMatchObject({ name: "StartError", message: expect.stringMatching(/^Cannot start: .*HOST.*\.$/) });
  });
  test("NODE_ENV=production", async () => {
    process.env.NODE_ENV = "production";
    expect(await problemOf()).toMatchObject({ name: "StartError", message: expect.stringMatching(/^Cannot start: .*NODE_ENV.*\.$/) });
  });
  test.each(["0", "-1", "1.5", "86401", "1e9", "Infinity", "NaN", "ten", " 5", "05"])("MOCK_AUTH_LIFETIME=%s", async (lifetime) => {
    process.env.MOCK_AUTH_LIFETIME = lifetime;
    const message = `Cannot start: MOCK_AUTH_LIFETIME takes a whole number of seconds from 1 to 86400 (got ${lifetime}).`;
    expect(await problemOf()).toMatchObject({ name: "StartError", message });
  });
  test.each([["nothing", ""], ["half a text", "{"], ["no key", "{}"], ["null", "null"], ["the public half", JSON.stringify({ kty: "RSA", n: "AQAB", e: "AQAB" })]])(
    "a key file that holds %s, which is kept", async (_, text) => {
      const keyFile = join(folder, "damaged.json");
      await writeFile(keyFile, text);
      expect(await problemOf({ keyFile })).toMatchObject({ name: "StartError", message: expect.stringMatching(/^Cannot start: \S*damaged\.json .*\.$/) });
      expect(await Bun.file(keyFile).text()).toBe(text);
    });
  test("a key file that can't be written", async () => {
    expect(await problemOf({ keyFile: join(folder, "nowhere", "key.json") })).toMatchObject({ name: "StartError", message: expect.stringContaining("nowhere") });
  });
  test.each(["127.0.0.1", "localhost", "::1", "[::1]", "127.0.0.2"])("none of it on HOST=%s", async (host) => {
    expect(await problemOf({ host })).toBe("none");
  });
  test.each([["unset", undefined, 600], ["empty", "", 600], ["the least", "1", 1], ["the most", "86400", 86_400]])("none of it with a MOCK_AUTH_LIFETIME that is %s", async (_, lifetime, seconds) => {
    if (lifetime !== undefined) process.env.MOCK_AUTH_LIFETIME = lifetime;
    expect((await signIn(await open(), app)).expires_in).toBe(seconds);
  });
});

describe("the passphrase is asked", () => {
  test.each([
    ["http on this machine", "http://localhost:8000/mcp", false],
    ["http on this machine, by number", "http://127.0.0.1:8000/mcp", false],
    ["a public host", `${PUBLIC}/mcp`, true],
    ["this machine behind a TLS proxy", "https://localhost:8443/mcp", true],
    ["a name that begins like ours", "http://localhost.example/mcp", true],
  ])("with RESOURCE_URL %s (%s): %p", async (_, resourceUrl, asked) => {
    const page = await consentPage(await open({ resourceUrl }), goodRequest(app));
    expect(page.elements.includes("input#passphrase")).toBe(asked);
  });
  test("new at each start, long, and printed where the operator looks; locally none", async () => {
    printed.length = 0;
    const options = { issuer: ISSUER, resourceUrl: `${PUBLIC}/mcp`, host: "127.0.0.1", app: APP, keyFile: join(folder, "key.json") };
    for (let start = 0; start < 2; start++) await mockAuth(options);
    await open();
    expect(printed).toHaveLength(2);
    const phrases = printed.map((line) => line.match(/ (?:[0-9a-f]{4}-){3}[0-9a-f]{4}$/)?.[0]);
    expect(phrases[0]).toBeString();
    expect(phrases[0]).not.toBe(phrases[1]!);
  });
});

// ---- 1. Metadata ----
describe("the metadata", () => {
  const documents = ["/.well-known/oauth-authorization-server/mock-auth", "/.well-known/openid-configuration/mock-auth", "/mock-auth/.well-known/openid-configuration"];
  test.each(documents)("GET %s says what the service does, and what host apps look for", async (path) => {
    const service = await open({ scopes: ["extra"] });
    const response = await send(service, path);
    expect(response.headers.get("access-control-allow-origin")).toBe("*");
    expect(await response.json()).toMatchObject({
      issuer: ISSUER,
      authorization_endpoint: `${ISSUER}/authorize`,
      token_endpoint: `${ISSUER}/token`,
      registration_endpoint: `${ISSUER}/register`,
      jwks_uri: `${ISSUER}/jwks.json`,
      response_types_supported: ["code"],
      grant_types_supported: ["authorization_code", "refresh_token"],
      code_challenge_methods_supported: ["S256"],
      token_endpoint_auth_methods_supported: ["none"],
      client_id_metadata_document_supported: true,
      authorization_response_iss_parameter_supported: true,
      scopes_supported: ["extra", READ, WRITE, "offline_access"],
    });
  });

  test.each([
    ["mounted locally", ISSUER, "/mock-auth"],
    ["mounted behind a tunnel", `${PUBLIC}/mock-auth`, "/mock-auth"],
    ["on its own", "http://localhost:9000", ""],
  ])("%s the issuer is the configured one byte for byte, and the endpoints lie under it", async (_, issuer, base) => {
    const metadata = (await (await send(await open({ issuer }), `/.well-known/oauth-authorization-server${base}`)).json()) as Record<string, string>;
    expect([metadata.issuer, metadata.token_endpoint, metadata.jwks_uri]).toEqual([issuer, `${issuer}/token`, `${issuer}/jwks.json`]);
  });

  test.each(["/", "/mcp", "/mock-auth/", "/mock-auth/nothing", "/.well-known/oauth-authorization-server", "/token", "/mock-auth/constructor", "/constructor"])(
    "%s is left to the gateway", async (path) => {
      expect(await local(new Request(`${ORIGIN}${path}`))).toBeUndefined();
    });

  test.each([
    ["mounted", ISSUER, "/mock-auth"],
    ["on its own", "http://localhost:9000", "/"],
  ])("%s, its issuer opened in a browser says what it is, and asks for nothing", async (_, issuer, path) => {
    const page = await read(await send(await open({ issuer }), path));
    expect(page.status).toBe(200);
    for (const words of ["sign in to Notes", "on the desk, the machine that Notes runs on", "no password of yours"]) expect(page.text).toContain(words);
    expect(page.elements.filter((tag) => /^(form|input|button|script|a)\b/.test(tag))).toEqual([]);
    expect(page.headers.get("content-security-policy")).toContain("default-src 'none'");
  });

  test.each([
    ["POST", "/.well-known/oauth-authorization-server/mock-auth", "GET"],
    ["GET", "/mock-auth/register", "POST"],
    ["DELETE", "/mock-auth/register", "POST"],
    ["PUT", "/mock-auth/authorize", "GET, POST"],
    ["PUT", "/mock-auth/token", "GET, POST"],
    ["DELETE", "/mock-auth/token", "GET, POST"],
    ["POST", "/mock-auth/jwks.json", "GET"],
  ])("%s %s answers 405 and says which methods there are", async (method, path, allow) => {
    const response = await send(local, path, { method });
    expect([response.status, response.headers.get("allow")]).toEqual([405, allow]);
  });

  test.each([
    ["/.well-known/oauth-authorization-server/mock-auth", "*"],
    ["/mock-auth/register", "*"],
    ["/mock-auth/token", "*"],
    ["/mock-auth/jwks.json", "*"],
    ["/mock-auth/authorize", null],
  ])("OPTIONS %s lets pages elsewhere in, but for the consent page", async (path, allowed) => {
    const response = await send(local, path, { method: "OPTIONS", headers: { origin: "https://app.example" } });
    expect([response.status, response.headers.get("access-control-allow-origin")]).toEqual([204, allowed]);
  });

  test.each(["/x", "http://[/x", "http://x:99999/x"])("%s, as a strange Host makes it, is left to the gateway", async (url) => {
    expect(await local({ url, method: "GET", headers: new Headers() } as Request)).toBeUndefined();
  });

  test("HEAD is answered as GET is, for those who only look whether it is there", async () => {
    for (const path of [...documents, "/mock-auth/jwks.json"]) expect((await send(local, path, { method: "HEAD" })).status).toBe(200);
  });

  test("the published keys hold nothing that signs", async () => {
    const { keys } = (await (await send(local, "/mock-auth/jwks.json")).json()) as { keys: object[] };
    expect(keys.map((key) => Object.keys(key).sort())).toEqual([["alg", "e", "kid", "kty", "n", "use"]]);
  });
});

// ---- The way in ----
describe("a host app that does everything right", () => {
  test("is let in by a click: consent page, code, tokens", async () => {
    const service = await open({ scopes: ["extra"] });
    const client = await register(service, { client_name: "The Good App" });
    const page = await consentPage(service, { ...goodRequest(client), scope: "extra offline_access unheard-of" });
    expect(page.text).toContain("The Good App");
    expect(page.text).toContain("127.0.0.1:8765");
    expect(page.text).toContain(RESOURCE);
    const back = await submit(service, page, { name: "Ada" });
    expect(back.status).toBe(303);
    const { origin, pathname, searchParams } = callbackOf(back);
    expect(origin + pathname).toBe(CALLBACK);
    expect([...searchParams.keys()].sort()).toEqual(["code", "iss", "state"]);
    expect([searchParams.get("state"), searchParams.get("iss")]).toEqual([STATE, ISSUER]);

    const answer = await redeem(service, client, searchParams.get("code")!);
    expect([answer.status, answer.headers.get("cache-control"), answer.headers.get("access-control-allow-origin")]).toEqual([200, "no-store", "*"]);
    const tokens = await tokensOf(answer);
    expect(tokens).toMatchObject({ token_type: "Bearer", scope: `extra offline_access ${BOTH}` });
    expect(tokens.expires_in).toBeGreaterThanOrEqual(60);
    expect(tokens.expires_in).toBeLessThanOrEqual(3600);
    expect(decodeProtectedHeader(tokens.access_token)).toMatchObject({ alg: "RS256", typ: "at+jwt" });
    const keys = createLocalJWKSet((await (await send(service, "/mock-auth/jwks.json")).json()) as JSONWebKeySet);
    const { payload } = await jwtVerify(tokens.access_token, keys, { issuer: ISSUER, audience: RESOURCE, typ: "at+jwt" });
    expect(payload).toMatchObject({ iss: ISSUER, aud: RESOURCE, sub: "Ada", client_id: client, scope: tokens.scope });
    expect(payload.exp! - payload.iat!).toBe(tokens.expires_in);
    expect(payload.jti).toBeString();
  });

  test("may leave out state, scope and resource, and the token is for this gateway all the same", async () => {
    const back = await submit(local, await consentPage(local, { ...goodRequest(app), state: undefined, resource: undefined }));
    expect(callbackOf(back).searchParams.has("state")).toBe(false);
    const tokens = await tokensOf(await redeem(local, app, callbackOf(back).searchParams.get("code")!, { resource: undefined }));
    expect([decodeJwt(tokens.access_token).aud, decodeJwt(tokens.access_token).scope]).toEqual([RESOURCE, BOTH]);
  });

  test("gets its own query back beside the answer", async () => {
    const redirect_uri = `${CALLBACK}?tenant=7`;
    const client = await register(local, { redirect_uris: [redirect_uri] });
    const { searchParams } = callbackOf(await submit(local, await consentPage(local, { ...goodRequest(client), redirect_uri })));
    expect([...searchParams.keys()]).toEqual(["tenant", "code", "state", "iss"]);
  });

  test("hears access_denied, with state and iss, when the person says no", async () => {
    const back = await submit(local, openPage, { decision: "deny", name: undefined });
    expect(back.status).toBe(303);
    expect(Object.fromEntries(callbackOf(back).searchParams)).toEqual({ error: "access_denied", state: STATE, iss: ISSUER });
  });

  test("sends a parameter without a value, which counts as not sent (RFC 6749, section 3.1)", async () => {
    const code = await newCode(local, app, { resource: "", scope: "", response_mode: "", prompt: "" });
    const answer = await redeem(local, app, code, { resource: "", client_secret: "", redirect_uri: "" });
    expect(answer.status).toBe(200);
    const service = await open({ scopes: ["extra"] });
    const { refresh_token } = await signIn(service, app, { scope: "extra" });
    expect((await refresh(service, app, refresh_token, { scope: "" })).status).toBe(200);
  });

  test("may leave redirect_uri out at /token, where OAuth 2.1 has none; PKCE holds as before", async () => {
    const code = await newCode(local, app);
    const wrong = { redirect_uri: undefined, code_verifier: "x".repeat(43) };
    expect(await errorOf(await redeem(local, app, code, wrong))).toEqual([400, "invalid_grant"]);
    expect((await redeem(local, app, code, { redirect_uri: undefined })).status).toBe(200);
  });

  test("has a minute for the code", async () => {
    const code = await newCode(local, app);
    inSeconds(59);
    expect((await redeem(local, app, code)).status).toBe(200);
  });

  test("gets answers that no cache keeps and no referrer gives away", async () => {
    for (const response of [await ask(local, goodRequest(app)), await submit(local, openPage, { decision: "deny" }), await refresh(local, app, given.refresh_token)]) {
      expect([response.headers.get("cache-control"), response.headers.get("referrer-policy")]).toEqual(["no-store", "no-referrer"]);
    }
  });
});

// ---- 2. Registration: who an app is, and where it may be called back ----

const CURSOR = ["http://localhost:8787/callback", "https://www.cursor.com/agents/mcp/oauth/callback", "cursor://anysphere.cursor-mcp/oauth/callback"];
const VS_CODE = ["https://insiders.vscode.dev/redirect", "https://vscode.dev/redirect", "http://127.0.0.1/", "http://127.0.0.1:33418/"];

describe("redirect URIs", () => {
  test.each([
    ["claude.ai", ["https://claude.ai/api/mcp/auth_callback"], "https://claude.ai/api/mcp/auth_callback"],
    ["claude.com", ["https://claude.com/api/mcp/auth_callback"], "https://claude.com/api/mcp/auth_callback"],
    ["Claude Code", ["http://localhost:54321/callback"], "http://localhost:54321/callback"],
    ["Claude Code, next time", ["http://localhost:54321/callback"], "http://localhost:3118/callback"],
    ["ChatGPT", ["https://chatgpt.com/connector_platform_oauth_redirect"], "https://chatgpt.com/connector_platform_oauth_redirect"],
    ["Cursor", CURSOR, "cursor://anysphere.cursor-mcp/oauth/callback"],
    ["Cursor on the web", CURSOR, "https://www.cursor.com/agents/mcp/oauth/callback"],
    ["Cursor on loopback", CURSOR, "http://localhost:8787/callback"],
    ["VS Code", VS_CODE, "https://vscode.dev/redirect"],
    ["VS Code Insiders", VS_CODE, "https://insiders.vscode.dev/redirect"],
    ["VS Code, its own port", VS_CODE, "http://127.0.0.1:33418/"],
    ["VS Code, without a port", VS_CODE, "http://127.0.0.1/"],
    ["VS Code, any port", VS_CODE, "http://127.0.0.1:61234/"],
    ["OpenCode", ["http://127.0.0.1:19876/mcp/oauth/callback"], "http://127.0.0.1:19876/mcp/oauth/callback"],
    ["the Inspector", ["http://localhost:6274/oauth/callback"], "http://localhost:6274/oauth/callback"],
    ["an app on IPv6 loopback", ["http://[::1]:7000/callback"], "http://[::1]:7001/callback"],
  ])("%s registers its set whole, and is called back where it asks", async (_, redirect_uris, redirect_uri) => {
    const response = await postJson(local, "/mock-auth/register", { client_name: "A host app", redirect_uris, token_endpoint_auth_method: "none", application_type: "native" });
    const made = await registration(response);
    expect([response.status, made.redirect_uris]).toEqual([201, redirect_uris]);
    const back = await submit(local, await consentPage(local, { ...goodRequest(made.client_id), redirect_uri }));
    const location = back.headers.get("location")!;
    expect(location).toStartWith(`${redirect_uri}?`);
    const answer = await redeem(local, made.client_id, new URL(location).searchParams.get("code")!, { redirect_uri });
    expect(answer.status).toBe(200);
  });

  test.each([
    ["script", "javascript:alert(1)"],
    ["script that looks like an address", "javascript://localhost/%0aalert(1)"],
    ["another app of the phone", "intent://app.example/"],
    ...["shell", "cmd", "telnet", "ldap", "vnc", "afp", "nfs", "itms-services", "chrome-extension", "moz-extension", "resource", "devtools"]
      .map((scheme): [string, string] => ["something that this machine does", `${scheme}://app.example/callback`]),
    ["http to elsewhere", "http://app.example/callback"],
    ["http to a name that begins like ours", "http://localhost.app.example/callback"],
    ["a name in front", "https://user@app.example/callback"],
    ["a password in front", "https://:pass@app.example/callback"],
    ["a fragment", "https://app.example/callback#here"],
    ["a backslash", "https://app.example\\@evil.example/callback"],
    ["a control character", "https://app.example/call\u0001back"],
    ["a letter beyond Latin-1", "https://app.example/обратно"],
    ["a scheme and nothing else", "myapp:callback"],
    ["no text", 7],
    ["one of 2,001 characters", `https://app.example/${"x".repeat(1981)}`],
  ])("%s is never one, and does not sink the others", async (_, uri) => {
    const alone = await postJson(local, "/mock-auth/register", { redirect_uris: [uri] });
    expect(await errorOf(alone)).toEqual([400, "invalid_redirect_uri"]);
    const among = await registration(await postJson(local, "/mock-auth/register", { redirect_uris: [CALLBACK, uri] }));
    expect(among.redirect_uris).toEqual([CALLBACK]);
    expect((await ask(local, { ...goodRequest(among.client_id), redirect_uri: String(uri) })).status).toBe(400);
  });

  test("a registration says what was granted, and keeps no secret", async () => {
    const response = await postJson(local, "/mock-auth/register", { redirect_uris: [CALLBACK], client_name: "Ada's app", token_endpoint_auth_method: "client_secret_basic", scope: "everything" });
    expect([response.status, response.headers.get("cache-control"), response.headers.get("access-control-allow-origin")]).toEqual([201, "no-store", "*"]);
    const made = (await response.json()) as Record<string, unknown>;
    expect(made).toMatchObject({
      client_name: "Ada's app", redirect_uris: [CALLBACK], token_endpoint_auth_method: "none", grant_types: ["authorization_code", "refresh_token"], response_types: ["code"],
    });
    expect(made.client_id_issued_at).toBeNumber();
    expect(Object.keys(made)).not.toContain("client_secret");
  });

  test("an app without a name is let ask all the same", async () => {
    const client = await register(local, { client_name: undefined });
    expect((await consentPage(local, goodRequest(client))).text).toContain("An app without a name");
  });
});

test.each([["spaces", "  \u2003 "], ["nothing to be seen", "\u200b\u3164\u00ad"]])("an app whose name is %s goes by none", async (_, client_name) => {
  const made = await registration(await postJson(local, "/mock-auth/register", { redirect_uris: [CALLBACK], client_name }));
  expect(made.client_name).toBe("An app without a name");
});

test("an app's name loses what is not seen and may turn the text around it", async () => {
  const made = await registration(await postJson(local, "/mock-auth/register", { redirect_uris: [CALLBACK], client_name: " Clau\u202ede\u0007\u200b\u3164 " }));
  expect(made.client_name).toBe("Claude");
  expect((await consentPage(local, goodRequest(made.client_id))).text).toContain("Let Claude use Notes");
});

describe("POST /register refuses", () => {
  test.each<[string, string, unknown]>([
    ["a list", "invalid_client_metadata", []],
    ["null", "invalid_client_metadata", null],
    ["no redirect_uris", "invalid_client_metadata", {}],
    ["redirect_uris that are a text", "invalid_client_metadata", { redirect_uris: CALLBACK }],
    ["no redirect_uri among redirect_uris", "invalid_client_metadata", { redirect_uris: [] }],
    ["more than twenty redirect_uris", "invalid_client_metadata", { redirect_uris: Array(21).fill(CALLBACK) }],
    ["a name that is not a text", "invalid_client_metadata", { redirect_uris: [CALLBACK], client_name: 7 }],
    ["a name of 201 characters", "invalid_client_metadata", { redirect_uris: [CALLBACK], client_name: "x".repeat(201) }],
    ["only redirect_uris that can't be used", "invalid_redirect_uri", { redirect_uris: ["javascript:alert(1)", "http://app.example/"] }],
  ])("%s: 400 %s", async (_, error, body) => {
    expect(await errorOf(await postJson(local, "/mock-auth/register", body))).toEqual([400, error]);
  });
  test.each<[string, string, string | undefined]>([
    ["no body", "invalid_client_metadata", undefined],
    ["a body that is not JSON", "invalid_client_metadata", "redirect_uris=x"],
    ["a body of more than 64 KiB", "invalid_request", JSON.stringify({ redirect_uris: [CALLBACK], padding: "x".repeat(65_536) })],
  ])("%s: 400 %s", async (_, error, body) => {
    const response = await send(local, "/mock-auth/register", { method: "POST", ...(body && { body }) });
    expect(await errorOf(response)).toEqual([400, error]);
  });
});

// ---- 3. GET /authorize ----

describe("GET /authorize refuses on an error page, and sends nobody anywhere,", () => {
  const notRegistered = "not one that this app registered";
  test.each<[string, string, Params]>([
    ["a client_id that somebody made up", "not registered here", { client_id: "my-app" }],
    ["an altered client_id", "not registered here", { client_id: altered(app) }],
    ["a refresh token as client_id", "not registered here", { client_id: given.refresh_token }],
    ["a client_id that is there twice", "client_id is there twice", { client_id: [app, app] }],
    ["a client_id over http elsewhere", "not the https URL", { client_id: "http://app.example/client.json" }],
    ["no redirect_uri", notRegistered, { redirect_uri: undefined }],
    ["a redirect_uri that is there twice", "redirect_uri is there twice", { redirect_uri: [CALLBACK, CALLBACK] }],
    ["a redirect_uri elsewhere", `${notRegistered}: https://evil.example/callback`, { redirect_uri: "https://evil.example/callback" }],
    ["a redirect_uri with another path", notRegistered, { redirect_uri: `${CALLBACK}2` }],
    ["a redirect_uri with a port that there is not", notRegistered, { redirect_uri: "http://127.0.0.1:99999/callback" }],
  ])("%s: 400, %s", async (_, words, changes) => {
    const page = await read(await ask(local, { ...goodRequest(app), ...changes }));
    expectErrorPage(page, words);
  });

  test("which takes what it shows for text", async () => {
    const page = await read(await ask(local, { ...goodRequest(app), redirect_uri: "<script>alert(1)</script>" }));
    expect(page.elements).not.toContain("script");
    expect(page.html).toContain("&lt;script&gt;");
  });
});

describe("GET /authorize tells the app at its redirect_uri, with state and iss, when it gets", () => {
  test.each<[string, string, Params]>([
    ["no response_type", "invalid_request", { response_type: undefined }],
    ["another response_type", "unsupported_response_type", { response_type: "token" }],
    ["another response_mode", "invalid_request", { response_mode: "fragment" }],
    ["no code_challenge", "invalid_request", { code_challenge: undefined }],
    ["a code_challenge one character short", "invalid_request", { code_challenge: CHALLENGE.slice(1) }],
    ["no code_challenge_method (which would mean plain)", "invalid_request", { code_challenge_method: undefined }],
    ["the code_challenge_method plain", "invalid_request", { code_challenge_method: "plain" }],
    ["another resource", "invalid_target", { resource: "https://elsewhere.example/mcp" }],
    ["prompt=none", "interaction_required", { prompt: "none" }],
    ["a parameter nobody knows that is there twice", "invalid_request", { colour: ["red", "blue"] }],
  ])("%s: %s", async (_, error, changes) => {
    const { origin, pathname, searchParams } = callbackOf(await ask(local, { ...goodRequest(app), ...changes }));
    expect(origin + pathname).toBe(CALLBACK);
    expect([searchParams.get("error"), searchParams.get("state"), searchParams.get("iss")]).toEqual([error, STATE, ISSUER]);
    expect(searchParams.has("code")).toBe(false);
  });
});

// ---- 3, 4. The consent page ----

describe("the consent page", () => {
  test("can't be framed, cached, scripted or leaked, and ties its cookie to itself", async () => {
    const { headers, cookie, elements } = openPage;
    const csp = headers.get("content-security-policy")!;
    expect(csp).toContain("default-src 'none'");
    expect(csp).toContain("frame-ancestors 'none'");
    expect(csp).toContain("base-uri 'none'");
    expect(csp).not.toContain("script-src");
    expect(csp).not.toContain("form-action"); // a browser would hold the redirect to the app to it
    expect([headers.get("x-frame-options"), headers.get("x-content-type-options"), headers.get("referrer-policy"), headers.get("cache-control")])
      .toEqual(["DENY", "nosniff", "no-referrer", "no-store"]);
    expect(headers.get("access-control-allow-origin")).toBeNull();
    expect(elements).not.toContain("script");
    expect(cookie).toMatch(/^consent=[\w-]{32}$/);
    const attributes = headers.get("set-cookie")!.split("; ");
    expect(attributes).toContain("HttpOnly");
    expect(attributes.filter((attribute) => /^SameSite=(Lax|Strict)$/.test(attribute))).toHaveLength(1);
    expect(attributes).toContain("Path=/mock-auth/authorize");
    expect(attributes).not.toContain("Secure");
    const secure = await ask(tunnel, goodRequest(app));
    expect(secure.headers.get("set-cookie")!.split("; ")).toContain("Secure");
  });

  test("keeps the cookie that the browser has, so that two open pages both work", async () => {
    const second = await ask(local, { ...goodRequest(otherApp), state: "second" }, openPage.cookie);
    expect((await read(second)).cookie).toBe(openPage.cookie);
    expect((await submit(local, openPage, { decision: "deny" })).status).toBe(303);
  });

  test("replaces a cookie that it did not make", async () => {
    const page = await read(await ask(local, goodRequest(app), "consent=short; other=1"));
    expect(page.cookie).toMatch(/^consent=[\w-]{32}$/);
    expect((await submit(local, page)).status).toBe(303);
  });

  const HOSTILE = `"><script>alert(1)</script><img src=x onerror=alert(1)>'&amp;`;
  test.each<[string, object, Params]>([
    ["client_name", { client_name: HOSTILE }, {}],
    ["state", {}, { state: HOSTILE }],
    ["scope", {}, { scope: `extra ${HOSTILE}` }],
    ["redirect_uri", { redirect_uris: [`https://app.example/"><script>alert(1)</script>`] }, { redirect_uri: `https://app.example/"><script>alert(1)</script>` }],
    ["an own scheme", { redirect_uris: [`app://x/<script>alert(1)</script>`] }, { redirect_uri: `app://x/<script>alert(1)</script>` }],
    ["resource", {}, { colour: HOSTILE }],
  ])("takes a hostile %s for text", async (what, metadata, changes) => {
    const page = await read(await ask(local, { ...goodRequest(await register(local, metadata)), ...changes }));
    expect(page.elements.filter((tag) => ["script", "img"].includes(tag))).toEqual([]);
    expect(page.elements.filter((tag) => tag === "form")).toEqual(["form"]);
    if (what === "client_name") expect(page.html).toContain("&lt;script&gt;alert(1)&lt;/script&gt;");
  });

  test("takes a hostile typed name, client_id, gateway, app and scope for text", async () => {
    const hostile = "<b>&amp;</b>";
    const service = await open({ app: { slug: hostile, name: hostile, scopes: { read: hostile, write: hostile } }, scopes: [hostile], resourceUrl: `http://localhost:8000/${hostile}` });
    const page = await consentPage(service, { ...goodRequest(app), scope: hostile });
    expect(page.elements).not.toContain("b");
    const again = await read(await submit(service, page, { name: `"><script>alert(1)</script>`, scope: undefined }));
    expect([again.status, again.elements.filter((tag) => ["script", "b"].includes(tag))]).toEqual([400, []]);
    expect(again.html).toContain("&quot;&gt;&lt;script&gt;");
    const unchecked = await consentPage(local, goodRequest(`http://127.0.0.1:${await freePort()}/client.json?a&lt=1`));
    expect(unchecked.html).toContain("client.json?a&amp;lt=1"); // its angle brackets never get past the URL
  });

  test("says what the app may do in the words of main.ts, and that this is a practice", () => {
    for (const words of ["Let A test app use Notes", APP.scopes.read, APP.scopes.write, `Notes at ${RESOURCE}`, "on the desk", "It asks for no password"]) expect(openPage.text).toContain(words);
  });

  test("says where the answer goes: a host, this machine, or an app's own scheme", async () => {
    const where = async (redirect_uri: string) => (await consentPage(local, { ...goodRequest(await register(local, { redirect_uris: [redirect_uri] })), redirect_uri })).text;
    expect(await where("https://app.example:8443/callback")).toMatch(/Then you go to ?app\.example:8443\s/);
    expect(await where("http://localhost:7777/callback")).toMatch(/Then you go to ?localhost:7777 \(an app on this machine\)/);
    expect(await where("cursor://anysphere.cursor-mcp/oauth/callback")).toMatch(/Then you go to ?cursor:\/\/anysphere\.cursor-mcp/);
    expect(await where("app://a&lt;b&gt;/callback")).toContain("app://a&amp;lt;b");
  });

  test.each<[string, string | undefined, string[]]>([
    ["asks for nothing", undefined, [READ, WRITE]],
    ["asks to stay", "offline_access", [READ, WRITE]],
    ["asks to read", READ, [READ]],
    ["asks for both", BOTH, [READ, WRITE]],
  ])("has ticked what the app asks for when it %s", async (_, scope, ticked) => {
    expect((await consentPage(local, { ...goodRequest(app), scope })).ticked).toEqual(ticked);
  });

  test("gives what the person ticked, no more, now and after a refresh", async () => {
    const tokens = await signIn(local, app, { scope: `${BOTH} offline_access` }, { scope: [READ, "everything"] });
    expect([tokens.scope, decodeJwt(tokens.access_token).scope]).toEqual(Array(2).fill(`offline_access ${READ}`));
    expect((await tokensOf(await refresh(local, app, tokens.refresh_token))).scope).toBe(`offline_access ${READ}`);
    expect(await errorOf(await refresh(local, app, tokens.refresh_token, { scope: BOTH }))).toEqual([400, "invalid_scope"]);
  });

  test("takes a name without the spaces around it", async () => {
    expect(decodeJwt((await signIn(local, app, {}, { name: "  Ada Lovelace " })).access_token).sub).toBe("Ada Lovelace");
  });
  test.each([["in full width", "Ａｄａ", "Ada"], ["with its accent apart", "Rene\u0301", "Ren\u00e9"]])("takes a name %s for the plain one", async (_, name, sub) => {
    expect(decodeJwt((await signIn(local, app, {}, { name })).access_token).sub).toBe(sub);
  });
});

describe("POST /authorize shows a page and gives no code for", () => {
  const elsewhere = "was not made for this browser";
  interface Attempt { form?: Params; cookie?: string; type?: string; later?: number }
  test.each<[string, number, string, Attempt]>([
    ["no ticket", 403, elsewhere, { form: { ticket: undefined } }],
    ["an altered ticket", 403, elsewhere, { form: { ticket: altered(ticket!) } }],
    ["a registration as ticket", 403, elsewhere, { form: { ticket: app } }],
    ["a refresh token as ticket", 403, elsewhere, { form: { ticket: given.refresh_token } }],
    ["a ticket ten minutes later", 403, elsewhere, { later: 601 }],
    ["a ticket without its cookie", 403, elsewhere, { cookie: "" }],
    ["a ticket with another browser's cookie", 403, elsewhere, { cookie: `consent=${"A".repeat(32)}` }],
    ["a form sent as text", 400, "application/x-www-form-urlencoded", { type: "text/plain" }],
    ["a form of more than 64 KiB", 400, "too large", { form: { padding: "x".repeat(65_536) } }],
    ["no decision", 400, "press Allow or Deny", { form: { decision: undefined } }],
    ["two decisions", 400, "decision is there twice", { form: { decision: ["deny", "allow"] } }],
    ["no name", 400, "say who you are", { form: { name: undefined } }],
    ["a name of spaces", 400, "say who you are", { form: { name: "   " } }],
    ["a name of 65 characters", 400, "say who you are", { form: { name: "x".repeat(65) } }],
    ["a name with a line break", 400, "say who you are", { form: { name: "a\nb" } }],
    ["a name with NUL", 400, "say who you are", { form: { name: "a\0b" } }],
    ["a name with a bell", 400, "say who you are", { form: { name: "a\u0007b" } }],
    ["a name that turns the text around", 400, "say who you are", { form: { name: "a\u202eb" } }],
    ["a name with a letter that is never seen", 400, "say who you are", { form: { name: "a\u3164b" } }],
    ["a name with a mark that is never seen", 400, "say who you are", { form: { name: "a\u034fb" } }],
    ["nothing ticked", 400, "tick what the app may do", { form: { scope: undefined } }],
    ["something ticked that is not on the page", 400, "tick what the app may do", { form: { scope: "everything" } }],
  ])("%s: %i, %s", async (_, status, words, { form = {}, cookie = openPage.cookie, type = "application/x-www-form-urlencoded", later = 0 }) => {
    if (later) inSeconds(later);
    const fields = encode({ ticket, scope: openPage.ticked, name: "Ada", decision: "allow", ...form }).toString();
    const headers = { "content-type": type, ...(cookie && { cookie }) };
    const page = await read(await send(local, "/mock-auth/authorize", { method: "POST", body: fields, headers }));
    expect([page.status, page.headers.get("location")]).toEqual([status, null]);
    expect(page.text).toContain(words);
    expect(page.headers.get("content-security-policy")).toContain("frame-ancestors 'none'");
  });

  test("a page for the second time: it buys one code, however often it is sent, and however it came back", async () => {
    const first = await consentPage(local, goodRequest(app));
    const again = await read(await submit(local, first, { name: "" }));
    const back = await submit(local, { ...again, cookie: first.cookie });
    expect([back.status, callbackOf(back).searchParams.has("code")]).toEqual([303, true]);
    for (const page of [first, again]) {
      const refused = await read(await submit(local, { ...page, cookie: first.cookie }));
      expect([refused.status, refused.headers.get("location")]).toEqual([403, null]);
      expect(refused.text).toContain("answered already");
    }
  });

  test("ten copies of a page at once, but for one of them", async () => {
    const page = await consentPage(local, goodRequest(app));
    const answers = await Promise.all(Array.from({ length: 10 }, () => submit(local, page)));
    expect(answers.filter(({ status }) => status === 303)).toHaveLength(1);
  });

  test("a form with a problem, which comes back as it was filled in; none of that is sealed", async () => {
    const again = await read(await submit(local, openPage, { name: "Grace-Hopper", scope: READ, decision: "maybe" }));
    expect([again.status, again.ticked]).toEqual([400, [READ]]);
    expect(again.html).toContain('value="Grace-Hopper"');
    expect(payloadOf(again.hidden.ticket!)).not.toMatch(/Grace|ticked|problem|filled/);
    const code = await newCode(local, app, { scope: "extra" }, { name: "Ada" });
    expect(payloadOf(code)).not.toMatch(/ticked|problem|filled|browser/);
  });
});

// ---- 5. POST /token ----

describe("POST /token with a code refuses", () => {
  interface Attempt { changes?: Params; headers?: Record<string, string>; later?: number; asked?: Params }
  test.each<[string, number, string, Attempt]>([
    ["a form sent as JSON", 400, "invalid_request", { headers: { "content-type": "application/json" } }],
    ["no grant_type", 400, "invalid_request", { changes: { grant_type: undefined } }],
    ["a password instead", 400, "unsupported_grant_type", { changes: { grant_type: "password" } }],
    ["no client_id", 400, "invalid_request", { changes: { client_id: undefined } }],
    ["a client_id of another service", 401, "invalid_client", { changes: { client_id: appOfOther } }],
    ["a refresh token as client_id", 401, "invalid_client", { changes: { client_id: given.refresh_token } }],
    ["a client secret", 401, "invalid_client", { changes: { client_secret: "hush" } }],
    ["a client that proves itself with a header", 401, "invalid_client", { headers: { authorization: `Basic ${btoa("app:hush")}` } }],
    ["the code of another app", 400, "invalid_grant", { changes: { client_id: otherApp } }],
    ["a code with a URL as client_id", 400, "invalid_grant", { changes: { client_id: "https://app.example/client.json" } }],
    ["a code that somebody made up", 400, "invalid_grant", { changes: { code: "made-up" } }],
    ["a ticket as code", 400, "invalid_grant", { changes: { code: ticket } }],
    ["a code a minute later", 400, "invalid_grant", { later: 61 }],
    ["another redirect_uri", 400, "invalid_grant", { changes: { redirect_uri: "http://127.0.0.1:8766/callback" } }],
    ["no code_verifier", 400, "invalid_request", { changes: { code_verifier: undefined } }],
    ["another code_verifier", 400, "invalid_grant", { changes: { code_verifier: "x".repeat(43) } }],
    ["the code_challenge as code_verifier", 400, "invalid_grant", { changes: { code_verifier: CHALLENGE } }],
    ["a code_verifier that is too short, though it matches", 400, "invalid_grant", { asked: { code_challenge: sha256("short") }, changes: { code_verifier: "short" } }],
    ["another resource", 400, "invalid_target", { changes: { resource: "https://elsewhere.example/mcp" } }],
    ["two resources", 400, "invalid_request", { changes: { resource: [RESOURCE, "https://elsewhere.example/mcp"] } }],
    ["a parameter nobody knows that is there twice", 400, "invalid_request", { changes: { colour: ["red", "blue"] } }],
    ["a form of more than 64 KiB", 400, "invalid_request", { changes: { padding: "x".repeat(65_536) } }],
  ])("%s: %i %s", async (_, status, error, { changes = {}, headers = {}, later = 0, asked = {} }) => {
    const form = { ...goodExchange(app, await newCode(local, app, asked)), ...changes };
    if (later) inSeconds(later);
    const response = await postForm(local, "/mock-auth/token", form, headers);
    expect([response.headers.get("cache-control"), response.headers.get("access-control-allow-origin")]).toEqual(["no-store", "*"]);
    expect(await errorOf(response)).toEqual([status, error]);
  });

  test.each<[string, Params]>([
    ["verifier", { code_verifier: "x".repeat(43) }],
    ["app", { client_id: otherApp }],
    ["redirect_uri", { redirect_uri: "https://evil.example/" }],
  ])("a wrong %s, and who brings one to a copied code ends nothing: neither the first try nor the sign-in", async (_, changes) => {
    const code = await newCode(local, app);
    expect(await errorOf(await redeem(local, app, code, changes))).toEqual([400, "invalid_grant"]);
    const first = await tokensOf(await redeem(local, app, code));
    expect(await errorOf(await redeem(local, app, code, changes))).toEqual([400, "invalid_grant"]);
    expect((await refresh(local, app, first.refresh_token)).status).toBe(200);
  });

  test.each([0, 300])("a code for the second time, %i seconds later, and takes back what the first one gave", async (seconds) => {
    const code = await newCode(local, app);
    const first = await tokensOf(await redeem(local, app, code));
    const second = await tokensOf(await refresh(local, app, first.refresh_token));
    if (seconds) inSeconds(seconds);
    expect(await errorOf(await redeem(local, app, code))).toEqual([400, "invalid_grant"]);
    for (const { refresh_token } of [first, second]) expect(await errorOf(await refresh(local, app, refresh_token))).toEqual([400, "invalid_grant"]);
  });

  test("all but one of ten who bring the same code at once", async () => {
    const code = await newCode(local, app);
    const answers = await Promise.all(Array.from({ length: 10 }, () => redeem(local, app, code)));
    expect(answers.filter(({ status }) => status === 200)).toHaveLength(1);
  });

  test("a code from before a restart", async () => {
    const code = await newCode(local, app);
    expect(await errorOf(await redeem(await open(), app, code))).toEqual([400, "invalid_grant"]);
  });
});

describe("a refresh token", () => {
  test.each<[string, number, string, Params, number?]>([
    ["missing", 400, "invalid_request", { refresh_token: undefined }],
    ["altered", 400, "invalid_grant", { refresh_token: altered(given.refresh_token) }],
    ["a registration", 400, "invalid_grant", { refresh_token: app }],
    ["a form's ticket", 400, "invalid_grant", { refresh_token: ticket }],
    ["an access token", 400, "invalid_grant", { refresh_token: given.access_token }],
    ["brought by another app", 400, "invalid_grant", { client_id: otherApp }],
    ["brought by an app of another service", 401, "invalid_client", { client_id: appOfOther }],
    ["for another resource", 400, "invalid_target", { resource: "https://elsewhere.example/mcp" }],
    ["for more than was allowed", 400, "invalid_scope", { scope: `${BOTH} offline_access extra` }],
    ["a month old", 400, "invalid_grant", {}, 31 * 24 * 3600],
  ])("that is %s is refused: %i %s", async (_, status, error, changes, later = 0) => {
    const { refresh_token } = await signIn(local, app, { scope: "offline_access" });
    if (later) inSeconds(later);
    expect(await errorOf(await refresh(local, app, refresh_token, changes))).toEqual([status, error]);
  });

  test("of another gateway beside this service is refused", async () => {
    const moved = await open({ resourceUrl: "http://localhost:8001/mcp" });
    expect(await errorOf(await refresh(moved, app, (await signIn(local, app)).refresh_token))).toEqual([400, "invalid_grant"]);
  });

  test("two generations back ends the sign-in: somebody else has a copy; one back is only refused", async () => {
    const first = await signIn(local, app);
    const second = await tokensOf(await refresh(local, app, first.refresh_token));
    const third = await tokensOf(await refresh(local, app, second.refresh_token)); // the second is used, so the first is one back
    expect(await errorOf(await refresh(local, app, first.refresh_token))).toEqual([400, "invalid_grant"]);
    const fourth = await tokensOf(await refresh(local, app, third.refresh_token)); // and now two
    expect(await errorOf(await refresh(local, app, first.refresh_token))).toEqual([400, "invalid_grant"]);
    for (const { refresh_token } of [second, third, fourth]) expect(await errorOf(await refresh(local, app, refresh_token))).toEqual([400, "invalid_grant"]);
  });

  test("gives a fresh access token for the same person, app and gateway, and its own successor", async () => {
    const first = await signIn(local, app, {}, { name: "Grace" });
    const second = await tokensOf(await refresh(local, app, first.refresh_token));
    expect(decodeProtectedHeader(second.access_token)).toMatchObject({ alg: "RS256", typ: "at+jwt" });
    expect(decodeJwt(second.access_token)).toMatchObject({ sub: "Grace", aud: RESOURCE, iss: ISSUER, client_id: app });
    expect(second.access_token).not.toBe(first.access_token);
    expect(second.refresh_token).not.toBe(first.refresh_token);
  });

  test("stays good while its successor was never used (an answer was lost), and dies when it is", async () => {
    const first = await signIn(local, app);
    await refresh(local, app, first.refresh_token); // the answer is lost
    const second = await tokensOf(await refresh(local, app, first.refresh_token));
    const third = await tokensOf(await refresh(local, app, second.refresh_token));
    expect(await errorOf(await refresh(local, app, first.refresh_token))).toEqual([400, "invalid_grant"]);
    expect((await refresh(local, app, third.refresh_token)).status).toBe(200);
  });

  test("is good for every one of ten sessions that refresh at once, and so is what each gets", async () => {
    const { refresh_token } = await signIn(local, app);
    const answers = await Promise.all(Array.from({ length: 10 }, () => refresh(local, app, refresh_token)));
    expect(answers.map(({ status }) => status)).toEqual(Array(10).fill(200));
    for (const answer of answers) expect((await refresh(local, app, (await tokensOf(answer)).refresh_token)).status).toBe(200);
    expect(await errorOf(await refresh(local, app, refresh_token))).toEqual([400, "invalid_grant"]);
  });

  test("of one sign-in lives on when another's dies", async () => {
    const [mine, other] = [await signIn(local, app), await signIn(local, app)];
    const next = await tokensOf(await refresh(local, app, mine.refresh_token));
    await refresh(local, app, next.refresh_token);
    expect((await refresh(local, app, other.refresh_token)).status).toBe(200);
  });

  test("can ask for less than was allowed, and for all of it again the next time", async () => {
    const service = await open({ scopes: ["extra"] });
    const { refresh_token } = await signIn(service, app, { scope: "extra offline_access" });
    const reads = `extra ${READ}`;
    const less = await tokensOf(await refresh(service, app, refresh_token, { scope: reads }));
    expect([less.scope, decodeJwt(less.access_token).scope]).toEqual([reads, reads]);
    expect((await tokensOf(await refresh(service, app, less.refresh_token))).scope).toBe(`extra offline_access ${BOTH}`);
  });

  test("can't be refreshed into a token that names no limit, and so has none", async () => {
    const service = await open({ scopes: ["extra"] });
    const { refresh_token } = await signIn(service, app, { scope: "extra offline_access" });
    for (const scope of ["extra", "offline_access", "extra offline_access"]) {
      const answer = await refresh(service, app, refresh_token, { scope });
      expect([answer.status, ((await answer.json()) as { error: string }).error]).toEqual([400, "invalid_scope"]);
    }
  });
});

// ---- 7. GET /token ----

describe("GET /token", () => {
  test("answers a token as plain text, for whom, what and how long one says, and pages elsewhere can't read it", async () => {
    const response = await mint(local, { sub: "Ada", aud: RESOURCE, email: "a@example.org", scope: "extra", ttl: "60" });
    expect(response.headers.get("content-type")).toStartWith("text/plain");
    expect([response.headers.get("access-control-allow-origin"), response.headers.get("cache-control")]).toEqual([null, "no-store"]);
    const token = await response.text();
    const { iat, exp, ...claims } = decodeJwt(token);
    expect(claims).toMatchObject({ iss: ISSUER, sub: "Ada", aud: RESOURCE, email: "a@example.org", scope: "extra" });
    expect(exp! - iat!).toBe(60);
    expect(decodeProtectedHeader(token)).toMatchObject({ alg: "RS256", typ: "at+jwt" });
  });

  test.each([
    [[], undefined, undefined],
    [["files:use"], undefined, "files:use notes:read notes:write"],
    [["files:use"], "extra", "extra"],
  ])("beside a gateway that wants %j, asked for %p, carries %p", async (scopes, scope, expected) => {
    const service = await open({ scopes });
    const token = await (await mint(service, { sub: "a", aud: RESOURCE, scope })).text();
    expect(decodeJwt(token).scope).toBe(expected);
  });

  test.each(["http://localhost:8000", "http://localhost:8123/mcp", "http://127.0.0.1:8000/mcp", "http://[::1]:8000/mcp", `http://localhost:8000/mcp?a="b"`])(
    "mints for %s, and says that the gateway beside it is another one", async (aud) => {
      printed.length = 0;
      const response = await mint(local, { sub: "a", aud });
      expect(decodeJwt(await response.text()).aud).toBe(aud);
      const both = `${new URL(aud).href}: the gateway here takes ${RESOURCE}`;
      expect(printed).toEqual([`mock-auth: a token for ${both}`]);
      expect(response.headers.get("warning")).toBe(`199 mock-auth "a token for ${both}"`);
    });

  test("mints for the gateway beside it, and has nothing to say", async () => {
    printed.length = 0;
    const response = await mint(local, { sub: "a", aud: RESOURCE });
    expect([response.status, response.headers.get("warning"), printed]).toEqual([200, null, []]);
  });

  test("can't be read by a page elsewhere, not even as a script", async () => {
    const { headers } = await mint(local, { sub: "a", aud: RESOURCE }, { headers: { origin: "https://evil.example" } });
    expect([headers.get("cross-origin-resource-policy"), headers.get("x-content-type-options"), headers.get("access-control-allow-origin")]).toEqual(["same-origin", "nosniff", null]);
  });

  test.each<[string, string, Params]>([
    ["no sub", "invalid_request", { sub: undefined }],
    ["an empty sub", "invalid_request", { sub: "" }],
    ["a sub that is there twice", "invalid_request", { sub: ["a", "b"] }],
    ["a sub of 65 characters", "invalid_request", { sub: "x".repeat(65) }],
    ["a sub with spaces around it", "invalid_request", { sub: " a " }],
    ["a sub with NUL", "invalid_request", { sub: "a\0" }],
    ["a sub with a bell", "invalid_request", { sub: "a\u0007" }],
    ["a sub in full width", "invalid_request", { sub: "Ａｄａ" }],
    ["a sub with a letter that is never seen", "invalid_request", { sub: "a\u3164b" }],
    ["no aud", "invalid_target", { aud: undefined }],
    ["an aud that is no URL", "invalid_target", { aud: "localhost" }],
    ["an aud elsewhere", "invalid_target", { aud: "https://elsewhere.example/mcp" }],
    ["an aud on the local network", "invalid_target", { aud: "http://192.168.0.5:8000/mcp" }],
    ["an aud that begins like ours", "invalid_target", { aud: "http://localhost.example/mcp" }],
    ["an aud that is there twice", "invalid_request", { aud: [RESOURCE, RESOURCE] }],
    ["a ttl in words", "invalid_request", { ttl: "long" }],
    ["a ttl with a fraction", "invalid_request", { ttl: "1.5" }],
    ["a ttl of centuries", "invalid_request", { ttl: "9".repeat(9) }],
    ["a ttl that is there twice", "invalid_request", { ttl: ["1", "2"] }],
  ])("refuses %s: 400 %s", async (_, error, changes) => {
    const response = await mint(local, { sub: "Ada", aud: RESOURCE, ...changes });
    expect(response.headers.get("access-control-allow-origin")).toBeNull();
    expect(await errorOf(response)).toEqual([400, error]);
  });

  test.each<[string, number, string, Params]>([
    ["no passphrase", 403, "access_denied", { passphrase: undefined }],
    ["a wrong passphrase", 403, "access_denied", { passphrase: "please" }],
    ["an aud on this machine", 400, "invalid_target", { aud: "http://localhost:8000/mcp" }],
  ])("behind a tunnel refuses %s: %i %s", async (_, status, error, changes) => {
        const good = { sub: "a", aud: `${PUBLIC}/mcp`, passphrase: PASSPHRASE };
    expect(await errorOf(await mint(tunnel, { ...good, ...changes }))).toEqual([status, error]);
    expect((await mint(tunnel, good)).status).toBe(200);
  });
});

describe("through a tunnel", () => {
  test.each([["none", undefined], ["an empty one", ""], ["a wrong one", "please"], ["the beginning of it", PASSPHRASE.slice(0, -1)]])(
    "nobody is let in with %s for a passphrase, and the form is there to try again", async (_, passphrase) => {
      const service = await tunnelled();
      const page = await consentPage(service, goodRequest(app));
      const again = await read(await submit(service, page, { passphrase }));
      expect([again.status, again.headers.get("location")]).toEqual([400, null]);
      expect(again.text).toContain("not the passphrase");
      const back = await submit(service, { ...again, cookie: page.cookie }, { passphrase: PASSPHRASE });
      const tokens = await tokensOf(await redeem(service, app, callbackOf(back).searchParams.get("code")!));
      expect(decodeJwt(tokens.access_token)).toMatchObject({ iss: `${PUBLIC}/mock-auth`, aud: `${PUBLIC}/mcp` });
    });

  test("no takes no passphrase", async () => {
    const back = await submit(tunnel, await consentPage(tunnel, goodRequest(app)), { decision: "deny" });
    expect(callbackOf(back).searchParams.get("error")).toBe("access_denied");
  });
});

// ---- 8. Every request ----

describe("a request that came through a proxy", () => {
  test.each(PROXY_HEADERS)("with %s is known as one", async (name) => {
    expect(isForwarded(new Request(ORIGIN, { headers: { [name]: "203.0.113.7" } }))).toBe(true);
    const response = await mint(local, { sub: "a", aud: RESOURCE }, { headers: { [name]: "203.0.113.7" } });
    expect(await errorOf(response)).toEqual([403, "access_denied"]);
  });

  test("is refused whatever it asks for, in words that name RESOURCE_URL, and let through a tunnel", async () => {
    const headers = { via: "1.1 proxy" };
    for (const path of ["/.well-known/oauth-authorization-server/mock-auth", "/mock-auth/jwks.json", `/mock-auth/authorize?${encode(goodRequest(app))}`]) {
      const response = await send(local, path, { headers });
      expect([response.status, await response.text()]).toEqual([403, expect.stringContaining("RESOURCE_URL")]);
      expect((await send(tunnel, path, { headers })).status).toBe(200);
    }
    expect((await send(local, "/mock-auth/register", { method: "POST", headers, body: JSON.stringify({ redirect_uris: [CALLBACK] }) })).status).toBe(403);
  });

  test("is not one that names a client, as some apps do", () => {
    const headers = { "x-client-name": "an-app", "x-client-version": "1", origin: ORIGIN, "user-agent": "via", "x-request-id": "1", "x-zip": "1", "x-client": "1", cookie: "cf-ray=1" };
    expect(isForwarded(new Request(ORIGIN, { headers }))).toBe(false);
  });
});
