// Compresses a text with the next-token probabilities of a language model; codec.py does the same in Python.
//   node codec.mjs encode MODEL TEXT OUT --tokenizer FILE [--runtime web|node]
//   node codec.mjs decode MODEL IN TEXT --tokenizer FILE [--runtime web|node]
// What one of them writes the other reads. Exit status 1: the runtimes are further apart than the file allows; 2: the
// file, the model or the tokenizer is not the right one. coder.py has the method.
import fs from "node:fs";
import { parseArgs } from "node:util";
import { Tokenizer } from "@huggingface/tokenizers";
import { Decoder, Encoder, Noted, Noting, TokenCoder, stepFor } from "./coder.mjs";
import { Miss, Mismatch, command, loadModel, sha256 } from "./lm.mjs";

const MAGIC = "ONNXQTXT";
const FORMAT = "onnxq.text/1";
const OPTIONS = {
  tokenizer: { type: "string" },
  runtime: { type: "string", default: "web" },
  epsilon: { type: "string", default: "1e-3" },
  window: { type: "string", default: "128" },
  lanes: { type: "string", default: "32" },
  start: { type: "string", default: "0" },
};

async function main() {
  const { values, positionals } = parseArgs({ options: OPTIONS, allowPositionals: true });
  const [name, model, source, target] = positionals;
  const run = { encode, decode }[name];
  if (!run || !target || !values.tokenizer) {
    throw new Mismatch("usage: node codec.mjs encode|decode MODEL SOURCE TARGET --tokenizer FILE [--runtime web|node]");
  }
  console.log((await run(model, source, target, values)).join("\n"));
}

function openTokenizer(file) {
  // Text comes back as it was: no spaces are cleaned up.
  return new Tokenizer(JSON.parse(fs.readFileSync(file, "utf8")), { clean_up_tokenization_spaces: false });
}

function textOf(tokenizer, tokens) {
  // It takes no empty list.
  return tokens.length ? tokenizer.decode(tokens, { skip_special_tokens: false }) : "";
}

async function encode(path, source, target, values) {
  const [epsilon, window, lanes, start] = ["epsilon", "window", "lanes", "start"].map((key) => Number(values[key]));
  for (const [name, value] of Object.entries({ epsilon, window, lanes })) {
    if (!(value > 0)) throw new Mismatch(`--${name} is ${values[name]}, expected a positive number`);
  }
  const model = await loadModel(path, values.runtime);
  const tokenizer = openTokenizer(values.tokenizer);
  const text = fs.readFileSync(source, "utf8");
  const tokens = tokenizer.encode(text, { add_special_tokens: false }).ids;
  if (textOf(tokenizer, tokens) !== text) {
    throw new Mismatch("the tokenizer does not give the text back");
  }
  const header = {
    format: FORMAT,
    model_sha256: model.hashes,
    tokenizer_sha256: sha256(fs.readFileSync(values.tokenizer)),
    interface: model.interface(),
    text_sha256: sha256(text),
    tokens: tokens.length,
    ...{ start, window, lanes, epsilon, step: stepFor(epsilon) },
    encoder: model.runtime,
  };
  const rounding = new Noting(epsilon, header.step);
  const coder = new TokenCoder(new Encoder(), rounding, []);
  await run(model, header, coder, tokens);
  const probes = Buffer.from(Float32Array.from(coder.probes).buffer);
  const size = write(target, header, [Buffer.from(rounding.bytes), probes, coder.coder.finish()]);
  return [
    ...report(model, header),
    `${Buffer.byteLength(text)} bytes of text, ${tokens.length} tokens -> ${size} bytes after the header`,
    `${rounding.count} of ${rounding.nodes} decisions noted: ${rounding.bytes.length} bytes`,
  ];
}

