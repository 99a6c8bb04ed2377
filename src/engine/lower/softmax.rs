//! `Softmax` and `LogSoftmax` before opset 13.

use super::{at::int, known::refused, rules::Lowering};
use crate::{error::Result, ir::NodeId};

/// Before opset 13 they work on all axes from `axis` (1) on together; rten always takes the one
/// axis, the last by default.
pub(super) fn softmax(low: &mut Lowering<'_>, node: NodeId) -> Result<()> {
    let model = low.model();
    let n = &model.nodes[node];
    if model.opset(n.graph, "").is_none_or(|v| v >= 13) {
        return Ok(());
    }
    let Some(x) = n.input(0) else {
        return Err(refused(model, node, "its operand is missing"));
    };
    let axis = n.int("axis", 1).unwrap_or(1);
    let last = model.rank_of(x).map(|rank| rank as i64 - 1);
    if axis == -1 || Some(axis) == last {
        if n.attribute("axis").is_none() {
            low.change(|edit| edit.model_mut().nodes[node].attributes = vec![int("axis", -1)]);
        }
        return Ok(());
    }
    let op_type = n.op_type.clone();
    let mut at = low.at(node);
    let rows = at.op_with("Flatten", vec![Some(x)], vec![int("axis", axis)]);
    let rows = at.op_with(&op_type, vec![Some(rows)], vec![int("axis", -1)]);
    let shape = at.op("Shape", &[x]);
    at.replace("Reshape", &[rows, shape]);
    Ok(())
}
