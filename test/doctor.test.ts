// `bun run doctor`, against a gateway that is fine, and against one with one thing wrong at a time: each fault is
// named at its own step, with the way out, and nothing else is said to be wrong.

import { afterAll, describe, expect, test } from "bun:test";
import { type Line, summary } from "../deploy/doctor.ts";
import {
  answers, changes, type Fault, headers, openWorld, page, pressAllow, result, run, says, tlsServer,
  toStrangers, toTokens,
} from "./doctor-world.ts";
import { freePort, startGateway } from "./support.ts";

const { url, origin, visit, sign } = await openWorld();
const RESOURCE = "GET /.well-known/oauth-protected-resource/mcp";
const SERVICE = "GET /.well-known/oauth-authorization-server/mock-auth";
const KEYS = "GET /mock-auth/jwks.json";
const REGISTER = "POST /mock-auth/register";
const json = (status: number) => () => Response.json({ error: "no" }, { status });
const message = (body: string) => JSON.parse(body);

/** What is not ok: steps and outcomes, in order. */
const oddIn = (lines: Line[]) =>
  lines.filter(({ outcome }) => outcome !== "ok").map(({ step, outcome }) => `${outcome} ${step}`);
const fixesIn = (lines: Line[]) => lines.flatMap(({ fix }) => fix ?? []).join("\n");

describe("A gateway that is fine", () => {
  test("is all green, and leaves nobody in its memory", async () => {
    const lines = await visit();
    expect(oddIn(lines)).toEqual([]);
    expect(summary(lines)).toBe("All green.");
    expect(lines.length).toBeGreaterThan(40);
  });
});

const GONE = ["FAIL its metadata", "skipped keys", "skipped register", "skipped sign-in page", "skipped by document", "skipped signature"];
const NO_CLIENT = ["skipped register", "skipped sign-in page"];

