// Real host apps sign in by themselves: they meet a 401, find the sign-in service, register, open a browser, and a person
// reads the page in Chromium and clicks. CHROMIUM names another browser than /usr/bin/chromium; without one all of this is
// skipped, and says so. SHOTS=1 leaves pictures of the pages in SHOTS_DIR or /tmp/shots.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import * as v2 from "@modelcontextprotocol/client";
import { Client as ClientV1 } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport as TransportV1 } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import type { BrowserContextOptions, Page } from "playwright-core";
import { freePort, scratch, startGateway } from "../support.ts";
import { chromium, hasBrowser, inBrowser } from "./chromium.ts";

// What is saved and read back below, with a tool of the sample app.
const writes = (text: string) => ({ tool: "user_write", args: { notes: { a: text } } });
const written = (state: Record<string, any>): unknown => state.notes.a;

setDefaultTimeout(30_000); // a browser on a busy machine

if (!hasBrowser) console.error("SKIPPED: the browser tests");

let gateway: Awaited<ReturnType<typeof startGateway>>;
const apps: HostApp[] = [];
beforeAll(async () => {
  if (hasBrowser) gateway = await startGateway();
}, 60_000);
afterAll(async () => {
  for (const app of apps) app.stop();
  await gateway?.stop();
});

// ---- A person ----

type Act = (page: Page) => Promise<unknown>;
const allowAs = (name: string): Act => async (page) => {
  await page.fill("#name", name);
  await page.click("#allow");
};
const deny: Act = (page) => page.click("#deny");
const byKeyboard = (name: string): Act => async (page) => {
  await page.keyboard.type(name); // the cursor is already where it belongs
  await page.keyboard.press("Enter");
};

// ---- A host app: what it remembers, and the page that a browser comes back to ----

interface HostOptions { url?: string; registers?: "by DCR" | "by CIMD" | "by CIMD, offline" }
class HostApp {
  readonly clientMetadataUrl?: string;
  client?: v2.OAuthClientInformationMixed;
  saved?: v2.OAuthTokens;
  refreshed = 0;
  authorizeUrl?: URL;
  private discovery?: v2.OAuthDiscoveryState;
  private verifier = "";
  private lastState = "";
  private called = Promise.withResolvers<URLSearchParams>();
  /** Serves the callback, and the document that its client_id may name. */
  private readonly site = Bun.serve({
    port: 0, hostname: "127.0.0.1",
    fetch: ({ url }): Response => {
      const { pathname, searchParams } = new URL(url);
      if (pathname === "/client.json") return Response.json({ ...this.clientMetadata, client_id: url });
      if (pathname === "/favicon.ico") return new Response(null, { status: 204 }); // Chromium asks now and then
      if (pathname !== "/callback") return new Response(null, { status: 404 });
      this.called.resolve(searchParams);
      return new Response("You can close this page.");
    },
  });
  readonly redirectUrl: string = `http://127.0.0.1:${this.site.port}/callback`;
  readonly clientMetadata: v2.OAuthClientMetadata = { client_name: "A host app", redirect_uris: [this.redirectUrl], grant_types: ["authorization_code", "refresh_token"], response_types: ["code"], token_endpoint_auth_method: "none" };
  constructor(readonly options: HostOptions = {}) {
    const { registers = "by DCR" } = options;
    apps.push(this);
    // The client takes only https for such a URL; on loopback http it is handed in as the client_id that it is.
    if (registers === "by CIMD") this.client = { client_id: `http://127.0.0.1:${this.site.port}/client.json` };
    if (registers === "by CIMD, offline") this.clientMetadataUrl = "https://host-app.invalid/client.json";
  }
  state() { return (this.lastState = crypto.randomUUID()); }
  clientInformation() { return this.client; }
  saveClientInformation(client: v2.OAuthClientInformationMixed) { this.client = client; }
  tokens() { return this.saved; }
  saveTokens(tokens: v2.OAuthTokens) {
    if (this.saved) this.refreshed++;
    this.saved = tokens;
  }
  saveCodeVerifier(verifier: string) { this.verifier = verifier; }
  codeVerifier() { return this.verifier; }
  saveDiscoveryState(state: v2.OAuthDiscoveryState) { this.discovery = state; }
  discoveryState() { return this.discovery; }
  redirectToAuthorization(url: URL) { this.authorizeUrl = url; }

