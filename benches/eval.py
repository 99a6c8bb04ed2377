"""Times `onnxq eval` against a Python program that measures the same on the same ONNX Runtime.

    python benches/eval.py BASELINE MODEL TOKENIZER TEXT [--runs 5] [--bin target/release/onnxq]

Whole processes in turn, as in compare.py. The program in Python is the obvious one: sessions
of onnxruntime, log-softmax and divergence with numpy, 8 windows of 256 tokens.
"""

import argparse
import statistics
import sys

from compare import measure, row

PEER = """
import sys
import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer
base, model, tokenizer, text = sys.argv[1:]
ids = np.array(Tokenizer.from_file(tokenizer).encode(open(text).read(32768)).ids)[:2048].reshape(8, 256)
types = {"tensor(int64)": np.int64, "tensor(float)": np.float32, "tensor(float16)": np.float16}

def log_probs(session, window):
    feeds = {}
    for item in session.get_inputs():
        if item.name == "input_ids":
            value = window[None]
        elif item.name == "position_ids":
            value = np.arange(256)[None]
        elif item.name == "attention_mask":
            value = np.ones((1, 256))
        else:
            value = np.zeros([1 if "batch" in str(d) else d if isinstance(d, int) else 0 for d in item.shape])
        feeds[item.name] = value.astype(types[item.type])
    x = session.run(["logits"], feeds)[0][0].astype(np.float32)
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))

runs = []
for path in (base, model):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    runs.append([log_probs(session, window) for window in ids])
kld = [(np.exp(b) * (b - q)).sum(-1).mean() for b, q in zip(*runs)]
print([np.exp(-np.mean([lp[np.arange(255), w[1:]] for lp, w in zip(run, ids)])) for run in runs], np.mean(kld))
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("baseline", "model", "tokenizer", "text"):
        parser.add_argument(name)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--bin", default="target/release/onnxq")
    args = parser.parse_args()
    inputs = ["--text", args.text, "--tokenizer", args.tokenizer]
    # The ONNX Runtime of this Python.
    library = ["--engine", "onnxruntime", "--ort-lib", ort_library()]
    commands = {
        "onnxq": [args.bin, "eval", args.model, "--baseline", args.baseline, *inputs, *library],
        "no noise": [args.bin, "eval", args.model, "--baseline", args.baseline, *inputs, *library, "--noise", "0"],
        "Python": [sys.executable, "-c", PEER, args.baseline, args.model, args.tokenizer, args.text],
    }
    runs: dict[str, list] = {name: [] for name in commands}
    for turn in range(args.runs + 1):
        for name, command in commands.items():
            result = measure(command)
            if turn:  # the first turn warms the page cache
                runs[name].append(result)
    for name, results in runs.items():
        print(row(name, results))
    for name in ("onnxq", "no noise"):
        ratios = sorted(a[0] / b[0] for a, b in zip(runs[name], runs["Python"]))
        print(f"{name}: ratio of wall times to Python: median {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")


def ort_library() -> str:
    from pathlib import Path

    import onnxruntime

    return str(Path(onnxruntime.__file__).parent / "capi")


if __name__ == "__main__":
    main()
