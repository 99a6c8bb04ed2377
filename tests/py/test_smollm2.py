"""A real language model end to end: SmolLM2-135M-Instruct in its three forms.

Bounds are for the text in text/harbour.txt, written for this test; what was measured when they
were set is beside each.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from tokenizers import Tokenizer

import dequant
import harness
import language_model
import ort_quantizer
from dequant import GATHER, MATMUL
from ort_quantizer import Rule

pytestmark = pytest.mark.real

TEXT = Path(__file__).parent / "text" / "harbour.txt"
CHUNK = 128  # tokens: six chunks, a few seconds a model on two cores

# Measured: divergence 0.2131, same top-1 72.1 %, perplexity 37.879 -> 41.928 (times 1.107); the float16 form
# alike. The room is for kernels of other machines. Plain rounding, with ONNX Runtime's own codes on every linear and
# on the table: 0.3213, 61.7 %, 44.955.
DIVERGENCE = 0.225
TOP1 = 0.70
PERPLEXITY_RATIO = 1.125

LINEARS = 30 * 7
HEAD_AND_EMBEDDING = ("--exclude", "*lm_head*", "--exclude", "*embed_tokens*")


@dataclass(frozen=True)
class Form:
    name: str
    model: str
    megabytes: int  # most that the quantized file may have


# Block 16 with zero points and float32 scales takes 6.25 bits a weight, with float16 scales 5.25. 134.5 M
# weights are 105.1 and 88.3 MB, and the graph of 3000 nodes adds less than 1 MB. A head that is a second copy
# in the file is still stored once: it is the embedding, transposed.
FORMS = [
    Form("float", "smollm2", 107),
    Form("float16", "smollm2-fp16", 90),
    Form("duplicated_head", "smollm2-dup", 107),
]


@pytest.fixture(scope="module")
def chunks(real_model) -> np.ndarray:
    tokenizer = Tokenizer.from_file(str(real_model("smollm2-tokenizer")))
    ids = np.array(tokenizer.encode(TEXT.read_text(encoding="utf-8")).ids)
    return ids[: len(ids) // CHUNK * CHUNK].reshape(-1, CHUNK)


@pytest.fixture(scope="module")
def baseline(real_model, chunks) -> np.ndarray:
    """The float model's log-probabilities; the float16 model is within 1e-5 nats of them."""
    return language_model.log_probabilities(real_model("smollm2"), chunks)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_everything_quantized(form: Form, real_model, chunks, baseline, onnxq):
    onnxq.ok("quantize", real_model(form.model), "-o", "out.onnx")
    out = onnxq.dir / "out.onnx"
    assert total_bytes(onnxq.dir) <= form.megabytes * 1_000_000
    assert quantized_counts(out) == {MATMUL: LINEARS + 1, GATHER: 1}
    onnxq.ok("verify", "out.onnx")
    found = language_model.compare(baseline, language_model.log_probabilities(out, chunks), chunks)
    print(form.name, total_bytes(onnxq.dir), found)
    assert_near(found)


def assert_near(found: language_model.Comparison) -> None:
    assert found.divergence < DIVERGENCE, str(found)
    assert found.top1 > TOP1, str(found)
    assert found.perplexity < PERPLEXITY_RATIO * found.baseline_perplexity, str(found)


def total_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def quantized_counts(path: Path) -> dict[str, int]:
    counts = dequant.op_counts(dequant.load(path))
    assert "MatMul" in counts, "attention multiplies activations with activations"
    return {op: counts.get(f"com.microsoft::{op}", 0) for op in (MATMUL, GATHER)}


@pytest.mark.parametrize("model", ["smollm2", "smollm2-fp16"])
def test_same_codes_as_onnx_runtime_on_every_linear(model, real_model, onnxq):
    """All 210 matrices, bit for bit: the two tools write the same numbers."""
    source = real_model(model)
    onnxq.ok("quantize", source, "-o", "out.onnx", *harness.plain(*HEAD_AND_EMBEDDING))
    found = by_node(dequant.load(onnxq.dir / "out.onnx"), onnxq.dir)
    wanted = by_node(ort_quantizer.quantize_model(onnx.load(source), Rule(), ["/lm_head/MatMul"]))
    assert found.keys() == wanted.keys()
    assert len(found) == LINEARS
    for output, weight in wanted.items():
        np.testing.assert_array_equal(found[output].scales, weight.scales, output)
        np.testing.assert_array_equal(found[output].codes, weight.codes, output)


def by_node(model: onnx.ModelProto, base: Path | None = None) -> dict[str, dequant.Quantized]:
    """By the value that the node gives, which both tools keep."""
    return {item.node.output[0]: item for item in dequant.quantized_weights(model, base)}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_table_and_head_are_one_set_of_codes(form, real_model, onnxq):
    onnxq.ok("quantize", real_model(form.model), "-o", "out.onnx")
    found = dequant.quantized_weights(dequant.load(onnxq.dir / "out.onnx"), onnxq.dir)
    [table] = [item for item in found if item.op == GATHER]
    [head] = [item for item in found if item.node.output[0] == "logits"]
    np.testing.assert_array_equal(table.codes, head.codes)
    np.testing.assert_array_equal(table.scales, head.scales)


def test_one_step_with_a_cache_equals_the_whole_prompt(real_model, chunks, onnxq):
    """The interface is untouched: the quantized model still goes on from its own cache."""
    onnxq.ok("quantize", real_model("smollm2"), "-o", "out.onnx")
    loaded = harness.session(onnxq.dir / "out.onnx")
    tokens = chunks[0][:24]
    whole = language_model.predict(loaded, tokens)[-1]
    outputs = [item.name for item in loaded.get_outputs()]
    first = loaded.run(outputs, language_model.prompt_feeds(loaded, tokens[:-1]))
    cache = {
        name.replace("present", "past_key_values"): value
        for name, value in zip(outputs, first, strict=True)
        if name != "logits"
    }
    step = {
        "input_ids": tokens[-1:][None],
        "attention_mask": np.ones((1, len(tokens)), np.int64),
        "position_ids": np.array([[len(tokens) - 1]]),
    }
    [logits] = loaded.run(["logits"], step | cache)
    # Sums of one row instead of 24 take another kernel: 4e-5 nats were measured with ONNX
    # Runtime's own quantizer.
    np.testing.assert_allclose(language_model.log_softmax(logits[0, -1]), whole, atol=1e-3)
