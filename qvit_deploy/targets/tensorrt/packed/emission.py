"""Emits the target `tensorrt-plugin`: a half-precision graph in which our plugins run all that they can."""

from __future__ import annotations

from qvit_deploy.graph.graph import Graph
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.targets.tensorrt.half.precision import HalfGraph
from qvit_deploy.targets.tensorrt.packed.attention import pack_attention
from qvit_deploy.targets.tensorrt.packed.linear import pack_linears
from qvit_deploy.targets.tensorrt.packed.norm import pack_norms


def pack_half(half: HalfGraph, emitted: Graph, plan: Plan) -> HalfGraph:
    """Returns `half` with packed linears, LayerNorms that write their codes, and attention with logarithmic codes.

    Args:
        emitted: the float32 graph that `half` was converted from (`emit_tensorrt`).
        plan: that of all sites, those too that are in float in `half`.
    """
    return pack_attention(pack_norms(pack_linears(half), emitted), plan)
