// Arithmetic coding of tokens by a model's logits, so that a model that computes a little otherwise decodes the same.
// coder.py says how and why; both do the same, number for number.
import { Miss } from "./lm.mjs";

const DEPTH = 60;
const LIMIT = 11.25;
const GUARD = 1e-9;
const PROBE_GUARD = 1e-5;
const PROBE_EVERY = 256;
const ONE = 65536;

export function stepFor(epsilon) {
  return Math.max(0.5, 2 ** Math.ceil(Math.log2(16 * epsilon)));
}

export function frequencies(step) {
  const most = Math.ceil(LIMIT / step);
  return Array.from({ length: 2 * most + 1 }, (_, i) => {
    const value = Math.floor(ONE / (1 + Math.exp(-(i - most) * step)) + 0.5);
    return Math.min(Math.max(value, 1), ONE - 1);
  });
}

/** The bounds of a binary arithmetic coder: 32 bits, in doubles, which hold products of 48 bits exactly. */
class Bounds {
  low = 0;
  high = 0xffffffff;

  middle(frequency) {
    return this.low + Math.floor(((this.high - this.low) * frequency) / ONE);
  }

  /** Takes the part of `bit`; `shift` is called for each byte that is settled. */
  narrow(middle, bit, shift) {
    if (bit) this.high = middle;
    else this.low = middle + 1;
    while ((this.low ^ this.high) >>> 24 === 0) {
      shift(this.high >>> 24);
      this.low = (this.low << 8) >>> 0;
      this.high = ((this.high << 8) | 0xff) >>> 0;
    }
    return bit;
  }
}

export class Encoder extends Bounds {
  bytes = [];

  code(frequency, bit) {
    return this.narrow(this.middle(frequency), bit, (byte) => this.bytes.push(byte));
  }

  finish() {
    const last = Buffer.alloc(4);
    last.writeUInt32BE(this.high);
    return Buffer.concat([Buffer.from(this.bytes), last]);
  }
}

export class Decoder extends Bounds {
  at = 0;
  value = 0;

  constructor(data) {
    super();
    this.data = data;
    for (let i = 0; i < 4; i++) this.shift();
  }

  shift() {
    this.value = ((this.value << 8) | (this.data[this.at++] ?? 0)) >>> 0;
  }

  code(frequency) {
    const middle = this.middle(frequency);
    return this.narrow(middle, this.value <= middle ? 1 : 0, () => this.shift());
  }
}

/** Multiples of the step, and what is noted where rounding is in doubt. */
class Rounding {
  nodes = 0;

  constructor(epsilon, step) {
    this.epsilon = epsilon;
    this.step = step;
    this.frequencies = frequencies(step);
    this.most = (this.frequencies.length - 1) / 2;
  }

  frequency(z) {
    const t = z / this.step;
    const multiple = this.multiple(t, Math.floor(t) + 0.5);
    this.nodes++;
    return this.frequencies[Math.min(Math.max(multiple, -this.most), this.most) + this.most];
  }

  /** Beyond the last multiple there are no boundaries. */
  near(t, boundary, distance) {
    return Math.abs(boundary) < this.most && Math.abs(t - boundary) * this.step <= distance;
  }
}

/** The encoder's: notes each side that could be in doubt. */
export class Noting extends Rounding {
  bytes = [];
  count = 0;
  last = 0;

  multiple(t, boundary) {
    const upper = t >= boundary ? 1 : 0;
    if (this.near(t, boundary, 2 * this.epsilon + GUARD)) {
      writeVarint(this.bytes, (this.nodes - this.last) * 2 + upper);
      this.last = this.nodes;
      this.count++;
    }
    return Math.floor(boundary) + upper;
  }
}

/** The decoder's: follows the notes. */
export class Noted extends Rounding {
  constructor(epsilon, step, data) {
    super(epsilon, step);
    this.notes = readVarints(data);
    this.advance(0);
  }

  advance(last) {
    const { value, done } = this.notes.next();
    this.at = done ? -1 : last + Math.floor(value / 2);
    this.upper = done ? 0 : value % 2;
  }

  multiple(t, boundary) {
    if (this.nodes !== this.at) return Math.floor(boundary) + (t >= boundary ? 1 : 0);
    if (!this.near(t, boundary, 4 * this.epsilon + 2 * GUARD)) {
      throw new Miss(`decision ${this.nodes}: log-odds ${(t * this.step).toFixed(6)} are not near a boundary`);
    }
    const { upper } = this;
    this.advance(this.nodes);
    return Math.floor(boundary) + upper;
  }
}

function writeVarint(out, value) {
  for (; value > 0x7f; value = Math.floor(value / 128)) out.push((value & 0x7f) | 0x80);
  out.push(value);
}

function* readVarints(data) {
  let value = 0;
  let unit = 1;
  for (const byte of data) {
    value += (byte & 0x7f) * unit;
    unit *= 128;
    if (byte < 0x80) {
      yield value;
      value = 0;
      unit = 1;
    }
  }
}

function sum(values, begin, end) {
  let total = 0;
  const last = Math.min(end, values.length);
  for (let i = begin; i < last; i++) total += values[i];
  return total;
}

/** exp of logits, up to a factor, and never 0; null when some are not finite. Plain loops: vocabularies are large. */
function positive(logits) {
  let most = -Infinity;
  let total = 0;
  for (const x of logits) {
    total += x;
    if (x > most) most = x;
  }
  if (!Number.isFinite(total)) return null;
  const weights = new Float64Array(logits.length);
  for (let i = 0; i < logits.length; i++) weights[i] = Math.exp(Math.max(logits[i] - most, -DEPTH));
  return weights;
}

/** Codes tokens one by one; `coder` writes them, or reads them. */
export class TokenCoder {
  tokens = 0;
  worstProbe = 0;

  constructor(coder, rounding, probes) {
    this.coder = coder;
    this.rounding = rounding;
    this.probes = probes;
  }

  /** Codes `token`, or finds it. */
  code(logits, token = 0) {
    const weights = positive(logits);
    if (!weights) throw new Miss(`token ${this.tokens}: the model gives logits that are not finite`);
    const found = this.walk(weights, token);
    this.tokens++;
    if (this.tokens % PROBE_EVERY === 0) {
      this.probe(Math.log(weights[found]) - Math.log(sum(weights, 0, weights.length)));
    }
    return found;
  }

  walk(weights, token) {
    let found = 0;
    for (let shift = 31 - Math.clz32(weights.length - 1); shift >= 0; shift--) {
      const half = found + 2 ** shift;
      const ones = sum(weights, half, half + 2 ** shift);
      if (ones === 0) continue; // no ids there: nothing to code
      const z = Math.log(ones) - Math.log(sum(weights, found, half));
      if (this.coder.code(this.rounding.frequency(z), (token >> shift) & 1)) found = half;
    }
    return found;
  }

  probe(logProb) {
    if (this.coder instanceof Encoder) {
      this.probes.push(logProb);
      return;
    }
    const before = this.probes[this.tokens / PROBE_EVERY - 1];
    const difference = Math.abs(before - logProb);
    this.worstProbe = Math.max(this.worstProbe, difference);
    if (!(difference <= 2 * this.rounding.epsilon + PROBE_GUARD)) {
      throw new Miss(`token ${this.tokens}: its log-prob is ${logProb.toFixed(6)} here and was ${before.toFixed(6)}`);
    }
  }
}
