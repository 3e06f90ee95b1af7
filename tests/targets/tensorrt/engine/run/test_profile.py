from __future__ import annotations

from pathlib import Path

import pytest

from qvit_deploy.errors import InputError
from qvit_deploy.targets.tensorrt.engine.run.layer_info import Layer
from qvit_deploy.targets.tensorrt.engine.run.profile import attribute_layers, profile_engine
from tests.support.devices.recorded_device import LAYERS, appear


def layer(name: str, kind: str, *nodes: str) -> Layer:
    return Layer(name, kind, "", (), nodes)


def test_layers_go_to_the_sites_whose_nodes_they_run() -> None:
    layers = [
        layer("fused", "gemm", "blocks.0.attn.proj/MatMul", "blocks.10.attn.qkv/MatMul"),
        layer("mine", "gemm", "blocks.1.fc1.weight.value.DequantizeLinear"),
        layer("norm", "Norm", "blocks.1.norm/LayerNormalization"),
    ]
    times = {"fused": 1.0, "mine": 2.0, "norm": 4.0, "blocks.1.fc1/MatMul + blocks.1.fc1/Add": 8.0, "unheard": 16.0}
    attributed = attribute_layers(
        times, layers, ("blocks.0.attn.proj", "blocks.1.fc1", "blocks.10.attn.qkv", "blocks.1")
    )
    assert {s.name: s.product_ms for s in attributed.sites} == {
        "blocks.0.attn.proj + blocks.10.attn.qkv": 1.0,
        "blocks.1.fc1": 10.0,
        "blocks.1": 4.0,
    }
    assert attributed.outside_ms == {"layer": 16.0} and attributed.total_ms == 31.0


def test_an_engine_is_profiled_by_tensorrts_profiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, memory = appear(tmp_path, monkeypatch)
    profiled = profile_engine(path, None, (), ("fc1", "fc2"))
    assert {s.name: s.product_ms for s in profiled.sites} == {"fc1": 0.5, "fc2": 0.25}
    assert profiled.outside_ms == {"Reformat": 0.125} and profiled.total_ms == sum(LAYERS.values())
    assert memory.order[-1] == "pop"


def test_layers_that_take_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = appear(tmp_path, monkeypatch)
    monkeypatch.setattr("tests.support.devices.recorded_device.LAYERS", {"fc1/MatMul": 0.0})
    with pytest.raises(InputError, match=r"m\.engine: TensorRT's profiler reported no layer that took any time"):
        profile_engine(path, None, (), ("fc1",))
