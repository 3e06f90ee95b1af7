"""Stand-ins for the `tensorrt` module that have the names of a real release and no others.

`tensorrt_api/*.json` were recorded from NVIDIA's own wheels (tools/ci/record_tensorrt_api.py). No release can be
installed from PyPI alone, so this is as far as the adapter's `tensorrt` side is exercised without a device: every name
it touches exists in that release. What the calls do is not exercised.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

RECORDINGS = Path(__file__).parent / "tensorrt_api"


class RecordedObject:
    """An instance of a recorded class: known names only; `given` answers, the rest is None and may be set or called."""

    def __init__(self, api: RecordedApi, kind: str, **given: Any) -> None:
        object.__setattr__(self, "_names", set(api.classes[kind]))
        object.__setattr__(self, "_kind", kind)
        object.__setattr__(self, "_given", given)
        object.__setattr__(self, "_api", api)
        unknown = set(given) - self._names
        assert not unknown, f"{kind} of {api.version} has no {unknown}"

    def __getattr__(self, name: str) -> Any:
        if name not in self._names:
            raise AttributeError(f"{self._kind} of TensorRT {self._api.version} has no {name}")
        if name in self._given:
            return self._given[name]

        def call(*arguments: Any, **named: Any) -> None:
            self._api.calls.append((f"{self._kind}.{name}", arguments, named))

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._names:
            raise AttributeError(f"{self._kind} of TensorRT {self._api.version} has no {name}")
        self._api.calls.append((f"{self._kind}.{name}=", (value,), {}))


class RecordedApi:
    """The module. `calls` lists what was called and set: (name, arguments, named arguments)."""

    def __init__(self, release: str, **module: Any) -> None:
        tree = json.loads((RECORDINGS / f"{release}.json").read_text())
        self.version = tree["version"]
        self.__version__ = tree["version"]
        self.classes: dict[str, list[str]] = tree["classes"]
        self.names: set[str] = set(tree["module"])
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.given: dict[str, Any] = module

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self.names:
            raise AttributeError(f"TensorRT {self.version} has no {name}")
        if name in self.given:
            return self.given[name]
        if name in ("ILogger", "IProfiler", "IProgressMonitor"):
            return type(name, (), {n: n for n in self.classes[name] if n.isupper()})
        if name in self.classes:
            # Enumerations: their members are distinct numbers.
            return SimpleNamespace(**{n: i for i, n in enumerate(self.classes[name])})
        return lambda *arguments: self.calls.append((name, arguments, {}))

    def called(self, name: str) -> list[tuple[Any, ...]]:
        return [arguments for called, arguments, _ in self.calls if called == name]


def building(release: str, engine: bytes | None = b"engine", creators: Callable[[], list[Any]] = list) -> RecordedApi:
    """A module whose builder returns `engine` for a network of one image input and one output."""
    api = RecordedApi(release)
    image = RecordedObject(api, "ITensor", name="image", shape=(-1, 1, 28, 28), dtype="DataType.FLOAT")
    logits = RecordedObject(api, "ITensor", name="logits", shape=(-1, 10), dtype="DataType.FLOAT")
    network = RecordedObject(
        api, "INetworkDefinition", num_inputs=1, num_outputs=1, num_layers=7,
        get_input=lambda i: image, get_output=lambda i: logits,
    )  # fmt: skip
    cache = RecordedObject(api, "ITimingCache", serialize=lambda: b"timings")
    config = RecordedObject(api, "IBuilderConfig", create_timing_cache=lambda b: cache, get_timing_cache=lambda: cache)

    def create_network(flags: int) -> RecordedObject:
        api.calls.append(("Builder.create_network", (flags,), {}))
        return network

    builder = RecordedObject(
        api, "Builder", create_network=create_network, create_builder_config=lambda: config,
        create_optimization_profile=lambda: RecordedObject(api, "IOptimizationProfile"),
        build_serialized_network=lambda n, c: engine,
    )  # fmt: skip
    inspector = RecordedObject(api, "EngineInspector", get_engine_information=lambda f: '{"Layers": []}')
    loaded = RecordedObject(api, "ICudaEngine", create_engine_inspector=lambda: inspector)

    class Registry:
        all_creators = property(lambda self: creators())

        def load_library(self, path: str) -> object:
            api.calls.append(("load_library", (path,), {}))
            return object()

    api.given = {
        "Builder": lambda logger: builder,
        "OnnxParser": lambda network, logger: RecordedObject(api, "OnnxParser", parse=lambda data: True, num_errors=0),
        "Runtime": lambda logger: RecordedObject(api, "Runtime", deserialize_cuda_engine=lambda b: loaded),
        "get_plugin_registry": Registry,
    }
    return api
