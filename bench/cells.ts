// Parts 1 and 2: calls a second, latency, CPU and memory of each server, interleaved. In each round
// every cell is measured once, so that a busy minute of the machine falls on all contenders alike;
// what counts is the median over the rounds.

import { join } from "node:path";
import { scratch } from "../test/support.ts";
import { expectRefusals, expectRight } from "./answers.ts";
import { load, type Load } from "./load.ts";
import { type Era, type Operation, operations, requestsOf } from "./requests.ts";
import { type Contender, ours, others, type Server, startOther, startOurs } from "./servers.ts";
import { cpuSeconds, median, memoryOf } from "./usage.ts";

const CONNECTIONS = [1, 16, 128];
const WARM_CALLS = 5_000;
const WARM_SECONDS = 10;

export interface Figures extends Load {
  cpu: number; // microseconds a call
  memory: number; // MB, afterwards
}
interface Plan {
  contender: Contender;
  store: "SQLite" | "Postgres" | ""; // ours
  era: Era;
  operation: Operation;
  connections: number;
  name: string; // what a filter is held against
}
export interface Cell extends Plan {
  server: Server;
  rounds: Figures[];
  failure?: string;
}

/** The median over the rounds; undefined if any round failed. */
export function figuresOf({ rounds, failure }: Cell): Figures | undefined {
  if (failure || rounds.length === 0) return undefined;
  const of = (key: keyof Figures) => median(rounds.map((round) => round[key]));
  return {
    calls: of("calls"), perSecond: of("perSecond"), p50: of("p50"), p99: of("p99"),
    cpu: of("cpu"), memory: of("memory"),
  };
}

/** One load. @throws when a call was not answered right. */
async function measure(cell: Cell, connections: number, seconds: number): Promise<Figures> {
  const { server, era, operation } = cell;
  const { port, people, process } = server;
  const requests = join(await folder, "requests");
  await Bun.write(requests, requestsOf(port, era, operation, people));
  const bytes = await expectRight(server, era, operation);
  const said = (await process.complaints()).length;
  const before = cpuSeconds(process.pid);
  const counted = await load(port, requests, connections, seconds, bytes);
  const cpu = ((cpuSeconds(process.pid) - before) / counted.calls) * 1e6;
  const memory = memoryOf(process.pid);
  await expectRight(server, era, operation);
  const complaints = (await process.complaints()).slice(said);
  if (complaints) throw new Error(`it logged: ${complaints.slice(0, 300)}`);
  return { ...counted, cpu, memory };
}
const folder = scratch();

function everyCell(): Plan[] {
  const servers = [
    { contender: ours, store: "SQLite" as const },
    { contender: ours, store: "Postgres" as const },
    ...others.map((contender) => ({ contender, store: "" as const })),
  ];
  return CONNECTIONS.flatMap((connections) => Object.values(operations).flatMap((operation) =>
    servers.flatMap(({ contender, store }) => contender.eras.flatMap((era) => {
      if (contender !== ours && operation !== operations.getArticle) return [];
      const title = [contender.name, store].filter(Boolean).join(", ");
      const name = `${title}: ${operation.name}, ${era} /${connections}`;
      return [{ contender, store, era, operation, connections, name }];
    }))));
}

/** Starts what the cells need, once each. @throws if a server answers wrong, or lets in what is wrong. */
async function startServers(plans: Plan[], postgresUrl: string): Promise<Cell[]> {
  const sqliteUrl = `sqlite:${join(await folder, "bench.sqlite")}`;
  const servers = new Map<string, Server>();
  for (const { contender, store } of plans) {
    const key = contender.name + store;
    if (servers.has(key)) continue;
    const url = store === "Postgres" ? postgresUrl : sqliteUrl;
    const server = contender === ours ? await startOurs(url) : await startOther(contender);
    servers.set(key, server);
    for (const era of contender.eras) {
      await expectRight(server, era, operations.getArticle);
      await expectRefusals(server, era);
    }
  }
  return plans.map((plan) =>
    ({ ...plan, server: servers.get(plan.contender.name + plan.store)!, rounds: [] }));
}

/** Compilers take a few thousand calls to settle, V8's the most. */
async function warmUp(cell: Cell) {
  let calls = 0;
  for (let seconds = 0; calls < WARM_CALLS && seconds < WARM_SECONDS; seconds++) {
    calls += (await measure(cell, 16, 1)).calls;
  }
}

export async function measureCells(
  postgresUrl: string, rounds: number, seconds: number, isWanted: (name: string) => boolean,
): Promise<Cell[]> {
  const plans = everyCell().filter(({ name }) => isWanted(name));
  const cells = await startServers(plans, postgresUrl);
  const kinds = new Map(cells.map((cell) => [cell.name.replace(/ \/\d+$/, ""), cell]));
  for (const [kind, cell] of kinds) {
    console.error(`warm-up: ${kind}`);
    await warmUp(cell);
  }
  for (let round = 1; round <= rounds; round++) {
    for (const cell of cells) await measureOnce(cell, `${round}/${rounds}`, seconds);
  }
  for (const { server } of cells) await server.process.stop();
  return cells;
}

/** The calls that contenders are compared by get all the seconds, the others half. */
async function measureOnce(cell: Cell, at: string, seconds: number) {
  const { operation, connections, name } = cell;
  const time = operation === operations.getArticle ? seconds : Math.ceil(seconds / 2);
  try {
    const found = await measure(cell, connections, time);
    cell.rounds.push(found);
    const { perSecond, cpu, p99 } = found;
    const rate = `${perSecond.toFixed(0)} calls/s, p99 ${p99.toFixed(1)} ms`;
    console.error(`${at} ${name}: ${rate}, CPU ${cpu.toFixed(0)} µs`);
  } catch (error) {
    cell.failure = (error as Error).message;
    console.error(`${at} ${name}: FAILED: ${cell.failure}`);
  }
}
