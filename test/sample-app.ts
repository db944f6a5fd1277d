// A tiny app for the tests: whatever they prove of the gate, the memory and the stores holds for
// any app, so none of them has to know yours.

import { z } from "zod";
import { type App, READS, Refusal, tool, type ToolContext, WRITES } from "../main.ts";

const note = z.string().max(280).meta({ maxLength: 280 });
const Notebook = z.strictObject({
  mood: z.string().max(40).nullable(), // one value
  notes: z.object({}).catchall(note) // a collection: each entry is a unit of its own
    .refine((notes) => Object.keys(notes).length <= 20, "takes at most 20 notes"),
});
export type Notebook = z.infer<typeof Notebook>;

const WORDS: Record<string, string> = { fern: "a green plant", tide: "the sea's breath" };

export function write(state: Notebook, patch: { mood?: string | null | undefined; notes?: Record<string, string | null> | undefined }): Notebook {
  const notes: Record<string, string> = {};
  for (const [name, text] of Object.entries({ ...state.notes, ...patch.notes })) {
    if (text !== null) notes[name] = text;
  }
  return { mood: patch.mood === undefined ? state.mood : patch.mood, notes };
}

export const sampleApp: App<Notebook> = {
  slug: "notebook",
  name: "Notebook",
  about: "A notebook that your AI writes in for you. It knows what a few words mean.",
  scopes: { read: "read your notes", write: "write in your notebook, and erase it" },
  instructions: "A notebook, and the meaning of a few words.",
  rules: "1. What you say about a note comes from a tool's result.",
  persona: "You are brief.",
  reminder: "This is what the notebook says.",
  State: Notebook,
  empty: { mood: null, notes: {} },
  summarize: ({ mood, notes }) => `Mood: ${mood ?? "unknown"}. Notes: ${Object.keys(notes).join(", ") || "none"}.`,
  describe: ({ key, entry, after }) => `${entry ?? key} is ${after === undefined ? "gone" : `"${String(after)}"`}`,
  tools: {
    domain_list_words: tool({
      title: "List the words",
      annotations: READS,
      description: "Lists every word.",
      input: {},
      output: { words: z.array(z.string()) },
      run: async () => ({ words: Object.keys(WORDS) }),
    }),
    domain_get_word: tool({
      title: "Look a word up",
      annotations: READS,
      description: "Returns what a word means.",
      input: { word: z.string().max(50).describe("a word as listed") },
      output: { meaning: z.string() },
      run: async ({ word }) => {
        if (!Object.hasOwn(WORDS, word)) throw new Refusal("word", `No word "${word}". domain_list_words lists them.`);
        return { meaning: WORDS[word]! };
      },
    }),
    user_write: tool({
      title: "Write",
      annotations: { ...WRITES, idempotentHint: true },
      description: "Keeps a mood and notes. Only what is named changes; null removes.",
      input: {
        mood: z.string().max(40).nullable().optional().describe("at most 40 characters, or null"),
        notes: z.object({}).catchall(note.nullable()).optional().describe('notes by name, {"a": "at most 280 characters", "b": null}'),
      },
      output: { state: Notebook },
      run: async (patch, { memory }: ToolContext<Notebook>) => ({ state: await memory.change((state) => write(state, patch)) }),
    }),
    user_seal: tool({
      title: "Seal a note",
      annotations: WRITES,
      undoable: false,
      description: "Seals a note for good.",
      input: { name: z.string().max(50).describe("a note's name") },
      output: { state: Notebook },
      run: async ({ name }, { memory }: ToolContext<Notebook>) => ({
        state: await memory.change((state) => write(state, { notes: { [name]: "sealed" } })),
      }),
    }),
  },
};

/** What seed/rehearsal.json is for your app. */
export const sampleRehearsal = {
  missing: { tool: "domain_get_word", args: { word: "moss" } },
  read: { tool: "domain_get_word", args: { word: "fern" } },
  save: { tool: "user_write", args: { mood: "calm", notes: { a: "as read" } } },
};
