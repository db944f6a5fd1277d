// The contract's HTTP table, row by row: in this process where that says enough, over a socket
// where the wire decides.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { connect } from "node:net";
import { sampleApp } from "./sample-app.ts";
import { gateway, ISSUER, mint, PROXY_HEADERS, RESOURCE, startGateway } from "./support.ts";

const room = await gateway();
const token = await mint();
const signedIn = { authorization: `Bearer ${token}` };
const MCP = {
  "content-type": "application/json",
  accept: "application/json, text/event-stream",
};
const BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
const METADATA = "http://localhost:8000/.well-known/oauth-protected-resource/mcp";
const WELL_KNOWN = "/.well-known/oauth-protected-resource";
const PUBLIC = {
  RESOURCE_URL: "https://notes.example.com/mcp",
  AUTH_ISSUER: "https://sign-in.example.com/",
  AUTH_JWKS_URL: "https://sign-in.example.com/keys",
};

type Headers_ = Record<string, string>;
type Body = string | Uint8Array<ArrayBuffer>;
const message = (method: string, params: object = {}) =>
  JSON.stringify({ jsonrpc: "2.0", id: 1, method, params });
const HEALTH = message("tools/call", { name: "health", arguments: {} });
const post = (body: Body, headers: Headers_ = {}, path = "/mcp") =>
  room.send(path, { method: "POST", body, headers: { ...MCP, ...signedIn, ...headers } });
interface Message {
  result: Record<string, any>;
  error?: { code: number };
}
/** The JSON-RPC message of an answer, which the 2025 era wraps in an event stream. */
async function read(response: Response): Promise<Message> {
  const text = await response.text();
  return JSON.parse(text.match(/^data: (.*)$/m)?.[1] ?? text);
}
const isJson = (response: Response) =>
  expect(response.headers.get("content-type")).toStartWith("application/json");
const challengeOf = (response: Response) => response.headers.get("www-authenticate");

let live: Awaited<ReturnType<typeof startGateway>>;
beforeAll(async () => void (live = await startGateway()));
afterAll(() => live.stop());
const liveMcp = async () => ({ ...MCP, authorization: `Bearer ${await live.token("ada")}` });
/** Says these lines to the gateway, and returns the status of what it says. */
const wire = (...lines: string[]) =>
  new Promise<number>((resolve) => {
    let heard = "";
    const said = `${lines.join("\r\n")}\r\n\r\n`;
    const socket = connect(live.port, "127.0.0.1", () => socket.write(said));
    socket.on("data", (data) => (heard += data)).on("error", () => {});
    socket.on("close", () => resolve(Number(heard.match(/^HTTP\/1\.1 (\d{3})/)?.[1])));
    socket.setTimeout(2_000, () => socket.destroy());
  });

