"""Finding the native command, and running it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Union

StrPath = Union[str, "os.PathLike[str]"]

LOG = logging.getLogger("onnxq")

_PREFIX = "onnxq: "


class Error(Exception):
    """What was asked could not be done, and no model was written. The text is the command's own."""


class LimitMissed(Error):
    """A check found that a limit was missed, so that there is no output.

    ``reports`` are those of the run; ``reports[0].check`` has the figures.
    """

    def __init__(self, reports: Sequence[Any]) -> None:
        missed = [line for report in reports if report.check is not None for line in report.check.missed()]
        super().__init__("there is no output: " + "; ".join(missed))
        self.reports = list(reports)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reports,)


def binary() -> Path:
    """The native command: what ``ONNXQ_BINARY`` names, or the one that was installed with this package.

    :raises Error: There is none; the message tells where it was looked for.
    """
    named = os.environ.get("ONNXQ_BINARY")
    if named:
        return Path(named)
    places = list(dict.fromkeys(_places("onnxq" + (sysconfig.get_config_var("EXE") or ""))))
    for place in places:
        if place.is_file():
            return place
    looked = ", ".join(map(str, places))
    raise Error(
        f"the command onnxq is not where its package was installed: looked for {looked}; expected one of them"
    )


def _places(name: str) -> Iterator[Path]:
    # What pip wrote down of the installation.
    try:
        files = metadata.files("onnxq") or []
    except metadata.PackageNotFoundError:
        files = []
    yield from (Path(os.path.normpath(file.locate())) for file in files if file.name == name)
    yield Path(sysconfig.get_path("scripts"), name)
    yield Path(sysconfig.get_path("scripts", f"{os.name}_user"), name)
    # `pip install --target`, which does not write down where it is.
    yield Path(__file__).resolve().parents[1] / "bin" / name


def arguments(options: Mapping[str, object]) -> list[str]:
    """Options as the command takes them: ``max_mean_kld=0.1`` is ``--max-mean-kld 0.1``."""
    return [
        argument
        for name, value in options.items()
        for argument in _option("--" + name.replace("_", "-"), value)
    ]


def _option(option: str, value: object) -> Iterable[str]:
    if value is None or value is False:
        return []
    if value is True:
        return [option]
    if isinstance(value, Mapping):
        return [f"{option}={key}={number}" for key, number in value.items()]
    if isinstance(value, (list, tuple)):
        return [f"{option}={_text(one)}" for one in value]
    return [f"{option}={_text(value)}"]


def _text(value: object) -> str:
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)


def path(value: StrPath) -> str:
    """A path that the command cannot take for an option."""
    text = os.fspath(value)
    return os.path.join(os.curdir, text) if text.startswith("-") else text


def run(*args: StrPath) -> int:
    """Runs the command with any arguments, on the streams of this process, and returns its exit status."""
    return subprocess.run([str(binary()), *(os.fspath(arg) for arg in args)], check=False).returncode


def report(*args: str) -> tuple[int, Any]:
    """Runs the command, and returns its exit status (0 or 1) and its ``--json`` report.

    :raises Error: It could not be done.
    """
    with tempfile.TemporaryDirectory(prefix="onnxq-") as folder:
        file = Path(folder) / "report.json"
        status, said = _run([str(binary()), *args, f"--json={file}"])
        if status not in (0, 1) or not file.is_file():
            raise Error(_message(status, said))
        return status, json.loads(file.read_text(encoding="utf-8"))


def _run(command: Sequence[str]) -> tuple[int, list[str]]:
    """Runs a command; what it says on the way goes to the log."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        raise Error(f"cannot run `{command[0]}`: {error.strerror}") from error
    said = []
    with process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                said.append(line.rstrip("\n"))
                _log(said[-1])
        except BaseException:
            process.terminate()
            raise
    return process.returncode, said


def _log(line: str) -> None:
    warning = line.startswith(_PREFIX + "warning: ")
    LOG.log(logging.WARNING if warning else logging.INFO, "%s", line)


def _message(status: int, said: Sequence[str]) -> str:
    """The error among what the command said."""
    for number, line in enumerate(said):
        for prefix in (_PREFIX + "error: ", "error: "):
            if line.startswith(prefix):
                return "\n".join([line[len(prefix) :], *said[number + 1 :]]).strip()
    how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
    return "\n".join([f"the command {how}", *said[-5:]])
