//! The table of operators: one line each.

use std::cmp::Ordering::{Greater, Less};

use super::{
    Array, Result, Value,
    args::Args,
    cast,
    elementwise::{self as e, map},
    gather, linear, moves, order, reduce, sequences, shape, slice,
};
use crate::{
    ir::{AttributeValue, DataType, Node},
    schema,
};

/// How much of a result the standard fixes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Exactness {
    /// All of it: integer arithmetic, a single operation of IEEE 754 (`+ - * /`, square
    /// root), comparisons, conversions, movement.
    Exact,
    /// All of it for integers. For floating-point numbers the order of a sum is free.
    ExactIntegers,
    /// As [`ExactIntegers`](Exactness::ExactIntegers) when it adds or multiplies what comes
    /// to one place; else all of it.
    ExactPlaces,
    /// Not its last digits.
    Rounded,
}

use Exactness::{Exact, ExactIntegers, ExactPlaces, Rounded};

type Kernel = dyn Fn(&Args<'_>) -> Result<Vec<Value>> + Sync;

/// An operator that is evaluated.
pub(super) struct Operator {
    name: &'static str,
    exactness: Exactness,
    /// Whether an element of the result depends on elements in the same place only, and
    /// floating-point operands cannot make it fail.
    streams: bool,
    pub(super) kernel: &'static Kernel,
}

/// Makes [`Operator`]s: `name exactness => kernel` for one tensor, `each` before it when it
/// [streams](Operator::streams), `many` when it makes values of any kind and number.
macro_rules! operators {
    (@one $name:literal $exactness:ident $streams:literal $kernel:expr) => {
        Operator {
            name: $name,
            exactness: $exactness,
            streams: $streams,
            kernel: &|args: &Args<'_>| -> Result<Vec<Value>> {
                let kernel: fn(&Args<'_>) -> Result<Array> = $kernel;
                Ok(vec![Value::Tensor(kernel(args)?)])
            },
        }
    };
    (@each $name:literal $exactness:ident $kernel:expr) => {
        operators!(@one $name $exactness true $kernel)
    };
    (@whole $name:literal $exactness:ident $kernel:expr) => {
        operators!(@one $name $exactness false $kernel)
    };
    (@many $name:literal $exactness:ident $kernel:expr) => {
        Operator {
            name: $name,
            exactness: $exactness,
            streams: false,
            kernel: &$kernel,
        }
    };
    ($($form:ident $name:literal $exactness:ident => $kernel:expr;)*) => {
        &[$(operators!(@$form $name $exactness $kernel)),*]
    };
}

/// All operators of the default domain that are evaluated, by name. `each` works on one
/// element at a time and never fails on floating-point numbers; `whole` makes one tensor;
/// `many` makes values of any kind and number.
static OPERATORS: &[Operator] = operators! {
    each "Abs" Exact => |a| map(a, i128::abs, f64::abs);
    each "Acos" Rounded => |a| e::float(a, f64::acos);
    each "Acosh" Rounded => |a| e::float(a, f64::acosh);
    each "Add" Exact => |a| e::binary(a, |x, y| Ok(x + y), |x, y| x + y);
    each "And" Exact => |a| e::binary_int(a, |x, y| Ok(x & y));
    whole "ArgMax" Exact => |a| order::arg_extreme(a, Greater);
    whole "ArgMin" Exact => |a| order::arg_extreme(a, Less);
    each "Asin" Rounded => |a| e::float(a, f64::asin);
    each "Asinh" Rounded => |a| e::float(a, f64::asinh);
    each "Atan" Rounded => |a| e::float(a, f64::atan);
    each "Atanh" Rounded => |a| e::float(a, f64::atanh);
    whole "BitCast" Exact => cast::bit_cast;
    whole "BitShift" Exact => e::shift;
    whole "BitwiseAnd" Exact => |a| e::binary_int(a, |x, y| Ok(x & y));
    whole "BitwiseNot" Exact => |a| map(a, |x| !x, |x| x);
    whole "BitwiseOr" Exact => |a| e::binary_int(a, |x, y| Ok(x | y));
    whole "BitwiseXor" Exact => |a| e::binary_int(a, |x, y| Ok(x ^ y));
    each "Cast" Exact => cast::cast;
    whole "CastLike" Exact => cast::cast_like;
    each "Ceil" Exact => |a| e::float(a, f64::ceil);
    each "Celu" Rounded => |a| {
        let alpha = a.float("alpha", 1.0)?;
        e::float(a, |x| if x.is_nan() { x } else { x.max(0.0) + (alpha * ((x / alpha).exp() - 1.0)).min(0.0) })
    };
    each "Clip" Exact => e::clip;
    whole "Compress" Exact => gather::compress;
    whole "Concat" Exact => moves::concat;
    whole "ConcatFromSequence" Exact => sequences::concat;
    whole "ConstantOfShape" Exact => shape::constant_of_shape;
    each "Cos" Rounded => |a| e::float(a, f64::cos);
    each "Cosh" Rounded => |a| e::float(a, f64::cosh);
    whole "CumProd" ExactIntegers => |a| order::running(a, 1, i128::wrapping_mul, |x, y| x * y);
    whole "CumSum" ExactIntegers => |a| order::running(a, 0, i128::wrapping_add, |x, y| x + y);
    whole "DepthToSpace" Exact => moves::depth_to_space;
    each "Div" Exact => e::div;
    each "Elu" Rounded => |a| {
        let alpha = a.float("alpha", 1.0)?;
        e::float(a, |x| if x < 0.0 { alpha * x.exp_m1() } else { x })
    };
    whole "Equal" Exact => e::equal;
    each "Erf" Rounded => |a| e::float(a, e::erf);
    each "Exp" Rounded => |a| e::float(a, f64::exp);
    whole "Expand" Exact => moves::expand;
    whole "EyeLike" Exact => gather::eye_like;
    whole "Flatten" Exact => shape::rearrange;
    each "Floor" Exact => |a| e::float(a, f64::floor);
    whole "Gather" Exact => gather::gather;
    whole "GatherElements" Exact => gather::gather_elements;
    whole "GatherND" Exact => gather::gather_nd;
    each "Gelu" Rounded => e::gelu;
    whole "Gemm" Rounded => linear::gemm;
    each "Greater" Exact => |a| e::compare(a, i128::gt, f64::gt);
    each "GreaterOrEqual" Exact => |a| e::compare(a, i128::ge, f64::ge);
    each "HardSigmoid" Rounded => |a| {
        let (alpha, beta) = (a.float("alpha", 0.2)?, a.float("beta", 0.5)?);
        e::float(a, |x| (alpha * x + beta).clamp(0.0, 1.0))
    };
    each "HardSwish" Rounded => |a| e::float(a, |x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0));
    whole "Hardmax" Exact => |a| reduce::normalize(a, reduce::hardmax);
    many "Identity" Exact => sequences::identity;
    each "IsInf" Exact => e::is_inf;
    each "IsNaN" Exact => |a| e::test(a, f64::is_nan);
    each "LeakyRelu" Exact => |a| {
        let alpha = a.float("alpha", 0.01)?;
        e::float(a, |x| if x < 0.0 { alpha * x } else { x })
    };
    each "Less" Exact => |a| e::compare(a, i128::lt, f64::lt);
    each "LessOrEqual" Exact => |a| e::compare(a, i128::le, f64::le);
    each "Log" Rounded => |a| e::float(a, f64::ln);
    whole "LogSoftmax" Rounded => |a| reduce::normalize(a, reduce::log_softmax);
    whole "MatMul" ExactIntegers => linear::mat_mul;
    each "Max" Exact => |a| e::variadic(a, |x, y| Ok(x.max(y)), e::maximum);
    whole "Mean" Rounded => e::mean;
    each "Min" Exact => |a| e::variadic(a, |x, y| Ok(x.min(y)), e::minimum);
    each "Mish" Rounded => |a| e::float(a, |x| x * e::softplus(x).tanh());
    whole "Mod" Exact => e::modulo;
    each "Mul" Exact => |a| e::binary(a, |x, y| Ok(x.wrapping_mul(y)), |x, y| x * y);
    each "Neg" Exact => |a| map(a, |x| -x, |x| -x);
    whole "NonZero" Exact => gather::non_zero;
    each "Not" Exact => |a| map(a, |x| x ^ 1, |x| x);
    whole "OneHot" Exact => gather::one_hot;
    each "Or" Exact => |a| e::binary_int(a, |x, y| Ok(x | y));
    each "PRelu" Exact => e::prelu;
    whole "Pad" Exact => moves::pad;
    whole "Pow" ExactIntegers => e::pow;
    whole "Range" ExactIntegers => gather::range;
    each "Reciprocal" Exact => |a| e::float(a, f64::recip);
    whole "ReduceL1" ExactIntegers => |a| reduce::reduce(a, reduce::L1);
    whole "ReduceL2" Rounded => |a| reduce::reduce(a, reduce::L2);
    whole "ReduceLogSum" Rounded => |a| reduce::reduce(a, reduce::LOG_SUM);
    whole "ReduceLogSumExp" Rounded => reduce::log_sum_exp;
    whole "ReduceMax" Exact => |a| reduce::reduce(a, reduce::MAX);
    whole "ReduceMean" Rounded => |a| reduce::reduce(a, reduce::MEAN);
    whole "ReduceMin" Exact => |a| reduce::reduce(a, reduce::MIN);
    whole "ReduceProd" ExactIntegers => |a| reduce::reduce(a, reduce::PRODUCT);
    whole "ReduceSum" ExactIntegers => |a| {
        reduce::reduce(a, reduce::Reduction { axes_since: 13, ..reduce::SUM })
    };
    whole "ReduceSumSquare" ExactIntegers => |a| reduce::reduce(a, reduce::SQUARES);
    each "Relu" Exact => |a| map(a, |x| x.max(0), |x| e::maximum(x, 0.0));
    whole "Reshape" Exact => shape::rearrange;
    whole "ReverseSequence" Exact => moves::reverse_sequence;
    each "Round" Exact => |a| e::float(a, f64::round_ties_even);
    whole "ScatterElements" ExactPlaces => gather::scatter_elements;
    whole "ScatterND" ExactPlaces => gather::scatter_nd;
    each "Selu" Rounded => |a| {
        // The defaults of the standard, to more digits than float has.
        let alpha = a.float("alpha", 1.673_263_2)?;
        let gamma = a.float("gamma", 1.050_701)?;
        e::float(a, |x| gamma * if x > 0.0 { x } else { alpha * x.exp_m1() })
    };
    whole "SequenceAt" Exact => sequences::at;
    many "SequenceConstruct" Exact => sequences::construct;
    many "SequenceEmpty" Exact => sequences::empty;
    many "SequenceErase" Exact => sequences::erase;
    many "SequenceInsert" Exact => sequences::insert;
    whole "SequenceLength" Exact => sequences::length;
    whole "Shape" Exact => shape::shape;
    each "Shrink" Rounded => e::shrink;
    each "Sigmoid" Rounded => |a| e::float(a, e::sigmoid);
    each "Sign" Exact => |a| {
        map(a, i128::signum, |x| if x == 0.0 { 0.0 } else if x.is_nan() { x } else { x.signum() })
    };
    each "Sin" Rounded => |a| e::float(a, f64::sin);
    each "Sinh" Rounded => |a| e::float(a, f64::sinh);
    whole "Size" Exact => shape::size;
    whole "Slice" Exact => slice::slice;
    whole "Softmax" Rounded => |a| reduce::normalize(a, reduce::softmax);
    each "Softplus" Rounded => |a| e::float(a, e::softplus);
    each "Softsign" Rounded => |a| e::float(a, |x| x / (1.0 + x.abs()));
    whole "SpaceToDepth" Exact => moves::space_to_depth;
    many "Split" Exact => moves::split;
    many "SplitToSequence" Exact => sequences::split;
    each "Sqrt" Exact => |a| e::float(a, f64::sqrt);
    whole "Squeeze" Exact => shape::rearrange;
    each "Sub" Exact => |a| e::binary(a, |x, y| Ok(x - y), |x, y| x - y);
    whole "Sum" ExactIntegers => |a| e::variadic(a, |x, y| Ok(x + y), |x, y| x + y);
    each "Swish" Rounded => |a| {
        let alpha = a.float("alpha", 1.0)?;
        e::float(a, |x| x * e::sigmoid(alpha * x))
    };
    each "Tan" Rounded => |a| e::float(a, f64::tan);
    each "Tanh" Rounded => |a| e::float(a, f64::tanh);
    each "ThresholdedRelu" Exact => |a| {
        let alpha = a.float("alpha", 1.0)?;
        e::float(a, |x| if x > alpha { x } else { 0.0 })
    };
    whole "Tile" Exact => moves::tile;
    many "TopK" Exact => order::top_k;
    whole "Transpose" Exact => moves::transpose;
    whole "Trilu" Exact => moves::trilu;
    whole "Unsqueeze" Exact => shape::rearrange;
    whole "Where" Exact => e::select;
    each "Xor" Exact => |a| e::binary_int(a, |x, y| Ok(x ^ y));
};

