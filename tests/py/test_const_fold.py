"""`const-fold`: what the compiler computes is what the ONNX standard and ONNX Runtime compute."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import harness

# A transcendental function is computed in double and rounded once; the vectors come from NumPy,
# which computes in float and errs by a few units of the last of its 24 bits, more in sums. Of
# the largest element, because what cancels leaves the error of what it was made of.
ROUNDED = 2e-6
# The same for half precision: the vectors were computed in it, with a rounding at each step.
ROUNDED_HALF = 4e-3

# Operators that are folded, and whose results the standard fixes to the last bit.
EXACT = """Abs Add And ArgMax ArgMin BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike
    Ceil Clip Compress Concat ConcatFromSequence Constant ConstantOfShape DepthToSpace Div Equal Expand EyeLike
    Flatten Floor Gather GatherElements GatherND Greater GreaterOrEqual Hardmax Identity IsInf IsNaN LeakyRelu
    Less LessOrEqual Max Min Mod Mul Neg NonZero Not OneHot Or PRelu Pad Reciprocal ReduceMax ReduceMin
    Relu Reshape ReverseSequence Round ScatterElements ScatterND SequenceAt SequenceConstruct SequenceEmpty
    SequenceErase SequenceInsert SequenceLength Shape Sign Size Slice SpaceToDepth Split SplitToSequence Sqrt
    Squeeze Sub ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor""".split()
# Operators that are folded, with a result that may differ in its last digits.
ROUNDED_OPS = """Acos Acosh Asin Asinh Atan Atanh Celu Cos Cosh CumProd CumSum Elu Erf Exp Gelu Gemm HardSigmoid
    HardSwish Log LogSoftmax MatMul Mean Mish Pow Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMean
    ReduceProd ReduceSum ReduceSumSquare Selu Shrink Sigmoid Sin Sinh Softmax Softplus Softsign Sum Swish Tan
    Tanh""".split()

@functools.cache
def cases() -> dict[str, onnx.backend.test.case.test_case.TestCase]:
    """The node tests of the standard, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        # Overflow is what some of them are about.
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    return {case.name: case for case in found}
