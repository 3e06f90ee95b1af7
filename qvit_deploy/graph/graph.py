"""The one representation: a canonical ONNX graph, thin over `onnx_ir.Model`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

CANONICAL_OPSET = 21


@dataclass(frozen=True)
class Graph:
    """A canonical model: one image input, default-domain operators at `CANONICAL_OPSET`.

    Stages treat it as a value: whoever changes a graph works on `clone()`.
    """

    model: ir.Model
    name: str

    @property
    def input(self) -> ir.Value:
        """The image input, float32 [batch, channels, height, width]."""
        return self.model.graph.inputs[0]

    @property
    def outputs(self) -> list[ir.Value]:
        return list(self.model.graph.outputs)

    @property
    def initializers(self) -> dict[str, ir.Value]:
        return dict(self.model.graph.initializers)

    def nodes(self) -> Iterator[ir.Node]:
        """Nodes in topological order."""
        return iter(self.model.graph)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the input."""
        shape = self.input.shape
        assert shape is not None
        _, c, h, w = (d if isinstance(d, int) else -1 for d in shape)
        return c, h, w

    @property
    def static_batch(self) -> int | None:
        """The batch size baked into the graph, or None when any batch runs."""
        shape = self.input.shape
        assert shape is not None
        return shape[0] if isinstance(shape[0], int) else None

    def clone(self) -> Graph:
        """An independent copy: nodes and values are new, constant tensors are shared (never mutate them)."""
        return Graph(self.model.clone(), self.name)

    def to_proto(self) -> onnx.ModelProto:
        return ir.to_proto(self.model)

    def serialize(self) -> bytes:
        """The .onnx file's bytes; equal graphs give equal bytes."""
        return self.to_proto().SerializeToString(deterministic=True)

    @classmethod
    def deserialize(cls, content: bytes, name: str) -> Graph:
        """The graph that `serialize` wrote."""
        return cls(ir.from_proto(onnx.load_from_string(content)), name)

    def digest(self) -> str:
        """SHA-256 of `serialize`."""
        return hashlib.sha256(self.serialize()).hexdigest()


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The numpy array behind an initializer or Constant node, or None when the value depends on data."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()
