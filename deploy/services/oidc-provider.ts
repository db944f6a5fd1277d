// oidc-provider: a library that is the sign-in service's protocol, inside a server of yours. Its
// own pages for trying things take any name and any password; yours come from `interactions`.

import { createServer } from "node:http";
import { exportJWK, generateKeyPair } from "jose";
import {
  type Adapter, type AdapterPayload, type Configuration, errors, Provider,
} from "oidc-provider";
import { version } from "./node_modules/oidc-provider/package.json";
import { emailOf, type Options, type Start } from "./service.ts";

const DAY = 24 * 3_600; // seconds

/** What to copy. Each comment says what happens without the line. */
function settings({ resource, elsewhere, scopes, seconds }: Options): Configuration {
  return {
    // Apps name ours when they register: "must only contain … supported scope values". Without
    // this line offline_access is here too, and Claude Code asks for it but hasn't registered
    // with it: "requested scope is not allowed".
    scopes: ["openid", ...scopes],
    // An app with a redirect of a scheme of its own (cursor:) is refused: "only … web uris".
    clientDefaults: { application_type: "native" },
    features: {
      registration: { enabled: true }, // "does not support dynamic client registration"
      resourceIndicators: { // opaque tokens, which the gateway refuses
        enabled: true,
        getResourceServerInfo: (_, indicator) => {
          // RESOURCE_URL (and, for the driver alone, another server). Nothing else is for sale.
          if (![resource, elsewhere].includes(indicator)) throw new errors.InvalidTarget();
          return { scope: scopes.join(" "), accessTokenFormat: "jwt" }; // opaque again
        },
      },
    },
    // Without it nobody gets a refresh token: they come to who asks for offline_access.
    issueRefreshToken: async (_, client) => client.grantTypeAllowed("refresh_token"),
    extraTokenClaims: async (_, token) => // no e-mail address
      "accountId" in token ? { email: emailOf(token.accountId) } : undefined,
    // Yours looks the person up among your own.
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, email: emailOf(id) }) }),
    ttl: {
      AccessToken: seconds,
      Grant: 30 * DAY,
      IdToken: 3_600,
      Interaction: 3_600,
      RefreshToken: 30 * DAY,
      Session: DAY,
    },
  };
}

async function newKey() {
  const { privateKey } = await generateKeyPair("RS256", { extractable: true });
  return { ...await exportJWK(privateKey), kid: crypto.randomUUID(), alg: "RS256", use: "sig" };
}

export const start: Start = async (options) => {
  const { origin, port } = options;
  // The one that every token has to carry: who lets an app only read gets no other.
  const [scope = ""] = options.scopes;
  const cookieKey = crypto.randomUUID();
  const kept = new Map<string, AdapterPayload>();
  const withKey = async () => {
    const provider = new Provider(origin, {
      ...settings(options),
      jwks: { keys: [await newKey()] },
      adapter: (model) => memory(model, kept),
      cookies: { keys: [cookieKey] },
    });
    provider.proxy = true; // believes the two headers below
    return provider.callback();
  };
  let handle = await withKey();
  const server = createServer((request, response) => {
    request.headers["x-forwarded-proto"] = new URL(origin).protocol.slice(0, -1);
    request.headers["x-forwarded-host"] = new URL(origin).host;
    void handle(request, response);
  });
  await new Promise<void>((done, fail) =>
    server.once("error", fail).listen(port, "127.0.0.1", done));
  return {
    version,
    issuer: origin,
    jwksUrl: `${origin}/jwks`,
    authScopes: scope,
    howTo: "type any name and any password",
    answers: (login) => ({ login, password: "any" }),
    foreign: [
      ["for another server", { scope, resource: options.elsewhere }],
      ["asked for without naming a server", { scope }],
    ],
    rotate: async () => void (handle = await withKey()), // as after a restart with another key
    async stop() {
      server.closeAllConnections();
      await new Promise((done) => server.close(done));
    },
  };
};

/** Where oidc-provider keeps things; a real one has a database, and forgets what has expired. */
function memory(model: string, kept: Map<string, AdapterPayload>): Adapter {
  const key = (id: string) => `${model}:${id}`;
  const find = async (fits: (one: AdapterPayload) => boolean) =>
    [...kept].find(([name, one]) => name.startsWith(`${model}:`) && fits(one))?.[1];
  return {
    upsert: async (id, payload) => void kept.set(key(id), payload),
    find: async (id) => kept.get(key(id)),
    findByUid: async (uid) => find((one) => one.uid === uid),
    findByUserCode: async (code) => find((one) => one.userCode === code),
    consume: async (id) => void (kept.get(key(id))!.consumed = Math.floor(Date.now() / 1000)),
    destroy: async (id) => void kept.delete(key(id)),
    async revokeByGrantId(grant) {
      for (const [name, one] of kept) if (one.grantId === grant) kept.delete(name);
    },
  };
}
