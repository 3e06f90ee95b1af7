"""Sites that are operators of our own (`emit.carrier`, `emit.attention_carrier`): what there is to verify of them.

They are looked into through the function bodies that ONNX Runtime runs for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qvit_deploy.emit.attention_carrier import (
    FUNCTION_LOG_CODES,
    FUNCTION_PROBABILITIES,
    FUNCTION_VALUE_CODES,
    FUNCTION_VALUES,
    OPERATOR,
    attention_attributes,
)
from qvit_deploy.emit.calls import RESULT
from qvit_deploy.emit.carrier import FUNCTION_CODES, FUNCTION_INPUT, operator
from qvit_deploy.emit.local_functions import CALL_SUFFIX, DOMAIN, inline
from qvit_deploy.emit.packed import packed_shape, unpack
from qvit_deploy.emit.precision import NARROW, HalfGraph
from qvit_deploy.emit.quantizers import codes_name
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.quantize.activations import ActivationGrid
from qvit_deploy.quantize.attention import HeadGrid, inner_grid
from qvit_deploy.quantize.plan import SitePlan
from qvit_deploy.quantize.softmax import LogGrid, log_table

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


def opened(emitted: HalfGraph) -> tuple[Graph, list[Codes]]:
    """(the graph with the operators' bodies in their place, the codes inside of them)."""
    if not emitted.packed:
        return emitted.graph, []
    graph = emitted.graph.clone()
    for node in graph.nodes():
        if node.domain == DOMAIN:
            node.metadata_props[_CALL] = node.name or ""
    inline(graph.model)
    inside: dict[str, list[str]] = {}
    for node in graph.nodes():
        if _CALL in node.metadata_props:
            inside.setdefault(node.metadata_props[_CALL], []).append(node.outputs[0].name or "")
    return graph, [
        codes for name in emitted.packed for codes in _codes(emitted.plan.sites[name], inside[f"{name}{CALL_SUFFIX}"])
    ]


def _codes(site: SitePlan, inside: list[str]) -> list[Codes]:
    """The codes of one operator, whose body has made the tensors `inside`: their names go on behind those in it."""

    def made(name: str) -> str:
        (found,) = [i for i in inside if i == name or i.startswith(f"{name}_")]
        return found

    reference = codes_name(site.site.input, site.grid.bits)
    if site.second_grid is None:
        return [Codes(made(FUNCTION_CODES), made(FUNCTION_INPUT), reference, site.site.input)]
    second = site.site.second or ""
    values = codes_name(second, site.second_grid.bits)
    read = f"{values}.heads" if isinstance(site.second_grid, HeadGrid) else second
    grid = inner_grid(site.grid)
    assert isinstance(grid, LogGrid)
    table = log_table(grid.bits, grid.steps).numpy()
    return [
        Codes(made(FUNCTION_LOG_CODES), made(FUNCTION_PROBABILITIES), reference, site.site.input, table),
        Codes(made(FUNCTION_VALUE_CODES), made(FUNCTION_VALUES), values, read),
    ]


def outputs(emitted: HalfGraph) -> dict[str, str]:
    """Tensor -> the site that makes it; behind the GELU where that is part of an operator."""
    calls = {node.name: node.outputs[0] for node in emitted.graph.nodes() if node.domain == DOMAIN}
    found = {}
    for name, site in emitted.plan.sites.items():
        made = calls.get(f"{name}{CALL_SUFFIX}") if site.second_grid is None else None
        # The tensor of the plain name is always there, and may be a Cast of what the operator makes.
        tensor = site.site.output if made is None else (made.name or "")
        found[tensor.removesuffix(f".{RESULT}").removesuffix(f".{NARROW}")] = name
    return found


def is_planned(call: ir.Node, site: SitePlan) -> bool:
    """Whether the operator is the site's, number for number."""
    return _is_linear(call, site) if site.second_grid is None else _is_attention(call, site)


def _is_linear(call: ir.Node, site: SitePlan) -> bool:
    """Its range is not looked at: codes outside would differ."""
    assert site.codes is not None and site.weight_scale is not None and isinstance(site.grid, ActivationGrid)
    (k, n), (packed, scale, bias) = site.codes.shape, (constant(v) for v in call.inputs[1:])
    numbers = {"x_scale": np.float32(site.grid.scale), "x_shift": np.float32(site.grid.shift)}
    good = all(np.float32(call.attributes.get_float(name, 0.0)) == number for name, number in numbers.items())
    sizes = {"x_bits": site.a_bits, "n": n, "k": k}
    good = good and all(call.attributes.get_int(name, 0) == size for name, size in sizes.items())
    good = good and call.op_type in (operator(site.w_bits, gelu) for gelu in (False, True))
    good = good and packed is not None and packed.size == np.prod(packed_shape((n, k), site.w_bits))
    good = (
        good
        and packed is not None
        and np.array_equal(unpack(packed.reshape(-1).view(np.uint8), site.w_bits, (n, k)), site.codes.T)
    )
    good = good and scale is not None and np.array_equal(scale, site.weight_scale.astype(np.float32))
    return good and bias is not None and (site.bias is None or np.array_equal(bias, site.bias.astype(np.float32)))


def _is_attention(call: ir.Node, site: SitePlan) -> bool:
    wanted = attention_attributes(site)
    found = {name: call.attributes[name].value for name in wanted if name in call.attributes}
    same = (np.array_equal(np.array(found.get(n), np.float32), np.array(v, np.float32)) for n, v in wanted.items())
    return call.op_type == OPERATOR and len(found) == len(wanted) and all(same)
