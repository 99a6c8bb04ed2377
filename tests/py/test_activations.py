"""What weights are multiplied by, gathered piece by piece, against ONNX Runtime with all of it exposed.

`measure_importance` of `tests/tools` is the program: mean squares of each channel, by node.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from safetensors.numpy import load_file
from tokenizers import Tokenizer

import harness
from builders import GraphBuilder, random

TEXT = (Path(__file__).parent / "text" / "harbour.txt").read_text(encoding="utf-8")

# ONNX Runtime fuses other nodes where a graph is cut, and sums in another order; the error of a
# float product of a thousand terms, carried through tens of layers.
CLOSE = 1e-4

# The same, where no graph is optimized: only the order in which threads and shapes let it sum.
SAME = 1e-5


@pytest.fixture(scope="session")
def measure() -> str:
    return harness.build_tool("measure_importance")


def run(measure: str, folder: Path, *args: object) -> tuple[dict[str, np.ndarray], str]:
    """What it finds, by node, and what it says."""
    command = [measure, *(str(a) for a in args)]
    environment = os.environ | {"ORT_DYLIB_PATH": str(harness.library())}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    return load_file(folder / "out.safetensors"), done.stderr


def activations(model: onnx.ModelProto) -> dict[str, tuple[str, str]]:
    """By node of the main graph with a constant matrix: what that is multiplied by, and how."""
    constants = {t.name for t in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type == "Constant" or (node.op_type in ("Transpose", "Cast") and node.input[0] in constants):
            constants.add(node.output[0])
        if node.op_type not in ("MatMul", "Gemm"):
            continue
        a, b = node.input[:2]
        trans_a = any(x.name == "transA" and x.i for x in node.attribute)
        if b in constants and a not in constants:
            found[node.name] = (a, "columns" if trans_a else "rows")
        elif a in constants and b not in constants:
            found[node.name] = (b, "columns")
    return found


def expected(path: Path, sets: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Mean squares from a run of the whole model with all activations as outputs."""
    model = onnx.load(path)
    wanted = activations(model)
    inputs = {i.name for i in model.graph.input}
    exposed = {name for name, _ in wanted.values()} - inputs
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(exposed))
    session = harness.session(model.SerializeToString())
    sums: dict[str, np.ndarray] = {}
    rows: dict[str, int] = {}
    for feeds in sets:
        names = sorted(exposed)
        values = dict(zip(names, session.run(names, feeds), strict=True)) | feeds
        mask = feeds.get("attention_mask")
        for node, (name, how) in wanted.items():
            x = values[name].astype(np.float64)
            x = np.swapaxes(x, -1, -2) if how == "columns" and x.ndim > 1 else x
            if mask is not None and x.shape[:2] == mask.shape:
                x = x[mask != 0]
            x = x.reshape(-1, x.shape[-1])
            sums[node] = sums.get(node, 0.0) + (x * x).sum(0)
            rows[node] = rows.get(node, 0) + len(x)
    return {node: sums[node] / rows[node] for node in wanted}


def check(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray], tolerance: float) -> None:
    assert not found.keys() ^ wanted.keys()
    for node, mean in wanted.items():
        # Beside the largest channel: one that is nearly 0 has no digits.
        np.testing.assert_allclose(found[node], mean, rtol=tolerance, atol=tolerance * mean.max(), err_msg=node)


def save_sets(folder: Path, sets: list[dict[str, np.ndarray]]) -> list[str]:
    for i, feeds in enumerate(sets):
        np.savez(folder / f"{i}.npz", **feeds)
    return [f"{i}.npz" for i in range(len(sets))]


MODES = [(), ("--replace",), ("--replace", "--float-rows")]


@pytest.mark.parametrize("mode", MODES, ids=" ".join)
def test_a_vision_model(measure: str, tmp_path: Path, mode: tuple[str, ...]) -> None:
    """Convolutions, a product on either side of a weight, branches that join again, several inputs."""
    b = GraphBuilder()
    image = b.input("image", ["batch", 3, 8, 8])
    state = b.input("state", ["batch", 16])
    x = b.node("Conv", image, b.weight("C", random(12, 3, 3, 3)), out="conv", name="conv", pads=[1, 1, 1, 1])
    x = b.node("Relu", x, out="relu", name="relu")
    x = b.node("Reshape", x, b.weight("shape", np.array([0, 12, 64])), out="flat", name="flat")
    left = b.node("MatMul", b.weight("L", random(16, 12, seed=1)), x, out="left", name="left")
    right = b.node("MatMul", left, b.weight("R", random(64, 16, seed=2)), out="right", name="right")
    pooled = b.node("ReduceMean", right, out="pooled", name="pooled", axes=[1], keepdims=0)
    fed = b.node("Gemm", state, b.weight("S", random(16, 16, seed=3)), out="fed", name="fed", transB=1)
    joined = b.node("Add", pooled, fed, out="joined", name="joined")
    act = b.node("Tanh", joined, out="act", name="act")
    b.output(b.node("MatMul", act, b.weight("O", random(16, 5, seed=4)), out="y", name="last"), ["batch", 5])
    harness.save(b.model(), tmp_path / "in.onnx")
    sets = [{"image": random(2, 3, 8, 8, seed=i), "state": random(2, 16, seed=9 + i)} for i in range(3)]
    wanted = expected(tmp_path / "in.onnx", sets)
    for engine in ("onnxruntime", "rten"):
        found, said = run(
            measure, tmp_path, "in.onnx", "out.safetensors", *save_sets(tmp_path, sets), "--engine", engine, *mode
        )
        check(found, wanted, SAME)
        assert "4 groups" in said


