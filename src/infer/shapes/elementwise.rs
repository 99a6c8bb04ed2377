//! Operators that work element by element.

use super::op::{Fact, Op, Outcome, Rule, Stop};
use crate::{
    infer::{SymInt, cast_to},
    ir::DataType,
};

pub(super) fn rule(name: &str) -> Option<Rule> {
    Some(match name {
        "Abs" => |op| {
            integers(op, |a| {
                if a.lower()? >= 0 {
                    Some(a.clone())
                } else {
                    number(a, i64::checked_abs)
                }
            })
        },
        "Neg" => |op| integers(op, |a| SymInt::from(0).sub(a)),
        "Not" => |op| integers(op, |a| number(a, |n| Some(i64::from(n == 0)))),
        "Sign" => |op| {
            integers(op, |a| {
                if a.lower()? >= 1 {
                    Some(SymInt::from(1))
                } else {
                    number(a, |n| Some(n.signum()))
                }
            })
        },
        "Relu" => |op| integers(op, |a| a.maximum(&SymInt::from(0))),
        "Cast" => cast,
        "Identity" => |op| integers(op, |a| Some(a.clone())),
        "Acos"
        | "Acosh"
        | "Asin"
        | "Asinh"
        | "Atan"
        | "Atanh"
        | "BitwiseNot"
        | "BitCast"
        | "Ceil"
        | "Celu"
        | "Clip"
        | "Cos"
        | "Cosh"
        | "CumSum"
        | "CumProd"
        | "Elu"
        | "Erf"
        | "Exp"
        | "EyeLike"
        | "Floor"
        | "Gelu"
        | "HardSigmoid"
        | "HardSwish"
        | "Hardmax"
        | "IsInf"
        | "IsNaN"
        | "LRN"
        | "LeakyRelu"
        | "Log"
        | "LogSoftmax"
        | "LpNormalization"
        | "MeanVarianceNormalization"
        | "Mish"
        | "RMSNormalization"
        | "InstanceNormalization"
        | "GroupNormalization"
        | "RandomNormalLike"
        | "RandomUniformLike"
        | "Bernoulli"
        | "Reciprocal"
        | "ReverseSequence"
        | "RotaryEmbedding"
        | "Round"
        | "Scale"
        | "ScaledTanh"
        | "ParametricSoftplus"
        | "ScatterElements"
        | "ScatterND"
        | "Scatter"
        | "TensorScatter"
        | "Selu"
        | "Shrink"
        | "Sigmoid"
        | "Sin"
        | "Sinh"
        | "Softmax"
        | "Softplus"
        | "Softsign"
        | "Sqrt"
        | "Swish"
        | "Tan"
        | "Tanh"
        | "ThresholdedRelu"
        | "Trilu"
        | "CastLike"
        | "QuantizeLinear"
        | "DequantizeLinear"
        | "ImageScaler"
        | "Affine"
        | "PRelu"
        | "SimplifiedLayerNormalization"
        | "CausalConvWithState" => same,
        "Dropout" => |op| Ok(vec![Fact::of_shape(op.shape(0)?.clone()); 2]),
        "Add" => |op| binary(op, |a, b| a.add(b)),
        "Sub" => |op| binary(op, |a, b| a.sub(b)),
        "Mul" => |op| binary(op, |a, b| a.mul(b)),
        "Div" => |op| binary(op, |a, b| divide(op, a, b)),
        // Of numbers that are not negative all kinds of rest are the same.
        "Mod" => |op| binary(op, |a, b| if op.is_extent(a) { a.rem(b) } else { None }),
        "Equal" => |op| binary(op, |a, b| truth(equal(op, a, b))),
        "Less" => |op| binary(op, |a, b| truth(less(op, a, b))),
        "Greater" => |op| binary(op, |a, b| truth(less(op, b, a))),
        "LessOrEqual" => |op| binary(op, |a, b| truth(less(op, b, a).map(|x| !x))),
        "GreaterOrEqual" => |op| binary(op, |a, b| truth(less(op, a, b).map(|x| !x))),
        "And" => |op| binary(op, and),
        "Or" => |op| binary(op, or),
        "Max" => |op| variadic(op, |a, b| a.maximum(b)),
        "Min" => |op| variadic(op, |a, b| a.minimum(b)),
        "Sum" | "Mean" => |op| variadic(op, |_, _| None),
        "Pow" | "Xor" | "BitShift" | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor" | "StringConcat" => {
            |op| variadic(op, |_, _| None)
        }
        "Where" => choose,
        _ => return None,
    })
}

