"""`onnxq eval`: its figures against those computed here from ONNX Runtime's outputs."""

from __future__ import annotations

import json
import os
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

import harness
from builders import GraphBuilder
from language_model import compare, log_probabilities, perplexity

TINYLM = harness.REPOSITORY / "testdata/tinylm"
MODEL = TINYLM / "model.onnx"
TEXT = TINYLM / "heldout.txt"
WINDOWS, WINDOW = 4, 64
CUT = ("--windows", WINDOWS, "--window", WINDOW)
ENGINES = ["onnxruntime", "rten"]


@pytest.fixture(autouse=True)
def this_python(monkeypatch):
    """The ONNX Runtime of these tests is the one that is found."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("ORT_DYLIB_PATH", raising=False)


@pytest.fixture
def q4(onnxq) -> Path:
    onnxq.ok("quantize", MODEL, "-o", "q4.onnx")
    return onnxq.dir / "q4.onnx"


def evaluate(onnxq: harness.Onnxq, *args: object, status: int = 0, **popen: object) -> dict:
    done = onnxq("eval", *args, "--json", "eval.json", **popen)
    assert done.status == status, done.describe()
    report = json.loads((onnxq.dir / "eval.json").read_text())
    assert report["schema"] == "onnxq.eval/1"
    return report


def on_text(*models: object, engine: str = "onnxruntime") -> tuple[object, ...]:
    tokenizer = TINYLM / "tokenizer.json"
    return (*models, "--text", TEXT, "--tokenizer", tokenizer, *CUT, "--engine", engine)


def chunks(count: int = WINDOWS, length: int = WINDOW) -> np.ndarray:
    tokenizer = Tokenizer.from_file(str(TINYLM / "tokenizer.json"))
    ids = np.array(tokenizer.encode(TEXT.read_text()).ids, np.int64)
    return ids[: count * length].reshape(count, length)


def negated(path: Path, source: Path = MODEL) -> str:
    """The model with the weight of one linear in the middle negated; returns the node's name."""
    model = onnx.load(source)
    weights = {w.name: w for w in model.graph.initializer}
    linears = [n for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in weights]
    node = linears[len(linears) // 2]
    weight = weights[node.input[1]]
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    onnx.save(model, path)
    return node.name


@pytest.mark.parametrize("engine", ENGINES)
def test_figures_are_those_of_an_independent_measure(onnxq, q4, engine):
    report = evaluate(onnxq, *on_text(q4, engine=engine), "--baseline", MODEL)
    tokens = chunks()
    base, other = log_probabilities(MODEL, tokens), log_probabilities(q4, tokens)
    expected = compare(base, other, tokens)
    [model] = report["models"]
    found, noise = model["divergence"], model["noise"]
    # Both engines compute in float32: 1e-4 is the project's bound for perplexity, 1e-3 and 1e-6
    # that for divergence; rten may differ by what its own noise allows.
    assert report["baseline"]["perplexity"]["perplexity"]["value"] == pytest.approx(expected.baseline_perplexity, rel=1e-4)
    assert model["perplexity"]["perplexity"]["value"] == pytest.approx(expected.perplexity, rel=1e-4)
    assert found["kld"]["mean"]["value"] == pytest.approx(expected.divergence, rel=1e-3, abs=1e-6 + noise["mean_kld"])
    assert found["distributions"] == tokens.size
    assert abs(found["top1"]["value"] - expected.top1) * tokens.size <= 1

    kld = (np.exp(base) * (base - other)).sum(-1).astype(np.float64).ravel()
    for key, q in (("median", 50), ("p90", 90), ("p95", 95), ("p99", 99), ("p999", 99.9), ("max", 100)):
        assert found["kld"][key] == pytest.approx(np.percentile(kld, q), rel=2e-3, abs=1e-5)
    assert found["kld"]["mean"]["standard_error"] == pytest.approx(kld.std(ddof=1) / np.sqrt(kld.size), rel=1e-3)
    following = tokens[:, 1:, None]
    a = np.take_along_axis(base[:, :-1], following, -1).astype(np.float64)
    b = np.take_along_axis(other[:, :-1], following, -1).astype(np.float64)
    for key, d in (("log_prob", b - a), ("probability", np.exp(b) - np.exp(a))):
        assert found[key]["mean"]["value"] == pytest.approx(d.mean(), rel=1e-3, abs=1e-5)
        assert found[key]["rms"] == pytest.approx(np.sqrt((d**2).mean()), rel=1e-3)
        assert found[key]["max"] == pytest.approx(np.abs(d).max(), rel=1e-3)
    ratio = model["perplexity"]["ratio"]
    assert ratio["value"] == pytest.approx(np.exp(-(b - a).mean()), rel=1e-4)
    assert ratio["standard_error"] == pytest.approx(ratio["value"] * (b - a).std(ddof=1) / np.sqrt(a.size), rel=1e-3)
    top = [np.argsort(-x, -1, kind="stable")[..., :5] for x in (base, other)]
    shared = (top[0][..., :, None] == top[1][..., None, :]).any(-1).mean()
    # One token of five, in one row, may be a tie.
    assert found["top5"] == pytest.approx(shared, abs=0.2 / kld.size + 1e-9)
    assert sum(b["count"] for b in found["histogram"]) == kld.size


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_against_itself(onnxq, engine):
    shutil.copy(MODEL, onnxq.dir / "same.onnx")
    report = evaluate(onnxq, *on_text("same.onnx", engine=engine), "--baseline", MODEL, "--max-mean-kld", 0, "--min-top1", 1)
    found = report["models"][0]["divergence"]
    assert found["kld"]["max"] == 0 and found["top1"]["value"] == 1 and found["top5"] == 1
    assert found["log_prob"]["max"] == 0
    assert report["models"][0]["perplexity"]["ratio"]["value"] == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_a_negated_weight_is_found(onnxq, engine):
    node = negated(onnxq.dir / "bad.onnx")
    args = (*on_text("bad.onnx", engine=engine), "--baseline", MODEL, "--max-mean-kld", 0.01, "--per-node")
    report = evaluate(onnxq, *args, "--junit", "junit.xml", status=1)
    model = report["models"][0]
    assert [limit["held"] for limit in model["limits"]] == [False]
    assert model["limits"][0]["found"] == model["divergence"]["kld"]["mean"]["value"]
    assert model["per_node"][0]["node"] == node
    # -y differs from y by twice its norm.
    assert model["per_node"][0]["introduced"] == pytest.approx(2, rel=1e-4)
    assert len(model["per_node"]) == 1
    suites = ElementTree.parse(onnxq.dir / "junit.xml").getroot()
    assert len(suites.findall(".//failure")) == 1
    done = onnxq("eval", *args)
    assert done.status == 1
    assert "max-mean-kld" in done.out and node in done.out


def test_per_node_ranks_what_each_layer_adds(onnxq):
    """One projection at 2 bits among those at 8 adds most."""
    onnxq.ok("quantize", MODEL, "-o", "q8.onnx", "--bits", 8, "--exclude", "*layers.2*up_proj*")
    onnxq.ok("quantize", "q8.onnx", "-o", "mixed.onnx", "--bits", 2, "--include", "*layers.2*up_proj*")
    report = evaluate(onnxq, *on_text("mixed.onnx"), "--baseline", MODEL, "--per-node", 100)
    ranking = report["models"][0]["per_node"]
    assert "layers.2" in ranking[0]["node"] and "up_proj" in ranking[0]["node"]
    assert ranking[0]["introduced"] > 10 * ranking[1]["introduced"]
    nodes = [n for n in onnx.load(onnxq.dir / "mixed.onnx").graph.node if n.op_type in ("MatMulNBits", "GatherBlockQuantized")]
    assert len(ranking) == len(nodes)


@pytest.mark.parametrize("engine", ENGINES)
def test_through_the_cache_in_chunks(onnxq, engine):
    whole = evaluate(onnxq, *on_text(MODEL, engine=engine), "--log-probs", "whole.safetensors")
    parts = evaluate(onnxq, *on_text(MODEL, engine=engine), "--chunk", 23, "--log-probs", "parts.safetensors")
    assert parts["input"]["chunk"] == 23
    noise = max(whole["models"][0]["noise"]["max_log_prob"], 1e-6)
    a, b = load_file(onnxq.dir / "whole.safetensors"), load_file(onnxq.dir / "parts.safetensors")
    for i in range(WINDOWS):
        found, expected = b[f"log_probs.{i}"], a[f"log_probs.{i}"]
        # Matrices of another height are multiplied in another order: of the size of the noise,
        # which is measured on one window and on reference tokens alone.
        likely = expected > -10
        assert np.abs(found - expected)[likely].max() < 10 * noise


def test_log_probs_for_other_programs(onnxq):
    evaluate(onnxq, *on_text(MODEL), "--log-probs", "lp.safetensors")
    file = load_file(onnxq.dir / "lp.safetensors")
    tokens = chunks()
    expected = log_probabilities(MODEL, tokens)
    for i in range(WINDOWS):
        assert (file[f"tokens.{i}"] == tokens[i]).all()
        assert file[f"log_probs.{i}"].dtype == np.float32
        # The same library and the same float32 logits; only log-softmax is computed elsewhere.
        np.testing.assert_allclose(file[f"log_probs.{i}"], expected[i], atol=2e-5)
        reference = np.take_along_axis(expected[i][:-1], tokens[i][1:, None], -1)[:, 0]
        np.testing.assert_allclose(file[f"reference.{i}"][:-1], reference, atol=2e-5)
        assert np.isnan(file[f"reference.{i}"][-1])


def test_batches_and_strides(onnxq, q4):
    one = evaluate(onnxq, *on_text(q4), "--baseline", MODEL)
    many = evaluate(onnxq, *on_text(q4), "--baseline", MODEL, "--batch", 3)
    assert many["input"]["batch"] == 3 and not many["warnings"]
    figures = [r["models"][0]["divergence"]["kld"]["mean"]["value"] for r in (one, many)]
    # A batch changes the order of sums in float32.
    assert figures[0] == pytest.approx(figures[1], rel=1e-4)
    strided = evaluate(onnxq, *on_text(q4), "--baseline", MODEL, "--stride", 16)
    model = strided["models"][0]
    assert model["divergence"]["distributions"] == WINDOW + 3 * 16
    assert model["perplexity"]["predictions"] == WINDOW - 1 + 3 * 15


def test_a_batch_that_the_graph_does_not_allow(onnxq):
    model = onnx.load(MODEL)
    for port in [*model.graph.input, *model.graph.output]:
        port.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, onnxq.dir / "one.onnx")
    done = onnxq.ok("eval", *on_text("one.onnx"), "--batch", 4, "--json", "eval.json")
    assert "batch 1 instead of 4" in done.out
    assert json.loads((onnxq.dir / "eval.json").read_text())["input"]["batch"] == 1