/// The operator `op_type` of `domain` at version `opset`, when it is evaluated.
pub(super) fn find(domain: &str, op_type: &str, opset: i64) -> Option<&'static Operator> {
    if !schema::canonical_domain(domain).is_empty() || schema::is_beyond_table("", opset) {
        return None;
    }
    let known = schema::lookup("", op_type, opset)?;
    let at = OPERATORS.binary_search_by(|o| o.name.cmp(op_type)).ok()?;
    (!known.deprecated).then_some(&OPERATORS[at])
}

/// Whether the standard fixes all of what `node` makes, at version `opset` of its domain, of
/// operands of types `dtypes`; these are absent for sequences. `None` when it is not evaluated.
pub fn is_exact(node: &Node, opset: i64, dtypes: &[Option<DataType>]) -> Option<bool> {
    let floats = || dtypes.iter().flatten().any(|t| t.is_float());
    let combines = || match node.attribute("reduction") {
        None => false,
        Some(AttributeValue::String(s)) => !matches!(&s[..], b"none" | b"max" | b"min"),
        Some(_) => true,
    };
    let operator = find(node.domain(), &node.op_type, opset)?;
    Some(match operator.exactness {
        Exact => true,
        ExactIntegers => !floats(),
        ExactPlaces => !floats() || !combines(),
        Rounded => false,
    })
}

