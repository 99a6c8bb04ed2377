//! The sweep over the nodes: forward, then backward, until nothing new is found.

use std::collections::HashMap;

use super::{Kind, rules};
use crate::{
    ir::{Constant, Function, GraphId, Model, Node, NodeId, SideTable, ValueId},
    schema::{self, OpSchema, Param, ParamOption},
};

/// Sweeps at most. Each pair carries a fact along any chain of nodes in either direction;
/// a chain that turns around more often than this is left unknown.
const SWEEPS: usize = 32;

pub(super) fn run(model: &Model) -> SideTable<ValueId, Option<Kind>> {
    let mut infer = Infer::new(model);
    for graph in model.reachable_graphs() {
        infer.seed(graph);
    }
    let mut order = Vec::new();
    infer.visit_order(model.main, &mut order);
    for function in &model.functions {
        infer.visit_order(function.body, &mut order);
    }
    infer.sweep(&order);
    infer.kinds
}

/// What tells one local function from another: domain, name, overload.
type Callee<'m> = (&'m str, &'m str, &'m str);

/// A function by its place in the model, and the kinds it is called with.
type Call = (usize, Vec<Option<Kind>>);

pub(super) struct Infer<'m> {
    pub(super) model: &'m Model,
    kinds: SideTable<ValueId, Option<Kind>>,
    changed: bool,
    functions: HashMap<Callee<'m>, usize>,
    /// Results of calls: bodies that call each other would be followed over and over.
    calls: HashMap<Call, Vec<Option<Kind>>>,
}

