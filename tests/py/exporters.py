"""Graphs that exporters write around what a model computes: shapes taken apart and put together,
constants in nodes, masks made of nothing, no-ops. With random weights, so that tests can run them.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from onnx import ModelProto

from builders import BOOL, FLOAT, INT64, GraphBuilder, random, tensor


class Exporter(GraphBuilder):
    """Adds nodes under made-up names, as tracing exporters do."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def op(self, op: str, *inputs: str, **attrs) -> str:
        self.count += 1
        return self.node(op, *inputs, out=f"/{op}_{self.count}_output_0", **attrs)

    def k(self, values, dtype: type = np.int64) -> str:
        self.count += 1
        return self.constant(f"/Constant_{self.count}_output_0", np.asarray(values, dtype))

    def extent(self, x: str, axis: int) -> str:
        """One extent of `x`, as a scalar."""
        return self.op("Gather", self.op("Shape", x), self.k(axis), axis=0)

    def shape_of(self, parts: Iterable[str | int]) -> str:
        """A list of extents and numbers as one vector."""
        pieces = [
            self.k([p]) if isinstance(p, int) else self.op("Unsqueeze", p, self.k([0])) for p in parts
        ]
        return self.op("Concat", *pieces, axis=0)

    def linear(self, x: str, inside: int, outside: int, seed: int) -> str:
        w = self.weight(f"w{seed}", random(inside, outside, seed=seed, scale=inside**-0.5))
        b = self.op("Identity", self.weight(f"b{seed}", random(outside, seed=seed)))
        return self.op("Add", self.op("MatMul", x, w), b)


def attention(layers: int = 2, width: int = 16, heads: int = 2) -> ModelProto:
    """A small encoder as PyTorch's tracing exporter writes it."""
    b = Exporter()
    ids = b.input("input_ids", ["batch", "sequence"], INT64)
    mask = b.input("attention_mask", ["batch", "sequence"], INT64)
    x = b.op("Gather", b.weight("table", random(30, width)), ids)
    # [batch, 1, sequence, sequence] of what must not be looked at.
    batch, length = b.extent(ids, 0), b.extent(ids, 1)
    wide = b.op("Unsqueeze", b.op("Unsqueeze", mask, b.k([1])), b.k([2]))
    ones = b.op("ConstantOfShape", b.shape_of([b.k(4)]), value=tensor("value", np.array([1])))
    target = b.shape_of([batch, 1, length, b.extent(mask, 1)])
    target = b.op("Where", b.op("Equal", target, b.op("Mul", ones, b.k(-1))), ones, target)
    wide = b.op("Cast", b.op("Expand", wide, target), to=FLOAT)
    inverted = b.op("Sub", b.k(1.0, np.float32), wide)
    hidden = b.op("Cast", inverted, to=BOOL)
    mask = b.op("Where", hidden, b.k(-3e38, np.float32), inverted)
    size = width // heads
    for layer in range(layers):
        seed = 10 * layer

        def split(value: str, perm: list[int]) -> str:
            shape = b.shape_of([b.extent(value, 0), b.extent(value, 1), heads, size])
            return b.op("Transpose", b.op("Reshape", value, shape), perm=perm)

        q = split(b.linear(x, width, width, seed + 1), [0, 2, 1, 3])
        key = split(b.linear(x, width, width, seed + 2), [0, 2, 3, 1])
        v = split(b.linear(x, width, width, seed + 3), [0, 2, 1, 3])
        root = b.op("Sqrt", b.op("Cast", b.op("Cast", b.k(size), to=FLOAT), to=FLOAT))
        scores = b.op("Add", b.op("Div", b.op("MatMul", q, key), root), mask)
        probabilities = b.op("Identity", b.op("Softmax", scores, axis=-1))
        context = b.op("Transpose", b.op("MatMul", probabilities, v), perm=[0, 2, 1, 3])
        context = b.op("Reshape", context, b.shape_of([b.extent(context, 0), b.extent(context, 1), width]))
        x = b.op("Add", b.linear(context, width, width, seed + 4), x)
        mean = b.op("ReduceMean", x, axes=[-1])
        centred = b.op("Sub", x, mean)
        variance = b.op("ReduceMean", b.op("Pow", centred, b.k(2.0, np.float32)), axes=[-1])
        deviation = b.op("Sqrt", b.op("Add", variance, b.k(1e-5, np.float32)))
        x = b.op("Div", centred, deviation)
    b.node("Identity", x, out="last_hidden_state")
    b.output("last_hidden_state", ["batch", "sequence", width])
    return b.model()