describe("POST /mcp", () => {
  test.each(["/mcp", "/mcp/"])("serves MCP at %s", async (path) => {
    const response = await post(HEALTH, {}, path);
    expect(response.status).toBe(200);
    expect((await read(response)).result.structuredContent.status).toBe("ok");
  });

  test.each(["/mcp/mcp", "/MCP", "/mcpx", "/", "/sse", "/register", "/%6dcp", "/__proto__"])(
    "is nowhere else: POST %s is 404, in JSON",
    async (path) => {
      const response = await post(HEALTH, {}, path);
      expect([response.status, await response.json()]).toEqual([404, { error: "not_found" }]);
    },
  );

  test.each<[string, Headers_]>([
    ["nothing", {}],
    ["another scheme", { authorization: "Basic YTpi" }],
    ["an empty header", { authorization: "" }],
  ])("without a token (%s): where to sign in, and that nothing was wrong", async (_, headers) => {
    const response = await room.send("/mcp", { method: "POST", body: HEALTH, headers });
    expect(response.status).toBe(401);
    expect(challengeOf(response)).toBe(`Bearer resource_metadata="${METADATA}"`);
    isJson(response);
  });

  test.each<[string, () => Promise<string>]>([
    ["no token of ours", async () => "not.a.token"],
    ["a token that is over", () => mint({ exp: 1 })],
    ["a token of nobody", () => mint({ sub: "" })],
  ])("with %s: that it was the reason, and no more", async (_, make) => {
    const response = await post(HEALTH, { authorization: `Bearer ${await make()}` });
    const challenge = `Bearer error="invalid_token", resource_metadata="${METADATA}"`;
    expect([response.status, challengeOf(response)]).toEqual([401, challenge]);
    expect(room.log.at(-1)!.why).toStartWith("sign-in: ");
  });
  test.each([
    ["aud", "http://localhost:8000", RESOURCE],
    ["iss", "https://elsewhere.example", ISSUER],
  ])("with a wrong %s alone: the one that we take; the log says what came", async (...row) => {
    const [claim, came, ours] = row;
    const bad = await mint({ [claim]: came });
    const response = await post(HEALTH, { authorization: `Bearer ${bad}` });
    expect(response.status).toBe(401);
    const [, description] = challengeOf(response)!.match(/error_description="([^"]+)"/)!;
    expect(description).toContain(ours);
    const { why } = room.log.at(-1)!;
    for (const part of [`sign-in: ${claim}`, ours, `"${came}"`]) expect(why).toContain(part);
  });

  test.each(["bearer", "BEARER"])("takes the scheme in any case: %s", async (scheme) => {
    expect((await post(HEALTH, { authorization: `${scheme} ${token}` })).status).toBe(200);
  });

  test("when the keys can't be had: 503, when to come again, and no 401", async () => {
    const down = async ({ url }: Request) =>
      url.endsWith("/jwks.json") ? new Response("down", { status: 500 }) : undefined;
    const { send, log } = await gateway({ keys: down });
    const response = await send("/mcp", { method: "POST", headers: { ...MCP, ...signedIn } });
    expect([response.status, challengeOf(response)]).toEqual([503, null]);
    expect(Number(response.headers.get("retry-after"))).toBeGreaterThan(0);
    expect(log).toMatchObject([{ outcome: "failed", error: expect.stringMatching(/^sign-in: /) }]);
  });

  const bytes = (...parts: (string | number[])[]) =>
    Buffer.concat(parts.map((part) => Buffer.from(part as string)));
  test.each<[string, Body]>([
    ["a batch", `[${HEALTH},${HEALTH}]`],
    ["a batch of one", `[${HEALTH}]`],
    ["an empty batch", "[]"],
    ["lists without end", "[".repeat(100_000) + "]".repeat(100_000)],
    ["an empty body", ""],
    ["half a message", '{"jsonrpc":"2.0","id":1,'],
    ["a word", "hello"],
    ["a number", "1"],
    ["null", "null"],
    ["an object that is no message", "{}"],
    ["a message of another protocol", '{"jsonrpc":"1.0","id":1,"method":"tools/list"}'],
    ["what isn't UTF-8", bytes('{"jsonrpc":"2.0","id":1,"method":"', [0xc3, 0x28, 0xff], '"}')],
    ["__proto__ as a key", HEALTH.replace('"arguments":{}', '"arguments":{"__proto__":{"a":1}}')],
    ["__proto__ as a key, escaped", HEALTH.replace("{}", '{"\\u005f_proto__":{"a":1}}')],
    ["lists in lists", HEALTH.replace("{}", `{"a":${"[".repeat(60_000)}${"]".repeat(60_000)}}`)],
    ["__proto__ in the envelope", HEALTH.replace("{", '{"__proto__":{"id":2},')],
  ])("answers %s with 400, in JSON", async (_, body) => {
    const response = await post(body);
    expect(response.status).toBe(400);
    isJson(response);
    expect(await response.text()).not.toMatch(/\bat .*:\d+|SyntaxError|main\.ts/);
  });

  test.each(["text/plain", "application/x-www-form-urlencoded", "application/jsonx"])(
    "answers a body of type %s with 415: a page's form can't call us",
    async (type) => expect((await post(HEALTH, { "content-type": type })).status).toBe(415),
  );
  test("tells a client that takes no event stream so", async () => {
    expect((await post(HEALTH, { accept: "application/json" })).status).toBe(406);
  });

  test("tells caches to keep nothing: an answer is one person's", async () => {
    for (const body of [HEALTH, message("tools/call", { name: "user_get_state", arguments: {} })]) {
      expect((await post(body)).headers.get("cache-control")).toBe("no-store");
    }
    const modern = await room.modern("health", { arguments: {} }, token);
    expect([modern.status, modern.headers.get("cache-control")]).toEqual([200, "no-store"]);
  });
});

