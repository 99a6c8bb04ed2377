//! `QuantizeLinear`, `DequantizeLinear`.

use super::{
    at::{At, cast_to, int},
    dequantize::{Codes, Dequantize, Grid, Strides, Zero},
    known::{integer, known, operand, refused, required},
    nbits::blocked,
    rules::Lowering,
};
use crate::{
    error::Result,
    ir::{DataType, Model, NodeId, Tensor, ValueId},
};

/// A constant is dequantized now: rten has neither blocks nor types below 8 bits. Anything else
/// is rten's own, if it has the form.
pub(super) fn dequantize_linear(low: &mut Lowering<'_>, node: NodeId) -> Result<()> {
    let model = low.model();
    let n = &model.nodes[node];
    let data = n.input(0).map(|x| known(model, x)).transpose()?.flatten();
    let Some(data) = data else {
        return keep(low, node);
    };
    let scales = required(model, node, 1, "x_scale")?;
    let zeros = operand(model, node, 2, "x_zero_point")?;
    let Some(codes) = Codes::of(&data, None) else {
        return Err(refused(model, node, format!("`x` is {}", data.dtype)));
    };
    let block = integer(model, node, "block_size", Some(0))?;
    let block = u64::try_from(block).unwrap_or(0);
    let grid = match (scales.count(), block) {
        (1, 0) => Grid {
            scales: Strides::default(),
            ..blocked(&[data.count()], 0, 1)
        },
        (_, 0) => {
            let axis = axis(model, node, data.dims.len())?;
            let scales = Strides {
                block: 1,
                ..Strides::default()
            };
            Grid {
                scales,
                ..blocked(&data.dims, axis, 1)
            }
        }
        _ => blocked(&data.dims, axis(model, node, data.dims.len())?, block),
    };
    let zero = match zeros {
        None => Zero::Is(0),
        Some(z) => match Codes::of(&z, None) {
            Some(codes) => Zero::Codes(codes),
            None => {
                let why = format!("`x_zero_point` is {}", z.dtype);
                return Err(refused(model, node, why));
            }
        },
    };
    let recipe = Dequantize {
        codes,
        scales: (scales.data, scales.dtype),
        zero,
        grid: Grid {
            zeros: grid.scales,
            ..grid
        },
        group: None,
    };
    let table = low.table(node, recipe, &data.dims)?;
    low.at(node).replace("Identity", &[table]);
    Ok(())
}

/// The axis that scales lie along.
fn axis(model: &Model, node: NodeId, rank: usize) -> Result<usize> {
    let axis = integer(model, node, "axis", Some(1))?;
    let axis = if axis < 0 { axis + rank as i64 } else { axis };
    let why = || {
        refused(
            model,
            node,
            format!("attribute `axis` is {axis}, rank {rank}"),
        )
    };
    usize::try_from(axis)
        .ok()
        .filter(|&a| a < rank)
        .ok_or_else(why)
}

/// A `DequantizeLinear` of computed codes.
fn keep(low: &mut Lowering<'_>, node: NodeId) -> Result<()> {
    let model = low.model();
    if integer(model, node, "block_size", Some(0))? != 0 {
        return Err(refused(model, node, "rten has no blocks of computed codes"));
    }
    let n = &model.nodes[node];
    if !n.domain().is_empty() {
        let inputs = n.inputs.clone();
        let axis = integer(model, node, "axis", Some(1))?;
        low.at(node)
            .replace_with("DequantizeLinear", inputs, vec![int("axis", axis)]);
    } else if n.attribute("output_dtype").is_some() {
        // Every float is float32 here.
        low.change(|edit| {
            let attributes = &mut edit.model_mut().nodes[node].attributes;
            attributes.retain(|a| &*a.name != "output_dtype");
        });
    }
    Ok(())
}

