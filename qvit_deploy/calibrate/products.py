"""Samples attention products of a few images: what an error of one operand does to the output depends on the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch

from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.op_traits import ON_SCORES, RESHAPES
from qvit_deploy.graph.query import node_making
from qvit_deploy.graph.sites import Site

Tensor = torch.Tensor

IMAGES = 8
"""Images whose products are sampled; errors measured on them hold on other images to about a percent."""

WINDOWS = 2
"""Windows sampled of an image whose attention is windowed."""

ROWS = 32
"""Rows of the left operand sampled per image and head: a product is linear in them, so a sample of rows is enough."""


@dataclass(frozen=True)
class ProductSample:
    """Matching operands of one attention product `left @ right`.

    Attributes:
        left: float32 [n, heads, <= ROWS, terms], some rows of it; n counts images, or windows of images.
        right: float32 [n, heads, terms, columns].
        probabilities: softmax of the product, [n, heads, <= ROWS, columns]; None when the product is not scores.
    """

    left: Tensor
    right: Tensor
    probabilities: Tensor | None

    def left_error(self, quantized: Tensor) -> Tensor:
        """Returns the squared error of the output per head, float32 [heads], with `quantized` as the left operand.

        The output of scores is, to first order, their softmax: an error e of a row's scores changes its probabilities p
        by p (e - sum p e), the Jacobian of the softmax times e, so that errors of keys without attention cost nothing.
        """
        return self._squared((quantized - self.left) @ self.right)

    def right_error(self, quantized: Tensor) -> Tensor:
        """Returns the same for the right operand."""
        return self._squared(self.left @ (quantized - self.right))

    def power(self) -> Tensor:
        """Returns the squared norm of the output per head, float32 [heads], to which errors are relative."""
        p = self.probabilities
        return (self.left @ self.right if p is None else p).square().sum((0, 2, 3))

    def _squared(self, change: Tensor) -> Tensor:
        p = self.probabilities
        if p is not None:
            change = p * (change - (p * change).sum(-1, keepdim=True))
        return change.square().sum((0, 2, 3))


def observe_products(
    executor: Executor, batches: Iterable[Examples[Tensor]], sites: Iterable[Site], images: int, seed: int
) -> dict[str, ProductSample]:
    """Returns, by site name, sampled operands of that attention product.

    The sample holds `IMAGES` images drawn at random and, head by head, the two with the largest magnitude in the left
    and in the right operand: a range chosen without them would clip what few images have and those images rest on.
    Operands without a head axis (see `head_count`) count as one head.

    Args:
        images: how many images the batches hold together.
    """
    generator = torch.Generator().manual_seed(seed)
    observers = {s.name: _Observer(executor.graph, s, generator) for s in sites if s.second is not None}
    names = list(dict.fromkeys(n for o in observers.values() for n in o.names))
    chosen = set(torch.randperm(images, generator=generator)[:IMAGES].tolist())
    processed = 0
    with torch.no_grad():
        for batch in batches if names else ():
            tensors = executor.run(batch, fetch=names)
            in_batch = [i for i in range(len(batch)) if processed + i in chosen]
            for observer in observers.values():
                observer.add([tensors[n] for n in observer.names], len(batch), in_batch)
            processed += len(batch)
    return {name: observer.result() for name, observer in observers.items()}


def head_count(graph: Graph, site: Site) -> int | None:
    """Returns the heads of an attention product with operands [images or windows, heads, n, m], None for other layouts.

    A head axis is a second axis of known size, the same in both operands, behind one that grows with the batch.
    """
    shapes = [x.shape for x in node_making(graph, site.product).inputs if x is not None and x.shape is not None]
    if len(shapes) != 2 or any(len(s) != 4 for s in shapes):
        return None
    heads, batch = shapes[0][1], graph.static_batch
    if not isinstance(heads, int) or shapes[1][1] != heads:
        return None
    grows = (not isinstance(n, int) or (batch is not None and n % batch == 0) for n in (s[0] for s in shapes))
    return heads if all(grows) else None


def _softmax_of(scores: ir.Value) -> str | None:
    """Returns the name of the softmax of `scores`, which may be scaled, biased and masked in between."""
    for use in scores.uses():
        if use.node.op_type == "Softmax":
            return use.node.outputs[0].name
        if use.node.op_type in ON_SCORES | RESHAPES:
            return _softmax_of(use.node.outputs[0])
    return None


class _Observer:
    """Collects the `ProductSample` of one site.

    Attributes:
        names: the tensors it needs: left, right and, for scores, the probabilities if the graph has them.
    """

    def __init__(self, graph: Graph, site: Site, generator: torch.Generator) -> None:
        assert site.second is not None
        self.scores = site.kind == "matmul_qk"
        softmax = _softmax_of(node_making(graph, site.product).outputs[0]) if self.scores else None
        self.names = [site.input, site.second, *([softmax] if softmax else [])]
        self.heads = head_count(graph, site) or 1
        self.generator = generator
        self.drawn: list[list[Tensor]] = []
        self.extremes = [_Extreme(0), _Extreme(1)]

    def add(self, tensors: Sequence[Tensor], images: int, chosen: list[int]) -> None:
        """Adds the tensors called `names` of a batch of `images`; the images numbered `chosen` join the sample."""
        left, right = tensors[:2]
        outer = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        parts = [x.expand(*outer, *x.shape[-2:]).reshape(-1, self.heads, *x.shape[-2:]) for x in (left, right)]
        left, right = parts
        if self.scores:
            # Where heads are mixed between the scores and the softmax, the scores' own softmax stands in.
            softmax = tensors[2] if len(tensors) == 3 else torch.softmax(left @ right, -1)
            parts.append(softmax.reshape(*left.shape[:-1], right.shape[-1]))
        for extreme in self.extremes:
            extreme.add(parts)
        per_image = max(len(left) // images, 1)
        windows = torch.randperm(per_image, generator=self.generator)[:WINDOWS]
        rows = torch.randperm(left.shape[-2], generator=self.generator)[:ROWS].to(left.device)
        index = (torch.tensor(chosen, dtype=torch.int64)[:, None] * per_image + windows).reshape(-1).to(left.device)
        self.drawn.append([(x if x is right else x[:, :, rows])[index].cpu() for x in parts])

    def result(self) -> ProductSample:
        """Returns the sample: the images drawn, then the two extreme ones."""
        samples = [*self.drawn, *(e.operands for e in self.extremes)]
        left, right, *rest = (torch.cat(parts) for parts in zip(*samples, strict=True))
        return ProductSample(left, right, rest[0] if rest else None)


class _Extreme:
    """Holds, head by head, the product with the largest magnitude so far in one operand (0 left, 1 right)."""

    def __init__(self, operand: int) -> None:
        self.operand = operand
        self.largest = torch.zeros(1)
        self.operands: list[Tensor] = []

    def add(self, parts: Sequence[Tensor]) -> None:
        """Compares with `parts`: left, right and perhaps probabilities, each [n, heads, ., .]."""
        largest, where = parts[self.operand].abs().amax((2, 3)).max(0)
        heads = torch.arange(len(largest), device=largest.device)
        left, right, *rest = (x[where, heads] for x in parts)
        # The rows with the largest values are among those stored.
        rows = left.abs().amax(-1).topk(min(ROWS, left.shape[-2]), -1).indices[:, :, None]
        left, *rest = (x.gather(1, rows.expand(-1, -1, x.shape[-1])) for x in (left, *rest))
        candidates = [x[None].cpu() for x in (left, right, *rest)]
        better = largest.cpu() > self.largest
        self.largest = torch.where(better, largest.cpu(), self.largest)
        mask = better[None, :, None, None]
        current = self.operands or candidates
        self.operands = [torch.where(mask, new, old) for new, old in zip(candidates, current, strict=True)]
