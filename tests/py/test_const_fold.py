"""`const-fold`: what the compiler computes is what the ONNX standard and ONNX Runtime compute."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import warnings

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

import harness
from builders import FLOAT16, GraphBuilder

# A transcendental function is computed in double and rounded once; the vectors come from NumPy,
# which computes in float and errs by a few units of the last of its 24 bits, more in sums. Of
# the largest element, because what cancels leaves the error of what it was made of.
ROUNDED = 2e-6
# The same for half precision: the vectors were computed in it, with a rounding at each step.
ROUNDED_HALF = 4e-3
# A bfloat16 has 8 bits: two units.
ROUNDED_BFLOAT = 2.0**-7

# Operators that are folded, and whose results the standard fixes to the last bit.
EXACT = """
    Abs Add And ArgMax ArgMin BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast
    CastLike Ceil Clip Compress Concat ConcatFromSequence Constant ConstantOfShape DepthToSpace Div
    Equal Expand EyeLike Flatten Floor Gather GatherElements GatherND Greater GreaterOrEqual Hardmax
    Identity IsInf IsNaN LeakyRelu Less LessOrEqual Max Min Mod Mul Neg NonZero Not OneHot Or PRelu
    Pad Reciprocal ReduceMax ReduceMin Relu Reshape ReverseSequence Round ScatterElements ScatterND
    SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength Shape
    Sign Size Slice SpaceToDepth Split SplitToSequence Sqrt Squeeze Sub ThresholdedRelu Tile TopK
    Transpose Trilu Unsqueeze Where Xor
""".split()
# Operators that are folded, with a result that may differ in its last digits.
ROUNDED_OPS = """
    Acos Acosh Asin Asinh Atan Atanh Celu Cos Cosh CumProd CumSum Elu Erf Exp Gelu Gemm HardSigmoid
    HardSwish Log LogSoftmax MatMul Mean Mish Pow Range ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMean ReduceProd ReduceSum ReduceSumSquare Selu Shrink Sigmoid Sin Sinh
    Softmax Softplus Softsign Sum Swish Tan Tanh
