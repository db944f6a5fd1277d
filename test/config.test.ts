// Section 2: what may be set, what is assumed locally, and what stops the start.

import { expect, test } from "bun:test";
import { join } from "node:path";
import { readConfig, StartError } from "../main.ts";
import { sampleApp } from "./sample-app.ts";
import { ROOT } from "./support.ts";

type Env = Record<string, string | undefined>;
const read = (env: Env) => readConfig(env, sampleApp.slug);

function refusal(env: Env): string {
  try {
    read(env);
  } catch (error) {
    if (error instanceof StartError) return error.message;
    throw error;
  }
  throw new Error("it was accepted");
}

const FIVE: Env = {
  RESOURCE_URL: "https://app.example.com/mcp",
  AUTH_ISSUER: "https://sign-in.example.com",
  AUTH_JWKS_URL: "https://sign-in.example.com/jwks.json",
  DATABASE_URL: "postgres://someone:hunter2@db.example.com/app",
  SESSION_SIGNING_SECRET: "s".repeat(32),
};
const PUBLIC: Env = { ...FIVE, HOST: "0.0.0.0" };

/** What everybody can read in .env.example. */
const example: Env = Object.fromEntries(
  (await Bun.file(join(ROOT, ".env.example")).text())
    .match(/^[A-Z_]+=.*$/gm)!
    .map((line) => line.split(/=(.*)/)),
);

// ---- Locally nothing need be set ----

test("with nothing set it is a local server with a sign-in and a memory of its own", () => {
  expect(read({})).toEqual({
    port: 8000,
    host: "127.0.0.1",
    local: true,
    tunnel: false,
    resourceUrl: "http://localhost:8000/mcp",
    authDisabled: false,
    mockAuth: true,
    issuer: "http://localhost:8000/mock-auth",
    jwksUrl: "http://localhost:8000/mock-auth/jwks.json",
    scopes: [],
    databaseUrl: "sqlite:notebook.sqlite",
    sessionSecret: expect.stringMatching(/^[\w-]{43}$/),
    callsPerMinute: 120,
    showsMenu: true,
  });
});

test.each(["Plant-Care", "plant care", "plant_care", "-plant", "a/b", "plänt"])(
  "an app's slug of %p stops the start: scopes and files are named after it",
  (slug) => {
    const words = "slug takes lower case letters, digits and dashes";
    expect(() => readConfig({}, slug)).toThrow(`Cannot start: ${words} (got ${slug}).`);
  },
);

test("the local secret is another one at every start", () => {
  expect(read({}).sessionSecret).not.toBe(read({}).sessionSecret);
});

test("an empty variable is as good as an unset one", () => {
  const names = [...Object.keys(PUBLIC), "PORT", "NODE_ENV", "AUTH_SCOPES", "AUTH_DISABLED"];
  const secret = { SESSION_SIGNING_SECRET: "s".repeat(32) };
  const empty = Object.fromEntries(names.map((name) => [name, ""]));
  expect(read({ ...empty, ...secret })).toEqual(read(secret));
});

const ISSUER_AND_KEYS = { AUTH_ISSUER: FIVE.AUTH_ISSUER, AUTH_JWKS_URL: FIVE.AUTH_JWKS_URL };
const NEON = "postgresql://u:p@ep-x-pooler.eu.neon.tech/db?sslmode=require&channel_binding=require";

