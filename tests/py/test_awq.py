"""Channels scaled before weights are quantized: `--method awq`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

import harness
from builders import CONTRIB, GraphBuilder, random
from report import Report
from test_calibrated import MODEL, TINYLM, WINDOW, mean_kld, quantize, runtime, texts  # noqa: F401

K = 64


def uneven(count: int, seed: int = 0) -> np.ndarray:
    """Channels of different sizes, as those of language models are."""
    sizes = np.geomspace(0.05, 2, count).astype(np.float32)
    return np.random.default_rng(seed).permutation(sizes)


class Block(GraphBuilder):
    """Pieces of transformers, on rows of K channels."""

    def linear(self, x: str, name: str, k: int = K, n: int = K, bias: bool = True) -> str:
        product = self.node("MatMul", x, self.weight(f"{name}.weight", random(k, n, seed=len(name)) / 8), out=name)
        if not bias:
            return product
        return self.node("Add", self.weight(f"{name}.bias", random(n, scale=0.1)), product, out=f"{name}.sum")

    def norm(self, x: str, name: str) -> str:
        scale = self.weight(f"{name}.weight", uneven(K, seed=len(name)))
        return self.node("LayerNormalization", x, scale, self.weight(f"{name}.bias", random(K)), out=name)

    def rms(self, x: str, name: str) -> str:
        """Spelled out."""
        square = self.node("Mul", x, x, out=f"{name}.square")
        mean = self.node("ReduceMean", square, out=f"{name}.mean", axes=[-1])
        shifted = self.node("Add", mean, self.weight(f"{name}.eps", np.float32(1e-5)), out=f"{name}.shifted")
        normed = self.node("Div", x, self.node("Sqrt", shifted, out=f"{name}.root"), out=f"{name}.normed")
        return self.node("Mul", self.weight(f"{name}.weight", uneven(K, seed=len(name))), normed, out=name)

    def attention(self, x: str, y: str, name: str) -> str:
        """Of `x` to `y`, with one head."""
        q, k, v = (self.linear(of, f"{name}.{part}") for of, part in ((x, "q"), (y, "k"), (y, "v")))
        turned = self.node("Transpose", k, out=f"{name}.turned", perm=[1, 0])
        scores = self.node("Softmax", self.node("MatMul", q, turned, out=f"{name}.scores"), out=f"{name}.share")
        return self.linear(self.node("MatMul", scores, v, out=f"{name}.mixed"), f"{name}.out")


def llama() -> ModelProto:
    """Norms spelled out, a gated unit: everything but `o` can be scaled."""
    b = Block()
    x = b.input("x", ["rows", K])
    h = b.rms(x, "ln1")
    x = b.node("Add", x, b.attention(h, h, "self"), out="x1")
    h = b.rms(x, "ln2")
    gate, up = (b.linear(h, part, n=2 * K, bias=False) for part in ("gate", "up"))
    act = b.node("Mul", gate, b.node("Sigmoid", gate, out="sigmoid"), out="act")
    down = b.linear(b.node("Mul", act, up, out="gated"), "down", k=2 * K, bias=False)
    x = b.node("Add", x, down, out="x2")
    b.output(b.linear(b.rms(x, "ln3"), "head", bias=False), ["rows", K])
    return b.model()


def whisper() -> ModelProto:
    """A norm of ONNX with scale and bias, attention to an input, Relu between two products."""
    b = Block()
    x, audio = b.input("x", ["rows", K]), b.input("audio", ["frames", K])
    h = b.norm(x, "ln1")
    x = b.node("Add", x, b.attention(h, h, "self"), out="x1")
    x = b.node("Add", x, b.attention(b.norm(x, "ln2"), audio, "cross"), out="x2")
    h = b.node("Relu", b.linear(b.norm(x, "ln3"), "fc1", n=2 * K), out="relu")
    x = b.node("Add", x, b.linear(h, "fc2", k=2 * K), out="x3")
    b.output(b.linear(b.norm(x, "ln4"), "head", bias=False), ["rows", K])
    return b.model()


def fused() -> ModelProto:
    """Norms of ONNX Runtime, whose sum is read on."""
    b = Block()
    x, y = b.input("x", ["rows", K]), b.input("audio", ["rows", K])
    gamma, beta, bias = (b.weight(n, a) for n, a in (("gamma", uneven(K)), ("beta", random(K)), ("bias", random(K))))
    names = ["normed", "", "", "added"]
    b.node("SkipLayerNormalization", x, y, gamma, beta, bias, out=names, domain=CONTRIB)
    one = b.linear("normed", "first")
    simple = b.weight("simple", uneven(K, seed=3))
    names = ["again", "", "", "total"]
    b.node("SkipSimplifiedLayerNormalization", "added", one, simple, out=names, domain=CONTRIB)
    b.output(b.node("Add", b.linear("again", "second"), "total", out="y"), ["rows", K])
    return b.model(domains=[CONTRIB])


def feeds(model: ModelProto, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    names = [i.name for i in model.graph.input]
    return {name: rng.standard_normal((96, K)).astype(np.float32) * uneven(K) for name in names}


@pytest.fixture
def awq(onnxq: harness.Onnxq):
    """Quantizes `model` by `method`; the path of the output."""

    def run(model: ModelProto, name: str, *args: object, method: str = "awq") -> Path:
        harness.save(model, onnxq.dir / "in.onnx")
        np.savez(onnxq.dir / "feeds.npz", **feeds(model, seed=1))
        given = ("--calibrate", "feeds.npz", "--method", method, "--no-clean")
        onnxq.ok("quantize", "in.onnx", "-o", name, *given, *args)
        return onnxq.dir / name

    return run


def weights_of(model: ModelProto) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


CASES = [
    # Activations, and the weights that read them: q, k, v; gate, up; down; head.
    (llama, 4, {"self.q", "self.k", "self.v", "gate", "up", "down", "head"}),
    # The attention to an input scales q alone.
    (whisper, 5, {"self.q", "self.k", "self.v", "cross.q", "fc1", "fc2", "head"}),
    (fused, 2, {"first", "second"}),
]


@pytest.mark.parametrize(("make", "count", "scaled"), CASES)
def test_the_function_stays(awq, make, count, scaled) -> None:
    model = make()
    # So many rewrites, and none of the quantizer.
    path = awq(model, "folded.onnx", "--stop-after", count)
    folded = onnx.load(path)
    assert [n.op_type for n in folded.graph.node] == [n.op_type for n in model.graph.node]
    before, after = weights_of(model), weights_of(folded)
    changed = {n.removesuffix(".weight") for n in before if not np.array_equal(before[n], after[n])}
    assert scaled <= changed
    assert not changed & {"self.out", "cross.k", "cross.v", "cross.out"}
    given = feeds(model, seed=2)
    for (name, want), got in zip(
        harness.run_model(path.with_name("in.onnx"), given, opts=False).items(),
        harness.run_model(path, given, opts=False).values(),
        strict=True,
    ):
        # Constants are rounded once or twice more, and sums of 64 to 128 products in float, and of
        # several layers, are rounded otherwise: some 2^-24 each.
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max(), err_msg=name)


@pytest.mark.parametrize("form", [(), ("--asymmetric",), ("--dtype", "q4f16"), ("--dtype", "q2"), ("--format", "qdq")])
@pytest.mark.parametrize("make", [llama, whisper])
def test_less_is_lost_than_without(awq, make, form) -> None:
    model = make()
    given = feeds(model, seed=2)
    want = harness.run_model(model.SerializeToString(), given)

    def error(method: str) -> float:
        got = harness.run_model(awq(model, f"{method}.onnx", *form, method=method), given)
        return max(float(np.linalg.norm(got[n] - want[n]) / np.linalg.norm(want[n])) for n in want)

    # 0.91 to 0.95 with the gated unit, less with Relu.
    assert error("awq") < 0.97 * error("imatrix")


def test_an_encoder_whose_norms_are_read_twice_stays(awq) -> None:
    """As in BERT: the residual is what a norm makes, so that the weights after it stay."""
    b = Block()
    x = b.norm(b.input("x", ["rows", K]), "embeddings")
    x = b.norm(b.node("Add", x, b.attention(x, x, "self"), out="x1"), "ln1")
    inner = b.linear(x, "fc1", n=2 * K)
    erf = b.node("Erf", inner, out="erf")
    x = b.node("Add", x, b.linear(b.node("Mul", inner, erf, out="gelu"), "fc2", k=2 * K), out="x2")
    b.output(b.norm(x, "ln2"), ["rows", K])
    model = b.model()
    given = feeds(model, seed=2)
    outputs = [harness.run_model(awq(model, f"{m}.onnx", method=m), given) for m in ("awq", "imatrix")]
    for name, value in outputs[0].items():
        np.testing.assert_array_equal(value, outputs[1][name])


def test_bytes_do_not_depend_on_threads(awq) -> None:
    one = awq(llama(), "one.onnx", "--threads", "1")
    assert one.read_bytes() == awq(llama(), "four.onnx", "--threads", "4").read_bytes()


def test_several_dtypes_from_one_calibration(awq, onnxq) -> None:
    (onnxq.dir / "out").mkdir()
    # What they begin with runs once; both quantizers see what it left of the calibration.
    awq(llama(), "out/", "--dtype", "q4,q4f16", "--no-config")
    for dtype in ("q4", "q4f16"):
        alone = awq(llama(), "alone.onnx", "--dtype", dtype, "--record-sha")
        assert alone.read_bytes() == (onnxq.dir / "out" / f"in_{dtype}.onnx").read_bytes()


def test_what_cannot_be_scaled_is_said(awq, onnxq) -> None:
    awq(whisper(), "out.onnx", "--stop-after", 5, "--json", "report.json")
    report = Report.read(onnxq.dir / "report.json")
    # Attention makes the one; the caller the other.
    assert "operator" in report.reasons("MatMul:self.out")
    assert "operator" in report.reasons("MatMul:cross.k")


@pytest.mark.parametrize("form", [("--block-size", "32"), ("--block-size", "32", "--asymmetric")])
def test_a_language_model_is_no_worse(quantize, mean_kld, form) -> None:  # noqa: F811
    weighted = mean_kld(quantize("imatrix.onnx", "--method", "imatrix", *form))
    scaled = mean_kld(quantize("awq.onnx", "--method", "awq", *form))
    # Its channels are so alike that scales are worth less than a twentieth, and hardly any is used.
    assert scaled <= 1.05 * weighted


def test_without_what_it_needs(onnxq: harness.Onnxq, texts) -> None:  # noqa: F811
    onnxq.refuses("quantize", MODEL, "-o", "out.onnx", "--method", "awq", mentions=("--method awq", "--calibrate"))
    budget = ("--calibrate", texts[0], "--budget", "5bpw", "--tokenizer", TINYLM / "tokenizer.json", "--window", WINDOW)
    onnxq.refuses("quantize", MODEL, "-o", "out.onnx", "--method", "awq", *budget, mentions=("--budget", "imatrix"))
    onnxq.refuses("opt", MODEL, "-o", "out.onnx", "--passes", "awq", mentions=("awq", "--calibrate"))
