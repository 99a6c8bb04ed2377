//! How much a language model changes when single weights do.

use super::{Tokens, Windows, lm::LanguageModel, metrics::Row, summary::Compared};
use crate::{
    engine::{Array, Engine, LoadOptions, Program, Signature},
    error::{Error, Result},
    ir::{Def, Model, ValueId},
};

/// New elements of constants, by value, in the type and extents that these have.
pub type Replacement = Vec<(ValueId, Array)>;

/// The mean Kullback-Leibler divergence, in nats, of the next-token distributions of `model` over `tokens`
/// from themselves, when the initializers of the main graph in a replacement have its elements: one number for
/// each of `count`, which `replacement` makes.
///
/// The model is loaded once; its weights are inputs with defaults.
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
    let signature = Signature::of(model);
    let windows = tokens.windows(windows)?;
    let mut open = model.clone();
    let main = open.main;
    for value in open.graphs[main].initializers.clone() {
        if matches!(open.values[value].def, Def::Initializer(_)) {
            open.values[value].def = Def::Input(main);
            open.graphs[main].inputs.push(value);
        }
    }
    let program = Program {
        model: &open,
        file: None,
    };
    let session = engine.load(program, load)?;
    let mut lm = LanguageModel::new(session, signature, &[])?;
    let ids: Vec<&[u32]> = windows.iter().map(|w| w.ids).collect();
    let run = |lm: &mut LanguageModel| -> Result<Vec<(Vec<f32>, usize)>> {
        let logits = |ids: &&[u32]| {
            lm.restart();
            let logits = lm.feed(&[*ids], 0..ids.len())?;
            let vocabulary = logits.dims()[2];
            let logits = logits.into_f32();
            let logits = logits.ok_or_else(|| Error::input("its logits are truth values"))?;
            Ok((logits, vocabulary))
        };
        ids.iter().map(logits).collect()
    };
    let base = run(&mut lm)?;
    let mut found = Vec::with_capacity(count);
    for unit in 0..count {
        let named = |(value, array): (ValueId, Array)| {
            let known = open.graphs[main].initializers.contains(&value);
            let name = open.values[value].name.to_string();
            match known {
                true => Ok((name, array)),
                false => Err(Error::input(format!(
                    "`{name}` is no initializer of the model"
                ))),
            }
        };
        let replaced = replacement(unit)?.into_iter().map(named);
        lm.give(replaced.collect::<Result<_>>()?);
        let other = run(&mut lm)?;
        lm.give(Vec::new());
        found.push(divergence(&base, &other)?);
    }
    Ok(found)
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
