"""Explanations as trees of plain values: what `relp --json` prints and the page is made from."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np

from qvit_deploy.patching.agreement import Summary
from qvit_deploy.patching.cells import token_grid
from qvit_deploy.patching.completeness import completeness, is_beyond, misses
from qvit_deploy.patching.components import Component
from qvit_deploy.patching.relp import Direction, ordered
from qvit_deploy.pipeline.exact_comparison import ExactComparison
from qvit_deploy.pipeline.explain import Explanation, PairMaps
from qvit_deploy.pipeline.explain_drift import DriftExplanation, SiteDrift
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.task import Task

SCHEMA = "qvit-deploy/relp/1"


def relp_tree(
    model: str,
    explanation: Explanation,
    comparison: ExactComparison | None,
    image_size: tuple[int, int, int],
    task: Task = CLASSIFY,
) -> dict[str, Any]:
    """Returns an `Explanation` as plain values.

    Maps are lists of cells, `grid` is (tokens in front, rows, columns) of a token map, `completeness` the sum of the
    estimates over the true difference, `beyond` whether it cannot be right.

    Args:
        model: one line that says what was explained.
        comparison: with exact patching, where that was done.
        image_size: (channels, height, width) of the images.
    """
    agreement = comparison and {
        k: {m: _summary(s) for m, s in methods.items()} for k, methods in comparison.agreement.items()
    }
    circuits = comparison and {method: {"cpr": cpr, "cmd": cmd} for method, (cpr, cmd) in comparison.circuits.items()}
    return {
        "schema": SCHEMA,
        **({} if task == CLASSIFY else {"task": task.text}),
        "model": model,
        "rules": explanation.rules,
        "metric": explanation.metric,
        "direction": explanation.direction,
        "firings": dict(explanation.firings),
        "pairs": [_pair(explanation, pair, image_size) for pair in explanation.pairs],
        "agreement": agreement,
        "circuits": circuits,
        "cross_check": comparison and comparison.cross_check,
    }


def drift_tree(
    model: str, explanation: DriftExplanation, image_size: tuple[int, int, int], task: Task = CLASSIFY
) -> dict[str, Any]:
    """Returns a `DriftExplanation` as plain values: per site its share of the drift, and the sum of all sites against
    the true drift; `beyond` says whether the sum misses it."""
    drift, agreement = explanation.drift, explanation.agreement
    return {
        "schema": SCHEMA,
        **({} if task == CLASSIFY else {"task": task.text}),
        "model": model,
        "rules": explanation.rules,
        "metric": explanation.metric,
        "images": len(drift.true),
        "changed_predictions": explanation.changed_answers,
        "unexplained": explanation.unexplained,
        "before": drift.before.tolist(),
        "after": drift.after.tolist(),
        "estimated": drift.estimated.tolist(),
        "agreement": asdict(agreement),
        "beyond": misses(agreement.slope, agreement.normalized_error),
        "sites": [_site(site, drift.true, image_size) for site in explanation.sites],
    }


def _site(site: SiteDrift, true: np.ndarray, image_size: tuple[int, int, int]) -> dict[str, Any]:
    return {
        "name": site.name,
        "block": site.block,
        "w_bits": site.w_bits,
        "a_bits": site.a_bits,
        "error": site.error,
        "rms_effect": float(np.sqrt(np.mean(site.effects**2))),
        "mean_effect": float(np.mean(site.effects)),
        "share": _share(site.effects, true),
        "effects": site.effects.tolist(),
        "tokens": None if site.tokens is None else site.tokens.tolist(),
        "grid": None if site.tokens is None else token_grid(len(site.tokens), *image_size[1:]),
    }


def _share(effects: np.ndarray, true: np.ndarray) -> float | None:
    """Returns the part of the drift that a site explains, sum(e d) / sum(d d): over all sites these add up to the slope
    of the estimated on the true drift."""
    power = float(true @ true)
    return float(effects @ true) / power if power else None


def _pair(explanation: Explanation, pair: PairMaps, image_size: tuple[int, int, int]) -> dict[str, Any]:
    return {
        "name": pair.pair.name,
        "kind": pair.pair.kind,
        "warnings": list(pair.pair.warnings),
        "out_of_distribution": pair.pair.out_of_distribution,
        "clean_class": pair.clean.answer,
        "corrupt_class": pair.corrupt.answer,
        "clean": pair.clean.metric,
        "corrupt": pair.corrupt.metric,
        "components": [_component(c, pair, explanation.direction, image_size) for c in explanation.components],
    }


def _component(
    component: Component, pair: PairMaps, direction: Direction, image_size: tuple[int, int, int]
) -> dict[str, Any]:
    effects = pair.effects[component]
    base, source = ordered(pair.clean.metric, pair.corrupt.metric, direction)
    difference = source - base
    added_up = completeness(effects, difference)
    return {
        "kind": component.kind,
        "block": component.block,
        "label": component.label,
        "tensor": component.tensor,
        "effects": effects.tolist(),
        "completeness": added_up,
        "beyond": added_up is not None and is_beyond(component.kind, added_up),
        "reached": pair.reached[component].tolist(),
        "exact": None if pair.truth is None else pair.truth.exact[component].tolist(),
        "grid": None if component.kind == "head" else token_grid(len(effects), *image_size[1:]),
    }


def _summary(summary: Summary) -> dict[str, Any]:
    # `asdict` rebuilds a Counter from pairs, which counts the pairs.
    plain = {name: replace(mean, undefined=dict(mean.undefined)) for name, mean in summary.metrics.items()}
    return asdict(replace(summary, metrics=plain))
