// The suite can't sign in, and knows nothing of a session key: this stands between it and the
// gateway and adds both. Host and Origin go through as they came: their checks are tested, too.

import { atEnd } from "../cleanup.ts";

interface Message {
  method?: string;
  params?: { arguments?: object };
}
interface Additions {
  token: string;
  /** The key from begin_session, which a model would put into each call of a tool. */
  session?: string;
  /** A method that is answered with 500, as by a gateway that is broken. */
  broken?: string;
}

export function proxyTo(gateway: string, { token, session, broken }: Additions): string {
  const server = Bun.serve({
    hostname: "localhost",
    port: 0,
    idleTimeout: 60, // seconds
    async fetch(request) {
      const headers = new Headers(request.headers);
      headers.set("authorization", `Bearer ${token}`);
      headers.delete("content-length"); // of a body that may grow
      const text = await request.text();
      const message = parse(text);
      if (broken && message?.method === broken) return new Response(null, { status: 500 });
      const { pathname } = new URL(request.url);
      return fetch(gateway + pathname, {
        method: request.method,
        headers,
        ...(text && { body: message && session ? withSession(message, session) : text }),
        redirect: "manual",
      });
    },
  });
  atEnd(() => server.stop(true));
  return `http://localhost:${server.port}/mcp`;
}

function parse(text: string): Message | undefined {
  try {
    return JSON.parse(text) as Message;
  } catch {
    return undefined; // the suite also sends what is not JSON
  }
}
function withSession(message: Message, session: string): string {
  if (message.method !== "tools/call") return JSON.stringify(message);
  const { params } = message;
  return JSON.stringify({ ...message, params: { ...params, arguments: { ...params?.arguments, session } } });
}
