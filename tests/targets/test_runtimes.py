"""Files in the runtimes they are for, as measurements run them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from qvit_deploy.artifacts.engine_record import record_path
from qvit_deploy.errors import InputError
from qvit_deploy.targets.registry import facts_of, runtime_of
from qvit_deploy.targets.runtime import Runner, RunSettings
from qvit_deploy.targets.tensorrt.engine.gpu import find_gpu
from tests.support.absent_libraries import without
from tests.support.devices.engine_examples import written
from tests.support.devices.recorded_device import appear, built
from tests.support.graphs.quantizable_graphs import mixed_vit


def opener(path: Path, batch: int | None = None) -> Callable[[], Runner]:
    return runtime_of(path).opener(path, RunSettings(batch))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(mixed_vit().serialize())
    return path


@pytest.mark.parametrize(("batch", "images"), [(None, 1), (3, 3)])
def test_a_run_takes_time(model: Path, batch: int | None, images: int) -> None:
    runner = opener(model, batch)()
    assert runner.batch == images and runner.run_ns() > 0 and facts_of(model).name == "onnxruntime"
    assert runner.device_memory_bytes is None


def test_inputs_that_are_no_images(tmp_path: Path) -> None:
    """Tokens get values of their own; text gets none."""
    for name, dtype, shape, words in (
        ("tokens", TensorProto.INT64, [1, 4], None),
        ("text", TensorProto.STRING, [1, 4], "'x' has no element type"),
        ("scalar", TensorProto.FLOAT, [], "is a scalar"),
    ):
        ends = [helper.make_tensor_value_info(n, dtype, shape) for n in "xy"]
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], name, ends[:1], ends[1:])
        path = tmp_path / f"{name}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
        if words is None:
            assert opener(path)().run_ns() > 0
            continue
        with pytest.raises(InputError, match=words):
            opener(path)()


def test_an_engine_is_timed_by_events_on_images_that_lie_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, memory = appear(tmp_path, monkeypatch)
    for batch, images in ((None, 2), (4, 4)):
        runner = opener(path, batch)()
        assert runner.batch == images and runner.device_memory_bytes == 2 * 12 * images
        del memory.order[:]
        assert runner.run_ns() == 1_250_000 and memory.order == ["event", "run", "event", "wait"]
        runner.close()
        memory.buffers.clear()
    facts = facts_of(path, 4)
    assert (facts.name, facts.on_gpu, facts.flags) == ("tensorrt", True, {"cuda_graph": "on"})


@pytest.mark.parametrize("name", ["m.engine", "m.plan", "m.trt"])
def test_engines_without_a_record_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"engine")
    for take in (facts_of, opener):
        with pytest.raises(InputError, match=r"has no record m\.json beside it"):
            take(tmp_path / name)


def test_other_batches_and_inputs_than_the_engine_was_built_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, memory = appear(tmp_path, monkeypatch)
    for take in (lambda: facts_of(path, 5), lambda: opener(path, 5)()):
        with pytest.raises(InputError, match=r"m\.engine: takes 1 to 4 images at a time; --batch 5 does not fit"):
            take()
    assert memory.order[-1] == "pop"  # what was loaded was given back
    varying = record_path(path).read_text()
    record_path(path).write_text(varying.replace('"shape":[-1,3]', '"shape":[2,3]'))
    assert facts_of(path) == facts_of(path, 2)
    with pytest.raises(InputError, match=r"takes exactly 2 images at a time; leave --batch out"):
        facts_of(path, 3)
    record_path(path).write_text(varying.replace('"shape":[-1,3]', '"shape":[-1]'))
    with pytest.raises(InputError, match="one that is not of images"):
        facts_of(path)


@pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU")
def test_an_engine_needs_a_gpu(tmp_path: Path) -> None:
    path, _ = written(tmp_path, build=built())
    for take in (facts_of, opener):
        with pytest.raises(InputError, match=r"running .*m\.engine needs an NVIDIA GPU and its driver"):
            take(path)


@pytest.mark.parametrize(("batch", "images"), [(None, 1), (3, 3)])
@pytest.mark.parametrize("name", ["model.openvino.onnx", "m.xml"])
def test_files_for_openvino_run_there(tmp_path: Path, name: str, batch: int | None, images: int) -> None:
    import openvino

    path = tmp_path / name
    (tmp_path / "model.openvino.onnx").write_bytes(mixed_vit().serialize())
    if path.suffix == ".xml":
        openvino.save_model(openvino.Core().read_model(tmp_path / "model.openvino.onnx"), path)
    runner = opener(path, batch)()
    assert runner.batch == images and runner.run_ns() > 0 and facts_of(path).name == "openvino"


def test_openvino_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.xml"
    path.write_text("<net/>")
    without(monkeypatch, "openvino")
    with pytest.raises(InputError, match=r"running it needs OpenVINO, which is not installed: pip install openvino"):
        opener(path)()
