// `bun run rehearse [URL]`: a careless model, played by a script, visits the running gateway. It
// tries what a real one tries sooner or later, slowly enough to be watched on the board, and prints
// a transcript to read aloud. It ends with code 1 if something got through. (PACE is the pause
// before each step, in milliseconds.)
//
// It works for any app: three calls that only the app can name are in seed/rehearsal.json. The two
// people are its own, new ones each time, and are erased at the end.

import { Database } from "bun:sqlite";
import {
  existsSync, mkdirSync, readFileSync, renameSync, rmdirSync, rmSync, statSync, writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import postgres from "postgres";
import { REHEARSAL, ROOT } from "./app.ts";

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

const { PORT, PACE = "1500", RESOURCE_URL, DATABASE_URL = "" } = process.env;
const [, , given, scriptFile] = process.argv;
const at = given || RESOURCE_URL || `http://localhost:${PORT || 8000}/mcp`;
const SCRIPT = scriptFile ?? join(ROOT, REHEARSAL);

/** What a server says could turn a terminal's text around. */
const plain = (text: string) => text.replace(/(?!\n)\p{C}/gu, "");
const oneLine = (text: string) => text.replace(/\s+/g, " ");
const print = (...lines: string[]) => console.log(plain(lines.join("\n")));
function giveUp(problem: string): never {
  console.error(plain(oneLine(`The rehearsal can't begin: ${problem}.`)));
  process.exit(1);
}

// ---- What one that was killed left, and the gateway ----

const LEFT = ".moved-by-the-rehearsal";
repairAll();
/** The memory gets its name back. */
function repairAll(): void {
  const folder = dirname(DATABASE_URL.replace(/^sqlite:/, "") || ".");
  if (!existsSync(folder)) return;
  for (const name of new Bun.Glob(`*${LEFT}`).scanSync(folder)) {
    const moved = join(folder, name);
    const file = moved.slice(0, -LEFT.length);
    const pid = existsSync(join(file, "process")) && readFileSync(join(file, "process"), "utf8");
    if (pid && isRunning(Number(pid))) giveUp(`another rehearsal is at it (process ${pid})`);
    putBack(moved, file);
    print(`(A rehearsal was killed, and ${file} was gone: it is back.)`);
  }
}
function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}
/** Nothing that somebody else put in the folder is removed: then this says so. */
function putBack(moved: string, file: string): void {
  if (existsSync(file)) {
    if (!statSync(file).isDirectory()) giveUp(`both ${file} and ${moved} are there: keep one`);
    rmSync(join(file, "process"), { force: true });
    rmdirSync(file);
  }
  renameSync(moved, file);
}

const door = await readDoor();
async function readDoor(): Promise<Door> {
  const where = URL.parse("/door.json", at) ?? giveUp(`${at} is no URL`);
  const response = await knock(where).catch(() =>
    giveUp(`nobody answers at ${at}. Start the server, or say by PORT or by URL where it is`));
  const found = (await readJson(response).catch(() => undefined)) as Door | undefined;
  const texts = [found?.name, found?.slug, found?.url, found?.signIn ?? ""];
  const isDoor = response.ok && texts.every((text) => typeof text === "string");
  if (!found || !isDoor) return giveUp(`what answers at ${at} is no gateway of this kind`);
  if (!found.signIn) giveUp("sign-in is off (AUTH_DISABLED), and it needs two people");
  // A token for somebody here goes nowhere else, whatever a server says of itself.
  const ours = [new URL("/mock-auth", at).href, "http://localhost:9000"];
  const isHere = ["localhost", "127.0.0.1", "[::1]"].includes(where.hostname);
  if (!isHere || found.url !== new URL("/mcp", at).href || !ours.includes(found.signIn)) {
    giveUp(`it plays with a server and a sign-in of this machine alone, and what answers at ${at} \
calls itself ${found.url} and signs people in at ${found.signIn}`);
  }
  return found;
}

/** What is asked is answered there, and soon: who sends us elsewhere is not believed. */
function knock(url: URL | string) {
  return fetch(url, { redirect: "error", signal: AbortSignal.timeout(5_000) });
}
async function readJson({ body }: Response): Promise<unknown> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of body ?? []) {
    text += decoder.decode(chunk as Uint8Array, { stream: true });
    if (text.length > 1_000_000) throw new Error("too much");
  }
  return JSON.parse(text);
}

// ---- Two people, and the chats of a model ----

const run = crypto.randomUUID().slice(0, 4);
const ADA = `ada-${run}`;
const BEN = `ben-${run}`;
const secrets = new Map<string, string>(); // what the transcript says instead

