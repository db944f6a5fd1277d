// The front door as a person meets it, in Chromium: what it copies, links to and says, with mouse
// and keyboard, on a phone and on a projector, in the dark and in the light; and the board while
// calls come in. SHOTS=1 leaves pictures in SHOTS_DIR or /tmp/shots.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync, renameSync } from "node:fs";
import { join } from "node:path";
import axe from "axe-core";
import type { BrowserContextOptions, Page } from "playwright-core";
import { freePort, logOf, personAt, scratch, startGateway, until } from "../support.ts";
import { hasBrowser, inBrowser } from "./chromium.ts";

setDefaultTimeout(60_000); // milliseconds: a browser on a busy machine

if (!hasBrowser) console.error("SKIPPED: the front door in a browser");

type Gateway = Awaited<ReturnType<typeof startGateway>>;
let gateway: Gateway;
let file: string; // its memory
beforeAll(async () => {
  if (!hasBrowser) return;
  file = join(await scratch(), "door.sqlite");
  gateway = await startGateway({ DATABASE_URL: `sqlite:${file}` });
}, 60_000);
afterAll(() => gateway?.stop());

interface Visit extends BrowserContextOptions {
  at?: string;
}
/** Opens the page, waits until it knows its facts, and lets nothing odd pass in its console. */
async function visit<T>(use: (page: Page) => Promise<T>, { at, ...options }: Visit = {}): Promise<T> {
  const url = at ?? gateway.url;
  return inBrowser(async (page) => {
    const odd: string[] = [];
    page.on("pageerror", ({ message }) => void odd.push(message));
    page.on("console", (message) => {
      if (/content security|refused to/i.test(message.text())) odd.push(message.text());
    });
    page.on("dialog", (dialog) => void (odd.push(dialog.message()), dialog.dismiss()));
    page.on("request", (request) => {
      if (new URL(request.url()).origin !== new URL(url).origin) odd.push(request.url());
    });
    await page.goto(url);
    await page.waitForSelector("[role=tab]");
    const result = await use(page);
    expect(odd).toEqual([]);
    return result;
  }, options);
}
const clipboard = { permissions: ["clipboard-read", "clipboard-write"] };
const copied = (page: Page) => page.evaluate<string>("navigator.clipboard.readText()");
const tab = (page: Page, name: string) => page.getByRole("tab", { name, exact: true });
const panel = (page: Page) => page.locator("[role=tabpanel]:not([hidden])");
const open = async (page: Page, name: string) => {
  await tab(page, name).click();
  return panel(page);
};
const rows = (page: Page) => page.locator("#log li");
/** (Playwright's own waiting for a text would need eval, which the page's policy forbids.) */
const says = (page: Page, selector: string, text: string) =>
  until(async () => (await page.locator(selector).first().innerText()) === text);
const counts = (page: Page, count: number) =>
  until(async () => (await rows(page).count()) === count);

// ---- The way in ----

/** What each host app needs, word for word: commands to copy, and the address of a link. */
const base64 = (value: object) => encodeURIComponent(btoa(JSON.stringify(value)));
const waysIn = (url: string): [app: string, exact: string[]][] => [
  ["Claude", ["https://claude.ai/customize/connectors?modal=add-custom-connector" +
    `&connectorName=Notebook&connectorUrl=${encodeURIComponent(url)}`]],
  ["Claude Code", [
    `claude mcp add --transport http notebook ${url}`, "claude mcp login notebook",
  ]],
  ["ChatGPT", ["https://chatgpt.com/plugins", url]],
  ["Cursor", [
    `cursor://anysphere.cursor-deeplink/mcp/install?name=notebook&config=${base64({ url })}`,
    JSON.stringify({ mcpServers: { notebook: { url } } }, null, 2),
  ]],
  ["VS Code", [
    `vscode:mcp/install?${encodeURIComponent(JSON.stringify({ name: "notebook", type: "http", url }))}`,
    JSON.stringify({ servers: { notebook: { type: "http", url } } }, null, 2),
  ]],
  ["Codex", [`codex mcp add notebook --url ${url}`, "codex mcp login notebook"]],
  ["Gemini CLI", [`gemini mcp add --transport http notebook ${url}`, "/mcp auth notebook"]],
  ["OpenCode", [`opencode mcp add notebook --url ${url}`, "opencode mcp auth notebook"]],
  ["Goose", [`goose://extension?url=${encodeURIComponent(url)}&type=streamable_http` +
    "&id=notebook&name=Notebook&description=Notebook"]],
  ["LM Studio", [
    `lmstudio://add_mcp?name=notebook&config=${base64({ url })}`,
    JSON.stringify({ mcpServers: { notebook: { url } } }, null, 2),
  ]],
  ["Inspector", [`npx @modelcontextprotocol/inspector@2 --server-url ${url} --transport http`]],
  ["Shell", ["call begin_session '{}'"]],
];
const CLOUDS = ["Claude", "ChatGPT"];

