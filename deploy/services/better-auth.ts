// Better Auth: a library that signs people in, inside a server of yours. It brings no pages, so two
// plain ones are here: who are you (the first visit makes the account), and may this app come in.

import { Database } from "bun:sqlite";
import { mcp } from "@better-auth/mcp";
import { betterAuth } from "better-auth";
import { getMigrations } from "better-auth/db/migration";
import { jwt } from "better-auth/plugins";
import { version } from "./node_modules/better-auth/package.json";
import { emailOf, type Options, type Start } from "./service.ts";

/** What to copy. Each line says what happens without it. */
function settings({ origin, resource, elsewhere, scopes, seconds }: Options) {
  return {
    baseURL: origin, // the issuer is this and basePath
    basePath: "/api/auth",
    secret: crypto.randomUUID() + crypto.randomUUID(),
    database: new Database(":memory:"),
    emailAndPassword: { enabled: true },
    plugins: [
      jwt(),
      mcp({
        loginPage: "/sign-in",
        consentPage: "/consent",
        resource,
        resources: [elsewhere],
        clientRegistrationDefaultResources: [elsewhere],
        allowDynamicClientRegistration: true,
        allowUnauthenticatedClientRegistration: true,
        scopes: ["openid", "profile", "email", "offline_access", ...scopes],
        accessTokenExpiresIn: seconds,
        customAccessTokenClaims: ({ user }) => ({ email: user?.email }),
      }),
    ],
  } satisfies Parameters<typeof betterAuth>[0];
}

export const start: Start = async (options) => {
  const config = settings(options);
  await (await getMigrations(config)).runMigrations();
  const auth = betterAuth(config);
  const issuer = `${config.baseURL}${config.basePath}`;

  /** Calls Better Auth as one of its own pages does. */
  async function send(path: string, cookie: string, body: object) {
    const headers = { "content-type": "application/json", origin: options.origin, cookie };
    return auth.handler(new Request(`${issuer}${path}`, {
      method: "POST", headers, body: JSON.stringify(body),
    }));
  }
  /** What a form of ours was filled with; the answer says where to go on. */
  async function submit(request: Request) {
    const { oauth_query, name, password, accept } = Object.fromEntries(
      new URLSearchParams(await request.text()));
    const cookie = request.headers.get("cookie") ?? "";
    const email = name?.includes("@") ? name : emailOf(name ?? "");
    if (accept) return send("/oauth2/consent", cookie, { accept: accept === "yes", oauth_query });
    const known = await send("/sign-in/email", cookie, { email, password, oauth_query });
    if (known.status !== 401) return known;
    return send("/sign-up/email", cookie, { name, email, password, oauth_query });
  }

  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: options.port,
    async fetch(request) {
      const { pathname, search } = new URL(request.url);
      const form = { "/sign-in": WHO, "/consent": MAY_IT }[pathname];
      if (!form) return auth.handler(request); // .well-known, too
      if (request.method === "GET") return page(form, search.slice(1));
      const answer = await submit(request);
      const { url, message } = await answer.json() as { url?: string; message?: string };
      if (!url) return page(`<p>${Bun.escapeHTML(message ?? "That did not work.")}</p>${form}`, "");
      const headers = new Headers({ location: url });
      for (const line of answer.headers.getSetCookie()) headers.append("set-cookie", line);
      return new Response(null, { status: 303, headers });
    },
  });

  return {
    version,
    issuer,
    jwksUrl: `${issuer}/jwks`,
    howTo: "type any name, and a password of at least 8 characters",
    answers: (name) => ({ name, password: `the password of ${name}` }),
    async rotate() {
      const { adapter } = await auth.$context;
      await adapter.deleteMany({ model: "jwks", where: [] }); // the next token makes a new one
    },
    stop: () => server.stop(true),
  };
};

const WHO = `<h1>Who are you?</h1>
<p><label>Name <input name="name" autocomplete="username" required autofocus></label></p>
<p><label>Password, at least 8 characters (the first time, this makes the account)
<input name="password" type="password" autocomplete="current-password" required></label></p>
<button>Sign in</button>`;
const MAY_IT = `<h1>May this app come in?</h1>
<dl></dl>
<button name="accept" value="yes">Allow</button> <button name="accept" value="no">Deny</button>`;

function page(form: string, query: string) {
  const asked = new URLSearchParams(query);
  const facts = ["redirect_uri", "scope", "resource"].map((name) =>
    `<dt>${name}</dt><dd>${Bun.escapeHTML(asked.get(name) ?? "")}</dd>`);
  const html = `<!doctype html><meta name="viewport" content="width=device-width">
<title>Sign in</title><form method="post">${form.replace("<dl>", `<dl>${facts.join("")}`)}
<input type="hidden" name="oauth_query" value="${Bun.escapeHTML(query)}"></form>`;
  return new Response(html, { headers: { "content-type": "text/html; charset=utf-8" } });
}