fn same(op: &Op<'_>) -> Outcome {
    Ok(vec![Fact::of_shape(op.shape(0)?.clone())])
}

fn number(a: &SymInt, f: impl Fn(i64) -> Option<i64>) -> Option<SymInt> {
    f(a.known()?).map(SymInt::from)
}

fn truth(known: Option<bool>) -> Option<SymInt> {
    known.map(|t| SymInt::from(i64::from(t)))
}

/// The quotient as integers have it here: rounded towards zero, which is down when neither is
/// negative.
fn divide(op: &Op<'_>, a: &SymInt, b: &SymInt) -> Option<SymInt> {
    match (a.known(), b.known()) {
        (Some(a), Some(b)) => a.checked_div(b).map(SymInt::from),
        _ if op.is_extent(a) => a.floor_div(b),
        _ => None,
    }
}

/// Whether `a` is smaller than `b`.
fn less(op: &Op<'_>, a: &SymInt, b: &SymInt) -> Option<bool> {
    a.less(b).or_else(|| match (a.known(), b.known()) {
        (Some(n), None) if n < 0 && op.is_extent(b) => Some(true),
        (None, Some(n)) if n <= 0 && op.is_extent(a) => Some(false),
        _ => None,
    })
}

/// Whether the two are equal.
fn equal(op: &Op<'_>, a: &SymInt, b: &SymInt) -> Option<bool> {
    let apart = less(op, a, b) == Some(true) || less(op, b, a) == Some(true);
    a.equals(b).or(apart.then_some(false))
}

fn and(a: &SymInt, b: &SymInt) -> Option<SymInt> {
    match (a.known(), b.known()) {
        (Some(0), _) | (_, Some(0)) => Some(SymInt::from(0)),
        (Some(_), _) => Some(b.clone()),
        (_, Some(_)) => Some(a.clone()),
        _ => None,
    }
}

fn or(a: &SymInt, b: &SymInt) -> Option<SymInt> {
    match (a.known(), b.known()) {
        (Some(0), _) => Some(b.clone()),
        (_, Some(0)) => Some(a.clone()),
        (Some(_), _) | (_, Some(_)) => Some(SymInt::from(1)),
        _ => None,
    }
}

/// The shape of the operand; its elements through `f`, unknown ones where that is `None`.
fn integers(op: &Op<'_>, f: impl Fn(&SymInt) -> Option<SymInt>) -> Outcome {
    let shape = op.shape(0)?.clone();
    let elements = op.elements(0).map(|list| {
        let each = list.iter().enumerate();
        each.map(|(i, a)| op.element(f(a), i)).collect()
    });
    Ok(vec![Fact::with_elements(shape, elements)])
}

/// A cast keeps integers; what becomes a number of another kind is not followed.
fn cast(op: &Op<'_>) -> Outcome {
    match cast_to(op.node) {
        // An extent has no more than 32 bits wherever it is stored in so few.
        Some(DataType::Int64 | DataType::Int32) => integers(op, |a| match a.known() {
            Some(n) if i32::try_from(n).is_err() && cast_to(op.node) == Some(DataType::Int32) => {
                None
            }
            _ => Some(a.clone()),
        }),
        Some(DataType::Bool) => integers(op, |a| match a.lower() {
            Some(1..) => Some(SymInt::from(1)),
            _ => number(a, |n| Some(i64::from(n != 0))),
        }),
        _ => same(op),
    }
}

