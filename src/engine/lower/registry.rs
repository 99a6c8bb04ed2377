//! The operators that rten has. It offers no list of its own; a test tries each.

use std::collections::BTreeMap;

use super::known::{ELSEWHERE, operator};
use crate::{
    error::{Error, Result},
    ir::Model,
};

/// Of the default domain, sorted.
pub(super) const STANDARD: &[&str] = &[
    "Abs",
    "Acos",
    "Acosh",
    "Add",
    "And",
    "ArgMax",
    "ArgMin",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Attention",
    "AveragePool",
    "BatchNormalization",
    "BitCast",
    "Cast",
    "CastLike",
    "Ceil",
    "Clip",
    "Concat",
    "ConcatFromSequence",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "ConvInteger",
    "ConvTranspose",
    "Cos",
    "Cosh",
    "CumSum",
    "DepthToSpace",
    "DequantizeLinear",
    "Div",
    "Dropout",
    "DynamicQuantizeLinear",
    "Einsum",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "EyeLike",
    "Flatten",
    "Floor",
    "GRU",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Greater",
    "GreaterOrEqual",
    "GridSample",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "If",
    "InstanceNormalization",
    "IsInf",
    "IsNaN",
    "LSTM",
    "LayerNormalization",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "LogSoftmax",
    "Loop",
    "LpNormalization",
    "MatMul",
    "MatMulInteger",
    "Max",
    "MaxPool",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Multinomial",
    "Neg",
    "NonMaxSuppression",
    "NonZero",
    "Not",
    "OneHot",
    "Or",
    "PRelu",
    "Pad",
    "Pow",
    "QuantizeLinear",
    "RMSNormalization",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Range",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Relu",
    "Reshape",
    "Resize",
    "ReverseSequence",
    "RotaryEmbedding",
    "Round",
    "Scatter",
    "ScatterElements",
    "ScatterND",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceLength",
    "Shape",
    "Sigmoid",
    "Sign",
    "SimplifiedLayerNormalization",
    "Sin",
    "Sinh",
    "Size",
    "Slice",
    "Softmax",
    "Softplus",
    "Softsign",
    "Split",
    "SplitToSequence",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Swish",
    "Tan",
    "Tanh",
    "Tile",
    "TopK",
    "Transpose",
    "Trilu",
    "Unsqueeze",
    "Upsample",
    "Where",
    "Xor",
];

/// Of `com.microsoft`, sorted.
pub(super) const CONTRIB: &[&str] = &[
    "BiasGelu",
    "DynamicQuantizeLSTM",
    "FastGelu",
    "Gelu",
    "GroupQueryAttention",
    "MatMulNBits",
    "MultiHeadAttention",
    "QuickGelu",
    "RotaryEmbedding",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
];

/// Whether rten has the operator, in whatever form.
pub(super) fn has(domain: &str, op_type: &str) -> bool {
    match domain {
        "" => STANDARD.binary_search(&op_type).is_ok(),
        "com.microsoft" => CONTRIB.binary_search(&op_type).is_ok(),
        _ => false,
    }
}

/// Checks that rten has every operator that is left.
///
/// # Errors
/// Names each one that it has not, with a node and how many more there are.
pub(super) fn check(model: &Model) -> Result<()> {
    let mut missing = BTreeMap::new();
    for node in model.reachable_nodes() {
        let n = &model.nodes[node];
        if !has(n.domain(), &n.op_type) {
            let (_, more) = missing
                .entry(operator(model, node))
                .and_modify(|(_, more)| *more += 1)
                .or_insert((node, 0));
            let _: &mut usize = more;
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let each: Vec<String> = missing
        .into_iter()
        .map(|(operator, (node, more))| {
            let name = model.node_name(node);
            match more {
                0 => format!("no `{operator}` (node `{name}`)"),
                _ => format!("no `{operator}` (node `{name}`, and {more} more)"),
            }
        })
        .collect();
    Err(Error::unsupported(format!(
        "rten has {}; {ELSEWHERE}",
        each.join(" and ")
    )))
}
