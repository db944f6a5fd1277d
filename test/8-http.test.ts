// The HTTP table, row by row. In this process where that says enough; over a socket where the wire decides.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { connect } from "node:net";
import { desk, ISSUER, mint, publicJwk, RESOURCE, startGateway } from "./support.ts";

const room = await desk();
const token = await mint();
const signedIn = { authorization: `Bearer ${token}` };
const MCP = { "content-type": "application/json", accept: "application/json, text/event-stream" };
const METADATA = "http://localhost:8000/.well-known/oauth-protected-resource/mcp";
const BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

const message = (method: string, params: object = {}) => JSON.stringify({ jsonrpc: "2.0", id: 1, method, params });
const post = (body: string | Uint8Array<ArrayBuffer>, headers: Record<string, string> = {}, path = "/mcp") =>
  room.send(path, { method: "POST", body, headers: { ...MCP, ...signedIn, ...headers } });
/** The JSON-RPC message of an answer, which the 2025 era wraps in an event stream. */
const read = async (response: Response): Promise<Record<string, any>> => {
  const text = await response.text();
  return JSON.parse(text.match(/^data: (.*)$/m)?.[1] ?? text);
};
const isJson = (response: Response) => expect(response.headers.get("content-type")).toStartWith("application/json");

let gateway: Awaited<ReturnType<typeof startGateway>>;
beforeAll(async () => void (gateway = await startGateway()));
afterAll(() => gateway.stop());
/** Says these bytes to the gateway, and returns what it says until it hangs up. */
const wire = (...parts: string[]) => new Promise<string>((resolve) => {
  let heard = "";
  const socket = connect(gateway.port, "127.0.0.1", () => socket.write(parts.join("\r\n") + "\r\n\r\n"));
  socket.on("data", (data) => (heard += data)).on("error", () => {}).on("close", () => resolve(heard)).setTimeout(3_000, () => socket.destroy());
});
const statusOf = (answer: string) => Number(answer.match(/^HTTP\/1\.1 (\d{3})/)?.[1]);