def test_token_ids(onnxq, q4):
    (onnxq.dir / "ids.json").write_text(json.dumps(chunks().ravel().tolist()))
    (onnxq.dir / "lists.json").write_text(json.dumps(chunks().tolist()))
    text = evaluate(onnxq, *on_text(q4), "--baseline", MODEL)
    for file in ("ids.json", "lists.json"):
        report = evaluate(onnxq, q4, "--baseline", MODEL, "--tokens", file, *CUT)
        assert report["input"]["sha256"] == text["input"]["sha256"]
        assert report["models"][0]["divergence"]["kld"] == text["models"][0]["divergence"]["kld"]


def test_a_tokenizer_is_found_beside_the_model(onnxq):
    report = evaluate(onnxq, MODEL, "--text", TEXT, *CUT)
    assert report["models"][0]["perplexity"]["perplexity"]["value"] == pytest.approx(
        perplexity(log_probabilities(MODEL, chunks()), chunks()), rel=1e-4
    )
    folder = onnxq.dir / "hub"
    (folder / "onnx").mkdir(parents=True)
    shutil.copy(MODEL, folder / "onnx/model.onnx")
    shutil.copy(TINYLM / "tokenizer.json", folder)
    assert evaluate(onnxq, folder, "--text", TEXT, *CUT)["models"][0]["perplexity"] == report["models"][0]["perplexity"]


