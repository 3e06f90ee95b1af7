"""Which linears read a LayerNorm's output channel for channel: the condition for folding into it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.op_traits import DESCRIBES, MOVES, keeps_last_axis
from qvit_deploy.graph.sites import Site


@dataclass(frozen=True)
class NormGroup:
    """A LayerNorm and every linear site that reads it, by names.

    Attributes:
        norm: output tensor of the LayerNormalization.
        scale, bias: its parameters, [channels].
        sites: names of the consuming linear sites; nothing else reads the output.
    """

    norm: str
    scale: str
    bias: str
    sites: tuple[str, ...]


def norm_groups(graph: Graph, sites: tuple[Site, ...]) -> tuple[NormGroup, ...]:
    """Returns the LayerNorms whose output reaches linear sites only, through operators that keep the channel axis last.

    A norm is left out when anything else reads it (a residual addition in post-norm blocks, zero padding of
    windows, a pooling), because a channel-wise change would then alter the function.
    """
    by_product = {site.product: site for site in sites if site.kind == "linear"}
    groups = []
    for node in graph.nodes():
        if node.op_type != "LayerNormalization" or len(node.inputs) < 3:
            continue
        scale, bias = node.inputs[1], node.inputs[2]
        assert scale is not None and bias is not None
        if not (scale.is_initializer() and bias.is_initializer()) or len(scale.uses()) != 1 or len(bias.uses()) != 1:
            continue
        readers = _linear_readers(node.outputs[0])
        if not readers or any(r not in by_product for r in readers):
            continue
        names = tuple(by_product[r].name for r in sorted(readers))
        weights = [by_product[r].weight for r in readers]
        if any(len(graph.initializers[w].uses()) != 1 for w in weights if w is not None):
            continue
        assert scale.name and bias.name and node.outputs[0].name
        groups.append(NormGroup(node.outputs[0].name, scale.name, bias.name, names))
    return tuple(groups)


def _linear_readers(value: ir.Value) -> set[str] | None:
    """Returns the product names of the MatMuls that read `value`'s channels; None when something else does."""
    if value.is_graph_output() or not value.uses():
        return None
    readers: set[str] = set()
    for use in value.uses():
        node = use.node
        if node.op_type == "MatMul" and use.idx == 0:
            readers.add(node.outputs[0].name or "")
        elif node.op_type in DESCRIBES:
            continue
        elif node.op_type != "Concat" and use.idx == 0 and keeps_last_axis(node):
            for output in node.outputs:
                indirect = _linear_readers(output) if output.uses() else set()
                if indirect is None:
                    return None
                readers |= indirect
        elif node.op_type == "Concat" and keeps_last_axis(node) and _only_pieces_of(node, value):
            indirect = _linear_readers(node.outputs[0])
            if indirect is None:
                return None
            readers |= indirect
        else:
            return None
    return readers


def _only_pieces_of(concat: ir.Node, value: ir.Value) -> bool:
    """Returns True when every input of `concat` is `value` or was cut from the same LayerNorm output (a roll)."""
    return len({id(_origin(v)) for v in concat.inputs}) == 1


def _origin(value: ir.Value | None) -> ir.Value | None:
    while value is not None and (node := value.producer()) is not None:
        if node.op_type not in MOVES or node.op_type == "Concat":
            break
        value = node.inputs[0]
    return value
