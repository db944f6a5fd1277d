// The requests: the bytes that are sent, for sixteen people in turn.

/** A revision of the protocol. */
export type Era = "2025-06-18" | "2025-11-25" | "2026-07-28";
export interface Person {
  token: string;
  session: string;
}
export interface Operation {
  name: string; // as in the tables
  method: "tools/list" | "tools/call";
  tool?: string;
  args?(person: Person, round: number): object;
}

export const ARTICLE_ID = "a1";
const ROUNDS = 100; // of different positions, so that each save changes something

const getArticle: Operation = {
  name: "domain_get_article",
  method: "tools/call",
  tool: "domain_get_article",
  args: ({ session }) => ({ id: ARTICLE_ID, session }),
};
const save: Operation = {
  name: "user_save_state",
  method: "tools/call",
  tool: "user_save_state",
  args: ({ session }, round) => ({
    reading: { id: ARTICLE_ID, position: `Stopped at line ${100 + round}.` },
    session,
  }),
};
const begin: Operation = {
  name: "begin_session",
  method: "tools/call",
  tool: "begin_session",
  args: () => ({}),
};
const list: Operation = { name: "tools/list", method: "tools/list" };
export const operations = { getArticle, save, list, begin };

/** One request of HTTP/1.1, whole. */
export function requestOf(port: number, era: Era, operation: Operation, person: Person, round = 0) {
  const { method, tool, args } = operation;
  const isNew = era === "2026-07-28"; // each request then says what a handshake said before
  const meta = isNew && {
    _meta: {
      "io.modelcontextprotocol/protocolVersion": era,
      "io.modelcontextprotocol/clientInfo": { name: "bench", version: "1.0.0" },
      "io.modelcontextprotocol/clientCapabilities": {},
    },
  };
  const called = tool && { name: tool, arguments: args?.(person, round) };
  const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method, params: { ...called, ...meta } });
  const headers = [
    `Host: localhost:${port}`,
    `Authorization: Bearer ${person.token}`,
    "Content-Type: application/json",
    "Accept: application/json, text/event-stream",
    `MCP-Protocol-Version: ${era}`,
    ...(isNew ? [`Mcp-Method: ${method}`] : []),
    ...(isNew && tool ? [`Mcp-Name: ${tool}`] : []),
    `Content-Length: ${Buffer.byteLength(body)}`,
  ];
  return `POST /mcp HTTP/1.1\r\n${headers.join("\r\n")}\r\n\r\n${body}`;
}

/** Everybody's requests, in the form that load.lua reads. */
export function requestsOf(port: number, era: Era, operation: Operation, people: Person[]) {
  const rounds = operation === save ? ROUNDS : 1;
  const all = Array.from({ length: rounds }, (_, round) =>
    people.map((person) => requestOf(port, era, operation, person, round)));
  return all.flat().join("\0");
}
