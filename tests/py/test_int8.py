"""`int8-dynamic`: every form against numpy, against ONNX Runtime's own quantizer, and as loaded."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import harness
import int8_reference as reference
import runtimes
from builders import BFLOAT16, DOUBLE, FLOAT, FLOAT16, INT64, NUMPY_TYPES, GraphBuilder, random
from dequant import op_counts
from fetch import FetchError

# Float32 sums of up to 600 products in another order (600 * 2^-24), and one product less to round
# when ONNX Runtime fuses.
FUSED = 4e-5


def quantize(onnxq: harness.Onnxq, model: ModelProto, options: str = "") -> ModelProto:
    harness.save(model, onnxq.dir / "in.onnx")
    passes = f"int8-dynamic{{{options}}}" if options else "int8-dynamic"
    onnxq.ok("opt", "in.onnx", "--passes", passes, "-o", "out.onnx")
    onnxq.ok("verify", "out.onnx")
    written = onnx.load(onnxq.dir / "out.onnx")
    onnx.shape_inference.infer_shapes(written, check_type=True, strict_mode=True)
    return written


def by_ort(onnxq: harness.Onnxq, per_channel: bool, signed: bool, **options: bool) -> ModelProto:
    """`in.onnx` after ONNX Runtime's quantizer."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    reduced = options.pop("reduced", False)
    quantize_dynamic(
        onnxq.dir / "in.onnx",
        onnxq.dir / "ort.onnx",
        per_channel=per_channel,
        reduce_range=reduced,
        weight_type=QuantType.QInt8 if signed else QuantType.QUInt8,
        extra_options=options,
    )
    return onnx.load(onnxq.dir / "ort.onnx")


def linear(
    x_shape: tuple, w_shape: tuple, dtype: int = FLOAT, opset: int = 17, scale: float = 1.0
) -> ModelProto:
    b = GraphBuilder()
    b.input("x", [None] * len(x_shape), dtype)
    b.node("MatMul", "x", b.weight("W", random(*w_shape, seed=2), dtype), out="y", name="mm")
    b.output("y", None, dtype)
    return b.model(opset=opset)


# --- Codes


@pytest.mark.parametrize("per_channel", [True, False], ids=["channels", "tensor"])
@pytest.mark.parametrize("signed", [True, False], ids=["int8", "uint8"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("reduced", [True, False], ids=["7bits", "8bits"])
def test_codes_are_those_of_ort(per_channel, signed, symmetric, reduced, onnxq):
    """Bit for bit: codes, scales and zero points."""
    options = [f"weights={'int8' if signed else 'uint8'}", f"per-channel={str(per_channel).lower()}"]
    options += [] if symmetric else ["asymmetric"]
    options += ["reduce-range"] if reduced else []
    model = linear((5, 300), (300, 70))
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    # Columns on one side of zero, with halves, of very different size.
    weight[:, 0], weight[:, 1] = np.abs(weight[:, 0]), -np.abs(weight[:, 1])
    weight[:, 2] = np.round(weight[:, 2] * 64) / 2
    weight[:, 3] *= 1e-30
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "W"))
    found = reference.stored(quantize(onnxq, model, ",".join(options)))
    theirs = by_ort(onnxq, per_channel, signed, reduced=reduced, WeightSymmetric=symmetric)
    wanted = {t.name: numpy_helper.to_array(t) for t in theirs.graph.initializer}
    np.testing.assert_array_equal(found.scales, wanted["W_scale"])
    np.testing.assert_array_equal(found.codes, wanted["W_quantized"])
    zero_points = np.broadcast_to(found.zero_points, wanted["W_zero_point"].shape)
    np.testing.assert_array_equal(zero_points, wanted["W_zero_point"])


def test_a_channel_of_zeros(onnxq):
    """The one difference: a symmetric uint8 channel of zeros has the zero point of the others."""
    model = linear((5, 32), (32, 3))
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((32, 3), np.float32), "W"))
    found = reference.stored(quantize(onnxq, model, "weights=uint8"))
    assert (found.codes == 128).all()
    assert found.zero_points == 128
    assert (found.scales == 1).all()


# --- Products


