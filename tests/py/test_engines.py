"""`onnxq engines`: libraries of ONNX Runtime, found, passed over and refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime as ort
import pytest

import harness


# What every ONNX Runtime exports; the version and the API are the test's.
STUB = """
typedef struct { const void *(*api)(unsigned); const char *(*version)(void); } Base;
static const void *api(unsigned n) { return 0; }
static const char *version(void) { return "VERSION"; }
static const Base base = { api, version };
const Base *OrtGetApiBase(void) { return BASE; }
"""


def environment(*path: Path, **variables: str) -> dict[str, str]:
    """The environment with no Python on the PATH but what is named."""
    env = {k: v for k, v in os.environ.items() if k not in ("ORT_DYLIB_PATH", "ORT_LOG", "PYTHONPATH")}
    return env | {"PATH": os.pathsep.join(map(str, path))} | variables


def with_python(**variables: str) -> dict[str, str]:
    return environment(Path(sys.executable).parent, **variables)


def stub(folder: Path, version: str, base: str = "&base") -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        harness.cannot_run("no C compiler")
    source = folder / "stub.c"
    source.write_text(STUB.replace("VERSION", version).replace("BASE", base))
    made = folder / "libonnxruntime.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, source], check=True)
    source.unlink()
    return made


def engines(onnxq: harness.Onnxq, *args: object, **popen: object) -> list[dict]:
    report = json.loads(onnxq.ok("engines", "--json", "-", *args, **popen).out)
    assert report["schema"] == 1
    return report["engines"]


def taken(found: list[dict]) -> dict:
    (one,) = [engine for engine in found if engine["taken"]]
    return one


def small_model(folder: Path) -> Path:
    return shutil.copy(harness.REPOSITORY / "testdata/tinylm/model.onnx", folder / "model.onnx")


def test_the_package_of_python_is_taken(onnxq):
    found = engines(onnxq, env=with_python())
    assert [e["engine"] for e in found] == ["onnxruntime", "rten"]
    assert taken(found)["found_by"] == "python"
    assert taken(found)["version"] == ort.__version__
    assert Path(taken(found)["path"]).resolve() == harness.library().resolve()
    assert found[1]["version"] and found[1]["unusable"] is None


def test_a_checkout_in_the_current_folder_is_no_package(onnxq):
    (onnxq.dir / "onnxruntime").mkdir()
    (onnxq.dir / "onnxruntime/__init__.py").write_text("")
    assert taken(engines(onnxq, env=with_python()))["version"] == ort.__version__


def test_without_anything_it_is_rten(onnxq):
    found = engines(onnxq, env=environment(onnxq.dir))
    assert [(e["engine"], e["taken"]) for e in found] == [("rten", True)]
    onnxq.refuses(
        "bench", small_model(onnxq.dir), "--engine", "onnxruntime",
        mentions=("found no ONNX Runtime", "--ort-lib", "pip install"), env=environment(onnxq.dir),
    )


@pytest.mark.parametrize("place", ["file", "folder"])
@pytest.mark.parametrize("how", ["--ort-lib", "ORT_DYLIB_PATH"])
def test_a_named_library_comes_first(onnxq, how, place):
    path = harness.library() if place == "file" else harness.CAPI
    if how == "--ort-lib":
        found = engines(onnxq, how, path, env=environment(onnxq.dir, ORT_DYLIB_PATH="/nowhere"))
    else:
        found = engines(onnxq, env=environment(onnxq.dir, ORT_DYLIB_PATH=str(path)))
    assert taken(found)["found_by"] == how
    assert taken(found)["version"] == ort.__version__


def test_an_empty_variable_is_no_variable(onnxq):
    assert taken(engines(onnxq, env=with_python(ORT_DYLIB_PATH="")))["found_by"] == "python"


def test_the_package_of_node_above(onnxq):
    os_name = {"linux": "linux", "darwin": "darwin", "win32": "win32"}[sys.platform]
    machine = {"x86_64": "x64", "AMD64": "x64", "aarch64": "arm64", "arm64": "arm64"}[os.uname().machine]
    for version in ("3", "10"):
        folder = onnxq.dir / f"node_modules/onnxruntime-node/bin/napi-v{version}/{os_name}/{machine}"
        folder.mkdir(parents=True)
        shutil.copy(harness.library(), folder / "libonnxruntime.so.1")
    below = onnxq.dir / "a/b"
    below.mkdir(parents=True)
    found = engines(onnxq, cwd=below, env=environment(below))
    assert [e["found_by"] for e in found] == ["node", "node", None]
    assert "napi-v10" in taken(found)["path"]


def other_library() -> Path:
    """A library that this process uses and that is no ONNX Runtime."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.is_file() else []
    found = [line.split()[-1] for line in lines if "libm.so" in line]
    if not found:
        harness.cannot_run("no other library is known here")
    return Path(found[0])


