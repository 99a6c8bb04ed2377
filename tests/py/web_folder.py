"""Folders as transformers.js reads them: `onnx/model_q4.onnx` with chunks of external data, and a config."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx

import fetch

SUFFIXES = {"fp32": "", "fp16": "_fp16", "q4": "_q4", "q4f16": "_q4f16", "int8": "_int8", "q8": "_quantized"}

# Smaller tensors stay in the model file: shapes and axes must be there for shape inference.
LEAST_BYTES = 1024

SMOLLM2_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "vocab_size": 49152,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def chunk_names(model_name: str, chunks: int) -> list[str]:
    """`X.onnx_data`, `X.onnx_data_1`, ...: the names that transformers.js asks for."""
    return [f"{model_name}_data{f'_{i}' if i else ''}" for i in range(chunks)]


def split(model: Path, target: Path, chunks: int) -> None:
    """Writes `model` as `target` with its large initializers in `chunks` files of about the same size."""
    proto = onnx.load(model)
    large = [t for t in proto.graph.initializer if len(t.raw_data) >= LEAST_BYTES]
    names = chunk_names(target.name, chunks)
    parts = [bytearray() for _ in names]
    limit = sum(len(tensor.raw_data) for tensor in large) / chunks
    number = 0
    for tensor in large:
        if len(parts[number]) >= limit and number + 1 < chunks:
            number += 1
        move_out(tensor, names[number], parts[number])
    target.write_bytes(proto.SerializeToString())
    for name, part in zip(names, parts, strict=True):
        assert part, f"{model.name} has too few large tensors for {chunks} chunks"
        (target.parent / name).write_bytes(part)


def move_out(tensor: onnx.TensorProto, location: str, part: bytearray) -> None:
    entries = {"location": location, "offset": str(len(part)), "length": str(len(tensor.raw_data))}
    part.extend(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)


def write(folder: Path, model: Path, dtype: str, chunks: int, beside: Path) -> Path:
    """A folder with one model; config and tokenizer are those of the folder `beside`."""
    target = folder / "onnx" / f"model{SUFFIXES[dtype]}.onnx"
    target.parent.mkdir(parents=True, exist_ok=True)
    if chunks:
        split(model, target, chunks)
    else:
        shutil.copyfile(model, target)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(beside / name, folder / name)
    config = json.loads((beside / "config.json").read_text(encoding="utf-8"))
    config["transformers.js_config"] = {
        "dtype": dtype,
        "use_external_data_format": {target.name: chunks},
        "kv_cache_dtype": {"fp16": "float16", "q4f16": "float16"},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return folder


def smollm2_side_files(folder: Path) -> Path:
    """What the package of SmolLM2 says in its weights, as the files that loaders read."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(fetch.ensure("smollm2-tokenizer"), folder / "tokenizer.json")
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>"}
    tokenizer |= {"eos_token": "<|im_end|>", "clean_up_tokenization_spaces": False}
    generation = {"bos_token_id": 1, "eos_token_id": 2, "do_sample": False}
    files = {"config": SMOLLM2_CONFIG, "tokenizer_config": tokenizer, "generation_config": generation}
    for name, fields in files.items():
        (folder / f"{name}.json").write_text(json.dumps(fields, indent=2), encoding="utf-8")
    return folder
