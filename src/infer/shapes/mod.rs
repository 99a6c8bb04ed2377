//! Extents and small integers, from the inputs forward through every operator.

mod contrib;
mod control;
mod elementwise;
mod indexing;
mod layout;
mod linear;
mod op;
#[cfg(test)]
mod soundness;
#[cfg(test)]
mod tests;
mod windows;

use std::collections::{HashMap, HashSet};

pub(super) use op::Fact;
use op::{Op, Outcome, Rule, Stop, show};

use super::{Conflict, Kind, SymInt};
use crate::{
    ir::{
        Constant, DataType, Dim, DimSize, GraphId, Model, Node, NodeId, SideTable, Tensor, Type,
        ValueId,
    },
    schema,
    weights::small_elements,
};

/// Elements of a value that are followed, at most. Shapes have a handful.
const ELEMENTS: usize = 128;

/// Axes of a tensor, at most. What claims to have more is not followed.
const RANK: usize = 64;

/// Visits of nodes, at most, for each node there is and beyond: bodies of loops inside each other
/// and functions that call each other are visited often. After these nothing is known.
const VISITS: usize = 16;
const VISITS_MORE: usize = 1 << 20;

/// What is found of every value, and what does not fit.
pub(super) struct Shapes<'m> {
    model: &'m Model,
    pub(super) facts: SideTable<ValueId, Fact>,
    pub(super) conflicts: Vec<Conflict>,
    functions: HashMap<(&'m str, &'m str, &'m str), GraphId>,
    kinds: &'m SideTable<ValueId, Option<Kind>>,
    /// Expressions that are the extent of something before and so not negative, where they do
    /// not show it themselves: the length of a convolution's result, `floor(s/5) - 1`.
    extents: HashSet<SymInt>,
    /// The same in the order they were found. What holds in a body holds only there: it may
    /// not run at all.
    found: Vec<SymInt>,
    /// Whether bodies of functions are visited by themselves, where calls in them are not followed.
    alone: bool,
    /// The bodies of functions that are being visited.
    called: Vec<GraphId>,
    /// How many nodes may still be visited.
    visits: usize,
}

/// The elements of a constant of few integers or truth values.
fn small_integers(tensor: &Tensor) -> Option<Vec<SymInt>> {
    if tensor.element_count()? > ELEMENTS as u64 {
        return None;
    }
    // What cannot be read is told when it is needed.
    let list = small_elements(tensor).ok().flatten()?;
    Some(list.into_iter().map(SymInt::from).collect())
}

/// What a constant is.
fn fact_of(tensor: &Tensor) -> Fact {
    let shape = tensor.dims.iter().map(|&d| SymInt::from(d)).collect();
    Fact::with_elements(shape, small_integers(tensor))
}

/// Whether equal names of this kind mean equal extents: some exporters write `?` or `None` for
/// every extent that they do not know.
fn is_name(name: &str) -> bool {
    name != "None" && name.contains(|c: char| c.is_alphanumeric())
}

/// What the model says of an input: names are extents that callers choose.
fn declared(ty: &Type, value: ValueId, named: bool) -> Option<Vec<SymInt>> {
    let dims = ty.as_tensor()?.shape.as_ref()?;
    let extent = |(axis, dim): (usize, &Dim)| match &dim.size {
        DimSize::Known(n) if *n >= 0 => SymInt::from(*n),
        DimSize::Symbol(name) if named && is_name(name) => SymInt::symbol(name),
        _ => SymInt::extent(value, axis),
    };
    Some(dims.iter().enumerate().map(extent).collect())
}

