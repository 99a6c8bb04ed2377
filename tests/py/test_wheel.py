"""The Python package: built, installed in an empty environment without an index, and used."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import typing
import zipfile
from pathlib import Path

import numpy as np
import pytest

import harness
import interfaces
from language_model import log_probabilities

TINYLM = harness.REPOSITORY / "testdata" / "tinylm"
BUILD_SECONDS = 900


def maturin(*args: object) -> None:
    if not shutil.which("cargo"):
        harness.cannot_run("there is no cargo")
    command = [sys.executable, "-m", "maturin", *map(str, args)]
    done = subprocess.run(
        command, cwd=harness.REPOSITORY, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    maturin("build", "--release", "--locked", "--target-dir", harness.target_folder(), "--out", folder)
    [built] = folder.iterdir()
    return built


@dataclasses.dataclass(frozen=True)
class Installed:
    """An environment of Python that has nothing but the package."""

    folder: Path

    def run(self, *command: object, cwd: Path, **variables: str) -> harness.Outcome:
        done = subprocess.run(
            list(map(str, command)),
            cwd=cwd,
            env=interfaces.clean_environment(cwd, self.folder / "bin") | variables,
            capture_output=True,
            text=True,
            timeout=harness.RUN_SECONDS,
            check=False,
        )
        return harness.Outcome(done.returncode, done.stdout, done.stderr)

    def python(self, code: str, cwd: Path, **variables: str) -> str:
        done = self.run("python", "-I", "-c", code, cwd=cwd, **variables)
        assert done.status == 0, done.describe()
        return done.out


def environment(folder: Path) -> Installed:
    """An empty one, at `folder`."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return Installed(folder)


def pip_install(wheel: Path, into: Installed, *options: object) -> None:
    pip = [sys.executable, "-m", "pip", "--python", into.folder / "bin" / "python", "install", "--quiet"]
    subprocess.run(
        [*pip, "--no-index", "--no-deps", "--disable-pip-version-check", wheel, *options], check=True
    )


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Installed:
    made = environment(tmp_path_factory.mktemp("venv"))
    pip_install(wheel, made)
    return made


@pytest.fixture
def workspace(tmp_path) -> Path:
    for name in ("model.onnx", "tokenizer.json", "heldout.txt"):
        shutil.copy(TINYLM / name, tmp_path)
    return tmp_path


def test_wheel(wheel):
    """One for every Python, with the types, the licence, and the version of the crate."""
    name, version, *tag = wheel.stem.split("-")
    assert (name, version, tag[:2]) == ("onnxq", interfaces.version(), ["py3", "none"])
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"onnxq-{version}.dist-info/METADATA").decode()
    assert {"onnxq/__init__.py", "onnxq/py.typed", f"onnxq-{version}.data/scripts/onnxq"} <= names
    assert f"onnxq-{version}.dist-info/licenses/LICENSE" in names
    assert "License-Expression: MIT" in metadata
    assert "Requires-Dist" not in metadata


def test_source_distribution(tmp_path):
    maturin("sdist", "--out", tmp_path)
    [built] = tmp_path.iterdir()
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = {"Cargo.lock", "LICENSE", "proto/onnx.proto", "pyproject.toml", "python/onnxq/_api.py"}
    assert expected | {"src/main.rs", "passes/mod.rs"} <= names


def test_command(installed, workspace):
    version = f"onnxq {interfaces.version()}\n"
    assert installed.run("onnxq", "--version", cwd=workspace).out == version
    assert installed.run("python", "-m", "onnxq", "--version", cwd=workspace).out == version
    assert "quantize" in installed.run("onnxq", "--help", cwd=workspace).out
    bad = installed.run("python", "-m", "onnxq", "inspect", "absent.onnx", cwd=workspace)
    assert (bad.status, bad.err.count("\n")) == (2, 1)
    assert installed.run("onnxq", "quantize", "model.onnx", cwd=workspace).status == 0
    harness.session(workspace / "model_q4.onnx")


