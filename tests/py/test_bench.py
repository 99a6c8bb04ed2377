"""`onnxq bench`: figures that follow from the times, inputs, and a cache that is fed right.

Nothing here says how long anything may take.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import save_file

import harness

TINYLM = harness.REPOSITORY / "testdata/tinylm/model.onnx"


@pytest.fixture(autouse=True)
def this_python(monkeypatch):
    """The ONNX Runtime of these tests is the one that is found."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("ORT_DYLIB_PATH", raising=False)


def add_model(path: Path, dtype: int = TensorProto.FLOAT, shape=("batch", 4)) -> Path:
    ports = [helper.make_tensor_value_info(n, dtype, shape) for n in ("x", "y", "z")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "y"], ["z"])], "add", ports[:2], ports[2:])
    opsets = [helper.make_opsetid("", 17)]
    return harness.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


def bench(onnxq: harness.Onnxq, *args: object, runs: int = 3) -> dict:
    done = onnxq.ok("bench", *args, "--runs", runs, "--warmup", 1, "--json", "report.json")
    report = json.loads((onnxq.dir / "report.json").read_text())
    assert report["schema"] == "onnxq.bench/1"
    assert "mean ms" in done.out
    return report


def check_timing(timing: dict, n: int) -> np.ndarray:
    times = np.array(timing["times_ms"])
    assert len(times) == n and (times > 0).all()
    assert timing["mean_ms"] == pytest.approx(times.mean())
    assert timing["min_ms"] == times.min()
    for p in (50, 95, 99):
        assert timing[f"p{p}_ms"] == pytest.approx(np.percentile(times, p))
    if n > 1:
        assert timing["sd_ms"] == pytest.approx(times.std(ddof=1))
    else:
        assert timing["sd_ms"] is None
    return times


GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1


def mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def stream(seed: int, name: str):
    """The numbers of src/engine/random.rs, written down once more."""
    state = mix((seed + GOLDEN) & MASK)
    for byte in name.encode():
        state = mix(((state ^ byte) + GOLDEN) & MASK)
    return lambda i: mix((state + (i + 1) * GOLDEN) & MASK)


def check_ratio(ratio: dict, times: np.ndarray, first: np.ndarray) -> None:
    """The percentile interval of the paired bootstrap."""
    assert ratio["ratio"] == pytest.approx(times.mean() / first.mean())
    n, bits = len(times), stream(0, "bootstrap")
    rounds = np.array([[bits(r * n + i) * n >> 64 for i in range(n)] for r in range(2000)])
    drawn = times[rounds].sum(axis=1) / first[rounds].sum(axis=1)
    assert [ratio["low"], ratio["high"]] == pytest.approx(list(np.percentile(drawn, [2.5, 97.5])))
    assert ratio["low"] <= ratio["ratio"] * 1.0000001 and ratio["ratio"] <= ratio["high"] * 1.0000001


@pytest.mark.parametrize("engine", ["onnxruntime", "rten"])
def test_figures_follow_from_the_times(onnxq, engine):
    models = [add_model(onnxq.dir / "a.onnx"), add_model(onnxq.dir / "b.onnx")]
    report = bench(onnxq, *models, "--engine", engine, "--dim", "batch=6", runs=7)
    assert report["engine"]["name"] == engine and report["runs"] == 7
    first, second = report["models"]
    times = [check_timing(m["latency"], 7) for m in (first, second)]
    assert first["ratio"] is None
    check_ratio(second["ratio"], times[1], times[0])
    for model, path in zip(report["models"], models, strict=True):
        assert model["path"] == str(path) and model["bytes"] == path.stat().st_size
        assert model["items"] == 6 and model["language"] is None
        assert model["items_per_s"] == pytest.approx(6000 / model["latency"]["mean_ms"])
        assert model["inputs"][0] == {"name": "x", "dtype": "float", "shape": [6, 4]}
        if sys.platform == "linux":
            assert model["peak_memory_bytes"] > 1 << 20


def test_memory_is_that_of_one_model(onnxq):
    if sys.platform != "linux":
        harness.cannot_run("memory is measured on Linux")
    weight = np.random.default_rng(0).standard_normal((4, 1 << 22)).astype(np.float32)
    ports = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", [1, 4]), ("y", [1, 1 << 22]))]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [onnx.numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    large = harness.save(model, onnxq.dir / "large.onnx")
    report = bench(onnxq, add_model(onnxq.dir / "small.onnx"), large, runs=1)
    small, large = (m["peak_memory_bytes"] for m in report["models"])
    assert small + weight.nbytes < large


