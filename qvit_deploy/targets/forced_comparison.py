"""Compares codes and outputs of a runtime with the executor's, with the runtime's tensor in front of every quantizer.

Free-running graphs cannot be compared code by code: a difference of one float ulp upstream moves a value across a
rounding boundary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from qvit_deploy.errors import CheckError
from qvit_deploy.execute.executor import Executor, Tap
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.targets.batches import at_once

OUTPUT_TOLERANCE = 1e-4
"""Largest allowed difference of a site's output, relative to the tensor's largest magnitude."""

PROBE_IMAGES = 4
"""Images of the comparison: every quantizer's float input is held at once, and thousands of codes per image are plenty
to find a wrong scale. Large images count for several, see `batches.at_once`."""

CANCELLED = 1e-2
"""A bias that the sum cancels leaves float32 noise of 6e-8 of itself, so an output smaller than this share of the bias
is compared on the scale of that share instead of its own."""


@dataclass(frozen=True)
class Comparison:
    """The result of running both sides on the same tensors.

    Attributes:
        codes: how many codes were compared.
        ties: how many of them were a neighbouring code, which counts as equal.
        worst_site, worst_error: the site whose output differs most, and by how much relative to its largest value.
    """

    codes: int
    ties: int
    worst_site: str
    worst_error: float

    def fields(self, images: Examples[np.ndarray], probed: Examples[np.ndarray]) -> dict[str, Any]:
        """Returns fields of a `FileVerification`, for which logits were compared on `images`, and codes on `probed`."""
        return {
            "images": len(images),
            "probe_images": len(probed),
            "codes": self.codes,
            "code_mismatches": 0,  # `compare_forced` lets none pass
            "worst_site": self.worst_site,
            "worst_site_error": self.worst_error,
        }


def probe_images(images: Examples[np.ndarray], static_batch: int | None) -> Examples[np.ndarray]:
    """Returns the images that codes are compared on.

    They are the first few, or as many as a fixed batch takes, some repeated if need be.
    """
    if static_batch is None:
        return images[: at_once(images, PROBE_IMAGES)]
    return images.cycled(static_batch)


@dataclass(frozen=True)
class _Execution:
    """What the executor computed.

    Attributes:
        tensors: before they were replaced by the runtime's; only the rows that the runtime has.
        quantizer_inputs: what quantizers read, after they were replaced.
    """

    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    quantizer_inputs: dict[str, np.ndarray] = field(default_factory=dict)


def compared_tensors(emitted: Graph, plan: Plan) -> list[str]:
    """Returns the names of the tensors that `compare_forced` takes: inputs of sites, codes, outputs of sites."""
    inputs, outputs = _inputs(emitted, plan), {p.site.output for p in plan.sites.values()}
    return [*inputs, *sorted(_quantizers(emitted)), *sorted(outputs - set(inputs))]


def compare_forced(
    executor: Executor,
    emitted: Graph,
    plan: Plan,
    images: Examples[np.ndarray],
    measured: Mapping[str, np.ndarray],
    rows: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
    tie: float = 0.0,
    biases: Mapping[str, float] = MappingProxyType({}),
) -> Comparison:
    """Runs the executor with the runtime's tensor in front of every quantizer, and compares codes and outputs.

    Args:
        measured: the tensors of `compared_tensors` by name, from the runtime. Site inputs replace the executor's.
        rows: by tensor of which the runtime computes only some rows of axis 1, those rows.
        tie: steps from the boundary between two codes within which either is right, for a runtime that multiplies by
            the reciprocal of a scale. Products then read the runtime's codes.
        biases: by output of a site, the largest bias that the runtime adds and the sum may cancel.

    Raises:
        CheckError: codes differ; names them.
    """
    quantizers = _quantizers(emitted)
    outputs = {p.site.output: p.site.name for p in plan.sites.values()}
    sources = {str(q.inputs[0].name) for q in quantizers.values() if tie and q.inputs[0] is not None}
    forced = {*_inputs(emitted, plan), *(quantizers if tie else ())}
    execution = _execute(executor, images, {*quantizers, *outputs}, forced, sources, measured, rows)
    ties = 0
    for name in sorted(quantizers):
        ties += _compare_codes(name, quantizers[name], execution, measured[name], rows.get(name), tie)
    worst_site, worst_error = "", 0.0
    for name, site in outputs.items():
        largest = max(float(np.abs(measured[name]).max()), CANCELLED * biases.get(name, 0.0), 1e-12)
        error = float(np.abs(execution.tensors[name] - measured[name]).max()) / largest
        if not error < worst_error:  # a NaN is the worst
            worst_site, worst_error = site, float("inf") if math.isnan(error) else error
    return Comparison(sum(execution.tensors[name].size for name in quantizers), ties, worst_site, worst_error)


def _execute(
    executor: Executor,
    images: Examples[np.ndarray],
    read: set[str],
    forced: set[str],
    sources: set[str],
    measured: Mapping[str, np.ndarray],
    rows: Mapping[str, tuple[int, ...]],
) -> _Execution:
    """Runs the executor on `images`, replacing the tensors `forced` by those `measured`.

    Args:
        read: names of the tensors to return.
        sources: names of the inputs of quantizers to return.
    """
    execution = _Execution()

    def replacement(name: str, x: torch.Tensor) -> torch.Tensor:
        runtime = torch.from_numpy(measured[name]).to(executor.device, x.dtype)
        if name not in rows:
            return runtime
        full = x.clone()
        full[:, rows[name]] = runtime
        return full

    def tap_of(name: str) -> Tap:
        def tap(x: torch.Tensor) -> torch.Tensor | None:
            # A site's own output may feed the next quantizer directly: it is read before it is replaced.
            execution.tensors[name] = x.cpu().numpy() if name not in rows else x[:, rows[name]].cpu().numpy()
            replaced = replacement(name, x) if name in forced else None
            if name in sources:
                execution.quantizer_inputs[name] = (x if replaced is None else replaced).cpu().numpy()
            return replaced

        return tap

    with torch.no_grad():
        executor.run(images.map(torch.from_numpy), taps={name: tap_of(name) for name in {*read, *forced, *sources}})
    return execution


def _compare_codes(
    name: str,
    quantize: ir.Node,
    execution: _Execution,
    measured: np.ndarray,
    rows: tuple[int, ...] | None,
    tie: float,
) -> int:
    """Returns how many codes of one quantizer are ties. Raises CheckError when others differ."""
    codes = execution.tensors[name]
    if codes.shape != measured.shape:
        raise CheckError(f"verification: {name!r} is {measured.shape}, not {codes.shape}")
    different, ties = codes != measured, 0
    if tie and different.any():
        near = _near_a_boundary(execution.quantizer_inputs, quantize, rows, tie)
        neighbours = np.abs(codes.astype(np.int16) - measured) == 1
        ties = int((different & near & neighbours).sum())
        different &= ~(near & neighbours)
    if different.any():
        raise CheckError(
            f"verification: {int(different.sum())} of {codes.size} codes of {name!r} differ between the "
            "runtime and the executor"
        )
    return ties


def _near_a_boundary(
    inputs: Mapping[str, np.ndarray], quantize: ir.Node, rows: tuple[int, ...] | None, tie: float
) -> np.ndarray:
    """Returns where the input of `quantize` lies within `tie` steps of the middle between two codes."""
    source, scale = quantize.inputs[0], constant(quantize.inputs[1])
    assert source is not None and scale is not None
    x = inputs[str(source.name)]
    steps = (x if rows is None else x[:, rows]).astype(np.float64) / scale
    return np.abs(np.abs(steps - np.floor(steps)) - 0.5) <= tie


def require_close(comparison: Comparison, target: str) -> None:
    """Raises CheckError naming the site when an output is off by more than `OUTPUT_TOLERANCE`."""
    if comparison.worst_error > OUTPUT_TOLERANCE:
        raise CheckError(
            f"verification of {target}: output of site {comparison.worst_site!r} differs from the executor's by "
            f"{comparison.worst_error:.1e} of its range"
        )


def _inputs(emitted: Graph, plan: Plan) -> list[str]:
    """Returns the names of the tensors that are quantized for sites, except the graph's inputs."""
    quantized = {tensor for site in plan.sites.values() for tensor, _ in site.operands}
    return sorted(quantized - {value.name for value in emitted.inputs})


def _quantizers(emitted: Graph) -> dict[str, ir.Node]:
    """Returns the QuantizeLinear nodes by the name of their codes."""
    return {n.outputs[0].name or "": n for n in emitted.nodes() if n.op_type == "QuantizeLinear"}
