"""The options of the commands. Names and meaning are those of ``onnxq COMMAND --help``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict, Union

from ._command import StrPath

Globs = Union[str, Sequence[str]]


class CommandOptions(TypedDict, total=False):
    """Of every command."""

    threads: int


class ReadOptions(TypedDict, total=False):
    """How a model is read."""

    drop_unknown: bool
    verify_sha: str


class EngineOptions(TypedDict, total=False):
    """What runs models."""

    engine: str
    ort_lib: StrPath


class TextOptions(TypedDict, total=False):
    """How a text is cut."""

    tokenizer: StrPath
    window: int
    stride: int
    windows: Union[int, str]


class LimitOptions(TypedDict, total=False):
    """What a comparison may find at most, or at least. Divergences are in nats, ``min_snr`` is in dB."""

    max_mean_kld: float
    max_p99_kld: float
    min_top1: float
    max_ppl_ratio: float
    max_logprob_diff: float
    max_diff: float
    min_snr: float
    min_cosine: float


class OptimizeOptions(CommandOptions, ReadOptions, total=False):
    """Of ``onnxq opt``."""

    dim: Mapping[str, int]
    dry_run: bool
    external_data: str
    chunk_size: Union[int, str]
    sync: bool
    record_sha: bool
    verify_each: bool
    stop_after: int


class QuantizeOptions(OptimizeOptions, EngineOptions, TextOptions, LimitOptions, total=False):
    """Of ``onnxq quantize``."""

    bits: int
    block_size: int
    asymmetric: bool
    symmetric: bool
    method: str
    accuracy_level: int
    io_types: str
    target: Globs
    format: str
    include: Globs
    exclude: Globs
    allow_nonfinite: bool
    passes: str
    no_clean: bool
    budget: str
    recipe: StrPath
    calibrate: StrPath
    calibration_windows: Union[int, str]
    calibration_folder: StrPath
    check: StrPath
    keep: bool
    config: StrPath
    no_config: bool
    layout: str
    force: bool
    sums: bool
    card: bool


class EvaluateOptions(CommandOptions, EngineOptions, TextOptions, LimitOptions, total=False):
    """Of ``onnxq eval``."""

    save_baseline: StrPath
    baseline_logprobs: StrPath
    task: str
    noise: int
    per_node: Union[bool, int]
    log_probs: StrPath
    bench: int
    text: StrPath
    tokens: StrPath
    inputs: Union[StrPath, Sequence[StrPath]]
    random: int
    seed: int
    dim: Mapping[str, int]
    chunk: int
    batch: int
    junit: StrPath
    html: StrPath


def checked(function: str, options: Mapping[str, object], kind: type) -> Mapping[str, object]:
    """``options``, when ``kind`` has all of them.

    :raises TypeError: It has not.
    """
    for name in options:
        if name not in kind.__annotations__:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")
    return options
