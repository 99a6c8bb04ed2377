"""A model that uses every field of the wire format, valid where that is at all possible.

`missing_fields` says which fields a set of models does not use, so "every" is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx.onnx_ml_pb2 as wire
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    TrainingInfoProto,
    TypeProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

DOMAIN = "test.exotic"
IR_VERSION = 14

DATA_TYPES = [number for number in TensorProto.DataType.values() if number != TensorProto.UNDEFINED]


def numbers(dtype: int) -> np.ndarray:
    values = [b"a", b"", b"c"] if dtype == TensorProto.STRING else [1, 0, 1]
    return np.array(values).astype(helper.tensor_dtype_to_np_dtype(dtype))


def tensors_of_all_types() -> Iterator[TensorProto]:
    """Each data type twice: in its typed field, and in `raw_data` where it may be there."""
    for dtype in DATA_TYPES:
        name = TensorProto.DataType.Name(dtype)
        array = numbers(dtype)
        yield helper.make_tensor(f"typed {name}", dtype, array.shape, array)
        if dtype != TensorProto.STRING:
            yield numpy_helper.from_array(array, f"raw {name}")


def odd_tensors() -> Iterator[TensorProto]:
    yield numpy_helper.from_array(np.float32(3), "scalar")
    yield numpy_helper.from_array(np.zeros((0, 4), np.float32), "no rows")
    explicit = numpy_helper.from_array(np.arange(4, dtype=np.float32), "explicit defaults")
    explicit.doc_string = ""
    explicit.data_location = TensorProto.DEFAULT
    entry(explicit.metadata_props, "key of a tensor", "value")
    yield explicit
    # Files of IR 1 could split a tensor; the field is still in the format.
    segment = numpy_helper.from_array(np.arange(2, dtype=np.float32), "segment")
    segment.segment.begin, segment.segment.end = 0, 2
    segment.doc_string = "a part of a tensor"
    yield segment


def entry(entries, key: str, value: str) -> None:
    added = entries.add()
    added.key, added.value = key, value


def sparse(name: str) -> SparseTensorProto:
    values = numpy_helper.from_array(np.array([1.5, -2], np.float32), name)
    indices = numpy_helper.from_array(np.array([1, 5], np.int64), f"{name} indices")
    return helper.make_sparse_tensor(values, indices, [3, 4])


def value(name: str, kind: TypeProto) -> ValueInfoProto:
    made = helper.make_value_info(name, kind, f"about {name}")
    entry(made.metadata_props, "key of a value", name)
    return made


def tensor_type(dims: Iterable[int | str | None] | None = (2, "n", None)) -> TypeProto:
    return helper.make_tensor_type_proto(TensorProto.FLOAT, dims)


def types() -> dict[str, TypeProto]:
    """Every kind of type, nested as far as they nest in real files."""
    denoted = tensor_type()
    denoted.denotation = "IMAGE"
    denoted.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    opaque = TypeProto()
    opaque.opaque_type.domain, opaque.opaque_type.name = DOMAIN, "Handle"
    string_map = helper.make_map_type_proto(TensorProto.STRING, tensor_type(()))
    return {
        "tensor": denoted,
        "scalar": tensor_type(()),
        "any rank": tensor_type(None),
        "sequence": helper.make_sequence_type_proto(tensor_type()),
        "map": string_map,
        "sequence of maps": helper.make_sequence_type_proto(string_map),
        "optional": helper.make_optional_type_proto(helper.make_sequence_type_proto(tensor_type())),
        "sparse": helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, (3, "m")),
        "opaque": opaque,
    }


def body(name: str) -> GraphProto:
    """A graph that captures `tensor` and has everything of its own."""
    nodes = [helper.make_node("Identity", ["tensor"], [f"{name} out"], name=f"{name} node")]
    made = helper.make_graph(nodes, name, [], [value(f"{name} out", tensor_type())], doc_string="a body")
    made.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), f"{name} weight"))
    entry(made.metadata_props, "key of a graph", name)
    return made


def attributes() -> Iterator[AttributeProto]:
    """One of each kind, and the empty and zero values that proto2 tells from absent ones."""
    small = numpy_helper.from_array(np.arange(3, dtype=np.int8), "t")
    yield attribute("float", AttributeProto.FLOAT, f=0.0)
    yield attribute("int", AttributeProto.INT, i=-1)
    yield attribute("zero", AttributeProto.INT, i=0)
    yield attribute("string", AttributeProto.STRING, s=b"bytes \xff\x00 are no text")
    yield attribute("empty string", AttributeProto.STRING, s=b"")
    yield attribute("tensor", AttributeProto.TENSOR, t=small)
    yield attribute("graph", AttributeProto.GRAPH, g=body("g"))
    yield attribute("sparse", AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse("s"))
    yield attribute("type", AttributeProto.TYPE_PROTO, tp=types()["optional"])
    yield attribute("floats", AttributeProto.FLOATS, floats=[1.5, -0.0, float("inf"), float("nan")])
    yield attribute("no floats", AttributeProto.FLOATS)
    yield attribute("ints", AttributeProto.INTS, ints=[0, -1, 2**63 - 1, -(2**63)])
    yield attribute("strings", AttributeProto.STRINGS, strings=[b"", b"\xfe"])
    yield attribute("tensors", AttributeProto.TENSORS, tensors=[small, *odd_tensors()])
    yield attribute("graphs", AttributeProto.GRAPHS, graphs=[body("g1"), body("g2")])
    yield attribute("sparses", AttributeProto.SPARSE_TENSORS, sparse_tensors=[sparse("s1"), sparse("s2")])
    yield attribute("types", AttributeProto.TYPE_PROTOS, type_protos=types().values())


def attribute(name: str, kind: int, **fields) -> AttributeProto:
    return AttributeProto(name=name, type=kind, doc_string=f"about {name}", **fields)


def anything() -> NodeProto:
    """A node of an operator that nobody knows, with every field a node has."""
    inputs = ["tensor", "", *list(types())[1:], "typed FLOAT", "sparse weight"]
    node = NodeProto(
        input=inputs,
        output=["result", "", "unused"],
        name="anything",
        op_type="Anything",
        domain=DOMAIN,
        doc_string="",
        attribute=attributes(),
    )
    entry(node.metadata_props, "key of a node", "")
    return with_devices(node)


def with_devices(node: NodeProto) -> NodeProto:
    placed = node.device_configurations.add(configuration_id="two devices", pipeline_stage=1)
    sharding = placed.sharding_spec.add(tensor_name="tensor", device=[0, -1])
    sharding.index_to_device_group_map.add(key=-1, value=[0, 1])
    dim = sharding.sharded_dim.add(axis=-1)
    dim.simple_sharding.add(dim_value=2, num_shards=1)
    dim.simple_sharding.add(dim_param="n", num_shards=2)
    return node


def functions() -> Iterator[FunctionProto]:
    """Two overloads of one function: with a required attribute, and with a default one."""
    for overload in ("", "second"):
        scaled = helper.make_node("LeakyRelu", ["a"], ["b"], name="leaky")
        reference = helper.make_attribute_ref("alpha", AttributeProto.FLOAT)
        reference.ref_attr_name = "alpha"
        scaled.attribute.append(reference)
        made = helper.make_function(
            DOMAIN,
            "Scale",
            ["a"],
            ["b"],
            [scaled],
            [helper.make_opsetid("", 17)],
            attributes=["alpha"] if not overload else [],
            attribute_protos=[attribute("alpha", AttributeProto.FLOAT, f=0.25)] if overload else [],
            doc_string="an overload",
            overload=overload or None,
            value_info=[value("b", tensor_type())],
        )
        entry(made.metadata_props, "key of a function", overload)
        yield made


def calls() -> Iterator[NodeProto]:
    yield helper.make_node("Scale", ["result"], ["y1"], name="call 1", domain=DOMAIN, alpha=0.5)
    yield helper.make_node("Scale", ["y1"], ["y"], name="call 2", domain=DOMAIN, overload="second")


def graph() -> GraphProto:
    made = GraphProto(name="everything", doc_string="a graph", node=[anything(), *calls()])
    made.initializer.extend([*tensors_of_all_types(), *odd_tensors()])
    made.sparse_initializer.append(sparse("sparse weight"))
    made.input.extend(value(name, kind) for name, kind in types().items())
    made.output.extend([value("y", tensor_type()), value("result", tensor_type())])
    made.value_info.append(value("y1", tensor_type()))
    annotation = made.quantization_annotation.add(tensor_name="result")
    entry(annotation.quant_parameter_tensor_names, "SCALE_TENSOR", "scalar")
    entry(made.metadata_props, "key of a graph", "value")
    return made


def training() -> TrainingInfoProto:
    made = TrainingInfoProto(initialization=body("initialization"), algorithm=body("algorithm"))
    for each in (made.initialization, made.algorithm):
        each.node[0].input[0] = each.initializer[0].name
    entry(made.initialization_binding, "typed FLOAT", "initialization out")
    entry(made.update_binding, "typed FLOAT", "algorithm out")
    return made


def model() -> ModelProto:
    made = ModelProto(
        ir_version=IR_VERSION,
        producer_name="exotic",
        producer_version="",
        domain=DOMAIN,
        model_version=0,
        doc_string="every field",
        graph=graph(),
        functions=functions(),
        training_info=[training()],
        opset_import=[helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)],
    )
    made.configuration.add(name="two devices", num_devices=2, device=["first", "second"])
    entry(made.metadata_props, "key of a model", "välue \u2713")
    return made


def missing_fields(*models: ModelProto) -> set[str]:
    used: set[str] = set()
    for each in models:
        collect(each, used)
    return {f"{m.name}.{field.name}" for m in descriptors() for field in m.fields} - used


def collect(message: Message, used: set[str]) -> None:
    for field, content in message.ListFields():
        used.add(f"{message.DESCRIPTOR.name}.{field.name}")
        if field.message_type:
            for child in content if field.is_repeated else [content]:
                collect(child, used)


def descriptors() -> Iterator[Descriptor]:
    pending = list(wire.DESCRIPTOR.message_types_by_name.values())
    while pending:
        message = pending.pop()
        pending += message.nested_types
        yield message
