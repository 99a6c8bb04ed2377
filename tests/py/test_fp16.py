"""`fp16`: the model in half precision is valid, loads, and computes nearly what the float one does."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator
from tokenizers import Tokenizer

import harness
import language_model
import vectors
from report import Report

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16

# A half has 11 bits: rounding an operand errs by 2^-12 of it, and each of the few operators of
# a small model adds such a step. Eight of them, of the largest result.
SMALL_MODEL = 8 * 2.0**-12

HEADER = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1, "local" : 1]>\n'

# Every interesting form, in ONNX's textual syntax; float inputs are random, the others given.
MODELS = {
    "mlp": """g (float[3,4] x) => (float[3,2] y) <float[4,2] W = {1,2,3,4,5,6,7,8}> {
        h = MatMul (x, W)  y = Tanh (h) }""",
    "conv": """g (float[1,2,5,5] x) => (float[1,3,5,5] y) <float[3,2,1,1] W = {1,2,3,4,5,6},
        float[3] b = {0.5,1,2}, float[3] s = {1,2,3}, float[3] m = {0,1,2}, float[3] v = {1,2,900000}> {
        c = Conv (x, W, b)  n = BatchNormalization (c, s, b, m, v)  y = Relu (n) }""",
    "if": """g (bool c, float[2] x) => (float[2] y) <float[2] W = {1,2}> {
        e = Celu (x)
        y = If (c) <then_branch = t () => (float[2] a) { a = Mul (e, W) },
                    else_branch = f () => (float[2] b) { b = Celu (W) }> }""",
    "loop": """g (int64 n, bool c, float[2] x) => (float[2] y, float[k,2] ys) {
        y, ys = Loop (n, c, x) <body = b (int64 i, bool k, float[2] h) => (bool k2, float[2] h2, float[2] s) {
            k2 = Identity (k)  h2 = Add (h, x)  s = Celu (h) }> }""",
    "scan": """g (float[3,2] xs, float[2] x) => (float[2] y, float[3,2] ys) {
        y, ys = Scan (x, xs) <num_scan_inputs = 1,
            body = b (float[2] s, float[2] e) => (float[2] s2, float[2] f) {
            s2 = Add (s, e)  f = Mul (s, e) }> }""",
    "nested": """g (bool c, int64 n, float[2] x) => (float[2] y) {
        y = If (c) <then_branch = t () => (float[2] a) {
            a = Loop (n, c, x) <body = b (int64 i, bool k, float[2] h) => (bool k2, float[2] h2) {
                k2 = Identity (k)  h2 = Sub (h, x) }> },
            else_branch = f () => (float[2] b) { b = Neg (x) }> }""",
    "sequence": """g (float[2] x, int64 n) => (float[2] y) <int64 zero = {0}> {
        a = Neg (x)  s = SequenceConstruct (a, x)  b = SequenceAt (s, zero)  y = Neg (b) }""",
    "quantized": """g (float[2] x) => (float[2] y) <float q = {0.125}, uint8 z = {128}> {
        a = Neg (x)  i = QuantizeLinear (a, q, z)  b = DequantizeLinear (i, q, z)  y = Neg (b) }""",
    "resize": """g (float[1,1,4,4] x) => (float[1,1,h,w] y) <float half = {2.0}, float[2] one = {1,1},
        int64[1] two = {2}, int64[1] four = {4}> {
        a = Relu (x)  n = Shape (a)  t = Slice (n, two, four)  f = Cast <to = 1> (t)
        s = Mul (f, half)  u = Div (s, f)  k = Concat <axis = 0> (one, u)
        y = Resize <mode = "nearest"> (a, "", k) }""",
    "nms": """g (float[1,2,4] boxes, float[1,1,2] scores) => (int64[k,3] y) <int64 m = {2}> {
        b = Neg (boxes)  y = NonMaxSuppression (b, scores, m) }""",
    "layer_norm": """g (float[2,64] x) => (float[2,64] y) <float two = {2}, float eps = {1e-12},
        float k = {4000}> {
        h = Mul (x, k)  m = ReduceMean <axes = [-1]> (h)  d = Sub (h, m)  p = Pow (d, two)
        v = ReduceMean <axes = [-1]> (p)  e = Add (v, eps)  r = Sqrt (e)  y = Div (d, r) }""",
    "mask": """g (float[1,4] x, int64[1,4] mask) => (float[1,4] y) <float one = {1},
        float low = {-3.4028235e38}> {
        m = Cast <to = 1> (mask)  o = Sub (one, m)  n = Mul (o, low)  s = Add (x, n)  y = Softmax (s) }""",
    "angles": """g (float[4,1] x, int64[4,1] positions) => (float[4,1] y) <float f = {0.749894}> {
        p = Cast <to = 1> (positions)  a = Mul (p, f)  c = Cos (a)  y = Mul (x, c) }""",
    "function": """g (float[2] x) => (float[2] y) { a = Neg (x)  b = local.twice (a)  y = Neg (b) }
        <domain: "local", opset_import: ["" : 17]> twice (p) => (q) { q = Add (p, p) }""",
    "contrib": """g (float[1,4,8] x) => (float[1,4,8] y) <float[8] w = {1,2,3,4,5,6,7,8}> {
        a = com.microsoft.FastGelu (x)  y = com.microsoft.SkipLayerNormalization (a, x, w) }""",
    "short_constants": """g (float[2] x) => (float[2] y) {
        a = Constant <value_float = 2.5> ()  b = Constant <value_floats = [1.0, 3.0]> ()
        c = Mul (x, a)  y = Add (c, b) }""",
    "shared": """g (float[2,2] x) => (float[2,2] y, float[2,2] z) <float[2,2] C = {1,2,3,0.1}> {
        a = MatMul (x, C)  y = MatMul (a, C)  b = Celu (C)  z = Add (a, b) }""",
    "casts": """g (float[2] x, int64[1] s) => (float[2] y, float[2] z) {
        a = Cast <to = 10> (x)  b = Cast <to = 1> (a)  c = Celu (b)  d = ConstantOfShape (s)
        e = Add (b, d)  y = Add (c, e)  z = Identity (x) }""",
    "random": """g (float[2,3] x) => (float[2,3] y) <float zero = {0}> {
        r = RandomNormalLike <seed = 1.0> (x)  u = RandomUniform <shape = [3]> ()  v = Add (r, u)
        n = Mul (v, zero)  e = EyeLike (x)  s = Add (n, e)  y = Mul (x, s) }""",
    "recurrent": """g (float[3,1,2] x) => (float[3,1,1,2] y)
        <float[1,8,2] W = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7},
        float[1,8,2] R = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}> { y = LSTM <hidden_size = 2> (x, W, R) }""",
}

GIVEN = {
    "c": np.array(True),
    "n": np.array(3),
    "s": np.array([2]),
    "mask": np.array([[1, 1, 0, 1]]),
    "positions": np.array([[0], [1], [1000], [2049]]),
}


def feeds_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    feeds = {}
    for given in model.graph.input:
        kind = given.type.tensor_type
        if kind.elem_type == FLOAT:
            shape = [d.dim_value for d in kind.shape.dim]
            feeds[given.name] = rng.standard_normal(shape).astype(np.float32)
        else:
            feeds[given.name] = GIVEN[given.name]
    return feeds


def typed(values) -> dict[str, int]:
    return {v.name: v.type.tensor_type.elem_type for v in values}


def convert(onnxq: harness.Onnxq, source: Path, passes: str = "fp16") -> onnx.ModelProto:
    """Converts to `out.onnx`, which has to be valid, and twice the same."""
    onnxq.ok("opt", source, "-o", "out.onnx", "--passes", passes, "--verify-each")
    onnxq.ok("opt", "out.onnx", "-o", "again.onnx", "--passes", passes)
    assert (onnxq.dir / "again.onnx").read_bytes() == (onnxq.dir / "out.onnx").read_bytes()
    # ONNX Runtime's own operators have no schema in the checker, so types are not followed.
    plain = {o.domain for o in onnx.load(source, load_external_data=False).opset_import} <= {"", "ai.onnx"}
    onnx.checker.check_model(str(onnxq.dir / "out.onnx"), full_check=plain)
    return onnx.load(onnxq.dir / "out.onnx")


def small(onnxq: harness.Onnxq, name: str) -> tuple[Path, onnx.ModelProto]:
    model = parser.parse_model(HEADER + MODELS[name])
    domains = {n.domain for n in model.graph.node} | {""}
    kept = [o for o in model.opset_import if o.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return harness.save(model, onnxq.dir / "in.onnx"), model


@pytest.mark.parametrize("name", MODELS)
def test_small_models_compute_the_same(name, onnxq):
    source, model = small(onnxq, name)
    made = convert(onnxq, source)
    assert typed(made.graph.input) == typed(model.graph.input)
    assert typed(made.graph.output) == typed(model.graph.output)
    feeds = feeds_of(model)
    expected = harness.run_model(source, feeds)
    for optimized in (True, False):
        found = harness.run_model(onnxq.dir / "out.onnx", feeds, opts=optimized)
        assert list(found) == list(expected)
        for output, value in expected.items():
            assert found[output].dtype == value.dtype
            scale = max(1.0, np.abs(value).max(initial=0))
            np.testing.assert_allclose(found[output], value, rtol=0, atol=SMALL_MODEL * scale)


@pytest.mark.parametrize("name", MODELS)
def test_halves_at_the_border(name, onnxq):
    source, model = small(onnxq, name)
    made = convert(onnxq, source, "fp16{io=half}")
    halves = {FLOAT: HALF}
    for before, after in [(model.graph.input, made.graph.input), (model.graph.output, made.graph.output)]:
        assert typed(after) == {n: halves.get(t, t) for n, t in typed(before).items()}
    feeds = feeds_of(model)
    expected = harness.run_model(source, feeds)
    halved = {n: v.astype(np.float16) if v.dtype == np.float32 else v for n, v in feeds.items()}
    found = harness.run_model(onnxq.dir / "out.onnx", halved)
    for output, value in expected.items():
        scale = max(1.0, np.abs(value).max(initial=0))
        # The inputs and outputs are rounded as well.
        rounded = found[output].astype(value.dtype)
        np.testing.assert_allclose(rounded, value, rtol=0, atol=2 * SMALL_MODEL * scale)


def test_weights_are_rounded_to_nearest_even(onnxq):
    patterns = np.random.default_rng(0).integers(0, 1 << 32, 1 << 17, dtype=np.uint32)
    weight = patterns.view(np.float32).reshape(512, 256)
    # Within the range of half; NaN and infinity are in it.
    weight = np.where(np.isfinite(weight) & (np.abs(weight) > 65504), np.float32(1.0), weight)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "W"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, [1, 512])],
        [helper.make_tensor_value_info("y", FLOAT, [1, 256])],
        [numpy_helper.from_array(weight, "W")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made = convert(onnxq, harness.save(model, onnxq.dir / "in.onnx"))
    [initializer] = made.graph.initializer
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(numpy_helper.to_array(initializer), weight.astype(np.float16))


def test_nothing_depends_on_the_number_of_threads(onnxq):
    source, _ = small(onnxq, "conv")
    for threads in ("1", "4"):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads}
        onnxq.ok("opt", source, "-o", f"{threads}.onnx", "--passes", "fp16", env=environment)
    assert (onnxq.dir / "1.onnx").read_bytes() == (onnxq.dir / "4.onnx").read_bytes()


# Halves of inputs and results; sums of squares, exponentials and divisions by small numbers make more of it.
VECTOR = 0.02


def test_operators_of_the_standard(onnxq):
    """Every operator that becomes half loads and runs, and computes nearly the same."""
    same, problems = set(), {}
    for name, model, feeds in vectors.single_nodes(21, oldest=False):
        if FLOAT not in {*typed(model.graph.input).values(), *typed(model.graph.output).values()}:
            continue
        try:
            expected = harness.run_model(model.SerializeToString(), feeds, opts=False)
        except Exception:  # noqa: BLE001 - the runtime lacks the operator
            continue
        source = harness.save(model, onnxq.dir / "in.onnx")
        onnxq.ok("opt", source, "-o", "out.onnx", "--passes", "fp16")
        try:
            found = harness.run_model(onnxq.dir / "out.onnx", feeds, opts=False)
        except Exception as error:  # noqa: BLE001 - whatever the runtime says
            problems[name] = str(error)
            continue
        if model.graph.node[0].op_type in vectors.RANDOM:
            continue
        for output, value in expected.items():
            if not isinstance(value, np.ndarray) or value.dtype != np.float32:
                continue
            inside = np.abs(value) <= 65504
            error = np.abs(found[output] - value)[inside].max(initial=0)
            if not error <= VECTOR * max(1, np.abs(value)[inside].max(initial=0)):
                problems[name] = f"{output}: {error}"
        same.add(model.graph.node[0].op_type)
    assert not problems, problems
    assert len(same) > 110, len(same)


# --- other types


def test_a_model_of_doubles(onnxq):
    model = parser.parse_model(HEADER.replace(', "com.microsoft" : 1, "local" : 1', "") + """
        g (double[3,4] x) => (double[3,4] y) <double[4,4] W = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}> {
            h = MatMul (x, W)  c = Constant <value = double {0.5}> ()  s = Mul (h, c)  y = Tanh (s) }""")
    source = harness.save(model, onnxq.dir / "in.onnx")
    made = convert(onnxq, source)
    assert typed(made.graph.output) == {"y": TensorProto.DOUBLE}
    assert [i.data_type for i in made.graph.initializer] == [HALF]
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 4))}
    [expected] = harness.run_model(source, feeds).values()
    [found] = harness.run_model(onnxq.dir / "out.onnx", feeds).values()
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=SMALL_MODEL * np.abs(expected).max())


def test_a_model_of_bfloat16(onnxq):
    # ONNX Runtime's CPU multiplies no bfloat16; what it should give is computed here.
    weight = np.random.default_rng(1).standard_normal((64, 8)).astype(np.float32)
    weight = (weight.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    tensor = TensorProto(name="W", data_type=TensorProto.BFLOAT16, dims=weight.shape)
    tensor.raw_data = (weight.view(np.uint32) >> 16).astype("<u2").tobytes()
    nodes = [
        helper.make_node("Cast", ["x"], ["b"], to=TensorProto.BFLOAT16),
        helper.make_node("MatMul", ["b", "W"], ["m"]),
        helper.make_node("Cast", ["m"], ["y"], to=FLOAT),
    ]
    inputs = [helper.make_tensor_value_info("x", FLOAT, [3, 64])]
    outputs = [helper.make_tensor_value_info("y", FLOAT, [3, 8])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    convert(onnxq, harness.save(model, onnxq.dir / "in.onnx"))
    x = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    [found] = harness.run_model(onnxq.dir / "out.onnx", {"x": x}).values()
    expected = x.astype(np.float16).astype(np.float32) @ weight
    # Halves are finer than bfloat16; the 64 products are added in float or half.
    np.testing.assert_allclose(found, expected, rtol=0, atol=64 * 2.0**-12 * np.abs(expected).max())


# --- numbers beyond half's range

# What becomes normal again is the same up to a few roundings of halves.
RESIDUAL = 16 * 2.0**-12


def residual_model(weight: np.ndarray) -> onnx.ModelProto:
    """A residual stream that a layer makes large, an RMS norm spelled out, and a projection."""
    size = weight.shape[0]
    rng = np.random.default_rng(3)
    constants = {
        "W": weight,
        "P": rng.standard_normal((size, 4)).astype(np.float32) / np.sqrt(size).astype(np.float32),
        "two": np.float32(2),
        "eps": np.float32(1e-6),
        "one": np.float32(1),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["m"], name="up"),
        helper.make_node("Add", ["x", "m"], ["h"], name="residual"),
        helper.make_node("Pow", ["h", "two"], ["s"]),
        helper.make_node("ReduceMean", ["s"], ["v"], axes=[-1]),
        helper.make_node("Add", ["v", "eps"], ["e"]),
        helper.make_node("Sqrt", ["e"], ["r"]),
        helper.make_node("Div", ["one", "r"], ["i"]),
        helper.make_node("Mul", ["h", "i"], ["n"], name="norm"),
        helper.make_node("MatMul", ["n", "P"], ["y"], name="down"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, ["rows", size])],
        [helper.make_tensor_value_info("y", FLOAT, ["rows", 4])],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def islands(onnxq: harness.Onnxq, source: Path, passes: str) -> set[str]:
    """Converts to `out.onnx`; the nodes that stay float for their range."""
    onnxq.ok("opt", source, "-o", "out.onnx", "--passes", passes, "--json", "report.json", "--verify-each")
    return {node for node, reason in Report.read(onnxq.dir / "report.json").remarks() if reason == "half-range"}


def run_in_halves(model: Path, x: np.ndarray) -> list[np.ndarray]:
    """ONNX Runtime's CPU has no half kernels for most operators and keeps their results in float; this does not."""
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(str(model)).run(None, {"x": x})