/// The elements of two operands, one of which may be a single element, put together.
fn pairs(
    op: &Op<'_>,
    a: &[SymInt],
    b: &[SymInt],
    f: impl Fn(&SymInt, &SymInt) -> Option<SymInt>,
) -> Option<Vec<SymInt>> {
    let count = match (a.len(), b.len()) {
        (n, 1) | (1, n) => n,
        (n, m) if n == m => n,
        _ => return None,
    };
    let at = |list: &[SymInt], i: usize| list[if list.len() == 1 { 0 } else { i }].clone();
    let each = (0..count).map(|i| op.element(f(&at(a, i), &at(b, i)), i));
    Some(each.collect())
}

/// Whether the elements lie in the same order in operands of these shapes.
fn aligned(shapes: &[&[SymInt]]) -> bool {
    // Vectors and scalars do; of matrices only those with one shape, which is rare.
    shapes.iter().all(|s| s.len() <= 1) || shapes.windows(2).all(|w| w[0] == w[1])
}

fn broadcast_shape(op: &Op<'_>, count: usize) -> Result<(Vec<SymInt>, bool), Stop> {
    let mut shapes: Vec<&[SymInt]> = Vec::with_capacity(count);
    for slot in 0..count {
        shapes.push(op.shape(slot)?);
    }
    Ok((op.broadcast(&shapes)?, aligned(&shapes)))
}

fn binary(op: &Op<'_>, f: impl Fn(&SymInt, &SymInt) -> Option<SymInt>) -> Outcome {
    // Before opset 7 the second operand was laid along an axis of the first.
    if op.opset < 7 && op.int("broadcast", 0)? != 0 {
        return same(op);
    }
    let (shape, aligned) = broadcast_shape(op, 2)?;
    let both = op.elements(0).zip(op.elements(1)).filter(|_| aligned);
    let elements = both.and_then(|(a, b)| pairs(op, a, b, f));
    Ok(vec![Fact::with_elements(shape, elements)])
}

fn variadic(op: &Op<'_>, f: impl Fn(&SymInt, &SymInt) -> Option<SymInt>) -> Outcome {
    if op.opset < 7 && op.int("broadcast", 0)? != 0 {
        return same(op);
    }
    let count = op.node.inputs.len();
    let (shape, aligned) = broadcast_shape(op, count)?;
    let mut elements = op.elements(0).map(<[SymInt]>::to_vec).filter(|_| aligned);
    for slot in 1..count {
        let both = elements.zip(op.elements(slot));
        elements = both.and_then(|(a, b)| pairs(op, &a, b, &f));
    }
    Ok(vec![Fact::with_elements(shape, elements)])
}

/// `Where`.
fn choose(op: &Op<'_>) -> Outcome {
    let (shape, aligned) = broadcast_shape(op, 3)?;
    let elements = || {
        let (condition, a, b) = (op.elements(0)?, op.elements(1)?, op.elements(2)?);
        let count = [condition, a, b].iter().map(|l| l.len()).max()?;
        let at = |list: &[SymInt], i: usize| match list.len() {
            1 => Some(list[0].clone()),
            n if n == count => Some(list[i].clone()),
            _ => None,
        };
        (0..count)
            .map(|i| {
                let (condition, a, b) = (at(condition, i)?, at(a, i)?, at(b, i)?);
                let chosen = match condition.known() {
                    Some(0) => Some(b),
                    Some(_) => Some(a),
                    None if a == b => Some(a),
                    None => None,
                };
                Some(op.element(chosen, i))
            })
            .collect()
    };
    let elements = if aligned { elements() } else { None };
    Ok(vec![Fact::with_elements(shape, elements)])
}