test.each<[string, Env, object]>([
  ["PORT moves the URL and the mock with it", { PORT: "65535" }, {
    port: 65_535,
    resourceUrl: "http://localhost:65535/mcp",
    issuer: "http://localhost:65535/mock-auth",
    jwksUrl: "http://localhost:65535/mock-auth/jwks.json",
  }],
  ["a sign-in service replaces the mock", ISSUER_AND_KEYS, {
    mockAuth: false,
    issuer: "https://sign-in.example.com",
    jwksUrl: "https://sign-in.example.com/jwks.json",
  }],
  [
    "an issuer is kept byte for byte",
    { ...ISSUER_AND_KEYS, AUTH_ISSUER: "https://Tenant.example.com/" },
    { issuer: "https://Tenant.example.com/" },
  ],
  [
    "a sign-in service on this machine may be http",
    { AUTH_ISSUER: "http://localhost:9000", AUTH_JWKS_URL: "http://127.0.0.1:9000/jwks.json" },
    { issuer: "http://localhost:9000", mockAuth: false },
  ],
  ["a public RESOURCE_URL is a tunnel, and it carries the mock", {
    RESOURCE_URL: FIVE.RESOURCE_URL,
  }, {
    tunnel: true,
    local: true,
    mockAuth: true,
    issuer: "https://app.example.com/mock-auth",
    jwksUrl: "https://app.example.com/mock-auth/jwks.json",
  }],
  [
    "https is a tunnel on this machine too: a proxy is in front",
    { RESOURCE_URL: "https://localhost:8443/mcp" },
    { tunnel: true, resourceUrl: "https://localhost:8443/mcp" },
  ],
  ["port 80 is left out of the URL", { PORT: "80" }, { resourceUrl: "http://localhost/mcp" }],
  ["port 8080 is not", { PORT: "8080" }, { resourceUrl: "http://localhost:8080/mcp" }],
  ["http is none", { RESOURCE_URL: "http://127.0.0.1:8000/mcp" }, { tunnel: false }],
  ["IPv6 is this machine", { RESOURCE_URL: "http://[::1]:8000/mcp" }, { tunnel: false }],
  ["AUTH_DISABLED=1 locally", { AUTH_DISABLED: "1" }, { authDisabled: true }],
  ["AUTH_DISABLED=0", { AUTH_DISABLED: "0" }, { authDisabled: false }],
  ["scopes, with spaces to spare", { AUTH_SCOPES: " a:b  w!#[]~ " }, { scopes: ["a:b", "w!#[]~"] }],
  ["what the Neon console prints", { DATABASE_URL: NEON }, { databaseUrl: NEON }],
  ["a SQLite file", { DATABASE_URL: "sqlite:/a/b.sqlite" }, { databaseUrl: "sqlite:/a/b.sqlite" }],
  ["SQLite in memory", { DATABASE_URL: "sqlite::memory:" }, { databaseUrl: "sqlite::memory:" }],
  ["in public no menu before sign-in", PUBLIC, { showsMenu: false }],
  ["a menu for everybody", { ...PUBLIC, DOOR_MENU: "1" }, { showsMenu: true }],
  ["one call a minute", { RATE_LIMIT_PER_MINUTE: "1" }, { callsPerMinute: 1 }],
])("accepted: %s", (_, env, expected) => {
  expect(read(env)).toMatchObject(expected);
});

// ---- Local or public ----

test.each([
  ["127.0.0.1", "127.0.0.1"],
  ["127.1.2.3", "127.1.2.3"],
  ["LOCALHOST", "LOCALHOST"],
  ["[::1]", "::1"],
])("HOST=%s is local, and %s is listened on", (HOST, host) => {
  expect(read({ HOST })).toMatchObject({ local: true, host });
});

test.each([
  "0.0.0.0", "::", "192.168.1.2", "128.0.0.1", "127.0.0", "2::1",
  "127.0.0.1.evil.com", "localhost.evil.com", "notlocalhost",
])("HOST=%s is public: nothing is assumed", (HOST) => {
  expect(refusal({ HOST })).toContain("RESOURCE_URL takes");
});

test("NODE_ENV=production is public whatever HOST is, and no other NODE_ENV is", () => {
  expect(refusal({ NODE_ENV: "production" })).toContain("RESOURCE_URL takes");
  expect(refusal({ NODE_ENV: "production", HOST: "127.0.0.1" })).toContain("RESOURCE_URL takes");
  expect(read({ NODE_ENV: "development" }).local).toBe(true);
});

const publicBy: [string, Env][] = [
  ["HOST=0.0.0.0", PUBLIC],
  ["NODE_ENV=production", { ...FIVE, NODE_ENV: "production" }],
];
test.each(publicBy)("in public by %s, all five have to be set", (_, env) => {
  const expected = { local: false, tunnel: false, mockAuth: false, authDisabled: false };
  expect(read(env)).toMatchObject(expected);
  for (const name of Object.keys(FIVE)) {
    const message = refusal({ ...env, [name]: undefined });
    expect(message).toMatch(new RegExp(`^Cannot start: ${name} takes .+ \\(got nothing\\)\\.$`));
    // at the first one that is missing, the whole list, and what made it public
    for (const word of ["HOST", "NODE_ENV", ...Object.keys(FIVE)]) expect(message).toContain(word);
  }
});

