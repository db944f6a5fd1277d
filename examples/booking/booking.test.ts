// What the booking helper is about: an hour at a wheel is one person's, of all people.

import { afterEach, describe, expect, setSystemTime, test } from "bun:test";
import { gateway, placesHere, type ToolResult } from "../../test/support.ts";
import { sqliteStore } from "../../main.ts";
import { loadApp, slotsOf } from "../booking.ts";

const app = await loadApp();
const textOf = ({ content }: ToolResult) => content[0]!.text;
const day = "2099-05-04";
const at = (time: string) => ({ wheel: "wheel-1", day, time });
const TAKEN = "Somebody else has that by now, so nothing was changed. Something else may be free.";

test("an hour that has begun is no slot any more", () => {
  const wheel = { id: "w", name: "W", opens: 9, closes: 12 };
  const slots = (now: string) => slotsOf(wheel, "2030-05-04", new Date(now));
  const all = ["w 2030-05-04 09:00", "w 2030-05-04 10:00", "w 2030-05-04 11:00"];
  expect(slots("2030-05-03T23:59Z")).toEqual(all);
  expect(slots("2030-05-04T10:00Z")).toEqual(all.slice(2));
  expect(slots("2030-05-05T00:00Z")).toEqual([]);
});

describe.each(await placesHere())("In %s", (_, open) => {
  const studio = async () => {
    const { enter } = await gateway({ app, store: await (await open()).store() });
    return async (sub: string) => {
      const { use } = await enter(sub);
      const free = async () =>
        (await use("domain_list_free", { wheel: "wheel-1", day })).structuredContent!.free;
      const mine = async () =>
        Object.keys((await use("user_get_state")).structuredContent!.state.bookings);
      return { use, free, mine, book: (time: string) => use("user_book", at(time)) };
    };
  };

  test("what one has booked is free for nobody, until they cancel or take it back", async () => {
    const enter = await studio();
    const [ada, ben] = [await enter("ada"), await enter("ben")];
    await ada.book("10:00");
    expect(await ben.free()).not.toContain("10:00");
    expect(textOf(await ben.book("10:00"))).toStartWith(`wheel-1 ${day} 10:00 is not free. `);
    await ada.use("user_undo");
    expect(await ben.free()).toContain("10:00");
    await ada.book("10:00");
    await ada.use("user_cancel", { booking: `wheel-1 ${day} 10:00` });
    expect((await ben.book("10:00")).isError).toBeUndefined();
  });

  test("a cancel can be undone while the hour is free, and not once somebody has it", async () => {
    const enter = await studio();
    const [ada, ben] = [await enter("ada"), await enter("ben")];
    await ada.book("11:00");
    await ada.use("user_cancel", { booking: `wheel-1 ${day} 11:00` });
    await ben.book("11:00");
    expect(textOf(await ada.use("user_undo"))).toBe(TAKEN);
    expect(await ada.mine()).toEqual([]);
    await ben.use("user_undo");
    expect((await ada.use("user_undo")).isError).toBeUndefined();
    expect(await ada.mine()).toEqual([`wheel-1 ${day} 11:00`]);
  });

  test("of twelve who want it at the same moment one gets it", async () => {
    const enter = await studio();
    const people = await Promise.all(Array.from({ length: 12 }, (_, n) => enter(`p${n}`)));
    const answers = await Promise.all(people.map(({ book }) => book("12:00")));
    const refused = answers.filter(({ isError }) => isError).map(textOf);
    expect(refused).toHaveLength(11);
    for (const words of refused) expect(words).toMatch(/^Somebody else has that|is not free/);
    const kept = await Promise.all(people.map(({ mine }) => mine()));
    expect(kept.flat()).toEqual([`wheel-1 ${day} 12:00`]);
  });

  test("whoever is forgotten leaves their hours to others", async () => {
    const enter = await studio();
    const [ada, ben] = [await enter("ada"), await enter("ben")];
    await ada.book("13:00");
    const { confirm } = (await ada.use("user_forget_me")).structuredContent!;
    await ada.use("user_forget_me", { confirm });
    expect((await ben.book("13:00")).isError).toBeUndefined();
  });
});

const MOST = "takes 5 to come; user_cancel frees one → at bookings.";
const times = ["09:00", "10:00", "11:00", "12:00", "13:00"];

test("a sixth booking to come is refused, by whatever way it would come", async () => {
  const { use } = await (await gateway({ app })).enter();
  for (const time of times) await use("user_book", at(time));
  expect(textOf(await use("user_book", at("14:00")))).toBe(MOST);
  await use("user_cancel", { booking: `wheel-1 ${day} 09:00` });
  await use("user_book", at("14:00"));
  const { actions } = (await use("user_list_actions")).structuredContent!;
  const cancelled = (actions as { id: string; tool: string }[]).find(({ tool }) =>
    tool === "user_cancel")!;
  expect(textOf(await use("user_undo", { action_id: cancelled.id }))).toBe(MOST);
});
test("a booking that is over does not count", async () => {
  const store = await sqliteStore(":memory:");
  const soon = "2030-05-04"; // session keys end in 2059
  const enterAt = async (time: string) => {
    setSystemTime(new Date(`${soon}T${time}:00Z`));
    return (await (await gateway({ app, store })).enter()).use;
  };
  const use = await enterAt("08:00");
  for (const time of times) await use("user_book", { ...at(time), day: soon });
  const later = await enterAt("10:30");
  const booked = await later("user_book", { ...at("14:00"), day: soon });
  expect(booked.isError).toBeUndefined();
  const toCome = ["11:00", "12:00", "13:00", "14:00"].map((time) => `wheel-1 ${soon} ${time}`);
  const { summary } = (await later("user_get_state")).structuredContent!;
  expect(summary).toBe(`To come: ${toCome.join(", ")}.`);
});
afterEach(() => void setSystemTime());

test("booked again it takes another note, and keeps the one that it has", async () => {
  const { use } = await (await gateway({ app })).enter();
  const noteOf = async (more: object) =>
    (await use("user_book", { ...at("09:00"), ...more })).structuredContent!.bookings;
  for (const note of ["for one", "for two"]) await noteOf({ note });
  expect(await noteOf({})).toEqual({ [`wheel-1 ${day} 09:00`]: "for two" });
});

test.each<[string, object, string]>([
  ["an hour before it opens", { time: "08:00" }, "is not free. Free on that day: 09:00,"],
  ["the hour in which it closes", { time: "18:00" }, "is not free. Free on that day: 09:00,"],
  ["a day that is over", { day: "2020-05-04" }, "is not free. Free on that day: nothing."],
  ["half an hour", { time: "10:30" }, "takes a full hour, such as 10:00 → at time."],
  ["a day that no month has", { day: "2030-02-30" }, "→ at day."],
  ["a wheel that isn't there", { wheel: "wheel-9" }, 'No wheel "wheel-9". The ids are wheel-1,'],
])("%s can't be booked", async (_, wrong, says) => {
  const { use } = await (await gateway({ app })).enter();
  expect(textOf(await use("user_book", { ...at("10:00"), ...wrong }))).toContain(says);
  expect((await use("user_get_state")).structuredContent!.state.bookings).toEqual({});
});
