// What the language tutor is about: answers are graded on the server, once, and for good.

import { expect, test } from "bun:test";
import { gateway, type ToolResult } from "../../test/support.ts";
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
  const { use } = await room.enter("curious");
  const heard = [await use("domain_list_lessons"), await use("user_get_state")];
  for (const { id } of lessons) heard.push(await use("domain_get_lesson", { id }));
  const said = heard.map(textOf).join(" ");
  for (const { answers, explanation } of exercises) {
    expect(said).not.toContain(explanation);
    for (const answer of answers) expect(said).not.toContain(JSON.stringify(answer));
  }
  expect(said).not.toMatch(/"(answers?|explanation)":\[|"explanation"/);
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
  expect((await use("user_answer", wrong)).structuredContent).toEqual(first.structuredContent!);
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

test("an exercise that isn't there is refused with a way on", async () => {
  const { use } = await room.enter("cleo");
  const refused = await use("user_answer", { exercise: "opera-1", answer: "aria" });
  expect(textOf(refused)).toBe(
    'No exercise "opera-1". domain_get_lesson lists those of a lesson.');
});
