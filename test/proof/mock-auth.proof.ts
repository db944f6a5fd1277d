// The local sign-in service, for whoever doubts: every refusal there is, its waits, its way to other people's documents,
// and `bun run mock-auth.ts` and the gateway as processes. What a first look needs is in ../mock-auth.test.ts.

import { afterAll, afterEach, describe, expect, setDefaultTimeout, setSystemTime, spyOn, test } from "bun:test";
import dns from "node:dns/promises";
import fs, { chmod, cp, mkdir, stat, symlink, writeFile } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { createLocalJWKSet, decodeJwt, type JSONWebKeySet, jwtVerify } from "jose";
import { type MockAuthOptions } from "../../mock-auth.ts";
import {
  altered, APP, ask, CALLBACK, callbackOf, CHALLENGE, consentPage, encode, errorOf, expectErrorPage, goodExchange, goodRequest, ISSUER, mint, newCode,
  openLocal, openTunnel, ORIGIN, type Params, PASSPHRASE, postForm, postJson, PUBLIC, read, refresh, register, registration,
  RESOURCE, send, type Service, sha256, signIn, STATE, submit, tokensOf, VERIFIER,
} from "../host-app.ts";
import { freePort, ROOT, scratch, startGateway } from "../support.ts";

setDefaultTimeout(20_000); // some wait three seconds on purpose

const folder = await scratch();
const open = (options: Partial<MockAuthOptions> = {}) => openLocal({ keyFile: join(folder, "key.json"), ...options });
const tunnelled = (options: Partial<MockAuthOptions> = {}) => openTunnel({ keyFile: join(folder, "key.json"), ...options });
const stderr = spyOn(console, "error").mockImplementation(() => {});
afterAll(() => stderr.mockRestore());

const local = await open();
const tunnel = await tunnelled();
const other = await open({ keyFile: join(folder, "other.json") });
const app = await register(local);
const otherApp = await register(local, { client_name: "Another app" });
const appOfOther = await register(other);
const given = await signIn(local, app);
const givenByOther = await signIn(other, appOfOther);
const unusedCode = await newCode(local, app);
const openPage = await consentPage(local, goodRequest(app)); // never answered with Allow
const sealedTicket = openPage.hidden.ticket!;
const pageElsewhere = await consentPage(local, goodRequest(app)); // of the same app, in another browser
const ticketOfOther = (await consentPage(other, goodRequest(appOfOther))).hidden.ticket!;
// Port 9000 is part of what `bun run mock-auth.ts` promises; where another program has it, there is nothing to ask.
const port9000IsFree = await new Promise<boolean>((done) => {
  const probe = createServer().once("error", () => done(false)).listen(9000, "127.0.0.1", () => probe.close(() => done(true)));
});
if (!port9000IsFree) process.stderr.write("SKIPPED: what is said and served on port 9000, which another program has.\n");
const closed = `http://127.0.0.1:${await freePort()}`;

afterEach(() => void setSystemTime());
const inSeconds = (seconds: number) => setSystemTime(new Date(Date.now() + seconds * 1000));

// ---- Every refusal ----

describe("a redirect_uri that is", () => {
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
    ["another app of the phone", "intent://app.example/#Intent;end"],
    ["another app of the phone, without a fragment", "intent://app.example/"],
    ["a setting of Windows", "ms-settings://display"],
    ["a control character", "https://app.example/call\u0001back"],
    ["a letter beyond ASCII", "https://app.example/rückruf"],
    ["a letter beyond Latin-1", "https://app.example/обратно"],
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
    const alone = await postJson(local, "/mock-auth/register", { redirect_uris: [uri] });
    expect(await errorOf(alone)).toEqual([400, "invalid_redirect_uri"]);
    const among = await registration(await postJson(local, "/mock-auth/register", { redirect_uris: [CALLBACK, uri, "https://app.example/b"] }));
    expect(among.redirect_uris).toEqual([CALLBACK, "https://app.example/b"]);
    const page = await read(await ask(local, { ...goodRequest(among.client_id), redirect_uri: String(uri) }));
    expect([page.status, page.headers.get("location"), page.elements.includes("form")]).toEqual([400, null, false]);
  });
});

const WRONG_VERIFIER = "x".repeat(43);

