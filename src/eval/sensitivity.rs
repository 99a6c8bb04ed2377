//! How much a language model changes when single weights do.

use super::{Tokens, Windows, lm::LanguageModel, metrics::Row, summary::Compared};
use crate::{
    engine::{Array, Engine, LoadOptions, Program, Signature},
    error::{Error, Result},
    ir::{Constant, Data, Def, Model, Tensor, ValueId},
};

/// New elements of constants, by value, in the type and extents that these have.
pub type Replacement = Vec<(ValueId, Array)>;

/// The mean Kullback-Leibler divergence, in nats, of the next-token distributions of `model` over `tokens`
/// from themselves, when the initializers of the main graph in a replacement have its elements: one number for
/// each of `count`, which `replacement` makes.
///
/// ONNX Runtime loads the model once, with its weights as inputs that have defaults; other engines load
/// it for each replacement.
///
/// # Errors
/// It is no causal language model; the engine cannot run it; a value is no initializer of the main
/// graph; a distribution has numbers that are none.
pub fn sensitivities(
    engine: &dyn Engine,
    model: &Model,
    (tokens, windows): (&Tokens, Windows),
    load: LoadOptions,
    count: usize,
    replacement: &mut dyn FnMut(usize) -> Result<Replacement>,
) -> Result<Vec<f64>> {
    let windows = tokens.windows(windows)?;
    let ids: Vec<&[u32]> = windows.iter().map(|w| w.ids).collect();
    // rten does not take another value for what has one.
    let once = engine.name() == "onnxruntime";
    let open = if once { opened(model) } else { model.clone() };
    let signature = Signature::of(model);
    let load = |model: &Model| {
        let program = Program { model, file: None };
        LanguageModel::new(engine.load(program, load)?, signature.clone(), &[])
    };
    let mut lm = load(&open)?;
    let base = logits(&mut lm, &ids)?;
    let mut found = Vec::with_capacity(count);
    for unit in 0..count {
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
            let mut other = model.clone();
            for (value, array) in new {
                let dims = array.dims().iter().map(|&d| d as i64).collect();
                let data = Data::Bytes(array.to_le_bytes().into());
                let tensor = Tensor::new(array.dtype(), dims, data);
                other.values[value].constant = Some(Constant::Dense(tensor));
            }
            lm = load(&other)?;
        }
        let other = logits(&mut lm, &ids)?;
        found.push(divergence(&base, &other)?);
    }
    Ok(found)
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

/// The logits of each text, and the vocabulary.
fn logits(lm: &mut LanguageModel, texts: &[&[u32]]) -> Result<Vec<(Vec<f32>, usize)>> {
    let one = |ids: &&[u32]| {
        lm.restart();
        let logits = lm.feed(&[*ids], 0..ids.len())?;
        let vocabulary = logits.dims()[2];
        let logits = logits.into_f32();
        let logits = logits.ok_or_else(|| Error::input("its logits are truth values"))?;
        Ok((logits, vocabulary))
    };
    texts.iter().map(one).collect()
}

/// The mean over all rows.
fn divergence(base: &[(Vec<f32>, usize)], other: &[(Vec<f32>, usize)]) -> Result<f64> {
    let (mut sum, mut rows) = (0.0, 0u64);
    for ((base, vocabulary), (other, _)) in base.iter().zip(other) {
        let pairs = base.chunks(*vocabulary).zip(other.chunks(*vocabulary));
        for (base, other) in pairs {
            let row = |x: &[f32]| Row::of(x).map_err(|_| Error::input("its logits are no numbers"));
            let compared = Compared::new((0, 0), None, (&row(base)?, base), (&row(other)?, other));
            sum += compared.kld();
            rows += 1;
        }
    }
    Ok(sum / rows.max(1) as f64)
}
