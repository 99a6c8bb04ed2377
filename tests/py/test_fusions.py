"""The fusions against ONNX Runtime without optimizations, which is the meaning of the model.

`fuse-pad` and `fuse-reduce` are exact to the bit. The others compute constants in advance, or let
the runtime add in another order: their results may differ by a few roundings.
"""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from onnx.reference import ReferenceEvaluator

import harness
from agreement import assert_same
from builders import DOUBLE, FLOAT, FLOAT16, INT32, INT64, NUMPY_TYPES, GraphBuilder, random

# Units in the last place of the largest number of the result. The original rounds at each of some
# ten products and five steps, the result at the products; measured: 3 at most.
ROUNDINGS = 8


def optimize(onnxq: harness.Onnxq, model: ModelProto, passes: str) -> ModelProto:
    harness.save(model, onnxq.dir / "in.onnx")
    onnxq.ok("opt", "in.onnx", "-o", "out.onnx", "--passes", passes, "--verify-each")
    result = onnx.load(onnxq.dir / "out.onnx")
    onnx.checker.check_model(result, full_check=True)
    return result


def ops(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def run_both(before: ModelProto, after: ModelProto, feeds: dict[str, np.ndarray]) -> list[dict]:
    return [harness.run_model(m.SerializeToString(), feeds, opts=False) for m in (before, after)]


def assert_rounds_alike(before: ModelProto, after: ModelProto, feeds: dict[str, np.ndarray]) -> None:
    given, found = run_both(before, after, feeds)
    assert list(found) == list(given)
    for name, wanted in given.items():
        got = found[name]
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
        unit = np.finfo(got.dtype).eps / 2
        off = np.abs(np.float64(got) - np.float64(wanted)).max(initial=0)
        assert off <= ROUNDINGS * unit * np.abs(wanted).max(initial=0), f"`{name}`: off by {off:.3e}"


# --- fuse-batch-norm


class Product:
    """A product, what follows it, and inputs."""

    def __init__(self, kind: str, dtype: int, opset: int, bias: bool):
        self.b, self.kind, self.dtype, self.opset = GraphBuilder(), kind, dtype, opset
        self.feeds: dict[str, np.ndarray] = {}
        self.channels = 4
        getattr(self, kind)(bias)

    def array(self, *shape: int, seed: int = 1) -> np.ndarray:
        return (random(*shape, seed=seed) / 2).astype(NUMPY_TYPES[self.dtype])

    def input(self, *shape: int) -> str:
        self.feeds["x"] = self.array(*shape, seed=9)
        return self.b.input("x", ["N", *shape[1:]], self.dtype)

    def product(self, op: str, x: str, weight: tuple[int, ...], bias: bool, **attrs) -> None:
        operands = [x, self.b.weight("w", self.array(*weight))]
        if bias:
            operands.append(self.b.weight("b", self.array(self.channels)))
        self.b.node(op, *operands, out="h", **attrs)

    def conv(self, bias: bool) -> None:
        self.product("Conv", self.input(2, 2, 5, 5), (4, 1, 3, 3), bias, group=2, pads=[1, 0, 1, 2])
        self.ones = (1, 1)

    def conv1d(self, bias: bool) -> None:
        self.product("Conv", self.input(2, 2, 5), (4, 2, 3), bias, strides=[2])
        self.ones = (1,)

    def transposed(self, bias: bool) -> None:
        self.product("ConvTranspose", self.input(2, 4, 3, 3), (4, 2, 2, 2), bias, group=2, strides=[2, 2])
        self.ones = (1, 1)

    def gemm(self, bias: bool) -> None:
        operand = self.input(3, 5)
        flags = {"alpha": 0.5, "beta": 2.0} if bias else {}
        self.product("Gemm", operand, (4, 5), bias or self.opset < 11, transB=1, **flags)
        self.ones = ()

    def matmul(self, bias: bool) -> None:
        self.product("MatMul", self.input(3, 5), (5, 4), False)
        self.ones = ()

    def normalize(self, x: str, out: str) -> None:
        n = self.channels
        parameters = [self.array(n, seed=s) for s in (2, 3, 4)] + [np.abs(self.array(n, seed=5)) + 0.1]
        names = [f"{out}_{p}" for p in ("scale", "bias", "mean", "var")]
        for name, value in zip(names, parameters, strict=True):
            self.b.weight(name, np.asarray(value, NUMPY_TYPES[self.dtype]))
        self.b.node("BatchNormalization", x, *names, out=out, epsilon=1e-3)

    def follow(self, steps: str) -> ModelProto:
        """`n` normalizes; `*`, `/`, `+`, `-` take a constant a channel, `r` subtracts from one."""
        value = "h"
        for i, step in enumerate(steps):
            out = f"v{i}"
            if step == "n":
                self.normalize(value, out)
            else:
                shape = [(self.channels, *self.ones), (1, self.channels, *self.ones), ()][i % 3]
                c = self.b.weight(f"c{i}", np.abs(self.array(*shape, seed=i)) + 0.5, self.dtype)
                op = {"*": "Mul", "/": "Div", "+": "Add", "-": "Sub", "r": "Sub"}[step]
                self.b.node(op, *([c, value] if step == "r" else [value, c]), out=out)
            value = out
        self.b.output(value, [None] * (2 + len(self.ones)), self.dtype)
        ir = 8 if self.opset < 19 else 10
        return self.b.model(self.opset, ir)


KINDS = ["conv", "conv1d", "transposed", "gemm", "matmul"]


@pytest.mark.parametrize(("kind", "bias"), list(itertools.product(KINDS, [False, True])))
@pytest.mark.parametrize("steps", ["n", "*n", "n+", "*", "/-", "r*n", "n/r"])
def test_channels_into_weights(kind, bias, steps, onnxq):
    product = Product(kind, FLOAT, 17, bias)
    before = product.follow(steps)
    after = optimize(onnxq, before, "fuse-batch-norm")
    gemm = kind == "matmul" and steps != "*"
    expected = {"conv1d": "Conv", "transposed": "ConvTranspose", "conv": "Conv", "gemm": "Gemm"}
    assert ops(after) == ["Gemm" if gemm else expected.get(kind, "MatMul")]
    assert_rounds_alike(before, after, product.feeds)


@pytest.mark.parametrize(("kind", "opset"), list(itertools.product(KINDS, [7, 9, 14, 15, 21])))
def test_every_version(kind, opset, onnxq):
    product = Product(kind, FLOAT, opset, True)
    before = product.follow("n*")
    after = optimize(onnxq, before, "fuse-batch-norm")
    assert len(ops(after)) == 1
    assert_rounds_alike(before, after, product.feeds)


@pytest.mark.parametrize("dtype", [FLOAT16, DOUBLE])
def test_other_types(dtype, onnxq):
    product = Product("conv", dtype, 17, True)
    before = product.follow("n")
    after = optimize(onnxq, before, "fuse-batch-norm")
    assert ops(after) == ["Conv"]
    if dtype == DOUBLE:
        # ONNX Runtime has no convolution in double precision.
        reference, found = (
            ReferenceEvaluator(model).run(None, product.feeds)[0] for model in (before, after)
        )
        # Some ten roundings.
        np.testing.assert_allclose(found, reference, rtol=1e-14, atol=1e-14)
        return
    assert_same(*run_both(before, after, product.feeds), exact=False)


def test_large_weights_are_streamed(onnxq):
    """Larger than a tile of the recipe, with every channel layout that has runs of its own."""
    b = GraphBuilder()
    x = b.input("x", [1, 300, 3, 3])
    w = b.weight("w", random(300, 400, 1, 3, scale=0.05))
    v = b.weight("v", random(7200, 30, scale=0.02))
    s, c = b.weight("s", random(400, 1, 1)), b.weight("c", random(30))
    h = b.node("ConvTranspose", x, w, out="h", strides=[1, 2])
    i = b.node("Mul", h, s, out="i")
    f = b.node("Flatten", b.node("Slice", i, *slices(b), out="j"), out="f")
    m = b.node("MatMul", f, v, out="m")
    b.node("Mul", m, c, out="y")
    b.output("y", [None, None])
    before = b.model()
    after = optimize(onnxq, before, "fuse-batch-norm")
    assert ops(after) == ["ConvTranspose", "Slice", "Flatten", "MatMul"]
    feeds = {"x": random(1, 300, 3, 3)}
    assert_same(*run_both(before, after, feeds), exact=False)


def slices(b: GraphBuilder) -> list[str]:
    return [b.weight(n, np.array([k])) for n, k in (("from", 0), ("to", 6), ("axis", 3))]


# --- fuse-gemm


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 21])
@pytest.mark.parametrize("shape", [(4,), (1, 4), (1,), (), (3, 1), (3, 4)])
def test_gemm(opset, shape, onnxq):
    b = GraphBuilder()
    x = b.input("x", [3, 64])
    t = b.node("Transpose", b.weight("w", random(4, 64)), out="t", perm=[1, 0])
    h = b.node("MatMul", x, t, out="h")
    b.node("Add", b.weight("c", random(*shape)), h, out="y")
    b.output("y", [3, 4])
    before = b.model(opset)
    after = optimize(onnxq, before, "fuse-gemm")
    assert ops(after) == ["Gemm"]
    assert_rounds_alike(before, after, {"x": random(3, 64, seed=3)})
    # The quantizer takes what comes out.
    onnxq.ok("opt", "out.onnx", "-o", "q.onnx", "--passes", "nbits")
    assert "MatMulNBits" in ops(onnx.load(onnxq.dir / "q.onnx"))


