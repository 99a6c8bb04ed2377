"""Times whole processes against each other, in turn: onnxq against `cp` of the same files.

    python benches/compare.py MODEL [--runs 7] [--bin target/release/onnxq] [--ort] [-- OPTION ...]

Prints, for each command, the median and range of wall time, processor time and peak
resident memory (mapped pages counted), and the ratio of wall times, pair by pair. With
--ort, ONNX Runtime's own quantizer runs instead of `cp` (needs onnxruntime and onnx): what that
computes is `-- --method rtn --symmetric` of onnxq, whose default does more.
Absolute times depend on the machine; the ratios are the result.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ORT = """
import sys, onnx
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer, DefaultWeightOnlyQuantConfig
config = DefaultWeightOnlyQuantConfig(block_size=16, is_symmetric=True)
q = MatMulNBitsQuantizer(onnx.load(sys.argv[1]), algo_config=config)
q.process()
q.model.save_model_to_file(sys.argv[2], use_external_data_format=len(sys.argv) > 3)
"""


def measure(command: list[str]) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and peak resident MB of one run."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status:
        sys.exit(f"{' '.join(command)} failed: {errors.decode()}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000


def row(name: str, runs: list[tuple[float, float, float]]) -> str:
    walls, cpu, peak = zip(*runs)
    return (
        f"{name:<10} wall {statistics.median(walls):7.3f} s ({min(walls):.3f} to {max(walls):.3f})"
        f"  processor {statistics.median(cpu):7.3f} s  peak {max(peak):7.1f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--bin", default="target/release/onnxq")
    parser.add_argument("--ort", action="store_true")
    parser.add_argument("options", nargs="*")
    args = parser.parse_args()
    files = [args.model]
    side = args.model.with_name(args.model.name + "_data")
    if side.exists():
        files.append(side)
    folder = Path(tempfile.mkdtemp(dir=args.model.parent))
    try:
        ours, theirs = folder / "onnxq", folder / "peer"
        ours.mkdir()
        theirs.mkdir()
        quantize = [args.bin, "quantize", str(args.model), "-o", str(ours / "model.onnx"), "-q", *args.options]
        peer = ["cp", *map(str, files), str(theirs)]
        if args.ort:
            peer = [sys.executable, "-c", ORT, str(args.model), str(theirs / "model.onnx"), *map(str, files[1:])]
        runs: dict[str, list] = {"onnxq": [], "peer": []}
        for turn in range(args.runs + 1):
            for name, command, out in (("onnxq", quantize, ours), ("peer", peer, theirs)):
                for old in out.iterdir():
                    old.unlink()
                # Pages of earlier outputs that are still to be written would slow this run.
                os.sync()
                result = measure(command)
                if turn:  # the first turn warms the page cache
                    runs[name].append(result)
        print(row("onnxq", runs["onnxq"]))
        print(row("ORT" if args.ort else "cp", runs["peer"]))
        ratios = sorted(a[0] / b[0] for a, b in zip(runs["onnxq"], runs["peer"]))
        print(f"ratio of wall times: median {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
