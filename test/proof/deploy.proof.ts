// The folder deploy/: what its files say is carried out by hand here, without Docker, systemd or a
// platform, and each block of its page is run as it stands there.
//
// Not covered: no image is built, no platform is reached, and no certificate is anybody's.

import { Database } from "bun:sqlite";
import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { spawn, spawnSync } from "node:child_process";
import { existsSync, readdirSync, statSync } from "node:fs";
import { chmod, cp, mkdir } from "node:fs/promises";
import { type AddressInfo, connect, createServer } from "node:net";
import { networkInterfaces } from "node:os";
import { basename, join, resolve } from "node:path";
import postgres from "postgres";
import { postgresStore } from "../../main.ts";
import { atEnd } from "../cleanup.ts";
import {
  callOver, expectRefusedStart, freePort, gateway, mint, personAt, type Place, postgresIsHere,
  postgresPlace, type PostgresServer, postgresServer, publicJwk, ROOT, scratch, sqlitePlace,
  startGateway, until,
} from "../support.ts";

setDefaultTimeout(60_000); // milliseconds

const POSIX = process.platform !== "win32";
const NGINX = process.env.NGINX ?? "/usr/sbin/nginx";
const OPENSSL = Bun.which("openssl");
const ANALYZE = Bun.which("systemd-analyze");
const without = (isHere: unknown, what: string) => (isHere ? "" : ` (NOT TESTED: no ${what})`);
const noPosix = without(POSIX, "POSIX");
const noPostgres = noPosix || without(postgresIsHere, "PostgreSQL binaries");
const noPublic = noPostgres || without(OPENSSL, "openssl");
const noFront = noPublic || without(existsSync(NGINX), NGINX);
const SIX = Object.values(networkInterfaces()).flat().some((one) => one?.address === "::1");
const noSix = noFront || without(SIX, "IPv6");
const noSystemd = without(ANALYZE, "systemd-analyze");

