"""The one representation: a canonical ONNX graph, thin over `onnx_ir.Model`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir

from qvit_deploy.graph.interface import Interface

CANONICAL_OPSET = 21


@dataclass(frozen=True)
class Graph:
    """A canonical model: default-domain operators at `CANONICAL_OPSET`; `interface` says what goes in and comes out.

    `image_name` is what the model that was handed in calls its image input, where that is another name; no file has it.

    Stages treat it as a value: whoever changes a graph works on `clone()`.
    """

    model: ir.Model
    name: str
    image_name: str | None = field(default=None, kw_only=True)

    @property
    def interface(self) -> Interface:
        """The inputs and outputs by name."""
        interface = Interface.of(self.model)
        return interface if self.image_name is None else interface.with_given_name(self.image_name)

    @property
    def inputs(self) -> list[ir.Value]:
        """The input values, in the model's order."""
        return list(self.model.graph.inputs)

    @property
    def outputs(self) -> list[ir.Value]:
        """The output values, in the model's order."""
        return list(self.model.graph.outputs)

    @property
    def initializers(self) -> dict[str, ir.Value]:
        """Name -> value of every constant, in the model's order."""
        return dict(self.model.graph.initializers)

    def nodes(self) -> Iterator[ir.Node]:
        """Nodes in topological order."""
        return iter(self.model.graph)

    @property
    def static_batch(self) -> int | None:
        """The batch size baked into the graph, or None when any batch runs."""
        return self.interface.static_batch

    def clone(self) -> Graph:
        """Returns an independent copy: nodes and values are new, constant tensors are shared (never mutate them)."""
        return Graph(self.model.clone(), self.name, image_name=self.image_name)

    def to_proto(self) -> onnx.ModelProto:
        """Returns the graph as an ONNX protobuf."""
        return ir.to_proto(self.model)

    def serialize(self) -> bytes:
        """Returns the .onnx file's bytes; equal graphs give equal bytes."""
        return self.to_proto().SerializeToString(deterministic=True)

    @classmethod
    def deserialize(cls, content: bytes, name: str) -> Graph:
        """Reads the graph that `serialize` wrote."""
        return cls(ir.from_proto(onnx.load_from_string(content)), name)

    def digest(self) -> str:
        """Returns the SHA-256 of `serialize`, hexadecimal."""
        return hashlib.sha256(self.serialize()).hexdigest()


def constant(value: ir.Value | None) -> np.ndarray | None:
    """Returns the numpy array behind an initializer or Constant node, or None when the value depends on data."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()
