//! Moving a graph out of the node that holds it.

use std::collections::HashMap;

use super::{Edit, remove_unused};
use crate::ir::{
    Attribute, AttributeValue, Constant, Def, GraphId, Model, Node, NodeId, Str, Uses, ValueId,
};

/// Why a branch cannot be moved.
const SPARSE: &str = "the branch has a sparse initializer or a quantization annotation";

/// Puts the nodes of `branch`, a graph without inputs that `node` holds, in the place of
/// `node`; what `branch` gives becomes the results of `node`. What has a name that is in use
/// elsewhere gets a new one; results of `node` keep theirs.
///
/// # Errors
/// In words, why that is not possible. The model is then as it was.
pub fn inline_branch(model: &mut Model, node: NodeId, branch: GraphId) -> Result<(), &'static str> {
    let parts = model.graphs_within(branch);
    let b = &model.graphs[branch];
    if !b.sparse_initializers.is_empty() || !b.quantization_annotations.is_empty() {
        return Err(SPARSE);
    }
    if !b.inputs.is_empty() || b.outputs.len() < model.nodes[node].outputs.len() {
        return Err("the branch has inputs, or fewer outputs than its node");
    }
    rename(model, node, &parts);
    let graph = model.nodes[node].graph;
    let mut leading = settle_constants(model, graph, branch);
    let copies = connect(model, node, branch);
    let moved = std::mem::take(&mut model.graphs[branch].nodes);
    leading.extend(moved);
    leading.extend(copies);
    for &n in &leading {
        model.nodes[n].graph = graph;
    }
    let results = model.nodes[node].outputs.clone();
    let mut edit = Edit::new(model);
    for &result in results.iter().flatten() {
        // It is there earlier than before: an initializer everywhere.
        edit.reveal(result);
    }
    edit.finish();
    let described = std::mem::take(&mut model.graphs[branch].value_info);
    let kept = |v: &ValueId| model.home(*v) == graph && model.values[*v].info.is_some();
    let described: Vec<ValueId> = described.into_iter().filter(kept).collect();
    model.graphs[graph].value_info.extend(described);
    // What only the condition and the other branch read is not needed any more.
    let mut unused: Vec<ValueId> = model.nodes[node].inputs.iter().flatten().copied().collect();
    let graphs: Vec<GraphId> = model.nodes[node].subgraphs().collect();
    unused.extend(graphs.into_iter().flat_map(|g| model.captures(g)));
    let list = &mut model.graphs[graph].nodes;
    if let Some(at) = list.iter().position(|&n| n == node) {
        list.splice(at..=at, leading);
    }
    remove_unused(model, &unused);
    Ok(())
}

/// Gives new names to what would share one with something else: values of the branch itself,
/// values further inside that have the name of a result of `node`, and nodes.
fn rename(model: &mut Model, node: NodeId, parts: &[GraphId]) {
    let mut values: HashMap<Str, usize> = HashMap::new();
    let mut nodes: HashMap<Str, usize> = HashMap::new();
    for value in model.values.ids() {
        *values.entry(model.values[value].name.clone()).or_default() += 1;
    }
    for n in model.nodes.ids() {
        if let Some(name) = model.nodes[n].name.clone() {
            *nodes.entry(name).or_default() += 1;
        }
    }
    let results = model.nodes[node].outputs.iter().flatten();
    let results: Vec<Str> = results.map(|&v| model.values[v].name.clone()).collect();
    let mut work_values = Vec::new();
    let mut work_nodes = Vec::new();
    for (i, &part) in parts.iter().enumerate() {
        for value in model.values_of(part) {
            let name = &model.values[value].name;
            if results.contains(name) || (i == 0 && values[name] > 1) {
                work_values.push(value);
            }
        }
        if i == 0 {
            let named = |n: &&NodeId| {
                let name = model.nodes[**n].name.as_ref();
                name.is_some_and(|name| !name.is_empty() && nodes[name] > 1)
            };
            work_nodes.extend(model.graphs[part].nodes.iter().filter(named).copied());
        }
    }
    let mut edit = Edit::new(model);
    for value in work_values {
        let name = edit.model().values[value].name.clone();
        let name = edit.fresh_name(&name);
        edit.model_mut().values[value].name = name;
    }
    for n in work_nodes {
        let name = edit.model().nodes[n].name.clone().unwrap_or_default();
        let name = edit.fresh_name(&name);
        edit.model_mut().nodes[n].name = Some(name);
    }
    edit.finish();
}

/// Moves the initializers of `branch` to `graph`; where that may have none, they become
/// `Constant` nodes, which are returned.
fn settle_constants(model: &mut Model, graph: GraphId, branch: GraphId) -> Vec<NodeId> {
    let list = std::mem::take(&mut model.graphs[branch].initializers);
    if model.takes_initializers(graph) {
        for &value in &list {
            model.values[value].def = Def::Initializer(graph);
        }
        model.graphs[graph].initializers.extend(list);
        return Vec::new();
    }
    let as_node = |value: ValueId| {
        let Some(Constant::Dense(tensor)) = model.values[value].constant.take() else {
            unreachable!("a listed initializer is dense");
        };
        let mut node = Node::new(graph, "", "Constant");
        node.outputs = vec![Some(value)];
        node.attributes = vec![Attribute::new(
            "value",
            AttributeValue::Tensor(Box::new(tensor)),
        )];
        let node = model.nodes.push(node);
        model.values[value].def = Def::Node(node, 0);
        node
    };
    list.into_iter().map(as_node).collect()
}

/// Makes what `branch` gives the results of `node`. Returns copies that this takes.
fn connect(model: &mut Model, node: NodeId, branch: GraphId) -> Vec<NodeId> {
    let graph = model.nodes[node].graph;
    let given: Vec<ValueId> = model.graphs[branch]
        .outputs
        .iter()
        .map(|o| o.value)
        .collect();
    let results = model.nodes[node].outputs.clone();
    model.graphs[branch].outputs.clear();
    let uses = Uses::of(model);
    // What stands for each value that the branch gives, once it has another name.
    let mut renamed: HashMap<ValueId, ValueId> = HashMap::new();
    let mut copies = Vec::new();
    for (from, to) in given.into_iter().zip(results) {
        let Some(to) = to else { continue };
        if let Some(&source) = renamed.get(&from) {
            let mut copy = Node::new(graph, "", "Identity");
            copy.inputs = vec![Some(source)];
            copy.outputs = vec![Some(to)];
            let copy = model.nodes.push(copy);
            model.values[to].def = Def::Node(copy, 0);
            copies.push(copy);
            continue;
        }
        renamed.insert(from, to);
        match model.values[from].def {
            Def::Node(maker, slot) => {
                model.nodes[maker].outputs[slot as usize] = Some(to);
                model.values[to].def = Def::Node(maker, slot);
            }
            _ => {
                // An initializer, which is in its new graph already.
                let initializers = &mut model.graphs[graph].initializers;
                initializers
                    .iter_mut()
                    .filter(|v| **v == from)
                    .for_each(|v| *v = to);
                model.values[to].constant = model.values[from].constant.take();
                model.values[to].def = Def::Initializer(graph);
            }
        }
        // Not in the batch of an `Edit`: no list and no name changes.
        for u in uses.of_value(from) {
            if let crate::ir::Use::Operand(reader, slot) = *u {
                model.nodes[reader].inputs[slot as usize] = Some(to);
            }
        }
        model.values[from].def = Def::Nothing(branch);
    }
    copies
}
