"""Arithmetic coding of tokens by logits, so that a runtime that computes a little otherwise decodes the same.

A token is a path through a binary tree over token ids: first the highest bit, then the next. At a node
`z = logsumexp(logits below 1) - logsumexp(logits below 0)` is the log-odds of a 1. When two runtimes' logits
differ by `epsilon` at most, each logsumexp differs by at most `epsilon` and `z` by at most `2 * epsilon`. `z`
is rounded to a multiple of `step`, and that multiple selects an integer frequency. Where the encoder finds
`z` within `2 * epsilon` of the boundary between two multiples, the decoder could round it the other way:
there, and only there, the encoder writes a correction, which says on which side it was. Every other `z`
rounds alike in both. So for differences up to `epsilon` the decoder provably has the encoder's frequencies,
and no float ever decides alone.

What exceeds `epsilon` is found: a correction where `z` is too far from a boundary, a probe (the log-prob of
every 256th token, kept in the file) that is missed, and last the SHA-256 of the text.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

import numpy as np

# Logits that are this far below the largest are raised to that, so that every sum is positive. Taking the
# larger of two never makes a difference larger, so `epsilon` still holds.
DEPTH = 60.0

# Log-odds beyond it share the last frequency: 65536 * sigmoid(11.1) rounds to 65535.
LIMIT = 11.25

# Of the float64 arithmetic: sums of n positive terms in any order are within n * 2**-53, 1e-10 for a million.
GUARD = 1e-9

# Of a log-prob that was stored as float32: half a step at DEPTH and more.
PROBE_GUARD = 1e-5

PROBE_EVERY = 256
ONE = 1 << 16  # what frequencies add up to


class MissError(Exception):
    """The runtimes are further apart than the file allows."""


def step_for(epsilon: float) -> float:
    """The smallest power of two, at least 1/2, of which a boundary's surroundings are a quarter at most."""
    return max(0.5, 2.0 ** math.ceil(math.log2(16 * epsilon)))


def frequencies(step: float) -> list[int]:
    """Of a 1, for the multiples `-n ..= n` of `step`.

    65536 * sigmoid(k * step) is never within 1e-4 of a half for the steps in use, and `exp` is exact to 1e-11
    of it: every machine gets the same integers.
    """
    most = math.ceil(LIMIT / step)
    values = (math.floor(ONE / (1 + math.exp(-k * step)) + 0.5) for k in range(-most, most + 1))
    return [min(max(value, 1), ONE - 1) for value in values]


class Encoder:
    """A binary arithmetic coder with 32-bit bounds."""

    def __init__(self) -> None:
        self.low, self.high = 0, 0xFFFFFFFF
        self.bytes = bytearray()

    def code(self, frequency: int, bit: int) -> int:
        middle = self.low + (self.high - self.low) * frequency // ONE
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        while (self.low ^ self.high) < 1 << 24:
            self.bytes.append(self.high >> 24)
            self.low = self.low << 8 & 0xFFFFFFFF
            self.high = self.high << 8 & 0xFFFFFFFF | 0xFF
        return bit

    def finish(self) -> bytes:
        return bytes(self.bytes) + struct.pack(">I", self.high)


class Decoder:
    """Reads what an [`Encoder`] wrote."""

    def __init__(self, data: bytes) -> None:
        self.low, self.high = 0, 0xFFFFFFFF
        self.data = iter(data)
        self.value = 0
        for _ in range(4):
            self.shift()

    def shift(self) -> None:
        self.value = self.value << 8 & 0xFFFFFFFF | next(self.data, 0)

    def code(self, frequency: int, _bit: int) -> int:
        middle = self.low + (self.high - self.low) * frequency // ONE
        bit = int(self.value <= middle)
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        while (self.low ^ self.high) < 1 << 24:
            self.low = self.low << 8 & 0xFFFFFFFF
            self.high = self.high << 8 & 0xFFFFFFFF | 0xFF
            self.shift()
        return bit


