// A causal language model in ONNX, on onnxruntime-web (WASM) or onnxruntime-node.
import { createHash } from "node:crypto";
import fs from "node:fs";
import path from "node:path";

/** What was given does not belong together, or cannot be used: exit status 2. */
export class Mismatch extends Error {}

/** Two runtimes are further apart than was allowed: exit status 1. */
export class Miss extends Error {}

const RUNTIMES = { web: "onnxruntime-web", node: "onnxruntime-node" };
const ARRAYS = { int64: BigInt64Array, float32: Float32Array, float16: Uint16Array };

export function sha256(bytes) {
  return createHash("sha256").update(bytes).digest("hex");
}

/** The model file and the files of external data that lie beside it: `X.onnx_data`, `X.onnx_data_1`, ... */
export function modelFiles(model) {
  const { dir, base } = path.parse(path.resolve(model));
  const isData = (name) => name.startsWith(base) && /^_data(_\d+)?$/.test(name.slice(base.length));
  const data = fs.readdirSync(dir).filter(isData);
  const number = (name) => Number(name.slice(base.length + "_data_".length) || 0);
  data.sort((a, b) => number(a) - number(b));
  return [base, ...data].map((name) => ({ path: name, data: new Uint8Array(fs.readFileSync(path.join(dir, name))) }));
}

/** A session of onnxruntime-`runtime`, and what it runs. */
export async function loadModel(model, runtime = "web") {
  if (!(runtime in RUNTIMES)) throw new Mismatch(`--runtime is ${runtime}, expected web or node`);
  const ort = await import(RUNTIMES[runtime]);
  const files = modelFiles(model);
  const options = { logSeverityLevel: 3, externalData: files.slice(1) };
  const session = await ort.InferenceSession.create(files[0].data, options);
  const hashes = files.map((file) => sha256(file.data));
  const { versions } = ort.env;
  return new CausalLm(ort, session, hashes, `onnxruntime-${runtime} ${versions[runtime] ?? versions.common}`);
}

/** Float32 of the bits of a half. */
function halfToFloat(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0x1f) return fraction ? NaN : sign * Infinity;
  return exponent ? sign * 2 ** (exponent - 25) * (fraction + 1024) : sign * 2 ** -24 * fraction;
}

export class CausalLm {
  constructor(ort, session, hashes, runtime) {
    this.ort = ort;
    this.session = session;
    this.hashes = hashes;
    this.runtime = runtime;
    this.cacheInputs = session.inputMetadata.filter((item) => item.name.startsWith("past_key_values."));
    const known = new Set(["input_ids", "attention_mask", "position_ids"]);
    const other = session.inputMetadata.filter((item) => !known.has(item.name) && !this.cacheInputs.includes(item));
    if (other.length) {
      throw new Mismatch(`the model has an input \`${other[0].name}\`: expected those of a causal language model`);
    }
  }

  /** Name, type and axes of every input and output, one line each. */
  interface() {
    const axes = (shape) => shape.map((axis) => (axis === "" ? "?" : axis)).join(",");
    const line = (kind) => (item) => `${kind} ${item.name} ${item.type}[${axes(item.shape)}]`;
    const { inputMetadata, outputMetadata } = this.session;
    return [...inputMetadata.map(line("input")), ...outputMetadata.map(line("output"))];
  }

  tensor(type, values, dims) {
    return new this.ort.Tensor(type, values, dims);
  }

  /** No tokens so far, of `batch` sequences. */
  start(batch) {
    const cache = {};
    for (const { name, type, shape } of this.cacheInputs) {
      const dims = shape.map((extent, axis) => (typeof extent === "number" ? extent : axis ? 0 : batch));
      cache[name] = this.tensor(type, new ARRAYS[type](dims.reduce((a, b) => a * b)), dims);
    }
    return { batch, length: 0, cache };
  }

  /**
   * Feeds the same number of tokens to each sequence of `state`, which goes on from there.
   *
   * @param {number[][]} ids one list a sequence
   * @returns {Promise<Float32Array>} logits, [batch, tokens, vocabulary]
   */
  async feed(state, ids) {
    const { batch, length } = state;
    const count = ids[0].length;
    const longs = (rows, width) => this.tensor("int64", BigInt64Array.from(rows.flat(), BigInt), [batch, width]);
    const rows = (row) => Array.from({ length: batch }, () => row);
    const given = {
      input_ids: longs(ids, count),
      attention_mask: longs(rows(Array(length + count).fill(1)), length + count),
      position_ids: longs(rows(Array.from({ length: count }, (_, i) => length + i)), count),
    };
    const wanted = this.session.inputNames.filter((name) => name in given);
    const feeds = { ...Object.fromEntries(wanted.map((name) => [name, given[name]])), ...state.cache };
    const outputs = await this.session.run(feeds);
    for (const name of Object.keys(state.cache)) {
      state.cache[name] = outputs[name.replace("past_key_values.", "present.")];
    }
    state.length += count;
    this.vocabulary = outputs.logits.dims.at(-1);
    const { type, data } = outputs.logits;
    if (type !== "float16") return data;
    return Float32Array.from(new Uint16Array(data.buffer, data.byteOffset, data.length), halfToFloat);
  }
}

/** Runs `main` on the arguments; an error is one line on standard error, and the exit status. */
export function command(main) {
  main().catch((error) => {
    console.error(`error: ${error instanceof Miss || error instanceof Mismatch ? error.message : error.stack}`);
    process.exitCode = error instanceof Miss ? 1 : 2;
  });
}
