"""Sites that are operators of our own (`packed.linear`, `packed.norm`, `packed.attention`): what there is to
verify of them.

They are looked into through the function bodies that ONNX Runtime runs for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qvit_deploy.emit.emitted import EmittedGraph, EmittedSite
from qvit_deploy.emit.local_functions import DOMAIN, inline
from qvit_deploy.emit.names import call
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
    norm_behind,
    norm_operator,
)
from qvit_deploy.targets.tensorrt.packed.packing import packed_shape, unpack

_CALL = "qvit.call"
"""Metadata of the nodes of a body that was inlined: the name of the operator in whose place they stand."""


@dataclass(frozen=True)
class Codes:
    """A quantizer: the name of its codes in the half-precision file, and what it reads there; both names in the
    `onnxruntime` file, and where that has u of a `LogGrid` instead of its codes, the code of every u."""

    name: str
    source: str
    reference: str
    reference_source: str
    table: np.ndarray | None = None

    def of(self, reference: np.ndarray) -> np.ndarray:
        """The codes that belong to those of the `onnxruntime` file."""
        return reference if self.table is None else self.table[reference]


def opened(emitted: HalfGraph, reference: EmittedGraph) -> tuple[Graph, list[Codes]]:
    """(the graph with the operators' bodies in their place, the codes inside of them).

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
    inside: dict[str, list[str]] = {}
    for node in graph.nodes():
        if is_inside(node):
            inside.setdefault(node.metadata_props[_CALL], []).append(node.outputs[0].name or "")
    found: dict[str, Codes] = {}
    for name in emitted.packed:
        site, operator_node, theirs = emitted.plan.sites[name], calls[call(name)], reference.sites[name]
        norm = norm_behind(operator_node)
        if norm is None:
            made = _codes(site, theirs, inside[operator_node.name or ""])
        else:
            made = [_norm_codes(site, theirs, norm, inside[norm.name or ""], reference)]
        found |= {codes.name: codes for codes in made}
    return graph, list(found.values())


def is_inside(node: ir.Node) -> bool:
    """Whether a node of an `opened` graph is of an operator's body."""
    return _CALL in node.metadata_props


def _made(inside: list[str], name: str) -> str | None:
    """Which of the tensors that a body has made is the one called `name` there: inlining lengthens it."""
    found = [i for i in inside if i == name or i.startswith(f"{name}_")]
    assert len(found) <= 1
    return found[0] if found else None


def _codes(site: SitePlan, reference: EmittedSite, inside: list[str]) -> list[Codes]:
    """The codes of one operator that quantizes, whose body has made the tensors `inside`."""

    def made(name: str) -> str:
        found = _made(inside, name)
        assert found is not None
        return found

    first, second = reference.operands
    if isinstance(site, WeightPlan):
        return [Codes(made(FUNCTION_CODES), made(FUNCTION_INPUT), first.codes, site.site.input)]
    grid, read = site.grid.logarithm, second.source
    assert grid is not None and read is not None
    table = log_table(grid.format.bits, grid.steps).numpy()
    return [
        Codes(made(FUNCTION_LOG_CODES), made(FUNCTION_PROBABILITIES), first.codes, site.site.input, table),
        Codes(made(FUNCTION_VALUE_CODES), made(FUNCTION_VALUES), second.codes, read),
    ]


def _norm_codes(
    site: SitePlan, emitted: EmittedSite, norm: ir.Node, inside: list[str], reference: EmittedGraph
) -> Codes:
    """The codes that a LayerNorm writes for `site`; fed is what it normalizes, so that its own numbers count too."""
    (theirs,) = [n for n in reference.nodes() if any(v.name == site.site.input for v in n.outputs)]
    source, outer = _made(inside, FUNCTION_NORM_INPUT), norm.outputs[0].name or ""
    assert theirs.op_type == "LayerNormalization" and theirs.inputs[0] is not None and source is not None
    # The body's result takes the name of the operator's; codes of 4 bits are not the result yet.
    name = _made(inside, FUNCTION_NORM_CODES) or outer
    return Codes(name, source, emitted.operands[0].codes, theirs.inputs[0].name or "")


def outputs(emitted: HalfGraph) -> dict[str, str]:
    """Tensor -> the site that makes it; behind the GELU where that is part of an operator."""
    calls = {node.name: node.outputs[0] for node in emitted.graph.nodes() if node.domain == DOMAIN}
    found = {}
    for name, site in emitted.plan.sites.items():
        made = calls.get(call(name)) if isinstance(site, WeightPlan) else None
        # The tensor of the plain name is always there, and may be a Cast of what the operator makes.
        tensor = site.site.output if made is None else (made.name or "")
        found[tensor.removesuffix(f".{RESULT}").removesuffix(f".{NARROW}")] = name
    return found


def is_planned(node: ir.Node, site: SitePlan) -> bool:
    """Whether the operator is the site's, number for number."""
    return _is_linear(node, site) if isinstance(site, WeightPlan) else _is_attention(node, site)


def _is_linear(node: ir.Node, site: WeightPlan) -> bool:
    """Its range is not looked at: codes outside would differ."""
    (k, n), (packed, scale, bias) = site.codes.shape, (constant(v) for v in node.inputs[1:])
    norm, grid = norm_behind(node), site.grid.per_tensor
    if grid is None:
        return False
    codes = None if norm is None else container(site.a_bits)
    good = node.op_type in (operator(site.w_bits, gelu, codes) for gelu in (False, True))
    good = good and _has(node, {"x_scale": grid.scale}, {"x_bits": site.a_bits, "n": n, "k": k})
    if norm is None:
        good = good and _has(node, {"x_shift": grid.shift}, {})
    else:
        numbers = {"y_scale": grid.scale, "y_shift": grid.shift}
        good = good and _has(norm, numbers, {"y_bits": site.a_bits, "c": k})
        good = good and norm.op_type == norm_operator(container(site.a_bits))
    good = good and packed is not None and packed.size == np.prod(packed_shape((n, k), site.w_bits))
    good = (
        good
        and packed is not None
        and np.array_equal(unpack(packed.reshape(-1).view(np.uint8), site.w_bits, (n, k)), site.codes.T)
    )
    good = good and scale is not None and np.array_equal(scale, site.weight_scale.astype(np.float32))
    return good and bias is not None and (site.bias is None or np.array_equal(bias, site.bias.astype(np.float32)))


def _has(node: ir.Node, numbers: dict[str, float], sizes: dict[str, int]) -> bool:
    """Whether the attributes are these, numbers as float32 holds them."""
    same = all(np.float32(node.attributes.get_float(name, 0.0)) == np.float32(x) for name, x in numbers.items())
    return same and all(node.attributes.get_int(name, 0) == size for name, size in sizes.items())


def _is_attention(node: ir.Node, site: ProductPlan) -> bool:
    wanted = attention_attributes(site)
    found = {name: node.attributes[name].value for name in wanted if name in node.attributes}
    same = (np.array_equal(np.array(found.get(n), np.float32), np.array(v, np.float32)) for n, v in wanted.items())
    return node.op_type == OPERATOR and len(found) == len(wanted) and all(same)
