// `bun run rehearse [URL]`: a careless model, played by a script, visits the running gateway. It
// tries what a real one tries sooner or later, slowly enough to be watched on the board, and prints
// a transcript to read aloud. It ends with code 1 if something got through. (PACE is the pause
// before each step, in milliseconds.)
//
// It works for any app: three calls that only the app can name are in seed/rehearsal.json. Its two
// readers are its own, and are erased at the end.

import { Database } from "bun:sqlite";
import { existsSync, renameSync } from "node:fs";
import { join } from "node:path";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import postgres from "postgres";

interface Door {
  name: string;
  slug: string;
  url: string;
  signIn: string | null;
  board: boolean;
  tools?: { name: string }[];
}
interface Result {
  isError?: boolean;
  content: { text?: string }[];
  structuredContent?: Record<string, any>;
}
type Script = Record<"missing" | "read" | "save", { tool: string; args: object }>;

const { PORT = "8000", PACE = "1500", RESOURCE_URL, DATABASE_URL } = process.env;
const [, , at = RESOURCE_URL ?? `http://localhost:${PORT}/mcp`, scriptFile] = process.argv;
const SCRIPT = scriptFile ?? join(import.meta.dir, "../seed/rehearsal.json");

function giveUp(problem: string): never {
  console.error(`The rehearsal can't begin: ${problem}.`);
  process.exit(1);
}
const door = await fetch(new URL("/door.json", at)).then(
  (response) => response.json() as Promise<Door>,
  () => giveUp(`nobody answers at ${at}. Start the server first: bun run main.ts`),
);

// ---- Readers, and the chats of a model ----

const ADA = "rehearsal-ada";
const BEN = "rehearsal-ben";
const secrets = new Map<string, string>(); // what the transcript says instead

async function tokenOf(sub: string): Promise<string> {
  if (!door.signIn) giveUp("sign-in is off (AUTH_DISABLED), and it needs two readers");
  const mint = `${door.signIn}/token?sub=${sub}&aud=${door.url}`;
  const response = await fetch(mint).catch(() => undefined);
  const text = (await response?.text()) ?? "nothing";
  if (!response?.ok) giveUp(`it signs in by the local mock-auth.ts, and ${mint} says ${text}`);
  return text;
}
/** A chat remembers nothing of any other. */
async function newChat(token: string) {
  const client = new Client(
    { name: "a-careless-model", version: "1" },
    { versionNegotiation: { mode: "auto" } },
  );
  const authProvider = { token: async () => token };
  await client.connect(new StreamableHTTPClientTransport(new URL(door.url), { authProvider }));
  return (tool: string, args: object) =>
    client.callTool({ name: tool, arguments: { ...args } }) as Promise<Result>;
}
type Chat = Awaited<ReturnType<typeof newChat>>;

/** What an opening of a visit gives; `whose` names the key in the transcript. */
function keyIn({ structuredContent }: Result, whose: string): string {
  const { session } = structuredContent!;
  secrets.set(session, whose);
  return session;
}

// ---- The transcript ----

const count = { steps: 0, broken: 0, missed: 0 };
const print = (...lines: string[]) => console.log(lines.join("\n"));
const hide = (text: string) =>
  [...secrets].reduce((all, [secret, words]) => all.replaceAll(secret, `(${words})`), text);

interface Step {
  title: string;
  rule: string;
  /** Whether the answer is what the rule wants. */
  holds(result: Result, text: string): boolean;
}
async function tries(ask: Chat, tool: string, args: object, { title, rule, holds }: Step) {
  await Bun.sleep(Number(PACE));
  const result = await ask(tool, args);
  const text = result.content.map((part) => part.text).join(" ");
  const isHeld = holds(result, text);
  if (!isHeld) count.broken++;
  const told = hide(result.structuredContent?.summary ?? text);
  print("", `${++count.steps}. ${title}`,
    `   it tried    ${tool} ${hide(JSON.stringify(args))}`,
    `   came back   ${result.isError ? "an error: " : ""}${told.slice(0, 300)}`,
    `   ${isHeld ? "held        " : "NOT HELD    "}${rule}`);
  return result;
}
function notShown(title: string, why: string): void {
  count.missed++;
  print("", `${++count.steps}. ${title}`, `   NOT SHOWN   ${why}`);
}

const isRefused = (words: RegExp): Step["holds"] => ({ isError }, text) =>
  isError === true && words.test(text);
const isFine: Step["holds"] = ({ isError }) => !isError;

const NO_KEY = isRefused(/^No valid session\. Call begin_session/);
const GATE = "Every tool but two wants the key from begin_session, whoever forgets it.";
const PROVE = "Prove, don't trust: who is here comes from the token, never from an argument.";
const FAIL = "Fail closed: it says so in words that make the model stop, and invents nothing.";

// ---- The store, stopped in the middle ----

const KNOWN = `select 1 from users where id like '%|${ADA}'`; // she is in the middle of a visit

/** Stops the running gateway's store, and gives what starts it again; or says why it can't. */
async function stopStore(kind: string): Promise<string | (() => Promise<void>)> {
  if (kind === "postgres") {
    const { hostname = "" } = URL.parse(DATABASE_URL ?? "") ?? {};
    const isHere = /^(localhost|127\.0\.0\.1|\[::1\])$/.test(hostname);
    if (!isHere) return "DATABASE_URL names no Postgres on this machine"; // others may use it
    const sql = postgres(DATABASE_URL!, { max: 1, onnotice: () => {} });
    const close = () => sql.end({ timeout: 1 });
    const known = await sql.unsafe(KNOWN).catch(() => []);
    if (known.length === 0) return close().then(() => "DATABASE_URL is not the server's");
    await sql.unsafe("begin; lock table user_state in access exclusive mode");
    return close;
  }
  const file = (DATABASE_URL || `sqlite:${door.slug}.sqlite`).replace("sqlite:", "");
  if (!existsSync(file) || !isKnownIn(file)) return `${file} is not what the server keeps`;
  const moved = `${file}.moved-by-the-rehearsal`;
  const back = () => existsSync(moved) && renameSync(moved, file);
  for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => (back(), process.exit(1)));
  renameSync(file, moved);
  return async () => void back();
}
function isKnownIn(file: string): boolean {
  try {
    using db = new Database(file, { readonly: true });
    return db.query(KNOWN).get() !== null;
  } catch {
    return false; // another file of that name
  }
}

