"""Whether two runs of ONNX Runtime gave the same, to the bit or as near as said."""

from __future__ import annotations

import numpy as np

# Of the largest number of an output: float32 sums in another order, and constants rounded once more
# or once less, through the few layers of a small model. Wrong results are off by about all of it.
ROUNDING = {np.dtype(np.float64): 1e-12, np.dtype(np.float32): 1e-4, np.dtype(np.float16): 2e-2}


def flat(value) -> list:
    """The tensors of a value that may be a sequence, or absent."""
    if value is None:
        return [None]
    if isinstance(value, list):
        return [len(value), *(part for item in value for part in flat(item))]
    return [np.asarray(value)]


def assert_same(expected: dict, found: dict, exact: bool, note: str = "") -> None:
    """Same names in the same order, types and shapes; same bits, or within `ROUNDING`."""
    assert list(found) == list(expected), note
    for name in expected:
        wanted, got = flat(expected[name]), flat(found[name])
        assert len(wanted) == len(got), f"`{name}` {note}"
        for a, b in zip(wanted, got, strict=True):
            if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
                assert_close(a, b, exact, f"`{name}` {note}")
            else:
                assert (a is None, b is None) == (False, False) or a is b, f"`{name}` {note}"
                assert np.array_equal(a, b), f"`{name}` {note}"


def assert_close(a: np.ndarray, b: np.ndarray, exact: bool, note: str) -> None:
    assert (a.dtype, a.shape) == (b.dtype, b.shape), note
    if exact or a.dtype not in ROUNDING:
        # Bits, so that 0.0 is not -0.0; but a NaN is a NaN.
        same = a == b
        if a.dtype in ROUNDING:
            same = (same & (np.signbit(a) == np.signbit(b))) | (np.isnan(a) & np.isnan(b))
        assert np.all(same), f"{note}: {np.size(a) - np.count_nonzero(same)} of {np.size(a)} differ"
        return
    finite = np.isfinite(a)
    assert np.array_equal(finite, np.isfinite(b)), note
    wide = [np.where(finite, x, 0).astype(np.float64) for x in (a, b)]
    worst = np.abs(wide[0] - wide[1]).max(initial=0)
    size = np.abs(wide[0]).max(initial=0)
    assert worst <= ROUNDING[a.dtype] * size, f"{note}: off by {worst:.3e} of {size:.3e}"
