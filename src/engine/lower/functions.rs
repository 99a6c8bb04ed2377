//! Local functions: rten knows none, so their bodies take the place of the nodes that call
//! them.

use std::collections::HashMap;

use super::known::refused;
use crate::{
    error::Result,
    ir::{
        Attribute, AttributeValue, Def, Function, Graph, GraphId, GraphOutput, Model, Node, NodeId,
        Value, ValueId, edit::Edit,
    },
};

/// Calls within calls, at most: a function that calls itself is no ONNX.
const DEPTH: usize = 32;

/// Inlines every call of a local function; says whether there was one.
///
/// # Errors
/// A function calls itself.
pub(super) fn inline(model: &mut Model) -> Result<bool> {
    let functions = std::mem::take(&mut model.functions);
    if functions.is_empty() {
        return Ok(false);
    }
    let mut edit = Edit::new(model);
    for depth in 0.. {
        let mut found = None;
        for graph in edit.model().graphs_within(edit.model().main) {
            let old = edit.model().graphs[graph].nodes.clone();
            let mut new = Vec::with_capacity(old.len());
            for node in old {
                match called(edit.model(), &functions, node) {
                    Some(function) => {
                        found = Some(node);
                        new.extend(Call::of(edit.model(), node, function).inline(&mut edit));
                    }
                    None => new.push(node),
                }
            }
            edit.model_mut().graphs[graph].nodes = new;
        }
        match found {
            None => break,
            Some(node) if depth == DEPTH => {
                return Err(refused(edit.model(), node, "it calls itself"));
            }
            Some(_) => {}
        }
    }
    edit.finish();
    Ok(true)
}

fn called<'f>(model: &Model, functions: &'f [Function], node: NodeId) -> Option<&'f Function> {
    let n = &model.nodes[node];
    let overload = |o: &Option<crate::ir::Str>| o.clone().unwrap_or_default();
    functions.iter().find(|f| {
        f.name == n.op_type
            && f.domain() == n.domain()
            && overload(&f.overload) == overload(&n.overload)
    })
}

/// One call of a function.
struct Call<'f> {
    function: &'f Function,
    node: Node,
    /// What new names begin with.
    base: String,
    /// Values of the body, and what they are at the call.
    values: HashMap<ValueId, Option<ValueId>>,
}

