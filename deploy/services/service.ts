// What a sign-in service is to the driver, and a person who uses its pages without a browser.

export interface Options {
  origin: string; // where people and apps reach the service
  port: number; // where it listens, on 127.0.0.1: a proxy may stand between the two
  resource: string; // the gateway's RESOURCE_URL: the one audience
  elsewhere: string; // another server of the same service: its tokens must not open ours
  scopes: string[]; // what the gateway's tokens may name: read, write
  seconds: number; // how long an access token lives
  folder: string; // for what it has to write, and gone at the end
}
export interface Service {
  version: string;
  issuer: string; // AUTH_ISSUER
  jwksUrl: string; // AUTH_JWKS_URL
  authScopes?: string; // AUTH_SCOPES, one, where the gateway has to be told
  howTo: string; // for a person at its pages, in words
  /** What a person types where the service asks who they are. */
  answers(person: string): Record<string, string>;
  /** Asking so, an app gets a token that must not open the gateway. */
  foreign: [says: string, asked: Asked][];
  /** Host apps whose redirects it does not take, whatever is set. */
  turnsAway?: string[];
  /** A new key with a kid of its own; the old one is withdrawn. */
  rotate(): Promise<void>;
  stop(): Promise<void>;
}
export interface Asked {
  resource?: string;
  scope?: string | undefined;
  registers?: string | undefined; // with these scopes, if not with the same
}
export type Start = (options: Options) => Promise<Service>;

/** Why a service is not tried at all, and what would be needed. */
export class NotHere extends Error {}

export const emailOf = (person: string) => `${person}@example.com`;

interface Form {
  action: string;
  fields: [name: string, value: string][];
  buttons: { name: string; value: string }[];
}

/** Opens the page as a browser with no history would, fills each form that it meets, and stops
 *  where the app would be called back. @returns that URL, with the code or the error in it. */
export async function signIn(authorizeUrl: string, answers: Record<string, string>) {
  const back = new URL(authorizeUrl).searchParams.get("redirect_uri")!;
  const cookies = new Map<string, string>();
  let url = authorizeUrl;
  let init: RequestInit = {};
  for (let step = 0; step < 15; step++) {
    const cookie = [...cookies].map((pair) => pair.join("=")).join("; ");
    const origin = init.method === "POST" && new URL(url).origin; // as a browser tells it
    const headers = { accept: "text/html", ...(cookie && { cookie }), ...(origin && { origin }) };
    const response = await fetch(url, { ...init, headers, redirect: "manual" });
    for (const line of response.headers.getSetCookie()) keep(cookies, line);
    const location = response.headers.get("location");
    if (location) {
      [url, init] = [new URL(location, url).href, {}];
      if (url.startsWith(back)) return new URL(url);
      continue;
    }
    const page = await response.text();
    const form = response.ok ? await formOf(page) : undefined;
    if (!form) throw new Error(`${response.status} at ${url}: ${plain(page).slice(0, 300)}`);
    [url, init] = [new URL(form.action, url).href, { method: "POST", body: fill(form, answers) }];
  }
  throw new Error(`no way through the pages: still at ${url}`);
}

function keep(cookies: Map<string, string>, line: string) {
  const [, name = "", value = ""] = line.match(/^([^=]+)=([^;]*)/) ?? [];
  const isOver = value === "" || /max-age=0|expires=thu, 01.jan.1970/i.test(line);
  if (isOver) cookies.delete(name);
  else cookies.set(name, value);
}

/** What is typed, what the page brings along, and the first of its buttons: the one that agrees. */
function fill({ fields, buttons: [button] }: Form, answers: Record<string, string>) {
  const body = new URLSearchParams();
  for (const [name, value] of fields) body.append(name, answers[name] ?? value);
  if (button?.name) body.append(button.name, button.value);
  return body;
}

/** The last form of the page. */
async function formOf(page: string): Promise<Form | undefined> {
  const forms: Form[] = [];
  const read = (element: HTMLRewriterTypes.Element, name: string) =>
    unescape(element.getAttribute(name) ?? "");
  await new HTMLRewriter()
    .on("form", { element(form) {
      forms.push({ action: read(form, "action"), fields: [], buttons: [] });
    } })
    .on("form input, form button", { element(input) {
      const [name, value] = [read(input, "name"), read(input, "value")];
      const isButton = input.tagName === "button" || read(input, "type") === "submit";
      if (isButton) forms.at(-1)!.buttons.push({ name, value });
      else if (name) forms.at(-1)!.fields.push([name, value]);
    } })
    .transform(new Response(page)).text();
  return forms.at(-1);
}

const ENTITIES: Record<string, string> = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'" };
function unescape(text: string) {
  return text.replace(/&(?:#x([\da-f]+)|#(\d+)|(\w+));/gi, (all, hex, decimal, name) => {
    if (name) return ENTITIES[name] ?? all;
    return String.fromCodePoint(hex ? parseInt(hex, 16) : Number(decimal));
  });
}
const plain = (page: string) => page.replace(/<(style|script).*?<\/\1>|<[^>]*>/gs, " ")
  .replace(/\s+/g, " ").trim();
