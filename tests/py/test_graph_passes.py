"""`dce`, `identity`, `cse`, `inline-functions`: the file tests as models that ONNX Runtime runs.

Each file test says what a pass makes of a model; here both are run, without optimizations of
ONNX Runtime's own, and must give the same bits, for two sizes of each axis that has a name.
What a few of them cannot be run for stands in the lists below.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import harness

FOLDERS = ["dce", "identity", "cse", "inline-functions"]
FILETESTS = harness.REPOSITORY / "testdata" / "filetests"

# Models that ONNX Runtime does not load: operators that nobody has, or that it lacks.
NOT_RUN = {
    "dce/chain",
    "dce/imports",
    "dce/lstm-before-7",
    "dce/outputs-kept",
    "cse/random",
    "identity/cast-old",
    "identity/dropout-6",
    "identity/neutral-bfloat16",
    "cse/operand-order-old",
    # A name in a body that the graph around it uses later.
    "identity/shadowed-output",
    # A function with the name of an operator: the operator wins there.
    "dce/named-like-an-operator",
    "identity/function",
    "inline-functions/opset-same",
    # Calls that it does not load; the first two are left, see below for the others.
    "inline-functions/absent-needed",
    "inline-functions/absent-result",
    "inline-functions/fewer-results",
    "inline-functions/graph-attribute",
    "inline-functions/passes-through",
}
# A pass must not change what they compute, but that is different in each run.
NOT_THE_SAME_TWICE = {"identity/dropout-13"}

# ONNX Runtime makes 0 of a -0 that `Where` chooses.
ZEROS_LOSE_THEIR_SIGN = {"identity/where"}

# Inputs that not every number fits, shapes of inputs without one, and sizes of axes.
FEEDS = {
    "identity/other-shape": {"k": np.array([1, 4])},
    "cse/extents": {"k": np.array([1])},
}
SHAPES = {"identity/unknown-rank": {"x": (1, 3)}}
SIZES = {"identity/reshape-zero": (6, 12)}


def file_tests() -> Iterator[str]:
    for folder in FOLDERS:
        for path in sorted((FILETESTS / folder).glob("*.onnxtxt")):
            if "---- expected ----" in path.read_text():
                yield f"{folder}/{path.stem}"


@pytest.fixture(scope="session")
def onnx_text() -> str:
    return harness.build_tool("onnx_text")


@pytest.fixture
def models(request, onnx_text: str, onnxq: harness.Onnxq) -> tuple[Path, Path]:
    """The model of the file test `request.param`, and what its pipeline makes of it."""
    text = (FILETESTS / f"{request.param}.onnxtxt").read_text()
    pipeline = re.search("# RUN: opt --passes '(.*)'", text).group(1)
    (onnxq.dir / "in.onnxtxt").write_text(text.split("---- expected ----")[0])
    source = onnxq.dir / "in.onnx"
    subprocess.run([onnx_text, "parse", onnxq.dir / "in.onnxtxt", source], check=True)
    onnxq.ok("opt", "in.onnx", "-o", "out.onnx", "--passes", pipeline, "--verify-each")
    return source, onnxq.dir / "out.onnx"


def array(kind: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Numbers of all sorts: zeros of both signs, infinities, NaN, the ends of integers."""
    rng = np.random.default_rng([seed, *shape])
    name = re.fullmatch(r"tensor\((.*)\)", kind).group(1)
    if name == "bool":
        return np.asarray(rng.random(shape) < 0.5)
    if name.startswith(("int", "uint")):
        limits = np.iinfo(name)
        edges = np.array([limits.min, limits.max, 0, 1], name)
        numbers = rng.integers(limits.min, limits.max, shape, name, endpoint=True)
    else:
        name = {"float": "float32", "double": "float64"}.get(name, name)
        edges = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e4], name)
        numbers = (rng.standard_normal(shape) * 10).astype(name)
    return np.asarray(np.where(rng.random(shape) < 0.4, rng.choice(edges, shape), numbers), name)


def feed(test: str, arg: ort.NodeArg, sizes: dict[str, int], seed: int):
    given = FEEDS.get(test, {}).get(arg.name)
    if given is not None:
        return given
    kind = arg.type
    if kind.startswith("seq("):
        return [array(kind[4:-1], (2, i + 1), seed) for i in range(3)]
    if kind == "tensor(int64)" and not arg.shape:
        return np.array(3)
    if arg.name in SHAPES.get(test, {}):
        shape = SHAPES[test][arg.name]
    else:
        shape = tuple(d if isinstance(d, int) else sizes[d] for d in arg.shape)
    return array(kind, shape, seed)


def feeds(test: str, session: ort.InferenceSession, size: int) -> Iterator[dict[str, object]]:
    """The inputs with defaults are left to these first, and given then."""
    inputs = session.get_inputs()
    given = session.get_overridable_initializers()
    names = sorted({d for arg in inputs for d in arg.shape if isinstance(d, str)})
    sizes = {name: size + i for i, name in enumerate(names)}
    plain = {arg.name: feed(test, arg, sizes, seed) for seed, arg in enumerate(inputs)}
    yield plain
    if given:
        yield plain | {arg.name: feed(test, arg, sizes, 7 + seed) for seed, arg in enumerate(given)}


def run(test: str, session: ort.InferenceSession, inputs: dict[str, object]) -> dict[str, tuple]:
    names = [output.name for output in session.get_outputs()]
    results = zip(names, session.run(names, inputs), strict=True)
    return {name: bits(result, test in ZEROS_LOSE_THEIR_SIGN) for name, result in results}


def bits(result: np.ndarray, plain_zeros: bool) -> tuple[str, tuple[int, ...], bytes]:
    """Type, shape and elements; any NaN is the same as any other."""
    found = np.array(result)
    if plain_zeros:
        found[found == 0] = 0
    if np.issubdtype(found.dtype, np.floating):
        found[np.isnan(found)] = np.nan
    return str(found.dtype), found.shape, found.tobytes()


def signature(session: ort.InferenceSession) -> list[tuple[str, str, list]]:
    lists = session.get_inputs(), session.get_outputs(), session.get_overridable_initializers()
    return [(arg.name, arg.type, arg.shape) for args in lists for arg in args]


@pytest.mark.parametrize(
    ("test", "models"),
    [pytest.param(test, test, id=test) for test in file_tests() if test not in NOT_RUN],
    indirect=["models"],
)
def test_same_results(test: str, models: tuple[Path, Path]):
    before, after = (harness.session(path, opts=False) for path in models)
    assert signature(before) == signature(after)
    for size in SIZES.get(test, (1, 3)):
        for inputs in feeds(test, before, size):
            wanted, found = run(test, before, inputs), run(test, after, inputs)
            if test not in NOT_THE_SAME_TWICE:
                assert found == wanted


# What those compute that only load once their calls are inlined.
INLINED = {
    "inline-functions/fewer-results": lambda x: [-x],
    "inline-functions/graph-attribute": lambda x: [-np.exp(x)],
    "inline-functions/passes-through": lambda x: [np.exp(x), x],
}


@pytest.mark.parametrize(
    ("test", "models"), [pytest.param(test, test, id=test) for test in INLINED], indirect=["models"]
)
def test_calls_that_load_once_they_are_inlined(test: str, models: tuple[Path, Path]):
    after = harness.session(models[1], opts=False)
    x = np.float32([1.0, -2.0])
    given = {arg.name: x if arg.name == "x" else np.array(True) for arg in after.get_inputs()}
    found = after.run(None, given)
    for got, wanted in zip(found, INLINED[test](x), strict=True):
        # ONNX Runtime's exponential and NumPy's differ in the last bit.
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