  /** What the browser brings back once the person has acted. */
  async visit(act: Act, options?: BrowserContextOptions): Promise<URLSearchParams> {
    return inBrowser(async (page) => {
      await page.goto(this.authorizeUrl!.href);
      await act(page);
      const answer = await Promise.race([this.called.promise, Bun.sleep(8_000)]);
      if (!answer) throw new Error(`the browser did not come back; it shows: ${await page.innerText("body")}`);
      expect([answer.get("state"), answer.get("iss")]).toEqual([this.lastState, new URL("/mock-auth", this.url).href]);
      return answer;
    }, options);
  }
  get url() { return this.options.url ?? gateway.mcp; }
  stop() { void this.site.stop(true); }
}

// ---- The official clients ----

type Call = (tool: string, args?: object) => Promise<Record<string, any>>;
interface Line { connect(app: HostApp): Promise<{ call: Call; close(): Promise<void> }>; finish(app: HostApp, answer: URLSearchParams): Promise<void> }
const structured = (result: unknown) => {
  const { isError, structuredContent, content } = result as { isError?: boolean; structuredContent?: Record<string, unknown>; content: unknown };
  if (isError || !structuredContent) throw new Error(JSON.stringify(content));
  return structuredContent;
};
const client2 = (mode: "legacy" | { pin: string }): Line => {
  const transport = (app: HostApp) => new v2.StreamableHTTPClientTransport(new URL(app.url), { authProvider: app as v2.OAuthClientProvider });
  return {
    async connect(app) {
      const client = new v2.Client({ name: "host-app", version: "2" }, { versionNegotiation: { mode } });
      await client.connect(transport(app));
      return { call: async (name, args = {}) => structured(await client.callTool({ name, arguments: { ...args } })), close: () => client.close() };
    },
    finish: (app, answer) => transport(app).finishAuth(answer),
  };
};
const client1: Line = {
  async connect(app) {
    const client = new ClientV1({ name: "older-host-app", version: "1" });
    // Its types were written before exactOptionalPropertyTypes: `sessionId?: string` against `string | undefined`.
    await client.connect(new TransportV1(new URL(app.url), { authProvider: app }) as unknown as Parameters<ClientV1["connect"]>[0]);
    return { call: async (name, args = {}) => structured(await client.callTool({ name, arguments: { ...args } })), close: () => client.close() };
  },
  finish: (app, answer) => new TransportV1(new URL(app.url), { authProvider: app }).finishAuth(answer.get("code")!),
};

/** Knocks, is sent to the sign-in page, comes back with the person's answer, and is in. */
async function signIn(line: Line, app: HostApp, act: Act, options?: BrowserContextOptions) {
  await expect(line.connect(app)).rejects.toThrow();
  expect(app.authorizeUrl?.href).toStartWith(new URL("/mock-auth/authorize?", app.url).href);
  await line.finish(app, await app.visit(act, options));
  return line.connect(app);
}
async function save(call: Call, session: string, text: string) {
  const { tool, args } = writes(text);
  await call(tool, { session, ...args });
}
async function saveAndRead(call: Call, text: string) {
  const { session } = await call("begin_session");
  await save(call, session, text);
  return written((await call("user_get_state", { session })).state);
}

const modern = client2({ pin: "2026-07-28" });
describe.skipIf(!hasBrowser)("a host app signs in by itself, saves and reads back, and refreshes on the way:", () => {
  const rows: [string, NonNullable<HostOptions["registers"]>, Line][] = [
    ["the official client 2.x, 2026-07-28,", "by DCR", modern],
    ["the official client 2.x, 2026-07-28,", "by CIMD", modern],
    ["the official client 2.x, 2026-07-28,", "by CIMD, offline", modern],
    ["the official client 2.x, 2025-11-25,", "by DCR", client2("legacy")],
    ["the official client 2.x, 2025-11-25,", "by CIMD", client2("legacy")],
    ["the older client 1.x", "by DCR", client1],
    ["the older client 1.x", "by CIMD", client1],
  ];
  test.each(rows)("%s %s", async (_, registers, line) => {
    const app = new HostApp({ registers });
    const person = `person-${crypto.randomUUID().slice(0, 8)}`;
    const { call, close } = await signIn(line, app, async (page) => {
      const words = await page.innerText("main");
      expect(words).toContain(gateway.mcp);
      expect(words).toContain(registers === "by CIMD, offline" ? "host-app.invalid" : "A host app");
      expect(words.includes("could not be checked")).toBe(registers === "by CIMD, offline");
      await allowAs(person)(page);
    });
    expect(app.client!.client_id.startsWith("http")).toBe(registers !== "by DCR");
    expect(await saveAndRead(call, "page one")).toBe("page one");

    app.authorizeUrl = undefined!;
    app.saved = { ...app.saved!, access_token: "no longer good" };
    expect(await saveAndRead(call, "page two")).toBe("page two");
    expect([app.refreshed, app.authorizeUrl]).toEqual([1, undefined!]);
    await close();
    app.stop();
  });
});

