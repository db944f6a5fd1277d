// Pulling the plug: the gateway is killed, and its database connections are cut, in the middle of saves. What was
// acknowledged is there, and of every change and its receipt both are there or neither.
//
//   KILLS=20 bun test test/kills.test.ts        more of them; three are for every day

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { State } from "../main.ts";
import { articles, freePort, type Place, postgresPlace, postgresServer, type PostgresServer, sqlitePlace, startGateway } from "./support.ts";

const KILLS = Number(process.env.KILLS ?? 3);
const CUTS = Math.max(20, KILLS);
const READERS = ["anna", "ben", "cleo"];
let server: PostgresServer;
beforeAll(async () => void (server = await postgresServer()), 60_000);
afterAll(() => server.stop());

type Patch = { reading?: State["reading"]; shelf?: Record<string, string | null> };
interface Receipt { seq: number; id: string; user_id: string; tool: string; change: Patch; inverse: Patch; undone: boolean }
const json = <T>(value: unknown) => (typeof value === "string" ? JSON.parse(value) : value) as T;
const sorted = (value: unknown) => JSON.stringify(value, (_, part) => (part?.constructor === Object ? Object.fromEntries(Object.entries(part).sort()) : part));

/** Reads the database and says what is wrong with it: nothing, if replaying the receipts from an empty shelf comes to what is stored. */
async function audit(place: Place, acknowledged: Set<string>) {
  const states = await place.rows<{ user_id: string; state: unknown }>("select user_id, state from user_state");
  const rows = await place.rows<Record<keyof Receipt, unknown>>("select seq, id, user_id, tool, change, inverse, undone from actions order by seq");
  const receipts = rows.map((row) => ({ ...row, change: json(row.change), inverse: json(row.inverse), undone: Boolean(row.undone) }) as Receipt);
  const wrong: string[] = [];
  const replayed = new Map<string, State>();
  for (const { id, user_id, change, inverse } of receipts) {
    const state = replayed.get(user_id) ?? { reading: null, shelf: {} };
    replayed.set(user_id, state);
    const was: Patch = { ...(change.reading !== undefined && { reading: state.reading }), ...(change.shelf && { shelf: Object.fromEntries(Object.keys(change.shelf).map((key) => [key, state.shelf[key] ?? null])) }) };
    if (sorted(was) !== sorted(inverse)) wrong.push(`receipt ${id} would go back to ${sorted(inverse)}, and before it there was ${sorted(was)}`);
    if (change.reading !== undefined) state.reading = change.reading;
    for (const [key, position] of Object.entries(change.shelf ?? {})) {
      if (position === null) delete state.shelf[key];
      else state.shelf[key] = position;
    }
  }
  for (const { user_id, state } of states) {
    if (sorted(json(state)) !== sorted(replayed.get(user_id) ?? {})) wrong.push(`${user_id} has ${sorted(json(state))}, and the receipts come to ${sorted(replayed.get(user_id))}`);
  }
  for (const user of replayed.keys()) if (!states.some(({ user_id }) => user_id === user)) wrong.push(`${user} has receipts and no state`);
  for (const user of new Set(receipts.map(({ user_id }) => user_id))) {
    const [undos, undone] = [receipts.filter(({ tool, user_id }) => tool === "user_undo" && user_id === user), receipts.filter((receipt) => receipt.undone && receipt.user_id === user)];
    if (undos.length !== undone.length) wrong.push(`${user} has ${undos.length} undos and ${undone.length} actions undone`);
  }
  const kept = new Set(receipts.flatMap(({ change }) => Object.values(change.shelf ?? {})));
  for (const position of acknowledged) if (!kept.has(position)) wrong.push(`"${position}" was acknowledged and is lost`);
  const undone = new Set(receipts.filter((receipt) => receipt.undone).map(({ id }) => id));
  return { wrong, receipts: receipts.length, undone };
}

type Gateway = Awaited<ReturnType<typeof startGateway>>;
interface Answer { result?: { isError?: boolean; structuredContent?: Record<string, any>; content: { text: string }[] } }
async function call(gateway: Gateway, token: string, name: string, args: object): Promise<NonNullable<Answer["result"]>> {
  const response = await fetch(gateway.mcp, {
    method: "POST", body: JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/call", params: { name, arguments: args } }),
    headers: { "content-type": "application/json", accept: "application/json, text/event-stream", authorization: `Bearer ${token}` },
  });
  const text = await response.text();
  const answer = JSON.parse(text.match(/^data: (.*)$/m)?.[1] ?? text) as Answer;
  if (!answer.result) throw new Error(text);
  return answer.result;
}

