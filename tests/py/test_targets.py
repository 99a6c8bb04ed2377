"""What onnxq says of runtimes, against the runtimes: `verify --target`, `targets`.

Each small model of target_cases.py runs in each of the releases below. What the compiler says
becomes of it has to be what becomes of it, both ways: refused when loaded, an error when it runs,
a wrong result, or the right one.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases

import harness
import runtimes
from bad_models import good_model
from builders import CONTRIB, GraphBuilder, random
from target_cases import CASES

# Both sides of every edge in the table but one (1.29 and 1.30), and the newest.
TESTED = ["1.17.3", "1.18.1", "1.19.2", "1.20.1", "1.22.1", "1.23.2", "1.24.4", "1.26.0", "1.27.0", "1.31.1"]

# From best to worst; what a release did with a model, and the effect that says so.
EFFECTS = ["runs", "slow", "wrong", "fails", "refused"]
OUTCOMES = {"ok": "runs", "wrong": "wrong", "run": "fails", "crash": "fails", "load": "refused"}

# The system must have the locale `en_US.UTF-8`, or this operator is refused.
NEEDS_A_LOCALE = "test_strnormalizer_"


def target(version: str) -> str:
    return f"onnxruntime@{version}"


def releases(marks=()) -> list:
    return [pytest.param(version, marks=marks) for version in TESTED]


@pytest.fixture
def release(request):
    """A release that can be run here."""
    version = request.param
    if not runtimes.has_wheel(runtimes.release(version)):
        harness.cannot_run(f"onnxruntime {version} has no wheel for this Python")
    try:
        runtimes.folder(version)
    except runtimes.FetchError as error:
        harness.cannot_run(str(error))
    return version


def each_release(function):
    return pytest.mark.parametrize("release", releases(), indirect=True)(function)


class Reports:
    """What `verify` says of models, with all tested releases as targets, in one run a model."""

    def __init__(self, binary: Path, directory: Path):
        self.onnxq = harness.Onnxq(binary, directory)
        self.reports: dict[Path, dict] = {}

    def of(self, model: Path) -> dict:
        if model not in self.reports:
            targets = [word for version in TESTED for word in ("--target", target(version))]
            done = self.onnxq("verify", model, "--json", "-", *targets)
            assert done.status in (0, 1), done.describe()
            self.reports[model] = json.loads(done.out)
        return self.reports[model]

    def effect(self, model: Path, version: str) -> str:
        """The worst effect; `?` when it is not known of some node."""
        report = self.of(model)
        name = target(".".join(version.split(".")[:2]))
        found = [f["effect"] for f in report["findings"] if f["target"] == name]
        worst = max(found, key=EFFECTS.index, default="runs")
        unknown = any(n["target"] == name for n in report["not_known"])
        return "?" if unknown and EFFECTS.index(worst) <= EFFECTS.index("slow") else worst


@pytest.fixture(scope="session")
def reports(binary, tmp_path_factory) -> Reports:
    return Reports(binary, tmp_path_factory.mktemp("reports"))


@pytest.fixture(scope="session")
def cases(tmp_path_factory) -> dict:
    """The cases by the paths of their models, feeds beside them."""
    directory = tmp_path_factory.mktemp("cases")
    written = {}
    for name, make in CASES.items():
        case = make()
        path = harness.save(case.model, directory / f"{name}.onnx")
        np.savez(path.with_suffix(".npz"), **case.feeds)
        written[path] = case
    return written


@each_release
def test_what_a_release_does(release, cases, reports, tmp_path):
    # Contracts are broken there, whatever a release makes of it.
    valid = [path for path in cases if reports.of(path)["valid"]]
    assert len(valid) > len(cases) - 4
    runs = []
    for opts in (False, True):
        paths = [path for path in valid if cases[path].opts == opts]
        runs += zip(paths, runtimes.run(release, paths, tmp_path, opts), strict=True)
    disagreements = []
    for path, ran in runs:
        status = ran.status
        if status == "ok" and not cases[path].accepts(ran.outputs[0]):
            status = "wrong"
        said = reports.effect(path, release)
        if said.replace("slow", "runs") != OUTCOMES[status]:
            disagreements.append(f"{path.stem}: said {said}, {OUTCOMES[status]}: {ran.error[:200]}")
    assert not disagreements, "\n".join(disagreements)


@pytest.fixture(scope="session")
def vectors(tmp_path_factory) -> list[Path]:
    """The models of the standard's own tests."""
    directory = tmp_path_factory.mktemp("vectors")
    with np.errstate(all="ignore"):
        tests = [test for test in collect_testcases(None) if test.model is not None]
    tests = [test for test in tests if not test.name.startswith(NEEDS_A_LOCALE)]
    return [harness.save(test.model, directory / f"{test.name}.onnx") for test in tests]