def test_a_single_run_has_no_deviation(onnxq):
    report = bench(onnxq, add_model(onnxq.dir / "a.onnx"), onnxq.dir / "a.onnx", runs=1)
    check_timing(report["models"][1]["latency"], 1)
    assert report["models"][1]["ratio"]["low"] is None


def greedy(path: Path, ids: np.ndarray, steps: int) -> list[list[int]]:
    """What ONNX Runtime decodes from Python, with the cache."""
    session = harness.session(path)
    names = [o.name for o in session.get_outputs()]
    feeds = {}
    for port in session.get_inputs():
        if port.name.startswith("past_key_values"):
            feeds[port.name] = np.zeros([len(ids), port.shape[1], 0, port.shape[3]], np.float32)
    tokens, past, chosen = ids, 0, []
    for _ in range(steps + 1):
        feeds["input_ids"] = tokens
        feeds["attention_mask"] = np.ones([len(ids), past + tokens.shape[1]], np.int64)
        feeds["position_ids"] = np.broadcast_to(np.arange(past, past + tokens.shape[1]), tokens.shape).astype(np.int64)
        known = {i.name for i in session.get_inputs()}
        outputs = dict(zip(names, session.run(None, {k: v for k, v in feeds.items() if k in known}), strict=True))
        past += tokens.shape[1]
        tokens = outputs["logits"][:, -1].argmax(axis=-1)[:, None].astype(np.int64)
        chosen.append(tokens[:, 0])
        feeds |= {n.replace("present", "past_key_values"): v for n, v in outputs.items() if n.startswith("present")}
    return np.array(chosen[:steps]).T.tolist()


def prompt(report: dict, seed: int) -> np.ndarray:
    shape = next(i["shape"] for i in report["models"][0]["inputs"] if i["name"] == "input_ids")
    vocabulary = next(t.dims[0] for t in onnx.load(TINYLM).graph.initializer if "embed" in t.name)
    bits = stream(seed, "input_ids")
    ids = [bits(i) * vocabulary >> 64 for i in range(int(np.prod(shape)))]
    return np.array(ids, np.int64).reshape(shape)


@pytest.mark.parametrize("engine", ["onnxruntime", "rten"])
@pytest.mark.parametrize("batch", [1, 2])
def test_decoding_is_what_onnx_runtime_decodes(onnxq, batch, engine):
    report = bench(
        onnxq, TINYLM, TINYLM, "--engine", engine, "--seq", 9, "--decode", 5,
        "--dim", f"batch_size={batch}", "--seed", 11,
    )  # fmt: skip
    expected = greedy(TINYLM, prompt(report, 11), 5)
    for model in report["models"]:
        language = model["language"]
        assert language["prompt_tokens"] == 9
        assert language["prefill_tokens_per_s"] == pytest.approx(batch * 9000 / model["latency"]["mean_ms"])
        decode = language["decode"]
        steps = check_timing(decode["latency"], 15)
        assert decode["tokens_per_s"] == pytest.approx(batch * 1000 / steps.mean())
        assert decode["tokens"] == expected
    decodes = [m["language"]["decode"] for m in report["models"]]
    by_run = [np.array(d["latency"]["times_ms"]).reshape(3, 5).mean(axis=1) for d in decodes]
    check_ratio(decodes[1]["ratio"], by_run[1], by_run[0])


def test_decoding_can_be_left_out(onnxq):
    report = bench(onnxq, TINYLM, "--seq", 4, "--decode", 0)
    assert report["models"][0]["language"]["decode"] is None


@pytest.mark.parametrize("kind", ["npz", "npz of another order", "safetensors"])
def test_inputs_from_a_file(onnxq, kind):
    tensors = {n: np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32) for n in "xy"}
    file = onnxq.dir / f"inputs.{kind.split()[0]}"
    if kind == "safetensors":
        save_file(tensors, file)
    elif kind == "npz":
        np.savez_compressed(file, **tensors)
    else:
        np.savez(file, x=np.asfortranarray(tensors["x"].astype(">f4")), y=tensors["y"].astype(np.float16))
    report = bench(onnxq, add_model(onnxq.dir / "a.onnx"), "--inputs", file)
    assert report["inputs"] == {"file": str(file)}
    assert report["models"][0]["items"] == 3
    assert [i["shape"] for i in report["models"][0]["inputs"]] == [[3, 4], [3, 4]]