""".split()

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


def assert_equal(found: np.ndarray, expected: np.ndarray, exact: bool, rounded: float = ROUNDED) -> None:
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
        if expected.dtype.itemsize < 4:
            rounded = ROUNDED_BFLOAT if expected.dtype.name == "bfloat16" else ROUNDED_HALF
        f, e = found.astype(np.float64), expected.astype(np.float64)
        scale = np.abs(e[np.isfinite(e)]).max(initial=1e-30)
        np.testing.assert_allclose(f, e, rtol=0, atol=scale * rounded)


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


# Functions of the standard, spelled out in operators that round at each step.
SPELLED_OUT = 2e-5


def spelled_out_cases() -> list[str]:
    """Models of several nodes, all of operators that are folded."""
    folded = set(EXACT + ROUNDED_OPS)
    models = {name: case.model.graph.node for name, case in cases().items()}
    several = {name: nodes for name, nodes in models.items() if len(nodes) > 1}
    return sorted(name for name, nodes in several.items() if {n.op_type for n in nodes} <= folded)


@pytest.mark.parametrize("name", spelled_out_cases())
def test_vectors_of_functions(name: str, onnxq: harness.Onnxq) -> None:
    case = cases()[name]
    model, wanted = constant_model(case, case.data_sets[0])
    # Some have nodes that nothing reads.
    folded = fold(onnxq, model, "const-fold{grow},dce")
    assert not folded.graph.node, [n.op_type for n in folded.graph.node]
    constants = {t.name: numpy_helper.to_array(t) for t in folded.graph.initializer}
    for info, expected in zip(model.graph.output, wanted, strict=True):
        assert_equal(constants[info.name], comparable(expected), False, SPELLED_OUT)


HEADER = '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>\n'

# Every interesting form, in ONNX's textual syntax, and the operators that are left.
MODELS = {
    "arithmetic": (
        """g (float[2] x) => (float[2] y) <float[2] A = {1,2}, float[2] B = {3,4}> {
        a = Mul (A, B)  b = Exp (a)  c = Sub (b, A)  y = Add (x, c) }""",
        ["Add"],
    ),
    "if_then": (
        """g (float[2] x) => (float[2] y, float[2] z) <bool c = {1}, float[2] A = {1,2}> {
        n = Neg (x)
        y, z = If (c) <then_branch = t () => (float[2] a, float[2] b) <float[2] B = {3,4}> {
                        a = Mul (n, B)  b = Add (a, A) },
                    else_branch = e () => (float[2] d, float[2] d2) { d = Abs (x)  d2 = Abs (d) }>  }""",
        ["Neg", "Mul", "Add"],
    ),
    "if_nested": (
        """g (float[2] x, bool p) => (float[2] y) <bool c = {0}> {
        y = If (p) <then_branch = t () => (float[2] a) {
            a = If (c) <then_branch = tt () => (float[2] k) { k = Neg (x) },
                        else_branch = te () => (float[2] l) { m = Abs (x)  l = Mul (m, x) }> },
            else_branch = e () => (float[2] d) { d = Sigmoid (x) }>  }""",
        ["If"],
    ),
    "branch_of_a_constant": (
        """g (float[2] x, bool p) => (float[2] y) <float[2] A = {1,2}> {
        s = If (p) <then_branch = t () => (float[2] a) { a = Neg (A) },
                    else_branch = e () => (float[2] d) { d = Constant <value_floats = [7.0, 8.0]> () }>
        y = Add (s, x) }""",
        ["If", "Add"],
    ),
    "captures": (
        """g (float[2] x, bool p) => (float[2] y) <float[2] A = {1,2}> {
        B = Neg (A)
        y = If (p) <then_branch = t () => (float[2] a) { k = Mul (B, B)  a = Add (k, x) },
                    else_branch = e () => (float[2] d) { k2 = Sub (B, A)  d = Add (k2, x) }>  }""",
        ["If"],
    ),
    "loop": (
        """g (float[2] x, int64 n) => (float[2] y) <float[2] A = {1,2}> {
        c = Constant <value = bool {1}> ()
        y = Loop (n, c, x) <body = b (int64 i, bool k, float[2] h) => (bool k2, float[2] h2) {
            k2 = Constant <value = bool {1}> ()  B = Neg (A)  h2 = Add (h, B) }> }""",
        ["Loop"],
    ),
    "function": (
        """g (float[2] x) => (float[2] y) { y = local.f (x) }
        <domain: "local", opset_import: ["" : 17]> f (x) => (z) {
            two_and_three = Constant <value_floats = [2.0, 3.0]> ()
            two_and_three_exp = Exp (two_and_three)  z = Mul (x, two_and_three_exp) }""",
        ["f"],
    ),
    "unused_output": (
        """g (float[3,2] x) => (float[2] y, int64[1,2] i) <float[3,2] A = {1,6,5,2,3,4}, int64[1] k = {1}> {
        values, places = TopK <axis = 0> (A, k)  v, i = TopK <axis = 0> (x, k)
        sum = Add (values, v)  zero = Constant <value_ints = [0]> ()  y = Squeeze (sum, zero) }""",
        ["TopK", "Add", "Squeeze"],
    ),
    "defaults": (
        """g (float[2] x, float[2] A) => (float[2] y) <float[2] A = {1,2}, float[2] B = {1,2}> {
        a = Neg (A)  b = Neg (B)  c = Add (a, b)  y = Add (x, c) }""",
        ["Neg", "Add", "Add"],
    ),
    "sequences": (
        """g (float[2] x) => (float[2] y) <int64 one = {1}, float[4] A = {1,2,3,4}, int64[2] parts = {2,2}> {
        s = SequenceConstruct (x, x, x)  a = SequenceAt (s, one)  b = Neg (a)
        t = SplitToSequence (A, parts)  c = SequenceAt (t, one)  y = Mul (b, c) }""",
        ["Neg", "Mul"],
    ),
    "shapes": (
        """g (float[b,2,3] x) => (float[b,6] y) <int64 one = {1}, int64 two = {2}, int64[1] minus = {-1},
        int64[1] at = {0}> {
        s = Shape (x)  h = Gather (s, one)  w = Gather (s, two)  n = Mul (h, w)  u = Unsqueeze (n, at)
        c = Concat <axis = 0> (minus, u)  y = Reshape (x, c) }""",
        ["Reshape"],
    ),
    "outputs": (
        """g (float[2] x) => (float[2] y, float[2] z, int64[2] w) <float[2] A = {1,2}> {
        y = Neg (A)  z = Add (x, y)  w = Constant <value_ints = [1, 2]> () }""",
        ["Add"],
    ),
    "mask": (
        """g (float[4,4] x) => (float[4,4] y) <int64[2] s = {4,4}, float low = {-1e9}, int64 zero = {0}> {
        one = ConstantOfShape <value = float[1] {1.0}> (s)  t = Trilu <upper = 0> (one)
        h = Sub (one, t)  m = Mul (h, low)  y = Add (x, m) }""",
        None,
    ),
}


def size(model: onnx.ModelProto) -> int:
    """Bytes of the file, without what the compiler records of itself."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    return bare.ByteSize()


