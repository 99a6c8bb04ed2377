"""`onnxq inspect` against what the `onnx` package reads from the same file."""

from __future__ import annotations

import collections
import hashlib
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper


def inspect(onnxq, path, *options):
    done = onnxq("inspect", path, "--json", "-", *options)
    status, out, err = outcome(done)
    assert status == 0, err
    return json.loads(out)


def outcome(done):
    """Status and texts of a run, whichever of the two result types the fixture returns."""
    if hasattr(done, "returncode"):
        return done.returncode, done.stdout, done.stderr
    return done.status, done.out, done.err


def tensor(name, dtype, *dims):
    return helper.make_tensor_value_info(name, dtype, list(dims))


def zeros(name, dtype, *dims):
    return onnx.numpy_helper.from_array(np.zeros(dims, dtype), name)


def save(tmp_path, graph, name="model.onnx", **options):
    options.setdefault("opset_imports", [helper.make_opsetid("", 17)])
    options.setdefault("ir_version", 8)
    path = tmp_path / name
    onnx.save(helper.make_model(graph, **options), path)
    return path


@pytest.fixture
def model(tmp_path):
    """Subgraphs, a function, constants in attributes, weights of several types."""
    then = helper.make_graph(
        [
            helper.make_node("Constant", [], ["one"], value=zeros("", np.float32, 1)),
            helper.make_node("Add", ["h", "one"], ["t"]),
        ],
        "then",
        [],
        [tensor("t", TensorProto.FLOAT, "batch", 3)],
    )
    other = helper.make_graph(
        [helper.make_node("Twice", ["h"], ["e"], domain="local")],
        "else",
        [],
        [tensor("e", TensorProto.FLOAT, "batch", 3)],
    )
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["m"]),
            helper.make_node("Twice", ["m"], ["h"], domain="local"),
            helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other),
        ],
        "main",
        [tensor("x", TensorProto.FLOAT, "batch", 4), tensor("c", TensorProto.BOOL)],
        [tensor("y", TensorProto.FLOAT, "batch", 3)],
        initializer=[zeros("w", np.float32, 4, 3), zeros("unused", np.int64, 5)],
    )
    twice = helper.make_function(
        "local",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )
    path = save(
        tmp_path,
        graph,
        functions=[twice],
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("local", 1)],
        producer_name="tests",
    )
    loaded = onnx.load(path)
    helper.set_model_props(loaded, {"key": "value"})
    onnx.save(loaded, path)
    onnx.checker.check_model(path)
    return path


def graphs(graph):
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else []
            for g in [*inner, *attribute.graphs]:
                yield from graphs(g)


def test_operators_of_subgraphs_and_functions_are_counted(onnxq, model):
    found = inspect(onnxq, model)
    proto = onnx.load(model)
    nodes = [n for g in graphs(proto.graph) for n in g.node]
    nodes += [n for f in proto.functions for n in f.node]
    expected = collections.Counter((n.domain or "ai.onnx", n.op_type) for n in nodes)
    counted = {(o["domain"], o["op_type"]): o["count"] for o in found["operators"]}
    assert counted == dict(expected)
    assert found["nodes"] == len(nodes)
    assert found["subgraphs"] == 2
    function = {"domain": "local", "name": "Twice", "overload": None, "nodes": 1}
    assert found["functions"] == [function]


def test_fields_of_the_model(onnxq, model):
    found = inspect(onnxq, model)
    assert found["ir_version"] == 8
    assert found["opsets"] == [
        {"domain": "ai.onnx", "version": 17},
        {"domain": "local", "version": 1},
    ]
    assert found["producer_name"] == "tests"
    assert found["metadata"] == [["key", "value"]]
    assert [(p["name"], p["dtype"], p["shape"]) for p in found["inputs"]] == [
        ("x", "float", ["batch", 4]),
        ("c", "bool", []),
    ]
    assert found["dynamic_axes"] == [{"name": "batch", "uses": [["x", 0], ["y", 0]]}]


def test_weights_by_type(onnxq, model):
    rows = {row["dtype"]: row for row in inspect(onnxq, model)["weights"]["by_type"]}
    assert rows["float"]["initializers"] == 1
    assert rows["float"]["attributes"] == 1
    assert rows["float"]["bytes"] == 4 * (4 * 3 + 1)
    assert rows["int64"]["bytes"] == 8 * 5
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1)


