// What each line keeps out: `bun run mutants` takes a line of the sign-in check, the session check, the gate or the
// configuration out of a copy of main.ts, one at a time, and runs the tests. Every mutant has to die. The table it prints is
// the lesson of the README, which it rewrites (--check: only compares, for CI).

import { cp, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";

const ROOT = join(import.meta.dir, "..");
interface Mutant { attack: string; from: string; to: string; shown: string; tests: string }

const of = (tests: string) => (attack: string, from: string, to = "", shown = from): Mutant => ({ attack, from, to, shown, tests });
const [forged, signIn, session, config, http, limits] = [of("forgery"), of("6-sign-in"), of("7-sessions"), of("1-config"), of("8-http"), of("limits")];

const MUTANTS: Mutant[] = [
  forged("a token that anybody made up", "await jwtVerify(token, keys, {",
    "await (async (t: string, ..._: unknown[]) => { const jose = await import(\"jose\"); return { payload: jose.decodeJwt(t), protectedHeader: jose.decodeProtectedHeader(t) }; })(token, keys, {"),
  forged("a token signed by an algorithm that nobody chose", "    algorithms: ALGORITHMS,"),
  forged("a token of another sign-in service", "    issuer: config.issuer,"),
  forged("a token that the person gave to another server", "    audience: config.resourceUrl,"),
  forged("a token that is not good yet", "clockTolerance: 5,", "clockTolerance: 500_000,"),
  forged("a token that is over, or never says when", "if (secondsLeft <= 0) throw", "if (false) throw"),
  forged("a token good for thousands of years, its exp in milliseconds", "if (secondsLeft > 366 * 24 * 3600) throw", "if (false) throw"),
  forged("a token of nobody, or of a name that a database takes for another", "if (!isPlain(sub, 255)) throw", "if (false) throw"),
  forged("a name with a control character in it", " && !/\\p{Cc}/u.test(value)"),
  forged("a name that is not well-formed Unicode", " && value.isWellFormed()"),
  forged("a logout or proof token for an access token", "|| !/^((application\\/)?at\\+)?jwt$/i.test(typ)"),
  forged("a token bound to a key that its thief does not have", "if (cnf !== undefined) throw", "if (false) throw"),
  signIn("a good token thrown away, because we had no keys to check it with", " && !NO_KEYS.includes(error.code)"),
  signIn("a token without a scope that every token must carry", "scopes.every((scope) => claims.scopes.includes(scope))", "true"),
  signIn("a reader of the same name from another sign-in service", "id: `${config.issuer}|${claims.sub}`", "id: claims.sub"),
  forged("any key at all", "keys.check(\"session\", session)", "true"),
  forged("a made-up key with a fresh date on it", "timingSafeEqual(Buffer.from(given), Buffer.from(key(purpose, expires, about)))", "true"),
  forged("yesterday's key", " && expires > Date.now() / 1000"),
  forged("somebody else's key", "[purpose, personId, expires, about]", "[purpose, expires, about]"),
  forged("an old key with a new date on it", "[purpose, personId, expires, about]", "[purpose, personId, about]"),
  forged("a key of another length or alphabet", "if (typeof given !== \"string\" || !/^[\\w-]{24}$/.test(given)) return false;", "if (typeof given !== \"string\") return false;"),
  session("a tool that somebody adds and forgets to guard", "const isOpen = OPEN_TOOLS.includes(name);", "const isOpen = !/^(domain|user|config)_(list|search|get|save|undo|forget)/.test(name);"),
  session("an argument that no tool knows", "z.strictObject(input)", "z.object(input) as z.ZodObject<In>"),
  session("a tool that never answers", "await withDeadline(TOOL_MS - (performance.now() - arrived), tool.call(isOpen ? args : others, visit))", "await tool.call(isOpen ? args : others, visit)"),
  session("an answer that holds what the database said", "`The Reading Room can't continue right now.", "`${(error as Error).message} The Reading Room can't continue right now."),
  session("a log that holds what the database said", "return [error instanceof Late", "return [(error as Error)?.message, error instanceof Late"),
  session("a code for one thing used for another", "[purpose, personId, expires, about]", "[personId, expires, about]"),
  config("the desk's stand-ins on a server that others can reach", "const desk = isLoopback(host) && env.NODE_ENV", "const desk = env.NODE_ENV"),
  config("the desk's stand-ins in production", "isLoopback(host) && env.NODE_ENV !== \"production\"", "isLoopback(host)"),
  config("a machine called 127.0.0.1.evil.example taken for this one", "127(\\.\\d{1,3}){3}|\\[?::1\\]?)$/i", "127(\\.\\d{1,3}){3}|\\[?::1\\]?)/i"),
  config("no sign-in behind a public tunnel", "value === \"1\" && desk && !tunnel", "value === \"1\" && desk"),
  config("no sign-in in production", "value === \"1\" && desk && !tunnel", "value === \"1\" && !tunnel"),
  config("tokens and keys over plain http", "url.protocol === \"http:\" && desk && isLoopback(url.hostname)", "url.protocol === \"http:\""),
  config("a password in a URL that gets printed", "if (!url || url.username || url.password || url.hash) return false;", "if (!url) return false;"),
  config("an audience with two spellings", " && value === `${new URL(value).origin}/mcp`"),
  config("the secret that everybody can read in .env.example", " && value !== EXAMPLE_SECRET"),
  config("a secret short enough to guess", "value.length >= 32 && "),
  config("a secret printed in the refusal", "/SECRET|DATABASE/.test(name)", "false"),
  http("a page elsewhere that gives its name our address", "if (!ours(request.headers.get(\"host\")?.replace(/:\\d+$/, \"\"))) return", "if (false) return"),
  http("a page elsewhere that calls from a browser", "if (origin && !(", "if (false && !("),
  http("a body of any size", "if (body.byteLength > BODY_BYTES) return", "if (false) return"),
  http("a hundred calls in one request", "if (Array.isArray(parsedBody)) return", "if (false) return"),
  limits("a runaway loop", "if (seconds > 0) {", "if (false) {"),
  limits("a save by a token that may only read", "person.scopes.includes(needed)) return undefined;", "true) return undefined;"),
];

const README = join(ROOT, "README.md");
const START = "<!-- mutants: written by `bun run mutants` -->";
const END = "<!-- /mutants -->";

async function kill(mutant: Mutant, original: string): Promise<{ by: string | undefined; problem?: string }> {
  if (original.split(mutant.from).length !== 2) return { by: undefined, problem: `its line is there ${original.split(mutant.from).length - 1} times` };
  const copy = await mkdtemp(join(tmpdir(), "reading-room-mutant-"));
  try {
    for (const name of ["mock-auth.ts", "package.json", "tsconfig.json", ".env.example", "seed", "test"]) await cp(join(ROOT, name), join(copy, name), { recursive: true });
    await symlink(join(ROOT, "node_modules"), join(copy, "node_modules"));
    await writeFile(join(copy, "main.ts"), original.replace(mutant.from, () => mutant.to));
    const run = Bun.spawn(["bun", "test", "--bail", `./test/${mutant.tests}.test.ts`], { cwd: copy, stdout: "pipe", stderr: "pipe", env: { ...process.env, FORCE_COLOR: "0" } });
    const [out, err, code] = await Promise.all([new Response(run.stdout).text(), new Response(run.stderr).text(), run.exited]);
    if (code === 0) return { by: undefined };
    const by = `${out}\n${err}`.match(/^\(fail\) (.*?)( \[[\d.]+m?s\])?$/m)?.[1];
    return by ? { by } : { by: undefined, problem: `the tests did not run: ${err.slice(-300)}` };
  } finally {
    await rm(copy, { recursive: true, force: true });
  }
}

const original = await readFile(join(ROOT, "main.ts"), "utf8");
const results: Awaited<ReturnType<typeof kill>>[] = [];
let next = 0;
await Promise.all(Array.from({ length: Math.max(2, cpus().length) }, async () => {
  for (let n = next++; n < MUTANTS.length; n = next++) results[n] = await kill(MUTANTS[n]!, original);
}));
const cell = (text: string) => text.replaceAll("|", "\\|").replaceAll("\n", " ");
const table = ["| without | what gets in | the test that says so |", "|---|---|---|",
  ...MUTANTS.map(({ shown, attack, tests }, n) => `| \`\`${cell(shown.trim())}\`\` | ${attack} | ${tests}: ${cell(results[n]!.by ?? "NONE")} |`)].join("\n");
const survivors = MUTANTS.flatMap(({ attack }, n) => (results[n]!.by ? [] : [`${attack}${results[n]!.problem ? ` (${results[n]!.problem})` : ""}`]));
console.log(`${table}\n\n${MUTANTS.length} mutants, ${survivors.length} survived${survivors.map((one) => `\n  ${one}`).join("")}`);

const readme = await readFile(README, "utf8");
const written = readme.replace(new RegExp(`${START}[\\s\\S]*${END}`), () => `${START}\n${table}\n${END}`);
if (!process.argv.includes("--check")) await writeFile(README, written);
process.exit(survivors.length > 0 ? 1 : 0);
