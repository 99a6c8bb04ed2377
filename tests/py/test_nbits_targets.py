"""`nbits{target=...}`: another form where the target lacks one, or the weight as it was, with a remark."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

import harness
from builders import GraphBuilder, random
from ort_quantizer import Rule, quantize_rows
from report import Report


def embedding(
    table: np.ndarray, rank: int | None, *, head: bool = False, opset: int = 17, ids: int = TensorProto.INT64
) -> ModelProto:
    b = GraphBuilder()
    dtype = helper.np_dtype_to_tensor_dtype(table.dtype)
    shape = None if rank is None else [f"d{i}" for i in range(rank)]
    ids = b.input("ids", shape, ids)
    y = b.node("Gather", b.weight("table", table), ids, out="embedded", name="embed")
    if head:
        turned = b.node("Transpose", "table", out="turned", perm=[1, 0])
        y = b.node("MatMul", y, turned, out="y", name="head")
    b.output(y, None, dtype)
    return b.model(opset=opset)


def write(onnxq: harness.Onnxq, model: ModelProto, *args: object) -> tuple[ModelProto, Report]:
    harness.save(model, onnxq.dir / "in.onnx")
    onnxq.ok("quantize", "in.onnx", "-o", "out.onnx", "--no-clean", "--json", "report.json", *args)
    onnxq.ok("verify", "out.onnx")
    return onnx.load(onnxq.dir / "out.onnx"), Report.read(onnxq.dir / "report.json")


def decoded(table: np.ndarray, rule: Rule) -> np.ndarray:
    """What the codes of ONNX Runtime's quantizer stand for, in the arithmetic of the table's type."""
    codes, scales, points = quantize_rows(table, rule)
    points = np.full(scales.shape, 2 ** (rule.bits - 1)) if points is None else points
    spread = lambda a: np.repeat(a, rule.block, axis=1)[:, : table.shape[1]].astype(table.dtype)  # noqa: E731
    return (codes.astype(table.dtype) - spread(points)) * spread(scales)


# The last version without GatherBlockQuantized over uint8 data.
OLD = ("--target", "onnxruntime@1.21")
RULES = [Rule(2, 32), Rule(4, 16), Rule(4, 16, False), Rule(4, 32, False), Rule(8, 16, False)]


def rule_args(rule: Rule, target: tuple[str, ...] = OLD) -> tuple[object, ...]:
    return (*rule.args(), *target)


@pytest.mark.parametrize("rule", [r for r in RULES if r.bits != 2], ids=str)
@pytest.mark.parametrize("rank", [0, 1, 2, 3])
@pytest.mark.parametrize("opset", [10, 12, 17])
def test_rows_without_the_operator(onnxq: harness.Onnxq, rule: Rule, rank: int, opset: int) -> None:
    """Exactly what the codes stand for: three blocks a row, an odd number, and each its own zero point."""
    table = random(11, 3 * rule.block)
    written, report = write(onnxq, embedding(table, rank, opset=opset), *rule_args(rule))
    assert all(n.domain == "" for n in written.graph.node)
    assert [w["name"] for w in report.weights()] == ["table"]
    ids = np.random.default_rng(1).integers(0, 11, (2, 1, 3)[:rank])
    (found,) = harness.run_model(onnxq.dir / "out.onnx", {"ids": ids}, opts=False).values()
    np.testing.assert_array_equal(found, decoded(table, rule)[ids])


def test_two_bits(onnxq: harness.Onnxq) -> None:
    """GatherBlockQuantized of 2 bits came with 1.27."""
    rule = Rule(2, 32, False)
    table = random(11, 96)
    written, _ = write(onnxq, embedding(table, 2), *rule_args(rule, ("--target", "onnxruntime@1.24")))
    assert all(n.domain == "" for n in written.graph.node)
    ids = np.array([[0, 10, 3]])
    (found,) = harness.run_model(onnxq.dir / "out.onnx", {"ids": ids}, opts=False).values()
    np.testing.assert_array_equal(found, decoded(table, rule)[ids])


def test_half(onnxq: harness.Onnxq) -> None:
    table = random(11, 64).astype(np.float16)
    write(onnxq, embedding(table, 2, ids=TensorProto.INT32), *rule_args(Rule()))
    ids = np.array([[0, 10, 3]], np.int32)
    (found,) = harness.run_model(onnxq.dir / "out.onnx", {"ids": ids}, opts=False).values()
    np.testing.assert_array_equal(found, decoded(table, Rule())[ids])


def test_a_tied_table_is_still_stored_once(onnxq: harness.Onnxq) -> None:
    table = random(60, 64)
    written, _ = write(onnxq, embedding(table, 2, head=True), *rule_args(Rule()))
    large = [t.name for t in written.graph.initializer if np.prod(t.dims) > 64]
    assert sorted(large) == ["table_Q4", "table_scales"]
    ids = np.array([[0, 10, 3]])
    (found,) = harness.run_model(onnxq.dir / "out.onnx", {"ids": ids}, opts=False).values()
    rows = decoded(table, Rule())
    expected = rows[ids] @ rows.T
    # float32 sums of 64 products in another order: 64 * 2^-24.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (embedding(random(11, 64), None), "rank of the indices unknown"),
        (embedding(random(11, 40), 2), "rows that are no whole blocks"),
        (embedding(random(11, 64), 2, opset=9), "no Mod before opset 10"),
    ],
    ids=["rank", "blocks", "opset"],
)
def test_what_cannot_be_spelled_stays(onnxq: harness.Onnxq, model: ModelProto, why: str) -> None:
    written, report = write(onnxq, model, *OLD)
    assert [n.op_type for n in written.graph.node] == ["Gather"], why
    assert report.remarks() == [("embed", "target")]


def product(bits: int) -> ModelProto:
    b = GraphBuilder()
    x = b.input("x", ["rows", 64])
    b.output(b.node("MatMul", x, b.weight("W", random(64, 32)), out="y", name="product"), ["rows", 32])
    return b.model()


@pytest.mark.parametrize(
    ("bits", "target", "left"),
    [
        (4, "onnxruntime@1.17", False),
        (8, "onnxruntime@1.21", True),
        (8, "onnxruntime@1.22", False),
        (2, "onnxruntime@1.23", True),
        (2, "onnxruntime@1.24", False),
        (8, "onnxruntime@1.31,onnxruntime@1.20", True),
        (4, "onnxruntime-web@1.26", False),
    ],
)
def test_products(onnxq: harness.Onnxq, bits: int, target: str, left: bool) -> None:
    written, report = write(onnxq, product(bits), "--bits", bits, "--target", target)
    assert [n.op_type for n in written.graph.node] == ["MatMul" if left else "MatMulNBits"]
    assert report.remarks() == ([("product", "target")] if left else [])


@pytest.mark.parametrize("name", ["onnxruntime@0.1", "browser", ""])
def test_unknown_targets_are_listed(onnxq: harness.Onnxq, name: str) -> None:
    harness.save(product(4), onnxq.dir / "in.onnx")
    onnxq.refuses("quantize", "in.onnx", "-o", "out.onnx", "--target", name, mentions=("onnxruntime",))
