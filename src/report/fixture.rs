//! Evaluations with invented numbers, for tests. Names hold what markup must not.

use super::{Bench, Latency, Throughput};
use crate::{
    eval::report::*,
    tune::{self, Failed, Measure, Report, Way, mark_frontier},
};

/// A name that breaks whatever does not escape it.
pub(super) const HOSTILE: &str =
    "q4 <block 16> & \"asym\" </title><script>alert(1)</script> $x$ 'y'";

fn estimate(value: f64, standard_error: f64) -> Estimate {
    Estimate {
        value,
        standard_error,
    }
}

fn place() -> TokenPlace {
    TokenPlace {
        window: 3,
        position: 118,
        token: Some(1234),
        text: Some(" <the>".into()),
    }
}

fn model(name: &str, bytes: u64) -> ModelResult {
    ModelResult {
        name: name.into(),
        path: Some(format!("models/{name}/model.onnx")),
        bytes,
        sha256: Some("5f".repeat(32)),
        load_seconds: 0.412,
        run_seconds: 38.2,
        perplexity: None,
        divergence: None,
        outputs: Vec::new(),
        noise: None,
        per_node: Vec::new(),
        limits: Vec::new(),
    }
}

fn noise(mean: f64) -> Noise {
    Noise {
        method: "graph optimizations on and off",
        items: 2,
        mean_kld: Some(mean),
        max_kld: Some(mean * 40.0),
        max_log_prob: Some(mean.sqrt() * 0.1),
        perplexity_ratio: Some(1.0 + mean),
        max_difference: Some(mean.sqrt() * 0.3),
    }
}

/// Bins of half a decade from 1e-12 to 10, after one from 0.
fn histogram(mean: f64) -> Vec<Bin> {
    let edge = |i: usize| 10f64.powf(-12.0 + i as f64 / 2.0);
    let bins = (0..=26).map(|i| {
        let from = if i == 0 { 0.0 } else { edge(i - 1) };
        let to = edge(i);
        let distance = (to.log10() - mean.log10() + 0.4) / 0.9;
        let count = (4096.0 * 0.22 * (-distance * distance / 2.0).exp()) as usize;
        Bin { from, to, count }
    });
    bins.collect()
}

fn divergence(mean: f64, top1: f64) -> Divergence {
    let difference = |scale: f64| Difference {
        mean: estimate(-0.02 * scale, 0.004 * scale),
        rms: 0.3 * scale,
        max: 4.0 * scale,
        worst: place(),
    };
    Divergence {
        distributions: 4096,
        kld: Distribution {
            mean: estimate(mean, mean * 0.026),
            median: mean * 0.45,
            p90: mean * 2.4,
            p95: mean * 3.6,
            p99: mean * 8.1,
            p999: mean * 21.0,
            max: mean * 44.0,
        },
        top1: estimate(top1, (top1 * (1.0 - top1) / 4096.0).sqrt()),
        top5: top1 + 0.01 * (1.0 - top1),
        probability: difference(mean.sqrt() * 0.3),
        log_prob: difference(mean.sqrt()),
        worst: place(),
        histogram: histogram(mean),
    }
}

fn variant(name: &str, bytes: u64, ratio: f64, mean: f64, top1: f64) -> ModelResult {
    let mut m = model(name, bytes);
    m.perplexity = Some(Perplexity {
        predictions: 4088,
        perplexity: estimate(14.012 * ratio, 0.39),
        ratio: Some(estimate(ratio, 0.06 * (ratio - 1.0).abs() + 1e-6)),
    });
    m.divergence = Some(divergence(mean, top1));
    m.noise = Some(noise(if mean > 1e-3 { 3.1e-7 } else { 1.9e-7 }));
    m
}

fn limit(name: &'static str, limit: f64, found: f64, held: bool) -> LimitResult {
    LimitResult {
        name,
        limit,
        found,
        held,
        worst: (!held).then(place),
        output: None,
    }
}

fn node(i: usize) -> NodeDivergence {
    let layer = 29 - i;
    let introduced = 0.11 / (1.0 + i as f64 * 0.13);
    NodeDivergence {
        value: format!("/model/layers.{layer}/mlp/down_proj/MatMul_output_0"),
        node: format!("/model/layers.{layer}/mlp/down_proj/MatMul_Q4"),
        operator: "MatMulNBits".into(),
        introduced,
        accumulated: introduced + 0.21 / (1.0 + i as f64 * 0.05),
    }
}

