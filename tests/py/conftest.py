"""Fixtures that every test file shares."""

from __future__ import annotations

from pathlib import Path

import pytest

import fetch
import harness


@pytest.fixture(scope="session")
def binary() -> Path:
    return harness.find_binary()


@pytest.fixture
def onnxq(binary: Path, tmp_path: Path) -> harness.Onnxq:
    """The compiler in a fresh directory, `onnxq.dir`."""
    return harness.Onnxq(binary, tmp_path)


@pytest.fixture(scope="session")
def real_model():
    """`real_model(name)`: the path of a fetched model; see fetch.py for the names."""

    def path(name: str) -> Path:
        try:
            return fetch.ensure(name)
        except fetch.FetchError as error:
            harness.cannot_run(str(error))

    return path
