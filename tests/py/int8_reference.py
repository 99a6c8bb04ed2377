"""What `int8-dynamic` promises, in numpy: dynamic quantization step by step, in float32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, numpy_helper


@dataclass(frozen=True)
class Stored:
    """A weight as the file holds it; scales and zero points with the extents they have there."""

    codes: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray

    def decoded(self) -> np.ndarray:
        wide = self.codes.astype(np.float32) - self.zero_points.astype(np.float32)
        return wide * self.scales


def stored(model: ModelProto, name: str = "W") -> Stored:
    """The quantized form of the weight `name`."""
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    codes = next(tensors[name + suffix] for suffix in ("_int8", "_uint8") if name + suffix in tensors)
    found = [tensors[name + suffix] for suffix in ("_zero_points", "_zero_point") if name + suffix in tensors]
    return Stored(codes, tensors[f"{name}_scales"], found[0] if found else np.zeros((), codes.dtype))


def quantize_activation(x: np.ndarray) -> tuple[np.ndarray, np.float32, np.uint8]:
    """`DynamicQuantizeLinear`, by the text of the standard."""
    low, high = np.float32(min(x.min(initial=0), 0)), np.float32(max(x.max(initial=0), 0))
    scale = np.float32((high - low) / np.float32(255)) if high > low else np.float32(1)
    zero_point = np.uint8(np.clip(np.round(-low / scale), 0, 255))
    codes = np.clip(np.round(x / scale) + np.float32(zero_point), 0, 255).astype(np.uint8)
    return codes, scale, zero_point


def product(x: np.ndarray, weight: Stored) -> np.ndarray:
    """`x @ W`: exact integers, then one product of the scales and one by it."""
    codes, scale, zero_point = quantize_activation(x)
    wide = weight.codes.astype(np.int64) - weight.zero_points.astype(np.int64)
    whole = np.matmul(codes.astype(np.int64) - int(zero_point), wide)
    return whole.astype(np.float32) * (scale * weight.scales)
