"""`onnxq tune`: ways to quantize a model, and the frontier of size and distance."""

from __future__ import annotations

import html
import json
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import harness
from builders import GraphBuilder, random

TINYLM = Path(__file__).parents[2] / "testdata" / "tinylm"
MODEL = TINYLM / "model.onnx"
WINDOW = 64

FREE = ("--method rtn --block-size 32", "--method mse --asymmetric --block-size 16", "--dtype q4 --bits 8")


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ONNX Runtime of this Python, wherever that is."""
    monkeypatch.setenv("ORT_DYLIB_PATH", str(harness.library()))


@pytest.fixture
def texts(tmp_path: Path) -> tuple[Path, Path]:
    """Held-out text in two parts: one to calibrate on, one to compare on."""
    return harness.halves(TINYLM / "heldout.txt", tmp_path / "calibration text.txt", tmp_path / "evaluation.txt")


@pytest.fixture
def tune(onnxq: harness.Onnxq, texts):
    """Runs it on the text; returns the JSON and the outcome."""

    def run(*args: object, tries: tuple[str, ...] = FREE) -> tuple[dict, harness.Outcome]:
        data = ("--text", texts[1], "--window", WINDOW, *(arg for text in tries for arg in ("--try", text)))
        done = onnxq.ok("tune", MODEL, *data, "--json", "tune.json", *args)
        return json.loads((onnxq.dir / "tune.json").read_text(encoding="utf-8")), done

    return run


def frontier(ways: list[dict], distance) -> list[bool]:
    """By the definition: nobody is at least as good in both and better in one."""

    def dominates(a: dict, b: dict) -> bool:
        small, near = a["bytes"] <= b["bytes"], distance(a) <= distance(b)
        return small and near and (a["bytes"] < b["bytes"] or distance(a) < distance(b))

    return [not any(dominates(other, way) for other in ways) for way in ways]


def mean_kld(way: dict) -> float:
    return way["mean_kld"]["value"]


def test_figures_are_those_of_quantize_and_eval(tune, onnxq, texts) -> None:
    found, done = tune("-o", "models")
    assert found["schema"] == "onnxq.tune/1"
    assert found["measure"] == "mean-kld" and found["failed"] == []
    ways = found["ways"]
    assert [w["options"] for w in sorted(ways, key=lambda w: w["options"])] == [
        "--dtype q4 --bits 8",
        "--dtype q4f16 --method mse --asymmetric --block-size 16",
        "--dtype q4f16 --method rtn --block-size 32",
    ]
    assert ways == sorted(ways, key=lambda w: w["bytes"])
    for way in ways:
        # The options make the same file by hand, and eval finds the same.
        onnxq.ok("quantize", MODEL, "-o", "by_hand.onnx", *shlex.split(way["options"]), "--json", "quantize.json")
        by_hand = onnxq.dir / "by_hand.onnx"
        assert by_hand.read_bytes() == (onnxq.dir / way["path"]).read_bytes()
        assert (way["bytes"], way["sha256"]) == (by_hand.stat().st_size, harness.sha256(by_hand))
        report = json.loads((onnxq.dir / "quantize.json").read_text(encoding="utf-8"))
        assert way["bits_per_weight"] == report["bits_per_weight"]
        text = ("--text", texts[1], "--window", WINDOW, "--tokenizer", TINYLM / "tokenizer.json")
        onnxq.ok("eval", way["path"], "--baseline", MODEL, *text, "--json", "eval.json")
        evaluation = json.loads((onnxq.dir / "eval.json").read_text(encoding="utf-8"))
        (model,) = evaluation["models"]
        # The baseline's distributions are kept in half precision, which costs about 1e-7 nats.
        for statistic in ("value", "standard_error"):
            by_eval = model["divergence"]["kld"]["mean"][statistic]
            assert way["mean_kld"][statistic] == pytest.approx(by_eval, abs=2e-6)
        assert way["perplexity"] == model["perplexity"]["perplexity"]
        # Half precision may make two of the most probable tokens equal.
        assert way["top1"]["value"] == pytest.approx(model["divergence"]["top1"]["value"], abs=2 / 512)
        assert found["input"] == evaluation["input"]
        assert found["baseline"]["perplexity"] == evaluation["baseline"]["perplexity"]
        assert found["baseline"]["sha256"] == evaluation["baseline"]["sha256"]
    lines = {way["options"]: line for way in ways for line in done.out.splitlines() if line.endswith(way["options"])}
    for way in ways:
        assert lines[way["options"]].lstrip().startswith("*") == way["frontier"]
        assert f"{way['bits_per_weight']:.2f}" in lines[way["options"]]
        assert way["options"] in done.err, "told as soon as it is known"


def test_what_ways_share_changes_nothing(tune, onnxq, texts) -> None:
    """What is measured once for several ways: half precision's limits, and the errors that budgets choose by."""
    tries = ("--method gptq --block-size 32", "--budget 4.75bpw", "--budget=5bpw --method imatrix")
    found, _ = tune("--calibrate", texts[0], "--calibration-windows", 4, "-o", "models", tries=tries)
    assert len(found["ways"]) == 3
    for way in found["ways"]:
        onnxq.ok("quantize", MODEL, "-o", "by_hand.onnx", *shlex.split(way["options"]))
        assert harness.sha256(onnxq.dir / "by_hand.onnx") == way["sha256"], way["options"]


