"""What this compiler emits has no findings of its own target."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.graph.graph import Graph
from qvit_deploy.lint import lint
from qvit_deploy.pipeline.compile import compile
from qvit_deploy.recipe import Recipe
from tests.support.graphs.quantizable_graphs import calibrate, fixed_batch, mixed_vit
from tests.support.models.demo_models import demo


def count_by_rule(graph: Graph, target: str = "onnxruntime") -> dict[str, int]:
    """Rule -> findings, notes left out."""
    findings = lint(graph.model, target)  # type: ignore[arg-type]
    return {f.rule: sum(g.rule == f.rule for g in findings) for f in findings if f.severity != "note"}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("batch", [None, 4])
def test_linears(bits: int, batch: int | None) -> None:
    float_graph = mixed_vit() if batch is None else fixed_batch(mixed_vit(), batch)
    graph = emit_qdq(float_graph, calibrate(float_graph, (bits,), images=8).plan((bits, bits)))
    assert count_by_rule(graph) == {}


@pytest.mark.parametrize("softmax", ["uniform", "levels"])
@pytest.mark.parametrize("granularity", ["tensor", "head"])
def test_attention_products(softmax: str, granularity: str) -> None:
    calibrated = calibrate(mixed_vit(), (4,), True, 6, softmax, True, granularity)  # type: ignore[arg-type]
    graph = emit_qdq(calibrated.graph, calibrated.plan((4, 4), "none"))
    assert not {rule for rule in count_by_rule(graph) if rule.startswith("ONNX")}
    assert not [f for f in lint(graph.model, "onnxruntime") if f.severity == "error"]


def test_a_model_of_timm(tiny_swin: Graph) -> None:
    """With products of windows, and a matrix that merges patches."""
    assert count_by_rule(emit_qdq(tiny_swin, calibrate(tiny_swin, (6,), images=4).plan((6, 6)))) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "deit", "swin"])
def test_demo_bundles(tmp_path: Path, name: str) -> None:
    recipe = Recipe(compensate="bias", calibration_images=16)
    compile(demo(name), tmp_path / name, calib="demo:fashion-mnist", recipe=recipe)
    for file in ("model.onnxruntime.onnx", "model.float.onnx"):
        assert lint(ir.load(tmp_path / name / file), "onnxruntime") == []
