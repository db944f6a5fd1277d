// Section 1: what may be set, what is assumed on the desk, and what stops the start.

import { expect, test } from "bun:test";
import { join } from "node:path";
import { readConfig, StartError } from "../main.ts";
import { ROOT } from "./support.ts";

type Env = Record<string, string | undefined>;
const street: Env = {
  HOST: "0.0.0.0",
  RESOURCE_URL: "https://room.example.com/mcp",
  AUTH_ISSUER: "https://sign-in.example.com",
  AUTH_JWKS_URL: "https://sign-in.example.com/jwks.json",
  DATABASE_URL: "postgres://reader:hunter2@db.example.com/room",
  SESSION_SIGNING_SECRET: "x".repeat(32),
};
/** Its required variables, as everybody can read them. */
const example: Env = Object.fromEntries((await Bun.file(join(ROOT, ".env.example")).text()).match(/^[A-Z_]+=.*$/gm)!.map((line) => line.split(/=(.*)/)));

function refusal(env: Env): string {
  try {
    readConfig(env);
  } catch (error) {
    if (error instanceof StartError) return error.message;
    throw error;
  }
  throw new Error("accepted");
}

// ---- What is assumed ----

test("on the desk nothing need be set", () => {
  expect(readConfig({})).toMatchObject({
    tunnel: false,
    host: "127.0.0.1",
    port: 8000,
    resourceUrl: "http://localhost:8000/mcp",
    resourceHost: "localhost",
    metadataUrl: "http://localhost:8000/.well-known/oauth-protected-resource/mcp",
    authDisabled: false,
    mockAuth: true,
    issuer: "http://localhost:8000/mock-auth",
    jwksUrl: "http://localhost:8000/mock-auth/jwks.json",
    scopes: [],
    databaseUrl: "sqlite:reading-room.sqlite",
  });
});

test("the desk's session secret is long, and another one at every start", () => {
  const [one, other] = [readConfig({}).sessionSecret, readConfig({}).sessionSecret];
  expect(one.length).toBeGreaterThanOrEqual(32);
  expect(one).not.toBe(other);
});

test("an empty variable is as good as an unset one", () => {
  const names = [...Object.keys(street), "PORT", "NODE_ENV", "AUTH_SCOPES", "AUTH_DISABLED"];
  const { sessionSecret: _, ...empty } = readConfig(Object.fromEntries(names.map((name) => [name, ""])));
  const { sessionSecret: __, ...unset } = readConfig({});
  expect(empty).toEqual(unset);
});

