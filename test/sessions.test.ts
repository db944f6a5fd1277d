// Section 4: the short key. It is good for one person, one purpose and an hour; nothing of it is
// stored. (gate.test.ts shows every tool asking for it.)

import { afterEach, expect, setSystemTime, test } from "bun:test";
import { keysFor } from "../main.ts";
import { gateway, mint } from "./support.ts";

afterEach(() => void setSystemTime());

const OPENED = new Date("2026-11-21T07:00:00.000Z");
const at = (seconds: number) => setSystemTime(new Date(OPENED.getTime() + seconds * 1000));
const SECRET = "s".repeat(43);
const ada = keysFor(SECRET, "local|ada");
const REFUSED = /^No valid session\. Call begin_session/;

test("a key has 18 characters that any model can type", () => {
  for (let n = 0; n < 50; n++) {
    at(n * 1_000_003);
    expect(ada.make("session", 3600)).toMatch(/^[A-Za-z0-9_-]{18}$/);
  }
});

test("two keys of one person, made a millisecond apart, differ, and both are good", () => {
  const keys = [0, 0.001].map((seconds) => (at(seconds), ada.make("session", 3600)));
  expect(keys[0]).not.toBe(keys[1]!);
  expect(keys.map((key) => ada.check("session", key))).toEqual([true, true]);
});

test.each<[string, ReturnType<typeof keysFor>, string]>([
  ["another person", keysFor(SECRET, "local|ben"), "forget v1"],
  ["a person whose name begins alike", keysFor(SECRET, "local|ada "), "forget v1"],
  ["the same sub of another issuer", keysFor(SECRET, "https://a.example|ada"), "forget v1"],
  ["the same person under another secret", keysFor("t".repeat(43), "local|ada"), "forget v1"],
  ["another purpose", ada, "session"],
  ["the same purpose about another thing", ada, "forget v2"],
])("a key is no key for %s", (_, keys, purpose) => {
  const key = ada.make("forget v1", 300);
  expect(ada.check("forget v1", key)).toBe(true);
  expect(keys.check(purpose, key)).toBe(false);
});

test("a key is good until its last second, and never again", () => {
  at(0);
  const key = ada.make("session", 3600);
  for (const [seconds, good] of [[3599.9, true], [3600, false], [90 * 24 * 3600, false]] as const) {
    at(seconds);
    expect([seconds, ada.check("session", key)]).toEqual([seconds, good]);
  }
});

test("a key with any one character changed is refused", () => {
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  const key = ada.make("session", 3600);
  for (let index = 0; index < 18; index++) {
    for (const other of alphabet.replace(key[index]!, "")) {
      expect(ada.check("session", key.slice(0, index) + other + key.slice(index + 1))).toBe(false);
    }
  }
});

test("the expiry of one key can't be put on another", () => {
  at(0);
  const early = ada.make("session", 3600);
  at(600);
  const late = ada.make("session", 3600);
  expect(ada.check("session", late.slice(0, 6) + early.slice(6))).toBe(false);
  expect(ada.check("session", early.slice(0, 6) + late.slice(6))).toBe(false);
});

test.each<[string, (key: string) => unknown]>([
  ["nothing", () => undefined],
  ["null", () => null],
  ["a list of it", (key) => [key]],
  ["an empty text", () => ""],
  ["one character less", (key) => key.slice(1)],
  ["one character more", (key) => `${key}A`],
  ["a line end after it", (key) => `${key}\n`],
  ["another alphabet", (key) => `${key.slice(0, 17)}+`],
  ["18 wide characters", () => "é".repeat(18)],
])("%s is no key, and no error", (_, given) => {
  expect(ada.check("session", given(ada.make("session", 3600)))).toBe(false);
});

test("a key that was proved before is good as long as it was, and no other in its place", () => {
  at(0);
  const [key, other] = [ada.make("session", 3600), ada.make("session", 3601)];
  const made = `${other.slice(0, 8)}${key.slice(8)}`;
  expect([key, other, made].map((one) => ada.check("session", one, key))).toEqual([true, true, false]);
  expect(ada.check("session", undefined, undefined)).toBe(false);
  at(3600);
  expect(ada.check("session", key, key)).toBe(false);
});

test("begin_session says how long its key lasts, and that is the truth", async () => {
  at(0);
  const { call } = await gateway();
  const token = await mint({ exp: OPENED.getTime() / 1000 + 24 * 3600 });
  const opened = (await call("begin_session", {}, token)).structuredContent!;
  expect(opened.expires_in_seconds).toBe(3600);
  const use = () => call("user_get_state", { session: opened.session }, token);
  at(3599);
  await Bun.sleep(1_000); // the sign-in service's keys are due again, once a second at most
  expect((await use()).isError).toBeUndefined();
  at(3600);
  expect((await use()).content[0]!.text).toMatch(REFUSED);
});

test("a redeploy with the same secret takes the key, and one with another does not", async () => {
  const { token, session } = await (await gateway()).enter();
  const same = await gateway();
  expect((await same.call("user_get_state", { session }, token)).isError).toBeUndefined();
  const other = await gateway({ env: { SESSION_SIGNING_SECRET: "t".repeat(43) } });
  const refused = await other.call("user_get_state", { session }, token);
  expect(refused.content[0]!.text).toMatch(REFUSED);
});
