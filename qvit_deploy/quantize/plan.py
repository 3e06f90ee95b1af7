"""The plan: an allocation plus every scale, shift and rounded weight. Targets only write it down."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.graph.sites import Site
from qvit_deploy.quantize.clip import weight_scale
from qvit_deploy.quantize.compensate import (
    GramAccumulator,
    Moments,
    corrected_bias,
    factorise,
    regress,
    round_with_feedback,
)
from qvit_deploy.quantize.grid import Grid, Tensor, dequantize, quantize

WIDEST_IN_PARALLEL = 2048
"""Input channels above which sites are rounded one after the other: at 3,072 each needs half a gigabyte."""

Grids = Mapping[tuple[str, int], Grid]
Widths = Mapping[str, tuple[int, int]]
"""Site name -> (weight bits, activation bits)."""


@dataclass(frozen=True)
class SitePlan:
    """Everything a target needs to write one site.

    Attributes:
        site: where.
        w_bits, a_bits: widths; for attention products w_bits is the second operand's.
        grid: of the input.
        second_grid: of the second operand of an attention product.
        codes: int8, the weight's layout ([in, out] or [out, in, kh, kw]); None for attention.
        weight_scale: float32 [out].
        bias: float32 [out], the corrected bias; None when the site has none and needs none.
    """

    site: Site
    w_bits: int
    a_bits: int
    grid: Grid
    second_grid: Grid | None
    codes: np.ndarray | None
    weight_scale: np.ndarray | None
    bias: np.ndarray | None


@dataclass(frozen=True)
class Plan:
    """Site plans by site name, in graph order. Sites that are absent stay in float."""

    sites: Mapping[str, SitePlan]


def site_weights(graph: Graph, sites: Iterable[Site]) -> dict[str, Tensor]:
    """Site name -> weight as a matrix [in, out] float32 (a convolution's kernel flattened to [in*kh*kw, out]).

    Read only: the matrices share the graph's memory where they can.
    """
    found = {}
    for site in sites:
        if site.weight is None:
            continue
        array = constant(graph.initializers[site.weight])
        assert array is not None
        ours = array.dtype == np.float32 and array.flags.writeable
        matrix = torch.from_numpy(array if ours else array.astype(np.float32))
        found[site.name] = matrix if site.kind == "linear" else matrix.flatten(1).t().contiguous()
    return found


def build_plan(
    graph: Graph,
    sites: tuple[Site, ...],
    widths: Widths,
    grids: Grids,
    compensate: str,
    batches: Iterable[Tensor],
    progress: Callable[[int], None],
    executor: Executor,
) -> Plan:
    """Rounds the weights of every site in `widths`.

    Args:
        compensate: "none" rounds to nearest; "bias" also corrects the mean; "gptq" adds regression against the
            quantized inputs and error feedback (`compensate`).
        batches: calibration images, one more pass, not read when `compensate` is "none".
        executor: runs `graph`.
    """
    weights = site_weights(graph, sites)
    chosen = [s for s in sites if s.name in widths]
    grams = {}
    if compensate != "none":
        linears = [s for s in chosen if s.kind == "linear"]
        grams = _accumulate(executor, linears, widths, grids, batches, progress)

    def plan(site: Site) -> SitePlan:
        w_bits, a_bits = widths[site.name]
        grid = grids[site.input, a_bits]
        if site.kind in ("matmul_qk", "matmul_av"):
            assert site.second is not None
            return SitePlan(site, w_bits, a_bits, grid, grids[site.second, w_bits], None, None, None)
        gram = grams.get((site.input, a_bits))
        # Covariances are float64 and large; each lives only while its site is rounded.
        known = None if gram is None else gram.moments()
        bias = None if site.bias is None else constant(graph.initializers[site.bias])
        return _round_site(
            site, weights[site.name], bias, w_bits, grid, known, compensate == "gptq", _kernel_shape(graph, site)
        )

    # Rounding is thousands of small steps: one site per thread beats many threads per step by far, most of all on a
    # loaded machine.
    widest = max((_kernel_shape(graph, s)[0] for s in chosen if s.kind == "linear"), default=0)
    workers = 1 if widest > WIDEST_IN_PARALLEL else os.cpu_count()
    with _one_thread_per_operator(), ThreadPoolExecutor(workers) as pool:
        return Plan({p.site.name: p for p in pool.map(plan, chosen)})


@contextmanager
def _one_thread_per_operator() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _kernel_shape(graph: Graph, site: Site) -> tuple[int, ...]:
    assert site.weight is not None
    array = constant(graph.initializers[site.weight])
    assert array is not None
    return array.shape


def _round_site(
    site: Site,
    weight: Tensor,
    bias: np.ndarray | None,
    w_bits: int,
    grid: Grid,
    moments: Moments | None,
    feedback: bool,
    shape: tuple[int, ...],
) -> SitePlan:
    target, factor = weight, None
    if moments is not None and feedback:
        factor = factorise(moments)
        target = regress(weight, moments, factor)
    importance = None if moments is None else moments.covariance.diagonal().float().clamp_min(0)
    scale = weight_scale(target, w_bits, importance)
    if factor is not None:
        codes = round_with_feedback(target, scale, w_bits, factor)
    else:
        codes = quantize(target, scale, w_bits)
    old_bias = None if bias is None else torch.from_numpy(np.array(bias, dtype=np.float32))
    new_bias: Tensor | None
    if moments is not None:
        new_bias = corrected_bias(old_bias, weight, dequantize(codes, scale), moments)
    elif grid.shift:
        taken_back = -grid.shift * dequantize(codes, scale).sum(0)
        new_bias = taken_back if old_bias is None else old_bias + taken_back
    else:
        new_bias = old_bias
    layout = codes if site.kind == "linear" else codes.t().reshape(shape)
    return SitePlan(
        site=site,
        w_bits=w_bits,
        a_bits=grid.bits,
        grid=grid,
        second_grid=None,
        codes=layout.to(torch.int8).numpy(),
        weight_scale=scale.numpy(),
        bias=None if new_bias is None else new_bias.numpy(),
    )


def _accumulate(
    executor: Executor,
    sites: list[Site],
    widths: Widths,
    grids: Grids,
    batches: Iterable[Tensor],
    progress: Callable[[int], None],
) -> dict[tuple[str, int], GramAccumulator]:
    """(input tensor, activation bits) -> second moments of its quantized and float rows, one pass over the images."""
    accumulators: dict[str, dict[int, GramAccumulator]] = {}
    for site in sites:
        bits = widths[site.name][1]
        channels = _kernel_shape(executor.graph, site)[0]
        accumulators.setdefault(site.input, {}).setdefault(bits, GramAccumulator(channels))

    def tap(name: str) -> Callable[[Tensor], None]:
        def add(x: Tensor) -> None:
            rows = x.reshape(-1, x.shape[-1])
            for bits, accumulator in accumulators[name].items():
                accumulator.add(grids[name, bits].apply(rows).cpu(), rows.cpu())

        return add

    taps = {name: tap(name) for name in accumulators}
    with torch.no_grad():
        for batch in batches:
            executor.run(batch, taps=taps)
            progress(len(batch))
    return {(name, bits): a for name, by_bits in accumulators.items() for bits, a in by_bits.items()}
