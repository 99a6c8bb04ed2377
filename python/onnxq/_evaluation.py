"""What ``onnxq.evaluate`` returns: the objects of docs/eval-json.md, field by field."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class EngineInfo:
    """What the models ran on."""

    name: str
    version: str
    threads: int


@dataclass(frozen=True)
class InputInfo:
    """What the models were fed."""

    source: str
    tokens: int
    items: int
    window: Optional[int]
    stride: Optional[int]
    chunk: Optional[int]
    batch: int
    sha256: str


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error, in the same unit. NaN where it is not finite."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts the text."""

    predictions: int
    perplexity: Estimate
    ratio: Optional[Estimate]


@dataclass(frozen=True)
class Distribution:
    """A distribution by its mean, percentiles and maximum."""

    mean: Estimate
    median: float
    p90: float
    p95: float
    p99: float
    p999: float
    max: float


@dataclass(frozen=True)
class TokenPlace:
    """A place in the text."""

    window: int
    position: int
    token: Optional[int]
    text: Optional[str]


@dataclass(frozen=True)
class Difference:
    """Differences between model and baseline."""

    mean: Estimate
    rms: float
    max: float
    worst: TokenPlace


@dataclass(frozen=True)
class Bin:
    """How many values are in an interval, open above."""

    from_: float
    to: float
    count: int


@dataclass(frozen=True)
class Divergence:
    """How a model's distributions differ from the baseline's. Divergences are in nats."""

    distributions: int
    kld: Distribution
    top1: Estimate
    top5: float
    probability: Difference
    log_prob: Difference
    worst: TokenPlace
    histogram: list[Bin]


@dataclass(frozen=True)
class OutputDifference:
    """How an output differs as numbers."""

    name: str
    elements: int
    max: float
    mean: float
    snr_db: Optional[float]
    cosine: Optional[float]
    agreement: Optional[float]


@dataclass(frozen=True)
class Noise:
    """How much the model differs from itself with and without the engine's graph optimizations."""

    method: str
    items: int
    mean_kld: Optional[float]
    max_kld: Optional[float]
    max_log_prob: Optional[float]
    perplexity_ratio: Optional[float]
    max_difference: Optional[float]


@dataclass(frozen=True)
class NodeDivergence:
    """Where a model leaves the baseline; NaN where an error is infinite."""

    value: str
    node: str
    operator: str
    introduced: float
    accumulated: float


@dataclass(frozen=True)
class LimitResult:
    """A limit, and whether it held; ``found`` is NaN where it is infinite."""

    name: str
    limit: float
    found: float
    held: bool
    worst: Optional[TokenPlace]
    output: Optional[str]


@dataclass(frozen=True)
class ModelResult:
    """What was found of one model."""

    name: str
    path: Optional[str]
    bytes: int
    sha256: Optional[str]
    load_seconds: float
    run_seconds: float
    perplexity: Optional[Perplexity]
    divergence: Optional[Divergence]
    outputs: Optional[list[OutputDifference]]
    noise: Optional[Noise]
    per_node: Optional[list[NodeDivergence]]
    limits: Optional[list[LimitResult]]


@dataclass(frozen=True)
class Evaluation:
    """How models compare with their baseline on the same input."""

    schema: str
    onnxq: str
    engine: EngineInfo
    task: str
    input: InputInfo
    baseline: Optional[ModelResult]
    models: list[ModelResult]
    warnings: list[str]

    @property
    def passed(self) -> bool:
        """Whether every limit held."""
        return not any(True for _ in self.missed())

    def missed(self) -> Iterator[str]:
        """The limits that were missed, a sentence each."""
        for model in self.models:
            for limit in model.limits or []:
                if not limit.held:
                    yield f"{model.name} misses {limit.name} {limit.limit:g}, found {limit.found:.4g}"
