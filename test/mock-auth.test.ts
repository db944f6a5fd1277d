// The desk's sign-in service, spoken to as host apps, browsers and strangers speak to it: requests go in, answers come
// out, in the order of its sections. What it refuses is in tables; the last part puts it in front of the gateway.

import { afterAll, afterEach, describe, expect, setDefaultTimeout, setSystemTime, spyOn, test } from "bun:test";
import { chmod, stat, writeFile } from "node:fs/promises";
import { createHash } from "node:crypto";
import http from "node:http";
import https from "node:https";
import { createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { createLocalJWKSet, decodeJwt, decodeProtectedHeader, type JSONWebKeySet, jwtVerify } from "jose";
import { mockAuth, type MockAuthOptions } from "../mock-auth.ts";
import { desk, freePort, ISSUER, RESOURCE, ROOT, scratch } from "./support.ts";

setDefaultTimeout(15_000); // some wait three seconds on purpose

const ORIGIN = "http://localhost:8000";
const PUBLIC = "https://desk.example";
const CALLBACK = "http://127.0.0.1:8765/callback";
const VERIFIER = "a-verifier-of-at-least-forty-three-characters.~_";
const CHALLENGE = createHash("sha256").update(VERIFIER).digest("base64url");
const CHOICES = ["reading-room:read", "reading-room:write"]; // what a person can tick
const ALL = CHOICES.join(" ");
const PASSPHRASE = "open-sesame-and-mind-the-gap";
const folder = await scratch();

type Service = Awaited<ReturnType<typeof mockAuth>>;
const open = (options: Partial<MockAuthOptions> = {}): Promise<Service> =>
  mockAuth({ issuer: ISSUER, resourceUrl: RESOURCE, host: "127.0.0.1", keyFile: join(folder, "desk.json"), ...options });
const openTunnel = (options: Partial<MockAuthOptions> = {}) =>
  open({ issuer: `${PUBLIC}/mock-auth`, resourceUrl: `${PUBLIC}/mcp`, tunnel: true, passphrase: PASSPHRASE, ...options });

// ---- A host app, a person and their browser ----

/** undefined leaves a parameter out, a list sends it that often. */
type Params = Record<string, string | string[] | undefined>;
const encode = (params: Params) =>
  new URLSearchParams(Object.entries(params).flatMap(([name, value]) => [value ?? []].flat().map((one): [string, string] => [name, one])));

async function send(service: Service, path: string, init: RequestInit = {}): Promise<Response> {
  const response = await service(new Request(`${ORIGIN}${path}`, { redirect: "manual", ...init }));
  if (!response) throw new Error(`${path} is not one of its paths`);
  return response;
}
const postForm = (service: Service, path: string, form: Params, headers: Record<string, string> = {}) =>
  send(service, path, { method: "POST", body: encode(form), headers });
const postJson = (service: Service, path: string, body: unknown) =>
  send(service, path, { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } });

interface Registered { client_id: string; client_name: string; redirect_uris: string[] }
interface Tokens { access_token: string; refresh_token: string; token_type: string; expires_in: number; scope: string }
const registration = async (response: Response) => (await response.json()) as Registered;
const tokensOf = async (response: Response) => (await response.json()) as Tokens;

async function register(service: Service, metadata: object = {}): Promise<string> {
  const response = await postJson(service, "/mock-auth/register", { client_name: "A test app", redirect_uris: [CALLBACK], ...metadata });
  expect(response.status).toBe(201);
  return (await registration(response)).client_id;
}
const STATE = "s t&a=te/é";
const goodRequest = (client_id: string): Params => ({
  client_id, redirect_uri: CALLBACK, response_type: "code", code_challenge: CHALLENGE, code_challenge_method: "S256", state: STATE, resource: RESOURCE,
});
const ask = (service: Service, params: Params, cookie?: string) =>
  send(service, `/mock-auth/authorize?${encode(params)}`, cookie ? { headers: { cookie } } : {});

/** What a browser makes of a page: its words, and the form as it would be sent. */
async function read(response: Response) {
  const hidden: Record<string, string> = {};
  const ticked: string[] = [];
  const found: string[] = [];
  let text = "";
  const html = await response.text();
  const look = new HTMLRewriter()
    .on("input[type=hidden]", { element: (input) => void (hidden[input.getAttribute("name")!] = input.getAttribute("value")!) })
    .on("input[type=checkbox][checked]", { element: (box) => void ticked.push(box.getAttribute("value")!) })
    .on("*", { element: (element) => void found.push(element.tagName + (element.getAttribute("id") ? `#${element.getAttribute("id")}` : "")) })
    .on("main", { text: (chunk) => void (text += chunk.text) });
  look.transform(html);
  text = text.replaceAll("&#x27;", "'");
  const cookie = response.headers.get("set-cookie")?.split(";")[0];
  return { status: response.status, headers: response.headers, html, text, elements: found, hidden, ticked, cookie: cookie ?? "" };
}
async function consentPage(service: Service, params: Params) {
  const page = await read(await ask(service, params));
  expect([page.status, page.elements.includes("button#allow")]).toEqual([200, true]);
  return page;
}
type Page = Awaited<ReturnType<typeof consentPage>>;
const submit = (service: Service, page: Pick<Page, "hidden" | "ticked" | "cookie">, form: Params = {}, cookie = page.cookie) =>
  postForm(service, "/mock-auth/authorize", { ...page.hidden, scope: page.ticked, name: "reader-A", decision: "allow", ...form }, cookie ? { cookie } : {});
const callbackOf = (response: Response) => new URL(response.headers.get("location")!);

async function newCode(service: Service, client: string, changes: Params = {}, form: Params = {}): Promise<string> {
  const response = await submit(service, await consentPage(service, { ...goodRequest(client), ...changes }), form);
  expect(response.status).toBe(303);
  return callbackOf(response).searchParams.get("code")!;
}
const goodExchange = (client_id: string, code: string): Params => ({
  grant_type: "authorization_code", client_id, code, redirect_uri: CALLBACK, code_verifier: VERIFIER, resource: RESOURCE,
});
const redeem = (service: Service, client: string, code: string, changes: Params = {}) =>
  postForm(service, "/mock-auth/token", { ...goodExchange(client, code), ...changes });
const refresh = (service: Service, client_id: string, refresh_token: string, changes: Params = {}) =>
  postForm(service, "/mock-auth/token", { grant_type: "refresh_token", client_id, refresh_token, ...changes });
async function signIn(service: Service, client: string, changes: Params = {}, form: Params = {}): Promise<Tokens> {
  const response = await redeem(service, client, await newCode(service, client, changes, form), changes.redirect_uri ? { redirect_uri: changes.redirect_uri } : {});
  expect(response.status).toBe(200);
  return tokensOf(response);
}
const errorOf = async (response: Response) => [response.status, ((await response.json()) as { error: string }).error];
const inSeconds = (seconds: number) => setSystemTime(new Date(Date.now() + seconds * 1000));

/** Changed in the middle: the last characters of base64url can hold bits that mean nothing. */
const altered = (sealed: string) => {
  const at = sealed.length - 20;
  return sealed.slice(0, at) + (sealed[at] === "A" ? "B" : "A") + sealed.slice(at + 1);
};

const room = await open();
const otherDesk = await open({ keyFile: join(folder, "other-desk.json") });
const app = await register(room);
const otherApp = await register(room, { client_name: "Another app" });
const appOfOtherDesk = await register(otherDesk);
const given = await signIn(room, app);
const openPage = await consentPage(room, goodRequest(app));
const sealedTicket = openPage.hidden.ticket!;
const tunnelled = await openTunnel();
const pageElsewhere = await consentPage(room, goodRequest(app)); // of the same app, in another browser
const ticketOfOtherDesk = (await consentPage(otherDesk, goodRequest(appOfOtherDesk))).hidden.ticket!;
const givenByOtherDesk = await signIn(otherDesk, appOfOtherDesk);
const unusedCode = await newCode(room, app);
const closed = `http://127.0.0.1:${await freePort()}`;
// Port 9000 is part of what `bun run mock-auth.ts` promises; where another program has it, there is nothing to ask.
const port9000IsFree = await new Promise<boolean>((done) => {
  const probe = createServer().once("error", () => done(false)).listen(9000, "127.0.0.1", () => probe.close(() => done(true)));
});

afterEach(() => void setSystemTime());

// ---- 1. Metadata ----

