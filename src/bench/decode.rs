//! Token after token with the cache.

use std::time::Instant;

use super::milliseconds;
use crate::{
    engine::{Array, Elements, InputRole, OutputRole, Session, Signature},
    error::{Error, Result},
    ir::DimSize,
};

/// What decoding gave.
#[derive(Clone, Debug, Default)]
pub(super) struct Decoded {
    /// Time of every step.
    pub(super) times_ms: Vec<f64>,
    /// The tokens of every item, the one after the prompt first.
    pub(super) tokens: Vec<Vec<i64>>,
}

/// Whether a model with this signature can be given one token at a time.
pub(super) fn can_decode(signature: &Signature) -> bool {
    let length = |input: &crate::engine::Input| match input.dims.as_deref().map(|d| &d[1].size) {
        Some(DimSize::Known(n)) => *n == 1 || *n < 0,
        _ => true,
    };
    let ids = signature.input(InputRole::InputIds);
    signature.is_causal_lm() && !signature.cache().is_empty() && ids.is_some_and(length)
}

/// Continues after a prompt by `steps` tokens, each the likeliest one. `prompt` is what the
/// model got and `outputs` what it gave, in the order of the graph.
///
/// Only the engine is timed, not the choice of the token.
pub(super) fn decode(
    session: &mut dyn Session,
    signature: &Signature,
    prompt: &[(String, Array)],
    mut outputs: Vec<Array>,
    steps: usize,
) -> Result<Decoded> {
    let names: Vec<&str> = signature.outputs.iter().map(|o| o.name.as_str()).collect();
    let logits = signature
        .outputs
        .iter()
        .position(|o| o.role == OutputRole::Logits);
    let logits = logits.ok_or_else(|| Error::input("the model has no logits"))?;
    let mut decoded = Decoded::default();
    for _ in 0..steps {
        let next = likeliest(&outputs[logits])?;
        decoded.tokens.resize(next.len(), Vec::new());
        for (tokens, token) in decoded.tokens.iter_mut().zip(&next) {
            tokens.push(*token);
        }
        let inputs = step_inputs(signature, prompt, outputs, &next)?;
        let inputs: Vec<(&str, &Array)> = inputs.iter().map(|(n, a)| (n.as_str(), a)).collect();
        let start = Instant::now();
        outputs = session.run(&inputs, &names)?;
        decoded.times_ms.push(milliseconds(start));
    }
    Ok(decoded)
}

/// What the model gets for the tokens `next` after a step that gave `outputs`.
fn step_inputs(
    signature: &Signature,
    prompt: &[(String, Array)],
    outputs: Vec<Array>,
    next: &[i64],
) -> Result<Vec<(String, Array)>> {
    let mut outputs: Vec<Option<Array>> = outputs.into_iter().map(Some).collect();
    let cache = signature.cache();
    let past = cache
        .iter()
        .filter_map(|(_, output, axis)| outputs[*output].as_ref()?.dims().get(*axis).copied());
    let past = past.max().unwrap_or(0);
    let batch = next.len();
    let mut inputs = Vec::new();
    for (index, input) in signature.inputs.iter().enumerate() {
        let Some((_, given)) = prompt.iter().find(|(name, _)| *name == input.name) else {
            continue;
        };
        let integers = |dims, of: &dyn Fn(usize) -> i64| {
            Array::of_integers(given.dtype(), dims, of).ok_or_else(|| {
                let (name, dtype) = (&input.name, given.dtype());
                Error::unsupported(format!("input `{name}` is {dtype}, expected integers"))
            })
        };
        let array = match input.role {
            InputRole::InputIds => integers(vec![batch, 1], &|i| next[i])?,
            InputRole::AttentionMask => integers(vec![batch, past + 1], &|_| 1)?,
            InputRole::PositionIds => integers(vec![batch, 1], &|_| past as i64)?,
            InputRole::TokenTypeIds => integers(vec![batch, 1], &|_| 0)?,
            InputRole::UseCacheBranch => integers(given.dims().to_vec(), &|_| 1)?,
            InputRole::Past { .. } => {
                let present = cache.iter().find(|(past, _, _)| *past == index);
                let present = present.and_then(|(_, output, _)| outputs[*output].take());
                present
                    .ok_or_else(|| Error::input(format!("nothing continues `{}`", input.name)))?
            }
            InputRole::Other => given.clone(),
        };
        inputs.push((input.name.clone(), array));
    }
    Ok(inputs)
}

/// The index of the largest of the last scores of every item; the first among equals.
fn likeliest(logits: &Array) -> Result<Vec<i64>> {
    let &[batch, sequence, classes] = logits.dims() else {
        return Err(Error::input(format!(
            "the logits have extents {:?}, expected three",
            logits.dims()
        )));
    };
    let largest = |row: &mut dyn Iterator<Item = f32>| {
        let scores = row.enumerate();
        let best = scores.fold((0, f32::NEG_INFINITY), |best, (i, score)| {
            if score > best.1 { (i, score) } else { best }
        });
        best.0 as i64
    };
    if sequence == 0 {
        return Err(Error::input(
            "the prompt is empty, expected at least one token",
        ));
    }
    let row = |item: usize| {
        let end = (item + 1) * sequence * classes;
        let range = end - classes..end;
        Some(match logits.elements() {
            Elements::Float(v) => largest(&mut v[range].iter().copied()),
            Elements::Float16(v) => largest(&mut v[range].iter().map(|x| x.to_f32())),
            Elements::Bfloat16(v) => largest(&mut v[range].iter().map(|x| x.to_f32())),
            _ => return None,
        })
    };
    let rows: Option<Vec<i64>> = (0..batch).map(row).collect();
    rows.ok_or_else(|| {
        Error::unsupported(format!(
            "the logits are {}, expected floats",
            logits.dtype()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_token_of_the_last_place() {
        let scores = vec![
            9.0,
            0.0,
            0.0,
            1.0,
            3.0,
            3.0,
            0.0,
            9.0,
            0.0,
            f32::NAN,
            -1.0,
            -2.0,
        ];
        let logits = Array::new(vec![2, 2, 3], scores);
        assert_eq!(likeliest(&logits).unwrap(), [1, 1]);
        let half = logits.to_type(crate::ir::DataType::Float16).unwrap();
        assert_eq!(likeliest(&half).unwrap(), [1, 1]);
        assert!(likeliest(&Array::new(vec![1, 2], vec![1.0f32, 2.0])).is_err());
        assert!(likeliest(&Array::new::<f32>(vec![1, 0, 2], vec![])).is_err());
    }
}
