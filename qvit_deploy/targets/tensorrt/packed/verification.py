"""Verifies sites that are operators of our own (`packed.linear`, `packed.norm`, `packed.attention`).

Their inner tensors are read through the function bodies that ONNX Runtime runs for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qvit_deploy.emit.emitted import EmittedGraph, EmittedSite
from qvit_deploy.emit.local_functions import DOMAIN, inline
from qvit_deploy.emit.names import call
from qvit_deploy.formats.grids.grid import OneScale
from qvit_deploy.formats.grids.probabilities import log_table
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.quantize.plan import ProductPlan, SitePlan, WeightPlan
from qvit_deploy.targets.tensorrt.half.casts import NARROW
from qvit_deploy.targets.tensorrt.half.precision import HalfGraph
from qvit_deploy.targets.tensorrt.packed.attention import (
    FUNCTION_LOG_CODES,
    FUNCTION_PROBABILITIES,
    FUNCTION_VALUE_CODES,
    FUNCTION_VALUES,
    OPERATOR,
    attention_attributes,
)
from qvit_deploy.targets.tensorrt.packed.calls import RESULT
from qvit_deploy.targets.tensorrt.packed.linear import FUNCTION_CODES, FUNCTION_INPUT, container, operator
from qvit_deploy.targets.tensorrt.packed.norm import (
    FUNCTION_NORM_CODES,
    FUNCTION_NORM_INPUT,
    norm_operator,
    producing_norm,
)
from qvit_deploy.targets.tensorrt.packed.packing import packed_shape, unpack

_CALL = "qvit.call"
"""Metadata key of the nodes of an inlined body: the name of the operator that they replace."""


@dataclass(frozen=True)
class ComparedCodes:
    """A quantizer whose codes are compared between the half-precision file and the `onnxruntime` file.

    Attributes:
        name, source: in the half-precision file, the names of its codes and of the tensor that it quantizes.
        reference, reference_source: the same in the `onnxruntime` file.
        table: where that file has u of a `LogGrid` in place of its codes, the code of every u (1-D); else None.
    """

    name: str
    source: str
    reference: str
    reference_source: str
    table: np.ndarray | None = None

    def expected(self, reference: np.ndarray) -> np.ndarray:
        """Returns the codes that the half-precision file has to have, given the values of `reference`."""
        return reference if self.table is None else self.table[reference]


def inlined(emitted: HalfGraph, reference: EmittedGraph) -> tuple[Graph, list[ComparedCodes]]:
    """Returns (the graph with the operators replaced by their bodies, the codes inside of the bodies).

    Args:
        reference: the `onnxruntime` graph of the same plan.
    """
    if not emitted.packed:
        return emitted.graph, []
    graph = emitted.graph.clone()
    calls = {node.name or "": node for node in emitted.graph.nodes() if node.domain == DOMAIN}
    for node in graph.nodes():
        if node.domain == DOMAIN:
            node.metadata_props[_CALL] = node.name or ""
    inline(graph.model)
    body_tensors: dict[str, list[str]] = {}
    for node in graph.nodes():
        if is_in_body(node):
            body_tensors.setdefault(node.metadata_props[_CALL], []).append(node.outputs[0].name or "")
    by_name: dict[str, ComparedCodes] = {}  # several sites share the codes of one LayerNorm
    for name in emitted.packed:
        site, operator_node, reference_site = emitted.plan.sites[name], calls[call(name)], reference.sites[name]
        norm = producing_norm(operator_node)
        if norm is None:
            compared = _operator_codes(site, reference_site, body_tensors[operator_node.name or ""])
        else:
            compared = [_norm_codes(site, reference_site, norm, body_tensors[norm.name or ""], reference)]
        by_name |= {codes.name: codes for codes in compared}
    return graph, list(by_name.values())


def is_in_body(node: ir.Node) -> bool:
    """Returns whether a node of an `inlined` graph belongs to an operator's body."""
    return _CALL in node.metadata_props


def _body_tensor(tensors: list[str], name: str) -> str | None:
    """Returns which of a body's tensors was called `name` before inlining, which appends to names; None if none was."""
    matching = [t for t in tensors if t == name or t.startswith(f"{name}_")]
    assert len(matching) <= 1
    return matching[0] if matching else None


def _operator_codes(site: SitePlan, reference: EmittedSite, tensors: list[str]) -> list[ComparedCodes]:
    """Returns the codes of an operator that quantizes its own input, whose body has these tensors."""

    def inner(name: str) -> str:
        tensor = _body_tensor(tensors, name)
        assert tensor is not None
        return tensor

    first, second = reference.operands
    if isinstance(site, WeightPlan):
        return [ComparedCodes(inner(FUNCTION_CODES), inner(FUNCTION_INPUT), first.codes, site.site.input)]
    grid, values = site.grid.logarithm, second.source
    assert grid is not None and values is not None
    table = log_table(grid.format.bits, grid.steps).numpy()
    return [
        ComparedCodes(inner(FUNCTION_LOG_CODES), inner(FUNCTION_PROBABILITIES), first.codes, site.site.input, table),
        ComparedCodes(inner(FUNCTION_VALUE_CODES), inner(FUNCTION_VALUES), second.codes, values),
    ]


