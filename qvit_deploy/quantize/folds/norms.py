"""Channel-wise quantization after LayerNorm, folded into the model's own parameters.

Post-LayerNorm activations differ by orders of magnitude between channels. Dividing every channel by its own scale
and centring it makes one per-tensor symmetric grid as good as a channel-wise asymmetric one; LayerNorm's gamma and
beta and the consumers' weights and biases absorb the change (RepQ-ViT, Li et al. 2023, section 3.2). Here the shift
is real, so the target zero point is 0 exactly and the folded graph is an ordinary float graph, computing the same
function, that every later stage works on.

Channel scales that are outliers across channels are clipped first, the idea of LRP-QViT's clipped channel-wise
quantization (its exact rule is not published; here it is a cap at a multiple of the median): an
uncapped scale moves the outlier from the activation into one row of the weights and ruins their grids instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qvit_deploy.calibrate.observe import Observation
from qvit_deploy.graph.channels import NormGroup
from qvit_deploy.graph.edit import add_constant, free_node_name, free_value_name
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.graph.query import node_making
from qvit_deploy.graph.sites import Site
from qvit_deploy.quantize.ranges.clip import channel_ranges

Array = np.ndarray


@dataclass(frozen=True)
class Fold:
    """What one norm's channels are divided by and shifted by: y' = (y - shift) / scale, float64 [channels]."""

    scale: Array
    shift: Array


def channel_fold(observation: Observation, clip: float, bits: int) -> Fold:
    """Returns the fold that gives every channel its best b-bit range, scale outliers capped at `clip` x the median.

    Best is the least squared error of the sampled rows (`clip.channel_ranges`): the scale and shift a channel-wise
    quantizer would use. Dead channels get the median. The geometric mean of the other scales is 1.
    """
    width, centre = channel_ranges(observation.rows, observation.weights, bits)
    scale, shift = width.double().numpy(), centre.double().numpy()
    alive = scale > 1e-8
    if not alive.any():
        return Fold(np.ones_like(scale), np.zeros_like(scale))
    median = np.median(scale[alive])
    scale = np.where(alive, np.clip(scale, median / clip, median * clip), median)
    return Fold(scale / np.exp(np.log(scale[alive]).mean()), shift)


def fold_norms(
    graph: Graph, sites: tuple[Site, ...], groups: tuple[NormGroup, ...], folds: Mapping[str, Fold]
) -> Graph:
    """Returns a new graph with every group's fold applied; it computes the same function.

    gamma' = gamma / r,  beta' = (beta - c) / r,  W'[k,:] = r_k W[k,:],  b' = b + c W   (RepQ-ViT eq. 7-9 with a real
    shift c and scale r). A consumer without a bias gets one. Arithmetic in float64, stored as float32.

    Args:
        folds: norm output name -> `Fold`.
    """
    folded = graph.clone()
    values = folded.model.graph.initializers
    by_name = {site.name: site for site in sites}
    for group in groups:
        fold = folds.get(group.norm)
        if fold is None:
            continue
        gamma, beta = _float64(values[group.scale]), _float64(values[group.bias])
        replace_constant(values[group.scale], gamma / fold.scale)
        replace_constant(values[group.bias], (beta - fold.shift) / fold.scale)
        for name in group.sites:
            absorb_into_consumers(folded, by_name[name], fold)
    return folded


def absorb_into_consumers(graph: Graph, site: Site, fold: Fold) -> None:
    """Changes a linear's weight and bias in place so that it makes of (x - c) / r what it made of x.

    W'[k,:] = r_k W[k,:],  b' = b + c W. A site without a bias gets one.
    """
    assert site.weight is not None
    values = graph.model.graph.initializers
    weight = _float64(values[site.weight])
    correction = fold.shift @ weight
    replace_constant(values[site.weight], weight * fold.scale[:, None])
    if site.bias is not None:
        replace_constant(values[site.bias], _float64(values[site.bias]) + correction)
    else:
        _add_bias(graph, site, correction)


def _float64(value: ir.Value) -> Array:
    array = constant(value)
    assert array is not None
    return array.astype(np.float64)


def replace_constant(value: ir.Value, array: Array) -> None:
    """Gives an initializer another value, stored as float32; the tensor it had is untouched (clones share it)."""
    value.const_value = ir.tensor(array.astype(np.float32), name=value.name)


def add_initializer(graph: Graph, name: str, array: Array) -> ir.Value:
    """Returns a new initializer of `graph`, stored as float32."""
    return add_constant(graph.model.graph, name, array.astype(np.float32))


def _add_bias(graph: Graph, site: Site, bias: Array) -> None:
    node = node_making(graph, site.product)
    value = add_initializer(graph, f"{site.name}.bias", bias)
    product = node.outputs[0]
    add = ir.node("Add", [product, value], name=free_node_name(graph.model.graph, f"{site.name}.add_bias"))
    add.outputs[0].shape, add.outputs[0].type = product.shape, product.type
    ir.convenience.replace_all_uses_with(product, add.outputs[0], replace_graph_outputs=True)
    add.replace_input_with(0, product)
    product.name = free_value_name(graph.model.graph, f"{site.product}_unbiased")
    add.outputs[0].name = site.product  # a graph output keeps its name
    graph.model.graph.insert_after(node, add)
