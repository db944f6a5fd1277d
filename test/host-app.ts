// What the sign-in service sees of the world: a host app, a person, and the browser between them. Requests go
// straight to the handler. The app that it signs people in for is a tiny one of its own, so these tests hold
// whatever main.ts is about.

import { createHash } from "node:crypto";
import { expect } from "bun:test";
import { mockAuth, type MockAuthOptions } from "../mock-auth.ts";

export const APP = { slug: "notes", name: "Notes", scopes: { read: "read your notes", write: "write, and erase all of them" } };
export const READ = "notes:read";
export const WRITE = "notes:write";
export const BOTH = `${READ} ${WRITE}`;

export const ORIGIN = "http://localhost:8000";
export const ISSUER = `${ORIGIN}/mock-auth`;
export const RESOURCE = `${ORIGIN}/mcp`;
export const PUBLIC = "https://tunnel.example";
export const PASSPHRASE = "open-sesame-and-mind-the-gap";
export const CALLBACK = "http://127.0.0.1:8765/callback";
export const STATE = "s t&a=te/é";

export const sha256 = (text: string) => createHash("sha256").update(text).digest("base64url");
export const VERIFIER = "a-verifier-of-at-least-forty-three-characters.~_";
export const CHALLENGE = sha256(VERIFIER);

// ---- The service ----

export type Service = Awaited<ReturnType<typeof mockAuth>>;
type Options = Partial<MockAuthOptions> & { keyFile: string };

export const openLocal = (options: Options): Promise<Service> =>
  mockAuth({ issuer: ISSUER, resourceUrl: RESOURCE, host: "127.0.0.1", app: APP, ...options });

export const openTunnel = (options: Options): Promise<Service> =>
  openLocal({ issuer: `${PUBLIC}/mock-auth`, resourceUrl: `${PUBLIC}/mcp`, passphrase: PASSPHRASE, ...options });

// ---- Requests ----

/** undefined leaves a parameter out, a list sends it that often. */
export type Params = Record<string, string | string[] | undefined>;
export const encode = (params: Params) =>
  new URLSearchParams(Object.entries(params).flatMap(([name, value]) => [value ?? []].flat().map((one): [string, string] => [name, one])));

export async function send(service: Service, path: string, init: RequestInit = {}): Promise<Response> {
  const response = await service(new Request(`${ORIGIN}${path}`, { redirect: "manual", ...init }));
  if (!response) throw new Error(`${path} is not one of its paths`);
  return response;
}
export const postForm = (service: Service, path: string, form: Params, headers: Record<string, string> = {}) =>
  send(service, path, { method: "POST", body: encode(form), headers });
export const postJson = (service: Service, path: string, body: unknown) =>
  send(service, path, { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } });
export const mint = (service: Service, params: Params, init?: RequestInit) => send(service, `/mock-auth/token?${encode(params)}`, init);

export const errorOf = async (response: Response) => [response.status, ((await response.json()) as { error: string }).error];
export const callbackOf = (response: Response) => new URL(response.headers.get("location")!);

// ---- A host app ----

interface Registered { client_id: string; client_name: string; redirect_uris: string[] }
interface Tokens { access_token: string; refresh_token: string; token_type: string; expires_in: number; scope: string }
export const registration = async (response: Response) => (await response.json()) as Registered;
export const tokensOf = async (response: Response) => (await response.json()) as Tokens;

export async function register(service: Service, metadata: object = {}): Promise<string> {
  const response = await postJson(service, "/mock-auth/register", { client_name: "A test app", redirect_uris: [CALLBACK], ...metadata });
  expect(response.status).toBe(201);
  return (await registration(response)).client_id;
}
export const goodRequest = (client_id: string): Params => ({
  client_id, redirect_uri: CALLBACK, response_type: "code", code_challenge: CHALLENGE, code_challenge_method: "S256", state: STATE,
});
export const ask = (service: Service, params: Params, cookie?: string) =>
  send(service, `/mock-auth/authorize?${encode(params)}`, cookie ? { headers: { cookie } } : {});

