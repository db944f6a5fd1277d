// `bun run skill` prints the app's rules and persona as a Skill: `> SKILL.md`, in a folder of the
// Skill's name. A model follows a Skill more closely than what a tool hands it; the tools and what
// is kept still come from the connector.

import { type App, rulesOf } from "../main.ts";
import { loadApp } from "../test/app.ts";

/** SKILL.md: a head that says what it is for, at most 1,024 characters of it, and the text. */
export function skillOf(app: App): string {
  const { slug, name, about, persona } = app;
  const use = `Use it whenever the ${name} is asked for, or one of its tools (begin_session, \
${Object.keys(app.tools).join(", ")}) is about to be called.`;
  return `---
name: ${slug}
description: ${JSON.stringify(`${about} ${use}`.slice(0, 1_024))}
---

# The ${name}

Its tools come from the connector of the same name. A visit starts with begin_session, whose key \
every other tool (but health) takes. Where the rules that it returns say otherwise, they are newer \
than these.

## Rules

${rulesOf(app)}

## Persona

${persona}
`;
}

if (import.meta.main) process.stdout.write(skillOf(await loadApp()));