def test_a_saved_baseline(onnxq, q4):
    direct = evaluate(onnxq, *on_text(q4), "--baseline", MODEL, "--save-baseline", "base.lp")
    # With the model named, and without it.
    for more in (["--baseline", MODEL], []):
        again = evaluate(onnxq, *on_text(q4), "--baseline-logprobs", "base.lp", *more)
        a, b = direct["models"][0]["divergence"], again["models"][0]["divergence"]
        # Half precision: see src/eval/log_probs.rs.
        assert b["kld"]["mean"]["value"] == pytest.approx(a["kld"]["mean"]["value"], rel=1e-3, abs=1e-6)
        assert b["top1"] == a["top1"]
        assert b["log_prob"]["max"] == pytest.approx(a["log_prob"]["max"], rel=1e-5)
        assert again["baseline"]["sha256"] == direct["baseline"]["sha256"]
        assert again["baseline"]["perplexity"]["perplexity"]["value"] == pytest.approx(
            direct["baseline"]["perplexity"]["perplexity"]["value"], rel=1e-6
        )
        assert any("half precision" in warning for warning in again["warnings"])
    itself = evaluate(onnxq, *on_text(MODEL), "--baseline-logprobs", "base.lp")
    assert itself["models"][0]["divergence"]["kld"]["mean"]["value"] < 1e-6
    tokens = chunks()
    vocabulary = log_probabilities(MODEL, tokens).shape[-1]
    # 2 bytes a probability, 8 a token, and the header.
    assert (onnxq.dir / "base.lp").stat().st_size < tokens.size * (2 * vocabulary + 8) + 4096


def test_a_saved_baseline_of_something_else(onnxq, q4):
    evaluate(onnxq, *on_text(q4), "--baseline", MODEL, "--save-baseline", "base.lp")
    onnxq.refuses(
        "eval", *on_text(q4), "--baseline-logprobs", "base.lp", "--baseline", q4,
        mentions=("base.lp", "SHA-256"),
    )
    onnxq.refuses(
        "eval", *on_text(q4, engine="rten"), "--baseline-logprobs", "base.lp",
        mentions=("base.lp", "engine", "onnxruntime", "rten"),
    )
    onnxq.refuses(
        "eval", q4, "--text", TEXT, "--tokenizer", TINYLM / "tokenizer.json", "--window", 32,
        "--baseline-logprobs", "base.lp", mentions=("base.lp",),
    )
    other = onnxq.dir / "other.txt"
    other.write_text(TEXT.read_text()[100:])
    onnxq.refuses(
        "eval", q4, "--text", other, "--tokenizer", TINYLM / "tokenizer.json", *CUT,
        "--baseline-logprobs", "base.lp", mentions=("base.lp", "tokens"),
    )
    content = bytearray((onnxq.dir / "base.lp").read_bytes())
    for damaged in (content[:5], content[:-1], b"\xff" * 40, b"", content[:100]):
        (onnxq.dir / "damaged.lp").write_bytes(damaged)
        onnxq.refuses("eval", *on_text(q4), "--baseline-logprobs", "damaged.lp", mentions=("damaged.lp",))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_baseline_in_half_precision(onnxq, q4, engine):
    report = evaluate(onnxq, *on_text(MODEL, q4, engine=engine), "--baseline", "fp16")
    base, (float32, four) = report["baseline"], report["models"]
    assert base["bytes"] < 0.6 * MODEL.stat().st_size and "path" not in base
    # What half precision costs a model of trained weights: its own rounding, 2^-11.
    assert 0 < float32["divergence"]["kld"]["mean"]["value"] < 1e-4
    assert four["divergence"]["kld"]["mean"]["value"] > 100 * float32["divergence"]["kld"]["mean"]["value"]
    onnxq.refuses("eval", *on_text(q4, engine=engine), "--baseline", "fp16", mentions=("fp16", "quantized"))