export const goodExchange = (client_id: string, code: string): Params => ({
  grant_type: "authorization_code", client_id, code, redirect_uri: CALLBACK, code_verifier: VERIFIER,
});
export const redeem = (service: Service, client: string, code: string, changes: Params = {}) =>
  postForm(service, "/mock-auth/token", { ...goodExchange(client, code), ...changes });
export const refresh = (service: Service, client_id: string, refresh_token: string, changes: Params = {}) =>
  postForm(service, "/mock-auth/token", { grant_type: "refresh_token", client_id, refresh_token, ...changes });

// ---- A person and their browser ----

/** What a browser makes of a page: its words, and the form as it would be sent. */
export async function read(response: Response) {
  const hidden: Record<string, string> = {};
  const ticked: string[] = [];
  const elements: string[] = [];
  let text = "";
  const html = await response.text();
  new HTMLRewriter()
    .on("input[type=hidden]", { element: (input) => void (hidden[input.getAttribute("name")!] = input.getAttribute("value")!) })
    .on("input[type=checkbox][checked]", { element: (box) => void ticked.push(box.getAttribute("value")!) })
    .on("*", { element: (element) => void elements.push(element.tagName + (element.getAttribute("id") ? `#${element.getAttribute("id")}` : "")) })
    .on("main", { text: (chunk) => void (text += chunk.text) })
    .transform(html);
  text = text.replaceAll("&#x27;", "'").replaceAll("&quot;", '"').replace(/\s+/g, " ");
  const cookie = response.headers.get("set-cookie")?.split(";")[0] ?? "";
  return { status: response.status, headers: response.headers, html, text, elements, hidden, ticked, cookie };
}
export async function consentPage(service: Service, params: Params) {
  const page = await read(await ask(service, params));
  expect([page.status, page.elements.includes("button#allow")]).toEqual([200, true]);
  return page;
}
export type Page = Awaited<ReturnType<typeof read>>;
/** A page for the person alone: it sends nobody anywhere, asks for nothing and can't be framed. */
export function expectErrorPage(page: Page, words: string): void {
  expect([page.status, page.headers.get("location"), page.headers.get("set-cookie")]).toEqual([400, null, null]);
  expect(page.text).toContain(words);
  expect(page.elements).not.toContain("form");
  expect(page.headers.get("content-security-policy")).toContain("frame-ancestors 'none'");
  expect(page.headers.get("content-type")).toStartWith("text/html");
}
export const submit = (service: Service, page: Pick<Page, "hidden" | "ticked" | "cookie">, form: Params = {}, cookie = page.cookie) =>
  postForm(service, "/mock-auth/authorize", { ...page.hidden, scope: page.ticked, name: "Ada", decision: "allow", ...form }, cookie ? { cookie } : {});

export async function newCode(service: Service, client: string, changes: Params = {}, form: Params = {}): Promise<string> {
  const response = await submit(service, await consentPage(service, { ...goodRequest(client), ...changes }), form);
  expect(response.status).toBe(303);
  return callbackOf(response).searchParams.get("code")!;
}
export async function signIn(service: Service, client: string, changes: Params = {}, form: Params = {}): Promise<Tokens> {
  const code = await newCode(service, client, changes, form);
  const response = await redeem(service, client, code, changes.redirect_uri ? { redirect_uri: changes.redirect_uri } : {});
  if (response.status !== 200) throw new Error(await response.text());
  return tokensOf(response);
}

/** Changed in the middle: the last characters of base64url can hold bits that mean nothing. */
export const altered = (sealed: string) => {
  const at = sealed.length - 20;
  return sealed.slice(0, at) + (sealed[at] === "A" ? "B" : "A") + sealed.slice(at + 1);
};
