//! `If` with a constant condition.

use super::values::Values;
use crate::{
    error::Result,
    ir::{AttributeValue, GraphId, Model, NodeId, edit::inline_branch},
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
    let mut count = 0;
    for (node, branch) in taken {
        // One inside a branch that was dropped is gone.
        let listed = model.graphs[model.nodes[node].graph].nodes.contains(&node);
        if listed && is_reachable(model, node) && inline_branch(model, node, branch).is_ok() {
            count += 1;
        }
    }
    cx.count("inlined", count as u64);
    Ok(count)
}

/// Whether `node` is in a graph that is part of the model still.
fn is_reachable(model: &Model, node: NodeId) -> bool {
    let mut graph = model.nodes[node].graph;
    while let Some(owner) = model.graphs[graph].owner {
        graph = model.nodes[owner].graph;
        if !model.graphs[graph].nodes.contains(&owner) {
            return false;
        }
    }
    true
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
