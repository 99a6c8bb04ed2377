//! `If` with a constant condition.

use super::values::Values;
use crate::{
    error::Result,
    ir::{AttributeValue, GraphId, Model, NodeId, edit::inline_branches},
    pass::PassContext,
};

/// Puts the branch that is taken in the place of every `If` whose condition is known, outer
/// ones first; how many.
///
/// # Errors
/// A condition cannot be read.
pub(super) fn inline(model: &mut Model, values: &Values, cx: &mut PassContext) -> Result<usize> {
    let mut taken = Vec::new();
    for node in model.reachable_nodes() {
        if let Some(branch) = taken_branch(model, values, node)? {
            taken.push((node, branch));
        }
    }
    cx.limit(&mut taken);
    let count = inline_branches(model, &taken);
    cx.count("inlined", count as u64);
    Ok(count)
}

fn taken_branch(model: &Model, values: &Values, node: NodeId) -> Result<Option<GraphId>> {
    let n = &model.nodes[node];
    let Some(condition) = n.input(0).filter(|_| n.is("If")) else {
        return Ok(None);
    };
    let name = match values.int(condition).map_err(|e| e.at(model.label(node)))? {
        None => return Ok(None),
        Some(0) => "else_branch",
        Some(_) => "then_branch",
    };
    Ok(match n.attribute(name) {
        Some(AttributeValue::Graph(graph)) => Some(*graph),
        _ => None,
    })
}
