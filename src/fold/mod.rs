//! Evaluates operators on constants.
//!
//! [`evaluate`] is a function of a node and of what its operands are, in memory. Results have
//! the exact type: integers wrap as in C, float16 is rounded once, as float16. What the
//! standard does not define (a division by zero, an index out of range, a float that has no
//! integer) is no result but [`Unfolded::Invalid`], so that the runtime says it and the
//! compiler does not invent an answer.
//!
//! [`is_exact`] tells which results the standard leaves no choice about.

mod args;
mod array;
mod cast;
mod elementwise;
mod gather;
mod linear;
mod moves;
mod number;
mod operators;
mod order;
mod reduce;
mod sequences;
mod shape;
mod slice;
#[cfg(test)]
mod tests;

pub use array::Array;
pub use operators::{is_exact, streams};
pub use shape::reshapes;
pub use slice::slice_range;

use crate::ir::Node;
use args::Args;

/// The largest result in bytes: more is not worth the memory.
pub const LIMIT: u64 = 8 << 20;

/// What a node reads or makes.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A tensor.
    Tensor(Array),
    /// A sequence of tensors.
    Sequence(Vec<Array>),
}

/// Why a node has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfolded {
    /// The operator is none that is evaluated.
    Unknown,
    /// This form of it, or this element type, is not evaluated.
    Unsupported(String),
    /// The operands are none that the operator takes: a runtime would fail, or do anything.
    Invalid(String),
    /// The result would take so many bytes, more than [`LIMIT`].
    TooLarge(u64),
}

impl Unfolded {
    fn invalid(text: &str) -> Unfolded {
        Unfolded::Invalid(text.to_owned())
    }
}

type Result<T> = std::result::Result<T, Unfolded>;

/// The results of `node`, at version `opset` of its domain, on `inputs`; one for each output
/// that it lists, unwanted ones included.
///
/// # Errors
/// There is none: see [`Unfolded`].
pub fn evaluate(node: &Node, opset: i64, inputs: &[Option<&Value>]) -> Result<Vec<Value>> {
    let operator = operators::find(node.domain(), &node.op_type, opset).ok_or(Unfolded::Unknown)?;
    let args = Args {
        node,
        opset,
        inputs,
    };
    let results = (operator.kernel)(&args)?;
    match results.len() >= node.outputs.len() {
        true => Ok(results),
        false => Err(Unfolded::invalid(
            "it lists more outputs than the operator has",
        )),
    }
}

/// The extents that `node`, one that [`reshapes`], gives to a first operand of extents
/// `dims`; the first of `inputs` is not read.
///
/// # Errors
/// As [`evaluate`].
pub fn reshaped(
    node: &Node,
    opset: i64,
    dims: &[usize],
    inputs: &[Option<&Value>],
) -> Result<Vec<usize>> {
    operators::find(node.domain(), &node.op_type, opset).ok_or(Unfolded::Unknown)?;
    let args = Args {
        node,
        opset,
        inputs,
    };
    shape::new_dims(&args, dims)
}
