"""`strip-attrs`: attributes that no schema knows make ONNX Runtime refuse a model.

Exporters add them (`hierarchy_tag` is a real one), so the pass is what makes such files load.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, helper

import harness
from builders import BOOL, INT64, GraphBuilder, random

Feeds = dict[str, np.ndarray]
TAG = "hierarchy_tag"


def tagged(node) -> None:
    node.attribute.append(helper.make_attribute(TAG, "model/layer/linear"))


def body(op: str, name: str, tag: bool):
    b = GraphBuilder()
    b.node(op, "x", out=f"{name} out")
    b.output(f"{name} out", (2, 3))
    made = b.graph(name)
    if tag:
        tagged(made.node[0])
    return made


def on_plain_nodes() -> tuple[ModelProto, Feeds]:
    b = GraphBuilder()
    b.input("x", (2, 3))
    b.node("MatMul", "x", b.weight("W", random(3, 4)), out="h")
    b.node("LeakyRelu", "h", out="y", alpha=0.3)
    b.output("y", (2, 4))
    model = b.model()
    for node in model.graph.node:
        tagged(node)
    return model, {}


def in_if() -> tuple[ModelProto, Feeds]:
    b = GraphBuilder()
    b.input("x", (2, 3))
    b.input("choice", (), BOOL)
    branches = {"then_branch": body("Neg", "then", True), "else_branch": body("Abs", "else", True)}
    b.node("If", "choice", out="y", **branches)
    b.output("y", (2, 3))
    return b.model(), {"choice": np.array(True)}


def in_loop() -> tuple[ModelProto, Feeds]:
    c = GraphBuilder()
    c.input("i", (), INT64)
    c.input("go_in", (), BOOL)
    c.input("h_in", (2, 3))
    c.node("Identity", "go_in", out="go_out")
    c.node("Exp", "h_in", out="h_out")
    c.output("go_out", (), BOOL)
    c.output("h_out", (2, 3))
    loop = c.graph("body")
    for node in loop.node:
        tagged(node)
    b = GraphBuilder()
    b.input("x", (2, 3))
    times, go = b.weight("times", np.array(2)), b.weight("go", np.array(True))
    b.node("Loop", times, go, "x", out="y", body=loop)
    b.output("y", (2, 3))
    return b.model(), {}


def nested() -> tuple[ModelProto, Feeds]:
    """An If in an If: the tag is two levels down and on the outer node."""
    inner = GraphBuilder()
    branches = {"then_branch": body("Neg", "a", True), "else_branch": body("Abs", "b", False)}
    inner.node("If", "choice", out="inner", **branches)
    inner.output("inner", (2, 3))
    b = GraphBuilder()
    b.input("x", (2, 3))
    b.input("choice", (), BOOL)
    branches = {"then_branch": inner.graph("outer then"), "else_branch": body("Exp", "c", False)}
    b.node("If", "choice", out="y", **branches)
    b.output("y", (2, 3))
    model = b.model()
    tagged(model.graph.node[0])
    return model, {"choice": np.array(True)}


def in_function() -> tuple[ModelProto, Feeds]:
    node = helper.make_node("LeakyRelu", ["a"], ["b"], alpha=0.3)
    tagged(node)
    made = helper.make_function("test", "Act", ["a"], ["b"], [node], [helper.make_opsetid("", 17)])
    b = GraphBuilder()
    b.input("x", (2, 3))
    b.node("Act", "x", out="y", domain="test")
    b.output("y", (2, 3))
    return b.model(functions=[made], domains=["test"]), {}


MODELS = [on_plain_nodes, in_if, in_loop, nested, in_function]


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_refused_before_and_right_after(make: Callable[[], tuple[ModelProto, Feeds]], onnxq):
    model, feeds = make()
    feeds |= {"x": random(2, 3)}
    harness.save(model, onnxq.dir / "in.onnx")
    with pytest.raises(Exception, match=TAG):
        harness.session(onnxq.dir / "in.onnx")
    onnxq.ok("opt", "in.onnx", "-o", "out.onnx", "--passes", "strip-attrs")
    assert TAG.encode() not in (onnxq.dir / "out.onnx").read_bytes()
    found = harness.run_model(onnxq.dir / "out.onnx", feeds)
    wanted = harness.run_model(without_tags(model).SerializeToString(), feeds)
    np.testing.assert_array_equal(found["y"], wanted["y"])


def without_tags(model: ModelProto) -> ModelProto:
    """By hand, as the reference: every attribute of that name removed, nothing else."""
    stripped = ModelProto()
    stripped.CopyFrom(model)
    remove_tags(stripped.graph.node)
    for function in stripped.functions:
        remove_tags(function.node)
    return stripped


def remove_tags(nodes) -> None:
    for node in nodes:
        kept = [attr for attr in node.attribute if attr.name != TAG]
        del node.attribute[:]
        node.attribute.extend(kept)
        for attr in node.attribute:
            remove_tags(attr.g.node)


def test_quantize_makes_such_a_model_load(onnxq):
    """The default command has to end with a model that loads."""
    model, _ = on_plain_nodes()
    harness.save(model, onnxq.dir / "in.onnx")
    onnxq.ok("quantize", "in.onnx", "-o", "out.onnx")
    harness.run_model(onnxq.dir / "out.onnx", {"x": random(2, 3)})


def test_known_attributes_stay(onnxq):
    """Of every kind: given and equal to the default, deprecated ones, subgraphs."""
    b = GraphBuilder()
    b.input("x", (1, 2, 5, 5))
    conv = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1], "group": 1, "dilations": [1, 1]}
    b.node("Conv", "x", b.weight("W", random(4, 2, 3, 3)), out="c", **conv)
    b.node("LeakyRelu", "c", out="l", alpha=0.01)
    b.node("MaxPool", "l", out="m", kernel_shape=[2, 2], ceil_mode=0, auto_pad="NOTSET")
    b.node("Softmax", "m", out="y", axis=-1)
    b.output("y", (1, 4, 4, 4))
    source = harness.save(b.model(), onnxq.dir / "in.onnx")
    onnxq.ok("opt", "in.onnx", "-o", "out.onnx", "--passes", "strip-attrs")
    before, after = ModelProto.FromString(source.read_bytes()), ModelProto()
    after.ParseFromString((onnxq.dir / "out.onnx").read_bytes())
    assert [list(node.attribute) for node in after.graph.node] == [
        list(node.attribute) for node in before.graph.node
    ]


def test_operators_of_other_domains_keep_theirs(onnxq):
    """Of an operator whose schema nobody has, every attribute may be needed."""
    b = GraphBuilder()
    b.input("x", (2, 3))
    b.node("Custom", "x", out="y", domain="my.company", anything=1, hierarchy_tag="kept?")
    b.output("y", (2, 3))
    harness.save(b.model(domains=["my.company"]), onnxq.dir / "in.onnx")
    onnxq.ok("opt", "in.onnx", "-o", "out.onnx", "--passes", "strip-attrs")
    model = ModelProto.FromString((onnxq.dir / "out.onnx").read_bytes())
    assert "anything" in {attr.name for attr in model.graph.node[0].attribute}


def test_schema_of_the_model_s_own_opset_counts(onnxq):
    """`axes` is an attribute of Squeeze up to opset 12 and an input since 13."""
    b = GraphBuilder()
    b.input("x", (2, 1, 3))
    b.node("Squeeze", "x", out="y", axes=[1])
    b.output("y", (2, 3))
    harness.save(b.model(opset=11, ir_version=6), onnxq.dir / "in.onnx")
    onnxq.ok("opt", "in.onnx", "-o", "out.onnx", "--passes", "strip-attrs")
    found = harness.run_model(onnxq.dir / "out.onnx", {"x": random(2, 1, 3)})
    assert found["y"].shape == (2, 3)


def test_contrib_schemas_are_known(onnxq):
    """Attributes of com.microsoft operators are kept, and tags on them removed."""
    b = GraphBuilder()
    b.input("x", (2, 3))
    weight = b.weight("W", random(4, 3))
    b.node("FusedMatMul", "x", weight, out="y", domain="com.microsoft", transB=1, alpha=0.5)
    b.output("y", (2, 4))
    model = b.model(domains=["com.microsoft"])
    feeds = {"x": random(2, 3)}
    wanted = harness.run_model(model.SerializeToString(), feeds)
    tagged(model.graph.node[0])
    harness.save(model, onnxq.dir / "in.onnx")
    onnxq.ok("opt", "in.onnx", "-o", "out.onnx", "--passes", "strip-attrs")
    np.testing.assert_array_equal(harness.run_model(onnxq.dir / "out.onnx", feeds)["y"], wanted["y"])