def _norm_codes(
    site: SitePlan, emitted: EmittedSite, norm: ir.Node, tensors: list[str], reference: EmittedGraph
) -> ComparedCodes:
    """Returns the codes that a LayerNorm operator writes for `site`.

    Their source is the input of the LayerNorm, so that the normalization is compared too.
    """
    (exact,) = [n for n in reference.nodes() if any(v.name == site.site.input for v in n.outputs)]
    source, result = _body_tensor(tensors, FUNCTION_NORM_INPUT), norm.outputs[0].name or ""
    assert exact.op_type == "LayerNormalization" and exact.inputs[0] is not None and source is not None
    # The result of the body is renamed to that of the operator; codes of 4 bits are not the result yet.
    name = _body_tensor(tensors, FUNCTION_NORM_CODES) or result
    return ComparedCodes(name, source, emitted.operands[0].codes, exact.inputs[0].name or "")


def outputs(emitted: HalfGraph) -> dict[str, str]:
    """Returns output tensor -> its site; the tensor behind the GELU where that is part of the operator."""
    calls = {node.name: node.outputs[0] for node in emitted.graph.nodes() if node.domain == DOMAIN}
    site_of_tensor = {}
    for name, site in emitted.plan.sites.items():
        result = calls.get(call(name)) if isinstance(site, WeightPlan) else None
        # The tensor of the plain name is always there, and may be a Cast of the operator's result.
        tensor = site.site.output if result is None else (result.name or "")
        site_of_tensor[tensor.removesuffix(f".{RESULT}").removesuffix(f".{NARROW}")] = name
    return site_of_tensor


def is_planned(node: ir.Node, site: SitePlan) -> bool:
    """Returns whether the operator's attributes and constants are those of the site's plan, number for number."""
    return _is_linear(node, site) if isinstance(site, WeightPlan) else _is_attention(node, site)


def _is_linear(node: ir.Node, site: WeightPlan) -> bool:
    grid = site.grid.per_tensor
    return grid is not None and _has_grid(node, site, grid) and _has_weights(node, site)


def _has_grid(node: ir.Node, site: WeightPlan, grid: OneScale) -> bool:
    """Returns whether the operator, or the LayerNorm that writes its codes, quantizes on `grid`.

    The attributes of the range are not compared: a wrong range would give other codes.
    """
    k, n = site.codes.shape
    norm = producing_norm(node)
    container_bits = None if norm is None else container(site.a_bits)
    if node.op_type not in (operator(site.w_bits, gelu, container_bits) for gelu in (False, True)):
        return False
    if not _has(node, {"x_scale": grid.scale}, {"x_bits": site.a_bits, "n": n, "k": k}):
        return False
    if norm is None:
        return _has(node, {"x_shift": grid.shift}, {})
    numbers = {"y_scale": grid.scale, "y_shift": grid.shift}
    same = _has(norm, numbers, {"y_bits": site.a_bits, "c": k})
    return same and norm.op_type == norm_operator(container(site.a_bits))


def _has_weights(node: ir.Node, site: WeightPlan) -> bool:
    """Returns whether the operator has the packed codes, the scales and, if there is one, the bias of the site."""
    (k, n), (packed, scale, bias) = site.codes.shape, (constant(v) for v in node.inputs[1:])
    if packed is None or scale is None or bias is None:
        return False
    if packed.size != np.prod(packed_shape((n, k), site.w_bits)):
        return False
    codes = unpack(packed.reshape(-1).view(np.uint8), site.w_bits, (n, k))
    same = np.array_equal(codes, site.codes.T) and np.array_equal(scale, site.weight_scale.astype(np.float32))
    return same and (site.bias is None or np.array_equal(bias, site.bias.astype(np.float32)))


def _has(node: ir.Node, numbers: dict[str, float], sizes: dict[str, int]) -> bool:
    """Returns whether the node has these attributes, numbers as float32 holds them."""
    same = all(np.float32(node.attributes.get_float(name, 0.0)) == np.float32(x) for name, x in numbers.items())
    return same and all(node.attributes.get_int(name, 0) == size for name, size in sizes.items())


def _is_attention(node: ir.Node, site: ProductPlan) -> bool:
    planned = attention_attributes(site)
    actual = {name: node.attributes[name].value for name in planned if name in node.attributes}
    same = (np.array_equal(np.array(actual.get(n), np.float32), np.array(v, np.float32)) for n, v in planned.items())
    return node.op_type == OPERATOR and len(actual) == len(planned) and all(same)
