"""Plots of maps: scales, places of cells, files, and that every figure is drawn from its data."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from qvit_deploy.report import svg
from qvit_deploy.report.relp.drift_plots import drift_figures
from qvit_deploy.report.relp.heat import on_image, scale_of, unreached
from qvit_deploy.report.relp.plots import relp_figures
from qvit_deploy.report.svg import draw
from tests.support.artifacts.relp_trees import changed, drift, pictures, relp


def drawn(figures) -> dict[str, str]:
    return {name: draw(name, name, lambda f=figure: f) for name, figure in figures.items()}


def test_figures_follow_what_the_tree_holds() -> None:
    parts = ["pictures", "image", "blocks", "tokens", "heads"]
    assert set(relp_figures(relp(1), *pictures(1))) == {f"pair-0-{p}" for p in parts} | {"exact", "agreement"}
    plain = relp_figures(relp(1, exact=False, heads=False, grid=None), *pictures(1))
    assert set(plain) == {"pair-0-pictures", "pair-0-blocks", "pair-0-tokens"}
    assert set(drift_figures(drift())) == {"agreement", "blocks", "sites", "errors", "tokens"}


@pytest.mark.parametrize(
    ("path", "to", "moves"),
    [
        (("pairs", 0, "components", 0, "effects", 2), 0.77, {"image", "tokens", "exact"}),
        (("pairs", 0, "components", 3, "effects", 2), 5.0, {"image", "tokens", "blocks", "exact"}),
        (("pairs", 0, "components", 7, "effects", 1), 5.0, {"heads", "exact"}),
        (("pairs", 0, "components", 0, "exact", 2), 5.0, {"exact"}),
        (("pairs", 0, "clean_class"), 7, {"pictures"}),
        (("agreement", "residual", "relp", "metrics", "pearson", "mean"), 0.111, {"agreement"}),
    ],
)
def test_every_relp_figure_is_drawn_from_its_data(path, to, moves) -> None:
    before, after = (drawn(relp_figures(t, *pictures(1))) for t in (relp(1), changed(relp(1), *path, to=to)))
    assert {name.rpartition("-")[2] for name in before if before[name] != after[name]} == moves


@pytest.mark.parametrize(
    ("path", "to", "moves"),
    [
        (("after", 2), 9.0, {"agreement", "blocks"}),
        (("sites", 1, "effects", 2), 9.0, {"blocks"}),
        (("sites", 1, "rms_effect"), 9.0, {"sites", "errors"}),
        (("sites", 1, "error"), 0.5, {"errors"}),
        (("sites", 1, "w_bits"), 8, {"sites"}),
        (("sites", 1, "tokens", 2), 9.0, {"tokens"}),
    ],
)
def test_every_drift_figure_is_drawn_from_its_data(path, to, moves) -> None:
    before, after = (drawn(drift_figures(t)) for t in (drift(), changed(drift(), *path, to=to)))
    assert {name for name in before if before[name] != after[name]} == moves


def test_files_are_the_same_every_time() -> None:
    figures = {k: v for k, v in relp_figures(relp(1), *pictures(1)).items() if k.endswith(("heads", "tokens"))}
    files = svg.pictures(figures)
    assert sorted(files) == ["pair-0-heads.png", "pair-0-heads.svg", "pair-0-tokens.png", "pair-0-tokens.svg"]
    with Image.open(io.BytesIO(files["pair-0-tokens.png"])) as picture:
        assert picture.width == 2080
    assert svg.pictures(figures) == files


def test_one_huge_cell_does_not_wash_out_the_rest() -> None:
    values = np.concatenate([np.linspace(-1, 1, 200), [80.0]])
    scale = scale_of([values])
    assert 0.9 < scale.limit <= 1 and scale.largest == 80 and scale.clipped == int((np.abs(values) > scale.limit).sum())
    assert scale_of([values[:200]]).limit == 1
    assert scale_of([np.zeros(3)]).limit == 1


def test_coarse_tokens_share_their_effect_over_the_fine_grid() -> None:
    coarse, fine = np.array([7.0, 4.0]), np.arange(8.0)
    share = on_image([(coarse, (1, 1, 1)), (fine, (0, 2, 4))])
    assert share.shape == (2, 4) and share.sum() == 4 + fine.sum()
    assert np.allclose(share, fine.reshape(2, 4) + 0.5)


def test_dead_cells_are_those_that_nothing_reaches() -> None:
    assert unreached({"effects": [0.0, 1.0], "reached": [True, False]}).tolist() == [False, True]
