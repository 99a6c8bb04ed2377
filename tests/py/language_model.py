"""Feeds a causal language model with a KV cache and compares what two of them predict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession

import harness

NUMBERS = {
    "tensor(int64)": np.int64,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


@dataclass(frozen=True)
class Comparison:
    """Of a candidate against a baseline, over all positions of some text."""

    baseline_perplexity: float
    perplexity: float
    divergence: float  # mean Kullback-Leibler divergence, nats a token
    top1: float  # share of positions with the same most likely token

    def __str__(self) -> str:
        return (
            f"perplexity {self.baseline_perplexity:.3f} -> {self.perplexity:.3f}, "
            f"divergence {self.divergence:.5f}, same top-1 {self.top1:.2%}"
        )


def log_probabilities(model: Path, chunks: np.ndarray) -> np.ndarray:
    """Of every next token at every position: `[chunks, length, vocabulary]`."""
    session = harness.session(model)
    return np.stack([predict(session, chunk) for chunk in chunks])


def predict(session: InferenceSession, tokens: np.ndarray) -> np.ndarray:
    [logits] = session.run(["logits"], prompt_feeds(session, tokens))
    return log_softmax(logits[0].astype(np.float32))


def prompt_feeds(session: InferenceSession, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """A whole prompt at once, with an empty cache."""
    given = {
        "input_ids": tokens[None],
        "attention_mask": np.ones((1, len(tokens))),
        "position_ids": np.arange(len(tokens))[None],
    }
    feeds = {}
    for item in session.get_inputs():
        number = NUMBERS[item.type]
        # In a cache of no tokens, every axis that is a name is the batch or is empty.
        empty = [1 if dim == "batch_size" else 0 if isinstance(dim, str) else dim for dim in item.shape]
        feeds[item.name] = given.get(item.name, np.zeros(empty)).astype(number)
    return feeds


def greedy(session: InferenceSession, prompt: list[int], count: int, stop: int) -> list[int]:
    """Token by token through the cache: 8-bit activations are scaled by all that is fed at once."""
    feeds = prompt_feeds(session, np.array(prompt))
    ids: list[int] = []
    while len(ids) < count and ids[-1:] != [stop]:
        names = [item.name for item in session.get_outputs()]
        outputs = dict(zip(names, session.run(names, feeds), strict=True))
        ids.append(int(outputs["logits"][0, -1].argmax()))
        feeds = one_more(feeds, outputs, ids[-1])
    return ids


def one_more(feeds: dict[str, np.ndarray], outputs: dict[str, np.ndarray], token: int) -> dict[str, np.ndarray]:
    """What is fed after `feeds` and `token`."""
    length = feeds["attention_mask"].shape[1]
    new = {
        "input_ids": np.array([[token]]),
        "attention_mask": np.ones((1, length + 1), np.int64),
        "position_ids": np.array([[length]]),
    }
    return new | {
        name: outputs[name.replace("past_key_values", "present")] for name in feeds if name not in new
    }


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def perplexity(log_probs: np.ndarray, chunks: np.ndarray) -> float:
    following = np.take_along_axis(log_probs[:, :-1], chunks[:, 1:, None], axis=-1)
    return float(np.exp(-following.mean(dtype=np.float64)))


def compare(baseline: np.ndarray, candidate: np.ndarray, chunks: np.ndarray) -> Comparison:
    divergence = (np.exp(baseline) * (baseline - candidate)).sum(-1)
    return Comparison(
        perplexity(baseline, chunks),
        perplexity(candidate, chunks),
        float(divergence.mean(dtype=np.float64)),
        float((baseline.argmax(-1) == candidate.argmax(-1)).mean()),
    )