def quantized_int8(path: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(MODEL, path, weight_type=QuantType.QInt8)
    return path


def test_without_python_and_without_onnx_runtime(onnxq, q4):
    """The engine that is always there runs every kind of model that this project writes."""
    onnxq.ok("quantize", MODEL, "-o", "q4a.onnx", "--asymmetric", "--block-size", 32)
    onnxq.ok("quantize", MODEL, "-o", "q8.onnx", "--bits", 8)
    onnxq.ok("quantize", MODEL, "-o", "q2.onnx", "--bits", 2)
    onnxq.ok("opt", MODEL, "-o", "fp16.onnx", "--passes", "fp16")
    onnxq.ok("quantize", "fp16.onnx", "-o", "q4f16.onnx")
    quantized_int8(onnxq.dir / "int8.onnx")
    names = ["q4.onnx", "q4a.onnx", "q8.onnx", "q2.onnx", "fp16.onnx", "q4f16.onnx", "int8.onnx"]
    args = ("eval", *names, "--baseline", MODEL, "--text", TEXT, "--tokenizer", TINYLM / "tokenizer.json", *CUT)
    there = evaluate(onnxq, *args[1:])
    env = {"PATH": "/nonexistent", "HOME": str(onnxq.dir)}
    here = evaluate(onnxq, *args[1:], env=env)
    assert here["engine"]["name"] == "rten" and there["engine"]["name"] == "onnxruntime"
    for name, a, b in zip(names, here["models"], there["models"]):
        found, expected = (m["divergence"]["kld"]["mean"]["value"] for m in (a, b))
        # Integers are rounded differently on ties by the two engines, rten has no float16, and
        # 8 and 2 bits are written with accuracy_level 4, by which ONNX Runtime rounds
        # activations to 8 bits and rten does not: 5e-5 nats of 8 bits, 0.0016 of 0.35 of 2 bits.
        tolerance = {"int8.onnx": 0.05, "q4f16.onnx": 0.05, "q2.onnx": 0.01}.get(name, 2e-3)
        assert found == pytest.approx(expected, rel=tolerance, abs=5e-5), name


def classifier(path: Path, seed: int, noise: float = 0.0) -> Path:
    rng = np.random.default_rng(seed)
    b = GraphBuilder()
    ids = b.input("input_ids", ["batch", "sequence"], onnx.TensorProto.INT64)
    b.input("attention_mask", ["batch", "sequence"], onnx.TensorProto.INT64)
    rng = np.random.default_rng(3)
    table = rng.standard_normal((768, 16)).astype(np.float32)
    head = rng.standard_normal((16, 4)).astype(np.float32)
    head += noise * np.random.default_rng(seed).standard_normal(head.shape).astype(np.float32)
    x = b.node("Gather", b.weight("table", table), ids, out="embedded")
    x = b.node("ReduceMean", x, axes=[1], keepdims=0, out="mean")
    x = b.node("MatMul", x, b.weight("head", head), out="logits")
    b.output(x, ["batch", 4])
    return harness.save(b.model(), path)


def test_classifiers(onnxq):
    classifier(onnxq.dir / "a.onnx", 0)
    classifier(onnxq.dir / "b.onnx", 1, noise=0.5)
    text = "\n".join(TEXT.read_text().split(".")[:40])
    (onnxq.dir / "lines.txt").write_text(text)
    report = evaluate(
        onnxq, "b.onnx", "--baseline", "a.onnx", "--text", "lines.txt", "--windows", "all",
        "--tokenizer", TINYLM / "tokenizer.json", "--window", 32,
    )
    assert report["task"] == "classifier"
    tokenizer = Tokenizer.from_file(str(TINYLM / "tokenizer.json"))
    lines = [tokenizer.encode(line).ids[:32] for line in text.splitlines() if line.strip()]
    assert report["input"]["items"] == len(lines)
    outs = []
    for name in ("a.onnx", "b.onnx"):
        session = harness.session(onnxq.dir / name)
        feed = [{"input_ids": np.array([l]), "attention_mask": np.ones((1, len(l)), np.int64)} for l in lines]
        outs.append(np.concatenate([session.run(None, f)[0] for f in feed]))
    a, b = outs
    [found] = report["models"][0]["outputs"]
    assert found["agreement"] == pytest.approx((a.argmax(-1) == b.argmax(-1)).mean())
    # Sums of float32 numbers in float64, here and there.
    assert found["max"] == pytest.approx(np.abs(a - b).max(), rel=1e-6)
    assert found["mean"] == pytest.approx(np.abs(a - b).mean(), rel=1e-5)
    assert found["cosine"] == pytest.approx((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()), rel=1e-5)
    assert found["snr_db"] == pytest.approx(10 * np.log10((a * a).sum() / ((a - b) ** 2).sum()), rel=1e-5)

    on_lines = ("--baseline", "a.onnx", "--text", "lines.txt", "--windows", "all", "--tokenizer", TINYLM / "tokenizer.json", "--window", 32)
    limits = {"min-top1": "agreement", "max-diff": "max", "min-snr": "snr_db", "min-cosine": "cosine"}
    for name, figure in limits.items():
        # Exactly what was found is held; a little more is not.
        for shift, status in ((0, 0), (1e-6 if name.startswith("min") else -1e-6, 1)):
            done = onnxq("eval", "b.onnx", *on_lines, f"--{name}", repr(found[figure] + shift), "--json", "r.json")
            assert done.status == status, done.describe()
            [limit] = json.loads((onnxq.dir / "r.json").read_text())["models"][0]["limits"]
            assert (limit["name"], limit["found"]) == (name, found[figure])
            assert limit["output"] == "logits" and "worst" not in limit
            assert ("MISSED" in done.out and "worst at output `logits`" in done.out) == bool(status)
    # No difference at all: the ratio is infinite.
    same = evaluate(onnxq, "a.onnx", *on_lines, "--min-snr", 200, "--min-cosine", 1, "--max-diff", 0, "--min-top1", 1)
    assert [(limit["found"], limit["held"]) for limit in same["models"][0]["limits"]] == [
        (1, True), (0, True), (None, True), (1, True),
    ]
    onnxq.refuses("eval", "b.onnx", *on_lines, "--max-mean-kld", 1, mentions=("--max-mean-kld", "language models"))
    onnxq.refuses("eval", "b.onnx", *on_lines, "--min-cosine", 1.5, mentions=("--min-cosine", "0 to 1"))
    onnxq.refuses("eval", "b.onnx", *on_lines[2:], "--min-cosine", 0.5, mentions=("--baseline",))


def test_a_check_of_a_classifier(onnxq):
    """Labels of lines, or of tensors, against the model in half precision; nothing is written where too many differ."""
    classifier(onnxq.dir / "a.onnx", 0)
    (onnxq.dir / "lines.txt").write_text("\n".join(TEXT.read_text().split(".")[:40]))
    ids = np.random.default_rng(0).integers(0, 768, (40, 12))
    np.savez(onnxq.dir / "in.npz", input_ids=ids, attention_mask=np.ones_like(ids))
    on_lines = ("lines.txt", "--tokenizer", TINYLM / "tokenizer.json", "--windows", "all")
    for on, task in ((on_lines, "classifier"), (("in.npz",), "tensors")):
        command = ("quantize", "a.onnx", "--symmetric", "--method", "rtn", "--json", "r.json", "--check", *on)
        onnxq.ok(*command, "-o", "good.onnx", "--min-snr", 15)
        check = json.loads((onnxq.dir / "r.json").read_text())["check"]
        assert check["task"] == task
        # Half precision is what it is compared with, itself 60 dB and more from float32.
        feed = ("--text" if task == "classifier" else "--inputs", *on)
        direct = evaluate(onnxq, "good.onnx", "--baseline", "a.onnx", *feed)
        [found], [expected] = check["models"][0]["outputs"], direct["models"][0]["outputs"]
        assert found["snr_db"] == pytest.approx(expected["snr_db"], abs=0.1)
        assert found["agreement"] == pytest.approx(expected["agreement"], abs=0.03)
        done = onnxq(*command, "-o", "bad.onnx", "--min-snr", 90)
        assert done.status == 1 and "MISSED" in done.out, done.describe()
        assert not (onnxq.dir / "bad.onnx").exists()
        onnxq.refuses(*command, "-o", "x.onnx", "--max-mean-kld", 1, mentions=("--max-mean-kld",))
    onnxq.refuses("quantize", "a.onnx", "-o", "x.onnx", "--min-snr", 1, mentions=("--check",))
    np.savez(onnxq.dir / "part.npz", attention_mask=np.ones_like(ids))
    onnxq.refuses("quantize", "a.onnx", "-o", "x.onnx", "--check", "part.npz", mentions=("input_ids", "--check"))
    assert not (onnxq.dir / "x.onnx").exists()


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_any_model_on_given_tensors(onnxq, suffix):
    rng = np.random.default_rng(0)
    for name, scale in (("a.onnx", 1.0), ("b.onnx", 1.01)):
        b = GraphBuilder()
        x = b.input("x", ["n", 8])
        weight = np.random.default_rng(1).standard_normal((8, 3)).astype(np.float32) * np.float32(scale)
        b.output(b.node("MatMul", x, b.weight("w", weight), out="y"), ["n", 3])
        harness.save(b.model(), onnxq.dir / name)
    x = rng.standard_normal((5, 8)).astype(np.float32)
    if suffix == "npz":
        np.savez(onnxq.dir / "in.npz", x=x)
    else:
        save_file({"x": x}, onnxq.dir / "in.safetensors")
    report = evaluate(onnxq, "b.onnx", "--baseline", "a.onnx", "--inputs", f"in.{suffix}")
    [found] = report["models"][0]["outputs"]
    assert report["task"] == "tensors" and found["elements"] == 15
    # `y` has no scores of labels, whatever the model is said to be.
    given = ("b.onnx", "--baseline", "a.onnx", "--inputs", f"in.{suffix}")
    assert evaluate(onnxq, *given, "--task", "encoder")["task"] == "encoder"
    onnxq.refuses("eval", *given, "--min-top1", 0.5, mentions=("--min-top1", "logits"))
    check = ("quantize", "a.onnx", "-o", "x.onnx", "--check", f"in.{suffix}", "--min-top1", 0.5)
    onnxq.refuses(*check, mentions=("--check", "--min-top1", "logits"))
    onnxq.refuses("eval", *given, "--task", "causal-lm", mentions=("--task causal-lm", "--text"))
    # y is 1.01 times the baseline's: 40 dB, but for the rounding of 1.01.
    assert found["snr_db"] == pytest.approx(40, abs=0.01)
    random = evaluate(onnxq, "b.onnx", "--baseline", "a.onnx", "--random", 3, "--dim", "n=7")
    assert random["input"]["items"] == 3 and random["models"][0]["outputs"][0]["elements"] == 3 * 7 * 3
    assert random["models"][0]["outputs"][0]["snr_db"] == pytest.approx(40, abs=0.01)


def test_a_decoder_with_states_that_are_given(onnxq):
    """Of an encoder-decoder model: tokens from a file, states beside them."""
    paths = []
    for name, factor in (("a.onnx", 1.0), ("b.onnx", 0.9)):
        b = GraphBuilder()
        ids = b.input("input_ids", ["batch", "sequence"], onnx.TensorProto.INT64)
        states = b.input("encoder_hidden_states", ["batch", "frames", 16])
        rng = np.random.default_rng(3)
        x = b.node("Gather", b.weight("table", rng.standard_normal((768, 16)).astype(np.float32)), ids, out="embedded")
        x = b.node("Add", x, b.node("ReduceMean", states, axes=[1], keepdims=1, out="mean"), out="sum")
        head = rng.standard_normal((16, 768)).astype(np.float32) * np.float32(factor)
        b.output(b.node("MatMul", x, b.weight("head", head), out="logits"), ["batch", "sequence", 768])
        paths.append(harness.save(b.model(), onnxq.dir / name))
    states = np.random.default_rng(5).standard_normal((1, 7, 16)).astype(np.float32)
    save_file({"encoder_hidden_states": states}, onnxq.dir / "states.safetensors")
    (onnxq.dir / "ids.json").write_text(json.dumps(chunks()[0].tolist()))
    report = evaluate(onnxq, "b.onnx", "--baseline", "a.onnx", "--tokens", "ids.json", "--inputs", "states.safetensors", *CUT)
    feed = {"input_ids": chunks()[:1], "encoder_hidden_states": states}
    a, b = (harness.session(p).run(None, feed)[0][0].astype(np.float64) for p in paths)
    a, b = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (a, b))
    expected = (np.exp(a) * (a - b)).sum(-1).mean()
    # float32 logits.
    assert report["models"][0]["divergence"]["kld"]["mean"]["value"] == pytest.approx(expected, rel=1e-4)
    onnxq.refuses("eval", "b.onnx", "--tokens", "ids.json", mentions=("encoder_hidden_states",))


