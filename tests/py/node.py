"""JavaScript: the examples, with their npm packages installed once into the cache."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import fetch
import harness

EXAMPLES = harness.REPOSITORY / "examples"
NAMES = ("parity", "browser")
INSTALL_SECONDS = 300

# SmolLM2 on WASM, on a machine that does something else, too.
RUN_SECONDS = 300


class InstallError(Exception):
    """Node or its packages cannot be had here; the message says why."""


def packages() -> dict[str, str]:
    """What the examples need, each pinned to one version."""
    needed: dict[str, str] = {}
    for name in NAMES:
        manifest = json.loads((EXAMPLES / name / "package.json").read_text(encoding="utf-8"))
        for package, version in manifest["dependencies"].items():
            assert needed.setdefault(package, version) == version, f"two versions of {package}"
    return needed


def node_modules() -> Path:
    """`node_modules` with all of them; no script of a package is run."""
    manifest = json.dumps({"private": True, "dependencies": packages()}, indent=2)
    folder = fetch.CACHE / "node" / hashlib.sha256(manifest.encode()).hexdigest()[:16]
    if not (folder / "installed").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text(manifest, encoding="utf-8")
        install(folder)
        (folder / "installed").touch()
    return folder / "node_modules"


def install(folder: Path) -> None:
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallError(f"npm cannot be run: {error}") from error
    if done.returncode:
        raise InstallError(f"npm cannot install the packages: {done.stderr.strip()[-300:]}")


@functools.cache
def installed() -> Path:
    try:
        return node_modules()
    except InstallError as error:
        harness.cannot_run(str(error))


def checkout(folder: Path) -> Path:
    """The examples in `folder`, beside their packages, as after `npm install`."""
    for name in NAMES:
        shutil.copytree(EXAMPLES / name, folder / name, ignore=shutil.ignore_patterns("node_modules"))
    (folder / "node_modules").symlink_to(installed(), target_is_directory=True)
    return folder


def outcome(command: list[object], folder: Path, seconds: int, **env: str) -> harness.Outcome:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=os.environ | env,
        capture_output=True,
        timeout=seconds,
        check=False,
    )
    return harness.Outcome(
        done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    )


def run(script: Path, *args: object, seconds: int = RUN_SECONDS, **env: str) -> harness.Outcome:
    return outcome(["node", script, *args], script.parent, seconds, **env)


def ok(script: Path, *args: object, **options) -> str:
    done = run(script, *args, **options)
    assert done.status == 0, f"`node {script.name}`: {done.describe()}"
    return done.out


if __name__ == "__main__":
    # So that they can be fetched while other things run.
    print(node_modules())
