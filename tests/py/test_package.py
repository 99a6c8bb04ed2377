"""Folders that load: what lies in them, where, and what proves it. The onnx package reads what is written."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

import harness
from bad_models import good_model
from builders import GraphBuilder, random

TINYLM = harness.REPOSITORY / "testdata" / "tinylm"
LOADERS = ["config.json", "generation_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def weights(model: Path) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(model).graph.initializer}


def locations(model: Path) -> list[tuple[str, str, int, int]]:
    """Name, file, offset and length of each initializer in a side file."""
    found = []
    for t in onnx.load(model, load_external_data=False).graph.initializer:
        if uses_external_data(t):
            entry = {e.key: e.value for e in t.external_data}
            found.append((t.name, entry["location"], int(entry["offset"]), int(entry["length"])))
    return found


@pytest.fixture
def source(onnxq) -> Path:
    """A folder as Hugging Face has them: `onnx/model.onnx` under a configuration."""
    root = onnxq.dir / "source"
    (root / "onnx").mkdir(parents=True)
    for name in LOADERS:
        shutil.copy(TINYLM / name, root / name)
    shutil.copy(TINYLM / "model.onnx", root / "onnx")
    return root


def test_a_folder_has_what_loaders_read(source, onnxq):
    before = harness.fingerprint(source)
    done = onnxq.ok("quantize", "source", "-o", "out/")
    out = onnxq.dir / "out"
    assert files(out) == sorted([*LOADERS, "onnx/model_q4.onnx"])
    for name in LOADERS[1:]:
        assert (out / name).read_bytes() == (source / name).read_bytes()
    config = json.loads((out / "config.json").read_text())
    assert config.pop("transformers.js_config") == {"dtype": "q4"}
    assert config == json.loads((source / "config.json").read_text())
    size = sum((out / name).stat().st_size for name in LOADERS)
    assert f"and 5 files that loaders read: {size / 1e3:.1f} KB" in done.out
    harness.session(out / "onnx" / "model_q4.onnx")
    assert harness.fingerprint(source) == before


def test_a_flat_folder_stays_flat(onnxq):
    """Optimum reads the configuration beside the model; nothing is told to transformers.js."""
    onnxq.ok("quantize", TINYLM, "-o", "out/")
    assert files(onnxq.dir / "out") == sorted([*LOADERS, "model_q4.onnx"])
    assert (onnxq.dir / "out" / "config.json").read_bytes() == (TINYLM / "config.json").read_bytes()
    onnxq.ok("quantize", TINYLM, "-o", "web/", "--layout", "onnx")
    assert (onnxq.dir / "web" / "onnx" / "model_q4.onnx").is_file()


def test_without_a_configuration(source, onnxq):
    (source / "config.json").unlink()
    mentions = ("config.json", "Optimum", "--config", "--no-config")
    onnxq.refuses("quantize", "source", "-o", "out/", mentions=mentions)
    onnxq.ok("quantize", "source", "-o", "bare/", "--no-config")
    assert files(onnxq.dir / "bare") == ["onnx/model_q4.onnx"]
    onnxq.ok("quantize", "source", "-o", "given/", "--config", TINYLM / "config.json")
    assert json.loads((onnxq.dir / "given" / "config.json").read_text())["model_type"] == "llama"


@pytest.mark.parametrize("option", ["--no-config", "--force", "--sums", "--card"])
def test_what_only_a_folder_has_a_use_for(option, onnxq):
    onnxq.refuses("quantize", TINYLM, "-o", "out.onnx", option, mentions=(option, "-o DIR/"))


def test_what_exists_is_kept(source, onnxq):
    onnxq.ok("quantize", "source", "-o", "out/")
    (onnxq.dir / "out" / "mine.txt").write_text("kept")
    onnxq.refuses("quantize", "source", "-o", "out/", mentions=("model_q4.onnx", "exists", "--force"))
    old = harness.sha256(onnxq.dir / "out" / "onnx" / "model_q4.onnx")
    onnxq.ok("quantize", "source", "-o", "out/", "--force", "--block-size", 32)
    assert harness.sha256(onnxq.dir / "out" / "onnx" / "model_q4.onnx") != old
    assert (onnxq.dir / "out" / "mine.txt").read_text() == "kept"
    (onnxq.dir / "config.json").write_text('{"model_type": "gpt2"}')
    args = ("quantize", "source", "-o", "out/", "--dtype", "fp16", "--config", "config.json")
    onnxq.refuses(*args, mentions=("out/config.json", "exists", "--force"))
    onnxq.ok(*args, "--force")
    assert "gpt2" in (onnxq.dir / "out" / "config.json").read_text()
    (onnxq.dir / "file").write_text("")
    onnxq.refuses("quantize", "source", "-o", "file/", mentions=("file",))


def test_another_dtype_joins_a_folder(source, onnxq):
    onnxq.ok("quantize", "source", "-o", "out/", "--sums")
    onnxq.ok("quantize", "source", "-o", "out/", "--dtype", "q4f16", "--chunk-size", "300KB")
    out = onnxq.dir / "out"
    chunks = sorted(p.name for p in (out / "onnx").glob("model_q4f16.onnx_data*"))
    ours = json.loads((out / "config.json").read_text())["transformers.js_config"]
    assert ours == {
        "dtype": "q4",
        "use_external_data_format": {"model_q4f16.onnx": len(chunks)},
        "kv_cache_dtype": {"q4f16": "float16"},
    }
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=out, check=True)
    listed = {line.split("  ")[1] for line in (out / "SHA256SUMS").read_text().splitlines()}
    assert listed == set(files(out)) - {"SHA256SUMS"}
    onnxq.ok("verify", "out")


def test_eight_bits_have_no_name_in_transformers_js(source, onnxq):
    onnxq.refuses("quantize", "source", "-o", "out/", "--bits", 8, mentions=("--bits 8", "--layout flat"))
    onnxq.ok("quantize", "source", "-o", "out/", "--bits", 8, "--layout", "flat")
    assert (onnxq.dir / "out" / "model_q8.onnx").is_file()


def test_nothing_is_left_of_a_run_that_fails(source, onnxq):
    before = harness.fingerprint(onnxq.dir)
    text = TINYLM / "heldout.txt"
    args = ("--check", text, "--windows", 1, "--max-mean-kld", "1e-9")
    done = onnxq("quantize", "source", "-o", "out/", *args)
    assert done.status == 1, done.describe()
    assert harness.fingerprint(onnxq.dir) == before
    onnxq.ok("quantize", "source", "-o", "out/", "--dry-run")
    assert harness.fingerprint(onnxq.dir) == before


def test_card_tells_what_was_measured(source, onnxq):
    args = ("--check", TINYLM / "heldout.txt", "--windows", 2, "--json", "report.json")
    onnxq.ok("quantize", "source", "-o", "out/", "--card", *args)
    card = (onnxq.dir / "out" / "README.md").read_text()
    report = json.loads((onnxq.dir / "report.json").read_text())
    [model] = report["check"]["models"]
    assert f"mean KLD                         {model['divergence']['kld']['mean']['value']:.3g} ±" in card
    assert str(TINYLM) not in card
    assert harness.sha256(source / "onnx" / "model.onnx") in card
    assert f"{report['bits_per_weight']:.2f}" in card
    onnxq.ok("quantize", "source", "-o", "bare/", "--card")
    assert "Nothing was" in (onnxq.dir / "bare" / "README.md").read_text()


def seq2seq(root: Path, configured: bool = True) -> None:
    (root / "onnx").mkdir(parents=True)
    for name in ("encoder_model", "decoder_model_merged"):
        harness.save(good_model(), root / "onnx" / f"{name}.onnx")
    if configured:
        (root / "config.json").write_text('{"model_type": "t5"}')


def test_all_models_of_a_folder(onnxq):
    seq2seq(onnxq.dir / "source")
    dtypes = "decoder_model_merged=q4,encoder_model=fp16"
    onnxq.ok("quantize", "source", "-o", "out/", "--dtype", dtypes, "--json", "report.json")
    out = onnxq.dir / "out"
    assert files(out) == ["config.json", "onnx/decoder_model_merged_q4.onnx", "onnx/encoder_model_fp16.onnx"]
    ours = json.loads((out / "config.json").read_text())["transformers.js_config"]
    assert ours["dtype"] == {"decoder_model_merged": "q4", "encoder_model": "fp16"}
    assert len(json.loads((onnxq.dir / "report.json").read_text())) == 2
    for model in (out / "onnx").glob("*.onnx"):
        harness.session(model)
    # Models that are not named are as what has no name says; forms of others are no sources.
    onnxq.ok("quantize", "source", "--dtype", "int8,encoder_model=fp16")
    onnxq.ok("quantize", "source", "-o", "again/", "--dtype", "int8,encoder_model=fp16")
    expected = ["config.json", "onnx/decoder_model_merged_int8.onnx", "onnx/encoder_model_fp16.onnx"]
    assert files(onnxq.dir / "again") == expected


def test_two_models_where_one_is_meant(onnxq):
    seq2seq(onnxq.dir / "source")
    both = ("encoder_model.onnx", "decoder_model_merged.onnx")
    onnxq.refuses("quantize", "source", "-o", "out.onnx", mentions=("-o FILE", *both))
    onnxq.refuses("quantize", "source", "-o", "out/", "--calibrate", "x.txt", mentions=("--calibrate", *both))
    onnxq.refuses("inspect", "source", mentions=("2 models", *both))
    onnxq.refuses("quantize", "source", "-o", "out/", "--dtype", "encoder=q4", mentions=("`encoder`", "encoder_model"))
    (onnxq.dir / "empty").mkdir()
    onnxq.refuses("inspect", "empty", mentions=("empty", ".onnx"))


def test_chunks(source, onnxq):
    """No file exceeds the limit, names are those that a page passes, and weights come in the order of use."""
    onnxq.ok("quantize", "source", "-o", "whole/", "--no-config")
    onnxq.ok("quantize", "source", "-o", "out/", "--chunk-size", "100KB")
    folder = onnxq.dir / "out" / "onnx"
    model = folder / "model_q4.onnx"
    chunks = sorted({location for _, location, _, _ in locations(model)}, key=lambda n: (len(n), n))
    assert len(chunks) > 3
    assert chunks == ["model_q4.onnx_data", *(f"model_q4.onnx_data_{i}" for i in range(1, len(chunks)))]
    assert sorted(chunks) == [n for n in sorted(p.name for p in folder.iterdir()) if n != "model_q4.onnx"]
    assert all((folder / name).stat().st_size <= 100_000 for name in chunks)
    onnx.checker.check_model(model)
    expected = weights(onnxq.dir / "whole" / "onnx" / "model_q4.onnx")
    found = weights(model)
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    place = {name: (chunks.index(location), offset) for name, location, offset, _ in locations(model)}
    used = [i for node in onnx.load(model, load_external_data=False).graph.node for i in node.input if i in place]
    places = [place[name] for name in dict.fromkeys(used)]
    assert places == sorted(places)


def test_a_limit_below_the_largest_weight(source, onnxq):
    args = ("-o", "out/", "--chunk-size", "10KB")
    onnxq.refuses("quantize", "source", *args, mentions=("bytes", "10000", "--chunk-size"))
    done = onnxq("quantize", "source", "-o", "out/", "--chunk-size", "none")
    assert (done.status, "500MB" in done.err) == (2, True), done.describe()
    args = ("-o", "x.onnx", "--chunk-size", "10KB", "--external-data", "never")
    onnxq.refuses("repack", "source", *args, mentions=("--chunk-size", "10000"))


@pytest.fixture
def chunked(source, onnxq) -> Path:
    """A folder with a model in chunks of different sizes."""
    onnxq.ok("repack", source, "-o", "good/", "--layout", "onnx", "--chunk-size", "700KB", "--rename", "model=m")
    return onnxq.dir / "good"


def mended(onnxq, folder: Path, *args: object) -> list[dict]:
    """Repacks `folder`, and asserts that every weight is that of the original."""
    shutil.rmtree(onnxq.dir / "mended", ignore_errors=True)
    before = harness.fingerprint(folder)
    onnxq.ok("repack", folder, "-o", "mended/", "--json", "report.json", *args)
    assert harness.fingerprint(folder) == before
    [model] = (onnxq.dir / "mended").rglob("*.onnx")
    expected, found = weights(TINYLM / "model.onnx"), weights(model)
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    harness.session(model)
    [report] = json.loads((onnxq.dir / "report.json").read_text())
    return report["mended"]


def test_repack_splits_and_merges(chunked, onnxq):
    assert len(list((chunked / "onnx").glob("m.onnx_data*"))) >= 4
    assert mended(onnxq, chunked) == []
    assert mended(onnxq, chunked, "--external-data", "never") == []
    assert files(onnxq.dir / "mended") == sorted([*LOADERS, "onnx/m.onnx"])
    assert mended(onnxq, chunked, "--layout", "flat", "--rename", "m=model", "--external-data", "always") == []
    assert files(onnxq.dir / "mended") == sorted([*LOADERS, "model.onnx", "model.onnx_data"])


def test_repack_finds_renamed_files(chunked, onnxq):
    """The model and its chunks were renamed by hand: it still means the old names."""
    for path in sorted((chunked / "onnx").iterdir()):
        path.rename(path.with_name(path.name.replace("m.onnx", "model_q4.onnx")))
    with pytest.raises(Exception, match="m.onnx_data"):
        harness.session(chunked / "onnx" / "model_q4.onnx")
    found = mended(onnxq, chunked)
    assert {f["location"] for f in found} == {n.replace("model_q4.onnx", "m.onnx") for n in names_of(chunked)}
    assert {f["why"] for f in found} == {"by its name"}


def names_of(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "onnx").iterdir() if "_data" in p.name)


def test_repack_finds_files_by_their_size(chunked, onnxq):
    (chunked / "onnx" / "m.onnx_data_2").rename(chunked / "onnx" / "weights.bin")
    [found] = mended(onnxq, chunked)
    assert (found["location"], found["why"]) == ("m.onnx_data_2", "by its size")


def test_repack_follows_a_location_that_is_wrong(chunked, onnxq):
    """As after a move: a folder that is not there, `..`, an absolute path."""
    path = chunked / "onnx" / "m.onnx"
    model = onnx.load(path, load_external_data=False)
    for where in ("onnx/", "../old/", "/tmp/nowhere/"):
        for t in model.graph.initializer:
            for entry in t.external_data:
                if entry.key == "location":
                    entry.value = where + Path(entry.value).name
        path.write_bytes(model.SerializeToString())
        assert len(mended(onnxq, chunked)) == len(names_of(chunked))


def swap(first: Path, second: Path) -> None:
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


def test_repack_puts_chunks_in_order(chunked, onnxq):
    """Two chunks have each other's name; their sizes tell."""
    paths = [chunked / "onnx" / name for name in names_of(chunked)]
    sizes = [p.stat().st_size for p in paths]
    other = next(i for i, size in enumerate(sizes) if size != sizes[0])
    swap(paths[0], paths[other])
    found = mended(onnxq, chunked)
    assert {f["location"] for f in found} == {paths[0].name, paths[other].name}
    assert {f["why"] for f in found} == {"by its size"}