@each_release
def test_which_vectors_of_the_standard_load(release, vectors, reports, tmp_path):
    """All operators of all opsets: never said to be refused when loaded, nor the other way."""
    loaded = runtimes.load(release, vectors, tmp_path)
    disagreements = []
    for path, error in zip(vectors, loaded, strict=True):
        said = reports.effect(path, release)
        if said != "?" and (said == "refused") != bool(error):
            disagreements.append(f"{path.stem}: said {said}, loading said `{error[:200]}`")
    assert not disagreements, "\n".join(disagreements)
    known = [path for path in vectors if reports.effect(path, release) != "?"]
    # The rest are operators whose bodies take their place.
    assert len(known) > 0.8 * len(vectors)


def test_every_executed_row_is_met_by_a_model(cases, reports, onnxq):
    """A row that claims to be executed is shown by a model above."""
    rows = json.loads(onnxq.ok("targets", "--json", "-").out)["rows"]
    met = {
        (finding["operator"], finding["effect"], finding["reason"])
        for path in cases
        for finding in reports.of(path)["findings"]
    }
    # Met by vectors of the standard, or below by time, or broken contracts whatever the release.
    by_vectors = {"LSTM", "GRU", "RNN", "RotaryEmbedding", "DFT"}
    missing = [
        row
        for row in rows
        if "executed" in row["source"]
        and row["effect"] in ("wrong", "fails", "refused")
        and row["operator"] not in by_vectors
        and (row["operator"], row["effect"], row["reason"]) not in met
    ]
    broken = ("block_size<16", "bits!=2,4,8")
    missing = [row for row in missing if not row["condition"].startswith(broken)]
    assert not missing


