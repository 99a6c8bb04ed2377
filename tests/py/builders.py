"""A small builder of ONNX models, so that a test states its graph in a few lines."""

from __future__ import annotations

from collections.abc import Iterable

import ml_dtypes
import numpy as np
from onnx import (
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

FLOAT = TensorProto.FLOAT
FLOAT16 = TensorProto.FLOAT16
BFLOAT16 = TensorProto.BFLOAT16
DOUBLE = TensorProto.DOUBLE
INT32 = TensorProto.INT32
INT64 = TensorProto.INT64
BOOL = TensorProto.BOOL

CONTRIB = "com.microsoft"

NUMPY_TYPES = {
    FLOAT: np.float32,
    FLOAT16: np.float16,
    BFLOAT16: ml_dtypes.bfloat16,
    DOUBLE: np.float64,
    INT32: np.int32,
    INT64: np.int64,
    BOOL: np.bool_,
}


def tensor(name: str, array: np.ndarray, dtype: int | None = None, typed: bool = False) -> TensorProto:
    """`array` as a tensor of `dtype`; `typed` puts it into `float_data` and its like."""
    array = np.asarray(array)
    if dtype is not None:
        array = array.astype(NUMPY_TYPES[dtype])
    if not typed:
        # `ascontiguousarray` would turn a scalar into a vector.
        return numpy_helper.from_array(np.asarray(array, order="C"), name)
    dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor(name, dtype, array.shape, array.flatten())


class GraphBuilder:
    """Collects nodes, weights, inputs and outputs of one graph, in the order of the calls."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.inputs: list[ValueInfoProto] = []
        self.outputs: list[ValueInfoProto] = []
        self.value_info: list[ValueInfoProto] = []

    def input(self, name: str, shape: Iterable[int | str] | None, dtype: int = FLOAT) -> str:
        """A graph input; `shape=None` leaves the rank unknown."""
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, shape: Iterable[int | str] | None, dtype: int = FLOAT) -> str:
        self.outputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def weight(self, name: str, array: np.ndarray, dtype: int | None = None, typed: bool = False) -> str:
        self.initializers.append(tensor(name, array, dtype, typed))
        return name

    def constant(self, name: str, array: np.ndarray, dtype: int | None = None) -> str:
        """The value of a `Constant` node."""
        return self.node("Constant", out=name, value=tensor(name, array, dtype))

    def node(
        self, op: str, *inputs: str, out: str | list[str], name: str = "", domain: str = "", **attrs
    ) -> str:
        """Adds a node and returns the name of its first output."""
        outputs = [out] if isinstance(out, str) else out
        name = name or f"{op}:{outputs[0]}"
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, domain=domain, **attrs))
        return outputs[0]

    def graph(self, name: str = "graph") -> GraphProto:
        return helper.make_graph(
            self.nodes,
            name,
            self.inputs,
            self.outputs,
            self.initializers,
            value_info=self.value_info,
        )

    def model(
        self,
        opset: int = 17,
        ir_version: int = 8,
        functions: Iterable[FunctionProto] = (),
        domains: Iterable[str] = (),
    ) -> ModelProto:
        imports = [helper.make_opsetid("", opset)]
        imports += [helper.make_opsetid(domain, 1) for domain in domains]
        return helper.make_model(
            self.graph(), opset_imports=imports, ir_version=ir_version, functions=functions
        )


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Normal float32 numbers, the same ones for the same shape and seed."""
    generator = np.random.default_rng([seed, *shape])
    return np.asarray(generator.standard_normal(shape) * scale, np.float32)
