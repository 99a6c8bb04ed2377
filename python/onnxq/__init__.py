"""A compiler for ONNX files: quantizes, cleans and checks models.

Each function runs the native command ``onnxq`` and returns its report. Keywords are the options of the
command, with ``_`` for ``-``; ``onnxq quantize --help`` says what each does.
"""

from ._api import evaluate, inspect, optimize, quantize, quantize_all, verify
from ._command import Error, LimitMissed, binary, run
from ._evaluation import Evaluation, ModelResult
from ._options import EvaluateOptions, OptimizeOptions, QuantizeOptions
from ._reports import Inspection, Report, Verification

__all__ = [
    "Error",
    "EvaluateOptions",
    "Evaluation",
    "Inspection",
    "LimitMissed",
    "ModelResult",
    "OptimizeOptions",
    "QuantizeOptions",
    "Report",
    "Verification",
    "binary",
    "evaluate",
    "inspect",
    "optimize",
    "quantize",
    "quantize_all",
    "run",
    "verify",
]
