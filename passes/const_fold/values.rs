//! What is constant, and its value.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::pieces;
use crate::{
    error::Result,
    fold::{self, Array, Unfolded, Value},
    infer::{Facts, SymInt},
    ir::{
        Attribute, AttributeValue, DataType, Elements, GraphId, Model, Node, NodeId, SideTable,
        Tensor, ValueId,
    },
    weights,
};

/// Results of more bytes than this are not held but computed again when they are needed.
const HELD: u64 = 64 << 10;

/// Nor are smaller ones once so many bytes are held.
const HELD_TOGETHER: u64 = 16 << 20;

/// Results that are held in any case: a recipe takes more memory.
const TINY: u64 = 1 << 10;

/// Recipes that a recipe may take to compute. They read one another, and the same one more
/// than once.
const STEPS: u64 = 64;

/// Bytes of operands that are computed with at once.
const AT_ONCE: u64 = 32 << 20;

/// Bytes of large results that are kept for the next nodes.
const CACHE: u64 = 16 << 20;

/// Work, in bytes, that computing a result again may take: it may depend on others that are
/// computed again.
const AGAIN: u64 = 256 << 20;

/// A constant.
#[derive(Clone, Debug)]
pub(super) enum Known {
    Tensor(Tensor),
    Sequence(Vec<Array>),
}

/// The constants of a model.
pub(super) struct Values {
    /// What shapes tell.
    pub(super) facts: Arc<Facts>,
    known: SideTable<ValueId, Option<Known>>,
    /// Nodes that were evaluated, `Constant` nodes included.
    evaluated: SideTable<NodeId, bool>,
    /// Nodes with constant operands that could not be evaluated.
    pub(super) failed: Vec<(NodeId, Unfolded)>,
}

impl Values {
    /// Evaluates all nodes with constant operands, in document order; `facts` are of `model`.
    ///
    /// # Errors
    /// A constant cannot be read.
    pub(super) fn of(model: &Model, facts: Arc<Facts>, exact: bool) -> Result<Values> {
        let mut analysis = Analysis {
            model,
            exact,
            values: Values {
                facts,
                known: SideTable::new(None),
                evaluated: SideTable::new(false),
                failed: Vec::new(),
            },
            opsets: HashMap::new(),
            cache: VecDeque::new(),
            cost: SideTable::new(0),
            held: 0,
        };
        for graph in model.reachable_graphs() {
            for &value in &model.graphs[graph].initializers {
                if let Some(tensor) = model.tensor(value)
                    && !model.is_overridable(value)
                {
                    analysis.values.known[value] = Some(Known::Tensor(tensor.clone()));
                }
            }
        }
        for node in model.reachable_nodes() {
            let done = analysis.node(node);
            done.map_err(|e| e.at(model.label(node)))?;
        }
        Ok(analysis.values)
    }

    /// The constant that `value` is.
    pub(super) fn get(&self, value: ValueId) -> Option<&Known> {
        self.known[value].as_ref()
    }

    /// The tensor that `value` is.
    pub(super) fn tensor(&self, value: ValueId) -> Option<&Tensor> {
        match self.get(value) {
            Some(Known::Tensor(t)) => Some(t),
            _ => None,
        }
    }

    /// The elements of `value`, a small tensor of integers or booleans.
    ///
    /// # Errors
    /// They cannot be read.
    pub(super) fn ints(&self, value: ValueId) -> Result<Option<Vec<i64>>> {
        let Some(tensor) = self.tensor(value).filter(|t| t.byte_len() <= HELD) else {
            return Ok(None);
        };
        Ok(Array::read(tensor)?.and_then(|array| array.ints()).ok())
    }

    /// The only element of `value`, an integer or a boolean.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn int(&self, value: ValueId) -> Result<Option<i64>> {
        Ok(match self.ints(value)?.as_deref() {
            Some(&[one]) => Some(one),
            _ => None,
        })
    }

    /// Whether the results of `node` are known.
    pub(super) fn is_evaluated(&self, node: NodeId) -> bool {
        self.evaluated[node]
    }
}