/// Whether an element of the result of `node` depends on the elements in the same place
/// only, or on operands of one element, and floating-point operands cannot make it fail: a
/// part of the result can then be made from that part of the operands.
pub fn streams(node: &Node, opset: i64) -> bool {
    find(node.domain(), &node.op_type, opset).is_some_and(|o| o.streams)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Attribute;

    #[test]
    fn operators_are_sorted_and_known() {
        let names: Vec<_> = OPERATORS.iter().map(|o| o.name).collect();
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
        for name in names {
            assert!(!schema::versions("", name).is_empty(), "{name}");
        }
        assert!(find("ai.onnx", "Add", 7).is_some());
        assert!(find("", "Scatter", 11).is_none());
        assert!(find("com.microsoft", "Add", 1).is_none());
        assert!(find("", "Add", 10_000).is_none());
    }

    #[test]
    fn what_is_exact_depends_on_types_and_attributes() {
        let mut node = Node::new(crate::ir::Model::new(10, 21).main, "", "ScatterND");
        let types = |t| [Some(t), Some(DataType::Int64), Some(t)];
        let (floats, ints) = (types(DataType::Float), types(DataType::Int64));
        let mut exact = |op: &str, reduction: Option<&str>| {
            node.op_type = op.into();
            let value = |r: &str| AttributeValue::String(r.to_owned().into());
            let attribute = reduction.map(|r| Attribute::new("reduction", value(r)));
            node.attributes = attribute.into_iter().collect();
            [&floats, &ints].map(|t| is_exact(&node, 21, t))
        };
        for op in ["ScatterElements", "ScatterND"] {
            for (reduction, floats) in [
                (None, true),
                (Some("none"), true),
                (Some("max"), true),
                (Some("add"), false),
                (Some("mul"), false),
            ] {
                assert_eq!(exact(op, reduction), [Some(floats), Some(true)], "{op}");
            }
        }
        assert_eq!(exact("Add", None), [Some(true); 2]);
        assert_eq!(exact("CumSum", None), [Some(false), Some(true)]);
        assert_eq!(exact("Exp", None), [Some(false); 2]);
        assert_eq!(exact("Conv", None), [None; 2]);
        node.op_type = "Pow".into();
        let mixed = [Some(DataType::Int64), Some(DataType::Float)];
        assert_eq!(is_exact(&node, 21, &mixed), Some(false));
    }
}
