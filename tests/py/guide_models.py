"""The models of the guides, small and with made-up weights: a classifier and a speech recognizer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, helper
from safetensors.numpy import save_file

from bert_graph import BertGraph
from builders import random
from llama_graph import ExporterGraph

LABELS = ["negative", "neutral", "positive"]
BERT = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "vocab_size": 1000,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 512,
    "max_position_embeddings": 128,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "id2label": dict(enumerate(LABELS)),
    "label2id": {label: i for i, label in enumerate(LABELS)},
}


def layer_shapes(stem: str, width: int, inner: int) -> dict[str, tuple[int, ...]]:
    """The weights of one layer of BERT; linears are `[out, in]`."""
    linears = {f"attention.self.{kind}": (width, width) for kind in ("query", "key", "value")}
    linears |= {
        "attention.output.dense": (width, width),
        "intermediate.dense": (inner, width),
        "output.dense": (width, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in linears.items():
        shapes |= {f"{stem}.{name}.weight": shape, f"{stem}.{name}.bias": shape[:1]}
    for norm in ("attention.output.LayerNorm", "output.LayerNorm"):
        shapes |= {f"{stem}.{norm}.weight": (width,), f"{stem}.{norm}.bias": (width,)}
    return shapes


def made_up(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights whose results keep their size: norms around 1, linears by the width they read."""
    weights = {}
    for seed, (name, shape) in enumerate(shapes.items()):
        norm = "LayerNorm.weight" in name
        scale = 0.1 if len(shape) == 1 else 1.0 if "embeddings" in name else 2 * shape[-1] ** -0.5
        weights[name] = random(*shape, seed=seed, scale=scale) + np.float32(norm)
    return weights


class Classifier(BertGraph):
    """The encoder with a score for each label at the first token."""

    def model(self) -> ModelProto:
        super().model()
        g = self.g
        g.outputs.clear()
        first = g.op("Gather", "/pooler", "last_hidden_state", g.const("/pooler", np.int64(0)), axis=1)
        pooled = g.op("Tanh", "/pooler", self.linear("pooler.dense", first))
        g.op("Identity", "", self.linear("classifier", pooled), out="logits")
        g.output("logits", ("batch_size", len(LABELS)))
        return g.model()


def classifier(folder: Path) -> None:
    """`model.onnx`, whose nodes have tags that ONNX Runtime does not know, and `config.json`."""
    width, inner = BERT["hidden_size"], BERT["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (BERT["vocab_size"], width),
        "embeddings.position_embeddings.weight": (BERT["max_position_embeddings"], width),
        "embeddings.token_type_embeddings.weight": (BERT["type_vocab_size"], width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
        "pooler.dense.weight": (width, width),
        "pooler.dense.bias": (width,),
        "classifier.weight": (len(LABELS), width),
        "classifier.bias": (len(LABELS),),
    }
    for layer in range(BERT["num_hidden_layers"]):
        shapes |= layer_shapes(f"encoder.layer.{layer}", width, inner)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(BERT, indent=2), encoding="utf-8")
    weights = folder / "model.safetensors"
    save_file(made_up(shapes), weights)
    model = Classifier(folder).model()
    weights.unlink()
    for node in model.graph.node:
        node.attribute.append(helper.make_attribute("hierarchy_tag", node.name.rpartition("/")[0]))
    onnx.save(model, folder / "model.onnx")


# Kernel and stride of the convolutions that make a vector of 20 ms of sound, as wav2vec2 has them.
KERNELS = [(10, 5), *[(3, 2)] * 4, *[(2, 2)] * 2]
CHANNELS, WIDTH, LETTERS = 256, 256, 32


class Speech:
    """Convolutions over the sound, a grouped one for places, linears, and a score for each letter."""

    def __init__(self) -> None:
        self.g = ExporterGraph()
        self.seed = 0

    def weight(self, name: str, *shape: int) -> str:
        self.seed += 1
        return self.g.weight(name, random(*shape, seed=self.seed, scale=(2 / np.prod(shape[1:])) ** 0.5))

    def model(self) -> ModelProto:
        g = self.g
        sound = g.input("input_values", ("batch_size", "sequence_length"))
        x = g.op("Unsqueeze", "/feature_extractor", sound, g.ints("/feature_extractor", 1))
        for i, (kernel, stride) in enumerate(KERNELS):
            x = self.convolution(i, x, kernel, stride)
        x = self.place(x)
        x = g.op("Transpose", "/encoder", x, perm=[0, 2, 1])
        for i in range(2):
            scope = f"/encoder/{i}"
            inner = g.op("Relu", scope, self.linear(f"{scope}/up", x, WIDTH, 4 * WIDTH))
            inner = self.linear(f"{scope}/down", inner, 4 * WIDTH, WIDTH)
            x = self.norm(scope, g.op("Add", scope, x, inner))
        g.op("Identity", "", self.linear("/lm_head", x, WIDTH, LETTERS), out="logits")
        g.output("logits", ("batch_size", "frames", LETTERS))
        return g.model()

    def convolution(self, index: int, x: str, kernel: int, stride: int) -> str:
        g, scope = self.g, f"/feature_extractor/conv_layers.{index}"
        weight = self.weight(f"conv_layers.{index}.weight", CHANNELS, CHANNELS if index else 1, kernel)
        x = g.op("Conv", f"{scope}/conv", x, weight, strides=[stride], kernel_shape=[kernel])
        return g.op("Relu", scope, x)

    def place(self, x: str) -> str:
        g, groups, kernel = self.g, 16, 15
        weight = self.weight("pos_conv.weight", WIDTH, CHANNELS // groups, kernel)
        pads = [kernel // 2] * 2
        y = g.op("Conv", "/pos_conv", x, weight, group=groups, kernel_shape=[kernel], pads=pads)
        return g.op("Add", "/pos_conv", x, y)

    def linear(self, scope: str, x: str, inside: int, outside: int) -> str:
        self.seed += 1
        weight = random(inside, outside, seed=self.seed, scale=inside**-0.5)
        x = self.g.op("MatMul", scope, x, self.g.weight(f"{scope[1:]}.weight", weight))
        bias = random(outside, seed=self.seed, scale=0.1)
        return self.g.op("Add", scope, x, self.g.weight(f"{scope[1:]}.bias", bias))

    def norm(self, scope: str, x: str) -> str:
        scale, bias = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
        names = [self.g.weight(f"{scope[1:]}.norm.{k}", w) for k, w in (("scale", scale), ("bias", bias))]
        return self.g.op("LayerNormalization", scope, x, *names, axis=-1)


def speech(folder: Path) -> None:
    """`model.onnx` with its weights in `model.onnx_data`, and what a pipeline reads beside it."""
    folder.mkdir(parents=True)
    onnx.save(
        Speech().model(), folder / "model.onnx",
        save_as_external_data=True, location="model.onnx_data", size_threshold=1024,
    )  # fmt: skip
    side = {
        "config.json": {"architectures": ["Wav2Vec2ForCTC"], "model_type": "wav2vec2", "vocab_size": LETTERS},
        "preprocessor_config.json": {"sampling_rate": 16000},
        "vocab.json": {chr(ord("a") + i): i for i in range(26)},
    }
    for name, fields in side.items():
        (folder / name).write_text(json.dumps(fields, indent=2), encoding="utf-8")
