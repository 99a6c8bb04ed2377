//! Extents and small integers, from the inputs forward through every operator.

mod contrib;
mod control;
mod elementwise;
mod indexing;
mod layout;
mod linear;
mod op;
#[cfg(test)]
mod tests;
mod windows;

use std::collections::{HashMap, HashSet};

pub(super) use op::Fact;
use op::{Op, Outcome, Rule, Stop, show};

use super::{Conflict, SymInt};
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

/// Calls of functions inside each other, and visits of nodes in all calls, at most: bodies
/// that call each other twice each would be visited for ever.
const CALLS: usize = 16;
const VISITS: usize = 1 << 20;

/// What is found of every value, and what does not fit.
pub(super) struct Shapes<'m> {
    model: &'m Model,
    pub(super) facts: SideTable<ValueId, Fact>,
    pub(super) conflicts: Vec<Conflict>,
    functions: HashMap<(&'m str, &'m str, &'m str), GraphId>,
    /// Expressions that are the extent of something and so not negative, where they do not
    /// show it themselves: the length of a convolution's result, `floor(s/5) - 1`.
    extents: HashSet<SymInt>,
    /// How deep in calls, and how many nodes may still be visited in them.
    calls: usize,
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
    pub(super) fn run(model: &'m Model) -> Shapes<'m> {
        let entry = |f: &'m crate::ir::Function| {
            let overload = f.overload.as_deref().unwrap_or_default();
            ((f.domain(), &*f.name, overload), f.body)
        };
        let mut shapes = Shapes {
            model,
            facts: SideTable::new(Fact::default()),
            conflicts: Vec::new(),
            extents: HashSet::new(),
            functions: model.functions.iter().map(entry).collect(),
            calls: 0,
            visits: VISITS,
        };
        shapes.inputs(model.main);
        shapes.graph(model.main);
        for function in &model.functions {
            shapes.graph(function.body);
        }
        shapes
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
            if self.calls > 0 {
                self.visits = self.visits.saturating_sub(1);
                if self.visits == 0 {
                    return;
                }
            }
            self.node(node);
        }
    }

    fn node(&mut self, id: NodeId) {
        let node = &self.model.nodes[id];
        let outcome = self.outcome(node);
        let facts = match outcome {
            Ok(facts) => facts,
            Err(Stop::Unknown) => Vec::new(),
            Err(Stop::Contradiction(message)) => {
                self.conflict(id, message);
                Vec::new()
            }
        };
        let mut facts = facts.into_iter();
        for output in &node.outputs {
            let fact = facts.next().unwrap_or_default();
            if let Some(value) = *output {
                self.learn(id, value, fact);
            }
        }
    }

    fn conflict(&mut self, node: NodeId, message: String) {
        // A body that is visited again says the same again.
        let conflict = Conflict { node, message };
        if self.calls == 0 && !self.conflicts.contains(&conflict) {
            self.conflicts.push(conflict);
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
        let opset = model
            .opset(node.graph, node.domain())
            .ok_or(Stop::Unknown)?;
        if schema::is_beyond_table(node.domain(), opset) {
            return Err(Stop::Unknown);
        }
        let rule = rule(node.domain(), &node.op_type).ok_or(Stop::Unknown)?;
        let operand = |input: &Option<ValueId>| input.map(|v| &self.facts[v]);
        rule(&Op {
            model,
            node,
            opset,
            extents: &self.extents,
            operands: node.inputs.iter().map(operand).collect(),
        })
    }

    /// Takes down what is found of a result. Where nothing is, what `value_info` says counts
    /// as far as it gives numbers; its names may be anything.
    fn learn(&mut self, node: NodeId, value: ValueId, mut fact: Fact) {
        let info = self.model.values[value].info.as_ref();
        let said = info
            .and_then(|i| i.ty.as_ref())
            .and_then(|ty| declared(ty, value, false));
        match (&mut fact.shape, said) {
            (None, Some(said)) => fact.shape = Some(said),
            (Some(found), Some(said)) => {
                let differ = |(f, s): (&SymInt, &SymInt)| {
                    f.known().zip(s.known()).is_some_and(|(f, s)| f != s)
                };
                if found.len() != said.len() || found.iter().zip(&said).any(differ) {
                    let (name, found) = (&self.model.values[value].name, show(found));
                    self.conflict(
                        node,
                        format!("`{name}` is declared as {}, and is {found}", show(&said)),
                    );
                    // Neither is relied on.
                    fact = Fact::default();
                } else {
                    for (axis, (found, said)) in found.iter_mut().zip(said).enumerate() {
                        if *found == SymInt::extent(value, axis) {
                            *found = said;
                        }
                    }
                }
            }
            _ => {}
        }
        let doubtful = |extent: &&SymInt| extent.lower().is_none_or(|low| low < 0);
        let shape = fact.shape.iter().flatten();
        self.extents.extend(shape.filter(doubtful).cloned());
        self.facts[value] = fact;
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

/// Whether values of `dtype` can have elements that are followed.
pub(super) fn is_followed(dtype: DataType) -> bool {
    matches!(dtype, DataType::Int64 | DataType::Int32 | DataType::Bool)
}
