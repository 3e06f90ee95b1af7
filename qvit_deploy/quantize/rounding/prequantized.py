"""Weights rounded before their widths are chosen, so that a loss table sees the errors that a plan will have.

Error feedback removes most of the error of rounding to nearest, but not the same share of it everywhere: a table of
weights rounded to nearest would give the bits to the wrong layers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

from qvit_deploy.execute.executor import Executor
from qvit_deploy.execute.lockstep import Lockstep
from qvit_deploy.formats.format import Format
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.sites import Site
from qvit_deploy.progress import Advance
from qvit_deploy.quantize.rounded_weight import RoundedWeight, RoundedWeights
from qvit_deploy.quantize.rounding.compensate import (
    DAMPING,
    GramAccumulator,
    factorise,
    pooled,
    round_weight,
)


def prequantize_weights(
    executor: Executor,
    sites: Iterable[Site],
    weights: Mapping[str, Tensor],
    importance: Mapping[str, Tensor],
    formats: Collection[Format],
    batches: Iterable[Examples[Tensor]] | None,
    advance: Advance,
) -> RoundedWeights:
    """Rounds every weight to every format with error feedback against its float inputs.

    Args:
        weights: site name -> [in, out] float32.
        importance: tensor name -> weight of each row of an image, where rows differ.
        batches: examples to fit to; not those that the errors are then measured on, which
            would flatter wide inputs. None rounds to nearest, as do convolutions.
        advance: called with 1 for every weight done.
    """
    weighted = [s for s in sites if s.name in weights]
    run = None if batches is None else Lockstep(executor, batches, {s.input for s in weighted})
    rounded: dict[tuple[str, Format], RoundedWeight] = {}
    last: tuple[str, Tensor] | None = None
    for site in weighted:
        feedback = None
        if run is not None and site.kind == "linear":
            if last is None or last[0] != site.input:
                last = site.input, _feedback(run.advance(site.input), importance.get(site.input))
            feedback = last[1]
        for format in formats:
            rounded[site.name, format] = round_weight(weights[site.name], format, feedback)
        advance(1)
    return rounded


def _feedback(values: list[Tensor], importance: Tensor | None) -> Tensor:
    accumulator = GramAccumulator(values[0].shape[-1])
    for value in values:
        rows = value.reshape(-1, value.shape[-1]).cpu()
        accumulator.add(rows, rows, importance)
    return factorise(pooled([accumulator]), DAMPING).feedback()
