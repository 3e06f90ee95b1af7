"""Attention products on integers, from trained models to verified bundles."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvit_deploy.commands.inspect import describe
from qvit_deploy.pipeline.compile import Compiled, compile
from qvit_deploy.recipe import Granularity, Recipe, SoftmaxCodes
from tests.support.models.demo_models import demo

# How well weights are rounded is not what these tests are about.
LEAST = {"attention": "integer", "calibration_images": 4, "score": "uniform", "compensate": "bias",
         "row_importance": "none"}  # fmt: skip


def _compiled(name: str, folder: Path, **choices: object) -> Compiled:
    recipe = Recipe.model_validate({**LEAST, **choices})
    return compile(demo(name), folder / "bundle", calib="demo:fashion-mnist", recipe=recipe)


CODES: dict[SoftmaxCodes, tuple[bool, Granularity, int]] = {
    "uniform": (False, "head", 38),
    "levels": (True, "tensor", 38),
    "log2": (False, "tensor", 32),
    "log-sqrt2": (True, "head", 32),
}
"""Codes of probabilities -> whether rows are normalized, scales of the other operands, products on integers."""
FAST = (("vit", "levels"), ("swin", "log2"))


@pytest.mark.parametrize(
    ("model", "softmax"),
    [
        pytest.param(model, softmax, marks=[] if (model, softmax) in FAST else pytest.mark.slow)
        for model in ("vit", "swin")
        for softmax in CODES
    ],
)
def test_a_demo_model_at_4_bits_is_verified(model: str, softmax: SoftmaxCodes, tmp_path: Path) -> None:
    rows, granularity, integer = CODES[softmax]
    choices = {"softmax": softmax, "softmax_rows": rows, "attention_granularity": granularity}
    manifest = _compiled(model, tmp_path, uniform="w4a4", **choices).bundle.manifest
    checked = manifest.verification
    products = [s for s in manifest.sites if s.kind.startswith("matmul")]
    assert len(products) == 12 and {(s.w_bits, s.a_bits) for s in products} == {(4, 4)}
    assert checked.code_mismatches == 0 and checked.codes is not None and checked.codes > 100_000
    assert checked.integer_products == checked.expected_integer_products == integer
    logarithmic = {s.name for s in products if s.kind == "matmul_av"} if integer < 38 else set()
    assert set(checked.float_products) == logarithmic


def test_widths_of_attention_products_are_allocated_with_the_others(tmp_path: Path) -> None:
    choices = {"softmax_rows": True, "attention_granularity": "head"}
    manifest = _compiled("vit", tmp_path, mean_bits=5, score="relp", **choices).bundle.manifest
    assert {s.a_bits for s in manifest.sites if s.kind.startswith("matmul")} <= {4, 6, 8}
    assert manifest.verification.code_mismatches == 0


@pytest.mark.slow
def test_logarithmic_codes_run_in_the_plugin_profile(tmp_path: Path) -> None:
    bundle = _compiled("vit", tmp_path, uniform="w4a4", targets=("tensorrt-plugin",), softmax="log-sqrt2").bundle
    packed = bundle.manifest.verification.targets["tensorrt-plugin"].model_dump()
    products = {s.name for s in bundle.manifest.sites if s.kind == "matmul_av"}
    assert len(products) == 6 and not products & set(packed["in_float"]) and len(packed["in_float"]) == 6 + 1
    assert packed["packed"] == 25 + 6 and packed["code_mismatches"] == 0
    model = describe(bundle.path_of("model.tensorrt-plugin.onnx"))
    widths = [[o["bits"] for o in p["operands"]] for p in model["products"] if p["op"] == "qvit::SoftmaxLog2AV"]
    assert widths == [[4, 4]] * 6 and model["lint"]["counts"]["error"] == 0
