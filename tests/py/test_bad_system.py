"""What the system may do to a run: no room, no folder, no permission, a signal.

The old output survives or the new one is whole, and nothing else is left lying about.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

import harness
from bad_models import good_model
from builders import GraphBuilder, random
from exotic import entry

MIB = 1 << 20


# --- models of a size, cheap to make


def linears(folder: Path, count: int, k: int, n: int, write) -> Path:
    """`count` MatMuls of `[k, n]` floats, their bytes in `side.bin`; `write(file, size)` fills it."""
    b = GraphBuilder()
    x = b.input("x", (1, k))
    size = k * n * 4
    for index in range(count):
        weight = TensorProto(name=f"W{index}", data_type=TensorProto.FLOAT, dims=(k, n))
        weight.data_location = TensorProto.EXTERNAL
        for key, value in {"location": "side.bin", "offset": index * size, "length": size}.items():
            entry(weight.external_data, key, str(value))
        b.initializers.append(weight)
        b.node("MatMul", x, weight.name, out=f"y{index}", name=f"mm{index}")
        b.output(f"y{index}", (1, n))
    with (folder / "side.bin").open("wb") as file:
        write(file, count * size)
    return harness.save(b.model(), folder / "in.onnx")


def repeat_noise(file, size: int) -> None:
    """The block's odd length gives each weight other bytes: equal ones could be stored once."""
    block = random(MIB // 4 + 1).tobytes()
    file.write(block * (size // len(block)) + block[: size % len(block)])


def sparse_zeros(file, size: int) -> None:
    """Almost: one number in every MiB, so that no two weights are equal."""
    file.truncate(size)
    for index, offset in enumerate(range(0, size, MIB)):
        file.seek(offset)
        file.write(np.float32(index).tobytes())


# --- sizes


@pytest.mark.large
def test_message_over_2_gib_asked_into_one_file(onnxq):
    """2.2 GiB that take no room: refused before anything is written."""
    linears(onnxq.dir, 11, 5120, 10240, sparse_zeros)
    keep = ("--exclude", "*", "--external-data", "never")
    onnxq.refuses("quantize", "in.onnx", "-o", "out.onnx", *keep, mentions=("2 GiB",))
    opt = ("opt", "in.onnx", "-o", "out.onnx", "--passes", "", "--external-data", "never")
    onnxq.refuses(*opt, mentions=("2 GiB",))


@pytest.mark.large
def test_message_over_2_gib_gets_a_side_file(onnxq):
    linears(onnxq.dir, 11, 5120, 10240, sparse_zeros)
    onnxq.ok("opt", "in.onnx", "-o", "out.onnx", "--passes", "", "--external-data", "auto")
    assert (onnxq.dir / "out.onnx").stat().st_size < MIB
    assert (onnxq.dir / "out.onnx_data").stat().st_size >= 11 * 5120 * 10240 * 4
    # ONNX Runtime checks every range when it loads. One number of 256 Ki is not zero.
    x = np.zeros((1, 5120), np.float32)
    x[0, 0] = 1
    found = harness.run_model(onnxq.dir / "out.onnx", {"x": x}, opts=False)
    assert [found[f"y{index}"][0, 0] for index in range(11)] == [200 * index for index in range(11)]


# --- no room


def small(onnxq: harness.Onnxq) -> None:
    linears(onnxq.dir, 4, 1024, 1024, repeat_noise)


def limited_files() -> None:
    """A file may not grow beyond 1 MiB: like a full disk, but without one."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))


SHAPES = [("auto", "quantize"), ("always", "quantize"), ("auto", "opt"), ("always", "opt")]


@pytest.mark.parametrize(("where", "command"), SHAPES)
def test_no_room_for_the_output(where, command, onnxq):
    small(onnxq)
    (onnxq.dir / "out.onnx").write_bytes(b"older output")
    passes = ("--passes", "") if command == "opt" else ()
    args = (command, "in.onnx", "-o", "out.onnx", "--external-data", where, *passes)
    # Python restores the signal that would kill the process at the limit; the compiler must
    # see the error instead, as it would on a full disk.
    onnxq.refuses(*args, mentions=("out.onnx",), preexec_fn=limited_files, restore_signals=False)


@pytest.fixture
def small_disk(tmp_path_factory) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        # The limit on file sizes above covers the same path of the code.
        harness.cannot_run("mounting a tmpfs needs rights that this user does not have")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(("where", "command"), SHAPES)
def test_disk_full(where, command, onnxq, small_disk):
    small(onnxq)
    passes = ("--passes", "") if command == "opt" else ()
    output = small_disk / "out.onnx"
    onnxq.refuses(command, "in.onnx", "-o", output, "--external-data", where, *passes, mentions=("out.onnx",))
    assert list(small_disk.iterdir()) == []


def test_device_that_is_always_full(onnxq):
    """Whatever is made of `-o DEVICE`, the device must still be one afterwards."""
    small(onnxq)
    before = harness.fingerprint(onnxq.dir)
    device = full_device(onnxq.dir)
    done = onnxq("quantize", "in.onnx", "-o", device)
    assert done.status == 2, done.describe()
    assert device.is_char_device()
    found = harness.fingerprint(onnxq.dir)
    found.pop("full", None)
    assert found == before


def full_device(folder: Path) -> Path:
    """The system's own device only for a user who could not replace it by mistake."""
    if os.getuid():
        return Path("/dev/full")
    device = folder / "full"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 7))
    except OSError as error:
        harness.cannot_run(f"root without the right to make a device: {error}")
    return device


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only")
def test_full_standard_output(onnxq):
    """A report that could not be printed was not printed: the status says so."""
    harness.save(good_model(), onnxq.dir / "in.onnx")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            onnxq.command("inspect", "in.onnx"), cwd=onnxq.dir, stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 2
    assert b"panicked" not in done.stderr


def test_closed_pipe_is_no_error(onnxq):
    harness.save(good_model(), onnxq.dir / "in.onnx")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        onnxq.command("inspect", "in.onnx"), cwd=onnxq.dir, stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert done.returncode in (0, -signal.SIGPIPE)
    assert done.stderr == b""


# --- no place


def test_output_folder_missing(onnxq):
    harness.save(good_model(), onnxq.dir / "in.onnx")
    onnxq.refuses("quantize", "in.onnx", "-o", "no/such/out.onnx", mentions=("no/such",))


def test_output_below_a_file(onnxq):
    harness.save(good_model(), onnxq.dir / "in.onnx")
    (onnxq.dir / "file").write_bytes(b"a file")
    onnxq.refuses("quantize", "in.onnx", "-o", "file/out.onnx", mentions=("file",))


def test_output_name_too_long(onnxq):
    harness.save(good_model(), onnxq.dir / "in.onnx")
    onnxq.refuses("quantize", "in.onnx", "-o", "o" * 300 + ".onnx")


def test_report_folder_missing(onnxq):
    """Known before the work begins: no output either."""
    harness.save(good_model(), onnxq.dir / "in.onnx")
    args = ("quantize", "in.onnx", "-o", "out.onnx", "--json", "no/report.json")
    onnxq.refuses(*args, mentions=("cannot write", "`no`"))


NOBODY = 65534


def as_nobody() -> None:
    os.setgid(NOBODY)
    os.setuid(NOBODY)


@pytest.fixture
def open_path(onnxq) -> None:
    """Lets another user reach the test's folder and the binary, or says that it cannot."""
    for folder in (onnxq.dir, *onnxq.dir.parents[:3]):
        if folder.stat().st_uid == os.getuid():
            folder.chmod(folder.stat().st_mode | 0o055)
    try:
        onnxq.ok("--help", preexec_fn=drop_rights())
    except PermissionError:
        harness.cannot_run("the binary lies where another user cannot run it")


def drop_rights():
    """Modes do not bind root, so root runs the compiler as nobody."""
    return as_nobody if os.getuid() == 0 else None


@pytest.fixture
def locked(onnxq, open_path) -> Iterator[Path]:
    folder = onnxq.dir / "locked"
    folder.mkdir()
    (folder / "out.onnx").write_bytes(b"older output")
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


def test_output_folder_not_writable(onnxq, locked):
    harness.save(good_model(), onnxq.dir / "in.onnx")
    args = ("quantize", "in.onnx", "-o", "locked/out.onnx")
    onnxq.refuses(*args, mentions=("locked",), preexec_fn=drop_rights())


def test_input_not_readable(onnxq, open_path):
    source = harness.save(good_model(), onnxq.dir / "in.onnx")
    onnxq.dir.chmod(0o777)  # the output could be written
    source.chmod(0)
    try:
        done = onnxq("quantize", "in.onnx", "-o", "out.onnx", preexec_fn=drop_rights())
    finally:
        source.chmod(0o644)
    harness.assert_refused(done, ("in.onnx",))
    assert [path.name for path in onnxq.dir.iterdir()] == ["in.onnx"]


# --- signals


@pytest.fixture(scope="module")
def sized_model(tmp_path_factory) -> Path:
    """300 MiB of noise: long enough a run to be met in its middle."""
    folder = tmp_path_factory.mktemp("sized")
    return linears(folder, 25, 2048, 1536, repeat_noise)


@dataclass(frozen=True)
class Whole:
    """What a run that nobody disturbs leaves, and how long it takes."""

    files: dict[str, str]
    seconds: float


@pytest.fixture(scope="module")
def whole(binary, sized_model, tmp_path_factory) -> Whole:
    onnxq = harness.Onnxq(binary, tmp_path_factory.mktemp("whole"))
    start = time.monotonic()
    onnxq.ok(*signalled_command(sized_model))
    return Whole(harness.fingerprint(onnxq.dir), time.monotonic() - start)


def signalled_command(model: Path) -> tuple[object, ...]:
    # One thread: a longer run, and the same code.
    return ("quantize", model, "-o", "out.onnx", "--external-data", "always", "--threads", 1)


# Parts of an undisturbed run. The files may have no name until they are whole, so time is all
# there is to go by; runs that were over before their signal came must end well, too.
MOMENTS = [0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0]


def interrupt(onnxq: harness.Onnxq, model: Path, number: int, delay: float) -> int:
    """Starts a run, signals it after `delay` seconds, returns its status."""
    process = subprocess.Popen(
        onnxq.command(*signalled_command(model)),
        cwd=onnxq.dir,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    time.sleep(delay)
    process.send_signal(number)
    _, err = process.communicate(timeout=harness.RUN_SECONDS)
    assert b"panicked" not in err
    return process.returncode


@pytest.mark.large
@pytest.mark.parametrize("older", [False, True], ids=["no_output", "older_output"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_interrupt_leaves_the_old_or_the_new(number, older, onnxq, sized_model, whole):
    stopped = 0
    for moment in MOMENTS:
        clear(onnxq.dir)
        if older:
            (onnxq.dir / "out.onnx").write_bytes(b"older output")
        old = harness.fingerprint(onnxq.dir)
        status = interrupt(onnxq, sized_model, number, moment * whole.seconds)
        wanted = whole.files if status == 0 else old
        found = harness.fingerprint(onnxq.dir)
        assert found == wanted, f"status {status}: {harness.difference(wanted, found)}"
        stopped += status != 0
    assert stopped, "no run was met while it worked"


@pytest.mark.large
def test_kill_leaves_the_old_or_the_new(onnxq, sized_model, whole):
    """Nothing can be cleaned up then, but no file under a final name may be half of one."""
    for moment in MOMENTS:
        clear(onnxq.dir)
        (onnxq.dir / "out.onnx").write_bytes(b"older output")
        older = harness.fingerprint(onnxq.dir)["out.onnx"]
        status = interrupt(onnxq, sized_model, signal.SIGKILL, moment * whole.seconds)
        found = harness.fingerprint(onnxq.dir)
        litter = sorted(found.keys() - whole.files.keys())
        print(f"at {moment:.0%}: status {status}, left beside the output: {litter}")
        assert found["out.onnx"] in (older, whole.files["out.onnx"])
        # The side file gets its name first, so a new model is never without it.
        if found["out.onnx"] != older:
            assert found["out.onnx_data"] == whole.files["out.onnx_data"]


@pytest.mark.large
def test_a_run_after_a_kill_works(onnxq, sized_model, whole):
    interrupt(onnxq, sized_model, signal.SIGKILL, whole.seconds / 2)
    onnxq.ok(*signalled_command(sized_model))
    found = harness.fingerprint(onnxq.dir)
    assert {name: found[name] for name in whole.files} == whole.files


def clear(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def test_input_is_never_written(onnxq):
    """A read-only input in a folder of its own, a run that works, a run that fails."""
    inputs = onnxq.dir / "inputs"
    inputs.mkdir()
    linears(inputs, 2, 256, 256, repeat_noise)
    before = harness.fingerprint(inputs)
    onnxq.ok("quantize", "inputs/in.onnx", "-o", "out.onnx")
    onnxq("quantize", "inputs/in.onnx", "-o", "no/out.onnx")
    assert harness.fingerprint(inputs) == before
