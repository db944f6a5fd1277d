// Pulling the plug: the gateway is killed, and its database connections are cut, in the middle of
// saves. What was acknowledged is there, and of every change and its receipt both are, or neither.
//
//   KILLS=20 bun test ./test/proof/kills.proof.ts        more of them

import { beforeAll, describe, expect, test } from "bun:test";
import type { Receipt } from "../../main.ts";
import {
  freePort, personAt, type Place, postgresIsHere, postgresPlace, type PostgresServer,
  postgresServer, sqlitePlace, startGateway, until,
} from "../support.ts";

const KILLS = Number(process.env.KILLS ?? 3);
const CUTS = Math.max(20, KILLS);
const PEOPLE = ["anna", "ben", "cleo"];
const NAMES = ["a", "b", "c", "d"];
const NOTHING_TO_UNDO = /no such action/;

let server: PostgresServer;
beforeAll(async () => { if (postgresIsHere) server = await postgresServer(); }, 60_000);

interface Stored { person: string; state: { notes?: Record<string, string> }; receipts: Receipt[] }
const parsed = <T>(value: unknown) => (typeof value === "string" ? JSON.parse(value) : value) as T;

/** What is wrong with what is stored: nothing, if the receipts, one after the other, come to the
 *  state, and everything that was acknowledged is among them. */
async function audit(place: Place, acknowledged: Set<string>) {
  const rows = await place.rows<{ user_id: string; state: unknown; receipts: unknown }>(
    "select user_id, state, receipts from user_state");
  const people = rows.map(({ user_id, state, receipts }): Stored =>
    ({ person: user_id, state: parsed(state), receipts: parsed(receipts) }));
  const wrong: string[] = [];
  for (const { person, state, receipts } of people) {
    const notes: Record<string, unknown> = {};
    const touched = new Set<string>(); // the oldest receipts are dropped: before them anything was
    for (const { id, changes } of receipts.toReversed()) {
      for (const { entry, before, after } of changes) {
        if (touched.has(entry!) && notes[entry!] !== before) {
          wrong.push(`${person}, ${id}: ${entry} was not ${before} but ${notes[entry!]}`);
        }
        touched.add(entry!);
        notes[entry!] = after;
      }
    }
    for (const entry of touched) {
      const now = state.notes?.[entry];
      if (now !== notes[entry]) wrong.push(`${person}: ${entry} is ${now}, not ${notes[entry]}`);
    }
    const undos = receipts.flatMap(({ undoes }) => undoes ?? []);
    const isMarked = (id: string) => receipts.find((one) => one.id === id)?.undone ?? true;
    for (const id of undos) if (!isMarked(id)) wrong.push(`${person}: ${id} is not marked`);
  }
  const kept = JSON.stringify(people);
  for (const note of acknowledged) {
    if (!kept.includes(`"${note}"`)) wrong.push(`"${note}" was acknowledged, and is lost`);
  }
  return { wrong, versions: people.map(({ receipts }) => receipts[0]?.id).join() };
}

type Gateway = Awaited<ReturnType<typeof startGateway>>;
/** Everybody saves and undoes as fast as they can, each from three devices, until `stop()` or until
 *  nobody answers. What is acknowledged late enough to be among the newest receipts is noted. */
async function load(at: Gateway, round: number) {
  const seen = {
    answered: 0, failed: [] as string[], underWay: 0, slowest: 0,
    acknowledged: new Map<string, string[]>(), // by person, in this order
  };
  let isStopped = false;
  const devices = await Promise.all(PEOPLE.flatMap((person) => [1, 2, 3].map(async (device) =>
    ({ person, device, use: await personAt(at, person) }))));
  const working = devices.map(async ({ person, device, use }) => {
    for (let step = 0; !isStopped; step++) {
      const note = `${person}, device ${device}, round ${round}, step ${step}`;
      const isUndo = step % 5 === 4;
      const asked = performance.now();
      seen.underWay++;
      try {
        const { isError, content } = isUndo ? await use("user_undo")
          : await use("user_write", { notes: { [NAMES[step % NAMES.length]!]: note } });
        if (!isError) seen.answered++;
        else if (!NOTHING_TO_UNDO.test(content[0]!.text)) seen.failed.push(content[0]!.text);
        if (!isError && !isUndo) {
          const notes = seen.acknowledged.get(person) ?? [];
          seen.acknowledged.set(person, [...notes, note].slice(-40)); // 100 receipts are kept
        }
        seen.slowest = Math.max(seen.slowest, performance.now() - asked);
      } catch {
        return; // nobody there any more
      } finally {
        seen.underWay--;
      }
    }
  });
  const stop = async () => {
    isStopped = true;
    await Promise.all(working);
    return new Set([...seen.acknowledged.values()].flat());
  };
  return { seen, stop };
}
const environment = (place: Place, port: number) => ({
  PORT: String(port), DATABASE_URL: place.url, RATE_LIMIT_PER_MINUTE: "1000000",
});

