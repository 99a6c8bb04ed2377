"""The npm packages: packed, installed from their tarballs in an empty folder without a network, and used."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import harness
import interfaces

TINYLM = harness.REPOSITORY / "testdata" / "tinylm"
PLATFORMS = ("linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64", "win32-x64")


def node_program(name: str) -> str:
    found = shutil.which(name)
    if not found:
        harness.cannot_run(f"there is no {name}")
    return found


def host() -> str:
    code = "process.stdout.write(process.platform + '-' + process.arch)"
    return subprocess.run(
        [node_program("node"), "-e", code], capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(scope="module")
def packed(binary, tmp_path_factory) -> dict[str, Path]:
    """The tarballs of the two packages that this machine needs."""
    node_program("npm")
    folder = tmp_path_factory.mktemp("npm")
    script = harness.REPOSITORY / "npm" / "build.mjs"
    pair = f"{host()}={binary}"
    # A relative folder, which npm would take for a repository.
    command = [node_program("node"), script, "out", pair]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    tarballs = [Path(line) for line in done.stdout.splitlines()]
    return dict(zip(["onnxq", "platform"], tarballs, strict=True))


@dataclass(frozen=True)
class App:
    """A folder of a user with packages installed."""

    folder: Path

    def environment(self, **variables: str) -> dict[str, str]:
        nodes = Path(node_program("node")).parent
        return interfaces.clean_environment(self.folder, nodes) | variables

    def run(self, *command: object, **variables: str) -> harness.Outcome:
        done = subprocess.run(
            list(map(str, command)),
            cwd=self.folder,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            timeout=harness.RUN_SECONDS,
            check=False,
        )
        return harness.Outcome(done.returncode, done.stdout, done.stderr)

    def node(self, code: str, **variables: str) -> str:
        done = self.run("node", "--input-type=module", "-e", code, **variables)
        assert done.status == 0, done.describe()
        return done.out


def install(folder: Path, *tarballs: Path) -> App:
    (folder / "package.json").write_text('{"private": true}')
    for name in ("model.onnx", "tokenizer.json", "heldout.txt"):
        shutil.copy(TINYLM / name, folder)
    app = App(folder)
    done = app.run("npm", "install", "--offline", "--no-audit", "--no-fund", *tarballs)
    assert done.status == 0, done.describe()
    return app


@pytest.fixture(scope="module")
def app(packed, tmp_path_factory) -> App:
    return install(tmp_path_factory.mktemp("app"), packed["onnxq"], packed["platform"])


@pytest.fixture(scope="module")
def app_without_binary(packed, tmp_path_factory) -> App:
    """As `npm install --omit=optional` leaves it."""
    return install(tmp_path_factory.mktemp("app"), packed["onnxq"])


def manifest(tarball: Path) -> tuple[dict, dict[str, int]]:
    """The description of a package, and its files with their modes."""
    with tarfile.open(tarball) as archive:
        files = {member.name.removeprefix("package/"): member.mode for member in archive.getmembers()}
        return json.load(archive.extractfile("package/package.json")), files


def test_packages(packed):
    version = interfaces.version()
    main, files = manifest(packed["onnxq"])
    assert (main["name"], main["version"]) == ("onnxq", version)
    assert main["optionalDependencies"] == {f"@onnxq/{platform}": version for platform in PLATFORMS}
    assert "scripts" not in main, "nothing runs when it is installed"
    expected = {
        "LICENSE",
        "README.md",
        "bin/onnxq.mjs",
        "binary.mjs",
        "index.mjs",
        "index.d.ts",
        "package.json",
    }
    assert set(files) == expected
    platform, files = manifest(packed["platform"])
    system, cpu = host().split("-")
    assert (platform["name"], platform["version"]) == (f"@onnxq/{host()}", version)
    assert (platform["os"], platform["cpu"]) == ([system], [cpu])
    assert platform.get("libc") == (["glibc"] if system == "linux" else None)
    assert set(files) == {"LICENSE", "README.md", "bin/onnxq", "package.json"}
    assert files["bin/onnxq"] & 0o111


@pytest.mark.parametrize(("pair", "said"), [("beos-x64=onnxq", "linux-x64"), ("linux-x64=absent", "absent")])
def test_what_cannot_be_packed(pair, said, tmp_path):
    script = harness.REPOSITORY / "npm" / "build.mjs"
    command = [node_program("node"), script, tmp_path / "out", pair]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


def test_npx(app):
    assert app.run("npx", "--offline", "onnxq", "--version").out == f"onnxq {interfaces.version()}\n"
    done = app.run("npx", "--offline", "onnxq", "quantize", "model.onnx", "-o", "a b.onnx")
    assert done.status == 0, done.describe()
    harness.session(app.folder / "a b.onnx")


def test_exit_status_and_streams(app):
    shim = app.folder / "node_modules" / ".bin" / "onnxq"
    bad = app.run(shim, "inspect", "absent.onnx")
    assert (bad.status, bad.out, bad.err.count("\n")) == (2, "", 1)
    app.run(shim, "opt", "model.onnx", "-o", "clean.onnx", "--passes", "clean")
    assert app.run(shim, "diff", "model.onnx", "clean.onnx").status == 1


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_signals(sent, app, tmp_path):
    """What is sent to the shim ends the command, and the shim as well."""
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\necho $$\nexec sleep 60\n")
    slow.chmod(0o755)
    shim = app.folder / "node_modules" / ".bin" / "onnxq"
    process = subprocess.Popen(
        [shim], env=app.environment(ONNXQ_BINARY=str(slow)), stdout=subprocess.PIPE, text=True
    )
    with process:
        child = int(process.stdout.readline())
        process.send_signal(sent)
        assert process.wait(timeout=20) == -sent
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_functions(app):
    code = """
