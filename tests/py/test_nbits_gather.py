"""`nbits` on Gather: tables that become GatherBlockQuantized, and those that must not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import dequant
from builders import DOUBLE, FLOAT, FLOAT16, INT32, INT64, NUMPY_TYPES, GraphBuilder, random
from nbits_case import FLOAT_SUMS, HALF_ROUNDING, Case, Weight, check

IDS = np.array([[0, 3, 3], [9, 1, 0]])


def gather(
    name: str,
    table: np.ndarray,
    ids: np.ndarray = IDS,
    id_type: int = INT64,
    dtype: int = FLOAT,
    left: str = "",
    **attrs,
) -> Case:
    """`y = Gather(table, ids)`; keyword arguments that no node has are the case's."""
    expected = {key: attrs.pop(key) for key in ("args", "bits", "tight", "runs") if key in attrs}

    def build(arrays):
        b = GraphBuilder()
        b.input("ids", ids.shape, id_type)
        b.node("Gather", b.weight("T", arrays["T"], dtype), "ids", out="y", name="g", **attrs)
        b.output("y", np.take(table, ids, axis=attrs.get("axis", 0)).shape, dtype)
        return b.model()

    feeds = {"ids": ids.astype(NUMPY_TYPES[id_type])}
    if left:
        return Case(name, build, feeds, kept={"T": table}, left={"g": left}, **expected)
    return Case(name, build, feeds, {"T": Weight(table, "rows")}, gathers=1, **expected)


HALF_TABLE = random(10, 64).astype(np.float16)

CASES = [
    gather("plain", random(10, 64)),
    gather("axis_0_written", random(10, 64), axis=0),
    gather("axis_counted_from_the_end", random(10, 64), axis=-2),
    gather("int32_indices", random(10, 64), id_type=INT32),
    gather("scalar_index", random(10, 64), ids=np.array(7)),
    gather("one_index", random(10, 64), ids=np.array([7])),
    gather("no_index", random(10, 64), ids=np.zeros((0,), np.int64)),
    gather("rank_3_indices", random(10, 64), ids=IDS[None]),
    gather("negative_indices", random(10, 64), ids=np.array([-1, 0, -10])),
    gather("width_not_a_multiple_of_the_block", random(10, 40)),
    gather("width_below_the_block", random(10, 6)),
    gather("odd_number_of_blocks", random(10, 48)),
    gather("float16_table", HALF_TABLE, dtype=FLOAT16, tight=HALF_ROUNDING),
    # GatherBlockQuantized has no double form: rows are float32 and then cast.
    gather("double", random(10, 64).astype(np.float64), dtype=DOUBLE),
    gather("asymmetric", random(10, 64) + 1, args=("--asymmetric",)),
    gather("block_32", random(10, 64), args=("--block-size", 32)),
    gather("bits_8", random(10, 64), args=("--bits", 8), bits=8),
    gather("bits_8_odd_width", random(10, 33), args=("--bits", 8), bits=8),
    gather("bits_2", random(10, 64), args=("--bits", 2), bits=2),
]

LEFT = [
    gather("axis_1", random(10, 64), axis=1, left="axis"),
    gather("axis_minus_1", random(10, 64), axis=-1, left="axis"),
    gather("odd_width", random(10, 33), left="odd-width"),
    gather("bits_2_width_6", random(10, 6), args=("--bits", 2), left="odd-width"),
    gather("rank_1", random(10), left="rank"),
    gather("rank_3", random(10, 4, 16), left="rank"),
    gather("no_columns", random(10, 0), left="empty"),
    gather("excluded", random(10, 64), args=("--exclude", "g"), left="excluded"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_quantized(case, onnxq):
    check(case, onnxq)


@pytest.mark.parametrize("case", LEFT, ids=str)
def test_left(case, onnxq):
    check(case, onnxq)


def test_odd_blocks_with_zero_points(onnxq):
    """ONNX Runtime 1.23 to 1.26 reads these zero points wrongly: such a table goes without, and says so."""
    case = replace(gather("odd", random(10, 48), args=("--asymmetric",)), left={"g": "odd-blocks"})
    [found] = dequant.quantized_weights(check(case, onnxq))
    assert found.zero_points is None


def test_table_through_constant_node_and_cast(onnxq):
    def build(arrays):
        b = GraphBuilder()
        b.input("ids", IDS.shape, INT64)
        half = b.constant("T", arrays["T"], FLOAT16)
        b.node("Gather", b.node("Cast", half, out="t", to=FLOAT), "ids", out="y", name="g")
        b.output("y", (*IDS.shape, 64))
        return b.model()

    weights = {"T": Weight(HALF_TABLE.astype(np.float32), "rows")}
    # the substituted table is stored as float16
    check(Case("cast", build, {"ids": IDS}, weights, gathers=1, tight=HALF_ROUNDING), onnxq)


def test_integer_table_is_no_weight(onnxq):
    """Shape arithmetic is full of Gather on int64: neither quantized nor worth a remark."""

    def build(arrays):
        b = GraphBuilder()
        b.input("ids", IDS.shape, INT64)
        b.node("Gather", b.weight("T", arrays["T"]), "ids", out="y", name="g")
        b.output("y", (*IDS.shape, 16), INT64)
        return b.model()

    table = np.arange(160, dtype=np.int64).reshape(10, 16)
    check(Case("int64", build, {"ids": IDS}, kept={"T": table}), onnxq)


def test_two_gathers_of_one_table(onnxq):
    def build(arrays):
        b = GraphBuilder()
        b.input("ids", IDS.shape, INT64)
        table = b.weight("T", arrays["T"])
        b.node("Gather", table, "ids", out="a", name="g1")
        b.node("Gather", table, b.weight("first", np.array(0)), out="r", name="g2")
        b.node("Add", "a", "r", out="y")
        b.output("y", (*IDS.shape, 64))
        return b.model()

    weights = {"T": Weight(random(10, 64), "rows")}
    check(Case("two", build, {"ids": IDS}, weights, gathers=2, tight=FLOAT_SUMS), onnxq)
