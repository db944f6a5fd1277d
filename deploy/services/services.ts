// `bun run services`: sign-in services that are not ours, each started here on this machine, and
// our gateway with it as its AUTH_ISSUER. Both official clients find it from the 401 alone,
// register themselves, sign a person in on the service's own pages, and use the gateway.
//
//   bun run services                     every service; a row a line, code 1 if one fails
//   bun run services better-auth         this one alone
//
// The settings are in better-auth.ts, oidc-provider.ts and keycloak.ts, to be copied: each line
// there says what happens without it. Better Auth and oidc-provider come from npm. Keycloak is
// skipped unless KEYCLOAK_HOME names its unpacked distribution, and JAVA_HOME a Java that runs it.
//
// To start one service and leave it running until Ctrl+C, for a gateway and a browser of yours:
//
//   bun deploy/services/services.ts better-auth --keep
//     --port 9443                        where it listens, on 127.0.0.1 (a free one)
//     --origin https://sign-in.example   where a proxy shows it (http://localhost:PORT)
//     --resource https://you.example/mcp the gateway's RESOURCE_URL (http://localhost:8000/mcp)
//     --seconds 600                      how long an access token lives (3600)
//
// It prints what the gateway has to be told. The packages of the folder above are needed too.

import { parseArgs } from "node:util";
import { decodeJwt, decodeProtectedHeader } from "jose";
import { loadApp } from "../../main.ts";
import script from "../../seed/rehearsal.json";
import {
  App, asClaudeCode, CLIENTS, type Open, REDIRECTS, register, type Result, signInAndConnect,
  tokenFor,
} from "./client.ts";
import { type Gateway, knock, startGateway } from "./gateway.ts";
import { atEnd, freePort, scratch, tidyUp, until } from "./machine.ts";
import { emailOf, NotHere, type Options, type Service, type Start } from "./service.ts";

const SERVICES: Record<string, () => Promise<{ start: Start }>> = {
  "better-auth": () => import("./better-auth.ts"),
  "oidc-provider": () => import("./oidc-provider.ts"),
  keycloak: () => import("./keycloak.ts"),
};
const SECONDS = 30; // a token's life: long enough for a row, short enough to see it end
const { slug } = await loadApp();
const SCOPES = [`${slug}:read`, `${slug}:write`];

// ---- The rows ----

let failed = 0;
let stopping = false; // by Ctrl+C: what breaks off then has not failed
const skipped: string[] = [];
/** Prints how it went. @returns what `work` found out; undefined if it failed. */
async function row<T>(name: string, work: () => Promise<T>, say = (found: T) => String(found)) {
  try {
    const found = await work();
    console.log(`ok    ${name} (${say(found)})`);
    return found;
  } catch (error) {
    if (error instanceof NotHere) throw error;
    if (stopping) await new Promise(() => {});
    failed++;
    console.log(`FAIL  ${name}: ${error instanceof Error ? error.message : String(error)}`);
    return undefined;
  }
}
function expect(isSo: unknown, otherwise: string): asserts isSo {
  if (!isSo) throw new Error(otherwise);
}
/** What a tool gave. @throws what it said instead. */
function told({ isError, content, structuredContent }: Result) {
  expect(!isError && structuredContent, content[0]?.text ?? "no result");
  return structuredContent;
}

async function drive(name: string) {
  console.log(`\n${name}`);
  const { start } = await SERVICES[name]!();
  const port = await freePort();
  const options: Options = {
    port,
    origin: `http://localhost:${port}`,
    resource: `http://localhost:${await freePort()}/mcp`,
    elsewhere: "http://localhost:1/mcp",
    scopes: SCOPES,
    seconds: SECONDS,
    folder: await scratch(),
  };
  const began = performance.now();
  const seconds = () => `${((performance.now() - began) / 1000).toFixed(1)} s`;
  const service = await row(`${name} starts`, () => start(options),
    ({ version }) => `version ${version}, ${seconds()}`);
  if (!service) return;
  atEnd(service.stop);
  const gateway = await row("the gateway starts with it, and gets its keys",
    () => startGateway(options.resource, service), () => service.issuer);
  if (!gateway) return;

  await registers(service);
  const apps = CLIENTS.map((_, at) => new App(service, `ada-${at}`));
  for (const [at, [who, revision, open]] of CLIENTS.entries()) {
    await arrives(`${who}, ${revision}`, gateway, apps[at]!, open, revision);
    await visits(`${who}, ${revision}`, gateway, apps[at]!, open);
  }
  await keepsApart(gateway, service);
  await row("a token asked for with openid is as good", async () => {
    const { resource } = options;
    const scope = ["openid", service.authScopes].join(" ").trim();
    const { status, why } = await knock(gateway,
      await tokenFor(new App(service, "ada-0"), { resource, scope }));
    expect(status === 200, `${status} ${why}`);
    return scope;
  });
  await refuses(gateway, service);
  await refreshes(gateway, apps);
  await rotates(gateway, service, options);
  if (!service.authScopes) await namesScopes(gateway, service);
  await asksAsClaudeCode(gateway, service);
}

