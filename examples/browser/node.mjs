// node node.mjs FOLDER COUNT PROMPT...
// Greedy text with transformers.js under Node (ONNX Runtime native), as JSON.
import path from "node:path";
import * as transformers from "@huggingface/transformers";
import { greedy } from "./generate.mjs";

const [folder, count, ...prompts] = process.argv.slice(2);
if (!prompts.length) {
  console.error("usage: node node.mjs FOLDER COUNT PROMPT...");
  process.exit(2);
}
transformers.env.allowRemoteModels = false;
transformers.env.useFSCache = false;
// A chunk that is missing ends as a rejection that nobody awaits: Node prints it and ends with status 1.
console.log(JSON.stringify(await greedy(transformers, path.resolve(folder), prompts, Number(count))));
