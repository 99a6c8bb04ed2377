"""Codes that are chosen by what a model computes: `--method imatrix` and `gptq`, `--budget`, `--recipe`."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

import harness
from builders import GraphBuilder, random
from language_model import prompt_feeds
from report import Report

TINYLM = Path(__file__).parents[2] / "testdata" / "tinylm"
MODEL = TINYLM / "model.onnx"
WINDOW = 64


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ONNX Runtime of this Python, wherever that is."""
    monkeypatch.setenv("ORT_DYLIB_PATH", str(harness.library()))


@pytest.fixture
def texts(tmp_path: Path) -> tuple[Path, Path]:
    """Held-out text in two parts: one to calibrate on, one to evaluate."""
    return harness.halves(TINYLM / "heldout.txt", tmp_path / "calibration.txt", tmp_path / "evaluation.txt")


@pytest.fixture
def quantize(onnxq: harness.Onnxq, texts):
    """Quantizes the model on the text for it; returns the path of the output."""

    def run(name: str, *args: object, calibrate: bool = True) -> Path:
        data = ("--calibrate", texts[0]) if calibrate else ()
        tokenizer = ("--tokenizer", TINYLM / "tokenizer.json", "--window", WINDOW)
        onnxq.ok("quantize", MODEL, "-o", name, *data, *tokenizer, *args)
        return onnxq.dir / name

    return run


@pytest.fixture
def mean_kld(onnxq: harness.Onnxq, texts):
    def of(model: Path) -> float:
        text = ("--text", texts[1], "--tokenizer", TINYLM / "tokenizer.json", "--window", WINDOW, "--windows", "all")
        onnxq.ok("eval", model, "--baseline", MODEL, *text, "--json", "eval.json")
        (found,) = json.loads((onnxq.dir / "eval.json").read_text(encoding="utf-8"))["models"]
        return found["divergence"]["kld"]["mean"]["value"]

    return of


@pytest.mark.parametrize("form", [("--block-size", "32"), ("--block-size", "32", "--asymmetric")])
def test_each_method_is_better_than_the_one_before(quantize, mean_kld, form) -> None:
    plain = mean_kld(quantize("plain.onnx", *form, calibrate=False))
    weighted = mean_kld(quantize("imatrix.onnx", "--method", "imatrix", *form))
    second_order = mean_kld(quantize("gptq.onnx", *form))
    # On text that none of them has seen. That of quality.md's models is half and a third.
    assert weighted < plain
    assert second_order < 0.7 * plain
    assert second_order < weighted


def test_the_file_is_as_large_and_runs(quantize, onnxq) -> None:
    plain = quantize("plain.onnx", calibrate=False)
    gptq = quantize("gptq.onnx", "--json", "report.json")
    # The recorded pipeline names the method.
    assert abs(gptq.stat().st_size - plain.stat().st_size) < 200
    report = Report.read(onnxq.dir / "report.json")
    assert "method=gptq" in report.fields["pipeline"]
    assert "not-calibrated" not in {reason for _, reason in report.remarks()}
    session = harness.session(gptq)
    for values in session.run(None, prompt_feeds(session, np.arange(1, 9))):
        assert np.isfinite(values).all()


def test_bytes_do_not_depend_on_threads_or_interruption(quantize) -> None:
    first = quantize("one.onnx", "--threads", "1")
    # What a folder kept of a run is all that the next one needs.
    kept = quantize("kept.onnx", "--calibration-folder", "work")
    again = quantize("again.onnx", "--calibration-folder", "work")
    assert first.read_bytes() == kept.read_bytes() == again.read_bytes()


def test_several_dtypes_from_one_calibration(quantize, onnxq) -> None:
    (onnxq.dir / "out").mkdir()
    quantize("out/", "--dtype", "q4,q4f16,q2", "--no-config")
    names = {path.name for path in (onnxq.dir / "out").iterdir()}
    assert names == {"model_q4.onnx", "model_q4f16.onnx", "model_q2.onnx"}
    alone = quantize("alone.onnx", "--dtype", "q4", "--record-sha")
    # The first dtype is the one whose rounded weights the others see as well.
    assert (onnxq.dir / "out" / "model_q4.onnx").stat().st_size == alone.stat().st_size