describe("a body of 256 KiB is the most", () => {
  const MOST = 256 * 1024;
  const MIB = 1024 * 1024;
  test.each([[MOST, 200], [MOST + 1, 413]])("%d bytes: %d", async (size, status) => {
    expect((await post(HEALTH.padEnd(size))).status).toBe(status);
  });
  test("bytes count, not characters", async () => {
    const euros = HEALTH.replace("{}", `{"a":"${"€".repeat(90_000)}"}`);
    expect(euros.length).toBeLessThan(MOST);
    expect((await post(euros)).status).toBe(413);
  });

  const inChunks = (text: string) =>
    new ReadableStream<Uint8Array>({
      start(controller) {
        const all = Buffer.from(text);
        for (let at = 0; at < all.length; at += 65_536) {
          controller.enqueue(all.subarray(at, at + 65_536));
        }
        controller.close();
      },
    });
  test.each([
    ["whole", MOST, 200],
    ["whole", MOST + 1, 413],
    ["whole", 10 * MIB, 413],
    ["in chunks", MOST, 200],
    ["in chunks", MOST + 1, 413],
    ["in chunks", 10 * MIB, 413],
  ])("over the wire, %s, %d bytes: %d", async (how, size, status) => {
    const text = HEALTH.padEnd(size);
    const body = how === "whole" ? text : inChunks(text);
    const response = await fetch(live.mcp, { method: "POST", headers: await liveMcp(), body });
    expect(response.status).toBe(status);
  });
  test("a body that is announced too large is refused before it is sent", async () => {
    const lines = ["POST /mcp HTTP/1.1", "Host: localhost", `Content-Length: ${10 * MIB}`];
    expect(await wire(...lines, "Connection: close")).toBe(413);
  });
});

describe("GET, HEAD, DELETE /mcp", () => {
  const accept = "text/event-stream";
  const others = ["GET", "HEAD", "DELETE", "PUT"];
  test.each(others)("%s without a token: the same 401", async (method) => {
    const response = await room.send("/mcp", { method, headers: { accept } });
    expect(response.status).toBe(401);
    expect(challengeOf(response)).toBe(`Bearer resource_metadata="${METADATA}"`);
  });
  test.each(others)("%s with a bad token: 401", async (method) => {
    const response = await room.send("/mcp", { method, headers: { authorization: "Bearer x" } });
    expect(response.status).toBe(401);
    expect(challengeOf(response)).toContain('error="invalid_token"');
  });
  test.each(others)("%s with a token: 405 and Allow", async (method) => {
    const response = await room.send("/mcp", { method, headers: { accept, ...signedIn } });
    expect([response.status, response.headers.get("allow")]).toEqual([405, "POST, OPTIONS"]);
  });
  test.each(["/mcp", "/mcp/"])("GET %s by a browser: the page for people", async (path) => {
    for (const headers of [{ accept: BROWSER }, { accept: BROWSER, ...signedIn }]) {
      const response = await room.send(path, { headers });
      const type = response.headers.get("content-type");
      expect([response.status, type]).toEqual([200, "text/html; charset=utf-8"]);
    }
  });
  test("POST by a browser is still MCP: no page, but a 401", async () => {
    const headers = { accept: BROWSER };
    expect((await room.send("/mcp", { method: "POST", body: "{}", headers })).status).toBe(401);
  });
});

