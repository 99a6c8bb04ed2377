"""Small models, one for each thing that some release of ONNX Runtime refuses, fails in, or gets
wrong, and for its right neighbours; each with feeds and what it has to compute, in numpy.

`CASES` holds them by name. What is expected is arithmetic by the operators' definitions, in
float64 and integers; nothing here runs ONNX Runtime or the compiler.
"""

from target_cases import general, integer, linear, nbits
from target_cases.base import CASES, Case

__all__ = ["CASES", "Case", "general", "integer", "linear", "nbits"]
