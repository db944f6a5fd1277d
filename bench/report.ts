// The figures as Markdown.

import { cpus } from "node:os";
import { type Cell, figuresOf } from "./cells.ts";
import { operations } from "./requests.ts";
import { type Found, headline, ratiosOf, shown } from "./verdict.ts";
import { dependencies as benchPackages } from "./package.json" with { type: "json" };
import { dependencies as ourPackages, version } from "../package.json" with { type: "json" };

type Row = (string | number)[];

function table(head: string[], rows: Row[]): string {
  const lines = [head, head.map(() => "---"), ...rows];
  return lines.map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}
const ratio = (value: number | undefined) => value?.toFixed(2) ?? "not measured";

/** Calls/s and CPU of every contender, and what ours is beside three of them. */
export function shortReport({ cells }: Found): string {
  const rows = headline(cells).map((cell) => {
    const { contender } = cell;
    const { perSecond = "failed", cpu = "failed" } = shown(figuresOf(cell)) ?? {};
    return [contender.name, contender.runtime, cell.era, perSecond, cpu];
  });
  const ratios = ratiosOf(cells).map(({ era, toSdkV2, toSdkV1, toBare }) =>
    [era, ratio(toSdkV2), ratio(toSdkV1), ratio(toBare)]);
  return `domain_get_article at 16 connections:

${table(["server", "on", "revision", "calls/s", "CPU µs a call"], rows)}

CPU a call of the Reading Room, as a part of that of

${table(["revision", "SDK v2 on Bun", "SDK v1 on Node (2025-11-25)", "bare Bun, each token verified"], ratios)}`;
}

function cellTable(cells: Cell[]): string {
  const rows = cells.map((cell) => {
    const { contender, store, era, connections } = cell;
    const name = [contender.name, store].filter(Boolean).join(", ");
    const figures = shown(figuresOf(cell));
    if (!figures) return [name, contender.runtime, era, connections, "failed", "", "", "", ""];
    const { perSecond, p50, p99, cpu, memory } = figures;
    return [name, contender.runtime, era, connections, perSecond, p50, p99, cpu, memory];
  });
  const who = ["server", "on", "revision", "connections"];
  return table([...who, "calls/s", "p50 ms", "p99 ms", "CPU µs a call", "memory MB"], rows);
}

function otherParts({ cold, save, memory }: Found): string[] {
  const parts: string[] = [];
  if (cold) {
    const rows = [...cold].map(([{ name, runtime }, ms]) => [name, runtime, ms.toFixed(0)]);
    parts.push("## Cold start: spawn to the first answered call", table(["server", "on", "ms"], rows));
  }
  if (save) {
    parts.push("## A save on Postgres, ten milliseconds away and back",
      table(["round trip, measured, ms", "median ms", "p90 ms"],
        [[save.roundTrip.toFixed(2), save.median.toFixed(1), save.p90.toFixed(1)]]));
  }
  if (memory) {
    const { megabytes, isFlat } = memory;
    parts.push("## Memory over a million calls of domain_get_article",
      `Resident MB after each 100,000: ${megabytes.join(", ")}. ${isFlat ? "Flat" : "**Not flat**"}: \
the last is${isFlat ? "" : " not"} within a tenth above the median of the second half.`);
  }
  return parts;
}

/** What was measured, and how. */
export interface How {
  rounds: number;
  seconds: number;
  postgresVersion: string;
  loadBefore: number; // the machine's load average
}
function machine({ postgresVersion, loadBefore }: How): string {
  const ask = (...command: string[]) => Bun.spawnSync(command, { stderr: "pipe" }).stdout.toString().trim();
  const versions = Object.entries({ ...ourPackages, ...benchPackages })
    .map(([name, at]) => `${name} ${at}`);
  const wrk = ask("wrk", "-v").match(/^wrk \S+/)?.[0] ?? "wrk";
  const date = new Date().toISOString().slice(0, 10);
  const { model = "an unknown model" } = cpus()[0] ?? {};
  return `${date}, on ${cpus().length} cores of ${model}, ${process.platform}; the load average before it \
was ${loadBefore.toFixed(2)}. Reading Room ${version}, Bun ${Bun.version}, Node ${ask("node", "--version")}, \
PostgreSQL ${postgresVersion}, ${wrk}; ${versions.join(", ")}.`;
}

export function fullReport(found: Found, missed: string[], how: How): string {
  const byOperation = Object.values(operations).flatMap((operation) => {
    const its = found.cells.filter((cell) => cell.operation === operation);
    return its.length > 0 ? [`## ${operation.name}`, cellTable(its)] : [];
  });
  const verdict = missed.map((one) => `- missed: ${one}`).join("\n") || "All targets are met.";
  return `${[
    "# What a call costs",
    `Written by \`bun run bench\`; \`bench.ts\` says what is measured, and how. Medians of ${how.rounds} \
interleaved rounds, ${how.seconds} s a cell (half of that for what only ours can do); the load generator \
shares the machine.`,
    machine(how),
    "## In short", shortReport(found), verdict,
    ...byOperation,
    ...otherParts(found),
  ].join("\n\n")}\n`;
}
