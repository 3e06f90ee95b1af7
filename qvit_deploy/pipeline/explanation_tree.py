"""Explanations as trees of plain values: what `relp --json` prints and the page is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from qvit_deploy.patching.agreement import Summary
from qvit_deploy.patching.cells import token_grid
from qvit_deploy.patching.completeness import completeness, is_beyond, misses
from qvit_deploy.patching.components import Component
from qvit_deploy.patching.relp import Direction
from qvit_deploy.pipeline.explain import Explanation, PairMaps
from qvit_deploy.pipeline.explain_drift import DriftExplanation

SCHEMA = "qvit-deploy/relp/1"


def relp_tree(model: str, found: Explanation, image_size: tuple[int, int, int]) -> dict[str, Any]:
    """An `Explanation`; maps are lists of cells, `grid` is (tokens in front, rows, columns) of a token map,
    `completeness` the sum of the estimates over the true difference, `beyond` whether it cannot be right."""
    return {
        "schema": SCHEMA,
        "model": model,
        "rules": found.rules,
        "metric": found.metric,
        "direction": found.direction,
        "firings": dict(found.firings),
        "pairs": [_pair(found, pair, image_size) for pair in found.pairs],
        "agreement": None
        if found.agreement is None
        else {k: {m: _summary(s) for m, s in methods.items()} for k, methods in found.agreement.items()},
        "circuits": None
        if found.circuits is None
        else {method: {"cpr": cpr, "cmd": cmd} for method, (cpr, cmd) in found.circuits.items()},
        "cross_check": found.cross_check,
    }


def drift_tree(model: str, found: DriftExplanation, image_size: tuple[int, int, int]) -> dict[str, Any]:
    """A `DriftExplanation`: per site its share of the drift, and the sum against the true drift; `beyond`
    is whether the sum misses it."""
    true = found.after - found.before
    return {
        "schema": SCHEMA,
        "model": model,
        "rules": found.rules,
        "metric": found.metric,
        "images": len(true),
        "changed_predictions": found.changed_predictions,
        "unexplained": found.unexplained,
        "before": found.before.tolist(),
        "after": found.after.tolist(),
        "estimated": found.estimated.tolist(),
        "agreement": asdict(found.agreement),
        "beyond": misses(found.agreement.slope, found.agreement.normalized_error),
        "sites": [
            {
                "name": s.name,
                "block": found.blocks[s.name],
                "w_bits": found.bits[s.name][0],
                "a_bits": found.bits[s.name][1],
                "error": found.errors[s.name],
                "rms_effect": float(np.sqrt(np.mean(found.effects[s.name] ** 2))),
                "mean_effect": float(np.mean(found.effects[s.name])),
                "share": _share(found.effects[s.name], true),
                "effects": found.effects[s.name].tolist(),
                "tokens": found.tokens[s.name].tolist() if s.name in found.tokens else None,
                "grid": token_grid(len(found.tokens[s.name]), *image_size[1:]) if s.name in found.tokens else None,
            }
            for s in found.sites
        ],
    }


def _share(effects: np.ndarray, true: np.ndarray) -> float | None:
    """The part of the drift that a site explains, sum(e d) / sum(d d): over all sites these add up to the slope of the
    estimated on the true drift."""
    power = float(true @ true)
    return float(effects @ true) / power if power else None


def _pair(found: Explanation, pair: PairMaps, image_size: tuple[int, int, int]) -> dict[str, Any]:
    return {
        "name": pair.pair.name,
        "kind": pair.pair.kind,
        "warnings": list(pair.pair.warnings),
        "out_of_distribution": pair.pair.out_of_distribution,
        "clean_class": pair.clean_class,
        "corrupt_class": pair.corrupt_class,
        "clean": pair.clean,
        "corrupt": pair.corrupt,
        "components": [_component(c, pair, found.direction, image_size) for c in found.components],
    }


def _component(
    component: Component, pair: PairMaps, direction: Direction, image_size: tuple[int, int, int]
) -> dict[str, Any]:
    effects = pair.effects[component]
    reached: Mapping[Component, np.ndarray] = pair.reached
    whole = pair.clean - pair.corrupt if direction == "denoising" else pair.corrupt - pair.clean
    added_up = completeness(effects, whole)
    return {
        "kind": component.kind,
        "block": component.block,
        "label": component.label,
        "tensor": component.tensor,
        "effects": effects.tolist(),
        "completeness": added_up,
        "beyond": added_up is not None and is_beyond(component.kind, added_up),
        "reached": reached[component].tolist(),
        "exact": None if pair.exact is None else pair.exact[component].tolist(),
        "grid": None if component.kind == "head" else token_grid(len(effects), *image_size[1:]),
    }


def _summary(summary: Summary) -> dict[str, Any]:
    # `asdict` rebuilds a Counter from pairs, which counts the pairs.
    plain = {name: replace(mean, undefined=dict(mean.undefined)) for name, mean in summary.metrics.items()}
    return asdict(replace(summary, metrics=plain))
