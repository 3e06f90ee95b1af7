"""Runs models in OpenVINO's CPU plugin, and reads the graph that it compiled them to.

openvino is imported when it is needed: neither a compile nor a device must have it. An .onnx file whose name ends in
`.openvino.onnx` runs here, as OpenVINO's own .xml files do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from qvit_deploy.errors import InputError
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.interface import Shape, inputs_of, static_batch
from qvit_deploy.graph.synthetic import shape_of
from qvit_deploy.targets.batches import DEFAULT_BATCH, in_batches, outputs_in_batches, run_batch
from qvit_deploy.targets.openvino import NAME
from qvit_deploy.targets.processor import thread_count

if TYPE_CHECKING:
    import openvino

FLOAT32 = "f32"
"""Precision of the bundle's files between integer products, in which they are verified. OpenVINO's default is bfloat16
where the CPU has it, which moves values across the boundaries between codes."""

INTEGERS = ("i8", "u8")
PRODUCTS = ("FullyConnected", "FullyConnectedQuantized", "FullyConnectedQuantizedLegacy", "MatMul", "Convolution")
"""Layer types of products in the graph that runs."""


def runs_in_openvino(path: Path) -> bool:
    """Returns whether a file of this name is for OpenVINO."""
    return path.suffix == ".xml" or path.name.endswith(f".{NAME}.onnx")


def openvino_precision(path: Path) -> str | None:
    """Returns the precision of a file between integer products: float32 for the bundle's files and for `NAME.f32.xml`,
    None (OpenVINO's choice) for others."""
    return FLOAT32 if path.name.endswith((".onnx", f".{FLOAT32}.xml")) else None


def require_openvino(why: str) -> None:
    """Raises InputError, which begins with `why`, when openvino is not installed."""
    try:
        import openvino  # noqa: F401
    except ImportError:
        raise InputError(f"{why} needs OpenVINO, which is not installed: pip install openvino") from None


@dataclass(frozen=True)
class Layer:
    """A layer of the graph that runs.

    Attributes:
        name: as the profiler calls it.
        kind: its type there.
        originals: nodes of the model that were fused into it.
        inputs: (name of the layer that computes it, precision) of each input.
    """

    name: str
    kind: str
    originals: tuple[str, ...]
    inputs: tuple[tuple[str, str], ...]

    @property
    def on_integers(self) -> bool:
        """Whether the layer is a product of integers."""
        return self.kind in PRODUCTS and all(precision in INTEGERS for _, precision in self.inputs[:2])


class OpenVinoModel:
    """A model compiled for the CPU, for a fixed number of images at a time.

    Attributes:
        inputs: of the file, open dimensions as text.
        batch: examples per run that it is compiled for.
    """

    def __init__(
        self,
        model: Path | bytes,
        *,
        batch: int | None = None,
        any_batch: int = DEFAULT_BATCH,
        threads: int = 0,
        fetch: Sequence[str] = (),
        precision: str | None = FLOAT32,
        profiled: bool = False,
    ) -> None:
        """Loads and compiles.

        Args:
            batch: images at a time; None for the file's own number, or `any_batch` where it takes any number.
            threads: 0 for `OMP_NUM_THREADS`, or one per core where it is not set.
            fetch: tensors that become the outputs, in place of the model's own.
            precision: of everything but integer products; None for OpenVINO's choice.
            profiled: measures layers, for `layer_ms`.

        Raises:
            InputError: openvino is not installed or refuses the model or the batch size; the message has its reason.
        """
        where = "model" if isinstance(model, bytes) else str(model)
        require_openvino(f"{where}: running it")
        import openvino

        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "PERF_COUNT": profiled}
        if count := thread_count(threads):
            config["INFERENCE_NUM_THREADS"] = count
        if precision is not None:
            config["INFERENCE_PRECISION_HINT"] = precision
        core = openvino.Core()
        try:
            loaded = core.read_model(model, b"") if isinstance(model, bytes) else core.read_model(model)
            self.inputs = inputs_of([_declared(value) for value in loaded.inputs])
            self._output_shapes = [_declared(value)[1] for value in loaded.outputs]
            self.batch = run_batch(where, self.inputs, batch, any_batch)
            loaded.reshape({value.name: list(shape_of(value, self.batch)) for value in self.inputs})
            if fetch:
                loaded = openvino.Model(_outputs(loaded, fetch), loaded.get_parameters(), "probe")
            self._compiled = core.compile_model(loaded, "CPU", config)
        except RuntimeError as error:  # all that OpenVINO raises
            raise InputError(f"{where}: OpenVINO cannot load it: {_reason(error)}") from error
        self._where = where
        self._request = self._compiled.create_infer_request()

    def infer(self, batch: Examples[np.ndarray]) -> list[np.ndarray]:
        """Runs `batch` examples; returns the outputs, which the next call overwrites.

        Raises:
            InputError: OpenVINO cannot run the model on them; the message has its reason.
        """
        feeds = batch.feeds_for([value.name for value in self.inputs])
        try:
            results = self._request.infer(feeds, share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise InputError(f"{self._where}: OpenVINO cannot run it: {_reason(error)}") from error
        return [results[i] for i in range(len(self._compiled.outputs))]

    def run(self, images: Examples[np.ndarray]) -> list[np.ndarray]:
        """Runs any number of examples; returns the outputs, each [n, ...]."""
        return in_batches(images, self.batch, self._copied)

    def outputs(self, images: Examples[np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs for any number of examples by name, each [n, ...]."""
        names = [_name(value) for value in self._compiled.outputs]
        fixed = static_batch(self.inputs)
        values = outputs_in_batches(images, self.batch, self._copied, self._output_shapes, fixed)
        return dict(zip(names, values, strict=True))

    def _copied(self, batch: Examples[np.ndarray]) -> list[np.ndarray]:
        return [output.copy() for output in self.infer(batch)]

    def layers(self) -> list[Layer]:
        """Returns the layers of the graph that runs, in its order."""
        layers = []
        for node in self._compiled.get_runtime_model().get_ordered_ops():
            inputs = [_producer(node.input_value(i)) for i in range(node.get_input_size())]
            originals = tuple(filter(None, _info(node, "originalLayersNames").split(",")))
            layers.append(Layer(node.get_friendly_name(), _info(node, "layerType"), originals, tuple(inputs)))
        return layers

    def layer_ms(self) -> Mapping[str, float]:
        """Returns by layer the milliseconds it took in the last call, for a model made with `profiled`."""
        return {p.node_name: p.real_time.total_seconds() * 1e3 for p in self._request.get_profiling_info()}


def _reason(error: RuntimeError) -> str:
    """Returns the last line of OpenVINO's message, which says what is wrong."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "no reason given")


def _declared(value: openvino.Output) -> tuple[str, Shape, ir.DataType]:
    shape = tuple(d.get_length() if d.is_static else str(d) for d in value.partial_shape)
    return _name(value), shape, ir.DataType.from_numpy(value.element_type.to_dtype())


def _name(value: openvino.Output) -> str:
    """Returns the name that the model's file gives an input or output, which OpenVINO lists among those of the tensors
    that it found to be the same."""
    given: str = value.get_node().get_friendly_name().removesuffix("/sink_port_0")
    return given if given in value.get_names() else value.any_name


def _producer(value: openvino.Output) -> tuple[str, str]:
    """Returns (layer, precision) of what a layer reads; a layer lists the precisions of all its outputs in one text."""
    node = value.get_node()
    precisions = _info(node, "outputPrecisions").split(",")
    return node.get_friendly_name(), precisions[min(value.get_index(), len(precisions) - 1)]


def _outputs(model: openvino.Model, tensors: Sequence[str]) -> list[openvino.Output]:
    """Returns what makes each of `tensors`, after one look at every output: asking one for its names takes long."""
    known: dict[str, openvino.Output] = {}
    for node in model.get_ops():
        for output in node.outputs():
            for name in output.get_names():
                known.setdefault(name, output)
    return [known[name] for name in tensors]


def _info(node: openvino.Node, key: str) -> str:
    info = node.get_rt_info()
    return str(info[key].astype(str)) if key in info else ""
