"""What quantization did to a bundle: the drift of the metric on images, by site, block and token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from qvit_deploy.data.images import ImageSet
from qvit_deploy.data.padding import padded
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.sites import Site
from qvit_deploy.patching.agreement import Agreement, compare
from qvit_deploy.patching.cells import token_grid
from qvit_deploy.patching.components import find_components
from qvit_deploy.patching.drift import Drift, quantization_drift
from qvit_deploy.pipeline.explain import rule_set_called
from qvit_deploy.pipeline.model_files import ModelFile, quantized_sites
from qvit_deploy.progress import Advance
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.task import Task

AT_ONCE = 8
"""Images per run: every site's output is held for all of them."""

OUTSIDE = "outside blocks"


@dataclass(frozen=True, eq=False)
class DriftExplanation:
    """The drift of a bundle on n images.

    Attributes:
        blocks: site name -> label of its block.
        effects: site name -> float64 [n]: change of the metric caused there.
        tokens: site name -> float64 [tokens], mean |effect| of each over the images, where rows are tokens in order.
        errors: site name -> |error| / |output|, root mean square over the batches.
        before, after, estimated: the metric of the float and quantized model, and the sum of all effects, float64 [n].
        agreement: of `estimated` with `after - before`, over the images.
        unexplained: see `Drift`, the largest.
    """

    metric: str
    rules: str
    sites: tuple[Site, ...]
    bits: Mapping[str, tuple[int | None, int | None]]
    blocks: Mapping[str, str]
    effects: Mapping[str, np.ndarray]
    tokens: Mapping[str, np.ndarray]
    errors: Mapping[str, float]
    before: np.ndarray
    after: np.ndarray
    estimated: np.ndarray
    agreement: Agreement
    unexplained: float
    changed_predictions: int


def explain_drift(
    clean: ModelFile,
    quantized: ModelFile,
    images: ImageSet,
    *,
    metric: str,
    rules: str,
    task: Task = CLASSIFY,
    advance: Advance = lambda _: None,
) -> DriftExplanation:
    """The drift between the float and a quantized graph of one bundle; `advance` counts images.

    Raises:
        InputError: no such metric or rule set.
        BundleError: the float graph lacks a quantized layer.
        CheckError: the two graphs differ outside their sites.
    """
    assert clean.manifest is not None
    sites, rule_set, measured = quantized_sites(clean), rule_set_called(rules, False), task.parse_metric(metric)
    parts: list[Drift] = []
    size, runner = 0, Executor(quantized.graph)
    for pixels, _ in images.batches(clean.graph.static_batch or AT_ONCE):
        batch = torch.from_numpy(padded(pixels, clean.graph.static_batch))
        if len(batch) != size:
            size = len(batch)
            executor = Executor(clean.graph, overrides=rule_set.bind(clean.graph, size).overrides)
        parts.append(quantization_drift(executor, runner, rule_set, sites, batch, measured, task))
        advance(len(pixels))
    n = len(images)

    def joined(values: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(values)[:n]

    ordered = set.intersection(*(set(p.in_order) for p in parts))
    before, after, estimated = (joined([getattr(p, v) for p in parts]) for v in ("before", "after", "estimated"))
    answers = [joined([getattr(p, f"answers_{v}") for p in parts]) for v in ("before", "after")]
    _, height, width = clean.graph.interface.image_size
    per_row = {s.name: joined([p.effects[s.name] for p in parts]) for s in sites}
    return DriftExplanation(
        metric=metric,
        rules=rule_set.name,
        sites=sites,
        bits={s.name: (s.w_bits, s.a_bits) for s in clean.manifest.sites},
        blocks=_blocks(clean, sites),
        effects={name: rows.sum(1) for name, rows in per_row.items()},
        tokens={
            name: np.abs(rows).mean(0)
            for name, rows in per_row.items()
            if name in ordered and token_grid(rows.shape[1], height, width) is not None
        },
        errors={s.name: float(np.sqrt(np.mean([p.errors[s.name] ** 2 for p in parts]))) for s in sites},
        before=before,
        after=after,
        estimated=estimated,
        agreement=compare(estimated, after - before),
        unexplained=max(p.unexplained for p in parts),
        changed_predictions=int((answers[0] != answers[1]).sum()),
    )


def _blocks(model: ModelFile, sites: Sequence[Site]) -> dict[str, str]:
    labels = list(dict.fromkeys(c.label for c in find_components(model.graph) if c.kind != "residual"))
    return {
        s.name: next((label for label in labels if s.name.startswith(f"{label}.")), OUTSIDE) for s in sites
    }  # fmt: skip
