"""Pictures of the float model's outputs beside the quantized one's, on the page of a compile."""

from __future__ import annotations

import numpy as np
import pytest

from qvit_deploy.report.compile.page import render_report
from qvit_deploy.report.compile.views import ViewedImage, class_colours, views_figure
from qvit_deploy.tasks.scores.detections import ranked
from qvit_deploy.tasks.views import ClassMap, Plane, View
from tests.support.artifacts.manifests import manifest, vit_sites
from tests.support.html_page import Page

IMAGE = np.random.default_rng(0).standard_normal((3, 8, 12)).astype(np.float32)
BOXES = ranked(np.array([[0.1, 0.2, 0.6, 0.9], [-1, 0, 2, 1]]), np.array([3, 90]), np.array([0.9, 0.5]), 9)
KINDS: list[tuple[View, View, int]] = [
    (ClassMap(np.eye(4, dtype=int)), ClassMap(np.zeros((4, 4), int)), 4),
    (Plane(np.arange(16.0).reshape(4, 4)), Plane(np.arange(16.0).reshape(4, 4) + 1), 4),
    (Plane(np.zeros((4, 4))), Plane(np.zeros((4, 4))), 4),
    (BOXES, BOXES.above(0.7), 3),
]


@pytest.mark.parametrize(("exact", "quantized", "columns"), KINDS)
def test_a_row_for_every_image(exact: View, quantized: View, columns: int) -> None:
    viewed = [ViewedImage(IMAGE, exact, quantized)] * 2
    assert len(views_figure(viewed).axes) == 2 * columns
    shown = manifest(vit_sites(3))
    document = render_report(shown, viewed)
    assert document == render_report(shown, viewed)
    page = Page(document)
    images = [attributes for tag, attributes in page.elements if tag == "image"]
    assert len(images) == 2 * columns and all(str(i["href"]).startswith("data:image/png") for i in images)
    assert b"img-src data:" in document


def test_a_page_without_pictures_loads_none() -> None:
    assert b"img-src" not in render_report(manifest(vit_sites(3)), [])


def test_every_class_has_a_colour_of_its_own() -> None:
    colours = class_colours(np.arange(150))
    apart = np.abs(colours[:, None] - colours[None]).max(-1) + np.eye(150)
    assert apart.min() > 0.004 and (colours >= 0).all() and (colours <= 1).all()
