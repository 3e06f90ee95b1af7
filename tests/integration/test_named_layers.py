"""`--keep-float` and `--width`: what the files of all targets, the manifest, the report and `inspect` make of them."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from tests.support.command_line import Command, Inputs

TARGETS = ("onnxruntime-fused", "openvino", "tensorrt", "tensorrt-rtx", "tensorrt-plugin")


def weights_of_products(path: Path) -> dict[str, str]:
    """Name of a module -> operator that gives its product the weight, in an ONNX file; "" for an initializer."""
    graph = onnx.load(path).graph
    types = {o: n.op_type for n in graph.node for o in n.output}
    products = [n for n in graph.node if n.op_type in ("MatMul", "Conv")]
    return {n.input[1].removesuffix(".weight"): types.get(n.input[1], "") for n in products}


def test_a_named_layer_stays_in_float_and_others_have_the_width_they_are_given(
    qvit: Command, inputs: Inputs, tmp_path: Path
) -> None:
    targets = [flag for target in TARGETS for flag in ("--target", target)]
    out = tmp_path / "b"
    flags = ["--mean-bits", 5, "--keep-float", "head*", "--keep-float", "attn.q", "--width", "fc?=w8a8", *targets]
    done = qvit(*inputs.arguments(out, *flags))
    assert done.code == 0, done.err
    assert "2 x float" in done.out
    manifest = json.loads((out / "manifest.json").read_text())
    assert set(manifest["verification"]["profiles"]) == set(TARGETS)
    widths = {s["name"]: (s["w_bits"], s["a_bits"]) for s in manifest["sites"]}
    assert widths["head"] == widths["attn.q"] == (None, None)
    assert widths["fc1"] == widths["fc2"] == (8, 8)
    assert [s["score"] for s in manifest["sites"] if s["name"] == "head"] == [None]
    assert manifest["recipe"]["keep_float"] == ["head*", "attn.q"] and manifest["recipe"]["widths"] == ["fc?=w8a8"]
    weights = weights_of_products(out / "model.onnxruntime.onnx")
    assert weights["head"] == weights["attn.q"] == ""
    assert list(weights.values()).count("") == 2
    inspected = qvit("inspect", out)
    assert inspected.code == 0
    head = next(line for line in inspected.out.splitlines() if line.startswith("head "))
    assert "float" in head
    assert "2 in float" in (out / "report.html").read_text()
    assert qvit("relp", out, "--quantization", "--data", inputs.calib, "--json").code == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--keep-float", "heads"], "--keep-float 'heads' matches no layer; of 11 these are near: head"),
        (["--width", "fc1"], "'fc1' is not a pattern and a width like 'blocks.0.*=w8a8'"),
        (["--keep-float", "*"], "leaves no layer to quantize"),
        (["--keep-float", "fc1", "--max-size", 0.001], "in float: fc1"),
    ],
)
def test_what_cannot_be_is_one_line(
    qvit: Command, inputs: Inputs, tmp_path: Path, flags: list[object], words: str
) -> None:
    done = qvit(*inputs.arguments(tmp_path / "b", *flags))
    assert done.code == 2 and len(done.errors) == 1 and words in done.errors[0]
    assert not (tmp_path / "b").exists()


def test_a_sweep_has_the_same_options(qvit: Command, inputs: Inputs) -> None:
    flags = ["--calib", inputs.calib, "--preprocess", inputs.preprocess, "--images", 8, "--mean-bits", "4,5", "--json"]
    plain, named = (
        json.loads(qvit("sweep", inputs.model, *flags, *more).out)["rows"] for more in ([], ["--keep-float", "fc1"])
    )
    assert [r["weight_bytes"] for r in named] > [r["weight_bytes"] for r in plain]
