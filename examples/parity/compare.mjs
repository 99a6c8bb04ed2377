// node compare.mjs A B [--max 1e-5] [--max-any 1e-4]
// Compares two files of log-probs, in nats: those of the text's own tokens, of which its probability is made, with
// --max, and those of all tokens with --max-any. That is larger: a log-prob of -25 has steps of 2e-6 in float32.
// Exit status 0: none are further apart; 1: some are; 2: the files are not of the same model, tokens, tokenizer or
// extents.
import { parseArgs } from "node:util";
import { Miss, Mismatch, command } from "./lm.mjs";
import { read } from "./tensors.mjs";

/** What must be the same where both files say it. */
const KEYS = ["schema", "model_sha256", "tokenizer_sha256", "tokens_sha256", "window", "stride"];

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

/** The largest difference in one tensor, and where. Equal infinities do not differ, nor do two NaN: none follows. */
function largest(a, b) {
  let worst = { difference: 0, at: 0 };
  for (let at = 0; at < a.length; at++) {
    const difference = Object.is(a[at], b[at]) ? 0 : Math.abs(a[at] - b[at]);
    if (!(difference <= worst.difference)) worst = { difference, at };
    if (Number.isNaN(difference)) break;
  }
  return worst;
}

/** The worst of all tensors `{name}.{i}`, or null where there are none. */
function worstOf(name, a, b) {
  let worst = null;
  for (let i = 0; a.tensors.has(`${name}.${i}`); i++) {
    const [x, y] = [a, b].map((file) => file.tensors.get(`${name}.${i}`));
    const { difference, at } = largest(x.data, y.data);
    const width = x.shape[1] ?? 1;
    const where = `window ${i}, row ${Math.floor(at / width)}${width > 1 ? `, token ${at % width}` : ""}`;
    if (!worst || !(difference <= worst.difference)) worst = { difference, where };
  }
  return worst;
}

async function main() {
  const options = { max: { type: "string", default: "1e-5" }, "max-any": { type: "string", default: "1e-4" } };
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  if (positionals.length !== 2) throw new Mismatch("usage: node compare.mjs A B [--max 1e-5] [--max-any 1e-4]");
  const [a, b] = positionals.map(read);
  checkFiles(a, b);
  const limits = { reference: ["the text's tokens", values.max], log_probs: ["all tokens", values["max-any"]] };
  const missed = [];
  for (const [name, [what, limit]] of Object.entries(limits)) {
    const worst = worstOf(name, a, b);
    if (!worst) throw new Mismatch("there are no log-probs in these files: expected those of `onnxq eval --log-probs`");
    const found = `log-probs of ${what}: largest difference ${worst.difference.toExponential(2)} nats (${worst.where})`;
    console.log(`${a.metadata.engine} and ${b.metadata.engine}: ${found}`);
    if (!(worst.difference <= Number(limit))) missed.push(`${found}, allowed ${limit}`);
  }
  if (missed.length) throw new Miss(missed.join("; "));
}

command(main);