impl<'f> Call<'f> {
    fn of(model: &Model, node: NodeId, function: &'f Function) -> Call<'f> {
        let base = model.node_name(node).to_string();
        let node = model.nodes[node].clone();
        let inputs = model.graphs[function.body].inputs.iter().enumerate();
        let values = inputs.map(|(i, &input)| (input, node.input(i))).collect();
        Call {
            function,
            node,
            base,
            values,
        }
    }

    /// The nodes that take the place of the call.
    fn inline(mut self, edit: &mut Edit<'_>) -> Vec<NodeId> {
        let body = self.function.body;
        let outputs: Vec<ValueId> = edit.model().graphs[body]
            .outputs
            .iter()
            .map(|o| o.value)
            .collect();
        let mut passed = Vec::new();
        for (inner, outer) in outputs.into_iter().zip(self.node.outputs.clone()) {
            match (outer, self.values.get(&inner)) {
                (None, _) => {}
                // An input that is an output, or one output twice.
                (Some(outer), Some(_)) => passed.push((inner, outer)),
                (Some(outer), None) => {
                    self.values.insert(inner, Some(outer));
                }
            }
        }
        let mut nodes = self.nodes(edit, body, self.node.graph);
        for (inner, outer) in passed {
            let mut node = Node::new(self.node.graph, "", "Identity");
            node.inputs = vec![self.values[&inner]];
            node.outputs = vec![Some(outer)];
            let id = edit.model_mut().nodes.push(node);
            edit.model_mut().values[outer].def = Def::Node(id, 0);
            nodes.push(id);
        }
        nodes
    }

    /// Copies the nodes of `from`, a graph of the body, into `to`.
    fn nodes(&mut self, edit: &mut Edit<'_>, from: GraphId, to: GraphId) -> Vec<NodeId> {
        let old = edit.model().graphs[from].nodes.clone();
        old.into_iter()
            .map(|node| {
                let mut node = edit.model().nodes[node].clone();
                node.graph = to;
                node.name = node
                    .name
                    .map(|n| edit.fresh_name(&format!("{}/{n}", self.base)));
                let inputs = node.inputs.iter();
                node.inputs = inputs.map(|v| v.and_then(|v| self.value(v))).collect();
                let attributes = std::mem::take(&mut node.attributes);
                let id = edit.model_mut().nodes.push(node);
                for slot in 0..edit.model().nodes[id].outputs.len() {
                    if let Some(value) = edit.model().nodes[id].outputs[slot] {
                        let value = self.define(edit, value, Def::Node(id, slot as u32));
                        edit.model_mut().nodes[id].outputs[slot] = Some(value);
                    }
                }
                let attributes = attributes
                    .into_iter()
                    .filter_map(|a| self.attribute(edit, id, a))
                    .collect();
                edit.model_mut().nodes[id].attributes = attributes;
                id
            })
            .collect()
    }

    /// What a value of the body is at the call.
    fn value(&self, value: ValueId) -> Option<ValueId> {
        self.values.get(&value).copied().flatten()
    }

    /// The value at the call for `value` of the body, which `def` makes.
    fn define(&mut self, edit: &mut Edit<'_>, value: ValueId, def: Def) -> ValueId {
        if let Some(&Some(outer)) = self.values.get(&value) {
            edit.model_mut().values[outer].def = def;
            return outer;
        }
        let old = edit.model().values[value].clone();
        let name = edit.fresh_name(&format!("{}/{}", self.base, old.name));
        let new = edit.model_mut().values.push(Value {
            name,
            def,
            info: None,
            ..old
        });
        self.values.insert(value, Some(new));
        new
    }

    /// An attribute at the call: references become what the call gives, or the default.
    fn attribute(&mut self, edit: &mut Edit<'_>, node: NodeId, a: Attribute) -> Option<Attribute> {
        let value = match a.value {
            AttributeValue::Reference { name, .. } => {
                let defaults = self.function.attribute_defaults.iter();
                let mut given = self.node.attributes.iter().chain(defaults);
                given.find(|g| g.name == name)?.value.clone()
            }
            AttributeValue::Graph(graph) => AttributeValue::Graph(self.graph(edit, node, graph)),
            AttributeValue::Graphs(graphs) => {
                let all = graphs.into_iter().map(|g| self.graph(edit, node, g));
                AttributeValue::Graphs(all.collect())
            }
            other => other,
        };
        // Not as the file held it: a reference has no value of its own.
        Some(Attribute::new(&a.name, value))
    }

    /// Copies a graph that is inside the body.
    fn graph(&mut self, edit: &mut Edit<'_>, owner: NodeId, from: GraphId) -> GraphId {
        let old = edit.model().graphs[from].clone();
        let to = edit.model_mut().graphs.push(Graph {
            name: old.name,
            owner: Some(owner),
            ..Graph::default()
        });
        let inputs: Vec<ValueId> = old
            .inputs
            .iter()
            .map(|&v| self.define(edit, v, Def::Input(to)))
            .collect();
        let initializers: Vec<ValueId> = old
            .initializers
            .iter()
            .map(|&v| self.define(edit, v, Def::Initializer(to)))
            .collect();
        let nodes = self.nodes(edit, from, to);
        let outputs: Vec<GraphOutput> = old
            .outputs
            .into_iter()
            .filter_map(|o| {
                let value = self.value(o.value)?;
                Some(GraphOutput { value, ..o })
            })
            .collect();
        let graph = &mut edit.model_mut().graphs[to];
        (graph.inputs, graph.initializers) = (inputs, initializers);
        (graph.nodes, graph.outputs) = (nodes, outputs);
        to
    }
}
