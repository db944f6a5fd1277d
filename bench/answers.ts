// Before anything is measured, each server has to answer right, and to refuse what is wrong.

import { deepStrictEqual } from "node:assert";
import articles from "../seed/articles.json" with { type: "json" };
import { type Answer, exchange } from "./load.ts";
import { ARTICLE_ID, type Era, type Operation, operations, type Person, requestOf } from "./requests.ts";
import type { Server } from "./servers.ts";

interface Result {
  isError?: boolean;
  structuredContent?: Record<string, unknown>;
  content?: { type: string; text: string }[];
  tools?: unknown[];
}
function messageOf({ body }: Answer) {
  const json = body.match(/^data: (\{.*\})$/m)?.[1] ?? body; // JSON, or an event stream
  return JSON.parse(json) as { result?: Result; error?: object };
}
export const resultOf = (answer: Answer) => messageOf(answer).result;

/** @returns the bytes of a right answer on the wire. @throws when this one isn't. */
export async function expectRight(server: Server, era: Era, operation: Operation) {
  const answer = await exchange(server.port, requestOf(server.port, era, operation, server.people[0]!));
  const result = answer.status === 200 ? resultOf(answer) : undefined;
  const isRight = operation.tool ? result?.structuredContent && !result.isError : result?.tools?.length;
  if (!isRight) throw new Error(`not a result: ${answer.status} ${answer.body.slice(0, 300)}`);
  if (operation === operations.getArticle) expectArticle(result!);
  return answer.bytes;
}

/** The article of the seed, twice: structured, and as text for hosts that read text alone. */
function expectArticle({ structuredContent, content }: Result) {
  const article = articles.find(({ id }) => id === ARTICLE_ID);
  const asText = JSON.parse(content?.[0]?.text ?? "{}") as { article?: unknown };
  deepStrictEqual(structuredContent?.article, article);
  deepStrictEqual(asText.article, article);
}

/** @throws unless bad tokens are a 401, and a bad session key and a bad argument get no article. */
export async function expectRefusals({ port, people, badTokens }: Server, era: Era) {
  const person = people[0]!;
  const { getArticle } = operations;
  const ask = (who: Person, operation = getArticle) =>
    exchange(port, requestOf(port, era, operation, who));
  for (const [what, token] of Object.entries(badTokens)) {
    const { status } = await ask({ ...person, token });
    if (status !== 401) throw new Error(`a token ${what} was answered by ${status}`);
  }
  const bad = {
    "another person's session key": await ask({ ...person, session: people[1]!.session }),
    "a number for an id": await ask(person, { ...getArticle, args: ({ session }) => ({ id: 5, session }) }),
  };
  for (const [what, answer] of Object.entries(bad)) {
    const { result, error } = answer.status < 500 ? messageOf(answer) : {};
    const isRefused = (error || result?.isError) && !result?.structuredContent;
    if (!isRefused) throw new Error(`${what} was not refused: ${answer.status} ${answer.body.slice(0, 200)}`);
  }
}
