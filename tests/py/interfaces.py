"""What the command and docs/eval-json.md say that there is, for tests of other interfaces."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import harness

# Given by the interfaces themselves, or for people who watch a run.
NOT_OPTIONS = {"help", "json", "quiet", "verbose", "time-passes", "stats", "print-ir-after"}
NOT_OPTIONS |= {"print-ir-after-all", "print-ir-after-change"}


def version() -> str:
    manifest = tomllib.loads((harness.REPOSITORY / "Cargo.toml").read_text(encoding="utf-8"))
    return manifest["package"]["version"]


def options_of(onnxq: harness.Onnxq, command: str) -> set[str]:
    """The options of a command, as `max-mean-kld`."""
    found = re.findall(r"^ +(?:-\w, )?--([a-z0-9-]+)", onnxq.ok(command, "--help").out, re.MULTILINE)
    assert len(found) > 4, found
    return set(found) - NOT_OPTIONS


def documented_objects() -> dict[str, dict[str, bool]]:
    """The objects of an evaluation: their fields, and whether each is optional."""
    objects: dict[str, dict[str, bool]] = {}
    text = (harness.REPOSITORY / "docs" / "eval-json.md").read_text(encoding="utf-8")
    for line in text.partition("## Objects")[2].splitlines():
        if line.startswith("### "):
            objects[line[4:]] = {}
        elif field := re.match(r"\| `(\w+)` \| (optional )?", line):
            objects[list(objects)[-1]][field[1]] = bool(field[2])
    assert len(objects) > 10, objects
    return objects


def clean_environment(home: Path, *folders: Path) -> dict[str, str]:
    """The environment of a new user: nothing but the system's programs and those in `folders`."""
    path = os.pathsep.join([*map(str, folders), "/usr/local/bin", "/usr/bin", "/bin"])
    return {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8"}
