"""Releases of ONNX Runtime beside the pinned one, each in a folder and a process of its own.

    python runtimes.py [VERSION ...]      (fetch them beforehand; all of them without a name)

A release is installed once, by plain `pip install --target`, below `ONNXQ_CACHE` (17 to 25 MB
of packages each), and used by starting this Python with that folder first on its path. One
process runs many models; where it dies, the model at hand is the reason and the next process
goes on behind it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fetch import CACHE, FetchError

HERE = Path(__file__).resolve().parent
RUN_SECONDS = 300


class Release(NamedTuple):
    """One release, the newest minor version of Python it has a wheel for (0: any), and what it
    needs beside it: those before 1.19 were built for numpy 1."""

    version: str
    python: int = 0
    extra: tuple[str, ...] = ()


RELEASES = [
    Release("1.17.3", 12, ("numpy==1.26.4",)),
    Release("1.18.1", 12, ("numpy==1.26.4",)),
    Release("1.19.2", 12),
    Release("1.20.1", 13),
    Release("1.21.1", 13),
    Release("1.22.1", 13),
    Release("1.23.2"),
    Release("1.24.4"),
    Release("1.25.1"),
    Release("1.26.0"),
    Release("1.27.0"),
    Release("1.28.0"),
    Release("1.29.0"),
    Release("1.30.0"),
    Release("1.31.1"),
]


def release(version: str) -> Release:
    """The release of a version such as `1.20` or `1.20.1`."""
    minor = ".".join(version.split(".")[:2])
    return next(r for r in RELEASES if r.version.startswith(f"{minor}."))


def has_wheel(of: Release) -> bool:
    return not of.python or sys.version_info.minor <= of.python


def folder(version: str) -> Path | None:
    """Where a release is installed; installs it first when it is not there. `None`: it is the one
    that this Python has anyway."""
    of = release(version)
    if metadata.version("onnxruntime") == of.version:
        return None
    target = CACHE / "runtimes" / f"onnxruntime-{of.version}"
    if not (target / ".complete").exists():
        install(of, target)
    return target


def install(of: Release, target: Path) -> None:
    part = target.with_name(f"{target.name}.part{os.getpid()}")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--target", str(part), f"onnxruntime=={of.version}", *of.extra]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(part, ignore_errors=True)
        raise FetchError(f"pip cannot install onnxruntime {of.version}: {done.stderr.strip()[-300:]}")
    (part / ".complete").touch()
    shutil.rmtree(target, ignore_errors=True)
    part.replace(target)


def python(version: str, *args: object, seconds: int = RUN_SECONDS) -> subprocess.CompletedProcess:
    """Runs this Python with a release of ONNX Runtime in place of the pinned one."""
    path = os.pathsep.join(str(p) for p in (folder(version), HERE) if p)
    command = [sys.executable, *map(str, args)]
    return subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )


@dataclass(frozen=True)
class Ran:
    """What became of one model: `ok`, or what it failed in (`load`, `run`, `crash`)."""

    status: str
    error: str = ""
    outputs: tuple[np.ndarray, ...] = ()


def run(version: str, models: Iterable[Path], directory: Path, opts: bool = False) -> list[Ran]:
    """Runs models, each on the feeds in the `.npz` file beside it (same name), in one release; a
    model without that file is only loaded.

    `directory` is where the outputs go on their way here; `opts` switches graph optimizations on.
    """
    models = list(models)
    results: list[Ran] = []
    out = directory / f"out-{release(version).version}"
    out.mkdir(exist_ok=True)
    while len(results) < len(models):
        first = len(results)
        listing = out / "models.json"
        listing.write_text(json.dumps([str(model) for model in models[first:]]))
        done = python(version, HERE / "run_models.py", listing, out, "on" if opts else "off")
        results += [ran(json.loads(line), out) for line in done.stdout.splitlines()]
        if len(results) < len(models):
            if "Traceback" in done.stderr:
                raise RuntimeError(f"onnxruntime {version}: {done.stderr[-2000:]}")
            results.append(Ran("crash", f"exit status {done.returncode}: {done.stderr[-300:]}"))
    return results


def load(version: str, models: Iterable[Path], directory: Path) -> list[str]:
    """Loads models in one release: the error of each, empty when there is none."""
    # Without feeds a model is not run.
    results = run(version, models, directory)
    return [r.error or r.status if r.status != "ok" else "" for r in results]


def ran(line: dict, out: Path) -> Ran:
    if line["status"] != "ok":
        return Ran(line["status"], line["error"])
    if not line["outputs"]:
        return Ran("ok")
    with np.load(out / line["outputs"]) as arrays:
        return Ran("ok", "", tuple(arrays[name] for name in arrays.files))


def main() -> None:
    for version in sys.argv[1:] or [r.version for r in RELEASES if has_wheel(r)]:
        print(f"{version:8} {folder(version) or 'installed'}")


if __name__ == "__main__":
    main()
