"""`--uint8-input`: files that take pixels, from the command line, in every command that reads images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from qvit_deploy.commands.build import build
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.pixel_input import with_pixel_input
from qvit_deploy.pipeline.compile import compile
from qvit_deploy.recipe import Recipe
from qvit_deploy.targets.openvino.runtime import OpenVinoModel
from qvit_deploy.targets.session import open_model
from tests.support.command_line import Command, Inputs
from tests.support.graphs.quantizable_graphs import mixed_vit

TARGETS = ("onnxruntime", "onnxruntime-fused", "openvino", "tensorrt", "tensorrt-rtx", "tensorrt-plugin")
UINT8 = onnx.TensorProto.UINT8


def compiled(inputs: Inputs, out: Path, targets: tuple[str, ...], pixels: bool) -> Path:
    recipe = Recipe.load(None, uniform="w6a6", calibration_images=8, targets=targets, uint8_input=pixels)
    preprocess = Preprocess.from_file(inputs.preprocess)
    compile(str(inputs.model), out, calib=str(inputs.calib), recipe=recipe, preprocess=preprocess)
    return out


@pytest.fixture(scope="module")
def bundle(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("openvino")
    return compiled(inputs, tmp_path_factory.mktemp("uint8") / "bundle", TARGETS, pixels=True)


@pytest.fixture(scope="module")
def in_floats(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(inputs, tmp_path_factory.mktemp("float") / "bundle", (), pixels=False)


def test_every_file_takes_pixels_and_is_verified(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["recipe"]["uint8_input"] is True and "left_out" not in manifest
    verified = [manifest["verification"], *manifest["verification"]["profiles"].values()]
    assert len(verified) == len(TARGETS) and all(v["codes"] > 0 and v["code_mismatches"] == 0 for v in verified)
    assert max(manifest["verification"]["original"]["errors"].values()) < 1e-5
    for target in (*TARGETS, "float"):
        (image,) = onnx.load(str(bundle / f"model.{target}.onnx")).graph.input
        assert image.name == "image" and image.type.tensor_type.elem_type == UINT8
        sizes = [d.dim_value or d.dim_param for d in image.type.tensor_type.shape.dim]
        assert sizes == ["batch", 3, 16, 16]


def test_tensorrt_gets_a_cast_to_float32_and_normalizes_in_that(bundle: Path) -> None:
    """TensorRT casts uint8 inputs and does nothing else to them; float16 would move pixels across codes."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(str(bundle / "model.tensorrt.onnx"))).graph
    types = {v.name: v.type.tensor_type.elem_type for v in graph.value_info}
    assert [n.op_type for n in graph.node if "image" in n.input] == ["Cast"]
    head = {f"image.{step}": types[f"image.{step}"] for step in ("float", "centred", "normalized")}
    assert set(head.values()) == {onnx.TensorProto.FLOAT}


def test_the_plan_and_the_outputs_are_those_of_a_float_input(bundle: Path, in_floats: Path, inputs: Inputs) -> None:
    sites = [json.loads((b / "manifest.json").read_text())["sites"] for b in (bundle, in_floats)]
    assert [(s["name"], s["role"], s["w_bits"]) for s in sites[0]] == [
        (s["name"], s["role"], s["w_bits"]) for s in sites[1]
    ]
    pixels = np.moveaxis(np.load(inputs.calib)["images"], -1, 1)
    normalized = Preprocess.from_file(inputs.preprocess).normalized(pixels)
    for name in ("float", "onnxruntime"):
        outputs, expected = (
            open_model(folder / f"model.{name}.onnx", 1).run(Examples.images(images))["logits"]
            for folder, images in ((bundle, pixels), (in_floats, normalized))
        )
        tolerance = 1e-5 if name == "float" else 0.05  # one code of a pixel's step may flip
        assert np.abs(outputs - expected).max() < tolerance * np.abs(expected).max()
    assert OpenVinoModel((bundle / "model.openvino.onnx").read_bytes()).inputs[0].dtype.name == "UINT8"