async function decode(path, source, target, values) {
  const { header, sections } = read(source);
  const [notes, probes, payload] = sections;
  const model = await loadModel(path, values.runtime);
  check("the model's SHA-256", model.hashes, header.model_sha256);
  check("the tokenizer's SHA-256", sha256(fs.readFileSync(values.tokenizer)), header.tokenizer_sha256);
  check("the model's interface", model.interface(), header.interface);
  const rounding = new Noted(header.epsilon, header.step, notes);
  const floats = Array.from({ length: probes.length / 4 }, (_, i) => probes.readFloatLE(4 * i));
  const coder = new TokenCoder(new Decoder(payload), rounding, floats);
  const tokens = await run(model, header, coder, Array(header.tokens).fill(0));
  const text = textOf(openTokenizer(values.tokenizer), tokens);
  const found = sha256(text);
  if (found !== header.text_sha256) {
    throw new Miss(`the text's SHA-256 is ${found}, expected ${header.text_sha256}: ${beyond(header)}`);
  }
  fs.writeFileSync(target, text);
  const worst = `largest difference of a log-prob ${coder.worstProbe.toExponential(2)} nats`;
  return [...report(model, header), `${tokens.length} tokens, ${worst}, allowed ${2 * header.epsilon}`];
}

function beyond({ epsilon, encoder }) {
  return `the logits differ by more than ${epsilon} from those of ${encoder}`;
}

/** Codes all tokens: windows side by side, as a batch, token by token through the cache. */
async function run(model, header, coder, tokens) {
  const { window, lanes } = header;
  try {
    for (let begin = 0; begin < tokens.length; begin += window * lanes) {
      const count = Math.min(lanes, Math.ceil((tokens.length - begin) / window));
      const starts = Array.from({ length: count }, (_, lane) => begin + lane * window);
      await codeBatch(model, coder, tokens, starts, header);
    }
  } catch (error) {
    if (error instanceof Miss) error.message += `: ${beyond(header)}`;
    throw error;
  }
  return tokens;
}

async function codeBatch(model, coder, tokens, starts, header) {
  const state = model.start(starts.length);
  const last = starts.map(() => header.start);
  const steps = Math.min(header.window, tokens.length - starts[0]);
  for (let offset = 0; offset < steps; offset++) {
    const logits = await model.feed(state, last.map((token) => [token]));
    const width = model.vocabulary;
    starts.forEach((start, lane) => {
      // The last window may be shorter; it is fed what it ended with.
      if (start + offset >= tokens.length) return;
      last[lane] = coder.code(logits.subarray(lane * width, (lane + 1) * width), tokens[start + offset]);
      tokens[start + offset] = last[lane];
    });
  }
}

function write(target, header, sections) {
  const body = Buffer.concat(sections);
  const head = Buffer.from(JSON.stringify({ ...header, sections: sections.map((section) => section.length) }));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(head.length);
  const data = Buffer.concat([Buffer.from(MAGIC), length, head, body]);
  fs.writeFileSync(target, Buffer.concat([data, Buffer.from(sha256(data), "hex")]));
  return body.length;
}

function read(source) {
  const file = fs.readFileSync(source);
  check(`the begin of \`${source}\``, file.toString("latin1", 0, MAGIC.length), MAGIC);
  const [data, seal] = [file.subarray(0, -32), file.subarray(-32)];
  check(`\`${source}\` is cut or changed: its SHA-256`, sha256(data), seal.toString("hex"));
  let end = 12 + data.readUInt32LE(8);
  const header = JSON.parse(data.toString("utf8", 12, end));
  check("the format", header.format, FORMAT);
  return { header, sections: header.sections.map((size) => data.subarray(end, (end += size))) };
}

function check(what, found, expected) {
  if (JSON.stringify(found) !== JSON.stringify(expected)) {
    throw new Mismatch(`${what} is ${JSON.stringify(found)}, expected ${JSON.stringify(expected)}`);
  }
}

function report(model, header) {
  return [
    ...model.interface(),
    `model sha256 ${model.hashes.join("+")}`,
    `tokenizer sha256 ${header.tokenizer_sha256}`,
    `runtime ${model.runtime}, encoder ${header.encoder}`,
  ];
}

command(main);
