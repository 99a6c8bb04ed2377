"""`nbits{format=qdq}`: codes behind a blocked DequantizeLinear, the nodes as they were.

The codes are checked against ONNX Runtime's quantizer, the meaning of the file by running it.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import harness
from builders import GraphBuilder, random
from ort_quantizer import Rule, quantize_rows

# float32 sums of at most 70 products in another order: 70 * 2^-24, and as much for the rounding.
SUMS = 1e-5
# Results of about 10 are rounded to float16 (2^-11), and ONNX Runtime may sum in float16.
HALF = 2e-2
OPSET = {2: 25, 4: 21, 8: 21}
IR = {21: 10, 25: 13}


def matmul(w: np.ndarray, bits: int, kind: str = "matmul") -> ModelProto:
    """`w` is [N, K]: results by terms."""
    b = GraphBuilder()
    dtype = helper.np_dtype_to_tensor_dtype(w.dtype)
    x = b.input("x", ["rows", w.shape[1]], dtype)
    if kind == "matmul":
        y = b.node("MatMul", x, b.weight("W", np.ascontiguousarray(w.T)), out="y", name="product")
    elif kind == "gemm":
        bias = b.weight("C", random(w.shape[0], seed=9).astype(w.dtype))
        y = b.node("Gemm", x, b.weight("W", w), bias, out="y", name="product", transB=1, alpha=0.5)
    else:
        turned = b.node("Transpose", b.weight("W", w), out="turned", name="turn", perm=[1, 0])
        y = b.node("MatMul", x, turned, out="y", name="product")
    b.output(y, ["rows", w.shape[0]], dtype)
    opset = OPSET[bits]
    return b.model(opset=opset, ir_version=IR[opset])


def write(onnxq: harness.Onnxq, model: ModelProto, rule: Rule, *more: str) -> ModelProto:
    harness.save(model, onnxq.dir / "in.onnx")
    options = [f"bits={rule.bits}", f"block={rule.block}", "format=qdq", *more]
    options += [] if rule.symmetric else ["asymmetric"]
    onnxq.ok("opt", "in.onnx", "-o", "out.onnx", "--passes", f"nbits{{{','.join(options)}}}")
    onnx.checker.check_model(str(onnxq.dir / "out.onnx"), full_check=True)
    return onnx.load(onnxq.dir / "out.onnx")


def decoders(model: ModelProto) -> list[onnx.NodeProto]:
    return [n for n in model.graph.node if n.op_type == "DequantizeLinear"]


def check_codes(model: ModelProto, rows: np.ndarray, rule: Rule) -> np.ndarray:
    """The one decoder holds what ONNX Runtime's quantizer makes of `rows`; returns what they stand for."""
    (node,) = decoders(model)
    arrays = {t.name: t for t in model.graph.initializer}
    codes, scales, zero_points = quantize_rows(rows, rule)
    axis = helper.get_node_attr_value(node, "axis")
    assert helper.get_node_attr_value(node, "block_size") == rule.block

    def array(slot: int) -> np.ndarray:
        found = numpy_helper.to_array(arrays[node.input[slot]])
        found = found if found.dtype.kind == "f" and slot == 1 else found.astype(np.int32)
        return found if axis == 1 else found.T

    middle = 2 ** (rule.bits - 1)
    np.testing.assert_array_equal(array(1), scales)
    np.testing.assert_array_equal(array(0), codes.astype(np.int32) - (middle if rule.symmetric else 0))
    points = np.full_like(scales, middle, dtype=np.int32)
    assert len(node.input) == (2 if rule.symmetric else 3)
    if not rule.symmetric:
        points = zero_points.astype(np.int32)
        np.testing.assert_array_equal(array(2), points)
    spread = lambda a: np.repeat(a, rule.block, axis=1)[:, : rows.shape[1]]  # noqa: E731
    return (codes.astype(np.int32) - spread(points)) * spread(scales).astype(np.float32)


