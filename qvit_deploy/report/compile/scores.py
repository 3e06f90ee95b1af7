"""Scores as shares of their sum, with the height at which a plot cuts the few that dwarf all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qvit_deploy.artifacts.manifest import SiteRecord

DWARFS = 3.0
"""A bar is cut when the tallest is more than this many times the tallest that stays whole."""


@dataclass(frozen=True)
class Ranking:
    """The scores of a compile's sites, worth plotting.

    Attributes:
        shares: score / sum of scores per site, in order; None where a site has no score.
        limit: share at which bars are cut; at least the greatest share when none is.
        called: what the scores are, in a word.
        meaning: what a share is a share of, in a sentence.
    """

    shares: tuple[float | None, ...]
    limit: float
    called: str
    meaning: str

    def width(self, index: int) -> float:
        """Percent of the longest bar, for the bar of one site in a table."""
        share = self.shares[index] or 0.0
        return round(100 * max(0.0, min(share / self.limit, 1.0)), 1)

    def cut(self, index: int) -> bool:
        return (self.shares[index] or 0.0) > self.limit


def rank(sites: Sequence[SiteRecord], method: str) -> Ranking | str:
    """The ranking of `sites`, or a sentence that says why there is none to show.

    `method` is the manifest's `relevance.method`, e.g. `lrp:deep-taylor`.
    """
    scores = [s.score for s in sites]
    given = [s for s in scores if s is not None]
    if not given:
        return "This compile recorded no relevance scores, so there is nothing to plot above the bits."
    total = sum(given)
    if not any(given):
        return "Every relevance score is 0: the scores say nothing about which site matters."
    if total <= 0 or total == float("inf"):
        return "The scores do not add up to a positive number, so there are no shares to plot."
    if len(given) > 1 and min(given) == max(given):
        return "Every site has the same score: bits were not chosen by relevance."
    shares = [s / total for s in given]
    return Ranking(tuple(None if s is None else s / total for s in scores), _limit(shares), *_words(method))


def _limit(shares: Sequence[float]) -> float:
    """Cuts at most one bar in twenty (and at least may cut one), and only bars that dwarf the rest."""
    ranked = sorted(shares, reverse=True)
    whole = ranked[min(max(1, len(ranked) // 20), len(ranked) - 1)]
    return 1.25 * whole if 0 < DWARFS * whole < ranked[0] else 1.05 * ranked[0]


_SENSITIVITIES = {
    "relp": "the change of the logit that RelP expects from",
    "gradient": "the change of the logit that the gradient expects from",
    "exact": "the change of the logits measured after",
}
_DEALT = {"random": "at random", "inverted": "in reverse order"}


def _words(method: str) -> tuple[str, str]:
    kind = method.partition(":")[0]
    if kind in _SENSITIVITIES:
        what = f"{_SENSITIVITIES[kind]} quantizing each site to the narrowest width"
        return "sensitivity", f"Sensitivity is a site's share of {what}."
    if kind in _DEALT:
        return "dealt share", f"Shares of relevance were dealt to the sites {_DEALT[kind]}, to compare with."
    return "relevance", "Relevance is a site's share of what the decisions rest on, among the sites."
