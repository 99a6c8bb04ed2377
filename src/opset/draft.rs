//! A node on its way to a newer version of its operator.

use crate::ir::{Attribute, AttributeValue, Node, Str, Tensor, ValueId};

/// What a node will be. Rules change it; nothing of the model changes before all nodes have
/// one.
pub(super) struct Draft {
    pub(super) op_type: Str,
    pub(super) attributes: Vec<Attribute>,
    pub(super) operands: Vec<Operand>,
    /// How many results something wants.
    pub(super) outputs: Vec<bool>,
    pub(super) around: Around,
    /// Whether it differs from the node.
    pub(super) changed: bool,
}

/// An operand of a draft.
#[derive(Clone)]
pub(super) enum Operand {
    /// Left out.
    Absent,
    /// As it was.
    Value(ValueId),
    /// A new constant, and what it is called.
    Constant(Tensor, &'static str),
}

/// Nodes around the node.
pub(super) enum Around {
    /// None.
    Nothing,
    /// The first operand is made a matrix, axes from this one on its columns, and the result is
    /// brought back to the shape of the operand.
    Flatten(i64),
    /// The second and third operands, one number a group, become one number a channel.
    Spread {
        /// How many groups there are.
        groups: i64,
        /// How many channels a group has.
        channels: i64,
    },
}

impl Draft {
    pub(super) fn of(node: &Node) -> Draft {
        let operand = |v: &Option<ValueId>| v.map_or(Operand::Absent, Operand::Value);
        Draft {
            op_type: node.op_type.clone(),
            attributes: node.attributes.clone(),
            operands: node.inputs.iter().map(operand).collect(),
            outputs: node.outputs.iter().map(Option::is_some).collect(),
            around: Around::Nothing,
            changed: false,
        }
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&AttributeValue> {
        let found = self.attributes.iter().find(|a| &*a.name == name);
        found.map(|a| &a.value)
    }

    /// Makes it another operator.
    pub(super) fn rename(&mut self, op_type: &str) {
        self.changed = true;
        self.op_type = op_type.into();
    }

    /// Sets an attribute.
    pub(super) fn set(&mut self, name: &str, value: AttributeValue) {
        self.changed = true;
        match self.attributes.iter_mut().find(|a| &*a.name == name) {
            Some(attribute) => attribute.value = value,
            None => self.attributes.push(Attribute::new(name, value)),
        }
    }

    pub(super) fn set_text(&mut self, name: &str, text: &str) {
        self.set(
            name,
            AttributeValue::String(text.as_bytes().to_vec().into()),
        );
    }

    /// Takes an attribute away.
    pub(super) fn take(&mut self, name: &str) -> Option<AttributeValue> {
        let index = self.attributes.iter().position(|a| &*a.name == name)?;
        self.changed = true;
        Some(self.attributes.remove(index).value)
    }

    /// Takes the integer `name` away; `default` when it is not there.
    pub(super) fn take_int(&mut self, name: &str, default: i64) -> Result<i64, String> {
        match self.take(name) {
            None => Ok(default),
            Some(AttributeValue::Int(i)) => Ok(i),
            Some(_) => Err(not_given(name)),
        }
    }

    /// Takes the float `name` away.
    pub(super) fn take_float(&mut self, name: &str) -> Result<Option<f32>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(AttributeValue::Float(x)) => Ok(Some(x)),
            Some(_) => Err(not_given(name)),
        }
    }

    /// Takes the list of integers `name` away.
    pub(super) fn take_ints(&mut self, name: &str) -> Result<Option<Vec<i64>>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(AttributeValue::Ints(list)) => Ok(Some(list)),
            Some(_) => Err(not_given(name)),
        }
    }

    /// The text `name`; `default` when it is not there.
    pub(super) fn text(&self, name: &str, default: &str) -> Result<String, String> {
        match self.attribute(name) {
            None => Ok(default.to_owned()),
            Some(AttributeValue::String(s)) => Ok(String::from_utf8_lossy(s).into_owned()),
            Some(_) => Err(not_given(name)),
        }
    }

    /// Whether operand `slot` is there.
    pub(super) fn has(&self, slot: usize) -> bool {
        !matches!(self.operands.get(slot), None | Some(Operand::Absent))
    }

    /// Operand `slot`, when it is one that the node has.
    pub(super) fn value(&self, slot: usize) -> Option<ValueId> {
        match self.operands.get(slot) {
            Some(Operand::Value(v)) => Some(*v),
            _ => None,
        }
    }

    /// Makes operand `slot` a new constant.
    pub(super) fn give(&mut self, slot: usize, what: &'static str, tensor: Tensor) {
        self.changed = true;
        if self.operands.len() <= slot {
            self.operands.resize(slot + 1, Operand::Absent);
        }
        self.operands[slot] = Operand::Constant(tensor, what);
    }

    /// Makes operand `slot` a new list of integers.
    pub(super) fn give_ints(&mut self, slot: usize, what: &'static str, list: &[i64]) {
        self.give(slot, what, Tensor::from_i64(vec![list.len() as i64], list));
    }
}

/// Why an attribute cannot be moved.
fn not_given(name: &str) -> String {
    format!("attribute `{name}` has another type, or is that of a caller; expected a value")
}
