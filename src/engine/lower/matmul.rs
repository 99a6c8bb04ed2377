//! Products that ONNX Runtime fuses.

use super::{
    at::{At, ints},
    known::refused,
    rules::Lowering,
};
use crate::{
    error::Result,
    ir::{DataType, Model, NodeId, ValueId},
};

/// `DynamicQuantizeMatMul (A, B, b_scale, b_zero_point, bias)`: as ONNX Runtime found it.
pub(super) fn dynamic_quantize_matmul(low: &mut Lowering<'_>, node: NodeId) -> Result<()> {
    let [a, b, b_scale] = operands(low.model(), node, [0, 1, 2])?;
    let n = &low.model().nodes[node];
    let (b_zero, bias) = (n.input(3), n.input(4));
    let mut at = low.at(node);
    let quantized = at.op_of("DynamicQuantizeLinear", vec![Some(a)], vec![], 3);
    let [a, a_scale, a_zero] = quantized[..] else {
        unreachable!("three results")
    };
    integer_product(at, (a, a_scale, Some(a_zero)), (b, b_scale, b_zero), bias);
    Ok(())
}

/// `MatMulIntegerToFloat (A, B, a_scale, b_scale, a_zero_point, b_zero_point, bias)`.
pub(super) fn matmul_integer_to_float(low: &mut Lowering<'_>, node: NodeId) -> Result<()> {
    let [a, b, a_scale, b_scale] = operands(low.model(), node, [0, 1, 2, 3])?;
    let n = &low.model().nodes[node];
    let (a_zero, b_zero, bias) = (n.input(4), n.input(5), n.input(6));
    let at = low.at(node);
    integer_product(at, (a, a_scale, a_zero), (b, b_scale, b_zero), bias);
    Ok(())
}

/// Codes, their scale and their zero point.
type Quantized = (ValueId, ValueId, Option<ValueId>);

/// `float (A * B) * (scale of A * scale of B) + bias`.
fn integer_product(mut at: At<'_, '_>, a: Quantized, b: Quantized, bias: Option<ValueId>) {
    let sum = at.op_with(
        "MatMulInteger",
        vec![Some(a.0), Some(b.0), a.2, b.2],
        vec![],
    );
    let sum = at.cast(sum, DataType::Float);
    let scale = at.op("Mul", &[a.1, b.1]);
    match bias {
        None => at.replace("Mul", &[sum, scale]),
        Some(bias) => {
            let product = at.op("Mul", &[sum, scale]);
            at.replace("Add", &[product, bias]);
        }
    }
}

/// `alpha * A * B`, either of them with its last two axes exchanged.
pub(super) fn fused_matmul(low: &mut Lowering<'_>, node: NodeId) -> Result<()> {
    let model = low.model();
    let n = &model.nodes[node];
    let [a, b] = operands(model, node, [0, 1])?;
    for name in ["transBatchA", "transBatchB"] {
        if n.int(name, 0) != Some(0) {
            return Err(refused(model, node, format!("`{name}` is set")));
        }
    }
    let alpha = n.float("alpha", 1.0).unwrap_or(1.0);
    let perm = |value, name| match (n.int(name, 0), model.rank_of(value)) {
        (Some(0), _) => Ok(None),
        (_, Some(rank)) if rank >= 2 => {
            let mut perm: Vec<i64> = (0..rank as i64).collect();
            perm.swap(rank - 2, rank - 1);
            Ok(Some(perm))
        }
        _ => Err(refused(
            model,
            node,
            format!("`{name}` of an operand whose rank is not known"),
        )),
    };
    let (perm_a, perm_b) = (perm(a, "transA")?, perm(b, "transB")?);
    let mut at = low.at(node);
    let a = transposed(&mut at, a, perm_a);
    let b = transposed(&mut at, b, perm_b);
    if alpha == 1.0 {
        at.replace("MatMul", &[a, b]);
    } else {
        let product = at.op("MatMul", &[a, b]);
        let alpha = at.float(alpha);
        at.replace("Mul", &[product, alpha]);
    }
    Ok(())
}

fn transposed(at: &mut At<'_, '_>, value: ValueId, perm: Option<Vec<i64>>) -> ValueId {
    match perm {
        Some(perm) => at.op_with("Transpose", vec![Some(value)], vec![ints("perm", perm)]),
        None => value,
    }
}

/// Operands that have to be there.
pub(super) fn operands<const N: usize>(
    model: &Model,
    node: NodeId,
    indices: [usize; N],
) -> Result<[ValueId; N]> {
    let mut all = Vec::with_capacity(N);
    for index in indices {
        let value = model.nodes[node].input(index);
        all.push(value.ok_or_else(|| refused(model, node, format!("input {index} is missing")))?);
    }
    Ok(all.try_into().expect("one for each index"))
}
