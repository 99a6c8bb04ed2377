"""Folders as transformers.js reads them, with weights in chunks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fetch
import harness

SUFFIXES = {"fp32": "", "fp16": "_fp16", "q4": "_q4", "q4f16": "_q4f16", "int8": "_int8"}

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


def make(onnxq: harness.Onnxq, source: Path, dtype: str, chunk: str, *args: str) -> tuple[Path, Path]:
    """The model of the folder `source` in `dtype`, with weights in chunks, and its new folder."""
    command = ("repack", source) if dtype == "fp32" else ("quantize", source, "--dtype", dtype, *args)
    name = "-".join([dtype, *args]).replace("/", "")
    onnxq.ok(*command, "-o", f"{name}/", "--layout", "onnx", "--chunk-size", chunk)
    model = onnxq.dir / name / "onnx" / f"model{SUFFIXES[dtype]}.onnx"
    assert len(list(model.parent.glob("*_data*"))) >= 3, "chunks"
    return model, onnxq.dir / name


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
