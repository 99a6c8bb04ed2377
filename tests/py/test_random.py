"""Random small models: quantized, they load, answer nearly the same and have the same shapes.

Each graph strings together what `nbits` and `clean` match with what stands around it in real
models: weights shared, tied, transposed, cast and captured, operands on either side, branches,
functions. Codes of 8 bits leave so little error that a wrong operand or layout shows.
"""

from __future__ import annotations

import numpy as np
import pytest
from onnx import GraphProto, ModelProto, helper

import dequant
import harness
from builders import BOOL, DOUBLE, FLOAT, FLOAT16, INT32, INT64, NUMPY_TYPES, GraphBuilder

SEEDS = 400

# Of the largest number of an output. 8 bits give 0.5 % a product, and where products cancel up to
# 10 % (3000 seeds); the weights are normal numbers, so any wrong one gives about 100 %.
BOUND = 0.25


class Random:
    """Builds one graph. Activations are `[M, width]` or `[B, M, width]`, called `rank` 2 and 3."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.b = GraphBuilder()
        self.feeds: dict[str, np.ndarray] = {}
        self.weights: dict[tuple[int, int], list[str]] = {}
        self.count = 0
        self.dtype = self.pick([FLOAT, FLOAT, FLOAT, FLOAT16, DOUBLE])
        self.opset = self.pick([11, 13, 17, 21])
        self.ir = self.pick([3, 4, 8]) if self.opset < 13 else self.pick([7, 8, 10])
        self.widths = [int(w) for w in self.rng.choice([1, 2, 8, 16, 24, 33, 48, 64], 3)]

    def pick(self, items):
        return items[self.rng.integers(len(items))]

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def name(self, what: str) -> str:
        self.count += 1
        return f"{what}{self.count}"

    def array(self, *shape: int) -> np.ndarray:
        scale = 1 / np.sqrt(shape[-2] if len(shape) > 1 else 1)
        return np.asarray(self.rng.standard_normal(shape) * scale, np.float32)

    def const(self, array: np.ndarray, dtype: int | None = None) -> str:
        name = self.name("c")
        if self.chance(0.3):
            return self.b.constant(name, array, dtype)
        return self.b.weight(name, array, dtype, typed=self.chance(0.3))

    def matrix(self, rows: int, cols: int) -> str:
        """A weight, new or one that others read too, maybe on a way through other nodes."""
        known = self.weights.setdefault((rows, cols), [])
        if known and self.chance(0.4):
            return self.pick(known)
        other = self.weights.get((cols, rows), [])
        if other and self.chance(0.5):
            value = self.b.node("Transpose", self.pick(other), out=self.name("t"), perm=[1, 0])
        elif self.chance(0.2):
            stored = self.pick([FLOAT, FLOAT16, DOUBLE])
            value = self.const(self.array(rows, cols), stored)
            value = self.b.node("Cast", value, out=self.name("t"), to=self.dtype)
        else:
            value = self.const(self.array(rows, cols), self.dtype)
        if self.chance(0.15):
            shape = self.pick([[1, rows, -1], [0, -1], [rows, 1, cols]])
            wide = self.b.node("Reshape", value, self.const(np.array(shape), INT64), out=self.name("t"))
            back = self.const(np.array([rows, cols]), INT64)
            value = self.b.node("Reshape", wide, back, out=self.name("t"))
        if self.chance(0.1):
            value = self.b.node("Identity", value, out=self.name("t"))
        known.append(value)
        return value

    def linear(self, x: str, rank: int, width: int) -> tuple[str, int, int]:
        """The result, its rank and its width."""
        to = self.pick(self.widths)
        out = self.name("y")
        kind = self.rng.integers(5)
        if kind == 0 and rank == 2:
            flags = {"transB": int(self.chance(0.5))}
            if self.chance(0.3):
                x = self.b.node("Transpose", x, out=self.name("t"), perm=[1, 0])
                flags["transA"] = 1
            if self.chance(0.4):
                flags["alpha"] = float(self.pick([0.5, 2.0, -1.0]))
            if self.chance(0.4):
                flags["beta"] = float(self.pick([0.5, 2.0, 0.0]))
            w = self.matrix(to, width) if flags["transB"] else self.matrix(width, to)
            operands = [x, w]
            if self.chance(0.7):
                shape = self.pick([(to,), (1, to), (1,), (), (3, 1), (3, to)])
                operands.append(self.const(self.array(*shape), self.dtype))
            self.b.node("Gemm", *operands, out=out, **flags)
        elif kind == 1:
            # A weight on the left of the transposed activations.
            perm = [*range(rank - 2), rank - 1, rank - 2]
            x = self.b.node("Transpose", x, out=self.name("t"), perm=perm)
            shape = ["B", width, 3][3 - rank :]
            self.b.value_info.append(helper.make_tensor_value_info(x, self.dtype, shape))
            left = self.b.node("MatMul", self.matrix(to, width), x, out=self.name("y"))
            self.b.node("Transpose", left, out=out, perm=perm)
        elif kind == 2 and self.chance(0.5):
            shape = ["B", 3, width][3 - rank :]
            if not any(info.name == x for info in [*self.b.value_info, *self.b.inputs]):
                self.b.value_info.append(helper.make_tensor_value_info(x, self.dtype, shape))
            w = self.const(self.array(1, width, to), self.dtype)
            self.b.node("MatMul", x, w, out=out)
            rank = 3
        else:
            self.b.node("MatMul", x, self.matrix(width, to), out=out)
        return out, rank, to

    def branch(self, x: str, width: int, to: int) -> GraphProto:
        """Its weight is its own, or one of the graph around it."""
        outer, self.b = self.b, GraphBuilder()
        known = self.weights.get((width, to), [])
        if known and self.chance(0.5):
            w = self.pick(known)
        elif self.chance(0.5) and self.ir > 3:
            w = self.b.weight(self.name("c"), self.array(width, to), self.dtype)
        else:
            w = self.b.constant(self.name("c"), self.array(width, to), self.dtype)
        y = self.b.node("MatMul", x, w, out=self.name("y"))
        self.b.output(y, None, self.dtype)
        graph = self.b.graph(self.name("branch"))
        self.b = outer
        return graph

    def build(self) -> ModelProto:
        b, width = self.b, self.pick(self.widths)
        results = []
        if self.chance(0.6):
            vocabulary = 7
            indices = self.pick([(3,), (2, 3)])
            dtype = self.pick([INT32, INT64])
            i = b.input("i", indices, dtype)
            self.feeds[i] = self.rng.integers(-vocabulary, vocabulary, indices).astype(NUMPY_TYPES[dtype])
            table = self.matrix(vocabulary, width)
            x, rank = b.node("Gather", table, i, out="e"), len(indices) + 1
            self.widths.append(vocabulary)
        else:
            rank = self.pick([2, 3])
            shape = (2, 3, width)[3 - rank :]
            x = b.input("x", ["B", 3, width][3 - rank :], self.dtype)
            self.feeds[x] = self.array(*shape).astype(NUMPY_TYPES[self.dtype])
        for _ in range(self.rng.integers(1, 4)):
            x, rank, width = self.linear(x, rank, width)
            if self.chance(0.3):
                results.append(x)
        if self.chance(0.3):
            b.input("p", [], BOOL)
            self.feeds["p"] = np.array(self.chance(0.5))
            to = self.pick(self.widths)
            branches = {f"{which}_branch": self.branch(x, width, to) for which in ("then", "else")}
            x = b.node("If", "p", out=self.name("y"), **branches)
        results.append(x)
        types = {t.name: t.data_type for t in b.initializers}
        if types and self.chance(0.15):
            results.append(self.pick(list(types)))
        for result in dict.fromkeys(results):
            b.output(result, None, types.get(result, self.dtype))
        model = b.model(self.opset, self.ir)
        if self.ir < 4:
            listed = [
                helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
            ]
            model.graph.input.extend(listed)
        return model


ARGS = [
    ("--accuracy-level", "1"),
    ("--accuracy-level", "1", "--asymmetric"),
    ("--accuracy-level", "1", "--external-data", "always", "--block-size", "32"),
    ("--accuracy-level", "1", "--passes", "share-weights,strip-attrs"),
]


def check(seed: int, onnxq: harness.Onnxq) -> int:
    """Returns how many nodes were quantized."""
    random = Random(seed)
    model = random.build()
    # Without optimizations: one of them loses the result of a Gemm that is a graph output.
    expected = harness.run_model(model.SerializeToString(), random.feeds, opts=False)
    harness.save(model, onnxq.dir / "in.onnx")
    args = ARGS[seed % len(ARGS)]
    onnxq.ok("quantize", "in.onnx", "-o", "out.onnx", "--bits", 8, "--verify-each", *args)
    onnxq.ok("verify", "out.onnx")
    found = harness.run_model(onnxq.dir / "out.onnx", random.feeds)
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        got = found[name]
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape), f"`{name}`"
        worst = np.abs(np.float64(got) - np.float64(wanted)).max(initial=0)
        size = np.abs(np.float64(wanted)).max(initial=0)
        assert worst <= BOUND * size, f"`{name}`: off by {worst:.3e} of {size:.3e}"
    counts = dequant.op_counts(dequant.load(onnxq.dir / "out.onnx"))
    return sum(n for op, n in counts.items() if op.startswith("com.microsoft::"))


@pytest.mark.parametrize("part", range(5))
def test_random_models(part, onnxq):
    quantized = 0
    for seed in range(part, SEEDS, 5):
        try:
            quantized += check(seed, onnxq)
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
    assert quantized > SEEDS // 5, "hardly anything was quantized"
