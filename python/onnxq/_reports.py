"""What the other functions return: the ``--json`` reports of their commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from ._evaluation import Evaluation


@dataclass(frozen=True)
class File:
    """A file, and its length in bytes."""

    path: Path
    bytes: int
    sha256: Optional[str]


@dataclass(frozen=True)
class PassReport:
    """What a pass did, all its runs together."""

    name: str
    runs: int
    seconds: float
    rewrites: int
    statistics: dict[str, int]


@dataclass(frozen=True)
class Weight:
    """A weight ``[n, k]`` that was quantized in blocks, with scales and zero points."""

    name: str
    nodes: list[str]
    n: int
    k: int
    bits: int
    block: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class Remark:
    """What was matched and left as it was, and why."""

    node: str
    op_type: str
    reason: str
    message: str
    bytes: int


@dataclass(frozen=True)
class Report:
    """What became of a model. First in ``input`` and ``output`` is the model; others are its side files."""

    schema: str
    version: str
    input: list[File]
    output: list[File]
    dry_run: bool
    pipeline: str
    passes: list[PassReport]
    weights: list[Weight]
    bits_per_weight: Optional[float]
    remarks: list[Remark]
    runs_from: Optional[str]
    check: Optional[Evaluation]
    published: bool

    @property
    def path(self) -> Path:
        """The model that was written, or would be."""
        return self.output[0].path

    @property
    def bytes(self) -> int:
        """The length of all files of the output."""
        return sum(file.bytes for file in self.output)


@dataclass(frozen=True)
class Violation:
    """Something that makes a model invalid."""

    code: str
    location: str
    found: str
    expected: str


@dataclass(frozen=True)
class Finding:
    """Something that a target refuses, fails in, gets wrong or is slow with."""

    location: str
    operator: str
    target: str
    effect: str
    found: str
    reason: str
    instead: str
    source: str


@dataclass(frozen=True)
class Verification:
    """Whether a model is valid, and what targets do with it."""

    model: Path
    valid: bool
    violations: list[Violation]
    targets: list[str]
    findings: list[Finding]
    #: What is wrong with the files around it, or with its record of what it was made from.
    faults: list[str]

    @property
    def passed(self) -> bool:
        """Whether the model is valid, is what it says, and the targets run it; slowly is enough."""
        return self.valid and not self.faults and all(finding.effect in ("runs", "slow") for finding in self.findings)


@dataclass(frozen=True)
class Opset:
    """An operator domain that a model imports."""

    domain: str
    version: Optional[int]


@dataclass(frozen=True)
class Port:
    """An input or output. An axis is its extent, its name, or None."""

    name: str
    type: str
    dtype: Optional[str]
    shape: Optional[list[Any]]


@dataclass(frozen=True)
class Inspection:
    """What a model is. ``batch``, ``operators`` and ``weights`` are as in the report."""

    files: list[File]
    total_bytes: int
    ir_version: Optional[int]
    opsets: list[Opset]
    producer_name: Optional[str]
    producer_version: Optional[str]
    graph_name: Optional[str]
    inputs: list[Port]
    optional_inputs: list[Port]
    outputs: list[Port]
    nodes: int
    subgraphs: int
    metadata: list[list[str]]
    batch: Any
    operators: list[dict[str, Any]]
    weights: dict[str, Any]
