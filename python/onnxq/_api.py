"""The functions of the package."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional, Union

from ._command import Error, LimitMissed, StrPath, arguments, path, report
from ._decode import decode
from ._evaluation import Evaluation
from ._options import EvaluateOptions, OptimizeOptions, QuantizeOptions, checked
from ._reports import Inspection, Report, Verification

if TYPE_CHECKING:
    from typing_extensions import Unpack


def quantize(
    model: StrPath, output: Optional[StrPath] = None, *, dtype: str = "q4", **options: Unpack[QuantizeOptions]
) -> Report:
    """Quantizes a model, as ``onnxq quantize`` does.

    Without ``output`` the result stands beside ``model``, under a name that tells the dtype.

    :raises LimitMissed: ``check`` missed a limit, so that there is no output (but with ``keep``).
    :raises Error: It could not be done, and no model was written.
    """
    if "," in dtype:
        raise ValueError(f"dtype is {dtype!r}, expected one; quantize_all() takes several")
    reports = quantize_all(model, output, dtypes=[dtype], **options)
    if len(reports) != 1:
        raise Error(f"{os.fspath(model)} has {len(reports)} models; quantize_all() returns a report of each")
    return reports[0]


def quantize_all(
    model: StrPath,
    output: Optional[StrPath] = None,
    *,
    dtypes: Sequence[str],
    **options: Unpack[QuantizeOptions],
) -> list[Report]:
    """Quantizes a model in several ways while it is read once; ``output`` is a folder that is there.

    :raises LimitMissed: As :func:`quantize`.
    :raises Error: As :func:`quantize`.
    """
    given = arguments(checked("quantize", options, QuantizeOptions))
    where = [] if output is None else [f"--output={os.fspath(output)}"]
    _, found = report("quantize", path(model), *where, f"--dtype={','.join(dtypes)}", *given)
    reports = [decode(Report, one) for one in (found if isinstance(found, list) else [found])]
    if not all(one.published or one.dry_run for one in reports):
        raise LimitMissed(reports)
    return reports


def optimize(model: StrPath, output: StrPath, passes: str, **options: Unpack[OptimizeOptions]) -> Report:
    """Runs a pipeline of passes over a model, as ``onnxq opt`` does; ``passes`` is for example ``"clean"``.

    :raises Error: It could not be done, and no model was written.
    """
    given = arguments(checked("optimize", options, OptimizeOptions))
    _, found = report("opt", path(model), f"--output={os.fspath(output)}", f"--passes={passes}", *given)
    return decode(Report, found)


def evaluate(
    models: Union[StrPath, Sequence[StrPath]],
    *,
    baseline: Optional[StrPath] = None,
    **options: Unpack[EvaluateOptions],
) -> Evaluation:
    """Compares what models compute with what ``baseline`` does, as ``onnxq eval`` does.

    A limit that was missed is no error: see :attr:`Evaluation.passed`.

    :raises Error: It could not be done.
    """
    given = arguments(checked("evaluate", options, EvaluateOptions))
    against = [] if baseline is None else [f"--baseline={os.fspath(baseline)}"]
    paths = [models] if isinstance(models, (str, os.PathLike)) else models
    _, found = report("eval", *map(path, paths), *against, *given)
    return decode(Evaluation, found)


def verify(model: StrPath, *targets: str, source: Optional[StrPath] = None) -> Verification:
    """Whether a model is valid, whether ``targets`` (such as ``"onnxruntime@1.20"``) run it, and whether it was
    made from ``source``.

    :raises Error: It could not be read, or is a folder with several models.
    """
    given = arguments({"target": targets, "source": source})
    _, found = report("verify", path(model), *given)
    if isinstance(found, list):
        raise Error(f"{os.fspath(model)} has {len(found)} models; expected the path of one")
    return decode(Verification, found)


def inspect(model: StrPath, *, no_hash: bool = False) -> Inspection:
    """What a model is: inputs and outputs, operators, weights, SHA-256.

    :raises Error: It could not be read.
    """
    _, found = report("inspect", path(model), *arguments({"no_hash": no_hash}))
    return decode(Inspection, found)
