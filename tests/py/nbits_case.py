"""One hand-made model for `nbits`: what is expected of it, and how that is checked.

A case builds its model from named arrays. So the same graph can be built twice: once with the
float weights, which the compiler gets, and once with what the written file's codes stand for.
If the file says what the compiler meant, both compute the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import ModelProto

import dequant
import harness
from builders import CONTRIB, GraphBuilder
from dequant import Quantized
from report import Report

# Tight bounds, relative to the largest output: the same numbers go through both models, so
# only the arithmetic of the runtime's kernels differs.
FLOAT_SUMS = 2e-5  # float32 sums of at most 600 products in another order: 600 * 2^-24 at most
HALF_ROUNDING = 3e-3  # outputs are rounded to float16 (2^-11), some after a second operator
HALF_STORAGE = 3e-3  # the substituted weight is itself rounded to float16 when the model holds it
BFLOAT_STORAGE = 2e-2  # likewise to bfloat16 (2^-8)
INT8_ACTIVATIONS = 4e-2  # accuracy level 4 rounds activations to 8 bits: 1e-2 was measured

# Loose bounds on |result - float result| / |float result|, in 2-norm: these only tell a right
# weight from a wrong one. A wrong one gives about 1.4; normal numbers at block 16 give about
# 0.3 with 2 bits, 0.07 with 4 and 0.004 with 8, and larger blocks up to twice that.
SANE = {2: 0.95, 4: 0.25, 8: 0.02}


@dataclass(frozen=True)
class Weight:
    """A weight that must come out quantized."""

    array: np.ndarray
    # Blocks run down the columns of a MatMul operand [K, N], along the rows of a table [V, H].
    along: str = "columns"
    # The two dims that are not unit dims, where the last two are not they.
    matrix: tuple[int, int] | None = None
    # What may have been folded into the codes: alpha of a Gemm.
    factors: tuple[float, ...] = (1.0,)

    def rows(self) -> np.ndarray:
        """As `[rows, K]`, blocks along the last axis, whatever unit dims the model has."""
        flat = np.asarray(self.array, np.float32).reshape(self.matrix or self.array.shape[-2:])
        return flat.T if self.along == "columns" else flat

    def restore(self, rows: np.ndarray) -> np.ndarray:
        flat = rows.T if self.along == "columns" else rows
        return np.ascontiguousarray(flat).reshape(self.array.shape)


@dataclass
class Case:
    name: str
    build: Callable[[dict[str, np.ndarray]], ModelProto]
    feeds: dict[str, np.ndarray]
    quantized: dict[str, Weight] = field(default_factory=dict)
    # Arrays of the model that stay as they are.
    kept: dict[str, np.ndarray] = field(default_factory=dict)
    matmuls: int = 0  # MatMulNBits nodes expected
    gathers: int = 0  # GatherBlockQuantized nodes expected
    left: dict[str, str] = field(default_factory=dict)  # node name -> reason code
    args: tuple[object, ...] = ()
    bits: int = 4
    tight: float = FLOAT_SUMS
    # False where ONNX Runtime has no kernel for the model, quantized or not.
    runs: bool = True

    def bound(self) -> float:
        """2 and 8 bits run with 8-bit activations unless asked otherwise; see test_nbits_options.py."""
        rounded = self.bits != 4 and "--accuracy-level" not in self.args
        return max(self.tight, INT8_ACTIVATIONS) if rounded and self.matmuls else self.tight

    def original(self) -> ModelProto:
        return self.build(self.kept | {name: w.array for name, w in self.quantized.items()})

    def __str__(self) -> str:
        return self.name


def one_or_two(b: GraphBuilder, first: np.ndarray, second: np.ndarray) -> tuple[str, str]:
    """A weight with two readers: one initializer, or two once only one reader's was rounded."""
    name = b.weight("W", first)
    return name, name if np.array_equal(first, second) else b.weight("W2", second)


# Without what simplifies a model first: the cases are about what nbits makes of each form.
BEFORE = ("--passes", "strip-attrs,share-weights")


def check(case: Case, onnxq: harness.Onnxq) -> ModelProto:
    """Quantizes the case's model and checks all that it states. Returns what was written."""
    original = case.original()
    harness.save(original, onnxq.dir / "in.onnx")
    onnxq.ok("quantize", "in.onnx", "-o", "out.onnx", "--json", "report.json", *BEFORE, *harness.plain(*case.args))
    written = dequant.load(onnxq.dir / "out.onnx")
    check_structure(case, original, written)
    # The checker knows no schema of com.microsoft, but names, order and scopes it does check.
    onnx.checker.check_model(str(onnxq.dir / "out.onnx"))
    check_remarks(case, Report.read(onnxq.dir / "report.json"))
    substituted = match(case, dequant.quantized_weights(written, onnxq.dir))
    onnxq.ok("verify", "out.onnx")
    if case.runs:
        check_results(case, original, substituted, onnxq)
    return written


