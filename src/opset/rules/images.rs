//! Operators on images: pooling, resizing, sampling.

use super::Step;
use crate::{
    ir::{AttributeValue, Tensor, ValueId},
    opset::{
        At,
        draft::{Draft, Operand},
    },
    weights::{small_floats, source_tensor},
};

/// More axes than any image has.
const AXES: u64 = 64;

/// How a window that hangs over the end is averaged was not said before.
pub(super) fn average_pool_19(draft: &mut Draft, _: &At<'_>) -> Step {
    Ok(match draft.attribute("ceil_mode") {
        None | Some(AttributeValue::Int(0)) => Ok(()),
        Some(_) => Err("windows that hang over the end are averaged otherwise".into()),
    })
}

/// Which side gets the odd row of padding changed places.
pub(super) fn conv_transpose_11(draft: &mut Draft, _: &At<'_>) -> Step {
    Ok(draft
        .text("auto_pad", "NOTSET")
        .and_then(|pad| match &*pad {
            "SAME_UPPER" | "SAME_LOWER" => Err(format!("`{pad}` pads the other side more")),
            _ => Ok(()),
        }))
}

/// The modes got the names of Resize.
pub(super) fn grid_sample_20(draft: &mut Draft, _: &At<'_>) -> Step {
    Ok(draft.text("mode", "bilinear").map(|mode| match &*mode {
        "bilinear" => draft.set_text("mode", "linear"),
        "bicubic" => draft.set_text("mode", "cubic"),
        _ => {}
    }))
}

/// The scales became the second operand.
pub(super) fn upsample_9(draft: &mut Draft, _: &At<'_>) -> Step {
    match draft.take("scales") {
        Some(AttributeValue::Floats(scales)) => {
            let dims = vec![scales.len() as i64];
            draft.give(1, "scales", Tensor::from_f32(dims, &scales));
            Ok(Ok(()))
        }
        _ => Ok(Err("attribute `scales` is not given".into())),
    }
}

pub(super) fn upsample_10(draft: &mut Draft, _: &At<'_>) -> Step {
    draft.rename("Resize");
    Ok(Ok(()))
}

/// What Resize does got attributes, and other defaults: it was without an offset of half a pixel.
/// The nearest pixel was that below when an axis grows and, in ONNX Runtime, that above when one
/// shrinks.
pub(super) fn resize_11(draft: &mut Draft, at: &At<'_>) -> Step {
    if !draft.has(0) || !draft.has(1) {
        return Ok(Err("expected two operands".into()));
    }
    let mode = match draft.text("mode", "nearest") {
        Ok(mode) => mode,
        Err(why) => return Ok(Err(why)),
    };
    if mode == "nearest" {
        let scales = match draft.operands.get(1) {
            Some(Operand::Constant(tensor, _)) => tensor_floats(tensor)?,
            Some(Operand::Value(v)) => floats(at, *v)?,
            _ => None,
        };
        let Some(scales) = scales else {
            return Ok(Err(
                "which pixel is nearest depends on scales that are not constant".into(),
            ));
        };
        let nearest = match scales.iter().all(|&s| s >= 1.0) {
            true => "floor",
            false if scales.iter().all(|&s| s <= 1.0) => "ceil",
            false => return Ok(Err("one axis grows and another shrinks".into())),
        };
        draft.set_text("nearest_mode", nearest);
    }
    draft.set_text("coordinate_transformation_mode", "asymmetric");
    draft.operands.insert(1, Operand::Absent);
    draft.give(1, "roi", Tensor::from_f32(vec![0], &[]));
    Ok(Ok(()))
}

/// What is not wanted is left out, and need not be empty any more. One mode is gone.
pub(super) fn resize_13(draft: &mut Draft, at: &At<'_>) -> Step {
    let mode = draft.text("coordinate_transformation_mode", "half_pixel");
    match mode.as_deref() {
        Ok("tf_half_pixel_for_nn") => return Ok(Err("there is no `tf_half_pixel_for_nn`".into())),
        Ok(_) => {}
        Err(why) => return Ok(Err(why.clone())),
    }
    let mut emptied = false;
    for operand in draft.operands.iter_mut().take(3).skip(1) {
        let tensor = match operand {
            Operand::Constant(tensor, _) => Some(&*tensor),
            Operand::Value(v) => source_tensor(at.model, *v),
            Operand::Absent => None,
        };
        if tensor.is_some_and(|t| t.element_count() == Some(0)) {
            *operand = Operand::Absent;
            emptied = true;
        }
    }
    draft.changed |= emptied;
    Ok(Ok(()))
}

/// The regions were without an offset of half a pixel.
pub(super) fn roi_align_16(draft: &mut Draft, _: &At<'_>) -> Step {
    draft.set_text("coordinate_transformation_mode", "output_half_pixel");
    Ok(Ok(()))
}

fn floats(at: &At<'_>, value: ValueId) -> crate::error::Result<Option<Vec<f64>>> {
    Ok(small_floats(at.model, value, AXES)?.map(|(elements, _)| elements))
}

fn tensor_floats(tensor: &Tensor) -> crate::error::Result<Option<Vec<f64>>> {
    let floats = crate::weights::float_elements(tensor)?;
    Ok(floats.map(|f| f.into_iter().map(f64::from).collect()))
}
