//! Local functions that compute with floats: their bodies take the place of the calls. A body
//! has no types of its own, and what stays float differs from call to call.

use crate::{
    infer::{self, Kind},
    inline::inline,
    ir::{CallOrder, Callees, DataType, GraphId, Model, NodeId, SideTable, ValueId},
    pass::PassContext,
};

/// Inlines the functions that the main graph calls and that compute with `types`, except those
/// of which a call is `kept`. How many changes were made.
pub(super) fn inline_calls(
    model: &mut Model,
    types: &[DataType],
    kept: impl Fn(&Model, NodeId) -> bool,
    cx: &mut PassContext,
) -> usize {
    if model.functions.is_empty() {
        return 0;
    }
    let wanted = wanted(model, types, kept);
    let bodies = model.functions.iter().zip(wanted);
    let bodies: Vec<GraphId> = bodies.filter(|(_, w)| *w).map(|(f, _)| f.body).collect();
    if bodies.is_empty() {
        return 0;
    }
    // Of those that cannot be, the calls stay, with a remark each.
    let done = inline(model, |f| bodies.contains(&f.body), || cx.permit());
    done.map_or(0, |done| (done.calls + done.functions) as usize)
}

/// Which functions are to be inlined.
fn wanted(model: &Model, types: &[DataType], kept: impl Fn(&Model, NodeId) -> bool) -> Vec<bool> {
    let kinds = infer::kinds(model);
    let callees = Callees::of(&model.functions);
    let calls = CallOrder::of(model).calls;
    let mut wanted = called_from_main(model, &callees, &calls);
    let mut floats: Vec<bool> = model
        .functions
        .iter()
        .map(|f| has_floats(model, f.body, &kinds, types))
        .collect();
    for node in model.reachable_nodes() {
        let n = &model.nodes[node];
        let Some(f) = callees.called(n) else { continue };
        let mut values = n.inputs.iter().chain(&n.outputs).flatten();
        floats[f] |= values.any(|&v| is_one(kinds[v], types));
        wanted[f] &= !kept(model, node);
    }
    wanted.iter_mut().zip(floats).for_each(|(w, f)| *w &= f);
    wanted
}

/// Which functions the main graph calls, at whatever distance.
fn called_from_main(model: &Model, callees: &Callees<'_>, calls: &[Vec<usize>]) -> Vec<bool> {
    let mut called = vec![false; calls.len()];
    let graphs = model.graphs_within(model.main);
    let nodes = graphs.iter().flat_map(|&g| &model.graphs[g].nodes);
    let mut work: Vec<usize> = nodes
        .filter_map(|&n| callees.called(&model.nodes[n]))
        .collect();
    while let Some(f) = work.pop() {
        if !std::mem::replace(&mut called[f], true) {
            work.extend(&calls[f]);
        }
    }
    called
}

fn has_floats(
    model: &Model,
    body: GraphId,
    kinds: &SideTable<ValueId, Option<Kind>>,
    types: &[DataType],
) -> bool {
    let graphs = model.graphs_within(body).into_iter();
    let mut values = graphs.flat_map(|g| model.values_of(g));
    values.any(|v| is_one(kinds[v], types))
}

fn is_one(kind: Option<Kind>, types: &[DataType]) -> bool {
    matches!(kind, Some(Kind::Tensor(dtype)) if types.contains(&dtype))
}
