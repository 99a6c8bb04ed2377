"""Compares onnxq's textual syntax with ONNX's own parser and printer.

What `onnx_text` of `tests/tools` prints without extensions must be read by `onnx.parser` as an
equivalent model, what `onnx.printer` writes must be read by onnxq, and with extensions a
model must survive the way through text unchanged.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import onnx.parser
import onnx.printer
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

import harness

LISTS_THAT_ONNX_DROPS = {
    AttributeProto.TENSORS,
    AttributeProto.GRAPHS,
    AttributeProto.TYPE_PROTOS,
}
TESTDATA = Path(onnx.backend.test.__file__).parent / "data"


@pytest.fixture(scope="session")
def binary() -> str:
    return harness.build_tool("onnx_text")


class Text:
    def __init__(self, binary: str, folder: Path) -> None:
        self.binary, self.folder = binary, folder

    def run(self, *args: str) -> bytes:
        result = subprocess.run([self.binary, *args], capture_output=True, check=False)
        assert result.returncode == 0, result.stderr.decode()
        return result.stdout

    def print(self, model: ModelProto, *flags: str) -> str:
        path = self.folder / "in.onnx"
        onnx.save(model, path)
        return self.run("print", str(path), *flags).decode()

    def parse(self, text: str) -> ModelProto:
        source, path = self.folder / "in.onnxtxt", self.folder / "out.onnx"
        source.write_bytes(text.encode())
        self.run("parse", str(source), str(path))
        return onnx.load(path)


@pytest.fixture
def text(binary: str, tmp_path: Path) -> Text:
    return Text(binary, tmp_path)


def tensors_of(message):
    """Every tensor in `message`, in order."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for item in value if field.is_repeated else [value]:
            if isinstance(item, TensorProto):
                yield item
            else:
                yield from tensors_of(item)


def raw(tensor: TensorProto) -> bytes:
    """The elements, however they are held."""
    if tensor.HasField("raw_data") or tensor.data_type in (TensorProto.STRING, 0):
        return tensor.raw_data
    array = numpy_helper.to_array(tensor)
    # Fewer bits than a byte: packed again, so that one form is compared.
    return numpy_helper.from_array(array, "x").raw_data


