//! Local functions: their bodies in the place of the nodes that call them.

use std::collections::{BTreeSet, HashMap};

use crate::{
    error::{Error, Result},
    ir::{
        Attribute, AttributeValue, CallOrder, Callees, Def, Function, Graph, GraphId, GraphOutput,
        Model, Node, NodeId, Value, ValueId, edit::Edit,
    },
    schema::{self, ParamOption},
};

/// A model may have at most so many nodes after inlining. Functions that call others twice each
/// double at every level; the largest models that exporters write have a hundredth of it.
const NODES: u64 = 1 << 22;

/// The version of the default domain that is imported for an `Identity` where there is none.
const IDENTITY_OPSET: i64 = 13;

/// What was inlined.
#[derive(Debug, Default)]
pub struct Inlined {
    /// How many calls.
    pub calls: u64,
    /// How many functions are gone, because nothing calls them any more.
    pub functions: u64,
    /// The calls that are left although they were wanted, and why.
    pub left: Vec<(NodeId, String)>,
}

/// Puts the bodies of the functions that are `wanted` in the place of the nodes that call
/// them, in bodies of other functions too, as long as `permit` allows one more; and removes
/// those of them that nothing calls any more.
///
/// # Errors
/// A function calls itself, or the model would become too large.
pub fn inline(
    model: &mut Model,
    wanted: impl Fn(&Function) -> bool,
    permit: impl FnMut() -> bool,
) -> Result<Inlined> {
    let functions = model.functions.clone();
    let wanted: Vec<bool> = functions.iter().map(wanted).collect();
    let order = CallOrder::of(model);
    if let Some(f) = (0..functions.len()).find(|f| !order.order.contains(f)) {
        return Err(Error::input(format!(
            "function `{}` calls itself or one that does; expected no recursion",
            functions[f].name
        )));
    }
    let main = model.main;
    let roots = order.order.iter().map(|&f| functions[f].body);
    let roots: Vec<GraphId> = roots.chain([main]).collect();
    check_size(model, &wanted, &order.order)?;
    let mut inliner = Inliner {
        edit: Edit::new(model),
        callees: Callees::of(&functions),
        functions: &functions,
        wanted: &wanted,
        permit,
        done: Inlined::default(),
    };
    for root in roots {
        inliner.root(root);
    }
    let mut done = inliner.done;
    inliner.edit.finish();
    done.functions = remove_uncalled(model, &wanted);
    Ok(done)
}

/// Counts what inlining makes, callees first.
fn check_size(model: &Model, wanted: &[bool], order: &[usize]) -> Result<()> {
    let callees = Callees::of(&model.functions);
    let mut sizes = vec![0u64; wanted.len()];
    let size = |graph: GraphId, sizes: &[u64]| {
        let graphs = model.graphs_within(graph);
        let nodes = graphs.iter().flat_map(|&g| &model.graphs[g].nodes);
        nodes.fold(0u64, |sum, &n| {
            let called = callees.called(&model.nodes[n]).filter(|&f| wanted[f]);
            sum.saturating_add(called.map_or(1, |f| sizes[f]))
        })
    };
    for &f in order {
        sizes[f] = size(model.functions[f].body, &sizes);
    }
    let all = sizes
        .iter()
        .fold(size(model.main, &sizes), |a, &b| a.saturating_add(b));
    match all > NODES {
        false => Ok(()),
        true => Err(Error::unsupported(format!(
            "inlining all calls makes more than {NODES} nodes"
        ))),
    }
}

/// Removes the functions that were to be inlined and that nothing calls; how many.
fn remove_uncalled(model: &mut Model, wanted: &[bool]) -> u64 {
    // Training, which is kept encoded, may call any function.
    if !model.training_info.is_empty() {
        return 0;
    }
    let callees = Callees::of(&model.functions);
    let nodes = model.reachable_nodes().into_iter();
    let mut called = vec![false; wanted.len()];
    for f in nodes.filter_map(|n| callees.called(&model.nodes[n])) {
        called[f] = true;
    }
    let mut index = 0;
    model.functions.retain(|_| {
        index += 1;
        !wanted[index - 1] || called[index - 1]
    });
    (index - model.functions.len()) as u64
}

struct Inliner<'a, 'm, P> {
    edit: Edit<'m>,
    callees: Callees<'a>,
    functions: &'a [Function],
    wanted: &'a [bool],
    permit: P,
    done: Inlined,
}

