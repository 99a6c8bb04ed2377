"""Shell completions, manual pages, and the package of the registry."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

import harness
import interfaces

BUILD_SECONDS = 900

COMMANDS = ("quantize", "opt", "inspect", "verify", "eval", "tune", "bench", "completions", "man")


def completed(onnxq: harness.Onnxq, *words: str) -> list[str]:
    """What bash offers for the last of `words`, with the script that the command prints."""
    onnxq.ok("completions", "bash")
    script = """
        source <("$BINARY" completions bash) || exit 3
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        function=$(complete -p onnxq | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        "$function" onnxq "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-c", script, "bash", *words],
        env=interfaces.clean_environment(onnxq.dir) | {"BINARY": str(onnxq.binary)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_commands_options_and_values(onnxq):
    assert completed(onnxq, "onnxq", "quan") == ["quantize"]
    assert set(COMMANDS) < set(completed(onnxq, "onnxq", ""))
    assert completed(onnxq, "onnxq", "quantize", "--calibration-w") == ["--calibration-windows"]
    assert "q4f16" in completed(onnxq, "onnxq", "quantize", "--dtype", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell", "elvish"])
def test_every_shell_knows_every_command(shell, onnxq):
    script = onnxq.ok("completions", shell).out
    for command in COMMANDS:
        assert command in script
    # Where the shell is there, it reads the script; powershell and elvish cannot be asked without running it.
    if shell in ("bash", "zsh", "fish") and shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_unknown_shell(onnxq):
    done = onnxq("completions", "ksh")
    assert done.status == 2
    assert "powershell" in done.err


def test_manual_pages(onnxq):
    """One page a command, and the page of the whole names them."""
    folder = onnxq.dir / "man1"
    folder.mkdir()
    onnxq.ok("man", folder)
    pages = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    commands = {name.removesuffix(".1").partition("-")[2] for name in pages} - {""}
    assert set(COMMANDS) <= commands
    assert pages["onnxq.1"] == onnxq.ok("man").out
    for command in commands:
        page = pages[f"onnxq-{command}.1"]
        assert f"onnxq\\-{command}(1)" in pages["onnxq.1"]
        assert f'.TH onnxq-{command} 1 " " "onnxq {interfaces.version()}" onnxq' in page
        assert ".SH SYNOPSIS" in page
        assert ".SH EXIT STATUS" in page or '.SH "EXIT STATUS"' in page


def test_options_are_in_the_manual(onnxq):
    folder = onnxq.dir / "man1"
    folder.mkdir()
    onnxq.ok("man", folder)
    page = (folder / "onnxq-quantize.1").read_text(encoding="utf-8").replace("\\", "")
    for option in interfaces.options_of(onnxq, "quantize"):
        assert f"--{option}" in page
    example = "\nonnxq quantize model.onnx -o small.onnx --block-size 32 --exclude "
    assert example in page.partition(".EX")[2], "each example has a line of its own"


def test_manual_pages_are_correct_roff(onnxq):
    if not shutil.which("groff"):
        harness.cannot_run("groff is not installed; what the pages hold is tested without it")
    (onnxq.dir / "man1").mkdir()
    onnxq.ok("man", "man1")
    for page in sorted((onnxq.dir / "man1").iterdir()):
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww", str(page)], capture_output=True, text=True, check=True
        )
        assert done.stderr == "", page.name


def test_manual_needs_a_folder(onnxq):
    onnxq.refuses("man", "absent", mentions=("absent", "folder"))


def cargo(*args: object, **environment: str) -> subprocess.CompletedProcess[str]:
    if not shutil.which("cargo"):
        harness.cannot_run("there is no cargo")
    done = subprocess.run(
        ["cargo", *map(str, args)],
        cwd=harness.REPOSITORY,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def test_registry_package_builds_and_is_small():
    """Checked beside the dependencies that are built already; `cargo package` would build them again."""
    target = harness.target_folder()
    cargo("package", "--allow-dirty", "--no-verify", "--locked", "--target-dir", target)
    name = f"onnxq-{interfaces.version()}"
    crate = target / "package" / f"{name}.crate"
    assert crate.stat().st_size < 2_000_000
    # Always the same folder, so that what is compiled there does not pile up.
    unpacked = target / "package" / name
    shutil.rmtree(unpacked, ignore_errors=True)
    with tarfile.open(crate) as archive:
        names = {member.removeprefix(f"{name}/") for member in archive.getnames()}
        archive.extractall(unpacked.parent, filter=as_new)
    assert {"Cargo.lock", "LICENSE", "README.md", "build.rs", "proto/onnx.proto", "src/main.rs"} <= names
    unwanted = ("tests", "testdata", "scripts", "fuzz", "npm", "python", ".")
    assert [n for n in names if n.startswith(unwanted) and n != ".cargo_vcs_info.json"] == []
    cargo("check", "--locked", "--manifest-path", unpacked / "Cargo.toml", "--target-dir", target)


def as_new(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
    """Cargo takes a file for changed by its time, and in the package all have the same."""
    return tarfile.data_filter(member.replace(mtime=time.time()), path)


def test_cargo_install(tmp_path):
    root = tmp_path / "root"
    cargo("install", "--locked", "--path", ".", "--root", root, CARGO_TARGET_DIR=str(harness.target_folder()))
    done = subprocess.run([root / "bin" / "onnxq", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"onnxq {interfaces.version()}\n"
