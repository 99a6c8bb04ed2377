// Files of safetensors, as `onnxq eval --log-probs` writes them.
import fs from "node:fs";
import { Mismatch } from "./lm.mjs";

const ARRAYS = { F32: Float32Array, U32: Uint32Array };

/** @returns {{metadata: object, tensors: Map<string, {shape: number[], data: Float32Array | Uint32Array}>}} */
export function read(file) {
  const bytes = fs.readFileSync(file);
  const refuse = (why) => new Mismatch(`\`${file}\`: ${why}, expected what \`onnxq eval --log-probs\` writes`);
  const length = bytes.length < 8 ? Infinity : Number(bytes.readBigUInt64LE(0));
  if (length > bytes.length - 8) throw refuse("it has no header of safetensors");
  const { __metadata__: metadata, ...entries } = JSON.parse(bytes.toString("utf8", 8, 8 + length));
  const tensors = new Map();
  for (const [name, { dtype, shape, data_offsets: [begin, end] }] of Object.entries(entries)) {
    const type = ARRAYS[dtype];
    if (!type) throw refuse(`\`${name}\` is of ${dtype}`);
    // A copy, so that elements are aligned.
    const data = new type(Uint8Array.from(bytes.subarray(8 + length + begin, 8 + length + end)).buffer);
    const elements = shape.reduce((a, b) => a * b);
    if (data.length !== elements) throw refuse(`\`${name}\` has ${data.length} elements, expected ${elements}`);
    tensors.set(name, { shape, data });
  }
  return { metadata, tensors };
}

export function write(file, metadata, tensors) {
  const header = { __metadata__: metadata };
  let end = 0;
  for (const [name, { shape, data }] of tensors) {
    const dtype = data instanceof Float32Array ? "F32" : "U32";
    header[name] = { dtype, shape, data_offsets: [end, end + data.byteLength] };
    end += data.byteLength;
  }
  const text = JSON.stringify(header);
  const head = Buffer.from(text.padEnd(text.length + (-Buffer.byteLength(text) & 7)));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(head.length));
  const parts = [...tensors.values()].map(({ data }) => Buffer.from(data.buffer, data.byteOffset, data.byteLength));
  fs.writeFileSync(file, Buffer.concat([length, head, ...parts]));
}