describe.skipIf(!hasBrowser)("The page", () => {
  test("says what this is, and copies the URL", () => visit(async (page) => {
    expect(await page.title()).toBe("Notebook: connect your AI");
    expect(await page.innerText("header")).toContain("A notebook that your AI writes in for you.");
    expect(await page.innerText("#url")).toBe(gateway.mcp);
    await page.click("#copy-url");
    expect(await copied(page)).toBe(gateway.mcp);
    expect(await page.innerText("#copy-url")).toBe("Copied");
  }, clipboard));

  test("where copying is not allowed, it selects the text instead", () => visit(async (page) => {
    await page.evaluate("navigator.clipboard.writeText = () => Promise.reject(new Error())");
    await page.click("#copy-url");
    expect(await page.evaluate<string>("String(getSelection())")).toBe(gateway.mcp);
  }));

  test("has the exact way in for each host app", () => visit(async (page) => {
    const ways = waysIn(gateway.mcp);
    expect(await page.getByRole("tab").allInnerTexts()).toEqual(ways.map(([app]) => app));
    for (const [app, exact] of ways) {
      const shown = await open(page, app);
      const links = await shown.locator("a").evaluateAll((all) =>
        all.map((link) => link.getAttribute("href")!));
      for (const button of await shown.getByRole("button").all()) {
        await button.click();
        links.push(await copied(page));
      }
      for (const text of exact) expect(links).toContain(text);
      const needsTunnel = (await shown.innerText()).includes("it needs a tunnel first");
      expect([app, needsTunnel]).toEqual([app, CLOUDS.includes(app)]);
      if (needsTunnel) expect(links).toContain(`ngrok http ${gateway.port}`);
    }
  }, clipboard));

  test("its commands for a shell work as they are", () => visit(async (page) => {
    const shown = await open(page, "Shell");
    const commands = (await shown.locator("pre").allInnerTexts()).join("\n");
    /** What the shell prints: the openings's answer, and that of the call after it. */
    const run = async (key: string) => {
      const said = await Bun.$`bash -c ${commands.replace("PASTE-THE-SESSION-KEY", key)}`.text();
      return said.trim().split("\n").map((line) => JSON.parse(line).result);
    };
    const [opened, refused] = await run("nothing");
    expect(refused.isError).toBe(true);
    const [, told] = await run(opened.structuredContent.session);
    expect(told.structuredContent.state).toEqual({ mood: null, notes: {} });
  }));

  test("its tabs work without a mouse", () => visit(async (page) => {
    const press = (key: string) => page.keyboard.press(key);
    const focused = () => page.evaluate<string>("document.activeElement.textContent");
    const isShown = async (app: string, text: string) => {
      expect(await focused()).toBe(app);
      expect(await tab(page, app).getAttribute("aria-selected")).toBe("true");
      expect(await page.getByRole("tab", { selected: true }).count()).toBe(1);
      expect(await panel(page).count()).toBe(1);
      expect(await panel(page).innerText()).toContain(text);
    };
    await page.focus("#copy-url");
    for (let link = 0; link < 3; link++) await press("Tab");
    await press("Tab");
    await isShown("Claude Code", "claude mcp add");
    await press("ArrowRight");
    await isShown("ChatGPT", "Developer mode");
    await press("ArrowLeft");
    await press("ArrowLeft");
    await isShown("Claude", "Claude’s settings");
    await press("Alt+ArrowLeft"); // the browser's own
    await isShown("Claude", "Claude’s settings");
    await press("ArrowLeft"); // around
    await isShown("Shell", "curl");
    await press("Home");
    await press("End");
    await isShown("Shell", "curl");
    await press("Home");
    await press("ArrowRight");
    await press("Tab"); // into the panel, past the other tabs
    expect(await page.evaluate<string>("document.activeElement.id")).toBe("panel-claude-code");
    await press("Tab");
    await press("Enter");
    expect(await copied(page)).toBe(`claude mcp add --transport http notebook ${gateway.mcp}`);
  }, clipboard));

  test("shows what the AI sees: instructions, and each tool with its arguments", () =>
    visit(async (page) => {
      const { instructions, tools } = await (await fetch(`${gateway.url}/door.json`)).json() as {
        instructions: string;
        tools: { name: string; description: string; inputSchema: { properties: object } }[];
      };
      expect(await page.innerText("#menu .note")).toBe(instructions);
      const titles = await page.locator("#menu h3").allInnerTexts();
      expect(titles.map((title) => title.split(":")[0]!)).toEqual([
        "Instructions", "First of all", "domain_*", "user_*", "config_*",
      ]);
      expect(await page.locator("#menu details").count()).toBe(tools.length);
      for (const { name, description, inputSchema } of tools) {
        const tool = page.locator("#menu details", { has: page.getByText(name, { exact: true }) });
        await tool.locator("summary").click();
        const text = await tool.innerText();
        expect(text).toContain(description);
        for (const arg of Object.keys(inputSchema.properties ?? {})) expect(text).toContain(arg);
      }
    }));

  test("without JavaScript it says what to paste", () => inBrowser(async (page) => {
    await page.goto(`${gateway.url}/mcp`);
    expect(await page.innerText("noscript")).toContain("this page's address up to /mcp");
  }, { javaScriptEnabled: false }));
});