# --- fuse-pad


@pytest.mark.parametrize("opset", [10, 11, 13, 18, 21])
def test_pad(opset, onnxq):
    b = GraphBuilder()
    x = b.input("x", ["N", 2, "H", 5])
    pads = [0, 0, 1, 0, 0, 0, 2, 3]
    operands = [] if opset < 11 else [b.weight("p", np.array(pads))]
    attributes = {"pads": pads} if opset < 11 else {}
    h = b.node("Pad", x, *operands, out="h", **attributes)
    w = b.weight("w", random(3, 2, 3, 3))
    b.node("Conv", h, w, out="y", pads=[0, 1, 0, 1], strides=[2, 1], dilations=[1, 2])
    b.output("y", [None] * 4)
    before = b.model(opset)
    after = optimize(onnxq, before, "fuse-pad")
    assert ops(after) == ["Conv"]
    for shape in [(1, 2, 4, 5), (2, 2, 7, 5)]:
        feeds = {"x": random(*shape)}
        assert_same(*run_both(before, after, feeds), exact=True)


# --- fuse-reduce


REDUCTIONS = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("op", [*(f"Reduce{r}" for r in REDUCTIONS), "ArgMax", "ArgMin"])
def test_reduce(opset, op, onnxq):
    b = GraphBuilder()
    x = b.input("x", ["N", 3, "K"])
    arg = op.startswith("Arg")
    as_operand = opset >= (13 if op == "ReduceSum" else 18) and not arg

    def axes(node: str, value: str, out: str, operand: bool, **attrs) -> str:
        if operand:
            return b.node(node, value, b.weight(f"{out}_axes", np.array([-1])), out=out, **attrs)
        return b.node(node, value, out=out, axes=[-1], **attrs)

    for keep, back in ((0, "Unsqueeze"), (1, "Squeeze")):
        if arg:
            h = b.node(op, x, out=f"h{keep}", axis=-1, keepdims=keep)
        else:
            h = axes(op, x, f"h{keep}", as_operand, keepdims=keep)
        y = axes(back, h, f"y{keep}", opset >= 13)
        b.output(y, [None] * (2 + (keep == 0)), INT64 if arg else FLOAT)
    before = b.model(opset)
    after = optimize(onnxq, before, "fuse-reduce")
    assert ops(after) == [op, op]
    for shape in [(2, 3, 4), (1, 3, 1)]:
        feeds = {"x": np.abs(random(*shape))}
        assert_same(*run_both(before, after, feeds), exact=True)


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("index", [1, -1])
def test_gather(opset, index, onnxq):
    b = GraphBuilder()
    x = b.input("x", ["N", 3, "K"])
    for keep, back in ((False, "Unsqueeze"), (True, "Squeeze")):
        i = b.weight(f"i{keep}", np.array([index] if keep else index))
        h = b.node("Gather", x, i, out=f"h{keep}", axis=1)
        operands = [] if opset < 13 else [b.weight(f"axes{keep}", np.array([1]))]
        flags = {"axes": [1]} if opset < 13 else {}
        b.output(b.node(back, h, *operands, out=f"y{keep}", **flags), [None] * (2 + (not keep)))
    before = b.model(opset)
    after = optimize(onnxq, before, "fuse-reduce")
    assert ops(after) == ["Gather", "Gather"]
    assert_same(*run_both(before, after, {"x": random(2, 3, 4)}), exact=True)