def feeds_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    given = {"p": np.array(True), "n": np.array(3)}
    rng = np.random.default_rng(0)
    feeds = {}
    for info in model.graph.input:
        shape = [d.dim_value or 2 for d in info.type.tensor_type.shape.dim]
        random = rng.standard_normal(shape).astype(np.float32)
        feeds[info.name] = given.get(info.name, random)
    return feeds


@pytest.mark.parametrize("name", MODELS)
def test_onnxruntime_computes_the_same(name: str, onnxq: harness.Onnxq) -> None:
    text, left = MODELS[name]
    model = onnx.parser.parse_model(HEADER + text)
    folded = fold(onnxq, model)
    onnx.checker.check_model(folded, full_check=True)
    assert left is None or [n.op_type for n in folded.graph.node] == left
    assert size(folded) <= size(model)
    feeds = feeds_of(model)
    both_branches = [{"p": np.array(p)} for p in (True, False)] if "p" in feeds else [{}]
    for branch in both_branches:
        assert_same(onnxq, feeds | branch)


def assert_same(onnxq: harness.Onnxq, feeds: dict[str, np.ndarray]) -> None:
    before = harness.run_model(onnxq.dir / "in.onnx", feeds, opts=False)
    after = harness.run_model(onnxq.dir / "out.onnx", feeds, opts=False)
    for output, expected in before.items():
        # `Exp` is rounded once here; the runtime may err by a unit or two of the last place.
        np.testing.assert_allclose(after[output], expected, rtol=3e-7, atol=0)


def test_expanded_constants_do_not_grow_the_file(onnxq: harness.Onnxq) -> None:
    text = """g (float[256,256] x) => (float[256,256] y, float[1,2] z) <int64[2] s = {256,256},
        int64[2] r = {64,64}, float[4,4] A = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}, float one = {1},
        int64 zero = {0}, int64[1] four = {4},
        int64[1] none = {0}, int64[2] rows = {0,1}, int64[2] last = {1,2}, int64[2] first = {0,0}> {
        a = Tile (A, r)  b = Expand (one, s)  c = ConstantOfShape (s)  d = Add (x, a)  e = Mul (d, b)
        y = Add (e, c)  t = Slice (a, first, last)  z = Neg (t) }"""
    model = onnx.parser.parse_model(HEADER + text)
    folded = fold(onnxq, model)
    assert size(folded) <= size(model)
    assert [n.op_type for n in folded.graph.node] == "Tile Expand ConstantOfShape Add Mul Add".split()
    feeds = {"x": np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)}
    before = harness.run_model(onnxq.dir / "in.onnx", feeds, opts=False)
    after = harness.run_model(onnxq.dir / "out.onnx", feeds, opts=False)
    for output, expected in before.items():
        np.testing.assert_array_equal(after[output], expected)


@pytest.mark.parametrize(
    "body",
    [
        "a = Div (one, none)  y = Add (a, x)",
        "a = Mod (one, none)  y = Add (a, x)",
        "a = Gather (one, far)  y = Add (a, x)",
        "a = Reshape (one, far)  y = Add (a, x)",
        "a = Concat <axis = 3> (one, one)  y = Add (a, x)",
    ],
)
def test_what_fails_is_left_to_the_runtime(body: str, onnxq: harness.Onnxq) -> None:
    constants = "int64[1] one = {1}, int64[1] none = {0}, int64[1] far = {7}"
    text = f"g (int64[1] x) => (int64[k] y) <{constants}> {{ {body} }}"
    model = onnx.parser.parse_model(HEADER + text)
    folded = fold(onnxq, model)
    assert [n.op_type for n in folded.graph.node] == [n.op_type for n in model.graph.node]


