//! Attributes that became operands, most of them axes; and Softmax, which lost its matrix.

use super::Step;
use crate::{
    infer::SymInt,
    ir::{AttributeValue, Tensor},
    opset::{
        At,
        draft::{Around, Draft},
    },
};

/// Moves a list of integers to operand `slot`.
fn moved(draft: &mut Draft, name: &'static str, slot: usize) -> Result<(), String> {
    if let Some(list) = draft.take_ints(name)? {
        draft.give_ints(slot, name, &list);
    }
    Ok(())
}

/// `axes` of Squeeze, Unsqueeze and the reductions became the second operand. Without them
/// all axes are meant, before and after; an empty list meant the same, except to Unsqueeze, which
/// cannot be without it.
pub(super) fn to_operand(draft: &mut Draft, _: &At<'_>) -> Step {
    let empty = matches!(draft.attribute("axes"), Some(AttributeValue::Ints(l)) if l.is_empty());
    if empty && &*draft.op_type != "Unsqueeze" {
        draft.take("axes");
    }
    Ok(moved(draft, "axes", 1))
}

pub(super) fn split_13(draft: &mut Draft, _: &At<'_>) -> Step {
    Ok(moved(draft, "split", 1))
}

/// Equal parts are asked for by their number.
pub(super) fn split_18(draft: &mut Draft, _: &At<'_>) -> Step {
    if !draft.has(1) {
        let parts = draft.outputs.len() as i64;
        draft.set("num_outputs", AttributeValue::Int(parts));
    }
    Ok(Ok(()))
}

pub(super) fn slice_10(draft: &mut Draft, _: &At<'_>) -> Step {
    let names = [("starts", 1), ("ends", 2), ("axes", 3)];
    Ok(names
        .iter()
        .try_for_each(|&(name, slot)| moved(draft, name, slot)))
}

pub(super) fn top_k_10(draft: &mut Draft, _: &At<'_>) -> Step {
    Ok(draft
        .take_int("k", 1)
        .map(|k| draft.give_ints(1, "k", &[k])))
}

/// Without an axis, 1 was meant.
pub(super) fn dft_20(draft: &mut Draft, _: &At<'_>) -> Step {
    let axis = draft.take_int("axis", 1);
    Ok(axis.map(|axis| draft.give(2, "axis", Tensor::from_i64(vec![], &[axis]))))
}

/// Softmax, LogSoftmax and Hardmax took their operand for a matrix, with the axes from `axis` on
/// as its columns; now they work along `axis` alone.
pub(super) fn softmax_13(draft: &mut Draft, at: &At<'_>) -> Step {
    let axis = match draft.take_int("axis", 1) {
        Ok(axis) => axis,
        Err(why) => return Ok(Err(why)),
    };
    let shape = draft.value(0).and_then(|v| at.facts.shape(v));
    if let Some(shape) = shape {
        let rank = shape.len() as i64;
        let place = if axis < 0 { axis + rank } else { axis };
        let after = usize::try_from(place + 1)
            .ok()
            .and_then(|from| shape.get(from..));
        if after.is_some_and(|rest| rest.iter().all(is_one)) {
            draft.set("axis", AttributeValue::Int(axis));
            return Ok(Ok(()));
        }
    }
    draft.set("axis", AttributeValue::Int(1));
    draft.around = Around::Flatten(axis);
    Ok(Ok(()))
}

fn is_one(extent: &SymInt) -> bool {
    extent.is(1)
}
