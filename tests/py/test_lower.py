"""What rten lacks is lowered to what it has: every form against ONNX Runtime.

Runs `run_model` of `tests/tools` on the engine rten and compares its outputs with ONNX Runtime,
without optimizations, which is the meaning of the model.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

import harness

CONTRIB = "com.microsoft"
TINYLM = harness.REPOSITORY / "testdata" / "tinylm" / "model.onnx"

# float32 sums of a few hundred products of numbers around 1, in another order.
SUMS = {"rtol": 1e-5, "atol": 2e-5}


@pytest.fixture(scope="session")
def run_model() -> Path:
    return Path(harness.build_tool("run_model"))


class Rten:
    """Runs models on rten, in a directory of the test's own."""

    def __init__(self, program: Path, directory: Path):
        self.program = program
        self.dir = directory

    def start(
        self, model: onnx.ModelProto | Path, feeds: dict[str, np.ndarray], *flags: str
    ) -> subprocess.CompletedProcess:
        path = model if isinstance(model, Path) else harness.save(model, self.dir / "m.onnx")
        save_file({k: np.array(v, order="C") for k, v in feeds.items()}, self.dir / "in.safetensors")
        return subprocess.run(
            [self.program, path, "in.safetensors", "out.safetensors", "--engine", "rten", *flags],
            cwd=self.dir,
            capture_output=True,
            text=True,
            timeout=harness.RUN_SECONDS,
            check=False,
        )

    def __call__(
        self, model: onnx.ModelProto | Path, feeds: dict[str, np.ndarray], *flags: str
    ) -> dict[str, np.ndarray]:
        done = self.start(model, feeds, *flags)
        assert done.returncode == 0, done.stderr
        return load_file(self.dir / "out.safetensors")

    def refuses(self, model: onnx.ModelProto, feeds: dict[str, np.ndarray], *mentions: str) -> None:
        done = self.start(model, feeds)
        assert done.returncode == 2, done.stderr
        assert "panicked" not in done.stderr, done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
        for text in mentions:
            assert text in done.stderr, done.stderr

    def agrees(self, model: onnx.ModelProto | Path, feeds: dict[str, np.ndarray], **tolerance: float) -> None:
        """With and without rten's own optimizations; exactly unless a tolerance is given."""
        source = model if isinstance(model, Path) else model.SerializeToString()
        expected = harness.run_model(source, feeds, opts=False)
        for flags in [(), ("--no-optimize",)]:
            found = self(model, feeds, *flags)
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                assert found[name].shape == value.shape, (name, flags)
                wide = np.float64 if value.dtype.kind == "f" else value.dtype
                if value.dtype.kind != "f":
                    assert found[name].dtype == value.dtype, (name, flags)
                np.testing.assert_allclose(
                    found[name].astype(wide),
                    value.astype(wide),
                    err_msg=f"{name} {flags}",
                    **{"rtol": 0, "atol": 0, **tolerance},
                )


@pytest.fixture
def rten(run_model: Path, tmp_path: Path) -> Rten:
    return Rten(run_model, tmp_path)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def floats(rng: np.random.Generator, *shape: int, dtype: type = np.float32) -> np.ndarray:
    return rng.standard_normal(shape).astype(dtype)


def codes(rng: np.random.Generator, *shape: int, dtype: type = np.uint8) -> np.ndarray:
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


def value(name: str, dtype: type | int, shape: list[int | str] | None) -> onnx.ValueInfoProto:
    element = dtype if isinstance(dtype, int) else helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, element, shape)


def build(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray | np.generic | onnx.TensorProto] | None = None,
    opset: int = 21,
    functions: list[onnx.FunctionProto] | None = None,
    domains: tuple[str, ...] = (),
) -> onnx.ModelProto:
    initializers = []
    for name, constant in (constants or {}).items():
        if not isinstance(constant, onnx.TensorProto):
            constant = numpy_helper.from_array(np.asarray(constant))
        constant.name = name
        initializers.append(constant)
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(CONTRIB, 1)]
    imports += [helper.make_opsetid(domain, 1) for domain in domains]
    return helper.make_model(
        graph,
        opset_imports=imports,
        ir_version=13 if opset >= 25 else 10 if opset > 17 else 8,
        functions=functions or [],
    )


def packed(dtype: int, logical: np.ndarray, dims: list[int]) -> onnx.TensorProto:
    """A tensor of a type below 8 bits, from its elements."""
    bits = 4 if dtype in (TensorProto.INT4, TensorProto.UINT4) else 2
    flat = logical.astype(np.int64).reshape(-1) & ((1 << bits) - 1)
    each = 8 // bits
    flat = np.concatenate([flat, np.zeros(-len(flat) % each, np.int64)]).reshape(-1, each)
    data = sum(flat[:, i] << (bits * i) for i in range(each)).astype(np.uint8).tobytes()
    return onnx.TensorProto(data_type=dtype, dims=dims, raw_data=data)


