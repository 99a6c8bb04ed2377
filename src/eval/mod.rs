//! What a rewrite did to a model: next-token distributions, or any outputs, against a baseline.

mod metrics;
pub mod report;

pub use report::Evaluation;
