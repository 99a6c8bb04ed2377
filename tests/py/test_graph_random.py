"""Random graphs of nodes that the clean-up passes like: what they compute stays, bit for bit.

Activations are float32 with odd numbers among them (infinities, NaN, zeros of both signs), the
first axis has a name and is run in two sizes. Whatever the passes do is compared with ONNX
Runtime without its own optimizations. (`Where` is not among the nodes, because ONNX Runtime
makes 0 of a -0 that it chooses.)
"""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

import dequant
import harness
from builders import BOOL, DOUBLE, FLOAT, GraphBuilder

SEEDS = 300
PIPELINE = "(identity,cse,dce)*"

# A size of the first axis that nothing else has, so that shapes can be told apart.
SIZES = (7, 1)


class Random:
    """Builds one graph. A value has a shape whose first axis may be the batch: `"B"`."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.b = GraphBuilder()
        self.values: list[tuple[str, tuple]] = []
        self.count = 0
        self.opset = self.pick([9, 11, 13, 17, 21])

    def pick(self, items):
        return items[self.rng.integers(len(items))]

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def name(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def const(self, array) -> str:
        name = self.name()
        make = self.b.constant if self.chance(0.3) else self.b.weight
        return make(name, np.asarray(array))

    def ints(self, *items: int) -> str:
        return self.const(np.array(items, np.int64))

    def add(self, op: str, *inputs: str, shape: tuple, repeat: bool = True, **attrs) -> None:
        self.values.append((self.b.node(op, *inputs, out=self.name(), **attrs), shape))
        if repeat and self.chance(0.2):
            self.values.append((self.b.node(op, *inputs, out=self.name(), **attrs), shape))

    def axes(self, op: str, x: str, shape: tuple, axes: list[int]) -> None:
        if self.opset < 13:
            self.add(op, x, shape=shape, axes=axes)
        else:
            self.add(op, x, self.ints(*axes), shape=shape)

    # One operator each, on the value `x`.

    def identity(self, x, shape):
        self.add(self.pick(["Identity", "Dropout", "Neg", "Neg", "Exp"]), x, shape=shape)

    def single(self, x, shape):
        op = self.pick(["Concat", "Sum", "Max", "Mean"])
        self.add(op, x, shape=shape, **({"axis": 0} if op == "Concat" else {}))

    def cast(self, x, shape):
        if self.chance(0.5):
            x = self.b.node("Cast", x, out=self.name(), to=DOUBLE)
        self.add("Cast", x, shape=shape, to=FLOAT)

    def transpose(self, x, shape):
        perm = [int(i) for i in self.rng.permutation(len(shape))]
        if perm == sorted(perm, reverse=True) and self.chance(0.5):
            self.add("Transpose", x, shape=shape[::-1])
        else:
            self.add("Transpose", x, shape=tuple(shape[i] for i in perm), perm=perm)

    def reshape(self, x, shape):
        known = int(np.prod([d for d in shape if d != "B"], dtype=int))
        if "B" not in shape:
            target = self.pick([(known,), (1, known), (known, 1)])
            self.add("Reshape", x, self.ints(*target), shape=target)
            return
        target = self.pick([("B", known), ("B", 1, known), ("B", known, 1), tuple(shape)])
        first = 0 if shape[0] == "B" and self.chance(0.5) else -1
        items = [first if d == "B" else d for d in target]
        self.add("Reshape", x, self.ints(*items), shape=target)

    def computed_reshape(self, x, shape):
        """To a shape that nodes compute, as exporters write it."""
        if shape[0] != "B":
            return
        known = int(np.prod(shape[1:], dtype=int))
        size = self.b.node("Shape", x, out=self.name())
        if self.chance(0.5):
            batch = self.b.node("Gather", size, self.const(np.array(0)), out=self.name())
            unsqueezed = [batch] if self.opset < 13 else [batch, self.ints(0)]
            attrs = {"axes": [0]} if self.opset < 13 else {}
            batch = self.b.node("Unsqueeze", *unsqueezed, out=self.name(), **attrs)
        else:
            batch = self.b.node("Gather", size, self.ints(0), out=self.name())
        target = self.b.node("Concat", batch, self.ints(-1), out=self.name(), axis=0)
        self.add("Reshape", x, target, shape=("B", known))

    def unsqueeze(self, x, shape):
        axis = int(self.rng.integers(len(shape) + 1))
        if len(shape) < 5:
            given = axis if self.opset < 11 or self.chance(0.5) else axis - len(shape) - 1
            self.axes("Unsqueeze", x, (*shape[:axis], 1, *shape[axis:]), [given])

    def squeeze(self, x, shape):
        ones = [i for i, d in enumerate(shape) if d == 1]
        if ones and len(shape) > 1:
            axis = self.pick(ones)
            self.axes("Squeeze", x, shape[:axis] + shape[axis + 1 :], [axis])

    def arithmetic(self, x, shape):
        last = shape[-1] if shape and shape[-1] != "B" else 1
        number = self.pick([0.0, -0.0, 1.0, 1.0, 2.0])
        form = self.pick([(), (1,), (last,)])
        if not shape and form:
            form = ()
        constant = self.const(np.full(form, number, np.float32))
        operands = [x, constant]
        op = self.pick(["Add", "Sub", "Mul", "Div"])
        if self.chance(0.3):
            operands.reverse()
        self.add(op, *operands, shape=shape)

    def binary(self, x, shape):
        others = [name for name, s in self.values if s == shape]
        operands = [x, self.pick(others)]
        if self.chance(0.5):
            operands.reverse()
        self.add(self.pick(["Add", "Mul", "Sub", "Max"]), *operands, shape=shape)

    def slice(self, x, shape):
        if not shape or shape[-1] == "B" or self.opset < 10:
            return
        last = len(shape) - 1
        whole = self.chance(0.6)
        starts, ends = (0, self.pick([shape[-1], 2**40])) if whole else (-1, -(2**40))
        steps = self.ints(1 if whole else -1)
        operands = [self.ints(starts), self.ints(ends), self.ints(last), steps]
        self.add("Slice", x, *operands, shape=shape)

    def split(self, x, shape):
        if not shape or shape[-1] == "B" or shape[-1] % 2 or self.opset >= 13:
            return
        names = [self.name(), self.name()]
        self.b.node("Split", x, out=names, axis=len(shape) - 1)
        half = (*shape[:-1], shape[-1] // 2)
        self.values.append((names[self.rng.integers(2)], half))

    def branch(self, shape: tuple) -> GraphBuilder:
        """A branch that makes `shape` from what it captures."""
        outer = self.b, list(self.values)
        self.b = GraphBuilder()
        for _ in range(self.rng.integers(0, 4)):
            self.step()
        found = [name for name, s in self.values if s == shape]
        result = self.b.node("Identity", self.pick(found), out=self.name())
        self.b.output(result, None)
        graph = self.b.graph(self.name())
        self.b, self.values = outer[0], outer[1]
        return graph

    def conditional(self, x, shape):
        branches = {f"{which}_branch": self.branch(shape) for which in ("then", "else")}
        self.add("If", "p", shape=shape, repeat=False, **branches)

    def step(self) -> None:
        rules = [self.identity, self.single, self.cast, self.transpose, self.transpose, self.reshape]
        rules += [self.computed_reshape, self.unsqueeze, self.unsqueeze, self.squeeze, self.squeeze]
        rules += [self.arithmetic, self.arithmetic, self.binary, self.slice, self.split]
        if self.chance(0.1):
            rules = [self.conditional]
        # The newest more often, so that chains form.
        recent = self.values[-3:] if self.chance(0.7) else self.values
        self.pick(rules)(*self.pick(recent))

    def build(self) -> ModelProto:
        self.b.input("p", [], BOOL)
        for shape in [("B", 4), ("B", 2, 3)]:
            self.values.append((self.b.input(self.name(), shape), shape))
        for _ in range(self.rng.integers(3, 25)):
            self.step()
        made = [name for name, _ in self.values[2:]] or [self.values[0][0]]
        results = {self.pick(made) for _ in range(4)}
        inputs = {arg.name for arg in self.b.inputs}
        for result in sorted(results - inputs):
            self.b.output(result, None)
        if not self.b.outputs:
            self.b.output(self.b.node("Neg", self.values[0][0], out="y"), None)
        return self.b.model(self.opset, 8 if self.opset < 21 else 10)


def feeds(model: ModelProto, size: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([seed, size])
    out = {"p": np.array(rng.random() < 0.5)}
    for arg in model.graph.input[1:]:
        dims = arg.type.tensor_type.shape.dim
        shape = [d.dim_value or size for d in dims]
        numbers = rng.standard_normal(shape).astype(np.float32)
        odd = rng.choice(np.float32([0.0, -0.0, np.inf, -np.inf, np.nan]), shape)
        out[arg.name] = np.where(rng.random(shape) < 0.2, odd, numbers)
    return out


def same(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Bit for bit, except that a NaN is a NaN."""
    nan = np.isnan(wanted)
    equal = found.view(np.int32) == wanted.view(np.int32)
    return found.shape == wanted.shape and bool(np.all(equal | (nan & np.isnan(found))))