impl<P: FnMut() -> bool> Inliner<'_, '_, P> {
    /// Inlines the calls in `root` and in graphs inside it.
    fn root(&mut self, root: GraphId) {
        let mut graphs = vec![root];
        while let Some(graph) = graphs.pop() {
            let mut ahead = self.edit.model().graphs[graph].nodes.clone();
            let mut nodes = Vec::with_capacity(ahead.len());
            ahead.reverse();
            while let Some(node) = ahead.pop() {
                match self.call(node) {
                    // A call that was left in the body may be possible here.
                    Some(body) => ahead.extend(body.into_iter().rev()),
                    None => {
                        nodes.push(node);
                        graphs.extend(self.edit.model().nodes[node].subgraphs());
                    }
                }
            }
            self.edit.model_mut().graphs[graph].nodes = nodes;
        }
    }

    /// The nodes in the place of `node`, if it is a call that is inlined.
    fn call(&mut self, node: NodeId) -> Option<Vec<NodeId>> {
        let model = self.edit.model();
        let called = self.callees.called(&model.nodes[node])?;
        if !self.wanted[called] {
            return None;
        }
        let function = &self.functions[called];
        if let Some(why) = self.obstacle(node, function) {
            self.done.left.push((node, why));
            return None;
        }
        if !(self.permit)() {
            return None;
        }
        self.done.calls += 1;
        let graph = self.edit.model().nodes[node].graph;
        for (domain, version) in self.used(function) {
            self.edit.import_opset(graph, &domain, version);
        }
        Some(Call::of(self.edit.model(), node, function).inline(&mut self.edit))
    }

    /// The domains of the nodes in the body of `function`, as it imports them.
    fn used(&self, function: &Function) -> Vec<(String, i64)> {
        let model = self.edit.model();
        let graphs = model.graphs_within(function.body);
        let nodes = graphs.iter().flat_map(|&g| &model.graphs[g].nodes);
        let domains: BTreeSet<&str> = nodes.map(|&n| model.nodes[n].domain()).collect();
        let version = |domain: &str| Some((domain.to_owned(), model.opset(function.body, domain)?));
        domains.into_iter().filter_map(version).collect()
    }

    /// Why the body of `function` cannot be in the place of `node`.
    fn obstacle(&self, node: NodeId, function: &Function) -> Option<String> {
        let model = self.edit.model();
        let n = &model.nodes[node];
        let body = &model.graphs[function.body];
        let inputs = body.inputs.iter().enumerate();
        let absent: Vec<ValueId> = inputs
            .filter(|&(i, _)| n.input(i).is_none())
            .map(|(_, &input)| input)
            .collect();
        let mut results = body.outputs.iter().enumerate();
        if results.any(|(i, o)| n.output(i).is_some() && absent.contains(&o.value)) {
            let name = &function.name;
            return Some(format!("a result of function `{name}` is an absent input"));
        }
        let graphs = model.graphs_within(function.body);
        let mut inside = graphs.iter().flat_map(|&g| &model.graphs[g].nodes);
        inside.find_map(|&inside| {
            let inside = &model.nodes[inside];
            match self.callees.called(inside) {
                Some(_) => None,
                None => self.node_obstacle(n.graph, function, inside, &absent),
            }
        })
    }

    /// Why `inside`, an operator in the body of `function`, cannot be in `graph` when the
    /// inputs `absent` are.
    fn node_obstacle(
        &self,
        graph: GraphId,
        function: &Function,
        inside: &Node,
        absent: &[ValueId],
    ) -> Option<String> {
        let (domain, op) = (inside.domain(), &inside.op_type);
        let version = |graph| self.edit.model().opset(graph, domain);
        let there = version(function.body)?;
        if let Some(here) = version(graph).filter(|&here| !is_same(domain, op, here, there)) {
            let shown = if domain.is_empty() { "ai.onnx" } else { domain };
            return Some(format!(
                "function `{}` uses `{op}` of `{shown}` {there}, and here is `{shown}` {here}; \
                 expected the same version",
                function.name
            ));
        }
        let schema = schema::lookup(domain, op, there)?;
        let mut operands = inside.inputs.iter().enumerate();
        let needed = operands.any(|(i, v)| {
            let required = schema
                .input(i)
                .is_some_and(|p| p.option != ParamOption::Optional);
            required && v.is_some_and(|v| absent.contains(&v))
        });
        needed.then(|| {
            let name = &function.name;
            format!("function `{name}` gives `{op}` an input that is absent here")
        })
    }
}

