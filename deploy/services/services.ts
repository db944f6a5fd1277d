// `bun run services`: sign-in services that are not ours, each started here on this machine, and
// our gateway with it as its AUTH_ISSUER. Both official clients find it from the 401 alone,
// register themselves, sign a person in on the service's own pages, and use the gateway.
//
//   bun run services                       every service; a row a line, code 1 if one fails
//   bun run services better-auth           this one alone
//
// The settings are in better-auth.ts, oidc-provider.ts and keycloak.ts, to be copied: each line
// there says what happens without it. Better Auth and oidc-provider come from npm. Keycloak is
// skipped unless KEYCLOAK_HOME names its unpacked distribution, and JAVA_HOME a Java that runs it.
//
// To start one service and leave it running until Ctrl+C, for a gateway or a browser of yours:
//
//   bun deploy/services/services.ts better-auth --keep \
//     --port 9443 --origin https://sign-in.example:443 --resource https://mcp.example/mcp
//
// --port is where it listens on 127.0.0.1, --origin where a proxy shows it to people and apps
// (without one, http://localhost:PORT), --resource the gateway's RESOURCE_URL (without one,
// http://localhost:8000/mcp), --seconds how long an access token lives (3600). It prints what the
// gateway has to be told. It needs the packages of the repository's own folder, too.

import { parseArgs } from "node:util";
import { decodeJwt, decodeProtectedHeader } from "jose";
import { loadApp } from "../../main.ts";
import script from "../../seed/rehearsal.json";
import { start as betterAuth } from "./better-auth.ts";
import { App, CLIENTS, signInAndConnect, tokenFor } from "./client.ts";
import { atEnd, type Gateway, freePort, knock, scratch, startGateway, tidyUp, until } from "./gateway.ts";
import { start as oidcProvider } from "./oidc-provider.ts";
import { emailOf, NotHere, type Options, type Service, type Start } from "./service.ts";

const SERVICES: Record<string, Start> = {
  "better-auth": betterAuth,
  "oidc-provider": oidcProvider,
};
const SECONDS = 30; // a token's life: long enough for a row, short enough to see it end
const { slug } = await loadApp();
const SCOPES = [`${slug}:read`, `${slug}:write`];

// ---- The rows ----

let failed = 0;
/** Prints how it went, and gives what `work` found out; undefined if it failed. */
async function row<T extends string | { said: string }>(name: string, work: () => Promise<T>) {
  try {
    const found = await work();
    const said = typeof found === "string" ? found : found.said;
    console.log(`ok    ${name}${said && ` (${said})`}`);
    return found;
  } catch (error) {
    failed++;
    console.log(`FAIL  ${name}: ${error instanceof Error ? error.message : String(error)}`);
    return undefined;
  }
}
function expect(isSo: unknown, otherwise: string): asserts isSo {
  if (!isSo) throw new Error(otherwise);
}

// ---- One service ----

async function drive(name: string, start: Start) {
  const port = await freePort();
  const resource = `http://localhost:${await freePort()}/mcp`;
  const options: Options = {
    origin: `http://localhost:${port}`, port, resource, elsewhere: "http://localhost:1/mcp",
    scopes: SCOPES, seconds: SECONDS, folder: await scratch(),
  };
  console.log(`\n${name}`);
  const service = await row("it starts", async () => {
    const began = performance.now();
    const service = await start(options);
    atEnd(service.stop);
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    return { ...service, said: `version ${service.version}, ${seconds} s` };
  });
  if (!service) return;
  const gateway = await row("the gateway starts with it, and gets its keys", async () =>
    ({ ...await startGateway(resource, service), said: service.issuer }));
  if (!gateway) return;

  const apps: App[] = [];
  for (const [who, revision, open] of CLIENTS) {
    const app = new App(service, `ada-${apps.length}`);
    apps.push(app);
    await visits(`${who}, ${revision}`, gateway, app, open, revision);
  }
  await twoPeople(gateway, service);
  await wrongAudience(gateway, service, options);
  await refreshes(gateway, apps);
  await rotates(gateway, service, resource);
}

async function visits(
  who: string, { url }: Gateway, app: App, open: typeof CLIENTS[number][2], revision: string,
) {
  await row(`${who}: sent to sign in by the 401, it registers and the person signs in`, async () => {
    const visit = await signInAndConnect(open, url, app);
    expect(visit.revision === revision, `it speaks ${visit.revision}`);
    expect(app.registered?.client_id, "it did not register");
    await visit.close();
    const token = app.kept!.access_token;
    return `${decodeProtectedHeader(token).alg}, aud ${JSON.stringify(decodeJwt(token).aud)}, \
scope ${JSON.stringify(decodeJwt(token).scope)}`;
  });
  await row(`${who}: it looks something up, saves, and a new client finds it`, async () => {
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
    expect(email === emailOf(app.person), `the e-mail address is ${email}`);
    await second.close();
    return email;
  });
}
function told({ isError, content, structuredContent }: Result) {
  expect(!isError && structuredContent, content[0]?.text ?? "no result");
  return structuredContent;
}

async function twoPeople({ url }: Gateway, service: Service) {
  await row("another person of the same service finds nothing of that", async () => {
    const [, , open] = CLIENTS.at(-1)!;
    const visit = await signInAndConnect(open, url, new App(service, "ben"));
    const { session, state } = told(await visit.call("begin_session"));
    expect(!JSON.stringify(state).includes(JSON.stringify(script.save.args).slice(1, -1)),
      "it was all there");
    const { actions } = told(await visit.call("user_list_actions", { session }));
    expect((actions as unknown[]).length === 0, "there are actions of somebody else");
    await visit.close();
    return "";
  });
}
