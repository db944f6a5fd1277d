// A host app, played by both official clients: it knows the gateway's URL and nothing else.

import * as newer from "@modelcontextprotocol/client";
import type {
  OAuthClientProvider as OlderProvider,
} from "@modelcontextprotocol/sdk/client/auth.js";
import { Client as OlderClient } from "@modelcontextprotocol/sdk/client/index.js";
import {
  StreamableHTTPClientTransport as OlderTransport,
} from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import type { Transport } from "@modelcontextprotocol/sdk/shared/transport.js";
import { type Asked, type Service, signIn } from "./service.ts";

export interface Result {
  isError?: boolean;
  content: { text?: string }[];
  structuredContent?: Record<string, unknown>;
}
interface Visit {
  revision: string | undefined;
  call(name: string, args?: object): Promise<Result>;
  close(): Promise<void>;
}

const BACK = "http://127.0.0.1:33333/callback"; // nobody listens there: the code is read before

/** No more than it has to say: no application_type, for one. */
const ofItself = (redirect_uris: string[]) => ({
  client_name: "services",
  redirect_uris,
  grant_types: ["authorization_code", "refresh_token"],
  response_types: ["code"],
  token_endpoint_auth_method: "none",
});

/** What an app keeps about one person, and the person at its browser. */
export class App implements newer.OAuthClientProvider {
  readonly redirectUrl = BACK;
  readonly clientMetadata = ofItself([BACK]);
  registered?: newer.StoredOAuthClientInformation;
  kept?: newer.StoredOAuthTokens;
  opened = 0; // how often the person saw a page
  back = new URLSearchParams(); // what the service sent the browser back with
  #found?: newer.OAuthDiscoveryState;
  #state = "";
  #verifier = "";

  constructor(readonly service: Service, readonly person: string) {}

