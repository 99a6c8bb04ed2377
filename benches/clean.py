"""Cleaning a model: onnxq against the tools that people use for it, whole processes in turn.

    python benches/clean.py MODEL-OR-FOLDER... [--runs 3] [--bin target/release/onnxq] [--passes clean]
                            [--out table.md]

Prints a Markdown table: for each model and tool the nodes (those of subgraphs too), the bytes, the
median wall time and the peak resident memory (mapped pages counted), and the time as a multiple of
onnxq's. Python's tools are a process too, so their time holds the import of their packages; the
second table says how long that alone takes. Tools that are not installed are named and left out.

    pip install onnx onnxslim==0.1.98 onnxsim==0.8.1 onnxscript==0.7.2

Absolute times depend on the machine; the ratios are the result.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

IMPORTS = {
    "onnxslim": "import onnxslim",
    "onnxsim": "import onnx, onnxsim",
    "onnxscript": "import onnx_ir, onnxscript.optimizer, onnxscript.rewriter",
}
USES = {
    "onnxslim": "onnxslim.slim(sys.argv[1], sys.argv[2])",
    "onnxsim": "m, ok = onnxsim.simplify(sys.argv[1]); assert ok; onnx.save(m, sys.argv[2])",
    "onnxscript": (
        "m = onnx_ir.load(sys.argv[1]); onnxscript.optimizer.optimize(m); "
        "m = onnxscript.rewriter.rewrite(m); onnx_ir.save(m, sys.argv[2])"
    ),
}
# In a process of its own: what this one holds in memory would count as every tool's peak.
SIZE = """
import onnx, pathlib, sys
def count(graph):
    inner = [g for n in graph.node for a in n.attribute for g in ([a.g] if a.type == a.GRAPH else a.graphs)]
    return len(graph.node) + sum(map(count, inner))
path = pathlib.Path(sys.argv[1])
model = onnx.load(path, load_external_data=False)
sides = {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}
length = path.stat().st_size + sum((path.parent / side).stat().st_size for side in sides)
print(count(model.graph) + sum(len(f.node) for f in model.functions), length)
"""
# Longer than the slowest tool takes for half a gigabyte.
LIMIT_SECONDS = 600


@dataclass
class Runs:
    """What one tool did with one model."""

    seconds: list[float] = field(default_factory=list)
    peak: float = 0.0
    nodes: int = 0
    bytes: int = 0
    error: str = ""


def measure(command: list[str]) -> tuple[float, float, str]:
    """Wall seconds, peak resident MB, and what went wrong."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            ["timeout", str(LIMIT_SECONDS), *command], stdout=subprocess.DEVNULL, stderr=errors
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        text = errors.read().decode("utf-8", "replace").strip().splitlines()
    failed = f"status {process.returncode}: {text[-1][:100] if text else ''}" if status else ""
    return wall, usage.ru_maxrss / 1000, failed


def size(model: Path) -> tuple[int, int]:
    """Nodes, and bytes with side files."""
    done = subprocess.run([sys.executable, "-c", SIZE, str(model)], capture_output=True, text=True, check=True)
    nodes, length = map(int, done.stdout.split())
    return nodes, length


def models(arguments: list[Path]) -> list[Path]:
    found = [sorted(a.rglob("*.onnx")) if a.is_dir() else [a] for a in arguments]
    return [path for paths in found for path in paths]


def label(model: Path) -> str:
    return model.parent.name if model.stem == "model" else model.stem


def bench(model: Path, tools: dict[str, list[str]], runs: int) -> dict[str, Runs]:
    results = {name: Runs() for name in tools}
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:
        for turn in range(runs + 1):
            for name, command in tools.items():
                result = results[name]
                if result.error:
                    continue
                target = Path(folder) / name / "model.onnx"
                target.parent.mkdir(exist_ok=True)
                for old in target.parent.iterdir():
                    old.unlink()
                # Pages of earlier outputs that are still to be written would slow this run.
                os.sync()
                wall, peak, result.error = measure([*command, str(model), str(target)])
                result.peak = max(result.peak, peak)
                if turn:  # the first turn warms the page cache
                    result.seconds.append(wall)
                elif not result.error:
                    result.nodes, result.bytes = size(target)
    return results


def table(model: Path, results: dict[str, Runs]) -> list[str]:
    nodes, length = size(model)
    lines = [f"| {label(model)} | (input) | {nodes} | {length:,} | | | |"]
    ours = results["onnxq"]
    for name, r in results.items():
        if r.error:
            lines.append(f"| | {name} | failed: {r.error.replace('|', '/')} | | | | |")
            continue
        seconds = statistics.median(r.seconds)
        ratio = "" if ours.error else f"{seconds / statistics.median(ours.seconds):.1f}"
        lines.append(f"| | {name} | {r.nodes} | {r.bytes:,} | {seconds:.3f} | {ratio} | {r.peak:.0f} |")
    return lines


def import_times(names: list[str], runs: int) -> list[str]:
    lines = ["", "| bare process | s | peak MB |", "|---|--:|--:|"]
    for name in ["python", *names]:
        results = [measure([sys.executable, "-c", IMPORTS.get(name, "")]) for _ in range(runs)]
        seconds = statistics.median(r[0] for r in results)
        lines.append(f"| {name} | {seconds:.3f} | {max(r[1] for r in results):.0f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--bin", default="target/release/onnxq")
    parser.add_argument("--passes", default="clean")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    # The output comes last, as with the others.
    ours = ["sh", "-c", f'exec "{args.bin}" opt "$1" -o "$2" --passes "{args.passes}" -q', "sh"]
    tools = {"onnxq": ours}
    for name in IMPORTS:
        try:
            print(f"{name} {metadata.version(name)}", file=sys.stderr)
        except metadata.PackageNotFoundError:
            print(f"{name} is not installed: left out", file=sys.stderr)
            continue
        tools[name] = [sys.executable, "-c", f"import sys; {IMPORTS[name]}; {USES[name]}"]
    lines = ["| model | tool | nodes | bytes | s | x onnxq | peak MB |", "|---|---|--:|--:|--:|--:|--:|"]
    for model in models(args.models):
        lines += table(model, bench(model, tools, args.runs))
        print("\n".join(lines[-1 - len(tools) :]), file=sys.stderr, flush=True)
    lines += import_times([name for name in tools if name != "onnxq"], args.runs)
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