describe("POST /mcp", () => {
  test.each(["/mcp", "/mcp/"])("serves MCP at %s", async (path) => {
    const response = await post(message("tools/call", { name: "health", arguments: {} }), {}, path);
    expect(response.status).toBe(200);
    expect((await read(response)).result.structuredContent.status).toBe("ok");
  });
  test.each(["/mcp/mcp", "/MCP", "/mcp.", "/mcpx", "/", "/sse", "/messages", "/register", "/authorize"])("is nowhere else: POST %s is 404", async (path) => {
    const response = await post(message("tools/list"), {}, path);
    expect([response.status, await response.json()]).toEqual([404, { error: "not_found" }]);
  });

  test.each([
    ["nothing", {}],
    ["another scheme", { authorization: "Basic cmVhZGVyOnNlY3JldA==" }],
    ["an empty header", { authorization: "" }],
  ])("without a token (%s) says where to sign in, and that nothing was wrong", async (_, headers) => {
    const response = await room.send("/mcp", { method: "POST", body: message("tools/list"), headers: { ...MCP, ...headers } });
    expect(response.status).toBe(401);
    expect(response.headers.get("www-authenticate")).toBe(`Bearer resource_metadata="${METADATA}"`);
    isJson(response);
  });
  test("with a bad token says where to sign in, and that the token was the reason", async () => {
    const response = await room.send("/mcp", { method: "POST", body: message("tools/list"), headers: { ...MCP, authorization: "Bearer not.a.token" } });
    const challenge = response.headers.get("www-authenticate") ?? "";
    expect(response.status).toBe(401);
    expect(challenge).toStartWith("Bearer ");
    expect(challenge).toContain('error="invalid_token"');
    expect(challenge).toContain(`resource_metadata="${METADATA}"`);
  });
  test.each(["bearer", "BEARER"])("takes the scheme in any case: %s", async (scheme) => {
    expect((await post(message("tools/list"), { authorization: `${scheme} ${token}` })).status).toBe(200);
  });

  test.each([
    ["a batch", `[${message("tools/list")},${message("tools/list")}]`],
    ["a batch of one", `[${message("tools/list")}]`],
    ["an empty batch", "[]"],
    ["deeply nested lists", "[".repeat(100_000) + "]".repeat(100_000)],
    ["an empty body", ""],
    ["blanks", "  \n"],
    ["half a message", '{"jsonrpc":"2.0","id":1,'],
    ["a word", "hello"],
    ["a bare number", "1"],
    ["null", "null"],
    ["an object that is no message", "{}"],
    ["a message of another protocol", '{"jsonrpc":"1.0","id":1,"method":"tools/list"}'],
    ["bytes that are not UTF-8", Buffer.concat([Buffer.from('{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"x":"'), Buffer.from([0xc3, 0x28, 0xff]), Buffer.from('"}}')])],
  ])("answers %s with 400, in JSON", async (_, body) => {
    const response = await post(body);
    expect(response.status).toBe(400);
    isJson(response);
    expect(await response.text()).not.toMatch(/\bat .*:\d+|SyntaxError|main\.ts/);
  });
  test.each(["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonx"])("answers a body of type %s with 415: a page's form can't call us", async (type) => {
    expect((await post(message("tools/list"), { "content-type": type })).status).toBe(415);
  });
  test("takes JSON with a charset", async () => {
    expect((await post(message("tools/list"), { "content-type": "application/json; charset=utf-8" })).status).toBe(200);
  });
  test("a client that takes no event stream is told so", async () => {
    expect((await post(message("tools/list"), { accept: "application/json" })).status).toBe(406);
  });
  test("arguments nested as deeply as a body can hold are refused like any others, and the gateway lives on", async () => {
    const deep = message("tools/call", { name: "health", arguments: { a: 0 } }).replace('"a":0', `"a":${"[".repeat(20_000)}${"]".repeat(20_000)}`);
    const headers = { ...MCP, authorization: `Bearer ${await gateway.token("reader-deep")}` };
    const response = await fetch(gateway.mcp, { method: "POST", headers, body: deep });
    expect(response.status).toBeLessThan(500);
    expect(await response.text()).not.toMatch(/RangeError|call stack|main\.ts/i);
    expect((await fetch(`${gateway.url}/healthz`)).status).toBe(200);
  });
});

describe("a body of 256 KiB is the most", () => {
  const LIMIT = 256 * 1024;
  const padded = (bytes: number) => message("tools/call", { name: "health", arguments: {} }).padEnd(bytes, " ");
  test.each([[LIMIT, 200], [LIMIT + 1, 413]])("%d bytes: %d", async (bytes, status) => {
    expect((await post(padded(bytes))).status).toBe(status);
  });
  test("bytes count, not characters", async () => {
    const euros = message("tools/call", { name: "health", arguments: { a: "€".repeat(90_000) } });
    expect(euros.length).toBeLessThan(LIMIT);
    expect((await post(euros)).status).toBe(413);
  });

  const pieces = (text: string) => new ReadableStream<Uint8Array>({
    start(controller) {
      const bytes = Buffer.from(text);
      for (let at = 0; at < bytes.length; at += 65_536) controller.enqueue(bytes.subarray(at, at + 65_536));
      controller.close();
    },
  });
  test.each([
    ["with a Content-Length", LIMIT, 200],
    ["with a Content-Length", LIMIT + 1, 413],
    ["with a Content-Length", 10 * 1024 * 1024, 413],
    ["in chunks", LIMIT, 200],
    ["in chunks", LIMIT + 1, 413],
    ["in chunks", 10 * 1024 * 1024, 413],
  ])("over the wire, %s, %d bytes: %d", async (how, bytes, status) => {
    const body = how === "in chunks" ? pieces(padded(bytes)) : padded(bytes);
    const headers = { ...MCP, authorization: `Bearer ${await gateway.token("reader-big")}` };
    expect((await fetch(gateway.mcp, { method: "POST", headers, body })).status).toBe(status);
  });
  test("without a token nobody's body is looked at: 10 MiB are 401 or 413, and the gateway lives on", async () => {
    const response = await fetch(gateway.mcp, { method: "POST", headers: MCP, body: pieces(padded(10 * 1024 * 1024)) });
    expect([401, 413]).toContain(response.status);
    expect((await fetch(`${gateway.url}/healthz`)).status).toBe(200);
  });
});