def test_tensors_instead_of_text(onnxq: harness.Onnxq) -> None:
    b = GraphBuilder()
    x = b.input("x", ["rows", 64])
    hidden = b.node("Relu", b.node("MatMul", x, b.weight("W", random(64, 48)), out="h"), out="r")
    b.output(b.node("MatMul", hidden, b.weight("V", random(48, 32, seed=1)), out="y"), ["rows", 32])
    harness.save(b.model(), onnxq.dir / "in.onnx")
    # Few directions are used, and unevenly: what rounding to nearest cannot know.
    rng = np.random.default_rng(0)
    feed = (rng.standard_normal((512, 8)) @ rng.standard_normal((8, 64)) * np.geomspace(1, 30, 64)).astype(np.float32)
    np.savez(onnxq.dir / "feeds.npz", x=feed[:256])
    (expected,) = harness.run_model(onnxq.dir / "in.onnx", {"x": feed[256:]}).values()

    def error(*args: object) -> float:
        onnxq.ok("quantize", "in.onnx", "-o", "out.onnx", *args)
        (found,) = harness.run_model(onnxq.dir / "out.onnx", {"x": feed[256:]}).values()
        return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))

    plain = error()
    assert error("--calibrate", "feeds.npz", "--method", "imatrix") < plain
    # Rank 8 of 64: GPTQ moves nearly all of the error to where nothing is multiplied by it.
    assert error("--calibrate", "feeds.npz") < 0.5 * plain


@pytest.mark.parametrize("engine", ["onnxruntime", "rten"])
def test_a_budget_is_met_and_its_recipe_makes_the_same_file(quantize, onnxq, engine) -> None:
    on = ("--dtype", "q4f16", "--engine", engine)
    mixed = quantize("mixed.onnx", *on, "--budget", "5.0bpw", "--json", "report.json")
    weights = Report.read(onnxq.dir / "report.json").weights()
    bits = sum(w["bytes_after"] for w in weights) * 8 / sum(w["n"] * w["k"] for w in weights)
    assert 4.5 < bits <= 5.0, "what is allowed is used"
    recipe = onnxq.dir / "mixed.recipe.toml"
    forms = {(w["bits"], w["block"]) for w in tomllib.loads(recipe.read_text(encoding="utf-8"))["weight"]}
    assert len(forms) > 1, "all weights alike: this test shows nothing"
    again = quantize("again.onnx", *on, "--recipe", recipe)
    assert again.read_bytes() == mixed.read_bytes()
    # Edited, it is followed.
    text = recipe.read_text(encoding="utf-8")
    head, *entries = text.split("[[weight]]")
    recipe.write_text("[[weight]]".join([head, *entries[1:]]), encoding="utf-8")
    quantize("edited.onnx", *on, "--recipe", recipe, "--json", "edited.json")
    assert len(Report.read(onnxq.dir / "edited.json").weights()) == len(weights) - 1


def checked(onnxq: harness.Onnxq) -> dict:
    """What the check of the last output found, and its bits a weight."""
    report = json.loads((onnxq.dir / "report.json").read_text(encoding="utf-8"))
    (model,) = report["check"]["models"]
    weights = Report.read(onnxq.dir / "report.json").weights()
    bits = 8 * sum(w["bytes_after"] for w in weights) / sum(w["n"] * w["k"] for w in weights)
    return {"kld": model["divergence"]["kld"]["mean"]["value"], "input": report["check"]["input"], "bits": bits}


def test_a_budget_is_checked_on_what_follows_the_calibration(quantize, onnxq, texts, mean_kld) -> None:
    windows = ("--calibration-windows", 16)
    mixed = quantize("mixed.onnx", "--budget", "5.2bpw", *windows, "--json", "report.json")
    found = checked(onnxq)
    assert found["input"]["source"] == str(texts[0]) and found["input"]["items"] == 8
    # Tokens of the same kind that nothing was chosen by, but others than these 8 windows.
    assert found["kld"] == pytest.approx(mean_kld(mixed), rel=1)


