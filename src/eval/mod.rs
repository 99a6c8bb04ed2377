//! What a rewrite did to a model: next-token distributions, or any outputs, against a baseline.

mod language;
mod limits;
mod lm;
mod log_probs;
mod metrics;
mod per_node;
pub mod report;
mod subject;
mod summary;
mod tensors;
mod tokens;

pub use language::{Baseline, LanguageOptions};
pub use limits::Limits;
pub use report::Evaluation;
pub use subject::{OpenSubject, Subject};
pub use tokens::{Tokens, Windows};

use crate::{
    engine::{self, Choice, Engine},
    error::Result,
};
use report::{EngineInfo, SCHEMA, Task};

/// Compares the next-token distributions of `candidate` with those of `baseline` over `tokens`,
/// on the engine that [`engine::find`] chooses, with [`LanguageOptions::default`].
/// [`Evaluation::passed`] tells whether `limits` held.
///
/// # Errors
/// As [`language_models`].
pub fn compare(
    baseline: &OpenSubject,
    candidate: &OpenSubject,
    tokens: &Tokens,
    limits: &Limits,
) -> Result<Evaluation> {
    language_models(
        engine::find(Choice::Auto, None)?.as_ref(),
        Some(&Baseline::Model(baseline.subject())),
        &[candidate.subject()],
        tokens,
        &LanguageOptions::default(),
        limits,
    )
}

/// Evaluates causal language models on text: the perplexity of each, and where there is a
/// baseline how far their distributions are from its.
///
/// # Errors
/// The engine refuses or cannot run a model; a model is no causal language model; the text is too
/// short, or has tokens that a model does not have; a distribution has numbers that are none.
pub fn language_models(
    engine: &dyn Engine,
    baseline: Option<&Baseline<'_>>,
    models: &[Subject<'_>],
    tokens: &Tokens,
    options: &LanguageOptions,
    limits: &Limits,
) -> Result<Evaluation> {
    limits.check()?;
    let found = language::evaluate(engine, baseline, models, tokens, options, limits)?;
    Ok(Evaluation {
        schema: SCHEMA,
        onnxq: env!("CARGO_PKG_VERSION"),
        engine: EngineInfo {
            name: engine.name().to_owned(),
            version: engine.version().to_owned(),
            threads: options.load.threads,
        },
        task: Task::CausalLm,
        input: found.input,
        baseline: found.baseline,
        models: found.models,
        warnings: found.warnings,
    })
}
