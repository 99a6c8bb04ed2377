"""`nbits` options: each combination runs, and its codes are ONNX Runtime's, bit for bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import dequant
import harness
import ort_quantizer
from builders import FLOAT, FLOAT16, INT64, NUMPY_TYPES, GraphBuilder, random
from dequant import attribute
from nbits_case import FLOAT_SUMS, HALF_ROUNDING, INT8_ACTIVATIONS, Case, Weight, check
from ort_quantizer import Rule

BLOCKS = (16, 32, 64, 128, 256)
RULES = [Rule(*rule) for rule in itertools.product((2, 4, 8), BLOCKS, (True, False))]


def linear(w: np.ndarray, dtype: int = FLOAT, **expected) -> Case:
    k, n = w.shape
    numpy_type = NUMPY_TYPES[dtype]

    def build(arrays):
        b = GraphBuilder()
        b.input("x", (4, k), dtype)
        b.node("MatMul", "x", b.weight("W", arrays["W"], dtype), out="y", name="mm")
        b.output("y", (4, n), dtype)
        return b.model()

    feeds = {"x": random(4, k, seed=1).astype(numpy_type)}
    return Case("linear", build, feeds, {"W": Weight(w.astype(numpy_type))}, matmuls=1, **expected)


@pytest.mark.parametrize("dtype", [FLOAT, FLOAT16], ids=["float", "float16"])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_every_rule(rule, dtype, onnxq):
    """K = 300 fills no block size evenly but leaves no block empty."""
    tight = FLOAT_SUMS if dtype == FLOAT else HALF_ROUNDING
    args = (*rule.args(), "--accuracy-level", 0)
    case = linear(random(300, 24) + 0.3, dtype, args=args, bits=rule.bits, tight=tight)
    written = check(case, onnxq)
    [found] = dequant.quantized_weights(written)
    assert (found.bits, found.block) == (rule.bits, rule.block)
    ort_quantizer.assert_same_codes(found, case.quantized["W"].array.T, rule)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("level", [0, 1, 2, 3, 4])
def test_accuracy_level(level, bits, onnxq):
    tight = INT8_ACTIVATIONS if level == 4 else FLOAT_SUMS
    args = ("--accuracy-level", level, "--block-size", 32, "--bits", bits)
    written = check(linear(random(256, 24), args=args, bits=bits, tight=tight), onnxq)
    [found] = dequant.quantized_weights(written)
    assert attribute(found.node, "accuracy_level", 0) == level


def test_defaults(onnxq):
    """4 bits, block 16, with zero points; `accuracy_level` is left out, as ONNX Runtime's quantizer does."""
    w = random(64, 24)
    found = quantize_by(onnxq, w)
    assert (found.bits, found.block) == (4, 16)
    assert "accuracy_level" not in {attr.name for attr in found.node.attribute}
    said = quantize_by(onnxq, w, "--method", "mse", "--asymmetric")
    for one, other in [(found.codes, said.codes), (found.scales, said.scales), (found.zero_points, said.zero_points)]:
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(found.scales, quantize_by(onnxq, w, "--method", "rtn").scales)


def test_no_zero_points_where_they_are_not_taken(onnxq):
    """rten refuses a MatMulNBits with zero points."""
    assert quantize_by(onnxq, random(64, 24), "--target", "rten").zero_points is None
    assert quantize_by(onnxq, random(64, 24), "--symmetric").zero_points is None
    assert quantize_by(onnxq, random(64, 24), "--bits", "8").zero_points is None
    onnxq.refuses("quantize", "in.onnx", "--symmetric", "--dtype", "int8", mentions=("--symmetric",))


def quantize_by(onnxq, w: np.ndarray, *args: str) -> dequant.Quantized:
    harness.save(linear(w).original(), onnxq.dir / "in.onnx")
    onnxq.ok("quantize", "in.onnx", "-o", "out.onnx", *args)
    [found] = dequant.quantized_weights(dequant.load(onnxq.dir / "out.onnx"), onnxq.dir)
    return found


@pytest.mark.parametrize("bits", [2, 8])
def test_default_accuracy_level_of_other_widths(bits, onnxq):
    """Without level 4, ONNX Runtime has no fast kernel for them: a hundred times slower on the CPU."""
    written = check(linear(random(64, 24), bits=bits, args=("--bits", bits)), onnxq)
    [found] = dequant.quantized_weights(written)
    assert attribute(found.node, "accuracy_level", 0) == 4


REFUSED = [
    ("--bits", 3),
    ("--bits", 0),
    ("--block-size", 8),
    ("--block-size", 24),
    ("--block-size", 512),
    ("--block-size", 0),
    ("--accuracy-level", 5),
    ("--accuracy-level", -1),
]


@pytest.mark.parametrize("args", REFUSED, ids=lambda args: f"{args[0][2:]}={args[1]}")
def test_value_that_no_runtime_takes(args, onnxq):
    harness.save(linear(random(64, 24)).original(), onnxq.dir / "in.onnx")
    done = onnxq("quantize", "in.onnx", "-o", "out.onnx", f"{args[0]}={args[1]}")
    assert done.status == 2, done.describe()
    assert args[0].lstrip("-") in done.err, done.describe()
    assert not (onnxq.dir / "out.onnx").exists()


