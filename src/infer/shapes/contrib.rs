//! Operators of ONNX Runtime's own domain, `com.microsoft`.

use super::{
    linear::{matmul, matrix_product},
    op::{Fact, Op, Outcome, Rule, Stop, conflict, show},
    windows::conv,
};
use crate::{infer::SymInt, ir::AttributeValue};

pub(super) fn rule(name: &str) -> Option<Rule> {
    Some(match name {
        "BiasGelu" | "BiasSoftmax" | "BiasDropout" | "FastGelu" | "Gelu" | "QuickGelu"
        | "GroupNorm" | "Inverse" | "QuantizeLinear" | "DequantizeLinear" | "QLinearLeakyRelu"
        | "QLinearSigmoid" | "QLinearSoftmax" | "RotaryEmbedding" | "Trilu" | "BitmaskDropout" => {
            |op| Ok(vec![Fact::of_shape(op.shape(0)?.clone())])
        }
        "SkipLayerNormalization" | "SkipSimplifiedLayerNormalization" => |op| {
            let same = Fact::of_shape(op.shape(0)?.clone());
            // The second and third result are statistics that runtimes do not all make alike.
            Ok(vec![same.clone(), Fact::default(), Fact::default(), same])
        },
        "EmbedLayerNormalization" => |op| {
            let hidden = op.shape(2)?.last().ok_or(Stop::Unknown)?.clone();
            let mut out = op.shape(0)?.clone();
            out.push(hidden);
            Ok(vec![Fact::of_shape(out)])
        },
        "MatMulNBits" | "MatMulBnb4" => matmul_nbits,
        "GatherBlockQuantized" => gather_block_quantized,
        "DynamicQuantizeMatMul" | "MatMulInteger16" | "MatMulIntegerToFloat" => {
            |op| matmul(op, 0, 1)
        }
        "QLinearAdd" | "QLinearMul" => |op| {
            Ok(vec![Fact::of_shape(
                op.broadcast(&[op.shape(0)?, op.shape(3)?])?,
            )])
        },
        "FusedMatMul" => fused_matmul,
        "FusedConv" => |op| conv(op, 1),
        "MultiHeadAttention" => |op| {
            let (query, value) = (op.shape(0)?, op.shape(2)?);
            match (query.as_slice(), value.as_slice()) {
                ([batch, length, _], [_, _, width]) => Ok(vec![Fact::of_shape(vec![
                    batch.clone(),
                    length.clone(),
                    width.clone(),
                ])]),
                _ => Err(Stop::Unknown),
            }
        },
        "GroupQueryAttention" => |op| {
            // With key and value packed into it, the query is wider than the result.
            if !op.has(1) {
                return Err(Stop::Unknown);
            }
            Ok(vec![Fact::of_shape(op.shape(0)?.clone())])
        },
        _ => return None,
    })
}

/// `[..., K]` by a weight of N rows: `[..., N]`.
fn matmul_nbits(op: &Op<'_>) -> Outcome {
    let Some(AttributeValue::Int(n)) = op.node.attribute("N") else {
        return Err(Stop::Unknown);
    };
    let mut out = op.shape(0)?.clone();
    match out.last_mut() {
        Some(last) => *last = SymInt::from(*n),
        None => return conflict("a scalar in a matrix product"),
    }
    Ok(vec![Fact::of_shape(out)])
}

/// As `Gather`; codes that share a byte lie along the last axis.
fn gather_block_quantized(op: &Op<'_>) -> Outcome {
    let (data, indices) = (op.shape(0)?, op.shape(1)?);
    let axis = op.axis(op.int("gather_axis", 0)?, data.len())?;
    let mut data = data.clone();
    let stored = op
        .node
        .input(0)
        .and_then(|v| op.model.tensor(v))
        .ok_or(Stop::Unknown)?;
    let packed = match stored.dtype {
        crate::ir::DataType::Uint8 => 8 / op.int("bits", 4)?.clamp(1, 8),
        _ => 1,
    };
    let last = data.last_mut().ok_or(Stop::Unknown)?;
    *last = last.mul(&SymInt::from(packed)).ok_or(Stop::Unknown)?;
    let out = [&data[..axis], indices, &data[axis + 1..]].concat();
    Ok(vec![Fact::of_shape(out)])
}

fn fused_matmul(op: &Op<'_>) -> Outcome {
    for name in ["transBatchA", "transBatchB"] {
        if op.int(name, 0)? != 0 {
            return Err(Stop::Unknown);
        }
    }
    let side = |slot: usize, name: &str| -> Result<Vec<SymInt>, Stop> {
        let mut shape = op.shape(slot)?.clone();
        let n = shape.len();
        if op.int(name, 0)? != 0 {
            if n < 2 {
                return conflict(format!("{} is transposed", show(&shape)));
            }
            shape.swap(n - 1, n - 2);
        }
        Ok(shape)
    };
    let (a, b) = (side(0, "transA")?, side(1, "transB")?);
    Ok(vec![Fact::of_shape(matrix_product(op, &a, &b)?)])
}
