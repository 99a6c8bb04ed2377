//! What a rewrite did to a model: next-token distributions, or any outputs, against a baseline.

mod language;
mod limits;
mod lm;
mod log_probs;
mod maxima;
mod metrics;
mod per_node;
pub mod report;
mod sensitivity;
mod subject;
mod summary;
mod tensors;
mod tokens;

pub use language::{Baseline, LanguageOptions};
pub use limits::Limits;
pub(crate) use maxima::cut;
pub use maxima::measure;
pub use report::Evaluation;
pub use sensitivity::{Replacement, SensitivityOptions, sensitivities};
pub use subject::{OpenSubject, Subject};
pub(crate) use summary::quantile;
pub(crate) use tensors::Feeds;
pub use tensors::Items;
pub use tokens::{Tokens, Windows};

use crate::{
    engine::{self, Choice, Engine, LoadOptions, OutputRole, Signature},
    error::{Error, Result},
    ir::Model,
};
use language::Evaluated;
use report::{EngineInfo, NodeDivergence, SCHEMA, Task};

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
/// There are limits and no baseline; the engine refuses or cannot run a model; a model is no
/// causal language model; the text is too
/// short, or has tokens that a model does not have; a distribution has numbers that are none.
pub fn language_models(
    engine: &dyn Engine,
    baseline: Option<&Baseline<'_>>,
    models: &[Subject<'_>],
    tokens: &Tokens,
    options: &LanguageOptions,
    limits: &Limits,
) -> Result<Evaluation> {
    limits.check(Task::CausalLm)?;
    limits.need(baseline.is_some())?;
    let found = language::evaluate(engine, baseline, models, tokens, options, limits)?;
    Ok(evaluation(engine, Task::CausalLm, options.load, found))
}

/// Compares every output of models with the baseline's of the same name, as numbers.
///
/// # Errors
/// There are limits and no baseline, or limits on text, or on labels where there are none;
/// The engine refuses or cannot run a model; an input is missing; the models have not the same
/// inputs, no output in common, or outputs of other extents; an output is not a number.
pub fn outputs(
    engine: &dyn Engine,
    baseline: Option<&Subject<'_>>,
    models: &[Subject<'_>],
    (task, items): (Task, Items<'_>),
    noise_items: usize,
    load: LoadOptions,
    limits: &Limits,
) -> Result<Evaluation> {
    limits.check(task)?;
    limits.need(baseline.is_some())?;
    let at = |name: &str| format!("`{name}`");
    for model in models {
        let needed = limits.need_outputs(&Signature::of(model.model));
        needed.map_err(|e| e.at(at(&model.name)))?;
    }
    let mut found = tensors::evaluate(engine, baseline, models, items, noise_items, load)?;
    for model in &mut found.models {
        let judged = limits.judge_outputs(&model.outputs);
        model.limits = judged.map_err(|e| e.at(at(&model.name)))?;
    }
    Ok(evaluation(engine, task, load, found))
}

/// Looks whether a model with this signature can be fed `items`.
///
/// # Errors
/// There are none, or an input is missing or of another type.
pub fn feeds(items: Items<'_>, signature: &Signature) -> Result<()> {
    tensors::first_item(items, signature).map(drop)
}

/// Ranks the nodes of `model` by the error that each adds to what `baseline` computes for the
/// first of `items`, the worst first. Nodes that are the same in both are not there.
///
/// # Errors
/// The engine cannot run a model with its inner values exposed.
pub fn per_node(
    engine: &dyn Engine,
    baseline: &Model,
    model: &Model,
    items: Items<'_>,
    load: LoadOptions,
) -> Result<Vec<NodeDivergence>> {
    let feed = |model: &Model| tensors::first_item(items, &Signature::of(model));
    per_node::per_node(engine, baseline, model, &feed, load)
}

/// Whether it gives a distribution for every token, given whatever else it needs.
pub fn gives_logits_per_token(signature: &Signature) -> bool {
    let logits = signature.output(OutputRole::Logits);
    logits.is_some_and(|l| l.dims.as_ref().is_none_or(|d| d.len() == 3))
}

/// What kind of model has this signature, when it is fed text.
///
/// # Errors
/// No output is one that is known.
pub fn task_of(signature: &Signature) -> Result<Task> {
    let logits = signature.output(OutputRole::Logits);
    if signature.is_causal_lm() {
        return Ok(Task::CausalLm);
    }
    if let Some(logits) = logits
        && logits.dims.as_ref().is_some_and(|d| d.len() == 2)
    {
        return Ok(Task::Classifier);
    }
    if logits.is_some() || signature.output(OutputRole::LastHiddenState).is_some() {
        return Ok(Task::Encoder);
    }
    let names: Vec<_> = signature.outputs.iter().map(|o| &*o.name).collect();
    Err(Error::input(format!(
        "no output is recognised: expected `logits` or `last_hidden_state`, found {}; say with \
         --task what it is, or feed tensors (--inputs, --random)",
        names.join(", ")
    )))
}

fn evaluation(engine: &dyn Engine, task: Task, load: LoadOptions, found: Evaluated) -> Evaluation {
    Evaluation {
        schema: SCHEMA,
        onnxq: env!("CARGO_PKG_VERSION"),
        engine: EngineInfo {
            name: engine.name().to_owned(),
            version: engine.version().to_owned(),
            threads: load.threads,
        },
        task,
        input: found.input,
        baseline: found.baseline,
        models: found.models,
        warnings: found.warnings,
    }
}
