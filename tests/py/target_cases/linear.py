"""`QuantizeLinear` and `DequantizeLinear`, by opset and type."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from builders import BFLOAT16, FLOAT, FLOAT16, INT32, NUMPY_TYPES, GraphBuilder, random
from target_cases.base import (
    CLOSE,
    HALF,
    INT2,
    INT4,
    INT8,
    RANGES,
    UINT2,
    UINT4,
    UINT8,
    Case,
    blocks_of,
    case,
    integers,
    numbers,
)


def dequantize(
    dtype: int,
    opset: int,
    ir: int,
    block: int = 0,
    per_axis: bool = False,
    zero: bool = True,
    scale_type: int = FLOAT,
    width: int = 32,
    zero_is_zero: bool = False,
) -> Case:
    b = GraphBuilder()
    low, high = RANGES.get(dtype, (-1000, 1000))
    codes = integers(low, high, 4, width)
    shape = [4, blocks_of(width, block)] if block else [4] if per_axis else []
    scales = np.abs(random(*shape, scale=0.1)).astype(NUMPY_TYPES[scale_type])
    zeros = integers(low, high, *shape, seed=1) if zero else np.zeros(shape, int)
    zeros = zeros * 0 if zero_is_zero else zeros
    inputs = [numbers(b, "x", codes, dtype), b.weight("scale", scales)]
    if zero:
        inputs.append(numbers(b, "zero", zeros, dtype))
    attributes = {"axis": 1, "block_size": block} if block else {"axis": 0} if per_axis else {}
    b.node("DequantizeLinear", *inputs, out="w", **attributes)
    # A feed, and the constant is not folded away before a kernel is asked for.
    b.node("Mul", "w", b.input("one", [1], scale_type), out="y")
    b.output("y", [4, width], scale_type)
    wide = (
        (lambda a: np.repeat(a, block, 1)[:, :width])
        if block
        else (lambda a: a.reshape(-1, 1) if a.ndim else a)
    )
    expected = (codes - wide(zeros)) * wide(scales.astype(np.float64))
    tolerance = HALF if scale_type in (FLOAT16, BFLOAT16) else CLOSE
    feeds = {"one": np.ones(1, NUMPY_TYPES[scale_type])}
    return Case(b.model(opset, ir), feeds, expected, tolerance)


for dtype, name in ((UINT8, "u8"), (INT8, "s8"), (INT32, "s32")):
    case(f"dequantize-{name}-opset-10", dequantize, dtype, 10, 5, zero=dtype != INT32)
    case(f"dequantize-{name}-opset-13", dequantize, dtype, 13, 7, per_axis=True, zero=dtype != INT32)
    case(
        f"dequantize-{name}-opset-19-half", dequantize, dtype, 19, 9, zero=dtype != INT32, scale_type=FLOAT16
    )
for dtype, name in ((TensorProto.UINT16, "u16"), (TensorProto.INT16, "s16"), (UINT4, "u4"), (INT4, "s4")):
    for opset, ir in ((21, 10), (23, 11), (25, 13)):
        case(f"dequantize-{name}-opset-{opset}", dequantize, dtype, opset, ir)
    case(f"dequantize-{name}-blocked", dequantize, dtype, 21, 10, block=16)
for dtype, name in ((UINT8, "u8"), (INT8, "s8")):
    case(f"dequantize-{name}-blocked", dequantize, dtype, 21, 10, block=8)
case("dequantize-u4-blocked-rest", dequantize, UINT4, 21, 10, block=16, width=40)
case("dequantize-s4-blocked-half", dequantize, INT4, 21, 10, block=16, scale_type=FLOAT16)
case("dequantize-s8-bfloat16", dequantize, INT8, 21, 10, scale_type=BFLOAT16)
case("dequantize-s32-zero", dequantize, INT32, 21, 10)
case("dequantize-s32-zero-0", dequantize, INT32, 21, 10, zero_is_zero=True)
case("dequantize-s32-zero-13", dequantize, INT32, 13, 8)
case("dequantize-s32-zero-0-13", dequantize, INT32, 13, 8, zero_is_zero=True)
for dtype, name in ((UINT2, "u2"), (INT2, "s2")):
    case(f"dequantize-{name}-opset-25", dequantize, dtype, 25, 13)
    case(f"dequantize-{name}-blocked", dequantize, dtype, 25, 13, block=16)


def quantize(
    dtype: int, opset: int, ir: int, block: int = 0, per_axis: bool = False, scale_type: int = FLOAT
) -> Case:
    """`QuantizeLinear`, and `DequantizeLinear` after it, as numpy has no 4-bit types."""
    b = GraphBuilder()
    low, high = RANGES[dtype]
    x = random(4, 32, scale=3).astype(NUMPY_TYPES[scale_type])
    shape = [4, blocks_of(32, block)] if block else [4] if per_axis else []
    # Powers of two: a division by them is exact in any precision.
    scales = np.exp2(integers(-3, 0, *shape)).astype(NUMPY_TYPES[scale_type])
    zeros = integers(0, 1, *shape, seed=1)
    inputs = [b.input("x", [4, 32], scale_type), b.weight("scale", scales), numbers(b, "zero", zeros, dtype)]
    attributes = {"axis": 1, "block_size": block} if block else {"axis": 0} if per_axis else {}
    b.node("QuantizeLinear", *inputs, out="q", **attributes)
    b.node("DequantizeLinear", "q", *inputs[1:], out="y", **attributes)
    b.output("y", [4, 32], scale_type)
    wide = (lambda a: np.repeat(a, block, 1)) if block else (lambda a: a.reshape(-1, 1) if a.ndim else a)
    zeros, scales = wide(zeros), wide(scales.astype(np.float64))
    q = np.clip(np.rint(x.astype(np.float64) / scales) + zeros, low, high)
    return Case(b.model(opset, ir), {"x": x}, (q - zeros) * scales, 0)


for dtype, name in ((UINT8, "u8"), (INT8, "s8")):
    case(f"quantize-{name}-opset-10", quantize, dtype, 10, 5)
    case(f"quantize-{name}-opset-13", quantize, dtype, 13, 7, per_axis=True)
    case(f"quantize-{name}-opset-19-half", quantize, dtype, 19, 9, scale_type=FLOAT16)
    case(f"quantize-{name}-blocked", quantize, dtype, 21, 10, block=16)
for dtype, name in ((TensorProto.UINT16, "u16"), (TensorProto.INT16, "s16"), (UINT4, "u4"), (INT4, "s4")):
    case(f"quantize-{name}-opset-21", quantize, dtype, 21, 10)
    case(f"quantize-{name}-blocked", quantize, dtype, 21, 10, block=16)
    case(f"quantize-{name}-opset-23", quantize, dtype, 23, 11)
    case(f"quantize-{name}-opset-25", quantize, dtype, 25, 13)
    case(f"quantize-{name}-opset-21-half", quantize, dtype, 21, 10, scale_type=FLOAT16)
    case(f"quantize-{name}-blocked-half", quantize, dtype, 21, 10, block=16, scale_type=FLOAT16)
    case(f"quantize-{name}-axis-half", quantize, dtype, 21, 10, per_axis=True, scale_type=FLOAT16)
for dtype, name in ((UINT8, "u8"), (INT8, "s8")):
    case(f"quantize-{name}-opset-13-half", quantize, dtype, 13, 7, scale_type=FLOAT16)
    case(f"quantize-{name}-opset-21-half", quantize, dtype, 21, 10, scale_type=FLOAT16)
    case(f"quantize-{name}-axis-half", quantize, dtype, 21, 10, per_axis=True, scale_type=FLOAT16)
    case(f"quantize-{name}-blocked-half", quantize, dtype, 21, 10, block=16, scale_type=FLOAT16)
for dtype, name in ((UINT2, "u2"), (INT2, "s2")):
    case(f"quantize-{name}-opset-25", quantize, dtype, 25, 13)