test(".env.example is complete, and its secret is refused, locally too", () => {
  expect(Object.keys(FIVE).filter((name) => !example[name])).toEqual([]);
  const { SESSION_SIGNING_SECRET } = example;
  expect(refusal(example)).toContain("SESSION_SIGNING_SECRET takes");
  expect(refusal({ SESSION_SIGNING_SECRET })).toContain("SESSION_SIGNING_SECRET takes");
  const own = { ...example, SESSION_SIGNING_SECRET: "s".repeat(32) };
  expect(read(own)).toMatchObject({ local: false, resourceUrl: example.RESOURCE_URL! });
});

// ---- What is refused ----

const resource = (host: string) => ({ RESOURCE_URL: host });
const issuer = (value: string) => ({ ...PUBLIC, AUTH_ISSUER: value });
const keys = (value: string) => ({ ...PUBLIC, AUTH_JWKS_URL: value });

test.each<[string, string, Env]>([
  ["PORT", "zero", { PORT: "0" }],
  ["PORT", "over the last port", { PORT: "65536" }],
  ["PORT", "a fraction", { PORT: "80.5" }],
  ["PORT", "hexadecimal", { PORT: "0x50" }],
  ["PORT", "a leading zero", { PORT: "080" }],
  ["PORT", "a line end after it", { PORT: "8000\n" }],
  ["PORT", "a word", { PORT: "http" }],
  ["RATE_LIMIT_PER_MINUTE", "none at all", { RATE_LIMIT_PER_MINUTE: "0" }],
  ["RATE_LIMIT_PER_MINUTE", "over a million", { RATE_LIMIT_PER_MINUTE: "1000001" }],

  ["RESOURCE_URL", "without /mcp", resource("https://app.example.com")],
  ["RESOURCE_URL", "another path", resource("https://app.example.com/api/mcp")],
  ["RESOURCE_URL", "a slash at the end", resource("https://app.example.com/mcp/")],
  ["RESOURCE_URL", "an empty query", resource("https://app.example.com/mcp?")],
  ["RESOURCE_URL", "an empty fragment", resource("https://app.example.com/mcp#")],
  ["RESOURCE_URL", "an upper-case host", resource("https://App.example.com/mcp")],
  ["RESOURCE_URL", "its port written out", resource("https://app.example.com:443/mcp")],
  ["RESOURCE_URL", "a user name", resource("https://me@app.example.com/mcp")],
  ["RESOURCE_URL", "http beyond this machine", resource("http://app.example.com/mcp")],
  ["RESOURCE_URL", "a name that begins alike", resource("http://127.0.0.1.evil.com/mcp")],
  ["RESOURCE_URL", "another scheme", resource("ftp://localhost/mcp")],
  ["RESOURCE_URL", "no URL", resource("app.example.com/mcp")],
  ["RESOURCE_URL", "http in public", { ...PUBLIC, RESOURCE_URL: "http://localhost:8000/mcp" }],

  ["AUTH_JWKS_URL", "an issuer without keys", { AUTH_ISSUER: FIVE.AUTH_ISSUER }],
  ["AUTH_ISSUER", "keys without an issuer", { AUTH_JWKS_URL: FIVE.AUTH_JWKS_URL }],
  [
    "AUTH_ISSUER",
    "the mock in public",
    { ...PUBLIC, AUTH_ISSUER: undefined, AUTH_JWKS_URL: undefined },
  ],
  ["AUTH_ISSUER", "no URL", issuer("sign-in.example.com")],
  ["AUTH_ISSUER", "http in public", issuer("http://localhost:9000")],
  ["AUTH_ISSUER", "http elsewhere", { ...ISSUER_AND_KEYS, AUTH_ISSUER: "http://example.com" }],
  ["AUTH_ISSUER", "a user name", issuer("https://me@sign-in.example.com")],
  ["AUTH_ISSUER", "a password", issuer("https://:word@sign-in.example.com")],
  ["AUTH_ISSUER", "a fragment", issuer("https://sign-in.example.com#top")],
  ["AUTH_JWKS_URL", "a path", keys("/jwks.json")],
  ["AUTH_JWKS_URL", "a file", keys("file:///etc/keys.json")],

  ["AUTH_SCOPES", "a quotation mark", { AUTH_SCOPES: 'a "b"' }],
  ["AUTH_SCOPES", "a backslash", { AUTH_SCOPES: "a\\b" }],
  ["AUTH_SCOPES", "a line end", { AUTH_SCOPES: "a\n" }],
  ["AUTH_SCOPES", "beyond ASCII", { AUTH_SCOPES: "läsen" }],

  ["DOOR_MENU", "a word", { DOOR_MENU: "yes" }],
  ["DOOR_MENU", "zero, as if it were a switch", { ...PUBLIC, DOOR_MENU: "0" }],
  ["AUTH_DISABLED", "a word", { AUTH_DISABLED: "true" }],
  ["AUTH_DISABLED", "in public", { ...PUBLIC, AUTH_DISABLED: "1" }],
  ["AUTH_DISABLED", "in production", { ...FIVE, NODE_ENV: "production", AUTH_DISABLED: "1" }],
  ["AUTH_DISABLED", "in a tunnel", { RESOURCE_URL: FIVE.RESOURCE_URL, AUTH_DISABLED: "1" }],
  [
    "AUTH_DISABLED",
    "behind a proxy on this machine",
    { RESOURCE_URL: "https://localhost:8443/mcp", AUTH_DISABLED: "1" },
  ],

  ["DATABASE_URL", "another database", { DATABASE_URL: "mysql://localhost/app" }],
  ["DATABASE_URL", "a bare path", { DATABASE_URL: "app.sqlite" }],
  ["DATABASE_URL", "SQLite without a path", { DATABASE_URL: "sqlite:" }],
  ["DATABASE_URL", "Postgres without slashes", { DATABASE_URL: "postgres:app" }],
  ["DATABASE_URL", "Postgres at no port", { DATABASE_URL: "postgres://u:p@localhost:port/app" }],
  ["DATABASE_URL", "the command around it", { DATABASE_URL: "psql 'postgres://localhost/app'" }],

  ["SESSION_SIGNING_SECRET", "31 characters", { SESSION_SIGNING_SECRET: "s".repeat(31) }],
])("a start is refused in one line that names %s: %s", (name, _, env) => {
  const message = refusal(env);
  expect(message).toMatch(new RegExp(`^Cannot start: ${name} takes .+ \\(got .+\\)\\.$`));
  expect(message).not.toContain("\n");
});

