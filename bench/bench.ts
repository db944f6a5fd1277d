// How fast is it, beside servers that do the same work?
//
//   $ bun run bench                      everything
//   $ bun run bench get_article /16      the cells whose name holds all these words; no RESULTS.md

import { tidyUp } from "../test/cleanup.ts";
import { scratch } from "../test/support.ts";
import { expectRefusals, expectRight } from "./answers.ts";
import { load, type Load } from "./load.ts";
import { type Era, type Operation, operations, requestsOf } from "./requests.ts";
import { others, type Server, startOther, startOurs } from "./servers.ts";
import { cpuSeconds, memoryOf } from "./usage.ts";

const { ROUNDS = "3", SECONDS = "2", ONLY = "" } = process.env;
const words = [...process.argv.slice(2), ...ONLY.split(" ")].filter(Boolean);

interface Cell { server: Server; era: Era; operation: Operation; connections: number; name: string }
type Figures = Load & { cpu: number; memory: number };

async function measure({ server, era, operation, connections }: Cell, seconds: number): Promise<Figures> {
  const { port, people, process } = server;
  const file = `${await scratch()}/requests`;
  await Bun.write(file, requestsOf(port, era, operation, people));
  const bytes = await expectRight(server, era, operation);
  const said = (await process.complaints()).length;
  const before = cpuSeconds(process.pid);
  const counted = await load(port, file, connections, seconds, bytes);
  const cpu = (cpuSeconds(process.pid) - before) / counted.calls * 1e6;
  const memory = memoryOf(process.pid);
  const complaints = (await process.complaints()).slice(said);
  if (complaints) throw new Error(`it logged: ${complaints.slice(0, 300)}`);
  await expectRight(server, era, operation);
  return { ...counted, cpu, memory };
}
const median = (values: number[]) => values.sort((a, b) => a - b)[values.length >> 1]!;

async function run() {
  const folder = await scratch();
  const servers = [await startOurs(`sqlite:${folder}/bench.sqlite`)];
  for (const other of others) servers.push(await startOther(other));
  for (const server of servers) {
    for (const era of server.contender.eras) await expectRefusals(server, era);
  }
  const cells: Cell[] = [];
  for (const connections of [1, 16, 128]) {
    for (const server of servers) {
      for (const era of server.contender.eras) {
        const operation = operations.getArticle;
        const name = `${server.contender.name}, ${era}, ${operation.name} /${connections}`;
        if (words.every((word) => name.includes(word))) cells.push({ server, era, operation, connections, name });
      }
    }
  }
  const figures = new Map<string, Figures[]>(cells.map(({ name }) => [name, []]));
  for (const cell of cells) await measure(cell, 1); // warm-up
  for (let round = 1; round <= Number(ROUNDS); round++) {
    for (const cell of cells) {
      const found = await measure(cell, Number(SECONDS));
      figures.get(cell.name)!.push(found);
      const { perSecond, cpu } = found;
      console.error(`${round}/${ROUNDS} ${cell.name}: ${perSecond.toFixed(0)} calls/s, ${cpu.toFixed(0)} µs CPU`);
    }
  }
  for (const [name, found] of figures) {
    const of = (key: keyof Figures) => median(found.map((one) => one[key]));
    console.log(`${name}: ${of("perSecond").toFixed(0)} calls/s, p50 ${of("p50")} ms, p99 ${of("p99")} ms, CPU ${of("cpu").toFixed(0)} µs a call, ${of("memory").toFixed(0)} MB`);
  }
}

try {
  await run();
} finally {
  await tidyUp();
}