// ---- Its states ----

describe.skipIf(!hasBrowser)("It says", () => {
  test("when the memory can't be reached, and when it can again", () => visit(async (page) => {
    const trouble = page.locator("#trouble");
    expect(await trouble.isVisible()).toBe(false);
    const call = await personAt(gateway, "ada");
    renameSync(file, `${file}.gone`);
    try {
      await call("user_get_state");
      await page.waitForSelector("#trouble:not([hidden])");
    } finally {
      renameSync(`${file}.gone`, file);
    }
    expect(await trouble.innerText()).toContain("The memory can’t be reached");
    expect(await page.innerText("#board-trouble")).toBe(await trouble.innerText());
    await page.waitForSelector("#trouble", { state: "hidden" });
    await page.waitForSelector("#board-trouble", { state: "hidden" });
  }));

  test("that sign-in is off", async () => {
    const own = await startGateway({ AUTH_DISABLED: "1" });
    await visit(async (page) => {
      expect(await page.innerText("#state")).toContain("AUTH_DISABLED");
      expect(await page.innerText("header")).not.toContain("Allow");
      for (const [app] of waysIn(own.mcp)) {
        const shown = await open(page, app);
        expect([app, await shown.innerText()]).toEqual([
          app, expect.not.stringMatching(/TOKEN=|Authorization|Allow|mcp login|mcp auth/),
        ]);
      }
    }, { at: own.url });
    await own.stop();
  });

  test("that it is behind a tunnel, with the tunnel's URL, and has no board", async () => {
    const RESOURCE_URL = "https://tunnel.example/mcp";
    const own = await startGateway({ RESOURCE_URL });
    await visit(async (page) => {
      expect(await page.innerText("#state")).toContain("passphrase");
      expect(await page.innerText("#url")).toBe(RESOURCE_URL);
      for (const [app, exact] of waysIn(RESOURCE_URL)) {
        const shown = await open(page, app);
        const text = await shown.innerText();
        expect(text).not.toContain("it needs a tunnel first");
        expect(text).not.toContain("It runs on this machine");
        const link = exact.find((one) => /^\w+:/.test(one) && one !== RESOURCE_URL);
        if (link) expect(await shown.locator("a").getAttribute("href")).toBe(link);
      }
      expect(await panel(page).innerText()).toContain("passphrase=THE-PASSPHRASE");
      expect(await page.locator("#board").isVisible()).toBe(false);
      expect(await page.locator("#to-board").isVisible()).toBe(false);
    }, { at: own.url });
    await own.stop();
  });

  test("in public where a person signs in, and nothing of the menu", async () => {
    const own = await startGateway({
      NODE_ENV: "production",
      RESOURCE_URL: "https://notes.example.com/mcp",
      AUTH_ISSUER: "https://sign-in.example.com",
      AUTH_JWKS_URL: "https://sign-in.example.com/keys",
      SESSION_SIGNING_SECRET: "s".repeat(43),
    });
    await visit(async (page) => {
      expect(await page.locator("#state").isVisible()).toBe(false);
      expect(await page.innerText("#foot")).toContain("sign-in.example.com");
      expect(await page.innerText("#menu")).not.toContain("begin_session");
      expect(await page.locator("#board").isVisible()).toBe(false);
    }, { at: own.url });
    await own.stop();
  });
});

// ---- The board ----