describe.skipIf(!hasBrowser)("on the consent page", () => {
  test("Deny goes back to the app with access_denied, and nobody is in", async () => {
    const app = new HostApp();
    await expect(modern.connect(app)).rejects.toThrow();
    const answer = await app.visit(deny);
    expect([answer.get("error"), answer.get("code")]).toEqual(["access_denied", null]);
    await expect(modern.finish(app, answer)).rejects.toThrow();
    expect(app.saved).toBeUndefined();
    app.stop();
  });

  test.each<[string, Act, BrowserContextOptions]>([
    ["the keyboard alone is enough", byKeyboard("keys-only"), {}],
    ["JavaScript is not needed", allowAs("no-script"), { javaScriptEnabled: false }],
    ["a small screen is enough", allowAs("on-a-phone"), { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true }],
  ])("%s", async (_, act, options) => {
    const app = new HostApp();
    const { call, close } = await signIn(modern, app, act, options);
    expect(await saveAndRead(call, "here")).toBe("here");
    await close();
    app.stop();
  });

  test("what is ticked is what the app gets, and the page says each in words", async () => {
    const app = new HostApp();
    await expect(modern.connect(app)).rejects.toThrow();
    let read = "";
    const answer = await app.visit(async (page) => {
      expect(await page.innerText("footer")).toContain("asks for no password");
      const boxes = await page.locator("input[type=checkbox]").all();
      expect(await Promise.all(boxes.map((box) => box.isChecked()))).toEqual([true, true]);
      for (const label of await page.locator("label.box").allInnerTexts()) expect(label.trim().length).toBeGreaterThan(3);
      [read] = (await Promise.all(boxes.map((box) => box.getAttribute("value")))) as [string, string];
      await boxes[1]!.uncheck();
      await allowAs("careful")(page);
    });
    await modern.finish(app, answer);
    expect(read).toMatch(/:read$/);
    const scopes = app.saved!.scope!.split(" ");
    expect([scopes.includes(read), scopes.some((scope) => scope.endsWith(":write"))]).toEqual([true, false]);
    app.stop();
  });

  test("Allow without a name goes nowhere, and the form is still there", async () => {
    const app = new HostApp();
    const { close } = await signIn(modern, app, async (page) => {
      await page.click("#allow");
      expect(page.url()).toContain("/mock-auth/authorize?");
      await allowAs("second-try")(page);
    });
    await close();
    app.stop();
  });

  test("nothing is asked of any other host, and the browser has nothing to complain of", async () => {
    const app = new HostApp();
    await expect(modern.connect(app)).rejects.toThrow();
    const notes: string[] = [];
    await app.visit(async (page) => {
      page.on("console", (message) => void notes.push(`${message.text()} ${message.location().url}`));
      page.on("request", (request) => void (!/^http:\/\/(localhost|127\.0\.0\.1):/.test(request.url()) && notes.push(request.url())));
      await page.reload();
      await allowAs("quiet")(page);
    });
    expect(notes).toEqual([]);
    app.stop();
  });

  test("two apps that ask in the same browser, one beside the other, are both let in", async () => {
    const apps = [new HostApp(), new HostApp()];
    for (const app of apps) await expect(modern.connect(app)).rejects.toThrow();
    const context = await (await chromium()).newContext();
    const pages: Page[] = [];
    for (const { authorizeUrl } of apps) {
      const page = await context.newPage();
      await page.setContent(`<a href="${Bun.escapeHTML(authorizeUrl!.href)}">Connect</a>`); // as from a web page elsewhere
      await page.click("a");
      await page.waitForSelector("#allow");
      pages.push(page);
    }
    for (const [index, page] of pages.entries()) {
      await allowAs("beside")(page);
      await page.waitForLoadState();
      expect(page.url()).toStartWith(`${apps[index]!.redirectUrl}?`);
    }
    await context.close();
    for (const app of apps) app.stop();
  });
});

