"""`infer-shapes`, against what the `onnx` package's test vectors hold and what ONNX Runtime computes.

An extent that is written down has to be the one that a run has; what is not written down is
counted, so that a rule that is lost does not go unnoticed.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, ValueInfoProto, numpy_helper
from onnx.backend.test.case.node import collect_testcases

import fetch
import harness
from builders import INT64, GraphBuilder, random

# Operators of which some vector has a result with an extent that depends on data, or that
# onnxq has no rule for. Results of all others have to be described completely.
UNDESCRIBED = set(
    # Data decides.
    "Compress NonMaxSuppression NonZero Unique TfIdfVectorizer StringNormalizer StringSplit ImageDecoder "
    # Operands that are not integers, or that are computed; sequences, optionals, bodies.
    "Resize Upsample OneHot Range Einsum Loop Scan OptionalGetElement OptionalHasElement "
    # No rule, or none for every form.
    "Adagrad Adam Momentum AffineGrid Attention CausalConvWithState CenterCropPad Col2Im DFT FlexAttention "
    "LinearAttention MaxUnpool MelWeightMatrix STFT SwiGLU RegexFullMatch LabelEncoder TreeEnsemble "
    "ArrayFeatureExtractor Binarizer".split()
)

# Operators whose first operand is a shape or a length.
SHAPE_FIRST = {"ConstantOfShape", "Range", "HannWindow", "HammingWindow", "BlackmanWindow"}


def forget_shapes(model: ModelProto) -> dict[str, ValueInfoProto]:
    """Takes the extents from the outputs and from `value_info`; what they were."""
    declared = {}
    for info in model.graph.output:
        declared[info.name] = ValueInfoProto.FromString(info.SerializeToString())
        if info.type.HasField("tensor_type"):
            info.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    return declared


def extents(info: ValueInfoProto) -> list[int | str | None] | None:
    kind = info.type.tensor_type
    if not info.type.HasField("tensor_type") or not kind.HasField("shape"):
        return None
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim]


def infer(onnxq, model: Path, out: Path, *options: str) -> ModelProto:
    done = onnxq("opt", model, "-o", out, "--passes", "infer-shapes", *options)
    assert done.status == 0, done.describe()
    return onnx.load(out, load_external_data=False)


def test_onnx_backend_vectors(onnxq, tmp_path: Path) -> None:
    """Results as the vectors hold them, with operands that are shapes given as constants."""
    described, missing, wrong = 0, Counter(), []
    for case in collect_testcases(None):
        # The cases are one list for all tests.
        model = ModelProto()
        model.CopyFrom(case.model)
        if len(model.graph.node) > 3:
            continue
        op = model.graph.node[0].op_type
        declared = forget_shapes(model)
        constants(model, case.data_sets[0][0])
        found = {o.name: extents(o) for o in infer(onnxq, harness.save(model, tmp_path / "m.onnx"), tmp_path / "o.onnx").graph.output}
        for name, info in declared.items():
            expected, got = extents(info), found[name]
            if expected is None or not all(isinstance(d, int) for d in expected):
                continue
            if got is None or len(got) != len(expected):
                (missing.update([op]) if got is None else wrong.append((case.name, expected, got)))
            elif any(isinstance(g, int) and g != e for g, e in zip(got, expected, strict=True)):
                wrong.append((case.name, expected, got))
            elif None in got:
                missing.update([op])
            else:
                described += 1
    assert not wrong
    assert not set(missing) - UNDESCRIBED, missing
    assert described > 1000, f"{described} described, {missing}"


def constants(model: ModelProto, operands: list) -> None:
    """Makes initializers of small integer inputs: shapes, axes, bounds."""
    inputs = list(model.graph.input)
    for i, (info, array) in enumerate(zip(inputs, operands, strict=True)):
        kind = info.type.tensor_type.elem_type
        first = i > 0 or model.graph.node[0].op_type in SHAPE_FIRST
        if first and kind in (TensorProto.INT64, TensorProto.INT32) and np.ndim(array) <= 1:
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), info.name))
            model.graph.input.remove(info)


# Names of extents, as expressions are built of.
WORD = re.compile(r"[A-Za-z_][\w.]*")


def evaluate(expression: str, names: dict[str, int]) -> int:
    """What an extent that infer-shapes wrote is, when callers choose these."""
    if expression in names:
        return names[expression]
    functions = {"floor": int, "max": max, "min": min, "broadcast": lambda a, b: b if a == 1 else a}
    text = WORD.sub(lambda m: m[0] if m[0] in functions else f"({names[m[0]]})", expression)
    return eval(text.replace("/", "//"), {"__builtins__": {}}, functions)  # noqa: S307


def feeds(session, names: dict[str, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    types = {"tensor(int64)": np.int64, "tensor(float)": np.float32, "tensor(int32)": np.int32}
    made = {}
    for value in session.get_inputs():
        shape = [d if isinstance(d, int) else names[d] for d in value.shape]
        kind = types[value.type]
        made[value.name] = (np.ones(shape) if kind is not np.float32 else rng.standard_normal(shape)).astype(kind)
    return made


def compare_with_run(onnxq, model: Path, tmp_path: Path, names: dict[str, int]) -> Counter:
    """Runs the model with every value as an output; how many extents were told in which way."""
    inferred = infer(onnxq, model, tmp_path / "inferred.onnx")
    outputs = {o.name for o in inferred.graph.output}
    described = {v.name: v for v in [*inferred.graph.value_info, *inferred.graph.output]}
    for info in inferred.graph.value_info:
        if info.name not in outputs and info.type.HasField("tensor_type"):
            inferred.graph.output.append(info)
    session = harness.session(harness.save(inferred, tmp_path / "all.onnx"), opts=False)
    every = [o.name for o in session.get_outputs()]
    told: Counter = Counter()
    for name, array in zip(every, session.run(every, feeds(session, names)), strict=True):
        shape = extents(described[name])
        assert shape is not None, f"the rank of {name} is not told"
        assert len(shape) == array.ndim, name
        for extent, actual in zip(shape, array.shape, strict=True):
            if extent is None:
                told["unknown"] += 1
                continue
            expected = extent if isinstance(extent, int) else evaluate(extent, names)
            assert expected == actual, f"{name}: {extent} is {expected}, and {actual} in a run"
            told["number" if isinstance(extent, int) else "expression"] += 1
    return told


@pytest.mark.parametrize("names", [{"batch": 2, "seq": 7}, {"batch": 1, "seq": 1}])
def test_minilm(onnxq, tmp_path: Path, names: dict[str, int]) -> None:
    names = {"batch_size": names["batch"], "sequence_length": names["seq"]}
    told = compare_with_run(onnxq, fetch.minilm(), tmp_path, names)
    assert told["unknown"] == 0, told
    assert told["number"] > 250, told
    assert told["expression"] > 400, told


@pytest.mark.parametrize(("batch", "length"), [(1, 5), (3, 2)])
def test_language_model(onnxq, tmp_path: Path, batch: int, length: int) -> None:
    model = Path(__file__).parents[2] / "testdata" / "tinylm" / "model.onnx"
    session = harness.session(model)
    names = {d for i in session.get_inputs() for d in i.shape if isinstance(d, str)}
    sizes = {n: batch if "batch" in n else length for n in names}
    past = [n for n in names if "past" in n and "+" not in n]
    for name in names - set(past):
        if "+" in name or "total" in name:
            sizes[name] = length + sum(sizes[p] for p in past)
    told = compare_with_run(onnxq, model, tmp_path, sizes)
    assert told["unknown"] == 0, told


def test_extents_that_are_computed(onnxq, tmp_path: Path) -> None:
    """Strides, pads, slices, ranges: expressions that agree with a run for several sizes."""
    b = GraphBuilder()
    b.input("x", ("n", 3, "h", "w"))
    b.node("Conv", "x", b.weight("k", random(4, 3, 3, 2)), out="c", strides=[2, 3], pads=[1, 0, 2, 1], dilations=[1, 2])
    b.node("MaxPool", "c", out="p", kernel_shape=[2, 2], strides=[2, 1])
    b.node("Shape", "p", out="s")
    b.node("Gather", "s", b.weight("two", np.array(2)), out="ph")
    b.node("Range", b.weight("zero", np.array(0)), "ph", b.weight("step", np.array(2)), out="r")
    b.node("Slice", "x", b.weight("from", np.array([1, -4])), b.weight("to", np.array([100, -1])), b.weight("at", np.array([2, 3])), out="cut")
    b.node("Pad", "cut", b.weight("pads", np.array([0, 0, 1, 2, 0, 0, 3, 0])), out="padded")
    b.node("Concat", "padded", "padded", out="both", axis=2)
    b.node("Flatten", "both", out="flat", axis=2)
    for name in ["c", "p", "cut", "padded", "both", "flat"]:
        b.output(name, None)
    b.output("r", None, INT64)
    model = harness.save(b.model(), tmp_path / "m.onnx")
    for sizes in [(1, 9, 12), (2, 12, 7), (3, 31, 40)]:
        told = compare_with_run(onnxq, model, tmp_path, dict(zip("nhw", sizes, strict=True)))
        assert told["unknown"] == 0, told


def test_a_fixed_extent_makes_numbers(onnxq, tmp_path: Path) -> None:
    out = infer(onnxq, fetch.minilm(), tmp_path / "o.onnx", "--dim", "batch_size=2", "--dim", "sequence_length=8")
    shapes = [extents(v) for v in out.graph.value_info]
    assert all(shape is not None and all(isinstance(d, int) for d in shape) for shape in shapes)
    assert extents(out.graph.output[0]) == [2, 8, 384]
    ids = np.ones((2, 8), np.int64)
    everything = {i.name: ids for i in out.graph.input}
    fixed = harness.run_model(tmp_path / "o.onnx", everything, opts=False)
    free = harness.run_model(fetch.minilm(), everything, opts=False)
    for name in free:
        np.testing.assert_array_equal(fixed[name], free[name])


def test_an_unknown_name_is_refused(onnxq, tmp_path: Path) -> None:
    done = onnxq("opt", fetch.minilm(), "-o", tmp_path / "o.onnx", "--passes", "infer-shapes", "--dim", "batch=2")
    harness.assert_refused(done, mentions=("`batch`", "batch_size", "sequence_length"))
    assert not (tmp_path / "o.onnx").exists()
