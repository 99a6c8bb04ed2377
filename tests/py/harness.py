"""Running the compiler as a user does: a process in a directory of its own.

Nothing here knows what the compiler is written in; the tests see its exit status, what it
printed and the files it left.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx
import onnxruntime as ort
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

# Where ONNX Runtime has its library.
CAPI = Path(ort.__file__).parent / "capi"

# A hang is a failure, not a stuck job. The longest honest run here writes 2.2 GB.
RUN_SECONDS = 120


def cannot_run(reason: str) -> NoReturn:
    """Leaves the test: skipped at a desk, failed in CI, where nothing may go unnoticed."""
    if os.environ.get("CI"):
        pytest.fail(f"cannot run here, and CI is set: {reason}", pytrace=False)
    pytest.skip(reason)


@dataclass(frozen=True)
class Outcome:
    """What one run of the compiler ended with."""

    status: int
    out: str
    err: str

    def describe(self) -> str:
        return f"status {self.status}\nstdout: {self.out[-2000:]}\nstderr: {self.err[-4000:]}"


class Onnxq:
    """The compiler, run in one directory that belongs to the test."""

    def __init__(self, binary: Path, directory: Path):
        self.binary = binary
        self.dir = directory

    def __call__(self, *args: object, **popen: object) -> Outcome:
        done = subprocess.run(
            self.command(*args),
            cwd=popen.pop("cwd", self.dir),
            capture_output=True,
            timeout=RUN_SECONDS,
            check=False,
            **popen,
        )
        return Outcome(
            done.returncode,
            done.stdout.decode("utf-8", "replace"),
            done.stderr.decode("utf-8", "replace"),
        )

    def command(self, *args: object) -> list[str]:
        return [str(self.binary), *(str(arg) for arg in args)]

    def ok(self, *args: object, **popen: object) -> Outcome:
        """Runs and asserts exit status 0."""
        done = self(*args, **popen)
        assert done.status == 0, f"`onnxq {' '.join(map(str, args))}`: {done.describe()}"
        return done

    def refuses(self, *args: object, mentions: tuple[str, ...] = (), **popen: object) -> Outcome:
        """Runs and asserts a clean refusal: status 2, one line on stderr, no file touched.

        `mentions` are pieces of text, any case, that the error must hold: where, and what.
        """
        before = fingerprint(self.dir)
        done = self(*args, **popen)
        assert_refused(done, mentions)
        after = fingerprint(self.dir)
        assert after == before, f"files changed: {difference(before, after)}\n{done.describe()}"
        return done


def assert_refused(done: Outcome, mentions: tuple[str, ...] = ()) -> None:
    assert done.status == 2, done.describe()
    assert "panicked" not in done.err, done.describe()
    lines = [line for line in done.err.splitlines() if line.strip()]
    assert len(lines) == 1, f"one error, one line: {done.describe()}"
    for text in mentions:
        assert text.lower() in done.err.lower(), f"no word of `{text}`: {done.describe()}"


def fingerprint(directory: Path) -> dict[str, str]:
    """Relative path to content hash, for every file, link and folder below `directory`."""
    return {str(path.relative_to(directory)): fingerprint_one(path) for path in sorted(directory.rglob("*"))}


def fingerprint_one(path: Path) -> str:
    if path.is_symlink():
        return f"link to {os.readlink(path)}"
    if path.is_dir():
        return "folder"
    if not path.is_file():
        return "device"
    # A sparse file of gigabytes is there for its size; hashing it would cost seconds.
    if path.stat().st_size > 1 << 30:
        return f"{path.stat().st_size} bytes, changed {path.stat().st_mtime_ns}"
    return sha256(path)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def difference(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [
        f"{'new' if name not in before else 'gone' if name not in after else 'changed'}: {name}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def find_binary() -> Path:
    """`ONNXQ_BIN`, or a release build of this repository."""
    named = os.environ.get("ONNXQ_BIN")
    if named:
        binary = Path(named).resolve()
        assert binary.is_file(), f"ONNXQ_BIN names no file: {binary}"
        return binary
    subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=REPOSITORY, check=True)
    return built("onnxq")


def built(name: str) -> Path:
    """Where cargo leaves a binary of its release profile."""
    return target_folder() / "release" / f"{name}{'.exe' if sys.platform == 'win32' else ''}"


def target_folder() -> Path:
    """Where cargo builds. What installs the command builds there, too, so that little is compiled twice, and replaces
    the binary: tests/run gives the others a copy."""
    return Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))


def library() -> Path:
    """The library of this Python's ONNX Runtime."""
    found = [*CAPI.glob("libonnxruntime.*"), *CAPI.glob("onnxruntime.dll")]
    if not found:
        cannot_run("this ONNX Runtime has no library of its own")
    return found[-1]


def build_tool(name: str) -> str:
    """The path of a program of `tests/tools`, built."""
    command = [os.environ.get("CARGO", "cargo"), "build", "--release", "--quiet", "-p", "onnxq-test-tools"]
    subprocess.run([*command, "--bin", name], cwd=REPOSITORY, check=True)
    return str(built(name))


def halves(text: Path, first: Path, second: Path) -> tuple[Path, Path]:
    """The lines of `text` in two files: nothing in one is in the other."""
    lines = text.read_text(encoding="utf-8").splitlines(keepends=True)
    half = len(lines) // 2
    first.write_text("".join(lines[:half]), encoding="utf-8")
    second.write_text("".join(lines[half:]), encoding="utf-8")
    return first, second


def plain(*args: object) -> tuple[object, ...]:
    """`args` of `quantize`, by plain rounding and without zero points where they do not say."""
    method = () if "--method" in args else ("--method", "rtn")
    zero_points = () if {"--asymmetric", "--symmetric"} & {str(arg) for arg in args} else ("--symmetric",)
    return (*method, *zero_points, *args)


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def session(model: Path | bytes, opts: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 2
    if not opts:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(model) if isinstance(model, Path) else model
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run_model(model: Path | bytes, feeds: dict[str, np.ndarray], opts: bool = True) -> dict[str, np.ndarray]:
    """All outputs of `model` by name, computed by ONNX Runtime on the CPU."""
    loaded = session(model, opts)
    names = [output.name for output in loaded.get_outputs()]
    return dict(zip(names, loaded.run(names, feeds), strict=True))