def test_limits(onnxq, q4):
    held = evaluate(
        onnxq, *on_text(q4), "--baseline", MODEL, "--max-mean-kld", 10, "--max-p99-kld", 10, "--min-top1", 0.01,
        "--max-ppl-ratio", 10, "--max-logprob-diff", 100,
    )
    model = held["models"][0]
    assert [limit["held"] for limit in model["limits"]] == [True] * 5
    found = {limit["name"]: limit["found"] for limit in model["limits"]}
    divergence = model["divergence"]
    assert found == {
        "max-mean-kld": divergence["kld"]["mean"]["value"],
        "max-p99-kld": divergence["kld"]["p99"],
        "min-top1": divergence["top1"]["value"],
        "max-ppl-ratio": model["perplexity"]["ratio"]["value"],
        "max-logprob-diff": divergence["log_prob"]["max"],
    }
    for option, limit in (
        ("--max-mean-kld", 1e-9), ("--max-p99-kld", 1e-9), ("--min-top1", 1), ("--max-ppl-ratio", 0.5),
        ("--max-logprob-diff", 1e-9),
    ):
        done = onnxq("eval", *on_text(q4), "--baseline", MODEL, option, limit)
        assert done.status == 1, done.describe()
        assert option[2:] in done.out and "window" in done.out
    onnxq.refuses("eval", *on_text(q4), "--max-mean-kld", 1, mentions=("--baseline",))
    onnxq.refuses("eval", *on_text(q4), "--baseline", MODEL, "--min-top1", 90, mentions=("min-top1", "90"))
    onnxq.refuses("eval", *on_text(q4), "--baseline", MODEL, "--max-mean-kld=-1", mentions=("max-mean-kld", "-1"))


