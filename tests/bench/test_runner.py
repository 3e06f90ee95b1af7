from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from quantizable_graphs import mixed_vit

from qvit_deploy.bench.runner import open_runner, runtime_of
from qvit_deploy.errors import InputError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(mixed_vit().serialize())
    return path


@pytest.mark.parametrize(("batch", "images"), [(None, 1), (3, 3)])
def test_a_run_takes_time(model: Path, batch: int | None, images: int) -> None:
    runner = open_runner(model, batch, 1)
    assert runner.batch == images and runner.run_ns() > 0 and runtime_of(model) == "onnxruntime"


def test_inputs_that_are_no_images(tmp_path: Path) -> None:
    for name, dtype, shape, words in (
        ("text", TensorProto.INT64, [1, 4], r"is tensor\(int64\)"),
        ("scalar", TensorProto.FLOAT, [], "is a scalar"),
    ):
        ends = [helper.make_tensor_value_info(n, dtype, shape) for n in "xy"]
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], name, ends[:1], ends[1:])
        path = tmp_path / f"{name}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
        with pytest.raises(InputError, match=words):
            open_runner(path, None, 1)


@pytest.mark.parametrize("name", ["m.engine", "m.plan", "m.trt"])
def test_engines_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"engine")
    with pytest.raises(InputError, match="needs the TensorRT runtime"):
        open_runner(tmp_path / name, None, 1)


def test_openvino_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    path = tmp_path / "m.xml"
    path.write_text("<net/>")
    assert runtime_of(path) == "openvino"
    with pytest.raises(InputError, match="pip install openvino"):
        open_runner(path, None, 1)
