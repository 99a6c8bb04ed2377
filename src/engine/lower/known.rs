//! Operands that are constant.

use crate::{
    error::{Error, Result},
    ir::{AttributeValue, Data, DataType, Elements, Model, NodeId, ValueId},
    weights::{source_tensor, target_dims},
};

/// How many nodes a constant is looked for behind: real chains have one or two, and a broken
/// model may have a cycle.
const CHAIN: usize = 32;

/// A constant behind nodes that leave its elements and their order as they are.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// The type it is stored in; the operand may have a wider floating-point type.
    pub(super) dtype: DataType,
    /// Extents of the operand.
    pub(super) dims: Vec<u64>,
    pub(super) data: Data,
}

impl Known {
    /// How many elements it has.
    pub(super) fn count(&self) -> u64 {
        self.dims.iter().product()
    }
}

/// The constant that `value` is, also through Identity, Reshape, Squeeze, Unsqueeze and casts
/// to a wider floating-point type.
///
/// # Errors
/// A shape on the way cannot be read.
pub(super) fn known(model: &Model, value: ValueId) -> Result<Option<Known>> {
    let mut path = Vec::new();
    let mut at = value;
    let tensor = loop {
        if let Some(tensor) = source_tensor(model, at) {
            break tensor;
        }
        let node = model.producer(at).map(|n| &model.nodes[n]);
        let Some(node) = node.filter(|_| path.len() < CHAIN) else {
            return Ok(None);
        };
        let Some(input) = node.input(0) else {
            return Ok(None);
        };
        path.push(node);
        at = input;
    };
    let Elements::Data(data) = &tensor.elements else {
        return Ok(None);
    };
    let mut dims: Vec<u64> = tensor.dims.iter().map(|&d| d as u64).collect();
    for node in path.into_iter().rev() {
        match (&*node.op_type, node.domain()) {
            ("Identity", "") => {}
            ("Cast", "") if widens(tensor.dtype, node.int("to", 0)) => {}
            ("Reshape" | "Squeeze" | "Unsqueeze", "") => match target_dims(model, node, &dims)? {
                Some(target) => dims = target,
                None => return Ok(None),
            },
            _ => return Ok(None),
        }
    }
    Ok(Some(Known {
        dtype: tensor.dtype,
        dims,
        data: data.clone(),
    }))
}

fn widens(from: DataType, to: Option<i64>) -> bool {
    let to = to.and_then(|t| DataType::from_code(t as i32));
    to.is_some_and(|to| from.is_float() && to.is_float() && (to == from || to.bits() > from.bits()))
}

/// Operand `index` of `node`, called `name`, which must be constant; `None` when it is absent.
///
/// # Errors
/// It is computed, or given by the caller.
pub(super) fn operand(
    model: &Model,
    node: NodeId,
    index: usize,
    name: &str,
) -> Result<Option<Known>> {
    let Some(value) = model.nodes[node].input(index) else {
        return Ok(None);
    };
    match known(model, value)? {
        Some(known) => Ok(Some(known)),
        None => Err(refused(
            model,
            node,
            format!("`{name}` is not a constant, and rten needs it to be one"),
        )),
    }
}

/// As [`operand`], for one that is not optional.
///
/// # Errors
/// As [`operand`], or it is absent.
pub(super) fn required(model: &Model, node: NodeId, index: usize, name: &str) -> Result<Known> {
    operand(model, node, index, name)?
        .ok_or_else(|| Error::input(format!("{}: `{name}` is missing", named(model, node))))
}

/// The integer attribute `name` of `node`.
///
/// # Errors
/// It is no integer, or absent without a default.
pub(super) fn integer(
    model: &Model,
    node: NodeId,
    name: &str,
    default: Option<i64>,
) -> Result<i64> {
    match (model.nodes[node].attribute(name), default) {
        (Some(AttributeValue::Int(i)), _) => Ok(*i),
        (None, Some(default)) => Ok(default),
        _ => Err(Error::input(format!(
            "{}: attribute `{name}` is not an integer",
            named(model, node)
        ))),
    }
}

/// The operator and the name of `node`, for messages.
pub(super) fn named(model: &Model, node: NodeId) -> String {
    let op = operator(model, node);
    format!("`{op}` (node `{}`)", model.node_name(node))
}

/// The operator of `node`, with its domain unless that is the default one.
pub(super) fn operator(model: &Model, node: NodeId) -> String {
    let n = &model.nodes[node];
    match n.domain() {
        "" => n.op_type.to_string(),
        domain => format!("{domain}::{}", n.op_type),
    }
}

/// Why `node` cannot be computed here.
pub(super) fn refused(model: &Model, node: NodeId, why: impl std::fmt::Display) -> Error {
    Error::unsupported(format!("{}: {why}; {ELSEWHERE}", named(model, node)))
}

/// What every refusal ends with.
pub(super) const ELSEWHERE: &str = "run on ONNX Runtime: --engine onnxruntime";