const kinds = [
  { kind: "sqlite", place: sqlitePlace },
  { kind: "postgres", place: () => postgresPlace(server) },
];
describe.each(kinds)("On $kind", ({ kind, place: newPlace }) => {
  if (kind === "postgres" && !postgresIsHere) {
    return test.skip("NOT TESTED: PostgreSQL's binaries are not installed", () => {});
  }
  test(`a gateway that is killed ${KILLS} times in the middle of saves has lost nothing that it \
acknowledged, and done nothing by halves`, async () => {
    const [place, port] = [await newPlace(), await freePort()];
    let [total, versions] = [0, ""];
    for (let round = 0; round < KILLS; round++) {
      const at = await startGateway(environment(place, port));
      const { seen, stop } = await load(at, round);
      await Bun.sleep(150 + Math.random() * 250);
      const { underWay } = seen;
      at.child.kill("SIGKILL");
      await at.child.exited;
      const acknowledged = await stop();
      total += seen.answered;
      expect([round, seen.failed]).toEqual([round, []]);
      expect(seen.answered).toBeGreaterThan(5);
      expect(underWay).toBeGreaterThan(0); // it was killed with something under way
      await Bun.sleep(50); // for its connections to end
      const found = await audit(place, acknowledged);
      expect(found.wrong).toEqual([]);
      expect(found.versions).not.toBe(versions);
      versions = found.versions;
    }
    console.log(`${kind}: ${KILLS} kills, ${total} changes acknowledged`);
    await place.close();
  }, 20_000 + KILLS * 5_000);
});

test.skipIf(!postgresIsHere)(`a gateway whose connections are cut ${CUTS} times in the middle \
of saves stays up, and does nothing by halves`, async () => {
  const place = await postgresPlace(server);
  const at = await startGateway(environment(place, await freePort()));
  const greeting = at.err.text;
  const { seen, stop } = await load(at, 0);
  await Bun.sleep(200);
  let cuts = 0;
  for (const end = Date.now() + 30_000; cuts < CUTS && Date.now() < end; await Bun.sleep(40)) {
    const cut = await place.rows<{ cut: boolean }>(`
      select pg_terminate_backend(pid) as cut from pg_stat_activity
      where datname = current_database() and pid <> pg_backend_pid()
      and xact_start is not null and state <> 'idle'`);
    cuts += cut.filter(({ cut }) => cut).length;
    if (at.child.exitCode !== null) throw new Error(`it ended: ${at.err.text.slice(0, 500)}`);
  }
  const before = seen.answered;
  await until(() => seen.answered > before + 20); // it goes on once it is left in peace
  const acknowledged = await stop();
  expect(cuts).toBeGreaterThanOrEqual(CUTS);
  expect(seen.failed.length).toBeGreaterThan(0);
  for (const text of seen.failed) {
    expect(text).toMatch(/^The Notebook can't continue right now\. .+\(ref [0-9a-f]{8}\)$/);
  }
  expect(seen.slowest).toBeLessThan(5_000);
  expect((await audit(place, acknowledged)).wrong).toEqual([]);
  expect(at.err.text).toBe(greeting);
  console.log(`${cuts} connections cut, ${seen.failed.length} calls failed, ${seen.answered} \
answered, the slowest in ${Math.round(seen.slowest)} ms`);
  await at.stop();
  await place.close();
}, 60_000);
