"""The page of a real explanation, of the demo ViT and one pair: its numbers are the tree's, and a browser shows it."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qvit_deploy.commands.relp import patch_size
from qvit_deploy.data.images import open_images
from qvit_deploy.data.pairs.make import make_pairs
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.pipeline.exact_comparison import compare_with_exact
from qvit_deploy.pipeline.exact_maps import exact_maps
from qvit_deploy.pipeline.explain import explain
from qvit_deploy.pipeline.explanation_tree import relp_tree
from qvit_deploy.pipeline.model_files import read_model
from qvit_deploy.report.numbers import digits, signed
from qvit_deploy.report.relp.page import relp_page
from tests.support.html_page import Page
from tests.support.models.demo_models import demo

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
PAGE_COLOUR = {"light": (0xF5, 0xF6, 0xF8), "dark": (0x0E, 0x11, 0x16)}


@dataclass(frozen=True)
class Made:
    tree: dict[str, Any]
    file: Path

    @property
    def page(self) -> Page:
        return Page(self.file.read_bytes())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder, source = tmp_path_factory.mktemp("real"), demo("vit")
    preprocess = Preprocess.model_validate(source.preprocess)
    (folder / "model.onnx").write_bytes(source.graph.serialize())
    model = read_model(folder / "model.onnx", "float", preprocess)
    images = open_images("demo:fashion-mnist", preprocess, split="test")
    pairs = make_pairs(images, "composite", patch_size(model), 1, 0)
    truth = exact_maps(model, pairs, metric="logit-diff", direction="denoising")
    explanation = explain(model, pairs, exact=truth)
    tree = relp_tree("demo:vit", explanation, compare_with_exact(model, explanation), model.graph.interface.image_size)
    file = folder / "relp.html"
    file.write_bytes(relp_page(tree, pairs[0].clean[None], pairs[0].corrupt[None]))
    return Made(tree, file)


def test_every_figure_is_there_and_nothing_is_loaded(written: Made) -> None:
    labels = [a["aria-label"] for tag, a in written.page.elements if tag == "svg"]
    assert len(labels) == 7 and len(set(labels)) == 7  # pictures, blocks, heads, image, tokens, exact, agreement
    for _, attributes in written.page.elements:
        for key in ("src", "href"):
            assert (attributes.get(key) or "#").startswith(("#", "data:image/png;base64,"))
    assert "://" not in written.file.read_text().replace("http://www.w3.org/", "")
    assert not re.search(r"\b(nan|inf|None)\b", written.page.text)


def test_numbers_on_the_page_are_those_of_the_tree(written: Made) -> None:
    text, (pair,) = written.page.text, written.tree["pairs"]
    assert f"metric {signed(pair['clean'])}" in text and f"metric {signed(pair['corrupt'])}" in text
    whole = pair["clean"] - pair["corrupt"]
    sums = {(c["kind"], c["block"]): sum(c["effects"]) for c in pair["components"] if c["kind"] in ("attention", "mlp")}
    largest = max(sums, key=lambda key: sums[key] * np.sign(whole))
    name = f"{'Attention' if largest[0] == 'attention' else 'The MLP'} of block {largest[1]}"
    share = round(100 * sums[largest] / whole)
    assert f"{name} carries an estimated {share} % of the difference of {digits(abs(whole))}" in text
    table = text[text.index("Do the estimates add up?") :]
    for component in pair["components"]:
        assert component["completeness"] == pytest.approx(sum(component["effects"]) / whole)
        if component["kind"] != "head":
            assert f"{abs(component['completeness']):.2f}" in table
    for methods in written.tree["agreement"].values():
        assert f"{methods['relp']['metrics']['pearson']['mean']:.2f}" in text
    for circuit in written.tree["circuits"].values():
        assert f"{circuit['cpr']:.3f}" in text and f"{circuit['cmd']:.3f}" in text
    assert f"{digits(written.tree['cross_check'])} of the largest logit" in text


@pytest.mark.skipif(BROWSER is None, reason="no chromium to show the page in")
@pytest.mark.parametrize(
    ("width", "height", "scheme"), [(1280, 1400, "light"), (1280, 1400, "dark"), (390, 2000, "dark")]
)
def test_a_browser_shows_it(written: Made, tmp_path: Path, width: int, height: int, scheme: str) -> None:
    """In the reader's colours, nothing wider than the window, and cells as bright as their legend."""
    assert BROWSER is not None
    shot = tmp_path / "shot.png"
    subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={tmp_path}",
         f"--blink-settings=preferredColorScheme={int(scheme == 'light')}", f"--window-size={width},{height}",
         f"--screenshot={shot}", written.file.as_uri()],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    pixels = np.asarray(Image.open(io.BytesIO(shot.read_bytes())).convert("RGB"), int)
    assert pixels.shape == (height, width, 3)
    for column in (2, width - 3):  # the margins: what overflows would cover the right one
        assert (pixels[:, column] == PAGE_COLOUR[scheme]).all()
    red, green, blue = np.moveaxis(pixels, -1, 0)
    full = (red > 200) & (green < 75) & (blue < 60) if scheme == "light" else (red > 245) & (green < 80) & (blue < 60)
    assert full.sum() > 600  # cells of full colour, more than the legend has, with the dark scheme's brightness
