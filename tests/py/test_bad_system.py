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
from pathlib import Path

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
    file.truncate(size)


# --- sizes


@pytest.mark.large
def test_message_over_2_gib_asked_into_one_file(onnxq):
    """2.2 GiB of zeros that take no room: refused before anything is written."""
    linears(onnxq.dir, 11, 5120, 10240, sparse_zeros)
    # Without share-weights, which would keep one of the equal weights.
    keep = ("--exclude", "*", "--external-data", "never", "--passes", "strip-attrs")
    onnxq.refuses("quantize", "in.onnx", "-o", "out.onnx", *keep, mentions=("2 GiB",))
    opt = ("opt", "in.onnx", "-o", "out.onnx", "--passes", "", "--external-data", "never")
    onnxq.refuses(*opt, mentions=("2 GiB",))


@pytest.mark.large
def test_message_over_2_gib_gets_a_side_file(onnxq):
    """In one file, two copies of half of it would be too much: `auto` sees that."""
    linears(onnxq.dir, 11, 5120, 10240, sparse_zeros)
    onnxq.ok("opt", "in.onnx", "-o", "out.onnx", "--passes", "", "--external-data", "auto")
    assert (onnxq.dir / "out.onnx").stat().st_size < MIB
    assert (onnxq.dir / "out.onnx_data").stat().st_size >= 11 * 5120 * 10240 * 4
    # ONNX Runtime checks every range when it loads; one MatMul of zeros gives zeros.
    found = harness.run_model(onnxq.dir / "out.onnx", {"x": random(1, 5120)}, opts=False)
    assert not found["y10"].any()


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
        pytest.skip("mounting a tmpfs needs rights that this user does not have")
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
    onnxq.refuses(*args, mentions=("no/report",))


NOBODY = 65534


def as_nobody() -> None:
    os.setgid(NOBODY)
    os.setuid(NOBODY)


@pytest.fixture
def open_path(onnxq) -> None:
    """Lets another user reach the test's folder and the binary, or says that it cannot."""
    for folder in onnxq.dir.parents[:3]:
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
    onnxq.dir.chmod(0o755)
    args = ("quantize", "in.onnx", "-o", "locked/out.onnx")
    onnxq.refuses(*args, mentions=("locked",), preexec_fn=drop_rights())


def test_input_not_readable(onnxq, open_path):
    source = harness.save(good_model(), onnxq.dir / "in.onnx")
    onnxq.dir.chmod(0o777)
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


@pytest.fixture(scope="module")
def whole_output(binary, sized_model, tmp_path_factory) -> dict[str, str]:
    """What a run that nobody disturbs leaves, by file name."""
    onnxq = harness.Onnxq(binary, tmp_path_factory.mktemp("whole"))
    onnxq.ok(*signalled_command(sized_model))
    return harness.fingerprint(onnxq.dir)


def signalled_command(model: Path) -> tuple[object, ...]:
    return ("quantize", model, "-o", "out.onnx", "--external-data", "always")


# Seconds after the first new file: in the first write, in the middle, near the end.
DELAYS = [0.0, 0.002, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3]


def is_writing(pid: int, folder: Path, before: set[str]) -> bool:
    """Whether the process has begun its output: a new name in `folder`, or a file without one."""
    if set(os.listdir(folder)) != before:
        return True
    try:
        links = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    return any(link.startswith(f"{folder}/") and link.endswith(" (deleted)") for link in links)


def interrupt(onnxq: harness.Onnxq, model: Path, number: int, delay: float) -> int:
    """Starts a run and signals it `delay` seconds after it began to write."""
    before = set(os.listdir(onnxq.dir))
    process = subprocess.Popen(
        onnxq.command(*signalled_command(model)),
        cwd=onnxq.dir,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + harness.RUN_SECONDS
    while process.poll() is None and not is_writing(process.pid, onnxq.dir, before):
        assert time.monotonic() < deadline
    time.sleep(delay)
    process.send_signal(number)
    _, err = process.communicate(timeout=harness.RUN_SECONDS)
    assert b"panicked" not in err
    return process.returncode


def assert_old_or_new(onnxq: harness.Onnxq, old: dict[str, str], new: dict[str, str]) -> None:
    found = harness.fingerprint(onnxq.dir)
    # The side file is renamed first; a model is never there without its own side file.
    assert found in (old, new), harness.difference(old, found)


@pytest.mark.large
@pytest.mark.parametrize("older", [False, True], ids=["no_output", "older_output"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_interrupt_leaves_the_old_or_the_new(number, older, onnxq, sized_model, whole_output):
    stopped = 0
    for delay in DELAYS:
        clear(onnxq.dir)
        if older:
            (onnxq.dir / "out.onnx").write_bytes(b"older output")
        old = harness.fingerprint(onnxq.dir)
        status = interrupt(onnxq, sized_model, number, delay)
        stopped += status != 0
        assert_old_or_new(onnxq, old, whole_output if status == 0 else old)
    assert stopped, "no run was met while it worked"


@pytest.mark.large
def test_kill_leaves_the_old_or_the_new(onnxq, sized_model, whole_output):
    """Nothing can be cleaned up then, but no file under a final name may be half of one."""
    for delay in DELAYS:
        clear(onnxq.dir)
        (onnxq.dir / "out.onnx").write_bytes(b"older output")
        old = harness.fingerprint(onnxq.dir)
        status = interrupt(onnxq, sized_model, signal.SIGKILL, delay)
        found = harness.fingerprint(onnxq.dir)
        litter = {name for name in found if name not in ("out.onnx", "out.onnx_data")}
        print(f"after {delay} s: status {status}, left beside the output: {sorted(litter)}")
        assert found["out.onnx"] in (old["out.onnx"], whole_output["out.onnx"])
        if found["out.onnx"] == whole_output["out.onnx"]:
            assert found["out.onnx_data"] == whole_output["out.onnx_data"]


@pytest.mark.large
def test_a_run_after_a_kill_works(onnxq, sized_model, whole_output):
    interrupt(onnxq, sized_model, signal.SIGKILL, 0.05)
    onnxq.ok(*signalled_command(sized_model))
    found = harness.fingerprint(onnxq.dir)
    assert {name: found[name] for name in whole_output} == whole_output


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
