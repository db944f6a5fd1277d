// `bun run doctor`, against a gateway that is fine, and against one with one thing wrong at a time:
// each fault is named at its own step, with the way out, and nothing else is said to be wrong.

import {
  afterAll, beforeAll, describe, expect, setDefaultTimeout, spyOn, test,
} from "bun:test";
import { diagnose, type Line, summary } from "../deploy/doctor.ts";
import {
  answers, changes, type Fault, headers, openWorld, page, pressAllow, result, run, says, tlsServer,
  toStrangers, toTokens,
} from "./doctor-world.ts";
import { freePort, startGateway } from "./support.ts";

setDefaultTimeout(20_000); // milliseconds: programs are started

const { url, origin, visit, sign } = await openWorld();
let quiet: { mockRestore(): void }; // mock-auth.ts warns of each token for another server
beforeAll(() => void (quiet = spyOn(console, "error").mockImplementation(() => {})));
afterAll(() => quiet.mockRestore());

/** What is not ok: outcomes and steps, in order. */
const oddIn = (lines: Line[]) =>
  lines.filter(({ outcome }) => outcome !== "ok").map(({ step, outcome }) => `${outcome} ${step}`);
const fixesIn = (lines: Line[]) => lines.flatMap(({ fix }) => fix ?? []).join("\n");
async function expectOdd(lines: Promise<Line[]>, odd: string[], fix: RegExp): Promise<void> {
  expect(oddIn(await lines)).toEqual(odd);
  expect(fixesIn(await lines)).toMatch(fix);
}

const claimsOf = (token: string) => Buffer.from(token.split(".")[1] ?? "", "base64url").toString();
const json = (status: number) => () => Response.json({ error: "no" }, { status });
const METADATA = "GET /.well-known/oauth-protected-resource/mcp";
const METADATA_URL = `${origin}${METADATA.replace("GET ", "")}`;
const SERVICE = "GET /.well-known/oauth-authorization-server/mock-auth";
const KEYS = "GET /mock-auth/jwks.json";
const REGISTER = "POST /mock-auth/register";
const NOT_401 = ["FAIL POST without a token", "skipped WWW-Authenticate"];
const NO_KEYS = ["FAIL signing keys", "skipped token signature"];
const NO_CLIENT = ["skipped register", "skipped sign-in page"];
const NO_WAY_IN = ["skipped signing keys", ...NO_CLIENT, "skipped client as a document"];
const NO_SERVICE = ["FAIL sign-in service", "skipped service metadata", ...NO_WAY_IN,
  "skipped token", "skipped protocol and tools"];
type Row = [string, Fault, string[], RegExp];
const expectRow = (_: string, fault: Fault, odd: string[], fix: RegExp) =>
  expectOdd(visit(fault), odd, fix);

test("A gateway that is fine is all green", async () => {
  const lines = await visit();
  expect(oddIn(lines)).toEqual([]);
  expect(lines).toHaveLength(47);
  expect(summary(lines)).toBe("All green.");
});