# --- the same codes as ONNX Runtime's quantizer, on whole matrices with awkward numbers


def awkward(k: int, n: int) -> np.ndarray:
    """Numbers that tell one rounding rule from another: ties, zeros, tiny, huge, one-signed."""
    w = random(k, n, seed=11)
    w[:, 0] = 0
    w[:, 1] = -0.0
    w[:, 2] = np.abs(w[:, 2])
    w[:, 3] = -np.abs(w[:, 3])
    w[:, 4] = np.arange(k) % 17 - 8  # exact halves of a scale
    w[:, 5] *= 1e-30
    w[:, 6] *= 1e4
    w[:, 7] = np.where(np.arange(k) % 2, 1, -1)  # |max| = |min|
    w[:, 8] = 0.1  # one value only
    w[:, 9] *= 1e-6  # below the normal range of float16
    w[1::3, 10] = 0
    w[:, 11] = np.float32(2) ** -(np.arange(k) % 30)
    return w


@pytest.mark.parametrize("dtype", [FLOAT, FLOAT16], ids=["float", "float16"])
@pytest.mark.parametrize("k", [512, 500, 33])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_codes_of_awkward_numbers(rule, k, dtype, onnxq):
    w = awkward(k, 16).astype(NUMPY_TYPES[dtype])
    found = quantize_one(onnxq, w, dtype, rule)
    ort_quantizer.assert_same_codes(found, w.T, rule)


def quantize_one(onnxq, w: np.ndarray, dtype: int, rule: Rule) -> dequant.Quantized:
    harness.save(linear(w, dtype).original(), onnxq.dir / "in.onnx")
    onnxq.ok("quantize", "in.onnx", "-o", "out.onnx", *rule.args())
    [found] = dequant.quantized_weights(dequant.load(onnxq.dir / "out.onnx"), onnxq.dir)
    return found


@pytest.mark.parametrize("dtype", [FLOAT, FLOAT16], ids=["float", "float16"])
@pytest.mark.parametrize("k", [1024, 1000])
@pytest.mark.parametrize("block", [16, 32, 64, 128])
@pytest.mark.parametrize("symmetric", [True, False], ids=["sym", "asym"])
def test_whole_file_of_the_quantizer(symmetric, block, k, dtype, onnxq):
    """The public class, not only the kernel under it, on a matrix of a million numbers."""
    rule = Rule(4, block, symmetric)
    w = random(k, 1024, seed=12, scale=0.05).astype(NUMPY_TYPES[dtype])
    found = quantize_one(onnxq, w, dtype, rule)
    [wanted] = dequant.quantized_weights(ort_quantizer.quantize_model(linear(w, dtype).original(), rule))
    np.testing.assert_array_equal(found.scales, wanted.scales)
    np.testing.assert_array_equal(found.codes, wanted.codes)
    if not symmetric:
        np.testing.assert_array_equal(found.zero_points, wanted.zero_points)


@pytest.mark.parametrize("dtype", [FLOAT, FLOAT16], ids=["float", "float16"])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_codes_of_a_table(rule, dtype, onnxq):
    """A row of a table is quantized by the same rule as a column of a weight."""
    # An even number of blocks for each block size: odd ones with zero points are declined.
    table = awkward(500, 24).T.astype(NUMPY_TYPES[dtype])
    b = GraphBuilder()
    b.input("ids", (3,), INT64)
    b.node("Gather", b.weight("T", table, dtype), "ids", out="y", name="g")
    b.output("y", (3, 500), dtype)
    harness.save(b.model(), onnxq.dir / "in.onnx")
    onnxq.ok("quantize", "in.onnx", "-o", "out.onnx", *rule.args())
    [found] = dequant.quantized_weights(dequant.load(onnxq.dir / "out.onnx"))
    ort_quantizer.assert_same_codes(found, table, rule)


def test_transposed_and_shared_layouts_get_the_same_codes(onnxq):
    """Where a weight comes from does not change its codes: the column walk equals the row walk."""
    w = awkward(200, 24)
    b = GraphBuilder()
    b.input("x", (4, 200))
    b.node("MatMul", "x", b.weight("KN", w), out="a", name="plain")
    b.node("MatMul", "x", b.node("Transpose", b.weight("NK", w.T), out="t"), out="c", name="turned")
    b.node("Gemm", "x", "NK", out="d", name="gemm", transB=1)
    for name in "acd":
        b.output(name, (4, 24))
    harness.save(b.model(), onnxq.dir / "in.onnx")
    onnxq.ok("quantize", "in.onnx", "-o", "out.onnx", "--no-clean", *Rule().args())
    found = dequant.quantized_weights(dequant.load(onnxq.dir / "out.onnx"))
    assert len(found) == 3
    for weight in found:
        ort_quantizer.assert_same_codes(weight, w.T, Rule())