describe.skipIf(!hasBrowser)("The board", () => {
  test("has most calls within 200 ms of their answers", () => visit(async (page) => {
    await says(page, "#live", "Live");
    await counts(page, logOf(gateway).length); // what was there before
    await page.evaluate(`window.came = [];
      new MutationObserver(() => came.push(Date.now()))
        .observe(document.querySelector("#log ul"), { childList: true });`);
    const before = logOf(gateway).length;
    const call = await personAt(gateway, "ada");
    for (let calls = 1; calls < 9; calls++) {
      await Bun.sleep(120);
      await call("user_get_state");
    }
    await until(() => page.evaluate("came.length >= 9"));
    const came = await page.evaluate<number[]>("came");
    const sent = logOf(gateway).slice(before).map(({ at, ms }) => Date.parse(at) + ms!);
    const delays = came.map((at, n) => at - sent[n]!).sort((a, b) => a - b);
    expect(delays[0]).toBeGreaterThan(-20); // a clock's grain: they are these calls' own
    expect(delays[6]).toBeLessThan(200); // of nine: the machine may be busy
  }));

  test("says who, what, how it ended and why, in words; a refused sign-in, too", async () => {
    const own = await startGateway();
    await visit(async (page) => {
      expect(await page.innerText("#nothing")).toContain("bun run rehearse");
      const call = await personAt(own, "<img src=x onerror=alert(1)>");
      await call("user_get_state", { session: "made-up-made-up-ma" });
      await call("user_write", { mood: 7 });
      await call("domain_get_word", { word: "moss" });
      const headers = { authorization: "Bearer nonsense" };
      await fetch(own.mcp, { method: "POST", headers });
      await counts(page, 5);
      const said = (await rows(page).allInnerTexts()).map((text) => text.split("\n"));
      const time = expect.stringMatching(/^\d\d:\d\d:\d\d$/);
      const ms = expect.stringMatching(/^[\d.]+ ms$/);
      const who = "<img src=x onerror=alert(1)>";
      expect(said).toEqual([
        [time, "somebody", "sign-in", "✗ refused", "what came is not a token of ours at all"],
        [time, who, "domain_get_word", "✗ refused", ms, expect.stringContaining("the app said no (word)")],
        [time, who, "user_write", "✗ refused", ms, expect.stringContaining("not what the menu asks for")],
        [time, who, "user_get_state", "✗ refused", ms, expect.stringContaining("has to call begin_session first")],
        [time, who, "begin_session", "✓ ok", ms],
      ]);
      expect(await page.locator("#nothing").isVisible()).toBe(false);
    }, { at: own.url });
    await own.stop();
  });

  test("has the last 200, can be paused, and sleeps in a tab that nobody looks at", async () => {
    const own = await startGateway({ RATE_LIMIT_PER_MINUTE: "1000" });
    const call = await personAt(own, "ada");
    for (let calls = 0; calls < 210; calls++) await call("user_get_state");
    await visit(async (page) => {
      const first = (tool: string) => says(page, "#log .tool", tool);
      await counts(page, 200);
      const pause = page.locator("#pause");
      await pause.click();
      await call("user_list_actions");
      await says(page, "#pause", "Go on (1)");
      expect(await page.locator("#log .tool").first().innerText()).toBe("user_get_state");
      await pause.click();
      await first("user_list_actions");
      expect(await pause.innerText()).toBe("Pause");
      await counts(page, 200);

      const look = (hidden: boolean) => page.evaluate(`
        Object.defineProperty(document, "hidden", { value: ${hidden}, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"))`);
      await look(true);
      await call("user_get_profile");
      await Bun.sleep(400);
      expect(await page.locator("#log .tool").first().innerText()).toBe("user_list_actions");
      await look(false);
      await first("user_get_profile");
      await counts(page, 200);
    }, { at: own.url });
    await own.stop();
  });

  test("shows a line once, though the stream begins with the old ones each time it opens", async () => {
    const own = await startGateway();
    const call = await personAt(own, "ada");
    await visit(async (page) => {
      await counts(page, 1);
      await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))"); // opens again
      await call("user_get_state");
      await counts(page, 2);
      expect(await page.locator("#log .tool").allInnerTexts()).toEqual([
        "user_get_state", "begin_session",
      ]);
    }, { at: own.url });
    await own.stop();
  });

  test("asks after the memory once for many failures", async () => {
    const path = join(await scratch(), "many.sqlite");
    const own = await startGateway({ DATABASE_URL: `sqlite:${path}` });
    const call = await personAt(own, "ada");
    renameSync(path, `${path}.gone`);
    await Promise.all(Array.from({ length: 50 }, () => call("user_get_state")));
    let asked = 0;
    await inBrowser(async (page) => {
      page.on("request", (request) => void (asked += Number(request.url().endsWith("/health"))));
      await page.goto(own.url);
      await counts(page, 51);
      await page.waitForSelector("#board-trouble:not([hidden])");
    });
    expect(asked).toBeLessThan(5);
    await own.stop();
  });

  test("is where its link leads, and fills the screen", () => visit(async (page) => {
    await page.waitForSelector("#log li");
    const top = () => page.evaluate<number>(
      "document.getElementById('board-title').getBoundingClientRect().top");
    await until(async () => Math.abs(await top()) < 200);
    await page.click("#fill");
    await until(() => page.evaluate("document.fullscreenElement?.id === 'board'"));
  }, { at: `${gateway.url}/#board` }));

  test("outlives the server: what it showed stays, and goes on when the server is back", async () => {
    const env = { PORT: String(await freePort()) };
    let own = await startGateway(env);
    await personAt(own, "ada");
    await visit(async (page) => {
      await counts(page, 1);
      await own.stop();
      await page.waitForSelector("#trouble:not([hidden])");
      expect(await page.innerText("#live")).toContain("Trying again");
      own = await startGateway(env);
      await says(page, "#live", "Live");
      await personAt(own, "ben");
      await counts(page, 2);
      await page.waitForSelector("#trouble", { state: "hidden" });
    }, { at: own.url });
    await own.stop();
  });
});

