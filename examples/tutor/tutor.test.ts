// What the language tutor is about: answers are graded on the server, once, and for good.

import { expect, test } from "bun:test";
import { gateway, type ToolResult } from "../../test/support.ts";
import { join } from "node:path";
import { scratch } from "../../test/support.ts";
import { isRight, loadApp } from "../tutor.ts";
import lessons from "./lessons.json" with { type: "json" };

const room = await gateway({ app: await loadApp() });
const textOf = ({ content }: ToolResult) => content[0]!.text;
const exercises = lessons.flatMap((lesson) => lesson.exercises);

test.each<[string, boolean]>([
  ["Buongiorno", true],
  [" BUON GIORNO! ", true], // neither case nor signs count
  ["Buonasera", false],
  ["", false],
])("%p is graded as %p", (given, right) => {
  expect(isRight(exercises[0]!, given)).toBe(right);
});

test("accents count, in whatever way they are written", () => {
  const cafe = exercises.find(({ id }) => id === "cafe-1")!;
  const given = ["vorrei un caffè", "vorrei un caffe\u0300", "vorrei un caffe"];
  expect(given.map((one) => isRight(cafe, one))).toEqual([true, true, false]);
});

test("no right answer leaves before the learner gave one", async () => {
  const own = await gateway({ app: await loadApp() });
  const { use, token } = await own.enter("curious");
  const asked = await Promise.all([
    use("domain_list_lessons"), use("user_get_state"), use("user_list_actions"),
    use("config_get_rules"), ...lessons.map(({ id }) => use("domain_get_lesson", { id })),
  ]);
  for (const { isError } of asked) expect(isError).toBeUndefined();
  const refused = await use("user_answer", { exercise: "opera-1", answer: "aria" });
  const { body } = await own.rpc("tools/list", {}, token);
  const said = JSON.stringify([asked, refused, body, own.log]).toLowerCase();
  for (const { prompt, answers, explanation } of exercises) {
    expect(said).toContain(JSON.stringify(prompt).slice(1, -1).toLowerCase());
    for (const secret of [...answers, explanation]) {
      expect(said).not.toContain(secret.toLowerCase().replace(/[.?!]$/, ""));
    }
  }
});

test("an answer is graded, explained and counted", async () => {
  const { use } = await room.enter("ada");
  const answer = async (exercise: string, answer: string) =>
    (await use("user_answer", { exercise, answer })).structuredContent!;
  expect(await answer("greetings-2", "come va")).toMatchObject({
    right: true, answer: "Come stai?", score: { right: 1, answered: 1 },
  });
  expect(await answer("greetings-1", "ciao")).toMatchObject({
    right: false, answer: "Buongiorno", score: { right: 1, answered: 2 },
  });
});

test("a grade stands: no other answer, no undo; the same answer is told once more", async () => {
  const { use } = await room.enter("ben");
  await use("user_set_goal", { goal: "to order in a café" });
  const wrong = { exercise: "greetings-1", answer: "ciao" };
  const first = await use("user_answer", wrong);
  for (const answer of ["ciao", "CIAO!"]) {
    const again = await use("user_answer", { ...wrong, answer });
    expect(again.structuredContent).toEqual(first.structuredContent!);
  }
  const second = await use("user_answer", { ...wrong, answer: "buongiorno" });
  expect(textOf(second)).toStartWith('That was answered before ("ciao"), and the grade stands');
  expect(textOf(await use("user_undo"))).toStartWith("That can't be undone: it is final");
  const { actions } = (await use("user_list_actions")).structuredContent!;
  const goal = (actions as { id: string; tool: string }[]).find(({ tool }) =>
    tool === "user_set_goal")!;
  const { state } = (await use("user_undo", { action_id: goal.id })).structuredContent!;
  const answers = { "greetings-1": { given: "ciao", right: false } };
  expect(state).toEqual({ goal: null, answers });
});

const [greetings, cafe] = lessons as [typeof lessons[0], typeof lessons[0]];
const [first] = greetings.exercises as [typeof greetings.exercises[0]];
test.each<[string, unknown, string]>([
  ["a lesson twice", [greetings, { ...cafe, id: "greetings" }], "the id of a lesson is"],
  ["an exercise twice", [greetings, { ...cafe, exercises: [first] }], "the id of an exercise is"],
  ["signs alone for an answer", [{ ...greetings, exercises: [{ ...first, answers: ["…"] }] }],
    "has letters in it"],
  ["nothing", [], ">=1 items"],
])("a seed with %s stops the start", async (_, seed, says) => {
  const path = join(await scratch(), "lessons.json");
  await Bun.write(path, JSON.stringify(seed));
  expect(await loadApp(path).catch((error: Error) => error.message)).toContain(says);
});

test("an exercise that isn't there is refused with a way on", async () => {
  const { use } = await room.enter("cleo");
  const refused = await use("user_answer", { exercise: "opera-1", answer: "aria" });
  expect(textOf(refused)).toBe(
    'No exercise "opera-1". domain_get_lesson lists those of a lesson.');
});