/** Everybody saves, moves and undoes as fast as they can, each from three devices, until `stop` or until nobody answers. */
async function load(gateway: Gateway, acknowledged: Set<string>, round: number) {
  const seen = { answered: 0, failed: [] as string[], under: 0, slowest: 0, undone: [] as string[] };
  let stopped = false;
  const devices = await Promise.all(READERS.flatMap((sub) => [1, 2, 3].map(async (device) => {
    const token = await gateway.token(sub);
    const { structuredContent } = await call(gateway, token, "begin_session", {});
    return { sub, device, token, session: structuredContent!.session as string };
  })));
  const working = devices.map(async ({ sub, device, token, session }) => {
    for (let step = 0; !stopped; step++) {
      const { id } = articles[(step * 7 + device) % articles.length]!;
      const position = `${sub}, device ${device}, round ${round}, step ${step}`;
      const undo = step % 5 === 4;
      const asked = performance.now();
      seen.under++;
      try {
        const { isError, structuredContent, content } = undo ? await call(gateway, token, "user_undo", { session })
          : await call(gateway, token, "user_save_state", { session, shelf: { [id]: position }, ...(step % 3 === 0 && { reading: { id, position } }) });
        if (isError) seen.failed.push(content[0]!.text);
        else if (undo) seen.undone.push(structuredContent!.undone);
        else acknowledged.add(position);
        if (!isError) seen.answered++;
        seen.slowest = Math.max(seen.slowest, performance.now() - asked);
      } catch {
        return; // nobody there any more
      } finally {
        seen.under--;
      }
    }
  });
  return { seen, stop: async () => ((stopped = true), Promise.all(working)) };
}

const env = (place: Place, port: number) => ({ PORT: String(port), DATABASE_URL: place.url, SESSION_SIGNING_SECRET: "k".repeat(43), RATE_LIMIT_PER_MINUTE: "1000000" });

describe.each(["sqlite", "postgres"] as const)("on %s", (kind) => {
  test(`a gateway that is killed ${KILLS} times in the middle of saves has lost nothing that it acknowledged, and done nothing by halves`, async () => {
    const place = kind === "sqlite" ? await sqlitePlace() : await postgresPlace(server);
    const port = await freePort();
    const acknowledged = new Set<string>();
    const undone: string[] = [];
    let receipts = 0;
    for (let round = 0; round < KILLS; round++) {
      const gateway = await startGateway(env(place, port));
      const { seen, stop } = await load(gateway, acknowledged, round);
      await Bun.sleep(150 + Math.random() * 250);
      const under = seen.under;
      gateway.child.kill("SIGKILL");
      await gateway.child.exited;
      await stop();
      undone.push(...seen.undone);
      expect({ round, failed: seen.failed.filter((text) => !/no such action/.test(text)) }).toEqual({ round, failed: [] });
      expect(seen.answered).toBeGreaterThan(5);
      expect(under).toBeGreaterThan(0); // it was killed with something under way
      if (kind === "postgres") await Bun.sleep(50); // for its connections to end, and their transactions with them
      const found = await audit(place, acknowledged);
      expect(found.wrong).toEqual([]);
      expect(undone.filter((id) => !found.undone.has(id))).toEqual([]);
      expect(found.receipts).toBeGreaterThan(receipts);
      receipts = found.receipts;
    }
    console.log(`${kind}: ${KILLS} kills, ${acknowledged.size} saves and ${undone.length} undos acknowledged, ${receipts} receipts`);
    await place.close();
  }, 20_000 + KILLS * 5_000);
});

test(`a gateway whose connections are cut ${CUTS} times inside a transaction stays up, and does nothing by halves`, async () => {
  const place = await postgresPlace(server);
  const gateway = await startGateway(env(place, await freePort()));
  const acknowledged = new Set<string>();
  const { seen, stop } = await load(gateway, acknowledged, 0);
  await Bun.sleep(200);
  let cuts = 0;
  for (const end = Date.now() + 30_000; cuts < CUTS && Date.now() < end && gateway.child.exitCode === null; await Bun.sleep(40)) {
    const cut = await place.rows<{ cut: boolean }>(`select pg_terminate_backend(pid) as cut from pg_stat_activity
      where datname = current_database() and pid <> pg_backend_pid() and xact_start is not null and state <> 'idle'`);
    cuts += cut.filter((backend) => backend.cut).length;
  }
  await Bun.sleep(200);
  if (gateway.child.exitCode !== null) throw new Error(`the gateway ended with ${gateway.child.exitCode} after ${cuts} cuts: ${gateway.err.text.slice(0, 500)}`);
  const before = seen.answered;
  await Bun.sleep(300);
  expect(seen.answered).toBeGreaterThan(before); // it goes on working once it is left in peace
  await stop();
  expect(cuts).toBeGreaterThanOrEqual(CUTS);
  const failed = seen.failed.filter((text) => !/no such action/.test(text));
  for (const text of failed) expect(text).toMatch(/^The Reading Room can't continue right now\. .+\(ref [0-9a-f]{8}\)$/);
  expect(failed.length).toBeGreaterThan(0);
  expect(seen.slowest).toBeLessThan(5_000);
  const found = await audit(place, acknowledged);
  expect(found.wrong).toEqual([]);
  expect(seen.undone.filter((id) => !found.undone.has(id))).toEqual([]);
  console.log(`${cuts} connections cut, ${failed.length} calls failed, ${acknowledged.size} saves acknowledged, ${found.receipts} receipts, slowest answer ${Math.round(seen.slowest)} ms`);
  await gateway.stop();
  await place.close();
}, 60_000);
