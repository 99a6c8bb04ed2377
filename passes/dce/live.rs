//! What the outputs of a model depend on.

use crate::ir::{
    AttributeValue, Callees, Def, Function, GraphId, Model, NodeId, SideTable, ValueId,
};

/// What is needed, and what is not.
pub(super) struct Live<'m> {
    pub(super) model: &'m Model,
    pub(super) functions: Callees<'m>,
    /// Values that something needed reads.
    pub(super) values: SideTable<ValueId, bool>,
    nodes: SideTable<NodeId, bool>,
    /// Functions that something needed calls.
    pub(super) called: Vec<bool>,
    /// Graphs that stay, in document order.
    pub(super) graphs: Vec<GraphId>,
    /// Nodes that stay; those inside a node before it.
    pub(super) order: Vec<NodeId>,
    /// Nodes that go, in the same order, but not those that are inside one of them.
    pub(super) dead: Vec<NodeId>,
    work: Vec<ValueId>,
}

impl<'m> Live<'m> {
    /// Looks at the whole of `model`.
    pub(super) fn of(model: &'m Model) -> Live<'m> {
        let mut live = Live {
            model,
            functions: Callees::of(&model.functions),
            values: SideTable::new(false),
            nodes: SideTable::new(false),
            called: vec![false; model.functions.len()],
            graphs: Vec::new(),
            order: Vec::new(),
            dead: Vec::new(),
            work: Vec::new(),
        };
        if !model.training_info.is_empty() {
            for (f, function) in model.functions.iter().enumerate() {
                live.called[f] = true;
                live.function(function);
            }
        }
        live.root(model.main);
        while let Some(value) = live.work.pop() {
            live.value(value);
        }
        live.collect(model.main);
        for (f, function) in model.functions.iter().enumerate() {
            if live.called[f] {
                live.collect(function.body);
            }
        }
        live
    }

    /// A graph all outputs of which are needed.
    fn root(&mut self, graph: GraphId) {
        for output in &self.model.graphs[graph].outputs {
            self.mark(output.value);
        }
        self.effects(graph);
    }

    /// Nodes without outputs can only be there for some effect.
    fn effects(&mut self, graph: GraphId) {
        for &node in &self.model.graphs[graph].nodes {
            if self.model.nodes[node].outputs.is_empty() {
                self.node(node);
            }
        }
    }

    fn function(&mut self, function: &'m Function) {
        self.root(function.body);
        let defaults = function.attribute_defaults.iter();
        defaults
            .flat_map(|a| a.value.graphs())
            .for_each(|&g| self.root(g));
    }

    fn mark(&mut self, value: ValueId) {
        if self.values.insert(value) {
            self.work.push(value);
        }
    }

    fn value(&mut self, value: ValueId) {
        let Def::Node(node, slot) = self.model.values[value].def else {
            return;
        };
        self.node(node);
        let made = body_output(self.model, &self.functions, node, slot as usize);
        for value in made.into_iter().flatten() {
            self.mark(value);
        }
    }

    fn node(&mut self, node: NodeId) {
        if !self.nodes.insert(node) {
            return;
        }
        let n = &self.model.nodes[node];
        n.inputs.iter().flatten().for_each(|&v| self.mark(v));
        for graph in n.subgraphs() {
            self.effects(graph);
            let first = first_prunable(self.model, &self.functions, node);
            let needed = match n.is("Loop") {
                true => first.map(|f| f + 1),
                false => first,
            };
            let outputs = &self.model.graphs[graph].outputs;
            let needed = needed.unwrap_or(outputs.len());
            outputs[..needed].iter().for_each(|o| self.mark(o.value));
        }
        if let Some(f) = self.functions.called(n)
            && !std::mem::replace(&mut self.called[f], true)
        {
            self.function(&self.model.functions[f]);
        }
    }

    fn collect(&mut self, graph: GraphId) {
        self.graphs.push(graph);
        for &node in &self.model.graphs[graph].nodes {
            if !self.nodes[node] {
                self.dead.push(node);
                continue;
            }
            for inner in self.model.nodes[node].subgraphs() {
                self.collect(inner);
            }
            self.order.push(node);
        }
    }

    /// The initializers that nothing needs and callers cannot give.
    pub(super) fn unused_constants(&self) -> impl Iterator<Item = ValueId> {
        let model = self.model;
        let listed = self.graphs.iter().flat_map(|&g| {
            let g = &model.graphs[g];
            g.initializers.iter().chain(&g.sparse_initializers)
        });
        listed.copied().filter(|&v| {
            let fixed = match model.values[v].def {
                // The inputs of other graphs are those that their nodes give.
                Def::Input(graph) => graph == model.main && !model.is_overridable(v),
                _ => true,
            };
            fixed && !self.values[v]
        })
    }

    /// The domains of the nodes that stay in `graph` and inside it.
    pub(super) fn domains(&self, graph: GraphId) -> impl Iterator<Item = &'m str> {
        let nodes = self.model.graphs[graph].nodes.iter().copied();
        let live = nodes.filter(|&n| self.nodes[n]);
        let mut domains = Vec::new();
        for node in live {
            domains.push(self.model.nodes[node].domain());
            for inner in self.model.nodes[node].subgraphs() {
                domains.extend(self.domains(inner));
            }
        }
        domains.into_iter()
    }
}

/// What makes result `slot` of `node` in its bodies, when the result can go together with
/// that.
pub(super) fn body_output(
    model: &Model,
    functions: &Callees<'_>,
    node: NodeId,
    slot: usize,
) -> Option<Vec<ValueId>> {
    if slot < first_prunable(model, functions, node)? {
        return None;
    }
    let shift = usize::from(model.nodes[node].is("Loop"));
    let outputs = model.nodes[node].subgraphs();
    Some(
        outputs
            .map(|g| model.graphs[g].outputs[slot + shift].value)
            .collect(),
    )
}

/// The first result of `node` that can go together with the outputs of bodies that make it;
/// so can all after it. Of `Loop` those are what it collects: a value that is carried from
/// one iteration to the next may be needed for others.
fn first_prunable(model: &Model, functions: &Callees<'_>, node: NodeId) -> Option<usize> {
    let n = &model.nodes[node];
    if functions.called(n).is_some() {
        return None;
    }
    let body = |name: &str| match n.attribute(name) {
        Some(AttributeValue::Graph(g)) => Some(&model.graphs[*g]),
        _ => None,
    };
    let results = n.outputs.len();
    if n.is("If") {
        let branches = [body("then_branch")?, body("else_branch")?];
        return branches
            .iter()
            .all(|b| b.outputs.len() == results)
            .then_some(0);
    }
    if n.is("Loop") {
        let body = body("body")?;
        let carried = n.inputs.len().checked_sub(2)?;
        let fits = body.inputs.len() == carried + 2 && body.outputs.len() == results + 1;
        return (fits && carried <= results).then_some(carried);
    }
    None
}