async function registers(service: Service) {
  for (const [host, redirects] of Object.entries(REDIRECTS)) {
    const isIn = !service.turnsAway?.includes(host);
    const fate = isIn ? "registers" : "is turned away by the service, whatever is set";
    await row(`an app with the redirects of ${host} ${fate}`, async () => {
      const refusal = await register(service, redirects);
      expect(isIn === (refusal === ""), refusal || "it may register");
      return refusal || redirects.join(" ");
    });
  }
}

async function arrives(who: string, { url }: Gateway, app: App, open: Open, revision: string) {
  await row(`${who}: from the 401 to the service; it registers, the person signs in`, async () => {
    const visit = await signInAndConnect(open, url, app);
    expect(visit.revision === revision, `it speaks ${visit.revision}`);
    expect(app.registered?.client_id, "it did not register");
    await visit.close();
    return app.kept!;
  }, ({ access_token, refresh_token }) => {
    const { alg } = decodeProtectedHeader(access_token);
    const { aud, scope } = decodeJwt(access_token);
    const refresh = refresh_token ? "a refresh token" : "NO refresh token";
    return `${alg}, ${refresh}; aud ${String(aud)}; scope ${String(scope)}`;
  });
}

async function visits(who: string, { url }: Gateway, app: App, open: Open) {
  await row(`${who}: looks something up, saves, and a new client finds it`, async () => {
    const first = await open(url, app).connect();
    const { session } = told(await first.call("begin_session"));
    told(await first.call(script.read.tool, { session, ...script.read.args }));
    const saved = told(await first.call(script.save.tool, { session, ...script.save.args }));
    await first.close();
    const second = await open(url, app).connect();
    const again = told(await second.call("begin_session"));
    expect(Bun.deepEquals(again.state, saved.state), "it finds something else");
    const { profile } = told(await second.call("user_get_profile", { session: again.session }));
    const { email } = profile as { email: string | null };
    expect(email === emailOf(app.person), `the token's e-mail address is ${email}`);
    await second.close();
    return email;
  });
}

async function keepsApart({ url }: Gateway, service: Service) {
  await row("another person finds nothing of that", async () => {
    const [, , open] = CLIENTS.at(-1)!;
    const visit = await signInAndConnect(open, url, new App(service, "ben"));
    const { session } = told(await visit.call("begin_session"));
    const { actions } = told(await visit.call("user_list_actions", { session })) as
      { actions: object[] };
    expect(actions.length === 0, "there are changes that they did not make");
    await visit.close();
    return "ben";
  });
}

/** Tokens of the same service that are not for us. */
async function refuses(gateway: Gateway, service: Service) {
  for (const [says, asked] of service.foreign) {
    await row(`a token ${says} is refused, and the log says why`, async () => {
      const token = await tokenFor(new App(service, "ada-0"), asked);
      const { status, why } = await knock(gateway, token);
      expect(status === 401 && /^sign-in: (aud|form),/.test(why), `${status} ${why}`);
      return why;
    });
  }
}

async function refreshes({ url }: Gateway, apps: App[]) {
  for (const [at, [who, revision, open]] of CLIENTS.entries()) {
    await row(`${who}, ${revision}: the token runs out, is refreshed, and it goes on`, async () => {
      const app = apps[at]!;
      const { access_token } = app.kept!;
      const left = decodeJwt(access_token).exp! * 1000 - Date.now();
      await Bun.sleep(Math.max(0, left + 1_000));
      const visit = await open(url, app).connect();
      told(await visit.call("begin_session"));
      await visit.close();
      expect(app.kept!.access_token !== access_token, "it has the same token");
      expect(app.opened === 1, "the person had to sign in again");
      return `after ${Math.max(0, Math.ceil(left / 1000))} s`;
    });
  }
}