describe("the metadata", () => {
  const documents = ["/.well-known/oauth-authorization-server/mock-auth", "/.well-known/openid-configuration/mock-auth", "/mock-auth/.well-known/openid-configuration"];
  test.each(documents)("GET %s says what the service does, and what host apps look for", async (path) => {
    const service = await open({ scopes: ["shelf"] });
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
      scopes_supported: ["shelf", ...CHOICES, "offline_access"],
    });
  });

  test.each([
    ["mounted on the desk", ISSUER, "/mock-auth"],
    ["mounted behind a tunnel", `${PUBLIC}/mock-auth`, "/mock-auth"],
    ["on its own", "http://localhost:9000", ""],
  ])("%s the issuer is the configured one byte for byte, and the endpoints lie under it", async (_, issuer, base) => {
    const metadata = (await (await send(await open({ issuer }), `/.well-known/oauth-authorization-server${base}`)).json()) as Record<string, string>;
    expect([metadata.issuer, metadata.token_endpoint, metadata.jwks_uri]).toEqual([issuer, `${issuer}/token`, `${issuer}/jwks.json`]);
  });

  test.each(["/", "/mcp", "/mock-auth", "/mock-auth/", "/mock-auth/nothing", "/.well-known/oauth-authorization-server", "/token", "/mock-auth/constructor", "/constructor"])(
    "%s is left to the gateway", async (path) => {
      expect(await room(new Request(`${ORIGIN}${path}`))).toBeUndefined();
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
    const response = await send(room, path, { method });
    expect([response.status, response.headers.get("allow")]).toEqual([405, allow]);
  });

  test.each([
    ["/.well-known/oauth-authorization-server/mock-auth", "*"],
    ["/mock-auth/register", "*"],
    ["/mock-auth/token", "*"],
    ["/mock-auth/jwks.json", "*"],
    ["/mock-auth/authorize", null],
  ])("OPTIONS %s lets pages elsewhere in, but for the consent page", async (path, allowed) => {
    const response = await send(room, path, { method: "OPTIONS", headers: { origin: "https://app.example" } });
    expect([response.status, response.headers.get("access-control-allow-origin")]).toEqual([204, allowed]);
  });

  test("HEAD is answered as GET is, for those who only look whether it is there", async () => {
    for (const path of [...documents, "/mock-auth/jwks.json"]) expect((await send(room, path, { method: "HEAD" })).status).toBe(200);
  });

  test("the published keys hold nothing that signs", async () => {
    const { keys } = (await (await send(room, "/mock-auth/jwks.json")).json()) as { keys: object[] };
    expect(keys.map((key) => Object.keys(key).sort())).toEqual([["alg", "e", "kid", "kty", "n", "use"]]);
  });
});

// ---- The way in ----

describe("a host app that does everything right", () => {
  test("is let in by a click: consent page, code, tokens", async () => {
    const service = await open({ scopes: ["shelf"] });
    const client = await register(service, { client_name: "The Good App" });
    const page = await consentPage(service, { ...goodRequest(client), scope: "shelf offline_access unheard-of" });
    expect(page.text).toContain("The Good App");
    expect(page.text).toContain("127.0.0.1:8765");
    expect(page.text).toContain(RESOURCE);
    const back = await submit(service, page, { name: "reader-A" });
    expect(back.status).toBe(303);
    const { origin, pathname, searchParams } = callbackOf(back);
    expect(origin + pathname).toBe(CALLBACK);
    expect([...searchParams.keys()].sort()).toEqual(["code", "iss", "state"]);
    expect([searchParams.get("state"), searchParams.get("iss")]).toEqual([STATE, ISSUER]);

    const answer = await redeem(service, client, searchParams.get("code")!);
    expect([answer.status, answer.headers.get("cache-control"), answer.headers.get("access-control-allow-origin")]).toEqual([200, "no-store", "*"]);
    const tokens = await tokensOf(answer);
    expect(tokens).toMatchObject({ token_type: "Bearer", scope: `shelf offline_access ${ALL}` });
    expect(tokens.expires_in).toBeGreaterThanOrEqual(60);
    expect(tokens.expires_in).toBeLessThanOrEqual(3600);
    expect(decodeProtectedHeader(tokens.access_token)).toMatchObject({ alg: "RS256", typ: "at+jwt" });
    const keys = createLocalJWKSet((await (await send(service, "/mock-auth/jwks.json")).json()) as JSONWebKeySet);
    const { payload } = await jwtVerify(tokens.access_token, keys, { issuer: ISSUER, audience: RESOURCE, typ: "at+jwt" });
    expect(payload).toMatchObject({ iss: ISSUER, aud: RESOURCE, sub: "reader-A", client_id: client, scope: tokens.scope });
    expect(payload.exp! - payload.iat!).toBe(tokens.expires_in);
    expect(payload.jti).toBeString();
  });

  test("may leave out state, scope and resource, and the token is for this gateway all the same", async () => {
    const back = await submit(room, await consentPage(room, { ...goodRequest(app), state: undefined, resource: undefined }));
    expect(callbackOf(back).searchParams.has("state")).toBe(false);
    const tokens = await tokensOf(await redeem(room, app, callbackOf(back).searchParams.get("code")!, { resource: undefined }));
    expect([decodeJwt(tokens.access_token).aud, decodeJwt(tokens.access_token).scope]).toEqual([RESOURCE, ALL]);
  });

  test("gets its own query back beside the answer", async () => {
    const redirect_uri = `${CALLBACK}?tenant=7`;
    const client = await register(room, { redirect_uris: [redirect_uri] });
    const { searchParams } = callbackOf(await submit(room, await consentPage(room, { ...goodRequest(client), redirect_uri })));
    expect([...searchParams.keys()]).toEqual(["tenant", "code", "state", "iss"]);
  });

  test("hears access_denied, with state and iss, when the person says no", async () => {
    const back = await submit(room, openPage, { decision: "deny", name: undefined });
    expect(back.status).toBe(303);
    expect(Object.fromEntries(callbackOf(back).searchParams)).toEqual({ error: "access_denied", state: STATE, iss: ISSUER });
  });

  test("sends a parameter without a value, which counts as not sent (RFC 6749, section 3.1)", async () => {
    const code = await newCode(room, app, { resource: "", scope: "", response_mode: "", prompt: "" });
    const answer = await redeem(room, app, code, { resource: "", client_secret: "" });
    expect(answer.status).toBe(200);
    const service = await open({ scopes: ["shelf"] });
    const { refresh_token } = await signIn(service, app, { scope: "shelf" });
    expect((await refresh(service, app, refresh_token, { scope: "" })).status).toBe(200);
  });

  test("has a minute for the code", async () => {
    const code = await newCode(room, app);
    inSeconds(59);
    expect((await redeem(room, app, code)).status).toBe(200);
  });

  test("gets answers that no cache keeps and no referrer gives away", async () => {
    for (const response of [await ask(room, goodRequest(app)), await submit(room, openPage), await refresh(room, app, given.refresh_token)]) {
      expect([response.headers.get("cache-control"), response.headers.get("referrer-policy")]).toEqual(["no-store", "no-referrer"]);
    }
  });
});

// ---- 2. Which apps, and where they may be called back ----

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
    const response = await postJson(room, "/mock-auth/register", { client_name: "A host app", redirect_uris, token_endpoint_auth_method: "none", application_type: "native" });
    const made = await registration(response);
    expect([response.status, made.redirect_uris]).toEqual([201, redirect_uris]);
    const back = await submit(room, await consentPage(room, { ...goodRequest(made.client_id), redirect_uri }));
    const location = back.headers.get("location")!;
    expect(location).toStartWith(`${redirect_uri}?`);
    const answer = await redeem(room, made.client_id, new URL(location).searchParams.get("code")!, { redirect_uri });
    expect(answer.status).toBe(200);
  });

  test.each([
    ["script", "javascript:alert(1)"],
    ["script, in capitals", "JavaScript:alert(1)"],
    ["script that looks like an address", "javascript://localhost/%0aalert(1)"],
    ["a page in itself", "data:text/html,<script>alert(1)</script>"],
    ["a page in itself, with slashes", "data://text/html,hello"],
    ["a file", "file:///etc/passwd"],
    ["a file of another machine", "file://server/share"],
    ["old script", "vbscript://msgbox"],
    ["a blob", "blob:https://app.example/1"],
    ["a blob, with slashes", "blob://app.example/1"],
    ["a browser's own page", "about://blank"],
    ["a browser's own files", "filesystem://app.example/1"],
    ["a file server", "ftp://app.example/1"],
    ["a page's source", "view-source://app.example"],
    ["a socket", "wss://app.example/"],
    ["http to elsewhere", "http://app.example/callback"],
    ["http to a name that begins like ours", "http://localhost.app.example/callback"],
    ["http to a name that begins like our number", "http://127.0.0.1.app.example/callback"],
    ["http to the whole network", "http://0.0.0.0:8765/callback"],
    ["a name in front", "https://user@app.example/callback"],
    ["a password in front", "https://:pass@app.example/callback"],
    ["our name in front of another", "http://localhost@app.example/callback"],
    ["a fragment", "https://app.example/callback#here"],
    ["an empty fragment", "https://app.example/callback#"],
    ["a space", "https://app.example/call back"],
    ["a line break", "https://app.example/callback\n"],
    ["a backslash", "https://app.example\\@evil.example/callback"],
    ["a scheme and nothing else", "myapp:callback"],
    ["no address", "callback"],
    ["nothing", ""],
    ["no text", 7],
    ["null", null],
    ["one of 2,001 characters", `https://app.example/${"x".repeat(1981)}`],
  ])("%s is never one, and does not sink the others", async (_, uri) => {
    const alone = await postJson(room, "/mock-auth/register", { redirect_uris: [uri] });
    expect(await errorOf(alone)).toEqual([400, "invalid_redirect_uri"]);
    const among = await registration(await postJson(room, "/mock-auth/register", { redirect_uris: [CALLBACK, uri, "https://app.example/b"] }));
    expect(among.redirect_uris).toEqual([CALLBACK, "https://app.example/b"]);
    const page = await read(await ask(room, { ...goodRequest(among.client_id), redirect_uri: String(uri) }));
    expect([page.status, page.headers.get("location"), page.elements.includes("form")]).toEqual([400, null, false]);
  });

  test("a registration says what was granted, and keeps no secret", async () => {
    const response = await postJson(room, "/mock-auth/register", { redirect_uris: [CALLBACK], client_name: "Ada's app", token_endpoint_auth_method: "client_secret_basic", scope: "everything" });
    expect([response.status, response.headers.get("cache-control"), response.headers.get("access-control-allow-origin")]).toEqual([201, "no-store", "*"]);
    const made = (await response.json()) as Record<string, unknown>;
    expect(made).toMatchObject({
      client_name: "Ada's app", redirect_uris: [CALLBACK], token_endpoint_auth_method: "none", grant_types: ["authorization_code", "refresh_token"], response_types: ["code"],
    });
    expect(made.client_id_issued_at).toBeNumber();
    expect(Object.keys(made)).not.toContain("client_secret");
  });

  test("an app without a name is let ask all the same", async () => {
    const client = await register(room, { client_name: undefined });
    expect((await consentPage(room, goodRequest(client))).text).toContain("An app without a name");
  });
});

