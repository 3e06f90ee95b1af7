"""`qvit-deploy relp` on a bundle and on a file that another quantizer wrote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.command_line import Command, Inputs
from tests.support.graphs.quantizable_graphs import canonical
from tests.support.graphs.relevance_graphs import Builder


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two pictures that differ in one quarter."""
    folder, random = tmp_path_factory.mktemp("pair"), np.random.default_rng(1)
    clean = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    corrupt = clean.copy()
    corrupt[:8, :8] = 255 - corrupt[:8, :8]
    files = folder / "clean.png", folder / "corrupt.png"
    for file, pixels in zip(files, (clean, corrupt), strict=True):
        Image.fromarray(pixels).save(file)
    return files


@pytest.fixture(scope="module")
def bundle(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from qvit_deploy.data.preprocess import Preprocess
    from qvit_deploy.pipeline.compile import compile
    from qvit_deploy.recipe import Recipe

    out = tmp_path_factory.mktemp("relp") / "bundle"
    recipe = Recipe.load(None, uniform="w6a6", calibration_images=8)
    preprocess = Preprocess.from_file(inputs.preprocess)
    compile(str(inputs.model), out, calib=str(inputs.calib), recipe=recipe, preprocess=preprocess)
    return out


def test_a_pair_is_explained(qvit: Command, bundle: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "relp"
    done = qvit("relp", bundle, "--clean", pair[0], "--corrupt", pair[1], "--exact", "-o", out, "--json")
    assert done.code == 0, done.err
    tree = json.loads(done.out)
    assert tree == json.loads((out / "relp.json").read_text())
    assert tree["rules"] == "relp" and tree["firings"]["quantizer"] > 0
    assert {c["kind"] for c in tree["pairs"][0]["components"]} == {"residual", "head", "attention", "mlp"}
    assert set(tree["agreement"]["mlp"]) == {"relp", "gradient", "|difference|", "random"}
    assert (out / "relp.html").read_text().startswith("<!")
    assert list(out.glob("*.png")) and list(out.glob("*.svg")) and len(list((out / "exact").glob("*.safetensors"))) == 1
    again = qvit("relp", bundle, "--clean", pair[0], "--corrupt", pair[1], "--exact", "-o", out)
    assert again.code == 0 and "Pearson with exact patching" in again.out and str(out / "relp.html") in again.out


def test_pairs_are_made_of_images(qvit: Command, bundle: Path, inputs: Inputs) -> None:
    pairs = ("relp", bundle, "--data", inputs.calib, "--edit", "patch-swap", "--count", 3)
    done = qvit(*pairs, "--rules", "attnlrp", "--quantizers", "secant", "--direction", "noising", "--json")
    assert done.code == 0, done.err
    tree = json.loads(done.out)
    assert len(tree["pairs"]) == 3 and tree["rules"] == "attnlrp+secant" and tree["direction"] == "noising"
    assert tree["agreement"] is None
    said = qvit(*pairs, "--profile", "float")
    assert said.code == 0 and "attention" in said.out and "head" in said.out


def test_the_drift_of_a_bundle(qvit: Command, bundle: Path, inputs: Inputs, tmp_path: Path) -> None:
    out = tmp_path / "drift"
    done = qvit("relp", bundle, "--quantization", "--data", inputs.calib, "--count", 6, "-o", out, "--json")
    assert done.code == 0, done.err
    tree = json.loads(done.out)
    assert tree["images"] == 6 and tree["rules"] == "gradient"
    assert {s["name"] for s in tree["sites"]} >= {"fc1", "fc2", "head"}
    assert (out / "relp.html").is_file() and list(out.glob("*.png"))
    said = qvit("relp", bundle, "--quantization", "--data", inputs.calib, "--count", 6)
    assert said.code == 0 and "the sum over sites gives it" in said.out
    refused = qvit("relp", bundle / "model.float.onnx", "--quantization", "--data", inputs.calib)
    assert refused.code == 2 and "is not a bundle: --quantization compares" in refused.errors[0]


def test_a_file_of_another_quantizer(
    qvit: Command, bundle: Path, inputs: Inputs, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            random = np.random.default_rng(0)
            self.batches = iter([{"image": random.standard_normal((1, 3, 16, 16)).astype(np.float32)}] * 2)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    foreign = tmp_path / "foreign.onnx"
    quantize_static(bundle / "model.float.onnx", foreign, Images(), op_types_to_quantize=["MatMul"])
    asked = ("relp", foreign, "--clean", pair[0], "--corrupt", pair[1], "--preprocess", inputs.preprocess, "--json")
    done = qvit(*asked)
    assert done.code == 0, done.err
    assert json.loads(done.out)["firings"]["quantizer"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "pairs come from --clean with --corrupt, from --pairs, or from --data"),
        (("--clean", "PAIR0"), "a pair needs both --clean and --corrupt"),
        (("--clean", "PAIR0", "--corrupt", "PAIR0"), "identical"),
        (("--clean", "PAIR0", "--corrupt", "nowhere.png"), "nowhere.png"),
        (("--clean", "PAIR0", "--corrupt", "PAIR1", "--metric", "entropy"), "no metric 'entropy'; choose from"),
        (("--clean", "PAIR0", "--corrupt", "PAIR1", "--metric", "logit:77"), "class 77 is out of range"),
        (("--clean", "PAIR0", "--corrupt", "PAIR1", "--metric", "logit:77", "--exact"), "class 77 is out of range"),
        (("--quantization", "--data", "CALIB", "--metric", "logit:77"), "class 77 is out of range"),
        (("--clean", "PAIR0", "--corrupt", "LARGER"), "the clean image is 16x16 pixels, the corrupt one 24x24"),
        (("--clean", "PAIR0", "--corrupt", "PAIR1", "--rules", "magic"), "no rule set 'magic'"),
        (("--clean", "PAIR0", "--corrupt", "PAIR1", "--direction", "up"), "no direction 'up'"),
        (("--clean", "PAIR0", "--corrupt", "PAIR1", "--quantizers", "none"), "straight-through or secant"),
        (("--clean", "PAIR0", "--corrupt", "PAIR1", "--profile", "tpu"), "no file 'model.tpu.onnx'"),
        (("--data", "CALIB", "--edit", "magic"), "no edit 'magic'"),
        (("--quantization",), "--quantization needs images: pass --data"),
        (("--quantization", "--clean", "PAIR0"), "--quantization takes --data only"),
    ],
)
def test_bad_input_is_one_line(
    qvit: Command,
    bundle: Path,
    inputs: Inputs,
    pair: tuple[Path, Path],
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    larger = tmp_path / "larger.png"
    Image.new("RGB", (24, 24)).save(larger)
    known = {"LARGER": larger, "PAIR0": pair[0], "PAIR1": pair[1], "CALIB": inputs.calib}
    done = qvit("relp", bundle, *(known.get(a, a) for a in arguments), "-o", tmp_path / "out")
    assert not (tmp_path / "out" / "relp.html").exists()
    assert done.code == 2 and len(done.errors) == 1 and message in done.errors[0], done.err


@pytest.mark.parametrize(
    ("op_type", "message"),
    [("Bernoulli", "operator Bernoulli ("), ("Round", "operator Round (node"), ("Sign", "no backward pass")],
)
def test_an_operator_without_a_backward_pass_is_named(
    qvit: Command, inputs: Inputs, bundle: Path, pair: tuple[Path, Path], tmp_path: Path, op_type: str, message: str
) -> None:
    """One that the executor does not know, and some that it runs but whose slope is zero."""
    import onnx

    model = onnx.load(bundle / "model.float.onnx")
    gelu = next(n for n in model.graph.node if n.op_type == "Gelu")
    gelu.op_type = op_type
    del gelu.attribute[:]
    strange = tmp_path / "strange.onnx"
    onnx.save(model, strange)
    asked = ("relp", strange, "--clean", pair[0], "--corrupt", pair[1], "--preprocess", inputs.preprocess, "--exact")
    done = qvit(*asked)
    assert done.code == 2 and len(done.errors) == 1
    assert message in done.errors[0] and gelu.name in done.errors[0]


def test_a_graph_without_attention_is_named(
    qvit: Command, inputs: Inputs, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    b = Builder()
    pooled = b.op("ReduceMean", b.op("Gelu", "image"), b.constant([2, 3]), keepdims=0, name="logits")
    plain = tmp_path / "plain.onnx"
    plain.write_bytes(canonical(b, pooled, (3, 16, 16)).serialize())
    done = qvit("relp", plain, "--clean", pair[0], "--corrupt", pair[1], "--preprocess", inputs.preprocess)
    assert done.code == 2 and len(done.errors) == 1
    assert "has no attention with a skip connection around it" in done.errors[0]