def normal(model: ModelProto, *, annotations: bool = True) -> ModelProto:
    """`model` without the differences that the text does not keep."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in tensors_of(copy):
        data, strings = raw(tensor), list(tensor.string_data)
        bare = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        if annotations:
            bare.doc_string = tensor.doc_string
            bare.metadata_props.extend(tensor.metadata_props)
        bare.string_data.extend(strings)
        bare.raw_data = data
        tensor.CopyFrom(bare)
    clear(copy, annotations)
    return copy


def clear(message, annotations: bool) -> None:
    """Removes fields that hold nothing, and unless `annotations` what hangs on entities."""
    name = message.DESCRIPTOR.name
    if not annotations:
        kept = {"ModelProto": ("doc_string", "metadata_props"), "FunctionProto": ("doc_string",)}
        left_out = (
            "doc_string",
            "metadata_props",
            "denotation",
            "training_info",
            "configuration",
            "quantization_annotation",
            "device_configurations",
        )
        for field in left_out:
            if field in message.DESCRIPTOR.fields_by_name and field not in kept.get(name, ()):
                message.ClearField(field)
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in value if field.is_repeated else [value]:
                clear(item, annotations)
        elif not field.is_repeated and value == "" and field.containing_oneof is None:
            message.ClearField(field.name)


def assert_same(found: ModelProto, expected: ModelProto, **options: bool) -> None:
    found, expected = normal(found, **options), normal(expected, **options)
    # Text, because NaN is not equal to itself.
    assert str(found) == str(expected)
    assert found.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


def check(text: Text, model: ModelProto, *, onnx_reads: bool = True) -> None:
    full = text.print(model)
    assert_same(text.parse(full), model)
    assert text.print(text.parse(full)) == full
    if onnx_reads:
        assert_same(onnx.parser.parse_model(text.print(model, "--onnx")), model, annotations=False)


def with_nodes(nodes, *, inputs=("x",), outputs=("y",), initializers=(), **fields) -> ModelProto:
    def value(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", None, 3])

    graph = helper.make_graph(
        nodes, "g", [value(i) for i in inputs], [value(o) for o in outputs], list(initializers)
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10, **fields)


def attribute(value, kind=None, name="a") -> ModelProto:
    attr = helper.make_attribute(name, value, attr_type=kind)
    node = helper.make_node("Op", ["x"], ["y"], domain="org.example")
    node.attribute.append(attr)
    return with_nodes([node])


FLOATS = [0.0, -0.0, 1.5, 1e-45, -3.4028235e38, 16777217.0, 0.1, float("inf"), float("-inf"), float("nan")]
TYPE = helper.make_tensor_type_proto(TensorProto.FLOAT16, ["N", None, "a b", 3])
ATTRIBUTES = {
    **{f"float {x}": (x, None) for x in FLOATS},
    "int": (-(2**63), None),
    "string": ('a "quoted" \\ back\nslash #\tü', None),
    "empty string": ("", None),
    "bytes": (b"\xff\x00", None),
    "floats": (FLOATS, None),
    "ints": ([1, -2], None),
    "strings": (["", 'a"b'], None),
    "no floats": ([], AttributeProto.FLOATS),
    "no ints": ([], AttributeProto.INTS),
    "no strings": ([], AttributeProto.STRINGS),
    "tensor": (numpy_helper.from_array(np.float32([[1, 2], [3, np.nan]]), "t"), None),
    "scalar": (numpy_helper.from_array(np.int64(7)), None),
    "type": (TYPE, None),
    "nested type": (
        helper.make_optional_type_proto(
            helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.INT64, TYPE))
        ),
        None,
    ),
    "sparse type": (helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, [3]), None),
    "unknown rank": (helper.make_tensor_type_proto(TensorProto.FLOAT, None), None),
    "sparse": (
        helper.make_sparse_tensor(
            numpy_helper.from_array(np.float32([1, 2]), "v"),
            numpy_helper.from_array(np.int64([1, 3]), "i"),
            [5],
        ),
        None,
    ),
    "tensors": ([numpy_helper.from_array(np.float32([1])), numpy_helper.from_array(np.int64(1))], None),
    "types": ([TYPE, TYPE], None),
    "no graphs": ([], AttributeProto.GRAPHS),
}


@pytest.mark.parametrize("case", ATTRIBUTES)
def test_attribute(text: Text, case: str) -> None:
    value, kind = ATTRIBUTES[case]
    model = attribute(value, kind)
    found = model.graph.node[0].attribute[0].type
    dropped = found in LISTS_THAT_ONNX_DROPS and case != "no graphs"
    check(text, model, onnx_reads=not dropped and case not in ("bytes", "sparse"))


@pytest.mark.parametrize(
    "data_type",
    [pytest.param(t, id=name) for name, t in TensorProto.DataType.items() if t != TensorProto.UNDEFINED],
)
def test_tensor_of_every_type(text: Text, data_type: int) -> None:
    if data_type == TensorProto.STRING:
        tensor = helper.make_tensor("w", data_type, [3], ["a", '"\\\n', ""])
    else:
        dtype = helper.tensor_dtype_to_np_dtype(data_type)
        values = np.array([0, 1, 1, 0, 1], dtype=np.float32).astype(dtype)
        tensor = numpy_helper.from_array(values, "w")
    check(text, with_nodes([helper.make_node("Op", ["x", "w"], ["y"])], initializers=[tensor]))


def test_floating_point_values_keep_their_bits(text: Text) -> None:
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 1 << 32, 2000, dtype=np.uint32)
    f32 = bits.view(np.float32)
    f32 = f32[~np.isnan(f32)]
    f64 = rng.integers(0, 1 << 64, 2000, dtype=np.uint64).view(np.float64)
    f64 = f64[~np.isnan(f64)]
    f16 = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    weights = [numpy_helper.from_array(a, n) for n, a in [("a", f32), ("b", f64), ("c", f16)]]
    node = helper.make_node("Op", ["x", "a", "b", "c"], ["y"])
    check(text, with_nodes([node], initializers=weights))


def test_names_absent_operands_and_header(text: Text) -> None:
    nodes = [
        helper.make_node(
            "Op",
            ["x", "", "/model/layers.0/MatMul"],
            ["", "onnx::1"],
            name="n/1",
            domain="ai.onnx.ml",
            overload="v1",
        ),
        helper.make_node("Sink", [], []),
        helper.make_node("Op", ["onnx::1", ""], ["float", 'a"\\b']),
        helper.make_node("Op", ["float"], ["y"], name="plain_name"),
    ]
    weight = numpy_helper.from_array(np.float32([1]), "/model/layers.0/MatMul")
    model = with_nodes(
        nodes,
        initializers=[weight],
        producer_name='p "q"',
        doc_string="a\nb",
        producer_version="1.0",
        domain="d",
        model_version=3,
    )
    model.graph.name = "a graph"
    helper.set_model_props(model, {"k": "v", "a b": "\\"})
    check(text, model)


def test_nothing_hangs_on_entities_for_onnx_and_all_survives_otherwise(text: Text) -> None:
    model = with_nodes(
        [
            helper.make_node(
                "Relu", ["x"], ["y"], doc_string="a node", a=helper.make_tensor("t", 1, [1], [1.0])
            )
        ]
    )
    model.graph.doc_string = "a graph"
    graph = model.graph
    for entity in (graph, graph.node[0], graph.input[0], graph.node[0].attribute[0].t):
        entity.metadata_props.add(key="k", value='"v"')
        entity.doc_string = "doc"
    graph.node[0].attribute[0].doc_string = "doc"
    graph.input[0].type.denotation = "IMAGE"
    graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    graph.quantization_annotation.add(tensor_name="x").quant_parameter_tensor_names.add(
        key="SCALE_TENSOR", value="s"
    )
    model.training_info.add().algorithm.name = "training"
    check(text, model)


def test_subgraphs_and_captures(text: Text) -> None:
    def branch(name, nodes, output, initializers=()):
        out = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N"])
        return helper.make_graph(nodes, name, [], [out], list(initializers))

    inner = helper.make_node(
        "If",
        ["c"],
        ["i"],
        then_branch=branch("t2", [helper.make_node("Neg", ["x"], ["p"])], "p"),
        else_branch=branch("e2", [helper.make_node("Neg", ["one"], ["p"])], "p"),
    )
    one = numpy_helper.from_array(np.float32([1]), "one")
    outer = helper.make_node(
        "If",
        ["c"],
        ["y"],
        name="if",
        then_branch=branch("t1", [inner], "i", [one]),
        else_branch=branch("e1", [helper.make_node("Abs", ["x"], ["q"])], "q"),
    )
    model = with_nodes([outer], inputs=("x", "c"))
    model.graph.value_info.append(helper.make_tensor_value_info("z", TensorProto.INT64, []))
    check(text, model)
    model.graph.node[0].attribute[0].g.name = "not/an.identifier"
    check(text, model, onnx_reads=False)
    branches = helper.make_attribute("branches", [branch("g1", [], "x"), branch("g2", [], "x")])
    model.graph.node[0].attribute.append(branches)
    check(text, model, onnx_reads=False)


def test_functions(text: Text) -> None:
    node = helper.make_node("Op", ["a", "/b"], ["/t"])
    for name, kind in [("f", AttributeProto.FLOAT), ("i", AttributeProto.INTS)]:
        node.attribute.add(name=name, type=kind, ref_attr_name="alpha")
    function = helper.make_function(
        "local",
        "fn",
        ["a", "/b"],
        ["c"],
        [node, helper.make_node("Relu", ["/t"], ["c"])],
        [helper.make_opsetid("", 21), helper.make_opsetid("m", 1)],
        ["alpha", "other"],
        [helper.make_attribute("beta", 0.5), helper.make_attribute("gamma", [1, 2])],
        doc_string="a function",
        overload="v2",
    )
    function.value_info.append(helper.make_tensor_value_info("/t", TensorProto.FLOAT, ["N"]))
    model = with_nodes(
        [helper.make_node("fn", ["x", "x"], ["y"], domain="local", overload="v2", alpha=1.0)],
        functions=[function],
    )
    check(text, model)
    model.functions[0].metadata_props.add(key="k", value="v")
    check(text, model)


def test_sparse_initializer(text: Text) -> None:
    model = with_nodes([helper.make_node("Op", ["x", "s"], ["y"])])
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            numpy_helper.from_array(np.float32([1, 2]), "s"),
            numpy_helper.from_array(np.int64([1, 3]), "i"),
            [5],
        )
    )
    check(text, model, onnx_reads=False)


def test_ramp_is_what_its_description_says(text: Text) -> None:
    i = np.arange(40)
    expected = (97 * i + 31 * 9) % 251
    model = text.parse(
        "g () => () <float[40] f = {ramp(9)}, float16[40] h = {ramp(9)}, "
        "int64[40] i = {ramp(9)}, uint8[40] u = {ramp(9)}> {}"
    )
    f, h, ints, u = map(numpy_helper.to_array, model.graph.initializer)
    np.testing.assert_array_equal(f, np.float32((expected - 125) / 128))
    np.testing.assert_array_equal(h, f)
    np.testing.assert_array_equal(ints, expected - 125)
    np.testing.assert_array_equal(u, expected)


def backend_models() -> list[Path]:
    models = sorted(p for p in TESTDATA.glob("*/**/*.onnx") if p.stat().st_size < 200_000)
    assert len(models) > 50, "the package `onnx` has its test models"
    return models


@pytest.mark.parametrize("path", backend_models(), ids=lambda p: str(p.relative_to(TESTDATA)))
def test_backend_model(text: Text, path: Path) -> None:
    model = onnx.load(path)
    check(text, model)
    # What ONNX prints is read too, as far as ONNX itself reads it back.
    printed = onnx.printer.to_text(model)
    try:
        expected = onnx.parser.parse_model(printed)
    except onnx.parser.ParseError:
        return
    assert_same(text.parse(printed), expected)