// ---- Refusals ----

const WRONG_VERIFIER = "x".repeat(43);

describe("POST /register refuses", () => {
  const json = { "content-type": "application/json" };
  test.each<[string, string, RequestInit]>([
    ["no body", "invalid_client_metadata", { headers: json }],
    ["a body that is not JSON", "invalid_client_metadata", { headers: json, body: "redirect_uris=x" }],
    ["a list", "invalid_client_metadata", { headers: json, body: "[]" }],
    ["null", "invalid_client_metadata", { headers: json, body: "null" }],
    ["no redirect_uris", "invalid_client_metadata", { headers: json, body: "{}" }],
    ["redirect_uris that are a text", "invalid_client_metadata", { headers: json, body: JSON.stringify({ redirect_uris: CALLBACK }) }],
    ["no redirect_uri among redirect_uris", "invalid_client_metadata", { headers: json, body: JSON.stringify({ redirect_uris: [] }) }],
    ["more than twenty redirect_uris", "invalid_client_metadata", { headers: json, body: JSON.stringify({ redirect_uris: Array(21).fill(CALLBACK) }) }],
    ["a name that is not a text", "invalid_client_metadata", { headers: json, body: JSON.stringify({ redirect_uris: [CALLBACK], client_name: 7 }) }],
    ["a name of 201 characters", "invalid_client_metadata", { headers: json, body: JSON.stringify({ redirect_uris: [CALLBACK], client_name: "x".repeat(201) }) }],
    ["only redirect_uris that can't be used", "invalid_redirect_uri", { headers: json, body: JSON.stringify({ redirect_uris: ["javascript:alert(1)", "http://app.example/"] }) }],
  ])("%s: 400 %s", async (_, error, init) => {
    expect(await errorOf(await send(room, "/mock-auth/register", { method: "POST", ...init }))).toEqual([400, error]);
  });
});

describe("GET /authorize refuses on an error page, and sends nobody anywhere,", () => {
  const refused = "not registered here";
  const noDocument = "not the https URL of a document";
  const noRedirect = "not one that this app registered";
  test.each<[string, string, Params]>([
    ["no client_id", refused, { client_id: undefined }],
    ["an empty client_id", refused, { client_id: "" }],
    ["a client_id that is there twice", "client_id is there twice", { client_id: [app, app] }],
    ["two client_ids", "client_id is there twice", { client_id: [app, otherApp] }],
    ["a client_id that somebody made up", refused, { client_id: "my-app" }],
    ["an altered client_id", refused, { client_id: altered(app) }],
    ["a client_id of another desk", refused, { client_id: appOfOtherDesk }],
    ["a refresh token as client_id", refused, { client_id: given.refresh_token }],
    ["an access token as client_id", refused, { client_id: given.access_token }],
    ["a form's ticket as client_id", refused, { client_id: sealedTicket }],
    ["an http client_id elsewhere", noDocument, { client_id: "http://app.example/client.json" }],
    ["a client_id without a path", noDocument, { client_id: "https://127.0.0.1:1/" }],
    ["a client_id with a fragment", noDocument, { client_id: "https://127.0.0.1:1/client.json#a" }],
    ["a client_id with a name in front", noDocument, { client_id: "https://user@127.0.0.1:1/client.json" }],
    ["a client_id with a password in front", noDocument, { client_id: "https://:pass@127.0.0.1:1/client.json" }],
    ["a client_id that is written in a roundabout way", noDocument, { client_id: "https://127.0.0.1:1/a/../client.json" }],
    ["a client_id that hides its host in a number", noDocument, { client_id: "https://2130706433:1/client.json" }],
    ["a client_id that is no URL after all", noDocument, { client_id: "https://" }],
    ["no redirect_uri", noRedirect, { redirect_uri: undefined }],
    ["an empty redirect_uri", noRedirect, { redirect_uri: "" }],
    ["a redirect_uri that is there twice", "redirect_uri is there twice", { redirect_uri: [CALLBACK, CALLBACK] }],
    ["two redirect_uris", "redirect_uri is there twice", { redirect_uri: [CALLBACK, "https://evil.example/"] }],
    ["a redirect_uri elsewhere", noRedirect, { redirect_uri: "https://evil.example/callback" }],
    ["a redirect_uri with another path", noRedirect, { redirect_uri: "http://127.0.0.1:8765/callback2" }],
    ["a redirect_uri with a slash more", noRedirect, { redirect_uri: `${CALLBACK}/` }],
    ["a redirect_uri with a query more", noRedirect, { redirect_uri: `${CALLBACK}?a=b` }],
    ["a redirect_uri with a fragment", noRedirect, { redirect_uri: `${CALLBACK}#a` }],
    ["a redirect_uri with a path that leads back", noRedirect, { redirect_uri: "http://127.0.0.1:8765/x/../callback" }],
    ["a redirect_uri with a name in front", noRedirect, { redirect_uri: "http://evil@127.0.0.1:8765/callback" }],
    ["a redirect_uri under another name of this machine", noRedirect, { redirect_uri: "http://localhost:8765/callback" }],
    ["a redirect_uri of another scheme", noRedirect, { redirect_uri: "https://127.0.0.1:8765/callback" }],
    ["a redirect_uri that runs script", noRedirect, { redirect_uri: "javascript:alert(1)" }],
  ])("%s: 400, %s", async (_, words, changes) => {
    const page = await read(await ask(room, { ...goodRequest(app), ...changes }));
    expect([page.status, page.headers.get("location"), page.headers.get("set-cookie")]).toEqual([400, null, null]);
    expect(page.text).toContain(words);
    expect(page.elements).not.toContain("form");
    expect(page.headers.get("content-security-policy")).toContain("frame-ancestors 'none'");
    expect(page.headers.get("content-type")).toStartWith("text/html");
  });

  test.each([
    ["another port", "https://app.example:8443/callback"],
    ["another path", "https://app.example/callback/x"],
    ["another host", "https://www.app.example/callback"],
    ["capitals", "https://APP.example/callback"],
    ["http", "http://app.example/callback"],
    ["another host of the same port", "https://app.example.evil.example/callback"],
  ])("an https redirect_uri with %s than the registered one", async (_, redirect_uri) => {
    const client = await register(room, { redirect_uris: ["https://app.example/callback"] });
    const response = await ask(room, { ...goodRequest(client), redirect_uri });
    expect([response.status, response.headers.get("location")]).toEqual([400, null]);
  });

  test("a redirect_uri that another app registered", async () => {
    const client = await register(room, { redirect_uris: ["https://app.example/callback"] });
    const response = await ask(room, goodRequest(client));
    expect([response.status, response.headers.get("location")]).toEqual([400, null]);
  });
});

describe("GET /authorize tells the app at its redirect_uri, with state and iss, when it gets", () => {
  test.each<[string, string, Params]>([
    ["no response_type", "invalid_request", { response_type: undefined }],
    ["another response_type", "unsupported_response_type", { response_type: "token" }],
    ["more than one response_type", "unsupported_response_type", { response_type: "code id_token" }],
    ["a response_type that is there twice", "invalid_request", { response_type: ["code", "code"] }],
    ["another response_mode", "invalid_request", { response_mode: "fragment" }],
    ["a response_mode that is there twice", "invalid_request", { response_mode: ["query", "query"] }],
    ["no code_challenge", "invalid_request", { code_challenge: undefined }],
    ["an empty code_challenge", "invalid_request", { code_challenge: "" }],
    ["a code_challenge one character short", "invalid_request", { code_challenge: CHALLENGE.slice(1) }],
    ["a code_challenge one character long", "invalid_request", { code_challenge: `${CHALLENGE}A` }],
    ["a code_challenge that is no base64url", "invalid_request", { code_challenge: `${CHALLENGE.slice(1)}=` }],
    ["a code_challenge that is there twice", "invalid_request", { code_challenge: [CHALLENGE, CHALLENGE] }],
    ["no code_challenge_method (which would mean plain)", "invalid_request", { code_challenge_method: undefined }],
    ["the code_challenge_method plain", "invalid_request", { code_challenge_method: "plain" }],
    ["a code_challenge_method in small letters", "invalid_request", { code_challenge_method: "s256" }],
    ["two code_challenge_methods", "invalid_request", { code_challenge_method: ["S256", "plain"] }],
    ["no PKCE at all", "invalid_request", { code_challenge: undefined, code_challenge_method: undefined }],
    ["another resource", "invalid_target", { resource: "https://elsewhere.example/mcp" }],
    ["a resource with a slash more", "invalid_target", { resource: `${RESOURCE}/` }],
    ["the resource's origin", "invalid_target", { resource: ORIGIN }],
    ["two resources", "invalid_request", { resource: [RESOURCE, "https://elsewhere.example/mcp"] }],
    ["prompt=none", "interaction_required", { prompt: "none" }],
    ["a scope that is there twice", "invalid_request", { scope: ["a", "b"] }],
    ["a state that is there twice", "invalid_request", { state: [STATE, "other"] }],
    ["a parameter nobody knows that is there twice", "invalid_request", { colour: ["red", "blue"] }],
  ])("%s: %s", async (_, error, changes) => {
    const response = await ask(room, { ...goodRequest(app), ...changes });
    expect(response.status).toBe(303);
    const { origin, pathname, searchParams } = callbackOf(response);
    expect(origin + pathname).toBe(CALLBACK);
    expect([searchParams.get("error"), searchParams.get("state"), searchParams.get("iss")]).toEqual([error, STATE, ISSUER]);
    expect(searchParams.has("code")).toBe(false);
  });
});