def check(seed: int, onnxq: harness.Onnxq) -> int:
    """Returns how many nodes went."""
    model = Random(seed).build()
    source = harness.save(model, onnxq.dir / "in.onnx")
    # Whatever it stops after, the model is right.
    stop = ("--stop-after", seed % 11) if seed % 3 == 0 else ()
    onnxq.ok("opt", "in.onnx", "-o", "out.onnx", "--passes", PIPELINE, "--verify-each", *stop)
    if not stop:
        onnxq.ok("opt", "out.onnx", "-o", "again.onnx", "--passes", PIPELINE)
        again = (onnxq.dir / "again.onnx").read_bytes()
        assert again == (onnxq.dir / "out.onnx").read_bytes(), "a second run changes something"
    for size in SIZES:
        inputs = feeds(model, size, seed)
        wanted = harness.run_model(source, inputs, opts=False)
        found = harness.run_model(onnxq.dir / "out.onnx", inputs, opts=False)
        assert list(found) == list(wanted)
        for name, array in wanted.items():
            assert array.dtype == np.float32
            assert same(found[name], array), f"`{name}` of size {size}"
    counts = [sum(dequant.op_counts(dequant.load(p)).values()) for p in (source, onnxq.dir / "out.onnx")]
    return counts[0] - counts[1]


@pytest.mark.parametrize("part", range(5))
def test_random_graphs(part, onnxq):
    removed = 0
    for seed in range(part, SEEDS, 5):
        try:
            removed += check(seed, onnxq)
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
    assert removed > SEEDS // 5 * 5, "hardly anything was removed"
