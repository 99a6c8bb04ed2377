"""`nbits` on Gemm: every attribute, every shape of C. No Gemm with a constant B may remain."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import dequant
from builders import FLOAT16, GraphBuilder, random
from nbits_case import HALF_ROUNDING, Case, Weight, check

M, K, N = 5, 40, 24  # K is no multiple of the default block

C_SHAPES = {
    "absent": None,
    "row": (N,),
    "one_row": (1, N),
    "scalar": (),
    "one_element": (1,),
    "one_by_one": (1, 1),
    "matrix": (M, N),
    "column": (M, 1),
}


def gemm(
    name: str,
    trans_a: int = 0,
    trans_b: int = 0,
    alpha: float | None = None,
    beta: float | None = None,
    c: str = "row",
    dynamic_c: bool = False,
    **expected,
) -> Case:
    attrs = {"transA": trans_a, "transB": trans_b, "alpha": alpha, "beta": beta}
    attrs = {name: given for name, given in attrs.items() if given}
    c_shape = C_SHAPES[c]

    def build(arrays):
        b = GraphBuilder()
        inputs = [b.input("x", (K, M) if trans_a else (M, K)), b.weight("W", arrays["W"])]
        if c_shape is not None:
            inputs.append(b.input("c", c_shape) if dynamic_c else b.weight("c", random(*c_shape, seed=9)))
        b.node("Gemm", *inputs, out="y", name="gemm", **attrs)
        b.output("y", (M, N))
        return b.model()

    feeds = {"x": random(*((K, M) if trans_a else (M, K)), seed=7)}
    if dynamic_c:
        feeds["c"] = random(*c_shape, seed=9)
    factors = (1.0,) if alpha is None else (1.0, alpha)
    shape, along = ((N, K), "rows") if trans_b else ((K, N), "columns")
    weight = Weight(random(*shape, seed=8), along, factors=factors)
    return Case(name, build, feeds, {"W": weight}, matmuls=1, **expected)


def every_combination() -> list[Case]:
    cases = []
    for trans_a, trans_b, alpha, beta, c in itertools.product(
        (0, 1), (0, 1), (None, 0.5, -2.0), (None, 0.25, -1.5), C_SHAPES
    ):
        if c == "absent" and beta is not None:
            continue
        name = f"transA={trans_a},transB={trans_b},alpha={alpha},beta={beta},C={c}"
        cases.append(gemm(name, trans_a, trans_b, alpha, beta, c))
    return cases


DYNAMIC_C = [
    gemm(f"C={c},beta={beta},alpha={alpha}", 0, 1, alpha, beta, c, dynamic_c=True)
    for c in C_SHAPES
    if c != "absent"
    for alpha, beta in ((None, None), (-0.5, 0.25))
]


def assert_no_gemm(model) -> None:
    assert "Gemm" not in dequant.op_counts(model)


@pytest.mark.parametrize("case", every_combination(), ids=str)
def test_attributes_and_constant_c(case, onnxq):
    assert_no_gemm(check(case, onnxq))


@pytest.mark.parametrize("case", DYNAMIC_C, ids=str)
def test_dynamic_c(case, onnxq):
    assert_no_gemm(check(case, onnxq))


def test_beta_zero_ignores_c(onnxq):
    """`beta = 0` means that C is not read: infinity times zero must not reach the result."""

    def build(arrays):
        b = GraphBuilder()
        b.input("x", (M, K))
        c = b.weight("c", np.full(N, np.inf, np.float32))
        b.node("Gemm", "x", b.weight("W", arrays["W"]), c, out="y", name="gemm", beta=0.0)
        b.output("y", (M, N))
        return b.model()

    weights = {"W": Weight(random(K, N))}
    case = Case("beta 0", build, {"x": random(M, K)}, weights, matmuls=1, args=("--allow-nonfinite",))
    check(case, onnxq)


def test_float16(onnxq):
    def build(arrays):
        b = GraphBuilder()
        b.input("x", (M, K), FLOAT16)
        inputs = b.weight("W", arrays["W"], FLOAT16), b.weight("c", random(N), FLOAT16)
        b.node("Gemm", "x", *inputs, out="y", name="gemm", transB=1, alpha=0.5)
        b.output("y", (M, N), FLOAT16)
        return b.model()

    weight = Weight(random(N, K).astype(np.float16), "rows", factors=(1.0, 0.5))
    feeds = {"x": random(M, K).astype(np.float16)}
    assert_no_gemm(check(Case("f16", build, feeds, {"W": weight}, matmuls=1, tight=HALF_ROUNDING), onnxq))


def test_dynamic_b_is_left(onnxq):
    def build(_):
        b = GraphBuilder()
        b.input("x", (M, K))
        b.input("w", (K, N))
        b.node("Gemm", "x", "w", out="y", name="gemm")
        b.output("y", (M, N))
        return b.model()

    feeds = {"x": random(M, K), "w": random(K, N)}
    check(Case("dynamic B", build, feeds, left={"gemm": "weight-not-constant"}), onnxq)


def test_n_is_zero(onnxq):
    def build(arrays):
        b = GraphBuilder()
        b.input("x", (M, K))
        b.node("Gemm", "x", b.weight("W", arrays["W"]), out="y", name="gemm")
        b.output("y", (M, 0))
        return b.model()

    check(Case("n=0", build, {"x": random(M, K)}, kept={"W": random(K, 0)}, left={"gemm": "empty"}), onnxq)