describe("/.well-known", () => {
  const paths = [WELL_KNOWN, `${WELL_KNOWN}/mcp`];
  const both = (send = room.send) =>
    Promise.all(paths.map(async (path) => {
      const response = await send(path);
      isJson(response);
      expect(response.status).toBe(200);
      return response.text();
    }));

  test("the metadata is the same document twice, byte for byte", async () => {
    const [root, inserted] = await both();
    expect(root).toBe(inserted!);
    expect(JSON.parse(root!)).toEqual({
      resource: RESOURCE,
      authorization_servers: [ISSUER],
      bearer_methods_supported: ["header"],
      resource_name: sampleApp.name,
    });
  });
  test("its resource is RESOURCE_URL as a person types it, not where we listen", async () => {
    const { send } = await gateway({ env: PUBLIC });
    const { resource, authorization_servers } = JSON.parse((await both(send))[0]!);
    expect([resource, authorization_servers]).toEqual([PUBLIC.RESOURCE_URL, [PUBLIC.AUTH_ISSUER]]);
    const at = `https://notes.example.com${WELL_KNOWN}/mcp`;
    expect(challengeOf(await send("/mcp"))).toBe(`Bearer resource_metadata="${at}"`);
  });
  test.each<[string, string[]]>([
    ["files:use files:share", ["files:use", "files:share"]],
    ["notebook:read", ["notebook:read", "notebook:write"]], // or no app could ever save
    ["openid notebook:write", ["openid", "notebook:write", "notebook:read"]],
  ])("with AUTH_SCOPES=%s it offers, like the challenge, %j", async (scopes, offered) => {
    const { send } = await gateway({ env: { AUTH_SCOPES: scopes } });
    expect(JSON.parse((await both(send))[0]!).scopes_supported).toEqual(offered);
    expect(challengeOf(await send("/mcp"))).toContain(`scope="${offered.join(" ")}"`);
  });
  test("the address in the challenge answers with the document", async () => {
    const address = challengeOf(await fetch(live.mcp))!.match(/resource_metadata="(.+?)"/)![1]!;
    const document = await (await fetch(address)).json();
    expect(document).toMatchObject({
      resource: live.mcp,
      authorization_servers: [`${live.url}/mock-auth`],
    });
  });
  test.each([
    "/.well-known/",
    "/.well-known/openid-configuration",
    "/.well-known/oauth-authorization-server",
    `${WELL_KNOWN}/sse`,
    `${WELL_KNOWN}/mcp/x`,
    `${WELL_KNOWN}mcp`,
  ])("%s is 404, in JSON", async (path) => {
    const response = await room.send(path);
    expect([response.status, await response.json()]).toEqual([404, { error: "not_found" }]);
  });
});

describe("/health and everything else", () => {
  test.each(["/health", "/healthz"])("%s answers whoever asks, under any Host", async (path) => {
    for (const host of ["localhost", "evil.example", "10.0.0.7:8000", ""]) {
      const response = await room.send(path, { headers: { host } });
      expect([response.status, await response.json()]).toEqual([200, { status: "ok" }]);
    }
  });
  test.each(["/health", "/healthz"])("%s is 503 when the store is not there", async (path) => {
    const own = await gateway();
    await own.store.close();
    const response = await own.send(path);
    expect([response.status, await response.json()]).toEqual([503, { status: "unavailable" }]);
  });
  test("whoever asks at once is answered by one question to the store", async () => {
    const own = await gateway();
    let pings = 0;
    const { promise, resolve } = Promise.withResolvers<void>();
    const store = { ...own.store, ping: () => (pings++, promise) };
    const { send } = await gateway({ store });
    const answers = [1, 2, 3].map(() => send("/health"));
    await Bun.sleep(1);
    resolve();
    expect((await Promise.all(answers)).map(({ status }) => status)).toEqual([200, 200, 200]);
    expect(pings).toBe(1);
    await send("/health");
    expect(pings).toBe(2);
  });
  test.each([["GET", "/seed/icon.png"], ["GET", "/main.ts"], ["GET", "/.env"], ["DELETE", "/"]])(
    "%s %s is 404, in JSON",
    async (method, path) => {
      const response = await room.send(path, { method });
      expect([response.status, await response.json()]).toEqual([404, { error: "not_found" }]);
    },
  );
  test("the icon that hosts are told of is there, before sign-in", async () => {
    const { serverInfo } = (await read(await post(message("initialize", {
      protocolVersion: "2025-11-25", capabilities: {}, clientInfo: { name: "a", version: "1" },
    })))).result;
    const icons = [{ src: "http://localhost:8000/favicon.ico", mimeType: "image/png" }];
    expect(serverInfo.icons).toEqual(icons);
    const icon = await room.send("/favicon.ico");
    expect(icon.headers.get("content-type")).toBe("image/png");
    const bytes = Buffer.from(await icon.arrayBuffer());
    expect(bytes.subarray(1, 4).toString()).toBe("PNG");
    expect(bytes.length).toBeLessThan(20_000);
  });
  test("an exception is a bare 500, and a line in the log without its words", async () => {
    const own = await gateway({
      keys: async () => {
        throw new Error("postgres://reader:hunter2@db.internal/ failed");
      },
    });
    const response = await own.send("/");
    expect([response.status, await response.text()]).toEqual([500, '{"error":"server_error"}']);
    expect(own.log).toMatchObject([{ outcome: "failed", error: expect.stringContaining("Error") }]);
    expect(JSON.stringify(own.log)).not.toMatch(/hunter2|db\.internal/);
  });
});

