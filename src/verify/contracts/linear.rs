//! `QuantizeLinear` and `DequantizeLinear`.

use super::{Check, div_up};
use crate::ir::{DimSize, ValueId};

pub(super) fn linear(c: &mut Check<'_, '_>) -> Option<()> {
    let x = c.required(0, "x")?;
    let opset = c.report.model.opset(c.node().graph, "")?;
    if c.node().is("DequantizeLinear") {
        c.type_like(2, "zero_point", 0);
    }
    let scale = c.constant(1)?.dims;
    c.one_of_shapes(2, "zero_point", &zero_point_shapes(&scale));

    let block = match opset {
        ..21 => 0,
        _ => c.int(
            "block_size",
            Some(0),
            |b| b >= 0,
            "0 or the length of a block",
        )?,
    };
    // One number for the whole tensor; the axis then means nothing.
    if block == 0 && scale.iter().all(|&d| d == 1) && scale.len() < 2 {
        return Some(());
    }
    if opset < 13 {
        c.fault(
            format!("scale has shape {scale:?}"),
            "one number before opset 13",
        );
        return None;
    }
    let dims = extents(c, x)?;
    let rank = dims.len() as i64;
    let inside = |a: i64| (-rank..rank).contains(&a);
    let axis = c.int("axis", Some(1), inside, "an axis of `x`")?;
    let axis = if axis < 0 { axis + rank } else { axis } as usize;
    match block {
        0 => along_axis(c, &scale, dims[axis]),
        block => in_blocks(c, &scale, &dims, axis, block),
    }
    Some(())
}

/// The shapes that a zero point may have beside a scale of shape `scale`: one number is written
/// with and without an axis.
fn zero_point_shapes(scale: &[i64]) -> Vec<&[i64]> {
    match scale {
        [] | [1] => vec![&[], &[1]],
        _ => vec![scale],
    }
}

/// The extents of `x` as far as they are numbers; `None` when not even the rank is known.
fn extents(c: &Check<'_, '_>, x: ValueId) -> Option<Vec<Option<i64>>> {
    if let Some(constant) = c.constant(0) {
        return Some(constant.dims.into_iter().map(Some).collect());
    }
    let ty = c.report.model.type_of(x)?;
    let shape = ty.as_tensor()?.shape.as_ref()?;
    let known = |size: &DimSize| match size {
        DimSize::Known(d) if *d >= 0 => Some(*d),
        _ => None,
    };
    Some(shape.iter().map(|d| known(&d.size)).collect())
}

fn along_axis(c: &mut Check<'_, '_>, scale: &[i64], extent: Option<i64>) {
    match (scale, extent) {
        ([_], None) => {}
        ([length], Some(extent)) if *length == extent => {}
        (_, Some(extent)) => c.fault(
            format!("scale has shape {scale:?}"),
            format!("[{extent}], or one number"),
        ),
        (_, None) => c.fault(
            format!("scale has shape {scale:?}"),
            "one axis, or `block_size`",
        ),
    }
}

fn in_blocks(c: &mut Check<'_, '_>, scale: &[i64], dims: &[Option<i64>], axis: usize, block: i64) {
    let expected: Vec<Option<i64>> = dims
        .iter()
        .enumerate()
        .map(|(i, d)| match i == axis {
            true => d.map(|d| div_up(d, block)),
            false => *d,
        })
        .collect();
    let fits = |(found, expected): (&i64, &Option<i64>)| expected.is_none_or(|e| e == *found);
    if scale.len() != dims.len() || !scale.iter().zip(&expected).all(fits) {
        let expected = expected.iter().map(|d| match d {
            Some(d) => d.to_string(),
            None => "?".to_owned(),
        });
        let expected = expected.collect::<Vec<_>>().join(", ");
        c.fault(
            format!("scale has shape {scale:?}"),
            format!("[{expected}]"),
        );
    }
}
