"""`quantize --dtype`: several outputs from one run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import harness

TINYLM = Path(__file__).parents[2] / "testdata" / "tinylm" / "model.onnx"
SUFFIX = {
    "fp16": "_fp16",
    "q2": "_q2",
    "q2f16": "_q2f16",
    "q4": "_q4",
    "q4f16": "_q4f16",
    "q8": "_quantized",
    "int8": "_int8",
    "uint8": "_uint8",
}
SOME = ["q4", "q4f16", "fp16", "int8"]


@pytest.mark.parametrize("more", [(), ("--external-data", "always"), ("--no-clean",)], ids=str)
def test_together_as_alone(onnxq: harness.Onnxq, more: tuple[str, ...]) -> None:
    """The same bytes, whatever is written beside them."""
    for folder in ("together", "alone"):
        (onnxq.dir / folder).mkdir()
    onnxq.ok("quantize", TINYLM, "-o", "together/", "--dtype", ",".join(SOME), *more)
    for dtype in SOME:
        onnxq.ok("quantize", TINYLM, "-o", "alone/", "--dtype", dtype, *more)
    names = sorted(p.name for p in (onnxq.dir / "alone").iterdir())
    assert names == sorted(p.name for p in (onnxq.dir / "together").iterdir())
    for name in names:
        assert (onnxq.dir / "alone" / name).read_bytes() == (onnxq.dir / "together" / name).read_bytes()


@pytest.mark.parametrize("dtype", SUFFIX)
def test_every_dtype_loads_and_runs(onnxq: harness.Onnxq, dtype: str) -> None:
    from test_lower import language_feeds

    model = onnxq.dir / "model.onnx"
    model.write_bytes(TINYLM.read_bytes())
    onnxq.ok("quantize", "model.onnx", "--dtype", dtype)
    path = onnxq.dir / f"model{SUFFIX[dtype]}.onnx"
    feeds = language_feeds(path)
    for value in onnx.load(path).graph.input:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            assert dtype in ("q2f16", "q4f16") and value.name.startswith("past"), value.name
            feeds[value.name] = feeds[value.name].astype("float16")
    found = harness.run_model(path, feeds)
    assert found["logits"].dtype == "float32"
    assert path.stat().st_size < model.stat().st_size * 0.6


def test_a_report_for_each(onnxq: harness.Onnxq) -> None:
    (onnxq.dir / "out").mkdir()
    onnxq.ok("quantize", TINYLM, "-o", "out/", "--dtype", "q4,fp16", "--json", "report.json")
    reports = json.loads((onnxq.dir / "report.json").read_text())
    assert [Path(r["output"][0]["path"]).name for r in reports] == ["model_q4.onnx", "model_fp16.onnx"]
    assert [p["name"] for p in reports[0]["passes"]][-1] == "nbits"
    assert [p["name"] for p in reports[1]["passes"]][-1] == "fp16"
    assert all(r["output"][0]["bytes"] == Path(onnxq.dir / r["output"][0]["path"]).stat().st_size for r in reports)


def test_named_twice_is_written_once(onnxq: harness.Onnxq) -> None:
    (onnxq.dir / "out").mkdir()
    onnxq.ok("quantize", TINYLM, "-o", "out/", "--dtype", "q4,q4", "--json", "report.json")
    assert isinstance(json.loads((onnxq.dir / "report.json").read_text()), dict)


def test_several_need_a_folder(onnxq: harness.Onnxq) -> None:
    onnxq.refuses("quantize", TINYLM, "-o", "out.onnx", "--dtype", "q4,fp16", mentions=("out.onnx", "folder"))


def test_bits_are_those_of_q4(onnxq: harness.Onnxq) -> None:
    onnxq.refuses("quantize", TINYLM, "-o", "out/", "--dtype", "fp16", "--bits", 8, mentions=("--bits", "fp16"))


def test_nothing_appears_when_one_fails(onnxq: harness.Onnxq) -> None:
    """What holds a NaN is not quantized; in half precision it could be written."""
    model = onnx.load(TINYLM)
    weight = max((t for t in model.graph.initializer if len(t.dims) == 2), key=lambda t: np.prod(t.dims))
    array = onnx.numpy_helper.to_array(weight).copy()
    array[0, 0] = float("nan")
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    harness.save(model, onnxq.dir / "in.onnx")
    (onnxq.dir / "out").mkdir()
    onnxq.refuses("quantize", "in.onnx", "-o", "out/", "--no-config", "--dtype", "fp16,q4", mentions=("NaN",))
    assert list((onnxq.dir / "out").iterdir()) == []


def test_a_check_of_each(onnxq: harness.Onnxq, tmp_path: Path) -> None:
    """Only those that miss no limit get their names."""
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a little girl. " * 40, encoding="utf-8")
    (onnxq.dir / "out").mkdir()
    done = onnxq(
        "quantize", TINYLM, "-o", "out/", "--no-config", "--dtype", "fp16,q2", "--check", text,
        "--max-mean-kld", "0.001", "--windows", 1, "--window", 64,
    )  # fmt: skip
    assert done.status == 1, done.describe()
    assert [p.name for p in (onnxq.dir / "out").iterdir()] == ["model_fp16.onnx"]
