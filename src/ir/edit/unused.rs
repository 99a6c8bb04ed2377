//! What goes when nothing uses it any more.

use crate::ir::{Def, GraphId, Model, NodeId, SideTable, Uses, ValueId};

/// Erases the nodes of `graph`, which goes with its holder. Returns the values of outer graphs
/// that those of them used that were not erased before, once for each use.
fn erase_body(model: &Model, graph: GraphId, erased: &mut SideTable<NodeId, bool>) -> Vec<ValueId> {
    let mut uses = Vec::new();
    let mut graphs = vec![graph];
    while let Some(inner) = graphs.pop() {
        for &node in &model.graphs[inner].nodes {
            if erased.insert(node) {
                uses.extend(model.nodes[node].inputs.iter().flatten());
                graphs.extend(model.nodes[node].subgraphs());
            }
        }
        uses.extend(model.graphs[inner].outputs.iter().map(|o| o.value));
    }
    uses.retain(|&v| !model.is_within(model.home(v), graph));
    uses
}

/// Removes each of `candidates` that nothing uses any more, and whatever only that one
/// used in turn: initializers, and the nodes that make them when these have no other
/// result in use. Graph inputs stay, except (up to IR version 3) those that are listed
/// only because they are initializers. Returns the values removed.
pub fn remove_unused(model: &mut Model, candidates: &[ValueId]) -> Vec<ValueId> {
    let uses = Uses::of(model);
    let mut count = SideTable::<ValueId, usize>::new(0);
    for value in model.values.ids() {
        count[value] = uses.of_value(value).len();
    }
    let mut work: Vec<ValueId> = candidates.iter().rev().copied().collect();
    let mut gone = SideTable::<ValueId, bool>::new(false);
    let mut erased = SideTable::<NodeId, bool>::new(false);
    let mut removed = Vec::new();
    while let Some(value) = work.pop() {
        if count[value] > 0 || gone[value] {
            continue;
        }
        match model.values[value].def {
            Def::Initializer(_) => {}
            Def::Input(_)
                if model.values[value].constant.is_some() && !model.is_overridable(value) => {}
            Def::Node(node, _) => {
                let outputs = &model.nodes[node].outputs;
                if erased[node] || outputs.iter().flatten().any(|&o| count[o] > 0) {
                    continue;
                }
                erased[node] = true;
                // Captures of its subgraphs become unused with it.
                let graphs: Vec<GraphId> = model.nodes[node].subgraphs().collect();
                let inputs = model.nodes[node].inputs.iter().flatten();
                let mut operands: Vec<ValueId> = inputs.copied().collect();
                for graph in graphs {
                    operands.extend(erase_body(model, graph, &mut erased));
                }
                for operand in operands {
                    count[operand] -= 1;
                    work.push(operand);
                }
                for &output in model.nodes[node].outputs.iter().flatten() {
                    gone[output] = true;
                    removed.push(output);
                }
                continue;
            }
            _ => continue,
        }
        gone[value] = true;
        removed.push(value);
    }
    unlist(model, &erased, &gone);
    removed
}

/// Takes nodes and values out of the lists of all graphs.
pub fn unlist(
    model: &mut Model,
    nodes: &SideTable<NodeId, bool>,
    values: &SideTable<ValueId, bool>,
) {
    for graph in model.reachable_graphs() {
        let g = &mut model.graphs[graph];
        g.nodes.retain(|&n| !nodes[n]);
        for list in [
            &mut g.inputs,
            &mut g.initializers,
            &mut g.sparse_initializers,
            &mut g.value_info,
        ] {
            list.retain(|&v| !values[v]);
        }
        g.repeated_value_info.retain(|o| !values[o.value]);
    }
}