describe("Host", () => {
  test.each([
    ["localhost", 200],
    ["localhost:8000", 200],
    ["LOCALHOST:9", 200],
    ["127.0.0.1:8000", 200],
    ["[::1]:8000", 200],
    ["notes.example.com", 200],
    ["notes.example.com:443", 200],
    ["evil.example", 403],
    ["localhost.evil.example", 403],
    ["notes.example.com.evil.example", 403],
    ["evil-notes.example.com", 403],
    ["example.com", 403],
    ["", 403],
    ["a@localhost", 403],
    ["localhost:8000@evil.example", 403],
    ["localhost, evil.example", 403],
    ["localhost/evil", 403],
    ["127.0.0.1.nip.io", 403],
    ["0.0.0.0", 403],
    ["192.168.1.5", 403],
  ])("%p: %d", async (host, status) => {
    const { send } = await gateway({ env: PUBLIC });
    for (const path of ["/", WELL_KNOWN]) {
      const response = await send(path, { headers: { host } });
      expect([path, response.status]).toEqual([path, status]);
      if (status === 403) expect(await response.text()).toContain("RESOURCE_URL");
    }
    const { status: mcp } = await send("/mcp", { method: "POST", headers: { host } });
    expect(mcp).toBe(status === 200 ? 401 : 403);
  });
  test("no Host at all: 403", async () => {
    expect((await room.fetch(new Request("http://localhost:8000/"))).status).toBe(403);
  });
  test("the sign-in service beside us is behind the same check", async () => {
    const keys = { host: "evil.example" };
    expect((await room.send("/mock-auth/jwks.json", { headers: keys })).status).toBe(403);
    expect((await room.send("/mock-auth/jwks.json")).status).toBe(200);
  });
  test.each<[string, string[], number[]]>([
    ["none", [], [400, 403]],
    ["another's", ["Host: evil.example"], [403]],
    ["ours and another's", ["Host: localhost", "Host: evil.example"], [400, 403]],
  ])("over the wire, %s", async (_, hosts, statuses) => {
    expect(statuses).toContain(await wire("GET / HTTP/1.1", ...hosts, "Connection: close"));
    const absolute = "GET http://localhost/ HTTP/1.1";
    expect(statuses).toContain(await wire(absolute, ...hosts, "Connection: close"));
  });
});

