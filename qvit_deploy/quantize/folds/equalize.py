"""Channel-wise ranges for inputs of linears that no parameter can absorb: an explicit factor and shift per channel.

After GELU every channel has its own one-sided range, and one scale for all of them wastes most codes: on DINOv2 ViT-S
at 4 bits the output of fc2 keeps 8.6 dB, and 16.5 dB with both per channel (`tools/measure/ranges.py`).
x' = (x - c) / s costs one Mul and one Add before the quantizer; the linear's weights and
bias undo it, so the graph computes the same function.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
import torch
from torch import Tensor

from qvit_deploy.calibrate.observe import Observation
from qvit_deploy.formats.integer import Int
from qvit_deploy.graph.edit import free_node_name, free_value_name
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import Site
from qvit_deploy.quantize.folds.norms import Fold, absorb_into_consumers, add_initializer, channel_fold
from qvit_deploy.quantize.ranges.clip import activation_scale

WORTH = 2.0
"""Squared error that one scale must have over one scale a channel for the two operators to be inserted."""

CLIP = 1000.0
"""Channel scales may differ this much from the median: they cost nothing here but a coarser weight grid."""


def equalizable(graph: Graph, sites: tuple[Site, ...], folded: set[str]) -> dict[str, tuple[Site, ...]]:
    """Returns activation tensor -> the linear sites that read it, without image inputs and shared weights.

    Args:
        folded: names of sites whose input a fold has equalized already; they are left out.
    """
    readers: dict[str, list[Site]] = {}
    for site in sites:
        if site.kind == "linear" and site.role != "image" and site.name not in folded:
            readers.setdefault(site.input, []).append(site)
    weights = [s.weight for consumers in readers.values() for s in consumers if s.weight is not None]
    shared = {w for w in weights if len(graph.initializers[w].uses()) != 1}
    return {name: tuple(own) for name, own in readers.items() if not any(s.weight in shared for s in own)}


def equalize(
    graph: Graph, readers: Mapping[str, tuple[Site, ...]], observations: Mapping[str, Observation], bits: int
) -> tuple[Graph, dict[str, str]]:
    """Returns (a new graph computing the same function, tensor -> its equalized form that the linears now read).

    Only tensors where it is `WORTH` it at `bits` are touched.

    Args:
        readers: from `equalizable`.
        observations: of its tensors.
    """
    folded = graph.clone()
    renamed = {}
    for name, sites in readers.items():
        fold = channel_fold(observations[name], CLIP, bits)
        if _gain(observations[name], fold, bits) < WORTH:
            continue
        renamed[name] = _insert(folded, name, {s.product for s in sites}, fold)
        for site in sites:
            absorb_into_consumers(folded, site, fold)
    return folded, renamed


def _gain(observation: Observation, fold: Fold, bits: int) -> float:
    """Returns the squared error on one scale for all channels, as a multiple of that on equalized channels."""
    scale, shift = torch.from_numpy(fold.scale).float(), torch.from_numpy(fold.shift).float()
    plain = _error(observation.rows, observation.weights, torch.ones_like(scale), bits)
    return plain / max(_error((observation.rows - shift) / scale, observation.weights, scale.square(), bits), 1e-30)


def _error(rows: Tensor, weights: Tensor, importance: Tensor, bits: int) -> float:
    format = Int(bits)
    scale = activation_scale(rows, weights, importance, float(rows.abs().max()), format)
    return float((weights @ (format.fake_quantize(rows, scale) - rows).square_()) @ importance)


def _insert(graph: Graph, name: str, products: set[str], fold: Fold) -> str:
    """Puts (x - c) / s, as x * (1 / s) + (-c / s), between the tensor `name` and the given products."""
    x = next(v for n in graph.nodes() for v in n.outputs if v.name == name)
    users = [use.node for use in x.uses() if use.idx == 0 and use.node.outputs[0].name in products]
    constants = {"factor": 1 / fold.scale, "shift": -fold.shift / fold.scale}
    value, nodes = x, list[ir.Node]()
    for op_type, (parameter_name, array) in zip(("Mul", "Add"), constants.items(), strict=True):
        parameter = add_initializer(graph, f"{name}.equalize.{parameter_name}", array)
        node_name = free_node_name(graph.model.graph, f"{name}.equalize.{op_type}")
        node = ir.node(op_type, [value, parameter], name=node_name)
        value = node.outputs[0]
        made_up = f"{name}.equalized" if op_type == "Add" else f"{name}.equalize.product"
        value.name = free_value_name(graph.model.graph, made_up)
        value.shape, value.type = x.shape, x.type
        nodes.append(node)
    producer = x.producer()
    assert producer is not None
    graph.model.graph.insert_after(producer, nodes)
    for user in users:
        user.replace_input_with(0, value)
    return value.name or ""
