//! `Cast` to types that rten keeps as others.

use super::{at::cast_to, known::refused, rules::Lowering};
use crate::{
    error::Result,
    ir::{DataType, NodeId},
};

/// rten has truth values as integers and casts to them by value, so that 0.5 would be false and
/// 5 would be equal to nothing; it has no type for bfloat16 nor for integers of 16 bits.
pub(super) fn cast(low: &mut Lowering<'_>, node: NodeId) -> Result<()> {
    let model = low.model();
    let n = &model.nodes[node];
    let to = n.int("to", 0).and_then(|t| DataType::from_code(t as i32));
    let Some(x) = n.input(0) else {
        return Err(refused(model, node, "its operand is missing"));
    };
    let other = match to {
        Some(DataType::Bool) if model.dtype_of(x) != Some(DataType::Bool) => {
            let mut at = low.at(node);
            let x = at.cast(x, DataType::Float);
            let zero = at.float(0.0);
            let is_zero = at.op("Equal", &[x, zero]);
            at.replace("Not", &[is_zero]);
            return Ok(());
        }
        Some(DataType::Bfloat16) => DataType::Float,
        Some(DataType::Int16 | DataType::Uint16 | DataType::Uint32 | DataType::Uint64) => {
            DataType::Int32
        }
        _ => return Ok(()),
    };
    low.at(node)
        .replace_with("Cast", vec![Some(x)], vec![cast_to(other)]);
    Ok(())
}
