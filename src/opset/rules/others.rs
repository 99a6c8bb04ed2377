//! Everything else.

use super::Step;
use crate::{
    ir::{AttributeValue, DataType, Tensor, ValueId},
    opset::{
        At,
        draft::{Around, Draft},
    },
    weights::{float_tensor, int_elements},
};

/// What changed is not only in the form, and no rule says how.
pub(super) fn no_rule(_: &mut Draft, _: &At<'_>) -> Step {
    Ok(Err("there is no rule for it".into()))
}

/// Mean and variance are always those of a channel.
pub(super) fn batch_normalization_9(draft: &mut Draft, _: &At<'_>) -> Step {
    Ok(match draft.take_int("spatial", 1) {
        Ok(1) => Ok(()),
        Ok(_) => Err("statistics for each element are gone".into()),
        Err(why) => Err(why),
    })
}

/// The results of training are others.
pub(super) fn batch_normalization_14(draft: &mut Draft, _: &At<'_>) -> Step {
    Ok(match draft.outputs.iter().skip(1).any(|&wanted| wanted) {
        true => Err("results of training are others".into()),
        false => Ok(()),
    })
}

/// The bounds became operands. What is not given was the least or largest float, which
/// infinite numbers were cut to; in float16 that is infinite.
pub(super) fn clip_11(draft: &mut Draft, at: &At<'_>) -> Step {
    let dtype = draft.value(0).and_then(|v| at.facts.dtype(v));
    let Some(dtype) = dtype.filter(|d| d.is_float()) else {
        return Ok(Err(
            "the type of the operand is not known; the bounds have it".into(),
        ));
    };
    for (name, slot, default) in [("min", 1, f32::MIN), ("max", 2, f32::MAX)] {
        let bound = match draft.take_float(name) {
            Ok(bound) => bound.unwrap_or(default),
            Err(why) => return Ok(Err(why)),
        };
        if dtype != DataType::Float16 || bound != default {
            draft.give(slot, name, float_tensor(dtype, vec![], &[f64::from(bound)]));
        }
    }
    Ok(Ok(()))
}

/// The mask became truth values.
pub(super) fn dropout_10(draft: &mut Draft, _: &At<'_>) -> Step {
    Ok(match draft.outputs.get(1) {
        Some(true) => Err("the mask has another type".into()),
        _ => Ok(()),
    })
}

/// The ratio became an operand. Nothing is dropped unless an operand more says so. A mask for
/// that was all false in ONNX Runtime, and is all true.
pub(super) fn dropout_12(draft: &mut Draft, _: &At<'_>) -> Step {
    if draft.outputs.get(1) == Some(&true) {
        return Ok(Err("the mask is another where nothing is dropped".into()));
    }
    Ok(draft.take_float("ratio").map(|ratio| {
        if let Some(ratio) = ratio {
            draft.give(1, "ratio", Tensor::from_f32(vec![], &[ratio]));
        }
    }))
}

/// Scale and bias have a number for each channel, and had one for each group.
pub(super) fn group_normalization_21(draft: &mut Draft, at: &At<'_>) -> Step {
    let groups = match draft.attribute("num_groups") {
        Some(AttributeValue::Int(groups)) if *groups > 0 => *groups,
        _ => return Ok(Err("attribute `num_groups` is not given".into())),
    };
    let extent = |v: ValueId| at.facts.shape(v)?.get(1)?.known();
    let channels = draft.value(0).and_then(extent);
    Ok(match channels {
        Some(channels) if channels % groups == 0 => {
            draft.around = Around::Spread {
                groups,
                channels: channels / groups,
            };
            draft.changed = true;
            Ok(())
        }
        Some(channels) => Err(format!("{channels} channels are not {groups} groups")),
        None => Err("the number of channels is not known".into()),
    })
}

/// Indices below 0 were in no class; now they count from the last.
pub(super) fn one_hot_11(draft: &mut Draft, at: &At<'_>) -> Step {
    let Some(indices) = draft.value(0) else {
        return Ok(Ok(()));
    };
    let constant = int_elements(at.model, indices)?;
    let inferred = at.facts.elements(indices);
    let known = constant.is_some_and(|list| list.iter().all(|&i| i >= 0))
        || inferred.is_some_and(|l| l.iter().all(|i| i.lower().is_some_and(|i| i >= 0)));
    let unsigned = at.facts.dtype(indices).is_some_and(|d| {
        use DataType::{Uint8, Uint16, Uint32, Uint64};
        matches!(d, Uint8 | Uint16 | Uint32 | Uint64)
    });
    Ok(match known || unsigned {
        true => Ok(()),
        false => Err("an index below 0 means another class, and these may be".into()),
    })
}

/// Pads and the value to pad with became operands.
pub(super) fn pad_11(draft: &mut Draft, at: &At<'_>) -> Step {
    let pads = match draft.take_ints("pads") {
        Ok(pads) => pads.unwrap_or_default(),
        Err(why) => return Ok(Err(why)),
    };
    let value = match draft.take_float("value") {
        Ok(value) => value.unwrap_or(0.0),
        Err(why) => return Ok(Err(why)),
    };
    draft.give_ints(1, "pads", &pads);
    if value.to_bits() == 0 {
        return Ok(Ok(()));
    }
    let dtype = draft.value(0).and_then(|v| at.facts.dtype(v));
    Ok(match dtype.filter(|d| d.is_float()) {
        Some(dtype) => {
            draft.give(2, "value", float_tensor(dtype, vec![], &[f64::from(value)]));
            Ok(())
        }
        None => Err("the type of the operand is not known; the value has it".into()),
    })
}

pub(super) fn scatter_11(draft: &mut Draft, _: &At<'_>) -> Step {
    draft.rename("ScatterElements");
    Ok(Ok(()))
}