describe("GET, HEAD, DELETE … /mcp", () => {
  test.each(["GET", "HEAD", "DELETE", "PUT", "PATCH"])("%s without a token: the same 401 as for POST, because some clients start there", async (method) => {
    const response = await room.send("/mcp", { method, headers: { accept: "text/event-stream" } });
    expect([response.status, response.headers.get("www-authenticate")]).toEqual([401, `Bearer resource_metadata="${METADATA}"`]);
  });
  test.each(["GET", "HEAD", "DELETE", "PUT", "PATCH"])("%s with a token: 405, and what is allowed", async (method) => {
    const response = await room.send("/mcp", { method, headers: { accept: "text/event-stream", ...signedIn } });
    expect(response.status).toBe(405);
    expect(response.headers.get("allow")).toContain("POST");
    expect(response.headers.get("allow")).not.toContain(method);
  });
  test.each(["GET", "HEAD", "DELETE"])("%s with a bad token: 401 that says so", async (method) => {
    const response = await room.send("/mcp", { method, headers: { authorization: "Bearer x" } });
    expect(response.status).toBe(401);
    expect(response.headers.get("www-authenticate")).toContain('error="invalid_token"');
  });
  test.each([["GET", "/mcp"], ["GET", "/mcp/"], ["HEAD", "/mcp"]])("%s %s by a browser: the page for people, signed in or not", async (method, path) => {
    for (const headers of [{ accept: BROWSER }, { accept: BROWSER, ...signedIn }]) {
      const response = await room.send(path, { method, headers });
      expect([response.status, response.headers.get("content-type")?.startsWith("text/")]).toEqual([200, true]);
      if (method === "GET") expect(await response.text()).toContain(RESOURCE);
    }
  });
  test("POST by a browser is still MCP: no page, but a 401", async () => {
    expect((await room.send("/mcp", { method: "POST", body: "{}", headers: { accept: BROWSER } })).status).toBe(401);
  });
  test("over the wire as well", async () => {
    for (const method of ["GET", "HEAD", "DELETE"]) {
      const response = await fetch(gateway.mcp, { method });
      expect([method, response.status]).toEqual([method, 401]);
      expect(response.headers.get("www-authenticate")).toContain(`resource_metadata="${gateway.url}/.well-known/oauth-protected-resource/mcp"`);
    }
  });
});