/// The constant that a `Constant` node makes; `None` for the forms that have no dense one.
pub(super) fn constant_node(node: &Node) -> Option<Tensor> {
    let [Attribute { name, value, .. }] = &node.attributes[..] else {
        return None;
    };
    Some(match (&**name, value) {
        ("value", AttributeValue::Tensor(t)) => Tensor {
            name: None,
            doc_string: None,
            metadata: Vec::new(),
            ..(**t).clone()
        },
        ("value_int", AttributeValue::Int(i)) => Tensor::from_i64(vec![], &[*i]),
        ("value_ints", AttributeValue::Ints(l)) => Tensor::from_i64(vec![l.len() as i64], l),
        ("value_float", AttributeValue::Float(f)) => Tensor::from_f32(vec![], &[*f]),
        ("value_floats", AttributeValue::Floats(l)) => Tensor::from_f32(vec![l.len() as i64], l),
        ("value_string", AttributeValue::String(s)) => {
            Tensor::from_strings(vec![], vec![s.clone()])
        }
        ("value_strings", AttributeValue::Strings(l)) => {
            Tensor::from_strings(vec![l.len() as i64], l.clone())
        }
        _ => return None,
    })
}

struct Analysis<'m> {
    model: &'m Model,
    exact: bool,
    values: Values,
    opsets: HashMap<GraphId, Option<i64>>,
    /// Large results that were computed, the newest last.
    cache: VecDeque<(ValueId, Array)>,
    /// Bytes that computing a value again takes.
    cost: SideTable<ValueId, u64>,
    /// Bytes of results that are held.
    held: u64,
}

/// Results of one node.
enum Results {
    Values(Vec<Value>),
    Tensors(Vec<Tensor>),
}