describe("GET /authorize refuses on an error page, and sends nobody anywhere,", () => {
  const refused = "not registered here";
  const noDocument = "not the https URL of a document elsewhere";
  const noRedirect = "not one that this app registered";
  test.each<[string, string, Params]>([
    ["no client_id", refused, { client_id: undefined }],
    ["an empty client_id", refused, { client_id: "" }],
    ["a client_id that is there twice", "client_id is there twice", { client_id: [app, app] }],
    ["two client_ids", "client_id is there twice", { client_id: [app, otherApp] }],
    ["a client_id that somebody made up", refused, { client_id: "my-app" }],
    ["an altered client_id", refused, { client_id: altered(app) }],
    ["a client_id of another service", refused, { client_id: appOfOther }],
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
    const page = await read(await ask(local, { ...goodRequest(app), ...changes }));
    expectErrorPage(page, words);
  });

  test.each([
    ["another port", "https://app.example:8443/callback"],
    ["another path", "https://app.example/callback/x"],
    ["another host", "https://www.app.example/callback"],
    ["capitals", "https://APP.example/callback"],
    ["http", "http://app.example/callback"],
    ["another host of the same port", "https://app.example.evil.example/callback"],
  ])("an https redirect_uri with %s than the registered one", async (_, redirect_uri) => {
    const client = await register(local, { redirect_uris: ["https://app.example/callback"] });
    const response = await ask(local, { ...goodRequest(client), redirect_uri });
    expect([response.status, response.headers.get("location")]).toEqual([400, null]);
  });

  test("a redirect_uri that another app registered", async () => {
    const client = await register(local, { redirect_uris: ["https://app.example/callback"] });
    const response = await ask(local, goodRequest(client));
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
    const response = await ask(local, { ...goodRequest(app), ...changes });
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
    ["a ticket of another service", 403, elsewhere, { form: { ticket: ticketOfOther } }],
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
    const fields = encode({ ticket: sealedTicket, scope: openPage.ticked, name: "Ada", decision: "allow", ...form }).toString();
    const response = await send(local, "/mock-auth/authorize", {
      method: "POST", body: body ?? fields, headers: { "content-type": "application/x-www-form-urlencoded", ...(cookie && { cookie }), ...headers },
    });
    const page = await read(response);
    expect([page.status, page.headers.get("location")]).toEqual([status, null]);
    expect(page.text).toContain(words);
    expect(page.headers.get("content-security-policy")).toContain("frame-ancestors 'none'");
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
    ["a client_id of another service", 401, "invalid_client", { changes: { client_id: appOfOther } }],
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
    ["a redirect_uri that is there twice", 400, "invalid_request", { changes: { redirect_uri: [CALLBACK, CALLBACK] } }],
    ["another redirect_uri", 400, "invalid_grant", { changes: { redirect_uri: "https://evil.example/" } }],
    ["the redirect_uri on another port", 400, "invalid_grant", { changes: { redirect_uri: "http://127.0.0.1:8766/callback" } }],
    ["the registered redirect_uri, when another port was asked for", 400, "invalid_grant", { asked: { redirect_uri: "http://127.0.0.1:9999/callback" } }],
    ["no code_verifier", 400, "invalid_request", { changes: { code_verifier: undefined } }],
    ["an empty code_verifier", 400, "invalid_request", { changes: { code_verifier: "" } }],
    ["a code_verifier that is there twice", 400, "invalid_request", { changes: { code_verifier: [VERIFIER, VERIFIER] } }],
    ["another code_verifier", 400, "invalid_grant", { changes: { code_verifier: WRONG_VERIFIER } }],
    ["the code_challenge as code_verifier", 400, "invalid_grant", { changes: { code_verifier: CHALLENGE } }],
    ["a code_verifier that is too short, though it matches", 400, "invalid_grant", { asked: { code_challenge: sha256("short") }, changes: { code_verifier: "short" } }],
    ["a code_verifier that is too long, though it matches", 400, "invalid_grant", { asked: { code_challenge: sha256("x".repeat(129)) }, changes: { code_verifier: "x".repeat(129) } }],
    ["another resource", 400, "invalid_target", { changes: { resource: "https://elsewhere.example/mcp" } }],
    ["two resources", 400, "invalid_request", { changes: { resource: [RESOURCE, "https://elsewhere.example/mcp"] } }],
    ["a parameter nobody knows that is there twice", 400, "invalid_request", { changes: { colour: ["red", "blue"] } }],
  ])("%s: %i %s", async (_, status, error, { changes = {}, headers = {}, later = 0, asked = {}, encode: how }) => {
    const form = { ...goodExchange(app, await newCode(local, app, asked)), ...changes };
    if (later) inSeconds(later);
    const sent = how ? how(form) : { body: encode(form) };
    const response = await send(local, "/mock-auth/token", { method: "POST", ...sent, headers: { ...(sent.headers as Record<string, string>), ...headers } });
    expect([response.headers.get("cache-control"), response.headers.get("access-control-allow-origin")]).toEqual(["no-store", "*"]);
    expect(await errorOf(response)).toEqual([status, error]);
  });

  test("what stands in the URL instead of the form", async () => {
    const form = goodExchange(app, await newCode(local, app));
    expect(await errorOf(await send(local, `/mock-auth/token?${encode(form)}`, { method: "POST", body: new URLSearchParams() }))).toEqual([400, "invalid_request"]);
  });
});

