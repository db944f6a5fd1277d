// The tools that the protocol makers' suite asks a server for, as far as a tools-only gateway can
// have them: what it wants with images, logs or questions to the person is in the baselines.

import { z } from "zod";
import { type App, READS, Refusal, start, tool } from "../../main.ts";

const Nothing = z.strictObject({});
const Address = z.object({ street: z.string().optional(), city: z.string().optional() })
  .meta({ id: "address", $anchor: "addressDef" });
/** What a schema may say of itself beyond its fields. */
const SAID = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  allOf: [{ anyOf: [{ required: ["name"] }, { required: ["session"] }] }],
  if: { required: ["name"] },
  then: { required: ["session"] },
  else: { required: ["session"] },
};

export const conformanceApp: App = {
  slug: "conformance",
  name: "Conformance",
  about: "The tools that a conformance suite calls.",
  scopes: { read: "call the suite's tools", write: "change nothing, for there is nothing" },
  instructions: "The tools that a conformance suite calls.",
  rules: "1. This is a test.",
  persona: "You are a program.",
  reminder: "This is the result of a test.",
  State: Nothing,
  empty: {},
  summarize: () => "Nothing is kept.",
  describe: ({ key }) => key,
  tools: {
    test_simple_text: tool({
      title: "A text",
      annotations: READS,
      description: "Returns a sentence.",
      input: {},
      output: { text: z.string() },
      run: async () => ({ text: "This is a simple text response for testing." }),
    }),
    test_error_handling: tool({
      title: "An error",
      annotations: READS,
      description: "Refuses every call.",
      input: {},
      output: {},
      run: async () => {
        throw new Refusal("test", "This tool intentionally returns an error for testing");
      },
    }),
    json_schema_2020_12_tool: {
      title: "A schema",
      annotations: READS,
      description: "Takes a name and an address, and does nothing with them.",
      input: z.strictObject({ name: z.string().optional(), address: Address.optional() }).meta(SAID),
      output: z.strictObject({}),
      run: async () => ({}),
    },
    test_header: tool({
      title: "A header",
      annotations: READS,
      description: "Returns the region, which a client also says in the header Mcp-Param-Region.",
      input: { region: z.string().meta({ "x-mcp-header": "Region" }) },
      output: { region: z.string() },
      run: async ({ region }) => ({ region }),
    }),
  },
};

if (import.meta.main) await start(async () => conformanceApp);