def test_the_usual_ways_and_their_frontier(tune, onnxq, texts) -> None:
    found, _ = tune("--calibrate", texts[0], "--calibration-windows", 4, "--html", "tune.html", tries=())
    ways = found["ways"]
    assert found["failed"] == [] and len(ways) == 15
    assert [w["frontier"] for w in ways] == frontier(ways, mean_kld)
    assert 2 <= sum(w["frontier"] for w in ways) < len(ways)
    calibrated = {w["options"] for w in ways if "--calibrate" in shlex.split(w["options"])}
    assert calibrated == {w["options"] for w in ways if re.search("imatrix|awq|gptq|budget", w["options"])}
    for way in ways:
        budget = re.search(r"--budget ([\d.]+)bpw", way["options"])
        assert not budget or way["bits_per_weight"] <= float(budget[1])
        assert "path" not in way, "without -o nothing is kept"
    assert sorted(p.name for p in onnxq.dir.iterdir() if p.suffix != ".txt") == ["tune.html", "tune.json"]
    page = (onnxq.dir / "tune.html").read_text(encoding="utf-8")
    words = " ".join(html.unescape(re.sub("<[^>]*>", " ", page)).split())
    for way in ways:
        assert way["options"] in words
        tip = f"<title>{html.escape(way['options'], quote=False)}"
        assert page.count(tip) == 1, "a point, with what it is"
    assert page.count('class="dot"') == len(ways)
    assert "<script" not in page and "://" not in page, "it needs nothing from elsewhere"


def test_what_is_finished_is_not_done_again(tune, onnxq) -> None:
    first, _ = tune("-o", "models", tries=FREE[:2])
    stamps = {p.name: p.stat().st_mtime_ns for p in (onnxq.dir / "models").glob("*.onnx")}
    second, done = tune("-o", "models")
    assert done.err.count("(kept)") == 2
    for path in (onnxq.dir / "models").glob("*.onnx"):
        assert stamps.get(path.name) in (None, path.stat().st_mtime_ns)
    kept = {w["options"]: w for w in first["ways"]}
    for way in second["ways"]:
        before = kept.get(way["options"])
        assert before is None or before | {"frontier": None} == way | {"frontier": None}
    # Another input is another comparison; an output that has changed is made again.
    _, done = tune("-o", "models", "--windows", 2)
    assert "(kept)" not in done.err
    third, _ = tune("-o", "models")
    victim = onnxq.dir / third["ways"][0]["path"]
    victim.write_bytes(victim.read_bytes()[:-1])
    again, done = tune("-o", "models")
    assert done.err.count("(kept)") == 2
    assert [w["sha256"] for w in again["ways"]] == [w["sha256"] for w in third["ways"]]
    assert [p.name for p in (onnxq.dir / "models" / ".tune").iterdir()] == ["finished.json"]


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="signals of POSIX")
def test_an_interrupted_run_goes_on(tune, onnxq, texts) -> None:
    tries = (FREE[0], "--method gptq", "--budget 5bpw")
    data = ("--text", texts[1], "--window", WINDOW, "--calibrate", texts[0], "-o", "models")
    args = [arg for text in tries for arg in ("--try", text)]
    command = onnxq.command("tune", MODEL, *data, *args)
    running = subprocess.Popen(command, cwd=onnxq.dir, stderr=subprocess.PIPE, text=True)
    assert running.stderr
    for line in running.stderr:
        if line.startswith("1/3"):
            break
    time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    rest = running.stderr.read()
    assert running.wait(harness.RUN_SECONDS) == 2, rest
    assert "interrupted" in rest and "panicked" not in rest
    assert not list((onnxq.dir / "models" / ".tune").glob("baseline*"))
    found, done = tune("--calibrate", texts[0], "-o", "models", tries=tries)
    assert "(kept)" in done.err and len(found["ways"]) == 3
    # As if it had not been interrupted.
    alone, _ = tune("--calibrate", texts[0], tries=tries)
    assert [w["sha256"] for w in found["ways"]] == [w["sha256"] for w in alone["ways"]]


@pytest.mark.parametrize(
    ("options", "mentions"),
    [
        ("--method best", ("'best'", "rtn", "gptq")),
        ("--methid mse", ("--methid",)),
        ("--method 'mse", ("not closed",)),
        ("--budget 5bpw", ("--calibrate",)),
        ("--method gptq --budget 5", ("4.75bpw",)),
        ("-o x.onnx", ("-o", "same for all")),
        ("--json=x.json", ("--json", "same for all")),
        ("--calibrate x.txt", ("--calibrate", "same for all")),
        ("other.onnx", ("'other.onnx'",)),
        ("--dtype q4,int8", ("one",)),
        ("--dtype int8 --method mse", ("--method", "--dtype")),
        ("--passes none-such", ("none-such",)),
    ],
)
def test_a_way_that_is_none(options, mentions, onnxq, texts) -> None:
    args = ("--text", texts[1], "--try", "--method rtn", "--try", options)
    onnxq.refuses("tune", MODEL, *args, mentions=("--try", *mentions))