def test_quantize_and_evaluate(installed, workspace):
    """Without ONNX Runtime: the engine of the binary compares; then ONNX Runtime, here, agrees."""
    code = """
import json, pathlib, onnxq
report = onnxq.quantize(pathlib.Path("model.onnx"), "small.onnx", block_size=32, exclude=["*layers.0*", "x"])
assert report.path == pathlib.Path("small.onnx") and report.bytes == report.path.stat().st_size
assert not any("layers.0" in node for weight in report.weights for node in weight.nodes)
options = dict(baseline="model.onnx", text="heldout.txt", windows=2, engine="rten", per_node=3)
held = onnxq.evaluate(report.path, max_mean_kld=0.5, **options)
missed = onnxq.evaluate([report.path], max_mean_kld=1e-6, min_top1=0.1, **options)
assert held.passed and not missed.passed
assert [limit.held for limit in missed.models[0].limits] == [False, True]
assert len(held.models[0].per_node) == 3 and held.models[0].outputs is None
assert held.models[0].divergence.histogram[0].from_ >= 0
print(json.dumps([held.engine.name, held.models[0].divergence.kld.mean.value, report.bits_per_weight]))
"""
    engine, divergence, bits = json.loads(installed.python(code, workspace))
    assert engine == "rten"
    assert 0 < divergence < 0.1
    assert 4.5 < bits < 6
    tokens = np.random.default_rng(0).integers(0, 768, (1, 64))
    both = [log_probabilities(workspace / name, tokens).argmax(-1) for name in ("model.onnx", "small.onnx")]
    # Random tokens are far from what the model knows; 4 bits agree in most places all the same.
    assert (both[0] == both[1]).mean() > 0.6


def test_other_functions(installed, workspace):
    code = """
import onnxq
both = onnxq.quantize_all("model.onnx", ".", dtypes=["q4", "fp16"], no_config=True, threads=1)
assert [report.path.name for report in both] == ["model_q4.onnx", "model_fp16.onnx"]
clean = onnxq.optimize("model.onnx", "clean.onnx", "clean", dim={"batch_size": 1})
assert {done.name for done in clean.passes} > {"const-fold", "fix-dims"}
assert onnxq.verify("model_q4.onnx").passed
old = onnxq.verify("model_q4.onnx", "onnxruntime@1.20")
assert old.valid and not old.passed and old.findings[0].effect == "refused"
what = onnxq.inspect("clean.onnx")
assert what.inputs[0].name == "input_ids" and what.inputs[0].shape[0] == 1 and what.files[0].sha256
assert onnxq.inspect("clean.onnx", no_hash=True).files[0].sha256 is None
plan = onnxq.quantize("model.onnx", "plan.onnx", dry_run=True)
assert plan.dry_run and not plan.path.exists()
assert onnxq.run("inspect", "model.onnx", "--no-hash") == 0
"""
    installed.python(code, workspace)


def test_errors(installed, workspace):
    code = """
import pickle, os, onnxq
def error(call, kind=onnxq.Error):
    try:
        call()
    except kind as raised:
        return raised
    raise AssertionError("nothing was raised")
assert "`absent.onnx`: No such file" in str(error(lambda: onnxq.inspect("absent.onnx")))
assert "`./--help`" in str(error(lambda: onnxq.inspect("--help")))
assert "block-size" in str(error(lambda: onnxq.quantize("model.onnx", block_size=7)))
assert "bogus" in str(error(lambda: onnxq.quantize("model.onnx", bogus=1), TypeError))
assert "quantize_all" in str(error(lambda: onnxq.quantize("model.onnx", dtype="q4,fp16"), ValueError))
limits = dict(check="heldout.txt", max_mean_kld=1e-6, engine="rten")
missed = error(lambda: onnxq.quantize("model.onnx", **limits), onnxq.LimitMissed)
assert isinstance(missed, onnxq.Error) and "max-mean-kld" in str(missed) and not missed.reports[0].published
assert pickle.loads(pickle.dumps(missed)).reports == missed.reports
assert not os.path.exists("model_q4.onnx")
assert onnxq.quantize("model.onnx", keep=True, **limits).path.exists()
os.environ["ONNXQ_BINARY"] = "/nowhere/onnxq"
assert "/nowhere/onnxq" in str(error(lambda: onnxq.inspect("model.onnx")))
"""
    installed.python(code, workspace)


