// The targets, and which of them were missed.

import { type Cell, type Figures, figuresOf } from "./cells.ts";
import type { MemoryLine } from "./memory.ts";
import { type Era, operations } from "./requests.ts";
import type { SaveTimes } from "./save.ts";
import { bare, type Contender, ours, sdkV1, sdkV2 } from "./servers.ts";

const MOST_OF_SDK_V2 = 0.34; // of its CPU a call
const MOST_OF_BARE = 1;
const MOST_SAVE_MS = 45;

export interface Found {
  cells: Cell[];
  cold?: Map<Contender, number>;
  save?: SaveTimes;
  memory?: MemoryLine;
}

/** domain_get_article at 16 connections; ours on SQLite. */
export function headline(cells: Cell[]): Cell[] {
  return cells.filter(({ operation, connections, store }) =>
    operation === operations.getArticle && connections === 16 && store !== "Postgres");
}
function cpuOf(cells: Cell[], contender: Contender, era: Era): number | undefined {
  const cell = headline(cells).find((one) => one.contender === contender && one.era === era);
  return cell && figuresOf(cell)?.cpu;
}

export interface Ratios {
  era: Era;
  toSdkV2?: number;
  toSdkV1?: number;
  toBare?: number;
}
/** Our CPU a call as a part of theirs, for the same request; SDK v1 knows the older revision alone. */
export function ratiosOf(cells: Cell[]): Ratios[] {
  return ours.eras.map((era) => {
    const our = cpuOf(cells, ours, era);
    const to = (other: Contender, its = era) => {
      const cpu = cpuOf(cells, other, its);
      return our && cpu ? our / cpu : undefined;
    };
    const [toSdkV2, toSdkV1, toBare] = [to(sdkV2), to(sdkV1, "2025-11-25"), to(bare)];
    return {
      era,
      ...(toSdkV2 && { toSdkV2 }),
      ...(toSdkV1 && { toSdkV1 }),
      ...(toBare && { toBare }),
    };
  });
}

/** In words; what was not measured is not missed. */
export function missedTargets({ cells, save, memory }: Found): string[] {
  const missed = cells.flatMap(({ name, failure }) => (failure ? [`${name} failed: ${failure}`] : []));
  for (const { era, toSdkV2 = 0, toBare = 0 } of ratiosOf(cells)) {
    if (toSdkV2 > MOST_OF_SDK_V2) {
      missed.push(`${era}: ${toSdkV2.toFixed(2)} of SDK v2's CPU a call, not ${MOST_OF_SDK_V2} or less`);
    }
    if (toBare > MOST_OF_BARE) {
      missed.push(`${era}: ${toBare.toFixed(2)} of bare Bun's CPU a call, not ${MOST_OF_BARE} or less`);
    }
  }
  if (save && save.median > MOST_SAVE_MS) {
    missed.push(`a save took ${save.median.toFixed(1)} ms, not ${MOST_SAVE_MS} or less`);
  }
  if (memory && !memory.isFlat) missed.push(`memory is not flat: ${memory.megabytes.join(", ")} MB`);
  return missed;
}

export const shown = (figures: Figures | undefined) => figures && {
  perSecond: figures.perSecond.toFixed(0),
  p50: figures.p50.toFixed(2),
  p99: figures.p99.toFixed(2),
  cpu: figures.cpu.toFixed(0),
  memory: figures.memory.toFixed(0),
};
