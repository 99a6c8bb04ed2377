"""Import then export loses nothing: the same bytes, or the same model where bytes may differ."""

from __future__ import annotations

import filecmp
import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import exotic
import harness
from builders import GraphBuilder, random

REAL = [
    "smollm2",
    "smollm2-fp16",
    "smollm2-dup",
    "glassllm",
    "minilm",
    "piper",
    "ppocr-det",
    "ppocr-rec",
    "ppocr-cls",
]


def round_trip(onnxq: harness.Onnxq, source: str | Path = "in.onnx") -> Path:
    onnxq.ok("opt", source, "-o", "out.onnx", "--passes", "")
    return onnxq.dir / "out.onnx"


@pytest.mark.real
@pytest.mark.parametrize("name", REAL)
def test_real_model(name, real_model, onnxq):
    source = real_model(name)
    assert filecmp.cmp(source, round_trip(onnxq, source), shallow=False)
    assert [path.name for path in onnxq.dir.iterdir()] == ["out.onnx"]


def test_every_field(onnxq):
    """Also that the model has every field: all but the one that a side file needs."""
    model = exotic.model()
    assert exotic.missing_fields(model) == {"TensorProto.external_data"}
    # Not sorted by name: maps are lists of entries here, so the bytes are those of any writer.
    source = onnxq.dir / "in.onnx"
    source.write_bytes(model.SerializeToString())
    written = round_trip(onnxq).read_bytes()
    assert ModelProto.FromString(written) == model
    assert written == source.read_bytes()


FORMS = [
    pytest.param(dtype, typed, id=f"{TensorProto.DataType.Name(dtype)}-{'typed' if typed else 'raw'}")
    for dtype in exotic.DATA_TYPES
    for typed in (True, False)
    # Strings have no raw form.
    if typed or dtype != TensorProto.STRING
]


@pytest.mark.parametrize(("dtype", "typed"), FORMS)
def test_data_type(dtype, typed, onnxq):
    """One at a time, so that a failure names the type."""
    array = exotic.numbers(dtype)
    if typed:
        tensor = helper.make_tensor("w", dtype, array.shape, array)
    else:
        tensor = numpy_helper.from_array(array, "w")
    b = GraphBuilder()
    b.initializers.append(tensor)
    b.node("Identity", "w", out="y")
    b.output("y", array.shape, dtype)
    source = harness.save(b.model(opset=26, ir_version=14), onnxq.dir / "in.onnx")
    assert round_trip(onnxq).read_bytes() == source.read_bytes()


def small_model(weight: np.ndarray | None = None) -> ModelProto:
    b = GraphBuilder()
    b.input("x", (2, 8))
    b.node("MatMul", "x", b.weight("W", random(8, 4) if weight is None else weight), out="y")
    b.output("y", (2, 4))
    return b.model()


def field(number: int, wire_type: int, content: bytes) -> bytes:
    """One field in the wire format, for orders and packings that no library writes."""
    key = varint(number << 3 | wire_type)
    return key + (varint(len(content)) if wire_type == 2 else b"") + content


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def assert_same_model(onnxq: harness.Onnxq, encoded: bytes) -> None:
    (onnxq.dir / "in.onnx").write_bytes(encoded)
    wanted = ModelProto.FromString(encoded)
    assert ModelProto.FromString(round_trip(onnxq).read_bytes()) == wanted


def test_fields_in_another_order(onnxq):
    """Streaming writers put the weights last; the format allows any order."""
    model = small_model()
    weight = model.graph.initializer.pop()
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    last = field(5, 2, weight.SerializeToString())
    assert_same_model(onnxq, field(7, 2, graph + last) + model.SerializeToString())


def test_graph_in_two_pieces(onnxq):
    """A message field that comes twice is merged, by the rules of protobuf."""
    model = small_model()
    weight = model.graph.initializer.pop()
    piece = field(7, 2, field(5, 2, weight.SerializeToString()))
    assert_same_model(onnxq, model.SerializeToString() + piece)


def test_unpacked_numbers(onnxq):
    """`dims` and `float_data` one by one: an old encoding of the same numbers."""
    weight = random(8, 4)
    encoded = b"".join(field(1, 0, varint(dim)) for dim in weight.shape) + field(2, 0, varint(1))
    encoded += b"".join(field(4, 5, number.tobytes()) for number in weight.flatten())
    encoded += field(8, 2, b"W")
    model = small_model()
    model.graph.ClearField("initializer")
    assert_same_model(onnxq, model.SerializeToString() + field(7, 2, field(5, 2, encoded)))


def test_overlong_varints(onnxq):
    """Length prefixes may be padded; writers that patch a length afterwards do so."""
    model = small_model()
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    length = len(graph)
    padded = bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14 | 0x80, 0])
    assert_same_model(onnxq, model.SerializeToString() + varint(7 << 3 | 2) + padded + graph)


def external_model(folder: Path, fields: list[dict[str, object]], data: bytes) -> ModelProto:
    """Weights `W0`, `W1`, ... of 8 x 256 floats in `side.bin`, described by `fields`."""
    (folder / "side.bin").write_bytes(data)
    b = GraphBuilder()
    b.input("x", (2, 8))
    for index, described in enumerate(fields):
        weight = TensorProto(name=f"W{index}", data_type=TensorProto.FLOAT, dims=SIDE.shape[1:])
        weight.data_location = TensorProto.EXTERNAL
        for key, value in ({"location": "side.bin"} | described).items():
            exotic.entry(weight.external_data, key, str(value))
        b.initializers.append(weight)
        b.node("MatMul", "x", f"W{index}", out=f"y{index}")
        b.output(f"y{index}", (2, SIDE.shape[2]))
    return harness.save(b.model(), folder / "in.onnx")


