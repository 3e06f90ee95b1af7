"""The result of calibration: everything a loss or a plan needs to know before formats are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from qvit_deploy.calibrate.observe import Observation
from qvit_deploy.calibrate.products import ProductSample
from qvit_deploy.execute.executor import Executor
from qvit_deploy.formats.format import Format
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import Site
from qvit_deploy.quantize.plan import Grids
from qvit_deploy.quantize.rounded_weight import RoundedWeights


@dataclass(frozen=True, eq=False)
class Calibration:
    """A graph, its sites and the grid of every activation tensor they read, in every format that may be chosen.

    Attributes:
        executor: runs the (folded) graph in float.
        observations: tensor name -> its statistics on the calibration images.
        weights: site name -> [in, out] float32 (`plan.site_weights`).
        grids: has each of `formats` for every tensor.
        formats: ascending.
        products: site name -> operands of every attention product.
        importance: tensor name -> weight of each row's error (`relevance.importance`); rows of others count alike.
    """

    executor: Executor
    sites: tuple[Site, ...]
    observations: Mapping[str, Observation]
    weights: Mapping[str, Tensor]
    grids: Grids
    formats: tuple[Format, ...]
    products: Mapping[str, ProductSample]
    importance: Mapping[str, Tensor]

    @property
    def graph(self) -> Graph:
        """The graph that was calibrated."""
        return self.executor.graph

    def with_weights(self, rounded: RoundedWeights) -> RoundedCalibration:
        """Returns the same calibration with every weight in every format, as loss tables need it."""
        return RoundedCalibration(**vars(self), rounded=rounded)


@dataclass(frozen=True, eq=False)
class RoundedCalibration(Calibration):
    """A calibration for loss tables. A plan does not read `rounded`: it rounds anew, on quantized inputs.

    Attributes:
        rounded: every weight in every format.
    """

    rounded: RoundedWeights

    def weight_error(self, site: str, format: Format) -> Tensor:
        """Returns what rounding to `format` adds to the weight of a site, float32 [in, out]."""
        return self.rounded[site, format].value() - self.weights[site]
