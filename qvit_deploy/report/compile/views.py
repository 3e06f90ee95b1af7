"""Draws what the float and the quantized model make of some images, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qvit_deploy.report.relp.heat import displayable
from qvit_deploy.report.relp.panels import add_text, canvas
from qvit_deploy.report.svg import COLOURS
from qvit_deploy.tasks.scores.detections import Detections
from qvit_deploy.tasks.views import ClassMap, Plane, View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, GAP, TITLE, MARGIN = 216, 16, 26, 12
"""Pixels of a picture's width, between pictures, above the first row and below each row's."""

FULL_DIFFERENCE = 0.1
"""Share of a plane's range from which a difference has its full colour."""

MOST_BOXES = 20
"""Boxes that are drawn on one picture."""

GOLDEN = 0.618033988749895
"""Hues of consecutive classes are this far apart on the circle, so that neighbours differ and none repeats."""


@dataclass(frozen=True, eq=False)
class ViewedImage:
    """One image, float32 [C, H, W] as the model takes it, and what the two models make of it."""

    image: NDArray[np.float32]
    exact: View
    quantized: View


def views_figure(images: Sequence[ViewedImage]) -> Figure:
    """Plots a row for every image: the image, the float model's output, the quantized one's, and where they differ."""
    columns = 3 if isinstance(images[0].exact, Detections) else 4
    heights = [WIDTH * image.image.shape[1] / image.image.shape[2] for image in images]
    figure, panel = canvas(columns * (WIDTH + GAP) - GAP, TITLE + sum(heights) + MARGIN * len(images))
    top = float(TITLE)
    for row, (viewed, height) in enumerate(zip(images, heights, strict=True)):
        axes = [panel(column * (WIDTH + GAP), top, WIDTH, height) for column in range(columns)]
        for each in axes:
            each.set(xticks=[], yticks=[])
        if not row:
            for each, title in zip(axes, ("image", "float", "quantized", "difference"), strict=False):
                add_text(each, 0, 8, title, color=COLOURS["ink"], fontsize=12, fontweight="bold")
        picture = displayable(viewed.image, viewed.image)
        axes[0].imshow(picture, interpolation="none", aspect="auto")
        _draw(axes[1:], picture, viewed)
        top += height + MARGIN
    return figure


def meaning(viewed: ViewedImage) -> str:
    """Says what the pictures show, in a sentence."""
    if isinstance(viewed.exact, ClassMap):
        return "The class of every pixel, a colour for each; pixels whose class differs are orange."
    if isinstance(viewed.exact, Plane):
        return (
            "Each output from its smallest value (dark) to its largest (bright), on the float model's scale for both; "
            f"differences in orange, the fullest from {FULL_DIFFERENCE:.0%} of that range on."
        )
    return f"Detections above the score, at most {MOST_BOXES}, with class and score; a colour for each class."


def _draw(axes: Sequence[Axes], picture: NDArray[Any], viewed: ViewedImage) -> None:
    exact, quantized = viewed.exact, viewed.quantized
    if isinstance(exact, ClassMap) and isinstance(quantized, ClassMap):
        for each, classes in zip(axes, (exact.classes, quantized.classes), strict=False):
            each.imshow(class_colours(classes), interpolation="none", aspect="auto")
        _show_difference(axes[2], (exact.classes != quantized.classes).astype(np.float64))
    elif isinstance(exact, Plane) and isinstance(quantized, Plane):
        low, high = float(exact.values.min()), float(exact.values.max())
        for each, values in zip(axes, (exact.values, quantized.values), strict=False):
            each.imshow(values, cmap="magma", vmin=low, vmax=high, interpolation="none", aspect="auto")
        difference = np.abs(quantized.values.astype(np.float64) - exact.values)
        _show_difference(axes[2], np.clip(difference / max(FULL_DIFFERENCE * (high - low), 1e-12), 0, 1))
    elif isinstance(exact, Detections) and isinstance(quantized, Detections):
        for each, detections in zip(axes, (exact, quantized), strict=True):
            each.imshow(picture, interpolation="none", aspect="auto")
            _draw_boxes(each, detections, picture.shape[1], picture.shape[0])


def _show_difference(axes: Axes, shares: NDArray[np.float64]) -> None:
    rgb = [int(COLOURS["relevance"][i : i + 2], 16) / 255 for i in (1, 3, 5)]
    rgba = np.concatenate([np.broadcast_to(rgb, (*shares.shape, 3)), shares[..., None]], -1)
    axes.imshow(rgba, interpolation="none", aspect="auto")


def class_colours(classes: NDArray[Any]) -> NDArray[np.float64]:
    """Returns RGB [..., 3] in 0..1, a colour of its own for every class, the same in every report."""
    from matplotlib.colors import hsv_to_rgb

    number = classes.astype(np.float64)
    hue = (0.58 + number * GOLDEN) % 1
    value = np.where(classes % 3 == 2, 0.6, np.where(classes % 3 == 1, 0.95, 0.8))
    colours: NDArray[np.float64] = hsv_to_rgb(np.stack([hue, np.full_like(hue, 0.62), value], -1))
    return colours


def _draw_boxes(axes: Axes, detections: Detections, width: int, height: int) -> None:
    from matplotlib.patches import Rectangle

    for box, number, score in list(zip(detections.boxes, detections.classes, detections.scores, strict=True))[
        :MOST_BOXES
    ]:
        left, top, right, bottom = np.clip(box, 0, 1) * (width, height, width, height) - 0.5
        colour = tuple(class_colours(np.asarray(number)))
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.6))
        axes.text(left, top, f"{number} {score:.2f}", fontsize=8.5, color=COLOURS["on-bits"], va="top", ha="left",
                  clip_on=True, bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.2})  # fmt: skip