RULES = [
    Rule(bits, block, symmetric)
    for bits, block in [(2, 32), (4, 16), (4, 32), (8, 16)]
    for symmetric in (True, False)
]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("kind", ["matmul", "gemm", "transposed"])
@pytest.mark.parametrize(("n", "k"), [(24, 64), (7, 33)])
def test_products(onnxq: harness.Onnxq, rule: Rule, kind: str, n: int, k: int) -> None:
    if rule.bits == 2:
        # ONNX Runtime computes other numbers of columns wrongly: see below.
        n = -(-n // 4) * 4
    w = random(n, k)
    written = write(onnxq, matmul(w, rule.bits, kind), rule)
    decoded = check_codes(written, w, rule)
    x = random(5, k, seed=1)
    (found,) = harness.run_model(onnxq.dir / "out.onnx", {"x": x}, opts=False).values()
    expected = x @ decoded.T
    if kind == "gemm":
        expected = 0.5 * expected + random(n, seed=9)
    np.testing.assert_allclose(found, expected, rtol=0, atol=SUMS * np.abs(expected).max())


@pytest.mark.parametrize("n", [2, 5, 18])
def test_two_bits_of_odd_widths_are_left(onnxq: harness.Onnxq, n: int) -> None:
    """ONNX Runtime 1.26 to 1.31 fuses these and reads what it should not."""
    written = write(onnxq, matmul(random(n, 64), 2), Rule(2, 32, True))
    assert [node.op_type for node in written.graph.node] == ["MatMul"]


@pytest.mark.parametrize("rule", [Rule(4, 16, True), Rule(4, 32, False), Rule(8, 32, True)], ids=str)
def test_half(onnxq: harness.Onnxq, rule: Rule) -> None:
    w = random(24, 64).astype(np.float16)
    written = write(onnxq, matmul(w, rule.bits), rule)
    decoded = check_codes(written, w, rule)
    x = random(5, 64, seed=1).astype(np.float16)
    (found,) = harness.run_model(onnxq.dir / "out.onnx", {"x": x}, opts=False).values()
    np.testing.assert_allclose(found, x.astype(np.float32) @ decoded.T, rtol=0, atol=HALF)


def test_it_becomes_the_block_kernel(onnxq: harness.Onnxq) -> None:
    """ONNX Runtime makes MatMulNBits of it by itself, so that it is as fast."""
    import onnxruntime as ort

    write(onnxq, matmul(random(32, 64), 4), Rule(4, 32, True))
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(onnxq.dir / "optimized.onnx")
    ort.InferenceSession(onnxq.dir / "out.onnx", options, providers=["CPUExecutionProvider"])
    operators = [n.op_type for n in onnx.load(onnxq.dir / "optimized.onnx").graph.node]
    assert operators == ["MatMulNBits"]


def tied(*, excluded: bool = False) -> ModelProto:
    """A table that is embedding and, transposed, output projection."""
    b = GraphBuilder()
    ids = b.input("ids", ["tokens"], TensorProto.INT64)
    table = b.weight("table", random(50, 32))
    x = b.node("Gather", table, ids, out="embedded", name="embed")
    head = b.node("Transpose", table, out="turned", name="turn", perm=[1, 0])
    b.output(b.node("MatMul", x, head, out="y", name="excluded" if excluded else "head"), ["tokens", 50])
    return b.model(opset=21, ir_version=10)


def test_a_tied_table_is_stored_once(onnxq: harness.Onnxq) -> None:
    rule = Rule(4, 16, True)
    written = write(onnxq, tied(), rule)
    decoded = check_codes(written, random(50, 32), rule)
    assert {t.name for t in written.graph.initializer} == {"table_Q4", "table_scales"}
    ids = np.array([3, 0, 49])
    (found,) = harness.run_model(onnxq.dir / "out.onnx", {"ids": ids}, opts=False).values()
    expected = decoded[ids] @ decoded.T
    np.testing.assert_allclose(found, expected, rtol=0, atol=SUMS * np.abs(expected).max())


def test_who_is_excluded_reads_floats(onnxq: harness.Onnxq) -> None:
    rule = Rule(4, 16, True)
    written = write(onnxq, tied(excluded=True), rule, "exclude=excluded")
    decoded = check_codes(written, random(50, 32), rule)
    assert {t.name for t in written.graph.initializer} == {"table", "table_Q4", "table_scales"}
    ids = np.array([3, 0, 49])
    (found,) = harness.run_model(onnxq.dir / "out.onnx", {"ids": ids}, opts=False).values()
    expected = decoded[ids] @ random(50, 32).T
    np.testing.assert_allclose(found, expected, rtol=0, atol=SUMS * np.abs(expected).max())


def test_a_weight_on_the_left(onnxq: harness.Onnxq) -> None:
    rule = Rule(4, 16, True)
    b = GraphBuilder()
    x = b.input("x", ["batch", 32, "columns"])
    b.output(b.node("MatMul", b.weight("W", random(8, 32)), x, out="y", name="product"), ["batch", 8, "columns"])
    written = write(onnxq, b.model(opset=21, ir_version=10), rule)
    decoded = check_codes(written, random(8, 32), rule)
    x = random(3, 32, 5, seed=1)
    (found,) = harness.run_model(onnxq.dir / "out.onnx", {"x": x}, opts=False).values()
    np.testing.assert_allclose(found, decoded @ x, rtol=0, atol=SUMS * np.abs(decoded @ x).max())
