//! Operators by what they do with the size of numbers. All of the default domain.

/// They only move numbers about: what they read of a weight beyond half's range they hand on.
pub(super) const MOVING: [&str; 12] = [
    "Concat",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
];

/// Their results are about as large as the largest of their operands.
pub(super) const SIZED: [&str; 43] = [
    "Abs",
    "Add",
    "AveragePool",
    "Cast",
    "Ceil",
    "Celu",
    "Compress",
    "CumSum",
    "DepthToSpace",
    "Dropout",
    "Elu",
    "Floor",
    "GatherElements",
    "GatherND",
    "Gelu",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "HardSwish",
    "LeakyRelu",
    "Max",
    "MaxPool",
    "Mean",
    "Min",
    "Mish",
    "Neg",
    "PRelu",
    "Pad",
    "ReduceL1",
    "ReduceL2",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceSum",
    "Relu",
    "Resize",
    "Round",
    "ScatterElements",
    "ScatterND",
    "Selu",
    "SpaceToDepth",
    "Sub",
    "Sum",
    "Trilu",
];

/// Sums of products of their first two operands.
pub(super) const MATRICES: [&str; 5] = ["Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"];

/// They bring their first operand to size 1, then scale it by the others.
pub(super) const NORMS: [&str; 5] = [
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
];