def assert_close(onnxq: harness.Onnxq, source: Path, x: np.ndarray) -> None:
    [expected] = harness.run_model(source, {"x": x}).values()
    path = onnxq.dir / "out.onnx"
    for [found] in (harness.run_model(path, {"x": x}).values(), run_in_halves(path, x)):
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, expected, rtol=0, atol=RESIDUAL * np.abs(expected).max())


@pytest.mark.parametrize("passes", ["fp16", "clean,fp16"])
def test_a_weight_beyond_the_range(passes, onnxq):
    weight = np.random.default_rng(4).standard_normal((32, 32)).astype(np.float32)
    weight[3, 5] = 1e5
    source = harness.save(residual_model(weight), onnxq.dir / "in.onnx")
    found = islands(onnxq, source, passes)
    # The clean-up makes one Gemm of the first two.
    assert {"up", "norm"} <= found, found
    assert "residual" in found or "clean" in passes
    assert "down" not in found
    assert_close(onnxq, source, np.random.default_rng(0).standard_normal((5, 32)).astype(np.float32))


def measure(onnxq: harness.Onnxq, model: Path, inputs: Path) -> None:
    """Writes `maxima.json`."""
    tool = harness.build_tool("measure_maxima")
    done = subprocess.run([tool, model, inputs], capture_output=True, text=True, check=True)
    (onnxq.dir / "maxima.json").write_text(done.stdout)


