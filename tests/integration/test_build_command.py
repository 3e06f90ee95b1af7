"""`qvit-deploy build` on a bundle small enough to compile in a second, engines by the real TensorRT-RTX."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest

from qvit_deploy.artifacts.bundle import read_bundle
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.pipeline.compile import compile
from qvit_deploy.recipe import Recipe
from tests.support.artifacts.bundle_example import tree
from tests.support.command_line import Command, Inputs

RTX = ("--target", "tensorrt-rtx")


def bundle_for(target: str, widths: str, inputs: Inputs, folder: Path) -> Path:
    recipe = Recipe(uniform=widths, targets=(target,), compensate="none", row_importance="none")
    preprocess = Preprocess.from_file(inputs.preprocess)
    compile(str(inputs.model), folder / "b", calib=str(inputs.calib), recipe=recipe, preprocess=preprocess)
    return folder / "b"


@pytest.fixture(scope="module")
def compiled(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_for("tensorrt-rtx", "w8a8", inputs, tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def packed(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the file of plugins alone."""
    return bundle_for("tensorrt-plugin", "w6a6", inputs, tmp_path_factory.mktemp("packed"))


@pytest.fixture
def bundle(compiled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(compiled, tmp_path / "b"))


def test_engines_join_the_bundle_and_leave_its_digests_right(qvit: Command, inputs: Inputs, bundle: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    before = tree(bundle)
    done = qvit("build", bundle, *RTX, "--sm", 86, "--sm", 120, "--batch", "1:2:4", "--json")
    assert done.code == 0, done.err
    engines = json.loads(done.out)["engines"]
    assert [e["build"]["sm"] for e in engines] == [86, 120]
    assert all(e["seconds"] < 60 for e in engines)
    written = {f"engines/tensorrt-rtx.sm{sm}.b1-2-4.{end}" for sm in (86, 120) for end in ("engine", "json")}
    after = tree(bundle)
    assert set(after) - set(before) == {*written, "engines"} and all(after[n] == c for n, c in before.items())
    manifest = read_bundle(bundle).manifest
    assert engines[0]["onnx"] == manifest.files["model.tensorrt-rtx.onnx"].model_dump()

    again = qvit("build", bundle, *RTX, "--sm", 86, "--batch", "1:2:4")
    assert again.code == 2 and len(again.errors) == 1 and "--force" in again.errors[0]
    replaced = qvit(*inputs.arguments(bundle, "--uniform", "w8a8", "--force"))
    assert replaced.code == 0 and not (bundle / "engines").exists()


def test_a_lone_file_is_built_to_where_it_is_told(qvit: Command, bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    model, engine = bundle / "model.tensorrt-rtx.onnx", tmp_path / "out" / "m.engine"
    done = qvit("build", model, *RTX, "--sm", 89, "-o", engine)
    assert done.code == 0 and "SM89" in done.out and "batch 1," in done.out
    assert {p.name for p in engine.parent.iterdir()} == {"m.engine", "m.json"}


def test_rtx_builds_the_plugin_file_without_plugins(qvit: Command, packed: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    before = tree(packed)
    done = qvit("build", packed, *RTX, "--sm", 86, "--sm", 120, "--batch", "1:2:4", "--json")
    assert done.code == 0, done.err
    engines = json.loads(done.out)["engines"]
    digest = read_bundle(packed).manifest.files["model.tensorrt-plugin.onnx"].model_dump()
    assert [e["onnx"] for e in engines] == [digest] * 2 and all(e["build"]["layers"] > 100 for e in engines)
    assert [Path(e["path"]).name for e in engines] == [f"tensorrt-plugin.sm{sm}.b1-2-4.engine" for sm in (86, 120)]
    assert all(content == before[name] for name, content in tree(packed).items() if name in before)


def test_a_file_with_plugins_is_not_built_without_them(qvit: Command, packed: Path) -> None:
    for extra in ((), ("--profile", "tensorrt-plugin"), ("--trtexec", "--trt-version", "10.3")):
        refused = qvit("build", packed, "--target", "tensorrt", *extra)
        assert refused.code == 2 and len(refused.errors) == 1
        assert "libqvit_plugins.so" in refused.errors[0] and "build-plugin" in refused.errors[0]


@pytest.mark.parametrize(("version", "bare"), [("10.3", True), ("10.6", True), ("10.7", False), ("11.4", False)])
def test_trtexec_reads_no_bodies_before_10_7(qvit: Command, packed: Path, version: str, bare: bool) -> None:
    arguments = (
        "--plugin",
        "libqvit_plugins.so",
        "--trtexec",
        "--trt-version",
        version,
        "--batch",
        version.split(".")[1],
    )
    done = qvit("build", packed, "--target", "tensorrt", *arguments)
    assert done.code == 0, done.err
    (named,) = [word.removeprefix("--onnx=") for word in done.out.split() if word.startswith("--onnx=")]
    assert ("engines" in Path(named).parts) == bare and "--staticPlugins=libqvit_plugins.so" in done.out
    model, source = onnx.load(named), onnx.load(str(packed / "model.tensorrt-plugin.onnx"))
    assert bool(model.functions) != bare and model.graph == source.graph and len(source.functions) == 4


def test_a_file_is_chosen_by_its_target(qvit: Command, bundle: Path, packed: Path) -> None:
    refused = qvit("build", packed, *RTX, "--sm", 86, "--file-for", "tensorrt-rtx")
    assert refused.code == 2 and "was not compiled for tensorrt-rtx" in refused.errors[0]
    refused = qvit("build", bundle, *RTX, "--sm", 86, "--profile", "onnxruntime")
    assert refused.code == 2 and "is not one of tensorrt, tensorrt-rtx, tensorrt-plugin" in refused.errors[0]
    refused = qvit("build", bundle / "model.tensorrt-rtx.onnx", *RTX, "--sm", 86, "--profile", "tensorrt-rtx")
    assert refused.code == 2 and "--file-for is for bundles" in refused.errors[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--target", "tensorrt-rtx"), "--sm"),
        (("--target", "tensorrt-rtx", "--sm", "87"), "Jetson"),
        (("--target", "tensorrt-rtx", "--sm", "86", "--batch", "8:4:1"), "--batch"),
        (("--target", "tensorrt-rtx", "--sm", "86", "-o", "m.engine"), "-o is for a lone ONNX file"),
        (("--target", "tensorrt-rtx", "--sm", "86", "--plugin", "libq.so"), "plugin"),
        (("--target", "tensorrt-rtx", "--sm", "86", "--trtexec"), "--trtexec goes with --target tensorrt"),
        (("--target", "tensorrt-rtx", "--sm", "86", "--trt-version", "10.3"), "--trt-version goes with --trtexec"),
        (("--target", "tensorrt-rtx", "--sm", "86", "--hardware", "any"), "--hardware"),
        (("--target", "tensorrt"), "was not compiled for tensorrt"),
        (("--target", "tensorrt", "--trtexec", "--trt-version", "9.0"), "10.3"),
        (("--target", "openvino"), "--target"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(
    qvit: Command, bundle: Path, arguments: tuple[str, ...], said: str
) -> None:
    before = tree(bundle)
    refused = qvit("build", bundle, *arguments)
    assert refused.code == 2 and len(refused.errors) == 1 and said in refused.errors[0]
    assert tree(bundle) == before


def test_trtexec_prints_two_commands_and_needs_no_module(qvit: Command, inputs: Inputs, tmp_path: Path) -> None:
    out = tmp_path / "b"
    assert qvit(*inputs.arguments(out, "--uniform", "w8a8", "--target", "tensorrt")).code == 0
    done = qvit("build", out, "--target", "tensorrt", "--trtexec", "--trt-version", "10.3")
    assert done.code == 0 and [line.split()[0] for line in done.out.splitlines()] == ["trtexec", "trtexec"]
    assert "--stronglyTyped" in done.out and "image:1x3x16x16" in done.out
    tree_ = json.loads(qvit("build", out, "--target", "tensorrt", "--trtexec", "--trt-version", "11.4", "--json").out)
    assert set(tree_) == {"build", "time"} and "--stronglyTyped" not in tree_["build"]
