"""RelP on pairs, with and without exact maps beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qvit_deploy.errors import InputError
from qvit_deploy.graph.graph import Graph
from qvit_deploy.pipeline.exact_comparison import compare_with_exact
from qvit_deploy.pipeline.exact_maps import exact_maps
from qvit_deploy.pipeline.explain import explain
from qvit_deploy.pipeline.explanation_tree import relp_tree
from tests.support.artifacts.explained import image_pairs, model_file


@pytest.mark.parametrize("fixture", ["tiny_vit", "tiny_swin"])
def test_maps_of_every_component(fixture: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    graph: Graph = request.getfixturevalue(fixture)
    model, pairs = model_file(graph, tmp_path), image_pairs(2, graph.interface.image_size)
    explanation = explain(model, pairs)
    assert explanation.firings["norm"] > 0 and explanation.rules == "relp"
    for pair in explanation.pairs:
        assert set(pair.effects) == set(explanation.components) and pair.truth is None
        assert any(effects.any() for effects in pair.effects.values())
    tree = relp_tree("tiny", explanation, None, graph.interface.image_size)
    assert [p["name"] for p in tree["pairs"]] == ["pair 0", "pair 1"]
    first = tree["pairs"][0]["components"][0]
    assert first["kind"] == "residual" and first["grid"] == ((1, 4, 4) if fixture == "tiny_vit" else (0, 8, 8))
    front, rows, columns = first["grid"]
    assert len(first["effects"]) == front + rows * columns


def test_exact_maps_are_compared(tiny_vit: Graph, tmp_path: Path) -> None:
    model, pairs = model_file(tiny_vit, tmp_path), image_pairs(3, tiny_vit.interface.image_size)
    truth = exact_maps(model, pairs, metric="logit-diff", direction="denoising")
    comparison = compare_with_exact(model, explain(model, pairs, exact=truth))
    assert 0 <= comparison.cross_check < 1e-4
    for kind in ("residual", "attention", "mlp", "head"):
        methods = comparison.agreement[kind]
        assert list(methods) == ["relp", "gradient", "|difference|", "random"]
        assert methods["relp"].metrics["pearson"].mean > 0.8  # of a small network with mild activations
        assert methods["relp"].metrics["pearson"].mean > abs(methods["random"].metrics["pearson"].mean)
    # Tokens behind the last attention are excluded, and nothing that matters with them.
    assert comparison.agreement["mlp"]["relp"].excluded == 3 * 16
    assert comparison.agreement["mlp"]["relp"].excluded_largest == 0
    assert list(comparison.circuits) == ["exact", "relp", "gradient", "|difference|", "random"]


def test_with_the_gradient_itself_there_is_one_column_for_it(tiny_vit: Graph, tmp_path: Path) -> None:
    model, pairs = model_file(tiny_vit, tmp_path), image_pairs(1, tiny_vit.interface.image_size)
    truth = exact_maps(model, pairs, metric="logit-diff", direction="denoising")
    comparison = compare_with_exact(model, explain(model, pairs, rules="gradient", exact=truth))
    assert list(comparison.agreement["mlp"]) == ["gradient", "|difference|", "random"]


def test_directions_answer_different_questions(tiny_vit: Graph, tmp_path: Path) -> None:
    model, pairs = model_file(tiny_vit, tmp_path), image_pairs(1, tiny_vit.interface.image_size)
    there, back = (explain(model, pairs, direction=d).pairs[0] for d in ("denoising", "noising"))
    for mine, theirs in ((there.clean, back.clean), (there.corrupt, back.corrupt)):
        assert mine.answer == theirs.answer and mine.metric == pytest.approx(theirs.metric)
    first = next(iter(there.effects))
    # Patching all that is clean raises the metric, patching all that is corrupt lowers it.
    assert np.sign(there.effects[first].sum()) == -np.sign(back.effects[first].sum())


def test_names_that_do_not_exist(tiny_vit: Graph, tmp_path: Path) -> None:
    model, pairs = model_file(tiny_vit, tmp_path), image_pairs(1, tiny_vit.interface.image_size)
    with pytest.raises(InputError, match="no rule set 'magic'; choose from gradient, relp"):
        explain(model, pairs, rules="magic")
    with pytest.raises(InputError, match="class 9 is out of range"):
        explain(model, pairs, metric="logit:9")
