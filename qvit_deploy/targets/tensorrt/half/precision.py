"""Makes a quantized float32 graph a strongly typed float16 graph, with float32 where range or exact codes demand it
(`targets.tensorrt.half.keep_fp32`).

Everything else is float16. The input and the outputs stay float32, so all files are fed alike; those of a part of a
network (`ends`) are what they are in the whole. A tensor that float16 cannot hold is never cast to it: whoever reads it
computes in float32 as well.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from qvit_deploy.emit.emitted import EmittedGraph
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.targets.tensorrt.half.casts import Caster
from qvit_deploy.targets.tensorrt.half.emission import TensorrtGraph
from qvit_deploy.targets.tensorrt.half.keep_fp32 import float32_nodes


@dataclass(frozen=True, eq=False)
class HalfGraph:
    """What the half-precision targets write.

    Attributes:
        graph: float16 between its quantizers, but for the islands.
        plan: the sites that are quantized in it.
        in_float: other sites of the plan -> why they are not.
        float32: what stayed in float32 by rules 1 to 3, name of a node's output -> the reason.
        packed: the sites that are operators of our own (`packed.linear`, `packed.attention`).
    """

    graph: EmittedGraph
    plan: Plan
    in_float: dict[str, str]
    float32: dict[str, str]
    packed: tuple[str, ...] = ()

    @property
    def model(self) -> ir.Model:
        """The model of the graph."""
        return self.graph.model

    def serialize(self) -> bytes:
        """The file of the graph."""
        return self.graph.serialize()


def to_half(emitted: TensorrtGraph, largest: Mapping[str, float], ends: Collection[str] = ()) -> HalfGraph:
    """A float16 copy of `emitted`.

    Args:
        largest: tensor name -> largest magnitude on the calibration images, for every tensor of its graph.
        ends: inputs and outputs that are float16 too (an output unless it is computed in float32).
    """
    converted = emitted.graph.clone()
    islands = float32_nodes(converted, largest, ends)
    named = {node.outputs[0].name or "": reason for node, reason in islands.items() if reason}
    Caster(converted, set(islands), ends).run()
    converted.model.graph.sort()
    return HalfGraph(converted, emitted.plan, emitted.in_float, named)
