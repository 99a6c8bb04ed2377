//! What a kernel is given: operands and attributes, checked as they are asked for.

use super::{Array, Result, Unfolded, Value};
use crate::ir::{AttributeValue, DataType, Node};

/// The operands and attributes of one node.
pub(super) struct Args<'a> {
    pub(super) node: &'a Node,
    pub(super) opset: i64,
    pub(super) inputs: &'a [Option<&'a Value>],
}

impl<'a> Args<'a> {
    /// Operand `i`, if there.
    pub(super) fn value(&self, i: usize) -> Option<&'a Value> {
        self.inputs.get(i).copied().flatten()
    }

    /// Operand `i`, a tensor, if there.
    pub(super) fn optional(&self, i: usize) -> Result<Option<&'a Array>> {
        match self.value(i) {
            None => Ok(None),
            Some(Value::Tensor(a)) => Ok(Some(a)),
            Some(Value::Sequence(_)) => Err(Unfolded::invalid("a sequence, expected a tensor")),
        }
    }

    /// Operand `i`, a tensor.
    pub(super) fn tensor(&self, i: usize) -> Result<&'a Array> {
        let missing = || Unfolded::Invalid(format!("operand {i} is absent"));
        self.optional(i)?.ok_or_else(missing)
    }

    /// Operand `i`, a sequence.
    pub(super) fn sequence(&self, i: usize) -> Result<&'a [Array]> {
        match self.value(i) {
            Some(Value::Sequence(s)) => Ok(s),
            _ => Err(Unfolded::invalid("no sequence where one is expected")),
        }
    }

    /// All operands, tensors.
    pub(super) fn tensors(&self) -> Result<Vec<&'a Array>> {
        (0..self.inputs.len()).map(|i| self.tensor(i)).collect()
    }

    /// Operand `i`, integers, if there.
    pub(super) fn ints(&self, i: usize) -> Result<Option<Vec<i64>>> {
        self.optional(i)?.map(Array::ints).transpose()
    }

    /// Operand `i`, one integer, if there.
    pub(super) fn int_operand(&self, i: usize) -> Result<Option<i64>> {
        match self.ints(i)?.as_deref() {
            None => Ok(None),
            Some(&[one]) => Ok(Some(one)),
            Some(_) => Err(Unfolded::Invalid(format!("operand {i} is not one integer"))),
        }
    }

    /// The integer attribute `name`.
    pub(super) fn int(&self, name: &str, default: i64) -> Result<i64> {
        self.node.int(name, default).ok_or_else(|| wrong(name))
    }

    /// The float attribute `name`.
    pub(super) fn float(&self, name: &str, default: f32) -> Result<f64> {
        let value = self.node.float(name, default);
        value.map(f64::from).ok_or_else(|| wrong(name))
    }

    /// The attribute `name`, a list of integers.
    pub(super) fn int_list(&self, name: &str) -> Result<Option<Vec<i64>>> {
        match self.node.attribute(name) {
            None => Ok(None),
            Some(AttributeValue::Ints(list)) => Ok(Some(list.clone())),
            Some(_) => Err(wrong(name)),
        }
    }

    /// The attribute `name`, a text.
    pub(super) fn text(&self, name: &str, default: &'static str) -> Result<&'a str> {
        match self.node.attribute(name) {
            None => Ok(default),
            Some(AttributeValue::String(s)) => std::str::from_utf8(s).map_err(|_| wrong(name)),
            Some(_) => Err(wrong(name)),
        }
    }

    /// The attribute `name`, an element type; `None` when absent.
    pub(super) fn dtype(&self, name: &str) -> Result<Option<DataType>> {
        match self.node.attribute(name) {
            None => Ok(None),
            // Its form in opset 1.
            Some(AttributeValue::String(s)) => {
                let same = |t: &&DataType| s.eq_ignore_ascii_case(t.name().as_bytes());
                DataType::ALL
                    .iter()
                    .find(same)
                    .copied()
                    .map(Some)
                    .ok_or_else(|| wrong(name))
            }
            Some(AttributeValue::Int(code)) => {
                let code = i32::try_from(*code).ok();
                code.and_then(DataType::from_code)
                    .map(Some)
                    .ok_or_else(|| wrong(name))
            }
            Some(_) => Err(wrong(name)),
        }
    }

    /// Axes or other integers that are an attribute before opset `since` and operand `i`
    /// from then on; `None` when absent.
    pub(super) fn list(&self, name: &str, since: i64, i: usize) -> Result<Option<Vec<i64>>> {
        match self.opset >= since {
            true => self.ints(i),
            false => self.int_list(name),
        }
    }

    /// The attribute `axis` of a tensor of `rank`.
    pub(super) fn axis(&self, default: i64, rank: usize) -> Result<usize> {
        axis(self.int("axis", default)?, rank)
    }
}

/// An attribute that is not of its type, or refers to one of the caller of a function.
fn wrong(name: &str) -> Unfolded {
    Unfolded::Unsupported(format!("attribute `{name}`"))
}

/// `axis`, counted from the front.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize> {
    let from_front = if axis < 0 { axis + rank as i64 } else { axis };
    match usize::try_from(from_front) {
        Ok(a) if a < rank => Ok(a),
        _ => Err(Unfolded::Invalid(format!(
            "axis {axis} of a tensor of rank {rank}"
        ))),
    }
}

/// `axes`, counted from the front, each once.
pub(super) fn axes(list: &[i64], rank: usize) -> Result<Vec<usize>> {
    let mut out = Vec::with_capacity(list.len());
    for &a in list {
        let a = axis(a, rank)?;
        if out.contains(&a) {
            return Err(Unfolded::Invalid(format!("axis {a} twice")));
        }
        out.push(a);
    }
    Ok(out)
}

/// `index` into an axis of `extent`, counted from the front.
pub(super) fn index(index: i64, extent: usize) -> Result<usize> {
    let from_front = if index < 0 {
        index + extent as i64
    } else {
        index
    };
    match usize::try_from(from_front) {
        Ok(i) if i < extent => Ok(i),
        _ => Err(Unfolded::Invalid(format!(
            "index {index} of an axis of {extent}"
        ))),
    }
}
