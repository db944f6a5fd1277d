// Keycloak: a server of its own, in Java. It is copied to a temporary folder, started in its
// development mode, and told by its admin API what its admin console calls by the words below.

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { cp, readFile } from "node:fs/promises";
import { join } from "node:path";
import { atEnd, until } from "./machine.ts";
import { emailOf, NotHere, type Options, type Start } from "./service.ts";

const REALM = "apps";
const DAY = 24 * 3_600; // seconds
const PEOPLE = ["ada-0", "ada-1", "ada-2", "ben"];
const passwordOf = (person: string) => `the password of ${person}`;

type Admin = (method: string, path: string, body?: unknown) => Promise<unknown>;
interface Named {
  id: string;
  name: string;
  config: Record<string, string[]>;
}

/** What to copy. Each comment says what happens without it. */
async function settings(admin: Admin, { resource, scopes, seconds }: Options) {
  await admin("POST", "", {
    realm: REALM, enabled: true, accessTokenLifespan: seconds,
    // Sessions: a refresh token ends with the person's, after 30 minutes without a call and
    // 10 hours in all: then they sign in again.
    ssoSessionIdleTimeout: 30 * DAY, ssoSessionMaxLifespan: 365 * DAY,
  });

  // Client scopes. One of assigned type Default: an app that registers without naming scopes gets
  // it, and without it (or if it is Optional) a token without `aud`: 401. The others are Optional:
  // an app that names scopes gets those alone, and none that isn't there: 403 "Not permitted to
  // use specified clientScope". So each has its own mappers; openid too, which Keycloak does not
  // have in its list by itself.
  for (const name of ["our-audience", "openid", ...scopes]) {
    const isDefault = name === "our-audience";
    await admin("POST", `/${REALM}/client-scopes`, {
      name,
      protocol: "openid-connect",
      attributes: { "include.in.token.scope": String(!isDefault) },
      protocolMappers: [audience(resource), EMAIL],
    });
    const all = await admin("GET", `/${REALM}/client-scopes`) as Named[];
    const { id } = all.find((scope) => scope.name === name)!;
    const type = isDefault ? "default" : "optional";
    await admin("PUT", `/${REALM}/default-${type}-client-scopes/${id}`);
  }

  // While discovery lists offline_access, Claude Code asks for it, and hasn't registered with it:
  // "Invalid scopes". Refresh tokens come without.
  const all = await admin("GET", `/${REALM}/client-scopes`) as Named[];
  const offline = all.find(({ name }) => name === "offline_access")!;
  await admin("DELETE", `/${REALM}/client-scopes/${offline.id}`);

  // Clients, Client registration, Anonymous access policies.
  const policies = await admin("GET", `/${REALM}/components?type=${POLICY}`) as Named[];
  const policy = async (name: string, config: Named["config"]) => {
    const one = policies.find((it) => it.name === name)!;
    const changed = { ...one, config: { ...one.config, ...config } };
    await admin("PUT", `/${REALM}/components/${one.id}`, changed);
  };
  await policy("Trusted Hosts", {
    // Where apps want people sent back to. Without it, 403 "URI doesn't match any trusted host".
    "trusted-hosts": [
      "claude.ai", "claude.com", "chatgpt.com", "www.cursor.com", "anysphere.cursor-mcp",
      "vscode.dev", "insiders.vscode.dev", "localhost", "127.0.0.1",
    ],
    // Where they register from is anywhere. While it is on, 403 "Host not trusted".
    "host-sending-registration-request-must-match": ["false"],
  });
  // Each app of each person is a client; 200, and nobody connects another.
  await policy("Max Clients Limit", { "max-clients": ["100000"] });

  // Realm settings, Client policies: nobody gets a code without PKCE. Apps that are asked for none
  // may leave it out.
  const name = "pkce";
  const executors = [{ executor: "pkce-enforcer", configuration: { "auto-configure": true } }];
  await admin("PUT", `/${REALM}/client-policies/profiles`, { profiles: [{ name, executors }] });
  const conditions = [{ condition: "any-client", configuration: {} }];
  await admin("PUT", `/${REALM}/client-policies/policies`, {
    policies: [{ name, enabled: true, conditions, profiles: [name] }],
  });

  // Without a name a person is asked for it first, on a page of its own.
  for (const username of PEOPLE) {
    await admin("POST", `/${REALM}/users`, {
      username, email: emailOf(username), firstName: username, lastName: "Reader", enabled: true,
      credentials: [{ type: "password", value: passwordOf(username) }],
    });
  }
}
/** By configuration: Audience. "Add to ID token" is off: it is no token for us. */
const audience = (resource: string) => ({
  name: "our audience",
  protocol: "openid-connect",
  protocolMapper: "oidc-audience-mapper",
  config: {
    "included.custom.audience": resource,
    "access.token.claim": "true",
    "id.token.claim": "false",
  },
});
/** By configuration: User Attribute. The default scope "email" has one, and is dropped for an app
 *  that names scopes: then there is no e-mail address. */