def test_activations_beyond_the_range(onnxq):
    # Every weight fits; their products do not.
    weight = np.random.default_rng(4).standard_normal((32, 32)).astype(np.float32) * 20000
    source = harness.save(residual_model(weight), onnxq.dir / "in.onnx")
    x = np.random.default_rng(0).standard_normal((5, 32)).astype(np.float32)
    assert islands(onnxq, source, "clean,fp16").isdisjoint({"up", "norm"})
    [lost] = run_in_halves(onnxq.dir / "out.onnx", x)
    assert not np.isfinite(lost).all(), "without measuring it overflows"

    onnxq.ok("opt", source, "-o", "clean.onnx", "--passes", "clean")
    np.savez(onnxq.dir / "inputs.npz", x=x)
    measure(onnxq, onnxq.dir / "clean.onnx", onnxq.dir / "inputs.npz")
    maxima = json.loads((onnxq.dir / "maxima.json").read_text())["maxima"]
    hidden = np.abs(x.astype(np.float64) @ weight).max()
    assert maxima["h"] == pytest.approx(hidden, rel=1e-3)
    found = islands(onnxq, onnxq.dir / "clean.onnx", "fp16{maxima=maxima.json}")
    assert {"up", "norm"} <= found, found
    assert "down" not in found
    assert_close(onnxq, source, x)