describe("a refresh token", () => {
  const refused: [string, number, string, Params, number?][] = [
    ["missing", 400, "invalid_request", { refresh_token: undefined }],
    ["there twice", 400, "invalid_request", { refresh_token: [given.refresh_token, given.refresh_token] }],
    ["made up", 400, "invalid_grant", { refresh_token: "made-up" }],
    ["altered", 400, "invalid_grant", { refresh_token: altered(given.refresh_token) }],
    ["of another service", 400, "invalid_grant", { refresh_token: givenByOther.refresh_token }],
    ["a registration", 400, "invalid_grant", { refresh_token: app }],
    ["a form's ticket", 400, "invalid_grant", { refresh_token: sealedTicket }],
    ["an access token", 400, "invalid_grant", { refresh_token: given.access_token }],
    ["a code", 400, "invalid_grant", { refresh_token: unusedCode }],
    ["an unsigned token", 400, "invalid_grant", { refresh_token: `${Buffer.from('{"alg":"none","typ":"refresh"}').toString("base64url")}.${given.refresh_token.split(".")[1]}.` }],
    ["brought by another app", 400, "invalid_grant", { client_id: otherApp }],
    ["brought by nobody", 400, "invalid_request", { client_id: undefined }],
    ["brought by an app of another service", 401, "invalid_client", { client_id: appOfOther }],
    ["brought with a secret", 401, "invalid_client", { client_secret: "hush" }],
    ["for another resource", 400, "invalid_target", { resource: "https://elsewhere.example/mcp" }],
    ["for more than was allowed", 400, "invalid_scope", { scope: "offline_access extra" }],
    ["a month old", 400, "invalid_grant", {}, 31 * 24 * 3600],
  ];
  test.each(refused)("that is %s is refused: %i %s", async (_, status, error, changes, later = 0) => {
    const { refresh_token } = await signIn(local, app, { scope: "offline_access" });
    if (later) inSeconds(later);
    expect(await errorOf(await refresh(local, app, refresh_token, changes))).toEqual([status, error]);
  });
});

// ---- 2. A client_id that is a URL ----

