#!/usr/bin/env python3
"""Generates `src/schema/operators.txt`: the facts of every operator, without prose.

Sources, both mechanical:

- `onnx.defs.get_all_schemas_with_history()`: every version of the standard domains;
- ONNX Runtime's own registry, which its wheel exports for its documentation
  (`get_all_operator_schema`): `com.microsoft` and the runtime's other domains, and the
  operators it keeps in the standard domains beside those of ONNX.

Where both have an operator version, the table takes the one of onnx: ONNX Runtime
carries a copy, and the script fails if the copies differ in anything a pass may rely on,
except for the differences listed in `KNOWN_DIFFERENCES`.

The grammar of the output is documented in `src/schema/parse.rs`. The order is fixed and
set names are digests of their content, so that a new version of a source changes only
the lines that it is about.

    python scripts/gen_schema.py            write the table
    python scripts/gen_schema.py --check    fail when the committed table would change
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.defs
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

# The table is a function of these two. Another version gives another table, so the script
# refuses instead of writing something that nobody asked for.
PINNED = {"onnx": "1.23.2", "onnxruntime": "1.31.1"}
OUTPUT = Path(__file__).resolve().parent.parent / "src" / "schema" / "operators.txt"

# A set of at most this many types is written in place; a longer one once, under a name.
# Four is the size of `bfloat16|double|float|float16`, the floats that most operators take.
INLINE_TYPES = 4
UNBOUNDED = 2**31 - 1

# (domain, operator, version, field): onnx is right in each, for the reason given.
KNOWN_DIFFERENCES = {
    # The runtime's Python enum has no TYPE_PROTO, so it cannot say the attribute's type.
    ("", "Optional", 15, "attributes"),
    # onnx marked this version deprecated afterwards; the runtime's copy is older.
    ("", "GroupNormalization", 18, "deprecated"),
}

# Operators that ONNX Runtime takes with attributes beyond those of the schema. In `com.microsoft`
# the schema says so, as for the payload of an EPContext node, which a pass must not take for
# something that no runtime reads. In the default domain, its checker passes over operators that
# were experimental once, by name. The registry exports neither, so the list is kept here;
# tests/py/test_schema.py asks the runtime about every operator and fails if the list is wrong in
# either direction. A deprecated version cannot be asked and is not listed.
UNCHECKED_ATTRIBUTES = {
    ("", "Affine", 1),
    ("", "Crop", 1),
    ("", "DynamicSlice", 1),
    ("", "GRUUnit", 1),
    ("", "GivenTensorFill", 1),
    ("", "ImageScaler", 1),
    ("", "LayerNormalization", 1),
    ("", "LayerNormalization", 17),
    ("", "ParametricSoftplus", 1),
    ("", "Scale", 1),
    ("", "ScaledTanh", 1),
    ("", "SimplifiedLayerNormalization", 1),
    ("com.microsoft", "BiasDropout", 1),
    ("com.microsoft", "BitmaskBiasDropout", 1),
    ("com.microsoft", "BitmaskDropout", 1),
    ("com.microsoft", "EPContext", 1),
    ("com.microsoft", "QOrderedLayerNormalization", 1),
    ("com.microsoft", "Snpe", 1),
}

KINDS = {
    "FLOAT": "float",
    "INT": "int",
    "STRING": "string",
    "TENSOR": "tensor",
    "GRAPH": "graph",
    "SPARSE_TENSOR": "sparse_tensor",
    "TYPE_PROTO": "type_proto",
    "FLOATS": "floats",
    "INTS": "ints",
    "STRINGS": "strings",
    "TENSORS": "tensors",
    "GRAPHS": "graphs",
    "SPARSE_TENSORS": "sparse_tensors",
    "TYPE_PROTOS": "type_protos",
}

WORD = re.compile(r"[A-Za-z0-9_.]+")
PLAIN_STRING = re.compile(r'[ -~]*')


class SchemaError(Exception):
    """A source says something that the format cannot hold, or the sources disagree."""


def enum_name(value) -> str:
    return str(value).split(".")[-1].rstrip(">").split(":")[0].strip()


def word(text: str) -> str:
    if not WORD.fullmatch(text):
        raise SchemaError(f"`{text}` is not a plain name")
    return text


def plain(text: bytes) -> str:
    """A string default. The parser knows no escapes, so there must be none."""
    decoded = text.decode("ascii")
    if not PLAIN_STRING.fullmatch(decoded) or '"' in decoded or "\\" in decoded or "," in decoded:
        raise SchemaError(f"string default {text!r} needs escapes, which the format does not have")
    return f'"{decoded}"'


def number(value: float) -> str:
    """The shortest text that reads back as the same 32-bit float."""
    text = str(np.float32(value))
    if np.float32(text) != np.float32(value):
        raise SchemaError(f"float default {value!r} does not survive as text")
    return text


def default_of(attribute) -> onnx.AttributeProto:
    """The default as a message; without a type when there is none."""
    if hasattr(attribute, "_default_value"):  # ONNX Runtime gives it encoded
        message = onnx.AttributeProto()
        message.ParseFromString(attribute._default_value)
        return message
    return attribute.default_value


def default_text(message: onnx.AttributeProto) -> str | None:
    kinds = onnx.AttributeProto
    match message.type:
        case kinds.UNDEFINED:
            return None
        case kinds.FLOAT:
            return number(message.f)
        case kinds.INT:
            return str(message.i)
        case kinds.STRING:
            return plain(message.s)
        case kinds.FLOATS:
            return "[" + ",".join(map(number, message.floats)) + "]"
        case kinds.INTS:
            return "[" + ",".join(map(str, message.ints)) + "]"
        case kinds.STRINGS:
            return "[" + ",".join(map(plain, message.strings)) + "]"
    raise SchemaError(f"default of type {message.type} has no textual form")


class Op:
    """One operator version, from either source, in the words of the output."""

    def __init__(self, schema, origin: str):
        self.domain = schema.domain
        self.name = word(schema.name)
        self.version = schema.since_version
        self.origin = origin
        self.deprecated = bool(schema.deprecated)
        self.unchecked = self.key in UNCHECKED_ATTRIBUTES
        # Only onnx says whether an operator has a body of other operators.
        self.function = origin == "onnx" and bool(
            schema.has_function or schema.has_context_dependent_function
        )
        self.constraints = {
            word(t.type_param_str): frozenset(t.allowed_type_strs) for t in schema.type_constraints
        }
        self.attributes = {
            word(name): (
                KINDS.get(enum_name(a.type)),
                bool(a.required),
                default_text(default_of(a)),
            )
            for name, a in schema.attributes.items()
        }
        self.inputs = self.parameters(schema.inputs, schema.min_input, schema.max_input)
        self.outputs = self.parameters(schema.outputs, schema.min_output, schema.max_output)

    @property
    def key(self):
        return (self.domain, self.name, self.version)

    def __str__(self) -> str:
        return f"{self.domain or 'ai.onnx'}::{self.name}-{self.version}"

    def parameters(self, formal, least: int, most: int) -> list[tuple[str, str, str]]:
        """(mark, name, type) of each, where mark is ``, `?`, `*N` or `*N~`.

        `N` is the least count of a variadic. The sources give it only within `min_input`;
        the parser computes `min_input` and `max_input` back from the marks, by the same
        rule that is checked here.
        """
        found, need, bound = [], 0, 0
        for index, p in enumerate(formal):
            type_str = p.typeStr if hasattr(p, "typeStr") else p.type_str
            homogeneous = p.isHomogeneous if hasattr(p, "isHomogeneous") else p.is_homogeneous
            if type_str not in self.constraints and "(" not in type_str:
                raise SchemaError(f"{self}: `{p.name}` has the undeclared type `{type_str}`")
            match enum_name(p.option):
                case "Single":
                    bound += 1
                    need = bound
                    mark = ""
                case "Optional":
                    bound += 1
                    mark = "?"
                case "Variadic":
                    if index + 1 != len(formal):
                        raise SchemaError(f"{self}: variadic `{p.name}` is not the last")
                    count = least - bound
                    if count < 0:
                        raise SchemaError(f"{self}: variadic `{p.name}` may take {count} values")
                    need, bound = least, UNBOUNDED
                    mark = f"*{count}"
                case other:
                    raise SchemaError(f"{self}: unknown option `{other}`")
            if not homogeneous:
                mark += "~"
            found.append((mark, word(p.name), type_str))
        if (need, bound) != (least, most):
            raise SchemaError(f"{self}: counts {least}..{most} do not follow from the parameters")
        return found

    def comparable(self) -> dict:
        return {
            "attributes": self.attributes,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "constraints": self.constraints,
            "deprecated": self.deprecated,
        }


def collect() -> list[Op]:
    ops: dict[tuple, Op] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        op = Op(schema, "onnx")
        if ops.setdefault(op.key, op) is not op:
            raise SchemaError(f"onnx has {op} twice")
    stale = set(KNOWN_DIFFERENCES)
    for schema in ort_state.get_all_operator_schema():
        op = Op(schema, "onnxruntime")
        known = ops.setdefault(op.key, op)
        if known is op:
            continue
        if known.origin == op.origin:
            raise SchemaError(f"ONNX Runtime has {op} twice")
        theirs, ours = op.comparable(), known.comparable()
        for field in ours:
            if ours[field] == theirs[field]:
                continue
            if (*op.key, field) not in KNOWN_DIFFERENCES:
                raise SchemaError(f"{op}: the sources differ in {field}: {ours[field]} and {theirs[field]}")
            stale.discard((*op.key, field))
    if stale:
        raise SchemaError(f"the sources no longer differ in {sorted(stale)}")
    if absent := UNCHECKED_ATTRIBUTES - set(ops):
        raise SchemaError(f"there is no {sorted(absent)}")
    for op in ops.values():
        for name, (kind, required, default) in op.attributes.items():
            if kind is None:
                raise SchemaError(f"{op}: attribute `{name}` has an unknown type")
            if required and default is not None:
                raise SchemaError(f"{op}: attribute `{name}` is required and has a default")
    return [ops[key] for key in sorted(ops)]


def newest_opsets(ops: list[Op]) -> dict[str, int]:
    """Of each domain, the newest version; a release may raise it without a new operator."""
    newest: dict[str, int] = {}
    for op in ops:
        newest[op.domain] = max(newest.get(op.domain, 0), op.version)
    _, _, standard, ml, training = onnx.helper.VERSION_TABLE[-1][:5]
    for domain, version in {"": standard, "ai.onnx.ml": ml, "ai.onnx.preview.training": training}.items():
        newest[domain] = max(newest[domain], version)
    return newest


def short_type(type_str: str) -> str:
    """`tensor(X)` is by far the most common type and is written `X`."""
    match = re.fullmatch(r"tensor\((\w+)\)", type_str)
    return match[1] if match else type_str


class Sets:
    """Names for the long sets of types."""

    def __init__(self):
        self.by_name: dict[str, str] = {}

    def text(self, types: frozenset[str]) -> str:
        content = "|".join(sorted(map(short_type, types)))
        if len(types) <= INLINE_TYPES:
            return content
        name = hashlib.sha256(content.encode()).hexdigest()[:4]
        if self.by_name.setdefault(name, content) != content:
            raise SchemaError(f"two sets of types are called `{name}`: take more digits")
        return f"@{name}"


def render(ops: list[Op]) -> str:
    sets = Sets()
    body: list[str] = []
    for op in ops:
        flags = [flag for flag in ("deprecated", "function", "unchecked") if getattr(op, flag)]
        if op.origin == "onnxruntime":
            flags.append("ort")
        body.append(" ".join(["op", op.domain or "ai.onnx", op.name, str(op.version), *flags]))
        for name, (kind, required, default) in sorted(op.attributes.items()):
            line = f" attr{'!' if required else ''} {name} {kind}"
            body.append(line if default is None else f"{line} = {default}")
        for name, types in sorted(op.constraints.items()):
            body.append(f" type {name} {sets.text(types)}")
        for keyword, parameters in (("in", op.inputs), ("out", op.outputs)):
            body.extend(f" {keyword}{mark} {name} {type_str}" for mark, name, type_str in parameters)
    head = [
        f"# Generated by scripts/gen_schema.py from onnx {PINNED['onnx']} and onnxruntime"
        f" {PINNED['onnxruntime']}; do not edit.",
        "# The grammar is in parse.rs.",
    ]
    head += [f"domain {d or 'ai.onnx'} {v}" for d, v in sorted(newest_opsets(ops).items())]
    head += [f"set @{name} {content}" for name, content in sorted(sets.by_name.items())]
    return "\n".join(head + body) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="generate the table of operator facts")
    parser.add_argument("--check", action="store_true", help="compare with the committed table, write nothing")
    arguments = parser.parse_args()

    installed = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    if installed != PINNED:
        print(f"needs {PINNED}, found {installed}", file=sys.stderr)
        return 2
    try:
        text = render(collect())
    except SchemaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not arguments.check:
        OUTPUT.write_bytes(text.encode("ascii"))
        return 0
    committed = OUTPUT.read_bytes().decode("ascii") if OUTPUT.exists() else ""
    if committed == text:
        return 0
    diff = difflib.unified_diff(
        committed.splitlines(), text.splitlines(), "committed", "generated", lineterm="", n=1
    )
    print("\n".join(list(diff)[:60]), file=sys.stderr)
    print(f"{OUTPUT.name} is out of date: run scripts/gen_schema.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
