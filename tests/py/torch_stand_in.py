"""What ONNX Runtime's half-quadratic quantizer needs of torch, over numpy.

Torch is gigabytes, and that quantizer calls a dozen functions of it, all of which numpy has under
other names. In single precision, element by element, the results are the same but for the order of sums.
"""

from __future__ import annotations

import sys
import types

import numpy as np


class Tensor(np.ndarray):
    is_cuda = False

    def float(self) -> Tensor:
        return self.astype(np.float32)

    def int(self) -> Tensor:
        return self.astype(np.int32)

    def to(self, dtype: type) -> Tensor:
        return self.astype(dtype)

    def clamp(self, min=None, max=None) -> Tensor:
        return np.clip(self, min, max)

    def min(self, axis=None, keepdim=False, **kwargs):
        return (np.min(np.asarray(self), axis, keepdims=keepdim).view(Tensor),)

    def max(self, axis=None, keepdim=False, **kwargs):
        return (np.max(np.asarray(self), axis, keepdims=keepdim).view(Tensor),)

    def numpy(self) -> np.ndarray:
        return np.asarray(self)


def mean(x: Tensor, axis: int, keepdim: bool) -> Tensor:
    return np.mean(x, axis, keepdims=keepdim).view(Tensor)


def pad(x: Tensor, widths: tuple[int, ...], mode: str, value: float) -> Tensor:
    """`widths` begin with the last axis."""
    pairs = [widths[i : i + 2] for i in range(0, len(widths), 2)]
    pairs += [(0, 0)] * (x.ndim - len(pairs))
    return np.pad(x, pairs[::-1], mode=mode, constant_values=value).view(Tensor)


def install(monkeypatch) -> None:
    """`import torch` gives this, until the test ends."""
    functional = types.SimpleNamespace(pad=pad, relu=lambda x: np.maximum(x, 0))
    torch = types.ModuleType("torch")
    torch.nn = types.SimpleNamespace(functional=functional)
    torch.float16, torch.float32 = np.float16, np.float32
    torch.round, torch.abs, torch.sign, torch.pow, torch.mean = np.rint, np.abs, np.sign, np.power, mean
    monkeypatch.setitem(sys.modules, "torch", torch)


def from_numpy(x: np.ndarray) -> Tensor:
    return x.view(Tensor)