impl<'m> Shapes<'m> {
    pub(super) fn run(model: &'m Model, kinds: &'m SideTable<ValueId, Option<Kind>>) -> Shapes<'m> {
        let entry = |f: &'m crate::ir::Function| {
            let overload = f.overload.as_deref().unwrap_or_default();
            ((f.domain(), &*f.name, overload), f.body)
        };
        let mut shapes = Shapes {
            model,
            facts: SideTable::new(Fact::default()),
            conflicts: Vec::new(),
            kinds,
            extents: HashSet::new(),
            found: Vec::new(),
            functions: model.functions.iter().map(entry).collect(),
            alone: false,
            called: Vec::new(),
            visits: model.nodes.len() * VISITS + VISITS_MORE,
        };
        shapes.inputs(model.main);
        shapes.graph(model.main);
        shapes.alone = true;
        for function in &model.functions {
            shapes.inside(function.body);
        }
        if shapes.visits == 0 {
            // What was found on the way may be of an earlier round.
            shapes.facts = SideTable::new(Fact::default());
            shapes.conflicts.clear();
        }
        shapes
    }

    /// Visits a graph that may not run whenever the one around it does.
    fn inside(&mut self, graph: GraphId) {
        let before = self.found.len();
        self.graph(graph);
        for extent in self.found.drain(before..) {
            self.extents.remove(&extent);
        }
    }

    /// The inputs of the main graph: what it declares of them holds.
    fn inputs(&mut self, graph: GraphId) {
        for &value in &self.model.graphs[graph].inputs {
            let v = &self.model.values[value];
            let ty = v.info.as_ref().and_then(|i| i.ty.as_ref());
            if let Some(shape) = ty.and_then(|ty| declared(ty, value, true)) {
                self.facts[value] = Fact::of_shape(shape);
            }
        }
    }

    /// Constants and nodes of `graph`, in order; of its inputs is known what is known.
    fn graph(&mut self, graph: GraphId) {
        let model = self.model;
        for &value in &model.graphs[graph].initializers {
            if let Some(tensor) = model.tensor(value)
                && !model.is_overridable(value)
            {
                self.facts[value] = fact_of(tensor);
            }
        }
        for &value in &model.graphs[graph].sparse_initializers {
            if let Some(Constant::Sparse(s)) = &model.values[value].constant {
                let shape = s.dims.iter().map(|&d| SymInt::from(d)).collect();
                self.facts[value] = Fact::of_shape(shape);
            }
        }
        for &node in &model.graphs[graph].nodes {
            self.visits = self.visits.saturating_sub(1);
            if self.visits == 0 {
                return;
            }
            self.node(node);
        }
    }

    fn node(&mut self, id: NodeId) {
        let node = &self.model.nodes[id];
        let (facts, ruled) = match self.outcome(node) {
            Ok(facts) => (facts, true),
            Err(Stop::Unknown) => (Vec::new(), true),
            Err(Stop::NoRule) => (Vec::new(), false),
            Err(Stop::Contradiction(message)) => {
                self.conflict(id, message);
                (Vec::new(), true)
            }
        };
        let mut facts = facts.into_iter();
        for output in &node.outputs {
            let fact = facts.next().unwrap_or_default();
            if let Some(value) = *output {
                self.learn(id, value, fact, ruled);
            }
        }
    }

    fn conflict(&mut self, node: NodeId, message: String) {
        // A call has no place of its own to tell it: the body by itself has.
        if self.called.is_empty() {
            self.conflicts.push(Conflict { node, message });
        }
    }

    fn outcome(&mut self, node: &'m Node) -> Outcome {
        let model = self.model;
        let overload = node.overload.as_deref().unwrap_or_default();
        if let Some(&body) = self
            .functions
            .get(&(node.domain(), &*node.op_type, overload))
        {
            return self.call(node, body);
        }
        if node.subgraphs().next().is_some() {
            return self.control(node);
        }
        let opset = model.opset(node.graph, node.domain()).ok_or(Stop::NoRule)?;
        if schema::is_beyond_table(node.domain(), opset) {
            return Err(Stop::NoRule);
        }
        let rule = rule(node.domain(), &node.op_type).ok_or(Stop::NoRule)?;
        let operand = |input: &Option<ValueId>| input.map(|v| &self.facts[v]);
        rule(&Op {
            model,
            node,
            opset,
            extents: &self.extents,
            operands: node.inputs.iter().map(operand).collect(),
        })
    }

    /// Takes down what is found of a result. Of an operator without a rule, what `value_info` says
    /// counts as far as it gives numbers; its names may be anything.
    fn learn(&mut self, node: NodeId, value: ValueId, mut fact: Fact, ruled: bool) {
        let info = self.model.values[value].info.as_ref();
        let ty = info.and_then(|i| i.ty.as_ref());
        let said = ty.and_then(|ty| declared(ty, value, false));
        match (&fact.shape, said) {
            (None, Some(said)) if !ruled => fact.shape = Some(said),
            (Some(found), Some(said)) => {
                let differ = |(f, s): (&SymInt, &SymInt)| {
                    f.known().zip(s.known()).is_some_and(|(f, s)| f != s)
                };
                if found.len() != said.len() || found.iter().zip(&said).any(differ) {
                    let (name, found) = (&self.model.values[value].name, show(found));
                    let message =
                        format!("`{name}` is declared as {}, and is {found}", show(&said));
                    self.conflict(node, message);
                    // Neither is relied on.
                    fact = Fact::default();
                }
            }
            _ => {}
        }
        if fact.shape.as_ref().is_some_and(|s| s.len() > RANK) {
            fact = Fact::default();
        }
        if let Some(extent) = fact
            .shape
            .iter()
            .flatten()
            .find(|d| d.upper() < Some(0) && d.upper().is_some())
        {
            let name = &self.model.values[value].name;
            let message = format!("`{name}` has an extent of {extent}");
            self.conflict(node, message);
            fact = Fact::default();
        }
        fact.elements = self.held(value, &fact);
        for extent in fact.shape.iter().flatten() {
            let doubtful = extent.lower().is_none_or(|low| low < 0);
            if doubtful && self.extents.insert(extent.clone()) {
                self.found.push(extent.clone());
            }
        }
        self.facts[value] = fact;
    }

    /// The elements, as far as the type of `value` holds them, when there are as many as its
    /// extents say.
    fn held(&self, value: ValueId, fact: &Fact) -> Option<Vec<SymInt>> {
        let list = fact.elements.as_ref()?;
        let count = op::product(fact.shape.as_ref()?)?.known()?;
        if count != list.len() as i64 {
            return None;
        }
        let each = list.iter().enumerate();
        Some(match self.kinds[value]? {
            Kind::Tensor(DataType::Int64 | DataType::Bool) => list.clone(),
            Kind::Tensor(DataType::Int32) => each
                .map(|(i, e)| match e.fits_32_bits() {
                    true => e.clone(),
                    false => SymInt::element(value, i),
                })
                .collect(),
            _ => return None,
        })
    }
}

