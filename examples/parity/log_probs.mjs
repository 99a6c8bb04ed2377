// node log_probs.mjs MODEL SAVED OUT [--runtime web|node] [--tokenizer FILE]
// Log-probs of the tokens in SAVED, which `onnxq eval MODEL --log-probs SAVED` wrote, computed by onnxruntime-web
// (WASM, no browser needed) or onnxruntime-node, and written the same way.
import fs from "node:fs";
import { parseArgs } from "node:util";
import { Mismatch, command, loadModel, sha256 } from "./lm.mjs";
import { read, write } from "./tensors.mjs";

/** Natural log-probs of a row of logits, summed in double precision as onnxq does. */
function logSoftmax(logits) {
  const most = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const sum = logits.reduce((total, x) => total + Math.exp(x - most), 0);
  const norm = most + Math.log(sum);
  return logits.map((x) => x - norm);
}

/** Log-probs of the last `rows` positions of the window `ids`. */
async function windowLogProbs(model, ids, rows) {
  const logits = await model.feed(model.start(1), [Array.from(ids)]);
  const width = model.vocabulary;
  const result = new Float32Array(rows * width);
  for (let row = 0; row < rows; row++) {
    const begin = (ids.length - rows + row) * width;
    result.set(logSoftmax(logits.subarray(begin, begin + width)), row * width);
  }
  return { shape: [rows, width], data: result };
}

/** Log-prob of each token that follows; NaN after the last. */
function references(logProbs, ids) {
  const [rows, width] = logProbs.shape;
  const following = ids.subarray(ids.length - rows + 1);
  const data = Float32Array.from({ length: rows }, (_, row) =>
    row < following.length ? logProbs.data[row * width + following[row]] : NaN,
  );
  return { shape: [rows], data };
}

/** The model file comes first; onnxq has the others in the order in which the model names them. */
function sameFiles(a, b) {
  const key = ([model, ...data]) => [model, ...data.sort()].join();
  return key(a) === key(b);
}

async function main() {
  const options = { runtime: { type: "string", default: "web" }, tokenizer: { type: "string" } };
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  const [path, saved, out] = positionals;
  if (!out) throw new Mismatch("usage: node log_probs.mjs MODEL SAVED OUT [--runtime web|node] [--tokenizer FILE]");
  const { metadata, tensors } = read(saved);
  const model = await loadModel(path, values.runtime);
  if (!sameFiles(model.hashes, metadata.model_sha256.split("+"))) {
    const found = model.hashes.join("+");
    throw new Mismatch(`the model's SHA-256 is ${found}, expected ${metadata.model_sha256} of \`${saved}\``);
  }
  const result = new Map();
  for (let i = 0; tensors.has(`tokens.${i}`); i++) {
    const tokens = tensors.get(`tokens.${i}`);
    const logProbs = await windowLogProbs(model, tokens.data, tensors.get(`reference.${i}`).shape[0]);
    result.set(`tokens.${i}`, tokens);
    result.set(`reference.${i}`, references(logProbs, tokens.data));
    result.set(`log_probs.${i}`, logProbs);
  }
  const own = { engine: model.runtime };
  if (values.tokenizer) own.tokenizer_sha256 = sha256(fs.readFileSync(values.tokenizer));
  write(out, { ...metadata, ...own }, result);
  console.log([...model.interface(), `sha256 ${model.hashes.join("+")}`, `runtime ${model.runtime}`].join("\n"));
}

command(main);
