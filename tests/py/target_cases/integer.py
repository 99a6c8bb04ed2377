"""Integer products and convolutions, and what makes integers of activations."""

from __future__ import annotations

import numpy as np

from builders import CONTRIB, FLOAT, FLOAT16, INT32, NUMPY_TYPES, GraphBuilder, random
from target_cases.base import (
    CLOSE,
    HALF,
    INT8,
    RANGES,
    UINT8,
    Case,
    case,
    integers,
)


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