def test_what_cannot_be_done_is_said(onnxq, texts, tmp_path) -> None:
    onnxq.refuses("tune", MODEL, "-o", "models", mentions=("--text",))
    # No trace of a folder that nothing came into.
    onnxq.refuses("tune", MODEL, "--text", "none.txt", "-q", "-o", "models", mentions=("none.txt",))
    onnxq.refuses("tune", MODEL, "--text", texts[1], "--calibrate", "none.txt", mentions=("--calibrate", "none.txt"))
    onnxq.refuses("tune", MODEL, "--text", texts[1], "--dtype", "int8", mentions=("--dtype int8", "--try"))
    twice = ("--try", "--method mse", "--try", "--method  mse")
    onnxq.refuses("tune", MODEL, "--text", texts[1], *twice, mentions=("twice",))
    over = ("--calibrate", texts[0], "--json", texts[0])
    onnxq.refuses("tune", MODEL, "--text", texts[1], *over, mentions=("the command reads it",))
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    onnxq.refuses("tune", MODEL, "--text", texts[1], "-o", tmp_path / "file", mentions=("-o", "file"))
    (tmp_path / "models" / ".tune").mkdir(parents=True)
    (tmp_path / "models" / ".tune" / "finished.json").write_text("{}", encoding="utf-8")
    done = onnxq("tune", MODEL, "--text", texts[1], "-o", tmp_path / "models")
    assert done.status == 2 and "finished.json" in done.err


def test_a_way_that_fails_does_not_end_the_others(onnxq, texts) -> None:
    (onnxq.dir / "short.txt").write_text("a b", encoding="utf-8")
    tries = ("--try", "--method gptq", "--try", "--method rtn", "--try", "--budget 1bpw")
    data = ("--text", texts[1], "--window", WINDOW, "--calibrate", "short.txt")
    done = onnxq("tune", MODEL, *data, *tries, "--json", "tune.json")
    assert done.status == 2 and "2 of 3 ways" in done.err
    found = json.loads((onnxq.dir / "tune.json").read_text(encoding="utf-8"))
    assert len(found["ways"]) == 1 and found["ways"][0]["frontier"]
    assert [f["options"].split()[2] for f in found["failed"]] == ["--method", "--budget"]
    assert all("short.txt" in f["error"] and "tokens" in f["error"] for f in found["failed"])


def test_figures_that_say_less_than_they_seem_to(tune, texts) -> None:
    found, done = tune("--calibrate", texts[1], tries=("--method mse", "--dtype fp16", "--dtype q4 --exclude '*'"))
    on_the_same, nearly_equal = found["warnings"]
    assert "calibrated on what they are compared on" in on_the_same and on_the_same in done.out
    assert "half precision" in nearly_equal


def test_models_that_are_no_language_models(onnxq) -> None:
    b = GraphBuilder()
    x = b.input("x", ["rows", 64])
    hidden = b.node("Relu", b.node("MatMul", x, b.weight("W", random(64, 48)), out="h"), out="r")
    b.output(b.node("MatMul", hidden, b.weight("V", random(48, 32, seed=1)), out="y"), ["rows", 32])
    harness.save(b.model(), onnxq.dir / "in.onnx")
    np.savez(onnxq.dir / "feeds.npz", x=random(64, 64, seed=2))
    tries = ("--try", "", "--try", "--dtype int8", "--try", "--method mse --block-size 32", "--try", "--bits 8")
    onnxq.ok("tune", "in.onnx", "--inputs", "feeds.npz", "--dtype", "q4", *tries, "--json", "tune.json", "-o", "m/")
    found = json.loads((onnxq.dir / "tune.json").read_text(encoding="utf-8"))
    ways = found["ways"]
    assert found["measure"] == "relative-error" and len(ways) == 4
    assert [w["frontier"] for w in ways] == frontier(ways, lambda w: w["relative_error"])
    (expected,) = harness.run_model(onnxq.dir / "in.onnx", {"x": random(64, 64, seed=2)}).values()
    for way in ways:
        (y,) = harness.run_model(onnxq.dir / way["path"], {"x": random(64, 64, seed=2)}).values()
        error = np.linalg.norm(y - expected) / np.linalg.norm(expected)
        # Float32 sums in another order.
        assert way["relative_error"] == pytest.approx(error, rel=1e-3)
        cosine = (y * expected).sum() / np.linalg.norm(y) / np.linalg.norm(expected)
        assert way["cosine"] == pytest.approx(cosine, abs=1e-6)
        assert "mean_kld" not in way