describe("POST /authorize shows a page and gives no code for", () => {
  const elsewhere = "was not made for this browser";
  interface Attempt { form?: Params; cookie?: string; headers?: Record<string, string>; body?: string; later?: number }
  test.each<[string, number, string, Attempt]>([
    ["no ticket", 403, elsewhere, { form: { ticket: undefined } }],
    ["a ticket that is there twice", 400, "ticket is there twice", { form: { ticket: [sealedTicket, sealedTicket] } }],
    ["a ticket that somebody made up", 403, elsewhere, { form: { ticket: "a.b.c" } }],
    ["an altered ticket", 403, elsewhere, { form: { ticket: altered(sealedTicket) } }],
    ["a ticket of another desk", 403, elsewhere, { form: { ticket: ticketOfOtherDesk } }],
    ["a registration as ticket", 403, elsewhere, { form: { ticket: app } }],
    ["a refresh token as ticket", 403, elsewhere, { form: { ticket: given.refresh_token } }],
    ["an access token as ticket", 403, elsewhere, { form: { ticket: given.access_token } }],
    ["a ticket ten minutes later", 403, elsewhere, { later: 601 }],
    ["a ticket from another browser", 403, elsewhere, { cookie: pageElsewhere.cookie }],
    ["a ticket without its cookie", 403, elsewhere, { cookie: "" }],
    ["a ticket with an empty cookie", 403, elsewhere, { cookie: "consent=" }],
    ["a ticket with a made-up cookie", 403, elsewhere, { cookie: `consent=${"A".repeat(32)}` }],
    ["a form sent as text", 400, "application/x-www-form-urlencoded", { headers: { "content-type": "text/plain" } }],
    ["a form sent as JSON", 400, "application/x-www-form-urlencoded", { headers: { "content-type": "application/json" }, body: JSON.stringify({ ticket: sealedTicket, name: "a", decision: "allow" }) }],
    ["no decision", 400, "press Allow or Deny", { form: { decision: undefined } }],
    ["another decision", 400, "press Allow or Deny", { form: { decision: "maybe" } }],
    ["two decisions", 400, "decision is there twice", { form: { decision: ["deny", "allow"] } }],
    ["no name", 400, "say who you are", { form: { name: undefined } }],
    ["an empty name", 400, "say who you are", { form: { name: "" } }],
    ["a name of spaces", 400, "say who you are", { form: { name: "   " } }],
    ["a name of 65 characters", 400, "say who you are", { form: { name: "x".repeat(65) } }],
    ["a name with a line break", 400, "say who you are", { form: { name: "a\nb" } }],
    ["a name with NUL", 400, "say who you are", { form: { name: "a\0b" } }],
    ["a name that turns the reading direction round", 400, "say who you are", { form: { name: "a\u202eb" } }],
    ["nothing ticked", 400, "tick what the app may do", { form: { scope: undefined } }],
    ["something ticked that is not on the page", 400, "tick what the app may do", { form: { scope: "everything" } }],
    ["two names", 400, "name is there twice", { form: { name: ["a", "b"] } }],
  ])("%s: %i, %s", async (_, status, words, { form = {}, cookie = openPage.cookie, headers = {}, body, later = 0 }) => {
    if (later) inSeconds(later);
    const fields = encode({ ticket: sealedTicket, scope: openPage.ticked, name: "reader-A", decision: "allow", ...form }).toString();
    const response = await send(room, "/mock-auth/authorize", {
      method: "POST", body: body ?? fields, headers: { "content-type": "application/x-www-form-urlencoded", ...(cookie && { cookie }), ...headers },
    });
    const page = await read(response);
    expect([page.status, page.headers.get("location")]).toEqual([status, null]);
    expect(page.text).toContain(words);
    expect(page.headers.get("content-security-policy")).toContain("frame-ancestors 'none'");
  });

  test("a name that could not be used, and the form is there to try again", async () => {
    const again = await read(await submit(room, openPage, { name: "" }));
    const back = await submit(room, { ...again, cookie: openPage.cookie });
    expect([back.status, callbackOf(back).searchParams.has("code")]).toEqual([303, true]);
  });
});

describe("POST /token with a code refuses", () => {
  interface Attempt { changes?: Params; headers?: Record<string, string>; later?: number; asked?: Params; encode?: (form: Params) => Pick<RequestInit, "body" | "headers"> }
  const asMultipart = (form: Params) => {
    const body = new FormData();
    for (const [name, value] of encode(form)) body.append(name, value);
    return { body };
  };
  test.each<[string, number, string, Attempt]>([
    ["JSON", 400, "invalid_request", { encode: (form) => ({ body: JSON.stringify(form), headers: { "content-type": "application/json" } }) }],
    ["multipart", 400, "invalid_request", { encode: asMultipart }],
    ["text", 400, "invalid_request", { encode: (form) => ({ body: encode(form).toString(), headers: { "content-type": "text/plain" } }) }],
    ["an empty form", 400, "invalid_request", { encode: () => ({ body: encode({}) }) }],
    ["no grant_type", 400, "invalid_request", { changes: { grant_type: undefined } }],
    ["a grant_type that is there twice", 400, "invalid_request", { changes: { grant_type: ["authorization_code", "authorization_code"] } }],
    ["a password instead", 400, "unsupported_grant_type", { changes: { grant_type: "password" } }],
    ["client credentials instead", 400, "unsupported_grant_type", { changes: { grant_type: "client_credentials" } }],
    ["no client_id", 400, "invalid_request", { changes: { client_id: undefined } }],
    ["a client_id that is there twice", 400, "invalid_request", { changes: { client_id: [app, app] } }],
    ["a client_id that somebody made up", 401, "invalid_client", { changes: { client_id: "my-app" } }],
    ["an altered client_id", 401, "invalid_client", { changes: { client_id: altered(app) } }],
    ["a client_id of another desk", 401, "invalid_client", { changes: { client_id: appOfOtherDesk } }],
    ["a refresh token as client_id", 401, "invalid_client", { changes: { client_id: given.refresh_token } }],
    ["a client secret", 401, "invalid_client", { changes: { client_secret: "hush" } }],
    ["a client that proves itself with a header", 401, "invalid_client", { headers: { authorization: `Basic ${btoa("app:hush")}` } }],
    ["the code of another app", 400, "invalid_grant", { changes: { client_id: otherApp } }],
    ["a code with a URL as client_id", 400, "invalid_grant", { changes: { client_id: "https://app.example/client.json" } }],
    ["no code", 400, "invalid_request", { changes: { code: undefined } }],
    ["a code that is there twice", 400, "invalid_request", { changes: { code: ["a", "a"] } }],
    ["a code that somebody made up", 400, "invalid_grant", { changes: { code: "made-up" } }],
    ["a refresh token as code", 400, "invalid_grant", { changes: { code: given.refresh_token } }],
    ["a ticket as code", 400, "invalid_grant", { changes: { code: sealedTicket } }],
    ["a code a minute later", 400, "invalid_grant", { later: 61 }],
    ["no redirect_uri", 400, "invalid_request", { changes: { redirect_uri: undefined } }],
    ["a redirect_uri that is there twice", 400, "invalid_request", { changes: { redirect_uri: [CALLBACK, CALLBACK] } }],
    ["another redirect_uri", 400, "invalid_grant", { changes: { redirect_uri: "https://evil.example/" } }],
    ["the redirect_uri on another port", 400, "invalid_grant", { changes: { redirect_uri: "http://127.0.0.1:8766/callback" } }],
    ["the registered redirect_uri, when another port was asked for", 400, "invalid_grant", { asked: { redirect_uri: "http://127.0.0.1:9999/callback" } }],
    ["no code_verifier", 400, "invalid_request", { changes: { code_verifier: undefined } }],
    ["an empty code_verifier", 400, "invalid_request", { changes: { code_verifier: "" } }],
    ["a code_verifier that is there twice", 400, "invalid_request", { changes: { code_verifier: [VERIFIER, VERIFIER] } }],
    ["another code_verifier", 400, "invalid_grant", { changes: { code_verifier: WRONG_VERIFIER } }],
    ["the code_challenge as code_verifier", 400, "invalid_grant", { changes: { code_verifier: CHALLENGE } }],
    ["a code_verifier that is too short, though it matches", 400, "invalid_grant", { asked: { code_challenge: sha("short") }, changes: { code_verifier: "short" } }],
    ["a code_verifier that is too long, though it matches", 400, "invalid_grant", { asked: { code_challenge: sha("x".repeat(129)) }, changes: { code_verifier: "x".repeat(129) } }],
    ["another resource", 400, "invalid_target", { changes: { resource: "https://elsewhere.example/mcp" } }],
    ["two resources", 400, "invalid_request", { changes: { resource: [RESOURCE, "https://elsewhere.example/mcp"] } }],
    ["a parameter nobody knows that is there twice", 400, "invalid_request", { changes: { colour: ["red", "blue"] } }],
  ])("%s: %i %s", async (_, status, error, { changes = {}, headers = {}, later = 0, asked = {}, encode: how }) => {
    const form = { ...goodExchange(app, await newCode(room, app, asked)), ...changes };
    if (later) inSeconds(later);
    const sent = how ? how(form) : { body: encode(form) };
    const response = await send(room, "/mock-auth/token", { method: "POST", ...sent, headers: { ...(sent.headers as Record<string, string>), ...headers } });
    expect([response.headers.get("cache-control"), response.headers.get("access-control-allow-origin")]).toEqual(["no-store", "*"]);
    expect(await errorOf(response)).toEqual([status, error]);
  });

  test("what stands in the URL instead of the form", async () => {
    const form = goodExchange(app, await newCode(room, app));
    expect(await errorOf(await send(room, `/mock-auth/token?${encode(form)}`, { method: "POST", body: new URLSearchParams() }))).toEqual([400, "invalid_request"]);
  });

  test.each<[string, Params]>([
    ["verifier", { code_verifier: WRONG_VERIFIER }],
    ["app", { client_id: otherApp }],
    ["redirect_uri", { redirect_uri: "https://evil.example/" }],
  ])("a code that was tried with a wrong %s, when the right one comes after it", async (_, changes) => {
    const code = await newCode(room, app);
    expect((await redeem(room, app, code, changes)).status).toBe(400);
    expect(await errorOf(await redeem(room, app, code))).toEqual([400, "invalid_grant"]);
  });

  test("a code for the second time, and takes back what the first one gave", async () => {
    const code = await newCode(room, app);
    const first = await tokensOf(await redeem(room, app, code));
    const second = await tokensOf(await refresh(room, app, first.refresh_token));
    expect(await errorOf(await redeem(room, app, code))).toEqual([400, "invalid_grant"]);
    for (const { refresh_token } of [first, second]) expect(await errorOf(await refresh(room, app, refresh_token))).toEqual([400, "invalid_grant"]);
  });

  test("all but one of ten who bring the same code at once", async () => {
    const code = await newCode(room, app);
    const answers = await Promise.all(Array.from({ length: 10 }, () => redeem(room, app, code)));
    expect(answers.filter(({ status }) => status === 200)).toHaveLength(1);
  });

  test("a code that was replayed minutes after its end still takes back what it gave", async () => {
    const code = await newCode(room, app);
    const { refresh_token } = await tokensOf(await redeem(room, app, code));
    inSeconds(300);
    await newCode(room, app); // others come and go meanwhile
    await redeem(room, app, code);
    expect(await errorOf(await refresh(room, app, refresh_token))).toEqual([400, "invalid_grant"]);
  });
});

