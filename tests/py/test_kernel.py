"""The quantization kernels against ONNX Runtime's own quantizer, byte by byte.

Drives `quantize_matrix` of `tests/tools`.
"""

import subprocess
from pathlib import Path

import numpy as np
import pytest

import harness

_state = pytest.importorskip("onnxruntime.capi._pybind_state")

QUANTIZE = {bits: getattr(_state, f"quantize_matmul_{bits}bits", None) for bits in (2, 4, 8)}
NAMES = {np.float32: "f32", np.float16: "f16"}

compared = 0


@pytest.fixture(scope="session")
def binary():
    return Path(harness.build_tool("quantize_matrix"))


@pytest.fixture(scope="session", autouse=True)
def count():
    yield
    print(f"\n{compared} bytes compared with ONNX Runtime")


def by_runtime(w, bits, block, symmetric):
    """As `DefaultWeightOnlyQuantizer.qbits_block_quant` calls it."""
    k, n = w.shape
    blocks, per_byte = -(-k // block), 8 // bits
    padded = np.pad(w, ((0, blocks * block - k), (0, 0)))
    codes = np.zeros((n, blocks, block // per_byte), np.uint8)
    zero_points = np.zeros((n, -(-blocks // per_byte)), np.uint8)
    scales = np.zeros((n, blocks), w.dtype)
    QUANTIZE[bits](codes, padded, scales, zero_points, block, n, k, symmetric)
    return codes, scales, zero_points


def by_onnxq(binary, folder, w, axis, bits, block, symmetric):
    name = NAMES[w.dtype.type]
    stored = w if axis == "columns" else w.T
    source, prefix = folder / "w", folder / "out"
    source.write_bytes(np.ascontiguousarray(stored).tobytes())
    arguments = [source, *stored.shape, name, axis, bits, block]
    arguments += ["sym" if symmetric else "asym", name, prefix]
    subprocess.run([binary, *map(str, arguments)], check=True)
    return [np.fromfile(f"{prefix}.{end}", np.uint8) for end in ("codes", "scales", "zp")]


def unpacked(codes, bits):
    """One code to a byte."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return codes[..., None] >> shifts & (2**bits - 1)


def check(binary, folder, w, bits, block, symmetric, axes=("columns", "rows")):
    global compared
    if QUANTIZE[bits] is None:
        harness.cannot_run(f"this ONNX Runtime does not quantize to {bits} bits")
    k, n = w.shape
    codes, scales, zero_points = by_runtime(w, bits, block, symmetric)
    for axis in axes:
        got = by_onnxq(binary, folder, w, axis, bits, block, symmetric)
        ours = got[0].reshape(codes.shape)
        if k % block:
            # ONNX Runtime leaves whole bytes of padding as they were, and repeats an
            # earlier code in a byte that K ends in; here it is the zero point.
            ours, theirs = (unpacked(c, bits).reshape(n, -1)[:, :k] for c in (ours, codes))
        else:
            theirs = codes
        assert np.array_equal(ours, theirs), f"{(ours != theirs).sum()} codes differ"
        assert np.array_equal(got[1], scales.reshape(-1).view(np.uint8)), "scales"
        if symmetric:
            assert got[2].size == 0
        else:
            assert np.array_equal(got[2], zero_points.reshape(-1)), "zero points"
        compared += k * n * bits // 8 + got[1].size + got[2].size


@pytest.mark.parametrize("symmetric", [True, False], ids=["sym", "asym"])
@pytest.mark.parametrize("block", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("bits", [4, 8, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["f32", "f16"])
def test_normal(binary, tmp_path, dtype, bits, block, symmetric):
    rng = np.random.default_rng([bits, block, symmetric])
    for k, n in [(4096, 1000), (1000, 77), (1001, 48), (7, 3), (block, 1)]:
        w = (rng.standard_normal((k, n)) * 0.05).astype(dtype)
        check(binary, tmp_path, w, bits, block, symmetric)


def extremes(dtype, k, n):
    """Matrices of values where a rule that is nearly right shows."""
    rng = np.random.default_rng(7)
    normal = rng.standard_normal((k, n))
    half = dtype == np.float16
    largest = 65504.0 if half else 1.6e38
    tiny = np.finfo(dtype).smallest_subnormal
    few = rng.integers(-3, 4, (k, n)).astype(dtype) * tiny
    coin = rng.random((k, n)) < 0.5
    yield "zeros", np.zeros((k, n))
    yield "zeros of both signs", np.where(coin, 0.0, -0.0)
    yield "constant", np.repeat(normal[:1], k, 0)
    yield "integers", rng.integers(-8, 8, (k, n))
    yield "halves", rng.integers(-16, 17, (k, n)) * 0.5
    yield "halves from zero", rng.integers(0, 31, (k, n)) * 0.5
    yield "as wide as the codes", np.where(coin, 0.49999997, rng.choice([3, 15, 255], (1, n)))
    yield "outliers", np.where(rng.random((k, n)) < 0.01, normal * 1000, normal)
    yield "positive", np.abs(normal)
    yield "negative", -np.abs(normal)
    yield "denormal steps", few
    yield "denormal steps and zeros", np.where(coin, 0, few)
    for power in range(-8, -1) if half else range(-45, -35):
        yield f"around 1e{power}", normal * 10.0**power
    yield "large", np.clip(normal * (2e4 if half else 1e30), -largest, largest)
    yield "largest", np.clip(normal * largest, -largest, largest)
    powers = rng.integers(-8 if half else -40, 4 if half else 30, (k, n))
    yield "any power", np.clip(normal * 10.0**powers, -largest, largest)


@pytest.mark.parametrize("symmetric", [True, False], ids=["sym", "asym"])
@pytest.mark.parametrize("bits", [4, 8, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["f32", "f16"])
def test_extremes(binary, tmp_path, dtype, bits, symmetric):
    # Side by side: every column is its own.
    kinds = [w.astype(dtype) for _, w in extremes(dtype, 1040, 32)]
    w = np.concatenate(kinds, axis=1)
    for block in (16, 32, 64, 128, 256):
        check(binary, tmp_path, w, bits, block, symmetric)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_not_finite(binary, tmp_path, axis, bad):
    w = np.ones((40, 3), np.float32)
    w[33, 2] = bad
    with pytest.raises(subprocess.CalledProcessError):
        by_onnxq(binary, tmp_path, w, axis, 4, 16, True)
