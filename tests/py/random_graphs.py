"""Random small graphs of what exporters write: shape arithmetic, elementwise operators, data
movement, a few products, branches; with duplicates, no-ops, dead nodes and shared constants.

Every value is computed with numpy as the graph grows, so that what follows fits it.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, helper

from builders import BOOL, FLOAT, INT64, GraphBuilder

LARGEST = 4096  # elements of a value


class RandomGraph:
    """`build()` makes the model, `feeds` its inputs, `other_feeds` ones of another extent."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.b = GraphBuilder()
        self.opset = self.pick([11, 12, 13, 17, 18, 21])
        self.ir = 3 if self.opset == 11 and self.chance(0.3) else 8
        self.known: dict[str, np.ndarray] = {}
        self.constants: list[str] = []
        self.feeds: dict[str, np.ndarray] = {}
        self.other_feeds: dict[str, np.ndarray] = {}
        self.count = 0

    # --- choices

    def pick(self, items):
        return items[self.rng.integers(len(items))]

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def name(self, what: str) -> str:
        self.count += 1
        return f"{what}{self.count}"

    def value(self, dtype: type, rank: int | None = None) -> str:
        """A value so far, more likely a late one."""
        names = [
            name
            for name, array in self.known.items()
            if array.dtype == dtype and (rank is None or array.ndim == rank)
        ]
        if not names:
            return self.const(self.numbers((2, 3)) if dtype == np.float32 else np.array([1, 2, 3]))
        return self.pick(names[-6:] if self.chance(0.7) else names)

    def numbers(self, shape: tuple[int, ...]) -> np.ndarray:
        kinds = [
            lambda: self.rng.standard_normal(shape),
            lambda: np.zeros(shape),
            lambda: np.ones(shape),
            lambda: self.rng.integers(-3, 4, shape),
            lambda: np.full(shape, 0.5),
        ]
        return np.asarray(self.pick(kinds)(), np.float32)

    # --- constants and nodes

    def const(self, array: np.ndarray) -> str:
        array = np.asarray(array)
        alike = [c for c in self.constants if self.known[c].dtype == array.dtype]
        same = [c for c in alike if np.array_equal(self.known[c], array)]
        if same and self.chance(0.5):
            return self.pick(same)
        name = self.name("c")
        if self.chance(0.5):
            self.b.constant(name, array)
        else:
            self.b.weight(name, array)
        self.known[name] = array
        self.constants.append(name)
        return name

    def node(self, op: str, inputs: list[str], *results: np.ndarray, **attrs) -> str:
        outs = [self.name("v") for _ in results]
        self.b.node(op, *inputs, out=outs, **attrs)
        for out, result in zip(outs, results, strict=True):
            self.known[out] = np.asarray(result)
        return outs[0]

    def with_axes(self, op: str, x: str, axes: list[int], result: np.ndarray, since: int, **attrs) -> str:
        """Axes are an attribute before opset `since`, an operand from then on."""
        if self.opset >= since:
            return self.node(op, [x, self.const(np.array(axes))], result, **attrs)
        return self.node(op, [x], result, axes=axes, **attrs)

    # --- operators on integers

    def int_step(self) -> None:
        kind = self.rng.integers(9)
        if kind <= 2:
            x = self.value(np.float32)
            self.node("Shape", [x], np.array(self.known[x].shape, np.int64))
        elif kind == 3:
            x = self.value(np.int64, 1)
            if a := self.known[x].size:
                index = np.asarray(self.pick([0, -1, a - 1, [0], [-1]]))
                self.node("Gather", [x, self.const(index)], self.known[x][index])
        elif kind == 4:
            x = self.value(np.int64)
            by = self.pick([1, 2, 3])
            c = np.array(by) if self.chance(0.6) else np.array([by])
            a = self.known[x]
            division = np.trunc(a / c).astype(np.int64)
            op, y = self.pick([("Add", a + c), ("Sub", a - c), ("Mul", a * c), ("Div", division)])
            self.node(op, [x, self.const(c)], y)
        elif kind == 5:
            x = self.value(np.int64, 0)
            if self.known[x].ndim == 0:
                self.with_axes("Unsqueeze", x, [0], self.known[x][None], 13)
        elif kind == 6:
            parts = [self.value(np.int64, 1) for _ in range(self.rng.integers(1, 4))]
            joined = np.concatenate([self.known[p] for p in parts])
            if joined.size <= 8:
                self.node("Concat", parts, joined, axis=0)
        elif kind == 7:
            x = self.value(np.int64, 1)
            self.slice(x, 0)
        else:
            x = self.value(np.int64)
            as_float = self.node("Cast", [x], self.known[x].astype(np.float32), to=FLOAT)
            if self.chance(0.5):
                self.node("Cast", [as_float], self.known[x], to=INT64)

    def slice(self, x: str, axis: int) -> None:
        a = self.known[x]
        extent = a.shape[axis]
        start, end = self.pick([(0, extent), (0, 2**62), (1, 2**62), (0, -1), (-2, 2**62)])
        index = [slice(None)] * a.ndim
        index[axis] = slice(start, end)
        operands = [self.const(np.array([n])) for n in (start, end, axis)]
        self.node("Slice", [x, *operands], a[tuple(index)])

    # --- operators on floating-point numbers

    def float_step(self) -> None:
        steps = [self.unary, self.binary, self.binary, self.layout, self.layout, self.reduce]
        steps += [self.product] * 3
        steps += [self.scaled, self.masked, self.joined, self.branch]
        self.pick(steps)()

    def unary(self) -> None:
        x = self.value(np.float32)
        a = self.known[x]
        op, y = self.pick(
            [
                ("Relu", np.maximum(a, 0)),
                ("Neg", -a),
                ("Abs", np.abs(a)),
                ("Identity", a),
                ("Tanh", np.tanh(a)),
                ("Dropout", a),
            ]
        )
        self.node(op, [x], y)
        if self.chance(0.3):
            self.node(op, [x], y)  # once more, for who looks for equal nodes

    def binary(self) -> None:
        x, y = self.value(np.float32), self.value(np.float32)
        if self.chance(0.6):
            shape = self.pick([(), (1,), self.known[x].shape[-1:], self.known[x].shape])
            y = self.const(self.numbers(shape))
        a, b = self.known[x], self.known[y]
        try:
            total = np.broadcast_shapes(a.shape, b.shape)
        except ValueError:
            return
        if np.prod(total) <= LARGEST:
            op, result = self.pick([("Add", a + b), ("Sub", a - b), ("Mul", a * b)])
            self.node(op, [x, y] if self.chance(0.7) or op == "Sub" else [y, x], result)

    def scaled(self) -> None:
        """Constants in a row."""
        x = self.value(np.float32)
        for _ in range(self.rng.integers(2, 4)):
            a, c = self.known[x], np.float32(self.pick([0.5, 2.0, 3.0, -1.5, 0.125]))
            op, y = self.pick([("Mul", a * c), ("Div", a / c), ("Mul", a * c)])
            x = self.node(op, [x, self.const(c)], y)

    def layout(self) -> None:
        x = self.value(np.float32)
        a = self.known[x]
        kind = self.rng.integers(8)
        if kind == 0 and a.ndim > 1:
            perm = [int(p) for p in self.rng.permutation(a.ndim)]
            x = self.node("Transpose", [x], a.transpose(perm), perm=perm)
            if self.chance(0.5):
                back = [int(p) for p in np.argsort(perm)]
                self.node("Transpose", [x], a, perm=back)
        elif kind == 1:
            axis = int(self.rng.integers(-1, a.ndim + 1))
            x = self.with_axes("Unsqueeze", x, [axis], np.expand_dims(a, axis), 13)
            if self.chance(0.5):
                self.with_axes("Squeeze", x, [axis], a, 13)
        elif kind == 2 and a.ndim:
            self.slice(x, int(self.rng.integers(a.ndim)))
        elif kind == 3 and a.size:
            shape = self.pick([[-1], [0] * min(a.ndim, 1) + [-1], [1, -1]])
            target = [a.shape[0] if d == 0 else d for d in shape]
            self.node("Reshape", [x, self.const(np.array(shape))], a.reshape(target))
        elif kind == 4 and a.size:
            # The shape of the value itself, its extents put together again.
            shape = self.node("Shape", [x], np.array(a.shape, np.int64))
            if a.ndim and self.chance(0.7):
                parts = [
                    self.node("Gather", [shape, self.const(np.array([i]))], np.array([n]))
                    for i, n in enumerate(a.shape)
                ]
                if self.chance(0.5):
                    parts[self.rng.integers(a.ndim)] = self.const(np.array([-1]))
                shape = self.node("Concat", parts, np.concatenate([self.known[p] for p in parts]), axis=0)
            self.node("Reshape", [x, shape], a)
        elif kind == 5 and a.ndim:
            shape = self.node("Shape", [x], np.array(a.shape, np.int64))
            ones = self.node("ConstantOfShape", [shape], np.zeros(a.shape, np.float32))
            self.node("Expand", [ones, shape], np.zeros(a.shape, np.float32))
        elif kind == 6 and a.ndim and a.shape[-1] % 2 == 0 and a.shape[-1] and self.opset < 18:
            halves = np.split(a, 2, -1)
            self.node("Split", [x], *halves, axis=-1)
        elif kind == 7 and a.ndim and a.size:
            self.node("Flatten", [x], a.reshape(a.shape[0], -1), axis=1)

    def reduce(self) -> None:
        x = self.value(np.float32)
        a = self.known[x]
        if not a.ndim or not a.size:
            return
        axis, keep = int(self.rng.integers(-a.ndim, a.ndim)), bool(self.chance(0.5))
        kinds = [("ReduceSum", 13, np.sum), ("ReduceMean", 18, np.mean), ("ReduceMax", 18, np.max)]
        op, since, f = self.pick(kinds)
        y = np.asarray(f(a, axis=axis, keepdims=keep), np.float32)
        x = self.with_axes(op, x, [axis], y, since, keepdims=int(keep))
        if self.chance(0.6):
            if keep:
                self.with_axes("Squeeze", x, [axis], np.squeeze(y, axis), 13)
            else:
                self.with_axes("Unsqueeze", x, [axis], np.expand_dims(y, axis), 13)

    def product(self) -> None:
        x = self.value(np.float32)
        a = self.known[x]
        if a.ndim == 4 and a.shape[1] and a.size:
            return self.convolution(x)
        if a.ndim < 2 or not a.shape[-1]:
            return None
        n = int(self.pick([2, 3, 4]))
        w = np.asarray(self.rng.standard_normal((a.shape[-1], n)) / 2, np.float32)
        weight = self.const(w)
        if self.chance(0.3):
            stored = self.const(w.T.copy())
            weight = self.node("Transpose", [stored], w, perm=[1, 0])
        y = a @ w
        x = self.node("MatMul", [x, weight], y)
        if self.chance(0.7):
            bias = self.numbers(self.pick([(n,), (1, n), (1,)]))
            self.node("Add", [x, self.const(bias)], y + bias)
        return None

    def convolution(self, x: str) -> None:
        """One by one, so that numpy has it too; then what scales its channels."""
        a = self.known[x]
        n = int(self.pick([1, 2, 4]))
        w = np.asarray(self.rng.standard_normal((n, a.shape[1], 1, 1)), np.float32)
        y = np.einsum("bchw,nc->bnhw", a, w[:, :, 0, 0])
        if self.chance(0.3):
            pads = np.array([0, 0, 1, 0, 0, 0, 0, 1])
            x = self.node("Pad", [x, self.const(pads)], np.pad(a, [(0, 0), (0, 0), (1, 0), (0, 1)]))
            y = np.pad(y, [(0, 0), (0, 0), (1, 0), (0, 1)])
        x = self.node("Conv", [x, self.const(w)], y)
        for _ in range(self.rng.integers(3)):
            c = self.numbers(self.pick([(), (n, 1, 1), (1, n, 1, 1)]))
            op, y = self.pick([("Mul", y * c), ("Add", y + c), ("Sub", y - c)])
            x = self.node(op, [x, self.const(c)], y)
        if self.chance(0.5):
            scale, bias, mean = (self.rng.standard_normal(n).astype(np.float32) for _ in range(3))
            variance = self.rng.uniform(0.1, 2, n).astype(np.float32)
            by_channel = [v[:, None, None] for v in (scale, bias, mean, variance)]
            s, b, m, v = by_channel
            operands = [self.const(p) for p in (scale, bias, mean, variance)]
            y = ((y - m) / np.sqrt(v + 1e-5) * s + b).astype(np.float32)
            self.node("BatchNormalization", [x, *operands], y)

    def masked(self) -> None:
        x = self.value(np.float32)
        a = self.known[x]
        zero = np.float32(0)
        mask = self.node("Greater", [x, self.const(zero)], a > zero)
        if self.chance(0.3):
            mask = self.node("Not", [mask], ~(a > zero))
        self.node("Where", [mask, x, self.const(zero)], np.where(self.known[mask], a, zero))

    def joined(self) -> None:
        x = self.value(np.float32)
        a = self.known[x]
        if a.ndim and a.size * 2 <= LARGEST:
            parts = [x] * int(self.rng.integers(1, 3))
            self.node("Concat", parts, np.concatenate([a] * len(parts), -1), axis=-1)

    def branch(self) -> None:
        """An If whose branches capture values; the condition is constant or not."""
        x = self.value(np.float32)
        a = self.known[x]
        if self.chance(0.5):
            taken = bool(self.chance(0.5))
            condition = self.const(np.array(taken))
        else:
            shape = self.node("Shape", [x], np.array(a.shape, np.int64))
            size = self.node("ReduceProd", [shape], np.array(a.size, np.int64), keepdims=0)
            taken = a.size > 6
            condition = self.node("Greater", [size, self.const(np.array(6))], np.array(taken))
        outer, results = self.b, []
        graphs = {}
        for which in ("then", "else"):
            self.b = GraphBuilder()
            # No names are promised to be unique between branches.
            inner = "inner" if self.chance(0.5) else self.name("v")
            c = np.float32(self.pick([0.5, 2.0]))
            scale = self.name("c")
            self.b.constant(scale, c)
            h = self.b.node("Mul", x, scale, out=inner + which)
            results.append(a * c * c)
            out = self.b.node("Mul", h, scale, out=self.name("v"))
            self.b.output(out, [None] * a.ndim)
            graphs[f"{which}_branch"] = self.b.graph(which)
        self.b = outer
        self.node("If", [condition], results[0 if taken else 1], **graphs)

    # --- the whole

    def input(self, name: str, shape: tuple[int, ...]) -> None:
        names = [f"{name}_{i}" if self.chance(0.5) else n for i, n in enumerate(shape)]
        self.b.input(name, names)
        array = self.rng.standard_normal(shape).astype(np.float32)
        self.known[name] = self.feeds[name] = array
        other = tuple(n if isinstance(d, int) else n + 1 for d, n in zip(names, shape, strict=True))
        self.other_feeds[name] = self.rng.standard_normal(other).astype(np.float32)

    def build(self) -> ModelProto:
        self.input("x", self.pick([(2, 3), (2, 3, 4), (1, 2, 3, 4), (1, 4, 2, 2)]))
        if self.chance(0.4):
            self.input("y", self.pick([(3,), (2, 3), (1, 2, 3, 4)]))
        for _ in range(self.rng.integers(6, 22)):
            self.int_step() if self.chance(0.3) else self.float_step()
        made = [name for name in self.known if name not in self.feeds and name not in self.constants]
        outputs = made[-1:] + [name for name in made if self.chance(0.15)]
        types = {np.dtype(np.float32): FLOAT, np.dtype(np.int64): INT64, np.dtype(np.bool_): BOOL}
        for name in dict.fromkeys(outputs or self.constants[:1]):
            self.b.output(name, [None] * self.known[name].ndim, types[self.known[name].dtype])
        model = self.b.model(self.opset, self.ir)
        listed = self.b.initializers if self.ir < 4 else self.b.initializers[:1] if self.chance(0.1) else []
        # Listed as inputs: up to IR version 3 all of them, later what callers may replace.
        model.graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in listed)
        return model
