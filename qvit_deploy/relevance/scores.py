"""Scores: one number per site that says how much a decision depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Scores:
    """Scores of the sites of one graph.

    Attributes:
        values: site name -> score >= 0; the scores of all sites sum to 1.
        method: what computed them, e.g. `lrp:deep-taylor`.
        images: number of images they are averaged over.
        firings: rule name -> number of nodes it replaced.
    """

    values: Mapping[str, float]
    method: str
    images: int
    firings: Mapping[str, int]