// ---- 5. Refresh ----

describe("a refresh token", () => {
  const refused: [string, number, string, Params, number?][] = [
    ["missing", 400, "invalid_request", { refresh_token: undefined }],
    ["there twice", 400, "invalid_request", { refresh_token: [given.refresh_token, given.refresh_token] }],
    ["made up", 400, "invalid_grant", { refresh_token: "made-up" }],
    ["altered", 400, "invalid_grant", { refresh_token: altered(given.refresh_token) }],
    ["of another desk", 400, "invalid_grant", { refresh_token: givenByOtherDesk.refresh_token }],
    ["a registration", 400, "invalid_grant", { refresh_token: app }],
    ["a form's ticket", 400, "invalid_grant", { refresh_token: sealedTicket }],
    ["an access token", 400, "invalid_grant", { refresh_token: given.access_token }],
    ["a code", 400, "invalid_grant", { refresh_token: unusedCode }],
    ["an unsigned token", 400, "invalid_grant", { refresh_token: `${Buffer.from('{"alg":"none","typ":"refresh"}').toString("base64url")}.${given.refresh_token.split(".")[1]}.` }],
    ["brought by another app", 400, "invalid_grant", { client_id: otherApp }],
    ["brought by nobody", 400, "invalid_request", { client_id: undefined }],
    ["brought by an app of another desk", 401, "invalid_client", { client_id: appOfOtherDesk }],
    ["brought with a secret", 401, "invalid_client", { client_secret: "hush" }],
    ["for another resource", 400, "invalid_target", { resource: "https://elsewhere.example/mcp" }],
    ["for more than was allowed", 400, "invalid_scope", { scope: "offline_access shelf" }],
    ["a month old", 400, "invalid_grant", {}, 31 * 24 * 3600],
  ];
  test.each(refused)("that is %s is refused: %i %s", async (_, status, error, changes, later = 0) => {
    const { refresh_token } = await signIn(room, app, { scope: "offline_access" });
    if (later) inSeconds(later);
    expect(await errorOf(await refresh(room, app, refresh_token, changes))).toEqual([status, error]);
  });

  test("gives a fresh access token for the same person, app and gateway, and its own successor", async () => {
    const first = await signIn(room, app, {}, { name: "reader-R" });
    const second = await tokensOf(await refresh(room, app, first.refresh_token));
    expect(decodeProtectedHeader(second.access_token)).toMatchObject({ alg: "RS256", typ: "at+jwt" });
    expect(decodeJwt(second.access_token)).toMatchObject({ sub: "reader-R", aud: RESOURCE, iss: ISSUER, client_id: app });
    expect(second.access_token).not.toBe(first.access_token);
    expect(second.refresh_token).not.toBe(first.refresh_token);
  });

  test("stays good while its successor was never used (an answer was lost), and dies when it is", async () => {
    const first = await signIn(room, app);
    await refresh(room, app, first.refresh_token); // the answer is lost
    const second = await tokensOf(await refresh(room, app, first.refresh_token));
    const third = await tokensOf(await refresh(room, app, second.refresh_token));
    expect(await errorOf(await refresh(room, app, first.refresh_token))).toEqual([400, "invalid_grant"]);
    expect((await refresh(room, app, third.refresh_token)).status).toBe(200);
  });

  test("is good for every one of ten sessions that refresh at once, and so is what each gets", async () => {
    const { refresh_token } = await signIn(room, app);
    const answers = await Promise.all(Array.from({ length: 10 }, () => refresh(room, app, refresh_token)));
    expect(answers.map(({ status }) => status)).toEqual(Array(10).fill(200));
    for (const answer of answers) expect((await refresh(room, app, (await tokensOf(answer)).refresh_token)).status).toBe(200);
    expect(await errorOf(await refresh(room, app, refresh_token))).toEqual([400, "invalid_grant"]);
  });

  test("of one sign-in lives on when another's dies", async () => {
    const [mine, other] = [await signIn(room, app), await signIn(room, app)];
    const next = await tokensOf(await refresh(room, app, mine.refresh_token));
    await refresh(room, app, next.refresh_token);
    expect((await refresh(room, app, other.refresh_token)).status).toBe(200);
  });

  test("can ask for less than was allowed, and for all of it again the next time", async () => {
    const service = await open({ scopes: ["shelf"] });
    const { refresh_token } = await signIn(service, app, { scope: "shelf offline_access" });
    const reads = "shelf reading-room:read";
    const less = await tokensOf(await refresh(service, app, refresh_token, { scope: reads }));
    expect([less.scope, decodeJwt(less.access_token).scope]).toEqual([reads, reads]);
    expect((await tokensOf(await refresh(service, app, less.refresh_token))).scope).toBe(`shelf offline_access ${ALL}`);
  });

  test("can't be refreshed into a token that names no limit, and so has none", async () => {
    const service = await open({ scopes: ["shelf"] });
    const { refresh_token } = await signIn(service, app, { scope: "shelf offline_access" });
    for (const scope of ["shelf", "offline_access", "shelf offline_access"]) {
      const answer = await refresh(service, app, refresh_token, { scope });
      expect([answer.status, ((await answer.json()) as { error: string }).error]).toEqual([400, "invalid_scope"]);
    }
  });
});

// ---- 7. A token for a curl ----

describe("GET /token", () => {
  const mint = (service: Service, params: Params) => send(service, `/mock-auth/token?${encode(params)}`);

  test("answers a token as plain text, for whom, what and how long one says, and pages elsewhere can't read it", async () => {
    const response = await mint(room, { sub: "reader-A", aud: RESOURCE, email: "a@example.org", scope: "shelf", ttl: "60" });
    expect(response.headers.get("content-type")).toStartWith("text/plain");
    expect([response.headers.get("access-control-allow-origin"), response.headers.get("cache-control")]).toEqual([null, "no-store"]);
    const token = await response.text();
    const { iat, exp, ...claims } = decodeJwt(token);
    expect(claims).toMatchObject({ iss: ISSUER, sub: "reader-A", aud: RESOURCE, email: "a@example.org", scope: "shelf" });
    expect(exp! - iat!).toBe(60);
    expect(decodeProtectedHeader(token)).toMatchObject({ alg: "RS256", typ: "at+jwt" });
  });

  test.each(["http://localhost:8123/mcp", "http://127.0.0.1:8000/mcp", "http://[::1]:8000/mcp"])("mints for %s, a gateway on this machine", async (aud) => {
    expect(decodeJwt(await (await mint(room, { sub: "a", aud })).text()).aud).toBe(aud);
  });

  test.each<[string, string, Params]>([
    ["no sub", "invalid_request", { sub: undefined }],
    ["an empty sub", "invalid_request", { sub: "" }],
    ["a sub that is there twice", "invalid_request", { sub: ["a", "b"] }],
    ["a sub of 65 characters", "invalid_request", { sub: "x".repeat(65) }],
    ["a sub with spaces around it", "invalid_request", { sub: " a " }],
    ["a sub with NUL", "invalid_request", { sub: "a\0" }],
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
    const response = await mint(room, { sub: "reader-A", aud: RESOURCE, ...changes });
    expect(response.headers.get("access-control-allow-origin")).toBeNull();
    expect(await errorOf(response)).toEqual([400, error]);
  });

  test.each<[string, number, string, Params]>([
    ["no passphrase", 403, "access_denied", { passphrase: undefined }],
    ["a wrong passphrase", 403, "access_denied", { passphrase: "please" }],
    ["an aud on this machine", 400, "invalid_target", { aud: "http://localhost:8000/mcp" }],
  ])("behind a tunnel refuses %s: %i %s", async (_, status, error, changes) => {
    const tunnel = await openTunnel();
    const good = { sub: "a", aud: `${PUBLIC}/mcp`, passphrase: PASSPHRASE };
    expect(await errorOf(await mint(tunnel, { ...good, ...changes }))).toEqual([status, error]);
    expect((await mint(tunnel, good)).status).toBe(200);
  });
});