SHAPES = [
    ((5, 64), (64, 48)),
    ((64,), (64, 48)),
    ((2, 3, 5, 64), (64, 48)),
    ((0, 64), (64, 48)),
    ((2, 5, 64), (1, 64, 48)),
    ((5, 37), (37, 1)),
    ((1, 600), (600, 33)),
]


@pytest.mark.parametrize("options", ["", "weights=uint8", "asymmetric", "per-channel=false", "fused=always"])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_matmul_is_what_numpy_says(shapes, options, onnxq):
    x = random(*shapes[0], seed=1)
    written = quantize(onnxq, linear(*shapes), options)
    wanted = reference.product(x, reference.stored(written))
    for optimized in (False, True):
        found = harness.run_model(onnxq.dir / "out.onnx", {"x": x}, optimized)["y"]
        assert found.shape == wanted.shape
        bound = FUSED if optimized or "fused" in options else 0
        np.testing.assert_allclose(found, wanted, rtol=0, atol=bound * np.abs(wanted).max(initial=0))


# Of a stack of matrices ONNX Runtime loses the bias behind the integer product.
STACKS = [((5, 64), (3, 64, 48)), ((3, 5, 64), (3, 64, 48)), ((64,), (3, 64, 48)), ((5, 64), (1, 64, 48)), ((2, 5, 64), (1, 64, 48))]


@pytest.mark.parametrize("options", ["", "weights=uint8", "asymmetric"])
@pytest.mark.parametrize("shapes", STACKS, ids=str)
def test_stacks_of_matrices_and_a_bias(shapes, options, onnxq):
    x, w, bias = random(*shapes[0], seed=1), random(*shapes[1]), random(48, seed=2, scale=8.0)
    b = GraphBuilder()
    b.input("x", x.shape)
    b.node("MatMul", "x", b.weight("W", w), out="m", name="mm")
    b.node("Add", "m", b.weight("b", bias), out="y")
    wanted = x @ w + bias
    b.output("y", wanted.shape)
    quantize(onnxq, b.model(), options)
    for optimized in (False, True):
        found = harness.run_model(onnxq.dir / "out.onnx", {"x": x}, optimized)["y"]
        assert found.shape == wanted.shape
        # 8 bits of weights and activations: well below 2 %; without the bias it would be half.
        assert np.linalg.norm(found - wanted) < 0.02 * np.linalg.norm(wanted)


def test_long_sums_with_zero_points(onnxq):
    """40000 terms of 255 * 255 do not fit in 32 bits."""
    b = GraphBuilder()
    b.input("x", (1, 40000))
    b.node("MatMul", "x", b.weight("W", np.ones((40000, 4), np.float32)), out="y", name="mm")
    b.output("y", (1, 4))
    quantize(onnxq, b.model(), "asymmetric")
    found = harness.run_model(onnxq.dir / "out.onnx", {"x": np.ones((1, 40000), np.float32)})["y"]
    np.testing.assert_allclose(found, 40000, rtol=0.01)