@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime-fused", "openvino", "tensorrt-plugin"])
def test_eval_feeds_pixels(target: str, qvit: Command, bundle: Path, in_floats: Path, inputs: Inputs) -> None:
    done = qvit("eval", bundle, "--data", inputs.calib, "--target", target, "--json")
    assert done.code == 0, done.err
    reference = json.loads(qvit("eval", in_floats, "--data", inputs.calib, "--json").out)
    printed = json.loads(done.out)
    assert printed["float_top1"] == reference["float_top1"]
    assert abs(printed["sqnr_db"] - reference["sqnr_db"]) < 3


def test_data_in_every_form(qvit: Command, bundle: Path, inputs: Inputs, tmp_path: Path) -> None:
    pixels = np.load(inputs.calib)["images"]
    reference = json.loads(qvit("eval", bundle, "--data", inputs.calib, "--json").out)["sqnr_db"]
    np.save(tmp_path / "last.npy", pixels)
    np.save(tmp_path / "first.npy", np.moveaxis(pixels, -1, 1))
    np.savez(tmp_path / "named.npz", image=np.moveaxis(pixels, -1, 1))
    for name in ("last.npy", "first.npy", "named.npz"):
        done = qvit("eval", bundle, "--data", tmp_path / name, "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out)["sqnr_db"] == reference


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_floats_are_refused(suffix: str, qvit: Command, bundle: Path, inputs: Inputs, tmp_path: Path) -> None:
    floats = Preprocess.from_file(inputs.preprocess).normalized(np.moveaxis(np.load(inputs.calib)["images"], -1, 1))
    data = tmp_path / f"floats.{suffix}"
    np.save(data, floats) if suffix == "npy" else np.savez(data, images=floats)
    compiling = inputs.arguments(tmp_path / "out", "--uint8-input", "--calib", data)
    for command in (["eval", bundle, "--data", data], compiling):
        done = qvit(*command)
        assert done.code == 2 and len(done.errors) == 1
        assert "must be pixels (uint8, which the model normalizes itself) [N, 3, 16, 16], got float32" in done.err
    assert not (tmp_path / "out").exists()


def test_without_preprocessing_there_is_nothing_to_put_inside(qvit: Command, inputs: Inputs, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((8, 3, 16, 16), np.uint8))
    done = qvit("compile", inputs.model, "-o", tmp_path / "out", "--calib", tmp_path / "x.npy", "--uint8-input")
    assert done.code == 2 and "--uint8-input puts the normalization of pixels into the files" in done.err
    assert "--preprocess" in done.err and not (tmp_path / "out").exists()


def test_numbers_of_other_channels_are_refused(qvit: Command, inputs: Inputs, tmp_path: Path) -> None:
    """Ready pixels need no preparation, but mean and std have to be the model's."""
    np.save(tmp_path / "x.npy", np.zeros((8, 3, 16, 16), np.uint8))
    (tmp_path / "grey.json").write_text('{"input_size": [1, 16, 16], "mean": [0.5], "std": [0.25], "color": "grey"}')
    ready = ("--calib", tmp_path / "x.npy", "--preprocess", tmp_path / "grey.json")
    done = qvit("compile", inputs.model, "-o", tmp_path / "out", *ready, "--uint8-input")
    assert done.code == 2 and len(done.errors) == 1
    assert "--uint8-input: preprocessing makes 1x16x16 images, the model takes 3x16x16" in done.err


def test_bench_inspect_and_relp(qvit: Command, bundle: Path, inputs: Inputs, tmp_path: Path) -> None:
    measured = qvit(
        "bench", bundle, "--processes", 1, "--iterations", 2, "--no-profile", "--data", inputs.calib, "--json"
    )
    assert measured.code == 0, measured.err
    assert json.loads(measured.out)["quality"]["n"] == 12
    inspected = qvit("inspect", bundle, "--json")
    assert inspected.code == 0, inspected.err
    models = json.loads(inspected.out)["models"]
    assert {m["input_types"]["image"] for m in models.values()} == {"uint8"}
    assert {m["lint"]["counts"]["error"] for m in models.values()} == {0}
    assert "inputs     image uint8 [batch, 3, 16, 16]" in qvit("inspect", bundle / "model.onnxruntime.onnx").out
    explained = qvit(
        "relp", bundle, "--data", inputs.calib, "--edit", "noise", "--count", 2, "--exact", "-o", tmp_path / "a",
    )  # fmt: skip
    assert explained.code == 0, explained.err
    assert "ONNX Runtime agrees on patched logits" in explained.out
    drift = qvit("relp", bundle, "--quantization", "--data", inputs.calib, "--count", 4, "--json")
    assert drift.code == 0, drift.err


def test_a_sweep_and_the_cache_know_it(qvit: Command, inputs: Inputs, tmp_path: Path) -> None:
    shared = (
        "sweep", inputs.model, "--calib", inputs.calib, "--preprocess", inputs.preprocess, "--images", 8,
        "--mean-bits", "6", "--measure", "--cache", tmp_path / "cache", "--json",
    )  # fmt: skip
    rows = [json.loads(qvit(*shared, *more).out)["rows"][0] for more in ((), ("--uint8-input",))]
    assert rows[0]["sqnr_db"] == pytest.approx(rows[1]["sqnr_db"], abs=3)


@pytest.mark.slow
def test_tensorrt_rtx_builds_an_engine_of_it(bundle: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    for file_for in ("tensorrt", "tensorrt-plugin"):
        (built,) = build(bundle, "tensorrt-rtx", sms=(86,), file_for=file_for)
        assert not any("uint8" in message.lower() for message in built.record.build.messages)
        assert [(t.name, t.dtype) for t in built.record.build.inputs] == [("image", "uint8")]


def test_a_plan_is_tuned_on_pixels(inputs: Inputs, tmp_path: Path) -> None:
    """Which are shifted and flipped for it as floats are."""
    recipe = Recipe.load(None, uniform="w4a4", calibration_images=8, distill_epochs=1, uint8_input=True)
    preprocess = Preprocess.from_file(inputs.preprocess)
    compile(str(inputs.model), tmp_path / "out", calib=str(inputs.calib), recipe=recipe, preprocess=preprocess)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["verification"]["code_mismatches"] == 0


def test_a_model_that_takes_pixels_itself(qvit: Command, inputs: Inputs, tmp_path: Path) -> None:
    """Pictures are prepared for it without normalization, and its image is called so in the bundle's files."""
    graph = with_pixel_input(mixed_vit(), (0.5,), (0.25,))
    graph.model.graph.inputs[0].name = "pixels"
    (tmp_path / "pixels.onnx").write_bytes(graph.serialize())
    given = ("--calib", inputs.calib, "--preprocess", inputs.preprocess, "--images", 8, "--uniform", "w6a6")
    done = qvit("compile", tmp_path / "pixels.onnx", "-o", tmp_path / "out", *given, "--target", "tensorrt", "--json")
    assert done.code == 0, done.err
    manifest = json.loads(done.out)
    assert manifest["source"]["image_name"] == "pixels" and manifest["recipe"]["uint8_input"] is False
    assert max(manifest["verification"]["original"]["errors"].values()) < 1e-5
    evaluated = qvit("eval", tmp_path / "out", "--data", inputs.calib, "--target", "tensorrt", "--json")
    assert json.loads(evaluated.out)["sqnr_db"] > 15
    again = qvit("compile", tmp_path / "pixels.onnx", "-o", tmp_path / "b", *given, "--uint8-input")
    assert again.code == 2 and again.errors == [
        "error: --uint8-input: input 'pixels' takes uint8 pixels already, normalized inside"
    ]