def test_the_worst_token_is_the_worst(onnxq, q4):
    report = evaluate(onnxq, *on_text(q4), "--baseline", MODEL)
    tokens = chunks()
    base, other = log_probabilities(MODEL, tokens), log_probabilities(q4, tokens)
    kld = (np.exp(base) * (base - other)).sum(-1)
    worst = report["models"][0]["divergence"]["worst"]
    assert np.unravel_index(kld.argmax(), kld.shape) == (worst["window"], worst["position"])
    difference = np.abs(np.take_along_axis(base - other, np.roll(tokens, -1, 1)[..., None], -1))[:, :-1, 0]
    worst = report["models"][0]["divergence"]["log_prob"]["worst"]
    place = np.unravel_index(difference.argmax(), difference.shape)
    assert place == (worst["window"], worst["position"])
    tokenizer = Tokenizer.from_file(str(TINYLM / "tokenizer.json"))
    token = int(tokens[place[0], place[1] + 1])
    assert worst["token"] == token and worst["text"] == tokenizer.decode([token], skip_special_tokens=False)


def test_several_models_and_the_page(onnxq, q4):
    shutil.copy(MODEL, onnxq.dir / "float.onnx")
    report = evaluate(onnxq, *on_text("float.onnx", q4), "--baseline", "fp16", "--html", "report.html")
    page = (onnxq.dir / "report.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>") and "<svg" in page
    for model in report["models"]:
        assert model["name"] in page
    assert "http://" not in page.replace("http://www.w3.org/", "") and "https://" not in page


