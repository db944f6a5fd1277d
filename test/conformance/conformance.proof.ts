// `bun run conformance`: the suite of the protocol's makers, against a gateway in a process of its own that
// wants a token, and against the sign-in service in it. What is expected to fail is in the two .yaml files,
// each line with its reason.

import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { encode, read } from "../host-app.ts";
import { freePort, logOf, ROOT, scratch, startGateway } from "../support.ts";
import { proxyTo } from "./proxy.ts";
import { problemsOf, readBaseline, type Run, rowOf, runSuite, TABLE_HEAD } from "./suite.ts";

setDefaultTimeout(60_000);

const REVISIONS = ["2025-11-25", "2026-07-28"];
const SPEC_VERSIONS = ["2025-03-26", "2025-06-18", ...REVISIONS];
const baselineOf = (revision: string) => join(import.meta.dir, `server-${revision}.yaml`);
const gateway = await startGateway({}, "test/conformance/app.ts");
const table = [TABLE_HEAD];
afterAll(() => console.log(`\n${table.join("\n")}\n`));

// ---- The gateway ----

const server = (url: string, revision: string, baseline = baselineOf(revision)) =>
  runSuite(["server", "--url", url, "--requirements", revision, "--expected-failures", baseline]);

/** A way in for a client that can't sign in. */
async function doorFor(sub: string): Promise<string> {
  const token = await gateway.token(sub);
  return proxyTo(gateway.url, { token, session: await sessionOf(token) });
}
async function sessionOf(token: string): Promise<string> {
  const params = { name: "begin_session", arguments: {} };
  const response = await fetch(gateway.mcp, {
    method: "POST",
    headers: {
      authorization: `Bearer ${token}`,
      "content-type": "application/json",
      accept: "application/json, text/event-stream",
    },
    body: JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/call", params }),
  });
  return (await response.text()).match(/"session":"([\w-]{18})"/)![1]!;
}

/** What became of somebody's calls, by the gateway's own log: to the suite a tool that says "no session" is
 *  one that works, because it says it as text. */
function callsOf(sub: string): string[] {
  const lines = logOf(gateway);
  return lines.filter((line) => line.sub === sub).map(({ tool, outcome, why }) => `${tool} ${why ?? outcome}`);
}

describe.each(REVISIONS)("of revision %s", (revision) => {
  test("all passes but what is expected to fail, and that fails", async () => {
    const baseline = await readBaseline(baselineOf(revision));
    const sub = `suite-${revision}`;
    const run = await server(await doorFor(sub), revision);
    table.push(rowOf(`the gateway, ${revision}`, run, baseline));
    expect(problemsOf(run, baseline)).toEqual([]);
    expect(callsOf(sub)).toEqual(expect.arrayContaining(["test_error_handling test", "test_simple_text ok"]));
  });

  // What would make a run worthless: each of these has to fail it.
  test.each([
    ["nobody listens", async () => `http://localhost:${await freePort()}/mcp`],
    ["the token is wrong", async () => proxyTo(gateway.url, { token: "nobody's" })],
    ["tools/list answers 500", async () =>
      proxyTo(gateway.url, { token: await gateway.token("ada"), broken: "tools/list" })],
  ])("a run fails when %s", async (_, door) => {
    const run = await server(await door(), revision);
    expect(run.exitCode).not.toBe(0);
    const problems = problemsOf(run, await readBaseline(baselineOf(revision)));
    expect(problems).toContainEqual(expect.stringMatching(/^fails: tools-list:/));
  });

  test("a run fails when the baseline has a line too many, or one too few", async () => {
    const baseline = await readBaseline(baselineOf(revision));
    const [, ...rest] = baseline;
    const changed = [...rest, "tools-list:tools-list", "a-scenario:that-is-gone"];
    const file = join(await scratch(), "baseline.yaml");
    await Bun.write(file, Bun.YAML.stringify({ server: changed }));
    const run = await server(await doorFor(`changed-${revision}`), revision, file);
    expect(run.exitCode).not.toBe(0);
    expect(problemsOf(run, changed)).toEqual([
      expect.stringMatching(new RegExp(`^fails: ${baseline[0]} `)),
      "passes, or wasn't tried: tools-list:tools-list",
      "passes, or wasn't tried: a-scenario:that-is-gone",
      "the suite ended with 1",
    ]);
  });
});

// ---- The sign-in service ----

const issuer = `${gateway.url}/mock-auth`;

/** An app that registers, and a person in front of the consent page, who answers with `decision`. */
async function authorize(specVersion: string, decision: string): Promise<Run> {
  const port = await freePort();
  const registered = await fetch(`${issuer}/register`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ client_name: "The suite", redirect_uris: [`http://127.0.0.1:${port}/callback`] }),
  });
  const { client_id } = (await registered.json()) as { client_id: string };
  let answered: Promise<void> | undefined;
  const app = ["--client-id", client_id, "--port", String(port), "--resource", gateway.mcp];
  const command = ["authorization", "--url", issuer, ...app, "--spec-version", specVersion];
  const run = await runSuite(command, (output) => {
    const url = output.match(/^http\S+response_type=code\S*\n/m)?.[0];
    if (url) answered ??= answerPage(url.trim(), decision);
  });
  await answered;
  return run;
}
/** As a browser would: the form goes back with its cookie, and the redirect is followed to the app. */
async function answerPage(url: string, decision: string): Promise<void> {
  const page = await read(await fetch(url));
  const back = await fetch(`${issuer}/authorize`, {
    method: "POST",
    headers: { "content-type": "application/x-www-form-urlencoded", origin: gateway.url, cookie: page.cookie },
    body: encode({ ...page.hidden, scope: page.ticked, name: "Ada", decision }),
    redirect: "manual",
  });
  await fetch(back.headers.get("location")!);
}

// The suite takes no baseline here, and none is needed.
test.each(SPEC_VERSIONS)("signing in, as of %s, passes whole", async (specVersion) => {
  const run = await authorize(specVersion, "allow");
  table.push(rowOf(`the sign-in service, ${specVersion}`, run, []));
  expect(problemsOf(run, [])).toEqual([]);
  const both = ["authorization-code-grant", "authorization-server-metadata-endpoint"];
  expect([...run.scenarios.keys()].sort()).toEqual(both);
});

test("signing in fails when the person says no", async () => {
  const problems = problemsOf(await authorize("2026-07-28", "deny"), []);
  const denied = expect.stringMatching(/^fails: authorization-code-grant:.*access_denied/);
  expect(problems).toEqual([denied, "the suite ended with 1"]);
});
test("signing in fails when nobody listens", async () => {
  const url = `http://localhost:${await freePort()}/mock-auth`;
  const run = await runSuite(["authorization", "--url", url, "--client-id", "anybody"]);
  expect(problemsOf(run, [])).toEqual([
    expect.stringMatching(/^fails: authorization-code-grant:/),
    expect.stringMatching(/^fails: authorization-server-metadata-endpoint:/),
    "the suite ended with 1",
  ]);
});

test("TESTING.md has the table that came out", async () => {
  expect(table.length).toBe(1 + REVISIONS.length + SPEC_VERSIONS.length);
  const text = await Bun.file(join(ROOT, "TESTING.md")).text();
  const begin = text.indexOf(TABLE_HEAD);
  expect(text.slice(begin, text.indexOf("\n\n", begin))).toBe(table.join("\n"));
});
