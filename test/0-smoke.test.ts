// The shortest proof that the room works: start here. The files beside this one go through main.ts section by section.

import { expect, test } from "bun:test";
import { readdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { desk, mint, ROOT, scratch } from "./support.ts";

test("everything imports", async () => {
  const main = await import("../main.ts");
  const { mockAuth } = await import("../mock-auth.ts");
  expect([typeof main.createApp, typeof mockAuth]).toEqual(["function", "function"]);
  expect(Object.keys(main.tools)).toContain("begin_session");
});

test("a valid token resolves its subject", async () => {
  const room = await desk();
  const opened = await room.call("begin_session", {}, await mint({ sub: "reader-A" }));
  expect(opened.isError).toBeUndefined();
  expect(room.log).toMatchObject([{ sub: "reader-A", tool: "begin_session", outcome: "ok" }]);
});

test("a wrong-audience token is rejected", async () => {
  const room = await desk();
  const { status, headers } = await room.rpc("tools/list", {}, await mint({ aud: "https://elsewhere.example/mcp" }));
  expect(status).toBe(401);
  expect(headers.get("www-authenticate")).toContain('error="invalid_token"');
});

test("two subjects stay isolated", async () => {
  const room = await desk();
  const [ada, ben] = [await room.enter("reader-A"), await room.enter("reader-B")];
  await ada.use("user_save_state", { shelf: { a3: "second sentence" } });
  expect((await ada.use("user_get_state")).structuredContent?.state.shelf).toEqual({ a3: "second sentence" });
  expect((await ben.use("user_get_state")).structuredContent?.state.shelf).toEqual({});

  const borrowed = await room.call("user_get_state", { session: ada.session }, ben.token);
  expect(borrowed.content[0]!.text).toStartWith("No valid session.");
});

test("a call with no session is refused", async () => {
  const room = await desk();
  const refused = await room.call("user_get_state", {}, await mint());
  expect(refused.isError).toBe(true);
  expect(refused.content[0]!.text).toStartWith("No valid session. Call begin_session");
});

// ---- The file as a text: the map is true, and reading it does nothing ----

const lines = (await Bun.file(join(ROOT, "main.ts")).text()).split("\n");
const intro = lines.slice(0, lines.findIndex((line) => !line.startsWith("//")));
const pick = (from: string[], pattern: RegExp) => from.flatMap((line) => line.match(pattern)?.[1] ?? []);
const headers = pick(lines, /^\/\/ ---- (\d+\. .+?) -+$/);

test("the map at the top of main.ts names its sections, in order", () => {
  expect(headers.map((header) => Number.parseInt(header))).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
  expect(pick(intro, /^\/\/ {3}(\d+\. \S+(?: \S+)*)/)).toEqual(headers);
});

test("the request's way through main.ts, drawn under the map, passes sections that exist", () => {
  const titles = headers.map((header) => header.replace(": YOURS", ""));
  const drawn = intro.filter((line) => line.includes("──▶")).flatMap((line) => line.match(/\d+\. [^─,]*[^─,\s]/g) ?? []);
  expect(drawn.length).toBeGreaterThan(4);
  expect(titles).toEqual(expect.arrayContaining(drawn));
});

test("`grep YOURS` is the tour: the word is used for nothing else", () => {
  const mapped = (line: string) => intro.includes(line) && /^\/\/ {3}\d+\. [\w ]+: YOURS\b/.test(line);
  const others = lines.filter((line) => line.includes("YOURS") && !mapped(line) && !/^\/\/ ---- \d+\. [\w ]+: YOURS -+$/.test(line));
  expect(others).toEqual([expect.stringContaining("`grep YOURS")]);
  expect(headers.filter((header) => header.endsWith(": YOURS")).length).toBeGreaterThan(0);
});

test("importing main.ts opens no port and no file, and prints nothing", async () => {
  const cwd = await scratch();
  const child = Bun.spawn(["bun", "-e", `await import(${JSON.stringify(join(ROOT, "main.ts"))})`], {
    cwd,
    env: { PATH: process.env.PATH!, HOME: process.env.HOME ?? tmpdir(), PORT: "0", DATABASE_URL: "sqlite:opened.sqlite" }, // a start would refuse this port
    stdout: "pipe",
    stderr: "pipe",
    timeout: 5_000, // milliseconds: an open port would keep the process alive
  });
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  expect({ out, err, code, files: await readdir(cwd) }).toEqual({ out: "", err: "", code: 0, files: [] });
});

test("every test that README.md quotes is there", async () => {
  const readme = await Bun.file(`${ROOT}/README.md`).text();
  const files = [...new Bun.Glob("*.ts").scanSync(`${ROOT}/test`)];
  const tests = (await Promise.all(files.map((file) => Bun.file(`${ROOT}/test/${file}`).text()))).join("\n");
  const quoted = [...readme.matchAll(/“([^”]+)”/g)].map(([, name]) => name!).filter((name) => name.includes(" "));
  expect(quoted.length).toBeGreaterThan(2);
  expect(quoted.filter((name) => !tests.includes(name))).toEqual([]);
});
