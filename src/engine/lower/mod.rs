//! What rten lacks, expressed by what it has: for evaluation only, never written.
//!
//! A rule for an operator looks at each node and leaves it or replaces it ([`rules`]). What is
//! then left of operators ([`registry`]) and of constants ([`constants`]) that rten does not
//! have is an error that names them, before anything is loaded.
//!
//! | what | becomes |
//! |---|---|
//! | local functions | their bodies |
//! | `MatMulNBits` unless 4 bits without zero points, bias, `g_idx` or partial blocks | Gemm with a float32 table |
//! | `GatherBlockQuantized` | Gather from a float32 table |
//! | `DequantizeLinear` of a constant | a float32 constant |
//! | `QuantizeLinear` | a division, where rten multiplies by a reciprocal |
//! | `QLinear*`, `QGemm` | integer or float operators and a requantization |
//! | `DynamicQuantizeMatMul`, `MatMulIntegerToFloat`, `FusedMatMul` | what they were fused from |
//! | `ConvInteger` with padding | Pad with the zero point |
//! | `Conv`, `ConvInteger` without attributes; `SAME_LOWER` | attributes written out |
//! | `Cast` to bool; `Softmax` before opset 13 | the meaning they have in ONNX |
//!
//! Two tables that would be equal are one, so a tied embedding is dequantized once.

mod at;
mod cast;
mod constants;
mod conv;
mod dequantize;
mod known;
mod matmul;
mod misc;
mod nbits;
mod qdq;
mod qlinear;
mod registry;
mod rules;
mod softmax;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use crate::{
    error::Result,
    inline::inline,
    ir::{Model, edit::remove_unused},
};

/// `model` with the operators and types that rten lacks replaced; `model` itself when it has
/// none.
///
/// # Errors
/// A constant cannot be read, or an operator or a type is left that rten does not have.
pub(super) fn lower(model: &Model) -> Result<Cow<'_, Model>> {
    let mut lowered = model.clone();
    let mut changed = inline_functions(&mut lowered)?;
    let nodes = lowered.reachable_nodes();
    let mut low = rules::Lowering::new(&mut lowered);
    for node in nodes {
        low.apply(node)?;
    }
    let (rewritten, operands) = low.finish();
    changed |= rewritten;
    if changed {
        remove_unused(&mut lowered, &operands);
    }
    registry::check(&lowered)?;
    changed |= constants::convert(&mut lowered)?;
    Ok(match changed {
        true => Cow::Owned(lowered),
        false => Cow::Borrowed(model),
    })
}

/// rten knows no local functions; says whether there were any.
fn inline_functions(model: &mut Model) -> Result<bool> {
    if model.functions.is_empty() {
        return Ok(false);
    }
    let done = inline(model, |_| true, || true)?;
    if let Some((node, why)) = done.left.first() {
        return Err(known::refused(model, *node, why));
    }
    model.functions.clear();
    Ok(true)
}