/// A language model in fp32, fp16 and two of 4 bits, with everything that can be measured.
pub(super) fn language_model() -> Evaluation {
    let mut baseline = model("fp32", 538_090_408);
    baseline.perplexity = Some(Perplexity {
        predictions: 4088,
        perplexity: estimate(14.012, 0.38),
        ratio: None,
    });
    baseline.noise = Some(noise(1.9e-7));
    let mut same = variant("fp32, external data", 538_091_112, 1.0, 4e-8, 1.0);
    same.run_seconds = 37.9;
    let mut half = variant("fp16", 269_105_000, 1.000_06, 4.1e-6, 0.998_3);
    half.limits = vec![
        limit("max-mean-kld", 0.01, 4.1e-6, true),
        limit("min-top1", 0.95, 0.998_3, true),
    ];
    let mut q4 = variant(HOSTILE, 118_213_004, 1.084_9, 0.0312, 0.914);
    q4.limits = vec![
        limit("max-mean-kld", 0.01, 0.0312, false),
        limit("min-top1", 0.95, 0.914, false),
        limit("max-perplexity-ratio", 1.1, 1.0849, true),
    ];
    q4.per_node = (0..30).map(node).collect();
    let wide = variant("q4 block 32", 112_004_113, 1.119, 0.0391, 0.902);
    Evaluation {
        schema: SCHEMA,
        onnxq: "0.1.0",
        engine: EngineInfo {
            name: "onnxruntime".into(),
            version: "1.31.1".into(),
            threads: 4,
        },
        task: Task::CausalLm,
        input: InputInfo {
            source: "sample <numbers>, not measured.txt".into(),
            tokens: 4096,
            items: 8,
            window: Some(512),
            stride: Some(512),
            chunk: Some(128),
            batch: 2,
            sha256: "a3".repeat(32),
        },
        baseline: Some(baseline),
        models: vec![same, half, q4, wide],
        warnings: vec!["sample numbers & names, invented for a test".into()],
    }
}

/// A model with any outputs, compared as numbers.
pub(super) fn tensors() -> Evaluation {
    let output = |name: &str, max: f64, snr_db, cosine, agreement| OutputDifference {
        name: name.into(),
        elements: 49_152,
        max,
        mean: max / 9.0,
        snr_db,
        cosine,
        agreement,
    };
    let mut half = model("fp16", 45_000_000);
    half.outputs = vec![
        output(
            "last_hidden_state",
            3.1e-3,
            Some(62.1),
            Some(0.999_999_7),
            None,
        ),
        output(
            "pooler <output>",
            1.2e-3,
            Some(66.4),
            Some(0.999_999_9),
            None,
        ),
    ];
    half.noise = Some(Noise {
        max_difference: Some(2.4e-6),
        mean_kld: None,
        max_kld: None,
        max_log_prob: None,
        perplexity_ratio: None,
        ..noise(1e-7)
    });
    let mut q8 = model("q8", 23_000_000);
    q8.outputs = vec![
        output("last_hidden_state", 0.41, Some(24.0), Some(0.997_9), None),
        output("pooler <output>", 0.0, None, Some(1.0), Some(1.0)),
    ];
    q8.limits = vec![limit("min-snr", 30.0, 24.0, false)];
    q8.limits[0].worst = None;
    q8.limits[0].output = Some("logits".into());
    q8.per_node = (0..4).map(node).collect();
    let mut evaluation = language_model();
    evaluation.task = Task::Tensors;
    evaluation.baseline = Some(model("fp32", 90_000_000));
    evaluation.models = vec![half, q8];
    evaluation.warnings.clear();
    evaluation.input = InputInfo {
        source: "random".into(),
        items: 16,
        batch: 1,
        sha256: "b7".repeat(32),
        ..InputInfo::default()
    };
    evaluation
}

/// One model, no baseline, no limits.
pub(super) fn alone() -> Evaluation {
    let mut evaluation = language_model();
    let mut only = evaluation.baseline.take().expect("it has one");
    only.path = None;
    only.sha256 = None;
    only.noise = None;
    evaluation.models = vec![only];
    evaluation.warnings.clear();
    evaluation
}

