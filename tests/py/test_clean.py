"""The pipeline `clean` over real models and graphs like those of exporters: what they compute stays,
and nodes go.

The meaning of a model is what ONNX Runtime computes without optimizations. Rewrites that round
otherwise are held to what ONNX Runtime's own optimizations change in the same model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import exporters
import harness
import language_model
from agreement import assert_same
from builders import random

# Roundings of float32 relative to the largest number, for models in which ONNX Runtime's own
# optimizations happen to change nothing.
FLOOR = 16 * 2.0**-24

Feeds = dict[str, np.ndarray]


def clean(
    onnxq: harness.Onnxq, source: Path, target: str = "out.onnx", pipeline: str = "clean"
) -> onnx.ModelProto:
    onnxq.ok("opt", source, "-o", target, "--passes", pipeline, "--verify-each", "-q")
    onnxq.ok("verify", target)
    return onnx.load(onnxq.dir / target, load_external_data=False)


def count_nodes(graph: onnx.GraphProto) -> int:
    """With those of subgraphs."""
    inner = [g for n in graph.node for a in n.attribute for g in ([a.g] if a.type == a.GRAPH else a.graphs)]
    return len(graph.node) + sum(map(count_nodes, inner))


def assert_interface(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    constants = {t.name for t in before.graph.initializer}
    listed = [i.name for i in before.graph.input]
    kept = [i.name for i in after.graph.input]
    assert [n for n in kept if n not in constants] == [n for n in listed if n not in constants]
    assert [o.name for o in after.graph.output] == [o.name for o in before.graph.output]


def assert_within_noise(source: Path, target: Path, feeds: Feeds) -> None:
    """No further from the original than twice what ONNX Runtime's optimizations make of it."""
    before = harness.run_model(source, feeds, opts=False)
    optimized = harness.run_model(source, feeds)
    after = harness.run_model(target, feeds, opts=False)
    assert list(after) == list(before)
    for name, wanted in before.items():
        got = after[name]
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape), f"`{name}`"
        if got.dtype.kind != "f":
            assert np.array_equal(got, wanted), f"`{name}`"
            continue
        noise = np.abs(optimized[name] - wanted).max(initial=0)
        bound = max(2 * noise, FLOOR * np.abs(wanted).max(initial=0))
        off = np.abs(got - wanted).max(initial=0)
        print(f"{name} {wanted.shape}: off by {off:.2e}, noise {noise:.2e}")
        assert off <= bound, f"`{name}`: off by {off:.3e}, allowed {bound:.3e}"


def check(onnxq: harness.Onnxq, source: Path, most: int, feeds: list[Feeds]) -> None:
    before = onnx.load(source, load_external_data=False)
    after = clean(onnxq, source)
    nodes = [count_nodes(m.graph) for m in (before, after)]
    target = onnxq.dir / "out.onnx"
    lengths = [path.stat().st_size for path in (source, target)]
    print(f"{source.name}: {nodes[0]} -> {nodes[1]} nodes, {lengths[0]:,} -> {lengths[1]:,} bytes")
    assert_interface(before, after)
    for given in feeds:
        assert_within_noise(source, target, given)
    assert nodes[1] <= most, f"{nodes[1]} nodes, expected {most} at most"
    # What the compiler writes about itself takes some bytes.
    assert lengths[1] <= lengths[0] + 1024
    assert_stable(onnxq, after)


def assert_stable(onnxq: harness.Onnxq, once: onnx.ModelProto) -> None:
    """A second run changes nothing but what is recorded of the runs."""
    twice = clean(onnxq, onnxq.dir / "out.onnx", "twice.onnx")
    for model in (once, twice):
        del model.metadata_props[:]
    assert once.SerializeToString(deterministic=True) == twice.SerializeToString(deterministic=True)


def check_exact(onnxq: harness.Onnxq, source: Path, feeds: list[Feeds]) -> None:
    """`clean-exact` changes no bit."""
    clean(onnxq, source, pipeline="clean-exact")
    for given in feeds:
        before = harness.run_model(source, given, opts=False)
        assert_same(before, harness.run_model(onnxq.dir / "out.onnx", given, opts=False), exact=True)


# --- graphs like those of exporters; `most` is what is left when nothing is that can go


def ids(*shape: int) -> Feeds:
    tokens = np.random.default_rng(0).integers(0, 30, shape)
    mask = np.ones(shape, np.int64)
    mask[:, -1] = 0
    return {"input_ids": tokens, "attention_mask": mask}


def decoder(batch: int, length: int, past: int) -> Feeds:
    return {"x": random(batch, 2, length, 4), "past": random(batch, 2, past, 4)}


GRAPHS = {
    "attention": (exporters.attention, 69, [ids(1, 4), ids(3, 7)]),
    "padded": (
        exporters.padded_convolutions,
        9,
        [{"x": random(1, 3, 8, 8)}, {"x": random(2, 3, 5, 9)}],
    ),
    "decoder-mask": (exporters.decoder_mask, 24, [decoder(1, 3, 0), decoder(2, 1, 4)]),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_exported_graph(name, onnxq):
    build, most, feeds = GRAPHS[name]
    source = harness.save(build(), onnxq.dir / "in.onnx")
    check(onnxq, source, most, feeds)


@pytest.mark.parametrize("name", GRAPHS)
def test_exported_graph_to_the_bit(name, onnxq):
    build, _, feeds = GRAPHS[name]
    check_exact(onnxq, harness.save(build(), onnxq.dir / "in.onnx"), feeds)


# --- real models; `most` is what the best of onnxslim 0.1.98, onnxsim 0.8.1 and onnxscript 0.7.2 leaves,
# or less where we know better


def sentences(batch: int, length: int) -> Feeds:
    tokens = np.random.default_rng(1).integers(1000, 20000, (batch, length))
    ones, zeros = np.ones_like(tokens), np.zeros_like(tokens)
    return {"input_ids": tokens, "attention_mask": ones, "token_type_ids": zeros}


def speech(length: int) -> Feeds:
    tokens = np.random.default_rng(2).integers(1, 60, (1, length))
    # No noise: what the model draws at random is multiplied by these.
    scales = np.array([0, 1, 0], np.float32)
    return {"input": tokens, "input_lengths": np.array([length]), "scales": scales}


def image(*shape: int) -> Feeds:
    return {"x": random(*shape)}


REAL = {
    "minilm": (217, [sentences(1, 5), sentences(2, 19)]),
    "piper": (2613, [speech(9), speech(30)]),
    "ppocr-det": (326, [image(1, 3, 64, 96), image(2, 3, 96, 64)]),
    "ppocr-rec": (393, [image(1, 3, 48, 160), image(2, 3, 48, 320)]),
    "ppocr-cls": (179, [image(1, 3, 48, 192), image(3, 3, 48, 192)]),
}


@pytest.mark.real
@pytest.mark.parametrize("name", REAL)
def test_real_model(name, real_model, onnxq):
    most, feeds = REAL[name]
    check(onnxq, real_model(name), most, feeds)


@pytest.mark.real
@pytest.mark.parametrize("name", REAL)
def test_real_model_to_the_bit(name, real_model, onnxq):
    check_exact(onnxq, real_model(name), REAL[name][1])


@pytest.mark.real
@pytest.mark.parametrize(("name", "most"), [("glassllm", 267), ("smollm2", 1827)])
def test_language_model(name, most, real_model, onnxq):
    source = real_model(name)
    loaded = harness.session(source)
    prompts = [np.arange(5, 5 + n) for n in (1, 12)]
    check(onnxq, source, most, [language_model.prompt_feeds(loaded, p) for p in prompts])
