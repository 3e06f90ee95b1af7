"""The runner: its refusals for real; its calls against recorded names of TensorRT and a pycuda that copies in memory.

No engine has been run: what TensorRT computes when it is called so is not tested here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from engine_examples import written
from recorded_tensorrt import RecordedApi, RecordedObject

from qvit_deploy.errors import InputError
from qvit_deploy.targets import engine_runtime
from qvit_deploy.targets.cuda_driver import Gpu, find_gpu
from qvit_deploy.targets.engine import Batch
from qvit_deploy.targets.tensorrt_library import library_of

ORIN = Gpu("Orin", 87)


class Memory:
    """pycuda.driver, as far as the runner needs it: device memory is host memory with addresses."""

    def __init__(self) -> None:
        self.buffers: dict[int, np.ndarray] = {}
        self.order: list[str] = []

    def module(self) -> ModuleType:
        found, memory = ModuleType("pycuda.driver"), self

        class Allocation(int):
            pass

        class Event:
            def record(self, stream: Any) -> None:
                memory.order.append("event")

            def time_till(self, end: Any) -> float:
                return 1.25

        def mem_alloc(size: int) -> Allocation:
            address = Allocation(0x1000 * (len(memory.buffers) + 1))
            memory.buffers[address] = np.zeros(size, np.uint8)
            return address

        def to_device(device: int, host: np.ndarray, stream: Any) -> None:
            memory.order.append("in")
            memory.buffers[device][:] = np.ascontiguousarray(host).view(np.uint8).reshape(-1)

        def to_host(host: np.ndarray, device: int, stream: Any) -> None:
            memory.order.append("out")
            host.reshape(-1).view(np.uint8)[:] = memory.buffers[device]

        context = SimpleNamespace(push=lambda: self.order.append("push"), pop=lambda: self.order.append("pop"))
        found.__dict__.update(
            init=lambda: None, Device=lambda i: SimpleNamespace(retain_primary_context=lambda: context),
            Stream=lambda: SimpleNamespace(handle=5, synchronize=lambda: self.order.append("wait")), Event=Event,
            mem_alloc=mem_alloc, memcpy_htod_async=to_device, memcpy_dtoh_async=to_host, pagelocked_empty=np.empty,
        )  # fmt: skip
        return found


def doubling(release: str, memory: Memory) -> RecordedApi:
    """A library whose engine writes twice its input, of any batch, to its output."""
    api = RecordedApi(release)
    modes = api.TensorIOMode
    state: dict[str, Any] = {}

    def execute(stream: int) -> bool:
        source, target = (memory.buffers[state[n]] for n in ("image", "logits"))
        target[:] = (2 * source.view(np.float32)).view(np.uint8)
        memory.order.append("run")
        return True

    context = RecordedObject(
        api, "IExecutionContext",
        set_input_shape=lambda name, shape: state.update(shape=shape) is None and len(shape) == 2,
        get_tensor_shape=lambda name: state["shape"],
        set_tensor_address=lambda name, address: state.update({name: address}) is None,
        execute_async_v3=execute,
    )  # fmt: skip
    engine = RecordedObject(
        api, "ICudaEngine", num_io_tensors=2, get_tensor_name=lambda i: ("image", "logits")[i],
        get_tensor_mode=lambda n: modes.INPUT if n == "image" else modes.OUTPUT,
        get_tensor_dtype=lambda n: "float", create_execution_context=lambda: context,
    )  # fmt: skip
    logger = type("Logger", (), {"ERROR": 0, "__init__": lambda self, level: None})
    api.given = {
        "Runtime": lambda logger: RecordedObject(api, "Runtime", deserialize_cuda_engine=lambda b: engine),
        "Logger": logger, "TensorIOMode": modes, "nptype": lambda dtype: np.float32,
    }  # fmt: skip
    return api


class Graph:
    """A CUDA graph that calls its work."""

    def __init__(self, stream: int, work: Any) -> None:
        assert stream == 5
        self.work = work

    def launch(self) -> None:
        self.work()

    def close(self) -> None:
        self.work = None


def loaded(folder: Path, monkeypatch: pytest.MonkeyPatch, release: str) -> tuple[Any, Memory]:
    path, _ = written(folder, batch=Batch(least=1, best=2, most=4))
    memory = Memory()
    monkeypatch.setattr(engine_runtime, "require_gpu", lambda what: ORIN)
    monkeypatch.setattr(engine_runtime, "CudaGraph", Graph)
    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", memory.module())
    api = doubling(release, memory)
    api.__version__ = "10.3.0"  # the record's; the names are those of `release`
    monkeypatch.setattr(engine_runtime, "load_library", lambda target: library_of(target, api))
    return engine_runtime.load(path), memory


@pytest.mark.parametrize("release", ["10.3.0", "11.4.0"])
def test_a_run_copies_launches_and_times(release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, memory = loaded(tmp_path, monkeypatch, release)
    for count in (2, 4, 2):
        images = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
        for _ in range(2):
            (logits,) = runner.run(images)
            np.testing.assert_array_equal(logits, 2 * images)
    assert memory.order[-6:] == ["in", "event", "run", "event", "out", "wait"]
    assert runner.time() == 1.25
    kept = runner.run(images)[0]
    runner.run(images + 1)
    np.testing.assert_array_equal(kept, 2 * images)
    runner.close()
    assert memory.order[0] == "push" and memory.order[-1] == "pop"


def test_batches_and_shapes_the_engine_was_not_built_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, _ = loaded(tmp_path, monkeypatch, "10.3.0")
    for count in (0, 5):
        with pytest.raises(InputError, match=rf"takes 1 to 4 images at a time, not {count}"):
            runner.run(np.zeros((count, 3), np.float32))
    with pytest.raises(InputError, match="does not take images of shape 2x3x3"):
        runner.run(np.zeros((2, 3, 3), np.float32))


def test_an_engine_the_library_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = written(tmp_path)
    memory = Memory()
    api = doubling("10.3.0", memory)
    api.given["Runtime"] = lambda logger: RecordedObject(api, "Runtime", deserialize_cuda_engine=lambda b: None)
    monkeypatch.setattr(engine_runtime, "require_gpu", lambda what: ORIN)
    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", memory.module())
    monkeypatch.setattr(engine_runtime, "load_library", lambda target: library_of(target, api))
    with pytest.raises(InputError, match=r"tensorrt 10\.3\.0 does not load it; build it again here"):
        engine_runtime.load(path)
    assert memory.order == ["push", "pop"]


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


def test_pycuda_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = written(tmp_path)
    monkeypatch.setattr(engine_runtime, "require_gpu", lambda what: ORIN)
    api = RecordedApi("10.3.0")
    monkeypatch.setattr(engine_runtime, "load_library", lambda target: library_of(target, api))
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(InputError, match=r'needs pycuda: pip install "qvit-deploy\[tensorrt\]"'):
        engine_runtime.load(path)