test.skipIf(!hasBrowser)("two people in two browsers have two memories, whichever app they come with", async () => {
  const kept = await Promise.all(["ada", "grace"].map(async (name) => {
    const app = new HostApp();
    const { call, close } = await signIn(name === "ada" ? modern : client1, app, allowAs(name));
    const text = await saveAndRead(call, `what ${name} wrote`);
    await close();
    app.stop();
    return text;
  }));
  expect(kept).toEqual(["what ada wrote", "what grace wrote"]);
  const app = new HostApp();
  const { call, close } = await signIn(client1, app, allowAs("ada"));
  expect(written((await call("begin_session")).state)).toBe("what ada wrote");
  await close();
  app.stop();
});

test.skipIf(!hasBrowser)("a conversation outlives its access token: it is refreshed on the way, again and again", async () => {
  const shortLived = await startGateway({ MOCK_AUTH_LIFETIME: "2" });
  const app = new HostApp({ url: shortLived.mcp });
  const { call, close } = await signIn(modern, app, allowAs("patient"));
  const { session } = await call("begin_session");
  for (const text of ["one", "two"]) {
    await Bun.sleep(2_100);
    await save(call, session, text);
  }
  expect(written((await call("user_get_state", { session })).state)).toBe("two");
  expect(app.refreshed).toBeGreaterThanOrEqual(2);
  await close();
  app.stop();
  await shortLived.stop();
});

test.skipIf(!hasBrowser)("a restart of the gateway signs nobody out and forgets nothing", async () => {
  const folder = await scratch();
  const env = { CWD: folder, PORT: String(await freePort()), DATABASE_URL: "sqlite:memory.sqlite", SESSION_SIGNING_SECRET: "a-secret-that-stays-the-same-over-restarts" };
  let running = await startGateway(env);
  const app = new HostApp({ url: running.mcp });
  const first = await signIn(modern, app, allowAs("loyal"));
  const { session } = await first.call("begin_session");
  await save(first.call, session, "kept");
  await first.close();
  const page = app.authorizeUrl;
  await running.stop();

  running = await startGateway(env);
  const second = await modern.connect(app); // the access token is still good
  expect(written((await second.call("user_get_state", { session })).state)).toBe("kept");
  app.saved = { ...app.saved!, access_token: "no longer good" };
  expect(written((await second.call("begin_session")).state)).toBe("kept"); // and so is the refresh token
  expect([app.refreshed, app.authorizeUrl]).toEqual([1, page!]);
  await second.close();
  app.stop();
  await running.stop();
});

test.skipIf(!hasBrowser || !process.env.SHOTS)("pictures of the pages", async () => {
  const folder = process.env.SHOTS_DIR || "/tmp/shots";
  mkdirSync(folder, { recursive: true });
  const app = new HostApp();
  await expect(modern.connect(app)).rejects.toThrow();
  const offline = new HostApp({ registers: "by CIMD, offline" });
  await expect(modern.connect(offline)).rejects.toThrow();
  const broken = new URL(app.authorizeUrl!);
  broken.searchParams.set("redirect_uri", "https://evil.example/");
  const long = new URL(app.authorizeUrl!);
  const metadata = { client_name: "An app with a name that is much longer than anybody needs and has averyveryveryveryverylongwordinitaswell", redirect_uris: [app.redirectUrl] };
  const registered = await fetch(`${gateway.url}/mock-auth/register`, { method: "POST", body: JSON.stringify(metadata) });
  long.searchParams.set("client_id", ((await registered.json()) as { client_id: string }).client_id);
  const shots = { consent: app.authorizeUrl!, unchecked: offline.authorizeUrl!, error: broken, "long-name": long };
  for (const [width, height] of [[1280, 800], [390, 844]] as const) {
    for (const colorScheme of ["light", "dark"] as const) {
      for (const [name, url] of Object.entries(shots)) {
        await inBrowser(async (page) => {
          await page.goto(url.href);
          const wide = await page.locator("html").evaluate((element: { scrollWidth: number; clientWidth: number }) => element.scrollWidth > element.clientWidth);
          expect([name, width, wide]).toEqual([name, width, false]);
          await page.screenshot({ path: join(folder, `${name}-${width}x${height}-${colorScheme}.png`) });
          if (name === "consent") {
            await page.fill("#name", "   ");
            await page.click("#allow");
            await page.waitForSelector("[role=alert]");
            await page.screenshot({ path: join(folder, `problem-${width}x${height}-${colorScheme}.png`) });
          }
        }, { viewport: { width, height }, colorScheme });
      }
    }
  }
  app.stop();
  offline.stop();
});
