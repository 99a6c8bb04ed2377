//! What the rules look at.

use crate::{
    error::Result,
    infer::{Facts, SymInt},
    ir::{AttributeValue, Callees, DataType, Elements, Model, Node, NodeId, Uses, ValueId},
    schema,
    weights::source_tensor,
};

/// Larger constants are not looked through for being all one number: it would take longer
/// than what is gained. The scale of a layer normalization is below it.
const UNIFORM_BYTES: u64 = 1 << 18;

/// A model, and what is known of it.
pub(super) struct Look<'m> {
    pub(super) model: &'m Model,
    pub(super) facts: &'m Facts,
    pub(super) uses: Uses,
    functions: Callees<'m>,
}

impl<'m> Look<'m> {
    pub(super) fn new(model: &'m Model, facts: &'m Facts) -> Look<'m> {
        Look {
            model,
            facts,
            uses: Uses::of(model),
            functions: Callees::of(&model.functions),
        }
    }

    /// `node` and its opset, when it is an operator of the default domain that is known.
    pub(super) fn operator(&self, node: NodeId) -> Option<(&'m Node, i64)> {
        let n = &self.model.nodes[node];
        let opset = self.model.opset(n.graph, "")?;
        let known = n.domain().is_empty()
            && !schema::is_beyond_table("", opset)
            && self.functions.called(n).is_none();
        known.then_some((n, opset))
    }

    /// The operator that makes `value`.
    pub(super) fn maker(&self, value: ValueId) -> Option<(&'m Node, i64)> {
        self.operator(self.model.producer(value)?)
    }

    /// Whether `result` is known to have the extents of `operand`.
    pub(super) fn same_shape(&self, result: ValueId, operand: ValueId) -> bool {
        let shape = |v| self.facts.shape(v);
        shape(result).is_some() && shape(result) == shape(operand)
    }

    /// Whether both are tensors of one known type.
    pub(super) fn same_dtype(&self, a: ValueId, b: ValueId) -> bool {
        let dtype = |v| self.facts.dtype(v);
        dtype(a).is_some() && dtype(a) == dtype(b)
    }

    pub(super) fn rank(&self, value: ValueId) -> Option<usize> {
        Some(self.facts.shape(value)?.len())
    }

    /// The integers that are an attribute in old opsets and an operand in new ones, when they
    /// are known.
    pub(super) fn ints(&self, node: &Node, attribute: &str, operand: usize) -> Option<Vec<i64>> {
        match (node.attribute(attribute), node.input(operand)) {
            (Some(AttributeValue::Ints(list)), _) => Some(list.clone()),
            (None, Some(value)) => {
                let elements = self.facts.elements(value)?;
                elements.iter().map(SymInt::known).collect()
            }
            _ => None,
        }
    }

    /// What all elements of `value` are, as bytes, when it is a constant of equal elements.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn uniform(&self, value: ValueId) -> Result<Option<(DataType, Vec<u8>)>> {
        let Some(tensor) = source_tensor(self.model, value) else {
            return Ok(None);
        };
        let Elements::Data(data) = &tensor.elements else {
            return Ok(None);
        };
        let size = tensor.dtype.bits() / 8;
        if tensor.dtype.bits() % 8 != 0 || data.len() < size || data.len() > UNIFORM_BYTES {
            return Ok(None);
        }
        let bytes = data.read_all()?;
        let (first, _) = bytes.split_at(size as usize);
        let same = bytes.chunks(size as usize).all(|element| element == first);
        Ok(same.then(|| (tensor.dtype, first.to_vec())))
    }

    /// Whether operand `index` is a constant that is false, or absent.
    ///
    /// # Errors
    /// The constant cannot be read.
    pub(super) fn is_false(&self, node: &Node, index: usize) -> Result<bool> {
        let Some(value) = node.input(index) else {
            return Ok(true);
        };
        Ok(matches!(self.uniform(value)?, Some((DataType::Bool, b)) if b == [0]))
    }
}
