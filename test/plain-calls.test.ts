// A plain call is answered by us, everything else by the SDK. So each request here goes to two
// servers, ours and a copy that leaves every call to the SDK: their answers have to be equal.

import { beforeAll, describe, expect, test } from "bun:test";
import { cp, mkdir, symlink } from "node:fs/promises";
import { join } from "node:path";
import type * as ours from "../main.ts";
import type { sampleApp } from "./sample-app.ts";
import { gateway, mint, ROOT, scratch } from "./support.ts";

const VERSION = "io.modelcontextprotocol/protocolVersion";
const CLIENT = "io.modelcontextprotocol/clientInfo";
const CAPABILITIES = "io.modelcontextprotocol/clientCapabilities";
const TASK = "io.modelcontextprotocol/related-task";

interface Message {
  params: Record<string, unknown> & { arguments: object; _meta?: Record<string, unknown> };
  [key: string]: unknown;
}
interface Sent {
  headers: Record<string, string>;
  message: Message;
}
type Odd = (sent: Sent) => unknown; // what it gives, if anything, is sent as the body

function plain(era: string, name: string, args: object): Sent {
  const isModern = era === "2026-07-28";
  const envelope = { [VERSION]: era, [CLIENT]: { name: "test", version: "1" }, [CAPABILITIES]: {} };
  const params = { name, arguments: args, ...(isModern && { _meta: envelope }) };
  return {
    headers: {
      "content-type": "application/json",
      accept: "application/json, text/event-stream",
      "mcp-protocol-version": era,
      ...(isModern && { "mcp-method": "tools/call", "mcp-name": name }),
    },
    message: { jsonrpc: "2.0", id: 1, method: "tools/call", params },
  };
}

// ---- What can be odd about a call ----

const header = (name: string, value?: string): [string, Odd] => [
  `${name}: ${value ?? "missing"}`,
  ({ headers }) => {
    if (value === undefined) delete headers[name];
    else headers[name] = value;
  },
];
const field = (key: string, value?: unknown): [string, Odd] => [
  `${key} ${JSON.stringify(value)?.slice(0, 60) ?? "missing"}`,
  ({ message }) => { message[key] = value; },
];
const param = (key: string, value?: unknown): [string, Odd] => [
  `params.${key} ${JSON.stringify(value)?.slice(0, 60) ?? "missing"}`,
  ({ message }) => { message.params[key] = value; },
];
const meta = (key: string, value?: unknown): [string, Odd] => [
  `_meta.${key} ${JSON.stringify(value) ?? "missing"}`,
  ({ message }) => { message.params._meta = { ...message.params._meta, [key]: value }; },
];

