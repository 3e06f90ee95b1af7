"""Constant factors right after a linear, multiplied into its weights: LayerScale costs nothing at run time.

(x W + b) g = x (W g) + b g for a constant g, a scalar or one factor per output channel. Per-channel weight grids make
the change free for quantization too: every column keeps its codes and only its scale changes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.graph.query import nodes_by_output
from qvit_deploy.graph.sites import Site, find_sites
from qvit_deploy.quantize.folds.norms import replace_constant


def absorb_scales(graph: Graph) -> Graph:
    """Returns a new graph computing the same function, without the multiplications that follow linear sites.

    Only factors that nothing else reads are absorbed: the linear's output has one reader, the weight and the bias have
    one owner. Arithmetic in float64, stored as float32.
    """
    scaled = graph.clone()
    values = scaled.model.graph.initializers
    by_output = nodes_by_output(scaled)
    for site in find_sites(scaled):
        last = by_output[site.output]
        factor = _following_factor(last, site, scaled)
        if factor is None:
            continue
        multiply, gain = factor
        for name in (site.weight, site.bias):
            if name is not None:
                array = constant(values[name])
                assert array is not None
                replace_constant(values[name], array.astype(np.float64) * gain)
        ir.convenience.replace_all_uses_with(multiply.outputs[0], last.outputs[0])
        scaled.model.graph.remove(multiply, safe=True)
    return scaled


def _following_factor(last: ir.Node, site: Site, graph: Graph) -> tuple[ir.Node, np.ndarray] | None:
    """Returns the Mul that alone reads the site's output, and its factor, float64 scalar or [out]."""
    output, users = last.outputs[0], list(last.outputs[0].uses())
    if site.kind != "linear" or len(users) != 1 or output.is_graph_output() or users[0].node.op_type != "Mul":
        return None
    multiply = users[0].node
    other = multiply.inputs[1 - users[0].idx]
    gain = constant(other)
    names = [n for n in (site.weight, site.bias) if n is not None]
    if gain is None or multiply.outputs[0].is_graph_output():
        return None
    if any(len(graph.initializers[n].uses()) != 1 for n in names):
        return None
    columns = graph.initializers[names[0]].shape
    assert columns is not None
    if gain.size != 1 and not (gain.shape[-1] == columns[-1] and gain.size == gain.shape[-1]):
        return None
    return multiply, gain.astype(np.float64).reshape(-1)
