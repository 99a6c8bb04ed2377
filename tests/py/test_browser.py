"""Folders in transformers.js: under Node, and in a page of a headless Chromium on WASM.

The greedy text of a model is the same on all three runtimes (ONNX Runtime from Python is the third). How far
a quantized model writes what the float model writes is another matter, and is printed.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

import harness
import language_model
import node
import web_folder

TINYLM = harness.REPOSITORY / "testdata" / "tinylm"
PROMPTS = ["The owl", "Dear Tom", "Question: what does a hen say?", "Count by two from four: four, six,"]
COUNT = 24
CHUNKS = 3

Tensors = dict[str, np.ndarray]


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
    return [go_on(session, tokenizer.encode(prompt).ids, count, stop) for prompt in prompts]


def go_on(session: InferenceSession, prompt: list[int], count: int, stop: int) -> list[int]:
    """Token by token through the cache: 8-bit activations are scaled by all that is fed at once."""
    feeds = language_model.prompt_feeds(session, np.array(prompt))
    ids: list[int] = []
    while len(ids) < count and ids[-1:] != [stop]:
        names = [item.name for item in session.get_outputs()]
        outputs = dict(zip(names, session.run(names, feeds), strict=True))
        ids.append(int(outputs["logits"][0, -1].argmax()))
        feeds = one_more(feeds, outputs, ids[-1])
    return ids


def one_more(feeds: Tensors, outputs: Tensors, token: int) -> Tensors:
    length = feeds["attention_mask"].shape[1]
    new = {
        "input_ids": np.array([[token]]),
        "attention_mask": np.ones((1, length + 1), np.int64),
        "position_ids": np.array([[length]]),
    }
    return new | {
        name: outputs[name.replace("past_key_values", "present")] for name in feeds if name not in new
    }


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
    """A folder for each dtype, with its weights in three chunks, and the model that it was made of."""
    onnxq = harness.Onnxq(binary, tmp_path_factory.mktemp("tinylm"))
    onnxq.ok("quantize", TINYLM / "model.onnx", "--dtype", "fp16,q4,q4f16,int8", "-o", f"{onnxq.dir}/")
    shutil.copyfile(TINYLM / "model.onnx", onnxq.dir / "model.onnx")
    result = {}
    for dtype in ("fp32", "fp16", "q4", "q4f16", "int8"):
        model = onnxq.dir / f"model{web_folder.SUFFIXES[dtype]}.onnx"
        result[dtype] = (model, web_folder.write(onnxq.dir / dtype, model, dtype, CHUNKS, TINYLM))
    return result


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "q4", "q4f16", "int8"])
def test_tinylm_writes_the_same_everywhere(dtype, tinylm, examples, chromium):
    model, folder = tinylm[dtype]
    wanted = greedy(model, TINYLM, PROMPTS)
    assert in_node(examples, folder, PROMPTS) == wanted
    assert in_page(examples, chromium, folder, PROMPTS) == wanted
    tell(dtype, PROMPTS, wanted, greedy(TINYLM / "model.onnx", TINYLM, PROMPTS))


DEFAULT_RUNTIME = {"RUNTIME": "ort-wasm-simd-threaded.asyncify"}


def test_the_default_runtime_has_no_quantized_table(tinylm, examples, chromium):
    """The plain build has that kernel. When this one gets it, examples/browser can do without the other."""
    done = node.run(examples / "chromium.mjs", tinylm["q4"][1], 1, "x", CHROMIUM=chromium, **DEFAULT_RUNTIME)
    assert done.status == 1, done.describe()
    assert "implementation for GatherBlockQuantized" in done.err, done.describe()


OTHER_TABLES = {"float": ("--exclude", "*embed_tokens*"), "qdq": ("--format", "qdq")}


@pytest.mark.parametrize("option", OTHER_TABLES.values(), ids=OTHER_TABLES)
def test_other_tables_run_on_the_default_runtime(option, examples, chromium, onnxq):
    onnxq.ok("quantize", TINYLM / "model.onnx", "-o", "model.onnx", *option)
    folder = web_folder.write(onnxq.dir / "q4", onnxq.dir / "model.onnx", "q4", CHUNKS, TINYLM)
    wanted = greedy(onnxq.dir / "model.onnx", TINYLM, PROMPTS)
    assert in_page(examples, chromium, folder, PROMPTS, **DEFAULT_RUNTIME) == wanted


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
    config["transformers.js_config"] = {"dtype": "fp32", "use_external_data_format": {"model.onnx": CHUNKS}}
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
    onnxq.ok("quantize", source, "--dtype", dtype, "-o", "model.onnx")
    folder = web_folder.write(onnxq.dir / dtype, onnxq.dir / "model.onnx", dtype, CHUNKS, beside)
    wanted = greedy(onnxq.dir / "model.onnx", beside, SMOLLM2_PROMPTS, SMOLLM2_COUNT)
    assert in_node(examples, folder, SMOLLM2_PROMPTS, SMOLLM2_COUNT) == wanted
    assert in_page(examples, chromium, folder, SMOLLM2_PROMPTS, SMOLLM2_COUNT) == wanted
    tell(dtype, SMOLLM2_PROMPTS, wanted, greedy(source, beside, SMOLLM2_PROMPTS, SMOLLM2_COUNT))