describe("Knocking", () => {
  test.each<Row>([
    ["a bot filter's page", toStrangers(() => page(403)), NOT_401, /bot filter/],
    ["200 instead of 401", toStrangers(json(200)), NOT_401, /AUTH_DISABLED/],
    ["403 instead of 401", toStrangers(json(403)), NOT_401, /RESOURCE_URL/],
    ["404 instead of 401", toStrangers(json(404)), NOT_401, /main\.ts is \/mcp/],
    ["a proxy with nothing behind it", toStrangers(() => page(502)),
      ["FAIL POST without a token", "skipped the rest"], /is it running/],
    ["a filter that lets no robot in", (request) =>
      /Claude/.test(request.headers.get("user-agent") ?? "") ? page(403) : undefined,
      ["FAIL as Claude, ChatGPT"], /bot filter/],
    ["a redirect", toStrangers(() => Response.redirect(`${origin}/mcp/`, 308)), NOT_401, /leads/],
    ["a 401 without WWW-Authenticate", toStrangers(json(401)), ["FAIL WWW-Authenticate"],
      /Bearer resource_metadata="http.*\/\.well-known\/oauth-protected-resource\/mcp"/],
    ["a challenge that names no metadata", headers("POST /mcp", { "www-authenticate": "Bearer" }),
      ["warn WWW-Authenticate", "warn made-up token"], /resource_metadata="http/],
    ["an error before a token was sent", headers("POST /mcp", {
      "www-authenticate": `Bearer error="invalid_token", resource_metadata="${METADATA_URL}"`,
    }), ["warn WWW-Authenticate"], /leave error= out/],
    ["a clock ten minutes ahead", headers("POST /mcp", {
      date: new Date(Date.now() + 600_000).toUTCString(),
    }), ["FAIL clock"], /NTP/],
    ["a clock that says nothing", headers("POST /mcp", { date: "soon" }), ["skipped clock"], /^$/],
    ["a GET that breaks it", answers("GET /mcp", json(500)),
      ["FAIL GET without a token"], /begin with a GET/],
    ["a GET that opens a stream", answers("GET /mcp", () => new Response(
      new ReadableStream({ start: (stream) => stream.enqueue(": for ever\n\n") }),
      { headers: { "content-type": "text/event-stream" } },
    )), ["warn GET without a token"], /begin with a GET/],
    ["no CORS", headers("OPTIONS /mcp", { "access-control-allow-origin": undefined }),
      ["warn CORS"], /localhost:6274/],
    ["a made-up token that is let in",
      toTokens((token) => token.startsWith("made-up"), result({ tools: [] })),
      ["FAIL made-up token"], /ANYBODY GETS IN/],
    ["a token that nobody signed",
      toTokens((token) => claimsOf(token).includes("forged"), result({ tools: [] })),
      ["FAIL forged token"], /check the signature/],
    ["no keys to check a token with",
      toTokens((token) => claimsOf(token).includes("forged"), json(503)),
      ["FAIL forged token"], /AUTH_JWKS_URL/],
    ["no sign-in at all", async (request, forward) => {
      if (request.method !== "POST" || new URL(request.url).pathname !== "/mcp") return undefined;
      const headers = new Headers(request.headers);
      headers.set("authorization", `Bearer ${await sign()}`);
      return forward(new Request(request, { headers }));
    }, [...NOT_401, "skipped made-up token", "skipped forged token", "skipped token for another"],
      /AUTH_DISABLED/],
    ["a made-up token that breaks it",
      toTokens((token) => token.startsWith("made-up"), json(500)),
      ["FAIL made-up token"], /AUTH_JWKS_URL/],
  ])("%s", expectRow);
});

describe("The server's metadata", () => {
  test.each<Row>([
    ["at another path", answers(METADATA, json(404)),
      ["FAIL server metadata"], /serve it at .*\/mcp,/],
    ["a web page", answers(METADATA, () => page(200)), ["FAIL server metadata"], /as JSON/],
    ["without end", answers(METADATA, () => Response.json({ a: "a".repeat(300_000) })),
      ["FAIL server metadata"], /serve it at/],
    ["a slash at the end of resource", changes(METADATA, (it) => { it.resource += "/"; }),
      ["FAIL resource"], /call itself http.*\/mcp \(main\.ts: RESOURCE_URL\)/],
    ["another resource", changes(METADATA, (it) => { it.resource = "https://other.example/mcp"; }),
      ["FAIL resource"], /call itself http.*\/mcp \(main\.ts: RESOURCE_URL\)/],
    ["elsewhere, as the challenge says, and not at its known path",
      async (request, forward) => answers(METADATA, json(404))(request, forward)
        ?? headers("POST /mcp", {
          "www-authenticate": `Bearer resource_metadata="${METADATA_URL.replace("/mcp", "")}"`,
        })(request, forward),
      ["warn made-up token", "warn at its known path"], /serve it at .*\/mcp,/],
    ["offline_access", changes(METADATA, (it) => { it.scopes_supported = ["offline_access"]; }),
      ["FAIL scopes"], /take it out/],
    ["no sign-in service", changes(METADATA, (it) => { it.authorization_servers = []; }),
      NO_SERVICE, /AUTH_ISSUER/],
    ["a sign-in service over http", changes(METADATA, (it) => {
      it.authorization_servers = ["http://sign-in.example.com"];
    }), NO_SERVICE, /AUTH_ISSUER/],
  ])("%s", expectRow);
});

describe("The sign-in service", () => {
  const without = (...names: string[]) => changes(SERVICE, (it) => {
    for (const name of names) delete it[name];
  });
  const SERVICES = /known\/o(auth-authorization-server|penid-configuration)/;
  const REGISTRATION = "registration_endpoint";
  const DOCUMENTS = "client_id_metadata_document_supported";
  const NONE = "token_endpoint_auth_methods_supported";
  test.each<Row>([
    ["no metadata", (request) => SERVICES.test(request.url) ? json(404)() : undefined,
      ["FAIL service metadata", ...NO_WAY_IN, "skipped token signature"], /AUTH_ISSUER/],
    ["another issuer", changes(SERVICE, (it) => { it.issuer += "/"; }),
      ["FAIL issuer"], /AUTH_ISSUER=.*mock-auth\/\)/],
    ["no S256", without("code_challenge_methods_supported"), ["FAIL PKCE"], /PKCE/],
    ["no code flow", without("response_types_supported"), ["FAIL grants"], /authorization_code/],
    ["no refresh", without("grant_types_supported"), ["warn grants"], /sign in anew/],
    ["no token endpoint", without("token_endpoint"), ["FAIL endpoints"], /both/],
    ["no way for apps to say who they are", without(REGISTRATION, DOCUMENTS),
      ["FAIL client registration", ...NO_CLIENT, "skipped client as a document"], /RFC 7591/],
    ["documents, and no registration", without(REGISTRATION), NO_CLIENT, /^$/],
    ["documents without none", without(NONE), ["warn client registration"], /"none"/],
    ["the same, and no registration", without(NONE, REGISTRATION),
      ["FAIL client registration", ...NO_CLIENT], /"none"/],
    ["no iss", without("authorization_response_iss_parameter_supported"),
      ["warn ChatGPT (iss)"], /RFC 9207/],
    ["no place for keys", without("jwks_uri"),
      ["warn signing keys", "skipped token signature"], /could not check/],
    ["no key set", answers(KEYS, json(404)), NO_KEYS, /AUTH_JWKS_URL/],
    ["keys without end", changes(KEYS, (it) => { it.keys[0].x5c = "a".repeat(70_000); }),
      NO_KEYS, /take old keys out/],
    ["no key", changes(KEYS, (it) => { it.keys = []; }), NO_KEYS, /AUTH_JWKS_URL/],
    ["another algorithm", changes(KEYS, (it) => { it.keys[0].alg = "RS512"; }),
      NO_KEYS, /AUTH_JWKS_URL/],
    ["a private key", changes(KEYS, (it) => { it.keys[0].d = "AQAB"; }), NO_KEYS, /replace it/],
    ["a shared key", changes(KEYS, (it) => { it.keys.push({ kty: "oct" }); }),
      NO_KEYS, /replace it/],
    ["a key without kid", changes(KEYS, (it) => { delete it.keys[0].kid; }),
      ["warn signing keys", "FAIL token signature"], /each key/],
    ["another's keys", changes(KEYS, (it) => { it.keys[0].kid = "another"; }),
      ["FAIL token signature"], /AUTH_JWKS_URL/],
  ])("%s", expectRow);
});