# MatMulNBits


def nbits(
    rng: np.random.Generator,
    k: int = 64,
    n: int = 5,
    bits: int = 4,
    block: int = 32,
    zeros: str = "",
    bias: bool = False,
    group: str = "",
    flat: bool = False,
    dtype: type = np.float32,
    rank: int = 3,
    codes_through: str = "",
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    blocks = -(-k // block)
    constants: dict[str, np.ndarray] = {
        "B": codes(rng, n, blocks, block * bits // 8),
        "scales": (rng.random((n, blocks)) / 2**bits).astype(dtype),
    }
    names = ["A", "B", "scales", "", "", ""]
    if zeros == "packed":
        constants["zeros"] = codes(rng, n, -(-blocks * bits // 8))
    elif zeros == "float":
        constants["zeros"] = (rng.random((n, blocks)) * 2**bits).astype(dtype)
    if zeros:
        names[3] = "zeros"
    if group:
        index = np.arange(k) // block
        constants["g_idx"] = (rng.permutation(index) if group == "permuted" else index).astype(np.int32)
        names[4] = "g_idx"
    if bias:
        constants["bias"] = floats(rng, n, dtype=dtype)
        names[5] = "bias"
    if flat:
        for name in ["scales", "zeros"]:
            if name in constants:
                constants[name] = constants[name].reshape(-1)
    nodes = []
    if codes_through == "Constant":
        nodes.append(
            helper.make_node("Constant", [], ["B"], value=numpy_helper.from_array(constants.pop("B")))
        )
    elif codes_through == "Reshape":
        constants["shape"] = np.array(constants["B"].shape, np.int64)
        constants["stored"] = constants.pop("B").reshape(n, -1)
        nodes.append(helper.make_node("Reshape", ["stored", "shape"], ["B"]))
    elif codes_through == "Identity":
        constants["stored"] = constants.pop("B")
        nodes.append(helper.make_node("Identity", ["stored"], ["B"]))
    while not names[-1]:
        names.pop()
    nodes.append(
        helper.make_node("MatMulNBits", names, ["Y"], domain=CONTRIB, K=k, N=n, bits=bits, block_size=block)
    )
    dims = [2, 3, k][3 - rank :]
    model = build(
        nodes, [value("A", dtype, [*dims[:-1], k])], [value("Y", dtype, [*dims[:-1], n])], constants
    )
    return model, {"A": floats(rng, *dims, dtype=dtype)}


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zeros", ["", "packed", "float"])
@pytest.mark.parametrize("k", [64, 72])
@pytest.mark.parametrize("block", [16, 32])
def test_matmul_nbits(rten, rng, bits, zeros, k, block):
    if bits == 8 and zeros == "float":
        pytest.skip("ONNX Runtime has no float zero points of 8 bits")
    rten.agrees(*nbits(rng, bits=bits, zeros=zeros, k=k, block=block), **SUMS)


@pytest.mark.parametrize(
    "form",
    [
        {"bias": True},
        {"bias": True, "zeros": "packed", "k": 33},
        {"group": "trivial"},
        {"flat": True},
        {"flat": True, "zeros": "packed", "k": 80},
        {"rank": 1},
        {"rank": 1, "bits": 8},
        {"rank": 2, "bits": 8},
        {"block": 128, "k": 256, "zeros": "packed"},
        {"codes_through": "Constant", "zeros": "packed"},
        {"codes_through": "Reshape", "zeros": "packed"},
        {"codes_through": "Reshape"},
        {"codes_through": "Identity", "bits": 2},
        {"n": 1, "bits": 2, "k": 16, "block": 16},
    ],
    ids=str,
)
def test_matmul_nbits_forms(rten, rng, form):
    rten.agrees(*nbits(rng, **form), **SUMS)


@pytest.mark.parametrize("zeros", ["", "packed", "float"])
def test_matmul_nbits_float16(rten, rng, zeros):
    # rten computes float16 as float32: half a unit in the last place of results around 10.
    rten.agrees(*nbits(rng, zeros=zeros, dtype=np.float16), rtol=2e-3, atol=1e-2)


@pytest.mark.parametrize("group", ["trivial", "permuted"])
def test_matmul_nbits_with_a_group_index_and_zero_points(rten, rng, group):
    """The definition is the reference: ONNX Runtime 1.31 reads packed zero points otherwise when
    there is a `g_idx`, even one that says what is so without it."""
    model, feeds = nbits(rng, group=group, zeros="packed", k=64, block=16)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    nibbles = np.stack([constants["B"] & 15, constants["B"] >> 4], -1).reshape(5, 64).astype(np.float32)
    packed_zeros = constants["zeros"]
    zeros = np.stack([packed_zeros & 15, packed_zeros >> 4], -1).reshape(5, 4).astype(np.float32)
    group = constants["g_idx"]
    weight = (nibbles - zeros[:, group]) * constants["scales"][:, group]
    found = rten(model, feeds)["Y"]
    np.testing.assert_allclose(found, feeds["A"] @ weight.T, **SUMS)


def test_scales_through_a_cast(rten, rng):
    model, feeds = nbits(rng, zeros="packed")
    graph = model.graph
    scales = next(t for t in graph.initializer if t.name == "scales")
    halves = numpy_helper.from_array(numpy_helper.to_array(scales).astype(np.float16), "halves")
    graph.initializer.remove(scales)
    graph.initializer.append(halves)
    graph.node.insert(0, helper.make_node("Cast", ["halves"], ["scales"], to=TensorProto.FLOAT))
    rten.agrees(model, feeds, **SUMS)


def test_computed_weights_are_refused_by_name(rten, rng):
    model, feeds = nbits(rng, zeros="packed")
    scales = next(t for t in model.graph.initializer if t.name == "scales")
    model.graph.initializer.remove(scales)
    model.graph.input.append(value("scales", np.float32, [5, 2]))
    model.graph.node[0].name = "head"
    rten.refuses(
        model,
        {**feeds, "scales": numpy_helper.to_array(scales)},
        "MatMulNBits",
        "head",
        "scales",
        "--engine onnxruntime",
    )


# GatherBlockQuantized


def gather(
    rng: np.random.Generator,
    bits: int = 4,
    block: int = 16,
    width: int = 64,
    zeros: bool = False,
    element: int = TensorProto.UINT8,
    axes: tuple[int, int] = (0, 1),
    dtype: type = np.float32,
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    rows = 32
    extents = [rows, width]
    scale_dims = list(extents)
    scale_dims[axes[1]] = -(-scale_dims[axes[1]] // block)
    constants: dict[str, np.ndarray | onnx.TensorProto] = {"scales": rng.random(scale_dims).astype(dtype)}
    names = ["data", "indices", "scales"]
    if element == TensorProto.UINT8:
        constants["data"] = codes(rng, rows, width * bits // 8)
        if zeros:
            constants["zeros"] = codes(rng, rows, -(-scale_dims[1] * bits // 8))
    else:
        low = -8 if element == TensorProto.INT4 else 0
        constants["data"] = packed(element, rng.integers(low, low + 16, extents), extents)
        if zeros:
            constants["zeros"] = packed(element, rng.integers(low, low + 16, scale_dims), scale_dims)
    if zeros:
        names.append("zeros")
    attributes = {"bits": bits, "block_size": block, "gather_axis": axes[0], "quantize_axis": axes[1]}
    node = helper.make_node("GatherBlockQuantized", names, ["Y"], domain=CONTRIB, **attributes)
    model = build([node], [value("indices", np.int64, ["a", "b"])], [value("Y", dtype, None)], constants)
    return model, {"indices": rng.integers(0, extents[axes[0]], (2, 3))}


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("width", [64, 120])
@pytest.mark.parametrize("axis", [1, -1])
def test_gather(rten, rng, bits, zeros, width, axis):
    rten.agrees(*gather(rng, bits=bits, zeros=zeros, width=width, axes=(0, axis)))


@pytest.mark.parametrize("element", [TensorProto.UINT4, TensorProto.INT4])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("axes", [(0, 1), (1, 0)])
def test_gather_of_four_bit_tensors(rten, rng, element, zeros, axes):
    rten.agrees(*gather(rng, element=element, zeros=zeros, axes=axes))


def test_gather_float16(rten, rng):
    # Rounded to float16 there, not here: half a unit in the last place.
    rten.agrees(*gather(rng, zeros=True, dtype=np.float16), rtol=5e-4, atol=1e-6)


# Models that onnxq writes


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--asymmetric"],
        ["--bits", "2"],
        ["--bits", "8"],
        ["--bits", "8", "--asymmetric"],
        ["--block-size", "32"],
        ["--block-size", "32", "--asymmetric"],
        ["--external-data", "always"],
        ["--external-data", "always", "--asymmetric"],
    ],
    ids=" ".join,
)
def test_what_onnxq_writes(onnxq, rten, flags):
    onnxq.ok("quantize", TINYLM, "-o", "q.onnx", *flags)
    path = onnxq.dir / "q.onnx"
    # Logits of about 20, through four layers of sums in another order. With 2 and 8 bits onnxq asks for
    # accuracy level 4, for which ONNX Runtime rounds the activations to 8 bits and rten does not.
    tolerance = {"rtol": 0.02, "atol": 0.3} if {"2", "8"} & set(flags) else {"rtol": 1e-4, "atol": 1e-3}
    rten.agrees(path, language_feeds(path), **tolerance)


def language_feeds(path: Path) -> dict[str, np.ndarray]:
    feeds = {}
    for wanted in harness.session(path, opts=False).get_inputs():
        if "past" in wanted.name:
            dims = [1 if axis == 0 else 0 if axis == 2 else d for axis, d in enumerate(wanted.shape)]
            feeds[wanted.name] = np.zeros(dims, np.float32)
        elif wanted.name == "input_ids":
            feeds[wanted.name] = np.array([[1, 50, 97, 300, 12, 700, 5]])
        elif wanted.name == "attention_mask":
            feeds[wanted.name] = np.ones((1, 7), np.int64)
        else:
            feeds[wanted.name] = np.arange(7)[None]
    return feeds


# QuantizeLinear and DequantizeLinear


@pytest.mark.parametrize(
    ("element", "opset"),
    [
        (TensorProto.INT4, 21),
        (TensorProto.UINT4, 21),
        (TensorProto.INT2, 25),
        (TensorProto.UINT2, 25),
        (TensorProto.INT8, 21),
        (TensorProto.UINT8, 21),
        (TensorProto.INT16, 21),
        (TensorProto.UINT16, 21),
    ],
)
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(("axis", "block"), [(0, 16), (1, 16), (-1, 16), (0, 0), (1, 0), (None, 0)])
def test_dequantize_constant(rten, rng, element, opset, zeros, axis, block):
    extents = [32, 60]
    if block:
        scale_dims = list(extents)
        scale_dims[axis] = -(-scale_dims[axis] // block)
    else:
        scale_dims = [] if axis is None else [extents[axis]]
    model = dequantizer(
        rng, element, opset, extents, scale_dims, zeros, {"axis": axis} if axis is not None else {}, block
    )
    rten.agrees(model, {"x": floats(rng, *extents)})


def dequantizer(rng, element, opset, extents, scale_dims, zeros, attributes, block):
    bits = {TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.INT2: 2, TensorProto.UINT2: 2}.get(element)
    signed = element in (TensorProto.INT4, TensorProto.INT2)

    def integers(dims):
        if bits is None:
            return codes(rng, *dims, dtype=helper.tensor_dtype_to_np_dtype(element).type)
        low = -(1 << (bits - 1)) if signed else 0
        return packed(element, rng.integers(low, low + (1 << bits), dims), list(dims))

    constants = {"q": integers(extents), "s": rng.random(scale_dims).astype(np.float32)}
    names = ["q", "s"]
    if zeros:
        constants["z"] = integers(scale_dims)
        names.append("z")
    if block:
        attributes = {**attributes, "block_size": block}
    nodes = [
        helper.make_node("DequantizeLinear", names, ["w"], **attributes),
        helper.make_node("Add", ["x", "w"], ["y"]),
    ]
    return build(
        nodes, [value("x", np.float32, extents)], [value("y", np.float32, extents)], constants, opset
    )


def test_dequantize_int32_bias(rten, rng):
    constants = {
        "q": rng.integers(-(2**20), 2**20, 6).astype(np.int32),
        "s": np.float32(0.01) * np.arange(1, 7, dtype=np.float32),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["b"], axis=0),
        helper.make_node("Add", ["x", "b"], ["y"]),
    ]
    model = build(nodes, [value("x", np.float32, [2, 6])], [value("y", np.float32, [2, 6])], constants)
    rten.agrees(model, {"x": floats(rng, 2, 6)})


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
@pytest.mark.parametrize("zero", [None, 3])
def test_quantize_ties_as_onnx_does(rten, dtype, zero):
    # 0.1 has no exact reciprocal; half steps are ties.
    x = (np.arange(-600, 600, dtype=np.float32) * np.float32(0.05)).reshape(4, -1)
    constants = {"s": np.float32(0.1).reshape(()), "z": np.array(zero or 0, dtype)}
    names = ["x", "s"] if zero is None and dtype == np.uint8 else ["x", "s", "z"]
    nodes = [
        helper.make_node("QuantizeLinear", names, ["q"]),
        helper.make_node("DequantizeLinear", ["q", *names[1:]], ["y"]),
    ]
    outputs = [value("q", dtype, list(x.shape)), value("y", np.float32, list(x.shape))]
    rten.agrees(build(nodes, [value("x", np.float32, list(x.shape))], outputs, constants), {"x": x})


@pytest.mark.parametrize("zero", [False, True])
def test_quantize_along_an_axis(rten, rng, zero):
    constants = {"s": np.array([0.25, 0.5, 2.0], np.float32), "z": np.array([1, 2, 3], np.uint8)}
    names = ["x", "s", "z"] if zero else ["x", "s"]
    model = build(
        [helper.make_node("QuantizeLinear", names, ["q"])],
        [value("x", np.float32, [2, 3, 4])],
        [value("q", np.uint8, [2, 3, 4])],
        constants,
    )
    rten.agrees(model, {"x": floats(rng, 2, 3, 4)})


def test_dynamic_quantize_ties(rten):
    x = (np.arange(0, 256, dtype=np.float32) * np.float32(0.5) + np.float32(0.25)).reshape(2, -1)
    outputs = [value("q", np.uint8, [2, 128]), value("s", np.float32, []), value("z", np.uint8, [])]
    model = build(
        [helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])],
        [value("x", np.float32, [2, 128])],
        outputs,
    )
    # rten multiplies by the reciprocal of the scale: codes next to a tie differ by 1. The scale
    # and the zero point are the same.
    found, expected = (
        rten(model, {"x": x}),
        harness.run_model(model.SerializeToString(), {"x": x}, opts=False),
    )
    assert np.abs(found["q"].astype(int) - expected["q"].astype(int)).max() <= 1
    assert found["s"] == expected["s"]
    assert found["z"] == expected["z"]


# Convolutions


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("zero", [None, 0, 131])
@pytest.mark.parametrize("padding", ["none", "pads", "SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("written", [True, False])
def test_conv_integer(rten, rng, axes, group, zero, padding, written):
    extents, kernel = [7, 6][:axes], [3, 2][:axes]
    attributes: dict = {"group": group}
    if written:
        attributes |= {"kernel_shape": kernel, "strides": [2] * axes, "dilations": [1] * axes}
    if padding == "pads":
        attributes["pads"] = [1, 2, 0, 1][: 2 * axes]
    elif padding != "none":
        attributes["auto_pad"] = padding
    constants = {
        "w": codes(rng, 4, 4 // group, *kernel),
        "xz": np.array(zero or 0, np.uint8),
        "wz": np.array(120, np.uint8),
    }
    names = ["x", "w"] if zero is None else ["x", "w", "xz", "wz"]
    model = build(
        [helper.make_node("ConvInteger", names, ["y"], **attributes)],
        [value("x", np.uint8, [2, 4, *extents])],
        [value("y", np.int32, None)],
        constants,
    )
    rten.agrees(model, {"x": codes(rng, 2, 4, *extents)})


@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("written", [True, False])
def test_conv(rten, rng, auto_pad, written):
    attributes = {"kernel_shape": [2, 3]} if written else {}
    model = build(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], auto_pad=auto_pad, **attributes)],
        [value("x", np.float32, [1, 3, 6, 5])],
        [value("y", np.float32, None)],
        {"w": floats(rng, 4, 3, 2, 3), "b": floats(rng, 4)},
    )
    rten.agrees(model, {"x": floats(rng, 1, 3, 6, 5)}, **SUMS)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("strides", [{}, {"strides": [1, 2]}])
def test_pool(rten, rng, op, auto_pad, strides):
    attributes = {"kernel_shape": [2, 3], "auto_pad": auto_pad, **strides}
    model = build(
        [helper.make_node(op, ["x"], ["y"], **attributes)],
        [value("x", np.float32, [1, 3, 6, 5])],
        [value("y", np.float32, None)],
    )
    rten.agrees(model, {"x": floats(rng, 1, 3, 6, 5)}, **SUMS)


# Operators on codes


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("pads", [[0] * 4, [1, 0, 1, 2]])
@pytest.mark.parametrize("group", [1, 2])
def test_qlinear_conv(rten, rng, dtype, channels, bias, pads, group):
    many = (4,) if channels else ()
    constants = {
        "xs": np.float32(0.02).reshape(()),
        "xz": np.array(5, dtype),
        "w": codes(rng, 4, 4 // group, 3, 3, dtype=dtype if not channels else np.int8),
        "ws": (rng.random(many) * 0.01 + 0.001).astype(np.float32),
        "wz": np.zeros(many, dtype if not channels else np.int8),
        "ys": np.float32(0.5).reshape(()),
        "yz": np.array(7, dtype),
        "b": rng.integers(-5000, 5000, 4).astype(np.int32),
    }
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"] + (["b"] if bias else [])
    model = build(
        [helper.make_node("QLinearConv", names, ["y"], pads=pads, group=group)],
        [value("x", dtype, [2, 4, 6, 7])],
        [value("y", dtype, None)],
        constants,
    )
    rten.agrees(model, {"x": codes(rng, 2, 4, 6, 7, dtype=dtype)})


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("columns", [False, True])
def test_qlinear_matmul(rten, rng, dtype, columns):
    many = (5,) if columns else ()
    constants = {
        "as": np.float32(0.02).reshape(()),
        "az": np.array(9, dtype),
        "b": codes(rng, 8, 5, dtype=dtype),
        "bs": (rng.random(many) * 0.01 + 0.001).astype(np.float32),
        "bz": np.full(many, 3, dtype),
        "ys": np.float32(0.1).reshape(()),
        "yz": np.array(7, dtype),
    }
    names = ["a", "as", "az", "b", "bs", "bz", "ys", "yz"]
    model = build(
        [helper.make_node("QLinearMatMul", names, ["y"])],
        [value("a", dtype, [2, 3, 8])],
        [value("y", dtype, None)],
        constants,
    )
    rten.agrees(model, {"a": codes(rng, 2, 3, 8, dtype=dtype)})


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_qlinear_binary(rten, rng, op, dtype):
    constants = {
        "as": np.float32(0.02).reshape(()),
        "bs": np.float32(0.03).reshape(()),
        "cs": np.float32(0.04).reshape(()),
        **{name: np.array(i, dtype) for i, name in enumerate(["az", "bz", "cz"])},
    }
    names = ["a", "as", "az", "b", "bs", "bz", "cs", "cz"]
    inputs = [value("a", dtype, [2, 64]), value("b", dtype, [64])]
    model = build(
        [helper.make_node(op, names, ["c"], domain=CONTRIB)], inputs, [value("c", dtype, None)], constants
    )
    # ONNX Runtime folds the scales into one factor an operand: codes next to a tie differ by 1.
    rten.agrees(model, {"a": codes(rng, 2, 64, dtype=dtype), "b": codes(rng, 64, dtype=dtype)}, atol=1)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("QLinearSigmoid", {}),
        ("QLinearLeakyRelu", {"alpha": 0.1}),
        ("QLinearGlobalAveragePool", {}),
        ("QLinearAveragePool", {"kernel_shape": [2, 2]}),
        ("QLinearSoftmax", {"axis": -1, "opset": 13}),
    ],
)
def test_qlinear_unary(rten, rng, op, attributes):
    constants = {
        "xs": np.float32(0.02).reshape(()),
        "xz": np.array(128, np.uint8),
        "ys": np.float32(1 / 256).reshape(()),
        "yz": np.array(0, np.uint8),
    }
    node = helper.make_node(op, ["x", "xs", "xz", "ys", "yz"], ["y"], domain=CONTRIB, **attributes)
    model = build([node], [value("x", np.uint8, [1, 3, 4, 6])], [value("y", np.uint8, None)], constants)
    # Tables and fixed point there, float32 here: codes next to a tie differ by 1.
    rten.agrees(model, {"x": codes(rng, 1, 3, 4, 6)}, atol=1)


def test_qlinear_concat(rten, rng):
    constants = {
        **{f"{v}s": np.float32(s).reshape(()) for v, s in [("a", 0.02), ("b", 0.03), ("y", 0.04)]},
        **{f"{v}z": np.array(z, np.uint8) for v, z in [("a", 1), ("b", 2), ("y", 3)]},
    }
    node = helper.make_node(
        "QLinearConcat", ["ys", "yz", "a", "as", "az", "b", "bs", "bz"], ["y"], domain=CONTRIB, axis=1
    )
    inputs = [value("a", np.uint8, [2, 32]), value("b", np.uint8, [2, 64])]
    model = build([node], inputs, [value("y", np.uint8, None)], constants)
    rten.agrees(model, {"a": codes(rng, 2, 32), "b": codes(rng, 2, 64)}, atol=1)


@pytest.mark.parametrize("scaled", [False, True])
def test_qgemm(rten, rng, scaled):
    constants = {
        "as": np.float32(0.02).reshape(()),
        "az": np.array(9, np.uint8),
        "b": codes(rng, 5, 8, dtype=np.int8),
        "bs": np.float32(0.01).reshape(()),
        "bz": np.array(0, np.int8),
        "c": rng.integers(-500, 500, 5).astype(np.int32),
        "ys": np.float32(0.1).reshape(()),
        "yz": np.array(7, np.uint8),
    }
    names = ["a", "as", "az", "b", "bs", "bz", "c"] + (["ys", "yz"] if scaled else [])
    node = helper.make_node("QGemm", names, ["y"], domain=CONTRIB, transB=1)
    model = build(
        [node],
        [value("a", np.uint8, [3, 8])],
        [value("y", np.uint8 if scaled else np.float32, None)],
        constants,
    )
    rten.agrees(model, {"a": codes(rng, 3, 8)}, rtol=0 if scaled else 1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_dynamic_quantize_matmul(rten, rng, dtype, columns, bias):
    many = (5,) if columns else ()
    constants = {
        "b": codes(rng, 8, 5, dtype=dtype),
        "bs": (rng.random(many) * 0.01).astype(np.float32),
        "bz": codes(rng, *many, dtype=dtype) if columns else np.array(3, dtype),
        "c": floats(rng, 5),
    }
    node = helper.make_node(
        "DynamicQuantizeMatMul", ["a", "b", "bs", "bz"] + (["c"] if bias else []), ["y"], domain=CONTRIB
    )
    model = build([node], [value("a", np.float32, [2, 3, 8])], [value("y", np.float32, None)], constants)
    rten.agrees(model, {"a": floats(rng, 2, 3, 8)}, **SUMS)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_matmul_integer_to_float(rten, rng, zeros, bias):
    constants = {
        "b": codes(rng, 8, 5, dtype=np.int8),
        "as": np.float32(0.1).reshape(()),
        "bs": rng.random(5).astype(np.float32),
        "az": np.array(7, np.uint8),
        "bz": codes(rng, 5, dtype=np.int8),
        "c": floats(rng, 5),
    }
    names = ["a", "b", "as", "bs", "az" if zeros else "", "bz" if zeros else "", "c" if bias else ""]
    while not names[-1]:
        names.pop()
    node = helper.make_node("MatMulIntegerToFloat", names, ["y"], domain=CONTRIB)
    model = build([node], [value("a", np.uint8, [2, 8])], [value("y", np.float32, None)], constants)
    rten.agrees(model, {"a": codes(rng, 2, 8)}, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(("flip_a", "flip_b", "alpha"), [(0, 0, 1.0), (1, 0, 0.5), (0, 1, 2.0), (1, 1, 1.0)])
def test_fused_matmul(rten, rng, flip_a, flip_b, alpha):
    a, b = ([2, 6, 3] if flip_a else [2, 3, 6]), ([2, 4, 6] if flip_b else [2, 6, 4])
    node = helper.make_node(
        "FusedMatMul", ["a", "b"], ["y"], domain=CONTRIB, transA=flip_a, transB=flip_b, alpha=alpha
    )
    model = build(
        [node], [value("a", np.float32, a), value("b", np.float32, b)], [value("y", np.float32, [2, 3, 4])]
    )
    rten.agrees(model, {"a": floats(rng, *a), "b": floats(rng, *b)}, **SUMS)


# Meanings that rten has otherwise


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.int64, np.uint8])
def test_cast_to_bool(rten, dtype):
    x = np.array([0, 1, 2, 5, 0], dtype) / (2 if dtype == np.float32 else 1)
    nodes = [
        helper.make_node("Cast", ["x"], ["t"], to=TensorProto.BOOL),
        helper.make_node("Cast", ["t"], ["y"], to=TensorProto.INT64),
    ]
    model = build(nodes, [value("x", dtype, [5])], [value("t", np.bool_, [5]), value("y", np.int64, [5])])
    rten.agrees(model, {"x": x.astype(dtype)})


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1])
@pytest.mark.parametrize("shape", [[2, 3, 4], None])
def test_old_softmax(rten, rng, op, axis, shape):
    attributes = {} if axis is None else {"axis": axis}
    node = helper.make_node(op, ["x"], ["y"], **attributes)
    model = build(
        [node], [value("x", np.float32, shape or ["a", "b", "c"])], [value("y", np.float32, None)], opset=11
    )
    rten.agrees(model, {"x": floats(rng, 2, 3, 4)}, **SUMS)


def test_dropout_does_nothing(rten, rng):
    model = build(
        [helper.make_node("Dropout", ["x"], ["y"])],
        [value("x", np.float32, [3])],
        [value("y", np.float32, [3])],
    )
    rten.agrees(model, {"x": floats(rng, 3)})


def test_bfloat16_constant(rten, rng):
    bits = (floats(rng, 4).view(np.uint32) >> 16).astype(np.uint16)
    weight = onnx.TensorProto(data_type=TensorProto.BFLOAT16, dims=[4], raw_data=bits.tobytes())
    nodes = [
        helper.make_node("Cast", ["w"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    model = build(nodes, [value("x", np.float32, [4])], [value("y", np.float32, [4])], {"w": weight})
    rten.agrees(model, {"x": floats(rng, 4)})


# Graphs in graphs


def test_both_branches_of_an_if(rten, rng):
    """Each branch lowers its own node, and they share one table."""
    inner, feeds = nbits(rng, zeros="packed", rank=2)
    node = inner.graph.node[0]

    def branch(name: str, scale: float) -> onnx.GraphProto:
        nodes = [
            helper.make_node(
                "MatMulNBits", node.input, [f"p_{name}"], domain=CONTRIB, K=64, N=5, bits=4, block_size=32
            ),
            helper.make_node("Mul", [f"p_{name}", f"s_{name}"], [f"y_{name}"]),
        ]
        constants = [numpy_helper.from_array(np.float32(scale), f"s_{name}")]
        return helper.make_graph(nodes, name, [], [value(f"y_{name}", np.float32, None)], constants)

    choose = helper.make_node(
        "If", ["c"], ["Y"], then_branch=branch("then", 1), else_branch=branch("else", -2)
    )
    model = build(
        [choose],
        [value("A", np.float32, [3, 64]), value("c", np.bool_, [])],
        [value("Y", np.float32, [3, 5])],
    )
    model.graph.initializer.extend(inner.graph.initializer)
    for condition in [True, False]:
        rten.agrees(model, {**feeds, "c": np.array(condition)}, **SUMS)


def test_local_functions(rten, rng):
    """One function calls another, gives it an attribute, and has an If inside."""
    leaf = helper.make_function(
        "local",
        "Leaf",
        ["a"],
        ["b"],
        [helper.make_node("LeakyRelu", ["a"], ["b"])],
        [helper.make_opsetid("", 21)],
        attributes=["slope"],
    )
    reference = onnx.AttributeProto(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="slope")
    leaf.node[0].attribute.append(reference)
    then = helper.make_graph(
        [helper.make_node("Leaf", ["p"], ["q"], domain="local", slope=0.5)],
        "t",
        [],
        [value("q", np.float32, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["p"], ["r"])], "e", [], [value("r", np.float32, None)]
    )
    outer = helper.make_function(
        "local",
        "Outer",
        ["p", "c"],
        ["y", "n"],
        [
            helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other),
            helper.make_node("Neg", ["p"], ["n"]),
        ],
        [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)],
    )
    calls = [
        helper.make_node("Outer", ["x", "c"], ["m", "n"], domain="local", name="one"),
        helper.make_node("Outer", ["m", "c"], ["y", "unread"], domain="local", name="two"),
    ]
    inputs = [value("x", np.float32, [4]), value("c", np.bool_, [])]
    outputs = [value("y", np.float32, [4]), value("n", np.float32, [4])]
    model = build(calls, inputs, outputs, functions=[leaf, outer], domains=("local",))
    for condition in [True, False]:
        rten.agrees(model, {"x": floats(rng, 4), "c": np.array(condition)})


# Refusals


def test_missing_operators_are_named(rten):
    nodes = [
        helper.make_node("BitwiseAnd", [x, "y"], [z], name=f"mask_{z}")
        for x, z in [("x", "a"), ("a", "b"), ("b", "c")]
    ]
    nodes.append(helper.make_node("NhwcMaxPool", ["c"], ["z"], domain=CONTRIB, name="pool"))
    inputs = [value("x", np.int32, [2]), value("y", np.int32, [2])]
    model = build(nodes, inputs, [value("z", np.int32, None)])
    feeds = {"x": np.ones(2, np.int32), "y": np.ones(2, np.int32)}
    rten.refuses(
        model,
        feeds,
        "`BitwiseAnd` (node `mask_a`, and 2 more)",
        "`com.microsoft::NhwcMaxPool` (node `pool`)",
        "onnxruntime",
    )


@pytest.mark.parametrize("number", [2**40, -(2**31) - 1, 2**31])
def test_large_integers_are_refused(rten, number):
    model = build(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [value("x", np.int64, [1])],
        [value("y", np.int64, [1])],
        {"w": np.array([number])},
    )
    rten.refuses(model, {"x": np.array([1])}, "`w`", str(number), "32 bits")


def test_large_inputs_are_refused(rten):
    model = build(
        [helper.make_node("Neg", ["x"], ["y"])], [value("x", np.int64, [1])], [value("y", np.int64, [1])]
    )
    rten.refuses(model, {"x": np.array([2**40])}, "`x`", str(2**40))


def test_ends_of_slices_are_no_large_integers(rten):
    ends = np.array([2**63 - 1])
    node = helper.make_node("Slice", ["x", "s", "e"], ["y"])
    model = build(
        [node], [value("x", np.int64, [5])], [value("y", np.int64, [3])], {"s": np.array([2]), "e": ends}
    )
    rten.agrees(model, {"x": np.arange(5)})


def test_types_without_an_operator_for_them_are_refused(rten):
    four = packed(TensorProto.UINT4, np.arange(4), [4])
    nodes = [
        helper.make_node("Cast", ["w"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    model = build(nodes, [value("x", np.float32, [4])], [value("y", np.float32, [4])], {"w": four})
    rten.refuses(model, {"x": np.zeros(4, np.float32)}, "`w`", "uint4")


def test_cubic_resize_is_refused(rten):
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], mode="cubic", name="up")
    model = build(
        [node],
        [value("x", np.float32, [1, 1, 4, 4])],
        [value("y", np.float32, None)],
        {"s": np.array([1, 1, 2, 2], np.float32)},
    )
    rten.refuses(model, {"x": np.zeros((1, 1, 4, 4), np.float32)}, "`up`", "cubic")