@pytest.mark.parametrize(
    ("option", "mentions"),
    [
        ("maxima=none.json", ("none.json",)),
        ("maxima=bad.json", ("bad.json", "expected `{")),
        ("peak=x", ("option `peak`", "name=number")),
    ],
)
def test_maxima_that_cannot_be_read(option, mentions, onnxq):
    source, _ = small(onnxq, "mlp")
    (onnxq.dir / "bad.json").write_text("[1]")
    onnxq.refuses("opt", source, "-o", "out.onnx", "--passes", f"fp16{{{option}}}", mentions=mentions)


# --- real models

HARBOUR = Path(__file__).parent / "text" / "harbour.txt"


@pytest.mark.real
def test_smollm2(real_model, onnxq):
    source = real_model("smollm2")
    convert(onnxq, source, "fp16{io=cache}")
    assert (onnxq.dir / "out.onnx").stat().st_size < 0.51 * source.stat().st_size
    tokenizer = Tokenizer.from_file(str(real_model("smollm2-tokenizer")))
    ids = np.array(tokenizer.encode(HARBOUR.read_text(encoding="utf-8")).ids)
    chunks = ids[: len(ids) // 128 * 128].reshape(-1, 128)
    plain = language_model.log_probabilities(source, chunks)
    found = language_model.log_probabilities(onnxq.dir / "out.onnx", chunks)
    ratio = language_model.perplexity(found, chunks) / language_model.perplexity(plain, chunks)
    compared = language_model.compare(plain, found, chunks)
    print(f"perplexity times {ratio:.5f}", compared)
    # The error of a half is a thousandth of what 4 bits cost; here it has no direction.
    assert abs(ratio - 1) < 0.002
    assert compared.divergence < 0.001


# Halves round to 2^-11, codes of 4 bits to a fifteenth of a block: a hundredth of it cannot be seen. This is the
# spread of the divergence between ways to compute the same model.
AS_GOOD = 1.02


@pytest.mark.real
def test_smollm2_in_four_bits_and_halves(real_model, onnxq):
    source = real_model("smollm2")
    tokenizer = Tokenizer.from_file(str(real_model("smollm2-tokenizer")))
    ids = np.array(tokenizer.encode(HARBOUR.read_text(encoding="utf-8")).ids)[:512]
    chunks = ids.reshape(-1, 128)
    onnxq.ok("opt", source, "-o", "half.onnx", "--passes", "clean,fp16")
    baseline = language_model.log_probabilities(onnxq.dir / "half.onnx", chunks)
    divergence = {}
    for name, passes in {"q4": "clean,nbits{block=32}", "q4f16": "clean,fp16,nbits{block=32}"}.items():
        onnxq.ok("opt", source, "-o", "out.onnx", "--passes", passes)
        found = language_model.log_probabilities(onnxq.dir / "out.onnx", chunks)
        divergence[name] = language_model.compare(baseline, found, chunks).divergence
    print(divergence)
    assert divergence["q4f16"] < AS_GOOD * divergence["q4"]


IMAGES = {"ppocr-det": (1, 3, 64, 96), "ppocr-rec": (1, 3, 48, 160), "ppocr-cls": (1, 3, 48, 192)}


@pytest.mark.real
@pytest.mark.parametrize("name", IMAGES)
def test_image_models(name, real_model, onnxq):
    source = real_model(name)
    convert(onnxq, source)
    image = np.random.default_rng(0).standard_normal(IMAGES[name]).astype(np.float32)
    [before] = harness.run_model(source, {"x": image}).values()
    [after] = harness.run_model(onnxq.dir / "out.onnx", {"x": image}).values()
    # Probabilities after some fifty convolutions: about ten steps of a half at 1.
    assert np.abs(before - after).max() < 0.02


@pytest.mark.real
@pytest.mark.parametrize("name", ["minilm", "glassllm", "piper"])
def test_other_models_load(name, real_model, onnxq):
    source = real_model(name)
    onnxq.ok("opt", source, "-o", "out.onnx", "--passes", "fp16", "--json", "report.json")
    onnxq.ok("verify", "out.onnx")
    harness.session(onnxq.dir / "out.onnx")
    assert (onnxq.dir / "out.onnx").stat().st_size < 0.6 * source.stat().st_size
    codes = {reason for _, reason in Report.read(onnxq.dir / "report.json").remarks()}
    print(name, codes)