describe("Origin", () => {
  test.each<[string | undefined, boolean]>([
    [undefined, true],
    ["http://localhost:6274", true],
    ["https://localhost", true],
    ["http://127.0.0.1:3000", true],
    ["http://[::1]:3000", true],
    ["https://notes.example.com", true],
    ["null", false],
    ["https://evil.example", false],
    ["http://localhost.evil.example", false],
    ["http://localhost@evil.example", false],
    ["https://notes.example.com.evil.example", false],
    ["localhost", false],
    ["http://", false],
  ])("%p is let in: %p", async (origin, letIn) => {
    const { send } = await gateway({ env: PUBLIC });
    const requests = [["GET", "/", 200], ["POST", "/mcp", 401], ["OPTIONS", "/mcp", 204]] as const;
    for (const [method, path, status] of requests) {
      const response = await send(path, { method, headers: origin ? { origin } : {} });
      expect([method, response.status]).toEqual([method, letIn ? status : 403]);
      const allowed = letIn && origin ? origin : null;
      expect(response.headers.get("access-control-allow-origin")).toBe(allowed);
      if (!letIn) expect(await response.text()).toContain("RESOURCE_URL");
    }
  });
});

describe("CORS", () => {
  const origin = "http://localhost:6274";
  const list = (response: Response, name: string) =>
    (response.headers.get(name) ?? "").toLowerCase().split(/, */);

  test.each(["/mcp", WELL_KNOWN])("a page may ask first: OPTIONS %s", async (path) => {
    const asks = { "access-control-request-headers": "authorization, mcp-param-region, x-evil" };
    const response = await room.send(path, { method: "OPTIONS", headers: { origin, ...asks } });
    expect(response.status).toBe(204);
    expect(response.headers.get("access-control-allow-origin")).toBe(origin);
    const methods = list(response, "access-control-allow-methods");
    expect(methods).toEqual(expect.arrayContaining(["get", "post"]));
    const headers = list(response, "access-control-allow-headers");
    expect(headers).toEqual(expect.arrayContaining([
      "authorization",
      "content-type",
      "accept",
      "last-event-id",
      "mcp-protocol-version",
      "mcp-session-id",
      "mcp-param-region", // any of the protocol's family
    ]));
    expect(headers).not.toContain("x-evil");
    expect(list(response, "vary")).toContain("origin");
  });

  test.each<[string, number, string, RequestInit]>([
    ["a 401", 401, "/mcp", { method: "POST" }],
    ["a result", 200, "/mcp", { method: "POST", body: HEALTH, headers: { ...MCP, ...signedIn } }],
    ["a 400", 400, "/mcp", { method: "POST", body: "x", headers: { ...MCP, ...signedIn } }],
    ["a 405", 405, "/mcp", { headers: signedIn }],
    ["the metadata", 200, WELL_KNOWN, {}],
    ["a 404", 404, "/.well-known/openid-configuration", {}],
  ])("a page may read %s, with WWW-Authenticate and Retry-After", async (_, status, path, init) => {
    const headers = { ...(init.headers as Headers_), origin };
    const response = await room.send(path, { ...init, headers });
    const allowed = response.headers.get("access-control-allow-origin");
    expect([response.status, allowed]).toEqual([status, origin]);
    const exposed = list(response, "access-control-expose-headers");
    expect(exposed).toEqual(["www-authenticate", "retry-after"]);
    expect(response.headers.get("access-control-allow-credentials")).toBeNull();
  });
});

