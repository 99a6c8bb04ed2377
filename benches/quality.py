"""What block quantization costs a language model: methods of onnxq, and of ONNX Runtime's quantizer.

    python benches/quality.py MODEL (--text FILE [--tokenizer FILE] | --tokens FILE) [--inputs FILE]
        [--block 16,32] [--scales f32,f16] [--methods rtn,mse] [--peers rtn,rtn-asym,k_quant,hqq,gptq]
        [--calibrate FILE] [--calibration-windows 64] [--exclude GLOB]... [--windows 8] [--window 256]
        [--runs 1] [--bin target/release/onnxq] [--python PYTHON] [--out table.md]

Prints a Markdown table: for each form the bytes, the bits that a quantized weight takes with its scale and
zero point, mean and 99th percentile of the divergence from MODEL (nats), perplexity, part of equal top-1
tokens, and the median wall time of making it. All are run by the ONNX Runtime of this Python, on the same
tokens.

Data-free forms of onnxq are `clean,nbits`, with `fp16` between where scales are f16; `imatrix`, `awq` and
`gptq`, all also with `-asym`, are `quantize --calibrate FILE`. `--exclude` goes to both.
Peers quantize only MatMul with a constant, so an embedding or a projection that shares it stays float: a
comparison needs `--exclude` with names of those. Zero points of its HQQ are f32. HQQ needs torch, in
`--python` if not here. Its GPTQ is asymmetric, and takes `-sym`, `-actorder` and `-mse` at the end of the
name; it is fed the rows of FILE one by one, which has to be an .npz for that.

    pip install onnx onnxruntime
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from clean import measure
from eval import ort_library

METHODS = {
    "rtn": "",
    "mse": ",method=mse",
    "rtn-asym": ",asymmetric",
    "mse-asym": ",asymmetric,method=mse",
    "hqq": ",asymmetric,method=hqq",
    "hqq-float": ",asymmetric,method=hqq,zero-points=float",
}
CALIBRATED = ("imatrix", "awq", "gptq")
PEER = """
import sys, types, numpy, onnx
from onnxruntime.quantization import matmul_nbits_quantizer as q
name, block, items, source, target = sys.argv[1], int(sys.argv[2]), *sys.argv[3:]
def rows():
    sets = dict(numpy.load(items))
    for i in range(len(sets["input_ids"])):
        yield {k: v[i : i + 1] for k, v in sets.items()}
def gptq():
    # It imports torch, and uses nothing of it where items are arrays.
    sys.modules.setdefault("torch", types.ModuleType("torch"))
    # Its block size is how many channels it takes at once. It reads the range of a group from weights that
    # are brought up to date only after those, so a group at a time is best.
    return q.GPTQWeightOnlyQuantConfig(
        list(rows()), block_size=block, actorder="-actorder" in name, mse="-mse" in name
    )
