"""`const-fold` at the edges: forms that the standard leaves open, long chains, and memory."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper

import harness
from builders import GraphBuilder
from test_const_fold import feeds_of, fold, peak_memory

LARGEST = {32: 2**31 - 1, 64: 2**63 - 1}


def assert_equal(onnxq: harness.Onnxq, model: onnx.ModelProto, passes: str = "const-fold") -> onnx.ModelProto:
    """What ONNX Runtime makes of the model before and after is the same to the bit."""
    folded = fold(onnxq, model, passes)
    feeds = feeds_of(model)
    before = harness.run_model(onnxq.dir / "in.onnx", feeds, opts=False)
    after = harness.run_model(onnxq.dir / "out.onnx", feeds, opts=False)
    for output, expected in before.items():
        np.testing.assert_array_equal(after[output], expected, err_msg=output, strict=True)
    return folded


def test_slices_of_all_kinds(onnxq: harness.Onnxq) -> None:
    g = GraphBuilder()
    g.input("x", [1])
    g.weight("data", np.arange(4, dtype=np.int64))
    g.weight("axes", np.array([0]))
    places = [-LARGEST[64], -LARGEST[32], -100, -5, -4, -2, -1, 0, 1, 3, 4, 5, 100, *LARGEST.values()]
    steps = [1, 2, 3, 5, 100, -1, -2, -3, -5, -100]
    for place in {*places, *steps}:
        g.weight(f"n{place}", np.array([place]))
    for i, (start, end, step) in enumerate(itertools.product(places, places, steps)):
        g.output(f"y{i}", [f"d{i}"], TensorProto.INT64)
        g.node("Slice", "data", f"n{start}", f"n{end}", "axes", f"n{step}", out=f"y{i}")
    folded = assert_equal(onnxq, g.model())
    left = len(folded.graph.node)
    assert left == len(places) * 2 * sum(s < 0 for s in steps), "only backward to the largest integer"


# Forms of constants that the standard does not define, or that runtimes take in another way: the
# type of the result, and the nodes.
OPEN = {
    "NonZero of a scalar": ("int64", "<float a = {2.0}> { y = NonZero (a) }"),
    "Squeeze of no axes": ("float", "<float[1,2,1] a = {1,2}, int64[0] n = {}> { y = Squeeze (a, n) }"),
    "Squeeze after Unsqueeze": (
        "float",
        """<int64[0] n = {}, int64[1] one = {1}, int64[3] s = {1,2,1}> { a = Reshape (x, s)
        b = Unsqueeze (a, n)  c = Squeeze (b, n)  d = Unsqueeze (c, one)  y = Squeeze (d, n) }""",
    ),
    "Clip to NaN": ("float", "<float[2] a = {1,2}, float n = {NaN}> { y = Clip (a, n) }"),
    "the greatest with NaN": (
        "float",
        """<float[2] a = {1,NaN}, int64[2] i = {0,1}, float[2] u = {NaN,2}>
        { y = ScatterElements <reduction = "max"> (a, i, u) }""",
    ),
    "large powers": ("int64", "<int64[3] a = {3,-7,10}, int64[3] e = {39,21,18}> { y = Pow (a, e) }"),
    "small powers": ("int64", "<int64[4] a = {3,-7,10,0}, int64[4] e = {20,5,15,0}> { y = Pow (a, e) }"),
    "powers of int32": ("int32", "<int32[2] a = {3,-2}, int32[2] e = {25,31}> { y = Pow (a, e) }"),
    "a position of one element": (
        "float",
        """<float[2,2] a = {1,2,3,4}, int64[1] at = {1}>
        { l = SplitToSequence <axis = 0, keepdims = 0> (a)  y = SequenceAt (l, at) }""",
    ),
} | {
    f"{mode} {pads}": (
        "float",
        f'<float[4] a = {{1,2,3,4}}, int64[2] p = {{{pads}}}> {{ y = Pad <mode = "{mode}"> (a, p) }}',
    )
    for mode in ["constant", "edge", "wrap", "reflect"]
    for pads in ["1,2", "3,3", "-1,2", "-2,1", "1,-1", "-1,-2", "0,0"]
} | {
    "wrapped around": (
        "float",
        '<float[2] a = {1,2}, int64[2] p = {3,5}> { y = Pad <mode = "wrap"> (a, p) }',
    ),
}


@pytest.mark.parametrize("form", OPEN)
def test_odd_forms(form: str, onnxq: harness.Onnxq) -> None:
    dtype, text = OPEN[form]
    header = '<ir_version: 10, opset_import: ["" : 21]>'
    model = onnx.parser.parse_model(f"{header} g (float[2] x) => ({dtype} y) {text}")
    # No rank is declared.
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert_equal(onnxq, model, "identity,const-fold,identity")


def chain(length: int, elements: int, node) -> onnx.ModelProto:
    g = GraphBuilder()
    g.input("x", [elements])
    g.weight("v0", np.random.default_rng(0).standard_normal(elements).astype(np.float32))
    for i in range(length):
        node(g, f"v{i}", f"v{i + 1}")
    g.output("y", [elements])
    g.node("Add", "x", f"v{length}", out="y")
    return g.model()


CHAINS = {
    "pieces": (2000, lambda g, a, b: g.node("Neg", a, out=b)),
    # Each recipe would compute the one before twice, and that one twice the one before it.
    "pieces, twice": (200, lambda g, a, b: g.node("Max", a, a, out=b)),
    "whole": (2000, lambda g, a, b: g.node("Concat", a, out=b, axis=0)),
}


@pytest.mark.parametrize("kind", CHAINS)
def test_long_chains(kind: str, onnxq: harness.Onnxq) -> None:
    # 80 kB are more than is held without asking; 2000 recipes in each other overflow a stack.
    length, node = CHAINS[kind]
    model = chain(length, 20_000, node)
    folded = assert_equal(onnxq, model)
    assert [n.op_type for n in folded.graph.node] == ["Add"]


def test_many_branches(onnxq: harness.Onnxq) -> None:
    count = 1000
    g = GraphBuilder()
    g.input("x", [2])
    g.weight("p", np.array(True))
    g.output("y", [2])
    for i in range(count):
        # The same names in all branches.
        of = {
            name: helper.make_graph(
                [helper.make_node("Abs", ["x"], ["a"], "n"), helper.make_node(op, ["a"], ["b"], "m")],
                name,
                [],
                [helper.make_tensor_value_info("b", TensorProto.FLOAT, [2])],
            )
            for name, op in [("then_branch", "Neg"), ("else_branch", "Exp")]
        }
        g.node("If", "p", out=f"r{i}", **of)
    g.node("Sum", *(f"r{i}" for i in range(count)), out="y")
    folded = assert_equal(onnxq, g.model())
    assert sorted({n.op_type for n in folded.graph.node}) == ["Abs", "Neg", "Sum"]
    assert len(folded.graph.node) == 2 * count + 1


LARGE = {
    "Slice": (["w", "back", "front", "zero", "back"], TensorProto.UINT8),
    "Where": (["c", "w", "w"], TensorProto.UINT8),
    "Transpose": (["cube"], TensorProto.UINT8),
    "CumSum": (["i", "zero"], TensorProto.INT32),
    "ReduceMax": (["cube", "zero"], TensorProto.UINT8),
}


@pytest.mark.parametrize("op", LARGE)
def test_memory_of_large_constants(op: str, onnxq: harness.Onnxq) -> None:
    # 8 MB of elements of a byte: a list of their places would be 64 MB.
    operands, dtype = LARGE[op]
    rng = np.random.default_rng(0)
    w = rng.integers(0, 255, 1 << 23, dtype=np.uint8)
    constants = {
        "w": w,
        "c": w > 3,
        "cube": w.reshape(128, 256, 256),
        "i": w[: 1 << 21].astype(np.int32),
        "back": np.array([-1]),
        "front": np.array([-(2**62)]),
        "zero": np.array([0]),
    }
    g = GraphBuilder()
    g.input("x", [1])
    for name in dict.fromkeys(operands):
        g.weight(name, constants[name])
    g.output("y", ["a"] if op not in ("Transpose", "ReduceMax") else ["a", "b", "c"], dtype)
    attributes = {"perm": [2, 1, 0]} if op == "Transpose" else {}
    g.node(op, *operands, out="y", **attributes)
    harness.save(g.model(21, 10), onnxq.dir / "in.onnx")
    peak = peak_memory(onnxq, ["opt", "in.onnx", "-o", "out.onnx", "--passes", "const-fold{grow}"])
    # Operands, as they lie in the mapped file, the result, and the program itself.
    assert peak < 60e6, f"{peak / 1e6:.1f} MB"
    assert not onnx.load(onnxq.dir / "out.onnx").graph.node