describe("/.well-known", () => {
  const paths = ["/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"];
  const both = async (send = room.send) => Promise.all(paths.map(async (path) => {
    const response = await send(path);
    isJson(response);
    return [response.status, await response.text()] as const;
  }));
  test("the metadata is the same document twice, byte for byte", async () => {
    const [root, inserted] = await both();
    expect(root).toEqual(inserted!);
    expect(root![0]).toBe(200);
    expect(JSON.parse(root![1])).toEqual({
      resource: RESOURCE, authorization_servers: [ISSUER], bearer_methods_supported: ["header"], resource_name: "Reading Room",
    });
  });
  test("it tells the scopes, and so does the challenge, when a token must carry some", async () => {
    const { send } = await desk({ env: { AUTH_SCOPES: "read:shelf write:shelf" } });
    const [root, inserted] = await both(send);
    expect(root).toEqual(inserted!);
    expect(JSON.parse(root![1]).scopes_supported).toEqual(["read:shelf", "write:shelf"]);
    expect((await send("/mcp")).headers.get("www-authenticate")).toContain('scope="read:shelf write:shelf"');
  });
  test("resource is RESOURCE_URL as a person types it, not the address that we happen to listen on", async () => {
    const url = "https://reading-room.example.com/mcp";
    const { send } = await desk({ env: { RESOURCE_URL: url, AUTH_ISSUER: "https://sign-in.example.com/", AUTH_JWKS_URL: "https://sign-in.example.com/keys" } });
    expect(JSON.parse((await both(send))[0]![1])).toMatchObject({ resource: url, authorization_servers: ["https://sign-in.example.com/"] });
    const challenge = (await send("/mcp")).headers.get("www-authenticate");
    expect(challenge).toBe('Bearer resource_metadata="https://reading-room.example.com/.well-known/oauth-protected-resource/mcp"');
  });
  test("the address in the challenge answers with the document", async () => {
    const address = (await fetch(gateway.mcp)).headers.get("www-authenticate")!.match(/resource_metadata="(.+?)"/)![1]!;
    expect(await (await fetch(address)).json()).toMatchObject({ resource: gateway.mcp, authorization_servers: [`${gateway.url}/mock-auth`] });
  });
  test.each(["/.well-known/", "/.well-known/openid-configuration", "/.well-known/oauth-authorization-server", "/.well-known/oauth-protected-resource/sse",
    "/.well-known/oauth-protected-resource/mcp/x", "/.well-known/oauth-protected-resourcemcp", "/.well-known/mcp.json"])("%s is 404, in JSON", async (path) => {
    const response = await room.send(path);
    expect(response.status).toBe(404);
    isJson(response);
  });
});

describe("/healthz, / and everything else", () => {
  test.each(["localhost", "evil.example", "10.0.0.7:8000", ""])("/healthz answers whoever asks, under any Host: %p", async (host) => {
    const response = await room.send("/healthz", { headers: { host } });
    expect([response.status, await response.json()]).toEqual([200, { status: "ok" }]);
  });
  test("/healthz is 503 when the store does not answer, and says no more than that", async () => {
    const own = await desk();
    await own.store.close();
    const response = await own.send("/healthz");
    expect([response.status, await response.json()]).toEqual([503, { status: "unavailable" }]);
  });
  test("GET / is for the person: what this is and the URL to paste", async () => {
    const response = await room.send("/");
    expect([response.status, response.headers.get("content-type")?.startsWith("text/")]).toEqual([200, true]);
    const text = await response.text();
    expect(text).toContain("Reading Room");
    expect(text).toContain(RESOURCE);
  });
  test.each([["GET", "/favicon.ico"], ["GET", "/main.ts"], ["GET", "/../main.ts"], ["GET", "/.env"], ["GET", "/%2e%2e/.env"], ["POST", "/"], ["DELETE", "/"], ["GET", "/constructor"]])("%s %s is 404, in JSON", async (method, path) => {
    const response = await room.send(path, { method });
    expect([response.status, await response.json()]).toEqual([404, { error: "not_found" }]);
  });
  test("an exception inside is a bare 500, and a line in the log without its message", async () => {
    const own = await desk({ keys: async () => { throw new Error("postgres://reader:secret@db.internal/ failed"); } });
    const response = await own.send("/");
    expect([response.status, await response.text()]).toEqual([500, '{"error":"server_error"}']);
    expect(own.log).toMatchObject([{ outcome: "failed" }]);
    expect(own.log[0]!.error).toMatch(/\w/);
    expect(JSON.stringify(own.log)).not.toMatch(/secret|db\.internal/);
  });
});

