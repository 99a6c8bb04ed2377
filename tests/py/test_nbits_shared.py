"""`nbits` on weights that several operators read: quantized once, stored once, right for each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import dequant
from builders import FLOAT, FLOAT16, INT64, NUMPY_TYPES, GraphBuilder, random
from nbits_case import HALF_ROUNDING, Case, Weight, check, one_or_two

K, N = 48, 32

# Bytes that are no codes and scales of the weights: names, shapes, small constants.
SMALL = 256


def quantized_bytes(rows: int, k: int, block: int = 16, scale_bytes: int = 4) -> int:
    """What one 4-bit weight takes: rows padded to whole blocks, one scale a block."""
    blocks = -(-k // block)
    return rows * blocks * (block // 2 + scale_bytes)


def test_two_matmuls(onnxq):
    def build(arrays):
        b = GraphBuilder()
        b.input("x", (5, K))
        w = b.weight("W", arrays["W"])
        b.node("MatMul", "x", w, out="a", name="mm1")
        b.node("Relu", "x", out="r")
        b.node("MatMul", "r", w, out="c", name="mm2")
        b.node("Sub", "a", "c", out="y")
        b.output("y", (5, N))
        return b.model()

    case = Case("two", build, {"x": random(5, K)}, {"W": Weight(random(K, N))}, matmuls=2)
    assert dequant.stored_bytes(check(case, onnxq)) <= quantized_bytes(N, K) + SMALL


def test_matmul_of_transpose_and_gemm_trans_b(onnxq):
    """Both read the same [N, K] weight along its rows: one set of codes serves both."""

    def build(arrays):
        b = GraphBuilder()
        b.input("x", (5, K))
        w = b.weight("W", arrays["W"])
        b.node("MatMul", "x", b.node("Transpose", w, out="wt"), out="a", name="mm")
        b.node("Gemm", "x", w, out="c", name="gemm", transB=1)
        b.node("Add", "a", "c", out="y")
        b.output("y", (5, N))
        return b.model()

    case = Case("both", build, {"x": random(5, K)}, {"W": Weight(random(N, K), "rows")}, matmuls=2)
    assert dequant.stored_bytes(check(case, onnxq)) <= quantized_bytes(N, K) + SMALL


def test_matmul_and_gemm_trans_b_of_a_square_weight(onnxq):
    """The blocks run down for one operator and across for the other: two sets of codes."""

    def build(arrays):
        b = GraphBuilder()
        b.input("x", (5, K))
        down, across = one_or_two(b, arrays["down"], arrays["across"])
        b.node("MatMul", "x", down, out="a", name="mm")
        b.node("Gemm", "x", across, out="c", name="gemm", transB=1)
        b.node("Add", "a", "c", out="y")
        b.output("y", (5, K))
        return b.model()

    w = random(K, K)
    weights = {"down": Weight(w, "columns"), "across": Weight(w, "rows")}
    check(Case("square", build, {"x": random(5, K)}, weights, matmuls=2), onnxq)


def test_matmul_and_gather_of_one_weight(onnxq):
    """A weight that is a table [V, H] for Gather and [K=V, N=H] for MatMul: two sets of codes."""

    def build(arrays):
        b = GraphBuilder()
        b.input("x", (5, K))
        b.input("ids", (5,), INT64)
        down, across = one_or_two(b, arrays["down"], arrays["across"])
        b.node("MatMul", "x", down, out="a", name="mm")
        b.node("Gather", across, "ids", out="c", name="g")
        b.node("Add", "a", "c", out="y")
        b.output("y", (5, N))
        return b.model()

    w = random(K, N)
    weights = {"down": Weight(w, "columns"), "across": Weight(w, "rows")}
    feeds = {"x": random(5, K), "ids": np.array([0, 5, 47, 5, 1])}
    check(Case("table", build, feeds, weights, matmuls=1, gathers=1), onnxq)


V = 240  # large enough that no part of it is kept out of a side file for being small
IDS = np.array([[0, 3, 239, 7]])


def tied(name: str, h: int, head: str, dtype: int = FLOAT, table=None, **expected) -> Case:
    """An embedding whose table is also the output projection."""

    def build(arrays):
        b = GraphBuilder()
        b.input("ids", IDS.shape, INT64)
        table = b.weight("T", arrays["T"], dtype)
        x = b.node("Gather", table, "ids", out="x", name="embed")
        x = b.node("Tanh", x, out="hidden")
        if head == "transpose":
            b.node("MatMul", x, b.node("Transpose", table, out="tt"), out="y", name="lm_head")
            b.output("y", (*IDS.shape, V), dtype)
        else:
            flat = b.node("Reshape", x, b.weight("s", np.array([-1, h], np.int64)), out="flat")
            b.node("Gemm", flat, table, out="y", name="lm_head", transB=1)
            b.output("y", (IDS.size, V), dtype)
        return b.model()

    table = (random(V, h) if table is None else table).astype(NUMPY_TYPES[dtype])
    weights = {"T": Weight(table, "rows")}
    expected = {"matmuls": 1, "gathers": 1} | expected
    return Case(name, build, {"ids": IDS}, weights, **expected)


TIED = [
    tied("transpose", 64, "transpose"),
    tied("gemm", 64, "gemm"),
    tied("float16", 64, "transpose", FLOAT16, tight=HALF_ROUNDING),
    tied("asymmetric", 64, "transpose", table=random(V, 64) + 1, args=("--asymmetric",)),
    tied("block_32", 64, "gemm", args=("--block-size", 32)),
    tied("bits_8", 64, "transpose", args=("--bits", 8), bits=8),
]


@pytest.mark.parametrize("where", ["never", "always"])
@pytest.mark.parametrize("case", TIED, ids=str)
def test_tied_embedding_is_stored_once(case, where, onnxq):
    case = replace(case, args=(*case.args, "--external-data", where))
    written = check(case, onnxq)
    [once, _] = dequant.quantized_weights(written, onnxq.dir)
    zero_points = 0 if once.zero_points is None else once.zero_points.size * case.bits // 8
    wanted = once.codes.size * case.bits // 8 + once.scales.nbytes + zero_points
    assert dequant.stored_bytes(written) <= wanted + SMALL


@pytest.mark.parametrize("where", ["never", "always"])
@pytest.mark.parametrize("head", ["transpose", "gemm"])
def test_tied_embedding_whose_width_is_no_multiple_of_the_block(head, where, onnxq):
    """The two operators pad the last block differently, so the bytes cannot be the same."""
    check(tied("H=40", 40, head, args=("--external-data", where)), onnxq)


# Where one reader keeps the float table, the other one is quantized all the same, and a remark
# says that the float bytes are still there.


def test_tied_embedding_of_odd_width(onnxq):
    check(half_rounded("head", 33, {"embed": "odd-width", "lm_head": "kept-float"}), onnxq)


def test_tied_embedding_with_the_gather_excluded(onnxq):
    left = {"embed": "excluded", "lm_head": "kept-float"}
    check(half_rounded("head", 64, left, ("--exclude", "embed")), onnxq)


def test_tied_embedding_with_the_head_excluded(onnxq):
    left = {"lm_head": "excluded", "embed": "kept-float"}
    check(half_rounded("embed", 64, left, ("--exclude", "lm_head")), onnxq)


def half_rounded(rounded: str, h: int, left: dict[str, str], args: tuple[object, ...] = ()) -> Case:
    """A tied embedding of which only one reader is quantized: `embed` or `head`."""
    kept = "embed" if rounded == "head" else "head"
    table = random(V, h)

    def build(arrays):
        b = GraphBuilder()
        b.input("ids", IDS.shape, INT64)
        embed, head = one_or_two(b, arrays["embed"], arrays["head"])
        x = b.node("Tanh", b.node("Gather", embed, "ids", out="x", name="embed"), out="hidden")
        b.node("MatMul", x, b.node("Transpose", head, out="tt"), out="y", name="lm_head")
        b.output("y", (*IDS.shape, V))
        return b.model()

    counts = {"matmuls": int(rounded == "head"), "gathers": int(rounded == "embed")}
    weights = {rounded: Weight(table, "rows")}
    return Case(rounded, build, {"ids": IDS}, weights, {kept: table}, left=left, args=args, **counts)


@pytest.mark.parametrize("where", ["never", "always"])
def test_head_stored_as_a_second_transposed_copy(where, onnxq):
    """What exporters write for a tied model: [V, H] and its transpose. One set of codes does."""

    def build(arrays):
        b = GraphBuilder()
        b.input("ids", IDS.shape, INT64)
        x = b.node("Gather", b.weight("T", arrays["T"]), "ids", out="x", name="embed")
        x = b.node("Tanh", x, out="hidden")
        b.node("MatMul", x, b.weight("head", arrays["T"].T), out="y", name="lm_head")
        b.output("y", (*IDS.shape, V))
        return b.model()

    args = ("--external-data", where)
    case = Case("dup", build, {"ids": IDS}, {"T": Weight(random(V, 64), "rows")}, args=args)
    written = check(replace(case, matmuls=1, gathers=1), onnxq)
    assert dequant.stored_bytes(written) <= quantized_bytes(V, 64) + SMALL


def test_weight_that_another_operator_reads(onnxq):
    """The float weight has to stay for Abs; the product still gets its codes."""

    def build(arrays):
        b = GraphBuilder()
        b.input("x", (5, K))
        down, kept = one_or_two(b, arrays["down"], arrays["kept"])
        b.node("MatMul", "x", down, out="a", name="mm")
        b.node("ReduceSum", b.node("Abs", kept, out="abs"), out="norm", keepdims=0)
        b.node("Div", "a", "norm", out="y")
        b.output("y", (5, N))
        return b.model()

    w, left = random(K, N), {"mm": "kept-float"}
    case = Case("abs", build, {"x": random(5, K)}, {"down": Weight(w)}, {"kept": w}, 1, left=left)
    check(case, onnxq)
