"""What block quantization costs a language model, apart from where its blocks happen to begin.

    python benches/alignments.py MODEL (--text FILE [--tokenizer FILE] | --tokens FILE) [--inputs FILE]
        [--block 16,32] [--methods rtn-asym,mse-asym] [--peers k_quant] [--calibrate FILE] [--shifts 6]
        [--exclude GLOB]... [--windows 8] [--window 256] [--bin target/release/onnxq] [--python PYTHON]
        [--out table.md]

One divergence tells a method from luck badly: which elements share a block changes it by a tenth and more. So
the channels of every weight are turned by several shifts, the activations with them (a Gather before the product,
so that the float model computes the same), and each form is quantized and compared at each shift. Prints a Markdown
table: the mean over shifts of the mean divergence (nats) with its standard error, and that of the difference
from the first method, shift by shift.

Forms and peers are those of `quality.py`. Only weights that are read by MatMul alone are turned.

    pip install onnx onnxruntime
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

import quality


def turnable(model: onnx.ModelProto, exclude: list[str]) -> dict[str, int]:
    """The weights to turn, and how many channels they have."""
    matrices = {i.name: i.dims[0] for i in model.graph.initializer if len(i.dims) == 2}
    kept = set()
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            named = any(fnmatch.fnmatch(n, glob) for n in (name, node.name) for glob in exclude)
            if named or node.op_type != "MatMul" or position != 1:
                kept.add(name)
    return {name: k for name, k in matrices.items() if name not in kept}


def turned(model: onnx.ModelProto, weights: dict[str, int], shift: int) -> onnx.ModelProto:
    """`model` with the channels of `weights`, and what multiplies them, turned by `shift`."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        if tensor.name in weights:
            array = np.roll(numpy_helper.to_array(tensor), shift, axis=0)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    orders = {k: f"order_of_{k}" for k in weights.values()}
    for k, name in orders.items():
        result.graph.initializer.append(numpy_helper.from_array((np.arange(k) - shift) % k, name))
    nodes, made = [], set()
    for node in result.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            source, target = node.input[0], f"{node.input[0]}_turned"
            if target not in made:
                order = orders[weights[node.input[1]]]
                nodes.append(helper.make_node("Gather", [source, order], [target], axis=-1, name=target))
                made.add(target)
            node.input[0] = target
        nodes.append(node)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


def divergences(args: argparse.Namespace, folder: Path) -> dict[tuple[str, str, int], list[float]]:
    """The mean divergence of each tool, method and block, shift by shift."""
    model = onnx.load(args.model)
    weights = turnable(model, args.exclude)
    found: dict[tuple[str, str, int], list[float]] = {}
    path = folder / "turned.onnx"
    for block, i in itertools.product(map(int, args.block.split(",")), range(args.shifts)):
        shift = round(i * block / args.shifts)
        onnx.save(turned(model, weights, shift) if shift else model, path)
        for form in quality.forms(argparse.Namespace(**vars(args) | {"model": path, "block": str(block)})):
            target = folder / "out.onnx"
            subprocess.run([*form.command, str(target)], check=True)
            report = quality.evaluate(args, target, folder / "baseline.lp", folder / "report.json")
            value = report["models"][0]["divergence"]["kld"]["mean"]["value"]
            found.setdefault((form.tool, form.method, form.block), []).append(value)
    return found


def estimate(values: list[float]) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):.4f} ± {error:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    for name in ("text", "tokenizer", "tokens", "inputs", "calibrate"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--windows", default="8")
    for name in ("window", "calibration-windows"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--block", default="16,32")
    parser.add_argument("--methods", default="rtn-asym,mse-asym")
    parser.add_argument("--peers", default="")
    parser.add_argument("--shifts", type=int, default=6)
    parser.add_argument("--exclude", action="append", default=[])
    parser.add_argument("--bin", default="target/release/onnxq")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.shifts < 2:
        parser.error("--shifts: expected 2 at least, for a standard error")
    args.scales = "f32"
    with tempfile.TemporaryDirectory(dir=args.model.resolve().parent) as folder:
        found = divergences(args, Path(folder))
    # Of the form that comes first in each block.
    bases = {block: values for (_, _, block), values in reversed(found.items())}
    first = next(iter(found))
    lines = [f"| tool | method | block | mean KLD | less {first[1]} |", "|---|---|--:|--:|--:|"]
    for (tool, method, block), values in found.items():
        pairs = zip(values, bases[block], strict=True)
        same = (tool, method) == first[:2]
        difference = "" if same else estimate([value - base for value, base in pairs])
        lines.append(f"| {tool} | {method} | {block} | {estimate(values)} | {difference} |")
    print(*lines, sep="\n")
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
