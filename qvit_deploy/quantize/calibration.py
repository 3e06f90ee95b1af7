"""What calibration leaves behind: everything a loss or a plan needs to know before widths are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qvit_deploy.calibrate.observe import Observation
from qvit_deploy.calibrate.products import ProductSample
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import Site
from qvit_deploy.quantize.grid import Tensor
from qvit_deploy.quantize.plan import Grids
from qvit_deploy.quantize.rounded_weight import RoundedWeights


@dataclass(frozen=True, eq=False)
class Calibration:
    """A graph, its sites and the grid of every activation tensor they read, at every width that may be chosen.

    Attributes:
        executor: runs the (folded) graph in float.
        observations: tensor name -> what the calibration images made of it.
        weights: site name -> [in, out] float32 (`plan.site_weights`).
        rounded: every weight at every width, for the loss tables; empty once they are made: a plan rounds anew.
        products: site name -> operands of every attention product.
        importance: tensor name -> weight of each row's error (`relevance.importance`); rows of others count alike.
        widths: bit widths, ascending; `grids` has each of them for every tensor.
    """

    executor: Executor
    sites: tuple[Site, ...]
    observations: Mapping[str, Observation]
    weights: Mapping[str, Tensor]
    rounded: RoundedWeights
    grids: Grids
    widths: tuple[int, ...]
    products: Mapping[str, ProductSample]
    importance: Mapping[str, Tensor]

    def weight_error(self, site: str, bits: int) -> Tensor:
        """What rounding to `bits` adds to the weight of a site, float32 [in, out]."""
        return self.rounded[site, bits].value() - self.weights[site]

    @property
    def graph(self) -> Graph:
        return self.executor.graph
