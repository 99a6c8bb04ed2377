//! Operators on codes: `QLinearConv`, `QLinearMatMul`, and those of `com.microsoft`.
//!
//! Convolutions and products are computed in integers and scaled once, as ONNX Runtime does,
//! so the codes are the same. The others are dequantized, computed and quantized again.

use super::{
    at::{At, int, ints},
    conv::Integers,
    known::{known, refused},
    matmul::operands,
    qdq::{dequantized, divided, requantized, scalar},
    rules::Lowering,
};
use crate::{
    error::Result,
    ir::{Attribute, AttributeValue, DataType, Model, NodeId, ValueId},
};

/// The type of the codes `y`: that of their zero point, uint8 without one.
fn code_type(model: &Model, node: NodeId, zero: Option<ValueId>) -> Result<DataType> {
    let Some(zero) = zero else {
        return Ok(DataType::Uint8);
    };
    let found = match known(model, zero)? {
        Some(zero) => Some(zero.dtype),
        None => model.dtype_of(zero),
    };
    found
        .filter(|t| matches!(t, DataType::Uint8 | DataType::Int8))
        .ok_or_else(|| {
            refused(
                model,
                node,
                "the zero point of `y` is not known to have 8 bits",
            )
        })
}

/// `QLinearConv (x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias)`.
pub(super) fn conv(low: &mut Lowering<'_>, node: NodeId) -> Result<()> {
    let model = low.model();
    let [x_scale, w_scale, y_scale] = operands(model, node, [1, 4, 6])?;
    let n = &model.nodes[node];
    let (y_zero, bias) = (n.input(7), n.input(8));
    let integers = Integers::of(model, node, [0, 3, 2, 5])?;
    let to = code_type(model, node, y_zero)?;
    let axes = integers.axes();
    let mut at = low.at(node);
    let mut sum = integers.conv(&mut at);
    let channels = channels_first(&mut at, axes);
    if let Some(bias) = bias {
        let bias = at.op("Reshape", &[bias, channels]);
        sum = at.op("Add", &[sum, bias]);
    }
    let scale = output_scale(&mut at, x_scale, w_scale, y_scale);
    let scale = at.op("Reshape", &[scale, channels]);
    finish(at, sum, scale, y_zero, to);
    Ok(())
}

/// The shape that lays one number a channel along the second axis.
fn channels_first(at: &mut At<'_, '_>, axes: usize) -> ValueId {
    let mut shape = vec![-1];
    shape.extend(vec![1; axes]);
    at.ints(&shape)
}

/// `QLinearMatMul (a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero)`.
pub(super) fn matmul(low: &mut Lowering<'_>, node: NodeId) -> Result<()> {
    let model = low.model();
    let [a, a_scale, b, b_scale, y_scale] = operands(model, node, [0, 1, 3, 4, 6])?;
    let n = &model.nodes[node];
    let (a_zero, b_zero, y_zero) = (n.input(2), n.input(5), n.input(7));
    let to = code_type(model, node, y_zero)?;
    let mut at = low.at(node);
    let sum = at.op_with(
        "MatMulInteger",
        vec![Some(a), Some(b), a_zero, b_zero],
        vec![],
    );
    let scale = output_scale(&mut at, a_scale, b_scale, y_scale);
    finish(at, sum, scale, y_zero, to);
    Ok(())
}

/// `QGemm (a, a_scale, a_zero, b, b_scale, b_zero, c, y_scale, y_zero)`; `c` is int32 in steps
/// of both scales, and without `y_scale` the result is float.
pub(super) fn gemm(low: &mut Lowering<'_>, node: NodeId) -> Result<()> {
    let model = low.model();
    let [a, a_scale, b, b_scale] = operands(model, node, [0, 1, 3, 4])?;
    let n = &model.nodes[node];
    let (a_zero, b_zero, c) = (n.input(2), n.input(5), n.input(6));
    let (y_scale, y_zero) = (n.input(7), n.input(8));
    if n.float("alpha", 1.0) != Some(1.0) {
        return Err(refused(model, node, "`alpha` is not 1"));
    }
    let (flip_a, flip_b) = (n.int("transA", 0) != Some(0), n.int("transB", 0) != Some(0));
    let to = code_type(model, node, y_zero)?;
    let mut at = low.at(node);
    let a = if flip_a { at.op("Transpose", &[a]) } else { a };
    let b = if flip_b { at.op("Transpose", &[b]) } else { b };
    let mut sum = at.op_with(
        "MatMulInteger",
        vec![Some(a), Some(b), a_zero, b_zero],
        vec![],
    );
    if let Some(c) = c {
        sum = at.op("Add", &[sum, c]);
    }
    let Some(y_scale) = y_scale else {
        let scale = at.op("Mul", &[a_scale, b_scale]);
        let sum = at.cast(sum, DataType::Float);
        at.replace("Mul", &[sum, scale]);
        return Ok(());
    };
    let scale = output_scale(&mut at, a_scale, b_scale, y_scale);
    finish(at, sum, scale, y_zero, to);
    Ok(())
}

