"""The runner: its refusals for real, TensorRT-RTX's included; its calls against a GPU that is not there
(`recorded_device`). No engine has been run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest

from qvit_deploy.artifacts.engine_record import Batch, BuildRequest, Tensor
from qvit_deploy.errors import InputError
from qvit_deploy.graph.examples import Examples
from qvit_deploy.targets.tensorrt.engine.builder.build_engine import build_engine
from qvit_deploy.targets.tensorrt.engine.gpu import Gpu, find_gpu
from qvit_deploy.targets.tensorrt.engine.library import library_of
from qvit_deploy.targets.tensorrt.engine.run import engine_runner as engine_runtime
from qvit_deploy.targets.tensorrt.engine.run.layer_info import read_layers
from qvit_deploy.targets.tensorrt.engine.run.runner import EngineFileRunner
from tests.support.devices.engine_examples import small_onnx, written
from tests.support.devices.recorded_device import LAYERS, Memory, appear, built, compiling, milliseconds


def loaded(folder: Path, monkeypatch: pytest.MonkeyPatch, release: str) -> tuple[Any, Memory]:
    path, memory = appear(folder, monkeypatch, release)
    return engine_runtime.load(path), memory


@pytest.mark.parametrize("release", ["10.3.0", "11.4.0"])
def test_a_run_copies_launches_and_times(release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, memory = loaded(tmp_path, monkeypatch, release)
    for count in (2, 4, 2):
        images = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
        for _ in range(2):
            (logits,) = runner.run(Examples.images(images))
            np.testing.assert_array_equal(logits, 2 * images)
    assert memory.order[-6:] == ["in", "event", "run", "event", "out", "wait"]
    assert runner.time() == 1.25
    earlier = runner.run(Examples.images(images))[0]
    runner.run(Examples.images(images + 1))
    np.testing.assert_array_equal(earlier, 2 * images)
    runner.close()
    assert memory.order[0] == "push" and memory.order[-1] == "pop"


def test_batches_and_shapes_the_engine_was_not_built_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, _ = loaded(tmp_path, monkeypatch, "10.3.0")
    for count in (0, 5):
        with pytest.raises(InputError, match=rf"takes 1 to 4 images at a time, not {count}"):
            runner.run(Examples.images(np.zeros((count, 3), np.float32)))
    with pytest.raises(InputError, match="does not take images of shape 2x3x3"):
        runner.run(Examples.images(np.zeros((2, 3, 3), np.float32)))


def test_every_input_is_copied_in_the_type_the_engine_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    appear(tmp_path, monkeypatch)
    memory = Memory()
    api = compiling("11.4.0", memory)
    memory.install(monkeypatch)
    monkeypatch.setattr(engine_runtime, "load_library", lambda target: library_of(target, api))
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 21]>
        g (float16[2,3,8] x, float16[2,8,3] second) => (float16[2,3,3] y) { y = MatMul (x, second) }"""
    )
    content = model.SerializeToString()
    build = built().model_copy(update={"version": "11.4.0"})
    path, _ = written(tmp_path, content, batch=Batch.parse("2"), build=build)
    runner = engine_runtime.load(path)
    runner.run(Examples({"x": np.ones((2, 3, 8), np.float32), "second": np.ones((2, 8, 3), np.float32)}))
    assert [o for o in memory.order if " at " in o] == ["x at 96", "second at 96", "y at 36"]
    halves = [b.view(np.float16) for b in memory.buffers.values()]
    assert (halves[0] == 1).all() and (halves[1] == 1).all()
    assert runner.repeat() == pytest.approx(milliseconds(len(content)))
    with pytest.raises(InputError, match="takes 2 to 2 images at a time, not 3"):
        runner.run(Examples({"x": np.ones((2, 3, 8), np.float32), "second": np.ones((3, 8, 3), np.float32)}))


def test_an_engine_that_takes_pixels_is_measured_on_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    appear(tmp_path, monkeypatch)
    memory = Memory()
    api = compiling("11.4.0", memory)
    memory.install(monkeypatch)
    monkeypatch.setattr(engine_runtime, "load_library", lambda target: library_of(target, api))
    content = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 21]>
        g (uint8[2,3,8,8] image) => (float[2,3,8,8] y) { y = Cast <to = 1> (image) }"""
    ).SerializeToString()
    image = Tensor(name="image", shape=(2, 3, 8, 8), dtype="uint8")
    build = built().model_copy(update={"version": "11.4.0", "inputs": (image,)})
    path, _ = written(tmp_path, content, batch=Batch.parse("2"), build=build)
    runner = EngineFileRunner(path, None, engine_runtime.opener(path))
    assert runner.batch == 2 and runner.run_ns() > 0
    pixels = next(iter(memory.buffers.values())).view(np.uint8)
    assert len(pixels) == 2 * 3 * 8 * 8 and pixels.std() > 50
    runner.close()


def test_a_run_is_repeated_without_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, memory = loaded(tmp_path, monkeypatch, "10.3.0")
    runner.run(Examples.images(np.ones((2, 3), np.float32)))
    assert runner.device_memory() == 2 * 24
    del memory.order[:]
    assert runner.repeat() == 1.25
    assert memory.order == ["event", "run", "event", "wait"]


@pytest.mark.parametrize("release", ["10.3.0", "11.4.0"])
def test_layers_are_timed_in_every_run(release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, _ = loaded(tmp_path, monkeypatch, release)
    runner.run(Examples.images(np.ones((2, 3), np.float32)))
    assert runner.layer_times(3) == {name: [taken] * 3 for name, taken in LAYERS.items()}
    assert [layer.name for layer in read_layers(runner.layer_info())] == ["__myl_fused", "Reformat"]


def test_a_profiler_that_reports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, _ = loaded(tmp_path, monkeypatch, "10.3.0")
    runner.run(Examples.images(np.ones((2, 3), np.float32)))
    monkeypatch.setattr("tests.support.devices.recorded_device.LAYERS", {})
    with pytest.raises(InputError, match="reported no layer"):
        runner.layer_times(3)


def test_the_real_library_says_why_it_does_not_load_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-RTX's own runtime, given an engine of its own but no device."""
    pytest.importorskip("tensorrt_rtx")
    if find_gpu() is not None:
        pytest.skip("there is a GPU")
    path = tmp_path / "m.engine"
    build_engine(BuildRequest(target="tensorrt-rtx", onnx=small_onnx(tmp_path), engine=path, sm=86), timeout=120)
    memory = Memory()
    monkeypatch.setattr(engine_runtime, "require_gpu", lambda what: Gpu("Test GPU", 86))
    memory.install(monkeypatch)
    with pytest.raises(
        InputError, match=r"tensorrt-rtx 1\..* does not load it \(.*[Cc]uda.*\); build it again here"
    ) as caught:
        engine_runtime.load(path)
    assert "\n" not in str(caught.value) and memory.order == ["push", "pop"]


def test_a_gpu_is_needed(tmp_path: Path) -> None:
    if find_gpu() is not None:
        pytest.skip("there is a GPU")
    path, _ = written(tmp_path)
    with pytest.raises(InputError, match=r"running .*m\.engine needs an NVIDIA GPU and its driver"):
        engine_runtime.load(path)


def test_damage_is_found_before_a_gpu_is_looked_for(tmp_path: Path) -> None:
    path, _ = written(tmp_path)
    path.write_bytes(b"short")
    with pytest.raises(InputError, match="truncated"):
        engine_runtime.load(path)
