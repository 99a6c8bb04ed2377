"""Writes a BERT encoder as torch's exporter would: bias as Add, Gelu spelled out, tables in Gather."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from onnx import ModelProto
from safetensors.numpy import load_file

from builders import FLOAT, INT64
from llama_graph import ExporterGraph


class BertGraph:
    """One export of a folder with `config.json` and `model.safetensors`."""

    def __init__(self, folder: Path):
        self.config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.tensors = load_file(folder / "model.safetensors")
        self.hidden = self.config["hidden_size"]
        self.heads = self.config["num_attention_heads"]
        self.g = ExporterGraph()

    def model(self) -> ModelProto:
        g = self.g
        shape = ("batch_size", "sequence_length")
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            g.input(name, shape, INT64)
        g.output("last_hidden_state", (*shape, self.hidden))
        x, mask = self.embeddings(), self.attention_mask()
        for index in range(self.config["num_hidden_layers"]):
            x = self.layer(index, x, mask)
        g.op("Identity", "", x, out="last_hidden_state")
        return g.model()

    def weight(self, name: str) -> str:
        return self.g.weight(name, self.tensors[name])

    def embeddings(self) -> str:
        g, scope = self.g, "/embeddings"
        words = self.lookup("word", "input_ids")
        kinds = self.lookup("token_type", "token_type_ids")
        places = self.lookup("position", self.position_ids(scope))
        x = g.op("Add", scope, g.op("Add", scope, words, kinds), places)
        return self.layer_norm(f"{scope}/LayerNorm", "embeddings.LayerNorm", x)

    def lookup(self, kind: str, ids: str) -> str:
        name = f"{kind}_embeddings"
        return self.g.op("Gather", f"/embeddings/{name}", self.weight(f"embeddings.{name}.weight"), ids)

    def position_ids(self, scope: str) -> str:
        g = self.g
        every = np.arange(self.config["max_position_embeddings"], dtype=np.int64)[None]
        length = g.op("Gather", scope, g.op("Shape", scope, "input_ids"), g.const(scope, np.int64(1)))
        length = g.op("Unsqueeze", scope, length, g.ints(scope, 0))
        table = g.weight("embeddings.position_ids", every)
        return g.op("Slice", scope, table, g.ints(scope, 0), length, g.ints(scope, 1))

    def attention_mask(self) -> str:
        g = self.g
        real = g.op("Cast", "", g.op("Unsqueeze", "", "attention_mask", g.ints("", 1, 2)), to=FLOAT)
        padding = g.op("Sub", "", g.const("", np.float32(1)), real)
        return g.op("Mul", "", padding, g.const("", np.finfo(np.float32).min))

    def layer(self, index: int, x: str, mask: str) -> str:
        g, scope, stem = self.g, f"/encoder/layer.{index}", f"encoder.layer.{index}"
        mixed = self.linear(f"{stem}.attention.output.dense", self.attention(index, x, mask))
        x = g.op("Add", f"{scope}/attention/output", mixed, x)
        x = self.layer_norm(f"{scope}/attention/output", f"{stem}.attention.output.LayerNorm", x)
        inner = self.gelu(f"{scope}/intermediate", self.linear(f"{stem}.intermediate.dense", x))
        x = g.op("Add", f"{scope}/output", self.linear(f"{stem}.output.dense", inner), x)
        return self.layer_norm(f"{scope}/output", f"{stem}.output.LayerNorm", x)

    def attention(self, index: int, x: str, mask: str) -> str:
        g, scope = self.g, f"/encoder/layer.{index}/attention/self"
        q = self.split_heads(index, "query", x, [0, 2, 1, 3])
        k = self.split_heads(index, "key", x, [0, 2, 3, 1])
        v = self.split_heads(index, "value", x, [0, 2, 1, 3])
        width = np.float32((self.hidden // self.heads) ** 0.5)
        scores = g.op("Div", scope, g.op("MatMul", scope, q, k), g.const(scope, width))
        scores = g.op("Softmax", scope, g.op("Add", scope, scores, mask), axis=-1)
        mixed = g.op("Transpose", scope, g.op("MatMul", scope, scores, v), perm=[0, 2, 1, 3])
        return g.op("Reshape", scope, mixed, g.ints(scope, 0, 0, self.hidden))

    def split_heads(self, index: int, kind: str, x: str, perm: list[int]) -> str:
        g, scope = self.g, f"/encoder/layer.{index}/attention/self"
        x = self.linear(f"encoder.layer.{index}.attention.self.{kind}", x)
        shape = g.ints(scope, 0, 0, self.heads, self.hidden // self.heads)
        return g.op("Transpose", scope, g.op("Reshape", scope, x, shape), perm=perm)

    def linear(self, stem: str, x: str) -> str:
        scope = "/" + stem.replace(".", "/").replace("layer/", "layer.")
        g = self.g
        g.linears += 1
        weight = g.weight(f"onnx::MatMul_{300 + g.linears}", self.tensors[f"{stem}.weight"].T)
        return g.op("Add", scope, self.weight(f"{stem}.bias"), g.op("MatMul", scope, x, weight))

    def gelu(self, scope: str, x: str) -> str:
        g = self.g
        bent = g.op("Erf", scope, g.op("Div", scope, x, g.const(scope, np.float32(2**0.5))))
        bent = g.op("Mul", scope, x, g.op("Add", scope, bent, g.const(scope, np.float32(1))))
        return g.op("Mul", scope, bent, g.const(scope, np.float32(0.5)))

    def layer_norm(self, scope: str, stem: str, x: str) -> str:
        scale, bias = self.weight(f"{stem}.weight"), self.weight(f"{stem}.bias")
        epsilon = self.config["layer_norm_eps"]
        return self.g.op("LayerNormalization", scope, x, scale, bias, axis=-1, epsilon=epsilon)