def sentences(tokenizer: Path) -> list[dict[str, np.ndarray]]:
    """Pairs of sentences, the shorter one filled up and masked out; at the left in every other pair."""
    loaded = Tokenizer.from_file(str(tokenizer))
    loaded.no_padding()
    lines = [line.strip() for line in TEXT.replace("\n", " ").split(".") if line.strip()][:8]
    ids = [loaded.encode(line).ids for line in lines]
    sets = []
    for i in range(0, len(ids), 2):
        length = max(len(ids[i]), len(ids[i + 1]))
        table, mask = np.zeros((2, length), np.int64), np.zeros((2, length), np.int64)
        for row, tokens in enumerate(ids[i : i + 2]):
            place = slice(None, len(tokens)) if i % 4 else slice(length - len(tokens), None)
            table[row, place], mask[row, place] = tokens, 1
        sets.append({"input_ids": table, "attention_mask": mask, "token_type_ids": np.zeros_like(table)})
    assert any((s["attention_mask"] == 0).any() for s in sets)
    return sets


@pytest.mark.real
def test_minilm_without_padding(measure: str, real_model, tmp_path: Path) -> None:
    model = real_model("minilm")
    sets = sentences(real_model("minilm-tokenizer"))
    wanted = expected(model, sets)
    found, _ = run(measure, tmp_path, model, "out.safetensors", *save_sets(tmp_path, sets), "--replace")
    check(found, wanted, CLOSE)


def windows(ids: np.ndarray, model: Path) -> list[dict[str, np.ndarray]]:
    """The items that the text is for a decoder with an empty cache."""
    inputs = onnx.load(model, load_external_data=False).graph.input
    sets = []
    for window in ids:
        feeds = {"input_ids": window[None], "attention_mask": np.ones_like(window[None])}
        feeds["position_ids"] = np.arange(len(window))[None]
        for value in inputs:
            kind = value.type.tensor_type
            if value.name.startswith("past"):
                heads, width = kind.shape.dim[1].dim_value, kind.shape.dim[3].dim_value
                dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
                feeds[value.name] = np.zeros((1, heads, 0, width), dtype)
        sets.append({value.name: feeds[value.name] for value in inputs})
    return sets


@pytest.mark.real
@pytest.mark.parametrize("mode", [("--replace",), ("--replace", "--float-rows")], ids=" ".join)
@pytest.mark.parametrize("name", ["glassllm", "smollm2"])
def test_language_models(measure: str, real_model, tmp_path: Path, name: str, mode: tuple[str, ...]) -> None:
    """The table of each is its last projection, too, so that it comes first."""
    model = real_model(name)
    ids = np.random.default_rng(0).integers(0, 1000, (3, 64))
    (tmp_path / "tokens.json").write_text(str(ids.reshape(-1).tolist()))
    args = (model, "out.safetensors", "tokens.json", "--window", 64, *mode)
    found, said = run(measure, tmp_path, *args)
    check(found, expected(model, windows(ids, model)), CLOSE)
    layers = sum("q_proj" in node for node in found)
    assert f"{4 * layers + 1} groups, {3 * 64 * (4 * layers + 1)} rows" in said