test.each<[string, Env, object]>([
  ["PORT moves the URL, the metadata and the mock", { PORT: "9123" }, {
    port: 9123, resourceUrl: "http://localhost:9123/mcp", metadataUrl: "http://localhost:9123/.well-known/oauth-protected-resource/mcp",
    issuer: "http://localhost:9123/mock-auth", jwksUrl: "http://localhost:9123/mock-auth/jwks.json",
  }],
  ["the lowest port", { PORT: "1" }, { port: 1 }],
  ["the highest port", { PORT: "65535" }, { port: 65_535 }],
  ["the two that name a sign-in service replace the mock", { AUTH_ISSUER: street.AUTH_ISSUER, AUTH_JWKS_URL: street.AUTH_JWKS_URL }, {
    mockAuth: false, issuer: "https://sign-in.example.com", jwksUrl: "https://sign-in.example.com/jwks.json",
  }],
  ["an issuer is kept byte for byte", { AUTH_ISSUER: "https://Tenant.example.com/", AUTH_JWKS_URL: street.AUTH_JWKS_URL }, { issuer: "https://Tenant.example.com/" }],
  ["a sign-in service on this machine may be http", { AUTH_ISSUER: "http://localhost:9000", AUTH_JWKS_URL: "http://127.0.0.1:9000/jwks.json" }, { issuer: "http://localhost:9000" }],
  ["a public RESOURCE_URL makes a tunnel, which carries the mock too", { RESOURCE_URL: street.RESOURCE_URL }, {
    tunnel: true, mockAuth: true, resourceHost: "room.example.com", issuer: "https://room.example.com/mock-auth", jwksUrl: "https://room.example.com/mock-auth/jwks.json",
    metadataUrl: "https://room.example.com/.well-known/oauth-protected-resource/mcp",
  }],
  ["a RESOURCE_URL on this machine makes none", { RESOURCE_URL: "http://127.0.0.1:8000/mcp" }, { tunnel: false, resourceUrl: "http://127.0.0.1:8000/mcp" }],
  ["nor does https on this machine", { RESOURCE_URL: "https://localhost:8443/mcp" }, { tunnel: false, resourceUrl: "https://localhost:8443/mcp" }],
  ["nor IPv6 on this machine", { RESOURCE_URL: "http://[::1]:8000/mcp" }, { tunnel: false, resourceHost: "[::1]" }],
  ["AUTH_DISABLED=1", { AUTH_DISABLED: "1" }, { authDisabled: true }],
  ["AUTH_DISABLED=1 with a RESOURCE_URL on this machine", { AUTH_DISABLED: "1", RESOURCE_URL: "http://localhost:8000/mcp" }, { authDisabled: true }],
  ["one scope", { AUTH_SCOPES: "read:shelf" }, { scopes: ["read:shelf"] }],
  ["several scopes, with spaces to spare", { AUTH_SCOPES: " read:shelf  write!#[]~ " }, { scopes: ["read:shelf", "write!#[]~"] }],
  ["postgres://", { DATABASE_URL: "postgres://reader:hunter2@localhost/room" }, { databaseUrl: "postgres://reader:hunter2@localhost/room" }],
  ["postgresql://, as the Neon console prints it", { DATABASE_URL: "postgresql://u:p@ep-x-pooler.eu.aws.neon.tech/db?sslmode=require&channel_binding=require" }, {
    databaseUrl: "postgresql://u:p@ep-x-pooler.eu.aws.neon.tech/db?sslmode=require&channel_binding=require",
  }],
  ["sqlite:PATH", { DATABASE_URL: "sqlite:/var/lib/room.sqlite" }, { databaseUrl: "sqlite:/var/lib/room.sqlite" }],
  ["sqlite::memory:", { DATABASE_URL: "sqlite::memory:" }, { databaseUrl: "sqlite::memory:" }],
  ["a secret of 32 characters", { SESSION_SIGNING_SECRET: "x".repeat(32) }, { sessionSecret: "x".repeat(32) }],
])("the desk accepts: %s", (_, env, expected) => {
  expect(readConfig(env)).toMatchObject(expected);
});

// ---- The desk or the street ----

test.each([
  ["127.0.0.1", "127.0.0.1"],
  ["127.0.0.2", "127.0.0.2"],
  ["localhost", "localhost"],
  ["LOCALHOST", "LOCALHOST"],
  ["::1", "::1"],
  ["[::1]", "::1"],
])("HOST=%s is the desk, and %s is listened on", (HOST, host) => {
  expect(readConfig({ HOST })).toMatchObject({ host, mockAuth: true });
});

test.each([
  "0.0.0.0", "::", "[::]", "127.0.0.1.evil.com", "evil.com", "localhost.evil.com", "notlocalhost", "10.127.0.0.1", "127.0.0", "127.0.0.1.1", "128.0.0.1", "192.168.1.2", "::2", "::10", "2::1",
])("HOST=%s is the street: nothing is assumed", (HOST) => {
  expect(refusal({ HOST })).toContain("RESOURCE_URL");
});

test("NODE_ENV=production is the street, whatever HOST is; any other NODE_ENV is not", () => {
  expect(refusal({ NODE_ENV: "production" })).toContain("RESOURCE_URL");
  expect(refusal({ NODE_ENV: "production", HOST: "127.0.0.1" })).toContain("RESOURCE_URL");
  expect(readConfig({ NODE_ENV: "development" }).mockAuth).toBe(true);
  expect(readConfig({ NODE_ENV: "test" }).mockAuth).toBe(true);
});

