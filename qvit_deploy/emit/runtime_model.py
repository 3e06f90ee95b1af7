"""A Q/DQ graph rewritten for one runtime on a CPU, and where the tensors of the Q/DQ graph are in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir

CODE_SHIFT = 128
"""What is added to an int8 code to make it the uint8 one."""


@dataclass(frozen=True, eq=False)
class RuntimeModel:
    """The model that was written, and how its tensors correspond to those of the Q/DQ graph.

    Attributes:
        proto: the model.
        codes: name of int8 codes in the Q/DQ graph -> tensor of `proto` that holds them; of a uint8 one, plus
            `CODE_SHIFT`.
        rows: tensor -> the rows (of axis 1) of the Q/DQ graph's that it is.
        linears: names of the products of quantized linears.
        attentions: how many attentions became one operator.
        convolutions: product of every convolution that runs on integers -> the constant with its weight's codes.
        biases: output of a linear -> the largest bias added to it, where that is another than the plan's.
        left_out: nodes of the Q/DQ graph that the file does without, and whose results can be compared nevertheless.
    """

    proto: onnx.ModelProto
    codes: Mapping[str, str]
    rows: Mapping[str, tuple[int, ...]]
    linears: tuple[str, ...]
    attentions: int = 0
    convolutions: Mapping[str, str] = field(default_factory=dict)
    biases: Mapping[str, float] = field(default_factory=dict)
    left_out: tuple[onnx.NodeProto, ...] = ()

    @property
    def model(self) -> ir.Model:
        """The model as `onnx_ir`, parsed anew at every access."""
        return ir.from_proto(self.proto)

    def serialize(self) -> bytes:
        """Returns the file's bytes; equal models give equal bytes."""
        return self.proto.SerializeToString(deterministic=True)

    def probed(self) -> bytes:
        """Returns the file with the nodes that it does without, for a comparison of their results."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        proto.graph.node.extend(self.left_out)
        for name in (name for node in self.left_out for name in node.output):  # runtimes drop what reaches no output
            proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        return proto.SerializeToString(deterministic=True)

    def renamed(self, names: list[str]) -> list[str]:
        """Returns the names here of tensors of the Q/DQ graph."""
        return [self.codes.get(name, name) for name in names]

    def signed(self, name: str, array: np.ndarray) -> np.ndarray:
        """Returns tensor `name` of the Q/DQ graph, computed from the one that holds it here: codes as int8."""
        if name not in self.codes or array.dtype != np.uint8:
            return array
        return (array.astype(np.int16) - CODE_SHIFT).astype(np.int8)
