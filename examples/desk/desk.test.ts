// What the support desk is about: tickets are the customer's own, and nobody else's.

import { expect, test } from "bun:test";
import { gateway, type ToolResult } from "../../test/support.ts";
import { loadApp, searchPages } from "../desk.ts";
import pages from "./pages.json" with { type: "json" };

const room = await gateway({ app: await loadApp() });
const textOf = ({ content }: ToolResult) => content[0]!.text;
const scale = { subject: "It never shows zero", message: "I held TARE." };

test.each<[string, string[]]>([
  ["tare zero", ["zero", "calibrate"]],
  ["BATTERIES", ["battery", "units", "warranty"]],
  ["wifi", []],
])("searching for %p finds %p", (query, ids) => {
  expect(searchPages(pages, query).map(({ id }) => id)).toEqual(ids);
});

test("a ticket is opened, added to, closed, and opened again by a message", async () => {
  const { use } = await room.enter("ada");
  const opened = (await use("user_open_ticket", scale)).structuredContent!;
  const ticket = { status: "open", messages: [{ text: "I held TARE." }] };
  expect(opened).toMatchObject({ id: "t1", ticket });
  const closed = (await use("user_close_ticket", { id: "t1" })).structuredContent!;
  expect(closed.ticket.status).toBe("closed");
  const message = { id: "t1", message: "It is back." };
  const again = (await use("user_add_message", message)).structuredContent!;
  expect([again.ticket.status, again.ticket.messages.length]).toEqual(["open", 2]);
  const { summary } = (await use("user_get_state")).structuredContent!;
  expect(summary).toBe("Open: t1 “It never shows zero”. Tickets in all: 1.");
});

test("another customer's ticket is no ticket, whatever its number", async () => {
  const [ada, ben] = [await room.enter("anna"), await room.enter("ben")];
  for (let n = 0; n < 3; n++) await ada.use("user_open_ticket", scale);
  await ben.use("user_open_ticket", { ...scale, subject: "Batteries" });
  for (const name of ["user_close_ticket", "user_add_message"]) {
    const args = name === "user_add_message" ? { id: "t3", message: "hello" } : { id: "t3" };
    expect(textOf(await ben.use(name, args)))
      .toBe('No ticket "t3". This customer\'s: t1.');
  }
  const { state } = (await ada.use("user_get_state")).structuredContent!;
  expect(state.tickets.t3.messages).toHaveLength(1);
});

test("a ticket taken back leaves the others their numbers", async () => {
  const { use } = await room.enter("cleo");
  for (const subject of ["one", "two"]) await use("user_open_ticket", { ...scale, subject });
  const { actions } = (await use("user_list_actions")).structuredContent!;
  await use("user_undo", { action_id: actions[1].id }); // t1
  const { id } = (await use("user_open_ticket", { ...scale, subject: "three" })).structuredContent!;
  expect(id).toBe("t3");
  const { state } = (await use("user_get_state")).structuredContent!;
  expect(Object.values<{ subject: string }>(state.tickets).map(({ subject }) => subject).sort())
    .toEqual(["three", "two"]);
});

test("a ticket takes five messages, and says what to do then", async () => {
  const { use } = await room.enter("dora");
  await use("user_open_ticket", scale);
  const add = () => use("user_add_message", { id: "t1", message: "and" });
  for (let n = 1; n < 5; n++) expect((await add()).isError).toBeUndefined();
  expect(textOf(await add())).toStartWith("takes 5 messages; a new ticket has room");
});

test("of more than twenty tickets the oldest closed one goes; with none closed it says so",
  async () => {
  const { use } = await room.enter("fritz");
  for (let n = 0; n < 20; n++) await use("user_open_ticket", scale);
  expect(textOf(await use("user_open_ticket", scale)))
    .toStartWith("takes 20 tickets; closed ones make room");
  for (const id of ["t7", "t3"]) await use("user_close_ticket", { id });
  const { id } = (await use("user_open_ticket", scale)).structuredContent!;
  const { tickets } = (await use("user_get_state")).structuredContent!.state;
  expect([id, Object.keys(tickets).length, "t3" in tickets, "t7" in tickets])
    .toEqual(["t21", 20, false, true]);
});

test("a page that isn't there, and a subject of two lines, are refused in words", async () => {
  const { use } = await room.enter("gerda");
  expect(textOf(await use("domain_get_page", { id: "wifi" }))).toBe(
    'No page "wifi". The ids are zero, battery, units, calibrate, warranty.');
  const two = await use("user_open_ticket", { ...scale, subject: "one\ntwo" });
  expect(textOf(two)).toBe("takes one line → at subject.");
});

test("a receipt says what was done with which ticket", async () => {
  const { use } = await room.enter("emil");
  await use("user_open_ticket", scale);
  await use("user_add_message", { id: "t1", message: "and" });
  await use("user_close_ticket", { id: "t1" });
  await use("user_undo");
  const { actions } = (await use("user_list_actions")).structuredContent!;
  const told = (actions as { summary: string }[]).map(({ summary }) => summary);
  const on = ": It never shows zero";
  expect(told).toEqual([
    `undo: changed t1${on}`, `closed t1${on}`, `added to t1${on}`, `opened t1${on}`]);
});