def optimized_operators(onnxq: harness.Onnxq) -> dict[str, int]:
    """What ONNX Runtime makes of `out.onnx`."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(onnxq.dir / "optimized.onnx")
    ort.InferenceSession(onnxq.dir / "out.onnx", options, providers=["CPUExecutionProvider"])
    return op_counts(onnx.load(onnxq.dir / "optimized.onnx"))


@pytest.mark.parametrize("options", ["", "weights=uint8", "asymmetric", "per-channel=false"])
def test_ort_fuses_the_pattern(options, onnxq):
    b = GraphBuilder()
    b.input("x", (None, 64))
    b.node("Relu", "x", out="h")
    b.node("MatMul", "h", b.weight("W", random(64, 48, seed=1)), out="m", name="mm")
    b.node("Add", "m", b.weight("b", random(48, seed=2)), out="y")
    b.node("MatMul", "h", b.weight("V", random(64, 48, seed=3)), out="z", name="mm2")
    for name in "yz":
        b.output(name, (None, 48))
    quantize(onnxq, b.model(), options)
    counts = optimized_operators(onnxq)
    assert not {"MatMulInteger", "Cast"} & counts.keys(), counts
    fused = ("com.microsoft::DynamicQuantizeMatMul", "com.microsoft::MatMulIntegerToFloat")
    assert sum(counts.get(op, 0) for op in fused) == 2, counts


@pytest.mark.parametrize("dtype", [FLOAT16, DOUBLE, BFLOAT16], ids=["float16", "double", "bfloat16"])
def test_other_types(dtype, onnxq):
    x = random(5, 64, seed=1).astype(NUMPY_TYPES[dtype])
    written = quantize(onnxq, linear((5, 64), (64, 48), dtype))
    if dtype == BFLOAT16:
        return  # ONNX Runtime's CPU provider takes no bfloat16 input; the checker has seen the model.
    weight = reference.stored(written)
    wanted = reference.product(x.astype(np.float32), weight).astype(x.dtype)
    found = harness.run_model(onnxq.dir / "out.onnx", {"x": x}, False)["y"]
    np.testing.assert_array_equal(found, wanted)


GEMMS = [
    {},
    {"transA": 1},
    {"transB": 1},
    {"transA": 1, "transB": 1, "alpha": 0.5},
    {"beta": 2.0},
    {"alpha": -3.0, "beta": 0.0},
]


@pytest.mark.parametrize("bias", [None, (), (48,), (1, 48), (5, 1), (5, 48)], ids=str)
@pytest.mark.parametrize("attributes", GEMMS, ids=str)
def test_gemm(attributes, bias, onnxq):
    b = GraphBuilder()
    trans_a, trans_b = (attributes.get(name, 0) for name in ("transA", "transB"))
    x = random(5, 64, seed=1)
    weight = random(64, 48, seed=2)
    b.input("x", (64, 5) if trans_a else (5, 64))
    b.weight("W", np.ascontiguousarray(weight.T) if trans_b else weight)
    operands = ["x", "W"]
    addend = np.zeros((), np.float32)
    if bias is not None:
        addend = random(*bias, seed=3)
        operands.append(b.weight("c", addend))
    b.node("Gemm", *operands, out="y", name="gemm", **attributes)
    b.output("y", (5, 48))
    written = quantize(onnxq, b.model())
    beta = np.float32(attributes.get("beta", 1.0))
    wanted = reference.product(x, reference.stored(written)) + addend * beta
    feeds = {"x": np.ascontiguousarray(x.T) if trans_a else x}
    found = harness.run_model(onnxq.dir / "out.onnx", feeds, False)["y"]
    np.testing.assert_array_equal(found, wanted)
    plain = harness.run_model(onnxq.dir / "in.onnx", feeds)["y"]
    # Each of 64 products has two factors that are off by up to 1/2 of 1/127 of the largest.
    assert np.linalg.norm(found - plain) <= 0.02 * np.linalg.norm(plain - addend * beta)


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 15, 18, 21])
def test_every_opset(opset, onnxq):
    """Before opset 11 the weight is decoded: exactly the float model with that weight."""
    model = linear((5, 64), (64, 48), opset=opset)
    written = quantize(onnxq, model)
    x = random(5, 64, seed=1)
    weight = reference.stored(written)
    found = harness.run_model(onnxq.dir / "out.onnx", {"x": x}, False)["y"]
    if opset >= 11:
        np.testing.assert_array_equal(found, reference.product(x, weight))
        return
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight.decoded(), "W"))
    wanted = harness.run_model(model.SerializeToString(), {"x": x}, False)["y"]
    np.testing.assert_array_equal(found, wanted)


# --- Convolutions


CONVS = {
    "1d": ((2, 32, 40), (16, 32, 3), {}),
    "1d_strided_padded": ((2, 32, 40), (16, 32, 3), {"strides": [2], "pads": [2, 1]}),
    "2d": ((1, 8, 12, 13), (6, 8, 3, 3), {"pads": [1, 1, 1, 1]}),
    "2d_dilated": ((1, 8, 12, 13), (6, 8, 3, 3), {"dilations": [2, 3], "pads": [2, 0, 1, 3]}),
    "2d_groups": ((1, 8, 12, 13), (6, 4, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    "2d_depthwise": ((1, 8, 12, 13), (8, 1, 5, 5), {"group": 8}),
    "2d_same_upper": ((1, 8, 12, 13), (6, 8, 4, 4), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "2d_same_lower": ((1, 8, 12, 13), (6, 8, 4, 4), {"auto_pad": "SAME_LOWER"}),
    "2d_valid": ((1, 8, 12, 13), (6, 8, 4, 4), {"auto_pad": "VALID", "kernel_shape": [4, 4]}),
    "3d": ((1, 4, 6, 7, 8), (5, 4, 2, 3, 2), {"pads": [1, 1, 0, 0, 1, 1]}),
}


def convolution(x_shape: tuple, w_shape: tuple, attributes: dict, bias: bool, weight=None) -> ModelProto:
    b = GraphBuilder()
    b.input("x", x_shape)
    operands = ["x", b.weight("W", random(*w_shape, seed=2) if weight is None else weight)]
    if bias:
        operands.append(b.weight("b", random(w_shape[0], seed=3)))
    b.node("Conv", *operands, out="y", name="conv", **attributes)
    b.output("y", None)
    return b.model()


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "plain"])
@pytest.mark.parametrize("case", CONVS.values(), ids=list(CONVS))
def test_conv_on_integers(case, bias, onnxq):
    """Padding is the zero of the activation: the sums are those of a Conv of whole numbers."""
    x_shape, w_shape, attributes = case
    # Not centred, so that the zero point is none of the usual ones and padding with another shows.
    x = random(*x_shape, seed=1) + np.float32(0.7)
    written = quantize(onnxq, convolution(*case, bias), "conv=integer")
    assert op_counts(written).get("ConvInteger") == 1
    weight = reference.stored(written)
    codes, scale, zero_point = reference.quantize_activation(x)
    whole = codes.astype(np.float32) - np.float32(zero_point)
    terms = weight.codes.astype(np.float32) - 128
    # Sums of at most 288 products below 2^15 are exact in float32.
    sums = convolution(x_shape, w_shape, attributes, False, terms).SerializeToString()
    wanted = harness.run_model(sums, {"x": whole})["y"] * (scale * weight.scales)
    if bias:
        wanted = wanted + random(w_shape[0], seed=3).reshape([-1] + [1] * (len(w_shape) - 2))
    for optimized in (False, True):
        found = harness.run_model(onnxq.dir / "out.onnx", {"x": x}, optimized)["y"]
        np.testing.assert_array_equal(found, wanted)


STORED = {
    "conv": ("Conv", (1, 8, 12, 13), (6, 8, 3, 3), {}),
    "depthwise": ("Conv", (1, 8, 12, 13), (8, 1, 5, 5), {"group": 8}),
    "conv_transpose": ("ConvTranspose", (1, 8, 12), (8, 6, 4), {"strides": [2]}),
    "conv_transpose_groups": ("ConvTranspose", (1, 8, 12), (8, 3, 4), {"group": 2}),
    "matmul_left": ("MatMul", (64, 5), (48, 64), {}),
}


@pytest.mark.parametrize("options", ["", "weights=uint8", "per-channel=false"])
@pytest.mark.parametrize("case", STORED.values(), ids=list(STORED))
def test_stored_weights(case, options, onnxq):
    """Exactly what the float operator computes with the weight that the codes stand for."""
    op, x_shape, w_shape, attributes = case

    def model(weight: np.ndarray) -> ModelProto:
        b = GraphBuilder()
        b.input("x", x_shape)
        operands = ["x", b.weight("W", weight)]
        b.node(op, *(operands[::-1] if op == "MatMul" else operands), out="y", name="n", **attributes)
        b.output("y", None)
        return b.model()

    x = random(*x_shape, seed=1)
    weight = random(*w_shape, seed=2)
    decoded = decode_stored(quantize(onnxq, model(weight), options))
    assert np.abs(decoded - weight).max() <= np.abs(weight).max() / 250
    for optimized in (False, True):
        wanted = harness.run_model(model(decoded).SerializeToString(), {"x": x}, optimized)["y"]
        found = harness.run_model(onnxq.dir / "out.onnx", {"x": x}, optimized)["y"]
        np.testing.assert_array_equal(found, wanted)
    assert not {"Cast", "Mul", "Sub"} & optimized_operators(onnxq).keys(), "folded when loaded"


def decode_stored(written: ModelProto) -> np.ndarray:
    tensors = {t.name: numpy_helper.to_array(t) for t in written.graph.initializer}
    found = reference.stored(written)
    return (found.codes.astype(np.float32) - tensors.get("W_offset", np.float32(0))) * found.scales


# --- Tables


@pytest.mark.parametrize("options", ["", "weights=uint8", "per-channel=false", "embedding=gather-block"])
@pytest.mark.parametrize(("axis", "shape"), [(0, (20, 24)), (-1, (20, 24)), (1, (3, 20, 8)), (0, (20, 3, 8))])
def test_tables(axis, shape, options, onnxq):
    b = GraphBuilder()
    b.input("i", (None, None), INT64)
    b.node("Gather", b.weight("W", random(*shape, seed=1)), "i", out="y", name="table", axis=axis)
    b.output("y", None)
    written = quantize(onnxq, b.model(), options)
    indices = np.array([[0, 5, -1], [2, 2, 7]]) % shape[axis]
    if "gather-block" in options and (axis, len(shape)) == (0, 2):
        found = reference.stored(written)
        decoded = (found.codes.astype(np.float32) - 128) * found.scales
    else:
        decoded = decode_stored(written)
    found = harness.run_model(onnxq.dir / "out.onnx", {"i": indices})["y"]
    np.testing.assert_array_equal(found, np.take(decoded, indices, axis))


@pytest.mark.parametrize("options", ["", "weights=uint8", "asymmetric", "per-channel=false"])
@pytest.mark.parametrize("shape", [(), (7,), (2, 7)], ids=str)
@pytest.mark.parametrize("head", ["transpose", "gemm"])
@pytest.mark.parametrize("opset", [12, 17])
def test_tied_embeddings(head, shape, options, opset, onnxq):
    """One constant for both, and both compute with it."""
    b = GraphBuilder()
    b.input("i", [None] * len(shape), INT64)
    b.input("x", (None, 24))
    b.weight("W", random(200, 24, seed=1))
    b.node("Gather", "W", "i", out="e", name="table")
    if head == "gemm":
        b.node("Gemm", "x", "W", out="y", name="head", transB=1)
    else:
        b.node("Transpose", "W", out="t", perm=[1, 0])
        b.node("MatMul", "x", "t", out="y", name="head")
    b.output("e", None)
    b.output("y", None)
    written = quantize(onnxq, b.model(opset=opset), options)
    large = [t for t in written.graph.initializer if np.prod(t.dims) >= 200 * 24]
    assert len(large) == 1
    weight = reference.stored(written)
    indices = np.asarray(np.arange(3, 3 + np.prod(shape, dtype=int)).reshape(shape))
    feeds = {"i": indices, "x": random(5, 24, seed=2)}
    found = harness.run_model(onnxq.dir / "out.onnx", feeds, False)
    np.testing.assert_array_equal(found["y"], reference.product(feeds["x"], weight))
    np.testing.assert_array_equal(found["e"], weight.decoded().T[feeds["i"]])


def test_a_tied_embedding_is_stored_once_without_integers(onnxq):
    b = GraphBuilder()
    b.input("i", (None, None), INT64)
    b.input("x", (None, 24))
    b.node("Gather", b.weight("W", random(200, 24, seed=1)), "i", out="e", name="table")
    b.node("MatMul", "x", b.node("Transpose", "W", out="t"), out="y", name="head")
    b.output("e", None)
    b.output("y", None)
    written = quantize(onnxq, b.model(), "matmul=stored")
    assert sum(np.prod(t.dims) >= 200 * 24 for t in written.graph.initializer) == 1
    weight = reference.stored(written).decoded()
    feeds = {"i": np.array([[3, 4], [7, 199]]), "x": random(5, 24, seed=2)}
    found = harness.run_model(onnxq.dir / "out.onnx", feeds)
    np.testing.assert_array_equal(found["e"], weight.T[feeds["i"]])
    np.testing.assert_allclose(found["y"], feeds["x"] @ weight, rtol=0, atol=FUSED * np.abs(found["y"]).max())


# --- Recurrent layers


def recurrent(op: str, gates: int, **attributes) -> tuple[ModelProto, dict[str, np.ndarray]]:
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    b = GraphBuilder()
    b.input("x", (7, 2, 24))
    b.weight("W", random(directions, gates * 16, 24, seed=1, scale=0.3))
    b.weight("R", random(directions, gates * 16, 16, seed=2, scale=0.3))
    b.weight("B", random(directions, gates * 32, seed=3, scale=0.1))
    b.node(op, "x", "W", "R", "B", out="y", name="layer", hidden_size=16, **attributes)
    b.output("y", None)
    return b.model(), {"x": random(7, 2, 24, seed=4)}


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("per_channel", [True, False], ids=["channels", "tensor"])
def test_lstm_is_that_of_ort(direction, per_channel, onnxq):
    model, feeds = recurrent("LSTM", 4, direction=direction)
    written = quantize(onnxq, model, f"per-channel={str(per_channel).lower()}")
    assert op_counts(written).get("com.microsoft::DynamicQuantizeLSTM") == 1
    found = harness.run_model(onnxq.dir / "out.onnx", feeds)["y"]
    plain = harness.run_model(onnxq.dir / "in.onnx", feeds)["y"]
    # States below 1 in 8 bits, through seven steps: 0.01 was measured.
    assert np.linalg.norm(found - plain) <= 0.03 * np.linalg.norm(plain)
    if per_channel:
        by_ort(onnxq, True, True)
        np.testing.assert_array_equal(found, harness.run_model(onnxq.dir / "ort.onnx", feeds)["y"])


@pytest.mark.parametrize(("op", "gates"), [("GRU", 3), ("RNN", 1)])
def test_gru_and_rnn_are_decoded(op, gates, onnxq):
    model, feeds = recurrent(op, gates, direction="bidirectional")
    written = quantize(onnxq, model)
    for tensor in model.graph.initializer:
        if tensor.name in ("W", "R"):
            decoded = reference.stored(written, tensor.name).decoded()
            tensor.CopyFrom(numpy_helper.from_array(decoded, tensor.name))
    found = harness.run_model(onnxq.dir / "out.onnx", feeds)["y"]
    np.testing.assert_array_equal(found, harness.run_model(model.SerializeToString(), feeds)["y"])


# --- Whole models


def encoder(layers: int = 3, width: int = 64) -> ModelProto:
    """Embeddings with large features, as trained ones have them, and feed-forward layers."""
    b = GraphBuilder()
    b.input("i", ("batch", "tokens"), INT64)
    table = random(500, width, seed=1) * np.exp(random(500, 1, seed=2))
    h = b.node("Gather", b.weight("table", table), "i", out="h0", name="embedding")
    for n in range(layers):
        up = b.weight(f"up{n}", random(width, 4 * width, seed=10 + n, scale=0.1))
        down = b.weight(f"down{n}", random(4 * width, width, seed=20 + n, scale=0.1))
        m = b.node("MatMul", h, up, out=f"m{n}", name=f"up{n}")
        r = b.node("Relu", m, out=f"r{n}")
        d = b.node("MatMul", r, down, out=f"d{n}", name=f"down{n}")
        h = b.node("Add", h, d, out=f"h{n + 1}")
    b.output(h, None)
    return b.model()


def test_no_worse_than_ort(onnxq):
    quantize(onnxq, encoder())
    by_ort(onnxq, True, True)
    feeds = {"i": np.arange(300).reshape(3, 100)}
    plain, ours, theirs = (
        harness.run_model(onnxq.dir / name, feeds)["h3"] for name in ("in.onnx", "out.onnx", "ort.onnx")
    )
    # Theirs has one scale for the table: rows of small numbers are lost in it.
    assert np.linalg.norm(ours - plain) < np.linalg.norm(theirs - plain)
    sizes = [(onnxq.dir / name).stat().st_size for name in ("in.onnx", "out.onnx")]
    assert sizes[1] < 0.29 * sizes[0]


def test_bytes_do_not_depend_on_threads(onnxq):
    quantize(onnxq, encoder())
    first = harness.sha256(onnxq.dir / "out.onnx")
    for threads in (1, 2, 16):
        environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
        command = ("opt", "in.onnx", "--passes", "int8-dynamic", "-o", "other.onnx")
        onnxq.ok(*command, env=environment)
        assert harness.sha256(onnxq.dir / "other.onnx") == first


def test_nan_is_refused_or_left(onnxq):
    model = linear((5, 64), (64, 48))
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[3, 7] = np.inf
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "W"))
    harness.save(model, onnxq.dir / "in.onnx")
    command = ("opt", "in.onnx", "-o", "out.onnx", "--passes")
    onnxq.refuses(*command, "int8-dynamic", mentions=("`W`", "element 151"))
    onnxq.ok(*command, "int8-dynamic{nonfinite=skip}")
    assert "MatMul" in op_counts(onnx.load(onnxq.dir / "out.onnx"))


# --- Releases


def forms() -> dict[str, tuple[ModelProto, dict[str, np.ndarray], str]]:
    """Every form that is written without a target: model, feeds, options."""
    x = {"x": random(5, 64, seed=1)}
    lstm, sequence = recurrent("LSTM", 4, direction="bidirectional")
    gru, _ = recurrent("GRU", 3)
    b = GraphBuilder()
    b.input("i", (None, None), INT64)
    b.input("x", (None, 24))
    b.node("Gather", b.weight("W", random(200, 24, seed=1)), "i", out="e", name="table")
    b.node("Gemm", "x", "W", out="y", name="head", transB=1)
    b.output("e", None)
    b.output("y", None)
    tied = {"i": np.array([[3, 4], [7, 199]]), "x": random(5, 24, seed=2)}
    image = convolution(*CONVS["2d"], bias=True)
    pixels = {"x": random(1, 8, 12, 13, seed=1)}
    return {
        "matmul": (linear((5, 64), (64, 48)), x, ""),
        "uint8": (linear((5, 64), (64, 48)), x, "weights=uint8"),
        "asymmetric": (linear((5, 64), (64, 48)), x, "asymmetric"),
        "batch": (linear((5, 64), (3, 64, 48)), x, ""),
        "half": (linear((5, 64), (64, 48), FLOAT16), {"x": x["x"].astype(np.float16)}, ""),
        "old": (linear((5, 64), (64, 48), opset=9), x, ""),
        "tied": (b.model(), tied, ""),
        "conv": (image, pixels, "conv=integer"),
        "stored": (image, pixels, ""),
        "lstm": (lstm, sequence, ""),
        "gru": (gru, sequence, ""),
    }


@pytest.mark.parametrize("version", ["1.17", "1.20", "1.23", "1.24", "1.27", "1.31"])
def test_every_release_runs_every_form(version, onnxq):
    """No form that is written unasked needs a newer one, and all compute the same."""
    paths = []
    for name, (model, feeds, options) in forms().items():
        quantize(onnxq, model, options)
        paths.append((onnxq.dir / "out.onnx").rename(onnxq.dir / f"{name}.onnx"))
        np.savez(onnxq.dir / f"{name}.npz", **feeds)
    try:
        results = runtimes.run(version, paths, onnxq.dir)
    except FetchError as error:
        harness.cannot_run(str(error))
    for path, result in zip(paths, results, strict=True):
        assert result.status == "ok", f"{path.stem}: {result}"
        with np.load(path.with_suffix(".npz")) as feeds:
            wanted = harness.run_model(path, dict(feeds), False)
        for found, value in zip(result.outputs, wanted.values(), strict=True):
            # Sums of integers are the same; those of GRU and Conv are of floats (600 * 2^-24). The states of
            # a batch are quantized together or apart in an LSTM, by the number of threads.
            bound = 1e-2 if path.stem == "lstm" else FUSED
            np.testing.assert_allclose(found, value, rtol=0, atol=bound * np.abs(value).max())


@pytest.mark.real
def test_smollm2(real_model, onnxq):
    """Embedding and head included; DynamicQuantizeLinear is there once a layer norm."""
    source = real_model("smollm2")
    onnxq.ok("opt", source, "--passes", "clean,int8-dynamic", "-o", "out.onnx")
    assert (onnxq.dir / "out.onnx").stat().st_size < 0.255 * source.stat().st_size
    harness.session(onnxq.dir / "out.onnx")
