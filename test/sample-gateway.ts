// The gateway as a process of its own, with the sample app instead of yours.
import { start } from "../main.ts";
import { sampleApp } from "./sample-app.ts";

if (import.meta.main) await start(async () => sampleApp);
