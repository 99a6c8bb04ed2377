//! What a rewrite did to a model: next-token distributions, or any outputs, against a baseline.

pub mod report;

pub use report::Evaluation;
