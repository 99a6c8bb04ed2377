"""Reads quantized weights back out of a model, in numpy and by the operators' contracts.

Shares no code with the compiler or with ONNX Runtime, so that it can judge both.

Every quantized weight is brought to one form, `[rows, K]`: blocks run along the last axis.
For `MatMulNBits` a row is one output column of the product; for `GatherBlockQuantized` it is
one row of the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from builders import CONTRIB

MATMUL = "MatMulNBits"
GATHER = "GatherBlockQuantized"


@dataclass(frozen=True)
class Quantized:
    """One use of a quantized weight."""

    node: NodeProto
    op: str
    bits: int
    block: int
    codes: np.ndarray  # uint8 [rows, K]
    scales: np.ndarray  # [rows, blocks], in the weight's own type
    zero_points: np.ndarray | None  # [rows, blocks], uint8 or in the type of the scales

    def dequantized(self) -> np.ndarray:
        """float32 `[rows, K]`: `(code - zero point) * scale`, in float32 as runtimes do."""
        zero = 1 << (self.bits - 1) if self.zero_points is None else self.zero_points
        zero = np.broadcast_to(np.asarray(zero, np.float32), self.scales.shape)
        columns = np.arange(self.codes.shape[1]) // self.block
        scales = self.scales.astype(np.float32)
        return (self.codes.astype(np.float32) - zero[:, columns]) * scales[:, columns]


def unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """Splits the bytes of the last axis into codes, lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = (packed[..., None] >> shifts) & ((1 << bits) - 1)
    return codes.reshape(*packed.shape[:-1], -1).astype(np.uint8)


def quantized_weights(model: ModelProto, base: Path | None = None) -> list[Quantized]:
    """Every use of a quantized weight, in all graphs and functions of `model`.

    `base` is the folder of the side files, needed only when there are any.
    """
    found = []
    for node, scope in walk(model, base):
        if node.domain == CONTRIB and node.op_type == MATMUL:
            found.append(read_matmul(node, scope))
        elif node.domain == CONTRIB and node.op_type == GATHER:
            found.append(read_gather(node, scope))
    return found


def read_matmul(node: NodeProto, scope: Scope) -> Quantized:
    k, n, bits, block = (attribute(node, name, 4) for name in ("K", "N", "bits", "block_size"))
    packed = scope.array(node.input[1])
    assert packed.dtype == np.uint8
    assert packed.shape == (n, -(-k // block), block * bits // 8), f"B of `{node.name}`: {packed.shape}"
    codes = unpack(packed.reshape(n, -1), bits)[:, :k]
    return with_scales(node, MATMUL, codes, bits, block, scope)


def read_gather(node: NodeProto, scope: Scope) -> Quantized:
    bits, block = attribute(node, "bits", 4), attribute(node, "block_size", 128)
    assert attribute(node, "gather_axis", 0) == 0
    assert attribute(node, "quantize_axis", 1) in (1, -1)
    packed = scope.array(node.input[0])
    assert packed.dtype == np.uint8, "uint8 is the portable form"
    assert packed.ndim == 2, f"table of `{node.name}` is {packed.shape}"
    return with_scales(node, GATHER, unpack(packed, bits), bits, block, scope)


def with_scales(
    node: NodeProto, op: str, codes: np.ndarray, bits: int, block: int, scope: Scope
) -> Quantized:
    rows, blocks = codes.shape[0], -(-codes.shape[1] // block)
    scales = scope.array(node.input[2])
    assert scales.shape == (rows, blocks), f"scales of `{node.name}`: {scales.shape}"
    zero_points = None
    if len(node.input) > 3 and node.input[3]:
        packed = scope.array(node.input[3])
        if packed.dtype != np.uint8:
            assert op == MATMUL, "zero points of tables are codes"
            assert (packed.shape, packed.dtype) == (scales.shape, scales.dtype)
            return Quantized(node, op, bits, block, codes, scales, packed)
        assert packed.shape == (rows, -(-blocks * bits // 8)), f"zero points: {packed.shape}"
        zero_points = unpack(packed, bits)[:, :blocks]
    return Quantized(node, op, bits, block, codes, scales, zero_points)


def attribute(node: NodeProto, name: str, default: int) -> int:
    for attr in node.attribute:
        if attr.name == name:
            return attr.i
    return default


class Scope:
    """The constants that are visible at one place of a model."""

    def __init__(self, base: Path | None, constants: dict[str, TensorProto | np.ndarray]):
        self.base = base
        self.constants = constants

    def inside(self, more: dict[str, TensorProto]) -> Scope:
        return Scope(self.base, self.constants | more)

    def array(self, name: str) -> np.ndarray:
        assert name in self.constants, f"`{name}` is not a constant that this reader can find"
        found = self.constants[name]
        if isinstance(found, np.ndarray):
            return found
        return numpy_helper.to_array(found, "" if self.base is None else str(self.base))

    def follow(self, node: NodeProto) -> None:
        """A table stored once for two operators may reach one of them through `Reshape`."""
        if node.op_type == "Reshape" and not node.domain and set(node.input) <= self.constants.keys():
            self.constants[node.output[0]] = self.array(node.input[0]).reshape(self.array(node.input[1]))


def walk(model: ModelProto, base: Path | None = None) -> Iterator[tuple[NodeProto, Scope]]:
    """Every node with the constants that are visible where it stands."""
    yield from walk_graph(model.graph, Scope(base, {}))
    for function in model.functions:
        yield from walk_nodes(function, Scope(base, {}))


def walk_graph(graph: GraphProto, outer: Scope) -> Iterator[tuple[NodeProto, Scope]]:
    yield from walk_nodes(graph, outer.inside({item.name: item for item in graph.initializer}))


def walk_nodes(body: GraphProto | FunctionProto, outer: Scope) -> Iterator[tuple[NodeProto, Scope]]:
    scope = outer.inside(dict(constant_nodes(body)))
    for node in body.node:
        scope.follow(node)
        yield node, scope
        for graph in subgraphs(node):
            yield from walk_graph(graph, scope)


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attr in node.attribute:
        if attr.type == AttributeProto.GRAPH:
            yield attr.g
        yield from attr.graphs


def constant_nodes(body: GraphProto | FunctionProto) -> Iterator[tuple[str, TensorProto]]:
    for node in body.node:
        if node.op_type == "Constant" and not node.domain:
            for attr in node.attribute:
                if attr.name == "value":
                    yield node.output[0], attr.t


def op_counts(model: ModelProto) -> dict[str, int]:
    """How often each operator stands in the model, subgraphs and functions included."""
    counts: dict[str, int] = {}
    for node, _ in walk(model):
        name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        counts[name] = counts.get(name, 0) + 1
    return counts


def stored_bytes(model: ModelProto) -> int:
    """Bytes of all constants, a range of a side file that two of them name counted once."""
    inline, ranges = 0, {}
    for tensor in all_tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            place = {entry.key: entry.value for entry in tensor.external_data}
            ranges[place["location"], place["offset"]] = int(place["length"])
        else:
            inline += len(tensor.raw_data) or numpy_helper.to_array(tensor).nbytes
    return inline + sum(ranges.values())


def all_tensors(model: ModelProto) -> Iterator[TensorProto]:
    graphs = [model.graph]
    for node, _ in walk(model):
        graphs += subgraphs(node)
        yield from (attr.t for attr in node.attribute if attr.HasField("t"))
    for graph in graphs:
        yield from graph.initializer


def load(path: Path) -> ModelProto:
    """The model without its side files: they are read weight by weight."""
    return onnx.load(path, load_external_data=False)
