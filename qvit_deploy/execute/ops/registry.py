"""The operator table: ONNX node -> differentiable torch function.

Each entry is a *builder*: it reads a node's attributes and constant inputs once and returns the function that
runs at every call. Integer tensors (shapes, indices) live on the CPU; quantized codes are carried as float32
integers so that gradients pass through them (see `quant`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from qvit_deploy.errors import UnsupportedOpError
from qvit_deploy.graph.graph import constant
from qvit_deploy.graph.supported import unsupported

Tensor = torch.Tensor
OpFn = Callable[..., Any]
Builder = Callable[["NodeView"], OpFn]

OPS: dict[str, Builder] = {}


class NodeView:
    """A node's attributes and constant inputs, as plain Python and numpy values."""

    def __init__(self, node: ir.Node) -> None:
        self.node = node

    def attr(self, name: str, default: Any = None) -> Any:
        """Returns the attribute as a Python value, or `default` when the node lacks it."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.value

    def const(self, index: int) -> np.ndarray | None:
        """Returns the constant behind input `index`, or None when it is absent or computed from data."""
        return constant(self.node.inputs[index]) if index < len(self.node.inputs) else None

    def has(self, index: int) -> bool:
        """Tells whether input `index` is present."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def ints(self, index: int) -> list[int] | None:
        """Returns the constant input `index` as a flat list, or None when it is absent or computed from data."""
        value = self.const(index)
        return None if value is None else [int(v) for v in value.reshape(-1)]

    def unsupported(self, why: str) -> UnsupportedOpError:
        """Returns the error that says why this node cannot run."""
        return UnsupportedOpError(self.node.op_type, self.node.name or "?", why)


def op(*names: str) -> Callable[[Builder], Builder]:
    """Registers a builder of torch functions for operator types."""

    def register(builder: Builder) -> Builder:
        for name in names:
            OPS[name] = builder
        return builder

    return register


def ops_without_attributes(functions: Mapping[str, OpFn]) -> None:
    """Registers operators that are one torch function each, whatever the node says."""

    @op(*functions)
    def build(view: NodeView) -> OpFn:
        return functions[view.node.op_type]


def build(node: ir.Node) -> OpFn:
    """Returns the torch function of `node`. Raises UnsupportedOpError, naming the operator and the node."""
    builder = OPS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if builder is None:
        raise unsupported(node)
    return builder(NodeView(node))


def runtime_ints(tensor: Tensor) -> list[int]:
    """Integers of a shape-like tensor computed at run time."""
    return [int(v) for v in tensor.reshape(-1).tolist()]