/** Asked for nothing but a result, and right in every way: ours. */
const PLAIN: [string, Odd][] = [
  ["nothing odd", () => {}],
  ...["a", "", 0, -1, 2 ** 53 - 1].map((id) => field("id", id)),
  param("arguments"),
  param("arguments", { session: "wrong" }),
  param("arguments", { constructor: 1 }),
  header("x-else", "1"),
  header("mcp-param-word", "fern"),
  header("mcp-session-id", "abc"),
  header("last-event-id", "1"),
  header("accept", "application/json, text/event-stream, */*"),
  header("accept", "text/event-stream, application/json"),
  header("accept", "application/json;q=0.9,text/event-stream;q=0.1"),
];
/** Odd whatever the era. */
const ODD: [string, Odd][] = [
  ...["text/plain", "application/json; charset=utf-8", "Application/JSON", ""].map((type) =>
    header("content-type", type)),
  header("content-type"),
  ...["2024-01-01", "2025-11-26", "2026-07-27", "2026-07-29", "1", ""].map((version) =>
    header("mcp-protocol-version", version)),
  header("mcp-protocol-version"),
  ...[null, 1.5, true, {}, [], 2 ** 53, undefined].map((id) => field("id", id)),
  ...["1.0", 2, null, undefined].map((version) => field("jsonrpc", version)),
  ...["tools/list", "ping", "initialize", "server/discover", "tools/call ", "Tools/call",
    "notifications/cancelled", "", 1, null, undefined].map((method) => field("method", method)),
  ...[null, [], "a", 1, undefined, {}].map((params) => field("params", params)),
  field("result", {}),
  field("error", { code: 1, message: "a" }),
  field("else", 1),
  ...["no_such_tool", "", "constructor", "HEALTH", 1, null, undefined].map((name) =>
    param("name", name)),
  ...[null, [], [1], "a", 1, false].map((args) => param("arguments", args)),
  param("task", { ttl: 1000 }),
  param("task", null),
  param("inputResponses", {}),
  param("inputResponses", { a: { action: "accept", content: {} } }),
  param("inputResponses", 1),
  param("requestState", "a"),
  param("requestState", 1),
  param("else", 1),
  ...[null, [], "a", 1].map((value) => param("_meta", value)),
  ...["a", 1, {}, null, 1.5].map((token) => meta("progressToken", token)),
  ...[{ taskId: "a" }, 1, null].map((task) => meta(TASK, task)),
  meta("else/key", 1),
  meta("name", 1),
  meta("io.modelcontextprotocol/clientElse", 1),
  meta("io.modelcontextprotocol/clientInfo2", 1),
  meta("io.modelcontextprotocol/logLevel", "debug"),
  meta("io.modelcontextprotocol/logLevel", 1),
  meta("traceparent", 1),
  ...["2025-11-25", "2026-07-29"].map((version): [string, Odd] => [
    `${version} in header and envelope`,
    (sent) => {
      sent.headers["mcp-protocol-version"] = version;
      sent.message.params._meta = { [VERSION]: version, [CAPABILITIES]: {} };
    },
  ]),
  ["a batch", ({ message }) => [message]],
  ["a batch of two", ({ message }) => [message, { ...message, id: 2 }]],
  ["a result", () => ({ jsonrpc: "2.0", id: 1, result: {} })],
  ["an error", () => ({ jsonrpc: "2.0", id: 1, error: { code: 1, message: "a" } })],
  ["null", () => null],
  ["a number", () => 1],
];
/** Odd in one of the two eras: here it does not matter who answers. */
const EITHER: [string, Odd][] = [
  ...["2024-10-07", "2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"].map(
    (version) => header("mcp-protocol-version", version)),
  ...["2026-07-28", "2025-11-25", "2027-01-01", 1, null, undefined].map((version) =>
    meta(VERSION, version)),
  ...[1, null, {}, { name: "a" }, undefined].map((client) => meta(CLIENT, client)),
  ...[1, null, [], { elicitation: {} }, { elicitation: 1 }, undefined].map((capabilities) =>
    meta(CAPABILITIES, capabilities)),
  param("_meta", {}),
  param("_meta"),
];
const HEADERS_OF_2026: [string, Odd][] = [
  header("mcp-method"),
  ...["tools/list", "TOOLS/CALL", "", "tools/call, tools/call"].map((name) =>
    header("mcp-method", name)),
  header("mcp-name"),
  ...["config_get_rules", "", "=?base64?aGVhbHRo?=", "=?base64?%%?="].map((name) =>
    header("mcp-name", name)),
];
const ACCEPTS: [string, Odd][] = [
  header("accept"),
  ...["application/json", "text/event-stream", "*/*", "application/*, text/*", "", "text/html",
    "text/json, application/event-stream"].map((accept) => header("accept", accept)),
];
const ROWS = {
  "2025-11-25": [...PLAIN, ...ODD, ...EITHER, ...ACCEPTS],
  "2025-03-26": [...PLAIN, ...ACCEPTS],
  "2026-07-28": [...PLAIN, ...ODD, ...EITHER, ...HEADERS_OF_2026, ...ACCEPTS],
};

// ---- Two servers ----

type Gateway = Awaited<ReturnType<typeof gateway>>;
const env = { RATE_LIMIT_PER_MINUTE: "1000000" };
const token = await mint();
let servers: { server: Gateway; session: string }[];

