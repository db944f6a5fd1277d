// A network between us and Postgres that has moods, and counts who knocks.

import { spawnSync } from "node:child_process";
import { chmod, chown } from "node:fs/promises";
import { type AddressInfo, createConnection, createServer, type Socket } from "node:net";
import { join } from "node:path";
import postgres from "postgres";
import { scratch } from "../support.ts";
import { atEnd } from "../cleanup.ts";

export type Mood =
  | "fine"
  | "hangs up" // on whoever is connected, and on whoever connects
  | "says nothing" // takes connections and bytes, and passes nothing on
  | "hangs up at a write" // once the database has it, and before the answer
  | "falls silent at a write"
  | "hangs up soon" // after so many messages from us: `messages`
  | "is slow"; // by `delay` milliseconds, each way

/** What carries a change out: the second message of a write, after it was described. */
const isWrite = (bytes: Buffer) => /"mood"|"notes"/.test(bytes.toString("latin1"));

export async function networkTo(databaseUrl: string) {
  const url = new URL(databaseUrl);
  const target = Number(url.port);
  const network = { mood: "fine" as Mood, delay: 0, messages: 0, knocks: 0 };
  const open = new Set<Socket>();
  const entrance = createServer((near) => {
    network.knocks++;
    open.add(near);
    near.on("error", () => {}).on("close", () => open.delete(near));
    if (network.mood === "hangs up") return void near.resume().end();
    const far = createConnection(target, "127.0.0.1").on("error", () => {});
    near.on("close", () => far.destroy());
    far.on("close", () => near.destroy());
    let isSilent = false;
    let messages = 0;
    const pass = (to: Socket, bytes: Buffer, then = () => {}) => {
      if (network.mood === "says nothing") isSilent = true;
      if (isSilent) return;
      if (network.mood !== "is slow") return void to.write(bytes, then);
      setTimeout(() => to.destroyed || to.write(bytes, then), network.delay);
    };
    near.on("data", (bytes: Buffer) => {
      messages++;
      if (network.mood === "hangs up soon" && messages >= network.messages) return near.destroy();
      const last = isWrite(bytes);
      pass(far, bytes, () => {
        if (last && network.mood === "hangs up at a write") near.destroy();
        if (last && network.mood === "falls silent at a write") isSilent = true;
      });
    });
    far.on("data", (bytes: Buffer) => pass(near, bytes));
  });
  await new Promise<void>((resolve) => entrance.listen(0, "127.0.0.1", resolve));
  atEnd(() => {
    entrance.close();
    for (const socket of open) socket.destroy();
  });
  url.port = String((entrance.address() as AddressInfo).port);
  return Object.assign(network, {
    direct: databaseUrl, // the way around it
    url: url.href,
    open, // connections at this moment
    turn(mood: Mood, more: { delay?: number; messages?: number } = {}) {
      Object.assign(network, { mood, ...more });
      if (mood === "hangs up") for (const socket of open) socket.destroy();
    },
  });
}
export type Network = Awaited<ReturnType<typeof networkTo>>;

/** Runs statements as the database's owner. */
export async function asOwner(url: string, ...statements: string[]): Promise<void> {
  const sql = postgres(url, { max: 1, onnotice: () => {} });
  for (const statement of statements) await sql.unsafe(statement);
  await sql.end();
}

/** Has a server speak TLS, with a certificate that nobody vouches for. */
export async function speakTls(url: string): Promise<void> {
  const folder = await scratch();
  const [key, certificate] = [join(folder, "server.key"), join(folder, "server.crt")];
  const made = spawnSync("openssl", ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
    "-subj", "/CN=localhost", "-keyout", key, "-out", certificate]);
  if (made.status !== 0) throw new Error(`openssl: ${made.stderr || made.error}`);
  await chmod(folder, 0o755);
  await chmod(key, 0o600);
  if (process.getuid?.() === 0) await chown(key, 65_534, 65_534); // whom the server runs as
  await asOwner(url, `alter system set ssl_cert_file = '${certificate}'`,
    `alter system set ssl_key_file = '${key}'`, "alter system set ssl = on",
    "select pg_reload_conf()");
}

export async function timed<T>(work: Promise<T>): Promise<{ result: T; ms: number }> {
  const from = performance.now();
  const result = await work;
  return { result, ms: performance.now() - from };
}
