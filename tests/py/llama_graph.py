"""Writes a Llama-style causal LM with a KV cache as the graph that torch's exporter would write.

Un-fused operators, scoped node names, weights of the linears folded to `[K, N]`, shapes and
small numbers as `Constant` nodes. That is the shape of file the compiler meets in practice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from builders import BOOL, FLOAT, FLOAT16, INT64, NUMPY_TYPES, GraphBuilder, tensor


@dataclass(frozen=True)
class Config:
    layers: int
    heads: int
    kv_heads: int
    epsilon: float
    theta: float


@dataclass(frozen=True)
class Weights:
    """Linears are `[out, in]`, as checkpoints store them; q and k rotate by halves."""

    embedding: np.ndarray
    layers: list[dict[str, np.ndarray]]
    final_norm: np.ndarray
    head: np.ndarray | None = None  # None: the embedding serves as head


def rotate_by_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorders rows whose rotary pairs are neighbours, so that pairs are half a head apart."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, columns))


class ExporterGraph(GraphBuilder):
    """Names nodes `/scope/Op`, `/scope/Op_1`, ... and their results `..._output_0`."""

    def __init__(self) -> None:
        super().__init__()
        self.uses: dict[str, int] = {}
        self.linears = 0

    def op(self, kind: str, scope: str, *inputs: str, results: int = 1, out: str = "", **attrs):
        name = self.fresh(f"{scope}/{kind}")
        outputs = [out] if out else [f"{name}_output_{i}" for i in range(results)]
        self.node(kind, *inputs, out=outputs, name=name, **attrs)
        return outputs[0] if results == 1 else outputs

    def fresh(self, name: str) -> str:
        count = self.uses.get(name, 0)
        self.uses[name] = count + 1
        return f"{name}_{count}" if count else name

    def const(self, scope: str, array) -> str:
        name = self.fresh(f"{scope}/Constant")
        value = tensor("", np.asarray(array))
        return self.node("Constant", out=f"{name}_output_0", name=name, value=value)

    def ints(self, scope: str, *numbers: int) -> str:
        return self.const(scope, np.array(numbers, np.int64))


class LlamaGraph:
    """One export. The methods follow the model from ids to logits."""

    def __init__(self, config: Config, weights: Weights, dtype: int = FLOAT, head: str = "transpose"):
        self.config, self.weights, self.dtype, self.head = config, weights, dtype, head
        self.number = NUMPY_TYPES[dtype]
        self.hidden = weights.embedding.shape[1]
        self.head_dim = self.hidden // config.heads
        self.g = ExporterGraph()

    def model(self) -> ModelProto:
        g = self.g
        ids = g.input("input_ids", ("batch_size", "sequence_length"), INT64)
        g.input("attention_mask", ("batch_size", "total_sequence_length"), INT64)
        g.input("position_ids", ("batch_size", "sequence_length"), INT64)
        vocabulary = self.weights.embedding.shape[0]
        g.output("logits", ("batch_size", "sequence_length", vocabulary), self.dtype)
        table = g.weight("model.embed_tokens.weight", self.weights.embedding, self.dtype)
        x = g.op("Gather", "/model/embed_tokens", table, ids)
        cos, sin = self.rotary_tables()
        mask = self.attention_mask()
        for index, layer in enumerate(self.weights.layers):
            x = self.layer(index, layer, x, cos, sin, mask)
        x = self.rms_norm("/model/norm", "model.norm.weight", self.weights.final_norm, x)
        g.op("MatMul", "/lm_head", x, self.head_weight(table), out="logits")
        return g.model()

    def head_weight(self, table: str) -> str:
        """The tied table through `Transpose`, or a second copy as many exporters write it."""
        if self.weights.head is None and self.head == "transpose":
            return self.g.op("Transpose", "/lm_head", table, perm=[1, 0])
        rows = self.weights.embedding if self.weights.head is None else self.weights.head
        return self.g.weight("onnx::MatMul_lm_head", rows.T, self.dtype)

    def rotary_tables(self) -> tuple[str, str]:
        g, scope = self.g, "/model/rotary_emb"
        exponents = np.arange(0, self.head_dim, 2, dtype=np.float64) / self.head_dim
        frequencies = (self.config.theta**-exponents).astype(np.float32)
        position = g.op("Unsqueeze", scope, "position_ids", g.ints(scope, 2))
        position = g.op("Cast", scope, position, to=FLOAT)
        table = g.weight("model.rotary_emb.inv_freq", frequencies.reshape(1, 1, -1))
        angles = g.op("Mul", scope, position, table)
        angles = g.op("Concat", scope, angles, angles, axis=-1)
        cos, sin = (
            self.narrow(scope, g.op("Unsqueeze", scope, g.op(kind, scope, angles), g.ints(scope, 1)))
            for kind in ("Cos", "Sin")
        )
        return cos, sin

    def attention_mask(self) -> str:
        """0 where a query may look, the lowest number where it may not: causal and padding."""
        g, scope = self.g, "/model"
        total = g.op("Gather", scope, g.op("Shape", scope, "attention_mask"), g.const(scope, np.int64(1)))
        zero, one = g.const(scope, np.int64(0)), g.const(scope, np.int64(1))
        keys = g.op("Range", scope, zero, total, one)
        queries = g.op("Unsqueeze", scope, "position_ids", g.ints(scope, 2))
        causal = g.op("LessOrEqual", scope, keys, queries)
        real = g.op("Cast", scope, "attention_mask", to=BOOL)
        visible = g.op("And", scope, causal, g.op("Unsqueeze", scope, real, g.ints(scope, 1)))
        visible = g.op("Unsqueeze", scope, visible, g.ints(scope, 1))
        lowest = np.finfo(self.number).min
        return g.op(
            "Where", scope, visible, g.const(scope, self.number(0)), g.const(scope, self.number(lowest))
        )

    def layer(self, index: int, layer: dict, x: str, cos: str, sin: str, mask: str) -> str:
        g, scope, stem = self.g, f"/model/layers.{index}", f"model.layers.{index}"
        name = "input_layernorm"
        h = self.rms_norm(f"{scope}/{name}", f"{stem}.{name}.weight", layer["attention_norm"], x)
        x = g.op("Add", scope, x, self.attention(index, layer, h, cos, sin, mask))
        name = "post_attention_layernorm"
        h = self.rms_norm(f"{scope}/{name}", f"{stem}.{name}.weight", layer["mlp_norm"], x)
        return g.op("Add", scope, x, self.mlp(f"{scope}/mlp", layer, h))

    def attention(self, index: int, layer: dict, h: str, cos: str, sin: str, mask: str) -> str:
        g, config, scope = self.g, self.config, f"/model/layers.{index}/self_attn"
        q = self.split_heads(scope, self.linear(f"{scope}/q_proj", h, layer["q"]), config.heads)
        k = self.split_heads(scope, self.linear(f"{scope}/k_proj", h, layer["k"]), config.kv_heads)
        v = self.split_heads(scope, self.linear(f"{scope}/v_proj", h, layer["v"]), config.kv_heads)
        k = self.with_past(index, "key", self.rotate(scope, k, cos, sin))
        v = self.with_past(index, "value", v)
        k, v = (self.repeat_heads(scope, x) for x in (k, v))
        k = g.op("Transpose", scope, k, perm=[0, 1, 3, 2])
        scores = g.op("MatMul", scope, self.rotate(scope, q, cos, sin), k)
        scores = g.op("Mul", scope, scores, g.const(scope, self.number(self.head_dim**-0.5)))
        scores = g.op("Softmax", scope, g.op("Add", scope, scores, mask), axis=-1)
        mixed = g.op("Transpose", scope, g.op("MatMul", scope, scores, v), perm=[0, 2, 1, 3])
        mixed = g.op("Reshape", scope, mixed, g.ints(scope, 0, 0, self.hidden))
        return self.linear(f"{scope}/o_proj", mixed, layer["o"])

    def split_heads(self, scope: str, x: str, heads: int) -> str:
        shape = self.g.ints(scope, 0, 0, heads, self.head_dim)
        return self.g.op("Transpose", scope, self.g.op("Reshape", scope, x, shape), perm=[0, 2, 1, 3])

    def rotate(self, scope: str, x: str, cos: str, sin: str) -> str:
        g, half = self.g, self.head_dim // 2
        first, second = g.op("Split", scope, x, g.ints(scope, half, half), results=2, axis=-1)
        turned = g.op("Concat", scope, g.op("Neg", scope, second), first, axis=-1)
        return g.op("Add", scope, g.op("Mul", scope, x, cos), g.op("Mul", scope, turned, sin))

    def with_past(self, index: int, kind: str, x: str) -> str:
        g, past, present = self.g, f"past_key_values.{index}.{kind}", f"present.{index}.{kind}"
        dims = ("batch_size", self.config.kv_heads)
        g.input(past, (*dims, "past_sequence_length", self.head_dim), self.dtype)
        g.output(present, (*dims, "total_sequence_length", self.head_dim), self.dtype)
        return g.op("Concat", f"/model/layers.{index}/self_attn", past, x, out=present, axis=2)

    def repeat_heads(self, scope: str, x: str) -> str:
        g, heads, groups = self.g, self.config.heads, self.config.heads // self.config.kv_heads
        if groups == 1:
            return x
        x = g.op("Unsqueeze", scope, x, g.ints(scope, 2))
        x = g.op("Expand", scope, x, g.ints(scope, 1, 1, groups, 1, 1))
        return g.op("Reshape", scope, x, g.ints(scope, 0, heads, -1, self.head_dim))

    def mlp(self, scope: str, layer: dict, h: str) -> str:
        g = self.g
        gate = self.linear(f"{scope}/gate_proj", h, layer["gate"])
        gate = g.op("Mul", f"{scope}/act_fn", gate, g.op("Sigmoid", f"{scope}/act_fn", gate))
        up = self.linear(f"{scope}/up_proj", h, layer["up"])
        return self.linear(f"{scope}/down_proj", g.op("Mul", scope, gate, up), layer["down"])

    def linear(self, scope: str, x: str, weight: np.ndarray) -> str:
        self.g.linears += 1
        stored = self.g.weight(f"onnx::MatMul_{1000 + self.g.linears}", weight.T, self.dtype)
        return self.g.op("MatMul", scope, x, stored)

    def rms_norm(self, scope: str, name: str, weight: np.ndarray, x: str) -> str:
        """In float32 whatever the model's type, as the models themselves do it."""
        g = self.g
        x = x if self.dtype == FLOAT else g.op("Cast", scope, x, to=FLOAT)
        square = g.op("Pow", scope, x, g.const(scope, np.float32(2)))
        mean = g.op("ReduceMean", scope, square, axes=[-1], keepdims=1)
        mean = g.op("Add", scope, mean, g.const(scope, np.float32(self.config.epsilon)))
        inverse = g.op("Div", scope, g.const(scope, np.float32(1)), g.op("Sqrt", scope, mean))
        x = self.narrow(scope, g.op("Mul", scope, x, inverse))
        return g.op("Mul", scope, g.weight(name, weight, self.dtype), x)

    def narrow(self, scope: str, x: str) -> str:
        return x if self.dtype == FLOAT else self.g.op("Cast", scope, x, to=FLOAT16)
