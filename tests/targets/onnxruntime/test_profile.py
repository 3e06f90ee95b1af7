from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.graph.sites import find_sites
from qvit_deploy.targets.onnxruntime.profile import NodeTimes, attribute, profile
from qvit_deploy.targets.runtime import RunSettings
from tests.support.graphs.quantizable_graphs import calibrate, mixed_vit

NAMES = ("a.b.weight.q4", "a.b.bias.corrected", "other.bias", "c.weight.q4", "c.bias.corrected")


def constant(name: str) -> onnx.TensorProto:
    return helper.make_tensor(name, TensorProto.FLOAT, [1], [1.0])


def test_nodes_go_to_the_sites_they_came_from() -> None:
    nodes = [
        helper.make_node("Clip", ["x"], ["clipped"], "clip"),
        helper.make_node("QuantizeLinear", ["clipped"], ["codes"], "quantize"),
        helper.make_node("Reshape", ["codes"], ["tall"], "reshape"),
        helper.make_node("MatMulIntegerToFloat", ["tall", "a.b.weight.q4"], ["p"], "product"),
        helper.make_node("Add", ["p", "a.b.bias.corrected"], ["y"], "bias"),
        helper.make_node("Add", ["y", "other.bias"], ["z"], "residual"),
        helper.make_node("MatMul", ["z", "y"], ["qk_out"], "qk"),
        helper.make_node("ConvInteger", ["codes", "c.weight.q4"], ["sums"], "convolution"),
        helper.make_node("DequantizeLinear", ["sums", "c.weight.q4"], ["scaled"], "scaling"),
        helper.make_node("Add", ["scaled", "c.bias.corrected"], ["c_out"], "shifting"),
    ]
    graph = helper.make_graph(nodes, "g", [], [], [constant(n) for n in NAMES])
    times = {"clip": 1.0, "quantize": 2.0, "reshape": 4.0, "product": 8.0, "bias": 16.0, "residual": 32.0, "qk": 64.0}
    times |= {"convolution": 0.5, "scaling": 0.25, "shifting": 0.125}
    attributed = attribute(NodeTimes({**times, "gone": 128.0}, graph), {"qk_out": "a.qk"})
    assert {s.name: (s.product_ms, s.quantize_ms) for s in attributed.sites} == {
        "a.b": (24.0, 3.0),
        "a.qk": (64.0, 0.0),
        "c": (0.625, 0.25),
    }
    assert attributed.outside_ms == {"(unnamed)": 128.0, "Add": 32.0, "Reshape": 4.0}
    assert attributed.total_ms == 255.875


@pytest.mark.parametrize("attention", [False, True])
def test_every_site_of_an_emitted_model_is_found(attention: bool, tmp_path: Path) -> None:
    calibrated = calibrate(mixed_vit(), (8,), attention=attention)
    path = tmp_path / "model.onnx"
    path.write_bytes(emit_qdq(calibrated.graph, calibrated.plan((8, 8))).serialize())
    outputs = {t: s.name for s in find_sites(calibrated.graph) for t in (s.product, s.output) if s.weight is None}
    profiled = profile(path, RunSettings(), outputs)
    names = [s.name for s in profiled.sites]
    assert {s.name for s in calibrated.sites} <= set(names)
    assert all(s.product_ms > 0 for s in profiled.sites) and sum(s.quantize_ms for s in profiled.sites) > 0
    accounted = sum(s.product_ms + s.quantize_ms for s in profiled.sites) + sum(profiled.outside_ms.values())
    assert accounted == pytest.approx(profiled.total_ms)


def test_a_float_model_has_sites_too(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(mixed_vit().serialize())
    profiled = profile(path, RunSettings(2), {})
    assert {"attn.q", "fc1", "head"} <= {s.name for s in profiled.sites}
    assert all(s.quantize_ms == 0 for s in profiled.sites)
