"""ONNX operators as differentiable torch functions; the modules register theirs when they are imported here."""

from __future__ import annotations

from qvit_deploy.execute.ops import (  # noqa: F401
    activations,
    elementwise,
    indexing,
    normalizations,
    pooling,
    products,
    quant,
    recurrent,
    reductions,
    resampling,
    shape,
)
from qvit_deploy.execute.ops.registry import OPS, NodeView, OpFn, Tensor, build

__all__ = ["OPS", "NodeView", "OpFn", "Tensor", "build"]