def test_messages_go_to_the_log(installed, workspace):
    (workspace / "fake").write_text(
        "#!/bin/sh\necho 'onnxq: warning: beware' >&2\necho half way >&2\nkill -TERM $$\n"
    )
    (workspace / "fake").chmod(0o755)
    code = """
import logging, onnxq
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
try:
    onnxq.inspect("model.onnx")
except onnxq.Error as error:
    print(str(error).splitlines()[0])
"""
    done = installed.run("python", "-c", code, cwd=workspace, ONNXQ_BINARY=str(workspace / "fake"))
    assert done.err == "WARNING onnxq: warning: beware\nINFO half way\n"
    assert done.out == "the command was ended by signal 15\n"


def test_binary_of_a_package_in_a_folder_of_its_own(wheel, tmp_path):
    """`pip install --target`, as applications that bring their packages along do."""
    empty = environment(tmp_path / "empty")
    pip_install(wheel, empty, "--target", tmp_path / "packages")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'packages')!r})\nimport onnxq; print(onnxq.binary())"
    )
    assert empty.python(code, tmp_path) == f"{tmp_path / 'packages' / 'bin' / 'onnxq'}\n"


def test_missing_binary(tmp_path):
    """A package without its command says where that was looked for."""
    code = f"import sys; sys.path.insert(0, {str(harness.REPOSITORY / 'python')!r})\nimport onnxq\n"
    empty = environment(tmp_path / "empty")
    said = empty.python(f"{code}try: onnxq.binary()\nexcept onnxq.Error as error: print(error)", tmp_path)
    assert str(tmp_path / "empty" / "bin" / "onnxq") in said
    done = empty.run(
        "python", "-c", f"{code}import runpy; runpy.run_module('onnxq', run_name='__main__')", cwd=tmp_path
    )
    assert (done.status, done.err.count("\n")) == (2, 1)


@pytest.fixture
def package(monkeypatch):
    """The package as it is in the repository."""
    monkeypatch.syspath_prepend(harness.REPOSITORY / "python")
    yield importlib.import_module("onnxq")
    for name in [name for name in sys.modules if name.partition(".")[0] == "onnxq"]:
        del sys.modules[name]


def test_options_are_those_of_the_command(package, onnxq):
    """A new option of these commands has to be added to python/onnxq/_options.py."""
    own = {"quantize": {"output", "dtype"}, "opt": {"output", "passes"}, "eval": {"baseline"}}
    kinds = (package.QuantizeOptions, package.OptimizeOptions, package.EvaluateOptions)
    for (command, given), kind in zip(own.items(), kinds, strict=True):
        options = {name.replace("_", "-") for name in kind.__annotations__}
        assert options | given == interfaces.options_of(onnxq, command), command


def test_results_have_every_documented_field(package):
    module = sys.modules["onnxq._evaluation"]
    for name, documented in interfaces.documented_objects().items():
        kind = getattr(module, name)
        hints = typing.get_type_hints(kind)
        fields = {field.name.rstrip("_"): hints[field.name] for field in dataclasses.fields(kind)}
        optional = {name: typing.get_origin(hint) is typing.Union for name, hint in fields.items()}
        assert optional == documented, name


def mypy(*files: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        "--cache-dir",
        cwd / "cache",
        *files,
    ]
    environment = os.environ | {"MYPYPATH": str(harness.REPOSITORY / "python")}
    return subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, env=environment, check=False
    )


def test_types(tmp_path):
    """The package is typed throughout, and so is what a user writes with it."""
    (tmp_path / "right.py").write_text(
        "import onnxq\n"
        'bits: float | None = onnxq.quantize("m.onnx", dtype="q4", keep=True).bits_per_weight\n'
        'passed: bool = onnxq.evaluate("m.onnx", baseline="fp16", max_mean_kld=0.1).passed\n'
    )
    (tmp_path / "wrong.py").write_text('import onnxq\nonnxq.quantize("m.onnx", block_size="16", bogus=1)\n')
    package = harness.REPOSITORY / "python" / "onnxq"
    done = mypy(package, "right.py", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    done = mypy("wrong.py", cwd=tmp_path)
    assert "block_size" in done.stdout
    assert "bogus" in done.stdout