def test_bad_input(onnxq, q4):
    tokenizer = ("--tokenizer", TINYLM / "tokenizer.json")
    text = ("--text", TEXT)
    onnxq.refuses("eval", q4, mentions=("--text",))
    onnxq.refuses("eval", q4, *text, mentions=("tokenizer.json", "--tokenizer"))
    onnxq.refuses("eval", q4, "--text", "missing.txt", *tokenizer, mentions=("missing.txt",))
    onnxq.refuses("eval", q4, *text, "--tokenizer", "missing.json", mentions=("missing.json",))
    (onnxq.dir / "broken.json").write_text("{}")
    onnxq.refuses("eval", q4, *text, "--tokenizer", "broken.json", mentions=("broken.json",))
    (onnxq.dir / "empty.txt").write_text("")
    onnxq.refuses("eval", q4, "--text", "empty.txt", *tokenizer, mentions=("empty.txt", "at least 2"))
    (onnxq.dir / "latin.txt").write_bytes(b"caf\xe9 " * 100)
    onnxq.refuses("eval", q4, "--text", "latin.txt", *tokenizer, mentions=("latin.txt", "UTF-8"))
    (onnxq.dir / "ids.json").write_text("[1, 2, 70000, 3]")
    onnxq.refuses("eval", q4, "--tokens", "ids.json", mentions=("70000", "vocabulary", "768"))
    for content in ("[1, -2]", "[1.5, 2]", '{"ids": [1]}', "[1, 2"):
        (onnxq.dir / "ids.json").write_text(content)
        onnxq.refuses("eval", q4, "--tokens", "ids.json", mentions=("ids.json", "token ids"))
    onnxq.refuses("eval", q4, *text, *tokenizer, "--window", 1, mentions=("window",))
    onnxq.refuses("eval", q4, *text, *tokenizer, "--stride", 0, mentions=("stride",))
    onnxq.refuses("eval", q4, *text, *tokenizer, "--window", 8, "--stride", 9, mentions=("stride",))
    onnxq.refuses("eval", q4, *text, *tokenizer, "--chunk", 0, mentions=("chunk",))
    onnxq.refuses("eval", q4, *text, *tokenizer, "--per-node", mentions=("--baseline",))
    onnxq.refuses("eval", q4, *text, *tokenizer, "--json", "no/such/folder.json", mentions=("no/such",))
    onnxq.refuses("eval", "q4.onnx", *text, *tokenizer, "--json", "q4.onnx", mentions=("q4.onnx",))
    (onnxq.dir / "ids.json").write_text("[1, 2, 3]")
    onnxq.refuses("eval", q4, "--tokens", "ids.json", "--json", "ids.json", mentions=("ids.json", "reads"))
    assert (onnxq.dir / "ids.json").read_text() == "[1, 2, 3]"
    onnxq.refuses("eval", q4, "--tokens", "ids.json", "--json", "r", "--html", "r", mentions=("`r`", "another name"))
    np.savez(onnxq.dir / "ids.npz", input_ids=np.zeros((1, 3), np.int64))
    onnxq.refuses("eval", q4, "--tokens", "ids.json", "--inputs", "ids.npz", "--task", "causal-lm", mentions=("input_ids",))
    onnxq.refuses("eval", q4, "--tokens", "ids.json", "--batch", 0, mentions=("--batch",))


def test_models_that_cannot_be_compared(onnxq, q4):
    tokenizer = ("--tokenizer", TINYLM / "tokenizer.json")
    classifier(onnxq.dir / "classifier.onnx", 0)
    onnxq.refuses("eval", q4, "--baseline", "classifier.onnx", "--text", TEXT, *tokenizer, mentions=("classifier",))
    for size, name in ((768, "a.onnx"), (760, "b.onnx")):
        b = GraphBuilder()
        ids = b.input("input_ids", ["batch", "sequence"], onnx.TensorProto.INT64)
        table = np.random.default_rng(0).standard_normal((768, 8)).astype(np.float32)
        x = b.node("Gather", b.weight("table", table), ids, out="embedded")
        b.output(b.node("MatMul", x, b.weight("head", table[:size].T.copy()), out="logits"), ["batch", "sequence", size])
        harness.save(b.model(), onnxq.dir / name)
    onnxq.refuses("eval", "b.onnx", "--baseline", "a.onnx", "--text", TEXT, *tokenizer, mentions=("760", "768"))
    b = GraphBuilder()
    b.output(b.node("Relu", b.input("x", [2, 2]), out="y"), [2, 2])
    harness.save(b.model(), onnxq.dir / "relu.onnx")
    onnxq.refuses("eval", "relu.onnx", "--text", TEXT, *tokenizer, mentions=("logits", "y"))
    onnxq.refuses("eval", "relu.onnx", "--baseline", "a.onnx", "--random", 1, mentions=("input_ids", "x"))