describe("Host", () => {
  const STREET = { RESOURCE_URL: "https://reading-room.example.com/mcp" };
  test.each([
    ["localhost", 200], ["localhost:8000", 200], ["LOCALHOST:9", 200], ["127.0.0.1", 200], ["127.0.0.1:8000", 200], ["[::1]", 200], ["[::1]:8000", 200],
    ["reading-room.example.com", 200], ["reading-room.example.com:443", 200], ["Reading-Room.Example.COM", 200],
    ["evil.example", 403], ["localhost.evil.example", 403], ["reading-room.example.com.evil.example", 403], ["evil-reading-room.example.com", 403], ["example.com", 403],
    ["", 403], ["a@localhost", 403], ["localhost@evil.example", 403], ["localhost:8000@evil.example", 403], ["localhost, evil.example", 403],
    ["localhost/evil", 403], ["localhost#", 403], ["127.0.0.1.nip.io", 403], ["0.0.0.0", 403], ["[::]", 403], ["192.168.1.5", 403],
  ])("%p: %d", async (host, status) => {
    const { send } = await desk({ env: STREET });
    for (const path of ["/", "/.well-known/oauth-protected-resource"]) {
      const response = await send(path, { headers: { host } });
      expect(response.status).toBe(status);
      if (status === 403) expect(await response.text()).toContain("RESOURCE_URL");
    }
    expect((await send("/mcp", { method: "POST", headers: { host } })).status).toBe(status === 200 ? 401 : status);
  });
  test("no Host at all: 403", async () => {
    expect((await room.app(new Request("http://localhost:8000/"))).status).toBe(403);
  });
  test("the name of RESOURCE_URL is nobody's on a desk without one", async () => {
    expect((await room.send("/", { headers: { host: "reading-room.example.com" } })).status).toBe(403);
  });
  test.each([
    ["none", [], [400, 403]],
    ["an empty one", ["Host:"], [400, 403]],
    ["another's", ["Host: evil.example"], [403]],
    ["another's, and a localhost URL in the request line", ["Host: evil.example"], [403], "http://localhost/"],
    ["a name before an @", ["Host: a@localhost"], [400, 403]],
    ["ours and another's", ["Host: localhost", "Host: evil.example"], [400, 403]],
    ["a port that can't be", ["Host: localhost:99999"], [200, 400, 403, 404]],
  ] as [string, string[], number[], string?][])("over the wire, %s", async (_, hosts, statuses, target = "/") => {
    const answer = await wire(`GET ${target} HTTP/1.1`, ...hosts, "Connection: close");
    expect(statuses).toContain(statusOf(answer));
  });
});

describe("Origin", () => {
  test.each<[string | undefined, boolean]>([
    [undefined, true], ["http://localhost:6274", true], ["http://localhost", true], ["https://localhost", true], ["http://127.0.0.1:3000", true], ["http://[::1]:3000", true],
    ["https://reading-room.example.com", true], ["https://reading-room.example.com:8443", true],
    ["null", false], ["file://", false], ["https://evil.example", false], ["http://localhost.evil.example", false], ["http://localhost@evil.example", false],
    ["https://reading-room.example.com.evil.example", false], ["chrome-extension://localhost", false], ["ftp://localhost", false], ["localhost", false], ["http://", false], ["http:", false],
  ])("%p is let in: %p", async (origin, letIn) => {
    const { send } = await desk({ env: { RESOURCE_URL: "https://reading-room.example.com/mcp" } });
    for (const [method, path, status] of [["GET", "/", 200], ["POST", "/mcp", 401], ["OPTIONS", "/mcp", 204]] as const) {
      const response = await send(path, { method, headers: origin === undefined ? {} : { origin } });
      expect([method, response.status]).toEqual([method, letIn ? status : 403]);
      expect(response.headers.get("access-control-allow-origin")).toBe(letIn && origin !== undefined ? origin : null);
      if (!letIn) expect(await response.text()).toContain("RESOURCE_URL");
    }
  });
});