// ---- 2. A client_id that is a URL ----

describe("a client_id that is the URL of a document", () => {
  const hits: string[] = [];
  const served: Record<string, (id: string) => Response | Promise<Response>> = {
    "/good.json": (id) => Response.json({ client_id: id, client_name: "An app with a page", redirect_uris: [7, CALLBACK, "https://app.example/callback", "javascript:alert(1)"], token_endpoint_auth_method: "none" }),
    "/private-key.json": (id) => Response.json({ client_id: id, client_name: "An app with a key", redirect_uris: [CALLBACK], token_endpoint_auth_method: "private_key_jwt" }),
    "/nameless.json": (id) => Response.json({ client_id: id, redirect_uris: [CALLBACK] }),
    "/other-id.json": () => Response.json({ client_id: "https://app.example/client.json", redirect_uris: [CALLBACK] }),
    "/slash-id.json": (id) => Response.json({ client_id: `${id}/`, redirect_uris: [CALLBACK] }),
    "/no-id.json": () => Response.json({ redirect_uris: [CALLBACK] }),
    "/no-redirects.json": (id) => Response.json({ client_id: id }),
    "/secret.json": (id) => Response.json({ client_id: id, redirect_uris: [CALLBACK], client_secret: "hush" }),
    "/secret-basic.json": (id) => Response.json({ client_id: id, redirect_uris: [CALLBACK], token_endpoint_auth_method: "client_secret_basic" }),
    "/not-json": () => new Response("<html>hello</html>"),
    "/list.json": () => Response.json([]),
    "/moved.json": () => Response.redirect("/good.json", 302),
    "/gone.json": (id) => Response.json({ client_id: id, client_name: "Gone", redirect_uris: [CALLBACK] }, { status: 404 }),
    "/large.json": (id) => Response.json({ client_id: id, client_name: "Large", redirect_uris: [CALLBACK], padding: "x".repeat(70_000) }),
    "/just-right.json": (id) => Response.json({ client_id: id, client_name: "Just right", redirect_uris: [CALLBACK], padding: "x".repeat(60_000) }),
    "/silent.json": () => Bun.sleep(20_000).then(() => new Response()),
    "/dripping.json": () => new Response(new ReadableStream({ async pull(controller) { controller.enqueue(" "); await Bun.sleep(300); } })),
  };
  const site = Bun.serve({ port: 0, hostname: "127.0.0.1", idleTimeout: 60, fetch: ({ url }) => {
    const { pathname } = new URL(url);
    hits.push(pathname);
    return served[pathname]?.(url) ?? new Response(null, { status: 404 });
  } });
  const base = `http://127.0.0.1:${site.port}`;
  afterAll(() => site.stop(true));
  const https_redirect = "https://app.example/callback";

  test("says who the app is and where it may be called back, and a whole sign-in works with it", async () => {
    const id = `${base}/good.json`;
    const page = await consentPage(room, goodRequest(id));
    expect(page.text).toContain("An app with a page");
    expect(page.text).not.toContain("could not be checked");
    const tokens = await signIn(room, id, { redirect_uri: "http://127.0.0.1:4321/callback" });
    expect(decodeJwt(tokens.access_token).client_id).toBe(id);
    expect((await refresh(room, id, tokens.refresh_token)).status).toBe(200);
    expect(await errorOf(await refresh(room, `${base}/nameless.json`, tokens.refresh_token))).toEqual([400, "invalid_grant"]);
    await consentPage(room, { ...goodRequest(id), redirect_uri: https_redirect });
  });

  test.each([
    ["without a name goes by its host", "/nameless.json", "Let 127.0.0.1 use"],
    ["that would prove itself with a key goes on as the public one it is here", "/private-key.json", "An app with a key"],
    ["of 60,000 characters is read", "/just-right.json", "Just right"],
  ])("and an app %s", async (_, path, name) => {
    const page = await consentPage(room, goodRequest(`${base}${path}`));
    expect(page.text).toContain(name);
    expect(page.text).not.toContain("could not be checked");
  });

  const notAbout = "not about this client_id";
  const notRegistered = "not one that this app registered";
  test.each([
    ["names another client_id", "/other-id.json", CALLBACK, notAbout],
    ["names a client_id with a slash more", "/slash-id.json", CALLBACK, notAbout],
    ["names no client_id", "/no-id.json", CALLBACK, notAbout],
    ["names no redirect_uris", "/no-redirects.json", CALLBACK, notAbout],
    ["bears a secret", "/secret.json", CALLBACK, notAbout],
    ["speaks of a secret", "/secret-basic.json", CALLBACK, notAbout],
    ["is not JSON", "/not-json", CALLBACK, notAbout],
    ["is a list", "/list.json", CALLBACK, notAbout],
    ["does not name the redirect_uri", "/good.json", "https://evil.example/callback", notRegistered],
    ["does not name this loopback path", "/good.json", "http://127.0.0.1:8765/other", notRegistered],
    ["names a redirect_uri that is never one", "/good.json", "javascript:alert(1)", notRegistered],
    ["has moved", "/moved.json", goodRequest("").redirect_uri!, "answers 302"],
    ["is gone", "/gone.json", https_redirect, "answers 404"],
    ["is larger than 64 KiB", "/large.json", goodRequest("").redirect_uri!, "too large"],
  ])("is refused when it %s", async (_, path, redirect_uri, words) => {
    hits.length = 0;
    const page = await read(await ask(room, { ...goodRequest(`${base}${path}`), redirect_uri }));
    expect([page.status, page.headers.get("location"), page.elements.includes("form")]).toEqual([400, null, false]);
    expect(page.text).toContain(words);
    expect(hits).toEqual([path]); // in particular: no redirect was followed
  });

  test("is waited for three seconds, whether it is silent or dripping", async () => {
    const start = performance.now();
    const pages = await Promise.all(["/silent.json", "/dripping.json"].map((path) => ask(room, { ...goodRequest(`${base}${path}`), redirect_uri: https_redirect })));
    expect(pages.map(({ status }) => status)).toEqual([400, 400]);
    expect(performance.now() - start).toBeWithin(2_000, 6_000);
  });

  test.each([
    ["nobody answers there", `${closed}/client.json`],
    ["its name is not known", "https://client.invalid/client.json"],
  ])("can't be had because %s: an app on this machine goes on, and the page says that it was not checked", async (_, id) => {
    const page = await consentPage(room, goodRequest(id));
    expect(page.text).toContain("could not be checked");
    expect(page.text).toContain(id);
    expect(page.html).not.toMatch(/Large|An app with a page/);
    const tokens = await signIn(room, id);
    expect((await refresh(room, id, tokens.refresh_token)).status).toBe(200);
  });

  test.each([["an https redirect", https_redirect], ["an app's own scheme", "cursor://anysphere.cursor-mcp/oauth/callback"], ["script", "javascript://localhost/%0aalert(1)"]])(
    "can't be had: an app with %s is refused", async (_, redirect_uri) => {
      const response = await ask(room, { ...goodRequest(`${closed}/client.json`), redirect_uri });
      expect([response.status, response.headers.get("location")]).toEqual([400, null]);
    });

  describe("behind a tunnel", () => {
    const knock = (client_id: string) => ask(tunnelled, { ...goodRequest(client_id), resource: `${PUBLIC}/mcp` });

    test("is refused when nobody answers, also for an app on this machine", async () => {
      const page = await read(await knock("https://client.invalid/client.json"));
      expect([page.status, page.elements.includes("form")]).toEqual([400, false]);
    });

    test("is not asked for on this machine, under any name", async () => {
      let connections = 0;
      const listener = createServer((socket) => { connections++; socket.destroy(); });
      await new Promise<void>((done) => void listener.listen(0, "::", done));
      const { port } = listener.address() as AddressInfo;
      for (const host of ["127.0.0.1", "127.1.2.3", "localhost", "[::1]", "[::ffff:7f00:1]", "[::]", "0.0.0.0", "localhost."]) {
        for (const scheme of ["https", "http"]) {
          const page = await read(await knock(`${scheme}://${host}:${port}/client.json`));
          expect([scheme, host, page.status]).toEqual([scheme, host, 400]);
          if (scheme === "http") expect(page.text).toContain("not the https URL of a document");
        }
      }
      expect(connections).toBe(0);
      const onDesk = await ask(room, goodRequest(`https://localhost:${port}/client.json`)); // the listener does count
      expect([onDesk.status, connections > 0]).toEqual([200, true]);
      listener.close();
    });

    test.each([
      ["this network", "0.0.0.0"], ["loopback", "127.0.0.1"], ["private", "10.0.0.1"], ["private", "172.16.0.1"], ["private", "172.31.255.254"], ["private", "192.168.1.1"],
      ["a provider's own", "100.64.0.1"], ["link-local, where clouds keep their secrets", "169.254.169.254"], ["protocol assignments", "192.0.0.1"],
      ["documentation", "192.0.2.1"], ["documentation", "198.51.100.1"], ["documentation", "203.0.113.1"], ["6to4 relays", "192.88.99.1"], ["benchmarks", "198.18.0.1"],
      ["multicast", "224.0.0.1"], ["reserved", "240.0.0.1"], ["broadcast", "255.255.255.255"],
      ["unspecified", "[::]"], ["loopback", "[::1]"], ["unique local", "[fc00::1]"], ["unique local", "[fd12:3456::1]"], ["link-local", "[fe80::1]"], ["multicast", "[ff02::1]"],
      ["IPv4 inside", "[::ffff:10.0.0.1]"], ["loopback inside", "[::ffff:127.0.0.1]"], ["IPv4 inside, the old way", "[::10.0.0.1]"], ["NAT64", "[64:ff9b::a00:1]"],
      ["6to4", "[2002:a00:1::1]"], ["Teredo", "[2001::1]"], ["documentation", "[2001:db8::1]"], ["benchmarks", "[2001:2::1]"], ["identifiers", "[2001:20::1]"],
      ["documentation", "[3fff::1]"], ["discard", "[100::1]"], ["not given out", "[2::1]"], ["not given out", "[3f::1]"],
    ])("is not asked for at an address that is %s: %s", async (_, host) => {
      const get = spyOn(https, "get").mockImplementation(() => { throw new Error("it was asked for"); });
      const id = new URL(`https://${host}/client.json`).href;
      const page = await read(await knock(id));
      const asked = get.mock.calls.length;
      get.mockRestore();
      expect([page.status, asked]).toEqual([400, 0]);
      expect(page.text).toContain("can't be fetched");
    });

    test.each(["1.1.1.1", "172.32.0.1", "[2606:4700::1111]", "[2001:4860::8888]", "[2a00::1]"])("is asked for at a public address: %s", async (host) => {
      const get = spyOn(https, "get").mockImplementation(() => { throw new Error("it was asked for"); });
      await knock(`https://${host}/client.json`);
      const asked = get.mock.calls.length;
      get.mockRestore();
      expect(asked).toBe(1);
    });

    test("is never asked for without TLS", async () => {
      const get = spyOn(http, "get").mockImplementation(() => { throw new Error("it was asked for"); });
      const response = await knock("http://1.1.1.1/client.json");
      const asked = get.mock.calls.length;
      get.mockRestore();
      expect([response.status, asked]).toEqual([400, 0]);
    });
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
    const secure = await ask(tunnelled, { ...goodRequest(app), resource: `${PUBLIC}/mcp` });
    expect(secure.headers.get("set-cookie")!.split("; ")).toContain("Secure");
  });

  test("keeps the cookie that the browser has, so that two open pages both work", async () => {
    const second = await ask(room, { ...goodRequest(otherApp), state: "second" }, openPage.cookie);
    expect((await read(second)).cookie).toBe(openPage.cookie);
    expect((await submit(room, openPage)).status).toBe(303);
  });

  test("replaces a cookie that it did not make", async () => {
    const page = await read(await ask(room, goodRequest(app), "consent=short; other=1"));
    expect(page.cookie).toMatch(/^consent=[\w-]{32}$/);
    expect((await submit(room, page)).status).toBe(303);
  });

  const HOSTILE = `"><script>alert(1)</script><img src=x onerror=alert(1)>'&amp;`;
  test.each<[string, object, Params]>([
    ["client_name", { client_name: HOSTILE }, {}],
    ["state", {}, { state: HOSTILE }],
    ["scope", {}, { scope: `shelf ${HOSTILE}` }],
    ["redirect_uri", { redirect_uris: [`https://app.example/"><script>alert(1)</script>`] }, { redirect_uri: `https://app.example/"><script>alert(1)</script>` }],
    ["an own scheme", { redirect_uris: [`app://x/<script>alert(1)</script>`] }, { redirect_uri: `app://x/<script>alert(1)</script>` }],
    ["resource", {}, { colour: HOSTILE }],
  ])("takes a hostile %s for text", async (what, metadata, changes) => {
    const page = await read(await ask(room, { ...goodRequest(await register(room, metadata)), ...changes }));
    expect(page.elements.filter((tag) => ["script", "img"].includes(tag))).toEqual([]);
    expect(page.elements.filter((tag) => tag === "form")).toEqual(["form"]);
    if (what === "client_name") expect(page.html).toContain("&lt;script&gt;alert(1)&lt;/script&gt;");
  });

  test("takes a hostile name, a hostile client_id and a hostile scope of the desk for text", async () => {
    const service = await open({ scopes: [`<b>bold</b>`] });
    const client = await register(service);
    await newCode(service, client, {}, { name: `"><script>alert(1)</script>` });
    const page = await consentPage(service, { ...goodRequest(client), scope: "<b>bold</b>" });
    expect(page.elements.filter((tag) => ["script", "b"].includes(tag))).toEqual([]);
    expect(page.elements).toContain("option");
    const unchecked = await consentPage(service, goodRequest(`${closed}/client.json?a&lt=1`)); // its angle brackets never get past the URL
    expect(unchecked.html).toContain("client.json?a&amp;lt=1");
  });

  test("says where the answer goes: a host, this machine, or an app's own scheme", async () => {
    const where = async (redirect_uri: string) => (await consentPage(room, { ...goodRequest(await register(room, { redirect_uris: [redirect_uri] })), redirect_uri })).text;
    expect(await where("https://app.example:8443/callback")).toMatch(/Then you go to\s*app\.example:8443\s/);
    expect(await where("http://localhost:7777/callback")).toMatch(/Then you go to\s*localhost:7777 \(an app on this machine\)/);
    expect(await where("cursor://anysphere.cursor-mcp/oauth/callback")).toMatch(/Then you go to\s*cursor:\/\/anysphere\.cursor-mcp/);
  });

  test("offers the names that were used last on the desk, five of them, and none behind a tunnel", async () => {
    const service = await open();
    for (const name of ["a1", "a2", "a3", "a4", "a5", "a6", "a6"]) await newCode(service, app, {}, { name });
    const { html } = await consentPage(service, goodRequest(app));
    expect([...html.matchAll(/<option value="(.*?)">/g)].map(([, name]) => name)).toEqual(["a6", "a5", "a4", "a3", "a2"]);
    const tunnel = await openTunnel();
    await newCode(tunnel, app, { resource: undefined }, { name: "Ada", passphrase: PASSPHRASE });
    expect((await consentPage(tunnel, { ...goodRequest(app), resource: undefined })).html).not.toContain("Ada");
  });

  test.each<[string, string | undefined, string[]]>([
    ["asks for nothing", undefined, CHOICES],
    ["asks to stay", "offline_access", CHOICES],
    ["asks to read", "reading-room:read", ["reading-room:read"]],
    ["asks for both", ALL, CHOICES],
  ])("has ticked what the app asks for when it %s", async (_, scope, ticked) => {
    expect((await consentPage(room, { ...goodRequest(app), scope })).ticked).toEqual(ticked);
  });

  test("gives what the person ticked, no more, now and after a refresh", async () => {
    const tokens = await signIn(room, app, { scope: `${ALL} offline_access` }, { scope: ["reading-room:read", "everything"] });
    expect([tokens.scope, decodeJwt(tokens.access_token).scope]).toEqual(Array(2).fill("offline_access reading-room:read"));
    expect((await tokensOf(await refresh(room, app, tokens.refresh_token))).scope).toBe("offline_access reading-room:read");
    expect(await errorOf(await refresh(room, app, tokens.refresh_token, { scope: ALL }))).toEqual([400, "invalid_scope"]);
  });

  test("takes a name without the spaces around it", async () => {
    expect(decodeJwt((await signIn(room, app, {}, { name: "  Ada Lovelace " })).access_token).sub).toBe("Ada Lovelace");
  });
});

