"""Weights of few bits: `MatMulNBits`, `GatherBlockQuantized`, `MatMulBnb4`, `QMoE`."""

from __future__ import annotations

import numpy as np

from builders import CONTRIB, FLOAT, FLOAT16, INT32, INT64, NUMPY_TYPES, GraphBuilder, random
from target_cases.base import (
    CLOSE,
    EIGHT_BITS,
    HALF,
    INT4,
    UINT4,
    UINT8,
    Case,
    blocks_of,
    case,
    integers,
    pack,
    scaled,
    sub_byte,
)


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
    packed = dtype == UINT8
    data = b.weight("data", pack(codes, used)) if packed else sub_byte(b, "data", turn(codes), dtype)
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
