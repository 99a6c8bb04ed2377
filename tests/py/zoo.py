"""Small models of all kinds that a pass must leave computing what they compute.

Each is ONNX text and inputs; `models()` yields them. What exporters do not write stands here too:
it is legal, and some pass has once been wrong about each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx.parser
from onnx import ModelProto

from builders import random

MODERN = '<ir_version: 8, opset_import: ["" : 17]>'
LOCAL = '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>'


@dataclass(frozen=True)
class Entry:
    name: str
    model: ModelProto
    feeds: list[dict[str, np.ndarray]]


def x(*shape: int, seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": random(*shape, seed=seed)}


def both(feeds: dict[str, np.ndarray], name: str = "c") -> list[dict[str, np.ndarray]]:
    """The same inputs with a condition that holds and one that does not."""
    return [{**feeds, name: np.array(flag)} for flag in (True, False)]


TEXTS: dict[str, tuple[str, list[dict[str, np.ndarray]]]] = {
    "captures and equal names": (
        MODERN
        + """
        g (float[N,2] x, bool c) => (float[N,2] y, float[N,2] z) <float[2] k = {1.0, 2.0}> {
            h = Mul (x, k)
            y = If (c) <
                then_branch = t () => (float[N,2] a) <float[2] w = {3.0, 4.0}> {
                    u = Add (h, w) a = Mul (u, k)
                },
                else_branch = e () => (float[N,2] b) <float[2] w = {5.0, 6.0}> {
                    v = Sub (h, w) b = Identity (v)
                }
            >
            z = Identity (h)
        }""",
        [*both(x(3, 2)), *both(x(1, 2))],
    ),
    "constant condition, nested": (
        MODERN
        + """
        g (float[N,2] x, bool c) => (float[N,2] y) {
            yes = Constant <value = bool {1}> ()
            no = Constant <value = bool {0}> ()
            y = If (yes) <
                then_branch = t () => (float[N,2] a) {
                    a = If (c) <
                        then_branch = tt () => (float[N,2] p) { q = If (no) <
                            then_branch = ttt () => (float[N,2] r) { r = Neg (x) },
                            else_branch = tte () => (float[N,2] s) { s = Abs (x) }
                        > p = Relu (q) },
                        else_branch = te () => (float[N,2] u) { u = Tanh (x) }
                    >
                },
                else_branch = e () => (float[N,2] b) { b = Neg (x) }
            >
        }""",
        both(x(2, 2)),
    ),
    "branch gives a captured value": (
        MODERN
        + """
        g (float[N] x, bool c) => (float[N] y, float[N] z) {
            h = Relu (x)
            y, z = If (c) <
                then_branch = t () => (float[N] a, float[N] b) { a = Identity (h) b = Identity (x) },
                else_branch = e () => (float[N] p, float[N] q) { p = Identity (x) q = Identity (x) }
            >
        }""",
        both(x(4)),
    ),
    "loop with carried and scanned values": (
        MODERN
        + """
        g (float[2] x, int64 n) => (float[2] y, float[T,2] all) {
            more = Constant <value = bool {1}> ()
            two = Constant <value = float {2.0}> ()
            half = Constant <value = float {0.5}> ()
            y, all = Loop (n, more, x) <
                body = b (int64 i, bool go, float[2] v) => (bool on, float[2] w, float[2] s) {
                    on = Identity (go)
                    k = Mul (v, half)
                    u = Mul (k, two)
                    w = Add (u, x)
                    s = Identity (u)
                }
            >
        }""",
        [{**x(2), "n": np.array(n)} for n in (0, 1, 3)],
    ),
    "scan": (
        MODERN
        + """
        g (float[T,2] x, float[2] s) => (float[2] last, float[T,2] sums) {
            last, sums = Scan <num_scan_inputs = 1,
                body = b (float[2] a, float[2] e) => (float[2] n, float[2] o) {
                    n = Add (a, e)
                    zero = Constant <value = float {0.0}> ()
                    o = Sub (n, zero)
                }
            > (s, x)
        }""",
        [{**x(3, 2), "s": random(2, seed=1)}],
    ),
    "functions with attributes, nested": (
        LOCAL
        + """
        g (float[N,2] x) => (float[N,2] y, float[N,2] z) {
            h = local.scale <by = 2.0> (x)
            y = local.twice (h)
            z = local.twice (x)
        }
        <domain: "local", opset_import: ["" : 17]>
        scale <by: float = 3.0> (a) => (b) { k = Constant <value_float: float = @by> () b = Mul (a, k) }
        <domain: "local", opset_import: ["" : 17, "local" : 1]>
        twice (a) => (b) {
            p = local.scale <by = 0.5> (a)
            q = Identity (p)
            s = Shape (q)
            r = Reshape (q, s)
            b = Add (r, r)
        }""",
        [x(3, 2), x(1, 2)],
    ),
    "sequences": (
        MODERN
        + """
        g (float[N,4] x) => (float[N,2] y, seq(float[N,2]) s, int64 n) {
            axis = Constant <value = int64 {1}> ()
            two = Constant <value = int64[2] {2, 2}> ()
            one = Constant <value = int64 {1}> ()
            s = SplitToSequence <axis = 1> (x, two)
            first = SequenceAt (s, one)
            y = Relu (first)
            n = SequenceLength (s)
        }""",
        [x(3, 4)],
    ),
    "unused and absent": (
        MODERN
        + """
        g (float[N,4] x, float[N] unused) => (float[N,2] y, float[N,4] d, float[N,4] c) {
            k = Constant <value = int64[1] {2}> ()
            top = Constant <value = float {0.5}> ()
            y, places = TopK (x, k)
            d, mask = Dropout (x)
            c = Clip (x, "", top)
            dead = Relu (x)
            deader = Neg (dead)
        }""",
        [{**x(3, 4), "unused": random(3)}],
    ),
    "initializers that callers may replace": (
        MODERN
        + """
        g (float[N,2] x, float[2,2] w, float[2] b) => (float[N,2] y, float[N,2] z)
        <float[2,2] w = {1.0, 2.0, 3.0, 4.0}, float[2] b = {1.0, 0.0}, float[2,2] v = {1.0, 2.0, 3.0, 4.0}> {
            h = MatMul (x, w)
            y = Add (h, b)
            i = MatMul (x, v)
            z = Add (i, b)
        }""",
        [x(3, 2), {**x(3, 2), "w": random(2, 2), "b": random(2)}],
    ),
    "initializers as outputs": (
        MODERN
        + """
        g (float[N,2] x) => (float[N,2] y, float[2] b, float[2] c, float[1] k)
        <float[2] b = {1.0, 2.0}, float[2] d = {1.0, 2.0}> {
            y = Mul (x, b)
            c = Identity (d)
            k = Constant <value_floats = [2.5]> ()
        }""",
        [x(3, 2)],
    ),
    "inputs as outputs, and twice the same": (
        MODERN
        + """
        g (float[N,2] x) => (float[N,2] y, float[N,2] z, float[N,2] u) {
            y = Identity (x)
            z = Identity (x)
            v = Relu (x)
            w = Relu (x)
            u = Add (v, w)
        }""",
        [x(3, 2)],
    ),
    "IR version 3": (
        """<ir_version: 3, opset_import: ["" : 7]>
        g (float[N,1,4] x, float[2,1,3] w, float[2] s, float[2] b, float[2] m, float[2] v, float k)
        => (float[N,2,2] y)
        <float[2,1,3] w = {1.0,2.0,3.0,4.0,5.0,6.0}, float[2] s = {1.0,2.0}, float[2] b = {0.5,-0.5},
         float[2] m = {0.1,0.2}, float[2] v = {1.0,2.0}, float k = {3.0}> {
            h = Conv (x, w)
            i = BatchNormalization (h, s, b, m, v)
            j = Mul (i, k)
            y = Mul (j, k)
        }""",
        [x(1, 1, 4), x(2, 1, 4)],
    ),
    "old operators": (
        """<ir_version: 4, opset_import: ["" : 10]>
        g (float[N,2,4] x) => (float[N,2,1] y, float[N,4,4] z, float[A,B] f, float[N,2,4] d) {
            m = ReduceMean <axes = [2], keepdims = 0> (x)
            y = Unsqueeze <axes = [2]> (m)
            p = Pad <pads = [0,1,0,0,1,0]> (x)
            t = Unsqueeze <axes = [0]> (p)
            s = Squeeze <axes = [0]> (t)
            z = Clip <min = -1.0, max = 1.0> (s)
            f = Flatten (z)
            d = Dropout <ratio = 0.5> (x)
        }""",
        [x(1, 2, 4), x(3, 2, 4)],
    ),
    # The parser takes bit patterns.
    "float16": (
        MODERN
        + """
        g (float16[N,2] x) => (float16[N,2] y, float16[N,2] z)
        <float16[2,2] w = {15872, 16384, 49664, 17408}, float16[2] b = {15360, 16384}> {
            h = MatMul (x, w)
            y = Add (h, b)
            third = Constant <value = float16 {13652}> ()
            i = Mul (x, third)
            z = Mul (i, third)
        }""",
        [{"x": random(3, 2).astype(np.float16)}],
    ),
    "integers that wrap": (
        MODERN
        + """
        g (int64[N] x, int32[N] i) => (int64[N] y, int32[N] j, int64[N] d) {
            big = Constant <value = int64 {9223372036854775807}> ()
            large = Constant <value = int32 {2147483647}> ()
            two = Constant <value = int64 {2}> ()
            a = Add (x, big)
            y = Add (a, big)
            b = Mul (i, large)
            j = Mul (b, large)
            c = Div (x, two)
            d = Mul (c, two)
        }""",
        [{"x": np.array([1, -3, 5]), "i": np.array([1, -3, 7], np.int32)}],
    ),
    "zeros with signs, and what is not a number": (
        MODERN
        + """
        g (float[N] x) => (float[N] a, float[N] b, float[N] c, float[N] d, float[N] e, float[N] f) {
            zero = Constant <value = float {0.0}> ()
            minus = Constant <value = float {-0.0}> ()
            one = Constant <value = float {1.0}> ()
            a = Add (x, zero)
            b = Sub (x, zero)
            c = Add (x, minus)
            d = Mul (x, zero)
            e = Div (x, one)
            m = Mul (x, one)
            n = Neg (m)
            f = Neg (n)
        }""",
        [{"x": np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1.5], np.float32)}],
    ),
    "a rounding by adding and subtracting": (
        MODERN
        + """
        g (float[N] x) => (float[N] y) {
            magic = Constant <value = float {12582912.0}> ()
            h = Add (x, magic)
            y = Sub (h, magic)
        }""",
        [{"x": np.array([0.4, 0.6, 1.5, 2.5, -0.5, -1.2], np.float32)}],
    ),
    "errors in branches not taken": (
        MODERN
        + """
        g (int64[N] x, bool c) => (int64[N] y) {
            beyond = Constant <value = int64[1] {7}> ()
            two = Constant <value = int64[2] {1, 2}> ()
            y = If (c) <
                then_branch = t () => (int64[N] a) { q = Gather (two, beyond) a = Add (x, q) },
                else_branch = e () => (int64[N] b) { b = Identity (x) }
            >
        }""",
        [{"x": np.array([1, 2]), "c": np.array(False)}],
    ),
    "extents that may be zero": (
        MODERN
        + """
        g (float[N,2] x) => (float[M,2] y, float[K] z, int64[2] s) {
            start = Constant <value = int64[1] {1}> ()
            end = Constant <value = int64[1] {9223372036854775807}> ()
            axis = Constant <value = int64[1] {0}> ()
            y = Slice (x, start, end, axis)
            flat = Constant <value = int64[1] {-1}> ()
            z = Reshape (x, flat)
            s = Shape (y)
        }""",
        [x(1, 2), x(0, 2), x(3, 2)],
    ),
    "text": (
        MODERN
        + """
        g (string[N] x) => (string[N] y, string[2] z, string[M] c) {
            words = Constant <value_strings = ["a", "b"]> ()
            y = Identity (x)
            z = Identity (words)
            c = Concat <axis = 0> (x, words)
        }""",
        [{"x": np.array(["p", "q"], object)}],
    ),
    "names of values that look made": (
        MODERN
        + """
        g (float[N,2] x) => (float[N,2] y, float[N,2] "y/merged") {
            a = Constant <value = float {0.5}> ()
            h = Mul (x, a)
            y = Mul (h, a)
            "conv/bias" = Mul (x, x)
            "y/merged" = Relu ("conv/bias")
        }""",
        [x(3, 2)],
    ),
}


def models() -> list[Entry]:
    return [Entry(name, onnx.parser.parse_model(text), feeds) for name, (text, feeds) in TEXTS.items()]