impl<'m> Infer<'m> {
    fn new(model: &'m Model) -> Infer<'m> {
        let entry = |(i, f): (usize, &'m Function)| {
            let overload = f.overload.as_deref().unwrap_or_default();
            ((f.domain(), &*f.name, overload), i)
        };
        Infer {
            model,
            kinds: SideTable::new(None),
            changed: false,
            functions: model.functions.iter().enumerate().map(entry).collect(),
            calls: HashMap::new(),
        }
    }

    /// What the model declares of the values of `graph`.
    fn seed(&mut self, graph: GraphId) {
        let model = self.model;
        for value in model.values_of(graph) {
            let v = &model.values[value];
            match &v.constant {
                Some(Constant::Dense(t)) => self.learn(value, Kind::Tensor(t.dtype)),
                Some(Constant::Sparse(s)) => {
                    let dtype = s.values.as_ref().map(|t| t.dtype);
                    if let Some(d) = dtype {
                        self.learn(value, Kind::Tensor(d));
                    }
                }
                None => {}
            }
            let declared = v.info.as_ref().and_then(|i| i.ty.as_ref());
            if let Some(kind) = declared.and_then(Kind::of_type) {
                self.learn(value, kind);
            }
        }
        for output in &model.graphs[graph].outputs {
            if let Some(kind) = output.info.ty.as_ref().and_then(Kind::of_type) {
                self.learn(output.value, kind);
            }
        }
    }

    /// The nodes in the order in which facts flow: one with graphs inside comes before
    /// them, to give them their inputs, and after them, to take their results.
    fn visit_order(&self, graph: GraphId, out: &mut Vec<NodeId>) {
        for &node in &self.model.graphs[graph].nodes {
            out.push(node);
            let mut inside = self.model.nodes[node].subgraphs().peekable();
            if inside.peek().is_some() {
                inside.for_each(|g| self.visit_order(g, out));
                out.push(node);
            }
        }
    }

    fn sweep(&mut self, order: &[NodeId]) {
        for sweep in 0..SWEEPS {
            self.changed = false;
            match sweep % 2 {
                0 => order.iter().for_each(|&n| self.node(n)),
                _ => order.iter().rev().for_each(|&n| self.node(n)),
            }
            // The seeds are new to the first sweep backward, too.
            if !self.changed && sweep > 0 {
                break;
            }
        }
    }

    pub(super) fn kind(&self, value: ValueId) -> Option<Kind> {
        self.kinds[value]
    }

    pub(super) fn learn(&mut self, value: ValueId, kind: Kind) {
        if self.kinds[value].is_none() {
            self.kinds[value] = Some(kind);
            self.changed = true;
        }
    }

    /// Both have one kind: whichever is known is that of the other.
    pub(super) fn same(&mut self, a: Option<ValueId>, b: Option<ValueId>) {
        let (Some(a), Some(b)) = (a, b) else { return };
        match (self.kinds[a], self.kinds[b]) {
            (Some(kind), None) => self.learn(b, kind),
            (None, Some(kind)) => self.learn(a, kind),
            _ => {}
        }
    }

    fn node(&mut self, node: NodeId) {
        let model = self.model;
        let n = &model.nodes[node];
        // Nothing is left to be told of its values, and no body is to be told of them.
        let mut values = n.inputs.iter().chain(&n.outputs).flatten();
        if values.all(|&v| self.kinds[v].is_some()) && n.subgraphs().next().is_none() {
            return;
        }
        let overload = n.overload.as_deref().unwrap_or_default();
        if let Some(&f) = self.functions.get(&(n.domain(), &*n.op_type, overload)) {
            return self.call(n, f);
        }
        rules::apply(self, n);
        let schema = model
            .opset(n.graph, n.domain())
            .and_then(|opset| schema::lookup(n.domain(), &n.op_type, opset));
        if let Some(schema) = schema {
            self.constraints(n, schema);
        }
    }

    /// Operands and results whose type the schema fixes, or that share a type variable.
    fn constraints(&mut self, node: &'m Node, schema: &'static OpSchema) {
        let mut variables: Vec<(&str, Kind)> = Vec::new();
        for (value, param) in slots(node, schema) {
            match (Kind::only(&param.types), self.kinds[value]) {
                (Some(only), None) => self.learn(value, only),
                (None, Some(kind)) if shares(param) => variables.push((param.type_str, kind)),
                _ => {}
            }
        }
        for (value, param) in slots(node, schema) {
            if self.kinds[value].is_none() && shares(param) {
                let variable = variables.iter().find(|v| v.0 == param.type_str);
                if let Some(&(_, kind)) = variable {
                    self.learn(value, kind);
                }
            }
        }
    }

    /// The results of a local function, from its body with these operands.
    fn call(&mut self, node: &'m Node, function: usize) {
        let inputs: Vec<_> = node
            .inputs
            .iter()
            .map(|i| i.and_then(|v| self.kinds[v]))
            .collect();
        let key = (function, inputs);
        if !self.calls.contains_key(&key) {
            let outputs = self.follow(function, &key.1);
            self.calls.insert(key.clone(), outputs);
        }
        for (slot, kind) in self.calls[&key].clone().into_iter().enumerate() {
            if let (Some(value), Some(kind)) = (node.output(slot), kind) {
                self.learn(value, kind);
            }
        }
    }

    fn follow(&mut self, function: usize, inputs: &[Option<Kind>]) -> Vec<Option<Kind>> {
        let model = self.model;
        let body = model.functions[function].body;
        let mut inner = Infer {
            kinds: SideTable::new(None),
            changed: false,
            functions: std::mem::take(&mut self.functions),
            calls: std::mem::take(&mut self.calls),
            model,
        };
        for (&value, kind) in model.graphs[body].inputs.iter().zip(inputs) {
            if let Some(k) = *kind {
                inner.learn(value, k);
            }
        }
        for graph in model.graphs_within(body) {
            inner.seed(graph);
        }
        let mut order = Vec::new();
        inner.visit_order(body, &mut order);
        inner.sweep(&order);
        let outputs = &model.graphs[body].outputs;
        let kinds = outputs.iter().map(|o| inner.kinds[o.value]).collect();
        (self.functions, self.calls) = (inner.functions, inner.calls);
        kinds
    }
}

/// The operands and results of `node` that are there, with what the schema says of them.
fn slots(
    node: &Node,
    schema: &'static OpSchema,
) -> impl Iterator<Item = (ValueId, &'static Param)> {
    let inputs = node.inputs.iter().enumerate();
    let inputs = inputs.filter_map(|(i, v)| Some(((*v)?, schema.input(i)?)));
    let outputs = node.outputs.iter().enumerate();
    inputs.chain(outputs.filter_map(|(i, v)| Some(((*v)?, schema.output(i)?))))
}

/// Whether the type of `param` is that of all others with the same variable.
fn shares(param: &Param) -> bool {
    let each_its_own = matches!(
        param.option,
        ParamOption::Variadic {
            homogeneous: false,
            ..
        }
    );
    !each_its_own
}