impl Analysis<'_> {
    fn node(&mut self, node: NodeId) -> Result<()> {
        let model = self.model;
        let n = &model.nodes[node];
        if n.is("Constant") {
            if let (Some(tensor), Some(output)) = (constant_node(n), n.output(0)) {
                self.values.known[output] = Some(Known::Tensor(tensor));
                self.values.evaluated[node] = true;
            }
            return Ok(());
        }
        let Some(opset) = self.opset(n) else {
            return Ok(());
        };
        let known = |v: &Option<ValueId>| v.is_none_or(|v| self.values.known[v].is_some());
        if !n.inputs.iter().all(known) || n.outputs.is_empty() {
            self.learn_from_shapes(node);
            return Ok(());
        }
        if !self.may_fold(n, opset) {
            return Ok(());
        }
        let results = self.evaluate(n, opset)?;
        match results.and_then(|results| self.remember(n, opset, results)) {
            Ok(()) => self.values.evaluated[node] = true,
            Err(why) => self.values.failed.push((node, why)),
        }
        Ok(())
    }

    /// The result of `node` as far as shapes tell it: the extents of something that is not
    /// constant itself.
    fn learn_from_shapes(&mut self, node: NodeId) {
        let &[Some(output)] = &self.model.nodes[node].outputs[..] else {
            return;
        };
        let facts = &self.values.facts;
        let elements = facts.elements(output).unwrap_or_default().iter();
        let (Some(dims), Some(dtype)) = (facts.dims(output), facts.dtype(output)) else {
            return;
        };
        let numbers: Option<Vec<i64>> = elements.map(SymInt::known).collect();
        let count = crate::ir::element_count(&dims);
        if let Some(numbers) = numbers.filter(|n| count == Some(n.len() as u64) && !n.is_empty())
            && let Ok(array) = Array::of_numbers(dtype, &dims, &numbers)
        {
            self.values.known[output] = Some(Known::Tensor(array.to_tensor()));
            self.values.evaluated[node] = true;
        }
    }

    /// The opset of the default domain, where `n` stands, when `n` is of that domain.
    fn opset(&mut self, n: &Node) -> Option<i64> {
        let model = self.model;
        let is_local = |f: &crate::ir::Function| f.domain().is_empty() && f.name == n.op_type;
        if !n.domain().is_empty() || model.functions.iter().any(is_local) {
            return None;
        }
        let opset = self.opsets.entry(n.graph);
        *opset.or_insert_with(|| model.opset(n.graph, ""))
    }

    fn may_fold(&self, n: &Node, opset: i64) -> bool {
        let dtype = |v: &Option<ValueId>| v.and_then(|v| self.values.tensor(v)).map(|t| t.dtype);
        let dtypes: Vec<Option<DataType>> = n.inputs.iter().map(dtype).collect();
        fold::is_exact(n, opset, &dtypes).is_some_and(|exact| exact || !self.exact)
    }

    fn evaluate(&mut self, n: &Node, opset: i64) -> Result<Result<Results, Unfolded>> {
        let operands: Vec<Option<Tensor>> = n
            .inputs
            .iter()
            .map(|v| v.and_then(|v| self.values.tensor(v)).cloned())
            .collect();
        if fold::reshapes(n) {
            if let Some(made) = self.reshape(n, opset, &operands)? {
                return Ok(made.map(|t| Results::Tensors(vec![t])));
            }
        } else if operands.iter().flatten().any(|t| t.byte_len() > HELD)
            && weights::steps(&operands) <= STEPS
            && let Some(made) = pieces::large(self.model, &self.values, n, opset, &operands)?
        {
            return Ok(Ok(Results::Tensors(vec![made])));
        }
        let bytes = operands.iter().flatten().map(Tensor::byte_len).sum();
        if bytes > AT_ONCE {
            return Ok(Err(Unfolded::TooLarge(bytes)));
        }
        let mut values = Vec::with_capacity(n.inputs.len());
        for (input, operand) in n.inputs.iter().zip(&operands) {
            values.push(match input {
                None => None,
                Some(v) => match self.value(*v, operand.as_ref())? {
                    Ok(value) => Some(value),
                    Err(why) => return Ok(Err(why)),
                },
            });
        }
        let inputs: Vec<Option<&Value>> = values.iter().map(Option::as_ref).collect();
        Ok(fold::evaluate(n, opset, &inputs).map(Results::Values))
    }

    /// The first operand with the extents that `n` gives it; `None` for strings and
    /// sequences.
    fn reshape(
        &mut self,
        n: &Node,
        opset: i64,
        operands: &[Option<Tensor>],
    ) -> Result<Option<Result<Tensor, Unfolded>>> {
        let Some(Some(Tensor {
            dtype,
            dims,
            elements: Elements::Data(data),
            ..
        })) = operands.first()
        else {
            return Ok(None);
        };
        let mut rest = vec![None];
        for (input, operand) in n.inputs.iter().zip(operands).skip(1) {
            rest.push(match input {
                None => None,
                Some(v) => match self.value(*v, operand.as_ref())? {
                    Ok(value) => Some(value),
                    Err(why) => return Ok(Some(Err(why))),
                },
            });
        }
        let inputs: Vec<Option<&Value>> = rest.iter().map(Option::as_ref).collect();
        let dims: Vec<usize> = dims.iter().map(|&d| d as usize).collect();
        let dims = fold::reshaped(n, opset, &dims, &inputs);
        let tensor = |dims: Vec<usize>| {
            let dims = dims.into_iter().map(|d| d as i64).collect();
            Tensor::new(*dtype, dims, data.clone())
        };
        Ok(Some(dims.map(tensor)))
    }

    /// What `value` is, in memory.
    fn value(
        &mut self,
        value: ValueId,
        tensor: Option<&Tensor>,
    ) -> Result<Result<Value, Unfolded>> {
        if let Some((_, array)) = self.cache.iter().find(|(v, _)| *v == value) {
            return Ok(Ok(Value::Tensor(array.clone())));
        }
        match (tensor, self.values.get(value)) {
            (Some(tensor), _) => Ok(Array::read(tensor)?.map(Value::Tensor)),
            (None, Some(Known::Sequence(list))) => Ok(Ok(Value::Sequence(list.clone()))),
            _ => Ok(Err(Unfolded::Unknown)),
        }
    }

    fn remember(&mut self, n: &Node, opset: i64, results: Results) -> Result<(), Unfolded> {
        let known: Vec<Known> = match results {
            Results::Tensors(list) => list.into_iter().map(Known::Tensor).collect(),
            Results::Values(list) => match self.recipes(n, opset, &list) {
                Some(tensors) => {
                    self.keep(n, list);
                    tensors.into_iter().map(Known::Tensor).collect()
                }
                None => self.hold(list)?,
            },
        };
        for (output, known) in n.outputs.iter().zip(known) {
            if let Some(v) = *output {
                self.values.known[v] = Some(known);
            }
        }
        Ok(())
    }

    /// Recipes for `results`, when these are not to be held and can be computed again.
    fn recipes(&mut self, n: &Node, opset: i64, results: &[Value]) -> Option<Vec<Tensor>> {
        let bytes = size(results);
        let full = bytes > TINY && self.held + bytes > HELD_TOGETHER;
        if bytes <= HELD && !full {
            return None;
        }
        let again = bytes
            + n.inputs
                .iter()
                .flatten()
                .map(|&v| self.cost[v])
                .sum::<u64>();
        let operand = |v: &Option<ValueId>| match *v {
            None => Some(None),
            // No sequence.
            Some(v) => self.values.tensor(v).cloned().map(Some),
        };
        let operands: Vec<Option<Tensor>> = n.inputs.iter().map(operand).collect::<Option<_>>()?;
        let type_of = |value: &Value| match value {
            Value::Tensor(a) if a.dtype() != DataType::String => {
                Some((a.dtype(), a.dims().iter().map(|&d| d as i64).collect()))
            }
            _ => None,
        };
        let types = results.iter().map(type_of).collect::<Option<_>>()?;
        if again > AGAIN || weights::steps(&operands) > STEPS {
            return None;
        }
        for &output in n.outputs.iter().flatten() {
            self.cost[output] = again;
        }
        Some(weights::evaluated(n, opset, operands, types))
    }

    /// Holds `results`, unless that is too much together with all others.
    fn hold(&mut self, results: Vec<Value>) -> Result<Vec<Known>, Unfolded> {
        let bytes = size(&results);
        if bytes > TINY && self.held + bytes > HELD_TOGETHER {
            return Err(Unfolded::TooLarge(bytes));
        }
        self.held += bytes;
        let known = |value| match value {
            Value::Sequence(list) => Known::Sequence(list),
            Value::Tensor(array) => Known::Tensor(array.to_tensor()),
        };
        Ok(results.into_iter().map(known).collect())
    }

    /// Keeps the large results of `n` for the next nodes.
    fn keep(&mut self, n: &Node, results: Vec<Value>) {
        for (output, value) in n.outputs.iter().zip(results) {
            if let (Some(v), Value::Tensor(array)) = (*output, value) {
                self.cache.push_back((v, array));
            }
        }
        let total =
            |cache: &VecDeque<(ValueId, Array)>| -> u64 { cache.iter().map(|c| c.1.size()).sum() };
        while self.cache.len() > 1 && total(&self.cache) > CACHE {
            self.cache.pop_front();
        }
    }
}

/// Bytes of memory that `values` take.
fn size(values: &[Value]) -> u64 {
    let one = |value: &Value| match value {
        Value::Tensor(array) => array.size(),
        Value::Sequence(list) => list.iter().map(Array::size).sum(),
    };
    values.iter().map(one).sum()
}
