// The commands of onnxq as functions. Each runs the native binary and returns its JSON report.
import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { binaryPath } from "./binary.mjs";

export { binaryPath };

export class OnnxqError extends Error {
  name = "OnnxqError";
}

export class LimitMissed extends OnnxqError {
  name = "LimitMissed";

  constructor(reports) {
    const missed = reports.flatMap((report) => missedLimits(report.check));
    super(`there is no output: ${missed.join("; ")}`);
    this.reports = reports;
  }
}

export async function quantize(model, options = {}) {
  if (options.dtype?.includes(",")) {
    throw new TypeError(`dtype is "${options.dtype}", expected one; quantizeAll() takes several`);
  }
  const reports = await quantizeAll(model, { ...options, dtype: [options.dtype ?? "q4"] });
  if (reports.length !== 1) {
    throw new OnnxqError(`${text(model)} has ${reports.length} models; quantizeAll() returns a report of each`);
  }
  return reports[0];
}

export async function quantizeAll(model, { dtype, ...options }) {
  const { found } = await run("quantize", [model], { ...options, dtype: dtype.join(",") });
  const reports = [found].flat();
  if (!reports.every((report) => report.published || report.dry_run)) throw new LimitMissed(reports);
  return reports;
}

export async function optimize(model, options) {
  return (await run("opt", [model], options)).found;
}

export async function evaluate(models, options = {}) {
  const { status, found } = await run("eval", [models].flat(), options);
  return { ...found, passed: status === 0 };
}

export async function verify(model, options = {}) {
  const { status, found } = await run("verify", [model], options);
  if (Array.isArray(found)) {
    throw new OnnxqError(`${text(model)} has ${found.length} models; expected the path of one`);
  }
  return { ...found, passed: status === 0 };
}

export async function inspect(model, options = {}) {
  return (await run("inspect", [model], options)).found;
}

function missedLimits(evaluation) {
  const missed = (model) => (model.limits ?? []).filter((limit) => !limit.held);
  const sentence = (model, limit) => `${model.name} misses ${limit.name} ${limit.limit}, found ${limit.found}`;
  return (evaluation?.models ?? []).flatMap((model) => missed(model).map((limit) => sentence(model, limit)));
}

/** Options as the command takes them: `maxMeanKld: 0.1` is `--max-mean-kld=0.1`. */
function flags(options) {
  return Object.entries(options).flatMap(([name, value]) => {
    const option = `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
    if (value === undefined || value === null || value === false) return [];
    if (value === true) return [option];
    if (Array.isArray(value)) return value.map((one) => `${option}=${text(one)}`);
    if (typeof value !== "object" || value instanceof URL) return [`${option}=${text(value)}`];
    return Object.entries(value).map(([key, number]) => `${option}=${key}=${number}`);
  });
}

function text(value) {
  return value instanceof URL ? fileURLToPath(value) : String(value);
}

/** A path that the command cannot take for an option. */
function path(value) {
  return text(value).startsWith("-") ? `./${text(value)}` : text(value);
}

async function run(command, models, { signal, onMessage, ...options }) {
  const folder = await mkdtemp(join(tmpdir(), "onnxq-"));
  try {
    const file = join(folder, "report.json");
    const args = [command, ...models.map(path), ...flags(options), `--json=${file}`];
    const { status, said } = await finished(args, signal, onMessage);
    if (status !== 0 && status !== 1) throw new OnnxqError(message(said, status));
    const found = await readFile(file, "utf8").catch(() => {
      throw new OnnxqError(message(said, status));
    });
    return { status, found: JSON.parse(found) };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Runs the binary to its end: its exit status, or the signal that ended it, and what it said. */
function finished(args, signal, onMessage) {
  return new Promise((resolve, reject) => {
    const child = spawn(binary(), args, { stdio: ["ignore", "ignore", "pipe"], signal });
    const said = [];
    createInterface({ input: child.stderr }).on("line", (line) => {
      said.push(line);
      onMessage?.(line);
    });
    child.on("error", (error) => {
      const aborted = error.name === "AbortError";
      reject(aborted ? error : new OnnxqError(`cannot run \`${child.spawnfile}\`: ${error.message}`));
    });
    child.on("close", (status, ended) => resolve({ status: status ?? ended, said }));
  });
}

function binary() {
  try {
    return binaryPath();
  } catch (error) {
    throw new OnnxqError(error.message, { cause: error });
  }
}

/** The error among what the command said. */
function message(said, status) {
  const begin = /^(onnxq: )?error: /;
  const first = said.findIndex((line) => begin.test(line));
  if (first === -1) return [`the command ended with ${status}`, ...said.slice(-5)].join("\n");
  return said.slice(first).join("\n").replace(begin, "").trim();
}
