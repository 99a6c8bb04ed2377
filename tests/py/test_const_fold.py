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


def single_node_cases() -> list[str]:
    folded = set(EXACT + ROUNDED_OPS)
    nodes = {name: case.model.graph.node for name, case in cases().items()}
    return sorted(name for name, node in nodes.items() if len(node) == 1 and node[0].op_type in folded)


def constant_model(case, data: tuple) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    """The model of `case` with its inputs as constants, and what its outputs are to be."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    # Up to version 3 constants would be inputs.
    model.ir_version = max(model.ir_version, 4)
    graph = model.graph
    given, expected = data
    nodes = list(graph.node)
    del graph.node[:]
    for info, value in zip(graph.input, given, strict=True):
        if isinstance(value, list):
            parts = [f"{info.name}_{i}" for i in range(len(value))]
            graph.initializer.extend(as_tensor(v, p) for v, p in zip(value, parts, strict=True))
            graph.node.append(helper.make_node("SequenceConstruct", parts, [info.name]))
        else:
            graph.initializer.append(as_tensor(value, info.name, info.type.tensor_type.elem_type))
    del graph.input[:]
    graph.node.extend(nodes)
    outputs = list(graph.output)
    del graph.output[:]
    wanted = []
    for info, value in zip(outputs, expected, strict=True):
        if not isinstance(value, list):
            graph.output.append(info)
            wanted.append(value)
            continue
        for i, element in enumerate(value):
            at, name = f"{info.name}_at_{i}", f"{info.name}_{i}"
            graph.initializer.append(numpy_helper.from_array(np.array(i), at))
            graph.node.append(helper.make_node("SequenceAt", [info.name, at], [name]))
            dtype = helper.np_dtype_to_tensor_dtype(element.dtype)
            graph.output.append(helper.make_tensor_value_info(name, dtype, element.shape))
            wanted.append(element)
    return model, wanted


def as_tensor(value, name: str, dtype: int = 0) -> TensorProto:
    if isinstance(value, TensorProto):
        tensor = TensorProto()
        tensor.CopyFrom(value)
        tensor.name = name
        return tensor
    return numpy_helper.from_array(np.asarray(value), name)


def comparable(value) -> np.ndarray:
    if isinstance(value, TensorProto):
        value = numpy_helper.to_array(value)
    return np.asarray(value)


def assert_equal(found: np.ndarray, expected: np.ndarray, exact: bool) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype or expected.dtype.kind in "OUS"
    if expected.dtype.kind in "OUS":
        texts = [v.decode() if isinstance(v, bytes) else str(v) for v in found.flatten()]
        assert texts == [v.decode() if isinstance(v, bytes) else str(v) for v in expected.flatten()]
    elif exact or expected.dtype.kind in "biu":
        assert np.array_equal(found.view(), expected) or np.array_equal(
            found.astype(np.float64), expected.astype(np.float64), equal_nan=True
        )
    else:
        half = expected.dtype.itemsize < 4
        f, e = found.astype(np.float64), expected.astype(np.float64)
        scale = np.abs(e[np.isfinite(e)]).max(initial=1e-30)
        np.testing.assert_allclose(f, e, rtol=0, atol=scale * (ROUNDED_HALF if half else ROUNDED))


def fold(onnxq: harness.Onnxq, model: onnx.ModelProto, passes: str = "const-fold") -> onnx.ModelProto:
    harness.save(model, onnxq.dir / "in.onnx")
    onnxq.ok("opt", "in.onnx", "-o", "out.onnx", "--passes", passes)
    return onnx.load(onnxq.dir / "out.onnx")


# Vectors of operators that are folded, in forms that are not, and why.
NAN = "float4e2m1 has no NaN; the vector has what one library makes of it"
NOT_FOLDED = {
    f"test_{cast}_{source}_to_FLOAT4E2M1{form}": NAN
    for cast, form in [("cast", ""), ("castlike", ""), ("castlike", "_expanded")]
    for source in ["FLOAT", "FLOAT16"]
}


@pytest.mark.parametrize("name", single_node_cases())
def test_vectors_of_the_standard(name: str, onnxq: harness.Onnxq) -> None:
    case = cases()[name]
    exact = case.model.graph.node[0].op_type in EXACT
    model, wanted = constant_model(case, case.data_sets[0])
    folded = fold(onnxq, model, "const-fold{grow}")
    if name in NOT_FOLDED:
        assert folded.graph.node, "it is folded now"
        return
    assert not folded.graph.node, [n.op_type for n in folded.graph.node]
    constants = {t.name: numpy_helper.to_array(t) for t in folded.graph.initializer}
    for info, expected in zip(model.graph.output, wanted, strict=True):
        assert_equal(constants[info.name], comparable(expected), exact)
