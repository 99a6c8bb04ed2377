//! Operators with one small difference.

use super::{known::refused, rules::Lowering};
use crate::{
    error::Result,
    ir::{AttributeValue, NodeId},
};

/// Outside of training it does nothing.
pub(super) fn dropout(low: &mut Lowering<'_>, node: NodeId) -> Result<()> {
    let model = low.model();
    let n = &model.nodes[node];
    let Some(x) = n.input(0) else {
        return Err(refused(model, node, "its operand is missing"));
    };
    // A training mode that is computed, or a mask that is read, is left to rten.
    if n.input(2).is_some() || n.output(1).is_some() {
        return Ok(());
    }
    low.change(|edit| edit.model_mut().nodes[node].outputs.truncate(1));
    low.at(node).replace("Identity", &[x]);
    Ok(())
}

/// rten takes `cubic` for `linear`.
pub(super) fn resize(low: &mut Lowering<'_>, node: NodeId) -> Result<()> {
    let model = low.model();
    match model.nodes[node].attribute("mode") {
        Some(AttributeValue::String(mode)) if mode == "cubic" => {
            Err(refused(model, node, "rten has no cubic interpolation"))
        }
        _ => Ok(()),
    }
}
