"""`nbits` on weights that are not plain float initializers: where constants come from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto

import dequant
import harness
from builders import BFLOAT16, DOUBLE, FLOAT, FLOAT16, NUMPY_TYPES, GraphBuilder, random, tensor
from nbits_case import (
    BFLOAT_STORAGE,
    FLOAT_SUMS,
    HALF_ROUNDING,
    HALF_STORAGE,
    Case,
    Weight,
    check,
)

K, N = 40, 24

# How the array of a case becomes the second operand of `x @ W`.
Source = Callable[[GraphBuilder, np.ndarray], str]


def through(
    name: str, source: Source, stored: np.ndarray, along: str = "columns", x_type=FLOAT, **expected
) -> Case:
    def build(arrays):
        b = GraphBuilder()
        b.input("x", (5, K), x_type)
        b.node("MatMul", "x", source(b, arrays["W"]), out="y", name="mm")
        b.output("y", (5, N), x_type)
        return b.model()

    feeds = {"x": random(5, K, seed=1).astype(NUMPY_TYPES[x_type])}
    weight = Weight(stored, along, matrix=(K, N) if along == "columns" else (N, K))
    return Case(name, build, feeds, {"W": weight}, matmuls=1, **expected)


def constant_node(b, w):
    return b.constant("W", w)


def identity(b, w):
    return b.node("Identity", b.weight("W", w), out="w")


def cast_from(dtype):
    return lambda b, w: b.node("Cast", b.weight("W", w, dtype), out="w", to=FLOAT)


def cast_to_half(b, w):
    return b.node("Cast", b.weight("W", w), out="w", to=FLOAT16)


def transpose(b, w):
    return b.node("Transpose", b.weight("W", w), out="w", perm=[1, 0])


def transpose_by_default(b, w):
    return b.node("Transpose", b.weight("W", w), out="w")


def transpose_that_keeps(b, w):
    return b.node("Transpose", b.weight("W", w), out="w", perm=[0, 1])


def transpose_of_rank_3(b, w):
    return b.node("Transpose", b.weight("W", w), out="w3", perm=[0, 2, 1])


def reshape_drops_unit_dims(b, w):
    shape = b.weight("shape", np.array([K, N], np.int64))
    return b.node("Reshape", b.weight("W", w), shape, out="w")


def reshape_by_constant_node(b, w):
    shape = b.constant("shape", np.array([K, -1], np.int64))
    return b.node("Reshape", b.weight("W", w), shape, out="w")


def reshape_keeps_dims(b, w):
    shape = b.weight("shape", np.array([0, 0], np.int64))
    return b.node("Reshape", b.weight("W", w), shape, out="w")


def chain(b, w):
    """Constant -> Cast -> Identity -> Reshape -> Transpose."""
    half = b.constant("W", w, FLOAT16)
    wide = b.node("Cast", half, out="wide", to=FLOAT)
    same = b.node("Identity", wide, out="same")
    shape = b.constant("shape", np.array([N, K], np.int64))
    return b.node("Transpose", b.node("Reshape", same, shape, out="flat"), out="w", perm=[1, 0])


def transpose_before_cast(b, w):
    turned = b.node("Transpose", b.weight("W", w, FLOAT16), out="turned")
    return b.node("Cast", turned, out="w", to=FLOAT)


def typed_field(dtype):
    def source(b, w):
        name = b.weight("W", w, dtype, typed=True)
        return name if dtype == FLOAT else b.node("Cast", name, out="w", to=FLOAT)

    return source


def typed_constant(b, w):
    return b.node("Constant", out="W", value=tensor("W", w, FLOAT, typed=True))


def halves(array: np.ndarray) -> np.ndarray:
    """Numbers that float16 holds exactly, so that only the codes are rounded."""
    return array.astype(np.float16).astype(np.float32)


KN, NK = random(K, N), random(N, K)

CASES = [
    through("constant_node", constant_node, KN),
    through("identity", identity, KN),
    through("cast_float16", cast_from(FLOAT16), halves(KN), tight=HALF_STORAGE),
    through("cast_bfloat16", cast_from(BFLOAT16), KN, tight=BFLOAT_STORAGE),
    through("cast_double", cast_from(DOUBLE), KN),
    through("cast_float_to_half_model", cast_to_half, KN, x_type=FLOAT16, tight=HALF_ROUNDING),
    through("transpose", transpose, NK, "rows"),
    through("transpose_by_default", transpose_by_default, NK, "rows"),
    through("transpose_that_keeps", transpose_that_keeps, KN),
    through("reshape_drops_unit_dims", reshape_drops_unit_dims, KN[None]),
    through("reshape_by_constant_node", reshape_by_constant_node, KN[None, :, None]),
    through("reshape_keeps_dims", reshape_keeps_dims, KN),
    through("chain", chain, halves(NK)[None], "rows", tight=HALF_STORAGE),
    through("transpose_before_cast", transpose_before_cast, halves(NK), "rows", tight=HALF_STORAGE),
    through("float_data", typed_field(FLOAT), KN),
    through("float16_in_int32_data", typed_field(FLOAT16), halves(KN), tight=HALF_STORAGE),
    through("bfloat16_in_int32_data", typed_field(BFLOAT16), KN, tight=BFLOAT_STORAGE),
    through("double_data", typed_field(DOUBLE), KN),
    through("float_data_in_constant_node", typed_constant, KN),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_source(case, onnxq):
    written = check(case, onnxq)
    assert not float_copies(written), "the float weight is still in the file"


def float_copies(model) -> list[str]:
    """Constants as large as the weight that are not integers, Constant nodes included."""
    integers = (TensorProto.UINT8, TensorProto.INT64)
    return [
        item.name
        for item in dequant.all_tensors(model)
        if item.data_type not in integers and np.prod(item.dims) == K * N
    ]


def test_half_model_with_transposed_rank_3_weight(onnxq):
    """`[1, N, K]` transposed to `[1, K, N]`: unit dims and a Transpose together."""

    def build(arrays):
        b = GraphBuilder()
        b.input("x", (2, 5, K))
        b.node("MatMul", "x", transpose_of_rank_3(b, arrays["W"]), out="y", name="mm")
        b.output("y", (2, 5, N))
        return b.model()

    case = Case("rank 3", build, {"x": random(2, 5, K)}, {"W": Weight(NK[None], "rows")}, matmuls=1)
    check(case, onnxq)


def test_reshape_that_mixes_rows(onnxq):
    """[N, K] viewed as [K, N] is neither W nor its transpose, but still a constant of its own."""

    def build(arrays):
        b = GraphBuilder()
        b.input("x", (5, K))
        shape = b.weight("shape", np.array([K, N], np.int64))
        w = b.node("Reshape", b.weight("W", arrays["W"]), shape, out="w")
        b.node("MatMul", "x", w, out="y", name="mm")
        b.output("y", (5, N))
        return b.model()

    stored = random(N, K)
    harness.save(build({"W": stored}), onnxq.dir / "in.onnx")
    onnxq.ok("quantize", "in.onnx", "-o", "out.onnx", "--json", "report.json")
    feeds = {"x": random(5, K, seed=1)}
    plain = harness.run_model(onnxq.dir / "in.onnx", feeds)["y"]
    found = harness.run_model(onnxq.dir / "out.onnx", feeds)["y"]
    weights = dequant.quantized_weights(dequant.load(onnxq.dir / "out.onnx"))
    wanted = feeds["x"] @ weights[0].dequantized().T if weights else plain
    # float32 sums in another order
    np.testing.assert_allclose(found, wanted, atol=FLOAT_SUMS * np.abs(wanted).max())


def test_cast_that_is_not_to_float_is_left_alone(onnxq):
    """Codes of an integer that is cast to float are no weight to round."""

    def build(arrays):
        b = GraphBuilder()
        b.input("x", (5, K))
        b.node("Cast", b.weight("W", arrays["W"]), out="w", to=FLOAT)
        b.node("MatMul", "x", "w", out="y", name="mm")
        b.output("y", (5, N))
        return b.model()

    whole = np.round(random(K, N, scale=30)).astype(np.int32)
    harness.save(build({"W": whole}), onnxq.dir / "in.onnx")
    onnxq.ok("quantize", "in.onnx", "-o", "out.onnx")
    feeds = {"x": random(5, K)}
    plain = harness.run_model(onnxq.dir / "in.onnx", feeds)["y"]
    found = harness.run_model(onnxq.dir / "out.onnx", feeds)["y"]
    # Quantized or not, it has to stay near: 0.25 is the bound for 4 bits in nbits_case.py.
    assert np.linalg.norm(found - plain) < 0.25 * np.linalg.norm(plain)
