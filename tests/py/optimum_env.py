"""A Python environment with Optimum, which loads folders as users do, and exports the models it is tried on.

Optimum needs torch. The package index has it with libraries for GPUs, which are gigabytes; Debian has it for the CPU
alone, which is taken where it is installed. Versions are those that go with both.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fetch
import harness

HERE = Path(__file__).resolve().parent
REQUIREMENTS = ["optimum==1.23.3", "transformers==4.44.2", "onnx==1.23.2", "onnxruntime==1.31.1", "numpy<2"]
INSTALL_SECONDS = 1200


class EnvironmentFault(Exception):
    """Optimum cannot be had here; the message says why."""


def call(*command: object) -> str:
    try:
        done = subprocess.run(
            [str(c) for c in command], capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentFault(f"{command[0]} cannot be run: {error}") from error
    if done.returncode:
        raise EnvironmentFault(f"{' '.join(map(str, command[:6]))}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def has_torch(python: str) -> bool:
    return subprocess.run([python, "-c", "import torch"], capture_output=True, check=False).returncode == 0


def python_with_torch() -> str | None:
    """The system's Python, if it has torch: tests/system_packages installs that."""
    system = "/usr/bin/python3"
    return system if Path(system).exists() and has_torch(system) else None


def install() -> Path:
    digest = hashlib.sha256(" ".join(REQUIREMENTS).encode()).hexdigest()[:16]
    folder = fetch.CACHE / "optimum" / digest
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        shutil.rmtree(folder, ignore_errors=True)
        system = python_with_torch()
        more = [] if system else ["torch==2.4.1"]
        shared = ["--system-site-packages"] if system else []
        call(system or sys.executable, "-m", "venv", *shared, folder)
        call(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS, *more)
        (folder / "installed").touch()
    return python


@functools.cache
def python() -> Path:
    try:
        return install()
    except EnvironmentFault as error:
        harness.cannot_run(f"no Optimum: {error}")


def run(command: str, *args: object) -> harness.Outcome:
    """A command of optimum_client.py."""
    env = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [str(python()), str(HERE / "optimum_client.py"), command, *map(str, args)],
        capture_output=True, text=True, timeout=600, check=False, env=env,
    )  # fmt: skip
    return harness.Outcome(done.returncode, done.stdout, done.stderr)


def ok(command: str, *args: object) -> object:
    """What it prints last, a line of JSON."""
    done = run(command, *args)
    assert done.status == 0, f"optimum_client.py {command}: {done.describe()}"
    return json.loads(done.out.strip().splitlines()[-1])


if __name__ == "__main__":
    # So that it can be made while other things run.
    print(install())
