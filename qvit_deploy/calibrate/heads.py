"""Which columns of which linears make up the heads of an attention: the condition for folding into them.

An attention product sees its projections through reshapes, transposes and slices that every exporter writes in its own
way. Instead of recognising the ways, numbered columns are sent through them and read where they arrive.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch

from qvit_deploy.execute.executor import Executor, Tap
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.graph.op_traits import DESCRIBES, MOVES, SCALES
from qvit_deploy.graph.query import nodes_by_output, producers
from qvit_deploy.graph.sites import Site

Array = np.ndarray


@dataclass(frozen=True)
class HeadColumns:
    """Where the channels of every head lie along the channels of a linear.

    Attributes:
        site: name of the linear site; its output columns (query, key, value) or its input rows (the projection).
        tensor: the activation that has these channels last: the site's output, or its input.
        index: int64 [heads, channels per head].
    """

    site: str
    tensor: str
    index: Array


@dataclass(frozen=True)
class ScorePair:
    """Query and key of one product. `free_shift`: a constant added to every key changes no probability."""

    query: HeadColumns
    key: HeadColumns
    free_shift: bool


@dataclass(frozen=True)
class ValuePair:
    """Value columns and the rows of the projection that reads the mixed values, head by head.

    `free_shift`: the weights of the mixture sum to 1, so that a constant added to all values is added to the mixture.
    """

    value: HeadColumns
    projection: HeadColumns
    free_shift: bool


def head_pairs(graph: Graph, sites: tuple[Site, ...]) -> tuple[tuple[ScorePair, ...], tuple[ValuePair, ...]]:
    """The pairs between which an invertible map of each head's channels can be moved.

    A pair is left out when anything else reads the channels, when they pass through more than data movement and
    constant scalar factors (rotary embeddings, normalization of queries), or when a linear's weight has other owners.
    """
    linears = {s.output: s for s in sites if s.kind == "linear" and _owns(graph, s)}
    by_output = nodes_by_output(graph)
    scores, values = [], []
    for site in sites:
        product = by_output[site.product]
        left, right = product.inputs[0], product.inputs[1]
        if site.kind == "matmul_qk":
            found = _source(left, linears), _source(right, linears)
            if found[0] is not None and found[1] is not None:
                scores.append((site, found[0], found[1]))
        elif site.kind == "matmul_av":
            source, reader = _source(right, linears), _only_linear(product.outputs[0], sites)
            if source is not None and reader is not None and _owns(graph, reader):
                values.append((site, source, reader))
    used = _Columns(graph, [*scores, *values])
    allowed = {s.product for s, *_ in scores} | {s.product for s, *_ in values}
    closed = {name for name, site in linears.items() if _readers(by_output, site) <= allowed}
    score_pairs = []
    for site, query, key in scores:
        q, k = used.of(site.input, query, False), used.of(site.second or "", key, True)
        if {query.output, key.output} <= closed and q is not None and k is not None and _alike(q, k):
            score_pairs.append(ScorePair(q, k, _straight_to_softmax(by_output[site.product])))
    value_pairs = []
    for site, value, reader in values:
        columns, rows = used.of(site.second or "", value, False), used.rows(site, reader)
        if value.output in closed and columns is not None and rows is not None and _alike(columns, rows):
            value_pairs.append(ValuePair(columns, rows, _sums_to_one(by_output[site.product].inputs[0])))
    return tuple(score_pairs), tuple(value_pairs)


def _alike(one: HeadColumns, other: HeadColumns) -> bool:
    return one.index.shape == other.index.shape


class _Columns:
    """Numbered columns, sent from the linears of `found` to the attention products in one run on two images.

    The first image carries ones and the second the column's number, so that a scalar factor on the way divides out.
    """

    def __init__(self, graph: Graph, found: Iterable[tuple[Site, Site, Site]]) -> None:
        found = list(found)
        self.seen: dict[str, torch.Tensor] = {}
        if not found or graph.static_batch is not None:
            return
        taps: dict[str, Tap] = {}
        for site, first, second in found:
            if site.kind == "matmul_qk":
                taps[first.output] = taps[second.output] = _number_last
            else:
                taps[first.output], taps[site.output] = _number_last, _number_heads
        names = {n for site, *_ in found for n in (site.input, site.second) if n is not None}
        names |= {reader.input for site, _, reader in found if site.kind == "matmul_av"}
        shape = graph.interface.image_size
        with torch.no_grad():
            self.seen = Executor(graph).run(torch.zeros(2, *shape), taps=taps, fetch=sorted(names))

    def of(self, operand: str, source: Site, transposed: bool) -> HeadColumns | None:
        """Columns of `source` that arrive as the channels of `operand` [n, heads, rows, channels]."""
        x = self.seen.get(operand)
        if x is None or x.ndim != 4:
            return None
        index = _numbers(x.transpose(-1, -2) if transposed else x)
        return None if index is None else HeadColumns(source.name, source.output, index)

    def rows(self, product: Site, reader: Site) -> HeadColumns | None:
        """Rows of `reader` that read each channel of the mixed values of `product`."""
        x = self.seen.get(reader.input)
        mixed = self.seen.get(product.second or "")
        if x is None or mixed is None or mixed.ndim != 4:
            return None
        flat = _numbers(x.reshape(1, 1, -1, x.shape[-1]), halves=len(x))
        heads, channels = mixed.shape[1], mixed.shape[-1]
        if flat is None or sorted(flat[0]) != list(range(heads * channels)):
            return None
        return HeadColumns(reader.name, reader.input, np.argsort(flat[0]).reshape(heads, channels))


def _number_last(x: torch.Tensor) -> torch.Tensor:
    numbered = torch.ones_like(x)
    numbered[len(x) // 2 :] = torch.arange(x.shape[-1], dtype=x.dtype)
    return numbered


def _number_heads(x: torch.Tensor) -> torch.Tensor:
    numbered = torch.ones_like(x)
    if x.ndim == 4:
        numbers = torch.arange(x.shape[1] * x.shape[-1], dtype=x.dtype).reshape(x.shape[1], 1, x.shape[-1])
        numbered[len(x) // 2 :] = numbers
    return numbered


def _numbers(x: torch.Tensor, halves: int | None = None) -> Array | None:
    """int64 [heads, channels] that every row of the second image carries; None when rows differ."""
    if halves is not None:
        x = x.reshape(2, -1, 1, x.shape[-1]).transpose(1, 2)
    ones, numbered = x[: len(x) // 2], x[len(x) // 2 :]
    numbers = numbered / ones
    index = numbers[0, :, 0].round()
    if not torch.isfinite(numbers).all() or (numbers - index[:, None]).abs().max() > 1e-3:
        return None
    found = index.long().numpy()
    return found if len(np.unique(found)) == found.size else None


def _source(operand: ir.Value | None, linears: Mapping[str, Site]) -> Site | None:
    """The one linear whose output reaches `operand` through data movement and constant scalar factors."""
    while operand is not None:
        reached = list(producers(operand))
        if len(reached) != 1:
            return None
        node = reached[0]
        found = linears.get(node.outputs[0].name or "")
        if found is not None:
            return found
        operand = node.inputs[0] if node.op_type in SCALES and _scalar(node.inputs[1]) else None
    return None


def _scalar(value: ir.Value | None) -> bool:
    array = constant(value)
    return array is not None and array.size == 1


def _readers(by_output: Mapping[str, ir.Node], site: Site) -> set[str]:
    """Names of the results of everything that computes with the output of `site`."""
    return {name for use in by_output[site.output].outputs[0].uses() for name in _computed(use.node)} | (
        {"graph output"} if by_output[site.output].outputs[0].is_graph_output() else set()
    )


def _computed(node: ir.Node) -> Iterator[str]:
    moves = node.op_type in MOVES or (node.op_type in SCALES and _scalar(node.inputs[1]))
    if node.op_type in DESCRIBES:
        return
    if not moves or any(v.is_graph_output() for v in node.outputs):
        yield node.outputs[0].name or ""
        return
    for value in node.outputs:
        for use in value.uses():
            yield from _computed(use.node)


def _only_linear(mixed: ir.Value, sites: tuple[Site, ...]) -> Site | None:
    """The one linear that reads the mixed values through data movement."""
    readers = {name for use in mixed.uses() for name in _computed(use.node)}
    found = [s for s in sites if s.kind == "linear" and s.product in readers]
    return found[0] if len(found) == 1 and len(readers) == 1 and not mixed.is_graph_output() else None


def _owns(graph: Graph, site: Site) -> bool:
    names = [n for n in (site.weight, site.bias) if n is not None]
    return all(len(graph.initializers[n].uses()) == 1 for n in names)


def _straight_to_softmax(node: ir.Node) -> bool:
    """Whether scores only get constant factors and sums before a softmax over the keys (their last axis)."""
    value = node.outputs[0]
    for _ in range(12):
        users = list(value.uses())
        if len(users) != 1 or value.shape is None:
            return False
        user = users[0].node
        made = user.outputs[0]
        if user.op_type == "Softmax":
            axis = user.attributes["axis"].as_int() if "axis" in user.attributes else -1
            return axis in (-1, len(value.shape) - 1)
        if user.op_type == "Reshape":
            if made.shape is None or made.shape[-1] != value.shape[-1]:
                return False
        elif user.op_type in SCALES:
            if not _scalar(user.inputs[1 - users[0].idx]):
                return False
        elif user.op_type != "Add":
            return False
        value = made
    return False


def _sums_to_one(probabilities: ir.Value | None) -> bool:
    made = list(producers(probabilities))
    return bool(made) and all(node.op_type == "Softmax" for node in made)
