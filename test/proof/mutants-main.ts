// What each line of main.ts keeps out. Taken out or weakened in a copy, one at a time, it has to
// fail the tests named beside it: `bun run mutants`.

export interface Mutant {
  attack: string;
  from: string; // stands in the file exactly once
  to: string;
  tests: string;
  only?: string; // of those tests, because they take long
}

export const of = (tests: string, only?: string) =>
  (attack: string, from: string, to = ""): Mutant =>
    ({ attack, from, to, tests, ...(only && { only }) });
const config = of("test/config.test.ts");
const FORGERY = "test/proof/forgery.proof.ts";
const grammar = of(FORGERY, "the token's grammar");
const algorithm = of(FORGERY, "the token's algorithm");
const key = of(FORGERY, "the token's key");
const issuer = of(FORGERY, "the token's issuer");
const audience = of(FORGERY, "the token's audience");
const time = of(FORGERY, "the token's time|a good token");
const subject = of(FORGERY, "the token's subject");
const kind = of(FORGERY, "the token's (claimed )?kind");
const binding = of(FORGERY, "the token's binding");
const scope = of(FORGERY, "the token's scope");
const signIn = of("test/sign-in.test.ts");
const session = of("test/sessions.test.ts");
const gate = of("test/gate.test.ts");
const common = of("test/common-tools.test.ts");
const limits = of("test/limits.test.ts");
const http = of("test/http.test.ts");
const memory = of("test/memory.test.ts");
const stores = of("test/stores.test.ts");
const held = of("test/stores.test.ts", "row that somebody holds");
const busy = of("test/stores.test.ts", "another program is writing to");
const sqlite = of("test/stores.test.ts", "A SQLite file");
const FAULTS = "test/proof/faults.proof.ts";
const OUTAGES = "test/proof/outages.proof.ts";
const START = "test/proof/start.proof.ts";
const knocks = of(OUTAGES, "network that hangs up after many calls");
const SWEEP = "test/proof/sweep.proof.ts";
const logging = of("test/start.test.ts", "what a slow log");
const refused = of("test/start.test.ts", "A start is refused");
const ending = of("test/start.test.ts", "It ends on SIGTERM");

const JOSE = `await (async (t: string, ..._: unknown[]) => {
  const { decodeJwt, decodeProtectedHeader } = await import("jose");
  return { payload: decodeJwt(t), protectedHeader: decodeProtectedHeader(t) };
})(token, keys, {`;

