"""Versions of format and operators, types without a kernel, operators that are not there."""

from __future__ import annotations

import numpy as np

from builders import BFLOAT16, CONTRIB, FLOAT, FLOAT16, NUMPY_TYPES, GraphBuilder, random
from target_cases.base import (
    CLOSE,
    HALF,
    Case,
    case,
)


def elementwise(op: str, dtype: int, opset: int = 17, ir: int = 8) -> Case:
    """An operator of two matrices, in a type that the CPU may not compute in."""
    b = GraphBuilder()
    x, w = random(3, 4), random(4, 4, seed=1)
    if op != "MatMul":
        x = x[:, :4]
        w = random(3, 4, seed=1)
    x, w = x.astype(NUMPY_TYPES[dtype]), w.astype(NUMPY_TYPES[dtype])
    # bfloat16 cannot be fed through numpy, so it is cast inside.
    b.node("Cast", b.input("x", list(x.shape)), out="cast", to=dtype)
    b.node(op, "cast", b.weight("w", w), out="made")
    b.node("Cast", "made", out="y", to=FLOAT)
    b.output("y", [3, 4])
    fed, w = x.astype(np.float32), w.astype(np.float64)
    expected = {"MatMul": lambda: fed @ w, "Add": lambda: fed + w, "Mul": lambda: fed * w}[op]()
    return Case(b.model(opset, ir), {"x": fed}, expected, {FLOAT: CLOSE, FLOAT16: HALF}.get(dtype, 2e-2))


for op in ("MatMul", "Add", "Mul"):
    for name, dtype in (("float", FLOAT), ("half", FLOAT16), ("bfloat16", BFLOAT16)):
        case(f"{op.lower()}-{name}", elementwise, op, dtype)


def rotated(types: str, perm: list[int], before: str | None = None, constant: bool = True) -> Case:
    """A product of a constant and a transposed value, the types of both as `float` or `half`."""
    inner, outer = ({"half": FLOAT16, "float": FLOAT}[t] for t in types.split("-"))
    b = GraphBuilder()
    x = random(2, 3, 4).astype(NUMPY_TYPES[inner])
    w = random([2, 3, 4][perm[2]], 5, seed=1).astype(NUMPY_TYPES[outer])
    feeds = {"x": x}
    last = b.input("x", [2, 3, 4], inner)
    if before:
        last = b.node(before, last, out="before")
    last = b.node("Transpose", last, out="t", perm=perm)
    if inner != outer:
        last = b.node("Cast", last, out="u", to=outer)
    if constant:
        right = b.weight("w", w)
    else:
        right, feeds["w"] = b.input("w", list(w.shape), outer), w
    b.node("MatMul", last, right, out="y")
    x = np.abs(x) if before else x
    expected = np.transpose(x.astype(np.float64), perm) @ w.astype(np.float64)
    b.output("y", list(expected.shape), outer)
    # Half products, or sums of halves.
    return Case(b.model(13, 8), feeds, expected, HALF, opts=True)


for types in ("half-half", "half-float", "float-half", "float-float"):
    for perm in ([1, 0, 2], [1, 2, 0], [0, 2, 1], [2, 1, 0]):
        case(f"rotated-{types}-{''.join(map(str, perm))}", rotated, types, perm)
    case(f"rotated-made-{types}", rotated, types, [1, 0, 2], before="Abs")
    case(f"rotated-fed-{types}", rotated, types, [1, 0, 2], constant=False)


def version(opset: int, ir: int) -> Case:
    b = GraphBuilder()
    b.node("Relu", b.input("x", [5]), out="y")
    b.output("y", [5])
    x = random(5)
    return Case(b.model(opset, ir), {"x": x}, np.maximum(x, 0))


for opset in (6, 13, 20, 21, 22, 23, 24, 25, 26, 27):
    case(f"opset-{opset}", version, opset, 8)
for ir in (3, 4, 7, 9, 10, 11, 12, 13, 14):
    case(f"ir-{ir}", version, 13, ir)


def unknown_operator(domain: str, op: str) -> Case:
    b = GraphBuilder()
    b.node(op, b.input("x", [5]), out="y", domain=domain)
    b.output("y", [5])
    return Case(b.model(domains=[domain] if domain else []), {"x": random(5)}, random(5))


case("unknown-operator", unknown_operator, "", "Reluu")
case("unknown-contrib", unknown_operator, CONTRIB, "GatherNBits")


def upsample(opset: int) -> Case:
    """An operator that ended with opset 10."""
    b = GraphBuilder()
    x = random(1, 1, 2, 2)
    scales = b.weight("scales", np.array([1, 1, 2, 2], np.float32))
    b.node("Upsample", b.input("x", [1, 1, 2, 2]), scales, out="y", mode="nearest")
    b.output("y", [1, 1, 4, 4])
    return Case(b.model(opset), {"x": x}, x.repeat(2, 2).repeat(2, 3))


case("upsample-9", upsample, 9)
case("upsample-13", upsample, 13)