describe("CORS", () => {
  const origin = "http://localhost:6274";
  const list = (response: Response, name: string) => (response.headers.get(name) ?? "").toLowerCase().split(/, */);
  test.each(["/mcp", "/mcp/", "/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"])("the browser may ask before it signs in: OPTIONS %s", async (path) => {
    const response = await room.send(path, {
      method: "OPTIONS",
      headers: { origin, "access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type,mcp-protocol-version" },
    });
    expect([200, 204]).toContain(response.status);
    expect(response.headers.get("access-control-allow-origin")).toBe(origin);
    expect(list(response, "access-control-allow-methods")).toEqual(expect.arrayContaining(["get", "post"]));
    expect(list(response, "access-control-allow-headers")).toEqual(expect.arrayContaining([
      "authorization", "content-type", "accept", "mcp-protocol-version", "mcp-method", "mcp-name", "mcp-session-id", "last-event-id",
    ]));
    expect(list(response, "vary")).toContain("origin");
  });
  test.each<[string, number, string, RequestInit]>([
    ["a 401", 401, "/mcp", { method: "POST" }],
    ["a bad token's 401", 401, "/mcp", { method: "POST", headers: { authorization: "Bearer x" } }],
    ["a result", 200, "/mcp", { method: "POST", body: message("tools/list"), headers: { ...MCP, ...signedIn } }],
    ["a 400", 400, "/mcp", { method: "POST", body: "x", headers: { ...MCP, ...signedIn } }],
    ["a 413", 413, "/mcp", { method: "POST", body: "x".repeat(300_000), headers: { ...MCP, ...signedIn } }],
    ["a 405", 405, "/mcp", { headers: signedIn }],
    ["the metadata", 200, "/.well-known/oauth-protected-resource", {}],
    ["a 404", 404, "/.well-known/openid-configuration", {}],
  ])("a page may read %s, with WWW-Authenticate and Retry-After", async (_, status, path, init) => {
    const response = await room.send(path, { ...init, headers: { ...(init.headers as Record<string, string>), origin } });
    expect([response.status, response.headers.get("access-control-allow-origin")]).toEqual([status, origin]);
    expect(list(response, "access-control-expose-headers")).toEqual(expect.arrayContaining(["www-authenticate", "retry-after"]));
    expect(response.headers.get("access-control-allow-credentials")).toBeNull();
  });
  test("a page may read that the keys can't be had, and when to come again", async () => {
    const own = await desk({ keys: async (request) => (request.url.endsWith("jwks.json") ? new Response("down", { status: 500 }) : undefined) });
    const response = await own.send("/mcp", { method: "POST", headers: { ...MCP, ...signedIn, origin } });
    expect([response.status, response.headers.get("www-authenticate")]).toEqual([503, null]);
    expect(Number(response.headers.get("retry-after"))).toBeGreaterThan(0);
    expect(list(response, "access-control-expose-headers")).toContain("retry-after");
  });
});