const production: Env = { ...street, HOST: undefined, NODE_ENV: "production" };
const streets: [string, Env][] = [["HOST=0.0.0.0", street], ["HOST=::", { ...street, HOST: "::" }], ["NODE_ENV=production", production]];

test.each(streets)("a street by %s starts when all five are set", (_, env) => {
  expect(readConfig(env)).toMatchObject({
    tunnel: false,
    port: 8000,
    resourceUrl: street.RESOURCE_URL!,
    resourceHost: "room.example.com",
    authDisabled: false,
    mockAuth: false,
    issuer: street.AUTH_ISSUER!,
    jwksUrl: street.AUTH_JWKS_URL!,
    databaseUrl: street.DATABASE_URL!,
    sessionSecret: street.SESSION_SIGNING_SECRET!,
  });
});

const five = ["RESOURCE_URL", "AUTH_ISSUER", "AUTH_JWKS_URL", "DATABASE_URL", "SESSION_SIGNING_SECRET"];
test.each(streets.flatMap(([by, env]) => five.map((name): [string, string, Env] => [by, name, env])))("a street by %s does not start without %s, nor with it empty", (_, name, env) => {
  const { [name]: __, ...rest } = env;
  for (const refused of [rest, { ...rest, [name]: "" }]) expect(refusal(refused)).toMatch(new RegExp(`^Cannot start: ${name} takes .+ \\(got nothing\\)\\.$`));
});

test("the street starts with .env.example once its secret is replaced, and not before", () => {
  const env = { HOST: "0.0.0.0", ...example };
  expect(five.filter((name) => !example[name])).toEqual([]);
  expect(refusal(env)).toContain("SESSION_SIGNING_SECRET");
  expect(readConfig({ ...env, SESSION_SIGNING_SECRET: street.SESSION_SIGNING_SECRET }).resourceUrl).toBe(example.RESOURCE_URL!);
});

// ---- What is refused ----