# --- reassociate


def row(dtype: int, steps: str, constants: list) -> ModelProto:
    b = GraphBuilder()
    value = b.input("x", ["N", 2], dtype)
    for i, (step, c) in enumerate(zip(steps, constants, strict=True)):
        op = {"*": "Mul", "/": "Div", "+": "Add", "-": "Sub"}[step]
        value = b.node(op, value, b.weight(f"c{i}", np.array(c), dtype), out=f"v{i}")
    b.output(value, ["N", 2], dtype)
    return b.model()


@pytest.mark.parametrize(
    ("steps", "constants"),
    [
        ("**", [0.3, 7.1]),
        ("*/*", [0.3, [7.1, 0.2], 1.7]),
        ("//", [3.0, 7.0]),
        ("/*", [[[3.0, 7.0]], 10.0]),
        ("++", [0.1, 0.7]),
        ("--", [0.1, [0.7, 0.2]]),
    ],
)
def test_floats_in_a_row(steps, constants, onnxq):
    before = row(FLOAT, steps, constants)
    after = optimize(onnxq, before, "reassociate")
    assert len(ops(after)) == 1
    assert_rounds_alike(before, after, {"x": random(50, 2)})


@pytest.mark.parametrize("dtype", [INT32, INT64])
def test_integers_in_a_row(dtype, onnxq):
    top = np.iinfo(NUMPY_TYPES[dtype]).max
    feeds = {"x": np.array([[1, -5], [top, 0]], NUMPY_TYPES[dtype])}
    for steps, constants in [("++", [top, 5]), ("-+-", [5, 3, [7, top]]), ("**", [3, top])]:
        before = row(dtype, steps, constants)
        after = optimize(onnxq, before, "reassociate{rounded=false}")
        assert len(ops(after)) == 1
        assert_same(*run_both(before, after, feeds), exact=True)