def check_structure(case: Case, original: ModelProto, written: ModelProto) -> None:
    counts = dequant.op_counts(written)
    found = (counts.get(f"{CONTRIB}::{dequant.MATMUL}", 0), counts.get(f"{CONTRIB}::{dequant.GATHER}", 0))
    assert found == (case.matmuls, case.gathers), f"MatMulNBits, GatherBlockQuantized: {counts}"
    assert interface(written) == interface(original)
    assert_opset_kept(original, written)


def interface(model: ModelProto) -> list[bytes]:
    """Inputs and outputs, without the initializers that IR 3 lists among the inputs."""
    constants = {item.name for item in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in constants]
    return [item.SerializeToString(deterministic=True) for item in [*inputs, *model.graph.output]]


def assert_opset_kept(original: ModelProto, written: ModelProto) -> None:
    """Both operators run under any opset: a raised one would change what other nodes mean."""
    before, after = (
        {item.domain: item.version for item in model.opset_import} for model in (original, written)
    )
    assert before.items() <= after.items()
    assert written.ir_version == original.ir_version


def check_remarks(case: Case, report: Report) -> None:
    for node, reason in case.left.items():
        assert reason in report.reasons(node), f"remarks: {report.remarks()}"
    if not case.left:
        assert not report.remarks(), f"nothing should be left: {report.remarks()}"


def match(case: Case, found: list[Quantized]) -> dict[str, np.ndarray]:
    """Pairs stored codes with the case's weights; returns what the codes stand for."""
    substituted, used = {}, set()
    for name, weight in case.quantized.items():
        error, factor, best = min(candidates(weight, found), key=lambda item: item[0], default=(9, 0, None))
        assert error < SANE[case.bits], f"no codes in the file stand for `{name}` (nearest: {error:.3})"
        for other_error, _, other in candidates(weight, found):
            if other_error < SANE[case.bits]:
                used.add(id(other))
                np.testing.assert_array_equal(
                    other.dequantized(), best.dequantized(), f"two uses of `{name}` differ"
                )
        substituted[name] = weight.restore(best.dequantized() / np.float32(factor))
    assert used == {id(item) for item in found}, "codes in the file that stand for no weight"
    return substituted


def candidates(weight: Weight, found: list[Quantized]) -> list[tuple[float, float, Quantized]]:
    rows = weight.rows()
    return [
        (distance(item.dequantized(), rows * np.float32(factor)), factor, item)
        for item in found
        for factor in weight.factors
        if item.codes.shape == rows.shape
    ]


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    """|found - wanted| / |wanted| in 2-norm."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    size = np.linalg.norm(wanted)
    return float(np.linalg.norm(found - wanted) / size) if size else float(np.abs(found).max(initial=0))


def check_results(
    case: Case, original: ModelProto, substituted: dict[str, np.ndarray], onnxq: harness.Onnxq
) -> None:
    written = harness.run_model(onnxq.dir / "out.onnx", case.feeds)
    plain = harness.run_model(original.SerializeToString(), case.feeds)
    # Without optimizations: the reference is the graph as it stands.
    exact = harness.run_model(case.build(case.kept | substituted).SerializeToString(), case.feeds, False)
    for name, result in written.items():
        assert result.dtype == plain[name].dtype
        assert result.shape == plain[name].shape
        assert_close(name, result, exact[name], case.bound())
        if not case.quantized:
            np.testing.assert_array_equal(result, plain[name], f"`{name}`: nothing was to change")
        elif result.dtype.kind == "f":
            assert distance(result, plain[name]) < SANE[case.bits], f"`{name}` is far from float"


def assert_close(name: str, found: np.ndarray, wanted: np.ndarray, bound: float) -> None:
    """The largest difference, relative to the largest number wanted."""
    if found.dtype.kind != "f":
        np.testing.assert_array_equal(found, wanted, name)
        return
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert np.isfinite(found).all(), f"`{name}` is not finite"
    size = np.abs(wanted).max(initial=0)
    worst = np.abs(found - wanted).max(initial=0)
    assert worst <= bound * size, f"`{name}`: off by {worst:.3e} of {size:.3e}, bound {bound:.0e}"
