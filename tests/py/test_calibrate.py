"""`quantize --calibrate`: values that half precision cannot hold stay float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

import harness
from builders import GraphBuilder, random
from report import Report


def amplifier() -> onnx.ModelProto:
    """A product whose results reach about 1e6, and are made small again; nothing but its input tells."""
    b = GraphBuilder()
    x = b.input("x", ["rows", 32])
    large = b.node("MatMul", x, b.weight("W", random(32, 32, scale=40.0)), out="large", name="large")
    larger = b.node("MatMul", large, b.weight("V", random(32, 32, scale=40.0)), out="larger", name="larger")
    moved = b.node("Concat", larger, larger, out="moved", name="moved", axis=0)
    small = b.node("Mul", moved, b.weight("down", np.float32(1e-5)), out="small", name="small")
    b.output(b.node("MatMul", small, b.weight("U", random(32, 32)), out="y", name="last"), ["twice", 32])
    return b.model()


def in_half(path: Path, x: np.ndarray) -> np.ndarray:
    """By the reference implementation: ONNX Runtime's CPU computes much of a half model in float."""
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(str(path)).run(None, {"x": x})[0]


def feed(onnxq: harness.Onnxq, scale: float) -> np.ndarray:
    x = random(4, 32, seed=1, scale=scale)
    np.savez(onnxq.dir / "feeds.npz", x=x)
    return x


def test_islands_where_values_were_measured_large(onnxq: harness.Onnxq) -> None:
    harness.save(amplifier(), onnxq.dir / "in.onnx")
    x = feed(onnxq, 5.0)
    (expected,) = harness.run_model(onnxq.dir / "in.onnx", {"x": x}, opts=False).values()
    args = ("quantize", "in.onnx", "--dtype", "fp16", "--no-clean")
    onnxq.ok(*args, "-o", "blind.onnx")
    blind = in_half(onnxq.dir / "blind.onnx", x)
    assert not np.isfinite(blind).all(), "the model does not overflow, so that this test shows nothing"
    onnxq.ok(*args, "-o", "out.onnx", "--calibrate", "feeds.npz", "--json", "report.json")
    (found,) = harness.run_model(onnxq.dir / "out.onnx", {"x": x}, opts=False).values()
    reference = in_half(onnxq.dir / "out.onnx", x)
    # Three products of 32 terms each in half precision: their roundings of 2^-11 add up.
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-3 * np.abs(expected).max())
    np.testing.assert_allclose(reference, expected, rtol=0, atol=5e-3 * np.abs(expected).max())
    report = Report.read(onnxq.dir / "report.json")
    assert {"larger", "moved", "small"} <= {node for node, reason in report.remarks() if reason == "half-range"}
    assert "peak=" in report.fields["pipeline"]
    kept = [t.name for t in onnx.load(onnxq.dir / "out.onnx").graph.initializer if t.data_type == TensorProto.FLOAT]
    assert "U" not in kept, "what is small is half"


def test_nothing_large_changes_nothing(onnxq: harness.Onnxq) -> None:
    harness.save(amplifier(), onnxq.dir / "in.onnx")
    feed(onnxq, 1e-3)
    args = ("quantize", "in.onnx", "--dtype", "fp16")
    onnxq.ok(*args, "-o", "blind.onnx")
    onnxq.ok(*args, "-o", "out.onnx", "--calibrate", "feeds.npz")
    assert (onnxq.dir / "blind.onnx").read_bytes() == (onnxq.dir / "out.onnx").read_bytes()


def test_on_text(onnxq: harness.Onnxq, tmp_path: Path) -> None:
    tinylm = Path(__file__).parents[2] / "testdata" / "tinylm" / "model.onnx"
    (tmp_path / "text.txt").write_text("Once upon a time there was a girl. " * 30, encoding="utf-8")
    done = onnxq.ok("quantize", tinylm, "-o", "out.onnx", "--dtype", "q4f16", "--calibrate", tmp_path / "text.txt")
    assert "runs in onnxruntime@" in done.out


def test_bad_input(onnxq: harness.Onnxq) -> None:
    harness.save(amplifier(), onnxq.dir / "in.onnx")
    np.savez(onnxq.dir / "other.npz", z=np.zeros(3, np.float32))
    fp16 = ("quantize", "in.onnx", "-o", "out.onnx", "--dtype", "fp16", "--calibrate")
    onnxq.refuses(*fp16, "none.npz", mentions=("--calibrate", "none.npz"))
    onnxq.refuses(*fp16, "other.npz", mentions=("--calibrate", "x"))
    onnxq.refuses(*fp16, "in.onnx", mentions=("--calibrate",))
    int8 = ("quantize", "in.onnx", "-o", "out.onnx", "--dtype", "int8", "--calibrate", "other.npz")
    onnxq.refuses(*int8, mentions=("--calibrate", "q4f16"))