async function rotates(gateway: Gateway, service: Service, { resource }: Options) {
  const asked = { resource, scope: service.authScopes };
  const kid = (token: string) => decodeProtectedHeader(token).kid;
  const tokens = await row("the service gets a new key, and the old one is withdrawn", async () => {
    const before = await tokenFor(new App(service, "ada-0"), asked);
    expect((await knock(gateway, before)).status === 200, "the old key's token is refused early");
    await service.rotate();
    const after = await tokenFor(new App(service, "ada-1"), asked);
    expect(kid(before) !== kid(after), "it still signs with the old one");
    return { before, after };
  }, ({ before, after }) => `kid ${kid(before)}, now ${kid(after)}`);
  if (!tokens) return;
  await row("a token of the new key is good within ten seconds", () =>
    until(async () => (await knock(gateway, tokens.after)).status === 200, 10_000),
    (ms) => `after ${ms} ms`);
  await row("one of the withdrawn key is refused, after a restart of the gateway", async () => {
    await gateway.restart();
    const { status, why } = await knock(gateway, tokens.before);
    expect(status === 401 && why.includes("NO_MATCHING_KEY"), `${status} ${why}`);
    return `${why}; without the restart it may take eleven minutes`;
  });
}

/** Asked for scopes, apps name them when they register, and a service treats them in another way:
 *  it leaves its default scopes away, or gives a refresh token to those alone that ask for one. */
async function namesScopes(gateway: Gateway, service: Service) {
  const [scope] = SCOPES;
  await row(`the gateway starts with AUTH_SCOPES=${scope}`,
    () => gateway.restart({ AUTH_SCOPES: scope! }), () => "it offers both of its scopes");
  for (const [who, revision, open] of CLIENTS) {
    const app = new App(service, "ada-0");
    await arrives(`so asked, ${who}, ${revision}`, gateway, app, open, revision);
    await visits(`so asked, ${who}, ${revision}`, gateway, app, open);
  }
}

/** Services refuse a scope that an app asks for and has not registered with. */
async function asksAsClaudeCode(gateway: Gateway, service: Service) {
  await row("an app that asks for scopes as Claude Code does gets in, and refreshes", async () => {
    const { scope, first, next } = await asClaudeCode(new App(service, "ada-0"), gateway.url);
    expect(next, "it gets no refresh token");
    for (const token of [first, await next()]) {
      const { status, why } = await knock(gateway, token);
      expect(status === 200, `${status} ${why}`);
    }
    return `it asks for ${scope}`;
  });
}

// ---- Start ----

/** Starts one and leaves it running: what it listens with keeps this process alive. */
async function keep(name: string, { port: at, origin, resource, seconds = "3600" }: Given) {
  const { start } = await SERVICES[name]!();
  const port = at ? Number(at) : await freePort();
  const service = await start({
    port,
    origin: origin ?? `http://localhost:${port}`,
    resource: resource ?? "http://localhost:8000/mcp",
    elsewhere: "http://localhost:1/mcp",
    scopes: SCOPES,
    seconds: Number(seconds),
    folder: await scratch(),
  });
  atEnd(service.stop);
  console.log(`AUTH_ISSUER=${service.issuer}\nAUTH_JWKS_URL=${service.jwksUrl}`);
  if (service.authScopes) console.log(`AUTH_SCOPES=${service.authScopes}`);
  console.log(`# to sign in, ${service.howTo}; Ctrl+C ends it`);
}
async function driveAll(names: string[]) {
  for (const name of names) {
    await drive(name).catch((error: unknown) => {
      if (!(error instanceof NotHere)) throw error;
      skipped.push(name);
      console.log(`SKIPPED, because ${error.message}.`);
    }).finally(tidyUp);
  }
  const not = skipped.length > 0 ? `, and NOT TRIED: ${skipped.join(", ")}` : "";
  console.log(`\n${failed ? `${failed} failed` : "all rows held"}${not}`);
  process.exit(failed ? 1 : 0);
}

for (const signal of ["SIGINT", "SIGTERM"]) {
  process.on(signal, () => {
    stopping = true;
    void tidyUp().then(() => process.exit(130));
  });
}
const text = { type: "string" } as const;
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    keep: { type: "boolean" }, port: text, origin: text, resource: text, seconds: text,
  },
});
type Given = typeof values;
const names = positionals.length > 0 ? positionals : Object.keys(SERVICES);
const isKnown = names.every((name) => SERVICES[name]);
if (!isKnown || (values.keep && names.length > 1)) {
  console.error(`Name one of ${Object.keys(SERVICES).join(", ")}.`);
  process.exit(1);
}
const running = values.keep ? keep(names[0]!, values) : driveAll(names);
await running.catch(async (error: Error) => {
  console.error(error.message);
  await tidyUp();
  process.exit(1);
});