def test_sha256_of_the_model_and_its_side_file(onnxq, model, tmp_path):
    side = tmp_path / "side" / "model.onnx"
    side.parent.mkdir()
    proto = onnx.load(model)
    options = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    onnx.save(proto, side, **options)
    files = inspect(onnxq, side)["files"]
    assert len(files) == 2
    for file, path in zip(files, [side, side.with_name("w.bin")], strict=True):
        content = path.read_bytes()
        assert file["bytes"] == len(content)
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
    assert [f["sha256"] for f in inspect(onnxq, side, "--no-hash")["files"]] == [None, None]


FLOAT = TensorProto.FLOAT
CACHE = "past_key_values.0.key"
BATCHES = {
    "symbolic": ([("x", "batch", 4)], [("y", "batch", 4)], True, None),
    "unnamed": ([("x", None, 4)], [("y", None, 4)], True, None),
    "fixed input": ([("x", 1, 4)], [("y", "batch", 4)], False, "input `x`"),
    "fixed output": ([("x", "batch", 4)], [("y", 1, 4)], False, "output `y`"),
    "fixed cache": (
        [("x", "batch", 4), (CACHE, 1, 3, "past", 64)],
        [("y", "batch", 4)],
        False,
        f"input `{CACHE}`",
    ),
    "other name": ([("x", "a", 4)], [("y", "b", 4)], False, "output `y`"),
    "setting": ([("x", "batch", 4), ("use_cache_branch", 1)], [("y", "batch", 4)], True, None),
    "scalar": ([("x", "batch", 4), ("rate",)], [("y", "batch", 4)], True, None),
}


@pytest.mark.parametrize("case", BATCHES)
def test_batch_verdict(onnxq, tmp_path, case):
    inputs, outputs, allowed, guilty = BATCHES[case]
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [tensor(name, FLOAT, *dims) for name, *dims in inputs],
        [tensor(name, FLOAT, *dims) for name, *dims in outputs],
    )
    batch = inspect(onnxq, save(tmp_path, graph))["batch"]
    assert batch["allowed"] is allowed, batch
    if guilty:
        assert any(reason.startswith(guilty) for reason in batch["reasons"]), batch
    else:
        assert batch["reasons"] == []


def test_quantized_weights_of_contrib_operators(onnxq, tmp_path):
    """A tied embedding: one table, read by both operators, counts once."""
    rows, width, block = 32, 64, 16
    blocks = width // block
    graph = helper.make_graph(
        [
            helper.make_node(
                "GatherBlockQuantized",
                ["codes", "i", "scales"],
                ["h"],
                domain="com.microsoft",
                bits=4,
                block_size=block,
            ),
            helper.make_node("Reshape", ["codes", "shape"], ["b"]),
            helper.make_node(
                "MatMulNBits",
                ["h", "b", "scales"],
                ["y"],
                domain="com.microsoft",
                K=width,
                N=rows,
                bits=4,
                block_size=block,
            ),
        ],
        "g",
        [tensor("i", TensorProto.INT64, "batch", "sequence")],
        [tensor("y", FLOAT, "batch", "sequence", rows)],
        initializer=[
            zeros("codes", np.uint8, rows, width // 2),
            zeros("scales", np.float32, rows, blocks),
            onnx.numpy_helper.from_array(np.array([rows, blocks, block // 2]), "shape"),
        ],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    path = save(tmp_path, graph, opset_imports=imports)
    quantized = inspect(onnxq, path)["weights"]["quantized"]
    groups = {g["op_type"]: (g["bits"], g["block_size"], g["nodes"]) for g in quantized["groups"]}
    expected = (4, block, 1)
    assert groups == {"GatherBlockQuantized": expected, "MatMulNBits": expected}
    assert quantized["elements"] == rows * width
    assert quantized["bits_per_weight"] == pytest.approx(4 + 32 / block)


def test_text_names_what_people_look_for(onnxq, model):
    status, out, err = outcome(onnxq("inspect", model))
    assert status == 0, err
    for text in [
        "float[batch,4]",
        "batch: more than one item is allowed",
        "local::Twice",
        "sha256",
    ]:
        assert text in out


def test_a_missing_model_is_refused(onnxq, tmp_path):
    status, out, err = outcome(onnxq("inspect", tmp_path / "none.onnx"))
    assert status == 2
    assert out == ""
    assert "none.onnx" in err