describe("Getting in", () => {
  const isCursor = async (request: Request) =>
    request.url.endsWith("/register") && (await request.clone().text()).includes("cursor:");
  const at = (part: RegExp, make: () => Response): Fault => (request) =>
    part.test(request.url) ? make() : undefined;
  const elsewhere = () => Response.redirect("http://127.0.0.1:33418/elsewhere?error=no");
  test.each<Row>([
    ["Cursor's three redirects are refused",
      async (request) => (await isCursor(request)) ? json(400)() : undefined,
      ["warn register Cursor"], /cursor:\/\//],
    ["a redirect is dropped", changes(REGISTER, (it) => { it.redirect_uris.length = 1; }),
      ["FAIL register Claude", "warn register Cursor"], /claude\.com/],
    ["resource is refused", at(/authorize.*resource=/, json(400)),
      ["FAIL sign-in page", "skipped client as a document"], /resource=http/],
    ["nobody is asked who they are", at(/authorize.*127\.0\.0\.1%3A33418%2Fcallback.*challenge=/,
      () => Response.redirect("http://127.0.0.1:33418/callback?code=1")),
      ["FAIL sign-in page"], /ask for a sign-in/],
    ["PKCE is no must", at(/authorize((?!challenge).)*$/, () => page(200)),
      ["warn without PKCE"], /stolen code/],
    ["any redirect will do", at(/authorize.*elsewhere/, elsewhere),
      ["warn other redirect"], /byte for byte/],
    ["an app's document is not read", at(/authorize.*app\.json/, () => page(400)),
      ["warn client as a document"], /has to reach http:\/\/127/],
  ])("%s", expectRow);

  const over = 1_000;
  test.each<[string, object, string[], RegExp]>([
    ["a token for another server", { aud: "https://other.example/mcp" },
      ["FAIL token audience", "skipped protocol and tools"], /into aud/],
    ["one of another issuer", { iss: "https://other.example" },
      ["FAIL token issuer", "FAIL MCP 2025-11-25"], /AUTH_ISSUER/],
    ["one that is over", { exp: over },
      ["FAIL token times", "FAIL MCP 2025-11-25"], /fetch a new one/],
    ["one that counts milliseconds", { exp: Date.now() + 600_000 },
      ["FAIL token times", "FAIL MCP 2025-11-25"], /in seconds/],
    ["one from the future", { iat: Math.floor(Date.now() / 1000) + 600 },
      ["FAIL token times"], /clock by NTP/],
  ])("%s", async (_, claims, odd, fix) => {
    const token = await sign({ exp: Math.floor(Date.now() / 1000) + 1_200, ...claims });
    await expectOdd(visit(undefined, { token }), odd, fix);
  });
  test("an opaque token is brought, and not read", async () => {
    const odd = ["skipped token content", "FAIL MCP 2025-11-25"];
    await expectOdd(visit(undefined, { token: "Bearer opaque-token" }), odd, /takes JWTs/);
  });
  test("a service that makes no token for another server is asked for none", async () => {
    const fault = answers("GET /mock-auth/token", json(404));
    const seen = visit(fault, { token: await sign() });
    await expectOdd(seen, ["skipped token for another"], /^$/);
    expect(summary(await seen)).toBe("All green. Not seen: token for another.");
  });
  test("a token with a line break in it goes nowhere", async () => {
    const lines = await visit(undefined, { token: "secret\r\nX-Other: 1" });
    expect(oddIn(lines)).toEqual(["FAIL token", "skipped protocol and tools"]);
    expect(JSON.stringify(lines)).not.toContain("secret");
  });
});

const stray = await sign({ aud: "http://localhost:1/mcp" });
describe("Signing in", () => {
  const signIn = (fault?: Fault, alter?: (back: URL) => void) => new Promise<Line[]>((resolve) => {
    const open = (link: string) => void pressAllow(link, alter);
    resolve(visit(fault, { signIn: open }));
  });
  test("goes through code, token and refresh, and further with that token", async () => {
    const lines = await signIn();
    expect(oddIn(lines)).toEqual([]);
    const steps = lines.map(({ step }) => step);
    for (const step of ["sign-in", "code for a token", "refresh", "MCP 2025-11-25", "gate"]) {
      expect(steps).toContain(step);
    }
  });
  const NO_TOKEN = ["skipped protocol and tools"];
  test.each<[string, (back: URL) => void, RegExp]>([
    ["another iss", (back) => back.searchParams.set("iss", "https://other.example"), /RFC 9207/],
    ["no iss", (back) => back.searchParams.delete("iss"), /RFC 9207/],
    ["a refusal", (back) => back.searchParams.set("error", "access_denied"), /try again/],
  ])("%s ends it", (_, alter, fix) =>
    expectOdd(signIn(undefined, alter), ["FAIL sign-in", ...NO_TOKEN], fix));
  test("no iss, from a page of another service: its code is not used", async () => {
    const elsewhere = changes(SERVICE, (it) => {
      const own = String(it.authorization_endpoint);
      it.authorization_endpoint = own.replace("localhost", "127.0.0.1");
      it.authorization_response_iss_parameter_supported = false;
    });
    const without = (back: URL) => back.searchParams.delete("iss");
    const lines = await signIn(elsewhere, without);
    expect(lines.find(({ step }) => step === "sign-in")).toMatchObject({
      outcome: "FAIL", says: expect.stringContaining("without iss: it is not used"),
    });
    expect(lines.map(({ step }) => step)).not.toContain("code for a token");
  });
  test("for another server brings its token to nobody", async () => {
    const came: string[] = [];
    const victim = `http://localhost:1/mcp`;
    const lines = await signIn(async (request, forward) => {
      came.push(request.headers.get("authorization") ?? "");
      const fault = changes(METADATA, (it) => { it.resource = victim; });
      const isToken = request.method === "POST" && request.url.endsWith("/token");
      return isToken ? Response.json({ access_token: stray, token_type: "Bearer" })
        : fault(request, forward);
    });
    expect(oddIn(lines)).toContain("FAIL token audience");
    expect(came).not.toContain(`Bearer ${stray}`);
  });
  test("without a client there is none", async () => {
    const odd = oddIn(await signIn(changes(SERVICE, (it) => { delete it.registration_endpoint; })));
    expect(odd).toEqual([...NO_CLIENT, "skipped sign-in", ...NO_TOKEN]);
  });
  test("a code that is not taken, and a refresh that isn't", async () => {
    const refuse = (grant: string): Fault => async (request) => {
      const isIt = request.method === "POST" && request.url.endsWith("/token")
        && (await request.clone().text()).includes(`grant_type=${grant}`);
      return isIt ? json(400)() : undefined;
    };
    await expectOdd(signIn(refuse("authorization_code")),
      ["FAIL code for a token", ...NO_TOKEN], /no secret/);
    await expectOdd(signIn(refuse("refresh_token")), ["FAIL refresh"], /no secret/);
  });
  test("no refresh token is worth a look", () =>
    expectOdd(signIn(changes("POST /mock-auth/token", (it) => { delete it.refresh_token; })),
      ["warn refresh"], /allow offline_access/));
  test("whoever comes back without our state is not heard", async () => {
    let status = 0;
    const open = async (link: string) => {
      const back = new URL(new URL(link).searchParams.get("redirect_uri")!);
      back.search = "?code=stolen&state=guessed";
      status = (await fetch(back)).status;
      await pressAllow(link);
    };
    const lines = await visit(undefined, { signIn: (link) => void open(link) });
    expect([status, oddIn(lines)]).toEqual([400, []]);
  });
});

describe("Inside", () => {
  const asks = (what: string, make: (id: unknown) => Response) =>
    toTokens((_, body) => body.includes(`:"${what}"`), make);
  const replace = (from: string, to: string) => says((words) => words.replaceAll(from, to));
  const closed = { isError: true, content: [{ type: "text", text: "It can't continue now." }] };
  const isOther: Fault = (request) => {
    const isIt = claimsOf(request.headers.get("authorization") ?? "").includes("on-purpose");
    return isIt ? result({ tools: [] })(1) : undefined;
  };
  const anyOrigin: Fault = (request, forward) => {
    if (request.headers.get("origin") !== "https://elsewhere.example") return undefined;
    const headers = new Headers(request.headers);
    headers.delete("origin");
    return forward(new Request(request, { headers }));
  };
  const neverEnds: Fault = async (request, forward) => {
    if (request.method !== "POST") return undefined;
    const { status, headers, body } = await forward();
    if (!headers.get("content-type")?.includes("event-stream")) {
      return new Response(body, { status, headers });
    }
    const text = await new Response(body).text();
    const start = (stream: ReadableStreamDefaultController) => stream.enqueue(text);
    return new Response(new ReadableStream({ start }), { status, headers });
  };
  test.each<Row>([
    ["an event stream stays open after the answer", neverEnds, [], /^$/],
    ["every token is refused", toTokens(() => true, json(401)),
      ["warn made-up token", "FAIL MCP 2025-11-25"], /says that no token came: does a proxy/],
    ["every token is refused as bad", toTokens(() => true, () => new Response("{}", {
      status: 401, headers: { "www-authenticate": 'Bearer error="invalid_token"' },
    })), ["FAIL MCP 2025-11-25"], /its log names the check/],
    ["no handshake", toTokens((token, body) =>
      /doctor-(?!forged)/.test(claimsOf(token)) && body.includes('"initialize"'), json(400)),
      ["FAIL MCP 2025-11-25", "FAIL MCP 2025-06-18"], /log/],
    ["no menu", asks("tools/list", json(400)),
      ["FAIL MCP 2025-11-25", "FAIL MCP 2025-06-18", "FAIL MCP 2026-07-28"], /log/],
    ["no 2026-07-28", asks("2026-07-28", json(400)), ["warn MCP 2026-07-28"], /2025-11-25/],
    ["an invalid tool name", replace("domain_list_words", "domain.list"),
      ["FAIL tool names"], /hide the whole connector/],
    ["a name twice", replace("domain_list_words", "domain_get_word"),
      ["FAIL tool names"], /at most/],
    ["a hint is missing", replace("openWorldHint", "other"), ["warn tool hints"], /ChatGPT/],
    ["a list of types", replace('"type":"boolean"', '"type":["boolean","null"]'),
      ["warn tool schemas"], /anyOf/],
    ["an input that is no object",
      replace('"inputSchema":{"type":"object"', '"inputSchema":{"type":"array"'),
      ["FAIL tool schemas"], /"object"/],
    ["a token for another server opens it", isOther, ["FAIL token for another"], /OPENS THIS ONE/],
    ["a page elsewhere may call", anyOrigin, ["warn foreign Origin"], /403/],
    ["the gate is gone", asks("user_get_state", result({ content: [] })),
      ["FAIL gate"], /callTool/],
    ["the key opens nothing", toTokens((_, body) =>
      /user_get_state.*"session":"/.test(body), result(closed)), ["FAIL with the key"], /log/],
    ["no key is given", asks("begin_session", result(closed)), ["FAIL begin_session"], /DATABASE/],
    ["the store is down", answers("GET /health", () =>
      Response.json({ status: "unavailable" }, { status: 503 })), ["FAIL /health"], /DATABASE_URL/],
  ])("%s", expectRow);
  test("a server that is no gateway of this kind is not asked for a gate", async () => {
    const lines = await visit(replace("begin_session", "start"));
    expect(oddIn(lines)).toEqual([]);
    expect(lines.map(({ step }) => step)).not.toContain("gate");
  });
});

describe("What it does not do", () => {
  test("it sends a token to the URL alone, and to no redirect", async () => {
    const came: string[] = [];
    const fault: Fault = (request) => {
      if (request.headers.has("authorization")) came.push(new URL(request.url).pathname);
      return new URL(request.url).pathname === "/mcp" && request.headers.has("authorization")
        ? Response.redirect(`${origin}/elsewhere`, 307) : undefined;
    };
    await visit(fault, { token: await sign() });
    expect(new Set(came)).toEqual(new Set(["/mcp"]));
  });
  test.each<[string, Fault]>([
    ["this one", () => undefined],
    ["one that calls itself so", changes(METADATA, (it) => {
      it.resource = "https://other.example/mcp";
    })],
  ])("it brings no token for another server to %s", async (_, fault) => {
    const token = await sign({ aud: "https://other.example/mcp" });
    const came: string[] = [];
    const lines = await visit((request, forward) => {
      came.push(request.headers.get("authorization") ?? "");
      return fault(request, forward);
    }, { token });
    expect(oddIn(lines)).toContain("FAIL token audience");
    expect(came.length).toBeGreaterThan(10);
    expect(came).not.toContain(`Bearer ${token}`);
  });
  test("it asks nobody over http, but on this machine", async () => {
    const place = "http://keys.example.com";
    const lines = await visit(changes(SERVICE, (it) => { it.jwks_uri = place; }));
    const keys = lines.find(({ step }) => step === "signing keys");
    expect(keys).toMatchObject({ outcome: "FAIL", says: `${place} is no https URL` });
  });
  test("it makes no token for a service that is not beside the gateway", async () => {
    const asked: string[] = [];
    using other = Bun.serve({ port: 0, fetch: (request) => {
      asked.push(new URL(request.url).pathname);
      return json(404)();
    } });
    const issuer = `http://localhost:${other.port}/mock-auth`;
    const lines = await visit(changes(METADATA, (it) => { it.authorization_servers = [issuer]; }));
    expect(oddIn(lines)).toContain("skipped token");
    expect(asked.length).toBeGreaterThan(0);
    expect(asked.filter((path) => path.includes("token"))).toEqual([]);
  });
  test("it says no secret that is said back, and nothing that turns a terminal round", async () => {
    const token = await sign();
    const said = new Set<string>();
    const echo: Fault = async (request) => {
      const sent = request.headers.get("authorization")?.slice(7) ?? "";
      const form = request.url.endsWith("/token") ? await request.clone().text() : "";
      for (const secret of [sent, ...new URLSearchParams(form).values()]) {
        if (/^(eyJ|made-up)/.test(secret)) said.add(secret);
      }
      const spaced = [...sent].join("\u200b"); // looks the same on a screen
      const error = `\u001b[2J${"no ".repeat(40)}${spaced} ${sent} ${form}`;
      return sent || form ? Response.json({ error }, { status: 401 }) : undefined;
    };
    const lines = await visit(echo, { token });
    const signedIn = await visit(echo, { signIn: (link) => void pressAllow(link) });
    const shown = JSON.stringify([lines, signedIn]);
    expect(said.size).toBeGreaterThan(2);
    for (const secret of said) expect(shown).not.toContain(secret.slice(0, 20));
    expect(shown).not.toMatch(/\\u001b|eyJ/);
    expect(shown).toContain("(hidden)");
  });
});

test.each<[string, Fault, string]>([
  ["a text that can't be made", changes(SERVICE, (it) => {
    it.response_types_supported = { toString: 1, valueOf: 1 };
  }), "readService"],
  ["a key that is no text", answers("GET /mock-auth/jwks.json", () =>
    Response.json({ keys: [{ kty: { toString: 1 } }] })), "readKeys"],
])("%s is a FAIL, and the walk goes on", async (_, fault, step) => {
  const lines = await visit(fault);
  expect(oddIn(lines)).toContain(`FAIL ${step}`);
  expect(lines.map((line) => line.step)).toContain("tool names");
});
test("what was packed is not unpacked: a few bytes could be gigabytes", async () => {
  const packed = Bun.gzipSync(Buffer.from(JSON.stringify({ keys: [] })));
  const headers = { "content-type": "application/json", "content-encoding": "gzip" };
  const lines = await visit(answers("GET /mock-auth/jwks.json", () =>
    new Response(packed, { headers })));
  expect(oddIn(lines)).toContain("FAIL signing keys");
});

describe("The way to it", () => {
  test.each<[string, string, RegExp]>([
    ["no URL", "read me aloud", /https:\/\/host\/mcp/],
    ["http in public", "http://notes.example.com/mcp", /serve it by https/],
    ["a file", "file:///etc/passwd", /serve it by https/],
    ["a fragment", "https://localhost:1/mcp#top", /paste https:\/\/localhost:1\/mcp$/],
    ["a password", "https://ada:pw@localhost:1/mcp", /take it out/],
    ["upper case", "https://LOCALHOST:1/mcp", /paste https:\/\/localhost:1\/mcp$/],
    ["the port that https has", "https://localhost:443/mcp", /paste https:\/\/localhost\/mcp$/],
  ])("%s is not gone", (_, at, fix) =>
    expectOdd(diagnose(at), ["FAIL URL", "skipped the rest"], fix));
  test("a slash at the end is named, and that the server calls itself otherwise", async () => {
    const odd = ["warn URL", "FAIL resource"];
    await expectOdd(visit(undefined, {}, `${url}/`), odd, /RESOURCE_URL/);
  });
  test("another path is named", async () => {
    const [first] = await visit(undefined, {}, `${origin}/other`);
    expect(first).toMatchObject({ step: "URL", outcome: "warn", says: "its path is /other" });
  });
  const NOBODY = ["FAIL reach", "skipped the rest"];
  test("nobody listens", async () => {
    const at = `http://localhost:${await freePort()}/mcp`;
    await expectOdd(diagnose(at), NOBODY, /start the server/);
  });
  test("no such name", () =>
    expectOdd(diagnose("https://no-such-host.invalid/mcp"), NOBODY, /DNS/));
  test("no TLS there", () =>
    expectOdd(diagnose(url.replace("http:", "https:")), NOBODY, /certificate/));
  test("no answer in time", async () => {
    const hang: Fault = () => Bun.sleep(600).then(json(500));
    await expectOdd(visit(hang, { timeout: 200 }), NOBODY, /asleep/);
  });
  test("a slow answer is named, and fine", async () => {
    const slow: Fault = (request) => {
      const isKeys = request.url.endsWith("jwks.json");
      return isKeys ? Bun.sleep(1_400).then(() => undefined) : undefined;
    };
    await expectOdd(visit(slow, { timeout: 4_000 }), ["warn signing keys"], /10 s/);
  });
  test("a certificate that nobody vouches for", async () => {
    const { url } = await tlsServer();
    await expectOdd(diagnose(url), NOBODY, /fullchain\.pem/);
  });
});

describe.concurrent("The command", () => {
  test("against a gateway of this machine: all green, and code 0", async () => {
    const gateway = await startGateway();
    const { out, err, code } = await run([gateway.mcp]);
    expect({ err, code }).toEqual({ err: "", code: 0 });
    expect(out).not.toMatch(/FAIL|skipped|warn/);
    expect(out).toEndWith("\nAll green.\n");
    expect(gateway.out.text).toContain("user_forget_me"); // who is not real leaves nothing
    await gateway.stop();
  });
  test("ends with code 1 when something failed, and says what and the way out", async () => {
    const { out, code } = await run([`http://localhost:${await freePort()}/mcp`]);
    expect(code).toBe(1);
    expect(out).toMatch(/\nFAIL +reach +localhost:\d+: refused.*\n +-> start the server/);
    expect(out).toEndWith("FAILED: reach. Not seen: the rest.\n");
  });
  test.each([[[]], [["--nonsense"]], [["https://a.example", "https://b.example"]]])(
    "%p: it asks which server, and ends with code 2", async (args) => {
      const { out, err, code } = await run(args);
      expect({ out, code }).toEqual({ out: "", code: 2 });
      expect(err).toStartWith("Which server?");
    });
  test.each<[string, object, string]>([
    ["is trusted by NODE_EXTRA_CA_CERTS", {}, "ok       reach                   answers, by TLS"],
    ["has expired", { days: -1 }, "its certificate has expired"],
    ["is not valid yet", { days: 90 }, "its certificate is not valid yet"],
    ["is for another host", { host: "other.example" }, "its certificate is for another host name"],
  ])("a certificate %s", async (_, options, words) => {
    const { url, file } = await tlsServer(options);
    const { out } = await run([url], { NODE_EXTRA_CA_CERTS: file });
    expect(out).toContain(words);
  });
});
