"""Compresses a text with the probabilities of a language model; codec.mjs does the same in JavaScript.

    python codec.py encode MODEL TEXT OUT --tokenizer FILE
    python codec.py decode MODEL IN TEXT --tokenizer FILE

What one of them writes the other reads. Exit status 1: the runtimes are further apart than the file allows;
2: the file, the model or the tokenizer is not the right one. coder.py has the method.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import struct
import sys
from pathlib import Path

import coder
from coder import Decoder, Encoder, MissError, Noted, Noting, TokenCoder
from lm import CausalLm, MismatchError, sha256
from tokenizers import Tokenizer

MAGIC = b"ONNXQTXT"
FORMAT = "onnxq.text/1"


def main() -> int:
    args = parse_arguments()
    try:
        print("\n".join({"encode": encode, "decode": decode}[args.command](args)))
    except MissError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("command", choices=("encode", "decode"))
    parser.add_argument("model", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--epsilon", type=float, default=1e-3, help="most that logits may differ")
    parser.add_argument("--window", type=int, default=128, help="tokens after which the model begins anew")
    parser.add_argument("--lanes", type=int, default=32, help="windows side by side")
    parser.add_argument("--start", type=int, default=0, help="token that stands before each window")
    return parser.parse_args()


def encode(args: argparse.Namespace) -> list[str]:
    for name in ("epsilon", "window", "lanes"):
        if not vars(args)[name] > 0:
            raise MismatchError(f"--{name} is {vars(args)[name]}, expected a positive number")
    model = CausalLm(args.model)
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    text = args.source.read_bytes().decode("utf-8")
    tokens = tokenizer.encode(text, add_special_tokens=False).ids
    if tokenizer.decode(tokens, skip_special_tokens=False) != text:
        raise MismatchError("the tokenizer does not give the text back")
    header = {
        "format": FORMAT,
        "model_sha256": model.hashes,
        "tokenizer_sha256": sha256(args.tokenizer.read_bytes()),
        "interface": model.interface(),
        "text_sha256": sha256(text.encode()),
        "tokens": len(tokens),
        "start": args.start,
        "window": args.window,
        "lanes": args.lanes,
        "epsilon": args.epsilon,
        "step": coder.step_for(args.epsilon),
        "encoder": model.runtime,
    }
    rounding = Noting(header["epsilon"], header["step"])
    token_coder = TokenCoder(Encoder(), rounding, [])
    run(model, header, token_coder, tokens)
    probes = struct.pack(f"<{len(token_coder.probes)}f", *token_coder.probes)
    size = write(args.target, header, [bytes(rounding.bytes), probes, token_coder.coder.finish()])
    return [
        *report(model, header),
        f"{len(text.encode())} bytes of text, {len(tokens)} tokens -> {size} bytes after the header",
        f"{rounding.count} of {rounding.nodes} decisions noted: {len(rounding.bytes)} bytes",
    ]


def decode(args: argparse.Namespace) -> list[str]:
    header, [notes, probes, payload] = read(args.source)
    model = CausalLm(args.model)
    check("the model's SHA-256", model.hashes, header["model_sha256"])
    check("the tokenizer's SHA-256", sha256(args.tokenizer.read_bytes()), header["tokenizer_sha256"])
    check("the model's interface", model.interface(), header["interface"])
    rounding = Noted(header["epsilon"], header["step"], notes)
    token_coder = TokenCoder(Decoder(payload), rounding, list(struct.unpack(f"<{len(probes) // 4}f", probes)))
    tokens = run(model, header, token_coder, [0] * header["tokens"])
    text = Tokenizer.from_file(str(args.tokenizer)).decode(tokens, skip_special_tokens=False)
    found = sha256(text.encode())
    if found != header["text_sha256"]:
        raise MissError(f"the text's SHA-256 is {found}, expected {header['text_sha256']}: {beyond(header)}")
    args.target.write_bytes(text.encode())
    worst = f"largest difference of a log-prob {token_coder.worst_probe:.2e} nats"
    return [*report(model, header), f"{len(tokens)} tokens, {worst}, allowed {2 * header['epsilon']}"]


def beyond(header: dict) -> str:
    return f"the logits differ by more than {header['epsilon']} from those of {header['encoder']}"


def run(model: CausalLm, header: dict, token_coder: TokenCoder, tokens: list[int]) -> list[int]:
    """Codes all tokens: windows side by side, as a batch, token by token through the cache."""
    window = header["window"]
    try:
        for begin in range(0, len(tokens), window * header["lanes"]):
            starts = range(begin, min(begin + window * header["lanes"], len(tokens)), window)
            code_batch(model, token_coder, tokens, starts, header)
    except MissError as error:
        raise MissError(f"{error}: {beyond(header)}") from error
    return tokens


def code_batch(
    model: CausalLm, token_coder: TokenCoder, tokens: list[int], starts: range, header: dict
) -> None:
    state = model.start(len(starts))
    last = [header["start"]] * len(starts)
    for offset in range(min(header["window"], len(tokens) - starts[0])):
        logits = model.feed(state, last)
        for lane, start in enumerate(starts):
            # The last window may be shorter; it is fed what it ended with.
            if start + offset < len(tokens):
                last[lane] = token_coder.code(logits[lane], tokens[start + offset])
                tokens[start + offset] = last[lane]


def write(target: Path, header: dict, sections: list[bytes]) -> int:
    body = b"".join(sections)
    head = json.dumps(header | {"sections": [len(section) for section in sections]}).encode()
    data = MAGIC + struct.pack("<I", len(head)) + head + body
    target.write_bytes(data + hashlib.sha256(data).digest())
    return len(body)


def read(source: Path) -> tuple[dict, list[bytes]]:
    data = source.read_bytes()
    check(f"the begin of `{source}`", data[: len(MAGIC)], MAGIC)
    data, seal = data[:-32], data[-32:]
    check(f"`{source}` is cut or changed: its SHA-256", sha256(data), seal.hex())
    end = 12 + int.from_bytes(data[8:12], "little")
    header = json.loads(data[12:end])
    check("the format", header["format"], FORMAT)
    sections = []
    for size in header["sections"]:
        sections.append(data[end : end + size])
        end += size
    return header, sections


def check(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise MismatchError(f"{what} is {found}, expected {expected}")


def report(model: CausalLm, header: dict) -> list[str]:
    return [
        *model.interface(),
        f"model sha256 {'+'.join(model.hashes)}",
        f"tokenizer sha256 {header['tokenizer_sha256']}",
        f"runtime {model.runtime}, encoder {header['encoder']}",
    ]


if __name__ == "__main__":
    sys.exit(main())
