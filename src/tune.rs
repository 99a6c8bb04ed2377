//! What ways to quantize a model cost: size against distance from the float model. Serialized, [`Report`] is
//! the JSON of `onnxq tune --json`; the field names are a contract, and [`SCHEMA`] changes with them.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::eval::report::{EngineInfo, Estimate, Evaluation, InputInfo, ModelResult, Task};

/// Name and version of the JSON's schema.
pub const SCHEMA: &str = "onnxq.tune/1";

/// Ways to quantize one model, compared on the same input.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Version of onnxq.
    pub onnxq: &'static str,
    /// What all of the models ran on.
    pub engine: EngineInfo,
    /// What kind of model it is.
    pub task: Task,
    /// What distances are.
    pub measure: Measure,
    /// What the models were fed.
    pub input: InputInfo,
    /// The model as it came, which the others are compared with.
    pub baseline: ModelResult,
    /// The ways, the smallest output first.
    pub ways: Vec<Way>,
    /// Ways that made no output, in the order given.
    pub failed: Vec<Failed>,
    /// What was not as asked, and why.
    pub warnings: Vec<String>,
}

/// What tells how far a model is from its baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// The mean Kullback-Leibler divergence of its next-token distributions, in nats.
    MeanKld,
    /// The relative error of the output that is worst: [`Way::relative_error`].
    RelativeError,
}

/// One way, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Way {
    /// The options of `onnxq quantize`, as they are typed into a shell.
    pub options: String,
    /// The output; absent when it was not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Length of its files in bytes.
    pub bytes: u64,
    /// SHA-256 of its file, and of its side file, joined with `+`.
    pub sha256: String,
    /// Bits of a quantized element, scales and zero points included; absent where none is quantized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_weight: Option<f64>,
    /// Seconds of the quantization, calibration included; what is measured once for several ways counts for
    /// the first of them.
    pub seconds: f64,
    /// Mean Kullback-Leibler divergence from the baseline, in nats; of language models, as the next two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_kld: Option<Estimate>,
    /// Perplexity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<Estimate>,
    /// Share of distributions with the same most probable token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top1: Option<Estimate>,
    /// Norm of the difference by the norm of the baseline's output, for the output where that is
    /// largest; of models that are no language models, as the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative_error: Option<f64>,
    /// Smallest cosine between an output and the baseline's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cosine: Option<f64>,
    /// What the engine's graph optimizations alone make of the mean divergence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<f64>,
    /// Whether no other is as small and nearer, or as near and smaller.
    pub frontier: bool,
}

/// A way that made no output.
#[derive(Clone, Debug, Serialize)]
pub struct Failed {
    /// The options of `onnxq quantize`.
    pub options: String,
    /// Why, on one line.
    pub error: String,
}

impl Way {
    /// The way with these `options`, of which `evaluation` tells what became; the evaluation is of
    /// one model.
    pub fn new(
        options: String,
        seconds: f64,
        bits_per_weight: Option<f64>,
        evaluation: &Evaluation,
    ) -> Option<Way> {
        let [model] = &evaluation.models[..] else {
            return None;
        };
        let divergence = model.divergence.as_ref();
        let outputs = model.outputs.iter();
        let errors = outputs.clone().map(|o| relative_error(o.snr_db));
        Some(Way {
            options,
            path: model.path.clone(),
            bytes: model.bytes,
            sha256: model.sha256.clone().unwrap_or_default(),
            bits_per_weight,
            seconds,
            mean_kld: divergence.map(|d| d.kld.mean),
            perplexity: model.perplexity.as_ref().map(|p| p.perplexity),
            top1: divergence.map(|d| d.top1),
            relative_error: errors.reduce(f64::max),
            cosine: outputs.filter_map(|o| o.cosine).reduce(f64::min),
            noise: model.noise.as_ref().and_then(|n| n.mean_kld),
            frontier: false,
        })
    }

    /// How far it is from the baseline: what its evaluation measures.
    pub fn distance(&self) -> f64 {
        let divergence = self.mean_kld.map(|mean| mean.value);
        divergence.or(self.relative_error).unwrap_or(f64::NAN)
    }
}

/// The ratio of norms that a signal-to-noise ratio in dB stands for; of equal outputs there is none.
fn relative_error(snr_db: Option<f64>) -> f64 {
    snr_db.map_or(0.0, |db| 10f64.powf(-db / 20.0))
}

/// Sorts `ways` by size, then by distance, and marks those that none other dominates.
pub fn mark_frontier(ways: &mut [Way]) {
    let order = |a: &Way, b: &Way| {
        let by_size = a.bytes.cmp(&b.bytes);
        let by_distance = a.distance().total_cmp(&b.distance());
        let by_name = || a.options.cmp(&b.options);
        by_size.then(by_distance).then_with(by_name)
    };
    ways.sort_by(order);
    let mut best: Option<(u64, f64)> = None;
    for way in ways {
        let distance = way.distance();
        way.frontier = match best {
            None => !distance.is_nan(),
            Some((bytes, nearest)) => match distance.partial_cmp(&nearest) {
                Some(Ordering::Less) => true,
                // Two that are alike in both dominate each other as little as one itself.
                Some(Ordering::Equal) => way.bytes == bytes,
                _ => false,
            },
        };
        if way.frontier {
            best = Some((way.bytes, distance));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(bytes: u64, kld: f64) -> Way {
        Way {
            options: format!("{bytes} {kld}"),
            path: None,
            bytes,
            sha256: String::new(),
            bits_per_weight: None,
            seconds: 0.0,
            mean_kld: Some(Estimate {
                value: kld,
                standard_error: 0.0,
            }),
            perplexity: None,
            top1: None,
            relative_error: None,
            cosine: None,
            noise: None,
            frontier: false,
        }
    }

    #[test]
    fn what_none_dominates_is_the_frontier() {
        let mut ways = [
            way(30, 0.1),
            way(10, 0.5),
            way(20, 0.6),
            way(20, 0.3),
            way(20, 0.3),
            way(25, 0.3),
            way(40, 0.1),
            way(5, f64::NAN),
        ];
        mark_frontier(&mut ways);
        let marked: Vec<(u64, f64, bool)> = ways
            .iter()
            .map(|w| (w.bytes, w.distance(), w.frontier))
            .collect();
        // By the definition, pair by pair.
        for a in &ways {
            let dominates = |b: &&Way| {
                let (near, small) = (b.distance() <= a.distance(), b.bytes <= a.bytes);
                near && small && (b.distance() < a.distance() || b.bytes < a.bytes)
            };
            let expected = !a.distance().is_nan() && !ways.iter().any(|b| dominates(&b));
            assert_eq!(a.frontier, expected, "{} of {marked:?}", a.options);
        }
        assert_eq!(ways.iter().filter(|w| w.frontier).count(), 4);
    }

    #[test]
    fn decibels_and_norms() {
        assert_eq!(relative_error(Some(20.0)), 0.1);
        assert_eq!(relative_error(None), 0.0);
    }
}