const noSignIn = { AUTH_ISSUER: undefined, AUTH_JWKS_URL: undefined };
test.each<[string, string, Env]>([
  ["PORT", "zero", { PORT: "0" }],
  ["PORT", "over the last port", { PORT: "65536" }],
  ["PORT", "six digits", { PORT: "100000" }],
  ["PORT", "negative", { PORT: "-1" }],
  ["PORT", "a sign", { PORT: "+80" }],
  ["PORT", "a fraction", { PORT: "80.5" }],
  ["PORT", "an exponent", { PORT: "1e3" }],
  ["PORT", "hexadecimal", { PORT: "0x50" }],
  ["PORT", "a leading zero", { PORT: "0080" }],
  ["PORT", "a space before", { PORT: " 8000" }],
  ["PORT", "a line end after", { PORT: "8000\n" }],
  ["PORT", "a word", { PORT: "http" }],
  ["PORT", "digits with a word", { PORT: "8000tcp" }],

  ["RESOURCE_URL", "without /mcp", { RESOURCE_URL: "https://room.example.com" }],
  ["RESOURCE_URL", "another path", { RESOURCE_URL: "https://room.example.com/api/mcp" }],
  ["RESOURCE_URL", "a trailing slash", { RESOURCE_URL: "https://room.example.com/mcp/" }],
  ["RESOURCE_URL", "a query", { RESOURCE_URL: "https://room.example.com/mcp?a=1" }],
  ["RESOURCE_URL", "an empty query", { RESOURCE_URL: "https://room.example.com/mcp?" }],
  ["RESOURCE_URL", "a fragment", { RESOURCE_URL: "https://room.example.com/mcp#top" }],
  ["RESOURCE_URL", "an empty fragment", { RESOURCE_URL: "https://room.example.com/mcp#" }],
  ["RESOURCE_URL", "an uppercase host", { RESOURCE_URL: "https://Room.example.com/mcp" }],
  ["RESOURCE_URL", "an uppercase scheme", { RESOURCE_URL: "HTTPS://room.example.com/mcp" }],
  ["RESOURCE_URL", "the default port written out", { RESOURCE_URL: "https://room.example.com:443/mcp" }],
  ["RESOURCE_URL", "http's default port written out", { RESOURCE_URL: "http://localhost:80/mcp" }],
  ["RESOURCE_URL", "a user name", { RESOURCE_URL: "https://reader@room.example.com/mcp" }],
  ["RESOURCE_URL", "a password", { RESOURCE_URL: "https://:word@room.example.com/mcp" }],
  ["RESOURCE_URL", "a space before", { RESOURCE_URL: " https://room.example.com/mcp" }],
  ["RESOURCE_URL", "http on a public host", { RESOURCE_URL: "http://room.example.com/mcp" }],
  ["RESOURCE_URL", "http on a host that only begins like this machine", { RESOURCE_URL: "http://127.0.0.1.evil.com/mcp" }],
  ["RESOURCE_URL", "another scheme", { RESOURCE_URL: "ftp://localhost/mcp" }],
  ["RESOURCE_URL", "not a URL", { RESOURCE_URL: "room.example.com/mcp" }],
  ["RESOURCE_URL", "http on the street, even for this machine", { ...street, RESOURCE_URL: "http://localhost:8000/mcp" }],

  ["AUTH_JWKS_URL", "an issuer without keys", { AUTH_ISSUER: street.AUTH_ISSUER }],
  ["AUTH_ISSUER", "keys without an issuer", { AUTH_JWKS_URL: street.AUTH_JWKS_URL }],
  ["AUTH_ISSUER", "not a URL", { ...street, HOST: undefined, AUTH_ISSUER: "sign-in.example.com" }],
  ["AUTH_ISSUER", "http on a public host", { ...street, HOST: undefined, AUTH_ISSUER: "http://sign-in.example.com" }],
  ["AUTH_ISSUER", "http on the street", { ...street, AUTH_ISSUER: "http://localhost:9000" }],
  ["AUTH_ISSUER", "a user name", { ...street, AUTH_ISSUER: "https://reader@sign-in.example.com" }],
  ["AUTH_ISSUER", "a password", { ...street, AUTH_ISSUER: "https://:word@sign-in.example.com" }],
  ["AUTH_JWKS_URL", "a user name", { ...street, AUTH_JWKS_URL: "https://reader@sign-in.example.com/jwks.json" }],
  ["AUTH_ISSUER", "a fragment", { ...street, AUTH_ISSUER: "https://sign-in.example.com#top" }],
  ["AUTH_JWKS_URL", "not a URL", { ...street, HOST: undefined, AUTH_JWKS_URL: "/jwks.json" }],
  ["AUTH_JWKS_URL", "http on a public host", { ...street, HOST: undefined, AUTH_JWKS_URL: "http://sign-in.example.com/jwks.json" }],
  ["AUTH_JWKS_URL", "http on the street", { ...street, AUTH_JWKS_URL: "http://localhost:9000/jwks.json" }],
  ["AUTH_JWKS_URL", "a file", { ...street, AUTH_JWKS_URL: "file:///etc/keys.json" }],
  ["AUTH_ISSUER", "the mock on the street", { ...street, ...noSignIn }],

  ["AUTH_SCOPES", "a quotation mark", { AUTH_SCOPES: 'read "write"' }],
  ["AUTH_SCOPES", "a backslash", { AUTH_SCOPES: "read\\write" }],
  ["AUTH_SCOPES", "a tab", { AUTH_SCOPES: "read\twrite" }],
  ["AUTH_SCOPES", "a line end", { AUTH_SCOPES: "read\n" }],
  ["AUTH_SCOPES", "beyond ASCII", { AUTH_SCOPES: "läsen" }],
  ["AUTH_SCOPES", "DEL", { AUTH_SCOPES: "read\u007f" }],

  ["AUTH_DISABLED", "true", { AUTH_DISABLED: "true" }],
  ["AUTH_DISABLED", "yes", { AUTH_DISABLED: "yes" }],
  ["AUTH_DISABLED", "another number", { AUTH_DISABLED: "2" }],
  ["AUTH_DISABLED", "a space before", { AUTH_DISABLED: " 1" }],
  ["AUTH_DISABLED", "on the street by HOST", { ...street, RESOURCE_URL: "https://localhost/mcp", AUTH_DISABLED: "1" }],
  ["AUTH_DISABLED", "on the street by NODE_ENV", { ...production, RESOURCE_URL: "https://localhost/mcp", AUTH_DISABLED: "1" }],
  ["AUTH_DISABLED", "in a tunnel", { RESOURCE_URL: street.RESOURCE_URL, AUTH_DISABLED: "1" }],

  ["DATABASE_URL", "another database", { DATABASE_URL: "mysql://reader:hunter2@localhost/room" }],
  ["DATABASE_URL", "a bare path", { DATABASE_URL: "reading-room.sqlite" }],
  ["DATABASE_URL", "sqlite without a path", { DATABASE_URL: "sqlite:" }],
  ["DATABASE_URL", "postgres without slashes", { DATABASE_URL: "postgres:room" }],
  ["DATABASE_URL", "postgres at no port", { DATABASE_URL: "postgres://reader:hunter2@localhost:port/room" }],
  ["DATABASE_URL", "pasted with the command around it", { DATABASE_URL: "psql 'postgres://reader:hunter2@localhost/room'" }],
  ["DATABASE_URL", "a file", { DATABASE_URL: "file:reading-room.sqlite" }],
  ["DATABASE_URL", "sqlite under another scheme", { DATABASE_URL: "file:sqlite:reading-room.sqlite" }],
  ["DATABASE_URL", "postgres under another scheme", { DATABASE_URL: "jdbc:postgres://localhost/room" }],

  ["SESSION_SIGNING_SECRET", "31 characters", { SESSION_SIGNING_SECRET: "x".repeat(31) }],
  ["SESSION_SIGNING_SECRET", "the one that everybody can read", { SESSION_SIGNING_SECRET: example.SESSION_SIGNING_SECRET }],
  ["SESSION_SIGNING_SECRET", "31 characters, on the street", { ...street, SESSION_SIGNING_SECRET: "x".repeat(31) }],
])("a start is refused in one line naming %s: %s", (name, _, env) => {
  const message = refusal(env);
  expect(message).toMatch(new RegExp(`^Cannot start: ${name} takes .+ \\(got .+\\)\\.$`));
  expect(message).not.toMatch(/[\n\r]/);
});

