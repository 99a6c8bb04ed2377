"""What a user of Optimum does, run in its environment (optimum_env.py). Prints JSON as the last line.

    export-classifier DIR             BERT with seeded weights, as Optimum exports it
    train-decoder DIR                 a small GPT-2
    export-decoder DIR OUT [--merged] that, with a cache; merged: both branches in an If
    classify DIR FILE IDS             logits of ORTModelForSequenceClassification
    generate DIR FILE COUNT IDS...    greedy tokens of ORTModelForCausalLM, with and without its cache
    generate-whole DIR FILE COUNT IDS...    the same of a model that has none
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


def train_decoder(target: str) -> object:
    """For a moment, so that the most likely token is far from the next: each token has one successor."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(11)
    config = GPT2Config(
        vocab_size=64, n_positions=128, n_embd=128, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    loss = train(model, successors=1 + torch.randperm(63))
    model.save_pretrained(target)
    return loss


def export_decoder(source: str, target: str, *options: str) -> object:
    from optimum.exporters.onnx import main_export

    legacy = "--merged" in options
    main_export(source, target, task="text-generation-with-past", do_validation=False, legacy=legacy)
    return sorted(p.name for p in Path(target).iterdir())


def train(model, successors: torch.Tensor) -> float:
    """On sequences in which `successors[t - 1]` follows token t; 0, the end, does not occur."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(80):
        columns = [torch.randint(1, 64, (16,))]
        for _ in range(15):
            columns.append(successors[columns[-1] - 1])
        ids = torch.stack(columns, 1)
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def classify(folder: str, file: str, ids: str) -> object:
    from optimum.onnxruntime import ORTModelForSequenceClassification

    model = ORTModelForSequenceClassification.from_pretrained(folder, file_name=file, local_files_only=True)
    input_ids = torch.tensor([[int(i) for i in ids.split(",")]])
    feeds = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    feeds["token_type_ids"] = torch.zeros_like(input_ids)
    return model(**feeds).logits.tolist()


def generate(folder: str, file: str, count: str, *prompts: str) -> object:
    from optimum.onnxruntime import ORTModelForCausalLM

    model = ORTModelForCausalLM.from_pretrained(folder, file_name=file, local_files_only=True)
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


def generate_whole(folder: str, file: str, count: str, *prompts: str) -> object:
    """Of a model that has no cache."""
    from optimum.onnxruntime import ORTModelForCausalLM

    model = ORTModelForCausalLM.from_pretrained(
        folder, file_name=file, local_files_only=True, use_cache=False, use_io_binding=False
    )
    prompt = (torch.tensor([[int(i) for i in prompt.split(",")]]) for prompt in prompts)
    return [without_cache(model, ids, int(count)) for ids in prompt]


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
    "generate-whole": generate_whole,
    "train-decoder": train_decoder,
}

if __name__ == "__main__":
    print(json.dumps(COMMANDS[sys.argv[1]](*sys.argv[2:])))
