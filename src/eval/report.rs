//! What an evaluation found. Serialized, it is the JSON of `onnxq eval --json`; the field names
//! are a contract, and [`SCHEMA`] changes with them.

use serde::{Deserialize, Serialize};

/// Name and version of the JSON's schema.
pub const SCHEMA: &str = "onnxq.eval/1";

/// One evaluation.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluation {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Version of onnxq.
    pub onnxq: &'static str,
    /// What the models ran on; all on the same.
    pub engine: EngineInfo,
    /// What kind of model was evaluated.
    pub task: Task,
    /// What they were fed.
    pub input: InputInfo,
    /// The model that the others are compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<ModelResult>,
    /// The models, in the order given.
    pub models: Vec<ModelResult>,
    /// Warnings: what was not as asked, and why.
    pub warnings: Vec<String>,
}

/// The engine of an evaluation.
#[derive(Clone, Debug, Serialize)]
pub struct EngineInfo {
    /// `onnxruntime` or `rten`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Threads that compute one operator.
    pub threads: usize,
}

/// What kind of model it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Gives a distribution over the next token for every token.
    CausalLm,
    /// Gives one score a label for each text.
    Classifier,
    /// Gives vectors for a text.
    Encoder,
    /// Anything: its outputs are compared as numbers.
    Tensors,
}

/// What the models were fed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct InputInfo {
    /// Where it came from: a path, or `random`.
    pub source: String,
    /// How many tokens were fed; 0 for tensors.
    pub tokens: usize,
    /// How many windows of tokens, or items of another kind.
    pub items: usize,
    /// Tokens of a window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// Tokens from the begin of one window to the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stride: Option<usize>,
    /// Tokens fed at once through the cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk: Option<usize>,
    /// Windows fed at once.
    pub batch: usize,
    /// SHA-256 of the tokens, each as 4 little-endian bytes, windows in order; or of the tensors.
    pub sha256: String,
}

/// What was found about one model.
#[derive(Clone, Debug, Serialize)]
pub struct ModelResult {
    /// A short name that tells it from the others.
    pub name: String,
    /// Its file; absent for a model made in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Length of its files in bytes.
    pub bytes: u64,
    /// SHA-256 of its file, and of its side files, joined with `+`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Seconds to load it; 0 when its log-probs came from a file.
    pub load_seconds: f64,
    /// Seconds to run it on all items, without the arithmetic of the metrics.
    pub run_seconds: f64,
    /// How well it predicts the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<Perplexity>,
    /// How its distributions differ from the baseline's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
    /// How its outputs differ from the baseline's, as numbers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<OutputDifference>,
    /// What the engine itself makes of it: differences below this say nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise: Option<Noise>,
    /// Where it leaves the baseline, the worst first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub per_node: Vec<NodeDivergence>,
    /// The limits, and whether they held.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitResult>,
}

/// A number and the standard error of its estimate, with tokens taken as independent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The estimate.
    pub value: f64,
    /// Its standard error.
    pub standard_error: f64,
}

/// How well a model predicts the text.
#[derive(Clone, Debug, Serialize)]
pub struct Perplexity {
    /// How many predictions were scored.
    pub predictions: usize,
    /// exp of the mean negative log-probability of the reference tokens.
    pub perplexity: Estimate,
    /// This perplexity divided by the baseline's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Estimate>,
}

/// Differences between the next-token distributions of a model and of its baseline.
#[derive(Clone, Debug, Serialize)]
pub struct Divergence {
    /// How many distributions were compared.
    pub distributions: usize,
    /// Kullback-Leibler divergence from the baseline, in nats.
    pub kld: Distribution,
    /// Share of distributions with the same most probable token.
    pub top1: Estimate,
    /// Mean share of the baseline's five most probable tokens that are among the model's five.
    pub top5: f64,
    /// Model's minus baseline's probability of the reference token.
    pub probability: Difference,
    /// Model's minus baseline's log-probability of the reference token, in nats.
    pub log_prob: Difference,
    /// Where the divergence is largest.
    pub worst: TokenPlace,
    /// How many distributions have a divergence in each interval.
    pub histogram: Vec<Bin>,
}

/// A distribution of numbers that are not negative.
#[derive(Clone, Debug, Serialize)]
pub struct Distribution {
    /// Mean.
    pub mean: Estimate,
    /// Median.
    pub median: f64,
    /// 90th percentile (linear interpolation between order statistics, as all of them).
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Largest.
    pub max: f64,
}

/// Differences of a number that both models give for each reference token.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// Mean.
    pub mean: Estimate,
    /// Root of the mean square.
    pub rms: f64,
    /// Largest by magnitude, without sign.
    pub max: f64,
    /// Where it is largest.
    pub worst: TokenPlace,
}

