"""ONNX functions of the operators that our plugins run: bodies of standard operators with the same integers.

A runtime without the plugins runs the bodies. They keep to operators that every runtime has, and give fixed names to
the tensors that verification reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from qvit_deploy.emit.local_functions import DOMAIN
from qvit_deploy.graph.graph import CANONICAL_OPSET

PLUGIN_VERSION = "1"

PLUGIN = {"plugin_namespace": DOMAIN, "plugin_version": PLUGIN_VERSION}
"""Attributes of every node that a plugin runs."""


class Body:
    """The nodes of a function body. Every method adds nodes and returns the name of their result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []

    def op(self, op_type: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Adds a node; its result is called `output`, or else by its operator and number."""
        output = output or f"{op_type.lower()}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(op_type, inputs, [output], **attributes))
        return output

    def number(self, value: float) -> str:
        """Adds a float32 scalar."""
        return self.op("Constant", value_float=float(value))

    def ints(self, *values: int) -> str:
        """Adds an int64 vector."""
        return self.op("Constant", value_ints=list(values))

    def attribute(self, name: str, field: str, kind: str) -> str:
        """Adds the function's attribute `name` as a tensor.

        Args:
            field, kind: `value_float` and FLOAT, `value_floats` and FLOATS, or `value_int` and INT.
        """
        output = self.op("Constant")
        self.nodes[-1].attribute.append(onnx.AttributeProto(name=field, type=kind, ref_attr_name=name))
        return output

    def floats(self, *names: str) -> list[str]:
        """Adds the function's own attributes of those names, float32 scalars."""
        return [self.attribute(name, "value_float", "FLOAT") for name in names]

    def wide(self, x: str, output: str = "") -> str:
        """Casts x to float32."""
        return self.op("Cast", x, output=output, to=onnx.TensorProto.FLOAT)

    def codes(self, x: str, scale: str, low: str, high: str, codes: str) -> str:
        """Clips float32 x to [low, high] and rounds it to int8 codes, which are called `codes`."""
        zero_point = self.op("Constant", value=onnx.numpy_helper.from_array(np.array(0, np.int8)))
        return self.op("QuantizeLinear", self.op("Clip", x, low, high), scale, zero_point, output=codes)

    def quantized(self, x: str, scale: str, low: str, high: str, codes: str) -> str:
        """Quantizes float32 x as `codes` does, and dequantizes the codes."""
        return self.op("DequantizeLinear", self.codes(x, scale, low, high, codes), scale)

    def function(self, name: str, inputs: Sequence[str], output: str, attributes: Sequence[str]) -> onnx.FunctionProto:
        """Returns the function `qvit::name` with these nodes as its body."""
        opsets = [onnx.helper.make_opsetid("", CANONICAL_OPSET)]
        names = [*attributes, *PLUGIN]
        return onnx.helper.make_function(DOMAIN, name, list(inputs), [output], self.nodes, opsets, names)
