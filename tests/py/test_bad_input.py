"""Faulty input: status 2, one clear line on stderr, nothing written, nothing changed.

`Onnxq.refuses` checks all four; the tests make the fault and say what the line must mention.
Faults of the system (a full disk, a folder that cannot be written, a signal) are in
test_bad_system.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

import bad_models
import dequant
import harness
from bad_models import GRAPHS, NOT_MODELS, TENSORS, Bad, good_model
from builders import INT64, GraphBuilder, random
from exotic import entry
from report import Report

QUANTIZE = ("quantize", "in.onnx", "-o", "out.onnx")
ROUND_TRIP = ("opt", "in.onnx", "-o", "out.onnx", "--passes", "")


def refuses(onnxq: harness.Onnxq, *mentions: str, commands=(QUANTIZE, ROUND_TRIP)) -> None:
    """Both writing commands refuse `in.onnx`, each naming the file and more."""
    for command in commands:
        onnxq.refuses(*command, mentions=("in.onnx", *mentions))


def test_the_good_model_is_good(onnxq):
    """Otherwise every test below would pass for a reason of its own."""
    harness.save(good_model(), onnxq.dir / "in.onnx")
    for command in (QUANTIZE, ROUND_TRIP):
        onnxq.ok(*command)
    harness.run_model(onnxq.dir / "out.onnx", {"x": random(2, 4)})


@pytest.mark.parametrize("bad", [*NOT_MODELS, *TENSORS, *GRAPHS], ids=str)
def test_refused(bad: Bad, onnxq):
    (onnxq.dir / "in.onnx").write_bytes(bad.encoded())
    refuses(onnxq, *bad.mentions)


@pytest.mark.parametrize("bad", [*TENSORS, *GRAPHS], ids=str)
def test_verify_says_no(bad: Bad, onnxq):
    (onnxq.dir / "in.onnx").write_bytes(bad.encoded())
    done = onnxq("verify", "in.onnx")
    assert done.status != 0, done.describe()
    assert "panicked" not in done.err


@pytest.mark.parametrize("levels", [50, 1000, 30_000])
def test_deep_nesting_does_not_overflow_the_stack(levels, onnxq):
    (onnxq.dir / "in.onnx").write_bytes(bad_models.deep(levels))
    refuses(onnxq)


def test_an_older_output_survives_a_refusal(onnxq):
    (onnxq.dir / "in.onnx").write_bytes(b"not a model")
    (onnxq.dir / "out.onnx").write_bytes(b"older output")
    refuses(onnxq)
    assert (onnxq.dir / "out.onnx").read_bytes() == b"older output"


def test_missing_input(onnxq):
    refuses(onnxq)


def test_folder_without_a_model(onnxq):
    (onnxq.dir / "in.onnx").mkdir()
    refuses(onnxq)


# --- truncation


def test_truncated_at_every_byte(onnxq):
    """Also where a field ends: the last field of this model is one that it needs."""
    whole = good_model().SerializeToString()
    for length in range(len(whole)):
        (onnxq.dir / "in.onnx").write_bytes(whole[:length])
        refuses(onnxq, commands=[QUANTIZE])


def test_truncated_side_file_at_many_bytes(onnxq):
    weight = random(64, 32)
    save_with_side_file(onnxq.dir, weight, {"offset": 0, "length": weight.nbytes})
    data = weight.tobytes()
    for length in [0, 1, 4095, 4096, 4097, len(data) - 4, len(data) - 1]:
        (onnxq.dir / "side.bin").write_bytes(data[:length])
        refuses(onnxq, "side.bin", "W")


@pytest.mark.real
def test_truncated_real_model(real_model, onnxq):
    whole = real_model("ppocr-cls").read_bytes()
    cuts = sorted({*range(1, 400, 7), *range(0, len(whole), len(whole) // 60), len(whole) - 1})
    for length in cuts:
        (onnxq.dir / "in.onnx").write_bytes(whole[:length])
        refuses(onnxq, commands=[QUANTIZE])


# --- side files


def save_with_side_file(folder: Path, weight: np.ndarray, fields: dict[str, object]) -> None:
    """`in.onnx` with the weight `W` in `side.bin`; `fields` may name another place for it."""
    (folder / "side.bin").write_bytes(weight.tobytes())
    b = GraphBuilder()
    b.input("x", (2, weight.shape[0]))
    tensor = TensorProto(name="W", data_type=TensorProto.FLOAT, dims=weight.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": "side.bin"} | fields).items():
        entry(tensor.external_data, key, str(value))
    b.initializers.append(tensor)
    b.node("MatMul", "x", "W", out="y", name="mm")
    b.output("y", (2, weight.shape[1]))
    harness.save(b.model(), folder / "in.onnx")


WEIGHT = random(16, 8)
SIZE = WEIGHT.nbytes

FIELDS = {
    "missing_file": {"location": "nowhere.bin"},
    "empty_location": {"location": ""},
    "location_is_a_folder": {"location": "."},
    "offset_beyond_the_file": {"offset": SIZE + 1, "length": 0},
    "range_beyond_the_file": {"offset": 4, "length": SIZE},
    "offset_2_to_the_63": {"offset": 2**63, "length": SIZE},
    "offset_just_below_2_to_the_63": {"offset": 2**63 - 1, "length": SIZE},
    "offset_2_to_the_64": {"offset": 2**64, "length": SIZE},
    "sum_overflows_64_bits": {"offset": 2**64 - SIZE, "length": SIZE},
    "offset_negative": {"offset": -4, "length": SIZE},
    "offset_no_number": {"offset": "0x10", "length": SIZE},
    "offset_a_fraction": {"offset": "1.5", "length": SIZE},
    "offset_empty": {"offset": "", "length": SIZE},
    "length_2_to_the_63": {"offset": 0, "length": 2**63},
    "length_2_to_the_64": {"offset": 0, "length": 2**64},
    "length_negative": {"offset": 0, "length": -1},
    "length_no_number": {"offset": 0, "length": "all"},
    "length_below_the_shape": {"offset": 0, "length": SIZE - 4},
    "length_above_the_shape": {"offset": 0, "length": SIZE + 4},
}


def test_the_good_side_file_is_good(onnxq):
    save_with_side_file(onnxq.dir, WEIGHT, {"offset": 0, "length": SIZE})
    for command in (QUANTIZE, ROUND_TRIP):
        onnxq.ok(*command)


@pytest.mark.parametrize("name", FIELDS)
def test_side_file_described_wrongly(name, onnxq):
    save_with_side_file(onnxq.dir, WEIGHT, FIELDS[name])
    refuses(onnxq, "W")


def test_no_location(onnxq):
    save_with_side_file(onnxq.dir, WEIGHT, {"offset": 0})
    model = onnx.load(onnxq.dir / "in.onnx", load_external_data=False)
    del model.graph.initializer[0].external_data[0]
    harness.save(model, onnxq.dir / "in.onnx")
    refuses(onnxq, "W", "location")


@pytest.fixture
def outside(onnxq, tmp_path_factory) -> Path:
    """The right bytes at a place where a model has no business."""
    save_with_side_file(onnxq.dir, WEIGHT, {})
    secret = tmp_path_factory.mktemp("outside") / "secret.bin"
    secret.write_bytes(WEIGHT.tobytes())
    return secret


def test_absolute_path(onnxq, outside):
    save_with_side_file(onnxq.dir, WEIGHT, {"location": outside})
    refuses(onnxq, "W")


def test_absolute_path_into_the_own_folder(onnxq):
    save_with_side_file(onnxq.dir, WEIGHT, {"location": onnxq.dir / "side.bin"})
    refuses(onnxq, "W")


@pytest.mark.parametrize("prefix", ["", "sub/../", "./"])
def test_path_that_climbs_out(prefix, onnxq, outside):
    (onnxq.dir / "sub").mkdir()
    climbed = os.path.relpath(outside, onnxq.dir)
    save_with_side_file(onnxq.dir, WEIGHT, {"location": f"{prefix}{climbed}"})
    refuses(onnxq, "W", "..")


def test_dots_that_stay_inside(onnxq):
    """Refused as well: `..` is refused by its look, before any link is followed."""
    (onnxq.dir / "sub").mkdir()
    save_with_side_file(onnxq.dir, WEIGHT, {"location": "sub/../side.bin"})
    refuses(onnxq, "W", "..")


def test_link_to_a_file_outside(onnxq, outside):
    (onnxq.dir / "side.bin").unlink()
    (onnxq.dir / "side.bin").symlink_to(outside)
    refuses(onnxq, "W", "side.bin")


def test_link_to_a_folder_outside(onnxq, outside):
    (onnxq.dir / "weights").symlink_to(outside.parent)
    save_with_side_file(onnxq.dir, WEIGHT, {"location": f"weights/{outside.name}"})
    refuses(onnxq, "W")


def test_link_that_stays_inside_is_fine(onnxq):
    save_with_side_file(onnxq.dir, WEIGHT, {"offset": 0, "length": SIZE})
    (onnxq.dir / "side.bin").rename(onnxq.dir / "real.bin")
    (onnxq.dir / "side.bin").symlink_to("real.bin")
    for command in (QUANTIZE, ROUND_TRIP):
        onnxq.ok(*command)


def test_pipe_as_side_file(onnxq):
    """Opening it would wait for ever."""
    save_with_side_file(onnxq.dir, WEIGHT, {})
    (onnxq.dir / "side.bin").unlink()
    os.mkfifo(onnxq.dir / "side.bin")
    refuses(onnxq, "W")


# --- unknown fields

UNKNOWN = b"\xf8\x3f\x01"  # field 1023, varint 1: no message of the format has it


def bytes_with(change) -> bytes:
    """The good model with an unknown field in the message that `change` picks."""
    model = good_model()
    picked = change(model)
    picked.MergeFromString(UNKNOWN)
    encoded = model.SerializeToString()
    assert UNKNOWN in encoded
    return encoded


INSIDE = {
    "model": (lambda m: m, ()),
    "graph": (lambda m: m.graph, ("graph",)),
    "node": (lambda m: m.graph.node[0], ("node",)),
    "attribute": (lambda m: add_attribute(m), ("attribute",)),
    "tensor": (lambda m: m.graph.initializer[0], ("initializer",)),
    "value": (lambda m: m.graph.input[0], ("input",)),
    "type": (lambda m: m.graph.input[0].type, ("type",)),
    "dimension": (lambda m: m.graph.input[0].type.tensor_type.shape.dim[1], ("dim",)),
    "opset": (lambda m: m.opset_import[0], ("opset_import",)),
    "metadata": (lambda m: m.metadata_props.add(key="k", value="v"), ("metadata_props",)),
}


def add_attribute(model: ModelProto):
    return model.graph.node[0].attribute.add(name="hierarchy_tag", type=onnx.AttributeProto.INT, i=1)


@pytest.mark.parametrize("place", INSIDE)
def test_unknown_field(place, onnxq):
    change, path = INSIDE[place]
    (onnxq.dir / "in.onnx").write_bytes(bytes_with(change))
    refuses(onnxq, "1023", *path)


@pytest.mark.parametrize("place", INSIDE)
def test_unknown_field_dropped_on_request(place, onnxq):
    (onnxq.dir / "in.onnx").write_bytes(bytes_with(INSIDE[place][0]))
    onnxq.ok(*ROUND_TRIP, "--drop-unknown")
    assert UNKNOWN not in (onnxq.dir / "out.onnx").read_bytes()


def test_unknown_field_of_every_wire_type(onnxq):
    for content in (b"\xf9\x3f" + bytes(8), b"\xfa\x3f\x03abc", b"\xfd\x3f" + bytes(4)):
        (onnxq.dir / "in.onnx").write_bytes(good_model().SerializeToString() + content)
        refuses(onnxq, "1023")


# --- NaN and infinity


def two_layers(value: float, dtype=np.float32) -> ModelProto:
    """`/bad` has one number that is not finite, in the middle; `/good` has none."""
    spoiled = random(64, 32, seed=1).astype(dtype)
    spoiled[37, 5] = value
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    b = GraphBuilder()
    b.input("x", (2, 64), kind)
    b.node("MatMul", "x", b.weight("spoiled", spoiled), out="h", name="/bad")
    b.node("MatMul", "h", b.weight("clean", random(32, 16).astype(dtype)), out="y", name="/good")
    b.output("y", (2, 16), kind)
    return b.model()


NOT_FINITE = [np.nan, np.inf, -np.inf]
TYPES = [np.float32, np.float16]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("value", NOT_FINITE)
def test_weight_that_is_not_finite(value, dtype, onnxq):
    harness.save(two_layers(value, dtype), onnxq.dir / "in.onnx")
    onnxq.refuses(*QUANTIZE, mentions=("spoiled", "37, 5", "--allow-nonfinite"))
    onnxq.ok(*ROUND_TRIP)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("value", NOT_FINITE)
def test_going_on_with_weights_that_are_not_finite(value, dtype, onnxq):
    source = harness.save(two_layers(value, dtype), onnxq.dir / "in.onnx")
    onnxq.ok(*QUANTIZE, "--allow-nonfinite", "--json", "report.json")
    written = dequant.load(onnxq.dir / "out.onnx")
    assert dequant.op_counts(written) == {"MatMul": 1, "com.microsoft::MatMulNBits": 1}
    assert "nonfinite" in Report.read(onnxq.dir / "report.json").reasons("/bad")
    before = ModelProto.FromString(source.read_bytes()).graph.initializer[0]
    [after] = [item for item in written.graph.initializer if item.name == "spoiled"]
    np.testing.assert_array_equal(numpy_helper.to_array(after), numpy_helper.to_array(before))


def test_table_that_is_not_finite(onnxq):
    table = random(10, 64)
    table[9, 63] = np.nan
    b = GraphBuilder()
    b.input("ids", (3,), INT64)
    b.node("Gather", b.weight("spoiled", table), "ids", out="y", name="/bad")
    b.output("y", (3, 64))
    harness.save(b.model(), onnxq.dir / "in.onnx")
    onnxq.refuses(*QUANTIZE, mentions=("spoiled", "9, 63"))


def test_number_that_float16_cannot_hold_as_scale(onnxq):
    """The largest float16 is finite, and so is its scale: nothing to refuse."""
    w = random(64, 16).astype(np.float16)
    w[3, 3] = np.finfo(np.float16).max
    b = GraphBuilder()
    b.input("x", (2, 64), TensorProto.FLOAT16)
    b.node("MatMul", "x", b.weight("W", w), out="y", name="mm")
    b.output("y", (2, 16), TensorProto.FLOAT16)
    harness.save(b.model(), onnxq.dir / "in.onnx")
    onnxq.ok(*QUANTIZE)
    [found] = dequant.quantized_weights(dequant.load(onnxq.dir / "out.onnx"))
    assert np.isfinite(found.scales).all()


# --- hashes


def test_verify_sha(onnxq):
    source = harness.save(good_model(), onnxq.dir / "in.onnx")
    right = harness.sha256(source)
    wrong = right[:-1] + ("0" if right[-1] != "0" else "1")
    for given in (wrong, right[:-1], "", "xyz", "0" * 64):
        done = onnxq(*QUANTIZE, "--verify-sha", given)
        assert done.status == 2, done.describe()
        assert not (onnxq.dir / "out.onnx").exists()
    done = onnxq.refuses(*QUANTIZE, "--verify-sha", wrong, mentions=("in.onnx", wrong, right))
    onnxq.ok(*QUANTIZE, "--verify-sha", right)
    onnxq.ok(*QUANTIZE, "--verify-sha", right.upper())