/// A place in the text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenPlace {
    /// Which window, from 0.
    pub window: usize,
    /// Which row of it, from 0: the distribution after that many tokens and one.
    pub position: usize,
    /// The token that follows there; absent after the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<u32>,
    /// What it stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// One bar of a histogram. The first one starts at 0; intervals are open above.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bin {
    /// Lower end.
    pub from: f64,
    /// Upper end.
    pub to: f64,
    /// How many.
    pub count: usize,
}

/// Differences between the numbers of one output.
#[derive(Clone, Debug, Serialize)]
pub struct OutputDifference {
    /// Name of the output.
    pub name: String,
    /// How many numbers were compared.
    pub elements: usize,
    /// Largest absolute difference.
    pub max: f64,
    /// Mean absolute difference.
    pub mean: f64,
    /// Signal-to-noise ratio in dB: 10 log10 of the baseline's power by that of the difference;
    /// absent when they are equal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snr_db: Option<f64>,
    /// Cosine between both, all items as one vector; absent when one is zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cosine: Option<f64>,
    /// Share of rows with the same largest element; for scores of labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
}

/// How much a model differs from itself on the engine, with graph optimizations and without. For
/// a model that is compared, each figure is the larger of its own and its baseline's.
#[derive(Clone, Debug, Serialize)]
pub struct Noise {
    /// How it was measured.
    pub method: &'static str,
    /// On how many items.
    pub items: usize,
    /// Mean divergence, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_kld: Option<f64>,
    /// Largest divergence, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_kld: Option<f64>,
    /// Largest difference between log-probs of reference tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_log_prob: Option<f64>,
    /// Perplexity without graph optimizations divided by that with them, on these items.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perplexity_ratio: Option<f64>,
    /// Largest difference between elements of an output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_difference: Option<f64>,
}

/// What a node of the model, or the few that replaced one, adds to the error.
#[derive(Clone, Debug, Serialize)]
pub struct NodeDivergence {
    /// Name of the value that both models compute.
    pub value: String,
    /// Name of the node that computes it in the model.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// Relative error (norm of the difference by norm of the baseline's value) when it is fed
    /// what the baseline computes: what this node alone adds.
    pub introduced: f64,
    /// Relative error when the model runs as it is: what has gathered up to here.
    pub accumulated: f64,
}

/// One limit.
#[derive(Clone, Debug, Serialize)]
pub struct LimitResult {
    /// The option that sets it, without dashes.
    pub name: &'static str,
    /// The limit.
    pub limit: f64,
    /// What was found; in JSON null where it is infinite, as the signal-to-noise ratio of equal outputs.
    pub found: f64,
    /// Whether it held.
    pub held: bool,
    /// Where it was missed most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worst: Option<TokenPlace>,
    /// The output that is farthest from the baseline's, of limits on outputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

impl OutputDifference {
    /// Signal-to-noise ratio in dB; infinite where there is no difference, or no signal.
    pub(crate) fn snr(&self) -> f64 {
        match self.snr_db {
            Some(db) => db,
            None if self.max == 0.0 => f64::INFINITY,
            None => f64::NEG_INFINITY,
        }
    }

    /// Cosine between both; of zeros 1 where both are.
    pub(crate) fn similarity(&self) -> f64 {
        let equal = if self.max == 0.0 { 1.0 } else { 0.0 };
        self.cosine.unwrap_or(equal)
    }
}

impl ModelResult {
    /// Nothing is known about it but its name.
    pub fn named(name: &str) -> ModelResult {
        ModelResult {
            name: name.to_owned(),
            path: None,
            bytes: 0,
            sha256: None,
            load_seconds: 0.0,
            run_seconds: 0.0,
            perplexity: None,
            divergence: None,
            outputs: Vec::new(),
            noise: None,
            per_node: Vec::new(),
            limits: Vec::new(),
        }
    }
}

impl Noise {
    /// Takes the larger of both, figure by figure.
    pub(crate) fn raise(&mut self, other: &Noise) {
        let larger = |a: &mut Option<f64>, b: Option<f64>| {
            *a = a.zip(b).map(|(a, b)| a.max(b)).or(*a);
        };
        larger(&mut self.mean_kld, other.mean_kld);
        larger(&mut self.max_kld, other.max_kld);
        larger(&mut self.max_log_prob, other.max_log_prob);
        larger(&mut self.max_difference, other.max_difference);
        let distance = |ratio: Option<f64>| ratio.map_or(0.0, |r| r.ln().abs());
        if distance(other.perplexity_ratio) > distance(self.perplexity_ratio) {
            self.perplexity_ratio = other.perplexity_ratio;
        }
    }
}

impl Evaluation {
    /// The mean divergence of the first of the models, in nats, where it was compared with a baseline.
    pub fn mean_kld(&self) -> Option<f64> {
        let divergence = self.models.first()?.divergence.as_ref()?;
        Some(divergence.kld.mean.value)
    }

    /// Whether every limit held.
    pub fn passed(&self) -> bool {
        self.models
            .iter()
            .flat_map(|m| &m.limits)
            .all(|limit| limit.held)
    }
}
