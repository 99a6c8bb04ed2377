"""`onnxq diff` on models that were changed, one thing at a time, with the `onnx` package."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


def outcome(done):
    """Status and texts of a run, whichever of the two result types the fixture returns."""
    if hasattr(done, "returncode"):
        return done.returncode, done.stdout, done.stderr
    return done.status, done.out, done.err


def tensor(name, *dims):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims))


def original():
    weight = np.arange(12, dtype=np.float32).reshape(4, 3)
    branch = helper.make_graph(
        [helper.make_node("Relu", ["m"], ["t"], name="inner")],
        "branch",
        [],
        [tensor("t", "batch", 3)],
    )
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["m"], name="matmul"),
            helper.make_node("LeakyRelu", ["m"], ["l"], alpha=0.5),
            helper.make_node("If", ["c"], ["i"], then_branch=branch, else_branch=branch),
            helper.make_node("Add", ["l", "i"], ["y"], name="add"),
        ],
        "main",
        [tensor("x", "batch", 4), helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [tensor("y", "batch", 3)],
        initializer=[numpy_helper.from_array(weight, "w")],
    )
    imports = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


@pytest.fixture
def compare(onnxq, tmp_path):
    """`compare(model)`: the difference between the original and `model`, as JSON."""

    def run(changed, **save):
        a, b = tmp_path / "a.onnx", tmp_path / "b.onnx"
        onnx.save(original(), a)
        onnx.save(changed, b, **save)
        status, out, err = outcome(onnxq("diff", a, b, "--json", "-"))
        assert status in (0, 1), err
        found = json.loads(out)
        assert found["same"] == (status == 0)
        text_status, text, _ = outcome(onnxq("diff", a, b))
        assert text_status == status
        assert ("no difference" in text) == found["same"]
        return found

    return run


LISTS = [
    "model",
    "values",
    "operators",
    "nodes_added",
    "nodes_removed",
    "nodes_changed",
    "initializers_added",
    "initializers_removed",
    "initializers_changed",
]


def only(found, *names):
    """Asserts that these lists, and no others, have entries."""
    assert {name for name in LISTS if found[name]} == set(names)


def test_a_model_is_the_same_as_itself(compare):
    found = compare(original())
    assert found["same"]
    only(found)


def test_how_the_file_holds_a_weight_makes_no_difference(compare):
    model = original()
    values = numpy_helper.to_array(model.graph.initializer[0])
    typed = helper.make_tensor("w", TensorProto.FLOAT, [4, 3], values.flatten())
    model.graph.initializer[0].CopyFrom(typed)
    assert compare(model)["same"]


def test_a_side_file_makes_no_difference(compare):
    side = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    found = compare(original(), **side)
    assert found["same"]


def test_one_element(compare):
    model = original()
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[3, 2] = 99
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    found = compare(model)
    only(found, "initializers_changed")
    change = found["initializers_changed"][0]
    assert change["only_elements"]
    assert change["a"] == {"name": "w", "dtype": "float", "shape": [4, 3], "bytes": 48}


def test_type_and_shape_of_a_weight(compare):
    model = original()
    weight = numpy_helper.from_array(np.zeros((4, 3), np.float16), "w")
    model.graph.initializer[0].CopyFrom(weight)
    found = compare(model)
    only(found, "initializers_changed")
    assert found["initializers_changed"][0]["b"]["dtype"] == "float16"
    assert found["weight_bytes"] == [48, 24]


def test_another_operator_in_the_place_of_a_node(compare):
    model = original()
    node = model.graph.node[0]
    node.op_type, node.domain = "MatMulNBits", "com.microsoft"
    node.input[1] = "w_q4"
    node.attribute.append(helper.make_attribute("K", 4))
    model.graph.initializer[0].name = "w_q4"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    found = compare(model)
    changes = {c["field"]: (c["a"], c["b"]) for c in found["nodes_changed"][0]["changes"]}
    assert changes == {
        "operator": ("MatMul", "com.microsoft::MatMulNBits"),
        "inputs": ("x, w", "x, w_q4"),
        "attribute `K`": (None, "4"),
    }
    assert [o["op_type"] for o in found["operators"]] == ["MatMul", "MatMulNBits"]
    assert [w["name"] for w in found["initializers_removed"]] == ["w"]
    assert [w["name"] for w in found["initializers_added"]] == ["w_q4"]
    assert found["model"] == [{"field": "opset `com.microsoft`", "a": None, "b": "1"}]


def test_a_node_without_name_is_matched_by_its_output(compare):
    model = original()
    model.graph.node[1].attribute[0].f = 0.25
    found = compare(model)
    only(found, "nodes_changed")
    change = found["nodes_changed"][0]
    assert change["changes"] == [{"field": "attribute `alpha`", "a": "0.5", "b": "0.25"}]


def test_a_node_more(compare):
    model = original()
    extra = helper.make_node("Neg", ["y"], ["z"], name="extra")
    model.graph.node.append(extra)
    found = compare(model)
    only(found, "nodes_added", "operators")
    assert found["nodes_added"][0]["operator"] == "Neg"
    assert found["nodes"] == [6, 7]


def test_a_node_of_a_subgraph(compare):
    model = original()
    model.graph.node[2].attribute[0].g.node[0].op_type = "Sigmoid"
    found = compare(model)
    only(found, "nodes_changed", "operators")
    branch = original().graph.node[2].attribute[0].name
    assert f"`{branch}`" in found["nodes_changed"][0]["place"]


def test_the_elements_of_a_constant_in_an_attribute(onnxq, tmp_path):
    """Its text shows only type and shape; its elements count all the same."""
    paths = []
    for value in (0.0, 1.0):
        model = original()
        constant = numpy_helper.from_array(np.full(2, value))
        model.graph.node[1].attribute.append(helper.make_attribute("a", constant))
        paths.append(tmp_path / f"{value}.onnx")
        onnx.save(model, paths[-1])
    status, out, err = outcome(onnxq("diff", *paths, "--json", "-"))
    assert status == 1, err
    changes = json.loads(out)["nodes_changed"][0]["changes"]
    assert [c["field"] for c in changes] == ["attribute `a`"]


@pytest.mark.parametrize(
    "change, field",
    [
        (lambda m: setattr(m, "ir_version", 9), "ir version"),
        (lambda m: setattr(m, "producer_name", "someone"), "producer name"),
        (lambda m: setattr(m, "doc_string", "text"), "doc string"),
        (lambda m: setattr(m.opset_import[0], "version", 18), "opset `ai.onnx`"),
        (lambda m: helper.set_model_props(m, {"k": "v"}), "metadata `k`"),
    ],
)
def test_fields_of_the_model(compare, change, field):
    model = original()
    change(model)
    found = compare(model)
    only(found, "model")
    assert [c["field"] for c in found["model"]] == [field]


def test_inputs_and_outputs(compare):
    model = original()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    found = compare(model)
    only(found, "values")
    assert found["values"] == [{"field": "input `x`", "a": "float[batch,4]", "b": "float[1,4]"}]


def test_order_of_inputs(compare):
    model = original()
    inputs = list(model.graph.input)
    del model.graph.input[:]
    model.graph.input.extend(reversed(inputs))
    found = compare(model)
    only(found, "values")
    assert found["values"][0]["field"] == "inputs in order"


def test_a_model_that_cannot_be_read(onnxq, tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"not a model")
    onnx.save(original(), tmp_path / "b.onnx")
    status, out, err = outcome(onnxq("diff", tmp_path / "a.onnx", tmp_path / "b.onnx"))
    assert status == 2
    assert out == ""
    assert "a.onnx" in err
