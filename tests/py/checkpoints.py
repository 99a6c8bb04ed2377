"""Reads trained weights from the formats that the packages in fetch.py hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from gguf import GGUFReader, dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from llama_graph import Config, Weights, rotate_by_halves

GGUF_LAYER = {
    "attention_norm": "attn_norm",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "mlp_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}

GLASSLLM_LAYER = {
    "q": "attn.W_Q",
    "k": "attn.W_K",
    "v": "attn.W_V",
    "o": "attn.W_O",
    "gate": "ffn.W1",
    "up": "ffn.W3",
    "down": "ffn.W2",
}


def rotate_layer(layer: dict[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
    """Both formats keep the two numbers of a rotary pair side by side."""
    return layer | {
        "q": rotate_by_halves(layer["q"], config.heads),
        "k": rotate_by_halves(layer["k"], config.kv_heads),
    }


class Gguf:
    """A GGUF file of architecture `llama`; quantized tensors are dequantized."""

    def __init__(self, path: Path):
        self.reader = GGUFReader(path)
        assert self.field("general.architecture") == "llama"
        self.tensors = {tensor.name: tensor for tensor in self.reader.tensors}

    def field(self, name: str):
        return self.reader.fields[name].contents()

    def array(self, name: str) -> np.ndarray:
        tensor = self.tensors[name]
        return dequantize(tensor.data, tensor.tensor_type).astype(np.float32)

    def config(self) -> Config:
        return Config(
            layers=self.field("llama.block_count"),
            heads=self.field("llama.attention.head_count"),
            kv_heads=self.field("llama.attention.head_count_kv"),
            epsilon=self.field("llama.attention.layer_norm_rms_epsilon"),
            theta=self.field("llama.rope.freq_base"),
        )

    def weights(self) -> Weights:
        config = self.config()
        layers = [
            {name: self.array(f"blk.{i}.{stored}.weight") for name, stored in GGUF_LAYER.items()}
            for i in range(config.layers)
        ]
        assert "output.weight" not in self.tensors, "an untied head is not handled"
        return Weights(
            self.array("token_embd.weight"),
            [rotate_layer(layer, config) for layer in layers],
            self.array("output_norm.weight"),
        )

    def tokenizer(self) -> Tokenizer:
        """Byte-level BPE with digits apart, which is what GGUF calls `smollm`."""
        assert self.field("tokenizer.ggml.model") == "gpt2"
        assert self.field("tokenizer.ggml.pre") == "smollm"
        tokens = self.field("tokenizer.ggml.tokens")
        merges = [tuple(merge.split(" ")) for merge in self.field("tokenizer.ggml.merges")]
        tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        control = 3  # the GGUF token type of special tokens
        kinds = self.field("tokenizer.ggml.token_type")
        tokenizer.add_special_tokens(
            [
                AddedToken(token, special=True, normalized=False)
                for token, kind in zip(tokens, kinds, strict=True)
                if kind == control
            ]
        )
        return tokenizer


def glassllm(path: Path) -> tuple[Config, Weights]:
    """The `.npz` of the package glassllm; its linears are `[in, out]`."""
    file = np.load(path)
    stated = json.loads(str(file["__config__"]))
    config = Config(
        layers=stated["n_layers"],
        heads=stated["n_heads"],
        kv_heads=stated["n_kv_heads"],
        epsilon=stated["eps"],
        theta=stated["rope_base"],
    )
    layers = [glassllm_layer(file, f"blocks.{i}", config) for i in range(config.layers)]
    return config, Weights(wide(file["E"]), layers, wide(file["norm_f.gamma"]))


def glassllm_layer(file, stem: str, config: Config) -> dict[str, np.ndarray]:
    layer = {name: wide(file[f"{stem}.{stored}"]).T for name, stored in GLASSLLM_LAYER.items()}
    layer["attention_norm"] = wide(file[f"{stem}.norm1.gamma"])
    layer["mlp_norm"] = wide(file[f"{stem}.norm2.gamma"])
    return rotate_layer(layer, config)


def wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32)