describe("one URL, every revision", () => {
  const clientInfo = { name: "by-hand", version: "1" };
  const isMenu = ({ result }: Message) => expect(result.tools[0].name).toBe("begin_session");
  const isOpen = ({ result }: Message) =>
    expect(result.structuredContent.expires_in_seconds).toBe(3600);
  const BEGIN = { name: "begin_session", arguments: {} };

  test.each(["2025-03-26", "2025-06-18", "2025-11-25"])(
    "%s: the handshake, the menu and a call, without a session of the protocol",
    async (protocolVersion) => {
      const who = { protocolVersion, capabilities: {}, clientInfo };
      const hello = await post(message("initialize", who));
      const { result } = await read(hello);
      expect(result).toMatchObject({
        protocolVersion,
        serverInfo: { name: sampleApp.slug },
        capabilities: { tools: {} },
      });
      expect(Object.keys(result.capabilities)).toEqual(["tools"]);
      expect(result.capabilities.tools.listChanged).not.toBe(true);

      const headers = { "mcp-protocol-version": protocolVersion };
      const note = JSON.stringify({ jsonrpc: "2.0", method: "notifications/initialized" });
      const ready = await post(note, headers);
      expect([ready.status, await ready.text()]).toEqual([202, ""]);
      const menu = await post(message("tools/list"), headers);
      isMenu(await read(menu));
      const strange = { ...headers, "mcp-session-id": "from-somewhere-else" };
      const called = await post(message("tools/call", BEGIN), strange);
      isOpen(await read(called));
      for (const response of [hello, ready, menu, called]) {
        expect(response.headers.get("mcp-session-id")).toBeNull();
      }
    },
  );

  const _meta = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": clientInfo,
    "io.modelcontextprotocol/clientCapabilities": {},
  };
  const modern = (method: string, params: { name?: string; arguments?: object } = {}) =>
    post(message(method, { ...params, _meta }), {
      "mcp-protocol-version": "2026-07-28",
      "mcp-method": method,
      ...(params.name && { "mcp-name": params.name }),
    });
  test("2026-07-28: no handshake, an envelope in every request, and plain JSON back", async () => {
    const discovered = await modern("server/discover");
    const menu = await modern("tools/list");
    const called = await modern("tools/call", BEGIN);
    for (const response of [discovered, menu, called]) {
      expect([response.status, response.headers.get("mcp-session-id")]).toEqual([200, null]);
      isJson(response);
    }
    const { result } = await read(discovered);
    expect(result.supportedVersions).toContain("2026-07-28");
    expect(result.instructions).toContain("begin_session");
    expect(Object.keys(result.capabilities)).toEqual(["tools"]);
    isMenu(await read(menu));
    isOpen(await read(called));
  });

  test("a revision that nobody knows is refused", async () => {
    const headers = { "mcp-protocol-version": "1999-01-01" };
    expect((await post(message("tools/list"), headers)).status).toBe(400);
  });
  test.each(["resources/list", "prompts/list", "completion/complete", "no/such"])(
    "%s is not offered, in either era",
    async (method) => {
      expect((await read(await post(message(method)))).error!.code).toBe(-32601);
      expect((await read(await modern(method))).error!.code).toBe(-32601);
    },
  );
  test("people at once on one gateway each get their own answer", async () => {
    const people = ["ada", "ben", "cleo"];
    const visits = await Promise.all(
      people.map((sub) => room.enter(sub, { email: `${sub}@example.com` })),
    );
    const asked = [0, 1, 2, 0, 1, 2];
    const answers = await Promise.all(asked.map((n) => visits[n]!.use("user_get_profile")));
    const emails = answers.map(({ structuredContent }) => structuredContent!.profile.email);
    expect(emails).toEqual(asked.map((n) => `${people[n]}@example.com`));
  });
});

describe("AUTH_DISABLED", () => {
  let open: typeof room;
  beforeAll(async () => void (open = await gateway({ env: { AUTH_DISABLED: "1" } })));
  const ask = (headers: Headers_ = {}) =>
    open.send("/mcp", { method: "POST", body: HEALTH, headers: { ...MCP, ...headers } });
  test("everybody on this machine is local-demo", async () => {
    expect((await read(await ask())).result.structuredContent.status).toBe("ok");
    expect(open.log.at(-1)).toMatchObject({ sub: "local-demo", tool: "health", outcome: "ok" });
  });
  test.each(PROXY_HEADERS)("%s means that others reach us: refused", async (name) => {
    const response = await ask({ [name]: "198.51.100.7" });
    expect([response.status, await response.text()]).toEqual([
      403,
      expect.stringContaining("AUTH_DISABLED"),
    ]);
  });
});

test("nothing that the gateway answers names a path of ours or a stack", async () => {
  const paths = ["/", "/health", "/nope", "/mcp", "/mock-auth/nope", WELL_KNOWN];
  const said = paths.map(async (path) => (await fetch(live.url + path)).text());
  const answers = await Promise.all(said);
  expect(answers.join("\n")).not.toMatch(/main\.ts|node_modules|\bat \S+ \(|bun:/);
  expect(await wire("NONSENSE")).toBe(400);
  expect((await fetch(`${live.url}/health`)).status).toBe(200);
});