def test_repack_trusts_sums_more_than_names(onnxq):
    """Chunks of equal size can only be told apart by what SHA256SUMS says."""
    b = GraphBuilder()
    b.node("MatMul", b.input("x", ["N", 64]), b.weight("A", random(64, 64, seed=1)), out="h")
    b.node("MatMul", "h", b.weight("B", random(64, 64, seed=2)), out="y")
    b.output("y", ["N", 64])
    harness.save(b.model(), onnxq.dir / "in.onnx")
    onnxq.ok("repack", "in.onnx", "-o", "good/", "--no-config", "--chunk-size", "16384", "--sums")
    first, second = onnxq.dir / "good" / "in.onnx_data", onnxq.dir / "good" / "in.onnx_data_1"
    assert first.stat().st_size == second.stat().st_size
    swap(first, second)
    assert onnxq("verify", "good").status == 1
    onnxq.ok("repack", "good", "-o", "mended/", "--no-config")
    x = {"x": random(3, 64, seed=3)}
    expected = harness.run_model(onnxq.dir / "in.onnx", x)["y"]
    assert np.array_equal(harness.run_model(onnxq.dir / "mended" / "in.onnx", x)["y"], expected)


def test_repack_says_what_is_missing(chunked, onnxq):
    lost = chunked / "onnx" / "m.onnx_data_1"
    size = lost.stat().st_size
    content = lost.read_bytes()
    lost.unlink()
    onnxq.refuses("repack", "good", "-o", "out/", mentions=("m.onnx_data_1", "missing", str(size), "constants"))
    lost.write_bytes(content[:1000])
    onnxq.refuses("repack", "good", "-o", "out/", mentions=("m.onnx_data_1", "1000 bytes", str(size)))
    lost.unlink()
    for name in ("a.bin", "b.bin"):
        (lost.with_name(name)).write_bytes(content)
    onnxq.refuses("repack", "good", "-o", "out/", mentions=("m.onnx_data_1", "a.bin, b.bin"))


