// Better Auth: a library that signs people in, inside a server of yours. It brings no pages, so two
// plain ones are here: who are you (the first visit makes the account), and may this app come in.

import { Database } from "bun:sqlite";
import { mcp } from "@better-auth/mcp";
import { betterAuth } from "better-auth";
import { createAuthMiddleware } from "better-auth/api";
import { getMigrations } from "better-auth/db/migration";
import { jwt } from "better-auth/plugins";
import { version } from "./node_modules/better-auth/package.json";
import { emailOf, type Options, type Start } from "./service.ts";

/** What to copy. Each comment says what happens without the line. */
function settings({ origin, resource, elsewhere, scopes, seconds }: Options) {
  return {
    baseURL: origin, // the issuer is this and /api/auth
    secret: crypto.randomUUID() + crypto.randomUUID(), // yours is the same at each start
    database: new Database(":memory:"), // yours is one that lasts
    logger: { level: "error" as const },
    emailAndPassword: { enabled: true },
    // An app that calls back to this machine and doesn't call itself native is refused: "web
    // clients require https redirect URIs". The older client doesn't, and so do not most apps.
    hooks: {
      before: createAuthMiddleware(async ({ path, body }) => {
        if (path !== "/oauth2/register" || body?.application_type) return;
        const isLocal = (uri: unknown) => /^http:\/\/(localhost|127\.|\[::1\])/.test(String(uri));
        const uris: unknown = body?.redirect_uris;
        if (!Array.isArray(uris) || !uris.some(isLocal)) return;
        return { context: { body: { ...body, application_type: "native" } } };
      }),
    },
    plugins: [
      jwt(), // no keys: /jwks answers 500
      mcp({ // this is oauthProvider() with the resource linked to each app that registers
        loginPage: "/sign-in",
        consentPage: "/consent",
        resource, // RESOURCE_URL: what `aud` says
        // "does not support dynamic client registration"
        allowDynamicClientRegistration: true,
        // 401 "Authentication required for client registration"
        allowUnauthenticatedClientRegistration: true,
        // Without offline_access no refresh token: the person signs in again each hour. Without
        // ours no token names them, and may do both; with AUTH_SCOPES "cannot request scope".
        scopes: ["openid", "profile", "email", "offline_access", ...scopes],
        customAccessTokenClaims: ({ user }) => ({ email: user?.email }), // no e-mail address
        accessTokenExpiresIn: seconds, // 3600
        // For the driver alone: another server, whose tokens must not open ours.
        resources: [elsewhere],
        clientRegistrationDefaultResources: [elsewhere],
      }),
    ],
  } satisfies Parameters<typeof betterAuth>[0];
}

export const start: Start = async (options) => {
  const config = settings(options);
  await (await getMigrations(config)).runMigrations();
  const auth = betterAuth(config);
  const issuer = `${options.origin}/api/auth`;

  /** Passes on what a form was filled with. Whose page it was is for Better Auth to check: with an
   *  origin of our making, a page elsewhere could press Allow. */
  async function send(path: string, { headers: from }: Request, body: object) {
    const [origin, cookie] = [from.get("origin") ?? "null", from.get("cookie") ?? ""];
    const headers = { "content-type": "application/json", origin, cookie };
    return auth.handler(new Request(`${issuer}${path}`, {
      method: "POST", headers, body: JSON.stringify(body),
    }));
  }
  /** What a form of ours was filled with. The answer says where to go on, or what is wrong. */
  async function submit({ oauth_query, name = "", password, accept }: Filled, from: Request) {
    if (accept) return send("/oauth2/consent", from, { accept: accept === "yes", oauth_query });
    const email = name.includes("@") ? name : emailOf(name);
    const known = await send("/sign-in/email", from, { email, password, oauth_query });
    if (known.status !== 401) return known;
    return send("/sign-up/email", from, { name, email, password, oauth_query });
  }
  async function pages(request: Request) {
    const { pathname, search } = new URL(request.url);
    const form = { "/sign-in": WHO, "/consent": MAY_IT }[pathname];
    if (!form) return auth.handler(request); // also what is under /.well-known
    if (request.method !== "POST") return page(form, search.slice(1));
    const filled: Filled = Object.fromEntries(new URLSearchParams(await request.text()));
    const answer = await submit(filled, request);
    const { url, message } = await answer.json() as { url?: string; message?: string };
    if (!url) return page(form, filled.oauth_query ?? "", message ?? "That did not work.");
    const headers = new Headers({ location: url });
    for (const line of answer.headers.getSetCookie()) headers.append("set-cookie", line);
    return new Response(null, { status: 303, headers });
  }
  const server = Bun.serve({ hostname: "127.0.0.1", port: options.port, fetch: pages });

  return {
    version,
    issuer,
    jwksUrl: `${issuer}/jwks`,
    howTo: "type any name, and a password of at least 8 characters",
    answers: (name) => ({ name, password: `the password of ${name}` }),
    foreign: [
      ["for another server", { resource: options.elsewhere }],
      ["asked for without naming a server", {}],
    ],
    turnsAway: ["Cursor"], // only schemes like com.example.app:/ are taken
    async rotate() {
      const { adapter } = await auth.$context;
      await adapter.deleteMany({ model: "jwks", where: [] }); // the next token makes a new one
    },
    stop: () => server.stop(true),
  };
};

type Filled = Partial<Record<"oauth_query" | "name" | "password" | "accept", string>>;
const WHO = `<h1>Who are you?</h1>
<p><label>Name <input name="name" autocomplete="username" required autofocus></label></p>
<p><label>Password <input name="password" type="password" minlength="8" required></label>
The first time, this makes the account.</p>
<p><button>Sign in</button></p>`;
const MAY_IT = `<h1>May this app come in?</h1>
<p><button name="accept" value="yes">Allow</button>
<button name="accept" value="no">Deny</button></p>`;

function page(form: string, query: string, problem = "") {
  const asked = new URLSearchParams(query);
  const facts = ["redirect_uri", "resource", "scope"].map((name) =>
    `<dt>${name}</dt><dd>${Bun.escapeHTML(asked.get(name) ?? "")}</dd>`);
  const html = `<!doctype html><html lang="en"><title>Sign in</title>
<meta name="viewport" content="width=device-width"><form method="post">
${form}<p>${Bun.escapeHTML(problem)}</p><dl>${facts.join("")}</dl>
<input type="hidden" name="oauth_query" value="${Bun.escapeHTML(query)}"></form></html>`;
  return new Response(html, {
    headers: {
      "content-type": "text/html; charset=utf-8",
      "content-security-policy": "frame-ancestors 'none'",
    },
  });
}