/** main.ts without its own answers, and the sample app that goes with it. */
async function bySdkAlone(): Promise<Gateway> {
  const folder = await scratch();
  const source = await Bun.file(join(ROOT, "main.ts")).text();
  const line = "(await answerPlain(server, call, request, message))";
  expect(source.split(line)).toHaveLength(2);
  await Bun.write(join(folder, "main.ts"), source.replace(line, "undefined"));
  await mkdir(join(folder, "test"));
  await cp(join(ROOT, "test/sample-app.ts"), join(folder, "test/sample-app.ts"));
  for (const name of ["package.json", "node_modules"]) {
    await symlink(join(ROOT, name), join(folder, name));
  }
  const copy: typeof ours = await import(join(folder, "main.ts"));
  const app: typeof sampleApp = (await import(join(folder, "test/sample-app.ts"))).sampleApp;
  return gateway({ env, app, createServer: copy.createServer });
}
beforeAll(async () => {
  const both = [await gateway({ env }), await bySdkAlone()];
  servers = await Promise.all(both.map(async (server) => {
    const { structuredContent } = await server.call("begin_session", {}, token);
    return { server, session: structuredContent!.session as string };
  }));
});

/** The same, whenever it was said: keys, codes, references and times are another's each time. */
function lasting(text: string) {
  return text
    .replace(/\b\d{4}-\d\d-\d\dT[\d:.]+Z/g, "TIME")
    .replace(/(\\?"(?:session|confirm|id|undone|ref)\\?":\\?")[\w-]{8,18}(?=\\?")/g, "$1MADE-UP");
}
/** What came, as an event or not, and whether it was we who wrote it: the SDK begins with the result. */
async function answerOf(server: Gateway, { headers, message }: Sent, body: unknown = message) {
  const response = await server.send("/mcp", {
    method: "POST",
    headers: { ...headers, authorization: `Bearer ${token}` },
    body: JSON.stringify(body),
  });
  const text = await response.text();
  const data = text.match(/^data: (.*)$/m)?.[1] ?? text;
  const said = data.startsWith("{") ? JSON.parse(lasting(data)) : data;
  const by = data.startsWith('{"jsonrpc"') && said.result ? "us" : "the SDK";
  const [cache, type] = ["cache-control", "content-type"].map((name) => response.headers.get(name));
  return { answer: { status: response.status, said, cache }, by, type };
}
async function answersTo(era: string, name: string, args: object, odd: Odd) {
  const answers = [];
  for (const { server, session } of servers) {
    const sent = plain(era, name, { session, ...args });
    answers.push(await answerOf(server, sent, odd(sent)));
  }
  return { mine: answers[0]!, sdk: answers[1]! };
}
// ---- The rows ----

for (const [era, rows] of Object.entries(ROWS)) {
  describe(era, () => {
    test.each(rows)("a call with %s is answered as the SDK answers it", async (_, odd) => {
      const { mine, sdk } = await answersTo(era, "domain_get_word", { word: "fern" }, odd);
      expect(mine.answer).toEqual(sdk.answer);
      expect(sdk.by).toBe("the SDK");
      const isEither = EITHER.some((row) => row[1] === odd);
      const byUs = era === "2026-07-28" ? [...PLAIN, ...ACCEPTS] : PLAIN; // there it doesn't count
      const isPlain = byUs.some((row) => row[1] === odd);
      if (!isEither) expect(mine.by).toBe(isPlain ? "us" : "the SDK");
      if (mine.by === "us") expect(mine.type).toStartWith("application/json");
      else expect(mine.type).toBe(sdk.type);
    });
    test.each([
      ["begin_session", {}],
      ["health", {}],
      ["domain_list_words", {}],
      ["domain_get_word", { word: "nothing" }], // refused
      ["domain_get_word", { word: 1 }],
      ["domain_get_word", { session: "none" }],
      ["user_write", { mood: "calm", notes: { a: "one", b: "two" } }],
      ["user_write", { mood: "\u0000" }],
      ["user_seal", { name: "a" }],
      ["user_get_state", {}],
      ["user_get_profile", {}],
      ["user_list_actions", { limit: 2 }],
      ["user_undo", { action_id: "none" }],
      ["user_undo", {}],
      ["user_forget_me", {}],
      ["user_forget_me", { confirm: "none" }],
      ["config_get_rules", {}],
      ["config_get_persona", {}],
    ])("%s %j is answered as the SDK answers it, by us", async (name, args) => {
      const { mine, sdk } = await answersTo(era, name, args, () => {});
      expect(mine.answer).toEqual(sdk.answer);
      expect([mine.by, sdk.by]).toEqual(["us", "the SDK"]);
    });
  });
}