test("a board on which nothing happens gives a sign of life, or it would be cut", async () => {
  const own = await startGateway();
  const reader = (await fetch(`${own.url}/board`)).body!.getReader();
  await reader.read();
  const begun = performance.now();
  const { value } = await reader.read();
  expect(new TextDecoder().decode(value)).toBe(":\n\n");
  expect(performance.now() - begun).toBeLessThan(40_000); // the gateway cuts after 60 s
  await own.stop();
});

// ---- Everybody's screen ----

const sizes = [[320, 640], [768, 1024], [1920, 1080]] as const;
const screens = sizes.flatMap(([width, height]) =>
  (["light", "dark"] as const).map((colorScheme) => [width, colorScheme, height] as const));

describe.skipIf(!hasBrowser)("On a screen", () => {
  beforeAll(async () => {
    if (!hasBrowser) return;
    // Names of colours that are hard to read on paper: yellow, and yellow-green.
    for (const name of ["grace", "rehearsal-ben", "ada", "dora", "linus"]) await personAt(gateway, name);
    const call = await personAt(gateway, "somebody-with-a-name-that-is-much-longer-than-others");
    await call("user_get_state", { session: "none" });
    await call("domain_get_word", { word: "moss" });
    await fetch(gateway.mcp, { method: "POST", headers: { authorization: "Bearer nonsense" } });
  });

  test.each(screens)("of %d pixels, %s: nothing sticks out, and axe finds nothing",
    (width, colorScheme, height) => visit(async (page) => {
      await page.waitForSelector("#log li");
      await page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })");
      for (const app of await page.getByRole("tab").all()) {
        await app.click();
        const wide = await page.evaluate("document.documentElement.scrollWidth - innerWidth");
        expect([await app.innerText(), wide]).toEqual([await app.innerText(), 0]);
      }
      // All panels at once: each has the same parts.
      await page.evaluate(`document.querySelectorAll("[role=tabpanel]")
        .forEach((one) => { one.hidden = false; })`);
      await page.evaluate(axe.source);
      const { violations, passes } = await page.evaluate<axe.AxeResults>("axe.run()");
      expect(violations.map(({ id, nodes }) => [id, nodes[0]!.html])).toEqual([]);
      expect(passes.map(({ id }) => id)).toContain("color-contrast");
    }, { viewport: { width, height }, colorScheme, reducedMotion: "reduce" }));

  test.skipIf(!process.env.SHOTS)("pictures", async () => {
    const folder = process.env.SHOTS_DIR || "/tmp/shots";
    mkdirSync(folder, { recursive: true });
    for (const [width, colorScheme, height] of screens) {
      await visit(async (page) => {
        await page.waitForSelector("#log li");
        const shot = (name: string, fullPage = false) =>
          page.screenshot({ path: join(folder, `door-${name}-${width}-${colorScheme}.png`), fullPage });
        await shot("top");
        await open(page, "Claude");
        await shot("page", true);
        await page.locator("#board").scrollIntoViewIfNeeded();
        await page.evaluate("document.getElementById('board').scrollIntoView()");
        await shot("board");
      }, { viewport: { width, height }, colorScheme, reducedMotion: "reduce" });
    }
    expect(existsSync(join(folder, "door-board-1920-dark.png"))).toBe(true);
  });
});