describe("a client_id that is the URL of a document", () => {
  const hits: string[] = [];
  const served: Record<string, (id: string) => Response | Promise<Response>> = {
    "/good.json": (id) => Response.json({ client_id: id, client_name: "An app with a page", redirect_uris: [7, CALLBACK, "https://app.example/callback", "javascript:alert(1)"], token_endpoint_auth_method: "none" }),
    "/private-key.json": (id) => Response.json({ client_id: id, client_name: "An app with a key", redirect_uris: [CALLBACK], token_endpoint_auth_method: "private_key_jwt" }),
    "/blank.json": (id) => Response.json({ client_id: id, client_name: " \u3164 ", redirect_uris: [CALLBACK] }),
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
    "/turned.json": (id) => Response.json({ client_id: id, client_name: "Clau\u202ede\u0007", redirect_uris: [CALLBACK] }),
    "/hostile.json": (id) => Response.json({ client_id: id, redirect_uris: ["javascript://localhost/%0aalert(1)", "https://app.example/\u0001", "https://app.example/обратно"] }),
    "/packed.json": (id) => new Response(Bun.gzipSync(JSON.stringify({ client_id: id, redirect_uris: [CALLBACK] })), { headers: { "content-encoding": "gzip" } }),
    "/failing.json": () => new Response(null, { status: 502 }),
    "/silent.json": () => Bun.sleep(20_000).then(() => new Response()),
    "/dripping.json": () => new Response(new ReadableStream({ async pull(controller) { controller.enqueue(" "); await Bun.sleep(300); } })),
  };
  const site = Bun.serve({ port: 0, hostname: "127.0.0.1", idleTimeout: 60, fetch: ({ url }) => {
    const { pathname } = new URL(url);
    hits.push(pathname);
    return served[pathname]?.(url) ?? new Response(null, { status: 404 });
  } });
  const base = `http://127.0.0.1:${site.port}`;
  const breaking = Bun.listen({
    port: 0, hostname: "127.0.0.1",
    socket: { data: (socket) => void socket.end("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{") },
  });
  afterAll(() => (breaking.stop(true), site.stop(true)));
  const watchFetch = () => spyOn(globalThis, "fetch").mockImplementation((() => Promise.reject(new Error("offline"))) as unknown as typeof fetch);
  const https_redirect = "https://app.example/callback";

  test("says who the app is and where it may be called back, and a whole sign-in works with it", async () => {
    const id = `${base}/good.json`;
    const page = await consentPage(local, goodRequest(id));
    expect(page.text).toContain("An app with a page");
    expect(page.text).not.toContain("could not be checked");
    const tokens = await signIn(local, id, { redirect_uri: "http://127.0.0.1:4321/callback" });
    expect(decodeJwt(tokens.access_token).client_id).toBe(id);
    expect((await refresh(local, id, tokens.refresh_token)).status).toBe(200);
    expect(await errorOf(await refresh(local, `${base}/nameless.json`, tokens.refresh_token))).toEqual([400, "invalid_grant"]);
    await consentPage(local, { ...goodRequest(id), redirect_uri: https_redirect });
  });

  test.each([
    ["without a name goes by its host", "/nameless.json", "Let 127.0.0.1 use"],
    ["with a name of nothing goes by its host", "/blank.json", "Let 127.0.0.1 use"],
    ["that would prove itself with a key goes on as the public one it is here", "/private-key.json", "An app with a key"],
    ["loses what turns its name around", "/turned.json", "Let Claude use"],
    ["of 60,000 characters is read", "/just-right.json", "Just right"],
  ])("and an app %s", async (_, path, name) => {
    const page = await consentPage(local, goodRequest(`${base}${path}`));
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
    ["names one that runs script", "/hostile.json", "javascript://localhost/%0aalert(1)", notRegistered],
    ["names one with a control character", "/hostile.json", "https://app.example/\u0001", notRegistered],
    ["names one beyond Latin-1", "/hostile.json", "https://app.example/обратно", notRegistered],
    ["is packed, and was asked for plain", "/packed.json", CALLBACK, notAbout],
    ["has moved", "/moved.json", CALLBACK, "answers 302"],
    ["is gone", "/gone.json", https_redirect, "answers 404"],
    ["is larger than 64 KiB", "/large.json", CALLBACK, "too large"],
  ])("is refused when it %s", async (_, path, redirect_uri, words) => {
    hits.length = 0;
    const page = await read(await ask(local, { ...goodRequest(`${base}${path}`), redirect_uri }));
    expect([page.status, page.headers.get("location"), page.elements.includes("form")]).toEqual([400, null, false]);
    expect(page.text).toContain(words);
    expect(hits).toEqual([path]); // in particular: no redirect was followed
  });

  test("is waited for three seconds, whether it is silent or dripping", async () => {
    const start = performance.now();
    const pages = await Promise.all(["/silent.json", "/dripping.json"].map((path) => ask(local, { ...goodRequest(`${base}${path}`), redirect_uri: https_redirect })));
    expect(pages.map(({ status }) => status)).toEqual([400, 400]);
    expect(performance.now() - start).toBeWithin(2_000, 6_000);
  });

  test("is waited for three seconds, also when nobody knows its name for longer", async () => {
    const lookup = spyOn(dns, "lookup").mockImplementation((() => new Promise(() => {})) as unknown as typeof dns.lookup);
    const start = performance.now();
    const page = await consentPage(local, goodRequest("https://slow.example/client.json"));
    lookup.mockRestore();
    expect(page.text).toContain("could not be checked");
    expect(performance.now() - start).toBeWithin(2_000, 6_000);
  });

  test.each([
    ["nobody answers there", `${closed}/client.json`],
    ["its name is not known", "https://client.invalid/client.json"],
    ["it fails", `${base}/failing.json`],
    ["it breaks off half-way", `http://127.0.0.1:${breaking.port}/client.json`],
  ])("can't be had because %s: an app on this machine goes on, and the page says that it was not checked", async (_, id) => {
    const page = await consentPage(local, goodRequest(id));
    expect(page.text).toContain("could not be checked");
    expect(page.text).toContain(id);
    expect(page.html).not.toMatch(/Large|An app with a page/);
    const tokens = await signIn(local, id);
    expect((await refresh(local, id, tokens.refresh_token)).status).toBe(200);
  });

  describe("on the local network", () => {
    test.each(["10.0.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "[fd00::1]", "[fe80::1]", "[::ffff:7f00:1]"])("is not asked for either: %s", async (host) => {
      const fetched = watchFetch();
      const page = await consentPage(local, goodRequest(`https://${host}/client.json`));
      const asked = fetched.mock.calls.length;
      fetched.mockRestore();
      expect(asked).toBe(0);
      expect(page.text).toContain("could not be checked");
    });
  });

  describe("at the sign-in service's own origin", () => {
    const own = ["http://localhost:8000", "http://127.0.0.1:8000", "http://[::1]:8000", "http://127.0.0.2:8000", "https://localhost:8000"];
    test.each([...own.map((origin): [string, Service] => [origin, local]), [PUBLIC, tunnel]])("would have it call itself, and is refused: %s", async (origin, service) => {
      const fetched = watchFetch();
      const id = `${origin}/mock-auth/authorize?${encode(goodRequest("x"))}`;
      const page = await read(await ask(service, goodRequest(id)));
      const asked = fetched.mock.calls.length;
      fetched.mockRestore();
      expect([page.status, asked]).toEqual([400, 0]);
      expect(page.text).toContain("not the https URL of a document elsewhere");
    });
    test.each(["http://localhost:8001", "https://app.example:8000"])("is not %s", async (origin) => {
      const lookup = spyOn(dns, "lookup").mockImplementation((async () => ({ address: "127.0.0.1", family: 4 })) as unknown as typeof dns.lookup);
      const fetched = watchFetch();
      await ask(local, goodRequest(`${origin}/client.json`));
      const asked = fetched.mock.calls.length;
      lookup.mockRestore();
      fetched.mockRestore();
      expect(asked).toBe(1);
    });
  });

  test.each([["an https redirect", https_redirect], ["an app's own scheme", "cursor://anysphere.cursor-mcp/oauth/callback"], ["script", "javascript://localhost/%0aalert(1)"]])(
    "can't be had: an app with %s is refused", async (_, redirect_uri) => {
      const response = await ask(local, { ...goodRequest(`${closed}/client.json`), redirect_uri });
      expect([response.status, response.headers.get("location")]).toEqual([400, null]);
    });

  describe("behind a tunnel", () => {
    const knock = (client_id: string) => ask(tunnel, goodRequest(client_id));

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
      const onLocal = await ask(local, goodRequest(`https://localhost:${port}/client.json`)); // the listener does count
      expect([onLocal.status, connections > 0]).toEqual([200, true]);
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
      const fetched = watchFetch();
      const id = new URL(`https://${host}/client.json`).href;
      const page = await read(await knock(id));
      const asked = fetched.mock.calls.length;
      fetched.mockRestore();
      expect([page.status, asked]).toEqual([400, 0]);
      expect(page.text).toContain("can't be fetched");
    });

    test.each(["1.1.1.1", "172.32.0.1", "[2606:4700::1111]", "[2001:4860::8888]", "[2a00::1]"])("is asked for at a public address: %s", async (host) => {
      const fetched = watchFetch();
      await knock(`https://${host}/client.json`);
      const asked = fetched.mock.calls.length;
      fetched.mockRestore();
      expect(asked).toBe(1);
    });

    test.each([["10.0.0.1", 4, 0], ["fd00::1", 6, 0], ["1.1.1.1", 4, 1]])("is asked for or not by what its name stands for: %s", async (address, family, times) => {
      const lookup = spyOn(dns, "lookup").mockImplementation((async () => ({ address, family })) as unknown as typeof dns.lookup);
      const fetched = watchFetch();
      await knock("https://app.example/client.json");
      const asked = fetched.mock.calls.map(([target]) => String(target));
      lookup.mockRestore();
      fetched.mockRestore();
      expect(asked).toEqual(Array(times).fill(`https://${address}/client.json`));
    });

    test("is never asked for without TLS", async () => {
      const fetched = watchFetch();
      const response = await knock("http://1.1.1.1/client.json");
      const asked = fetched.mock.calls.length;
      fetched.mockRestore();
      expect([response.status, asked]).toEqual([400, 0]);
    });

    test("is called at the very address that was checked, under its name", async () => {
      const fetched = watchFetch();
      await ask(local, goodRequest("https://localhost:8443/client.json"));
      const [target, init] = fetched.mock.calls[0]! as unknown as [URL, RequestInit & { tls: { servername: string } }];
      fetched.mockRestore();
      expect(target.href).toMatch(/^https:\/\/(127\.0\.0\.1|\[::1\]):8443\/client\.json$/);
      expect([init.headers, init.tls.servername, init.redirect]).toEqual([expect.objectContaining({ host: "localhost:8443" }), "localhost", "manual"]);
    });
  });
});

