"""The same model, options and version give the same bytes on any number of threads."""

from __future__ import annotations

from pathlib import Path

import pytest

import harness
from builders import INT64, GraphBuilder, random

THREADS = (1, 2, 16)


def several_weights():
    """Weights of very different sizes, shared and tied ones, so that work is uneven."""
    b = GraphBuilder()
    b.input("ids", (1, 7), INT64)
    table = b.weight("table", random(1000, 64))
    x = b.node("Gather", table, "ids", out="x0", name="embed")
    shapes = [(64, 2048), (2048, 8), (8, 512), (512, 512), (512, 64)]
    for index, shape in enumerate(shapes):
        weight = b.weight(f"W{index}", random(*shape, seed=index))
        x = b.node("MatMul", x, weight, out=f"x{index + 1}", name=f"mm{index}")
    b.node("MatMul", x, b.node("Transpose", table, out="turned"), out="y", name="head")
    b.output("y", (1, 7, 1000))
    return b.model()


@pytest.mark.parametrize("options", [(), ("--asymmetric", "--block-size", 64), ("--bits", 8)], ids=str)
@pytest.mark.parametrize("where", ["never", "always"])
def test_threads(where, options, onnxq):
    harness.save(several_weights(), onnxq.dir / "in.onnx")
    assert_same(onnxq, Path("in.onnx"), ("--external-data", where, *options))


def test_two_runs_of_one_command(onnxq):
    """Nothing of the time, the process or the order of a hash map is in the file."""
    harness.save(several_weights(), onnxq.dir / "in.onnx")
    outputs = []
    for _ in range(5):
        onnxq.ok("quantize", "in.onnx", "-o", "out.onnx", "--json", "report.json")
        outputs.append((onnxq.dir / "out.onnx").read_bytes())
    assert len(set(outputs)) == 1


@pytest.mark.parametrize("where", ["never", "always"])
def test_threads_of_opt(where, onnxq):
    harness.save(several_weights(), onnxq.dir / "in.onnx")
    options = ("--passes", "strip-attrs,nbits{bits=4,block=32}", "--external-data", where)
    assert_same(onnxq, Path("in.onnx"), options, "opt")


@pytest.mark.real
@pytest.mark.parametrize("where", ["never", "always"])
def test_threads_on_a_real_model(where, real_model, onnxq):
    assert_same(onnxq, real_model("smollm2"), ("--external-data", where))


def assert_same(
    onnxq: harness.Onnxq, model: Path, options: tuple[object, ...], command: str = "quantize"
) -> None:
    """Into folders of their own: the name of a side file is in the model."""
    results = {}
    for threads in THREADS:
        folder = onnxq.dir / f"threads{threads}"
        folder.mkdir()
        onnxq.ok(command, model, "-o", folder / "out.onnx", "--threads", threads, *options)
        results[threads] = harness.fingerprint(folder)
    assert results[1] == results[2] == results[16]
