// The page: greedy text with transformers.js on WASM. With ?job={"prompts":[...],"count":N,"runtime":NAME} in its
// address it runs that, and posts what came of it to /result; without, the form does.
import * as transformers from "/node_modules/@huggingface/transformers/dist/transformers.min.js";
import { greedy } from "./generate.mjs";

const { env } = transformers;
env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = "/";
env.useBrowserCache = false;
env.useWasmCache = false;

/** Which build of ONNX Runtime is used; by default transformers.js fetches one from a content delivery network. */
function setRuntime(name = "ort-wasm-simd-threaded") {
  const runtime = `/node_modules/onnxruntime-web/dist/${name}`;
  env.backends.onnx.wasm.wasmPaths = { mjs: `${runtime}.mjs`, wasm: `${runtime}.wasm` };
}

const output = document.getElementById("output");

async function run({ prompts, count, runtime }) {
  setRuntime(runtime);
  const begin = performance.now();
  const results = await greedy(transformers, "models", prompts, count);
  const seconds = (performance.now() - begin) / 1000;
  output.textContent = results.map(({ prompt, text }) => prompt + text).join("\n\n");
  return { results, seconds, version: env.version, isolated: crossOriginIsolated };
}

const post = (result) => fetch("/result", { method: "POST", body: JSON.stringify(result) });

function fail(error) {
  output.textContent = String(error);
  return post({ error: String(error?.message ?? error) });
}

// A chunk that is missing ends as a rejection that nobody awaits, and the load never ends.
addEventListener("unhandledrejection", (event) => fail(event.reason));

const job = new URLSearchParams(location.search).get("job");
if (job) run(JSON.parse(job)).then(post, fail);

document.getElementById("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const value = (id) => document.getElementById(id).value;
  run({ prompts: [value("prompt")], count: Number(value("count")) }).catch(fail);
});
