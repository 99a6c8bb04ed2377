"""`proto/onnx.proto` against the descriptor in the Python package `onnx`, field by field.

An older or incomplete schema loses fields without a word, so "complete" is checked here.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx.onnx_ml_pb2 as published
import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

import harness

PROTO = harness.REPOSITORY / "proto"


def ours() -> FileDescriptorProto:
    try:
        from grpc_tools import protoc
    except ImportError as error:
        harness.cannot_run(f"no protoc: {error}")
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / "onnx.bin"
        arguments = ["protoc", f"-I{PROTO}", f"--descriptor_set_out={compiled}", str(PROTO / "onnx.proto")]
        assert protoc.main(arguments) == 0
        [file] = FileDescriptorSet.FromString(compiled.read_bytes()).file
    return file


def theirs() -> FileDescriptorProto:
    return FileDescriptorProto.FromString(published.DESCRIPTOR.serialized_pb)


def messages(scope, prefix: str = "") -> dict[str, DescriptorProto]:
    """Every message by its path, nested ones too."""
    found = {}
    items = scope.message_type if isinstance(scope, FileDescriptorProto) else scope.nested_type
    for message in items:
        path = f"{prefix}{message.name}"
        found |= {path: message} | messages(message, f"{path}.")
    return found


def enums(file: FileDescriptorProto) -> dict[str, dict[str, int]]:
    scopes = {"": file.enum_type} | {
        f"{path}.": message.enum_type for path, message in messages(file).items()
    }
    return {
        f"{prefix}{enum.name}": {value.name: value.number for value in enum.value}
        for prefix, items in scopes.items()
        for enum in items
    }


def fields(message: DescriptorProto) -> dict[str, tuple]:
    """What the bytes depend on: number, type, label, packing, the oneof, the default."""
    return {
        field.name: (
            field.number,
            field.Type.Name(field.type),
            field.type_name,
            field.Label.Name(field.label),
            field.options.packed,
            message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None,
            field.default_value,
        )
        for field in message.field
    }


@pytest.fixture(scope="module")
def both() -> tuple[FileDescriptorProto, FileDescriptorProto]:
    return ours(), theirs()


def test_syntax_and_package(both):
    """proto2 keeps the presence of fields, which byte-identical round trips need."""
    mine, other = both
    assert (mine.package, mine.syntax) == (other.package, other.syntax)


def test_same_messages(both):
    mine, other = both
    assert messages(mine).keys() == messages(other).keys()


@pytest.mark.parametrize("path", sorted(messages(theirs())))
def test_fields_of(path, both):
    mine, other = both
    assert fields(messages(mine)[path]) == fields(messages(other)[path])


def test_enums(both):
    mine, other = both
    assert enums(mine) == enums(other)


def test_no_extensions(both):
    """A range for extensions would be another place to lose data in."""
    mine, _ = both
    assert not [path for path, message in messages(mine).items() if message.extension_range]