/// What a step of the sum of products is in steps of `y`.
fn output_scale(at: &mut At<'_, '_>, a: ValueId, b: ValueId, y: ValueId) -> ValueId {
    let product = at.op("Mul", &[a, b]);
    at.op("Div", &[product, y])
}

/// Replaces the node by the codes of `sum * scale`.
fn finish(mut at: At<'_, '_>, sum: ValueId, scale: ValueId, zero: Option<ValueId>, to: DataType) {
    let sum = at.cast(sum, DataType::Float);
    let steps = at.op("Mul", &[sum, scale]);
    let steps = at.op("Round", &[steps]);
    let (value, cast) = requantized(&mut at, steps, zero, to);
    at.replace_with("Cast", vec![Some(value)], vec![cast]);
}

/// Replaces the node by the codes of the float `y`.
fn quantize(mut at: At<'_, '_>, y: ValueId, scale: ValueId, zero: Option<ValueId>, to: DataType) {
    let scale = scalar(&mut at, scale);
    let zero = zero.map(|z| scalar(&mut at, z));
    let steps = divided(&mut at, y, scale);
    let (value, cast) = requantized(&mut at, steps, zero, to);
    at.replace_with("Cast", vec![Some(value)], vec![cast]);
}

/// `QLinearAdd`, `QLinearMul`: `(a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero)`.
pub(super) fn binary(low: &mut Lowering<'_>, node: NodeId) -> Result<()> {
    let model = low.model();
    let [a, a_scale, b, b_scale, y_scale] = operands(model, node, [0, 1, 3, 4, 6])?;
    let n = &model.nodes[node];
    let (a_zero, b_zero, y_zero) = (n.input(2), n.input(5), n.input(7));
    let op = match &*n.op_type {
        "QLinearAdd" => "Add",
        _ => "Mul",
    };
    let to = code_type(model, node, y_zero)?;
    let mut at = low.at(node);
    let a = dequantized(&mut at, a, a_scale, a_zero);
    let b = dequantized(&mut at, b, b_scale, b_zero);
    let y = at.op(op, &[a, b]);
    quantize(at, y, y_scale, y_zero, to);
    Ok(())
}

/// `(x, x_scale, x_zero, y_scale, y_zero)`.
pub(super) fn unary(low: &mut Lowering<'_>, node: NodeId) -> Result<()> {
    let model = low.model();
    let [x, x_scale, y_scale] = operands(model, node, [0, 1, 3])?;
    let n = &model.nodes[node];
    let (x_zero, y_zero) = (n.input(2), n.input(4));
    if n.int("channels_last", 0) != Some(0) {
        return Err(refused(model, node, "`channels_last` is set"));
    }
    let op = n.op_type.strip_prefix("QLinear").expect("as the rules say");
    let op = op.to_owned();
    let mut attributes: Vec<Attribute> = n.attributes.clone();
    attributes.retain(|a| !["channels_last", "opset"].contains(&&*a.name));
    if op == "Softmax" && n.int("opset", 13).unwrap_or(13) < 13 {
        let last = model.rank_of(x).map(|r| r as i64 - 1);
        let axis = n.int("axis", 1);
        if axis != Some(-1) && axis != last {
            return Err(refused(model, node, "an old Softmax over several axes"));
        }
    }
    if let (Some(AttributeValue::Ints(kernel)), None) =
        (n.attribute("kernel_shape"), n.attribute("strides"))
    {
        attributes.push(ints("strides", vec![1; kernel.len()]));
    }
    let to = code_type(model, node, y_zero)?;
    let mut at = low.at(node);
    let x = dequantized(&mut at, x, x_scale, x_zero);
    let y = at.op_with(&op, vec![Some(x)], attributes);
    quantize(at, y, y_scale, y_zero, to);
    Ok(())
}

/// `QLinearConcat (y_scale, y_zero, then x, x_scale, x_zero of each part)`.
pub(super) fn concat(low: &mut Lowering<'_>, node: NodeId) -> Result<()> {
    let model = low.model();
    let [y_scale, y_zero] = operands(model, node, [0, 1])?;
    let to = code_type(model, node, Some(y_zero))?;
    let n = &model.nodes[node];
    let rest: Vec<Option<ValueId>> = n.inputs[2..].to_vec();
    let axis = n.int("axis", 0).unwrap_or(0);
    let mut at = low.at(node);
    let mut floats = Vec::new();
    for part in rest.chunks_exact(3) {
        if let (Some(x), Some(scale)) = (part[0], part[1]) {
            floats.push(Some(dequantized(&mut at, x, scale, part[2])));
        }
    }
    let y = at.op_with("Concat", floats, vec![int("axis", axis)]);
    quantize(at, y, y_scale, Some(y_zero), to);
    Ok(())
}