// The certificate has to be made, and trusted by a process from its start.
test.skipIf(!Bun.which("openssl"))("the document's site has to prove its name, though it is called by its address", async () => {
  const run = async (...command: string[]) => {
    const child = Bun.spawn(command, { cwd: folder, stdout: "pipe", stderr: "pipe", env: { ...process.env, NODE_EXTRA_CA_CERTS: join(folder, "ca.pem") } });
    const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
    if (code !== 0) throw new Error(err);
    return out.trim();
  };
  const key = (name: string) => ["-newkey", "rsa:2048", "-nodes", "-keyout", `${name}.key`, "-subj", `/CN=${name}`];
  await run("openssl", "req", "-x509", ...key("ca"), "-out", "ca.pem", "-days", "2", "-addext", "basicConstraints=critical,CA:TRUE");
  for (const name of ["localhost", "elsewhere.example"]) {
    await writeFile(join(folder, "san"), `subjectAltName=DNS:${name}`);
    await run("openssl", "req", ...key(name), "-out", `${name}.csr`);
    await run("openssl", "x509", "-req", "-in", `${name}.csr`, "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-out", `${name}.pem`, "-extfile", "san");
  }
  await writeFile(join(folder, "knock.ts"), `
    const { mockAuth } = await import(${JSON.stringify(join(ROOT, "mock-auth.ts"))});
    const name = process.argv[2];
    const site = Bun.serve({ port: 0, hostname: "127.0.0.1", tls: { cert: Bun.file(name + ".pem"), key: Bun.file(name + ".key") },
      fetch: (request) => Response.json({ client_id: request.url, client_name: "Proven", redirect_uris: [${JSON.stringify(CALLBACK)}] }) });
    const handle = await mockAuth(${JSON.stringify({ issuer: ISSUER, resourceUrl: RESOURCE, host: "127.0.0.1", app: APP, keyFile: join(folder, "key.json") })});
    const asked = new URLSearchParams(${JSON.stringify(goodRequest(""))});
    asked.set("client_id", "https://localhost:" + site.port + "/client.json");
    const page = await (await handle(new Request(${JSON.stringify(`${ISSUER}/authorize?`)} + asked))).text();
    console.log(page.includes("Proven") ? "proven" : page.includes("could not be checked") ? "not checked" : page);
    process.exit(0);`);
  expect(await run(process.execPath, "knock.ts", "localhost")).toBe("proven");
  expect(await run(process.execPath, "knock.ts", "elsewhere.example")).toBe("not checked");
});

