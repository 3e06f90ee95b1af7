"""ONNX operators as differentiable torch functions; the modules register theirs when they are imported here."""

from __future__ import annotations

from qvit_deploy.execute.ops import elementwise, nn, quant, shape  # noqa: F401
from qvit_deploy.execute.ops.registry import OPS, NodeView, OpFn, Tensor, build

__all__ = ["OPS", "NodeView", "OpFn", "Tensor", "build"]