test.each<[string, Fault, string[], RegExp]>([
  // the first request
  ["a bot filter's page", toStrangers(() => page(403)), ["FAIL no token", "skipped challenge"], /bot filter/],
  ["200 instead of 401", toStrangers(json(200)), ["FAIL no token", "skipped challenge"], /switch sign-in on/],
  ["403 instead of 401", toStrangers(json(403)), ["FAIL no token", "skipped challenge"], /RESOURCE_URL/],
  ["404 instead of 401", toStrangers(json(404)), ["FAIL no token", "skipped challenge"], /ours is \/mcp/],
  ["a proxy with nothing behind it", toStrangers(() => page(502)), ["FAIL no token", "skipped challenge"], /is it running/],
  ["a redirect", toStrangers(() => new Response(null, { status: 308, headers: { location: `${origin}/mcp/` } })),
    ["FAIL no token", "skipped challenge"], /paste where it leads/],
  ["a 401 without WWW-Authenticate", toStrangers(json(401)), ["FAIL challenge"], /Bearer resource_metadata=".*\/mcp"/],
  ["an error before a token was sent", headers("POST /mcp", { "www-authenticate": 'Bearer error="invalid_token", resource_metadata="' + `${origin}/.well-known/oauth-protected-resource/mcp"` }),
    ["warn challenge"], /leave error= out/],
  ["a clock ten minutes ahead", headers("POST /mcp", { date: new Date(Date.now() + 600_000).toUTCString() }), ["FAIL clock"], /NTP/],
  ["a GET that breaks it", answers("GET /mcp", json(500)), ["FAIL GET"], /begin with a GET/],
  ["no CORS", headers("OPTIONS /mcp", { "access-control-allow-origin": undefined }), ["warn CORS"], /localhost:6274/],
  ["a made-up token is let in", toTokens((token) => token.startsWith("made-up"), result({ tools: [] })), ["FAIL made-up token"], /ANYBODY GETS IN/],
  ["a made-up token breaks it", toTokens((token) => token.startsWith("made-up"), json(500)), ["FAIL made-up token"], /AUTH_JWKS_URL/],
  // the server's metadata
  ["metadata at another path", answers(RESOURCE, json(404)), ["FAIL metadata"], /serve it at .*oauth-protected-resource\/mcp/],
  ["metadata as a web page", answers(RESOURCE, () => page(200)), ["FAIL metadata"], /as JSON/],
  ["metadata without end", answers(RESOURCE, () => Response.json({ a: "a".repeat(300_000) })), ["FAIL metadata"], /serve it at/],
  ["a slash at the end", changes(RESOURCE, (json) => { json.resource += "/"; }), ["FAIL resource"], /RESOURCE_URL=.*\/mcp$/m],
  ["another host in resource", changes(RESOURCE, (json) => { json.resource = "https://elsewhere.example/mcp"; }), ["FAIL resource"], /RESOURCE_URL/],
  ["offline_access among the scopes", changes(RESOURCE, (json) => { json.scopes_supported = ["offline_access"]; }), ["FAIL scopes"], /take it out/],
  ["no sign-in service", changes(RESOURCE, (json) => { json.authorization_servers = []; }), ["FAIL sign-in service", "skipped its metadata", "skipped keys", "skipped register", "skipped sign-in page", "skipped by document", "skipped token", "skipped inside"], /AUTH_ISSUER/],
  // the sign-in service's
  ["no metadata of the service", (request) => new URL(request.url).pathname.includes(".well-known/o") && request.url.includes("mock-auth") ? json(404)() : undefined, GONE, /AUTH_ISSUER/],
  ["another issuer", changes(SERVICE, (json) => { json.issuer += "/"; }), ["FAIL issuer"], /AUTH_ISSUER=.*mock-auth\/$/m],
  ["no S256", changes(SERVICE, (json) => { json.code_challenge_methods_supported = ["plain"]; }), ["FAIL PKCE"], /PKCE/],
  ["no code flow", changes(SERVICE, (json) => { json.response_types_supported = ["token"]; }), ["FAIL grants"], /authorization_code/],
  ["no refresh", changes(SERVICE, (json) => { json.grant_types_supported = ["authorization_code"]; }), ["warn grants"], /sign in anew/],
  ["no token endpoint", changes(SERVICE, (json) => { delete json.token_endpoint; }), ["FAIL endpoints"], /both/],
  ["no registration", changes(SERVICE, (json) => { delete json.registration_endpoint; delete json.client_id_metadata_document_supported; }),
    ["FAIL apps", ...NO_CLIENT, "skipped by document"], /RFC 7591/],
  ["documents alone", changes(SERVICE, (json) => { delete json.registration_endpoint; }), NO_CLIENT, /^$/],
  ["documents without none", changes(SERVICE, (json) => { json.token_endpoint_auth_methods_supported = []; }), ["warn apps"], /"none"/],
  ["documents alone, without none", changes(SERVICE, (json) => { delete json.registration_endpoint; json.token_endpoint_auth_methods_supported = []; }), ["FAIL apps", ...NO_CLIENT], /"none"/],
  ["no iss for ChatGPT", changes(SERVICE, (json) => { delete json.authorization_response_iss_parameter_supported; }), ["warn ChatGPT"], /RFC 9207/],
  // its keys
  ["no keys", changes(KEYS, (json) => { json.keys = []; }), ["FAIL keys", "skipped signature"], /AUTH_JWKS_URL/],
  ["keys for another algorithm", changes(KEYS, (json) => { json.keys[0].alg = "RS512"; }), ["FAIL keys", "skipped signature"], /AUTH_JWKS_URL/],
  ["a private key", changes(KEYS, (json) => { json.keys[0].d = "AQAB"; }), ["FAIL keys", "skipped signature"], /replace it/],
  ["a shared key", changes(KEYS, (json) => { json.keys.push({ kty: "oct", k: "AQAB" }); }), ["FAIL keys", "skipped signature"], /replace it/],
  ["a key without kid", changes(KEYS, (json) => { delete json.keys[0].kid; }), ["warn keys"], /each key/],
  ["another service's keys", changes(KEYS, (json) => { json.keys[0].kid = "other"; }), ["FAIL signature"], /AUTH_JWKS_URL/],
  // getting in
  ["Cursor's redirect refused", async (request, forward) => request.url.endsWith("/register") && (await request.clone().text()).includes("cursor") ? json(400)() : forward(),
    ["FAIL register Cursor"], /cursor:\/\//],
  ["a redirect dropped", changes(REGISTER, (json) => { json.redirect_uris = json.redirect_uris.filter((uri: string) => !uri.includes("claude.com")); }), ["FAIL register Claude"], /claude\.com/],
  ["resource refused", (request) => request.url.includes("resource=") ? json(400)() : undefined, ["FAIL sign-in page", "warn by document"], /resource=http/],
  ["no PKCE needed", (request) => request.url.includes("/authorize") && !request.url.includes("challenge") ? page(200) : undefined, ["warn without PKCE"], /stolen code/],
  ["an open redirect", (request) => request.url.includes("elsewhere") ? Response.redirect("http://127.0.0.1:33418/elsewhere?error=no") : undefined, ["warn other redirect"], /byte for byte/],
  ["a document that can't be read", (request) => request.url.includes("app.json") ? page(400) : undefined, ["warn by document"], /has to reach/],
  // inside
  ["every token is refused", toTokens(() => true, json(401)), ["warn made-up token", "FAIL 2025-11-25"], /which check/],
  ["no 2026-07-28", toTokens((_, body) => body.includes("2026-07-28"), json(400)), ["warn 2026-07-28"], /2025-11-25/],
  ["no handshake", toTokens((_, body) => message(body).method === "initialize", json(400)), ["FAIL 2025-11-25", "FAIL 2025-06-18"], /log/],
  ["an invalid tool name", says((text) => text.replace(/domain_list_words/g, "domain.list")), ["FAIL tool names"], /hide the whole connector/],
  ["a tool without hints", says((text) => text.replace('"openWorldHint":false', '"other":1')), ["warn tool hints"], /ChatGPT/],
  ["a list of types", says((text) => text.replace('"type":"string"', '"type":["string","null"]')), ["warn schemas"], /anyOf/],
  ["an input that is no object", says((text) => text.replace('"inputSchema":{"type":"object"', '"inputSchema":{"type":"array"')), ["FAIL schemas"], /object/],
  ["any audience opens", async (request, forward) => {
    const isOther = atob(request.headers.get("authorization")?.split(".")[1] ?? "").includes("localhost:1/");
    return isOther ? result({ tools: [] })(1) : forward();
  }, ["FAIL token for another"], /audience/],
  ["any Origin calls", toTokens(() => false, json(500)), [], /^$/],
  ["the gate is gone", toTokens((_, body) => message(body).params?.name === "user_get_state", result({ content: [] })), ["FAIL gate"], /callTool/],
  ["no session to be had", toTokens((_, body) => message(body).params?.name === "begin_session", result({ content: [{ text: "The Notebook can't continue right now." }], isError: true })), ["FAIL begin_session"], /DATABASE_URL/],
  ["the store is down", answers("GET /health", json(503)), ["FAIL /health"], /DATABASE_URL/],
])("%s", async (_, fault, odd, fix) => {
  const lines = await visit(fault);
  expect(oddIn(lines)).toEqual(odd);
  expect(fixesIn(lines)).toMatch(fix);
});
