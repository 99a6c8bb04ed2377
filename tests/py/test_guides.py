"""The guides, followed to the letter: every command is run, in the folder that the guide begins with.

A guide is read block by block. A comment right above a block says what is special about it:

    <!-- not run: why -->    a shell block that is left out
    <!-- status: 1 -->       a shell block that ends with this status instead of 0
    <!-- in: examples/... -->    a shell block that is run in this folder of the repository
    <!-- file: predict.py -->    text that the reader puts into a file of this name
    <!-- from: examples/... -->  text that is this very file of the repository
    <!-- figures vary -->    numbers, and units of time, in this output may be others

A `text` block is what the shell block before it printed. In it `...` stands for any lines, or any part of
one, and blanks for any number of blanks.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import guide_models
import harness
import node
import optimum_env

GUIDES = harness.REPOSITORY / "docs" / "guides"
TINYLM = harness.REPOSITORY / "testdata" / "tinylm"
# A guide may compile onnxq.
RUN_SECONDS = 600


@dataclass(frozen=True)
class Block:
    line: int
    language: str
    text: str
    # The comment above it: what it says, and of what.
    word: str = ""
    value: str = ""


WORDS = {"not run", "status", "in", "file", "from", "figures vary"}
BLOCK = re.compile(r"(?:^<!-- ([a-z ]+?)(?:: (.+?))? -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(guide: Path) -> list[Block]:
    text = guide.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        word, value, language, body = match.groups(default="")
        line = text.count("\n", 0, match.start()) + 1
        assert not word or word in WORDS, f"{guide.name}:{line}: `{word}`"
        found.append(Block(line, language, body, word, value))
    assert text.count("```") == 2 * len(found), f"{guide.name}: a block without a language, or without an end"
    return found


# --- The folders that guides begin with; each returns what has to be found on the path ---


def browser_llm(folder: Path) -> list[Path]:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        harness.cannot_run("no Chromium: CHROMIUM names none, and none is on the path")
    source = folder / "my-llm"
    (source / "onnx").mkdir(parents=True)
    for path in TINYLM.glob("*.json"):
        shutil.copy(path, source)
    shutil.copy(TINYLM / "model.onnx", source / "onnx")
    shutil.copy(TINYLM / "heldout.txt", folder / "test.txt")
    node.checkout(folder)
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    (bin_folder / "chromium").symlink_to(chromium)
    return [bin_folder]


def classifier(folder: Path) -> list[Path]:
    guide_models.classifier(folder / "bert")
    return [optimum_env.python().parent]


def speech(folder: Path) -> list[Path]:
    guide_models.speech(folder / "wav2vec2")
    return []


def build_rs(folder: Path) -> list[Path]:
    shutil.copy(TINYLM / "model.onnx", folder)
    return []


def numerics(folder: Path) -> list[Path]:
    for name in ("model.onnx", "tokenizer.json"):
        shutil.copy(TINYLM / name, folder)
    shutil.copy(TINYLM / "heldout.txt", folder / "test.txt")
    node.checkout(folder)
    return []


LAYOUTS: dict[str, Callable[[Path], list[Path]]] = {
    "browser-llm": browser_llm,
    "classifier-optimum": classifier,
    "speech-cpu": speech,
    "build-rs": build_rs,
    "numerics-in-ci": numerics,
}


# --- Running them ---


class Reader:
    """Somebody who does what a guide says."""

    def __init__(self, guide: Path, folder: Path, path: list[Path]):
        self.guide, self.folder = guide, folder
        self.environment = os.environ | {
            "PATH": os.pathsep.join([*map(str, path), os.environ["PATH"]]),
            # The engine is the one that the guides' figures are of.
            "ORT_DYLIB_PATH": str(harness.library()),
            "HF_HUB_OFFLINE": "1",
            "PYTHONWARNINGS": "ignore",
            "LC_ALL": "C.UTF-8",
            "CARGO_TARGET_DIR": str(harness.target_folder()),
        }
        self.printed: str | None = None

    def begin(self) -> None:
        """A text before the first command lists what there is: a file a line, by its first word."""
        first = next(block for block in blocks(self.guide) if block.language in ("sh", "text"))
        if first.language == "text":
            listed = [line.split()[0] for line in first.text.splitlines()]
            assert [name for name in listed if not (self.folder / name).exists()] == []

    def follow(self, block: Block) -> None:
        if block.word == "file":
            (self.folder / block.value).write_text(block.text, encoding="utf-8")
        elif block.word == "from":
            source = (harness.REPOSITORY / block.value).read_text(encoding="utf-8")
            assert block.text == source, self.at(block)
        elif block.word == "not run":
            assert block.language == "sh", f"{self.at(block)}: nothing to run"
            self.printed = None
        elif block.language == "sh":
            self.run(block)
        elif block.language == "text" and self.printed is not None:
            self.compare(block)

    def at(self, block: Block) -> str:
        return f"{self.guide.name}:{block.line}"

    def run(self, block: Block) -> None:
        folder = harness.REPOSITORY / block.value if block.word == "in" else self.folder
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", block.text],
            cwd=folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=RUN_SECONDS, check=False,
        )  # fmt: skip
        self.printed = done.stdout.decode("utf-8", "replace")
        wanted = int(block.value) if block.word == "status" else 0
        said = f"{self.at(block)}: status {done.returncode}, expected {wanted}\n{block.text}\n{self.printed}"
        assert done.returncode == wanted, said

    def compare(self, block: Block) -> None:
        plain = mask if block.word == "figures vary" else squeeze
        found = plain(self.printed)
        pattern = "".join(map(line_pattern, plain(block.text).splitlines()))
        said = f"{self.at(block)}: the guide has\n{block.text}\nand the commands printed\n{self.printed}"
        assert re.fullmatch(pattern, found), said


def line_pattern(line: str) -> str:
    if line == "...":
        return r"(?:.*\n)*?"
    return re.escape(line).replace(r"\.\.\.", ".*") + "\n"


def squeeze(text: str) -> str:
    """One blank between words, and none at the ends of lines."""
    return "".join(" ".join(line.split()) + "\n" for line in text.strip().splitlines())


NUMBER = re.compile(r"\d+(\.\d+)?(e-?\d+)?")


def mask(text: str) -> str:
    return re.sub(r"# (ns|µs|ms|s)\b", "# time", NUMBER.sub("#", squeeze(text)))


@pytest.mark.parametrize("name", LAYOUTS)
def test_guide(name, binary, tmp_path):
    path = LAYOUTS[name](tmp_path)
    commands = tmp_path / "commands"
    commands.mkdir()
    (commands / "onnxq").symlink_to(binary)
    reader = Reader(GUIDES / f"{name}.md", tmp_path, [commands, *path])
    reader.begin()
    for block in blocks(reader.guide):
        reader.follow(block)


# --- What is no command ---


def test_every_guide_is_followed_and_listed():
    names = {path.stem for path in GUIDES.glob("*.md")} - {"README"}
    assert names == set(LAYOUTS)
    for index in (GUIDES / "README.md", harness.REPOSITORY / "README.md"):
        text = index.read_text(encoding="utf-8")
        assert [name for name in sorted(names) if f"{name}.md" not in text] == [], index


LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


DOCUMENTS = [harness.REPOSITORY / "README.md", *sorted(GUIDES.glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_links_lead_to_files(document):
    links = [link for link in LINK.findall(document.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_the_workflow_is_one_that_the_action_takes():
    """The inputs that the guide names are inputs of action.yml, the required ones are there."""
    action = yaml.safe_load((harness.REPOSITORY / "action.yml").read_text(encoding="utf-8"))
    required = {name for name, one in action["inputs"].items() if one.get("required")}
    workflows = [yaml.safe_load(b.text) for b in blocks(GUIDES / "numerics-in-ci.md") if b.language == "yaml"]
    steps = [step for workflow in workflows for job in workflow["jobs"].values() for step in job["steps"]]
    ours = [step for step in steps if "onnxq" in step.get("uses", "")]
    assert ours
    for step in ours:
        assert set(step["with"]) <= set(action["inputs"])
        assert required <= set(step["with"])


def test_masks():
    assert mask("run   60.7 ms  1.2 s\nKLD 8.6e-8\n") == "run # time # time\nKLD #\n"
    assert mask("p99 48.5") == "p# #\n"