export const MAIN_MUTANTS: Mutant[] = [
  // 2. Config
  config("stand-ins on an address that others reach", "isLoopback(HOST) && "),
  config("stand-ins in production", ` && NODE_ENV !== "production"`),
  config("127.0.0.1.evil.example taken for this machine", "\\[?::1\\]?)$/i", "\\[?::1\\]?)/i"),
  config("no sign-in behind a public tunnel", "local && !tunnel)", "local)"),
  config("no sign-in in production", `value === "1" && local && `, `value === "1" && `),
  config("tokens over plain http", ` && isLoopback(hostname));`, ");"),
  config("tokens over http in public", `(local && protocol === "http:"`, `(protocol === "http:"`),
  config("a password in a URL that gets printed", "username || password || hash", "hash"),
  config("an audience with two spellings", " && value === `${new URL(value).origin}/mcp`"),
  config("a scope that ends a header's text", "/^[ !#-[\\]-~]*$/.test(value)", "true"),
  config("the secret of .env.example", " && value !== EXAMPLE_SECRET"),
  config("a secret short enough to guess", "value.length >= 32 && "),
  config("a secret in the refusal", "/SECRET|DATABASE/.test(name)", "false"),
  config("a password in the refusal, in an odd spelling", ` || got.includes("@")`),
  config("an empty variable for a setting", "Object.entries(env).filter(([, value]) => value)",
    "Object.entries(env)"),
  config("the same local secret at every start", `randomBytes(32).toString("base64url")`,
    `"s".repeat(43)`),

  // 3. Sign-in check
  key("a token that anybody made up", "await jwtVerify(token, keys, {", JOSE),
  grammar("one token in two spellings", "if (!isCompactJwt(token)) throw", "if (false) throw"),
  grammar("bits that mean nothing", `.toString("base64url") === part`, `.length > 0`),
  algorithm("an algorithm that nobody chose", "    algorithms: ALGORITHMS,"),
  algorithm("RS384, which nobody chose either", `["RS256", "PS256"`, `["RS256", "RS384", "PS256"`),
  issuer("a token of another sign-in service", "    issuer: config.issuer,"),
  audience("a token given to another server", "    audience: config.resourceUrl,"),
  time("a token that is not good yet", "clockTolerance: 5,", "clockTolerance: 500_000,"),
  time("a clock that is a little ahead, refused", "clockTolerance: 5,", "clockTolerance: 0,"),
  time("a token that is over, or never says when", "if (secondsLeft <= 0)", "if (false)"),
  time("a token good for ages", "if (secondsLeft > YEAR)", "if (false)"),
  time("a token good for ten years", "const YEAR = 366 *", "const YEAR = 3660 *"),
  subject("a token of nobody", "if (!isPlain(sub, 255))", "if (false)"),
  subject("a name of any length", "|| value.length > max"),
  subject("a name with a control character", " && !/\\p{Cc}/u.test(value)"),
  subject("a name that is not well-formed", "value.isWellFormed() && ", ""),
  kind("a logout token", "if (!isJwt) throw", "if (false) throw"),
  kind("a kind that is a list", `typeof typ === "string" && `),
  kind("Keycloak's ID token", "/^(id|refresh|offline|logout)$/i", "/^(refresh|offline)$/i"),
  kind("Keycloak's refresh token", "/^(id|refresh|offline|logout)$/i", "/^(id|logout)$/i"),
  binding("a token bound to a key that its thief lacks", "if (cnf !== undefined)", "if (false)"),
  scope("scopes that can't be read", `if (!isRead) throw`, "if (false) throw"),
  limits("limits given as scp", ", scp ?? []].flat()", "].flat()"),
  limits("limits given as a list", "?? [], scp ?? []].flat()", `?? "", scp ?? ""]`),
  signIn("a good token thrown away for lack of keys", " || NO_KEYS.test(error.code)"),
  signIn("an empty room behind another port", "const isMock = config.mockAuth || (",
    "const isMock = false && ("),
  signIn("a namesake from another service", `isMock ? "local" : config.issuer`, `"local"`),
  signIn("an e-mail address that is not one", "isPlain(email, 320) ? email",
    "email ? String(email)"),
  signIn("a key service asked at every call", "if (performance.now() < notBefore)", "if (false)"),
  signIn("a key set without end", "if (body.tooLarge) throw", "if (false) throw"),
  signIn("a key service that never answers", "timeoutDuration: 2_000", "timeoutDuration: 60_000"),
  signIn("a key withdrawn and still trusted", "cacheMaxAge: 600_000", "cacheMaxAge: 6_000_000"),
  signIn("made-up keys that each cost a fetch", "cooldownDuration: 10_000", "cooldownDuration: 0"),

  // 4. Sessions
  gate("any key at all", `!keys.check("session", session)`, "!session"),
  session("a made-up key", "return isOurs && ", "return "),
  session("yesterday's key", " && head.readUInt32BE() > Date.now() / 1000"),
  session("somebody else's key", "[purpose, personId, head", "[purpose, head"),
  session("an old key with a new date", `personId, head.toString("hex")]`, "personId]"),
  session("a code for one thing used for another", "[purpose, personId, head", "[personId, head"),
  session("a key of another length", "|| !/^[\\w-]{18}$/.test(given)"),
  session("a key that is no text", `if (typeof given !== "string" || `, "if ("),
  session("two keys alike", "const head = randomBytes(7);", "const head = Buffer.alloc(7);"),

  // 5. The gate
  gate("a tool that somebody adds and forgets to guard", "if (!OPEN_TOOLS.includes(name) &&",
    "if (!/lend/.test(name) && !OPEN_TOOLS.includes(name) &&"),
  gate("a session echoed by what needs none", "const { session, ...args } = given;",
    "const { session } = given, args = given;"),
  gate("an argument that no tool knows", "input: z.strictObject(entry.input)",
    "input: z.object(entry.input) as never"),
  gate("NUL, and halves of characters", "if (odd) throw", "if (false) throw"),
  gate("a value repeated at any length", "String(key).slice(0, 40)", "String(key)"),
  gate("a refusal of any length", `.replace("✖ ", ""), 280)`, `.replace("✖ ", ""), 280_000)`),
  gate("a tool that answers too late", `new Fault("no answer in time")), left)`,
    `new Fault("no answer in time")), left + 1_000)`),
  gate("time counted from when the body was there", "tool: server.tools.get(name), arrived };",
    "tool: server.tools.get(name), arrived: performance.now() };"),
  gate("a call carried out when its time is over", "if (left <= 0) return",
    "if (false) return"),
  gate("a quiz's right answers", "if (checked.error) {", "if (false) {"),
  gate("a stray field passed over", "output: z.strictObject(entry.output)",
    "output: z.looseObject(entry.output) as never"),
  gate("what the database said, in an answer", "`The ${server.app.name} can't",
    "`${(error as Error)?.message} The ${server.app.name} can't"),
  gate("what the database said, in the log", "return [name, code, stack",
    "return [name, (error as Error)?.message, code, stack"),
  gate("a blind repeat of what may be done", "if (idempotentHint) fate", "if (true) fate"),
  gate("a save said to be in doubt, of what only reads", `if (readOnlyHint) fate = "";`),
  gate("a tool's name in the log that is none", `tool: tool ? name : "unknown"`, "tool: name"),
  gate("a ref that no log line has", "(ref ${call.ref})", "(ref 00000000)"),
  limits("a runaway loop", "return made <= callsPerMinute ? 0", "return true ? 0"),
  limits("people remembered for all time", "calls.clear();"),
  limits("a minute that a set clock moves", "const now = performance.now(); // a clock",
    "const now = Date.now(); // a clock"),
  limits("one budget for everybody", "secondsToWait(call.person.id)", `secondsToWait("")`),

  // 6. Common tools
  common("an app that forgets to fail closed", "`${rules}\\n\\n${FAIL_CLOSED}`", "rules"),
  common("instructions that forget it", "${instructions} ${FAIL_CLOSED}`", "${instructions}`"),
  common("a save erased by a code from before", "`forget ${row?.version}`", "`forget`"),
  common("a session key that erases", "`forget ${row?.version}`", "`session`"),
  common("a code good for a day", "const CONFIRM_SECONDS = 300", "const CONFIRM_SECONDS = 86_400"),
  common("a list without end", "}${words}`, ", "}${words}`, 100 * "),
  common("an erasing without a second step", "if (confirm !== undefined) {", "if (true) {"),

  // 7. HTTP
  http("a page elsewhere that takes our address", "!mcp.validateHostHeader(host, names).ok",
    "false"),
  http("a page elsewhere that calls from a browser",
    "if (!mcp.validateOriginHeader(origin, names).ok)", "if (false)"),
  http("a health check that asks once for each", "ping ??= store.ping()", "ping = store.ping()"),
  http("a health check that remembers", ".finally(() => { ping = undefined; })"),
  http("a proxy before a server without sign-in", "FORWARDED.test(name)", "false"),
  http("a request by no known scheme", `scheme!.toLowerCase() !== "bearer"`, "!scheme"),
  http("our trouble taken for the caller's", "throw answer(503,", "throw answer(401,"),
  http("a wrong audience without a hint", `throw challenge(parts, "invalid_token", hint)`,
    `throw challenge(parts, "invalid_token")`),
  limits("a token without a scope that all must carry",
    "config.scopes.every((scope) => person.scopes.includes(scope))", "true"),
  http("apps that register for reading alone", "[...new Set([...scopes, ...ours])] : scopes",
    "scopes : scopes"),
  limits("a save by a token that may only read", "return isLimited && !scopes.includes(needed)",
    "return isLimited && false"),
  limits("a service without our scopes, locked out",
    "const isLimited = ownScopes(app).some((scope) => scopes.includes(scope));",
    "const isLimited = true;"),
  limits("a scope that reads, taken for one that writes", `=== false ? "write" : "read"`,
    `=== false ? "read" : "read"`),
  http("a body of any size", "if (body.byteLength > BODY_BYTES)", "if (false)"),
  http("a hundred calls in one request", "if (Array.isArray(message)) throw", "if (false) throw"),
  http("a key that parsers take for something else", `if (key === "__proto__") throw`,
    "if (false) throw"),
  http("bytes that are no text", `new TextDecoder("utf-8", { fatal: true })`, "new TextDecoder()"),
  http("an answer kept by a cache", `response.headers.set("Cache-Control", "no-store");`),
  http("an error's words for the caller", `return answer(500, "server_error");`,
    `return answer(500, String((error as Error).message));`),
  http("any header from a page elsewhere", "/\\bmcp-[a-z0-9-]+/gi", "/[a-z0-9-]+/gi"),
  http("a page that can't read when to come again", "WWW-Authenticate, Retry-After",
    "WWW-Authenticate"),
  http("a browser shown a machine's answer", `?.includes("text/html")) return page(server);`,
    `?.includes("text/nothing")) return page(server);`),
  http("the outer wall of a body", "    maxRequestBodySize: 4 * BODY_BYTES,"),

  // 8. Memory
  gate("a write that nobody will hear of", "if (left < Math.max(WRITE_MS, took)) throw",
    "if (false) throw"),
  gate("a write sent in the last second", "Math.max(WRITE_MS, took)", "took"),
  of(FAULTS, "failed .800 ms")("a write over a network that was slow a moment ago",
    "Math.max(WRITE_MS, took)", "WRITE_MS"),
  memory("changes that leave their turns behind",
    "if (turns.get(personId) === turn) turns.delete(personId);"),
  memory("a turn that is over before its time", "if (turns.get(personId) === turn) turns",
    "turns"),
  memory("changes that don't take turns",
    "(turns.get(personId) ?? Promise.resolve()).then(work, work)", "work()"),
  memory("a turn that a failure ends for all", ".then(work, work)", ".then(work)"),
  memory("half of a value put back", "if (!isObject(kind) || Array.isArray(kind)) return",
    "if (false) return"),
  memory("a list put back in pieces", " || Array.isArray(kind)"),
  memory("names that every object has, taken for somebody's",
    "isObject(value) && Object.hasOwn(value, key) ?", "isObject(value) ?"),
  memory("a receipt for nothing", "if (changes.length === 0) return result;"),
  common("a change undone twice", "if (!target || target.undone)", "if (!target)"),
  common("an undone change that stands in the list", "{ ...one, undone: true }", "one"),
  memory("a change written into what it is compared with", "structuredClone(before)", "before"),
  common("a final change undone by name", "if (!target.undoable) throw", "if (false) throw"),
  common("an undo of an undo by default", ": !undone && !undoes);", ": !undone);"),
  common("a change undone under a later one",
    "if (target.changes.some((unit) => later.has(nameOfUnit(unit))))", "if (false)"),
  common("an undone change that stands in the way", ") => !undone && !undoes)", ") => !undoes)"),
  common("an undo that stands in the way", ") => !undone && !undoes)", ") => !undone)"),
  common("an undo of an undo", "undoable: !undoes && tool", "undoable: tool"),
  common("a final change forgotten", "undoable: !undoes && tool?.undoable !== false",
    "undoable: !undoes"),
  common("receipts without end", "[receipt, ...marked].slice(0, RECEIPTS).filter",
    "[receipt, ...marked].filter"),
  memory("receipts of any size", "return index === 0 || bytes <= RECEIPT_BYTES;", "return true;"),
  memory("receipts twice as large, in another alphabet",
    "Buffer.byteLength(JSON.stringify(one))", "JSON.stringify(one).length"),
  common("an undo beyond what State takes", "app.State.safeParse(next);\n    if (error)",
    "app.State.safeParse(next);\n    if (false)"),
  memory("a stored state that State does not take", "if (error) throw new Fault(\"what is stored",
    "if (false) throw new Fault(\"what is stored"),
  memory("a key of a new State, lost to who was here before", "{ ...empty, ...found?.state }",
    "found?.state ?? empty"),
  stores("a person without a state, said to be known", "if (found?.version && found.email",
    "if (found && found.email"),
  common("the e-mail that a person had before", " && found.email === email) return", ") return"),
  common("an erasing without its code", "(begun || agreed(found))", "true"),
  held("an erasing that says it failed, half-way", "(begun || agreed(found))", "agreed(found)"),
  held("an erasing that says it failed, at its second try",
    "begun = (await store.forget(id, found.version)) || begun;",
    "begun = await store.forget(id, found.version);"),
  held("an erasing said to be done, half-way", `if (begun && found?.version !== "") return true;`,
    "if (begun) return true;"),
  stores("somebody new, erased for who was here before",
    `if (begun && found?.version !== "") return true;`, "if (begun && !found) return true;"),

  // 9. Stores
  stores("a change over another's, unseen", "where user_id = $4 and version = $5 and",
    "where user_id = $4 and $5 = $5 and"),
  stores("a save erased that came in between", "where user_id = $1 and version = $2 and",
    "where user_id = $1 and $2 = $2 and"),
  stores("a forgotten person who comes back", `randomBytes(12).toString("base64url")`,
    `"1"`),
  stores("half a person erased", "and not exists (select 1 from user_state where user_id = $1)"),
  stores("a version lost at every welcome", "where user_state.version = ''"),
  stores("the e-mail that a person had before, again",
    "update set email = excluded.email`,\n      [id", "nothing`,\n      [id"),
  held("a wait in the database for a held row", "set_config('lock_timeout', '200ms', true)",
    "set_config('lock_timeout', '20s', true)"),
  held("a change that waits for a held row", "and version = $5 and ${promptly}`",
    "and version = $5`"),
  held("an erasing that waits for a held state", "and version = $2 and ${promptly}`",
    "and version = $2`"),
  held("an erasing that waits for a held person", "where id = $1 and ${promptly}", "where id = $1"),
  held("a welcome that waits for a held person", "case when ${promptly} then $2 end, $3)",
    "$2, $3)"),
  held("a welcome that waits for a held state", "'[]', case when ${promptly} then $2 end)",
    "'[]', $2)"),
  of(FAULTS, "failed .500 ms")("a welcome that goes on when its time is over",
    "if (performance.now() > sent + WRITE_MS) throw", "if (false) throw"),
  held("a held row taken for a failure", "/^(55P03|23503|", "/^(23503|"),
  stores("a visit that fails because the person is erased elsewhere", "/^(55P03|23503|",
    "/^(55P03|"),
  busy("a held file taken for a failure", "|SQLITE_BUSY.*|", "|"),
  sqlite("a file that was deleted, written to", "if (file() !== opened) throw", "if (false) throw"),
  sqlite("a file that was deleted, in the system's words", ", { throwIfNoEntry: false }"),
  sqlite("a file that everybody could read", "    chmodSync(path, 0o600);\n"),
  busy("a file that can't be opened while it is written", "!isBusy || performance.now() > end",
    "true"),
  sqlite("a save lost in a power cut", "pragma synchronous = full;", "pragma synchronous = off;"),
  sqlite("a reader who waits for a writer", "journal_mode = wal;", "journal_mode = delete;"),
  stores("tables as a learner made them", "    await addTables();"),
  stores("a member since nobody knows when", "= $1 where created_at is null",
    "= $1 where false"),
  stores("a check of health that no visit needs",
    "for (const statement of VISIT) await query(statement, [], ms);"),
  of(FAULTS, "seconds to wake")("a server that sleeps and can't be woken",
    "await ping(START_MS).catch", "await ping().catch"),
  of(FAULTS, "Postgres says nothing does")("tables made where nobody answers",
    "    if (error instanceof Fault) throw error; // no answer: the tables are not the trouble\n"),
  of(OUTAGES, "network that says nothing")("a pool that lost a connection, kept",
    "void mine.close(); // lost", "// lost"),
  of(OUTAGES, "nobody takes")("connections that are still being opened",
    "for (const socket of sockets) socket.destroy();"),
  knocks("a storm of connections", "retired || mayOpen === 0", "retired"),
  knocks("a connection for each try of a call", "    mayOpen--;\n"),
  knocks("connections owed to calls that are over",
    "mayOpen = Math.min(mayOpen, underWay);"),
  of(OUTAGES, "used for long")("a thousand connections", "max: 10,", "max: 1_000,"),
  of(OUTAGES, "network that is left alone")("connections that are never closed",
    "idle_timeout: IDLE_SECONDS,", "idle_timeout: 0,"),
  of(OUTAGES, "replicas that start")("replicas that start at once",
    "select pg_advisory_xact_lock(724301); "),
  of(OUTAGES, "nobody vouches for")("a server that nobody vouches for",
    ` && { ssl: "verify-full" }`, " && {}"),
  of(OUTAGES, "by its name")("a certificate that names somebody else",
    "    Object.assign(socket, { host }); // what the certificate has to name\n"),

  // 10. Start
  logging("a log that waits for its reader", "if (held > LOG_BYTES) return",
    "if (false) return"),
  logging("lines dropped and not counted", "dropped > 0 ? { ...line, dropped } : line", "line"),
  of(START, "of a Postgres address")("a password on the screen", "`postgres at ${hostname}`",
    "databaseUrl"),
  refused("a password in why it does not start", "can't be used (${nameOf(error)})",
    "can't be used (${String(error)})"),
  of(START, "beside another")("a second server on the same port", "reusePort: false,",
    "reusePort: true,"),
  of("test/start.test.ts", "nobody reads")("a reader of the log who has gone",
    `process.stdout.on("error", () => {});`),
  of(SWEEP, "twelve seconds")("a slow caller cut off", "idleTimeout: 60,", "idleTimeout: 10,"),
  ending("calls cut off at the end", "await Promise.race([server.stop(), Bun.sleep(8_000)]);"),
  ending("a server that nobody can stop at once", "if (stopping) process.exit(1);"),
  refused("an old Bun that fails somewhere inside", "!Bun.semver.satisfies(",
    "false && !Bun.semver.satisfies("),
];
