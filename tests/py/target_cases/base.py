"""What a case is, and the arithmetic that they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from builders import NUMPY_TYPES, GraphBuilder

UINT8, INT8 = TensorProto.UINT8, TensorProto.INT8
UINT4, INT4 = TensorProto.UINT4, TensorProto.INT4
UINT2, INT2 = TensorProto.UINT2, TensorProto.INT2
NUMPY_TYPES |= {UINT8: np.uint8, INT8: np.int8, TensorProto.UINT16: np.uint16, TensorProto.INT16: np.int16}

# Float32 sums of at most some hundred products; float16 inputs are exact, results are rounded.
CLOSE, HALF = 1e-5, 4e-3
# accuracy_level 4 rounds activations to 8 bits a block: up to 1.1e-2 was seen.
EIGHT_BITS = 4e-2


@dataclass(frozen=True)
class Case:
    """A model, what it is fed, and what it has to compute."""

    model: onnx.ModelProto
    feeds: dict[str, np.ndarray]
    expected: np.ndarray
    # Of the largest magnitude that is expected.
    tolerance: float = CLOSE
    # Run with graph optimizations: it is these that get it wrong.
    opts: bool = False

    def accepts(self, found: np.ndarray) -> bool:
        if found.shape != self.expected.shape:
            return False
        bound = self.tolerance * max(1.0, float(np.abs(self.expected).max(initial=0)))
        return bool(np.all(np.abs(found.astype(np.float64) - self.expected) <= bound))


CASES: dict[str, Callable[[], Case]] = {}


def case(name: str, make: Callable[..., Case], *args: object, **kwargs: object) -> None:
    assert name not in CASES, name
    CASES[name] = lambda: make(*args, **kwargs)


def integers(low: int, high: int, *shape: int, seed: int = 0) -> np.ndarray:
    """Whole numbers from `low` to `high`, both included."""
    return np.random.default_rng([seed, *shape]).integers(low, high + 1, shape)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes to bytes along the last axis, lowest bits first; a row ends at a byte."""
    per_byte = 8 // bits
    missing = -codes.shape[-1] % per_byte
    codes = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, missing)])
    groups = codes.reshape(*codes.shape[:-1], -1, per_byte).astype(np.uint16)
    return (groups << (np.arange(per_byte) * bits)).sum(-1).astype(np.uint8)


def sub_byte(b: GraphBuilder, name: str, values: np.ndarray, dtype: int) -> str:
    """An initializer of a type that numpy may not have."""
    b.initializers.append(helper.make_tensor(name, dtype, values.shape, values.flatten().tolist()))
    return name


def numbers(b: GraphBuilder, name: str, values: np.ndarray, dtype: int) -> str:
    return b.weight(name, values, dtype) if dtype in NUMPY_TYPES else sub_byte(b, name, values, dtype)


def blocks_of(length: int, block: int) -> int:
    return -(-length // block)


def scaled(codes: np.ndarray, scales: np.ndarray, zero: np.ndarray | float, block: int) -> np.ndarray:
    """`[rows, K]` codes with one scale and zero point per block of a row, in float64."""
    column = np.arange(codes.shape[1]) // block
    zero = np.broadcast_to(np.asarray(zero, np.float64), scales.shape)
    return (codes - zero[:, column]) * scales.astype(np.float64)[:, column]


RANGES = {
    UINT8: (0, 255),
    INT8: (-128, 127),
    TensorProto.UINT16: (0, 65535),
    TensorProto.INT16: (-32768, 32767),
    UINT4: (0, 15),
    INT4: (-8, 7),
    UINT2: (0, 3),
    INT2: (-2, 1),
}