@pytest.mark.parametrize("method", ["rtn", "mse", "hqq", "imatrix"])
def test_a_budget_by_each_method(method, quantize, onnxq) -> None:
    mixed = quantize("mixed.onnx", "--method", method, "--budget", "5.4bpw", "--calibration-windows", 16)
    recipe = onnxq.dir / "mixed.recipe.toml"
    assert tomllib.loads(recipe.read_text(encoding="utf-8"))["method"] == method
    again = quantize("again.onnx", "--recipe", recipe, "--calibration-windows", 16)
    assert again.read_bytes() == mixed.read_bytes()


def test_as_small_as_a_divergence_allows(quantize, onnxq) -> None:
    least = ("--budget", "least", "--calibration-windows", 16, "--calibration-folder", "work", "--json", "report.json")
    bits = []
    for limit in (0.02, 0.008):
        quantize("least.onnx", *least, "--max-mean-kld", limit)
        found = checked(onnxq)
        assert found["kld"] <= limit
        bits.append(found["bits"])
    assert bits[0] < bits[1], bits
    recipe = onnxq.dir / "least.recipe.toml"
    assert recipe.is_file()


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("limit", [0.0045, 0.02, 0.05])
def test_the_smallest_that_held_is_kept(keep, limit, onnxq, texts) -> None:
    tokens = ("--tokenizer", TINYLM / "tokenizer.json", "--window", WINDOW, "--calibration-windows", 16)
    data = ("--calibrate", texts[0], *tokens, *(("--check", texts[1], "--keep") if keep else ()))
    least = ("--budget", "least", "--max-mean-kld", limit, "--json", "report.json")
    done = onnxq.ok("quantize", MODEL, "-o", "least.onnx", *data, *least)
    mixes = [float(bits) for bits in re.findall(r"mixed: ([\d.]+) bits", done.err)]
    measured = [float(kld) for kld in re.findall(r"measured ([\d.]+), expected", done.err)]
    assert len(mixes) == len(measured) and 1 <= len(mixes) <= 3
    held = [(bits, kld) for bits, kld in zip(mixes, measured, strict=True) if kld <= limit]
    # Above the limit the next one is larger; well below it, smaller.
    for (bits, kld), after in zip(zip(mixes, measured, strict=True), mixes[1:], strict=False):
        assert after > bits if kld > limit else after < bits and kld < 0.9 * limit + 1e-4
    assert len(mixes) > 1 or measured[0] > 0.8 * limit
    bits, kld = min(held)
    found = checked(onnxq)
    # As printed.
    assert found["bits"] == pytest.approx(bits, abs=6e-4) and found["kld"] == pytest.approx(kld, abs=6e-5)
    assert f"kept: {bits:.3f} bits" in done.err
    # The file and the recipe are those of the report, whatever was tried after them.
    sha256 = json.loads((onnxq.dir / "report.json").read_text(encoding="utf-8"))["check"]["models"][0]["sha256"]
    assert harness.sha256(onnxq.dir / "least.onnx") == sha256
    onnxq.ok("quantize", MODEL, "-o", "again.onnx", "--calibrate", texts[0], *tokens, "--recipe", "least.recipe.toml")
    assert harness.sha256(onnxq.dir / "again.onnx") == sha256
    expected = {"least.onnx", "least.recipe.toml", "again.onnx", "report.json"}
    assert {p.name for p in onnxq.dir.iterdir() if p.suffix != ".txt"} == expected


def test_a_budget_that_is_only_tried_writes_nothing(quantize, onnxq) -> None:
    before = set(onnxq.dir.iterdir())
    for budget in (("5.2bpw",), ("least", "--max-mean-kld", 0.02)):
        quantize("none.onnx", "--budget", *budget, "--calibration-windows", 16, "--dry-run")
        assert set(onnxq.dir.iterdir()) == before


def test_a_budget_of_bytes(quantize) -> None:
    size = MODEL.stat().st_size
    limit = 0.2 * size / 1e6
    assert quantize("small.onnx", "--dtype", "q4f16", "--budget", f"{limit:.3f}MB").stat().st_size <= 0.2 * size


@pytest.fixture
def refused(onnxq: harness.Onnxq, texts):
    def run(*args: object, mentions: tuple[str, ...]) -> None:
        tokenizer = ("--tokenizer", TINYLM / "tokenizer.json", "--window", WINDOW)
        onnxq.refuses("quantize", MODEL, "-o", "out.onnx", *tokenizer, *args, mentions=mentions)

    return run