async function tokenOf(sub: string): Promise<string> {
  const mint = `${door.signIn}/token?sub=${sub}&aud=${door.url}`;
  const response = await knock(mint).catch(() => undefined);
  const text = (await response?.text()) ?? "nothing";
  const isToken = response?.ok && /^[\w-]+\.[\w-]+\.[\w-]+$/.test(text);
  const said = text.slice(0, 300);
  if (!isToken) giveUp(`it signs in by the local mock-auth.ts, and ${mint} says ${said}`);
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
function keyIn({ structuredContent, content }: Result, whose: string): string {
  if (!structuredContent) throw new Error(`begin_session says: ${content[0]?.text}`);
  const { session } = structuredContent;
  secrets.set(session, whose);
  return session;
}

// ---- The transcript ----

const count = { steps: 0, broken: 0, missed: 0 };
const hide = (text: string) =>
  [...secrets].reduce((all, [secret, words]) => all.replaceAll(secret, `(${words})`), text);

interface Step {
  title: string;
  rule: string;
  /** Whether the answer is what the rule wants. */
  holds(result: Result, text: string): boolean | Promise<boolean>;
}
async function tries(ask: Chat, tool: string, args: object, { title, rule, holds }: Step) {
  await Bun.sleep(Number(PACE));
  const result = await ask(tool, args);
  const text = result.content.map((part) => part.text).join(" ");
  const isHeld = await holds(result, text);
  if (!isHeld) count.broken++;
  const told = oneLine(hide(result.structuredContent?.summary ?? text));
  const short = told.length > 300 ? `${told.slice(0, 299)}…` : told;
  print("", `${++count.steps}. ${title}`,
    `   it tried    ${tool} ${hide(JSON.stringify(args))}`,
    `   came back   ${result.isError ? "an error: " : ""}${short}`,
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

const FILE = (DATABASE_URL || `sqlite:${door.slug}.sqlite`).replace("sqlite:", "");
const MOVED = FILE + LEFT;
const KNOWN = `select 1 from users where id like '%|${ADA}'`; // she is in the middle of this visit
const NOT_ITS = "DATABASE_URL is not the server's: start the rehearsal with the one that it has";

/** Starts again what `stopStore` stopped; does nothing when nothing is. */
let startStore = async (): Promise<unknown> => undefined;
let isLeaving = false; // from then on nothing is stopped any more

/** Stops the running gateway's store, or says why it can't. */
async function stopStore(kind: string): Promise<string | undefined> {
  if (kind === "postgres") {
    const { hostname = "" } = URL.parse(DATABASE_URL) ?? {};
    const isHere = /^(localhost|127\.0\.0\.1|\[::1\])$/.test(hostname);
    if (!isHere) return "DATABASE_URL names no Postgres on this machine"; // others may use it
    const sql = postgres(DATABASE_URL, { max: 1, onnotice: () => {} });
    startStore = () => sql.end({ timeout: 1 }); // its lock ends with it
    const known = await sql.unsafe(KNOWN).catch(() => []);
    if (known.length === 0) return startStore().then(() => NOT_ITS);
    // Others wait behind it, so it waits for nobody, and ends even if we hang.
    const locked = await sql.unsafe(`
      set lock_timeout = '1s'; set idle_in_transaction_session_timeout = '20s';
      begin; lock table user_state in access exclusive mode`).catch(() => undefined);
    if (locked && !isLeaving) return undefined;
    return startStore().then(() => "somebody else is at its table");
  }
  if (DATABASE_URL && !DATABASE_URL.startsWith("sqlite:")) return NOT_ITS;
  if (isLeaving || !existsSync(FILE) || !isSettled(FILE)) {
    return `${FILE} is not what the server keeps. Start the rehearsal in the server's folder, with \
its DATABASE_URL; a memory that is no file can't be stopped`;
  }
  print("", `   (For this, ${FILE} is called ${MOVED} for a moment.)`);
  startStore = async () => {
    if (existsSync(MOVED)) putBack(MOVED, FILE);
  };
  process.on("exit", () => void startStore()); // it does not wait for anything
  // A folder takes its place, so that a server that is started meanwhile makes no new memory there.
  // It is made first: a full disk is noticed before anything has moved.
  const folder = `${FILE}.folder`;
  mkdirSync(folder);
  writeFileSync(join(folder, "process"), String(process.pid)); // the next one mends what we left
  renameSync(FILE, MOVED);
  renameSync(folder, FILE);
  return undefined;
}
/** Whether it is the server's: she is in it; and whole: its log is written into it. */
function isSettled(file: string): boolean {
  try {
    using db = new Database(file, { readwrite: true, create: false });
    const isKnown = db.query(KNOWN).get() !== null;
    return isKnown && db.query("pragma wal_checkpoint(truncate)").values()[0]?.[0] === 0;
  } catch {
    return false; // another file of that name
  }
}

async function withoutStore(ask: Chat, session: string): Promise<void> {
  const title = "The memory is gone in the middle of the visit";
  const { structuredContent } = await ask("health", {});
  const reason = await stopStore(structuredContent!.store);
  if (reason) return notShown(title, reason);
  const holds = isRefused(/ can't continue right now\./);
  await tries(ask, "user_get_state", { session }, { title, rule: FAIL, holds });
  await Bun.sleep(Number(PACE));
  await startStore();
  await tries(ask, "user_get_state", { session }, {
    title: "The memory is back, and the visit goes on",
    rule: "The same key still opens it: a key is no row in a database.",
    holds: isFine,
  });
}

// ---- The story ----

/** @returns the key of the visit that it opens in the end, and what is kept by then. */
async function carelessly(ask: Chat, ben: Chat): Promise<[session: string, state: unknown]> {
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
  return [session, opened.structuredContent?.state];
}

/** Reads, saves, and goes on in a chat that knows nothing of this one. */
async function happily(ask: Chat, session: string, before: unknown, script: Script, token: string) {
  const { read, save } = script;
  await tries(ask, read.tool, { session, ...read.args }, {
    title: "It looks something up, and speaks from what came back",
    rule: "The app is asked in this chat: the model has something to speak from.",
    holds: isFine,
  });
  let kept: unknown;
  await tries(ask, save.tool, { session, ...save.args }, {
    title: "It saves something for the person",
    rule: "It is kept for the person of the token, and on record with a receipt.",
    holds: async ({ isError }) => {
      const state = await ask("user_get_state", { session });
      const list = await ask("user_list_actions", { session });
      kept = state.structuredContent?.state;
      const [receipt] = list.structuredContent?.actions ?? [];
      return !isError && !Bun.deepEquals(kept, before) && receipt?.tool === save.tool;
    },
  });
  await tries(await newChat(token), "begin_session", {}, {
    title: "A brand-new chat, which knows nothing of this one, goes on from there",
    rule: "What is remembered is the person's, whatever app or chat they come with.",
    holds: ({ structuredContent }) => Bun.deepEquals(structuredContent?.state, kept),
  });
}

/** The first of the two calls that erase somebody; gives the second. */
async function beginForgetting(ask: Chat) {
  const session = keyIn(await ask("begin_session", {}), "its key");
  const { structuredContent } = await ask("user_forget_me", { session });
  const { confirm } = structuredContent!;
  secrets.set(confirm, "the code");
  return { session, confirm };
}

/** The app's own three calls, or why they can't be made. */
async function readScript(): Promise<Script | string> {
  const script = await Bun.file(SCRIPT).json().catch(() => undefined);
  if (!script) return `${SCRIPT} is missing, or is not JSON`;
  for (const name of ["missing", "read", "save"]) {
    const tool = script[name]?.tool;
    const isOurs = door.tools?.some((one) => one.name === tool);
    if (!isOurs) return `${SCRIPT}: "${name}" has to name a tool of this app (got ${tool})`;
  }
  return script;
}

async function story(ask: Chat, ben: Chat, token: string): Promise<void> {
  const [session, before] = await carelessly(ask, ben);
  const script = await readScript();
  if (typeof script !== "string") {
    const { tool, args } = script.missing;
    await tries(ask, tool, { session, ...args }, {
      title: "It asks for what isn't there",
      rule: "An error that says so, and what there is: nothing to make up.",
      holds: ({ isError }) => isError === true,
    });
  } else notShown("It asks for what isn't there", script);
  await withoutStore(ask, session);
  if (typeof script !== "string") await happily(ask, session, before, script, token);
  else notShown("It looks up and saves, and a brand-new chat goes on from there", script);
  await tries(ask, "user_forget_me", await beginForgetting(ask), {
    title: "The person wants to be forgotten, and the model asked them twice",
    rule: "Only a second call erases, with a code that is bound to what there is.",
    holds: ({ structuredContent }) => structuredContent?.forgotten === true,
  });
}
async function rehearse(): Promise<void> {
  const [adas, bens] = [await tokenOf(ADA), await tokenOf(BEN)];
  print(`A careless model visits the ${oneLine(door.name)} at ${door.url}.`);
  if (door.board) print(`Watch it on the board: ${new URL("/#board", door.url)}`);
  print(`There the model's person is ${ADA}; ${BEN} is Ben, somebody else.`);
  const [ask, askForBen] = [await newChat(adas), await newChat(bens)];
  const clean = async () => {
    isLeaving = true;
    await startStore();
    for (const chat of [ask, askForBen]) await chat("user_forget_me", await beginForgetting(chat));
  };
  let cleaning: Promise<void> | undefined;
  const leave = () => (cleaning ??= clean()); // once, however it ends
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"]) {
    process.on(signal, async () => {
      const end = "Broken off: the memory is where it was, and the two people are erased.";
      await leave().then(() => print("", end), ({ message }) => print("", LEAVES, message));
      process.exit(1);
    });
  }
  await story(ask, askForBen, adas).finally(leave);
  const { steps, broken, missed } = count;
  const rest = missed > 0 ? ` ${missed} could not be shown here.` : "";
  const shown = steps - missed;
  print("", `The two people are erased. ${shown - broken} of ${shown} held.${rest}`);
  process.exit(broken > 0 ? 1 : 0);
}
const LEAVES = `Broken off. The memory is where it was; ${ADA} and ${BEN} may still be in it.`;
await rehearse().catch(({ message }) => {
  console.error(plain(`${LEAVES}\n${oneLine(message)}`));
  process.exit(1);
});