test("the refusal says what it got …", () => {
  expect(refusal({ PORT: "http" })).toBe(
    "Cannot start: PORT takes a whole number from 1 to 65535 (got http).",
  );
});

test.each<[string, string, Env]>([
  ["a short secret", "hunter2", { SESSION_SIGNING_SECRET: "hunter2" }],
  ["a database's password", "hunter2", { DATABASE_URL: "mysql://u:hunter2@localhost/app" }],
  ["a database's host", "db.internal", { DATABASE_URL: "mysql://db.internal/app" }],
  ["a password in RESOURCE_URL", "hunter2", resource("https://u:hunter2@app.example.com/mcp")],
  ["a password in AUTH_ISSUER", "hunter2", issuer("http://u:hunter2@example.com")],
  ["a password in AUTH_JWKS_URL", "hunter2", keys("https://u:hunter2@example.com/jwks")],
  ["one without slashes", "hunter2", keys("https:u:hunter2@example.com")],
  ["one with backslashes", "hunter2", keys("https:\\\\u:hunter2@example.com")],
  ["one with a line end inside", "hunter2", keys("ht\ntps://u:hunter2@example.com")],
  ["one without a scheme", "hunter2", keys("u:hunter2@example.com/jwks")],
  ["one that is in the wrong variable", "hunter2", { PORT: "postgres://u:hunter2@db/app" }],
])("… but never %s", (_, secret, env) => {
  expect(refusal(env)).not.toContain(secret);
});
