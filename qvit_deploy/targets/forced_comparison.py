"""The codes and outputs of a runtime against the executor's, with the runtime's own tensor in front of every quantizer.

Free-running graphs cannot be compared code by code: a difference of one float ulp upstream moves a value across a
rounding boundary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx_ir as ir
import torch

from qvit_deploy.errors import CheckError
from qvit_deploy.execute.executor import Executor, Tap
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.quantize.plan import Plan

OUTPUT_TOLERANCE = 1e-4
"""Largest allowed difference of a site's output, relative to the tensor's largest magnitude."""

CANCELLED = 1e-2
"""Of a bias that the sum cancels, float32 leaves noise of 6e-8: an output smaller than this share of it is not held to
`OUTPUT_TOLERANCE` of its own size."""


@dataclass(frozen=True)
class Comparison:
    """Both sides fed alike.

    Attributes:
        codes: how many were compared.
        ties: how many of them were the neighbour's.
        worst_site, worst_error: the site whose output differs most, relative to its largest value.
    """

    codes: int
    ties: int
    worst_site: str
    worst_error: float


def compared(emitted: Graph, plan: Plan) -> list[str]:
    """Tensors that `compare_forced` takes: inputs of sites, codes, outputs of sites."""
    inputs, outputs = _inputs(emitted, plan), {p.site.output for p in plan.sites.values()}
    return [*inputs, *sorted(_quantizers(emitted)), *sorted(outputs - set(inputs))]


def compare_forced(
    executor: Executor,
    emitted: Graph,
    plan: Plan,
    images: np.ndarray,
    measured: Mapping[str, np.ndarray],
    rows: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
    tie: float = 0.0,
    biases: Mapping[str, float] = MappingProxyType({}),
) -> Comparison:
    """Runs the executor with the runtime's own tensor in front of every quantizer, and compares codes and outputs.

    Args:
        measured: tensors of `compared` as a runtime has them. Those of site inputs replace the executor's.
        rows: tensors of which the runtime has some rows of axis 1 only -> those rows.
        tie: steps from the boundary between two codes within which either is right, for a runtime that multiplies by
            the reciprocal of a scale. Products then read the runtime's codes.
        biases: output of a site -> the largest bias that the runtime adds and the sum may cancel.

    Raises:
        CheckError: codes differ; names them.
    """
    quantizers = _quantizers(emitted)
    inputs, codes = _inputs(emitted, plan), sorted(quantizers)
    outputs = {p.site.output: p.site.name for p in plan.sites.values()}
    sources = {str(q.inputs[0].name) for q in quantizers.values() if tie and q.inputs[0] is not None}
    forced = {*inputs, *(codes if tie else ())}

    def force(name: str, x: torch.Tensor) -> torch.Tensor:
        ours = torch.from_numpy(measured[name]).to(executor.device, x.dtype)
        if name not in rows:
            return ours
        whole = x.clone()
        whole[:, rows[name]] = ours
        return whole

    # A site's own output may feed the next quantizer directly: read it before it is forced.
    seen: dict[str, np.ndarray] = {}
    before: dict[str, np.ndarray] = {}

    def read_then_force(name: str) -> Tap:
        def tap(x: torch.Tensor) -> torch.Tensor | None:
            seen[name] = x.cpu().numpy() if name not in rows else x[:, rows[name]].cpu().numpy()
            taken = force(name, x) if name in forced else None
            if name in sources:
                before[name] = (x if taken is None else taken).cpu().numpy()
            return taken

        return tap

    taps = {name: read_then_force(name) for name in {*forced, *codes, *outputs, *sources}}
    with torch.no_grad():
        executor.run(torch.from_numpy(images), taps=taps)
    ties = 0
    for name in codes:
        if seen[name].shape != measured[name].shape:
            raise CheckError(f"verification: {name!r} is {measured[name].shape}, not {seen[name].shape}")
        different = seen[name] != measured[name]
        if tie and different.any():
            near = _near_a_boundary(before, quantizers[name], rows.get(name), tie)
            neighbours = np.abs(seen[name].astype(np.int16) - measured[name]) == 1
            ties += int((different & near & neighbours).sum())
            different &= ~(near & neighbours)
        if different.any():
            raise CheckError(
                f"verification: {int(different.sum())} of {seen[name].size} codes of {name!r} differ between the "
                "runtime and the executor"
            )
    worst_site, worst_error = "", 0.0
    for name, site in outputs.items():
        largest = max(float(np.abs(measured[name]).max()), CANCELLED * biases.get(name, 0.0), 1e-12)
        error = float(np.abs(seen[name] - measured[name]).max()) / largest
        if not error < worst_error:  # a NaN is the worst
            worst_site, worst_error = site, error if error == error else float("inf")
    return Comparison(sum(seen[name].size for name in codes), ties, worst_site, worst_error)


def _near_a_boundary(
    before: Mapping[str, np.ndarray], quantize: ir.Node, rows: tuple[int, ...] | None, tie: float
) -> np.ndarray:
    """Where what `quantize` reads lies within `tie` steps of the middle between two codes."""
    source, scale = quantize.inputs[0], constant(quantize.inputs[1])
    assert source is not None and scale is not None
    x = before[str(source.name)]
    steps = (x if rows is None else x[:, rows]).astype(np.float64) / scale
    return np.abs(np.abs(steps - np.floor(steps)) - 0.5) <= tie


def require_close(found: Comparison, profile: str) -> None:
    """Raises CheckError naming the site when an output is off by more than `OUTPUT_TOLERANCE`."""
    if found.worst_error > OUTPUT_TOLERANCE:
        raise CheckError(
            f"verification of {profile}: output of site {found.worst_site!r} differs from the executor's by "
            f"{found.worst_error:.1e} of its range"
        )


def _inputs(emitted: Graph, plan: Plan) -> list[str]:
    quantized = {tensor for site in plan.sites.values() for tensor, _ in site.operands}
    return sorted(quantized - {emitted.input.name})


def _quantizers(emitted: Graph) -> dict[str, ir.Node]:
    """Codes -> what makes them."""
    return {n.outputs[0].name or "": n for n in emitted.nodes() if n.op_type == "QuantizeLinear"}