const EMAIL = {
  name: "email",
  protocol: "openid-connect",
  protocolMapper: "oidc-usermodel-attribute-mapper",
  config: { "user.attribute": "email", "claim.name": "email", "access.token.claim": "true" },
};
const POLICY = "org.keycloak.services.clientregistration.policy.ClientRegistrationPolicy";
const KEYS = "org.keycloak.keys.KeyProvider";

/** @throws NotHere */
async function whatIsNeeded() {
  const { KEYCLOAK_HOME: home, JAVA_HOME } = process.env;
  if (!home) throw new NotHere("KEYCLOAK_HOME has to name an unpacked distribution of Keycloak");
  const version = await readFile(join(home, "version.txt"), "utf8").catch(() => {
    throw new NotHere(`KEYCLOAK_HOME names ${home}, where there is no version.txt`);
  });
  const java = JAVA_HOME ? join(JAVA_HOME, "bin/java") : "java";
  const said = spawnSync(java, ["-version"], { encoding: "utf8" }).stderr ?? "";
  const major = Number(/version "(\d+)/.exec(said)?.[1] ?? 0);
  if (major < 17) throw new NotHere("JAVA_HOME has to name a Java of 17 or later");
  return { home, version: /[\d.]+\d/.exec(version)?.[0] ?? "unknown" };
}

export const start: Start = async (options) => {
  const { home, version } = await whatIsNeeded();
  const { origin, port, folder } = options;
  const here = `http://127.0.0.1:${port}`;
  const password = crypto.randomUUID();
  const copy = join(folder, "keycloak"); // it writes into its own folders
  await cp(home, copy, { recursive: true });
  const child = spawn(join(copy, "bin/kc.sh"), [
    "start-dev", "--db=dev-mem", "--cache=local", "--http-host=127.0.0.1",
    `--http-port=${port}`, `--hostname=${origin}`,
  ], {
    env: {
      ...process.env, KC_BOOTSTRAP_ADMIN_USERNAME: "admin", KC_BOOTSTRAP_ADMIN_PASSWORD: password,
    },
    stdio: "ignore",
    detached: true, // a group of its own: the script starts Java, and both have to end
  });
  const stop = () => end(child);
  atEnd(stop); // also when Ctrl+C comes before it is up
  const isUp = async () => (await fetch(`${here}/realms/master`)).ok;
  await Promise.race([until(isUp, 240_000), new Promise((_, fail) => child.once("exit", (code) =>
    fail(new Error(`Keycloak ended with code ${code}`))))]);
  const admin = adminOf(here, password);
  await settings(admin, options);
  const issuer = `${origin}/realms/${REALM}`;
  return {
    version,
    issuer,
    jwksUrl: `${issuer}/protocol/openid-connect/certs`,
    howTo: PEOPLE.map((person) => `${person} with "${passwordOf(person)}"`).join(", "),
    answers: (username) => ({ username, password: passwordOf(username) }),
    // It does not know `resource`: what an app may have is decided when it registers.
    foreign: [["of an app that registers with a scope that isn't ours", { scope: "email" }]],
    rotate: () => rotate(admin),
    stop,
  };
};

async function end(child: ChildProcess) {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise((done) => child.once("exit", done));
  process.kill(-child.pid!, "SIGKILL"); // it keeps nothing
  await gone;
}

function adminOf(here: string, password: string): Admin {
  const ask = async (url: string, init: RequestInit) => {
    const response = await fetch(url, init);
    const text = await response.text();
    if (!response.ok) throw new Error(`Keycloak: ${response.status} for ${url}: ${text}`);
    return text ? JSON.parse(text) as unknown : undefined;
  };
  return async (method, path, body) => {
    // A new token each time: they live for a minute.
    const { access_token } = await ask(`${here}/realms/master/protocol/openid-connect/token`, {
      method: "POST",
      body: new URLSearchParams({
        grant_type: "password", client_id: "admin-cli", username: "admin", password,
      }),
    }) as { access_token: string };
    return ask(`${here}/admin/realms${path}`, {
      method,
      headers: { authorization: `Bearer ${access_token}`, "content-type": "application/json" },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
  };
}

/** Realm settings, Keys, Providers: another rsa-generated, then the old one is deleted. */
async function rotate(admin: Admin) {
  const of = async () => {
    const keys = await admin("GET", `/${REALM}/components?type=${KEYS}`) as
      (Named & { providerId: string; parentId: string })[];
    return keys.find(({ providerId }) => providerId === "rsa-generated")!;
  };
  const { id, providerId, parentId } = await of();
  await admin("POST", `/${REALM}/components`, {
    name: "the-next-key", providerId, providerType: KEYS, parentId,
    config: { priority: ["200"] },
  });
  await admin("DELETE", `/${REALM}/components/${id}`);
}