/// Numbers that are none, and nothing that differs.
pub(super) fn degenerate() -> Evaluation {
    let mut evaluation = language_model();
    for m in &mut evaluation.models {
        m.bytes = 0;
        m.load_seconds = 0.0;
        m.run_seconds = 0.0;
        m.per_node.clear();
        m.noise = None;
    }
    let broken = evaluation.models[0]
        .divergence
        .as_mut()
        .expect("it has one");
    broken.kld.mean = estimate(f64::NAN, f64::NAN);
    broken.kld.max = f64::INFINITY;
    broken.histogram.clear();
    let equal = evaluation.models[1]
        .divergence
        .as_mut()
        .expect("it has one");
    equal.kld.mean = estimate(0.0, 0.0);
    equal.kld.max = 0.0;
    equal.histogram.iter_mut().for_each(|b| b.count = 0);
    equal.histogram[0].count = 4096;
    let nan = evaluation.models[2]
        .perplexity
        .as_mut()
        .expect("it has one");
    nan.perplexity = estimate(f64::NAN, f64::NAN);
    evaluation
}

/// A benchmark of the same models.
pub(super) fn bench() -> Bench {
    let latency = |name: &str, mean_ms: f64| Latency {
        name: name.into(),
        runs: 50,
        mean_ms,
        sd_ms: mean_ms * 0.04,
        p50_ms: mean_ms * 0.99,
        p95_ms: mean_ms * 1.08,
        p99_ms: mean_ms * 1.21,
        throughput: Some(Throughput {
            per_second: 128e3 / mean_ms,
            unit: "tokens".into(),
        }),
    };
    Bench {
        engine: "onnxruntime 1.31.1, 4 threads".into(),
        input: "1 sequence of 128 tokens".into(),
        models: vec![
            latency("fp32", 212.0),
            latency("fp16", 240.5),
            latency(HOSTILE, 88.4),
        ],
    }
}

/// A way to quantize; its divergence is nearly 0 where it has no error.
fn way(options: &str, bytes: u64, mean_kld: Option<f64>, relative_error: Option<f64>) -> Way {
    Way {
        options: options.into(),
        path: (bytes < 10_000_000).then(|| "models/small.onnx".into()),
        bytes,
        sha256: "5f".repeat(32),
        bits_per_weight: mean_kld.map(|_| bytes as f64 * 8.0 / 134e6),
        seconds: 1.25,
        mean_kld: mean_kld.map(|mean| estimate(mean, mean * 0.03)),
        perplexity: mean_kld.map(|mean| estimate(31.8 * mean.exp(), 2.1)),
        top1: mean_kld.map(|mean| estimate(1.0 / (1.0 + mean), 0.01)),
        relative_error,
        cosine: relative_error.map(|e| 1.0 - e * e / 2.0),
        noise: mean_kld.map(|_| 1.1e-6),
        frontier: false,
    }
}

fn ways(measure: Measure, task: Task, mut ways: Vec<Way>) -> Report {
    mark_frontier(&mut ways);
    let evaluation = language_model();
    Report {
        schema: tune::SCHEMA,
        onnxq: "0.1.0",
        engine: evaluation.engine,
        task,
        measure,
        input: evaluation.input,
        baseline: evaluation.baseline.unwrap_or_else(|| model("fp32", 1)),
        ways,
        failed: vec![Failed {
            options: "--budget 1bpw".into(),
            error: "the least that can be reached is 3.08bpw".into(),
        }],
        warnings: vec![HOSTILE.into()],
    }
}

/// Ways to quantize a language model: one is dominated, one is within the engine's noise.
pub(super) fn frontier() -> Report {
    let all = vec![
        way("--method mse", 84_600_000, Some(0.28), None),
        way("--method rtn", 84_590_000, Some(0.34), None),
        way(HOSTILE, 84_700_000, Some(0.31), None),
        way("--bits 8", 140_000_000, Some(9e-7), None),
    ];
    ways(Measure::MeanKld, Task::CausalLm, all)
}

/// Ways to quantize another model.
pub(super) fn frontier_of_tensors() -> Report {
    let all = vec![
        way("--dtype int8", 12_000_000, None, Some(0.03)),
        way("--dtype q4", 9_000_000, None, Some(0.09)),
        way("--dtype q4 --exclude '*'", 45_000_000, None, Some(0.0)),
    ];
    ways(Measure::RelativeError, Task::Tensors, all)
}

/// Ways that made nothing.
pub(super) fn no_frontier() -> Report {
    ways(Measure::MeanKld, Task::CausalLm, Vec::new())
}
