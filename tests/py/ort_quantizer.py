"""ONNX Runtime's own quantizer, as the oracle for codes, scales and zero points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto
from onnxruntime.capi import _pybind_state as kernels

import dequant
from harness import plain

KERNELS = {
    2: kernels.quantize_matmul_2bits,
    4: kernels.quantize_matmul_4bits,
    8: kernels.quantize_matmul_8bits,
}


@dataclass(frozen=True)
class Rule:
    """What a weight is quantized to."""

    bits: int = 4
    block: int = 16
    symmetric: bool = True

    def args(self) -> tuple[object, ...]:
        """The same, said to the compiler."""
        given = ("--bits", self.bits, "--block-size", self.block)
        return plain(*given) if self.symmetric else plain(*given, "--asymmetric")

    def __str__(self) -> str:
        return f"bits{self.bits}-block{self.block}-{'sym' if self.symmetric else 'asym'}"


def quantize_model(model: ModelProto, rule: Rule, exclude: list[str] = ()) -> ModelProto:
    """`model` after `MatMulNBitsQuantizer` with its defaults."""
    # Imported here: it pulls in much that only two tests need.
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    config = DefaultWeightOnlyQuantConfig(block_size=rule.block, is_symmetric=rule.symmetric, bits=rule.bits)
    quantizer = MatMulNBitsQuantizer(model, nodes_to_exclude=list(exclude), algo_config=config)
    quantizer.process()
    return quantizer.model.model


def quantize_rows(rows: np.ndarray, rule: Rule) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Codes, scales and zero points of `[rows, K]`, by the kernel under that quantizer.

    Also for what the quantizer has no way to: tables and weights with a transposed layout.
    """
    n, k = rows.shape
    blocks = -(-k // rule.block)
    columns = np.ascontiguousarray(np.pad(rows, ((0, 0), (0, blocks * rule.block - k))).T)
    packed = np.zeros((n, blocks, rule.block * rule.bits // 8), np.uint8)
    scales = np.zeros((n, blocks), rows.dtype)
    zero_points = np.zeros((n, -(-blocks * rule.bits // 8)), np.uint8)
    quantize = KERNELS[rule.bits]
    quantize(packed, columns, scales, zero_points, rule.block, n, k, rule.symmetric)
    codes = dequant.unpack(packed.reshape(n, -1), rule.bits)[:, :k]
    if rule.symmetric:
        return codes, scales, None
    return codes, scales, dequant.unpack(zero_points, rule.bits)[:, :blocks]


def assert_same_codes(found: dequant.Quantized, rows: np.ndarray, rule: Rule) -> None:
    """Bit for bit: the same rule leaves nothing to a tolerance. Half weights may have float scales."""
    rows = rows.astype(found.scales.dtype)
    codes, scales, zero_points = quantize_rows(rows, rule)
    np.testing.assert_array_equal(found.scales, scales, "scales")
    np.testing.assert_array_equal(found.codes, codes, "codes")
    if zero_points is None:
        assert found.zero_points is None
    else:
        np.testing.assert_array_equal(found.zero_points, zero_points, "zero points")