// ---- Through a tunnel ----

describe("behind a tunnel", () => {
  const request = { ...goodRequest(app), resource: `${PUBLIC}/mcp` };

  test.each([["none", undefined], ["an empty one", ""], ["a wrong one", "please"], ["the beginning of it", PASSPHRASE.slice(0, -1)]])(
    "nobody is let in with %s for a passphrase, and the form is there to try again", async (_, passphrase) => {
      const tunnel = await openTunnel();
      const page = await consentPage(tunnel, request);
      expect(page.elements).toContain("input#passphrase");
      const again = await read(await submit(tunnel, page, { passphrase }));
      expect([again.status, again.headers.get("location")]).toEqual([400, null]);
      expect(again.text).toContain("not the passphrase");
      const back = await submit(tunnel, { ...again, cookie: page.cookie }, { passphrase: PASSPHRASE });
      const tokens = await tokensOf(await redeem(tunnel, app, callbackOf(back).searchParams.get("code")!, { resource: `${PUBLIC}/mcp` }));
      expect(decodeJwt(tokens.access_token)).toMatchObject({ iss: `${PUBLIC}/mock-auth`, aud: `${PUBLIC}/mcp` });
    });

  test("the desk itself asks for no passphrase", () => {
    expect(openPage.elements).not.toContain("input#passphrase");
  });

  test("no takes no passphrase", async () => {
    const tunnel = await openTunnel();
    const back = await submit(tunnel, await consentPage(tunnel, request), { decision: "deny" });
    expect(callbackOf(back).searchParams.get("error")).toBe("access_denied");
  });

  test("a few wrong tries cost nothing, the next cost time, and the right one never waits", async () => {
    const tunnel = await openTunnel();
    const page = await consentPage(tunnel, request);
    const time = async (attempt: () => Promise<Response>) => {
      const start = performance.now();
      await attempt();
      return performance.now() - start;
    };
    const guess = (passphrase: string) => time(() => submit(tunnel, page, { passphrase }));
    expect(await guess("one")).toBeLessThan(500);
    expect(await guess("two")).toBeLessThan(500);
    const slow = [guess("three"), time(() => send(tunnel, `/mock-auth/token?sub=a&aud=${PUBLIC}/mcp&passphrase=four`))];
    await Bun.sleep(50);
    expect(await guess(PASSPHRASE)).toBeLessThan(500);
    const [third, fourth] = (await Promise.all(slow)).sort((a, b) => a - b);
    expect(third).toBeWithin(900, 1_800);
    expect(fourth).toBeWithin(1_900, 4_000);
    expect(await guess("five")).toBeLessThan(500); // the right one in between wiped the slate
  });

  test("the passphrase is new at each start, long, and printed where the operator looks", async () => {
    const printed: string[] = [];
    const error = spyOn(console, "error").mockImplementation((line: string) => void printed.push(line));
    for (let start = 0; start < 2; start++) await mockAuth({ issuer: `${PUBLIC}/mock-auth`, resourceUrl: `${PUBLIC}/mcp`, host: "127.0.0.1", keyFile: join(folder, "desk.json"), tunnel: true });
    await open();
    error.mockRestore();
    expect(printed).toHaveLength(2);
    const phrases = printed.map((line) => line.match(/(?:[0-9a-f]{4}-){3}[0-9a-f]{4}/)?.[0]);
    expect(phrases[0]).toBeString();
    expect(phrases[0]).not.toBe(phrases[1]!);
  });
});

