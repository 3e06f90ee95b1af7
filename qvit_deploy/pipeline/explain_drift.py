"""What quantization did to a bundle: the drift of the metric on images, by site, block and token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from qvit_deploy.data.example_set import ExampleSet
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
from qvit_deploy.relevance.rule_sets import RuleSet
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.task import Task

AT_ONCE = 8
"""Images per run: every site's output is held for all of them."""

OUTSIDE = "outside blocks"


@dataclass(frozen=True, eq=False)
class SiteDrift:
    """The part of one quantized site in the drift on n images.

    Attributes:
        block: label of the block it lies in.
        w_bits, a_bits: its widths; None for what stays in float.
        effects: change of the metric caused there, float64 [n].
        tokens: mean |effect| of each token over the images, float64 [tokens]; None where the site's rows are not the
            tokens in order.
        error: |error| / |output|, root mean square over the batches.
    """

    name: str
    block: str
    w_bits: int | None
    a_bits: int | None
    effects: np.ndarray
    tokens: np.ndarray | None
    error: float


@dataclass(frozen=True, eq=False)
class MetricDrift:
    """The metric on n images, float64 [n] each.

    Attributes:
        before, after: of the float and of the quantized model.
        estimated: the sum of all sites' effects, to be compared with `after - before`.
    """

    before: np.ndarray
    after: np.ndarray
    estimated: np.ndarray

    @property
    def true(self) -> np.ndarray:
        """What quantization changed."""
        return self.after - self.before


@dataclass(frozen=True, eq=False)
class DriftExplanation:
    """The drift of a bundle on n images.

    Attributes:
        agreement: of the estimated drift with the true one, over the images.
        unexplained: see `Drift`, the largest.
        changed_answers: images on which the two models decide differently; None where they decide nothing.
    """

    metric: str
    rules: str
    sites: tuple[SiteDrift, ...]
    drift: MetricDrift
    agreement: Agreement
    unexplained: float
    changed_answers: int | None


def explain_drift(
    clean: ModelFile,
    quantized: ModelFile,
    images: ExampleSet,
    *,
    metric: str,
    rules: str,
    task: Task = CLASSIFY,
    advance: Advance = lambda _: None,
) -> DriftExplanation:
    """Returns the drift between the float and a quantized graph of one bundle; `advance` counts images.

    Raises:
        InputError: no such metric or rule set.
        BundleError: the float graph lacks a quantized layer.
        CheckError: the two graphs differ outside their sites.
    """
    sites, rule_set = quantized_sites(clean), rule_set_called(rules, False)
    parts = list(_drifts(clean, quantized, images, sites, metric, rule_set, task, advance))
    n = len(images)

    def joined(values: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(values)[:n]  # without what a fixed batch was padded with

    before, after, estimated = (joined([getattr(p, v) for p in parts]) for v in ("before", "after", "estimated"))
    changed = [
        p.answers_before != p.answers_after
        for p in parts
        if p.answers_before is not None and p.answers_after is not None
    ]
    drift = MetricDrift(before, after, estimated)
    return DriftExplanation(
        metric=metric,
        rules=rule_set.name,
        sites=_site_drifts(clean, sites, parts, n),
        drift=drift,
        agreement=compare(estimated, drift.true),
        unexplained=max(p.unexplained for p in parts),
        changed_answers=int(joined(changed).sum()) if changed else None,
    )


def _drifts(
    clean: ModelFile,
    quantized: ModelFile,
    images: ExampleSet,
    sites: Sequence[Site],
    metric: str,
    rule_set: RuleSet,
    task: Task,
    advance: Advance,
) -> Iterator[Drift]:
    """Yields the drift on each batch of images; rules are bound to a batch size, so a smaller last batch binds them
    anew."""
    measured, size, runner = task.parse_metric(metric), 0, Executor(quantized.graph)
    for examples in images.batches(clean.graph.static_batch or AT_ONCE):
        batch = padded(examples, clean.graph.static_batch).map(torch.from_numpy)
        if len(batch) != size:
            size = len(batch)
            executor = Executor(clean.graph, overrides=rule_set.bind(clean.graph, size).overrides)
        yield quantization_drift(executor, runner, rule_set, sites, batch, measured, task)
        advance(len(examples))


def _site_drifts(model: ModelFile, sites: Sequence[Site], parts: Sequence[Drift], images: int) -> tuple[SiteDrift, ...]:
    assert model.manifest is not None
    records = {record.name: record for record in model.manifest.sites}
    blocks = list(dict.fromkeys(c.label for c in find_components(model.graph) if c.kind != "residual"))
    in_order = set.intersection(*(set(p.in_order) for p in parts))
    _, height, width = model.graph.interface.image_size
    drifts = []
    for site in sites:
        rows = np.concatenate([p.effects[site.name] for p in parts])[:images]
        are_tokens = site.name in in_order and token_grid(rows.shape[1], height, width) is not None
        drifts.append(
            SiteDrift(
                name=site.name,
                block=next((label for label in blocks if site.name.startswith(f"{label}.")), OUTSIDE),
                w_bits=records[site.name].w_bits,
                a_bits=records[site.name].a_bits,
                effects=rows.sum(1),
                tokens=np.abs(rows).mean(0) if are_tokens else None,
                error=float(np.sqrt(np.mean([p.errors[site.name] ** 2 for p in parts]))),
            )
        )
    return tuple(drifts)
