"""Running the model once at a given batch size to read off shapes and the values of shape arithmetic.

ONNX Runtime is the authority on what a graph means, so nothing here re-implements shape inference: every
activation is replaced by its Shape, every value that does not depend on pixels is returned as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from qvit_deploy.graph.edit import value_names
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.interface import IMAGE, Interface
from qvit_deploy.graph.synthetic import noise

_LARGE_BYTES = 1024


@dataclass(frozen=True)
class Measurement:
    """What one run reports: the shapes of activations, and the values of everything else that was named."""

    shapes: dict[str, tuple[int, ...]]
    values: dict[str, np.ndarray]


class Probe:
    """An ONNX Runtime session over `model` that can be run at several batch sizes.

    `activations` are the values to report the shapes of, `values` those to report in full.
    """

    def __init__(self, model: ir.Model, activations: Collection[str], values: Collection[str]) -> None:
        self._model = model
        self._activations = list(activations)
        self._values = list(values)
        self._prefix = "shape_of/"
        while any(name.startswith(self._prefix) for name in value_names(model.graph)):
            self._prefix = f"_{self._prefix}"

    @cached_property
    def _session(self) -> ort.InferenceSession:
        shapes = [onnx.helper.make_node("Shape", [name], [self._prefix + name]) for name in self._activations]
        return open_session(self._model, [*self._values, *(node.output[0] for node in shapes)], shapes)

    def run(self, batch: int, values: Collection[str]) -> Measurement:
        """Feeds `batch` made-up examples and returns activation shapes and the named `values`."""
        feeds = noise(Interface.of(self._model).inputs, batch).feeds
        names = [*values, *(self._prefix + name for name in self._activations)]
        results = self._session.run(names, feeds)
        count = len(values)
        shapes = {
            name: tuple(int(d) for d in result) for name, result in zip(self._activations, results[count:], strict=True)
        }
        return Measurement(shapes, dict(zip(values, results[:count], strict=True)))


def open_session(model: ir.Model, outputs: Sequence[str], nodes: Sequence[onnx.NodeProto] = ()) -> ort.InferenceSession:
    """Opens a model, in any state between rewrites, in ONNX Runtime, which runs it operator by operator.

    Args:
        outputs: names of values, which become the outputs in place of the model's own.
        nodes: are added behind the model's.
    """
    model = model.clone()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    # Folded weights are results; out of an arena, they would keep all of it (1.7 GB for ViT-B) for good.
    options.enable_cpu_mem_arena = False
    # Large weights are handed over in memory: the protobuf stays small and free of the 2 GB limit.
    names, weights = [], []
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= _LARGE_BYTES:
            continue
        names.append(name)
        weights.append(ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tensor.numpy())))
        value.const_value = ir.ExternalTensor(
            "in-memory", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
        )
    if names:
        options.add_external_initializers(names, weights)
    proto = ir.to_proto(model)
    proto.graph.ClearField("value_info")
    proto.graph.ClearField("output")
    for i, node in enumerate(proto.graph.node):  # ONNX Runtime refuses two nodes of one name
        node.name = f"{node.name}#{i}"
    proto.graph.node.extend(nodes)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


_NUMPY_TYPES = {"tensor(float16)": np.float16, "tensor(double)": np.float64}


def as_input(session: ort.InferenceSession, examples: Examples[np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the inputs as the session takes them, in its types; the image goes by whatever name it has there."""
    feeds = examples.feeds
    return {
        value.name: np.asarray(array, _NUMPY_TYPES.get(value.type, array.dtype))
        for value in session.get_inputs()
        for array in [feeds[value.name] if value.name in feeds else feeds[IMAGE]]
    }
