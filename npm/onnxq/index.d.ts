// Types of the functions, their options and reports. Reports are as the command writes them: names as in
// docs/eval-json.md, `null` for numbers that are not finite.

export type Path = string | URL;

/** How the command is run, whatever it does. */
export interface RunOptions {
  /** Ends the command; no output is left behind. */
  signal?: AbortSignal;
  /** Called with each line that the command says on the way: progress and warnings. */
  onMessage?: (line: string) => void;
  threads?: number;
}

export interface ReadOptions {
  dropUnknown?: boolean;
  verifySha?: string;
}

export interface EngineOptions {
  engine?: "auto" | "onnxruntime" | "rten";
  ortLib?: Path;
}

export interface TextOptions {
  tokenizer?: Path;
  window?: number;
  stride?: number;
  windows?: number | "all";
}

export interface LimitOptions {
  maxMeanKld?: number;
  maxP99Kld?: number;
  minTop1?: number;
  maxPplRatio?: number;
  maxLogprobDiff?: number;
  maxDiff?: number;
  minSnr?: number;
  minCosine?: number;
}

export interface WriteOptions extends RunOptions, ReadOptions {
  dim?: Record<string, number>;
  dryRun?: boolean;
  externalData?: "auto" | "always" | "never";
  /** Bytes, or a text such as "500MB". */
  chunkSize?: number | string;
  sync?: boolean;
  recordSha?: boolean;
  verifyEach?: boolean;
  stopAfter?: number;
}

/** Options of `onnxq opt`. */
export interface OptimizeOptions extends WriteOptions {
  output: Path;
  passes: string;
}

/** Options of `onnxq quantize`, apart from the dtype. */
export interface QuantizeOptions extends WriteOptions, EngineOptions, TextOptions, LimitOptions {
  /** A file, or a folder that is there; else the result stands beside the model. */
  output?: Path;
  bits?: 2 | 4 | 8;
  blockSize?: 16 | 32 | 64 | 128 | 256;
  asymmetric?: boolean;
  symmetric?: boolean;
  method?: "rtn" | "mse" | "hqq" | "imatrix" | "awq" | "gptq";
  accuracyLevel?: 0 | 1 | 2 | 3 | 4;
  ioTypes?: "keep" | "half" | "cache";
  target?: string | string[];
  format?: "contrib" | "qdq";
  include?: string | string[];
  exclude?: string | string[];
  allowNonfinite?: boolean;
  passes?: string;
  noClean?: boolean;
  budget?: string;
  recipe?: Path;
  calibrate?: Path;
  calibrationWindows?: number | "all";
  calibrationFolder?: Path;
  check?: Path;
  keep?: boolean;
  config?: Path;
  noConfig?: boolean;
  layout?: "onnx" | "flat";
  force?: boolean;
  sums?: boolean;
  card?: boolean;
}

/** Options of `onnxq eval`. */
export interface EvaluateOptions extends RunOptions, EngineOptions, TextOptions, LimitOptions {
  /** Another model, or `fp16`: the first model in half precision. */
  baseline?: Path;
  saveBaseline?: Path;
  baselineLogprobs?: Path;
  task?: "causal-lm" | "classifier" | "encoder";
  noise?: number;
  perNode?: boolean | number;
  logProbs?: Path;
  bench?: number;
  text?: Path;
  tokens?: Path;
  inputs?: Path | Path[];
  random?: number;
  seed?: number;
  dim?: Record<string, number>;
  chunk?: number;
  batch?: number;
  junit?: Path;
  html?: Path;
}

/** Options of `onnxq verify`. */
export interface VerifyOptions extends RunOptions, ReadOptions {
  target?: string | string[];
  source?: Path;
}

/** Options of `onnxq inspect`. */
export interface InspectOptions extends RunOptions, ReadOptions {
  noHash?: boolean;
}

export interface File {
  path: string;
  bytes: number;
}

export interface PassReport {
  name: string;
  runs: number;
  seconds: number;
  rewrites: number;
  statistics: Record<string, number>;
}

export interface Weight {
  name: string;
  nodes: string[];
  n: number;
  k: number;
  bits: number;
  block: number;
  bytes_before: number;
  bytes_after: number;
}

export interface Remark {
  pass: string;
  node: string;
  op_type: string;
  reason: string;
  message: string;
  bytes: number;
}

/** What became of a model. The first file of `input` and `output` is the model, others are its side files. */
export interface Report {
  schema: string;
  version: string;
  input: File[];
  output: File[];
  dry_run: boolean;
  pipeline: string;
  passes: PassReport[];
  weights: Weight[];
  bits_per_weight: number | null;
  remarks: Remark[];
  runs_from?: string;
  check?: EvaluationReport;
  published: boolean;
}

export interface EngineInfo {
  name: string;
  version: string;
  threads: number;
}

