"""Folders in Optimum, as a user loads them: exported there, quantized here, loaded there again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from tokenizers import Tokenizer

import harness
import language_model
import optimum_env
import web_folder

IDS = [[101, 7, 412, 33, 9, 102], [101, 900, 12, 5, 5, 77, 640, 102], [101, 3, 102], [101, *range(200, 240), 102]]


def words(ids: list[int]) -> str:
    return ",".join(map(str, ids))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bert") / "bert"
    assert optimum_env.ok("export-classifier", folder) == ["config.json", "model.onnx"]
    return folder


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2") / "trained"
    assert optimum_env.ok("train-decoder", folder) < 1.0, "nats: it has learned its successors"
    return folder


@pytest.fixture(scope="module")
def decoder(gpt2) -> Path:
    folder = gpt2.parent / "gpt2"
    assert "model.onnx" in optimum_env.ok("export-decoder", gpt2, folder)
    return folder


@pytest.fixture(scope="module")
def merged(gpt2) -> Path:
    folder = gpt2.parent / "merged"
    assert "decoder_model_merged.onnx" in optimum_env.ok("export-decoder", gpt2, folder, "--merged")
    return folder


@pytest.fixture
def tagged(classifier, tmp_path) -> Path:
    """The classifier as tools leave it that mark where a node comes from."""
    folder = shutil.copytree(classifier, tmp_path / "tagged")
    model = onnx.load(folder / "model.onnx")
    for node in model.graph.node:
        node.attribute.append(helper.make_attribute("hierarchy_tag", "/" + node.name))
    onnx.save(model, folder / "model.onnx")
    return folder


def logits(folder: Path, file: str) -> np.ndarray:
    return np.array([optimum_env.ok("classify", folder, file, words(ids))[0] for ids in IDS])


def test_classifier_with_tags(tagged, classifier, onnxq):
    """Without a configuration the folder is refused; with it the same classes come out as before."""
    done = optimum_env.run("classify", tagged, "model.onnx", words(IDS[0]))
    assert (done.status, "hierarchy_tag" in done.err) == (1, True), "ONNX Runtime knows no such attribute"
    onnxq.ok("quantize", tagged, "-o", "bare/", "--no-config")
    done = optimum_env.run("classify", onnxq.dir / "bare", "model_q4.onnx", words(IDS[0]))
    assert done.status == 1, done.describe()
    shutil.copy(classifier / "config.json", onnxq.dir / "bare")
    optimum_env.ok("classify", onnxq.dir / "bare", "model_q4.onnx", words(IDS[0]))
    onnxq.ok("quantize", tagged, "-o", "out/", "--dtype", "q4,int8")
    wanted = logits(classifier, "model.onnx")
    for file in ("model_q4.onnx", "model_int8.onnx"):
        found = logits(onnxq.dir / "out", file)
        print(file, "largest difference of logits", np.abs(found - wanted).max())
        assert np.array_equal(found.argmax(1), wanted.argmax(1))


def test_classifier_is_only_cleaned(tagged, classifier, onnxq):
    """Tags gone, and the numbers as they were, to what an order of sums costs."""
    onnxq.ok("opt", tagged, "--passes", "strip-attrs", "-o", "clean.onnx")
    shutil.copy(classifier / "config.json", onnxq.dir)
    onnxq.ok("repack", "clean.onnx", "-o", "out/", "--rename", "clean=model")
    np.testing.assert_array_equal(logits(onnxq.dir / "out", "model.onnx"), logits(classifier, "model.onnx"))


PROMPTS = [[5], [17, 40], [33], [50, 1, 2], [9, 10]]
COUNT = 24


def test_int8_with_and_without_cache(decoder, onnxq):
    """An activation is scaled by all that is fed at once, so that logits differ a little; the text does not."""
    onnxq.ok("quantize", decoder, "-o", "out/", "--dtype", "int8")
    texts = optimum_env.ok("generate", onnxq.dir / "out", "model_int8.onnx", COUNT, *map(words, PROMPTS))
    assert texts["cache"] == texts["whole"]
    assert len({tuple(t) for t in texts["cache"]}) == len(PROMPTS), "each prompt has a text of its own"
    of_float = optimum_env.ok("generate", decoder, "model.onnx", COUNT, *map(words, PROMPTS))
    assert of_float["cache"] == of_float["whole"]
    assert texts["cache"] == of_float["cache"], "it has learned one successor of each token"


def tell(dtype: str, found: list[list[int]], wanted: list[list[int]]) -> None:
    for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
        at = next((j for j, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]), None)
        print(f"{dtype}: prompt {i}: {'as float' if at is None else f'parts from float at token {at}'}")


def test_merged_decoder(merged, onnxq):
    """Both branches read one weight: it is quantized once, and the two compute the same text."""
    onnxq.ok("quantize", merged / "decoder_model_merged.onnx", "-o", "out/", "--json", "report.json")
    weights = json.loads((onnxq.dir / "report.json").read_text())["weights"]
    assert len({w["name"] for w in weights}) == len(weights)
    in_both = [w for w in weights if len(w["nodes"]) >= 2]
    assert len(in_both) >= 12, "the products of three layers"
    model = onnx.load(onnxq.dir / "out" / "decoder_model_merged_q4.onnx")
    [choice] = [node for node in model.graph.node if node.op_type == "If"]
    for branch in choice.attribute:
        assert sum(node.op_type == "MatMulNBits" for node in branch.g.node) >= 12
        own = [t for t in branch.g.initializer if t.data_type != onnx.TensorProto.BOOL and np.prod(t.dims) >= 4096]
        assert not own, "weights are shared"
    name = "decoder_model_merged_q4.onnx"
    # Optimum takes the first branch for a prompt, and the other for what follows.
    texts = optimum_env.ok("generate", onnxq.dir / "out", name, COUNT, *map(words, PROMPTS))
    assert texts["cache"] == texts["whole"]
    onnxq.ok("quantize", merged / "decoder_model.onnx", "-o", "alone/")
    name = "decoder_model_q4.onnx"
    alone = optimum_env.ok("generate-whole", onnxq.dir / "alone", name, COUNT, *map(words, PROMPTS))
    assert alone == texts["whole"]


def test_all_models_of_the_folder(merged, onnxq):
    dtypes = "fp16,decoder_model_merged=q4,decoder_model=int8"
    onnxq.ok("quantize", merged, "-o", "out/", "--dtype", dtypes)
    found = sorted(p.name for p in (onnxq.dir / "out").glob("*.onnx"))
    assert found == ["decoder_model_int8.onnx", "decoder_model_merged_q4.onnx", "decoder_with_past_model_fp16.onnx"]
    for name in found:
        harness.session(onnxq.dir / "out" / name)


@pytest.mark.real
@pytest.mark.parametrize("dtype", ["q4", "q4f16"])
def test_smollm2(dtype, real_model, onnxq):
    """Optimum's greedy text is that of ONNX Runtime alone; how far it is that of the float model is told."""
    source = real_model("smollm2")
    beside = web_folder.smollm2_side_files(onnxq.dir / "beside")
    (beside / "model.onnx").symlink_to(source)
    model, folder = web_folder.make(onnxq, beside, dtype, "40MB")
    tokenizer = Tokenizer.from_file(str(beside / "tokenizer.json"))
    prompts = [tokenizer.encode(text).ids for text in ("The capital of France is", "The owl", "Water boils at")]
    count = 12
    file = f"onnx/{model.name}"
    texts = optimum_env.ok("generate", folder, file, count, *map(words, prompts))["cache"]
    assert texts == [language_model.greedy(harness.session(model), prompt, count, stop=2) for prompt in prompts]
    tell(dtype, texts, [language_model.greedy(harness.session(source), prompt, count, stop=2) for prompt in prompts])
