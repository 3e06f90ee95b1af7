"""What cannot be compiled: one clear line on standard error, exit code 2, nothing left behind."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from tests.support.command_line import Command, Inputs, Result
from tests.support.graphs.quantizable_graphs import canonical
from tests.support.graphs.relevance_graphs import Builder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results" / "bundle"


def refused(result: Result, out: Path, *words: str) -> None:
    assert result.code == 2 and result.out == "", result
    assert len(result.errors) == 1, result.err
    assert result.err.rstrip().splitlines()[-1] == result.errors[0] and "Traceback" not in result.err
    assert all(word in result.errors[0] for word in words), result.errors[0]
    assert not out.exists() and not (out.parent.exists() and any(out.parent.iterdir()))


def edited(inputs: Inputs, path: Path, name: str, value: float) -> Inputs:
    """The model with the first element of one weight replaced."""
    model = onnx.load(inputs.model)
    tensor = next(t for t in model.graph.initializer if t.name == name)
    array = numpy_helper.to_array(tensor).copy()
    array.flat[0] = value
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    onnx.save(model, path)
    return replace(inputs, model=path)


@pytest.mark.parametrize("model", ["none.onnx", "none.pt", "timm:no_such_model", "demo:none", "nonsense"])
def test_a_model_that_does_not_exist(qvit: Command, inputs: Inputs, out: Path, model: str) -> None:
    result = qvit(*replace(inputs, model=Path(model)).arguments(out))
    refused(result, out, model.partition(":")[2] or model)
    assert "\n\n" not in result.err


@pytest.mark.parametrize("share", [0.0, 0.4, 0.99])
def test_a_truncated_onnx_file(qvit: Command, inputs: Inputs, out: Path, tmp_path: Path, share: float) -> None:
    cut = tmp_path / "cut.onnx"
    whole = inputs.model.read_bytes()
    cut.write_bytes(whole[: int(share * len(whole))])
    refused(qvit(*replace(inputs, model=cut).arguments(out)), out, str(cut))


class Exploit:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.victim,)


def test_a_checkpoint_that_would_run_code(qvit: Command, inputs: Inputs, out: Path, tmp_path: Path) -> None:
    checkpoint, victim = tmp_path / "weights.pt", tmp_path / "victim"
    checkpoint.write_bytes(pickle.dumps({"state_dict": Exploit(victim)}, protocol=2))
    model = Path("timm:vit_tiny_patch16_224?img_size=16&patch_size=4&embed_dim=32&depth=1&num_heads=2&num_classes=5")
    result = qvit(*replace(inputs, model=model).arguments(out, "--checkpoint", checkpoint))
    refused(result, out, str(checkpoint))
    assert not victim.exists()


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(len(path.name)).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)


def test_a_calibration_folder_that_is_missing_empty_or_holds_one_image(
    qvit: Command, inputs: Inputs, out: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    refused(qvit(*replace(inputs, calib=folder).arguments(out)), out, str(folder))
    folder.mkdir()
    refused(qvit(*replace(inputs, calib=folder).arguments(out)), out, str(folder))
    picture(folder / "one.png")
    refused(qvit(*replace(inputs, calib=folder).arguments(out)), out, str(folder), "2")


def test_a_corrupt_image_is_named_and_can_be_skipped(qvit: Command, inputs: Inputs, out: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for name in ("a", "bb", "ccc", "dddd"):
        picture(folder / f"{name}.png")
    whole = (folder / "ccc.png").read_bytes()
    (folder / "ccc.png").write_bytes(whole[: len(whole) // 2])
    some = replace(inputs, calib=folder)
    refused(qvit(*some.arguments(out)), out, "ccc.png", "--skip-bad-images")
    done = qvit(*some.arguments(out, "--skip-bad-images", "--uniform", "w8a8", "--json"))
    assert done.code == 0, done.err
    assert json.loads(done.out)["calibration"]["images"] == 3 and "skipped ccc.png" in done.err
    evaluated = qvit("eval", out, "--data", folder, "--skip-bad-images", "--json")
    assert json.loads(evaluated.out)["n"] == 3 and "skipped ccc.png" in evaluated.err


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(qvit: Command, inputs: Inputs, out: Path, tmp_path: Path, value: float) -> None:
    broken = edited(inputs, tmp_path / "broken.onnx", "fc1.weight", value)
    refused(qvit(*broken.arguments(out)), out, "fc1.weight", "1 of 1024 values")


def test_activations_that_overflow(qvit: Command, inputs: Inputs, out: Path, tmp_path: Path) -> None:
    """Every weight is finite, their products are not."""
    model = onnx.load(inputs.model)
    for tensor in model.graph.initializer:
        if tensor.name in ("fc1.weight", "fc2.weight"):
            array = numpy_helper.to_array(tensor) * np.float32(1e30)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, tmp_path / "loud.onnx")
    refused(qvit(*replace(inputs, model=tmp_path / "loud.onnx").arguments(out)), out, "NaN or infinite", "overflow")


def test_a_model_with_nothing_to_quantize(qvit: Command, inputs: Inputs, out: Path, tmp_path: Path) -> None:
    b = Builder()
    pooled = b.op("ReduceMean", b.op("Gelu", "image"), b.constant([2, 3]), keepdims=0, name="logits")
    model = tmp_path / "plain.onnx"
    model.write_bytes(canonical(b, pooled, (3, 16, 16)).serialize())
    refused(qvit(*replace(inputs, model=model).arguments(out)), out, "nothing to quantize")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--mean-bits", 3], ["mean weight bits cannot be met: the smallest possible is 4"]),
        (["--max-size", 0.0001], ["0.0001 MB", "the smallest possible is"]),
        (["--max-bitops", 1e-9], ["BitOps", "the smallest possible is"]),
        (["--mean-bits", -1], ["must be a positive number"]),
        (["--score", "magic"], ["score", "'lrp', 'relp', 'gradient', 'exact', 'uniform', 'random' or 'inverted'"]),
        (["--bits", "4,x"], ["--bits '4,x'"]),
        (["--bits", "4,16"], ["bits must be between 2 and 8"]),
        (["--uniform", "w4a4", "--mean-bits", 4], ["uniform and mean_bits exclude each other"]),
        (["--uniform", "4"], ["'4' is not a width like w8a8"]),
        (["--target", "abacus"], ["no target 'abacus'", "onnxruntime"]),
        (["--max-latency", 3], ["max_latency_ms needs a latency_table"]),
        (["--latency-table", "none.json"], ["latency table none.json: cannot be read"]),
        (["--images", 1], ["calibration_images"]),
        (["--recipe", "none.toml"], ["none.toml"]),
        (["--preprocess", "none.json"], ["none.json"]),
        (["--pretrained"], ["need a timm: model"]),
    ],
)
def test_choices_that_cannot_be_kept(
    qvit: Command, inputs: Inputs, out: Path, flags: list[object], words: list[str]
) -> None:
    refused(qvit(*inputs.arguments(out, *flags)), out, *words)


def test_an_unknown_recipe_key_and_images_of_another_size(
    qvit: Command, inputs: Inputs, out: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text("mean_bit = 4")
    refused(qvit(*inputs.arguments(out, "--recipe", recipe)), out, "mean_bit")
    small = tmp_path / "p.json"
    small.write_text(json.dumps({"input_size": [3, 8, 8], "mean": [0.5], "std": [0.25]}))
    refused(qvit(*inputs.arguments(out, "--preprocess", small)), out, "3x8x8", "3x16x16")


def test_without_images_or_preprocessing(qvit: Command, inputs: Inputs, out: Path) -> None:
    refused(qvit("compile", inputs.model, "-o", out), out, "--calib")
    refused(qvit("compile", inputs.model, "-o", out, "--calib", inputs.calib), out, "--preprocess")
    refused(qvit("compile", inputs.model, "-o", out, "--preprocess", inputs.preprocess), out, "--calib")


def test_an_output_that_exists_is_not_touched(qvit: Command, inputs: Inputs, tmp_path: Path) -> None:
    for name in ("file", "folder"):
        path = tmp_path / name
        if name == "file":
            path.write_text("mine")
        else:
            path.mkdir()
            (path / "note.txt").write_text("mine")
        for flags in ([], ["--force"]):
            result = qvit(*inputs.arguments(path, *flags))
            assert result.code == 2 and len(result.errors) == 1 and str(path) in result.errors[0]
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "note.txt").read_text() == "mine"


def test_a_refusal_from_a_process_of_its_own(inputs: Inputs, out: Path) -> None:
    arguments = [str(a) for a in replace(inputs, model=Path("none.onnx")).arguments(out)]
    done = subprocess.run([sys.executable, "-m", "qvit_deploy", *arguments], capture_output=True, text=True)
    refused(Result(done.returncode, done.stdout, done.stderr), out, "none.onnx does not exist")


def test_eval_and_inspect_refuse_too(qvit: Command, inputs: Inputs, tmp_path: Path, out: Path) -> None:
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"not a model at all")
    refused(qvit("inspect", garbage), out, "cannot be read as ONNX")
    refused(qvit("inspect", tmp_path / "none"), out, "no bundle, .onnx file or engine")
    refused(qvit("eval", inputs.model, "--data", inputs.calib), out, "--preprocess")
    refused(qvit("eval", garbage, "--data", inputs.calib, "--preprocess", inputs.preprocess), out, "ONNX Runtime")
    refused(qvit("eval", inputs.model, "--data", "none.npz", "--preprocess", inputs.preprocess), out, "none.npz")
