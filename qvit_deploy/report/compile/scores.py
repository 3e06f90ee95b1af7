"""Ranks sites by their share of all scores, and chooses the height at which a plot cuts off outliers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qvit_deploy.artifacts.manifest import SiteRecord

OUTLIER_RATIO = 3.0
"""A bar is cut off when the tallest is more than this many times the tallest that is not."""


@dataclass(frozen=True)
class Ranking:
    """The scores of a compile's sites, worth plotting.

    Attributes:
        shares: score / sum of scores per site, in order; None where a site has no score.
        limit: share at which bars are cut off; at least the greatest share when none is.
        name: what the scores are, in a word or two.
        meaning: one sentence that says what a share is a share of.
    """

    shares: tuple[float | None, ...]
    limit: float
    name: str
    meaning: str

    def width(self, index: int) -> float:
        """Returns the length of one site's bar in a table, percent of the longest."""
        share = self.shares[index] or 0.0
        return round(100 * max(0.0, min(share / self.limit, 1.0)), 1)

    def cut(self, index: int) -> bool:
        """Returns whether the bar of one site is cut off."""
        return (self.shares[index] or 0.0) > self.limit


def rank(sites: Sequence[SiteRecord], method: str) -> Ranking | str:
    """Returns the ranking of `sites`, or a sentence that says why there is none to show.

    `method` is the manifest's `relevance.method`, e.g. `lrp:deep-taylor`.
    """
    scores = [s.score for s in sites]
    known = [s for s in scores if s is not None]
    if not known:
        return "This compile recorded no relevance scores, so there is nothing to plot above the bits."
    total = sum(known)
    if not any(known):
        return "Every relevance score is 0: the scores say nothing about which site matters."
    if total <= 0 or total == float("inf"):
        return "The scores do not add up to a positive number, so there are no shares to plot."
    if len(known) > 1 and min(known) == max(known):
        return "Every site has the same score: bits were not chosen by relevance."
    shares = [s / total for s in known]
    name, meaning = _score_texts(method)
    return Ranking(tuple(None if s is None else s / total for s in scores), _limit(shares), name, meaning)


def _limit(shares: Sequence[float]) -> float:
    """Returns the share at which bars are cut off: at most one bar in twenty (or one), and only outliers."""
    ranked = sorted(shares, reverse=True)
    tallest_uncut = ranked[min(max(1, len(ranked) // 20), len(ranked) - 1)]
    return 1.25 * tallest_uncut if 0 < OUTLIER_RATIO * tallest_uncut < ranked[0] else 1.05 * ranked[0]


_SENSITIVITIES = {
    "relp": "the change of the logit that RelP expects from",
    "gradient": "the change of the logit that the gradient expects from",
    "exact": "the change of the logits measured after",
}
_REASSIGNED = {"random": "at random", "inverted": "in reverse order"}


def _score_texts(method: str) -> tuple[str, str]:
    """Returns the name and the meaning of a score."""
    kind = method.partition(":")[0]
    if kind in _SENSITIVITIES:
        what = f"{_SENSITIVITIES[kind]} quantizing each site to the narrowest width"
        return "sensitivity", f"Sensitivity is a site's share of {what}."
    if kind in _REASSIGNED:
        return "dealt share", f"Shares of relevance were dealt to the sites {_REASSIGNED[kind]}, to compare with."
    return "relevance", "Relevance is a site's share of what the decisions rest on, among the sites."
