"""What the backward pass does at quantizers; the forward value is always the quantized one.

`STRAIGHT_THROUGH` is the executor's own backward: the identity inside the clip range, zero outside. `SECANT` treats a
quantizer as the activation function it also is and takes the slope of the secant through the origin, DQ(Q(x)) / x: a
value rounded to zero passes nothing, a clipped one passes its share (the identity rule,
Jafari et al. 2024, applied to x -> DQ(Q(x))).
"""

from __future__ import annotations

import onnx_ir as ir
import torch

from qvit_deploy.execute.ops import build
from qvit_deploy.relevance import backward
from qvit_deploy.relevance.dataflow import Dataflow
from qvit_deploy.relevance.rules import Context, Replacements, Rule

Tensor = torch.Tensor

NAME = "quantizer"


def _quantizes(node: ir.Node, flow: Dataflow) -> bool:
    return node.op_type == "QuantizeLinear" and flow.is_used(node)


def _quantizes_or_clips(node: ir.Node, flow: Dataflow) -> bool:
    """Tells whether a node is a QuantizeLinear, or the Clip to its grid's ends in front of it."""
    is_clip = node.op_type == "Clip" and any(use.node.op_type == "QuantizeLinear" for use in node.outputs[0].uses())
    return _quantizes(node, flow) or (is_clip and flow.is_used(node))


def _own(node: ir.Node, _: Context) -> Replacements:
    return {node: build(node)}


def _secant(node: ir.Node, _: Context) -> Replacements:
    def of_codes(g: Tensor, codes: Tensor, x: Tensor, scale: Tensor, *zero: Tensor) -> tuple[Tensor | None, ...]:
        # DequantizeLinear multiplies by the scale and takes the zero point off; here are the rest of DQ(Q(x)) / x.
        offset = zero[0].to(codes) if zero else codes.new_zeros(())
        slope = torch.where(x == 0, 1 / scale, (codes - offset) / x)
        return g * slope, None, *(None for _ in zero)

    def of_clip(g: Tensor, y: Tensor, x: Tensor, *ends: Tensor) -> tuple[Tensor | None, ...]:
        return backward.secant(g, y, x, 1.0), *(None for _ in ends)

    return {node: backward.with_backward(build(node), of_clip if node.op_type == "Clip" else of_codes)}


_EVIDENCE = frozenset({"QuantizeLinear"})
STRAIGHT_THROUGH = Rule(NAME, _quantizes, _own, evidence=_EVIDENCE)
SECANT = Rule(NAME, _quantizes_or_clips, _secant, evidence=_EVIDENCE)
