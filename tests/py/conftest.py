"""Fixtures that every test file shares."""

from __future__ import annotations

from pathlib import Path

import pytest

import fetch
import harness

# What a file costs besides real models: clients, calibrations, all vectors of the standard.
LONG = {"test_calibrated.py", "test_guides.py", "test_infer.py", "test_tune.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, so that at the end no process waits for another."""
    real = {item.path for item in items if item.get_closest_marker("real")}
    items.sort(key=lambda item: item.path not in real and item.path.name not in LONG)


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
