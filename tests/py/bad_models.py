"""Models that must be refused, one fault each, and the words that the refusal must hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, helper

from builders import BOOL, GraphBuilder, random


@dataclass(frozen=True)
class Bad:
    """A faulty model; `mentions` says where the fault is, as a user would look for it."""

    name: str
    make: Callable[[], ModelProto | bytes]
    mentions: tuple[str, ...] = ()

    def encoded(self) -> bytes:
        made = self.make()
        return made if isinstance(made, bytes) else made.SerializeToString()

    def __str__(self) -> str:
        return self.name


def good_model() -> ModelProto:
    """Small, valid, and its last field is one that it cannot do without."""
    b = GraphBuilder()
    b.input("x", (2, 4))
    b.node("MatMul", "x", b.weight("W", random(4, 3)), out="h", name="mm")
    b.node("Gelu", "h", out="y", name="act", domain="com.microsoft")
    b.output("y", (2, 3))
    return b.model(domains=["com.microsoft"])


def elements_of_nothing(weight: TensorProto) -> None:
    weight.ClearField("raw_data")
    weight.dims[:] = [0, 3]
    weight.int32_data.extend([1, 2])


def nowhere(weight: TensorProto) -> None:
    # Field 14, the enumeration that setters check.
    weight.MergeFromString(b"\x70\x05")


def with_weight(change: Callable[[TensorProto], None]) -> Callable[[], ModelProto]:
    def make() -> ModelProto:
        model = good_model()
        change(model.graph.initializer[0])
        return model

    return make


def raw(length: int):
    def change(weight: TensorProto) -> None:
        weight.raw_data = b"\0" * length

    return change


def dims(*given: int):
    def change(weight: TensorProto) -> None:
        weight.dims[:] = given

    return change


def both_raw_and_typed(weight: TensorProto) -> None:
    weight.float_data.extend([0.0] * 12)


def too_few_typed(weight: TensorProto) -> None:
    weight.ClearField("raw_data")
    weight.float_data.extend([0.0] * 11)


def wrong_typed_field(weight: TensorProto) -> None:
    weight.ClearField("raw_data")
    weight.int64_data.extend([0] * 12)


def no_data(weight: TensorProto) -> None:
    weight.ClearField("raw_data")


def data_type(number: int):
    def change(weight: TensorProto) -> None:
        weight.data_type = number

    return change


TENSORS = [
    Bad("raw_data_short", with_weight(raw(47)), ("W", "47", "48")),
    Bad("raw_data_long", with_weight(raw(49)), ("W", "49", "48")),
    Bad("raw_data_empty", with_weight(raw(0)), ("W",)),
    Bad("elements_of_an_empty_shape", with_weight(elements_of_nothing), ("W", "[0, 3]")),
    Bad("data_location_unknown", with_weight(nowhere), ("W", "data_location 5")),
    Bad("dims_too_many", with_weight(dims(4, 4)), ("W", "48", "64")),
    Bad("dims_too_few", with_weight(dims(4)), ("W", "48", "16")),
    Bad("dims_negative", with_weight(dims(-4, -3)), ("W", "-4")),
    Bad("dims_overflow", with_weight(dims(2**32, 2**32)), ("W",)),
    Bad("dims_overflow_in_bytes", with_weight(dims(2**61, 2)), ("W",)),
    Bad("raw_and_typed_data", with_weight(both_raw_and_typed), ("W",)),
    Bad("typed_data_short", with_weight(too_few_typed), ("W", "11", "12")),
    Bad("typed_data_in_the_wrong_field", with_weight(wrong_typed_field), ("W",)),
    Bad("no_data", with_weight(no_data), ("W",)),
    Bad("data_type_undefined", with_weight(data_type(0)), ("W",)),
    Bad("data_type_unknown", with_weight(data_type(99)), ("W", "99")),
]


def edited(change: Callable[[ModelProto], None]) -> Callable[[], ModelProto]:
    def make() -> ModelProto:
        model = good_model()
        change(model)
        return model

    return make


def cycle(model: ModelProto) -> None:
    """h needs y, and y needs h."""
    model.graph.node[0].input[0] = "y"
    model.graph.output[0].type.CopyFrom(model.graph.input[0].type)


def self_loop(model: ModelProto) -> None:
    model.graph.node[1].input[0] = "y"


def two_producers(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["x"], ["h"], name="again"))


def node_and_initializer(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["x"], ["W"], name="again"))


def node_and_input(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["h"], ["x"], name="again"))


def two_initializers(model: ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def two_inputs(model: ModelProto) -> None:
    model.graph.input.append(model.graph.input[0])


def one_node_gives_a_name_twice(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Split", ["x"], ["s", "s"], name="split"))


def use_before_definition(model: ModelProto) -> None:
    nodes = [model.graph.node[1], model.graph.node[0]]
    nodes = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def undefined_input(model: ModelProto) -> None:
    model.graph.node[0].input[0] = "nowhere"


def undefined_output(model: ModelProto) -> None:
    model.graph.output[0].name = "nowhere"


def captured_from_nowhere(model: ModelProto) -> None:
    """A branch reads a value that is defined only after the If."""
    b = GraphBuilder()
    b.node("Neg", "later", out="inside")
    b.output("inside", (2, 3))
    branch = b.graph("branch")
    choice = helper.make_tensor("choice", BOOL, [], [True])
    model.graph.initializer.append(choice)
    node = helper.make_node("If", ["choice"], ["z"], name="if", then_branch=branch, else_branch=branch)
    model.graph.node.append(node)
    model.graph.node.append(helper.make_node("Relu", ["x"], ["later"], name="late"))


def leaked_from_a_branch(model: ModelProto) -> None:
    """A value of a branch is not visible outside of it."""
    b = GraphBuilder()
    b.node("Neg", "h", out="inside")
    b.output("inside", (2, 3))
    branch = b.graph("branch")
    model.graph.initializer.append(helper.make_tensor("choice", BOOL, [], [True]))
    node = helper.make_node("If", ["choice"], ["z"], name="if", then_branch=branch, else_branch=branch)
    model.graph.node.append(node)
    model.graph.node.append(helper.make_node("Relu", ["inside"], ["w"], name="leak"))


def no_graph(model: ModelProto) -> None:
    model.ClearField("graph")


def no_opset(model: ModelProto) -> None:
    model.ClearField("opset_import")


def domain_without_opset(model: ModelProto) -> None:
    del model.opset_import[1]


def functions_that_call_each_other(model: ModelProto) -> None:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    for name, other in (("A", "B"), ("B", "A")):
        node = helper.make_node(other, ["a"], ["b"], domain="f", name=f"call {other}")
        model.functions.append(helper.make_function("f", name, ["a"], ["b"], [node], imports))
    model.opset_import.append(helper.make_opsetid("f", 1))
    model.graph.node.append(helper.make_node("A", ["x"], ["z"], domain="f", name="call"))


GRAPHS = [
    Bad("cycle", edited(cycle), ("y",)),
    Bad("self_loop", edited(self_loop), ("y",)),
    Bad("two_producers", edited(two_producers), ("`h`",)),
    Bad("node_and_initializer", edited(node_and_initializer), ("`W`",)),
    Bad("node_and_input", edited(node_and_input), ("`x`",)),
    Bad("two_initializers", edited(two_initializers), ("`W`",)),
    Bad("two_inputs", edited(two_inputs), ("`x`",)),
    Bad("one_node_gives_a_name_twice", edited(one_node_gives_a_name_twice), ("`s`",)),
    Bad("use_before_definition", edited(use_before_definition), ("`h`",)),
    Bad("undefined_input", edited(undefined_input), ("nowhere",)),
    Bad("undefined_output", edited(undefined_output), ("nowhere",)),
    Bad("captured_before_definition", edited(captured_from_nowhere), ("later",)),
    Bad("leaked_from_a_branch", edited(leaked_from_a_branch), ("inside",)),
    Bad("no_graph", edited(no_graph), ("graph",)),
    Bad("no_opset", edited(no_opset), ("opset",)),
    Bad("domain_without_opset", edited(domain_without_opset), ("com.microsoft",)),
    Bad("name_that_is_not_utf8", lambda: good_model().SerializeToString().replace(b"mm", b"\xff\xfe")),
    Bad("functions_that_call_each_other", edited(functions_that_call_each_other), ("A",)),
]


def png() -> bytes:
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256))


def noise(length: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(length)


NOT_MODELS = [
    Bad("empty", lambda: b""),
    Bad("one_zero", lambda: b"\0"),
    Bad("zeros", lambda: b"\0" * 4096),
    Bad("text", lambda: b"This is not a model.\n" * 40),
    Bad("json", lambda: b'{"ir_version": 8, "graph": {"node": []}}'),
    Bad("python_pickle", lambda: b"\x80\x04\x95\x10\0\0\0\0\0\0\0}\x94."),
    Bad("git_lfs_pointer", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
    Bad("png", png),
    Bad("zip", lambda: b"PK\x03\x04\x14\0\0\0\x08\0" + bytes(64)),
    Bad("gguf", lambda: b"GGUF\x03\0\0\0" + bytes(64)),
    Bad("endless_varint", lambda: b"\x08" + b"\xff" * 32),
    Bad("length_beyond_the_file", lambda: b"\x3a\xff\xff\xff\xff\x07"),
    Bad("length_of_2_to_the_63", lambda: b"\x3a" + b"\xff" * 8 + b"\x7f"),
    Bad("groups", lambda: b"\x3b\x3c" * 8),
    *(Bad(f"noise_{seed}", lambda seed=seed: noise(1 + 97 * seed, seed)) for seed in range(24)),
]


def deep(levels: int) -> bytes:
    """Graphs in attributes of nodes of graphs: deeper than any stack wants to recurse."""
    heads, length = [], 0
    for _ in range(levels):
        for number in (6, 5, 1):  # AttributeProto.g, NodeProto.attribute, GraphProto.node
            heads.append(bytes([number << 3 | 2]) + varint(length))
            length += len(heads[-1])
    return b"\x08\x08\x3a" + varint(length) + b"".join(reversed(heads))


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])