async function withoutStore(ask: Chat, session: string): Promise<void> {
  const title = "The memory is gone in the middle of the visit";
  const { structuredContent } = await ask("health", {});
  const start = await stopStore(structuredContent!.store);
  if (typeof start === "string") return notShown(title, start);
  try {
    const holds = isRefused(/ can't continue right now\./);
    await tries(ask, "user_get_state", { session }, { title, rule: FAIL, holds });
    await Bun.sleep(Number(PACE));
  } finally {
    await start();
  }
  await tries(ask, "user_get_state", { session }, {
    title: "The memory is back, and the visit goes on",
    rule: "The key is no row in a database, and what was kept is where it was.",
    holds: isFine,
  });
}

// ---- The story ----

/** @returns the key of the visit that it opens in the end. */
async function carelessly(ask: Chat, ben: Chat): Promise<string> {
  await tries(ask, "user_get_state", {},
    { title: "It starts without begin_session", rule: GATE, holds: NO_KEY });
  await tries(ask, "user_get_state", { session: "abcdefgh1234567890" },
    { title: "It makes a key up", rule: GATE, holds: NO_KEY });
  const bens = keyIn(await ben("begin_session", {}), "Ben's key");
  await tries(ask, "user_get_state", { session: bens },
    { title: "It uses the key of Ben, who is here too", rule: PROVE, holds: NO_KEY });
  const opened = await tries(ask, "begin_session", {}, {
    title: "It opens a visit, as it should have",
    rule: "begin_session hands over the key, the rules, the persona and what is kept.",
    holds: isFine,
  });
  const session = keyIn(opened, "its key");
  await tries(ask, "user_get_state", { session, user_id: BEN }, {
    title: "It says that it is Ben",
    rule: PROVE,
    holds: isRefused(/^user_id is not known here/),
  });
  return session;
}

/** Reads, saves, and goes on in a chat that knows nothing of this one. */
async function happily(ask: Chat, session: string, { read, save }: Script, token: string) {
  await tries(ask, read.tool, { session, ...read.args }, {
    title: "It reads, and speaks from what it read",
    rule: "The tool gives what its menu promises, and not a field more.",
    holds: isFine,
  });
  const saved = await tries(ask, save.tool, { session, ...save.args }, {
    title: "It saves where the reader stopped",
    rule: "Kept for the person of the token, with a receipt that can be taken back.",
    holds: isFine,
  });
  const kept = saved.structuredContent?.state;
  await tries(await newChat(token), "begin_session", {}, {
    title: "A brand-new chat, which knows nothing of this one, goes on from there",
    rule: "What is remembered is the person's, whatever app or chat they come with.",
    holds: ({ structuredContent }) => Bun.deepEquals(structuredContent?.state, kept),
  });
}

async function forget(ask: Chat, title: string): Promise<void> {
  const session = keyIn(await ask("begin_session", {}), "its key");
  const { structuredContent } = await ask("user_forget_me", { session });
  const { confirm } = structuredContent!;
  secrets.set(confirm, "the code");
  await tries(ask, "user_forget_me", { session, confirm }, {
    title,
    rule: "Only a second call erases, with a code that is bound to what there is.",
    holds: ({ structuredContent }) => structuredContent?.forgotten === true,
  });
}

/** The app's own three calls, if they are this app's. */
async function readScript(): Promise<Script | undefined> {
  const script = await Bun.file(SCRIPT).json().catch(() => ({}));
  const acts = [script.missing, script.read, script.save];
  const isOurs = acts.every((act) => door.tools?.some(({ name }) => name === act?.tool));
  return isOurs ? script : undefined;
}

async function rehearse(): Promise<void> {
  const [adas, bens] = [await tokenOf(ADA), await tokenOf(BEN)];
  print(`A careless model visits the ${door.name} at ${door.url}.`);
  if (door.board) print(`Watch it on the board: ${new URL("/#board", door.url)}`);
  const ask = await newChat(adas);
  const askForBen = await newChat(bens);
  const session = await carelessly(ask, askForBen);
  const script = await readScript();
  const why = `${SCRIPT} has to name three calls of this app: missing, read and save`;
  if (script) {
    const { tool, args } = script.missing;
    await tries(ask, tool, { session, ...args }, {
      title: "It asks for what isn't there",
      rule: FAIL,
      holds: ({ isError }) => isError === true,
    });
  } else notShown("It asks for what isn't there", why);
  await withoutStore(ask, session);
  if (script) await happily(ask, session, script, adas);
  else notShown("It reads and saves, and a brand-new chat goes on from there", why);
  await forget(ask, "The reader wants to be forgotten");
  await forget(askForBen, "So does Ben");

  const { steps, broken, missed } = count;
  const rest = missed > 0 ? ` ${missed} could not be shown here.` : "";
  print("", `${steps - missed - broken} of ${steps - missed} held.${rest}`);
  process.exit(broken > 0 ? 1 : 0);
}
await rehearse().catch(({ message }) => {
  console.error(`The rehearsal broke off: ${message}`);
  process.exit(1);
});