@pytest.mark.parametrize("engine", ENGINES)
def test_logits_that_are_no_numbers(onnxq, engine):
    model = onnx.load(MODEL)
    weight = next(w for w in model.graph.initializer if w.name.endswith("norm.weight"))
    array = numpy_helper.to_array(weight).copy()
    array[0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    onnx.save(model, onnxq.dir / "nan.onnx")
    onnxq.refuses("eval", *on_text("nan.onnx", engine=engine), mentions=("nan", "window 0", "not a number"))


def test_quantize_with_a_check(onnxq):
    check = ("--check", TEXT, "--tokenizer", TINYLM / "tokenizer.json", *CUT)
    done = onnxq.ok("quantize", MODEL, "-o", "good.onnx", *check, "--max-mean-kld", 5, "--json", "report.json")
    report = json.loads((onnxq.dir / "report.json").read_text())
    assert report["published"] and report["check"]["models"][0]["limits"][0]["held"]
    direct = evaluate(onnxq, *on_text("good.onnx"), "--baseline", MODEL)
    # Against half precision instead of float32.
    assert report["check"]["models"][0]["divergence"]["kld"]["mean"]["value"] == pytest.approx(
        direct["models"][0]["divergence"]["kld"]["mean"]["value"], rel=0.02
    )
    assert "perplexity" in done.out.lower()
    onnxq.ok("quantize", MODEL, "-o", "plain.onnx")
    assert (onnxq.dir / "good.onnx").read_bytes() == (onnxq.dir / "plain.onnx").read_bytes()

    (onnxq.dir / "old.onnx").write_bytes(b"as it was")
    done = onnxq("quantize", MODEL, "-o", "old.onnx", *check, "--max-mean-kld", 1e-6)
    assert done.status == 1 and "--keep" in done.out, done.describe()
    assert (onnxq.dir / "old.onnx").read_bytes() == b"as it was"
    done = onnxq("quantize", MODEL, "-o", "kept.onnx", *check, "--max-mean-kld", 1e-6, "--keep", "--external-data", "always")
    assert done.status == 1
    assert harness.session(onnxq.dir / "kept.onnx")
    assert not [p for p in onnxq.dir.iterdir() if p.name.startswith(".")]

    onnxq.refuses("quantize", MODEL, "-o", "x.onnx", "--max-mean-kld", 1, mentions=("--check",))
    (onnxq.dir / "empty.txt").write_text("")
    onnxq.refuses("quantize", MODEL, "-o", "x.onnx", "--check", "empty.txt", "--tokenizer", TINYLM / "tokenizer.json", mentions=("empty.txt",))
    assert not (onnxq.dir / "x.onnx").exists()


@pytest.mark.real
def test_smollm2(onnxq, real_model):
    """The model family that the figures in the documents are about."""
    model, tokenizer = real_model("smollm2"), real_model("smollm2-tokenizer")
    onnxq.ok("quantize", model, "-o", "q4.onnx")
    text = harness.REPOSITORY / "tests/py/text"
    file = sorted(text.glob("*.txt"))[0]
    tokens = np.array(Tokenizer.from_file(str(tokenizer)).encode(file.read_text()).ids, np.int64)
    tokens = tokens[: 2 * 128].reshape(2, 128)
    args = ("q4.onnx", "--baseline", model, "--text", file, "--tokenizer", tokenizer, "--windows", 2, "--window", 128)
    base, other = log_probabilities(model, tokens), log_probabilities(onnxq.dir / "q4.onnx", tokens)
    expected = compare(base, other, tokens)
    for engine in ENGINES:
        report = evaluate(onnxq, *args, "--engine", engine)
        found = report["models"][0]
        assert found["perplexity"]["perplexity"]["value"] == pytest.approx(expected.perplexity, rel=1e-4)
        assert found["divergence"]["kld"]["mean"]["value"] == pytest.approx(
            expected.divergence, rel=1e-3, abs=1e-6 + found["noise"]["mean_kld"]
        )
        assert abs(found["divergence"]["top1"]["value"] - expected.top1) * tokens.size <= 1


def test_latency_on_the_page(onnxq, q4):
    done = onnxq.ok("eval", *on_text(q4), "--baseline", MODEL, "--html", "report.html", "--bench", 3)
    page = (onnxq.dir / "report.html").read_text()
    assert "perplexity" in done.out and "Latency" in page and "Perplexity" in page
    onnxq.ok("bench", MODEL, q4, "--runs", 3, "--html", "bench.html")
    page = (onnxq.dir / "bench.html").read_text()
    assert "Latency" in page and "Perplexity" not in page
    assert onnxq("eval", *on_text(q4), "--bench", 0, "--html", "report.html").status == 2
