"""The plan: an allocation plus every scale, shift and rounded weight. Targets only write it down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.graph.sites import Site
from qvit_deploy.quantize.grid import Grid, Tensor

Grids = Mapping[tuple[str, int], Grid]
Widths = Mapping[str, tuple[int, int]]
"""Site name -> (weight bits, activation bits)."""


@dataclass(frozen=True)
class SitePlan:
    """Everything a target needs to write one site.

    Attributes:
        site: where.
        w_bits, a_bits: widths; for attention products w_bits is the second operand's.
        grid: of the input.
        second_grid: of the second operand of an attention product.
        codes: int8, the weight's layout ([in, out] or [out, in, kh, kw]); None for attention.
        weight_scale: float32 [out].
        bias: float32 [out], the corrected bias; None when the site has none and needs none.
    """

    site: Site
    w_bits: int
    a_bits: int
    grid: Grid
    second_grid: Grid | None
    codes: np.ndarray | None
    weight_scale: np.ndarray | None
    bias: np.ndarray | None


@dataclass(frozen=True)
class Plan:
    """Site plans by site name, in graph order. Sites that are absent stay in float."""

    sites: Mapping[str, SitePlan]


def site_weights(graph: Graph, sites: Iterable[Site]) -> dict[str, Tensor]:
    """Site name -> weight as a matrix [in, out] float32 (a convolution's kernel flattened to [in*kh*kw, out]).

    Read only: the matrices share the graph's memory where they can.
    """
    found = {}
    for site in sites:
        if site.weight is None:
            continue
        array = constant(graph.initializers[site.weight])
        assert array is not None
        ours = array.dtype == np.float32 and array.flags.writeable
        matrix = torch.from_numpy(array if ours else array.astype(np.float32))
        found[site.name] = matrix if site.kind == "linear" else matrix.flatten(1).t().contiguous()
    return found