def test_repack_keeps_names_apart(onnxq):
    seq2seq(onnxq.dir / "source")
    onnxq.refuses(
        "repack", "source", "-o", "out/", "--rename", "encoder_model=decoder_model_merged",
        mentions=("encoder_model.onnx", "decoder_model_merged.onnx"),
    )  # fmt: skip
    onnxq.refuses("repack", "source", "-o", "out/", "--rename", "model=x", mentions=("`model`", "encoder_model"))
    onnxq.refuses("repack", "source", "-o", "out.onnx", mentions=("2 models",))


def test_repack_in_place(chunked, onnxq):
    onnxq.refuses("repack", "good", "-o", "good/", mentions=("exists", "--force"))
    onnxq.ok("repack", "good/onnx/m.onnx", "-o", "good/onnx/m.onnx", "--external-data", "never")
    expected, found = weights(TINYLM / "model.onnx"), weights(chunked / "onnx" / "m.onnx")
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_verify_sees_what_changed(source, onnxq):
    onnxq.ok("quantize", "source", "-o", "out/", "--sums", "--chunk-size", "300KB")
    done = onnxq.ok("verify", "out", "--source", "source/onnx/model.onnx", "--json", "-")
    report = json.loads(done.out)
    assert report["provenance"]["source_sha256"] == harness.sha256(source / "onnx" / "model.onnx")
    assert "nbits" in report["provenance"]["pipeline"]
    other = harness.save(good_model(), onnxq.dir / "other.onnx")
    done = onnxq("verify", "out", "--source", other)
    assert done.status == 1
    assert harness.sha256(other) in done.out
    config = onnxq.dir / "out" / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"model_q4.onnx": ', '"model_q4.onnx": 9'))
    done = onnxq("verify", "out")
    assert done.status == 1
    assert "config.json` has SHA-256" in done.out
    assert "use_external_data_format" in done.out
    config.write_text(text)
    chunk = onnxq.dir / "out" / "onnx" / "model_q4.onnx_data"
    with chunk.open("r+b") as file:
        file.write(b"\xff")
    done = onnxq("verify", "out")
    assert done.status == 1
    assert "onnx/model_q4.onnx_data`" in done.out
    # Cut short, the model cannot be opened, and what is wrong with the folder is told all the same.
    chunk.write_bytes(chunk.read_bytes()[:1000])
    done = onnxq.refuses("verify", "out", mentions=("model_q4.onnx_data",))
    assert "onnx/model_q4.onnx_data` has SHA-256" in done.out