configs = {
    "rtn": lambda: q.DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=True),
    "rtn-asym": lambda: q.DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=False),
    "k_quant": lambda: q.KQuantWeightOnlyQuantConfig(),
    "hqq": lambda: q.HQQWeightOnlyQuantConfig(block_size=block),
    "gptq": gptq,
}
symmetric = name == "rtn" or "-sym" in name
config = configs["gptq" if name.startswith("gptq") else name]()
quantizer = q.MatMulNBitsQuantizer(
    onnx.load(source), block_size=block, is_symmetric=symmetric, algo_config=config
)
quantizer.process()
model = quantizer.model.model
if all(i.domain != "com.microsoft" for i in model.opset_import):
    # k_quant and GPTQ leave out the domain of their nodes.
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
onnx.save(model, target)
"""
SYMMETRIC = {"onnxq": ("rtn", "mse", *CALIBRATED), "ONNX Runtime": ("rtn",)}
# Those with float zero points.
FLOAT_POINTS = {("onnxq", "hqq-float"), ("ONNX Runtime", "hqq")}


@dataclass
class Form:
    """One way to quantize."""

    tool: str
    method: str
    block: int
    half: bool
    command: list[str]

    def bits(self) -> float:
        scale = 16 if self.half else 32
        symmetric = self.method in SYMMETRIC[self.tool] or "-sym" in self.method
        zero_point = 0 if symmetric else 4
        if (self.tool, self.method) in FLOAT_POINTS:
            zero_point = scale
        return 4 + (scale + zero_point) / self.block


def forms(args: argparse.Namespace) -> list[Form]:
    found = []
    for block in map(int, args.block.split(",")):
        for scales in args.scales.split(","):
            for method in filter(None, args.methods.split(",")):
                if method.removesuffix("-asym") in CALIBRATED:
                    command = calibrated(args, method, block, scales)
                else:
                    options = [f"block={block}{METHODS[method]}", *(f"exclude={g}" for g in args.exclude)]
                    half = "fp16," if scales == "f16" else ""
                    passes = f"clean,{half}nbits{{{','.join(options)}}}"
                    command = [args.bin, "opt", str(args.model), "--passes", passes, "-q", "-o"]
                found.append(Form("onnxq", method, block, scales == "f16", command))
        for peer in filter(None, args.peers.split(",")):
            command = [args.python, "-c", PEER, peer, str(block), str(args.calibrate), str(args.model)]
            found.append(Form("ONNX Runtime", peer, block, False, command))
    return found


def calibrated(args: argparse.Namespace, method: str, block: int, scales: str) -> list[str]:
    signs = "--asymmetric" if method.endswith("-asym") else "--symmetric"
    command = [args.bin, "quantize", str(args.model), "--dtype", "q4f16" if scales == "f16" else "q4", signs]
    command += ["--method", method.removesuffix("-asym"), "--block-size", str(block)]
    command += ["--engine", "onnxruntime", "--ort-lib", ort_library()]
    for name in ("calibrate", "calibration_windows", "tokenizer", "window"):
        value = getattr(args, name)
        command += [f"--{name.replace('_', '-')}", str(value)] if value else []
    for glob in args.exclude:
        command += ["--exclude", glob]
    return [*command, "-q", "-o"]


def evaluate(args: argparse.Namespace, target: Path, baseline: Path, report: Path) -> dict:
    command = [args.bin, "eval", str(target), "--engine", "onnxruntime", "--ort-lib", ort_library()]
    # Distributions of the model itself are kept from the first time on.
    known = baseline.exists()
    command += ["--baseline-logprobs", str(baseline)] if known else ["--baseline", str(args.model)]
    command += [] if known else ["--save-baseline", str(baseline)]
    for name in ("text", "tokenizer", "tokens", "inputs", "windows", "window"):
        value = getattr(args, name)
        command += [f"--{name}", str(value)] if value else []
    subprocess.run([*command, "--noise", "0", "-q", "--json", str(report)], check=True)
    return json.loads(report.read_text())


def row(form: Form, seconds: list[float], found: dict) -> str:
    [model] = found["models"]
    divergence = model["divergence"]
    cells = [
        form.tool,
        form.method,
        str(form.block),
        "f16" if form.half else "f32",
        f"{model['bytes'] / 1e6:.1f}",
        f"{form.bits():.2f}",
        f"{divergence['kld']['mean']['value']:.4f} ± {divergence['kld']['mean']['standard_error']:.4f}",
        f"{divergence['kld']['p99']:.2f}",
        f"{model['perplexity']['perplexity']['value']:.2f}",
        f"{100 * divergence['top1']['value']:.1f}",
        f"{statistics.median(seconds):.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    for name in ("text", "tokenizer", "tokens", "inputs", "calibrate"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--windows", default="8")
    for name in ("window", "calibration-windows"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--block", default="16,32")
    parser.add_argument("--scales", default="f32")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--peers", default="")
    parser.add_argument("--exclude", action="append", default=[])
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--bin", default="target/release/onnxq")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines = [
        "| tool | method | block | scales | MB | bits | mean KLD | p99 | perplexity | top-1 % | s |",
        "|---|---|--:|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    with tempfile.TemporaryDirectory(dir=args.model.resolve().parent) as name:
        folder = Path(name)
        for form in forms(args):
            target = folder / "out" / "model.onnx"
            seconds, failed = [], ""
            for _ in range(args.runs):
                target.parent.mkdir(exist_ok=True)
                for old in target.parent.iterdir():
                    old.unlink()
                # Pages of earlier outputs that are still to be written would slow this run.
                os.sync()
                wall, _, failed = measure([*form.command, str(target)])
                seconds.append(wall)
            if failed:
                failed = failed.replace("|", "/")
                lines.append(f"| {form.tool} | {form.method} | {form.block} | failed: {failed} |")
                print(lines[-1], flush=True)
                continue
            found = evaluate(args, target, folder / "baseline.lp", folder / "report.json")
            if len(lines) == 2:
                float_model = found["baseline"]
                perplexity = float_model["perplexity"]["perplexity"]["value"]
                size = f"{float_model['bytes'] / 1e6:.1f}"
                lines.append(f"| float | | | | {size} | | | | {perplexity:.2f} | | |")
                print(*lines, sep="\n", flush=True)
            lines.append(row(form, seconds, found))
            print(lines[-1], flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
