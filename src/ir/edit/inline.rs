//! Moving graphs out of the nodes that hold them.

use std::collections::HashMap;

use super::{Edit, remove_unused};
use crate::ir::{
    Attribute, AttributeValue, Constant, Def, GraphId, Model, Node, NodeId, SideTable, Str, Use,
    Uses, ValueId,
};

/// For each node of `branches`, outer ones first, puts the nodes of the graph that is named, one
/// without inputs that the node holds, in the place of the node; what the graph gives becomes
/// the results of the node. What has a name that is in use elsewhere gets a new one; results of
/// the node keep theirs. Left are nodes inside another branch than the one of theirs that is
/// moved, and those whose graph has inputs, sparse initializers, quantization annotations or
/// too few outputs. Returns how many were replaced. Takes time in proportion to the model.
pub fn inline_branches(model: &mut Model, branches: &[(NodeId, GraphId)]) -> usize {
    let mut inliner = Inliner::new(model);
    let mut count = 0;
    for &(node, branch) in branches {
        if !inliner.is_gone(node) && inliner.fits(node, branch) {
            inliner.inline(node, branch);
            count += 1;
        }
    }
    let Inliner { edit, unused, .. } = inliner;
    edit.finish();
    // What only the conditions and the other branches read is not needed any more.
    remove_unused(model, &unused);
    count
}

struct Inliner<'m> {
    edit: Edit<'m>,
    /// As before: what a branch gives is read inside that branch only, which nothing else here
    /// changes.
    uses: Uses,
    /// How many values, and nodes, have a name.
    values: HashMap<Str, usize>,
    nodes: HashMap<Str, usize>,
    /// Graphs that go with their nodes.
    dropped: SideTable<GraphId, bool>,
    unused: Vec<ValueId>,
}

impl<'m> Inliner<'m> {
    fn new(model: &'m mut Model) -> Inliner<'m> {
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
        Inliner {
            uses: Uses::of(model),
            edit: Edit::new(model),
            values,
            nodes,
            dropped: SideTable::new(false),
            unused: Vec::new(),
        }
    }

    /// Whether `node` is inside a branch that is not kept.
    fn is_gone(&self, node: NodeId) -> bool {
        let model = self.edit.model();
        let mut graph = model.nodes[node].graph;
        loop {
            match model.graphs[graph].owner {
                _ if self.dropped[graph] => return true,
                None => return false,
                Some(owner) => graph = model.nodes[owner].graph,
            }
        }
    }

    fn fits(&self, node: NodeId, branch: GraphId) -> bool {
        let model = self.edit.model();
        let b = &model.graphs[branch];
        b.inputs.is_empty()
            && b.sparse_initializers.is_empty()
            && b.quantization_annotations.is_empty()
            && b.outputs.len() >= model.nodes[node].outputs.len()
            && b.outputs.iter().all(|o| model.home(o.value) == branch)
    }

    fn inline(&mut self, node: NodeId, branch: GraphId) {
        self.rename(node, branch);
        let model = self.edit.model_mut();
        let graph = model.nodes[node].graph;
        let mut leading = settle_constants(model, graph, branch);
        let copies = connect(model, &self.uses, node, branch);
        leading.append(&mut model.graphs[branch].nodes);
        leading.extend(copies);
        for &n in &leading {
            model.nodes[n].graph = graph;
        }
        let results = model.nodes[node].outputs.clone();
        for &result in results.iter().flatten() {
            // It is there earlier than before: an initializer everywhere.
            self.edit.reveal(result);
        }
        let model = self.edit.model_mut();
        let described = std::mem::take(&mut model.graphs[branch].value_info);
        let kept = |v: &ValueId| model.home(*v) == graph && model.values[*v].info.is_some();
        let described: Vec<ValueId> = described.into_iter().filter(kept).collect();
        model.graphs[graph].value_info.extend(described);
        self.unused
            .extend(model.nodes[node].inputs.iter().flatten());
        let graphs: Vec<GraphId> = model.nodes[node].subgraphs().collect();
        for graph in graphs {
            self.unused.extend(model.captures(graph));
            self.dropped[graph] = true;
        }
        self.edit.inserted.entry(node).or_default().extend(leading);
        self.edit.erased[node] = true;
        self.edit.touched.insert(graph);
    }

    /// Gives new names to what would share one with something else: values of the branch
    /// itself, values further inside that have the name of a result of `node`, and nodes.
    fn rename(&mut self, node: NodeId, branch: GraphId) {
        let model = self.edit.model();
        let results = model.nodes[node].outputs.iter().flatten();
        let results: Vec<Str> = results.map(|&v| model.values[v].name.clone()).collect();
        let mut values = Vec::new();
        for part in model.graphs_within(branch) {
            let shared = |v: &ValueId| {
                let name = &model.values[*v].name;
                results.contains(name) || (part == branch && self.values[name] > 1)
            };
            values.extend(model.values_of(part).into_iter().filter(shared));
        }
        let shared = |n: &&NodeId| {
            let name = model.nodes[**n].name.as_ref();
            name.is_some_and(|name| !name.is_empty() && self.nodes[name] > 1)
        };
        let nodes = model.graphs[branch].nodes.iter().filter(shared);
        let nodes: Vec<NodeId> = nodes.copied().collect();
        for value in values {
            let old = self.edit.model().values[value].name.clone();
            let name = self.edit.fresh_name(&old);
            moved(&mut self.values, &old, &name);
            self.edit.model_mut().values[value].name = name;
        }
        for n in nodes {
            let old = self.edit.model().nodes[n].name.clone().unwrap_or_default();
            let name = self.edit.fresh_name(&old);
            moved(&mut self.nodes, &old, &name);
            self.edit.model_mut().nodes[n].name = Some(name);
        }
    }
}

/// One that was called `old` is now called `new`.
fn moved(counts: &mut HashMap<Str, usize>, old: &Str, new: &Str) {
    if let Some(count) = counts.get_mut(old) {
        *count -= 1;
    }
    *counts.entry(new.clone()).or_default() += 1;
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
fn connect(model: &mut Model, uses: &Uses, node: NodeId, branch: GraphId) -> Vec<NodeId> {
    let graph = model.nodes[node].graph;
    let given: Vec<ValueId> = model.graphs[branch]
        .outputs
        .iter()
        .map(|o| o.value)
        .collect();
    let results = model.nodes[node].outputs.clone();
    model.graphs[branch].outputs.clear();
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
            if let Use::Operand(reader, slot) = *u {
                model.nodes[reader].inputs[slot as usize] = Some(to);
            }
        }
        model.values[from].def = Def::Nothing(branch);
    }
    copies
}