@pytest.mark.real
def test_a_run_that_is_killed_goes_on(measure: str, real_model, tmp_path: Path) -> None:
    model = real_model("smollm2")
    ids = np.random.default_rng(0).integers(0, 1000, 3 * 64)
    (tmp_path / "tokens.json").write_text(str(ids.tolist()))
    args = (model, "out.safetensors", "tokens.json", "--window", 64, "--replace")
    whole, _ = run(measure, tmp_path, *args)
    finished = 0
    for seconds in (4, 7, 12):
        command = [measure, *map(str, args), "--folder", "run"]
        environment = os.environ | {"ORT_DYLIB_PATH": str(harness.library())}
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        groups = len(list((tmp_path / "run" / "groups").glob("*")))
        assert groups >= finished
        finished = groups
    (tmp_path / "out.safetensors").unlink(missing_ok=True)
    found, _ = run(measure, tmp_path, *args, "--folder", "run")
    assert not found.keys() ^ whole.keys()
    for node, mean in whole.items():
        np.testing.assert_array_equal(found[node], mean, err_msg=node)
    # Nothing but what the run remembers is left.
    left = {path.relative_to(tmp_path / "run").parts[0] for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert left == {"groups", "run.json"}


def test_a_weight_with_a_shared_name_is_no_puzzle(measure: str, tmp_path: Path) -> None:
    """Values in bodies may have the names that new constants would get."""
    b = GraphBuilder()
    x = b.input("x", ["rows", 8])
    first = b.node("MatMul", x, b.weight("replaced", random(8, 8)), out="replaced_1", name="first")
    b.output(b.node("MatMul", first, b.weight("V", random(8, 8, seed=1)), out="y", name="second"), ["rows", 8])
    harness.save(b.model(), tmp_path / "in.onnx")
    sets = [{"x": random(4, 8, seed=5)}]
    wanted = expected(tmp_path / "in.onnx", sets)
    found, _ = run(measure, tmp_path, "in.onnx", "out.safetensors", *save_sets(tmp_path, sets), "--replace")
    check(found, wanted, SAME)


def peak(measure: str, folder: Path, *args: object) -> int:
    """Peak resident memory of a run, in bytes."""
    if sys.platform != "linux":
        harness.cannot_run("peak memory is read as Linux tells it")
    # A process counts the memory of the one that started it, so that has to be small.
    starter = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, capture_output=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [sys.executable, "-S", "-c", starter, measure, *map(str, args)]
    environment = os.environ | {"RAYON_NUM_THREADS": "2", "ORT_DYLIB_PATH": str(harness.library())}
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, env=environment)
    return int(done.stdout) * 1024


@pytest.mark.large
def test_memory_is_that_of_a_segment(measure: str, tmp_path: Path) -> None:
    """Of 1.5 GB of weights the largest has 131 MB."""
    place = harness.REPOSITORY / "benches" / "big_models.py"
    spec = importlib.util.spec_from_file_location("big_models", place)
    assert spec
    assert spec.loader
    big_models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(big_models)
    big_models.build(tmp_path / "big.onnx", True, layers=24, hidden=1024, inner=2816, vocab=32000)
    assert (tmp_path / "big.onnx_data").stat().st_size > 1.4e9
    (tmp_path / "tokens.json").write_text(str(list(range(1, 65))))
    args = ("big.onnx", "out.safetensors", "tokens.json", "--window", 32, "--replace")
    found = {engine: peak(measure, tmp_path, *args, "--engine", engine) for engine in ("onnxruntime", "rten")}
    print({engine: f"{size / 1e6:.0f} MB" for engine, size in found.items()})
    # A weight as it is stored, as it is put in its place, as the engine is given it, and as the
    # engine keeps it: 4 times 131 MB; and some 100 MB that the program and the engine take.
    assert max(found.values()) < 600e6


def test_every_file_is_that_of_a_run(measure: str, tmp_path: Path) -> None:
    """Another model, other data and other options are refused, and change nothing."""
    b = GraphBuilder()
    x = b.input("x", ["rows", 8])
    b.output(b.node("MatMul", x, b.weight("W", random(8, 8)), out="y", name="only"), ["rows", 8])
    model = b.model()
    harness.save(model, tmp_path / "in.onnx")
    tensor = model.graph.initializer[0]
    assert tensor.data_type == TensorProto.FLOAT
    tensor.CopyFrom(numpy_helper.from_array(random(8, 8, seed=7), tensor.name))
    harness.save(model, tmp_path / "other.onnx")
    save_sets(tmp_path, [{"x": random(4, 8, seed=5)}, {"x": random(4, 8, seed=6)}])
    run(measure, tmp_path, "in.onnx", "out.safetensors", "0.npz", "--folder", "run")
    before = harness.fingerprint(tmp_path / "run")
    cases = {
        "the model": ("other.onnx", "out.safetensors", "0.npz"),
        "what the model is fed": ("in.onnx", "out.safetensors", "1.npz"),
        "the options": ("in.onnx", "out.safetensors", "0.npz", "--replace"),
        "the engine": ("in.onnx", "out.safetensors", "0.npz", "--engine", "rten"),
    }
    for what, args in cases.items():
        command = [measure, *args, "--folder", "run"]
        environment = os.environ | {"ORT_DYLIB_PATH": str(harness.library())}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode != 0
        assert f"another run, which differs in {what} (" in done.stderr
        assert harness.fingerprint(tmp_path / "run") == before
