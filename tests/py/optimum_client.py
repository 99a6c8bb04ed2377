"""What a user of Optimum does, run in its environment (optimum_env.py). Prints JSON as the last line.

    export-classifier DIR             BERT with seeded weights, as Optimum exports it
    export-decoder DIR [--merged]     GPT-2 with seeded weights and a cache; merged: both branches in an If
    classify DIR FILE IDS             logits of ORTModelForSequenceClassification
    generate DIR FILE COUNT IDS...    greedy tokens of ORTModelForCausalLM, with and without cache
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch


def export_classifier(target: str) -> object:
    from optimum.exporters.onnx import main_export
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=1000, hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512,
        num_labels=3, initializer_range=0.2,
    )  # fmt: skip
    source = f"{target}-source"
    BertForSequenceClassification(config).save_pretrained(source)
    main_export(source, target, task="text-classification", do_validation=False)
    return sorted(p.name for p in Path(target).iterdir())


def export_decoder(target: str, *options: str) -> object:
    """Weights are spread wider than training begins with, so that the most likely token is far from the next."""
    from optimum.exporters.onnx import main_export
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(11)
    config = GPT2Config(
        vocab_size=1000, n_positions=128, n_embd=128, n_layer=3, n_head=4, initializer_range=0.3,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    source = f"{target}-source"
    GPT2LMHeadModel(config).save_pretrained(source)
    legacy = "--merged" in options
    main_export(source, target, task="text-generation-with-past", do_validation=False, legacy=legacy)
    return sorted(p.name for p in Path(target).iterdir())


def classify(folder: str, file: str, ids: str) -> object:
    from optimum.onnxruntime import ORTModelForSequenceClassification

    model = ORTModelForSequenceClassification.from_pretrained(folder, file_name=file, local_files_only=True)
    input_ids = torch.tensor([[int(i) for i in ids.split(",")]])
    feeds = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    feeds["token_type_ids"] = torch.zeros_like(input_ids)
    return model(**feeds).logits.tolist()


def generate(folder: str, file: str, count: str, *prompts: str) -> object:
    from optimum.onnxruntime import ORTModelForCausalLM

    model = ORTModelForCausalLM.from_pretrained(folder, file_name=file, local_files_only=True, use_cache=True)
    texts: dict[str, list[list[int]]] = {"cache": [], "whole": []}
    for prompt in prompts:
        ids = torch.tensor([[int(i) for i in prompt.split(",")]])
        done = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=int(count), do_sample=False,
            pad_token_id=0,
        )  # fmt: skip
        texts["cache"].append(done[0, ids.shape[1] :].tolist())
        texts["whole"].append(without_cache(model, ids, int(count)))
    return texts


def without_cache(model, ids: torch.Tensor, count: int) -> list[int]:
    """Feeds the whole text for every token."""
    new: list[int] = []
    stop = model.generation_config.eos_token_id
    while len(new) < count and new[-1:] != [stop]:
        positions = torch.arange(ids.shape[1])[None]
        logits = model(ids, attention_mask=torch.ones_like(ids), position_ids=positions).logits
        new.append(int(logits[0, -1].argmax()))
        ids = torch.cat([ids, torch.tensor([[new[-1]]])], 1)
    return new


COMMANDS = {
    "export-classifier": export_classifier,
    "export-decoder": export_decoder,
    "classify": classify,
    "generate": generate,
}

if __name__ == "__main__":
    print(json.dumps(COMMANDS[sys.argv[1]](*sys.argv[2:])))
