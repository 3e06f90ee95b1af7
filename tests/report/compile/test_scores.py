from __future__ import annotations

import pytest

from qvit_deploy.artifacts.manifest import SiteRecord
from qvit_deploy.report.compile.scores import Ranking, rank
from tests.support.artifacts.manifests import site


def sites(*scores: float | None) -> list[SiteRecord]:
    return [SiteRecord(**site(f"s{i}", score=score)) for i, score in enumerate(scores)]


def ranking(*scores: float | None) -> Ranking:
    result = rank(sites(*scores), "lrp:deep-taylor")
    assert isinstance(result, Ranking)
    return result


def test_shares_of_the_sum_with_places_left_empty() -> None:
    assert ranking(1.0, None, 3.0).shares == (0.25, None, 0.75)


def test_a_score_that_dwarfs_the_rest_is_cut_so_that_the_rest_is_seen() -> None:
    result = ranking(*[0.01, 0.02] * 10, 5.0)
    assert [i for i in range(21) if result.cut(i)] == [20]
    assert result.width(20) == 100 and result.width(1) > 50


@pytest.mark.parametrize("scores", [(1.0,), (1.0, 2.0), (1.0, 2.9, 1.0), (0.0, 0.0, 1.0), (1.0, 5.0, 5.0)])
def test_nothing_is_cut_without_need(scores: tuple[float, ...]) -> None:
    result = ranking(*scores)
    assert not any(result.cut(i) for i in range(len(scores)))


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ((), "no relevance"),
        ((None, None), "no relevance"),
        ((0.0, 0.0), "is 0"),
        ((0.5, 0.5), "same score"),
        ((-1.0, 0.5), "do not add up"),
    ],
)
def test_scores_not_worth_a_plot_are_explained(scores: tuple[float | None, ...], reason: str) -> None:
    result = rank(sites(*scores), "")
    assert isinstance(result, str) and reason in result


@pytest.mark.parametrize(
    ("method", "name", "text"),
    [
        ("lrp:attnlrp", "relevance", "what the decisions rest on"),
        ("relp:sensitivity", "sensitivity", "RelP expects"),
        ("gradient:sensitivity", "sensitivity", "the gradient expects"),
        ("exact:sensitivity", "sensitivity", "measured"),
        ("random:lrp:attnlrp", "dealt share", "at random"),
        ("inverted:lrp:attnlrp", "dealt share", "in reverse"),
    ],
)
def test_the_method_decides_what_a_share_means(method: str, name: str, text: str) -> None:
    result = rank(sites(1.0, 2.0), method)
    assert isinstance(result, Ranking) and result.name == name and text in result.meaning