const read = (file: string) => Bun.file(join(ROOT, file)).text();
const PAGE = await read("deploy/README.md");
const section = (title: string) =>
  PAGE.split(/^## /m).find((one) => one.startsWith(`${title}\n`)) ?? "";
/** The one fenced block of the page in which this stands. */
function blockWith(words: string): string {
  const blocks = [...PAGE.matchAll(/^```\w*\n([^]*?)^```$/gm)].map(([, text]) => text!);
  const found = blocks.filter((text) => text.includes(words));
  expect([words, found.length]).toEqual([words, 1]);
  return found[0]!;
}

/** What has to be set in public. Nothing but the database is reached, unless a test says so. */
const five = (DATABASE_URL: string, more: Record<string, string> = {}) => ({
  RESOURCE_URL: "https://rooms.example.com/mcp",
  AUTH_ISSUER: "https://sign-in.example.com",
  AUTH_JWKS_URL: "https://127.0.0.1:1/keys",
  SESSION_SIGNING_SECRET: "s".repeat(43),
  DATABASE_URL,
  ...more,
});
const FIVE = Object.keys(five("")).sort();

let server: PostgresServer;
if (postgresIsHere) beforeAll(async () => { server = await postgresServer(); });

// ---- The Dockerfile, line by line ----

/** What Docker would see: the last pattern that fits a path, or a folder above it, decides. */
async function contextFilter() {
  const lines = (await read(".dockerignore")).split("\n").filter((line) => /^[^#]/.test(line));
  const patterns = lines.map((line) =>
    ({ keeps: line.startsWith("!"), glob: new Bun.Glob(line.replace("!", "")) }));
  return (path: string) => {
    const parts = path.split("/");
    const paths = parts.map((_, end) => parts.slice(0, end + 1).join("/"));
    return patterns.findLast(({ glob }) => paths.some((one) => glob.match(one)))?.keeps ?? true;
  };
}
async function contextOf() {
  const [isKept, folder] = [await contextFilter(), await scratch()];
  const filter = (from: string) => isKept(from.slice(ROOT.length + 1));
  for (const name of readdirSync(ROOT).filter(isKept)) {
    await cp(join(ROOT, name), join(folder, name), { recursive: true, filter });
  }
  return folder;
}

interface Image {
  root: string; // its file system
  folder: string; // WORKDIR, in it
  env: Record<string, string>;
  user: string;
  command: string[];
  health: string[];
  port: string;
}
/** A file goes by its own name into a folder; of a folder, what is in it goes. */
async function copyInto(image: Image, from: string, words: string[]) {
  const to = words.at(-1)!;
  for (const word of words.slice(0, -1)) {
    const source = join(from, word);
    const isFile = statSync(source).isFile();
    const target = resolve(image.folder, to, isFile && to.endsWith("/") ? basename(word) : "");
    await cp(source, target, { recursive: true, verbatimSymlinks: true });
  }
}
/** Does what each line says, in a folder for each stage. */
async function buildImage(): Promise<Image> {
  const [text, context] = [await read("deploy/Dockerfile"), await contextOf()];
  const stages = new Map<string, Image>();
  let image!: Image;
  const nothing = { folder: "", env: {}, user: "root", command: [], health: [], port: "" };
  const does: Record<string, (rest: string) => unknown> = {
    FROM: async (rest) => {
      expect(rest).toMatch(/^oven\/bun:1\.4\.\d+-slim(@sha256:\w+)?( AS \w+)?$/);
      image = { ...structuredClone(nothing), root: await scratch() };
      stages.set(rest.split(" AS ")[1] ?? "", image);
    },
    WORKDIR: (rest) => mkdir(image.folder = join(image.root, rest), { recursive: true }),
    COPY: (rest) => {
      const words = rest.split(/ +/);
      const stage = /^--from=(.*)/.exec(words[0]!)?.[1];
      if (stage) words.shift();
      return copyInto(image, stage ? stages.get(stage)!.root : context, words);
    },
    RUN: (rest) => {
      const ran = spawnSync("sh", ["-c", rest], { cwd: image.folder, encoding: "utf8" });
      if (ran.status !== 0) throw new Error(`${rest}: ${ran.stderr}`);
    },
    ENV: (rest) => Object.assign(image.env, pairsOf(rest)),
    USER: (rest) => { image.user = rest; },
    EXPOSE: (rest) => { image.port = rest; },
    HEALTHCHECK: (rest) => { image.health = JSON.parse(rest.replace(/^.*? CMD /, "")); },
    CMD: (rest) => { image.command = JSON.parse(rest); },
  };
  const lines = text.replace(/^#.*\n/gm, "").replaceAll("\\\n", "").split("\n").filter(Boolean);
  for (const line of lines) {
    const [, word, rest] = /^(\w+) +(.*)$/.exec(line)!;
    await does[word!]!(rest!); // a word that isn't there is one that nobody here understands
  }
  spawnSync("chmod", ["-R", "a+rX,go-w", image.root]);
  return image;
}
const pairsOf = (text: string) =>
  Object.fromEntries(text.split(" ").map((pair) => pair.split("="))) as Record<string, string>;
let built: Promise<Image> | undefined;
const imageOf = () => (built ??= buildImage());

// ---- Nobody ----

/** As root the tests run it as nobody; anybody else can't be another. */
const NOBODY = process.getuid?.() === 0 ? { uid: 65_534, gid: 65_534 } : {};
/** Where nobody, too, finds a bun: it may be in a folder that only root can enter. */
async function pathForNobody() {
  const isFound = spawnSync("bun", ["--version"], { ...NOBODY, cwd: "/" }).status === 0;
  if (isFound) return process.env.PATH!;
  const folder = await scratch();
  await cp(process.execPath, join(folder, "bun"));
  await chmod(folder, 0o755);
  return `${folder}:${process.env.PATH}`;
}
/** Without a home, and with nothing of our environment. */
async function runAsNobody(command: string[], env: Record<string, string>) {
  const child = spawn(command[0]!, command.slice(1), {
    ...NOBODY,
    cwd: (await imageOf()).folder,
    env: { PATH: await pathForNobody(), HOME: "/nonexistent", ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  atEnd(() => child.kill("SIGKILL"));
  const said = { out: "", err: "" };
  child.stdout.on("data", (bytes) => { said.out += bytes; });
  child.stderr.on("data", (bytes) => { said.err += bytes; });
  const exited = new Promise<number | null>((done) => child.once("close", done));
  const end = async () => {
    const asked = performance.now();
    child.kill("SIGTERM");
    return { code: await exited, seconds: (performance.now() - asked) / 1000 };
  };
  return { said, exited, end };
}
/** Each file under a folder, with its size and when it was written. */
const filesOf = (folder: string) =>
  readdirSync(folder, { recursive: true, encoding: "utf8" }).sort().map((path) => {
    const { size, mtimeMs } = statSync(join(folder, path));
    return `${path} ${size} ${mtimeMs}`;
  });

describe.skipIf(noPosix !== "")(`The image${noPosix}`, () => {
  test("gets nothing that is secret, and nothing that is added later", async () => {
    const kept = [
      ".env", ".env.local", "seed/.env", ".mock-auth-key.json", "connector.sqlite",
      "connector.sqlite-wal", "seed/people.sqlite", "mock-auth.ts", "test/support.ts",
      "bench/bench.ts", "node_modules/zod/package.json", ".git/config", "deploy/README.md",
      "deploy/services/.env", "new-file.txt",
    ];
    expect(kept.filter(await contextFilter())).toEqual([]);
  });

  test("holds main.ts, the seed and the packages of production", async () => {
    const { folder, root } = await imageOf();
    expect(readdirSync(root)).toEqual(["app"]);
    const names = readdirSync(folder).sort();
    expect(names).toEqual(["main.ts", "node_modules", "package.json", "seed"]);
    const seed = readdirSync(join(ROOT, "seed")).sort();
    expect(readdirSync(join(folder, "seed")).sort()).toEqual(seed);
    const { dependencies, devDependencies } = await Bun.file(join(ROOT, "package.json")).json();
    const isThere = (name: string) => existsSync(join(folder, "node_modules", name));
    expect(Object.keys(dependencies).filter((name) => !isThere(name))).toEqual([]);
    expect(Object.keys(devDependencies).filter(isThere)).toEqual([]);
  });

  test("is not root's to run, is public, and has no shell before bun", async () => {
    const { user, command, port, env } = await imageOf();
    expect({ user, command, port, env }).toEqual({
      user: "bun",
      command: ["bun", "run", "main.ts"],
      port: "8000", // what main.ts takes without PORT
      env: { NODE_ENV: "production", HOST: "0.0.0.0" },
    });
  });

  test.skipIf(noPostgres !== "")(`serves as nobody, by its own check, and ends${noPostgres}`,
    async () => {
    const { folder, env, command, health } = await imageOf();
    const before = filesOf(folder);
    const PORT = String(await freePort());
    const all = { ...env, ...five(await server.database()), PORT };
    const isHealthy = async () => (await (await runAsNobody(health, all)).exited) === 0;
    expect(await isHealthy()).toBe(false); // nobody is there
    const room = await runAsNobody(command, all);
    await until(() => room.said.err.includes("is open at https://rooms.example.com/mcp;"));
    expect(await isHealthy()).toBe(true);
    const headers = { host: "rooms.example.com" };
    const knock = await fetch(`http://127.0.0.1:${PORT}/mcp`, { method: "POST", headers });
    expect(knock.status).toBe(401);
    const says = knock.headers.get("www-authenticate");
    expect(says).toContain('="https://rooms.example.com/.well-known/');
    await server.stop();
    expect(await isHealthy()).toBe(false); // 503
    await server.start();
    await until(isHealthy);
    const { code, seconds } = await room.end();
    expect(code).toBe(0);
    expect(seconds).toBeLessThan(9);
    expect(filesOf(folder)).toEqual(before);
  });
});

// ---- The platforms' files, and the page ----

interface Fly {
  app: string;
  kill_signal: string;
  kill_timeout: number;
  env: Record<string, string>;
  http_service: { internal_port: number; checks: { path: string }[] };
}
interface Render {
  startCommand: string;
  healthCheckPath: string;
  envVars: { key: string; value?: string | number; sync?: false; generateValue?: true }[];
}
const fly = Bun.TOML.parse(await read("deploy/fly.toml")) as Fly;
const render = (Bun.YAML.parse(await read("deploy/render.yaml")) as { services: Render[] })
  .services[0]!;

test.each([
  ["Azure Container Apps", ""], ["Fly", "deploy/fly.toml"], ["Render", "deploy/render.yaml"],
  ["Google Cloud Run", ""], ["Railway", ""], ["A machine of yours", ".env.example"],
])("the recipe for %s names the five variables", async (title, file) => {
  const text = section(title) + (file && (await read(file)));
  expect(FIVE.filter((name) => !text.includes(name))).toEqual([]);
});

test("what the page links to, and tells to run, is there", async () => {
  const links = [...PAGE.matchAll(/\]\(([^)#h][^)#]*)/g)].map(([, path]) => `deploy/${path}`);
  const tests = [...PAGE.matchAll(/test\/[\w/.-]+\.ts/g)].map(([path]) => path);
  expect([links.length, tests.length]).not.toContain(0);
  expect([...links, ...tests].filter((path) => !existsSync(join(ROOT, path)))).toEqual([]);
  const { scripts } = JSON.parse(await read("package.json"));
  const told = [...PAGE.matchAll(/bun run ([\w-]+)(?![\w.-])/g)].map(([, name]) => name!);
  expect(told).not.toBeEmpty();
  expect(told.filter((name) => !(name in scripts))).toEqual([]);
});

test("Fly asks at our port, waits until we have ended, and its two names are one", () => {
  const { app, env, kill_signal, kill_timeout, http_service } = fly;
  expect(env.RESOURCE_URL).toBe(`https://${app}.fly.dev/mcp`);
  expect(kill_signal).toBe("SIGTERM");
  expect(kill_timeout).toBeGreaterThan(9);
  expect([http_service.internal_port, http_service.checks[0]!.path]).toEqual([8000, "/health"]);
});

test("Render asks for what it is not told, and the page shows its command", () => {
  const given = render.envVars.filter(({ sync, generateValue }) => sync === false || generateValue);
  const all = [...given.map(({ key }) => key), "RESOURCE_URL"].sort();
  expect(all).toEqual(FIVE);
  expect(render.healthCheckPath).toBe("/health");
  expect(section("Render")).toContain(`\`${render.startCommand}\``);
});

test.skipIf(noPostgres !== "")(`… which makes the URL, and passes SIGTERM on${noPostgres}`,
  async () => {
  const { RESOURCE_URL: _, ...four } = five(await server.database());
  const set = render.envVars.filter(({ value }) => value).map((one) => [one.key, `${one.value}`]);
  const room = await runAsNobody(["sh", "-c", render.startCommand], {
    ...Object.fromEntries(set),
    ...four,
    PORT: String(await freePort()),
    RENDER_EXTERNAL_URL: "https://room.onrender.example",
  });
  await until(() => room.said.err.includes("is open at https://room.onrender.example/mcp;"));
  expect((await room.end()).code).toBe(0);
});

// ---- A machine with systemd and nginx ----

const unit = await read("deploy/connector.service");
const settings = (name: string) =>
  [...unit.matchAll(new RegExp(`^${name}=(.*)$`, "gm"))].map(([, value]) => value!);

test.skipIf(noSystemd !== "")(`systemd takes the unit${noSystemd}`, async () => {
  const file = join(await scratch(), "connector.service");
  expect(unit).toContain("ExecStart=/usr/local/bin/bun ");
  await Bun.write(file, unit.replace("/usr/local/bin/bun", process.execPath));
  const { status, stderr } = spawnSync(ANALYZE!, ["verify", file], { encoding: "utf8" });
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  expect(Number(settings("TimeoutStopSec")[0])).toBeGreaterThan(9);
});

/** A certificate that nobody vouches for, in a folder that everybody may enter. */
async function certificate() {
  const folder = await scratch();
  await chmod(folder, 0o755);
  const [key, cert] = [join(folder, "key.pem"), join(folder, "cert.pem")];
  const made = spawnSync(OPENSSL!, ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1",
    "-keyout", key, "-out", cert]);
  if (made.status !== 0) throw new Error(`openssl: ${made.stderr}`);
  return { folder, key, cert, pem: await Bun.file(cert).text() };
}
type Certificate = Awaited<ReturnType<typeof certificate>>;

/** A sign-in service over https, as in public; there is nothing to it but its keys. */
async function signInService({ key, pem }: Certificate) {
  const tls = { key: await Bun.file(key).text(), cert: pem };
  const fetch = () => Response.json({ keys: [publicJwk] });
  const service = Bun.serve({ port: 0, hostname: "127.0.0.1", tls, fetch });
  atEnd(() => service.stop(true));
  const AUTH_ISSUER = `https://127.0.0.1:${service.port}`;
  return { AUTH_ISSUER, AUTH_JWKS_URL: `${AUTH_ISSUER}/keys` };
}

/** nginx.conf as the page's sed writes it, but for ports and certificate, before a gateway. */
async function nginxBefore(backend: number, { folder, key, cert }: Certificate) {
  const [http, https] = [await freePort(), await freePort()];
  let site = await read("deploy/nginx.conf");
  const put = (old: string, now: string) => {
    expect(site).toContain(old);
    site = site.replaceAll(old, now);
  };
  put("/etc/letsencrypt/live/connector.example.com/fullchain.pem", cert);
  put("/etc/letsencrypt/live/connector.example.com/privkey.pem", key);
  expect(blockWith("nginx -t")).toContain(`sed "s/connector\\.example\\.com/$NAME/"`);
  put("connector.example.com", "localhost");
  put("127.0.0.1:8000;", `127.0.0.1:${backend};`);
  put("listen 80;", `listen 127.0.0.1:${http};`);
  put("listen 443 ssl;", `listen 127.0.0.1:${https} ssl;`);
  put("listen [::]:80;", SIX ? `listen [::1]:${http};` : "");
  put("listen [::]:443 ssl;", SIX ? `listen [::1]:${https} ssl;` : "");
  put("# location = /.well-known", "location = /.well-known"); // for who was given a text
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    .map((kind) => `${kind}_temp_path ${folder};`).join(" ");
  const main = join(folder, "nginx.conf");
  await Bun.write(main, `daemon off; pid ${folder}/nginx.pid; events {}
    http { access_log off; ${temporary}\n${site}\n}`);
  const nginx = spawn(NGINX, ["-c", main, "-e", join(folder, "error.log")], { stdio: "ignore" });
  const ended = new Promise((done) => nginx.once("exit", done));
  atEnd(() => (nginx.kill(), ended)); // before its folder goes
  const plain = (path: string) => fetch(`http://127.0.0.1:${http}${path}`, {
    redirect: "manual", headers: { host: "localhost" },
  });
  await until(() => plain("/").then(() => true, () => false));
  return { plain, http, https, url: `https://localhost:${https}` };
}

/** Calls a tool; `pem` is the one certificate that is believed. */
async function callAt(url: string, token: string, pem: string, name: string, args: object) {
  const tls = { ca: pem };
  const { structuredContent, isError, content } = await callOver(url, token, name, args, { tls });
  expect([name, isError && content]).toEqual([name, undefined]);
  return structuredContent!;
}

/** What systemd makes of the unit, and of .env.example once the five in it are right. */
async function environmentOf(right: Record<string, string>) {
  const lines = [...(await read(".env.example")).matchAll(/^([A-Z_]+)=(.*)$/gm)];
  const names = lines.map(([, name]) => name!);
  expect(names.filter((name) => FIVE.includes(name)).sort()).toEqual(FIVE);
  const file = lines.map(([, name, value]) => [name, right[name!] ?? value]);
  return { ...pairsOf(settings("Environment").join(" ")), ...Object.fromEntries(file) };
}

describe.skipIf(noFront !== "")(`A machine of yours${noFront}`, () => {
  test("the unit's command, behind nginx, serves a person in public and ends in time", async () => {
    const own = await certificate();
    const port = await freePort();
    const { url, plain } = await nginxBefore(port, own);
    const service = await signInService(own);
    const right = five(await server.database(), { RESOURCE_URL: `${url}/mcp`, ...service });
    const env = await environmentOf(right);
    expect(env).toMatchObject({ HOST: "127.0.0.1", NODE_ENV: "production" });
    const [, ...args] = settings("ExecStart")[0]!.split(" ");
    const here = { PORT: String(port), NODE_EXTRA_CA_CERTS: own.cert };
    const room = await runAsNobody(["bun", ...args], { ...env, ...here });
    await until(() => room.said.err.includes("is open at"));

    const get = (path: string, init: object = {}) =>
      fetch(url + path, { tls: { ca: own.pem }, ...init });
    expect((await get("/health")).status).toBe(200);
    expect(await (await get("/door.json")).json()).toMatchObject({ board: false });
    const says = (await get("/mcp", { method: "POST" })).headers.get("www-authenticate");
    expect(says).toContain(`="${url}/.well-known/`);
    const token = await mint({ iss: service.AUTH_ISSUER, aud: `${url}/mcp` });
    const call = (name: string, more: object) => callAt(`${url}/mcp`, token, own.pem, name, more);
    const { session } = await call("begin_session", {});
    await call("user_get_state", { session });

    const headers = { authorization: `Bearer ${token}` };
    const post = (kib: number) =>
      get("/mcp", { method: "POST", headers, body: "x".repeat(kib * 1024) });
    const [ours, theirs] = [await post(300), await post(2048)];
    expect(ours.status).toBe(413);
    expect(await ours.json()).toEqual({ error: "the body is over 256 KiB" });
    expect(theirs.status).toBe(413);
    expect(await theirs.text()).toContain("nginx");

    const moved = await plain("/mcp?a=1");
    expect([moved.status, moved.headers.get("location")])
      .toEqual([308, "https://localhost/mcp?a=1"]);
    const challenge = await get("/.well-known/openai-apps-challenge");
    expect(challenge.headers.get("content-type")).toBe("text/plain");
    expect(await challenge.text()).toBe("TEXT");

    const { code, seconds } = await room.end();
    expect(code).toBe(0);
    expect(seconds).toBeLessThan(Number(settings("TimeoutStopSec")[0]));
    expect(room.said.out).toContain('"tool":"begin_session"');
  });

  test("nginx says who asks, passes a stream on as it comes, and keeps a connection", async () => {
    const own = await certificate();
    const seen: Headers[] = [];
    const ports = new Set<number>();
    let goOn = () => {};
    const backend = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: (request, self) => {
      seen.push(request.headers);
      ports.add(self.requestIP(request)!.port);
      const held = new Promise<void>((done) => { goOn = done; });
      return new Response(async function* () {
        yield "one";
        await held;
        yield "two";
      });
    } });
    atEnd(() => backend.stop(true));
    const { url } = await nginxBefore(backend.port!, own);
    const headers = { "x-forwarded-for": "203.0.113.9" };
    for (let turn = 0; turn < 3; turn++) {
      const response = await fetch(url, { tls: { ca: own.pem }, headers });
      const reader = response.body!.getReader();
      const first = await Promise.race([reader.read(), Bun.sleep(2_000)]);
      expect(Buffer.from(first?.value ?? []).toString()).toBe("one"); // and "two" is not sent yet
      goOn();
      while (!(await reader.read()).done);
    }
    expect(Object.fromEntries(seen[0]!)).toMatchObject({
      host: "localhost", "x-forwarded-proto": "https",
      "x-forwarded-for": expect.stringMatching(/^203\.0\.113\.9, (127\.0\.0\.1|::1)$/),
    });
    expect(ports.size).toBe(1);
  });

  test("nginx takes TLS with forward secrecy alone, and tells no version", async () => {
    const own = await certificate();
    const { https, plain } = await nginxBefore(1, own);
    const isTaken = (...how: string[]) => spawnSync(OPENSSL!,
      ["s_client", "-connect", `127.0.0.1:${https}`, ...how], { input: "" }).status === 0;
    const suites = ["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-CHACHA20-POLY1305", "AES128-SHA",
      "AES128-GCM-SHA256", "ECDHE-RSA-AES128-SHA"];
    const taken = suites.filter((suite) => isTaken("-tls1_2", "-cipher", suite));
    expect(taken).toEqual(suites.slice(0, 2));
    expect(isTaken("-tls1_3")).toBe(true);
    expect(isTaken("-tls1_1", "-cipher", "ALL:@SECLEVEL=0")).toBe(false);
    expect((await plain("/")).headers.get("server")).toBe("nginx");
  });

  test.skipIf(noSix !== "")(`nginx listens on IPv6 too${noSix}`, async () => {
    const own = await certificate();
    const { http, https } = await nginxBefore(1, own);
    const moved = await fetch(`http://[::1]:${http}/`, {
      redirect: "manual", headers: { host: "localhost" },
    });
    expect(moved.status).toBe(308);
    const six = await fetch(`https://[::1]:${https}/`, {
      headers: { host: "localhost" }, tls: { ca: own.pem, serverName: "localhost" },
    });
    expect(six.status).toBe(502); // nobody is behind it
  });
});

// ---- The database ----

describe.skipIf(noPublic !== "")(`The role that can do no more than serve${noPublic}`, () => {
  const asRole = (url: string) => url.replace("//reader:", "//connector:");
  let url = "";
  beforeAll(async () => {
    const database = await server.database();
    await (await postgresStore(database)).close(); // the owner's start
    const owner = postgres(database, { max: 1, onnotice: () => {} });
    await owner.unsafe(blockWith("create role")).simple();
    await owner.end();
    url = asRole(database);
  });

  test("starts, and serves in public: a first visit, a save, an undo, erasing", async () => {
    const own = await certificate();
    const service = await signInService(own);
    const RESOURCE_URL = "https://localhost/mcp";
    const room = await startGateway({
      ...five(url, { RESOURCE_URL, ...service }),
      NODE_ENV: "production",
      NODE_EXTRA_CA_CERTS: own.cert,
    });
    const token = await mint({ iss: service.AUTH_ISSUER, aud: RESOURCE_URL });
    const call = (name: string, args: object = {}) =>
      callAt(room.mcp, token, own.pem, name, args);
    const { session } = await call("begin_session");
    await call("user_write", { session, mood: "calm" });
    await call("user_undo", { session });
    const { confirm } = await call("user_forget_me", { session });
    expect(confirm).toBeString();
    await call("user_forget_me", { session, confirm });
    await room.stop();
  });

  test("keeps what is reserved", async () => {
    const store = await postgresStore(url);
    await store.welcome("a|b", null);
    const { version } = (await store.read("a|b"))!;
    const next = { state: {}, receipts: [] };
    expect(await store.commit("a|b", version, next, ["slot 1"])).toBe(true);
    expect(await store.reserved("slot")).toEqual(["slot 1"]);
    await store.close();
  });

  test.each([
    "create table more (id int)", "drop table users", "truncate users cascade",
    "alter table users add column more int",
  ])("can't %s", async (text) => {
    const sql = postgres(url, { max: 1, onnotice: () => {} });
    expect(await sql.unsafe(text).catch((error) => error.code)).toBe("42501");
    await sql.end();
  });

  test("is told 42501 where a start has to make tables", async () => {
    const env = { DATABASE_URL: asRole(await server.database()) };
    await expectRefusedStart(env, /can't be used \(.*42501/);
  });

  test("is cut off by the database after five seconds", async () => {
    const sql = postgres(url, { max: 1 });
    const begun = performance.now();
    const code = await sql`select pg_sleep(20)`.catch((error) => error.code);
    expect(code).toBe("57014");
    expect(Math.round((performance.now() - begun) / 1000)).toBe(5);
    await sql.end();
  });
});

const OLD = "https://old.example.com|";
const NEW = "https://new.example.com|";
const OTHERS = ["https://old.example.com.evil|ada", "https://oldXexample.com|ada", "local|ada"];
const MOVING = blockWith("insert into moved");

/** As `psql -v ON_ERROR_STOP=1` and `sqlite3 -bail` do: who breaks off has written nothing. */
async function runScript({ kind, url }: Place, sql: string) {
  if (kind === "postgres") {
    const connection = postgres(url, { max: 1, onnotice: () => {} });
    return connection.unsafe(sql).simple().finally(() => connection.end());
  }
  const file = new Database(url.slice("sqlite:".length)); // foreign keys are off, as in sqlite3
  try {
    file.run(sql);
  } finally {
    file.close();
  }
}

describe.each([["sqlite", ""], ["postgres", noPostgres]])("Another issuer, on %s%s", (kind, no) => {
  /** People with something kept, and each with something reserved. */
  async function settled() {
    const place = await (kind === "sqlite" ? sqlitePlace() : postgresPlace(server));
    const store = await place.store();
    for (const id of [`${OLD}ada`, `${OLD}auth0|b%_`, ...OTHERS]) {
      await store.welcome(id, `${id.at(-1)}@example.com`);
      const { version } = (await store.read(id))!;
      await store.commit(id, version, { state: { is: id }, receipts: [] }, [`of ${id}`]);
    }
    const readAll = (...ids: string[]) => Promise.all([...ids, ...OTHERS].map(store.read));
    const tables = () => Promise.all([
      place.rows("select * from users order by id"),
      place.rows("select * from user_state order by user_id"),
      place.rows<{ user_id: string }>("select * from user_reserved order by user_id"),
    ]);
    const close = async () => (await store.close(), place.close());
    return { place, store, readAll, tables, close };
  }

  test.skipIf(no !== "")("people move with all that is theirs, and nobody else does", async () => {
    const { place, store, readAll, tables, close } = await settled();
    const before = await readAll(`${OLD}ada`, `${OLD}auth0|b%_`);
    await runScript(place, MOVING);
    expect(await readAll(`${NEW}ada`, `${NEW}auth0|b%_`)).toEqual(before);
    const [users, states, reserved] = await tables();
    expect([users.length, states.length]).toEqual([5, 5]);
    const ids = [`${NEW}ada`, `${NEW}auth0|b%_`, ...OTHERS].sort();
    expect(reserved.map((one) => one.user_id).sort()).toEqual(ids);
    // And they go on: one reserves something else, and a person is erased with theirs.
    const change = async (id: string, names: string[]) => {
      const { version } = (await store.read(id))!;
      expect(await store.commit(id, version, { state: {}, receipts: [] }, names)).toBe(true);
    };
    await change(`${NEW}auth0|b%_`, []);
    await change(`${NEW}ada`, ["new"]);
    expect(await store.reserved(`of ${OLD}`)).toEqual([]);
    const { version } = (await store.read(`${NEW}ada`))!;
    expect(await store.forget(`${NEW}ada`, version)).toBe(true);
    expect(await store.reserved("new")).toEqual([]);
    await close();
  });

  test.skipIf(no !== "")("with a list of one's own, to other subs too", async () => {
    const { place, store, close } = await settled();
    const list = `insert into moved values ('${OLD}auth0|b%_', '${NEW}user_2x');`;
    const own = MOVING.replace(/insert into moved\n[^;]*;/, list);
    expect(own).toContain(list);
    await runScript(place, own);
    expect((await store.read(`${NEW}user_2x`))!.state).toEqual({ is: `${OLD}auth0|b%_` });
    expect((await store.read(`${OLD}ada`))!.state).toEqual({ is: `${OLD}ada` });
    await close();
  });

  test.skipIf(no !== "")("who is there under both ids stops it: nothing has changed", async () => {
    const { place, store, tables, close } = await settled();
    await store.welcome(`${NEW}ada`, null);
    const before = await tables();
    const ended = await runScript(place, MOVING).then(() => "moved", (error) => error.code);
    expect(ended).toMatch(/^(23505|SQLITE_CONSTRAINT_PRIMARYKEY)$/);
    expect(await tables()).toEqual(before);
    await close();
  });
});

test.skipIf(noPosix !== "")(`a backup of SQLite while somebody saves has what was saved${noPosix}`,
  async () => {
  const folder = await scratch();
  const DATABASE_URL = `sqlite:${join(folder, "connector.sqlite")}`;
  const room = await startGateway({ DATABASE_URL, RATE_LIMIT_PER_MINUTE: "1000000" });
  const call = await personAt(room, "ada");
  let [kept, isRunning] = [0, true];
  const saving = (async () => {
    for (let mood = 1; isRunning; mood++) {
      const { isError } = await call("user_write", { mood: String(mood) });
      if (!isError) kept = mood;
    }
  })();
  await until(() => kept > 5);
  const least = kept;
  const backup = ["-c", blockWith("vacuum into")];
  const { status, stderr } = spawnSync("sh", backup, { cwd: folder, encoding: "utf8" });
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  isRunning = false;
  await saving;
  await room.stop();
  const copies = readdirSync(folder).filter((name) => name.startsWith("backup-"));
  expect(copies).toHaveLength(1);
  const copy = join(folder, copies[0]!);
  expect(statSync(copy).mode & 0o777).toBe(0o600);
  const restored = await startGateway({ DATABASE_URL: `sqlite:${copy}` });
  const back = await personAt(restored, "ada");
  const { state } = (await back("user_get_state")).structuredContent!;
  expect(Number(state.mood)).toBeGreaterThanOrEqual(least);
  await restored.stop();
});

// ---- How far it goes ----

const HOW_FAR = section("How far it goes");
const BENCH = await read("bench/RESULTS.md").catch(() => ""); // who deletes it shows no figures

test.skipIf(!BENCH)("the page's arithmetic is that of the bench on Postgres", () => {
  const ours = BENCH.match(/^\| [^|]+, Postgres \| Bun \| 20[\d-]+ \| 16 \|.*$/gm)!;
  const micros = ours.map((line) => Number(line.split(" | ").at(-2)));
  const measured = micros.flatMap((one, at) => (at % 2 === 0 ? [[one, micros[at + 1]!]] : []));
  const told = HOW_FAR.split("\n").map((line) => line.split(" | "))
    .filter((cells) => /^\d+ \/ \d+$/.test(cells[1] ?? ""));
  expect(told).toHaveLength(3);
  for (const [row, pair, perSecond] of told) {
    const found = measured.find((one) => one.join(" / ") === pair);
    expect([row, pair, found]).toEqual([row, pair, expect.any(Array)]);
    const rounded = found!.map((micro) => Number((1e6 / micro).toPrecision(3)));
    expect(perSecond!.replaceAll(",", "")).toBe(rounded.join(" / "));
  }
});

/** A way to Postgres that counts the statements, and the messages that each waits for. */
async function countingWay(databaseUrl: string) {
  const [url, target] = [new URL(databaseUrl), Number(new URL(databaseUrl).port)];
  const count = { statements: 0, trips: 0 };
  const way = createServer((near) => {
    const far = connect(target, "127.0.0.1").on("error", () => {});
    far.on("data", (bytes: Buffer) => near.write(bytes));
    near.on("error", () => {}).on("close", () => far.destroy()).on("data", (bytes: Buffer) => {
      count.trips++;
      if (bytes.toString("latin1", 0, 1) === "P") count.statements++; // Parse
      far.write(bytes);
    });
  });
  await new Promise<void>((done) => way.listen(0, "127.0.0.1", done));
  atEnd(() => way.close());
  url.port = String((way.address() as AddressInfo).port);
  return { url: url.href, count };
}

test.skipIf(noPostgres !== "")(`a call takes as many round trips as it says${noPostgres}`,
  async () => {
  const { url, count } = await countingWay(await server.database());
  const room = await gateway({ store: await postgresStore(url) });
  const counted = async (work: () => Promise<unknown>) => {
    Object.assign(count, { statements: 0, trips: 0 });
    await work();
    return `${count.statements} | ${count.trips}`;
  };
  const first = await counted(() => room.enter("ada"));
  const ada = await room.enter("ada");
  const look = () => ada.use("domain_get_word", { word: "fern" });
  const took: Record<string, string> = {
    "a look (no memory)": await counted(look),
    "`begin_session`, of somebody known": await counted(() => room.enter("ada")),
    "a save": await counted(() => ada.use("user_write", { mood: "calm" })),
    "`begin_session`, the first ever": first,
  };
  const rows = HOW_FAR.matchAll(/^\| ([^|]+) \|.*\| (\d+ \| \d+) \|$/gm);
  expect(took).toEqual(Object.fromEntries([...rows].map(([, call, said]) => [call!, said!])));
  await room.store.close();
});