# Large enough that no part of it is kept out of a side file for being small.
SIDE = random(3, 8, 256)
BYTES = SIDE[0].nbytes

PLACES = {
    "offset_and_length": ([{"offset": 0, "length": BYTES}, {"offset": BYTES, "length": BYTES}], [0, 1]),
    "backwards": ([{"offset": 2 * BYTES, "length": BYTES}, {"offset": 0, "length": BYTES}], [2, 0]),
    "one_range_twice": ([{"offset": BYTES, "length": BYTES}] * 2, [1, 1]),
    "no_offset": ([{"length": BYTES}], [0]),
    "no_length_at_the_end": ([{"offset": 2 * BYTES}], [2]),
    "checksum": ([{"offset": 0, "length": BYTES, "checksum": hashlib.sha1(SIDE.tobytes()).hexdigest()}], [0]),
}


@pytest.mark.parametrize("where", ["auto", "always", "never"])
@pytest.mark.parametrize("name", PLACES)
def test_side_file(name, where, onnxq):
    fields, wanted = PLACES[name]
    external_model(onnxq.dir, fields, SIDE.tobytes())
    onnxq.ok("opt", "in.onnx", "-o", "out.onnx", "--passes", "", "--external-data", where)
    if where != "auto":
        assert (onnxq.dir / "out.onnx_data").exists() == (where == "always")
    # Beside the output only: it must not need the input's side file.
    (onnxq.dir / "side.bin").unlink()
    written = onnx.load(onnxq.dir / "out.onnx")
    for weight, index in zip(written.graph.initializer, wanted, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(weight), SIDE[index])
    feeds = {"x": random(2, 8)}
    for index, found in zip(wanted, harness.run_model(onnxq.dir / "out.onnx", feeds).values(), strict=True):
        # float32 sums of 8 products
        np.testing.assert_allclose(found, feeds["x"] @ SIDE[index], rtol=1e-5, atol=1e-6)


def test_one_range_is_not_stored_twice(onnxq):
    """Two weights at one place stay at one place: that is how tied weights are kept small."""
    external_model(onnxq.dir, [{"offset": 0, "length": BYTES}] * 2, SIDE.tobytes())
    onnxq.ok("opt", "in.onnx", "-o", "out.onnx", "--passes", "", "--external-data", "always")
    # A second copy would begin at another place, however the ranges are aligned.
    written = onnx.load(onnxq.dir / "out.onnx", load_external_data=False)
    places = {tuple((e.key, e.value) for e in w.external_data) for w in written.graph.initializer}
    assert len(places) == 1


def test_side_file_in_a_folder_below(onnxq):
    (onnxq.dir / "weights").mkdir()
    external_model(onnxq.dir, [{"location": "weights/a.bin", "offset": 0, "length": BYTES}], b"")
    (onnxq.dir / "weights" / "a.bin").write_bytes(SIDE.tobytes())
    onnxq.ok("opt", "in.onnx", "-o", "out.onnx", "--passes", "")
    [weight] = onnx.load(onnxq.dir / "out.onnx").graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(weight), SIDE[0])


@pytest.mark.parametrize("where", ["auto", "always"])
def test_output_over_the_input(where, onnxq):
    """`-o` may name the input, also when its own side file would be overwritten."""
    model = external_model(onnxq.dir, [{"offset": 0, "length": BYTES}], SIDE.tobytes())
    onnxq.ok("opt", model, "-o", "first.onnx", "--passes", "", "--external-data", "always")
    onnxq.ok("opt", "first.onnx", "-o", "first.onnx", "--passes", "", "--external-data", where)
    [weight] = onnx.load(onnxq.dir / "first.onnx").graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(weight), SIDE[0])


def test_diff_of_equal_and_of_different_models(onnxq):
    harness.save(small_model(), onnxq.dir / "in.onnx")
    round_trip(onnxq)
    onnxq.ok("diff", "in.onnx", "out.onnx")
    changed = random(8, 4)
    changed[3, 2] += 1
    harness.save(small_model(changed), onnxq.dir / "other.onnx")
    done = onnxq("diff", "in.onnx", "other.onnx")
    assert done.status == 1, done.describe()
    assert "W" in done.out, done.describe()


def test_links_of_a_model_hub_cache(onnxq):
    """A folder of links to files that lie side by side elsewhere, as hub clients cache them."""
    blobs, snapshot = onnxq.dir / "blobs", onnxq.dir / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    external_model(blobs, [{"offset": 0, "length": BYTES}], SIDE.tobytes())
    (blobs / "in.onnx").rename(blobs / "aa")
    (blobs / "side.bin").rename(blobs / "bb")
    (snapshot / "model.onnx").symlink_to("../../blobs/aa")
    (snapshot / "side.bin").symlink_to("../../blobs/bb")
    onnxq.ok("opt", snapshot, "-o", "out.onnx", "--passes", "")
    weight = onnx.load(onnxq.dir / "out.onnx").graph.initializer[0]
    assert weight.raw_data == SIDE[0].tobytes()
