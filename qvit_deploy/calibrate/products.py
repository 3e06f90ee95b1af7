"""Whole attention products of a few images: what an error of one operand does to the output depends on the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import Site

Tensor = torch.Tensor

IMAGES = 8
"""Images whose products are kept; errors measured on them hold on other images to about a percent."""

WINDOWS = 2
"""Windows kept of an image whose attention is windowed."""

ROWS = 32
"""Rows of the left operand kept of each image and head: a product is linear in them, so a sample of rows is enough."""


@dataclass(frozen=True)
class ProductSample:
    """Matching operands of one attention product `left @ right`.

    Attributes:
        left: float32 [n, heads, <= ROWS, terms], rows drawn at random; n counts images, or windows of images.
        right: float32 [n, heads, terms, columns].
        to_softmax: the product is a score, where a constant along its last axis changes nothing.
    """

    left: Tensor
    right: Tensor
    to_softmax: bool

    def left_error(self, moved: Tensor) -> Tensor:
        """Squared change of the output when the left operand becomes `moved`, summed per head: float32 [heads].

        Of scores only what the softmax sees: it is invariant to a constant along the keys, so their mean is taken out.
        """
        return self._squared((moved - self.left) @ self.right)

    def right_error(self, moved: Tensor) -> Tensor:
        """The same for the right operand."""
        return self._squared(self.left @ (moved - self.right))

    def power(self) -> Tensor:
        """Squared size of the output in the same sense, [heads]."""
        return self._squared(self.left @ self.right)

    def _squared(self, output: Tensor) -> Tensor:
        if self.to_softmax:
            output = output - output.mean(-1, keepdim=True)
        return output.square().sum((0, 2, 3))


def observe_products(
    executor: Executor, batches: Iterable[Tensor], sites: Iterable[Site], seed: int
) -> dict[str, ProductSample]:
    """Site name -> operands of that attention product, from all images of `batches`.

    Operands without a head axis (see `head_count`) are kept as one head.

    Args:
        batches: float32 [b, C, H, W] tensors, `IMAGES` images together.
    """
    generator = torch.Generator().manual_seed(seed)
    products = [s for s in sites if s.second is not None]
    heads = {s.name: head_count(executor.graph, s) or 1 for s in products}
    names = list(dict.fromkeys(n for s in products for n in (s.input, s.second) if n is not None))
    kept: dict[str, list[tuple[Tensor, Tensor]]] = {s.name: [] for s in products}
    with torch.no_grad():
        for batch in batches if names else ():
            found = executor.run(batch, fetch=names)
            for site in products:
                assert site.second is not None
                operands = found[site.input], found[site.second]
                kept[site.name].append(_sampled(operands, heads[site.name], len(batch), generator))
    return {
        s.name: ProductSample(
            torch.cat([left for left, _ in kept[s.name]]),
            torch.cat([right for _, right in kept[s.name]]),
            s.kind == "matmul_qk",
        )
        for s in products
    }


def head_count(graph: Graph, site: Site) -> int | None:
    """Heads of an attention product whose operands are [images or windows, heads, n, m], None for other layouts.

    A head axis is a second axis of known size, the same in both operands, behind one that grows with the batch.
    """
    product = next(n for n in graph.nodes() if n.outputs[0].name == site.product)
    shapes = [x.shape for x in product.inputs if x is not None and x.shape is not None]
    if len(shapes) != 2 or any(len(s) != 4 for s in shapes):
        return None
    heads, batch = shapes[0][1], graph.static_batch
    if not isinstance(heads, int) or shapes[1][1] != heads:
        return None
    grows = (not isinstance(n, int) or (batch is not None and n % batch == 0) for n in (s[0] for s in shapes))
    return heads if all(grows) else None


def _sampled(
    operands: tuple[Tensor, Tensor], heads: int, images: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(left, right) of up to `WINDOWS` windows an image, [n, heads, rows, terms] and [n, heads, terms, columns]."""
    left, right = operands
    outer = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    left, right = (x.expand(*outer, *x.shape[-2:]).reshape(-1, heads, *x.shape[-2:]) for x in (left, right))
    per_image = max(len(left) // images, 1)
    windows = torch.randperm(per_image, generator=generator)[:WINDOWS]
    chosen = (torch.arange(len(left) // per_image)[:, None] * per_image + windows).reshape(-1).to(left.device)
    rows = torch.randperm(left.shape[-2], generator=generator)[:ROWS].to(left.device)
    return left[chosen][:, :, rows].cpu(), right[chosen].cpu()
