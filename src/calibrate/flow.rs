//! What depends on what in the main graph.

use std::collections::BTreeSet;

use crate::{
    engine::Array,
    error::{Error, Result},
    infer::{self, Facts, Kind},
    ir::{Callees, Def, Model, Node, NodeId, SideTable, Tensor, ValueId},
    schema,
};

/// The main graph of a model as a flow from its inputs.
pub(super) struct Flow<'m> {
    pub(super) model: &'m Model,
    pub(super) facts: Facts,
    /// Places of its nodes, from 1 on; 0 for others.
    positions: SideTable<NodeId, usize>,
    /// What each node reads, captures of its bodies included.
    operands: SideTable<NodeId, Vec<ValueId>>,
    varies: SideTable<ValueId, bool>,
    /// Inputs with a default that some item gives.
    given: BTreeSet<ValueId>,
}

impl<'m> Flow<'m> {
    /// Looks at `model`; `given` tells which inputs that have a default the items give.
    ///
    /// # Errors
    /// A constant is given.
    pub(super) fn of(model: &'m Model, given: impl Fn(&str) -> bool) -> Result<Flow<'m>> {
        let mut flow = Flow {
            model,
            facts: infer::facts(model),
            positions: SideTable::new(0),
            operands: SideTable::new(Vec::new()),
            varies: SideTable::new(false),
            given: BTreeSet::new(),
        };
        let main = &model.graphs[model.main];
        for &input in &main.inputs {
            let value = &model.values[input];
            if value.constant.is_some() {
                if !given(&value.name) {
                    continue;
                }
                if !model.is_overridable(input) {
                    return Err(Error::input(format!(
                        "input `{}` is given, and is a constant of the model (IR version {})",
                        value.name,
                        model.ir_version.unwrap_or(0)
                    )));
                }
                flow.given.insert(input);
            }
            flow.varies[input] = true;
        }
        let random = Random::of(model);
        for (at, &node) in main.nodes.iter().enumerate() {
            let operands: Vec<ValueId> = model.operands(node).collect();
            let varies = operands.iter().any(|&v| flow.varies[v]) || random.draws(node);
            let outputs = &model.nodes[node].outputs;
            for &output in outputs.iter().flatten() {
                flow.varies[output] = varies;
            }
            flow.operands[node] = operands;
            flow.positions[node] = at + 1;
        }
        Ok(flow)
    }

    /// Whether `node` is one of the main graph.
    pub(super) fn is_listed(&self, node: NodeId) -> bool {
        self.positions[node] > 0
    }

    /// The place of `node` in the main graph.
    pub(super) fn position(&self, node: NodeId) -> usize {
        self.positions[node]
    }

    /// Where `value` is made: 0 for an input.
    pub(super) fn made(&self, value: ValueId) -> usize {
        self.model
            .producer(value)
            .map_or(0, |node| self.positions[node])
    }

    /// Whether `value` is not the same for all items.
    pub(super) fn varies(&self, value: ValueId) -> bool {
        self.varies[value]
    }

    /// Whether callers give `value`.
    pub(super) fn is_input(&self, value: ValueId) -> bool {
        matches!(self.model.values[value].def, Def::Input(_)) && self.varies[value]
    }

    /// What `node` reads, captures of its bodies included.
    pub(super) fn operands(&self, node: NodeId) -> &[ValueId] {
        &self.operands[node]
    }

    /// Whether `value` can be put aside: what is no tensor, or one that no engine gives out, is
    /// computed again where it is read.
    pub(super) fn is_storable(&self, value: ValueId) -> bool {
        match self.facts.kind(value) {
            None => true,
            Some(Kind::Tensor(dtype)) => Array::zeros(dtype, vec![0]).is_ok(),
            Some(_) => false,
        }
    }

    /// The inputs that some items leave to their default.
    pub(super) fn defaults(&self) -> impl Iterator<Item = (ValueId, &Tensor)> + '_ {
        let tensor = |&v: &ValueId| Some((v, self.model.tensor(v)?));
        self.given.iter().filter_map(tensor)
    }
}

/// Which nodes draw random numbers.
struct Random<'m> {
    model: &'m Model,
    functions: Callees<'m>,
    /// Whether some function does: then calls of all functions count.
    in_functions: bool,
}

impl<'m> Random<'m> {
    fn of(model: &'m Model) -> Random<'m> {
        let bodies = model
            .functions
            .iter()
            .flat_map(|f| model.graphs_within(f.body));
        let mut nodes = bodies.flat_map(|g| &model.graphs[g].nodes);
        Random {
            model,
            functions: Callees::of(&model.functions),
            in_functions: nodes.any(|&n| is_random(&model.nodes[n])),
        }
    }

    fn draws(&self, node: NodeId) -> bool {
        let one = |node: &Node| {
            is_random(node) || (self.in_functions && self.functions.called(node).is_some())
        };
        let node = &self.model.nodes[node];
        let graphs = node.subgraphs().flat_map(|g| self.model.graphs_within(g));
        let mut inner = graphs.flat_map(|g| &self.model.graphs[g].nodes);
        one(node) || inner.any(|&n| one(&self.model.nodes[n]))
    }
}

fn is_random(node: &Node) -> bool {
    // In training Dropout is one of them.
    schema::is_random(node.domain(), &node.op_type) || node.is("Dropout")
}
