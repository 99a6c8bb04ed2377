"""The steps of action.yml, run one after the other as the runner does, from a clean environment."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

import harness
import interfaces
from actions import EXPRESSION, Action

TINYLM = harness.REPOSITORY / "testdata" / "tinylm"


@pytest.fixture
def workspace(tmp_path) -> Path:
    """What a workflow has checked out: a model and a text."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    for name in ("model.onnx", "tokenizer.json", "heldout.txt"):
        shutil.copy(TINYLM / name, folder)
    return folder


@pytest.fixture
def action(tmp_path) -> Action:
    temporary = tmp_path / "runner"
    temporary.mkdir()
    environment = interfaces.clean_environment(tmp_path)
    return Action(harness.REPOSITORY, temporary, environment)


def test_scripts_have_no_expressions():
    """Text of an input that became text of a script would be run."""
    action = yaml.safe_load((harness.REPOSITORY / "action.yml").read_text(encoding="utf-8"))
    scripts = [step["run"] for step in action["runs"]["steps"] if "run" in step]
    assert len(scripts) == 3
    assert [script for script in scripts if EXPRESSION.search(script)] == []


def test_quantize_with_a_check(action, workspace, binary):
    done = action.run(
        {
            "model": "model.onnx",
            "output": "small model.onnx",
            "dtype": "q4",
            "check": "heldout.txt",
            "args": "--max-mean-kld=0.1\n--engine=rten\n\n--exclude=*lm head*\n",
            "binary": str(binary),
        },
        workspace,
    )
    assert not done.failed, done.log
    assert done.ran == ["Run"]
    assert done.outputs["status"] == "0"
    report = json.loads(Path(done.outputs["report"]).read_text(encoding="utf-8"))
    assert report["output"][0]["path"] == "small model.onnx"
    assert report["check"]["models"][0]["limits"][0]["held"]
    harness.session(workspace / "small model.onnx")
    assert "mean KLD" in done.summary
    assert done.summary.startswith("<h3>onnxq</h3><pre>\nmodel.onnx (3.41 MB) -&gt; small model.onnx")


def test_missed_limit_fails_the_job(action, workspace, binary):
    given = {"model": "model.onnx", "check": "heldout.txt", "binary": str(binary)}
    done = action.run(given | {"args": "--max-mean-kld=0.00001\n--engine=rten"}, workspace)
    assert done.failed
    assert done.outputs["status"] == "1"
    assert "MISSED" in done.summary
    assert not json.loads(Path(done.outputs["report"]).read_text())["published"]
    assert not (workspace / "model_q4.onnx").exists()


def test_what_cannot_be_done_fails_the_job(action, workspace, binary):
    done = action.run({"command": "inspect", "model": "absent.onnx", "binary": str(binary)}, workspace)
    assert done.failed
    assert done.outputs == {"report": "", "status": "2"}
    assert "absent.onnx" in done.summary


@pytest.mark.parametrize("text", ["$(touch ran)", "`touch ran`", "; touch ran", '"; touch ran; "', "--help"])
def test_inputs_are_no_commands(text, action, workspace, binary):
    given = dict.fromkeys(["model", "output", "dtype", "check", "args"], text)
    done = action.run(given | {"binary": str(binary)}, workspace)
    assert done.failed or text == "--help"
    assert not (workspace / "ran").exists()


def test_names_in_a_model_are_no_commands(action, workspace, binary):
    """What the command prints stands between marks that make the runner pass over commands in it."""
    name = "::set-output name=x::y <b>"
    shutil.copy(workspace / "model.onnx", workspace / name)
    done = action.run({"command": "verify", "model": name, "binary": str(binary)}, workspace)
    lines = done.log.splitlines()
    token = lines[0].removeprefix("::stop-commands::")
    assert len(token) == 32
    assert lines[-1] == f"::{token}::"
    assert "&lt;b&gt;" in done.summary
    assert "<b>" not in done.summary


def test_installs_with_cargo(action, workspace, tmp_path):
    """From the action's own folder."""
    cargo = shutil.which("cargo")
    if not cargo:
        harness.cannot_run("there is no cargo")
    home = {name: os.environ[name] for name in ("HOME", "CARGO_HOME", "RUSTUP_HOME") if name in os.environ}
    environment = interfaces.clean_environment(tmp_path, Path(cargo).parent) | home
    action.environment = environment | {"CARGO_TARGET_DIR": str(harness.target_folder())}
    done = action.run({"command": "verify", "model": "model.onnx"}, workspace)
    assert not done.failed, done.log
    assert done.ran == [
        "What the build depends on",
        "Look for an earlier build",
        "Install",
        "Keep the build",
        "Run",
    ]

    # The second job finds what the first one left.
    action.used = {"Look for an earlier build": {"cache-hit": "true"}}
    action.environment = interfaces.clean_environment(tmp_path)
    done = action.run({"command": "verify", "model": "model.onnx"}, workspace)
    assert not done.failed, done.log
    assert done.ran == ["What the build depends on", "Look for an earlier build", "Run"]


def test_without_cargo(action, workspace):
    if shutil.which("cargo", path=action.environment["PATH"]):
        harness.cannot_run("cargo is among the programs of the system")
    done = action.run({"model": "model.onnx"}, workspace)
    assert done.failed
    assert "cargo is not installed" in done.log