describe("one URL, every revision", () => {
  const clientInfo = { name: "by-hand", version: "1" };
  const onlyTools = (capabilities: { tools?: { listChanged?: boolean } }) => {
    expect(Object.keys(capabilities)).toEqual(["tools"]);
    expect(capabilities.tools?.listChanged).not.toBe(true);
  };

  test.each(["2025-03-26", "2025-06-18", "2025-11-25"])("%s: the handshake, the menu and a call, without a session of the protocol", async (protocolVersion) => {
    const hello = await post(message("initialize", { protocolVersion, capabilities: {}, clientInfo }));
    const { result } = await read(hello);
    expect(result).toMatchObject({ protocolVersion, serverInfo: { name: "reading-room" } });
    expect(result.instructions).toContain("begin_session");
    onlyTools(result.capabilities);

    const headers = { "mcp-protocol-version": protocolVersion };
    const ready = await post(JSON.stringify({ jsonrpc: "2.0", method: "notifications/initialized" }), headers);
    expect([ready.status, await ready.text()]).toEqual([202, ""]);
    const menu = await post(message("tools/list"), headers);
    expect((await read(menu)).result.tools[0].name).toBe("begin_session");
    const called = await post(message("tools/call", { name: "begin_session", arguments: {} }), { ...headers, "mcp-session-id": "from-somewhere-else" });
    expect((await read(called)).result.structuredContent.expires_in_seconds).toBe(3600);
    for (const response of [hello, ready, menu, called]) expect(response.headers.get("mcp-session-id")).toBeNull();
  });

  test("a client that names no revision is served as well", async () => {
    expect((await read(await post(message("tools/call", { name: "health", arguments: {} })))).result.structuredContent.status).toBe("ok");
  });

  const _meta = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientInfo": clientInfo, "io.modelcontextprotocol/clientCapabilities": {},
  };
  const modern = (method: string, params: { name?: string; arguments?: object } = {}) => post(message(method, { ...params, _meta }), {
    "mcp-protocol-version": "2026-07-28", "mcp-method": method, ...(params.name && { "mcp-name": params.name }),
  });
  test("2026-07-28: no handshake, an envelope in every request, and plain JSON back", async () => {
    const discovered = await modern("server/discover");
    const { result } = await read(discovered);
    expect(result.supportedVersions).toContain("2026-07-28");
    expect(result.instructions).toContain("begin_session");
    onlyTools(result.capabilities);

    const menu = await modern("tools/list");
    expect((await read(menu)).result.tools[0].name).toBe("begin_session");
    const called = await modern("tools/call", { name: "begin_session", arguments: {} });
    expect((await read(called)).result.structuredContent.expires_in_seconds).toBe(3600);
    for (const response of [discovered, menu, called]) {
      expect(response.status).toBe(200);
      isJson(response);
      expect(response.headers.get("mcp-session-id")).toBeNull();
    }
  });
  test("2026-07-28 needs a token like the others", async () => {
    const response = await room.send("/mcp", { method: "POST", body: message("server/discover", { _meta }), headers: { ...MCP, "mcp-protocol-version": "2026-07-28", "mcp-method": "server/discover" } });
    expect([response.status, response.headers.get("www-authenticate")]).toEqual([401, `Bearer resource_metadata="${METADATA}"`]);
  });
  test("a revision that nobody knows is refused", async () => {
    expect((await post(message("tools/list"), { "mcp-protocol-version": "1999-01-01" })).status).toBe(400);
  });

  test.each(["resources/list", "resources/templates/list", "resources/read", "prompts/list", "prompts/get", "completion/complete", "logging/setLevel", "no/such"])("%s is not offered, in either era", async (method) => {
    expect((await read(await post(message(method)))).error.code).toBe(-32601);
    expect((await read(await modern(method))).error.code).toBe(-32601);
  });
  test("no request leaves anything behind: two people on one gateway, at once, each get their own answer", async () => {
    const people = ["reader-A", "reader-B", "reader-C"];
    const tokens = await Promise.all(people.map((sub) => mint({ sub, email: `${sub}@example.com` })));
    const opened = await Promise.all(tokens.map((own) => room.call("begin_session", {}, own)));
    const profiles = await Promise.all([0, 1, 2, 0, 1, 2].map((n) => room.call("user_get_profile", { session: opened[n]!.structuredContent!.session }, tokens[n]!)));
    expect(profiles.map(({ structuredContent }) => structuredContent!.profile.email)).toEqual([0, 1, 2, 0, 1, 2].map((n) => `${people[n]}@example.com`));
  });
});

test("nothing that the gateway answers names a token's key, a path of ours or a stack", async () => {
  const answers = await Promise.all(["/", "/healthz", "/nope", "/mcp", "/.well-known/oauth-protected-resource"].map(async (path) => (await fetch(gateway.url + path)).text()));
  answers.push(await wire("GET / HTTP/9.9", "Host: localhost"), await wire("NONSENSE"));
  expect(answers.join("\n")).not.toMatch(/main\.ts|node_modules|\bat \S+ \(|bun:/);
  expect(answers.join("\n")).not.toContain(publicJwk.n!);
  expect((await fetch(`${gateway.url}/healthz`)).status).toBe(200);
});

test("a browser may send any header of the protocol's family", async () => {
  const { send } = await desk();
  const asked = { origin: "http://localhost:6274", "access-control-request-headers": "authorization, mcp-param-region, x-evil" };
  const allowed = (await send("/mcp", { method: "OPTIONS", headers: asked })).headers.get("access-control-allow-headers")!.toLowerCase().split(", ");
  expect(allowed).toContain("mcp-param-region");
  expect(allowed).not.toContain("x-evil");
});
