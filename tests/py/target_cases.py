"""Small models, one for each thing that some release of ONNX Runtime refuses, fails in, or gets
wrong, and for its right neighbours; each with feeds and what it has to compute, in numpy.

`CASES` holds them by name. What is expected is arithmetic by the operators' definitions, in
float64 and integers; nothing here runs ONNX Runtime or the compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper

from builders import BFLOAT16, CONTRIB, FLOAT, FLOAT16, INT32, INT64, NUMPY_TYPES, GraphBuilder, random

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


def matmul_nbits(
    bits: int = 4,
    block: int = 32,
    k: int = 64,
    n: int = 16,
    level: int | None = None,
    zeros: str = "",
    dtype: int = FLOAT,
    g_idx: bool = False,
    bias: bool = False,
    flat: bool = False,
    prepacked: int | None = None,
) -> Case:
    """`zeros`: none, `codes` or `floats`; `flat`: scales as one axis, as in old files."""
    b = GraphBuilder()
    np_type = NUMPY_TYPES[dtype]
    blocks = blocks_of(k, block)
    top = (1 << bits) - 1
    codes = integers(0, top, n, blocks * block)
    scales = np.abs(random(n, blocks, scale=0.1)).astype(np_type)
    x = random(3, k, seed=1).astype(np_type)
    inputs = [b.input("x", [3, k], dtype)]
    inputs.append(b.weight("B", pack(codes.reshape(n, blocks, block), bits)))
    inputs.append(b.weight("scales", scales.reshape(-1) if flat else scales))
    zero: np.ndarray | float = float(1 << (bits - 1))
    optional = ["", "", ""]
    if zeros == "codes":
        zero = integers(0, top, n, blocks, seed=2)
        optional[0] = b.weight("zero_points", pack(zero, bits))
    elif zeros == "floats":
        zero = (random(n, blocks, seed=3) + top / 2).astype(np_type)
        optional[0] = b.weight("zero_points", zero)
    if g_idx:
        optional[1] = b.weight("g_idx", np.arange(k) // block, INT32)
    expected = x.astype(np.float64) @ scaled(codes, scales, zero, block)[:, :k].T
    if bias:
        add = random(n, seed=4).astype(np_type)
        optional[2] = b.weight("bias", add)
        expected = expected + add
    while optional and not optional[-1]:
        optional.pop()
    attributes = {"accuracy_level": level, "weight_prepacked": prepacked}
    attributes = {name: value for name, value in attributes.items() if value is not None}
    node = {"K": k, "N": n, "bits": bits, "block_size": block, **attributes}
    b.node("MatMulNBits", *inputs, *optional, out="y", domain=CONTRIB, **node)
    b.output("y", [3, n], dtype)
    tolerance = EIGHT_BITS if level == 4 else HALF if dtype == FLOAT16 else CLOSE
    return Case(b.model(domains=[CONTRIB]), {"x": x}, expected, tolerance)


case("nbits-4", matmul_nbits)
for block in (16, 64, 128, 256):
    case(f"nbits-4-block-{block}", matmul_nbits, block=block, k=2 * block)
case("nbits-4-block-8", matmul_nbits, block=8)
case("nbits-4-block-512", matmul_nbits, block=512, k=1024)
case("nbits-4-rest", matmul_nbits, block=16, k=40)
case("nbits-4-flat-scales", matmul_nbits, flat=True)
case("nbits-4-half", matmul_nbits, dtype=FLOAT16)
case("nbits-4-half-level-4", matmul_nbits, dtype=FLOAT16, level=4)
for bits in (2, 4, 8):
    case(f"nbits-{bits}-level-0", matmul_nbits, bits, level=0)
    case(f"nbits-{bits}-level-1", matmul_nbits, bits, level=1)
    case(f"nbits-{bits}-level-4", matmul_nbits, bits, level=4)
    case(f"nbits-{bits}-zeros", matmul_nbits, bits, level=4, zeros="codes")
    case(f"nbits-{bits}-odd-zeros", matmul_nbits, bits, level=4, zeros="codes", k=96)
    case(f"nbits-{bits}-float-zeros", matmul_nbits, bits, zeros="floats")
    case(f"nbits-{bits}-float-zeros-level-4", matmul_nbits, bits, zeros="floats", level=4)
    case(f"nbits-{bits}-half-zeros", matmul_nbits, bits, zeros="floats", dtype=FLOAT16, level=4)
case("nbits-2-block-16", matmul_nbits, 2, block=16, level=4)
case("nbits-g-idx", matmul_nbits, g_idx=True)
case("nbits-8-g-idx", matmul_nbits, 8, level=4, g_idx=True)
case("nbits-bias", matmul_nbits, bias=True)
case("nbits-bias-half", matmul_nbits, bias=True, dtype=FLOAT16)
case("nbits-2-g-idx-zeros", matmul_nbits, 2, level=4, g_idx=True, zeros="codes")
case("nbits-2-g-idx-level-0", matmul_nbits, 2, g_idx=True)
case("nbits-2-g-idx", matmul_nbits, 2, level=4, g_idx=True)
case("nbits-half-g-idx", matmul_nbits, dtype=FLOAT16, g_idx=True)
for level in (0, 1, 2, 3):
    case(f"nbits-4-half-level-{level}", matmul_nbits, dtype=FLOAT16, level=level)
case("nbits-4-half-level-4-zeros", matmul_nbits, dtype=FLOAT16, level=4, zeros="codes")
case("nbits-4-half-level-4-bias", matmul_nbits, dtype=FLOAT16, level=4, bias=True)
case("nbits-4-half-level-4-block-16", matmul_nbits, dtype=FLOAT16, level=4, block=16)
case("nbits-4-half-level-4-g-idx", matmul_nbits, dtype=FLOAT16, level=4, g_idx=True)
case("nbits-prepacked-0", matmul_nbits, prepacked=0)


def gather(
    dtype: int = UINT8,
    bits: int | None = 4,
    block: int = 16,
    width: int = 64,
    zeros: bool = False,
    scale_type: int = FLOAT,
    index_type: int = INT64,
    opset: int = 17,
    ir: int = 8,
    column: bool = False,
    indices: list[int] | None = None,
) -> Case:
    """A table of 10 rows; `column`: quantized along axis 0, gathered along axis 1."""
    b = GraphBuilder()
    used = bits or 4
    low, high = (-8, 7) if dtype == INT4 else (0, (1 << used) - 1)
    codes = integers(low, high, 10, width)
    blocks = blocks_of(width, block)
    scales = np.abs(random(10, blocks, scale=0.1)).astype(NUMPY_TYPES[scale_type])
    zero: np.ndarray | float = float(1 << (used - 1)) if dtype == UINT8 else 0.0
    if zeros:
        zero = integers(low, high, 10, blocks, seed=5)
    table = scaled(codes, scales, zero, block)
    turn = (lambda a: a.T) if column else (lambda a: a)
    if dtype == UINT8:
        data = b.weight("data", pack(codes, used))
    else:
        data = sub_byte(b, "data", turn(codes), dtype)
    indices_fed = np.array([3, 0, 9] if indices is None else indices, NUMPY_TYPES[index_type])
    inputs = [data, b.input("indices", [len(indices_fed)], index_type), b.weight("scales", turn(scales))]
    if zeros and dtype == UINT8:
        inputs.append(b.weight("zero_points", pack(zero, used)))
    elif zeros:
        inputs.append(sub_byte(b, "zero_points", turn(zero), dtype))
    attributes = {"bits": bits} if bits else {}
    axes = {"gather_axis": 1, "quantize_axis": 0} if column else {"gather_axis": 0, "quantize_axis": 1}
    node = {"block_size": block, **axes, **attributes}
    b.node("GatherBlockQuantized", *inputs, out="y", domain=CONTRIB, **node)
    picked = table[np.where((indices_fed < -10) | (indices_fed > 9), 0, indices_fed)]
    b.output("y", [width, len(indices_fed)] if column else [len(indices_fed), width], scale_type)
    expected = turn(picked)
    tolerance = HALF if scale_type == FLOAT16 else CLOSE
    return Case(b.model(opset, ir, domains=[CONTRIB]), {"indices": indices_fed}, expected, tolerance)


for bits in (2, 4, 8):
    case(f"gather-{bits}", gather, bits=bits)
    case(f"gather-{bits}-zeros", gather, bits=bits, zeros=True)
    case(f"gather-{bits}-odd", gather, bits=bits, width=48)
    case(f"gather-{bits}-odd-zeros", gather, bits=bits, width=48, zeros=True)
case("gather-4-no-bits", gather, bits=None)
case("gather-4-no-bits-zeros", gather, bits=None, zeros=True)
case("gather-4-no-bits-odd-zeros", gather, bits=None, width=48, zeros=True)
case("gather-4-one-block-zeros", gather, width=16, zeros=True)
case("gather-4-block-8", gather, block=8)
case("gather-4-block-128", gather, block=128, width=256)
case("gather-4-half", gather, scale_type=FLOAT16)
case("gather-4-int32", gather, index_type=INT32)
for name, dtype in (("uint4", UINT4), ("int4", INT4)):
    case(f"gather-{name}", gather, dtype, None, opset=21, ir=10)
    case(f"gather-{name}-bits", gather, dtype, 4, opset=21, ir=10)
    case(f"gather-{name}-zeros", gather, dtype, None, zeros=True, opset=21, ir=10)
    case(f"gather-{name}-odd-zeros", gather, dtype, None, width=48, zeros=True, opset=21, ir=10)
    case(f"gather-{name}-half", gather, dtype, None, scale_type=FLOAT16, opset=21, ir=10)
    case(f"gather-{name}-column", gather, dtype, None, width=48, opset=21, ir=10, column=True)


def matmul_integer(a_type: int, b_type: int, a_zero: str = "", b_zero: str = "") -> Case:
    """Zero points: none, `one`, or `each` (a row of A, a column of B)."""
    b = GraphBuilder()
    low = {UINT8: 0, INT8: -100}
    x = integers(low[a_type], 100, 3, 16).astype(NUMPY_TYPES[a_type])
    w = integers(low[b_type], 100, 16, 8, seed=1).astype(NUMPY_TYPES[b_type])
    inputs = [b.input("x", [3, 16], a_type), b.weight("w", w), "", ""]
    zeros = [np.zeros((), np.int64), np.zeros((), np.int64)]
    for slot, kind, length, dtype in ((0, a_zero, 3, a_type), (1, b_zero, 8, b_type)):
        if kind:
            zeros[slot] = integers(1, 9, *([length] if kind == "each" else []), seed=2)
            inputs[2 + slot] = b.weight(f"zero{slot}", zeros[slot], dtype)
    while not inputs[-1]:
        inputs.pop()
    b.node("MatMulInteger", *inputs, out="y")
    b.output("y", [3, 8], INT32)
    rows = zeros[0].reshape(-1, 1) if zeros[0].ndim else zeros[0]
    expected = (x.astype(np.int64) - rows) @ (w.astype(np.int64) - zeros[1])
    return Case(b.model(), {"x": x}, expected, 0)


def conv_integer(x_type: int, w_type: int, zero: str = "one", groups: int = 1) -> Case:
    """`zero` of the weight: none, `one` or `each` channel."""
    b = GraphBuilder()
    low = {UINT8: 0, INT8: -100}
    x = integers(low[x_type], 100, 1, 2, 5, 5).astype(NUMPY_TYPES[x_type])
    w = integers(low[w_type], 100, 4, 2 // groups, 3, 3, seed=1).astype(NUMPY_TYPES[w_type])
    x_zero = np.array(7)
    w_zero = {"": np.array(0), "one": np.array(3), "each": np.array([1, 2, 3, 4])}[zero]
    inputs = [b.input("x", [1, 2, 5, 5], x_type), b.weight("w", w), b.weight("x_zero", x_zero, x_type)]
    if zero:
        inputs.append(b.weight("w_zero", w_zero, w_type))
    b.node("ConvInteger", *inputs, out="y", kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4, group=groups)
    b.output("y", [1, 4, 5, 5], INT32)
    wide = w.astype(np.int64) - w_zero.reshape(-1, 1, 1, 1)
    expected = convolve(x.astype(np.int64) - x_zero, wide, groups)
    return Case(b.model(), {"x": x}, expected, 0)


def convolve(x: np.ndarray, w: np.ndarray, groups: int = 1) -> np.ndarray:
    """A 3 x 3 convolution with one ring of zeros around."""
    x = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
    per_group = w.shape[0] // groups
    parts = []
    for g in range(groups):
        own = windows[:, g * w.shape[1] : (g + 1) * w.shape[1]]
        parts.append(np.einsum("nchwij,ocij->nohw", own, w[g * per_group : (g + 1) * per_group]))
    return np.concatenate(parts, 1)


TYPE_NAMES = {UINT8: "u8", INT8: "s8"}
for a_type in (UINT8, INT8):
    for b_type in (UINT8, INT8):
        pair = f"{TYPE_NAMES[a_type]}-{TYPE_NAMES[b_type]}"
        case(f"matmul-integer-{pair}", matmul_integer, a_type, b_type)
        case(f"matmul-integer-{pair}-zeros", matmul_integer, a_type, b_type, "one", "each")
        case(f"conv-integer-{pair}", conv_integer, a_type, b_type)
        case(f"conv-integer-{pair}-each", conv_integer, a_type, b_type, "each")
case("matmul-integer-row-zeros", matmul_integer, UINT8, UINT8, "each")
case("conv-integer-no-zero", conv_integer, UINT8, UINT8, "")
case("conv-integer-groups", conv_integer, UINT8, UINT8, groups=2)


def dynamic_quantize(dtype: int = FLOAT) -> Case:
    b = GraphBuilder()
    x = random(4, 9).astype(NUMPY_TYPES[dtype])
    b.node("DynamicQuantizeLinear", b.input("x", [4, 9], dtype), out=["y", "s", "z"])
    b.output("y", [4, 9], UINT8)
    q, *_ = quantize_dynamic(x)
    return Case(b.model(), {"x": x}, q, 0)


def quantize_dynamic(x: np.ndarray) -> tuple[np.ndarray, np.float32, int]:
    low, high = min(np.float32(0), x.min()), max(np.float32(0), x.max())
    scale = np.float32((high - low) / np.float32(255))
    zero = int(np.clip(np.rint(-low / scale), 0, 255))
    return np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.int64), scale, zero


case("dynamic-quantize", dynamic_quantize)
case("dynamic-quantize-half", dynamic_quantize, FLOAT16)


def dynamic_matmul(w_type: int = INT8, each: bool = True, zero: bool = True, bias: bool = True) -> Case:
    b = GraphBuilder()
    x = random(3, 16)
    w = integers(0 if w_type == UINT8 else -100, 100, 16, 8, seed=1).astype(NUMPY_TYPES[w_type])
    scales = np.abs(random(*([8] if each else []), scale=0.01, seed=2))
    zeros = integers(1, 9, *([8] if each else []), seed=3) if zero else np.array(0)
    add = random(8, seed=4)
    inputs = [b.input("x", [3, 16]), b.weight("w", w), b.weight("scale", scales)]
    inputs.append(b.weight("zero", zeros, w_type) if zero else "")
    inputs.append(b.weight("bias", add) if bias else "")
    b.node("DynamicQuantizeMatMul", *inputs, out="y", domain=CONTRIB)
    b.output("y", [3, 8])
    q, scale, x_zero = quantize_dynamic(x)
    expected = (q - x_zero) @ (w.astype(np.int64) - zeros) * (np.float64(scale) * scales)
    return Case(b.model(domains=[CONTRIB]), {"x": x}, expected + (add if bias else 0))


case("dynamic-matmul-s8", dynamic_matmul)
case("dynamic-matmul-u8", dynamic_matmul, UINT8)
case("dynamic-matmul-one-scale", dynamic_matmul, each=False)
case("dynamic-matmul-plain", dynamic_matmul, zero=False, bias=False)


def integer_to_float(a_type: int, b_type: int, half: bool = False) -> Case:
    b = GraphBuilder()
    low = {UINT8: 0, INT8: -100}
    x = integers(low[a_type], 100, 3, 16).astype(NUMPY_TYPES[a_type])
    w = integers(low[b_type], 100, 16, 8, seed=1).astype(NUMPY_TYPES[b_type])
    dtype = FLOAT16 if half else FLOAT
    a_scale = np.array(0.01).astype(NUMPY_TYPES[dtype])
    b_scale = np.abs(random(8, scale=0.01, seed=2)).astype(NUMPY_TYPES[dtype])
    inputs = [b.input("x", [3, 16], a_type), b.weight("w", w)]
    inputs += [b.weight("a_scale", a_scale), b.weight("b_scale", b_scale)]
    inputs += [b.weight("a_zero", np.array(5), a_type), b.weight("b_zero", np.full(8, 3), b_type)]
    b.node("MatMulIntegerToFloat", *inputs, out="y", domain=CONTRIB)
    b.output("y", [3, 8], dtype)
    product = (x.astype(np.int64) - 5) @ (w.astype(np.int64) - 3)
    expected = product * (np.float64(a_scale) * b_scale.astype(np.float64))
    return Case(b.model(domains=[CONTRIB]), {"x": x}, expected, HALF if half else CLOSE)


for a_type in (UINT8, INT8):
    for b_type in (UINT8, INT8):
        pair = f"{TYPE_NAMES[a_type]}-{TYPE_NAMES[b_type]}"
        case(f"integer-to-float-{pair}", integer_to_float, a_type, b_type)
case("integer-to-float-half", integer_to_float, UINT8, UINT8, half=True)

NF4 = [-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.091050036, 0.0]
NF4 += [0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0]
FP4 = [0.0, 5.208333333e-03, 0.66666667, 1.0, 0.33333333, 0.5, 0.16666667, 0.25]
FP4 += [-value for value in FP4]


def matmul_bnb4(quant_type: int = 1, block: int = 32, dtype: int = FLOAT, k: int = 64) -> Case:
    b = GraphBuilder()
    n = 8
    x = random(3, k).astype(NUMPY_TYPES[dtype])
    codes = integers(0, 15, n * k, seed=1)
    largest = np.abs(random(blocks_of(n * k, block), seed=2)).astype(NUMPY_TYPES[dtype])
    # The first element is in the high half of a byte.
    packed = (codes[0::2] << 4 | codes[1::2]).astype(np.uint8)
    inputs = [b.input("x", [3, k], dtype), b.weight("B", packed), b.weight("absmax", largest)]
    node = {"K": k, "N": n, "block_size": block, "quant_type": quant_type}
    b.node("MatMulBnb4", *inputs, out="y", domain=CONTRIB, **node)
    b.output("y", [3, n], dtype)
    table = np.array(NF4 if quant_type else FP4)
    w = table[codes] * largest.astype(np.float64)[np.arange(n * k) // block]
    expected = x.astype(np.float64) @ w.reshape(n, k).T
    return Case(b.model(domains=[CONTRIB]), {"x": x}, expected, HALF if dtype == FLOAT16 else CLOSE)


case("bnb4-nf4", matmul_bnb4)
case("bnb4-fp4", matmul_bnb4, 0)
case("bnb4-half", matmul_bnb4, dtype=FLOAT16)
case("bnb4-block-16", matmul_bnb4, block=16)
case("bnb4-block-8", matmul_bnb4, block=8)

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
    wide = (lambda a: np.repeat(a, block, 1)[:, :width]) if block else (lambda a: a.reshape(-1, 1) if a.ndim else a)
    expected = (codes - wide(zeros)) * wide(scales.astype(np.float64))
    tolerance = HALF if scale_type in (FLOAT16, BFLOAT16) else CLOSE
    feeds = {"one": np.ones(1, NUMPY_TYPES[scale_type])}
    return Case(b.model(opset, ir), feeds, expected, tolerance)


for dtype, name in ((UINT8, "u8"), (INT8, "s8"), (INT32, "s32")):
    case(f"dequantize-{name}-opset-10", dequantize, dtype, 10, 5, zero=dtype != INT32)
    case(f"dequantize-{name}-opset-13", dequantize, dtype, 13, 7, per_axis=True, zero=dtype != INT32)
    case(f"dequantize-{name}-opset-19-half", dequantize, dtype, 19, 9, zero=dtype != INT32, scale_type=FLOAT16)
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


def quantize(dtype: int, opset: int, ir: int, block: int = 0, per_axis: bool = False, scale_type: int = FLOAT) -> Case:
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


def qlinear_matmul(a_type: int, b_type: int, each: bool = False) -> Case:
    b = GraphBuilder()
    low = {UINT8: 0, INT8: -100}
    x = integers(low[a_type], 100, 3, 16).astype(NUMPY_TYPES[a_type])
    w = integers(low[b_type], 100, 16, 8, seed=1).astype(NUMPY_TYPES[b_type])
    scale = np.exp2(integers(-9, -7, *([8] if each else []), seed=2)).astype(np.float32)
    zero = np.zeros([8] if each else [], int) + 2 * (not each)
    one = np.array(1, np.float32)
    names = [b.input("x", [3, 16], a_type), b.weight("xs", one), b.weight("xz", np.array(5), a_type)]
    names += [b.weight("w", w), b.weight("ws", scale), b.weight("wz", zero, b_type)]
    names += [b.weight("ys", one), b.weight("yz", np.array(7), a_type)]
    b.node("QLinearMatMul", *names, out="y")
    b.output("y", [3, 8], a_type)
    product = (x.astype(np.int64) - 5) @ (w.astype(np.int64) - zero) * scale.astype(np.float64)
    expected = np.clip(np.rint(product) + 7, *RANGES[a_type])
    # A tie may be rounded to the other side of one.
    return Case(b.model(), {"x": x}, expected, 1 / max(1, np.abs(expected).max()))


def qlinear_conv(x_type: int, w_type: int, each: bool = False, each_zero: bool = False) -> Case:
    b = GraphBuilder()
    low = {UINT8: 0, INT8: -100}
    x = integers(low[x_type], 100, 1, 2, 5, 5).astype(NUMPY_TYPES[x_type])
    w = integers(low[w_type], 100, 4, 2, 3, 3, seed=1).astype(NUMPY_TYPES[w_type])
    scale = np.exp2(integers(-9, -7, *([4] if each else []), seed=2)).astype(np.float32)
    zero = np.array([1, 2, 3, 4]) if each_zero else np.zeros([4] if each else [], int)
    one = np.array(1, np.float32)
    names = [b.input("x", [1, 2, 5, 5], x_type), b.weight("xs", one), b.weight("xz", np.array(5), x_type)]
    names += [b.weight("w", w), b.weight("ws", scale), b.weight("wz", zero, w_type)]
    names += [b.weight("ys", one), b.weight("yz", np.array(7), x_type)]
    b.node("QLinearConv", *names, out="y", kernel_shape=[3, 3], pads=[1] * 4)
    b.output("y", [1, 4, 5, 5], x_type)
    wide = w.astype(np.int64) - zero.reshape(-1, 1, 1, 1)
    sums = convolve(x.astype(np.int64) - 5, wide) * scale.astype(np.float64).reshape(-1, 1, 1)
    expected = np.clip(np.rint(sums) + 7, *RANGES[x_type])
    return Case(b.model(), {"x": x}, expected, 1 / max(1, np.abs(expected).max()))


for a_type in (UINT8, INT8):
    for b_type in (UINT8, INT8):
        pair = f"{TYPE_NAMES[a_type]}-{TYPE_NAMES[b_type]}"
        case(f"qlinear-matmul-{pair}", qlinear_matmul, a_type, b_type)
        case(f"qlinear-matmul-{pair}-each", qlinear_matmul, a_type, b_type, True)
        case(f"qlinear-conv-{pair}", qlinear_conv, a_type, b_type)
        case(f"qlinear-conv-{pair}-each", qlinear_conv, a_type, b_type, True)
        case(f"qlinear-conv-{pair}-each-zero", qlinear_conv, a_type, b_type, True, True)


def upsample(opset: int) -> Case:
    """An operator that ended with opset 10."""
    b = GraphBuilder()
    x = random(1, 1, 2, 2)
    scales = b.weight("scales", np.array([1, 1, 2, 2], np.float32))
    b.node("Upsample", b.input("x", [1, 1, 2, 2]), scales, out="y", mode="nearest")
    b.output("y", [1, 1, 4, 4])
    return Case(b.model(opset), {"x": x}, x.repeat(2, 2).repeat(2, 3))


case("upsample-9", upsample, 9)
case("upsample-13", upsample, 13)


def elementwise(op: str, dtype: int, opset: int = 17, ir: int = 8) -> Case:
    """An operator of two matrices, in a type that the CPU may not compute in."""
    b = GraphBuilder()
    x, w = random(3, 4), random(4, 4, seed=1)
    if op != "MatMul":
        x = x[:, :4]
        w = random(3, 4, seed=1)
    x, w = x.astype(NUMPY_TYPES[dtype]), w.astype(NUMPY_TYPES[dtype])
    # bfloat16 cannot be fed through numpy, so it is cast inside.
    b.node("Cast", b.input("x", list(x.shape)), out="cast", to=dtype)
    b.node(op, "cast", b.weight("w", w), out="made")
    b.node("Cast", "made", out="y", to=FLOAT)
    b.output("y", [3, 4])
    fed, w = x.astype(np.float32), w.astype(np.float64)
    expected = {"MatMul": lambda: fed @ w, "Add": lambda: fed + w, "Mul": lambda: fed * w}[op]()
    return Case(b.model(opset, ir), {"x": fed}, expected, {FLOAT: CLOSE, FLOAT16: HALF}.get(dtype, 2e-2))


for op in ("MatMul", "Add", "Mul"):
    for name, dtype in (("float", FLOAT), ("half", FLOAT16), ("bfloat16", BFLOAT16)):
        case(f"{op.lower()}-{name}", elementwise, op, dtype)


def version(opset: int, ir: int) -> Case:
    b = GraphBuilder()
    b.node("Relu", b.input("x", [5]), out="y")
    b.output("y", [5])
    x = random(5)
    return Case(b.model(opset, ir), {"x": x}, np.maximum(x, 0))


for opset in (6, 13, 20, 21, 22, 23, 24, 25, 26, 27):
    case(f"opset-{opset}", version, opset, 8)
for ir in (3, 4, 7, 9, 10, 11, 12, 13, 14):
    case(f"ir-{ir}", version, 13, ir)


def unknown_operator(domain: str, op: str) -> Case:
    b = GraphBuilder()
    b.node(op, b.input("x", [5]), out="y", domain=domain)
    b.output("y", [5])
    return Case(b.model(domains=[domain] if domain else []), {"x": random(5)}, random(5))


case("unknown-operator", unknown_operator, "", "Reluu")
case("unknown-contrib", unknown_operator, CONTRIB, "GatherNBits")


def lstm(dynamic: bool = True) -> Case:
    """`DynamicQuantizeLSTM` of whole-number weights, so that only the activations are rounded."""
    b = GraphBuilder()
    x = random(2, 1, 4)
    w = integers(-100, 100, 1, 4, 12).astype(np.int8)
    r = integers(-100, 100, 1, 3, 12, seed=1).astype(np.int8)
    scale = np.array([0.01], np.float32)
    zero = np.zeros(1, np.int8)
    names = [b.input("x", [2, 1, 4]), b.weight("W", w), b.weight("R", r), "", "", "", "", ""]
    names += [b.weight("ws", scale), b.weight("wz", zero), b.weight("rs", scale), b.weight("rz", zero)]
    b.node("DynamicQuantizeLSTM", *names, out=["", "y"], domain=CONTRIB, hidden_size=3)
    b.output("y", [1, 1, 3])
    h, c = np.zeros((1, 3)), np.zeros((1, 3))
    sigmoid = lambda a: 1 / (1 + np.exp(-a))  # noqa: E731
    for step in x.astype(np.float64):
        i, o, f, g = np.split(step @ (w[0] * 0.01) + h @ (r[0] * 0.01), 4, 1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    return Case(b.model(domains=[CONTRIB]), {"x": x}, h[None], 3e-2)


case("dynamic-lstm", lstm)


def qmoe(bits: int = 4, block: int | None = None, dtype: int = FLOAT) -> Case:
    """One expert of two a token, of weight 1; ReLU between two projections of 32."""
    b = GraphBuilder()
    np_type = NUMPY_TYPES[dtype]
    size, experts, tokens = 32, 2, 3
    x = random(tokens, size).astype(np_type)
    router = random(tokens, experts, seed=1).astype(np_type)
    names = [b.input("x", [tokens, size], dtype), b.input("router", [tokens, experts], dtype)]
    weights = []
    for layer in (1, 2):
        codes = integers(0, (1 << bits) - 1, experts, size, size, seed=layer)
        shape = (experts, size, size // block) if block else (experts, size)
        scales = np.abs(random(*shape, scale=0.05, seed=layer)).astype(np_type)
        wide = np.repeat(scales, block, 2) if block else scales[..., None]
        weights.append((codes - float(1 << (bits - 1))) * wide.astype(np.float64))
        names += [b.weight(f"w{layer}", pack(codes, bits)), b.weight(f"s{layer}", scales), ""]
    attributes = {"block_size": block} if block else {}
    node = {"k": 1, "expert_weight_bits": bits, "activation_type": "relu"}
    node |= {"normalize_routing_weights": 1, **attributes}
    b.node("QMoE", *names[:-1], out="y", domain=CONTRIB, **node)
    b.output("y", [tokens, size], dtype)
    expected = np.zeros((tokens, size))
    for t in range(tokens):
        e = int(np.argmax(router[t]))
        hidden = np.maximum(weights[0][e] @ x[t].astype(np.float64), 0)
        expected[t] = weights[1][e] @ hidden
    return Case(b.model(domains=[CONTRIB]), {"x": x, "router": router}, expected, 1e-2)


for bits in (4, 8):
    case(f"qmoe-{bits}", qmoe, bits)
    case(f"qmoe-{bits}-block", qmoe, bits, 16)
case("qmoe-half", qmoe, dtype=FLOAT16)
