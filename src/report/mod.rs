//! An evaluation as a page, as a JUnit report, and as text; and the frontier of ways to quantize as a page and
//! as text. Their JSON is what they are themselves.

mod frontier;
mod html;
mod junit;
mod number;
mod rows;
mod text;
mod words;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;

pub use frontier::{frontier_text, way_line};
pub use html::{frontier_html, html};
pub use junit::junit;
pub use text::text;

/// What a benchmark measured, for the page.
#[derive(Clone, Debug, Default)]
pub struct Bench {
    /// What it ran on, for people: `onnxruntime 1.31.1, 4 threads`.
    pub engine: String,
    /// What a run computes, for people: `1 sequence of 128 tokens`.
    pub input: String,
    /// One entry a model, in the order given.
    pub models: Vec<Latency>,
}

/// How long runs of one model took.
#[derive(Clone, Debug, Default)]
pub struct Latency {
    /// A short name that tells it from the others.
    pub name: String,
    /// How many runs were measured.
    pub runs: usize,
    /// Mean, in milliseconds.
    pub mean_ms: f64,
    /// Standard deviation, in milliseconds.
    pub sd_ms: f64,
    /// Median, in milliseconds.
    pub p50_ms: f64,
    /// 95th percentile, in milliseconds.
    pub p95_ms: f64,
    /// 99th percentile, in milliseconds.
    pub p99_ms: f64,
    /// How many tokens or items are computed in a second; absent when that was not counted.
    pub throughput: Option<Throughput>,
}

/// A rate.
#[derive(Clone, Debug, Default)]
pub struct Throughput {
    /// How many in a second.
    pub per_second: f64,
    /// Of what: `tokens`.
    pub unit: String,
}