def padded_convolutions(layers: int = 3) -> ModelProto:
    """Convolutions whose padding is computed from constants, as `F.pad` becomes, and normalized."""
    b = Exporter()
    x = b.input("x", ["batch", 3, "height", "width"])
    channels = 3
    for layer in range(layers):
        zeros = b.op("ConstantOfShape", b.k([4]), value=tensor("value", np.array([0])))
        pads = b.op("Concat", b.k([1, 1, 1, 1]), zeros, axis=0)
        pads = b.op("Reshape", pads, b.k([-1, 2]))
        pads = b.op("Slice", pads, b.k([-1]), b.k([-(2**63) + 1]), b.k([0]), b.k([-1]))
        pads = b.op("Transpose", pads, perm=[1, 0])
        pads = b.op("Cast", b.op("Reshape", pads, b.k([-1])), to=INT64)
        x = b.op("Pad", x, pads, b.k(0.0, np.float32), mode="constant")
        n = 8
        x = b.op("Conv", x, b.weight(f"w{layer}", random(n, channels, 3, 3, seed=layer, scale=0.2)))
        # Around 1, so that what is clipped is not all there is.
        names = [
            b.weight(f"{p}{layer}", random(n, seed=layer + i, scale=0.3) + 1)
            for i, p in enumerate(("scale", "shift", "mean"))
        ]
        variance = b.weight(f"variance{layer}", np.abs(random(n, seed=layer)) + 0.5)
        x = b.op("BatchNormalization", x, *names, variance)
        x = b.op("Mul", x, b.weight(f"factor{layer}", np.array([1.25], np.float32)))
        x = b.op("Clip", x, b.k(0.0, np.float32), b.k(6.0, np.float32))
        channels = n
    x = b.op("GlobalAveragePool", x)
    x = b.op("Flatten", x, axis=1)
    b.node("Identity", b.linear(x, channels, 5, 99), out="y")
    b.output("y", ["batch", 5])
    return b.model()


def decoder_mask() -> ModelProto:
    """A causal mask for a cache, from extents alone, and repeated heads."""
    b = Exporter()
    x = b.input("x", ["batch", 2, "length", 4])
    past = b.input("past", ["batch", 2, "past_length", 4])
    both = b.op("Concat", past, x, axis=-2)
    total, length = b.extent(both, 2), b.extent(x, 2)
    rows = b.op("Range", b.extent(past, 2), b.op("Add", b.extent(past, 2), length), b.k(1))
    columns = b.op("Range", b.k(0), total, b.k(1))
    rows = b.op("Reshape", rows, b.shape_of([length, 1]))
    seen = b.op("LessOrEqual", columns, rows)
    zero, least = b.k(0.0, np.float32), b.k(-3e38, np.float32)
    full = b.op("Expand", least, b.shape_of([length, b.extent(both, 2)]))
    mask = b.op("Where", b.op("And", seen, b.op("Cast", b.k(True, np.bool_), to=BOOL)), zero, full)
    target = b.shape_of([b.extent(both, 0), b.extent(both, 1), 3, b.extent(both, 2), b.extent(both, 3)])
    heads = b.op("Expand", b.op("Unsqueeze", both, b.k([2])), target)
    flat = b.shape_of([b.extent(heads, 0), 6, b.extent(heads, 3), b.extent(heads, 4)])
    heads = b.op("Reshape", heads, flat)
    scores = b.op("MatMul", b.op("Concat", x, x, x, axis=1), b.op("Transpose", heads, perm=[0, 1, 3, 2]))
    scores = b.op("Add", b.op("Mul", scores, b.k(0.5, np.float32)), mask)
    b.node("Softmax", scores, out="y", axis=-1)
    b.output("y", ["batch", 6, "length", "total"])
    b.node("Identity", both, out="present")
    b.output("present", ["batch", 2, "total", 4])
    return b.model()
