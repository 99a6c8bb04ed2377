"""Any passes in any order leave a model that computes what it computed.

All passes but those that are meant to change results, as `onnxq passes` lists them, over the models
of the zoo and over random graphs. Seeds are fixed.
"""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest

import harness
import zoo
from agreement import assert_same
from random_graphs import RandomGraph

# Quantization and half precision are judged elsewhere, by what they are allowed to change.
LOSSY = {"fp16", "nbits", "int8-dynamic"}
# Run with what a calibration found, and refused without: test_awq.py.
CALIBRATED = {"awq"}
# Same in exact arithmetic, not to the bit: constants are computed in advance, sums in another order.
ROUNDED = {"const-fold", "fuse-batch-norm", "fuse-gemm", "reassociate"}

SEEDS = 300
PARTS = 5


@pytest.fixture(scope="module")
def passes(binary) -> list[str]:
    listed = harness.Onnxq(binary, harness.REPOSITORY).ok("passes").out
    names = re.findall(r"^  (\S+)", listed.partition("Pipelines:")[0], re.MULTILINE)
    assert LOSSY & set(names), "the list of passes is read"
    return [name for name in names if name not in LOSSY | CALIBRATED]


def pipeline(passes: list[str], rng: np.random.Generator) -> list[str]:
    chosen = [name for name in passes if rng.random() < 0.6]
    # One of them twice: what a pass leaves must be what it, too, takes.
    chosen += [passes[rng.integers(len(passes))]]
    rng.shuffle(chosen)
    return chosen


def runs(model: onnx.ModelProto | bytes, feeds: dict) -> dict | None:
    """`None` where the model itself does not run: other extents may not fit."""
    try:
        return harness.run_model(model, feeds, opts=False)
    except Exception as error:
        if "dimension" in str(error) or "hape" in str(error) or "broadcast" in str(error):
            return None
        if "INVALID_ARGUMENT" in str(error) or "split" in str(error) or "channels" in str(error):
            return None
        raise


def check(onnxq: harness.Onnxq, model: onnx.ModelProto, feeds: list[dict], text: str) -> None:
    """Compiles `model` by the pipeline `text`; the result is valid and agrees for all `feeds`."""
    source = harness.save(model, onnxq.dir / "in.onnx")
    onnxq.ok("opt", source, "-o", "out.onnx", "--passes", text, "--verify-each", "-q")
    onnxq.ok("verify", "out.onnx")
    result = onnx.load(onnxq.dir / "out.onnx")
    onnx.checker.check_model(result)
    assert [i.name for i in result.graph.input if i.name in feeds[0]] == [
        i.name for i in model.graph.input if i.name in feeds[0]
    ]
    exact = not ROUNDED & set(re.findall(r"[a-z][a-z0-9-]*", text))
    for number, given in enumerate(feeds):
        expected = runs(model.SerializeToString(), given)
        if expected is not None:
            found = harness.run_model(onnxq.dir / "out.onnx", given, opts=False)
            assert_same(expected, found, exact, f"inputs {number}")


def describe(onnxq: harness.Onnxq, what: str, text: str) -> str:
    return f"{what}: onnxq opt {onnxq.dir / 'in.onnx'} -o out.onnx --passes '{text}'"


@pytest.mark.parametrize("entry", zoo.models(), ids=lambda entry: entry.name.replace(" ", "-"))
def test_zoo(entry, passes, onnxq):
    rng = np.random.default_rng(len(entry.name))
    everything = ",".join(passes)
    texts = [everything, f"{everything},{everything}", *passes]
    texts += [",".join(pipeline(passes, rng)) for _ in range(6)]
    for text in texts:
        try:
            check(onnxq, entry.model, entry.feeds, text)
        except Exception as error:
            raise AssertionError(describe(onnxq, entry.name, text)) from error


@pytest.mark.parametrize("part", range(PARTS))
def test_random_graphs(part, passes, onnxq):
    for seed in range(part, SEEDS, PARTS):
        graph = RandomGraph(seed)
        model = graph.build()
        text = ",".join(pipeline(passes, graph.rng) if seed % 3 else passes)
        try:
            check(onnxq, model, [graph.feeds, graph.other_feeds], text)
        except Exception as error:
            raise AssertionError(describe(onnxq, f"seed {seed}", text)) from error