def test_what_cannot_be_decided_is_said(refused, onnxq, texts, tmp_path) -> None:
    refused("--method", "gptq", mentions=("--calibrate",))
    refused("--calibrate", texts[0], "--budget", "1bpw", mentions=("--budget", "least", "bpw"))
    refused("--calibrate", texts[0], "--budget", "least", mentions=("--max-mean-kld",))
    few = ("--calibrate", texts[0], "--calibration-windows", 8, "--budget", "least", "--max-mean-kld")
    refused(*few, "1e-9", mentions=("--budget", "the least that can be reached"))
    refused("--calibrate", texts[0], "--calibration-windows", "400", *few[4:], "1", mentions=("--check",))
    refused("--calibrate", texts[0], "--max-mean-kld", "1", mentions=("--check",))
    usage = onnxq("quantize", MODEL, "--calibrate", texts[0], "--budget", "1000")
    assert usage.status == 2 and "4.75bpw" in usage.err
    refused("--calibrate", texts[0], "--dtype", "int8", mentions=("q4",))
    several = ("--dtype", "q4,q4f16", "-o", "./", "--tokenizer", TINYLM / "tokenizer.json")
    onnxq.refuses("quantize", MODEL, "--calibrate", texts[0], "--budget", "5bpw", *several, mentions=("one",))
    (tmp_path / "empty.txt").write_text("a", encoding="utf-8")
    refused("--calibrate", tmp_path / "empty.txt", mentions=("empty.txt", "tokens", "expected"))
    recipe = 'version = 1\ndtype = "q4"\nmethod = "mse"\n[[weight]]\nname = "none.such"\nshape = [8, 16]\n'
    recipe += "bits = 4\nblock = 16\nasymmetric = true\n"
    (tmp_path / "other.toml").write_text(recipe, encoding="utf-8")
    refused("--recipe", tmp_path / "other.toml", mentions=("another model", "none.such"))
    (tmp_path / "wrong.toml").write_text(recipe.replace("bits = 4", "bits = 3"), encoding="utf-8")
    refused("--recipe", tmp_path / "wrong.toml", mentions=("wrong.toml", "3 bits"))


def test_what_half_cannot_hold_is_measured_once(onnxq: harness.Onnxq) -> None:
    b = GraphBuilder()
    x = b.input("x", ["rows", 32])
    large = b.node("MatMul", x, b.weight("W", 1e3 * random(32, 32)), out="large")
    b.output(b.node("Tanh", large, out="y"), ["rows", 32])
    harness.save(b.model(), onnxq.dir / "in.onnx")
    np.savez(onnxq.dir / "feeds.npz", x=1e3 * random(8, 32))
    np.savez(onnxq.dir / "others.npz", x=random(8, 32))

    def run(feeds: str, *args: object) -> tuple[bool, bytes]:
        done = onnxq.ok("quantize", "in.onnx", "-o", "out.onnx", "--dtype", "fp16", "--calibrate", feeds, *args)
        return "half precision: the values that it cannot hold are those in" in done.err, (onnxq.dir / "out.onnx").read_bytes()

    by_itself = run("feeds.npz")
    kept = ("--calibration-folder", "work")
    assert not by_itself[0]
    assert run("feeds.npz", *kept) == by_itself
    assert run("feeds.npz", *kept) == (True, by_itself[1])
    # What is measured follows from the data and from what runs before, and from nothing of the codes.
    told, other = run("others.npz", *kept)
    assert not told and other != by_itself[1], "these are small enough"
    assert not run("feeds.npz", *kept, "--dim", "rows=8")[0]
    assert run("feeds.npz", *kept)[0]


def test_activations_that_are_no_numbers(onnxq: harness.Onnxq) -> None:
    b = GraphBuilder()
    x = b.input("x", ["rows", 32])
    b.output(b.node("MatMul", x, b.weight("W", random(32, 32)), out="y"), ["rows", 32])
    harness.save(b.model(), onnxq.dir / "in.onnx")
    feed = random(4, 32)
    feed[2, 3] = np.nan
    np.savez(onnxq.dir / "feeds.npz", x=feed)
    onnxq.refuses(
        "quantize", "in.onnx", "-o", "out.onnx", "--calibrate", "feeds.npz", mentions=("--calibrate", "x", "item 0")
    )
