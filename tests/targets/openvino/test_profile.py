from __future__ import annotations

from pathlib import Path

import pytest

from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.targets.openvino.emission import emit_openvino
from qvit_deploy.targets.openvino.profile import attribute, profile_openvino
from qvit_deploy.targets.openvino.runtime import Layer
from qvit_deploy.targets.runtime import RunSettings
from tests.support.graphs.quantizable_graphs import calibrate, mixed_vit


def layer(name: str, kind: str, originals: str, *inputs: str) -> Layer:
    return Layer(name, kind, tuple(originals.split()), tuple((i, "u8") for i in inputs))


def test_layers_go_to_the_sites_whose_weights_they_read() -> None:
    layers = [
        layer("x", "Parameter", ""),
        layer("mean", "MVN", "b.norm/LayerNormalization", "x"),
        layer("tail", "Subgraph", "Mul_7 b.norm/LayerNormalization b.norm_out.q8.QuantizeLinear.unsigned", "mean"),
        layer("b.fc1.weight.q8", "Const", ""),
        layer("turned", "Transpose", "turned", "b.fc1.weight.q8"),
        layer("fc1", "FullyConnected", "b.fc1/MatMul b.fc1/Add b.act/Gelu", "tail", "turned"),
        layer("codes", "Subgraph", "b.act_out.q8.QuantizeLinear.unsigned", "fc1"),
        layer("b.fc2.weight.q8", "Const", ""),
        layer("fc2", "FullyConnected", "b.fc2/MatMul", "codes", "b.fc2.weight.q8"),
        layer("qk", "MatMul", "b.attn/MatMul", "fc2", "fc2"),
        layer("moved", "Reorder", "", "qk"),
    ]
    times = {"mean": 1.0, "tail": 2.0, "fc1": 4.0, "codes": 8.0, "fc2": 16.0, "qk": 32.0, "moved": 64.0}
    attributed = attribute(layers, times)
    assert {s.name: (s.product_ms, s.quantize_ms) for s in attributed.sites} == {
        "b.fc1": (4.0, 0.0),
        "b.fc2": (16.0, 8.0),
    }
    tail = "Mul, LayerNormalization, QuantizeLinear"
    assert attributed.outside_ms == {"Reorder": 64.0, "MatMul": 32.0, tail: 2.0, "LayerNormalization": 1.0}
    assert attributed.total_ms == 127.0


def test_every_linear_of_an_emitted_model_is_found(tmp_path: Path) -> None:
    calibrated = calibrate(mixed_vit(), (8,))
    linears = {s.name: (8, 8) for s in calibrated.sites if s.kind == "linear"}
    path = tmp_path / "model.openvino.onnx"
    path.write_bytes(emit_openvino(emit_qdq(calibrated.graph, calibrated.plan(linears))).serialize())
    profiled = profile_openvino(path, RunSettings())
    assert {s.name for s in profiled.sites} >= set(linears) and all(s.product_ms > 0 for s in profiled.sites)
    accounted = sum(s.product_ms + s.quantize_ms for s in profiled.sites) + sum(profiled.outside_ms.values())
    assert accounted == pytest.approx(profiled.total_ms)
