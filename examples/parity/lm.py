"""A causal language model in ONNX, on ONNX Runtime."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import onnxruntime as ort

TYPES = {
    "tensor(int64)": ("int64", np.int64),
    "tensor(float)": ("float32", np.float32),
    "tensor(float16)": ("float16", np.float16),
}


class MismatchError(Exception):
    """What was given does not belong together, or cannot be used."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def model_files(model: Path) -> list[Path]:
    """The model and the files of external data that lie beside it: `X.onnx_data`, `X.onnx_data_1`, ..."""
    name = re.compile(re.escape(model.name) + r"_data(?:_(\d+))?")
    data = [path for path in model.resolve().parent.iterdir() if name.fullmatch(path.name)]
    data.sort(key=lambda path: int(name.fullmatch(path.name)[1] or 0))
    return [model, *data]


class CausalLm:
    def __init__(self, model: Path) -> None:
        self.hashes = [sha256(path.read_bytes()) for path in model_files(model)]
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self.session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self.runtime = f"onnxruntime {ort.__version__}"
        self.inputs = {item.name: item for item in self.session.get_inputs()}
        self.outputs = [item.name for item in self.session.get_outputs()]
        self.cache = [name for name in self.inputs if name.startswith("past_key_values.")]
        known = {"input_ids", "attention_mask", "position_ids", *self.cache}
        for name in self.inputs.keys() - known:
            raise MismatchError(f"the model has an input `{name}`: expected those of a causal language model")

    def interface(self) -> list[str]:
        """Name, type and axes of every input and output, one line each."""
        groups = {"input": self.session.get_inputs(), "output": self.session.get_outputs()}
        return [line(kind, item) for kind, items in groups.items() for item in items]

    def start(self, batch: int) -> State:
        """No tokens so far, of `batch` sequences."""
        return State({name: self.empty(name, batch) for name in self.cache}, batch)

    def empty(self, name: str, batch: int) -> np.ndarray:
        item = self.inputs[name]
        dims = [d if isinstance(d, int) else 0 if axis else batch for axis, d in enumerate(item.shape)]
        return np.zeros(dims, TYPES[item.type][1])

    def feed(self, state: State, ids: list[int]) -> np.ndarray:
        """Feeds one token to each sequence of `state`, which goes on: logits, [batch, vocabulary]."""
        given = {
            "input_ids": np.array(ids)[:, None],
            "attention_mask": np.ones((state.batch, state.length + 1), np.int64),
            "position_ids": np.full((state.batch, 1), state.length),
        }
        wanted = {name: value for name, value in given.items() if name in self.inputs}
        results = self.session.run(self.outputs, wanted | state.cache)
        outputs = dict(zip(self.outputs, results, strict=True))
        state.cache = {name: outputs[name.replace("past_key_values.", "present.")] for name in self.cache}
        state.length += 1
        return outputs["logits"][:, -1]


class State:
    """Sequences side by side, with what the model keeps of them."""

    def __init__(self, cache: dict[str, np.ndarray], batch: int) -> None:
        self.cache, self.batch, self.length = cache, batch, 0


def line(kind: str, item: ort.NodeArg) -> str:
    axes = ",".join("?" if axis is None else str(axis) for axis in item.shape)
    return f"{kind} {item.name} {TYPES[item.type][0]}[{axes}]"
