"""`nbits` on MatMul: which operand is constant, ranks, shapes that are awkward."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from builders import BFLOAT16, DOUBLE, FLOAT16, INT64, NUMPY_TYPES, GraphBuilder, random
from nbits_case import BFLOAT_STORAGE, HALF_ROUNDING, Case, Weight, check


def right(name: str, x_shape: tuple, w_shape: tuple, declared: tuple = (), **expected) -> Case:
    """`y = x @ W`. `declared` is the shape of x that the model states, where it is not all fixed."""
    y_shape = product_shape(x_shape, w_shape)

    def build(arrays):
        b = GraphBuilder()
        b.input("x", declared or x_shape)
        b.node("MatMul", "x", b.weight("W", arrays["W"]), out="y", name="mm")
        b.output("y", [None] * len(y_shape) if declared else y_shape)
        return b.model()

    return case_of(name, build, random(*x_shape, seed=1), random(*w_shape, seed=2), "columns", expected)


def left(name: str, x_shape: tuple, w_shape: tuple, declared: tuple = (), **expected) -> Case:
    """`y = W @ x`."""
    y_shape = product_shape(w_shape, x_shape)

    def build(arrays):
        b = GraphBuilder()
        b.input("x", declared or x_shape)
        b.node("MatMul", b.weight("W", arrays["W"]), "x", out="y", name="mm")
        b.output("y", [None] * len(y_shape) if declared else y_shape)
        return b.model()

    # W [M, K] times x: the rows of W are the columns of the transposed product.
    return case_of(name, build, random(*x_shape, seed=3), random(*w_shape, seed=4), "rows", expected)


def product_shape(a: tuple, b: tuple) -> tuple:
    return np.matmul(np.zeros(a, np.float32), np.zeros(b, np.float32)).shape


def case_of(name, build, x, w, along, expected) -> Case:
    reason = expected.pop("left", None)
    if reason:
        return Case(name, build, {"x": x}, kept={"W": w}, left={"mm": reason}, **expected)
    weights = {"W": Weight(w, along)}
    return Case(name, build, {"x": x}, weights, matmuls=1, **expected)


RIGHT = [
    right("plain", (5, 64), (64, 48)),
    right("rank_3_input", (2, 5, 64), (64, 48)),
    right("rank_4_input", (2, 3, 5, 64), (64, 48)),
    right("vector_input", (64,), (64, 48)),
    right("symbolic_dims", (2, 7, 64), (64, 48), declared=("batch", "sequence", 64)),
    right("k_not_a_multiple_of_the_block", (5, 40), (40, 24)),
    right("k_odd", (5, 37), (37, 24)),
    right("k_smaller_than_the_block", (5, 7), (7, 24)),
    right("k_is_one", (5, 1), (1, 24)),
    right("n_is_one", (5, 64), (64, 1)),
    right("n_odd", (5, 64), (64, 33)),
    right("one_by_one", (3, 1), (1, 1)),
    right("no_rows_of_input", (0, 64), (64, 48), declared=("rows", 64)),
    right("unit_leading_dim", (2, 5, 64), (1, 64, 48)),
    right("unit_leading_dim_adds_rank", (5, 64), (1, 64, 48)),
    right("two_unit_leading_dims", (2, 5, 64), (1, 1, 64, 48)),
    right("unit_leading_dim_and_vector", (64,), (1, 64, 48)),
    right("batched_weight", (3, 5, 64), (3, 64, 48), left="rank"),
    right("vector_weight", (5, 64), (64,), left="rank"),
    right("k_is_zero", (5, 0), (0, 48), left="empty"),
    right("n_is_zero", (5, 64), (64, 0), left="empty"),
]

LEFT = [
    left("rank_2", (64, 6), (48, 64)),
    left("rank_3", (3, 64, 6), (48, 64)),
    left("rank_4", (2, 3, 64, 6), (48, 64)),
    left("vector", (64,), (48, 64)),
    left("k_odd", (37, 6), (48, 37)),
    left("unit_leading_dim", (64, 6), (1, 48, 64), left="rank"),
    left("known_rank_symbolic_dims", (3, 64, 6), (48, 64), declared=("b", 64, "n")),
    left("batched_weight", (3, 64, 6), (3, 48, 64), left="rank"),
]


@pytest.mark.parametrize("case", RIGHT, ids=str)
def test_constant_on_the_right(case, onnxq):
    check(case, onnxq)


@pytest.mark.parametrize("case", LEFT, ids=str)
def test_constant_on_the_left(case, onnxq):
    check(case, onnxq)


def unknown_rank(constant_on: str, w_shape: tuple, **expected) -> Case:
    """x passes a Reshape whose target is an input of unknown length: nothing tells its rank."""

    def build(arrays):
        b = GraphBuilder()
        b.input("flat", (None,))
        b.input("shape", (None,), INT64)
        b.node("Reshape", "flat", "shape", out="x")
        operands = ["x", b.weight("W", arrays["W"])]
        b.node("MatMul", *(operands if constant_on == "right" else operands[::-1]), out="z", name="mm")
        b.node("Shape", "z", out="z_shape")
        b.node("Reshape", "z", b.weight("all", np.array([-1], np.int64)), out="y")
        b.output("y", (None,))
        b.output("z_shape", (None,), INT64)
        return b.model()

    shape = (2, 5, 64) if constant_on == "right" else (2, 64, 5)
    along = "columns" if constant_on == "right" else "rows"
    case = case_of("unknown rank", build, random(*shape), random(*w_shape), along, expected)
    case.feeds = {"flat": case.feeds["x"].reshape(-1), "shape": np.array(shape, np.int64)}
    return case


def test_right_needs_no_rank(onnxq):
    """`x @ W` with a rank-2 weight is exact for every rank of x."""
    check(unknown_rank("right", (64, 48)), onnxq)


def test_left_needs_the_rank(onnxq):
    """Which axes to swap around the product depends on the rank of x."""
    check(unknown_rank("left", (48, 64), left="rank-unknown"), onnxq)


def test_unit_leading_dim_needs_the_rank(onnxq):
    """`[1, K, N]` adds an axis to the result only when x has fewer axes."""
    check(unknown_rank("right", (1, 64, 48), left="rank-unknown"), onnxq)


@pytest.mark.parametrize("stated", [True, False], ids=["stated", "not_stated"])
def test_rank_of_a_value_in_the_middle(stated, onnxq):
    """Exporters state the shapes of such values; where a model does not, they are inferred."""

    def build(arrays):
        b = GraphBuilder()
        b.input("x", (2, 64, 6))
        b.node("Relu", "x", out="r")
        b.node("MatMul", b.weight("W", arrays["W"]), "r", out="y", name="mm")
        b.output("y", (2, 48, 6))
        if stated:
            b.value_info.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, (2, 64, 6)))
        return b.model()

    check(case_of("middle", build, random(2, 64, 6), random(48, 64), "rows", {}), onnxq)


def typed(dtype: int, **expected) -> Case:
    """A model whose activations and weights all have one type."""

    def build(arrays):
        b = GraphBuilder()
        b.input("x", (5, 64), dtype)
        b.node("MatMul", "x", b.weight("W", arrays["W"], dtype), out="y", name="mm")
        b.output("y", (5, 48), dtype)
        return b.model()

    w = random(64, 48).astype(NUMPY_TYPES[dtype])
    x = random(5, 64, seed=1).astype(NUMPY_TYPES[dtype])
    return case_of("typed", build, x, w, "columns", expected)


def test_float16_model(onnxq):
    check(typed(FLOAT16, tight=HALF_ROUNDING), onnxq)


def test_bfloat16_model(onnxq):
    """MatMulNBits takes bfloat16 by its schema; ONNX Runtime has no CPU kernel for either form."""
    check(typed(BFLOAT16, tight=BFLOAT_STORAGE, runs=False), onnxq)


def test_double_model(onnxq):
    """MatMulNBits has no double form: the product is computed in float32, between two casts."""
    check(typed(DOUBLE), onnxq)


def test_both_operands_dynamic(onnxq):
    def build(_):
        b = GraphBuilder()
        b.input("x", (5, 64))
        b.input("w", (64, 48))
        b.node("MatMul", "x", "w", out="y", name="mm")
        b.output("y", (5, 48))
        return b.model()

    feeds = {"x": random(5, 64), "w": random(64, 48)}
    check(Case("dynamic", build, feeds, left={"mm": "weight-not-constant"}), onnxq)


def two_layers(**expected) -> Case:
    def build(arrays):
        b = GraphBuilder()
        b.input("x", (5, 64))
        b.node("MatMul", "x", b.weight("A", arrays["A"]), out="h", name="/layers.0/fc")
        b.node("MatMul", "h", b.weight("B", arrays["B"]), out="y", name="/head/fc")
        b.output("y", (5, 16))
        return b.model()

    arrays = {"A": random(64, 32, seed=5), "B": random(32, 16, seed=6)}
    keep = expected.pop("keep")
    return Case(
        "two layers",
        build,
        {"x": random(5, 64)},
        {name: Weight(array) for name, array in arrays.items() if name not in keep},
        {name: array for name, array in arrays.items() if name in keep},
        matmuls=2 - len(keep),
        **expected,
    )


def test_exclude_by_name(onnxq):
    args = ("--exclude", "*head*")
    check(two_layers(keep="B", left={"/head/fc": "excluded"}, args=args), onnxq)


def test_include_by_name(onnxq):
    args = ("--include", "/layers.*")
    check(two_layers(keep="B", left={"/head/fc": "not-included"}, args=args), onnxq)


def test_exclude_wins_over_include(onnxq):
    args = ("--include", "*", "--exclude", "/layers.0/*", "--exclude", "*head*")
    left = {"/layers.0/fc": "excluded", "/head/fc": "excluded"}
    check(two_layers(keep="AB", left=left, args=args), onnxq)


def test_second_run_changes_nothing_more(onnxq):
    check(two_layers(keep=""), onnxq)
    onnxq.ok("quantize", "out.onnx", "-o", "again.onnx")
    onnxq.ok("diff", "out.onnx", "again.onnx")
