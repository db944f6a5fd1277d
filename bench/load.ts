// Load: wrk in a process of its own, which sends requests that were written beforehand.

import { connect } from "node:net";
import { join } from "node:path";

export interface Load {
  calls: number;
  perSecond: number;
  p50: number; // milliseconds
  p99: number;
}

/** What load.lua prints. */
interface Counted {
  requests: number;
  microseconds: number; // of the whole load
  bytes: number;
  p50: number; // microseconds
  p99: number;
  notOk: number; // answers by status 400 or above
  socketErrors: number;
}

/** Counts calls for some seconds. @throws if a socket failed, a status was one of an error, or the answers
 *  had not `expectedBytes` each, headers included: another status or an error in a 200 has other bytes. */
export async function load(
  port: number, requests: string, connections: number, seconds: number, expectedBytes: number,
): Promise<Load> {
  const script = join(import.meta.dir, "load.lua");
  const sizes = ["-t", "1", "-c", String(connections), "-d", `${seconds}s`, "--timeout", "10s"];
  const wrk = Bun.spawn(["wrk", ...sizes, "-s", script, `http://127.0.0.1:${port}/mcp`], {
    env: { ...process.env, REQUESTS: requests },
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, err] = await Promise.all([wrk.stdout.text(), wrk.stderr.text()]);
  const line = out.match(/^\{.*\}$/m)?.[0];
  if (!line) throw new Error(`wrk: ${err || out}`);
  const counted = JSON.parse(line) as Counted;
  const { requests: calls, microseconds, bytes, p50, p99, notOk, socketErrors } = counted;
  if (calls === 0) throw new Error("no call was answered");
  if (notOk > 0) throw new Error(`${notOk} of ${calls} calls were answered by an error status`);
  if (socketErrors > 0) throw new Error(`${socketErrors} socket errors in ${calls} calls`);
  // An answer in the middle of which the clock ran out is counted in bytes, not in calls.
  const more = bytes - calls * expectedBytes;
  if (more < 0 || more > connections * expectedBytes) {
    throw new Error(`${calls} answers had ${bytes} bytes: ${expectedBytes} each were expected`);
  }
  return { calls, perSecond: calls / (microseconds / 1e6), p50: p50 / 1000, p99: p99 / 1000 };
}

export interface Answer {
  status: number;
  body: string;
  bytes: number; // on the wire, headers included
}

/** Sends the very bytes that wrk will send, and waits for the whole answer. */
export function exchange(port: number, request: string): Promise<Answer> {
  const { promise, resolve, reject } = Promise.withResolvers<Answer>();
  let received = Buffer.alloc(0);
  const socket = connect(port, "127.0.0.1", () => socket.write(request));
  socket.setTimeout(10_000, () => socket.destroy(new Error("no answer in 10 seconds")));
  socket.on("error", reject).on("close", () => reject(new Error(`the answer broke off: ${received}`)));
  socket.on("data", (chunk: Buffer) => {
    received = Buffer.concat([received, chunk]);
    const answer = parse(received);
    if (!answer) return;
    resolve(answer);
    socket.destroy();
  });
  return promise;
}

/** Undefined until it is complete. */
function parse(received: Buffer): Answer | undefined {
  const end = received.indexOf("\r\n\r\n");
  if (end < 0) return undefined;
  const head = received.subarray(0, end).toString();
  const rest = received.subarray(end + 4);
  const status = Number(head.split(" ")[1]);
  if (/^transfer-encoding: *chunked/im.test(head)) {
    const text = rest.toString();
    if (!/(^|\r\n)0\r\n\r\n$/.test(text)) return undefined;
    const body = text.split("\r\n").filter((_, line) => line % 2 === 1).join("");
    return { status, body, bytes: received.length };
  }
  const length = Number(head.match(/^content-length: *(\d+)/im)?.[1] ?? 0);
  if (rest.length < length) return undefined;
  return { status, body: rest.toString(), bytes: received.length };
}