// ---- Starting ----

describe("a restart", () => {
  test("signs nobody out: registrations, refresh tokens, open pages and keys are as before", async () => {
    const keyFile = join(folder, "restart.json");
    const before = await open({ keyFile });
    const client = await register(before);
    const { refresh_token, access_token } = await signIn(before, client, {}, { name: "reader-S" });
    const page = await consentPage(before, goodRequest(client));
    const after = await open({ keyFile });
    expect(decodeJwt((await tokensOf(await refresh(after, client, refresh_token))).access_token).sub).toBe("reader-S");
    expect((await submit(after, page)).status).toBe(303);
    await signIn(after, client);
    const keys = createLocalJWKSet((await (await send(after, "/mock-auth/jwks.json")).json()) as JSONWebKeySet);
    expect((await jwtVerify(access_token, keys)).payload.sub).toBe("reader-S");
  });

  test("with another key is another desk", async () => {
    const other = await open({ keyFile: join(folder, "restart-other.json") });
    expect(await errorOf(await refresh(other, app, given.refresh_token))).toEqual([401, "invalid_client"]);
    expect(await errorOf(await refresh(other, await register(other), given.refresh_token))).toEqual([400, "invalid_grant"]);
  });

  test("only the owner can read the key file, also one that was open to all", async () => {
    const fresh = join(folder, "mode.json");
    await open({ keyFile: fresh });
    expect((await stat(fresh)).mode & 0o777).toBe(0o600);
    await chmod(fresh, 0o644);
    await open({ keyFile: fresh });
    expect((await stat(fresh)).mode & 0o777).toBe(0o600);
  });

  test("of several at once on a new desk ends with one key", async () => {
    const keyFile = join(folder, "several.json");
    const services = await Promise.all(Array.from({ length: 4 }, () => open({ keyFile })));
    const client = await register(services[0]!);
    for (const service of services) await consentPage(service, goodRequest(client));
  });

  test("on a key file that is damaged stops, and does not make a new key over it", async () => {
    const keyFile = join(folder, "damaged.json");
    await writeFile(keyFile, "{");
    await expect(open({ keyFile })).rejects.toThrow();
    expect(await Bun.file(keyFile).text()).toBe("{");
  });
});

describe("beyond this machine", () => {
  test.each(["0.0.0.0", "::", "[::]", "192.168.1.5", "10.0.0.1", "example.com", "localhost.example.com", "127.0.0.1.example.com", ""])("HOST=%s is refused", async (host) => {
    await expect(open({ host })).rejects.toThrow("HOST");
  });
  test.each(["127.0.0.1", "localhost", "::1", "[::1]", "127.0.0.2"])("HOST=%s is this machine", async (host) => {
    await expect(open({ host })).resolves.toBeFunction();
  });
  test("NODE_ENV=production is refused", async () => {
    const before = process.env.NODE_ENV;
    process.env.NODE_ENV = "production";
    await expect(open().finally(() => void (process.env.NODE_ENV = before ?? "test"))).rejects.toThrow("NODE_ENV");
  });
});

describe("bun run mock-auth.ts", () => {
  const start = (env: Record<string, string>) =>
    Bun.spawn(["bun", "run", join(ROOT, "mock-auth.ts")], { cwd: folder, env: { PATH: process.env.PATH!, HOME: folder, ...env }, stdout: "pipe", stderr: "pipe" });

  test.each([{ HOST: "0.0.0.0" }, { HOST: "::" }, { NODE_ENV: "production" }])("with %o does not start, and says why in one line", async (env) => {
    const child = start(env);
    expect([await child.exited, await child.stdout.text()]).toEqual([1, ""]);
    expect(await child.stderr.text()).toMatch(/^Cannot start: .*HOST.*\n$/);
  });

  test("with a public RESOURCE_URL asks for a passphrase too", async () => {
    const child = start({ RESOURCE_URL: `${PUBLIC}/mcp` });
    const said = child.stderr.text();
    await Promise.race([child.stdout.getReader().read(), child.exited]);
    child.kill();
    expect(await said).toContain("passphrase");
  });

  test.skipIf(!port9000IsFree)("serves port 9000 to this machine by its own names, and to no other", async () => {
    const child = start({});
    await child.stdout.getReader().read();
    const from = (host: string) => fetch("http://127.0.0.1:9000/.well-known/oauth-authorization-server", { headers: { host } });
    const metadata = (await (await from("localhost:9000")).json()) as { issuer: string };
    const rebound = await from("evil.example:9000");
    const nothing = await fetch("http://127.0.0.1:9000/nothing");
    child.kill();
    expect([metadata.issuer, rebound.status, nothing.status]).toEqual(["http://localhost:9000", 403, 404]);
  });
});

// ---- In front of the gateway ----

describe("mounted in the gateway", () => {
  test("two people who sign in get two shelves", async () => {
    const service = await open();
    const { call } = await desk({ keys: service });
    const visit = async (name: string) => {
      const { access_token } = await signIn(service, app, {}, { name });
      const { session } = (await call("begin_session", {}, access_token)).structuredContent as { session: string };
      return (tool: string, args: object = {}) => call(tool, { session, ...args }, access_token);
    };
    const [ada, grace] = [await visit("ada"), await visit("grace")];
    await ada("user_save_state", { shelf: { a1: "finished" } });
    await grace("user_save_state", { shelf: { a2: "first page" } });
    expect((await ada("user_get_state")).structuredContent!.state.shelf).toEqual({ a1: "finished" });
    expect((await grace("user_get_state")).structuredContent!.state.shelf).toEqual({ a2: "first page" });
    const adaAgain = await visit("ada");
    expect((await adaAgain("user_get_state")).structuredContent!.state.shelf).toEqual({ a1: "finished" });
  });

  test("an access token that is over answers 401, and a refresh opens the door again", async () => {
    const service = await open({ lifetime: 1 });
    const { rpc } = await desk({ keys: service });
    const { access_token, refresh_token, expires_in } = await signIn(service, app);
    expect(expires_in).toBe(1);
    expect((await rpc("tools/list", {}, access_token)).status).toBe(200);
    inSeconds(2);
    const refused = await rpc("tools/list", {}, access_token);
    expect([refused.status, refused.headers.get("www-authenticate")]).toEqual([401, expect.stringContaining("invalid_token")]);
    const next = await tokensOf(await refresh(service, app, refresh_token));
    expect((await rpc("tools/list", {}, next.access_token)).status).toBe(200);
  });

  test("what is no access token opens nothing", async () => {
    const { rpc } = await desk({ keys: room });
    const forOther = await (await send(room, "/mock-auth/token?sub=a&aud=http://localhost:8123/mcp")).text();
    for (const token of [given.refresh_token, app, sealedTicket, forOther, givenByOtherDesk.access_token]) expect((await rpc("tools/list", {}, token)).status).toBe(401);
    const token = await (await send(room, `/mock-auth/token?sub=a&aud=${RESOURCE}`)).text();
    expect((await rpc("tools/list", {}, token)).status).toBe(200);
  });

  test("the form is taken with the Origin: null that browsers send from it", async () => {
    const { send: toGateway } = await desk({ keys: room });
    const response = await toGateway("/mock-auth/authorize", {
      method: "POST", body: encode({ ...openPage.hidden, scope: openPage.ticked, name: "reader-A", decision: "allow" }), headers: { origin: "null", cookie: openPage.cookie },
    });
    expect(response.status).toBe(303);
  });

  test("a name that is not ours gets no sign-in page (DNS rebinding)", async () => {
    const { send: toGateway } = await desk({ keys: room });
    const response = await toGateway(`/mock-auth/token?sub=a&aud=${RESOURCE}`, { headers: { host: "evil.example" } });
    expect(response.status).toBe(403);
  });
});

function sha(text: string): string {
  return createHash("sha256").update(text).digest("base64url");
}
