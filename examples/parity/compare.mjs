// node compare.mjs A B [--max 1e-5]
// Compares two files of log-probs. Exit status 0: no two log-probs are further apart than --max (nats); 1: some are;
// 2: the files are not of the same model, tokens, tokenizer or extents.
import { parseArgs } from "node:util";
import { Miss, Mismatch, command } from "./lm.mjs";
import { read } from "./tensors.mjs";

/** What must be the same where both files say it. */
const KEYS = ["schema", "model_sha256", "data_sha256", "tokenizer_sha256", "tokens_sha256", "window", "stride"];

function checkSame(what, a, b) {
  if (a !== undefined && b !== undefined && String(a) !== String(b)) {
    throw new Mismatch(`${what} is ${b} in the second file, expected ${a} as in the first`);
  }
}

function checkFiles(a, b) {
  for (const key of KEYS) checkSame(key, a.metadata[key], b.metadata[key]);
  checkSame("the list of tensors", [...a.tensors.keys()].sort(), [...b.tensors.keys()].sort());
  for (const [name, { shape, data }] of a.tensors) {
    const other = b.tensors.get(name);
    checkSame(`the extents of \`${name}\``, shape, other.shape);
    if (data instanceof Uint32Array) checkSame(`\`${name}\``, data, other.data);
  }
}

/** The largest difference in one tensor, and where. Two equal infinities do not differ; a NaN always does. */
function largest(a, b) {
  let worst = { difference: 0, at: 0 };
  for (let at = 0; at < a.length; at++) {
    const difference = a[at] === b[at] ? 0 : Math.abs(a[at] - b[at]);
    if (!(difference <= worst.difference)) worst = { difference, at };
    if (Number.isNaN(difference)) break;
  }
  return worst;
}

async function main() {
  const { values, positionals } = parseArgs({ options: { max: { type: "string", default: "1e-5" } }, allowPositionals: true });
  if (positionals.length !== 2) throw new Mismatch("usage: node compare.mjs A B [--max 1e-5]");
  const [a, b] = positionals.map(read);
  const limit = Number(values.max);
  checkFiles(a, b);
  let worst = { difference: 0, where: "anywhere" };
  let rows = 0;
  for (let i = 0; a.tensors.has(`log_probs.${i}`); i++) {
    const [x, y] = [a, b].map((file) => file.tensors.get(`log_probs.${i}`));
    const { difference, at } = largest(x.data, y.data);
    rows += x.shape[0];
    const where = `window ${i}, row ${Math.floor(at / x.shape[1])}, token ${at % x.shape[1]}`;
    if (!(difference <= worst.difference)) worst = { difference, where };
  }
  if (!rows) throw new Mismatch("there are no log-probs in these files: expected full ones, of `onnxq eval --log-probs`");
  const found = `largest difference ${worst.difference.toExponential(2)} nats (${worst.where}) in ${rows} rows`;
  console.log(`${a.metadata.engine} and ${b.metadata.engine}: ${found}`);
  if (!(worst.difference <= limit)) throw new Miss(`${found}, allowed ${limit}`);
}

command(main);