import assert from "node:assert";
import { existsSync } from "node:fs";
import { evaluate, inspect, optimize, quantize, quantizeAll, verify } from "onnxq";

const url = new URL(`file://${process.cwd()}/model.onnx`);
const small = await quantize(url, { output: "small.onnx", blockSize: 32, exclude: ["*layers.0*", "x"] });
assert.equal(small.output[0].path, "small.onnx");
assert(!small.weights.some((weight) => weight.nodes.some((node) => node.includes("layers.0"))));
const options = { baseline: "model.onnx", text: "heldout.txt", windows: 2, engine: "rten" };
const held = await evaluate("small.onnx", { ...options, maxMeanKld: 0.5 });
const missed = await evaluate(["small.onnx"], { ...options, maxMeanKld: 1e-6 });
assert.deepEqual([held.passed, missed.passed], [true, false]);
const both = await quantizeAll("model.onnx", { dtype: ["q4", "fp16"], output: ".", noConfig: true, threads: 1 });
assert.deepEqual(both.map((report) => report.output[0].path), ["./model_q4.onnx", "./model_fp16.onnx"]);
await optimize("model.onnx", { output: "clean.onnx", passes: "clean", dim: { batch_size: 1 } });
assert.equal((await inspect("clean.onnx")).inputs[0].shape[0], 1);
assert((await verify("small.onnx")).passed);
assert(!(await verify("small.onnx", { target: "onnxruntime@1.20" })).passed);
const plan = await quantize("model.onnx", { output: "plan.onnx", dryRun: true });
assert(plan.dry_run && !existsSync("plan.onnx"));
console.log(held.models[0].divergence.kld.mean.value);
"""
    assert 0 < float(app.node(code)) < 0.1
    harness.session(app.folder / "small.onnx")


def test_errors(app):
    code = """
import assert from "node:assert";
import { existsSync } from "node:fs";
import { inspect, LimitMissed, OnnxqError, quantize } from "onnxq";

const is = (kind, ...texts) => (error) => {
  assert(error instanceof kind, error);
  for (const text of texts) assert(error.message.includes(text), error.message);
  return true;
};
await assert.rejects(inspect("absent.onnx"), is(OnnxqError, "`absent.onnx`: No such file"));
await assert.rejects(inspect("--help"), is(OnnxqError, "`./--help`"));
await assert.rejects(quantize("model.onnx", { blockSize: 7 }), is(OnnxqError, "--block-size"));
await assert.rejects(quantize("model.onnx", { bogus: true }), is(OnnxqError, "--bogus"));
await assert.rejects(quantize("model.onnx", { dtype: "q4,fp16" }), is(TypeError, "quantizeAll"));
const limits = { check: "heldout.txt", maxMeanKld: 1e-6, engine: "rten", output: "missed.onnx" };
await assert.rejects(quantize("model.onnx", limits), is(LimitMissed, "max-mean-kld"));
assert(!existsSync("missed.onnx"));
await quantize("model.onnx", { ...limits, keep: true });
const aborted = inspect("model.onnx", { signal: AbortSignal.abort() });
await assert.rejects(aborted, (error) => error.name === "AbortError");
process.env.ONNXQ_BINARY = "/nowhere/onnxq";
await assert.rejects(inspect("model.onnx"), is(OnnxqError, "/nowhere/onnxq"));
"""
    app.node(code)


def test_missing_platform_package(app_without_binary):
    done = app_without_binary.run("npx", "--offline", "onnxq", "--version")
    assert done.status == 2
    assert f"@onnxq/{host()}" in done.err
    code = 'import { inspect } from "onnxq"; await inspect("x").catch((error) => console.log(error.message));'
    assert f"npm install @onnxq/{host()}" in app_without_binary.node(code)


def test_binary_by_name(app_without_binary, binary):
    """Where no package fits: a binary that cargo built."""
    done = app_without_binary.run("npx", "--offline", "onnxq", "--version", ONNXQ_BINARY=str(binary))
    assert done.out == f"onnxq {interfaces.version()}\n"


def declared() -> dict[str, tuple[list[str], dict[str, bool]]]:
    """The interfaces of index.d.ts: what each extends, and its fields, and whether each is optional."""
    text = (harness.REPOSITORY / "npm" / "onnxq" / "index.d.ts").read_text(encoding="utf-8")
    found = {}
    for name, bases, body in re.findall(
        r"^export interface (\w+)(?: extends ([\w, ]+))? \{\n(.*?)^\}", text, re.M | re.S
    ):
        fields = re.findall(r"^  (\w+)(\??):", body, re.MULTILINE)
        found[name] = (
            bases.split(", ") if bases else [],
            {field: bool(optional) for field, optional in fields},
        )
    return found


def options(interface: str) -> set[str]:
    """The options of the command that an interface and what it extends have, as `max-mean-kld`."""
    bases, fields = declared()[interface]
    own = {re.sub(r"[A-Z]", lambda letter: f"-{letter[0].lower()}", field) for field in fields}
    return own.union(*map(options, bases)) - {"signal", "on-message"}


def test_options_are_those_of_the_command(onnxq):
    """A new option of these commands has to be added to npm/onnxq/index.d.ts."""
    assert options("QuantizeOptions") | {"dtype"} == interfaces.options_of(onnxq, "quantize")
    commands = {"opt": "OptimizeOptions", "eval": "EvaluateOptions", "verify": "VerifyOptions"}
    for command, interface in (commands | {"inspect": "InspectOptions"}).items():
        assert options(interface) == interfaces.options_of(onnxq, command), command


def test_results_have_every_documented_field():
    for name, documented in interfaces.documented_objects().items():
        interface = "EvaluationReport" if name == "Evaluation" else name
        assert declared()[interface][1] == documented, name