def product(bits: int, level: int) -> onnx.ModelProto:
    """One MatMulNBits of 1024 x 1024."""
    b = GraphBuilder()
    codes = np.zeros((1024, 32, 32 * bits // 8), np.uint8)
    names = [b.input("x", [1, 1024]), b.weight("B", codes), b.weight("s", random(1024, 32))]
    node = {"K": 1024, "N": 1024, "bits": bits, "block_size": 32, "accuracy_level": level}
    b.node("MatMulNBits", *names, out="y", domain=CONTRIB, **node)
    b.output("y", [1, 1024])
    return b.model(domains=[CONTRIB])


@pytest.mark.parametrize("bits", [2, 8])
def test_slow_is_slow(bits, onnxq):
    """Eight bits and two without `accuracy_level` 4: a factor of 100 here, so 5 is safe to ask."""
    seconds = {}
    for level in (0, 4):
        path = harness.save(product(bits, level), onnxq.dir / f"{level}.onnx")
        session = harness.session(path)
        feeds = {"x": random(1, 1024)}
        runs = []
        for _ in range(5):
            start = time.perf_counter()
            session.run(None, feeds)
            runs.append(time.perf_counter() - start)
        seconds[level] = min(runs)
        done = onnxq.ok("verify", path, "--target", "onnxruntime@1.31")
        assert ("warning" in done.out) == (level == 0)
    assert seconds[0] > 5 * seconds[4]


def change(model: onnx.ModelProto, name: str, array: np.ndarray) -> None:
    """Another constant in the place of one."""
    [old] = [t for t in model.graph.initializer if t.name == name]
    old.CopyFrom(numpy_helper.from_array(array, name))


BROKEN = {
    "nbits-4": ("scales", np.ones((16, 3), np.float32), "`scales` has shape [16, 3]; expected [16, 2]"),
    "nbits-4-zeros": ("zero_points", np.ones((16, 2), np.uint8), "`zero_points` has shape [16, 2]"),
    "gather-4": ("scales", np.ones((10, 3), np.float32), "expected [10, 4]"),
    "gather-4-zeros": ("zero_points", np.ones((10, 4), np.uint8), "expected [10, 2]"),
    "bnb4-nf4": ("absmax", np.ones(15, np.float32), "expected 16 elements"),
    "dynamic-matmul-s8": ("scale", np.ones(7, np.float32), "`b_scale` has shape [7]"),
    "integer-to-float-u8-u8": ("b_zero", np.ones(5, np.uint8), "`b_zero_point` has shape [5]"),
    "qmoe-4": ("s1", np.ones((3, 32), np.float32), "expected 2 experts"),
    "dequantize-u8-opset-13": ("scale", np.ones(5, np.float32), "expected [4], or one number"),
    "dequantize-u8-blocked": ("scale", np.ones((4, 5), np.float32), "expected [4, 4]"),
    "quantize-u8-blocked": ("scale", np.ones((4, 1), np.float32), "expected [4, 2]"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_contract(name, onnxq):
    """Found without a target, which ONNX Runtime does when it runs the node, if at all."""
    constant, array, mentions = BROKEN[name]
    case = CASES[name]()
    onnxq.ok("verify", harness.save(case.model, onnxq.dir / "right.onnx"))
    change(case.model, constant, array)
    path = harness.save(case.model, onnxq.dir / "broken.onnx")
    done = onnxq("verify", path)
    assert done.status == 1, done.describe()
    assert mentions in done.out, done.describe()
    try:
        found = harness.run_model(path, case.feeds, opts=False)
    except Exception:  # noqa: BLE001
        return
    assert not case.accepts(next(iter(found.values())))


def save(name: str, onnxq: harness.Onnxq) -> Path:
    return harness.save(CASES[name]().model, onnxq.dir / "in.onnx")


def test_a_finding_says_where_what_and_how_it_is_known(onnxq):
    path = save("conv-integer-u8-s8", onnxq)
    done = onnxq("verify", path, "--target", "onnxruntime@1.20")
    assert done.status == 1
    assert done.out.splitlines()[0] == (
        "error: onnxruntime@1.20: node `ConvInteger:y`: ConvInteger with `x` uint8, `w` int8, "
        "`x_zero_point` uint8, `w_zero_point` int8, `y` int32 is refused: there is no kernel for these "
        "types; use `x` uint8, `w` uint8 (registry)"
    )
    assert done.out.splitlines()[-1] == "onnxruntime@1.20: is refused"


def test_the_worst_of_several_targets_counts(onnxq):
    path = save("gather-4-odd-zeros", onnxq)
    onnxq.ok("verify", path, "--target", "onnxruntime@1.31")
    done = onnxq("verify", path, "--target", "onnxruntime@1.31,onnxruntime-web@1.26")
    assert done.status == 1
    assert "onnxruntime-web@1.26: gives a wrong result" in done.out
    assert "onnxruntime@1.31: runs" in done.out


def test_an_attribute_that_the_operator_has_not(onnxq):
    """As exporters leave them that mark where a node comes from."""
    model = good_model()
    model.graph.node[0].attribute.append(helper.make_attribute("hierarchy_tag", "/layer"))
    path = harness.save(model, onnxq.dir / "in.onnx")
    with pytest.raises(Exception, match="Unrecognized attribute: hierarchy_tag"):
        harness.session(path)
    onnxq.ok("verify", path)
    done = onnxq("verify", path, "--target", "onnxruntime,rten")
    assert done.status == 1
    assert "attribute `hierarchy_tag` is refused" in done.out
    assert "use the pass strip-attrs" in done.out


def test_a_warning_is_no_fault(onnxq):
    done = onnxq.ok("verify", save("dynamic-quantize", onnxq), "--target", "webgpu")
    assert done.out.startswith("warning: ")


def test_what_is_not_known_is_said(onnxq):
    done = onnxq.ok("verify", save("opset-13", onnxq), "--target", "rten")
    assert "of 1 nodes it is not known that they run (Relu)" in done.out


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("onnxruntim", ("unknown target `onnxruntim`", "onnxruntime-web", "rten")),
        ("onnxruntime@2.0", ("unknown version `2.0`", "1.17, 1.18", "1.31")),
        ("onnxruntime@", ("unknown version ``",)),
        ("transformers.js@9", ("unknown version `9`", "known are 4")),
        ("", ("unknown target ``",)),
    ],
)
def test_unknown_target(text, mentions, onnxq):
    save("opset-13", onnxq)
    onnxq.refuses("verify", "in.onnx", "--target", text, mentions=("--target", *mentions))


def test_every_fault_of_a_model_is_listed(onnxq):
    case = CASES["nbits-4"]()
    node = case.model.graph.node[0]
    for attribute in node.attribute:
        attribute.i = {"bits": 3, "N": 16, "K": 64, "block_size": 24}[attribute.name]
    path = harness.save(case.model, onnxq.dir / "in.onnx")
    done = onnxq("verify", path, "--target", "onnxruntime@1.31")
    assert done.status == 1
    assert [line.split(":")[0] for line in done.out.splitlines()[:-1]] == ["error", "error"]
    assert done.out.splitlines()[-1] == f"{path}: not valid: 2 faults"
    report = json.loads(onnxq("verify", path, "--json", "-").out)
    assert not report["valid"]
    assert len(report["violations"]) == 2


def test_inside_subgraphs(onnxq):
    """A place is the way to it."""
    inner = GraphBuilder()
    inner.node("Add", "h", "h", out="t", name="deep")
    inner.node("Cast", "t", out="then", to=1)
    inner.output("then", [3])
    outer = GraphBuilder()
    outer.node("Cast", outer.input("x", [3]), out="h", to=16)
    branch = inner.graph("branch")
    condition = outer.input("c", [], 9)
    outer.node("If", condition, out="y", name="choice", then_branch=branch, else_branch=branch)
    outer.output("y", [3])
    path = harness.save(outer.model(), onnxq.dir / "in.onnx")
    done = onnxq("verify", path, "--target", "onnxruntime@1.31")
    assert done.status == 1
    assert "node `choice` `else_branch`: node `deep` and 1 more: Add with `A` bfloat16" in done.out


def test_a_local_function_hides_an_operator(onnxq):
    """A call is not the operator of that name."""
    function = onnx.helper.make_function(
        CONTRIB,
        "GatherNBits",
        ["a"],
        ["b"],
        [onnx.helper.make_node("Relu", ["a"], ["b"])],
        [onnx.helper.make_opsetid("", 17)],
    )
    b = GraphBuilder()
    b.node("GatherNBits", b.input("x", [5]), out="y", domain=CONTRIB)
    b.output("y", [5])
    model = b.model(functions=[function], domains=[CONTRIB])
    path = harness.save(model, onnxq.dir / "in.onnx")
    done = onnxq.ok("verify", path, "--target", "onnxruntime@1.20")
    assert "onnxruntime@1.20: " in done.out


def test_list_of_targets(onnxq):
    done = onnxq.ok("targets")
    for name in ("onnxruntime ", "onnxruntime-webgpu", "transformers.js@4", "rten", "tract"):
        assert name in done.out
    one = onnxq.ok("targets", "onnxruntime@1.23").out
    assert "loads IR version 11 and opset 23 at most" in one
    assert "odd number of blocks" in one
    assert "odd number of blocks" not in onnxq.ok("targets", "onnxruntime@1.27").out
    onnxq.refuses("targets", "nothing", mentions=("unknown target",))


def test_rows_have_sources(onnxq):
    rows = json.loads(onnxq.ok("targets", "--json", "-").out)["rows"]
    for row in rows:
        for source in row["source"].split(", "):
            assert source in ("executed", "observed", "source", "documented") or "#" in source, row
        assert row["reason"] or row["effect"] == "runs", row
