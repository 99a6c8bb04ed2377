//! `SequenceAt` with a constant position of a sequence that a node has just made of tensors.

use super::values::Values;
use crate::{
    ir::{
        Model, NodeId, Use, Uses, ValueId,
        edit::{Edit, remove_unused},
    },
    pass::PassContext,
};

/// Lets the readers of such elements read the tensors; how many nodes go.
pub(super) fn take(model: &mut Model, values: &Values, cx: &mut PassContext) -> usize {
    let uses = Uses::of(model);
    let mut found: Vec<(NodeId, ValueId, ValueId)> = Vec::new();
    for node in model.reachable_nodes() {
        if let Some((made, element)) = element(model, values, node) {
            let is_output = |u: &Use| matches!(u, Use::Output(..));
            if !uses.of_value(made).is_empty() && !uses.of_value(made).iter().any(is_output) {
                found.push((node, made, element));
            }
        }
    }
    cx.limit(&mut found);
    let mut edit = Edit::new(model);
    for &(_, made, element) in &found {
        edit.redirect(&uses, made, element);
    }
    edit.finish();
    let unused: Vec<ValueId> = found.iter().map(|f| f.1).collect();
    remove_unused(model, &unused);
    cx.count("elements", found.len() as u64);
    found.len()
}

/// What `node`, a `SequenceAt`, makes, and the tensor that this is.
fn element(model: &Model, values: &Values, node: NodeId) -> Option<(ValueId, ValueId)> {
    let n = &model.nodes[node];
    if !n.is("SequenceAt") {
        return None;
    }
    let (list, at, made) = (n.input(0)?, n.input(1)?, n.output(0)?);
    let maker = &model.nodes[model.producer(list)?];
    if !maker.is("SequenceConstruct") {
        return None;
    }
    let at = values.int(at).ok()??;
    let count = maker.inputs.len() as i64;
    let at = usize::try_from(if at < 0 { at + count } else { at }).ok()?;
    let element = maker.input(at)?;
    // A name on the way must not hide the tensor from who reads the element.
    let home = model.home(element);
    let same_graph = home == n.graph;
    same_graph.then_some((made, element))
}
