"""A GPU that is not there: recorded names of TensorRT and a pycuda whose device memory is host memory.

Neither TensorRT's runtime nor pycuda works without a device, so this is how the code that runs engines is exercised:
every name it touches exists in the release, buffers are copied, the engine writes twice its input. What a real device
does when it is called so is not tested.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from qvit_deploy.artifacts.engine_record import Batch, BuildResult, Tensor
from qvit_deploy.targets.tensorrt.engine.gpu import Gpu
from qvit_deploy.targets.tensorrt.engine.library import library_of
from qvit_deploy.targets.tensorrt.engine.run import engine_runner as engine_runtime
from tests.support.devices.recorded_tensorrt import RecordedApi, RecordedObject, building

if TYPE_CHECKING:
    import pytest

ORIN = Gpu("Orin", 87)
LAYERS = {"fc1/MatMul": 0.5, "__myl_fused": 0.25, "Reformat": 0.125}
"""What the engine's profiler reports, milliseconds."""
DTYPES = {onnx.TensorProto.FLOAT: "FLOAT", onnx.TensorProto.FLOAT16: "HALF", onnx.TensorProto.UINT8: "UINT8"}
STREAM = 0x500000000
"""The handle that `driver_stand_in` knows."""


class Memory:
    """pycuda.driver, as far as the runner needs it: device memory is host memory with addresses.

    Attributes:
        milliseconds: between two events that are made from now on.
    """

    def __init__(self) -> None:
        self.buffers: dict[int, np.ndarray] = {}
        self.order: list[str] = []
        self.milliseconds = 1.25

    def install(self, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
        """Lets pycuda be imported, which this machine without CUDA has not; returns `pycuda.driver`."""
        driver = self.module()
        monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
        monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
        return driver

    def module(self) -> ModuleType:
        driver, memory = ModuleType("pycuda.driver"), self

        class Allocation(int):
            pass

        class Event:
            def __init__(self) -> None:
                self.milliseconds = memory.milliseconds

            def record(self, stream: Any) -> None:
                memory.order.append("event")

            def time_till(self, end: Any) -> float:
                return self.milliseconds

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
        device = SimpleNamespace(  # that of `driver_stand_in`
            retain_primary_context=lambda: context,
            name=lambda: "Test GPU 7",
            compute_capability=lambda: divmod(int(os.environ.get("GPU_SM", "87")), 10),
        )
        driver.__dict__.update(
            init=lambda: None, Device=lambda i: device, Error=type("Error", (Exception,), {}),
            Stream=lambda: SimpleNamespace(handle=STREAM, synchronize=lambda: self.order.append("wait")), Event=Event,
            mem_get_info=lambda: (10_000 - sum(b.nbytes for b in self.buffers.values()), 10_000),
            mem_alloc=mem_alloc, memcpy_htod_async=to_device, memcpy_dtoh_async=to_host, pagelocked_empty=np.empty,
        )  # fmt: skip
        return driver


def doubling(release: str, memory: Memory) -> RecordedApi:
    """A library whose engine writes twice its input, of any batch, to its output."""
    api = RecordedApi(release)
    modes = api.TensorIOMode
    state: dict[str, Any] = {}

    def execute(stream: int) -> bool:
        source, target = (memory.buffers[state[n]] for n in ("image", "logits"))
        target[:] = (2 * source.view(np.float32)).view(np.uint8)
        memory.order.append("run")
        for (profiler,) in api.called("IExecutionContext.profiler=")[-1:]:
            for layer, taken in LAYERS.items():
                profiler.report_layer_time(layer, taken)
        return True

    context = RecordedObject(
        api, "IExecutionContext",
        set_input_shape=lambda name, shape: state.update(shape=shape) is None and len(shape) == 2,
        get_tensor_shape=lambda name: state["shape"],
        set_tensor_address=lambda name, address: state.update({name: address}) is None,
        execute_async_v3=execute,
    )  # fmt: skip
    fused = {"Name": "__myl_fused", "LayerType": "kgen", "Metadata": "[ONNX Layer: fc2/Add]"}
    described = {"Layers": [fused, {"Name": "Reformat", "LayerType": "Reformat"}]}
    inspector = RecordedObject(api, "EngineInspector", get_engine_information=lambda f: json.dumps(described))
    engine = RecordedObject(
        api, "ICudaEngine", create_engine_inspector=lambda: inspector, num_io_tensors=2,
        get_tensor_name=lambda i: ("image", "logits")[i],
        get_tensor_mode=lambda n: modes.INPUT if n == "image" else modes.OUTPUT,
        get_tensor_dtype=lambda n: "float", create_execution_context=lambda: context,
    )  # fmt: skip
    api.given = {
        "Runtime": lambda logger: RecordedObject(api, "Runtime", deserialize_cuda_engine=lambda b: engine),
        "TensorIOMode": modes, "nptype": lambda dtype: np.float32,
    }  # fmt: skip
    return api


def milliseconds(model: int) -> float:
    """What a run takes of an engine that `compiling` made of an ONNX file of so many bytes."""
    return 0.125 + model / 1e5


def compiling(release: str, memory: Memory) -> RecordedApi:
    """A library whose engines are the ONNX files they were built from. They are given inputs and compute nothing.

    A plugin library is a text file of operators, one a line."""
    creators: list[Any] = []
    api = building(release, creators=lambda: creators)
    modes, parsed, build = api.TensorIOMode, list[bytes](), api.given["Builder"](None).create_builder_config
    network = RecordedObject(api, "INetworkDefinition", num_layers=7)

    def tensors(model: bytes) -> list[tuple[str, Any, RecordedObject]]:
        graph = onnx.load_from_string(model).graph
        return [
            (value.name, mode, RecordedObject(
                api, "ITensor", name=value.name, dtype=f"DataType.{DTYPES[value.type.tensor_type.elem_type]}",
                shape=tuple(d.dim_value for d in value.type.tensor_type.shape.dim),
            ))
            for mode, values in ((modes.INPUT, graph.input), (modes.OUTPUT, graph.output))
            for value in values
        ]  # fmt: skip

    def parse(model: bytes) -> bool:
        parsed[:] = [model]
        inputs, outputs = ([t for _, m, t in tensors(model) if m == mode] for mode in (modes.INPUT, modes.OUTPUT))
        object.__setattr__(network, "_given", {
            "num_layers": 7, "num_inputs": len(inputs), "num_outputs": len(outputs),
            "get_input": inputs.__getitem__, "get_output": outputs.__getitem__,
        })  # fmt: skip
        return True

    def deserialize(model: bytes) -> RecordedObject:
        known = {name: (mode, tensor) for name, mode, tensor in tensors(model)}
        names = list(known)
        memory.milliseconds = milliseconds(len(model))
        context = RecordedObject(
            api, "IExecutionContext", get_tensor_shape=lambda name: known[name][1].shape,
            set_input_shape=lambda name, shape: known[name][1].shape == shape,
            set_tensor_address=lambda name, address: memory.order.append(f"{name} at {memory.buffers[address].nbytes}"),
            execute_async_v3=lambda stream: True,
        )  # fmt: skip
        return RecordedObject(
            api, "ICudaEngine", num_io_tensors=len(names), get_tensor_name=names.__getitem__,
            get_tensor_mode=lambda n: known[n][0], get_tensor_dtype=lambda n: known[n][1].dtype,
            create_execution_context=lambda: context,
        )  # fmt: skip

    class Registry:
        all_creators = property(lambda self: creators)

        def load_library(self, path: str) -> object:
            creators.extend(
                SimpleNamespace(name=name, plugin_version="1", plugin_namespace="qvit")
                for name in Path(path).read_text().split()
            )
            return object()

    api.given |= {
        "Builder": lambda logger: RecordedObject(
            api, "Builder", create_network=lambda flags: network, create_builder_config=build,
            create_optimization_profile=lambda: RecordedObject(api, "IOptimizationProfile"),
            build_serialized_network=lambda n, c: parsed[0],
        ),
        "OnnxParser": lambda n, logger: RecordedObject(api, "OnnxParser", parse=parse, num_errors=0),
        "Runtime": lambda logger: RecordedObject(api, "Runtime", deserialize_cuda_engine=deserialize),
        "get_plugin_registry": Registry, "TensorIOMode": modes,
        "nptype": lambda dtype: {
            "DataType.FLOAT": np.float32, "DataType.HALF": np.float16, "DataType.UINT8": np.uint8,
        }[dtype],
    }  # fmt: skip
    return api


class Graph:
    """A CUDA graph that calls its work."""

    def __init__(self, stream: int, work: Any) -> None:
        assert stream == STREAM
        self.work = work

    def launch(self) -> None:
        self.work()

    def close(self) -> None:
        self.work = None


def built(gpu: str = ORIN.name) -> BuildResult:
    """What a build on a GPU of SM87 says of an engine for images [3]."""
    image = Tensor(name="image", shape=(-1, 3), dtype="float")
    return BuildResult(
        version="10.3.0", sm=87, gpu=gpu, inputs=(image,), outputs=(), operators=(), messages=(), layers=3,
        parse_seconds=0.1, build_seconds=1.0, peak_memory_bytes=1,
    )  # fmt: skip


def appear(folder: Path, monkeypatch: pytest.MonkeyPatch, release: str = "10.3.0") -> tuple[Path, Memory]:
    """(an engine for 1 to 4 images [3] with its record, the memory of an Orin that has TensorRT and pycuda)."""
    from tests.support.devices.engine_examples import written  # imports torch, which a worker does without

    path, _ = written(folder, batch=Batch(least=1, best=2, most=4), build=built())
    memory = Memory()
    monkeypatch.setattr(engine_runtime, "require_gpu", lambda what: ORIN)
    monkeypatch.setattr(engine_runtime, "CudaGraph", Graph)
    memory.install(monkeypatch)
    api = doubling(release, memory)
    api.__version__ = "10.3.0"  # the record's; the names are those of `release`
    monkeypatch.setattr(engine_runtime, "load_library", lambda target: library_of(target, api))
    return path, memory