class Rounding:
    """Multiples of the step, and what is noted where rounding is in doubt."""

    def __init__(self, epsilon: float, step: float) -> None:
        self.epsilon, self.step = epsilon, step
        self.frequencies = frequencies(step)
        self.most = len(self.frequencies) // 2
        self.nodes = 0

    def frequency(self, z: float) -> int:
        t = z / self.step
        multiple = self.multiple(t, math.floor(t) + 0.5)
        self.nodes += 1
        return self.frequencies[min(max(multiple, -self.most), self.most) + self.most]

    def near(self, t: float, boundary: float, distance: float) -> bool:
        """Beyond the last multiple there are no boundaries."""
        return abs(boundary) < self.most and abs(t - boundary) * self.step <= distance

    def multiple(self, t: float, boundary: float) -> int:
        raise NotImplementedError


class Noting(Rounding):
    """The encoder's: notes each side that could be in doubt."""

    def __init__(self, epsilon: float, step: float) -> None:
        super().__init__(epsilon, step)
        self.bytes = bytearray()
        self.count = self.last = 0

    def multiple(self, t: float, boundary: float) -> int:
        upper = t >= boundary
        if self.near(t, boundary, 2 * self.epsilon + GUARD):
            write_varint(self.bytes, (self.nodes - self.last) << 1 | upper)
            self.last = self.nodes
            self.count += 1
        return math.floor(boundary) + upper


class Noted(Rounding):
    """The decoder's: follows the notes."""

    def __init__(self, epsilon: float, step: float, data: bytes) -> None:
        super().__init__(epsilon, step)
        self.notes = read_varints(data)
        self.at, self.upper = -1, 0
        self.advance(0)

    def advance(self, last: int) -> None:
        note = next(self.notes, None)
        self.at, self.upper = (-1, 0) if note is None else (last + (note >> 1), note & 1)

    def multiple(self, t: float, boundary: float) -> int:
        if self.nodes != self.at:
            return math.floor(boundary) + (t >= boundary)
        if not self.near(t, boundary, 4 * self.epsilon + 2 * GUARD):
            raise MissError(f"decision {self.nodes}: log-odds {t * self.step:.6f} are not near a boundary")
        upper = self.upper
        self.advance(self.nodes)
        return math.floor(boundary) + upper


def write_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def read_varints(data: bytes) -> Iterator[int]:
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield value
            value = shift = 0


class TokenCoder:
    """Codes tokens one by one; `coder` writes them, or reads them."""

    def __init__(self, coder: Encoder | Decoder, rounding: Rounding, probes: list[float]) -> None:
        self.coder, self.rounding, self.probes = coder, rounding, probes
        self.tokens = 0
        self.worst_probe = 0.0

    def code(self, logits: np.ndarray, token: int = 0) -> int:
        """Codes `token`, or finds it."""
        shifted = logits.astype(np.float64) - float(logits.max())
        if not np.isfinite(shifted).all():
            raise MissError(f"token {self.tokens}: the model gives logits that are not finite")
        weights = np.exp(np.maximum(shifted, -DEPTH))
        found = self.walk(weights, token)
        self.tokens += 1
        if self.tokens % PROBE_EVERY == 0:
            self.probe(math.log(weights[found]) - math.log(weights.sum()))
        return found

    def walk(self, weights: np.ndarray, token: int) -> int:
        found = 0
        for shift in reversed(range((len(weights) - 1).bit_length())):
            half = found + (1 << shift)
            ones = float(weights[half : half + (1 << shift)].sum())
            if ones == 0:  # no ids there: nothing to code
                continue
            z = math.log(ones) - math.log(float(weights[found:half].sum()))
            if self.coder.code(self.rounding.frequency(z), token >> shift & 1):
                found = half
        return found

    def probe(self, log_prob: float) -> None:
        index = self.tokens // PROBE_EVERY - 1
        if isinstance(self.coder, Encoder):
            self.probes.append(log_prob)
            return
        difference = abs(self.probes[index] - log_prob)
        self.worst_probe = max(self.worst_probe, difference)
        if not difference <= 2 * self.rounding.epsilon + PROBE_GUARD:
            raise MissError(
                f"token {self.tokens}: its log-prob is {log_prob:.6f} here and was {self.probes[index]:.6f}"
            )