/// Whether `op` is the same in two versions of its domain.
fn is_same(domain: &str, op: &str, a: i64, b: i64) -> bool {
    let beyond = schema::is_beyond_table(domain, a) || schema::is_beyond_table(domain, b);
    let since = |opset| schema::lookup(domain, op, opset).map(|s| s.since_version);
    a == b || (!beyond && since(a).is_some() && since(a) == since(b))
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
            edit.import_opset(self.node.graph, "", IDENTITY_OPSET);
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
        old.into_iter().map(|n| self.node(edit, n, to)).collect()
    }

    fn node(&mut self, edit: &mut Edit<'_>, node: NodeId, to: GraphId) -> NodeId {
        let mut node = edit.model().nodes[node].clone();
        node.graph = to;
        node.name = node
            .name
            .filter(|n| !n.is_empty())
            .map(|n| edit.fresh_name(&format!("{}/{n}", self.base)));
        let inputs = node.inputs.iter();
        node.inputs = inputs.map(|v| v.and_then(|v| self.value(v))).collect();
        while node.inputs.last() == Some(&None) {
            node.inputs.pop();
        }
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
    }

    /// What a value of the body is at the call. Any other is one that a graph captures that the
    /// caller gives as an attribute.
    fn value(&self, value: ValueId) -> Option<ValueId> {
        self.values.get(&value).copied().unwrap_or(Some(value))
    }

    /// The value at the call for `value` of the body, which `def` makes. What is said of the
    /// types of values in a body need not fit this call, except for the inputs of graphs,
    /// which have nothing else.
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
            info: old.info.filter(|_| matches!(def, Def::Input(_))),
            constant: old.constant,
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
                let given = given.find(|g| g.name == name)?.value.clone();
                if !given.graphs().is_empty() {
                    // The body may use a graph that it is given more than once.
                    let values = self.values.clone();
                    let copied = self.copied(edit, node, given);
                    self.values = values;
                    return Some(Attribute::new(&a.name, copied));
                }
                given
            }
            value => self.copied(edit, node, value),
        };
        // Not as the file held it: a reference has no value of its own.
        Some(Attribute::new(&a.name, value))
    }

    /// `value` with copies of its graphs.
    fn copied(
        &mut self,
        edit: &mut Edit<'_>,
        node: NodeId,
        value: AttributeValue,
    ) -> AttributeValue {
        match value {
            AttributeValue::Graph(graph) => AttributeValue::Graph(self.graph(edit, node, graph)),
            AttributeValue::Graphs(graphs) => {
                let all = graphs.into_iter().map(|g| self.graph(edit, node, g));
                AttributeValue::Graphs(all.collect())
            }
            other => other,
        }
    }

    /// Copies a graph that is inside the body, or that the caller gives.
    fn graph(&mut self, edit: &mut Edit<'_>, owner: NodeId, from: GraphId) -> GraphId {
        let old = edit.model().graphs[from].clone();
        let to = edit.model_mut().graphs.push(Graph {
            name: old.name,
            owner: Some(owner),
            doc_string: old.doc_string,
            metadata: old.metadata,
            ..Graph::default()
        });
        let mut define = |values: &[ValueId], def: Def| -> Vec<ValueId> {
            let defined = values.iter().map(|&v| self.define(edit, v, def));
            defined.collect()
        };
        let inputs = define(&old.inputs, Def::Input(to));
        // An input with a default is in both lists.
        let is_input = |v: &&ValueId| old.inputs.contains(v);
        let mut constants = |values: &[ValueId]| -> Vec<ValueId> {
            let own: Vec<ValueId> = values.iter().filter(|v| !is_input(v)).copied().collect();
            let mut all = define(&own, Def::Initializer(to));
            let defaults = old.inputs.iter().zip(&inputs);
            all.extend(
                defaults
                    .filter(|(o, _)| values.contains(o))
                    .map(|(_, n)| *n),
            );
            all
        };
        let initializers = constants(&old.initializers);
        let sparse_initializers = constants(&old.sparse_initializers);
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
        graph.sparse_initializers = sparse_initializers;
        to
    }
}