def weights_model(rows: int, columns: int) -> onnx.ModelProto:
    """Weights of which one is transposed, one cast, one scaled and transposed."""
    g = GraphBuilder()
    g.input("x", [1, columns])
    g.output("y", [1, rows])
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((rows, columns)).astype(np.float32)
    g.weight("W", weight)
    g.weight("V", weight[::-1].copy())
    g.weight("half", (weight * 0.5).astype(np.float16))
    g.weight("two", np.array(2, np.float32))
    g.node("Transpose", "W", out="Wt", perm=[1, 0])
    g.node("Mul", "V", "two", out="V2")
    g.node("Transpose", "V2", out="Vt", perm=[1, 0])
    g.node("Transpose", "half", out="halft", perm=[1, 0])
    g.node("MatMul", "x", "Wt", out="a")
    g.node("MatMul", "x", "Vt", out="b")
    g.node("Cast", "x", out="xh", to=FLOAT16)
    g.node("MatMul", "xh", "halft", out="ch")
    g.node("Cast", "ch", out="c", to=TensorProto.FLOAT)
    g.node("Add", "a", "b", out="d")
    g.node("Add", "d", "c", out="y")
    return g.model()


def test_weights_are_rearranged_in_pieces(onnxq: harness.Onnxq) -> None:
    # 134 MB of weights, of which no more than some pieces may be in memory.
    model = weights_model(4096, 4096)
    harness.save(model, onnxq.dir / "in.onnx")
    arguments = ["opt", "in.onnx", "-o", "out.onnx", "--passes", "const-fold"]
    peak = peak_memory(onnxq, arguments)
    # Two threads with pieces of 4 MB and what they read, and the program itself.
    assert peak < 60e6, f"{peak / 1e6:.1f} MB"
    folded = onnx.load(onnxq.dir / "out.onnx")
    assert size(folded) <= size(model)
    assert [n.op_type for n in folded.graph.node] == "MatMul MatMul Cast MatMul Cast Add Add".split()
    found = {t.name: numpy_helper.to_array(t) for t in folded.graph.initializer}
    given = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    np.testing.assert_array_equal(found["Wt"], given["W"].T)
    np.testing.assert_array_equal(found["Vt"], given["V"].T * np.float32(2))
    np.testing.assert_array_equal(found["halft"], given["half"].T)


def peak_memory(onnxq: harness.Onnxq, arguments: list[str]) -> int:
    """Peak resident memory of a run on two threads, in bytes."""
    if sys.platform != "linux":
        harness.cannot_run("peak memory is read as Linux tells it")
    # A process counts the memory of the one that started it, so that has to be small.
    starter = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, capture_output=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [sys.executable, "-S", "-c", starter, *onnxq.command(*arguments)]
    environment = {**os.environ, "RAYON_NUM_THREADS": "2"}
    done = subprocess.run(command, cwd=onnxq.dir, check=True, capture_output=True, env=environment)
    return int(done.stdout) * 1024


def test_a_second_run_changes_nothing(onnxq: harness.Onnxq) -> None:
    for name, (text, _) in MODELS.items():
        fold(onnxq, onnx.parser.parse_model(HEADER + text))
        onnxq.ok("opt", "out.onnx", "-o", "again.onnx", "--passes", "const-fold")
        assert (onnxq.dir / "again.onnx").read_bytes() == (onnxq.dir / "out.onnx").read_bytes(), name


# What has no order, and what has a sign without a size.
ODD = [np.nan, 1.0, -np.inf, -0.0, 0.0, np.inf, -2.5]


@pytest.mark.parametrize("op", ["ArgMin", "ArgMax", "Celu", "Sign", "Sqrt", "Floor", "Round"])
def test_nan_infinity_and_negative_zero(op: str, onnxq: harness.Onnxq) -> None:
    for turned in range(len(ODD)):
        values = np.roll(np.array(ODD, np.float32), turned)
        node = onnx.helper.make_node(op, ["x"], ["y"])
        kind = TensorProto.INT64 if op.startswith("Arg") else TensorProto.FLOAT
        output = onnx.helper.make_tensor_value_info("y", kind, None)
        graph = onnx.helper.make_graph([node], "g", [], [output], [numpy_helper.from_array(values, "x")])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
        folded = fold(onnxq, model)
        assert not folded.graph.node
        found = numpy_helper.to_array(folded.graph.initializer[0])
        [expected] = harness.run_model(onnxq.dir / "in.onnx", {}, opts=False).values()
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))
