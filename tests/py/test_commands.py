"""What the commands say and where they write, apart from what a pass does."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import onnx
import pytest

import dequant
import harness
from bad_models import good_model
from builders import GraphBuilder, random
from report import Report


@pytest.fixture
def model(onnxq):
    return harness.save(good_model(), onnxq.dir / "in.onnx")


def names(onnxq: harness.Onnxq) -> list[str]:
    return sorted(path.name for path in onnxq.dir.iterdir())


@pytest.mark.usefixtures("model")
def test_default_output(onnxq):
    """Beside the input, with the suffix that transformers.js looks for."""
    onnxq.ok("quantize", "in.onnx")
    assert names(onnxq) == ["in.onnx", "in_q4.onnx"]


def test_default_output_with_a_side_file(onnxq):
    harness.save(larger_model(), onnxq.dir / "in.onnx")
    onnxq.ok("quantize", "in.onnx", "--external-data", "always")
    assert names(onnxq) == ["in.onnx", "in_q4.onnx", "in_q4.onnx_data"]


@pytest.mark.usefixtures("model")
def test_small_constants_stay_in_the_model(onnxq):
    """Below 1 KiB the entry that names a place is about as long as the constant."""
    onnxq.ok("quantize", "in.onnx", "--external-data", "always")
    assert names(onnxq) == ["in.onnx", "in_q4.onnx"]


def test_default_output_is_beside_the_input(onnxq):
    (onnxq.dir / "models").mkdir()
    harness.save(good_model(), onnxq.dir / "models" / "in.onnx")
    onnxq.ok("quantize", "models/in.onnx")
    assert (onnxq.dir / "models" / "in_q4.onnx").exists()


@pytest.mark.parametrize("inside", ["model.onnx", "onnx/model.onnx"])
def test_model_given_as_its_folder(inside, onnxq):
    (onnxq.dir / "folder" / "onnx").mkdir(parents=True)
    harness.save(good_model(), onnxq.dir / "folder" / inside)
    onnxq.ok("quantize", "folder", "-o", "out.onnx")
    harness.session(onnxq.dir / "out.onnx")


@pytest.mark.usefixtures("model")
def test_output_given_as_a_folder(onnxq):
    (onnxq.dir / "folder").mkdir()
    onnxq.ok("quantize", "in.onnx", "-o", "folder", "--no-config")
    [written] = (onnxq.dir / "folder").rglob("*.onnx")
    harness.session(written)


def test_model_that_is_a_link(onnxq):
    """As in caches that keep files under their hash: the output stands beside the link."""
    (onnxq.dir / "store").mkdir()
    (onnxq.dir / "models").mkdir()
    harness.save(good_model(), onnxq.dir / "store" / "0123abcd")
    (onnxq.dir / "models" / "in.onnx").symlink_to("../store/0123abcd")
    onnxq.ok("quantize", "models/in.onnx")
    assert (onnxq.dir / "models" / "in_q4.onnx").is_file()
    assert names(onnxq) == ["models", "store"]


@pytest.mark.parametrize("name", ["two words", "mödel ✓", "-dash", "a.b.c", "%20"])
def test_names_of_files(name, onnxq):
    harness.save(larger_model(), onnxq.dir / f"{name}.onnx")
    onnxq.ok("quantize", f"./{name}.onnx", "--external-data", "always")
    harness.run_model(onnxq.dir / f"{name}_q4.onnx", {"x": random(2, 64)})


def larger_model():
    """Its weight is too large to be kept out of a side file for being small."""
    b = GraphBuilder()
    b.input("x", (2, 64))
    b.node("MatMul", "x", b.weight("W", random(64, 256)), out="y")
    b.output("y", (2, 256))
    return b.model()


def test_runs_at_the_same_time(onnxq):
    """To one output: each ends well, and what stays is whole."""
    harness.save(larger_model(), onnxq.dir / "in.onnx")
    onnxq.ok("quantize", "in.onnx", "-o", "alone.onnx")
    command = onnxq.command("quantize", "in.onnx", "-o", "out.onnx")
    running = [subprocess.Popen(command, cwd=onnxq.dir, stdout=subprocess.DEVNULL) for _ in range(8)]
    assert [process.wait(harness.RUN_SECONDS) for process in running] == [0] * 8
    assert names(onnxq) == ["alone.onnx", "in.onnx", "out.onnx"]
    assert harness.sha256(onnxq.dir / "out.onnx") == harness.sha256(onnxq.dir / "alone.onnx")


def large_model() -> onnx.ModelProto:
    """Its weight goes to a side file also when it is quantized."""
    b = GraphBuilder()
    b.node("MatMul", b.input("x", ["N", 128]), b.weight("W", random(128, 128)), out="y")
    b.output("y", ["N", 128])
    return b.model()


@pytest.fixture
def with_side_file(onnxq):
    """`in.onnx`, whose weight is in a file with the name that `out.onnx` would give its own."""
    onnx.save(
        large_model(),
        onnxq.dir / "in.onnx",
        save_as_external_data=True,
        location="out.onnx_data",
        size_threshold=0,
    )
    return {path.name: path.read_bytes() for path in onnxq.dir.iterdir()}


@pytest.mark.parametrize(
    "args",
    [
        ("-o", "out.onnx_data"),
        ("-o", "out.onnx", "--external-data", "always"),
        ("-o", "./out.onnx", "--external-data", "always", "--dry-run"),
        ("--json", "in.onnx"),
        ("--json", "out.onnx_data"),
        ("-o", "other.onnx", "--json", "other.onnx"),
    ],
    ids=" ".join,
)
def test_nothing_is_written_over_what_is_read(args, onnxq, with_side_file):
    done = onnxq("quantize", "in.onnx", *args)
    assert done.status == 2, done.describe()
    assert "expected another name" in done.err
    assert {path.name: path.read_bytes() for path in onnxq.dir.iterdir()} == with_side_file


@pytest.mark.parametrize("command", ["inspect", "diff"])
def test_report_is_not_written_over_what_is_read(command, onnxq, with_side_file):
    models = ["in.onnx"] * (2 if command == "diff" else 1)
    done = onnxq(command, *models, "--json", "out.onnx_data")
    assert done.status == 2, done.describe()
    assert {path.name: path.read_bytes() for path in onnxq.dir.iterdir()} == with_side_file


@pytest.fixture
def language_model(onnxq):
    """`model.onnx`, its tokenizer, and two texts."""
    folder = harness.REPOSITORY / "testdata/tinylm"
    for name in ("model.onnx", "tokenizer.json"):
        shutil.copy(folder / name, onnxq.dir)
    harness.halves(folder / "heldout.txt", onnxq.dir / "valid.txt", onnxq.dir / "test.txt")


CALIBRATED = ("quantize", "model.onnx", "--calibrate", "valid.txt", "--check", "test.txt")
REPORTING = (
    ("eval", "model.onnx", "--text", "test.txt"),
    ("tune", "model.onnx", "--text", "test.txt", "--calibrate", "valid.txt"),
)


@pytest.mark.usefixtures("language_model")
@pytest.mark.parametrize("read", ["tokenizer.json", "valid.txt", "test.txt"])
def test_nothing_is_written_over_what_is_read_beside_the_model(read, onnxq):
    said = (read, "expected another name")
    onnxq.refuses(*CALIBRATED, "-o", read, mentions=said)
    onnxq.refuses(*CALIBRATED, "-o", "out.onnx", "--json", read, mentions=said)
    for command in REPORTING:
        if read in (*command, "tokenizer.json"):
            onnxq.refuses(*command, "--json", read, mentions=said)
            onnxq.refuses(*command, "--html", read, mentions=said)


@pytest.mark.usefixtures("language_model")
def test_nothing_is_written_over_what_a_pass_or_a_recipe_reads(onnxq):
    (onnxq.dir / "maxima.json").write_text('{"schema": 1, "maxima": {}}')
    measured = ("opt", "model.onnx", "--passes", "fp16{maxima=maxima.json}")
    onnxq.refuses(*measured, "-o", "maxima.json", mentions=("maxima.json", "expected another name"))
    onnxq.ok(*measured, "-o", "half.onnx")
    over = ("quantize", "model.onnx", "--passes", measured[-1], "-o", "maxima.json")
    onnxq.refuses(*over, mentions=("maxima.json", "expected another name"))
    (onnxq.dir / "a.recipe.toml").write_text("")
    onnxq.refuses("quantize", "model.onnx", "--recipe", "a.recipe.toml", "-o", "a.recipe.toml", mentions=("another name",))
    onnxq.refuses(*CALIBRATED, "--budget", "5bpw", "-o", "a.onnx", "--json", "a.recipe.toml", mentions=("another name",))
    np.savez(onnxq.dir / "in.npz", input_ids=np.zeros((1, 4), np.int64))
    onnxq.refuses("bench", "model.onnx", "--inputs", "in.npz", "--json", "in.npz", mentions=("in.npz", "another name"))


@pytest.mark.usefixtures("language_model")
def test_what_cannot_be_written_is_told_before_any_work(onnxq):
    """Before a file that is not there is missed, so before anything is computed."""
    missing = ("--calibrate", "none.txt")
    said = ("no/out", "`no` is not a folder")
    onnxq.refuses("quantize", "model.onnx", *missing, "-o", "no/out.onnx", mentions=said)
    onnxq.refuses("quantize", "model.onnx", *missing, "-o", "x.onnx", "--json", "no/out.json", mentions=said)
    onnxq.refuses("opt", "model.onnx", "--passes", "clean", "-o", "no/out.onnx", mentions=said)
    onnxq.refuses("eval", "model.onnx", "--text", "none.txt", "--html", "no/out.html", mentions=said)
    onnxq.refuses("tune", "model.onnx", "--text", "none.txt", "--json", "no/out.json", mentions=said)
    onnxq.refuses("bench", "model.onnx", "--inputs", "none.npz", "--html", "no/out.html", mentions=said)
    (onnxq.dir / "kept").mkdir()
    (onnxq.dir / "kept/model_q4.onnx").write_text("")
    kept = ("-o", "kept", "--no-config")
    onnxq.refuses("quantize", "model.onnx", *missing, *kept, mentions=("model_q4.onnx", "--force"))
    (onnxq.dir / "other").mkdir()
    (onnxq.dir / "config.json").write_text("{}")
    for name, with_card in (("tokenizer.json", ()), ("README.md", ("--card",))):
        (onnxq.dir / "other" / name).write_text("another")
        beside = ("quantize", "model.onnx", *missing, "-o", "other", *with_card)
        onnxq.refuses(*beside, mentions=(f"other/{name}", "--force"))
        (onnxq.dir / "other" / name).unlink()
    # Where the model itself is not there, its folder is the smaller trouble.
    onnxq.refuses("quantize", "no/model.onnx", mentions=("`no/model.onnx`", "no such file"))


def test_model_and_side_file_replaced_in_place(onnxq):
    harness.save(large_model(), onnxq.dir / "in.onnx")
    onnxq.ok("opt", "in.onnx", "-o", "in.onnx", "--passes", "", "--external-data", "always")
    assert names(onnxq) == ["in.onnx", "in.onnx_data"]
    onnxq.ok("quantize", "in.onnx", "-o", "in.onnx", "--external-data", "always")
    onnxq.ok("verify", "in.onnx")


@pytest.mark.usefixtures("model")
def test_dry_run_writes_nothing(onnxq):
    done = onnxq.ok("quantize", "in.onnx", "--dry-run")
    assert names(onnxq) == ["in.onnx"]
    assert done.out, "what would be done goes to stdout"


@pytest.mark.usefixtures("model")
def test_dry_run_and_run_report_the_same(onnxq):
    onnxq.ok("quantize", "in.onnx", "-o", "out.onnx", "--dry-run", "--json", "dry.json")
    onnxq.ok("quantize", "in.onnx", "-o", "out.onnx", "--json", "run.json")
    dry, run = (Report.read(onnxq.dir / name) for name in ("dry.json", "run.json"))
    assert dry.remarks() == run.remarks()
    assert dry.weights() == run.weights()


@pytest.mark.usefixtures("model")
def test_report_on_standard_output(onnxq):
    done = onnxq.ok("quantize", "in.onnx", "-o", "out.onnx", "--json", "-")
    report = Report(done.out)
    assert len(report.weights()) == 1
    assert report.remarks() == []


def test_remark_says_how_much_is_left(onnxq):
    b = GraphBuilder()
    b.input("x", (2, 64))
    b.node("MatMul", "x", b.weight("W", random(64, 32)), out="y", name="/head")
    b.output("y", (2, 32))
    harness.save(b.model(), onnxq.dir / "in.onnx")
    done = onnxq.ok("quantize", "in.onnx", "-o", "out.onnx", "--exclude", "/head", "--json", "-")
    [remark] = Report(done.out).fields["remarks"]
    assert (remark["node"], remark["reason"], remark["bytes"]) == ("/head", "excluded", 64 * 32 * 4)
    assert remark["message"]


@pytest.mark.usefixtures("model")
def test_standard_error_is_quiet_without_a_terminal(onnxq):
    """Progress bars are for people who look at them."""
    done = onnxq.ok("quantize", "in.onnx", "-o", "out.onnx")
    assert "\r" not in done.err
    assert "\x1b" not in done.err + done.out


@pytest.mark.usefixtures("model")
def test_opt_runs_a_pipeline(onnxq):
    onnxq.ok("opt", "in.onnx", "-o", "out.onnx", "--passes", "strip-attrs,nbits{bits=8,block=32}")
    [found] = dequant.quantized_weights(dequant.load(onnxq.dir / "out.onnx"))
    assert (found.bits, found.block) == (8, 32)


@pytest.mark.parametrize(
    "pipeline",
    [
        "no-such-pass",
        "nbits{",
        "nbits}",
        "nbits{bits=4",
        "nbits{no-such-option=1}",
        "nbits{bits=three}",
        "nbits{bits=3}",
        "nbits{bits=4,bits=8}",
        "strip-attrs,,nbits",
        ",",
    ],
)
@pytest.mark.usefixtures("model")
def test_pipeline_that_cannot_be_read(pipeline, onnxq):
    onnxq.refuses("opt", "in.onnx", "-o", "out.onnx", "--passes", pipeline)


def test_passes_are_listed(onnxq):
    listed = onnxq.ok("passes").out
    assert "strip-attrs" in listed
    assert "nbits" in listed
    assert "block" in onnxq.ok("passes", "nbits").out
    assert onnxq("passes", "no-such-pass").status == 2


def test_inspect_as_json(onnxq):
    source = harness.save(good_model(), onnxq.dir / "in.onnx")
    done = onnxq.ok("inspect", "in.onnx", "--json", "-")
    json.loads(done.out)
    assert harness.sha256(source) in done.out


def test_usage_errors(onnxq):
    for args in ([], ["quantize"], ["no-such-command"], ["quantize", "in.onnx", "--no-such-option"]):
        done = onnxq(*args)
        assert done.status == 2, done.describe()
        assert done.err
        assert done.out == ""


@pytest.mark.parametrize("command", ["quantize", "opt", "passes", "inspect", "verify", "diff"])
def test_help(command, onnxq):
    text = onnxq.ok(command, "--help").out
    assert f"onnxq {command}" in text, "an example of the command"


def test_a_pass_to_print_after_is_one_of_the_pipeline(onnxq, model):
    args = ("opt", model, "-o", "out.onnx", "--passes", "dce", "--print-ir-after")
    onnxq.refuses(*args, "cse", mentions=("--print-ir-after", "cse", "dce"))
    assert "after dce" in onnxq.ok(*args, "dce").err


def test_an_extent_given_twice(onnxq, model):
    args = ("opt", model, "-o", "out.onnx", "--passes", "dce")
    onnxq.refuses(*args, "--dim", "n=3", "--dim", "n=4", mentions=("`n`", "3", "4"))