/// Divides by the scale, where rten multiplies by its reciprocal and so may be off by one.
pub(super) fn quantize_linear(low: &mut Lowering<'_>, node: NodeId) -> Result<()> {
    let model = low.model();
    let n = &model.nodes[node];
    if integer(model, node, "block_size", Some(0))? != 0 {
        return Err(refused(model, node, "rten has no blocks"));
    }
    let zero = n.input(2);
    let named = integer(model, node, "output_dtype", Some(0))?;
    let named = DataType::from_code(named as i32).filter(|t| *t != DataType::Undefined);
    let to = match zero {
        Some(zero) => match known(model, zero)? {
            Some(zero) => Some(zero.dtype),
            None => model.dtype_of(zero),
        },
        None => named.or(Some(DataType::Uint8)),
    };
    let (Some(x), Some(scale)) = (n.input(0), n.input(1)) else {
        return Err(refused(model, node, "an operand is missing"));
    };
    if to.is_none() && n.domain().is_empty() {
        // The type shows only when it runs: rten's own, by the reciprocal.
        return Ok(());
    }
    let Some(to) = to.filter(|t| limits(*t).is_some()) else {
        let why = "the type of `y` is not known, or not an integer of 8 or 16 bits";
        return Err(refused(model, node, why));
    };
    let scalar = |v: ValueId| -> Result<bool> {
        Ok(match known(model, v)? {
            Some(k) => k.count() == 1,
            None => model.rank_of(v) == Some(0),
        })
    };
    if !scalar(scale)? {
        return per_axis(low, node, to);
    }
    let mut at = low.at(node);
    let codes = divided(&mut at, x, scale);
    let (value, cast) = requantized(&mut at, codes, zero, to);
    at.replace_with("Cast", vec![Some(value)], vec![cast]);
    Ok(())
}

/// With a scale for each index along an axis: rten's own, which wants a zero point.
fn per_axis(low: &mut Lowering<'_>, node: NodeId, to: DataType) -> Result<()> {
    let model = low.model();
    let n = &model.nodes[node];
    let axis = integer(model, node, "axis", Some(1))?;
    let (mut inputs, plain) = (n.inputs.clone(), n.domain().is_empty());
    if !matches!(to, DataType::Uint8 | DataType::Int8) {
        let why = format!("rten quantizes along an axis to 8 bits only, not to {to}");
        return Err(refused(model, node, why));
    }
    if plain && n.input(2).is_some() && n.attribute("axis").is_some() {
        return Ok(());
    }
    inputs.truncate(2 + usize::from(n.input(2).is_some()));
    let mut attributes = vec![int("axis", axis)];
    if inputs.len() == 2 {
        attributes.push(int("output_dtype", i64::from(to.code())));
    }
    low.at(node)
        .replace_with("QuantizeLinear", inputs, attributes);
    Ok(())
}

/// `x / scale`, rounded half to even.
pub(super) fn divided(at: &mut At<'_, '_>, x: ValueId, scale: ValueId) -> ValueId {
    let steps = at.op("Div", &[x, scale]);
    at.op("Round", &[steps])
}

/// The least and the greatest integer of a quantized type.
fn limits(to: DataType) -> Option<(f32, f32)> {
    Some(match to {
        DataType::Uint8 => (0.0, 255.0),
        DataType::Int8 => (-128.0, 127.0),
        DataType::Uint16 => (0.0, 65535.0),
        DataType::Int16 => (-32768.0, 32767.0),
        _ => return None,
    })
}

/// Integers as floats, moved by the zero point and kept inside the type: the value to cast,
/// and the attribute of that cast. 16 bits are int32 in rten.
pub(super) fn requantized(
    at: &mut At<'_, '_>,
    steps: ValueId,
    zero: Option<ValueId>,
    to: DataType,
) -> (ValueId, crate::ir::Attribute) {
    let mut value = steps;
    if let Some(zero) = zero {
        let zero = at.cast(zero, DataType::Float);
        value = at.op("Add", &[value, zero]);
    }
    let (low, high) = limits(to).expect("a quantized type");
    let (low, high) = (at.float(low), at.float(high));
    let value = at.op("Clip", &[value, low, high]);
    let to = match to {
        DataType::Uint8 | DataType::Int8 => to,
        _ => DataType::Int32,
    };
    (value, cast_to(to))
}

/// `(codes - zero) * scale`; both may lie along the axis `axis`.
pub(super) fn dequantized(
    at: &mut At<'_, '_>,
    codes: ValueId,
    scale: ValueId,
    zero: Option<ValueId>,
) -> ValueId {
    at.op_with(
        "DequantizeLinear",
        vec![Some(codes), Some(scale), zero],
        vec![],
    )
}

/// A float scale of one element as a scalar, so that it takes part in no broadcasting.
pub(super) fn scalar(at: &mut At<'_, '_>, value: ValueId) -> ValueId {
    let shape = at.constant(Tensor::from_i64(vec![0], &[]));
    at.op("Reshape", &[value, shape])
}
