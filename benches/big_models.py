"""Llama-shaped models of a given size with random weights, for benchmarks.

    python benches/big_models.py single 1.5 OUT/model.onnx     one file of about 1.5 GB
    python benches/big_models.py side 6 OUT/model.onnx         weights in model.onnx_data

Weights are seeded normal numbers with a few outliers. Only what a compiler sees matters
here: the number, shapes and bytes of the weights; the model computes nothing of sense.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

PAGE = 4096


class Weights:
    """Makes initializers, with their bytes inline or appended to a side file."""

    def __init__(self, side: Path | None):
        self.rng = np.random.default_rng(7)
        self.file = side.open("wb") if side else None
        self.location = side.name if side else ""
        self.tensors: list[TensorProto] = []

    def add(self, name: str, shape: list[int]) -> str:
        tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT)
        x = self.rng.standard_normal(int(np.prod(shape)), dtype=np.float32)
        x *= np.float32(shape[0] ** -0.5)
        x[::997] *= 4
        if self.file is None:
            tensor.raw_data = x.tobytes()
        else:
            offset = -(-self.file.tell() // PAGE) * PAGE
            self.file.seek(offset)
            x.tofile(self.file)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", self.location), ("offset", offset), ("length", x.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
        self.tensors.append(tensor)
        return name


def build(path: Path, side: bool, layers: int, hidden: int, inner: int, vocab: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = Weights(path.with_name(path.name + "_data") if side else None)
    nodes = [helper.make_node("Gather", [weights.add("embed", [vocab, hidden]), "input_ids"], ["x0"], name="/embed")]
    x = "x0"

    def linear(x: str, name: str, shape: list[int]) -> str:
        out = name + "_out"
        nodes.append(helper.make_node("MatMul", [x, weights.add(name, shape)], [out], name="/" + name))
        return out

    for layer in range(layers):
        for part in "qkvo":
            x = linear(x, f"layers.{layer}.{part}", [hidden, hidden])
        up = linear(x, f"layers.{layer}.up", [hidden, inner])
        gate = linear(x, f"layers.{layer}.gate", [hidden, inner])
        nodes.append(helper.make_node("Mul", [up, gate], [f"m{layer}"], name=f"/layers.{layer}.mul"))
        x = linear(f"m{layer}", f"layers.{layer}.down", [inner, hidden])
    logits = linear(x, "head", [hidden, vocab])
    graph = helper.make_graph(
        nodes,
        "big",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["batch", "sequence", vocab])],
    )
    graph.initializer.extend(weights.tensors)
    del weights.tensors[:]
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if weights.file:
        weights.file.close()
    path.write_bytes(model.SerializeToString())


def main() -> None:
    kind, gigabytes, path = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3])
    hidden, inner, vocab = (1024, 2816, 32000) if gigabytes < 3 else (2048, 8192, 128256)
    layer = 4 * hidden * hidden + 3 * hidden * inner
    layers = max(1, round((gigabytes * 1e9 / 4 - 2 * vocab * hidden) / layer))
    build(path, kind == "side", layers, hidden, inner, vocab)
    print(path, onnx.__version__, f"{layers} layers")


if __name__ == "__main__":
    main()
