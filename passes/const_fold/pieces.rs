//! Large weights: results that are computed in pieces while the model is written.

use super::values::Values;
use crate::{
    error::Result,
    ir::{AttributeValue, Data, Model, Node, Tensor},
    weights,
};

/// The result of `n` on large operands, computed in pieces when it is read.
pub(super) fn large(
    model: &Model,
    values: &Values,
    n: &Node,
    opset: i64,
    operands: &[Option<Tensor>],
) -> Result<Option<Tensor>> {
    if n.is("Transpose") {
        let source = operands.first().and_then(Option::as_ref);
        return Ok(source.and_then(|source| {
            let perm = permutation(n, source.dims.len())?;
            weights::transposed(source, &perm)
        }));
    }
    match before_transpose(model, values, n, opset, operands)? {
        Some(made) => Ok(Some(made)),
        None => weights::streamed(n, opset, operands),
    }
}

/// What `n` makes of one transposed weight, transposed last: pieces of a transposed weight
/// that are no whole rows are slow to read.
fn before_transpose(
    model: &Model,
    values: &Values,
    n: &Node,
    opset: i64,
    operands: &[Option<Tensor>],
) -> Result<Option<Tensor>> {
    let large = |t: &Option<Tensor>| t.as_ref().is_some_and(|t| t.element_count() != Some(1));
    let Some(at) = operands.iter().position(large) else {
        return Ok(None);
    };
    let transpose = n.inputs[at]
        .and_then(|v| model.producer(v))
        .map(|m| &model.nodes[m])
        .filter(|m| m.is("Transpose") && !operands[at + 1..].iter().any(large));
    let Some(transpose) = transpose.filter(|_| operands[at].as_ref().is_some_and(is_recipe)) else {
        return Ok(None);
    };
    let source = transpose.input(0).and_then(|v| values.tensor(v));
    let Some((source, perm)) =
        source.and_then(|s| Some((s, permutation(transpose, s.dims.len())?)))
    else {
        return Ok(None);
    };
    let mut before = operands.to_vec();
    before[at] = Some(source.clone());
    let made = weights::streamed(n, opset, &before)?;
    Ok(made.and_then(|made| weights::transposed(&made, &perm)))
}

/// The order of axes that `n`, a `Transpose` of a tensor of `rank`, makes.
fn permutation(n: &Node, rank: usize) -> Option<Vec<usize>> {
    let perm = match n.attribute("perm") {
        None => (0..rank).rev().collect(),
        Some(AttributeValue::Ints(list)) => {
            let place = |&p: &i64| usize::try_from(p).ok();
            list.iter().map(place).collect::<Option<Vec<usize>>>()?
        }
        Some(_) => return None,
    };
    let whole = perm.len() == rank && (0..rank).all(|a| perm.contains(&a));
    whole.then_some(perm)
}

/// Whether the bytes of `tensor` are computed when the model is written.
pub(super) fn is_recipe(tensor: &Tensor) -> bool {
    matches!(tensor.data(), Some(Data::Computed { .. }))
}