/// The rule of an operator. Those of ONNX Runtime that it keeps in the default domain are
/// there, too.
fn rule(domain: &str, name: &str) -> Option<Rule> {
    match domain {
        "" => elementwise::rule(name)
            .or_else(|| layout::rule(name))
            .or_else(|| indexing::rule(name))
            .or_else(|| linear::rule(name))
            .or_else(|| windows::rule(name))
            .or(match name {
                "Constant" => Some(constant as Rule),
                _ => None,
            }),
        "com.microsoft" => contrib::rule(name),
        _ => None,
    }
}

/// `Constant`, in all its forms.
fn constant(op: &Op<'_>) -> Outcome {
    use crate::ir::AttributeValue as A;
    let [attribute] = op.node.attributes.as_slice() else {
        return Err(Stop::Unknown);
    };
    let floats = |count: usize| Fact::of_shape(vec![SymInt::from(count as i64)]);
    Ok(vec![match (&*attribute.name, &attribute.value) {
        ("value", A::Tensor(t)) => fact_of(t),
        ("value_int", A::Int(n)) => Fact::with_elements(Vec::new(), Some(vec![SymInt::from(*n)])),
        ("value_ints", A::Ints(list)) => {
            Fact::vector(list.iter().map(|&n| SymInt::from(n)).collect())
        }
        ("value_float", A::Float(_)) | ("value_string", A::String(_)) => Fact::of_shape(Vec::new()),
        ("value_floats", A::Floats(list)) => floats(list.len()),
        ("value_strings", A::Strings(list)) => floats(list.len()),
        ("sparse_value", A::SparseTensor(s)) => {
            Fact::of_shape(s.dims.iter().map(|&d| SymInt::from(d)).collect())
        }
        _ => return Err(Stop::Unknown),
    }])
}
