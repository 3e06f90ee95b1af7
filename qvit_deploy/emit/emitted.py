"""A graph with quantizers, and where each site of the plan is in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.op_traits import PRODUCTS


@dataclass(frozen=True)
class EmittedOperand:
    """An operand of a product: names of tensors.

    Attributes:
        source: what is quantized, scaled per head or per row where its grid does so; a weight has none.
        codes: the codes in their container; of logarithmic codes those of the uniform grid they are read from.
        value: what the product reads. Its last factor, input 1 of the node that makes it, is the operand's scale.
    """

    source: str | None
    codes: str
    value: str


@dataclass(frozen=True)
class EmittedSite:
    """A product on quantized operands: names of tensors.

    Attributes:
        product: the result of the MatMul or Conv alone.
        operands: the product's first two.
        output: the site's output, bias and all.
    """

    product: str
    operands: tuple[EmittedOperand, EmittedOperand]
    output: str


@dataclass(frozen=True)
class EmittedGraph(Graph):
    """A graph with quantizers.

    Attributes:
        sites: site -> where it is.
    """

    sites: Mapping[str, EmittedSite]

    def clone(self) -> EmittedGraph:
        """Returns an independent copy, as `Graph.clone` does."""
        return EmittedGraph(self.model.clone(), self.name, self.sites)

    def product(self, site: str) -> ir.Node | None:
        """Returns the node of the product of `site`; None where the graph has none."""
        if site not in self.sites:
            return None
        name = self.sites[site].product
        products = (node for node in self.nodes() if node.op_type in PRODUCTS)
        return next((node for node in products if node.outputs[0].name == name), None)
