//! Small constants, read at once: shapes, axes, biases.

use half::{bf16, f16};

use super::Weight;
use crate::{
    error::Result,
    ir::{AttributeValue, Data, DataType, Elements, Model, Tensor, ValueId},
    quant,
};

/// The dense constant that `value` is: an initializer that callers cannot replace, or the
/// result of a `Constant` node.
pub fn source_tensor(model: &Model, value: ValueId) -> Option<&Tensor> {
    if let Some(tensor) = model.tensor(value) {
        return (!model.is_overridable(value)).then_some(tensor);
    }
    let node = &model.nodes[model.producer(value)?];
    match (node.is("Constant"), node.attribute("value")) {
        (true, Some(AttributeValue::Tensor(t))) => Some(t),
        _ => None,
    }
}

/// More axes than any operator works with.
pub(super) const AXES: usize = 64;

/// The elements of an int64 or int32 constant that tells of axes; `None` when `value` is not
/// one.
///
/// # Errors
/// They cannot be read.
pub fn int_elements(model: &Model, value: ValueId) -> Result<Option<Vec<i64>>> {
    if let Some(tensor) = source_tensor(model, value) {
        return match tensor.element_count() {
            Some(count) if count <= AXES as u64 && tensor.dtype != DataType::Bool => {
                small_elements(tensor)
            }
            _ => Ok(None),
        };
    }
    // Constant nodes have short forms for lists.
    let node = model.producer(value).map(|n| &model.nodes[n]);
    let Some(node) = node.filter(|n| n.is("Constant")) else {
        return Ok(None);
    };
    Ok(
        match (node.attribute("value_ints"), node.attribute("value_int")) {
            (Some(AttributeValue::Ints(i)), _) if i.len() <= AXES => Some(i.clone()),
            (_, Some(AttributeValue::Int(i))) => Some(vec![*i]),
            _ => None,
        },
    )
}

/// The elements of a constant of int64, int32 or truth values (0 and 1); `None` for other types.
///
/// # Errors
/// They cannot be read.
pub fn small_elements(tensor: &Tensor) -> Result<Option<Vec<i64>>> {
    let Elements::Data(data) = &tensor.elements else {
        return Ok(None);
    };
    if !matches!(
        tensor.dtype,
        DataType::Int64 | DataType::Int32 | DataType::Bool
    ) {
        return Ok(None);
    }
    let bytes = data.read_all()?;
    Ok(Some(match tensor.dtype {
        DataType::Int64 => {
            let (elements, _) = bytes.as_chunks();
            elements.iter().map(|b| i64::from_le_bytes(*b)).collect()
        }
        DataType::Int32 => {
            let (elements, _) = bytes.as_chunks();
            elements
                .iter()
                .map(|b| i32::from_le_bytes(*b).into())
                .collect()
        }
        _ => bytes.iter().map(|&b| i64::from(b != 0)).collect(),
    }))
}

/// The elements of a floating-point tensor, as f32; `None` for other types.
///
/// # Errors
/// They cannot be read.
pub fn float_elements(tensor: &Tensor) -> Result<Option<Vec<f32>>> {
    let (Elements::Data(data), true) = (&tensor.elements, tensor.dtype.is_float()) else {
        return Ok(None);
    };
    float_data(data, tensor.dtype).map(Some)
}

/// The elements of `data`, which are of the floating-point type `dtype`, as f32.
///
/// # Errors
/// They cannot be read.
///
/// # Panics
/// When `dtype` is no floating-point type that weights come in.
pub(crate) fn float_data(data: &Data, dtype: DataType) -> Result<Vec<f32>> {
    let bytes = data.read_all()?;
    let mut out = vec![0.0; (bytes.len() as u64 * 8 / dtype.bits()) as usize];
    to_f32(dtype, &bytes, &mut out);
    Ok(out)
}

/// Elements of the floating-point type `dtype` as f32, as many as `out` holds; a double is
/// rounded.
///
/// # Panics
/// When `dtype` is no floating-point type that weights come in.
pub(super) fn to_f32(dtype: DataType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        DataType::Float => quant::f32_from_le(bytes, out),
        DataType::Float16 => quant::f32_from_f16(bytes, out),
        DataType::Bfloat16 => quant::f32_from_bf16(bytes, out),
        DataType::Double => quant::f32_from_f64(bytes, out),
        other => panic!("{other} is no floating-point type of weights"),
    }
}

/// Rounds to the narrow type `to`, float16 or bfloat16, and back.
pub(super) fn round_to(to: DataType, elements: &mut [f32]) {
    match to {
        DataType::Float16 => elements
            .iter_mut()
            .for_each(|x| *x = f16::from_f32(*x).to_f32()),
        _ => elements
            .iter_mut()
            .for_each(|x| *x = bf16::from_f32(*x).to_f32()),
    }
}

/// Whether `weight` holds NaN or infinity, as float. Reads all of it, in pieces.
///
/// # Errors
/// It cannot be read.
pub fn has_nonfinite(weight: &Weight) -> Result<bool> {
    let element = (weight.stored.bits() / 8) as usize;
    let mut bytes = vec![0; (1 << 20) / element * element];
    let mut floats = vec![0.0; bytes.len() / element];
    let len = weight.data.len();
    for from in (0..len).step_by(bytes.len()) {
        let count = (len - from).min(bytes.len() as u64) as usize;
        let (bytes, floats) = (&mut bytes[..count], &mut floats[..count / element]);
        weight.data.read_at(from, bytes)?;
        to_f32(weight.stored, bytes, floats);
        if quant::first_nonfinite(floats).is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}