// ---- 4. The passphrase ----

describe("a wrong passphrase", () => {
  test("a few wrong tries cost nothing, the next cost time, and the right one never waits", async () => {
    const tunnel = await tunnelled();
    const page = await consentPage(tunnel, goodRequest(app));
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

  test("eight wrong ones can wait at once, a ninth is told to come back, and the right one never waits", async () => {
    const service = await tunnelled();
    const page = await consentPage(service, goodRequest(app));
    const guess = (passphrase: string) => submit(service, page, { passphrase }).then(({ status }) => status);
    expect([await guess("one"), await guess("two")]).toEqual([400, 400]); // these two cost nothing
    const tries = Array.from({ length: 9 }, () => guess("please"));
    expect(await Promise.race([...tries, Bun.sleep(500)])).toBe(429);
    expect(await guess(PASSPHRASE)).toBe(303);
    expect((await Promise.all(tries)).sort()).toEqual([...Array(8).fill(400), 429]);
  });

  test("who has waited makes room, and the right one in between wipes the slate", async () => {
    const service = await tunnelled();
    for (let n = 0; n < 10; n++) {
      const start = performance.now();
      expect((await mint(service, { sub: "a", aud: `${PUBLIC}/mcp`, passphrase: "please" })).status).toBe(403);
      expect((await mint(service, { sub: "a", aud: `${PUBLIC}/mcp`, passphrase: ` ${PASSPHRASE} ` })).status).toBe(200);
      expect(performance.now() - start).toBeLessThan(500);
    }
  });
});

// ---- 9, 11. Keys, starts and restarts ----

describe("the key file", () => {
  const modeOf = async (file: string) => (await stat(file)).mode & 0o777;
  const hasModes = process.platform !== "win32"; // there, a file is its owner's by where it lies
  test.skipIf(!hasModes)("can be read by its owner alone, also one that was open to all", async () => {
    const keyFile = join(folder, "mode.json");
    await open({ keyFile });
    expect(await modeOf(keyFile)).toBe(0o600);
    await chmod(keyFile, 0o644);
    await open({ keyFile });
    expect(await modeOf(keyFile)).toBe(0o600);
  });
  test.skipIf(!hasModes)("is never open to all, not even between its making and the next step", async () => {
    const keyFile = join(folder, "young.json");
    const later = spyOn(fs, "chmod").mockResolvedValue(undefined);
    await open({ keyFile });
    later.mockRestore();
    expect(await modeOf(keyFile)).toBe(0o600);
  });
  test("that appears while another start makes one of its own is the one that counts", async () => {
    const keyFile = join(folder, "raced.json");
    const first = await open({ keyFile });
    const before = await Bun.file(keyFile).text();
    const early = spyOn(fs, "readFile").mockRejectedValueOnce(new Error("not there yet"));
    const second = await open({ keyFile });
    early.mockRestore();
    expect(await Bun.file(keyFile).text()).toBe(before);
    await consentPage(second, goodRequest(await register(first)));
  });
  test("of the first one stands, when several start at once", async () => {
    const keyFile = join(folder, "several.json");
    const services = await Promise.all(Array.from({ length: 4 }, () => open({ keyFile })));
    const client = await register(services[0]!);
    for (const service of services) await consentPage(service, goodRequest(client));
  });
  test("outlives a restart: registrations, refresh tokens, open pages and keys are as before", async () => {
    const page = await consentPage(local, goodRequest(app));
    const after = await open();
    expect((await refresh(after, app, (await signIn(local, app)).refresh_token)).status).toBe(200);
    expect((await submit(after, page)).status).toBe(303);
    const keys = createLocalJWKSet((await (await send(after, "/mock-auth/jwks.json")).json()) as JSONWebKeySet);
    expect((await jwtVerify(given.access_token, keys)).payload.sub).toBe("Ada");
    expect(await errorOf(await refresh(other, app, given.refresh_token))).toEqual([401, "invalid_client"]);
  });
});

describe("bun run mock-auth.ts", () => {
  /** A copy, so that its key file is nobody else's. */
  let copies = 0;
  async function copy(): Promise<string> {
    const place = join(folder, `copy-${copies++}`);
    await mkdir(place);
    for (const name of ["main.ts", "mock-auth.ts", "package.json", "tsconfig.json", "seed"]) await cp(join(ROOT, name), join(place, name), { recursive: true });
    await symlink(join(ROOT, "node_modules"), join(place, "node_modules"));
    return place;
  }
  const children: Bun.Subprocess[] = [];
  afterAll(() => children.forEach((child) => child.kill()));
  const start = (place: string, env: Record<string, string> = {}) => {
    const child = Bun.spawn([process.execPath, "run", "mock-auth.ts"], { cwd: place, env: { PATH: process.env.PATH!, HOME: folder, ...env }, stdout: "pipe", stderr: "pipe" });
    children.push(child);
    return child;
  };
  test.each<[string, Record<string, string>]>([
    ["HOST", { HOST: "0.0.0.0" }],
    ["HOST", { HOST: "::" }],
    ["NODE_ENV", { NODE_ENV: "production" }],
    ["MOCK_AUTH_LIFETIME", { MOCK_AUTH_LIFETIME: "0" }],
    ["MOCK_AUTH_LIFETIME", { MOCK_AUTH_LIFETIME: "Infinity" }],
  ])("does not start with another %s: %o, and says why in one line", async (name, env) => {
    const child = start(await copy(), env);
    expect([await child.exited, await child.stdout.text()]).toEqual([1, ""]);
    expect(await child.stderr.text()).toMatch(new RegExp(`^Cannot start: .*${name}.*\\.\n$`));
  });

  test("does not start with a damaged key file, and names it in one line", async () => {
    const place = await copy();
    await writeFile(join(place, ".mock-auth-key.json"), "{");
    const child = start(place);
    expect([await child.exited, await child.stdout.text()]).toEqual([1, ""]);
    expect(await child.stderr.text()).toMatch(/^Cannot start: \S*\.mock-auth-key\.json .*\.\n$/);
  });

  test("does not start beside another, and says so in one line", async () => {
    const holder = createServer().listen(9000, "127.0.0.1").on("error", () => {});
    const child = start(await copy());
    expect([await child.exited, await child.stdout.text()]).toEqual([1, ""]);
    expect(await child.stderr.text()).toMatch(/^Cannot start: .*9000.*\n$/);
    holder.close();
  });

  /** Started, used, and ended whatever comes of it: under --bail no afterAll runs. */
  async function running(env: Record<string, string>, use: (place: string) => Promise<void>): Promise<string> {
    const place = await copy();
    const child = start(place, env);
    try {
      await Promise.race([child.stdout.getReader().read(), child.exited]);
      await use(place);
    } finally {
      child.kill();
      await child.exited;
    }
    return child.stderr.text();
  }

  test.skipIf(!port9000IsFree)("serves port 9000 to this machine by its own names, and to no other; its key is its owner's", async () => {
    await running({}, async (place) => {
      const from = (host: string) => fetch("http://127.0.0.1:9000/.well-known/oauth-authorization-server", { headers: { host } });
      const metadata = (await (await from("localhost:9000")).json()) as { issuer: string; token_endpoint: string };
      expect([metadata.issuer, metadata.token_endpoint]).toEqual(["http://localhost:9000", "http://localhost:9000/token"]);
      const token = await (await fetch(`http://localhost:9000/token?sub=a&aud=${RESOURCE}`)).text();
      const keys = createLocalJWKSet((await (await fetch("http://localhost:9000/jwks.json")).json()) as JSONWebKeySet);
      expect((await jwtVerify(token, keys, { issuer: "http://localhost:9000", audience: RESOURCE })).payload.sub).toBe("a");
      expect([(await from("evil.example:9000")).status, (await fetch("http://127.0.0.1:9000/nothing")).status]).toEqual([403, 404]);
      expect((await stat(join(place, ".mock-auth-key.json"))).mode & 0o777).toBe(0o600);
    });
  });

  test.skipIf(!port9000IsFree)("with a public RESOURCE_URL asks for a passphrase too", async () => {
    expect(await running({ RESOURCE_URL: `${PUBLIC}/mcp` }, async () => {})).toContain("passphrase");
  });
});

// ---- In front of the gateway ----

describe("mounted in the gateway", async () => {
  const gateways: Awaited<ReturnType<typeof startGateway>>[] = [];
  const start = async (env: Record<string, string> = {}) => {
    const gateway = await startGateway(env);
    gateways.push(gateway);
    return gateway;
  };
  afterAll(() => Promise.all(gateways.map((gateway) => gateway.stop())));
  type Gateway = Awaited<ReturnType<typeof start>>;

  /** The service inside of a gateway, as if it were at hand. */
  const inside = (gateway: Gateway): Service => async (request) => {
    const { method, headers } = request; // before the body is read: Bun forgets its type
    const body = method === "POST" ? { body: await request.text() } : {};
    return fetch(request.url.replace(ORIGIN, gateway.url), { method, headers, redirect: "manual", ...body });
  };
  const rpc = (gateway: Gateway, token: string, method: string, params: object = {}) =>
    fetch(gateway.mcp, {
      method: "POST",
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json", accept: "application/json, text/event-stream" },
      body: JSON.stringify({ jsonrpc: "2.0", id: 1, method, params }),
    });
  const call = async (gateway: Gateway, token: string, name: string, args: object = {}) => {
    const text = await (await rpc(gateway, token, "tools/call", { name, arguments: args })).text();
    type Answer = { result: { isError?: boolean; structuredContent?: { session: string } } };
    return (JSON.parse(text.match(/^data: ([^\n]*)$/m)?.[1] ?? text) as Answer).result;
  };

  test("whoever signs in again is the same person, and another name is another", async () => {
    const gateway = await start();
    const service = inside(gateway);
    const client = await register(service);
    const enter = async (name: string) => (await signIn(service, client, {}, { name })).access_token;
    const [ada, adaAgain, grace] = [await enter("ada"), await enter("ada"), await enter("grace")];
    const { session } = (await call(gateway, ada, "begin_session")).structuredContent!;
    const open = async (token: string) => !(await call(gateway, token, "user_get_state", { session })).isError;
    expect([await open(ada), await open(adaAgain), await open(grace)]).toEqual([true, true, false]);
  });

  test("an access token that is over answers 401, and a refresh opens the door again", async () => {
    const gateway = await start({ MOCK_AUTH_LIFETIME: "1" });
    const service = inside(gateway);
    const client = await register(service);
    const { access_token, refresh_token, expires_in } = await signIn(service, client);
    expect(expires_in).toBe(1);
    await Bun.sleep(2_000);
    const refused = await rpc(gateway, access_token, "tools/list");
    expect([refused.status, refused.headers.get("www-authenticate")]).toEqual([401, expect.stringContaining("invalid_token")]);
    const next = await tokensOf(await refresh(service, client, refresh_token));
    expect((await rpc(gateway, next.access_token, "tools/list")).status).toBe(200);
  });

  test("what is no access token of this gateway opens nothing", async () => {
    const gateway = await start();
    const service = inside(gateway);
    const client = await register(service);
    const page = await consentPage(service, goodRequest(client));
    const { refresh_token } = await signIn(service, client);
    const forOther = await (await fetch(`${gateway.url}/mock-auth/token?sub=a&aud=http://localhost:8123/mcp`)).text();
    for (const token of [refresh_token, client, page.hidden.ticket!, forOther, givenByOther.access_token]) expect((await rpc(gateway, token, "tools/list")).status).toBe(401);
    expect((await rpc(gateway, await gateway.token("a"), "tools/list")).status).toBe(200);
  });

  test("the form is taken with the Origin: null that browsers send from it", async () => {
    const gateway = await start();
    const service = inside(gateway);
    const page = await consentPage(service, goodRequest(await register(service)));
    const response = await postForm(service, "/mock-auth/authorize", { ...page.hidden, scope: page.ticked, name: "Ada", decision: "allow" }, { origin: "null", cookie: page.cookie });
    expect([response.status, callbackOf(response).searchParams.has("code")]).toEqual([303, true]);
  });

  test("a name that is not ours gets no sign-in page (DNS rebinding)", async () => {
    const gateway = await start();
    const response = await fetch(`${gateway.url}/mock-auth/token?sub=a&aud=${gateway.mcp}`, { headers: { host: "evil.example" } });
    expect(response.status).toBe(403);
  });
});
