"""Half precision, 8 and 4 bits: onnxq against the tools of ONNX Runtime, whole processes in turn.

    python benches/dtypes.py MODEL-OR-FOLDER... [--runs 1] [--bin target/release/onnxq] [--out table.md]

A Markdown table: for each model and kind the bytes (and part of the input's), the median wall time, the peak
resident memory, whether ONNX Runtime loads and runs the output, the relative root mean square
difference of its outputs from the float model's on inputs that are made up, and the median
latency as a part of the float model's. Tools: `quantize_dynamic` per channel, `float16.convert_float_to_float16`
with `keep_io_types`, `MatMulNBitsQuantizer` with blocks of 16, each in a process of its own.

Absolute times depend on the machine; the ratios are the result. `onnxq eval` compares distributions.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from clean import label, measure, models

PEERS = {
    "int8": (
        "from onnxruntime.quantization import quantize_dynamic, QuantType; "
        "quantize_dynamic(sys.argv[1], sys.argv[2], per_channel=True, weight_type=QuantType.QInt8)"
    ),
    "fp16": (
        "import onnx; from onnxruntime.transformers.float16 import convert_float_to_float16 as to16; "
        "onnx.save(to16(onnx.load(sys.argv[1]), keep_io_types=True), sys.argv[2])"
    ),
    "q4": (
        "import onnx; from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer as Q; "
        "q = Q(onnx.load(sys.argv[1]), block_size=16, is_symmetric=True); q.process(); "
        "onnx.save(q.model.model, sys.argv[2])"
    ),
}
# Loads a model, runs it on saved inputs: outputs to a file, the latency to standard output.
RUN = """
import sys, time, json, statistics, numpy as np, onnxruntime as ort
options = ort.SessionOptions(); options.log_severity_level = 4
s = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feeds = dict(np.load(sys.argv[2]))
types = {"tensor(float16)": np.float16, "tensor(float)": np.float32}
feeds = {i.name: feeds[i.name].astype(types.get(i.type, feeds[i.name].dtype)) for i in s.get_inputs()}
times = []
for _ in range(8):
    start = time.perf_counter(); found = s.run(None, feeds); times.append(time.perf_counter() - start)
np.savez(sys.argv[3], *[np.asarray(x, np.float64) for x in found])
print(json.dumps(statistics.median(times[1:])))
"""


# Writes inputs for a model. Extents by name or place (INPUT:AXIS) as given, else by what names say.
FEEDS = """
import sys, numpy as np, onnxruntime as ort
options = ort.SessionOptions(); options.log_severity_level = 4
s = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
given = dict(d.split("=") for d in sys.argv[3:]); rng = np.random.default_rng(0); feeds = {}
types = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_, "tensor(float16)": np.float16}
cached = any("past" in i.name for i in s.get_inputs())
def extent(i, axis, d):
    if isinstance(d, int): return d
    known = given.get(f"{i.name}:{axis}", given.get(d))
    if known: return int(known)
    if d and "batch" in d or not d and axis == 0: return 1
    if len(i.shape) == 4 and axis > 1 and "past" not in i.name: return 96  # an image
    if len(i.shape) == 2 and i.type == "tensor(float)": return 4000  # a sound
    past, total = "past" in (d or ""), "total" in (d or "") or "+" in (d or "") or "mask" in i.name and cached
    return 40 if total else 8 if past else 32
for i in s.get_inputs():
    dims, dtype = [extent(i, a, d) for a, d in enumerate(i.shape)], types.get(i.type, np.float32)
    whole = np.issubdtype(dtype, np.integer)
    x = (rng.integers(0, 50, dims) if whole else rng.standard_normal(dims)).astype(dtype)
    if "mask" in i.name: x = np.ones(dims, dtype)
    if "token_type" in i.name: x = np.zeros(dims, dtype)
    if i.name == "position_ids": x = np.broadcast_to(np.arange(dims[-1]) + 8 * cached, dims).astype(dtype)
    if "lengths" in i.name: x = np.full(dims, 32, dtype)
    if i.name == "scales": x = np.array([0, 1, 0], dtype)  # Piper: no noise
    feeds[i.name] = x
np.savez(sys.argv[2], **feeds)
"""


def run(model: Path, feeds: Path, to: Path) -> tuple[float, str]:
    """The latency in seconds, or what went wrong."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(model), str(feeds), str(to)], capture_output=True, text=True, timeout=600
    )
    if done.returncode:
        return 0.0, done.stderr.strip().splitlines()[-1][:110]
    return json.loads(done.stdout), ""


def difference(a: Path, b: Path) -> float:
    """Relative root mean square of the difference over all outputs; NaN where extents depend on values."""
    import numpy as np

    xs, ys = np.load(a), np.load(b)
    if any(xs[k].shape != ys[k].shape for k in xs):
        return float("nan")
    apart = sum(float(np.sum((xs[k] - ys[k]) ** 2)) for k in xs)
    return (apart / sum(float(np.sum(xs[k] ** 2)) for k in xs)) ** 0.5


def row(model: Path, kind: str, tool: str, command: list[str], runs: int, folder: Path, latency: float) -> str:
    target = folder / "out" / "model.onnx"
    seconds, peak, failed = [], 0.0, ""
    for _ in range(runs):
        target.parent.mkdir(exist_ok=True)
        for old in target.parent.iterdir():
            old.unlink()
        os.sync()
        wall, memory, failed = measure([*command, str(model), str(target)])
        seconds.append(wall)
        peak = max(peak, memory)
    start = f"| {label(model)} | {kind} | {tool} | "
    if failed or not target.exists():
        return start + f"failed: {failed.replace('|', '/')[:110]} | | | | | |"
    length = sum(f.stat().st_size for f in target.parent.iterdir())
    own, error = run(target, folder / "feeds.npz", folder / "found.npz")
    cells = [f"{length:,} ({100 * length / model.stat().st_size:.1f} %)", f"{statistics.median(seconds):.2f}", f"{peak:.0f}"]
    if error:
        return start + " | ".join([*cells, f"no: {error.replace('|', '/')}", "", ""]) + " |"
    apart = difference(folder / "reference.npz", folder / "found.npz")
    return start + " | ".join([*cells, "yes", f"{apart:.2g}", f"{own / latency:.2f}"]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--bin", default="target/release/onnxq")
    parser.add_argument("--dim", action="append", default=[], help="an extent of the inputs: NAME=N or INPUT:AXIS=N")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines = [
        "| model | kind | tool | bytes | s | peak MB | runs | difference | latency |",
        "|---|---|---|--:|--:|--:|---|--:|--:|",
    ]
    for model in models(args.models):
        with tempfile.TemporaryDirectory(dir=model.parent) as name:
            folder = Path(name)
            command = [sys.executable, "-c", FEEDS, str(model), str(folder / "feeds.npz"), *args.dim]
            made = subprocess.run(command, capture_output=True, text=True)
            latency, error = (0.0, made.stderr) if made.returncode else run(model, folder / "feeds.npz", folder / "reference.npz")
            if error:
                print(f"{model}: {error}", file=sys.stderr)
                continue
            for kind, peer in PEERS.items():
                ours = ["sh", "-c", f'exec "{args.bin}" quantize "$1" -o "$2" --dtype {kind} -q', "sh"]
                theirs = [sys.executable, "-c", f"import sys; {peer}"]
                for tool, command in (("onnxq", ours), ("ONNX Runtime", theirs)):
                    lines.append(row(model, kind, tool, command, args.runs, folder, latency))
                    print(lines[-1], file=sys.stderr, flush=True)
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