def refused(folder: Path, kind: str) -> tuple[Path, tuple[str, ...]]:
    """A library that cannot be used, and what is said about it."""
    text = folder / "libonnxruntime.so"
    if kind == "text":
        text.write_text("no library")
        return text, ("is no library of ONNX Runtime",)
    if kind == "other library":
        return other_library(), ("is no library of ONNX Runtime", "OrtGetApiBase")
    if kind == "old":
        return stub(folder, "1.16.3"), ("ONNX Runtime 1.16.3, expected 1.17 or newer",)
    if kind == "no number":
        return stub(folder, "today"), ("ONNX Runtime today, expected 1.17",)
    if kind == "no api":
        return stub(folder, "1.20.0"), ("ONNX Runtime 1.20.0, but lacks version 17",)
    if kind == "no base":
        return stub(folder, "1.20.0", "0"), ("without an API",)
    if kind == "missing":
        return folder / "missing", ("expected a library of ONNX Runtime, or a folder with one",)
    assert kind == "empty folder"
    return folder, ("expected a library of ONNX Runtime, or a folder with one",)


KINDS = ["text", "other library", "old", "no number", "no api", "no base", "missing", "empty folder"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_named_library_that_cannot_be_used_is_an_error(onnxq, tmp_path_factory, kind):
    path, said = refused(tmp_path_factory.mktemp("library"), kind)
    model = small_model(onnxq.dir)
    onnxq.refuses("engines", "--ort-lib", path, mentions=(*said, "--ort-lib"), env=with_python())
    onnxq.refuses("bench", model, "--ort-lib", path, mentions=(*said, "--ort-lib"), env=with_python())
    variable = with_python(ORT_DYLIB_PATH=str(path))
    onnxq.refuses("bench", model, mentions=(*said, "ORT_DYLIB_PATH"), env=variable)


def python_with(folder: Path, library: Path | None) -> Path:
    """A folder with a Python whose package `onnxruntime` has this library, or none."""
    capi = folder / "site/onnxruntime/capi"
    capi.mkdir(parents=True)
    (folder / "site/onnxruntime/__init__.py").write_text("")
    if library:
        shutil.copy(library, capi / "libonnxruntime.so.1.16.3")
    command = folder / "bin/python3"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}/site" exec "{sys.executable}" -S "$@"\n')
    command.chmod(0o755)
    return command.parent


@pytest.mark.parametrize("kind", ["wheel without a library", "old"])
def test_what_nobody_named_is_passed_over_with_a_warning(onnxq, tmp_path_factory, kind):
    folder = tmp_path_factory.mktemp("python")
    path = python_with(folder, stub(folder, "1.16.3") if kind == "old" else None)
    said = "1.16.3" if kind == "old" else "from 1.19 on"
    env = environment(path)
    found = engines(onnxq, env=env)
    assert [(e["engine"], e["taken"]) for e in found] == [("onnxruntime", False), ("rten", True)]
    assert said in found[0]["unusable"]
    model = small_model(onnxq.dir)
    done = onnxq.ok("bench", model, "--runs", 1, "--warmup", 0, "--seq", 4, "--decode", 0, env=env)
    assert said in done.err and "the engine is rten" in done.err
    assert "rten" in done.out
    onnxq.refuses("bench", model, "--engine", "onnxruntime", mentions=(said, "can be used"), env=env)


def test_a_library_and_rten_contradict_each_other(onnxq):
    model = small_model(onnxq.dir)
    onnxq.refuses("bench", model, "--engine", "rten", "--ort-lib", harness.library(), mentions=("rten",))


def test_the_library_says_nothing_and_leaves_nothing(onnxq):
    model = small_model(onnxq.dir)
    before = harness.fingerprint(onnxq.dir)
    options = ("--runs", 1, "--warmup", 0, "--seq", 4, "--decode", 1)
    done = onnxq.ok("bench", model, *options, env=with_python(ORT_LOG="verbose"))
    assert done.err == ""
    assert harness.fingerprint(onnxq.dir) == before


def test_json_and_text_name_the_same(onnxq):
    text = onnxq.ok("engines", env=with_python()).out
    assert f"* onnxruntime  {ort.__version__}" in text
    assert f"--engine auto takes onnxruntime {ort.__version__}" in text
