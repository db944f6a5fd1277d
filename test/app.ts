// The app that the tests call yours: that of main.ts, or of the file that APP names, as in
// `APP=examples/tutor.ts bun test`. What belongs to such a file is in the folder of its name.

import { join } from "node:path";
import type { App } from "../main.ts";

export const ROOT = join(import.meta.dir, "..");
export const FILE = process.env.APP || "main.ts";
const folder = FILE === "main.ts" ? undefined : FILE.replace(/\.ts$/, "");
export const SURFACE = `${folder ?? "test"}/surface.json`;
export const REHEARSAL = `${folder ?? "seed"}/rehearsal.json`;

export async function loadApp(): Promise<App> {
  const file: { loadApp(): Promise<App> } = await import(join(ROOT, FILE));
  return file.loadApp();
}
