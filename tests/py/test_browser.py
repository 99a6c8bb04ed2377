"""Folders in transformers.js: under Node, and in a page of a headless Chromium on WASM.

The greedy text of a model is the same on all three runtimes (ONNX Runtime from Python is the third). How far
a quantized model writes what the float model writes is another matter, and is printed.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import harness
import language_model
import node
import web_folder

TINYLM = harness.REPOSITORY / "testdata" / "tinylm"
PROMPTS = ["The owl", "Dear Tom", "Question: what does a hen say?", "Count by two from four: four, six,"]
COUNT = 24


@pytest.fixture(scope="module")
def examples(tmp_path_factory) -> Path:
    return node.checkout(tmp_path_factory.mktemp("examples")) / "browser"


@pytest.fixture(scope="module")
def chromium() -> str:
    named = os.environ.get("CHROMIUM")
    found = named or shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        harness.cannot_run("no Chromium: CHROMIUM names none, and none is on the path")
    return found


def in_node(examples: Path, folder: Path, prompts: list[str], count: int = COUNT) -> list[list[int]]:
    return [item["ids"] for item in json.loads(node.ok(examples / "node.mjs", folder, count, *prompts))]


def in_page(
    examples: Path, chromium: str, folder: Path, prompts: list[str], count: int = COUNT, **env: str
) -> list[list[int]]:
    said = json.loads(node.ok(examples / "chromium.mjs", folder, count, *prompts, CHROMIUM=chromium, **env))
    print(f"page: transformers.js {said['version']}, {said['seconds']:.1f} s")
    return [item["ids"] for item in said["results"]]


def greedy(model: Path, folder: Path, prompts: list[str], count: int = COUNT) -> list[list[int]]:
    """The same text by ONNX Runtime from Python."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    stop = json.loads((folder / "config.json").read_text(encoding="utf-8"))["eos_token_id"]
    session = harness.session(model)
    ids = [tokenizer.encode(prompt).ids for prompt in prompts]
    return [language_model.greedy(session, prompt, count, stop) for prompt in ids]


def parting(a: list[int], b: list[int]) -> int | None:
    """The first token in which two texts differ."""
    if a == b:
        return None
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def tell(dtype: str, prompts: list[str], texts: list[list[int]], of_float: list[list[int]]) -> None:
    for prompt, ids, wanted in zip(prompts, texts, of_float, strict=True):
        at = parting(ids, wanted)
        print(f"{dtype}: {prompt!r}: {'as float' if at is None else f'parts from float at token {at}'}")


@pytest.fixture(scope="module")
def tinylm(binary, tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """A folder for each dtype, and the model in it."""
    onnxq = harness.Onnxq(binary, tmp_path_factory.mktemp("tinylm"))
    # The largest weight is the table, of 1 MB in float.
    chunks = {"fp32": "1.1MB", "fp16": "0.6MB", "q4": "250KB", "q4f16": "200KB", "int8": "300KB"}
    return {dtype: web_folder.make(onnxq, TINYLM, dtype, chunk) for dtype, chunk in chunks.items()}


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "q4", "q4f16", "int8"])
def test_tinylm_writes_the_same_everywhere(dtype, tinylm, examples, chromium):
    model, folder = tinylm[dtype]
    wanted = greedy(model, TINYLM, PROMPTS)
    assert in_node(examples, folder, PROMPTS) == wanted
    assert in_page(examples, chromium, folder, PROMPTS) == wanted
    tell(dtype, PROMPTS, wanted, greedy(TINYLM / "model.onnx", TINYLM, PROMPTS))


DEFAULT_RUNTIME = {"RUNTIME": "ort-wasm-simd-threaded.asyncify"}


@pytest.mark.parametrize("dtype", ["q4", "q4f16"])
def test_the_build_that_transformers_js_loads(dtype, binary, tmp_path, examples, chromium):
    """It has no kernel for GatherBlockQuantized; --target says so, and tables are then read by other operators."""
    onnxq = harness.Onnxq(binary, tmp_path)
    model, folder = web_folder.make(onnxq, TINYLM, dtype, "250KB", "--target=transformers.js@4")
    assert in_page(examples, chromium, folder, PROMPTS, **DEFAULT_RUNTIME) == greedy(model, TINYLM, PROMPTS)
    _, usual = web_folder.make(onnxq, TINYLM, dtype, "250KB")
    done = node.run(examples / "chromium.mjs", usual, 1, "x", CHROMIUM=chromium, **DEFAULT_RUNTIME)
    assert (done.status, "GatherBlockQuantized" in done.err) == (1, True), done.describe()
    done = onnxq("verify", usual, "--target", "transformers.js@4")
    assert (done.status, "GatherBlockQuantized" in done.out) == (1, True), done.describe()


def test_a_missing_chunk_is_told(tinylm, examples, chromium, tmp_path):
    folder = shutil.copytree(tinylm["q4"][1], tmp_path / "folder")
    (folder / "onnx" / "model_q4.onnx_data_1").unlink()
    for script in ("node.mjs", "chromium.mjs"):
        done = node.run(examples / script, folder, 1, "x", CHROMIUM=chromium)
        assert done.status == 1, done.describe()
        assert "model_q4.onnx_data_1" in done.err, done.describe()


def test_a_chunk_under_another_name_is_told(tinylm, examples, chromium, tmp_path):
    """The model names its chunks: a file that was renamed by hand does not load."""
    folder = shutil.copytree(tinylm["q4"][1], tmp_path / "folder")
    for path in (folder / "onnx").iterdir():
        path.rename(path.with_name(path.name.replace("_q4", "")))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    chunks = len(list((folder / "onnx").glob("*_data*")))
    config["transformers.js_config"] = {"dtype": "fp32", "use_external_data_format": {"model.onnx": chunks}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for script in ("node.mjs", "chromium.mjs"):
        done = node.run(examples / script, folder, 1, "x", CHROMIUM=chromium)
        assert done.status == 1, done.describe()
        assert "model_q4.onnx_data" in done.err, done.describe()


SMOLLM2_PROMPTS = ["The capital of France is", "The owl"]
SMOLLM2_COUNT = 8  # a token takes WASM about a second on two cores


@pytest.mark.real
@pytest.mark.parametrize("dtype", ["q4", "q4f16"])
def test_smollm2_writes_the_same_everywhere(dtype, real_model, onnxq, examples, chromium):
    source = real_model("smollm2")
    beside = web_folder.smollm2_side_files(onnxq.dir / "beside")
    (beside / "model.onnx").symlink_to(source)
    model, folder = web_folder.make(onnxq, beside, dtype, "40MB")
    wanted = greedy(model, beside, SMOLLM2_PROMPTS, SMOLLM2_COUNT)
    assert in_node(examples, folder, SMOLLM2_PROMPTS, SMOLLM2_COUNT) == wanted
    assert in_page(examples, chromium, folder, SMOLLM2_PROMPTS, SMOLLM2_COUNT) == wanted
    tell(dtype, SMOLLM2_PROMPTS, wanted, greedy(source, beside, SMOLLM2_PROMPTS, SMOLLM2_COUNT))
