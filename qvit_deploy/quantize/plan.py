"""The plan: an allocation plus every scale, shift and rounded weight. Targets only write it down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from qvit_deploy.formats.format import Format
from qvit_deploy.formats.grids.grid import Grid
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.graph.sites import Site

Grids = Mapping[tuple[str, Format], Grid]
"""(tensor name, format) -> its grid."""

Formats = Mapping[str, tuple[Format, Format]]
"""Site name -> (format of the weight or of the second operand, format of the input)."""


@dataclass(frozen=True)
class WeightPlan:
    """Everything a target needs to write a product of an activation and a constant weight.

    Attributes:
        site: where; a linear or a convolution.
        format: of the weight.
        grid: of the input.
        codes: [in, out] or [out, in, kh, kw], the weight's layout, in the container of `format`.
        weight_scale: float32 [out].
        bias: float32 [out], the corrected bias; None when the site has none and needs none.
    """

    site: Site
    format: Format
    grid: Grid
    codes: np.ndarray
    weight_scale: np.ndarray
    bias: np.ndarray | None

    @property
    def w_bits(self) -> int:
        """Width of the weight."""
        return self.format.bits

    @property
    def a_bits(self) -> int:
        """Width of the activation."""
        return self.grid.format.bits

    @property
    def operands(self) -> tuple[tuple[str, Grid], ...]:
        """(tensor, grid) of every activation that the product reads."""
        return ((self.site.input, self.grid),)

    def with_half_scales(self) -> WeightPlan:
        """Returns the plan with grids whose scales float16 holds exactly."""
        return replace(self, grid=self.grid.with_half_scale())


@dataclass(frozen=True)
class ProductPlan:
    """Everything a target needs to write a product of two activations.

    Attributes:
        site: where; a product of an attention.
        grid: of the first operand.
        second: name of the second operand.
        second_grid: of the second operand.
    """

    site: Site
    grid: Grid
    second: str
    second_grid: Grid

    @property
    def w_bits(self) -> int:
        """Width of the second operand."""
        return self.second_grid.format.bits

    @property
    def a_bits(self) -> int:
        """Width of the first operand."""
        return self.grid.format.bits

    @property
    def operands(self) -> tuple[tuple[str, Grid], ...]:
        """(tensor, grid) of every activation that the product reads."""
        return (self.site.input, self.grid), (self.second, self.second_grid)

    def with_half_scales(self) -> ProductPlan:
        """Returns the plan with grids whose scales float16 holds exactly."""
        return replace(self, grid=self.grid.with_half_scale(), second_grid=self.second_grid.with_half_scale())


SitePlan = WeightPlan | ProductPlan


@dataclass(frozen=True)
class Plan:
    """Site plans by site name, in graph order. Sites that are absent stay in float."""

    sites: Mapping[str, SitePlan]

    def weights(self) -> dict[str, WeightPlan]:
        """Returns site name -> plan of the sites that have a weight."""
        return {name: site for name, site in self.sites.items() if isinstance(site, WeightPlan)}

    def products(self) -> dict[str, ProductPlan]:
        """Returns site name -> plan of the attention products."""
        return {name: site for name, site in self.sites.items() if isinstance(site, ProductPlan)}


def site_weights(graph: Graph, sites: Iterable[Site]) -> dict[str, Tensor]:
    """Returns site name -> weight as a matrix [in, out] float32 (a convolution's kernel flattened to [in*kh*kw, out]).

    Read only: the matrices share the graph's memory where they can.
    """
    matrices = {}
    for site in sites:
        if site.weight is None:
            continue
        array = constant(graph.initializers[site.weight])
        assert array is not None
        ours = array.dtype == np.float32 and array.flags.writeable
        matrix = torch.from_numpy(array if ours else array.astype(np.float32))
        matrices[site.name] = matrix if site.kind == "linear" else matrix.flatten(1).t().contiguous()
    return matrices
