//! How much a language model changes when single weights do.

use std::{
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
};

use super::{
    Tokens, Windows,
    language::{Part, Rows, compare, run},
    lm::LanguageModel,
    summary::Compared,
};
use crate::{
    engine::{Array, Engine, LoadOptions, Program, Signature},
    error::{Error, ErrorKind, Result},
    ir::{Constant, Data, Def, Model, Tensor, ValueId},
};

/// New elements of constants, by value, in the type and extents that these have.
pub type Replacement = Vec<(ValueId, Array)>;

/// What [`sensitivities`] feeds a model, and how.
pub struct SensitivityOptions<'a> {
    /// The text.
    pub tokens: &'a Tokens,
    /// How it is cut into windows.
    pub windows: Windows,
    /// Numbers of those that are fed.
    pub chosen: &'a [usize],
    /// How the engine loads the model.
    pub load: LoadOptions,
    /// Set to stop.
    pub cancel: Option<&'a AtomicBool>,
}

/// The mean Kullback-Leibler divergence, in nats, of the next-token distributions of `model` from themselves,
/// when the initializers of the main graph in a replacement have its elements: one number for each of
/// `units`, in their order, of which `replacement` makes the elements and `found` gets the number.
///
/// ONNX Runtime loads the model once, with its weights as inputs that have defaults; other engines load
/// it for each replacement.
///
/// # Errors
/// It is no causal language model; the engine cannot run it; a value is no initializer of the main
/// graph; a distribution has numbers that are none; it was cancelled; whatever `replacement` or `found`
/// ends it with.
pub fn sensitivities(
    engine: &dyn Engine,
    model: &Model,
    options: &SensitivityOptions<'_>,
    units: Range<usize>,
    replacement: &mut dyn FnMut(usize) -> Result<Replacement>,
    found: &mut dyn FnMut(f64) -> Result<()>,
) -> Result<()> {
    if units.is_empty() {
        return Ok(());
    }
    let windows = options.tokens.windows(options.windows)?;
    let part = |&i: &usize| Part::new(&windows, i..i + 1, 0..windows[i].ids.len());
    let parts: Vec<Part<'_>> = options.chosen.iter().map(part).collect();
    // rten does not take another value for what has one.
    let once = engine.name() == "onnxruntime";
    let open = if once { opened(model) } else { model.clone() };
    let signature = Signature::of(model);
    let load = |model: &Model| {
        let program = Program { model, file: None };
        let session = engine.load(program, options.load)?;
        LanguageModel::new(session, signature.clone(), &[])
    };
    let mut lm = load(&open)?;
    let rows = |lm: &mut LanguageModel| -> Result<Vec<Rows>> {
        parts.iter().map(|part| run(lm, part)).collect()
    };
    let base = rows(&mut lm)?;
    for unit in units {
        if options.cancel.is_some_and(|c| c.load(Ordering::Relaxed)) {
            return Err(Error::new(ErrorKind::Cancelled, "interrupted"));
        }
        let new = replacement(unit)?;
        let known = &model.graphs[model.main].initializers;
        if let Some((value, _)) = new.iter().find(|(v, _)| !known.contains(v)) {
            let name = &model.values[*value].name;
            let message = format!("`{name}` is no initializer of the model");
            return Err(Error::input(message));
        }
        if once {
            let named = |(v, array)| (model.values[v].name.to_string(), array);
            lm.give(new.into_iter().map(named).collect());
        } else {
            lm = load(&replaced(model, new))?;
        }
        let other = rows(&mut lm)?;
        let pairs = parts.iter().zip(base.iter().zip(&other));
        let compared = pairs.flat_map(|(part, (base, other))| compare(part, base, other));
        let klds: Vec<f64> = compared.map(|c: Compared| c.kld()).collect();
        found(klds.iter().sum::<f64>() / klds.len() as f64)?;
    }
    Ok(())
}

/// `model` with its initializers as inputs that have defaults.
fn opened(model: &Model) -> Model {
    let mut open = model.clone();
    let main = open.main;
    for value in open.graphs[main].initializers.clone() {
        if matches!(open.values[value].def, Def::Initializer(_)) {
            open.values[value].def = Def::Input(main);
            open.graphs[main].inputs.push(value);
        }
    }
    open
}

/// `model` with other elements in its initializers.
fn replaced(model: &Model, new: Replacement) -> Model {
    let mut replaced = model.clone();
    for (value, array) in new {
        let dims = array.dims().iter().map(|&d| d as i64).collect();
        let data = Data::Bytes(array.to_le_bytes().into());
        let tensor = Tensor::new(array.dtype(), dims, data);
        replaced.values[value].constant = Some(Constant::Dense(tensor));
    }
    replaced
}
