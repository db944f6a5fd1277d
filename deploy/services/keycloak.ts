import { NotHere, type Start } from "./service.ts";
export const start: Start = async () => { throw new NotHere("not yet"); };
