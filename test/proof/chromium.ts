// A real browser. CHROMIUM names another one than /usr/bin/chromium.

import { existsSync } from "node:fs";
import { type Browser, type BrowserContextOptions, chromium as launcher, type Page } from "playwright-core";
import { atEnd } from "../cleanup.ts";

const executablePath = process.env.CHROMIUM || "/usr/bin/chromium";
/** Without one, what needs it is skipped by name. */
export const hasBrowser = existsSync(executablePath);
if (!hasBrowser) console.error(`There is no ${executablePath}; CHROMIUM names another Chromium.`);

const QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
let opened: Promise<Browser> | undefined;
/** One for all tests of a run. */
export const chromium = () => (opened ??= launch());
async function launch(): Promise<Browser> {
  const browser = await launcher.launch({ executablePath, args: QUIET });
  atEnd(() => browser.close());
  return browser;
}

/** A page of its own, with nothing remembered. */
export async function inBrowser<T>(use: (page: Page) => Promise<T>, options: BrowserContextOptions = {}): Promise<T> {
  const context = await (await chromium()).newContext(options);
  try {
    const page = await context.newPage();
    page.setDefaultTimeout(8_000);
    return await use(page);
  } finally {
    await context.close();
  }
}
