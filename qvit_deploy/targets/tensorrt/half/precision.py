"""Converts a quantized float32 graph to a strongly typed float16 graph, with float32 where range or exact codes demand
it (`targets.tensorrt.half.keep_fp32`).

Everything else is float16. The input and the outputs stay float32, so all files are fed alike; those of a part of a
network (`ends`) have the types they have inside of it. A tensor that float16 cannot hold is never cast to it: its
readers compute in float32 as well.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

from qvit_deploy.emit.emitted import EmittedGraph
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.targets.tensorrt.half.casts import Caster
from qvit_deploy.targets.tensorrt.half.emission import TensorrtGraph
from qvit_deploy.targets.tensorrt.half.keep_fp32 import float32_nodes


@dataclass(frozen=True, eq=False)
class HalfGraph:
    """The graph that a half-precision target writes.

    Attributes:
        graph: float16 between its quantizers, but for the nodes that stay in float32.
        plan: the sites that are quantized in it.
        in_float: names of the other sites of the plan -> why they are not quantized.
        float32: name of a node's output -> why the node stays in float32 by rules 1 to 3 of `keep_fp32`.
        packed: the sites that are operators of our own (`packed.linear`, `packed.attention`).
    """

    graph: EmittedGraph
    plan: Plan
    in_float: dict[str, str]
    float32: dict[str, str]
    packed: tuple[str, ...] = ()

    @property
    def model(self) -> ir.Model:
        """Returns the model of the graph."""
        return self.graph.model

    def serialize(self) -> bytes:
        """Returns the contents of the graph's file."""
        return self.graph.serialize()


def to_half(emitted: TensorrtGraph, largest: Mapping[str, float], ends: Collection[str] = ()) -> HalfGraph:
    """Returns a float16 copy of `emitted`.

    Args:
        largest: tensor name -> largest magnitude on the calibration images, for every tensor of its graph.
        ends: inputs and outputs that are float16 too (an output unless it is computed in float32).
    """
    converted = emitted.graph.clone()
    fp32_nodes = float32_nodes(converted, largest, ends)
    reasons = {node.outputs[0].name or "": reason for node, reason in fp32_nodes.items() if reason}
    caster = Caster(converted, fp32_nodes, ends)
    caster.run()
    converted.model.graph.sort()
    sites = {
        name: replace(site, product=caster.renamed.get(site.product, site.product))
        for name, site in converted.sites.items()
    }
    return HalfGraph(replace(converted, sites=sites), emitted.plan, emitted.in_float, reasons)