test("the refusal says what it got", () => {
  expect(refusal({ PORT: "http" })).toContain('(got "http")');
  expect(refusal({ RESOURCE_URL: "https://room.example.com" })).toContain('(got "https://room.example.com")');
});

test.each<[string, string, Env]>([
  ["a short secret", "hunter2", { SESSION_SIGNING_SECRET: "hunter2" }],
  ["the example's secret", example.SESSION_SIGNING_SECRET!, { SESSION_SIGNING_SECRET: example.SESSION_SIGNING_SECRET }],
  ["another database's password", "hunter2", { DATABASE_URL: "mysql://reader:hunter2@localhost/room" }],
  ["a database's password, at no port", "hunter2", { DATABASE_URL: "postgres://reader:hunter2@localhost:port/room" }],
  ["a database's host", "db.internal", { DATABASE_URL: "mysql://reader:hunter2@db.internal/room" }],
  ["a password in RESOURCE_URL", "hunter2", { RESOURCE_URL: "https://reader:hunter2@room.example.com/mcp" }],
  ["a password in AUTH_JWKS_URL", "hunter2", { ...street, AUTH_JWKS_URL: "https://reader:hunter2@sign-in.example.com/jwks.json" }],
])("the refusal never says %s", (_, secret, env) => {
  expect(refusal(env)).not.toContain(secret);
});

test("a refused start ends with code 1 and nothing but its one line", async () => {
  const child = Bun.spawn(["bun", "run", join(ROOT, "main.ts")], { env: { PATH: process.env.PATH!, PORT: "http" }, stdout: "pipe", stderr: "pipe" });
  const [code, out, err] = await Promise.all([child.exited, new Response(child.stdout).text(), new Response(child.stderr).text()]);
  expect({ code, out, err }).toEqual({ code: 1, out: "", err: expect.stringMatching(/^Cannot start: PORT takes .+\n$/) as unknown as string });
});