def test_sums_that_are_no_sums(source, onnxq):
    onnxq.ok("quantize", "source", "-o", "out/")
    (onnxq.dir / "out" / "SHA256SUMS").write_text("nonsense\n")
    onnxq.refuses("verify", "out", mentions=("SHA256SUMS", "line 1"))


def merged_decoder() -> onnx.ModelProto:
    """Two branches that read one weight of the graph around them, as merged decoders do."""
    weight = numpy_helper.from_array(random(64, 64, seed=5), "W")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])
    use = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])

    def branch(name: str, op: str) -> onnx.GraphProto:
        nodes = [
            helper.make_node("MatMul", ["x", "W"], [f"{name}_h"], name=f"{name}/MatMul"),
            helper.make_node(op, [f"{name}_h"], [f"{name}_y"], name=f"{name}/{op}"),
        ]
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, ["N", 64])
        return helper.make_graph(nodes, name, [], [out])

    node = helper.make_node(
        "If", ["use_cache_branch"], ["y"], then_branch=branch("with_past", "Relu"), else_branch=branch("no_past", "Neg")
    )
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 64])
    graph = helper.make_graph([node], "merged", [x, use], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def test_merged_decoder(onnxq):
    """The weight is quantized once, and each branch computes what the same codes give when they are decoded."""
    harness.save(merged_decoder(), onnxq.dir / "decoder_model_merged.onnx")
    (onnxq.dir / "config.json").write_text("{}")
    onnxq.ok("quantize", "decoder_model_merged.onnx", "-o", "out/", "--json", "report.json")
    [weight] = json.loads((onnxq.dir / "report.json").read_text())["weights"]
    assert len(weight["nodes"]) == 2
    path = onnxq.dir / "out" / "decoder_model_merged_q4.onnx"
    model = onnx.load(path)
    codes = [t for t in model.graph.initializer if t.data_type == TensorProto.UINT8 and np.prod(t.dims) == 64 * 64 // 2]
    assert len(codes) == 1
    x = random(3, 64, seed=6)
    decoded = harness.run_model(path, {"x": np.eye(64, dtype=np.float32), "use_cache_branch": np.array([False])})["y"]
    for use, act in ((True, lambda h: np.maximum(h, 0)), (False, np.negative)):
        found = harness.run_model(path, {"x": x, "use_cache_branch": np.array([use])})["y"]
        # Sums of 64 products in another order: a few units of the last place.
        np.testing.assert_allclose(found, act(x @ -decoded), rtol=1e-5, atol=1e-5)


def test_side_files_load_without_onnxq(chunked):
    """The onnx package follows every location from the model's folder alone."""
    model = onnx.load(chunked / "onnx" / "m.onnx", load_external_data=False)
    load_external_data_for_model(model, str(chunked / "onnx"))
    assert all(not uses_external_data(t) for t in model.graph.initializer)
