"""The pages of maps and drift: self-contained, escaped, reproducible, and drawn from their numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest

from qvit_deploy.report.relp.drift_page import drift_page
from qvit_deploy.report.relp.page import relp_page
from tests.support.artifacts.relp_trees import HOSTILE, changed, drift, pictures, relp
from tests.support.html_page import Page

CASES = {
    "whole": relp(),
    "one pair": relp(1),
    "no exact maps": relp(exact=False),
    "no heads": relp(heads=False),
    "no grid": relp(grid=None),
    "zero effects": changed(relp(1), "pairs", 0, "components", 0, "effects", to=[0.0] * 5),
    "one cell dwarfs": changed(relp(1), "pairs", 0, "components", 0, "effects", to=[1e6, 0.0, 0.0, 1.0, 0.0]),
    "same metric": changed(relp(1), "pairs", 0, "clean", to=-1.5),
    "same class": changed(relp(1), "pairs", 0, "corrupt_class", to=1),
    "no circuits": changed(relp(), "circuits", to=None),
}


def html(tree) -> str:
    return relp_page(tree, *pictures(len(tree["pairs"]))).decode()


@pytest.mark.parametrize("tree", CASES.values(), ids=CASES.keys())
def test_pages_are_well_formed_and_load_nothing(tree) -> None:
    page = Page(html(tree).encode())
    assert "nan" not in page.text.lower().split()
    assert "script" not in {tag for tag, _ in page.elements}
    for _, attributes in page.elements:
        for key in ("src", "href"):
            assert (attributes.get(key) or "#").startswith(("#", "data:image/png;base64,"))


def test_names_of_strangers_are_escaped() -> None:
    tree = relp()
    for path in (("model",), ("pairs", 0, "name"), ("pairs", 0, "kind"), ("pairs", 0, "components", 0, "label"),
                 ("pairs", 0, "components", 4, "label"), ("metric",), ("rules",)):  # fmt: skip
        tree = changed(tree, *path, to=HOSTILE)
    tree["pairs"][0]["warnings"] = [HOSTILE]
    shown = html(tree)
    assert "<script" not in shown and "\u202e" not in shown
    drifted = changed(changed(drift(), "sites", 1, "name", to=HOSTILE), "sites", 2, "block", to=HOSTILE)
    shown = drift_page(drifted).decode()
    assert "<script" not in shown and "\u202e" not in shown
    Page(shown.encode())


def test_the_same_numbers_give_the_same_bytes_and_others_do_not() -> None:
    assert html(relp(1)) == html(relp(1))
    assert drift_page(drift()) == drift_page(drift())
    assert drift_page(drift()) != drift_page(changed(drift(), "sites", 0, "tokens", 1, to=9.0))


def test_the_sentence_names_what_carries_the_decision() -> None:
    tree = relp(1)
    for component in tree["pairs"][0]["components"]:
        component["effects"] = [0.0] * len(component["effects"])
    attention = next(c for c in tree["pairs"][0]["components"] if c["kind"] == "attention" and c["block"] == 1)
    attention["effects"] = [1.64, 0, 0, 0, 0]
    text = Page(html(tree).encode()).text
    assert "Attention of block 1 carries an estimated 41 % of the difference of 4.00." in text
    assert "most goes through the CLS token (41 %" in text


def test_warnings_and_directions_are_said() -> None:
    tree = changed(relp(), "pairs", 1, "out_of_distribution", to=True)
    text = Page(html(tree).encode()).text
    assert "out of distribution" in text and "1 of 2 pairs carries a warning" in text
    noising = Page(html(changed(relp(), "direction", to="noising")).encode()).text
    assert "one cell of the clean image's run were replaced by its value in the corrupt image's run" in noising


def test_without_exact_maps_the_page_says_they_are_estimates() -> None:
    text = Page(html(relp(exact=False)).encode()).text
    assert "These are estimates to first order" in text and "Against exact patching" not in text
    assert "Against exact patching" in Page(html(relp()).encode()).text


def test_excluded_cells_are_counted() -> None:
    assert "Hatched: 12 cells" in Page(html(relp(1)).encode()).text


def test_the_drift_page_ranks_sites_and_counts_predictions() -> None:
    tree = changed(drift(), "sites", 2, "rms_effect", to=50.0)
    text = Page(drift_page(tree)).text
    assert "1 of 6 predictions change" in text
    assert re.search(r"estimated with the gradient rules", text)
    assert text.index("blocks.0.mlp.fc1 (w4a6): 50.0 rms") < text.index("head (w4a6)")
    assert Page(drift_page(changed(drift(), "changed_predictions", to=0))).text.count("No prediction changes") == 1


def test_four_pairs_stay_small() -> None:
    tree, (clean, corrupt) = relp(4), pictures(4)
    assert len(relp_page(tree, clean, corrupt)) < 1e6
    assert np.isfinite(clean).all()


def test_sums_that_cannot_be_right_are_said_with_what_to_do() -> None:
    tree = relp(1, exact=False)
    for component in tree["pairs"][0]["components"]:
        component.update(completeness=1.0, beyond=False)
    assert "Do not trust" not in Page(html(tree).encode()).text
    stream, *_, mlp = (c for c in tree["pairs"][0]["components"] if c["kind"] in ("residual", "mlp"))
    stream.update(completeness=-0.25, beyond=True)
    mlp.update(completeness=3.5, beyond=True)
    text = Page(html(tree).encode()).text
    assert "at 1 of 3 places of the residual stream the estimates add up to −0.25 times the true difference" in text
    assert "those of the MLP output of block 1 to 3.50 times. Measure with --exact, or try --rules attnlrp." in text
    assert "−0.25 !" in text and "3.50 !" in text
    measured = relp(1)
    measured["pairs"][0]["components"][0].update(completeness=9.0, beyond=True)
    assert "The exact effects are compared below; go by them." in Page(html(measured).encode()).text


def test_a_drift_that_the_sum_misses_is_said() -> None:
    assert "Do not trust" not in Page(drift_page(drift())).text
    tree = changed(changed(drift(), "beyond", to=True), "rules", to="relp")
    text = Page(drift_page(tree)).text
    assert "Do not trust sizes here" in text and "Use --rules gradient" in text