  state() { return (this.#state = crypto.randomUUID()); }
  clientInformation() { return this.registered; }
  saveClientInformation(info: newer.StoredOAuthClientInformation) { this.registered = info; }
  tokens() { return this.kept; }
  saveTokens(tokens: newer.StoredOAuthTokens) { this.kept = tokens; }
  saveCodeVerifier(verifier: string) { this.#verifier = verifier; }
  codeVerifier() { return this.#verifier; }
  saveDiscoveryState(found: newer.OAuthDiscoveryState) { this.#found = found; }
  discoveryState() { return this.#found; }
  async redirectToAuthorization(url: URL) {
    this.opened++;
    const { searchParams } = await signIn(url.href, this.service.answers(this.person));
    this.back = searchParams;
    const error = searchParams.get("error_description") ?? searchParams.get("error");
    if (error) throw new Error(`${this.person} is sent back: ${error}`);
    if (searchParams.get("state") !== this.#state) throw new Error("another state came back");
  }
}

export type Open = (url: URL, app: App) => {
  connect(): Promise<Visit>;
  finish(): Promise<void>;
};

const older: Open = (url, app) => {
  const client = new OlderClient({ name: "older", version: "1" });
  // Its types do not know exactOptionalPropertyTypes.
  const transport = new OlderTransport(url, { authProvider: app as unknown as OlderProvider });
  return {
    finish: () => transport.finishAuth(app.back.get("code")!),
    async connect() {
      await client.connect(transport as Transport);
      return {
        revision: transport.protocolVersion,
        call: async (name, args = {}) =>
          await client.callTool({ name, arguments: { ...args } }) as Result,
        close: () => client.close(),
      };
    },
  };
};
const inEra = (mode: newer.VersionNegotiationMode): Open => (url, app) => {
  const client = new newer.Client(
    { name: "newer", version: "1" },
    { versionNegotiation: { mode } },
  );
  const transport = new newer.StreamableHTTPClientTransport(url, { authProvider: app });
  return {
    finish: () => transport.finishAuth(app.back), // it looks at `iss` too: RFC 9207
    async connect() {
      await client.connect(transport);
      return {
        revision: client.getNegotiatedProtocolVersion(),
        call: async (name, args = {}) =>
          await client.callTool({ name, arguments: { ...args } }) as Result,
        close: () => client.close(),
      };
    },
  };
};
export const CLIENTS: [name: string, revision: string, Open][] = [
  ["the older client", "2025-11-25", older],
  ["the newer client", "2025-11-25", inEra("legacy")],
  ["the newer client", "2026-07-28", inEra({ pin: "2026-07-28" })],
];

/** Turned away first, and sent to sign in; then let in. @throws if it was let in at once. */
export async function signInAndConnect(open: Open, url: URL, app: App): Promise<Visit> {
  const first = open(url, app);
  const refused = await first.connect().then(() => undefined, (error: unknown) => error);
  if (!refused) throw new Error("it was let in without a token");
  if (app.opened !== 1 || !app.back.get("code")) throw refused;
  await first.finish();
  return open(url, app).connect();
}

/** Where host apps want people sent back to. */
export const REDIRECTS: Record<string, string[]> = {
  "Claude Code": ["http://localhost:41414/callback"],
  "claude.ai": ["https://claude.ai/api/mcp/auth_callback"],
  "claude.com": ["https://claude.com/api/mcp/auth_callback"],
  ChatGPT: ["https://chatgpt.com/connector_platform_oauth_redirect"],
  "VS Code": [
    "https://vscode.dev/redirect", "https://insiders.vscode.dev/redirect",
    "http://127.0.0.1/", "http://127.0.0.1:33418/",
  ],
  Cursor: [
    "cursor://anysphere.cursor-mcp/oauth/callback",
    "https://www.cursor.com/agents/mcp/oauth/callback", "http://localhost:8787/callback",
  ],
};
/** @returns why an app with these redirects may not register; nothing if it may. */
export async function register({ issuer }: Service, redirects: string[]) {
  const metadata = await newer.discoverAuthorizationServerMetadata(issuer);
  const response = await fetch(metadata!.registration_endpoint!, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(ofItself(redirects)),
  });
  return response.ok ? "" : `${response.status} ${await response.text()}`;
}

/** A token as `app` would get it, if it asked for this. */
export const tokenFor = async (app: App, asked: Asked) => (await tokensFor(app, asked)).first;

/** As Claude Code: it registers with the scopes that the gateway offers, and then asks for
 *  offline_access too, if the service lists it. */
export async function asClaudeCode(app: App, url: URL) {
  const [{ scopes_supported: offered = [] }, service] = await Promise.all([
    newer.discoverOAuthProtectedResourceMetadata(url),
    newer.discoverAuthorizationServerMetadata(app.service.issuer),
  ]);
  const listed = service?.scopes_supported ?? [];
  const asksFor = [...offered, ...listed.filter((name) => name === "offline_access")];
  const scope = asksFor.join(" ");
  const asked = { resource: url.href, scope, registers: offered.join(" ") };
  return { scope, ...await tokensFor(app, asked) };
}

/** @returns the first token, and a way to the next; none without a refresh token. */
async function tokensFor(app: App, { resource, scope, registers = scope }: Asked) {
  const { issuer } = app.service;
  const metadata = await newer.discoverAuthorizationServerMetadata(issuer);
  const always = {
    ...(metadata && { metadata }),
    ...(resource && { resource: new URL(resource) }),
  };
  const clientInformation = await newer.registerClient(issuer, {
    ...always, ...(registers && { scope: registers }), clientMetadata: app.clientMetadata,
  });
  const asked = { ...always, ...(scope && { scope }), clientInformation };
  const { authorizationUrl, codeVerifier } = await newer.startAuthorization(issuer, {
    ...asked, redirectUrl: BACK, state: app.state(),
  });
  await app.redirectToAuthorization(authorizationUrl);
  const { access_token, refresh_token } = await newer.exchangeAuthorization(issuer, {
    ...asked,
    codeVerifier,
    redirectUri: BACK,
    authorizationCode: app.back.get("code")!,
    iss: app.back.get("iss") ?? issuer,
  });
  const next = async (refreshToken: string) =>
    (await newer.refreshAuthorization(issuer, { ...asked, refreshToken })).access_token;
  return { first: access_token, ...(refresh_token && { next: () => next(refresh_token) }) };
}
