"""Finds which columns of which linears make up the heads of an attention: the condition for folding into them.

An attention product sees its projections through reshapes, transposes and slices, which every exporter writes
differently. Instead of matching the patterns, numbered columns are sent through them and read where they arrive.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch

from qvit_deploy.execute.executor import Executor, Tap
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.graph.op_traits import DESCRIBES, MOVES, SCALES
from qvit_deploy.graph.query import nodes_by_output, producers
from qvit_deploy.graph.sites import Site
from qvit_deploy.graph.synthetic import blank

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
    """Query and key of one product. `free_shift` says that a constant added to every key changes no probability."""

    query: HeadColumns
    key: HeadColumns
    free_shift: bool


@dataclass(frozen=True)
class ValuePair:
    """Value columns and the rows of the projection that reads the attention output, head by head.

    `free_shift` says that the probabilities sum to 1, so that a constant added to all values is added to the output.
    """

    value: HeadColumns
    projection: HeadColumns
    free_shift: bool


def head_pairs(graph: Graph, sites: tuple[Site, ...]) -> tuple[tuple[ScorePair, ...], tuple[ValuePair, ...]]:
    """Returns the pairs between which an invertible map of each head's channels can be moved.

    A pair is left out when anything else reads the channels, when they pass through more than data movement and
    constant scalar factors (rotary embeddings, normalization of queries), or when a linear's weight is shared.
    """
    linears = {s.output: s for s in sites if s.kind == "linear" and _owns(graph, s)}
    by_output = nodes_by_output(graph)
    scores, values = [], []
    for site in sites:
        product = by_output[site.product]
        left, right = product.inputs[0], product.inputs[1]
        if site.kind == "matmul_qk":
            query, key = _source(left, linears), _source(right, linears)
            if query is not None and key is not None:
                scores.append((site, query, key))
        elif site.kind == "matmul_av":
            value, reader = _source(right, linears), _only_linear(product.outputs[0], sites)
            if value is not None and reader is not None and _owns(graph, reader):
                values.append((site, value, reader))
    tracer = _ColumnTracer(graph, [*scores, *values])
    products = {s.product for s, *_ in scores} | {s.product for s, *_ in values}
    # The linears that nothing but attention products reads.
    exclusive = {name for name, site in linears.items() if _readers(by_output, site) <= products}
    score_pairs = []
    for site, query, key in scores:
        q, k = tracer.columns(site.input, query, False), tracer.columns(site.second or "", key, True)
        if {query.output, key.output} <= exclusive and q is not None and k is not None and _same_shape(q, k):
            score_pairs.append(ScorePair(q, k, _straight_to_softmax(by_output[site.product])))
    value_pairs = []
    for site, value, reader in values:
        columns, rows = tracer.columns(site.second or "", value, False), tracer.rows(site, reader)
        if value.output in exclusive and columns is not None and rows is not None and _same_shape(columns, rows):
            value_pairs.append(ValuePair(columns, rows, _sums_to_one(by_output[site.product].inputs[0])))
    return tuple(score_pairs), tuple(value_pairs)


def _same_shape(one: HeadColumns, other: HeadColumns) -> bool:
    return one.index.shape == other.index.shape


class _ColumnTracer:
    """Sends numbered columns from linears to attention products in one run on two images.

    The first image carries ones and the second the column's number, so that a scalar factor in between divides out.

    Args:
        attentions: (product, query, key) or (product, value, the linear that reads the output).
    """

    def __init__(self, graph: Graph, attentions: Sequence[tuple[Site, Site, Site]]) -> None:
        self._operands: dict[str, torch.Tensor] = {}
        if not attentions or graph.static_batch is not None:
            return
        taps: dict[str, Tap] = {}
        for site, first, second in attentions:
            if site.kind == "matmul_qk":
                taps[first.output] = taps[second.output] = _number_last
            else:
                taps[first.output], taps[site.output] = _number_last, _number_heads
        names = {n for site, *_ in attentions for n in (site.input, site.second) if n is not None}
        names |= {reader.input for site, _, reader in attentions if site.kind == "matmul_av"}
        batch = blank(graph.interface.inputs, 2).map(torch.from_numpy)
        with torch.no_grad():
            self._operands = Executor(graph).run(batch, taps=taps, fetch=sorted(names))

    def columns(self, operand: str, source: Site, transposed: bool) -> HeadColumns | None:
        """Returns the columns of `source` that arrive as the channels of `operand` [n, heads, rows, channels]."""
        x = self._operands.get(operand)
        if x is None or x.ndim != 4:
            return None
        index = _numbers(x.transpose(-1, -2) if transposed else x)
        return None if index is None else HeadColumns(source.name, source.output, index)

    def rows(self, product: Site, reader: Site) -> HeadColumns | None:
        """Returns the rows of `reader` that read each channel of the output of `product`."""
        x = self._operands.get(reader.input)
        values = self._operands.get(product.second or "")
        if x is None or values is None or values.ndim != 4:
            return None
        flat = _numbers(x.reshape(2, -1, 1, x.shape[-1]).transpose(1, 2))
        heads, channels = values.shape[1], values.shape[-1]
        if flat is None or sorted(flat[0]) != list(range(heads * channels)):
            return None
        return HeadColumns(reader.name, reader.input, np.argsort(flat[0]).reshape(heads, channels))


def _number_last(x: torch.Tensor) -> torch.Tensor:
    """Replaces the linear's output [2, ..., channels] by ones and, in the second image, the number of each channel."""
    numbered = torch.ones_like(x)
    numbered[len(x) // 2 :] = torch.arange(x.shape[-1], dtype=x.dtype)
    return numbered


def _number_heads(x: torch.Tensor) -> torch.Tensor:
    """Does the same for the output of a product, [2, heads, rows, channels]: channels are numbered head after head."""
    numbered = torch.ones_like(x)
    if x.ndim == 4:
        numbers = torch.arange(x.shape[1] * x.shape[-1], dtype=x.dtype).reshape(x.shape[1], 1, x.shape[-1])
        numbered[len(x) // 2 :] = numbers
    return numbered


def _numbers(x: torch.Tensor) -> Array | None:
    """Reads from x [n, heads, rows, channels] the numbers int64 [heads, channels] that every row of the second image
    carries; None when rows differ or a number comes twice."""
    ones, numbered = x[: len(x) // 2], x[len(x) // 2 :]
    numbers = numbered / ones
    index = numbers[0, :, 0].round()
    if not torch.isfinite(numbers).all() or (numbers - index[:, None]).abs().max() > 1e-3:
        return None
    columns = index.long().numpy()
    return columns if len(np.unique(columns)) == columns.size else None


def _source(operand: ir.Value | None, linears: Mapping[str, Site]) -> Site | None:
    """Returns the one linear whose output reaches `operand` through data movement and constant scalar factors."""
    while operand is not None:
        nodes = list(producers(operand))
        if len(nodes) != 1:
            return None
        node = nodes[0]
        linear = linears.get(node.outputs[0].name or "")
        if linear is not None:
            return linear
        operand = node.inputs[0] if node.op_type in SCALES and _scalar(node.inputs[1]) else None
    return None


def _scalar(value: ir.Value | None) -> bool:
    array = constant(value)
    return array is not None and array.size == 1


def _readers(by_output: Mapping[str, ir.Node], site: Site) -> set[str]:
    """Returns the names of the results of everything that computes with the output of `site`."""
    return {name for use in by_output[site.output].outputs[0].uses() for name in _computed(use.node)} | (
        {"graph output"} if by_output[site.output].outputs[0].is_graph_output() else set()
    )


def _computed(node: ir.Node) -> Iterator[str]:
    """Yields what is computed from the result of `node` behind data movement and constant scalar factors."""
    moves = node.op_type in MOVES or (node.op_type in SCALES and _scalar(node.inputs[1]))
    if node.op_type in DESCRIBES:
        return
    if not moves or any(v.is_graph_output() for v in node.outputs):
        yield node.outputs[0].name or ""
        return
    for value in node.outputs:
        for use in value.uses():
            yield from _computed(use.node)


def _only_linear(output: ir.Value, sites: tuple[Site, ...]) -> Site | None:
    """Returns the linear that reads the attention output through data movement, if nothing else reads it."""
    readers = {name for use in output.uses() for name in _computed(use.node)}
    linears = [s for s in sites if s.kind == "linear" and s.product in readers]
    return linears[0] if len(linears) == 1 and len(readers) == 1 and not output.is_graph_output() else None


def _owns(graph: Graph, site: Site) -> bool:
    """Returns whether nothing but this site uses its weight and bias."""
    names = [n for n in (site.weight, site.bias) if n is not None]
    return all(len(graph.initializers[n].uses()) == 1 for n in names)


def _straight_to_softmax(node: ir.Node) -> bool:
    """Returns whether scores only get constant factors and sums before a softmax over the keys (their last axis)."""
    value = node.outputs[0]
    for _ in range(12):
        users = list(value.uses())
        if len(users) != 1 or value.shape is None:
            return False
        user = users[0].node
        result = user.outputs[0]
        if user.op_type == "Softmax":
            axis = user.attributes["axis"].as_int() if "axis" in user.attributes else -1
            return axis in (-1, len(value.shape) - 1)
        if user.op_type == "Reshape":
            if result.shape is None or result.shape[-1] != value.shape[-1]:
                return False
        elif user.op_type in SCALES:
            if not _scalar(user.inputs[1 - users[0].idx]):
                return False
        elif user.op_type != "Add":
            return False
        value = result
    return False


def _sums_to_one(probabilities: ir.Value | None) -> bool:
    nodes = list(producers(probabilities))
    return bool(nodes) and all(node.op_type == "Softmax" for node in nodes)