export interface InputInfo {
  source: string;
  tokens: number;
  items: number;
  window?: number;
  stride?: number;
  chunk?: number;
  batch: number;
  sha256: string;
}

export interface Estimate {
  value: number | null;
  standard_error: number | null;
}

export interface Perplexity {
  predictions: number;
  perplexity: Estimate;
  ratio?: Estimate;
}

export interface Distribution {
  mean: Estimate;
  median: number | null;
  p90: number | null;
  p95: number | null;
  p99: number | null;
  p999: number | null;
  max: number | null;
}

export interface TokenPlace {
  window: number;
  position: number;
  token?: number;
  text?: string;
}

export interface Difference {
  mean: Estimate;
  rms: number | null;
  max: number | null;
  worst: TokenPlace;
}

export interface Bin {
  from: number;
  to: number;
  count: number;
}

export interface Divergence {
  distributions: number;
  kld: Distribution;
  top1: Estimate;
  top5: number | null;
  probability: Difference;
  log_prob: Difference;
  worst: TokenPlace;
  histogram: Bin[];
}

export interface OutputDifference {
  name: string;
  elements: number;
  max: number | null;
  mean: number | null;
  snr_db?: number | null;
  cosine?: number | null;
  agreement?: number | null;
}

export interface Noise {
  method: string;
  items: number;
  mean_kld?: number | null;
  max_kld?: number | null;
  max_log_prob?: number | null;
  perplexity_ratio?: number | null;
  max_difference?: number | null;
}

export interface NodeDivergence {
  value: string;
  node: string;
  operator: string;
  introduced: number | null;
  accumulated: number | null;
}

export interface LimitResult {
  name: string;
  limit: number;
  found: number | null;
  held: boolean;
  worst?: TokenPlace;
  output?: string;
}

export interface ModelResult {
  name: string;
  path?: string;
  bytes: number;
  sha256?: string;
  load_seconds: number;
  run_seconds: number;
  perplexity?: Perplexity;
  divergence?: Divergence;
  outputs?: OutputDifference[];
  noise?: Noise;
  per_node?: NodeDivergence[];
  limits?: LimitResult[];
}

/** How models compare with their baseline on the same input. */
export interface EvaluationReport {
  schema: string;
  onnxq: string;
  engine: EngineInfo;
  task: string;
  input: InputInfo;
  baseline?: ModelResult;
  models: ModelResult[];
  warnings: string[];
}

export interface Evaluation extends EvaluationReport {
  /** Whether every limit held. */
  passed: boolean;
}

export interface Violation {
  code: string;
  location: string;
  found: string;
  expected: string;
}

export interface Finding {
  location: string;
  operator: string;
  target: string;
  effect: "refused" | "fails" | "wrong" | "slow" | "runs";
  found: string;
  reason: string;
  instead: string;
  source: string;
}

export interface Verification {
  model: string;
  valid: boolean;
  violations: Violation[];
  targets: string[];
  findings: Finding[];
  /** What is wrong with the files around it, or with its record of what it was made from. */
  faults: string[];
  /** Whether the model is valid, is what it says, and the targets run it; slowly is enough. */
  passed: boolean;
}

export interface Port {
  name: string;
  type: string;
  dtype: string | null;
  /** Extents, names of extents, or null. */
  shape: (number | string | null)[] | null;
}

/** What a model is; fields that are not typed here are as in the report. */
export interface Inspection {
  files: (File & { sha256: string | null })[];
  total_bytes: number;
  ir_version: number | null;
  opsets: { domain: string; version: number | null }[];
  inputs: Port[];
  optional_inputs: Port[];
  outputs: Port[];
  nodes: number;
  [field: string]: unknown;
}

/** What was asked could not be done, and no model was written. The message is the command's own. */
export class OnnxqError extends Error {}

/** A check found that a limit was missed, so that there is no output. */
export class LimitMissed extends OnnxqError {
  /** Those of the run; `reports[0].check` has the figures. */
  reports: Report[];
}

/** The path of the native binary. */
export function binaryPath(): string;

/** Quantizes a model; the dtype is q4 where none is given. */
export function quantize(model: Path, options?: QuantizeOptions & { dtype?: string }): Promise<Report>;

/** Quantizes a model in several ways while it is read once; `output` is a folder. */
export function quantizeAll(model: Path, options: QuantizeOptions & { dtype: string[] }): Promise<Report[]>;

/** Runs a pipeline of passes over a model. */
export function optimize(model: Path, options: OptimizeOptions): Promise<Report>;

/** Compares what models compute with what a baseline does. A limit that was missed is no error: see `passed`. */
export function evaluate(models: Path | Path[], options?: EvaluateOptions): Promise<Evaluation>;

/** Whether a model is valid, and whether the targets run it. */
export function verify(model: Path, options?: VerifyOptions): Promise<Verification>;

/** What a model is: inputs and outputs, operators, weights, SHA-256. */
export function inspect(model: Path, options?: InspectOptions): Promise<Inspection>;