def npz(path: Path, **tensors: np.ndarray) -> Path:
    np.savez(path, **tensors)
    return path


def test_bad_input_is_refused(onnxq):
    model = add_model(onnxq.dir / "a.onnx")
    x = np.zeros((3, 4), np.float32)
    d = onnxq.dir
    strings = npz(d / "strings.npz", x=np.array(["a"]), y=x)
    for args, mentions in [
        (("missing.onnx",), ("missing.onnx",)),
        ((model, "--runs", 0), ("--runs", "at least 1")),
        ((model, "--dim", "q=3"), ("--dim `q=3`", "batch")),
        ((model, "--dim", "batch"), ("--dim `batch`", "NAME=N")),
        ((model, "--dim", "batch=-3"), ("--dim `batch=-3`",)),
        ((model, "--dim", "batch=3", "--dim", "batch=4"), ("one extent",)),
        ((model, "--seq", 3), ("--seq", "no model takes tokens")),
        ((TINYLM, "--seq", 0), ("--seq is 0",)),
        ((TINYLM, "--seq", 5, "--dim", "sequence_length=4"), ("--seq is 5", "is 4")),
        ((model, "--inputs", "missing.npz"), ("cannot read `missing.npz`",)),
        ((model, "--inputs", model), (".npz or .safetensors",)),
        ((model, "--inputs", npz(d / "one.npz", x=x)), ("no tensor for input `y`", "found `x`")),
        ((model, "--inputs", npz(d / "more.npz", x=x, y=x, q=x)), ("no model has an input `q`",)),
        ((model, "--inputs", npz(d / "shape.npz", x=x, y=x[:, :2])), ("`y`", "[3, 2], expected [batch, 4]")),
        ((model, "--inputs", npz(d / "type.npz", x=x, y=x.astype(np.int64))), ("`y`", "int64, expected float")),
        ((model, "--inputs", npz(d / "uneven.npz", x=x, y=x[:2])), ("axis `batch` is 2", "3")),
        ((model, "--inputs", strings), ("array `x`", "<U1")),
        ((model, "--inputs", d / "one.npz", "--dim", "batch=1"), ("--inputs",)),
    ]:
        onnxq.refuses("bench", *args, mentions=mentions)


def test_damaged_files_of_tensors_are_refused(onnxq):
    model = add_model(onnxq.dir / "a.onnx")
    x = np.zeros((64, 4), np.float32)
    whole = npz(onnxq.dir / "whole.npz", x=x, y=x).read_bytes()
    for n in (0, 10, len(whole) // 2, len(whole) - 5):
        (onnxq.dir / "part.npz").write_bytes(whole[:n])
        onnxq.refuses("bench", model, "--inputs", "part.npz", mentions=("part.npz",))
    save_file({"x": x, "y": x}, onnxq.dir / "whole.safetensors")
    whole = (onnxq.dir / "whole.safetensors").read_bytes()
    for n in (0, 4, 20, len(whole) - 5):
        (onnxq.dir / "part.safetensors").write_bytes(whole[:n])
        onnxq.refuses("bench", model, "--inputs", "part.safetensors", mentions=("part.safetensors",))


def test_what_the_engine_refuses(onnxq):
    graph = helper.make_graph(
        [helper.make_node("Unheard", ["x"], ["y"], domain="test")],
        "g",
        [helper.make_tensor_value_info("x", 1, [1])],
        [helper.make_tensor_value_info("y", 1, [1])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("test", 1)]
    model = harness.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), onnxq.dir / "m.onnx")
    for engine in ("onnxruntime", "rten"):
        onnxq.refuses("bench", model, "--engine", engine, mentions=("m.onnx", engine, "Unheard"))


def test_the_report_goes_nowhere_near_the_model(onnxq):
    model = shutil.copy(TINYLM, onnxq.dir / "model.onnx")
    onnxq.refuses("bench", model, "--json", model, mentions=("cannot write", "another name"))
    done = onnxq.ok("bench", model, "--runs", 1, "--warmup", 0, "--json", "-")
    assert json.loads(done.out)["models"][0]["language"]["prompt_tokens"] == 128
