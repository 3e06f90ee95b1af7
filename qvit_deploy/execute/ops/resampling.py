"""Reading maps between their pixels: Resize, axis by axis; GridSample and RoiAlign, at places that are data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from qvit_deploy.execute.ops.registry import NodeView, OpFn, Tensor, op

Array = np.ndarray


@dataclass(frozen=True)
class Axis:
    """One axis that is resized: from `before` to `after` elements, by `scale` (after / before, or as the file says)."""

    before: int
    after: int
    scale: np.float32


_COORDINATES: dict[str, Callable[[Array, Axis], Array]] = {
    "half_pixel": lambda i, a: (i + np.float32(0.5)) / a.scale - np.float32(0.5),
    "pytorch_half_pixel": lambda i, a: (
        (i + np.float32(0.5)) / a.scale - np.float32(0.5) if a.after > 1 else np.zeros_like(i)
    ),
    "align_corners": lambda i, a: (
        i * np.float32(a.before - 1) / np.float32(a.after - 1) if a.after > 1 else np.zeros_like(i)
    ),
    "asymmetric": lambda i, a: i / a.scale,
    "half_pixel_symmetric": lambda i, a: _symmetric(i, a),
}
"""Name -> the place in the input, float32 as runtimes compute it, of each element i of the output (ONNX, Resize)."""


def _symmetric(i: Array, axis: Axis) -> Array:
    """Half pixels around the middle of the input, for scales whose product with the size is no whole number."""
    adjustment = np.float32(axis.after) / (axis.scale * np.float32(axis.before))
    offset = np.float32(axis.before) / 2 * (1 - adjustment)
    return (offset + (i + np.float32(0.5)) / axis.scale - np.float32(0.5)).astype(np.float32)


_NEAREST: dict[str, Callable[[Array, Axis], Array]] = {
    "round_prefer_floor": lambda x, _: np.ceil(x - np.float32(0.5)),
    "round_prefer_ceil": lambda x, _: np.floor(x + np.float32(0.5)),
    "floor": lambda x, _: np.floor(x),
    "ceil": lambda x, _: np.ceil(x),
}


def _triangle(distance: Array, _: float) -> Array:
    return np.clip(1 - np.abs(distance), 0, 1)


def _keys(distance: Array, a: float) -> Array:
    """Keys' cubic convolution kernel (1981) with slope `a` at 1."""
    d = np.abs(distance)
    inner = ((a + 2) * d - (a + 3)) * d * d + 1
    outer = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, inner, np.where(d < 2, outer, 0))


_KERNELS: dict[str, tuple[int, Callable[[Array, float], Array]]] = {"linear": (1, _triangle), "cubic": (2, _keys)}
"""Mode -> how far the kernel reaches, and its weight at a distance."""


@dataclass(frozen=True)
class _Sampling:
    """How a Resize reads the elements of one axis.

    Attributes:
        place: elements of the output -> where they lie among those of the input.
        nearest: chooses the element for such a place, where no kernel weighs several.
        kernel: how far it reaches, and its weight at a distance for a `slope`; None for the nearest element alone.
        antialias: whether it is stretched where the axis shrinks.
        outside_counts: whether elements beyond the ends, which equal the last ones, have their weight.
    """

    place: Callable[[Array, Axis], Array]
    nearest: Callable[[Array, Axis], Array]
    kernel: tuple[int, Callable[[Array, float], Array]] | None
    slope: float
    antialias: bool
    outside_counts: bool

    def taps(self, axis: Axis) -> tuple[Array, Array]:
        """Returns which elements each element of the output is made of, and with what weights: both [taps, after]."""
        x = self.place(np.arange(axis.after, dtype=np.float32), axis).astype(np.float32)
        if self.kernel is None:
            return self.nearest(x, axis).clip(0, axis.before - 1)[None], np.ones((1, axis.after))
        reach, kernel = self.kernel
        stretch = min(float(axis.scale), 1.0) if self.antialias else 1.0
        first = np.floor(x.astype(np.float64) - reach / stretch) + 1
        count = int(np.ceil(2 * reach / stretch))
        rows = first + np.arange(count)[:, None]
        weights = kernel((rows - x.astype(np.float64)) * stretch, self.slope)
        if not self.outside_counts:
            weights = np.where((rows >= 0) & (rows < axis.before), weights, 0)
        if self.antialias or not self.outside_counts:
            weights = weights / weights.sum(0)
        return rows.clip(0, axis.before - 1), weights


def _resized(before: list[int], scales: Tensor | None, sizes: Tensor | None, policy: str) -> list[Axis]:
    """Returns the axes of `before` elements, resized by `scales`, or to `sizes` under keep_aspect_ratio_policy."""
    if scales is not None and scales.numel():
        factors = scales.cpu().numpy().astype(np.float32)
        after = [int(np.floor(np.float32(n) * f)) for n, f in zip(before, factors, strict=True)]
    else:
        assert sizes is not None, "a Resize without scales and sizes"
        after = [int(n) for n in sizes.tolist()]
        if policy != "stretch":
            pick = min if policy == "not_larger" else max
            common = pick(n / m for n, m in zip(after, before, strict=True))
            after = [int(np.floor(common * m + 0.5)) for m in before]
            factors = np.full(len(before), common, np.float32)
        else:
            factors = np.array([n / m for n, m in zip(after, before, strict=True)], np.float32)
    return [Axis(m, n, np.float32(f)) for m, n, f in zip(before, after, factors, strict=True)]


@op("Resize")
def _resize(view: NodeView) -> OpFn:
    mode, coordinates = view.attr("mode", "nearest"), view.attr("coordinate_transformation_mode", "half_pixel")
    nearest = view.attr("nearest_mode", "round_prefer_floor")
    place = _COORDINATES.get(coordinates)
    if place is None or mode not in ("nearest", *_KERNELS) or nearest not in _NEAREST:
        raise view.unsupported(f"mode {mode!r} with {coordinates!r} and {nearest!r} is not known")
    sampling = _Sampling(
        place, _NEAREST[nearest], _KERNELS.get(mode),
        slope=view.attr("cubic_coeff_a", -0.75), antialias=bool(view.attr("antialias", 0)),
        outside_counts=not view.attr("exclude_outside", 0),
    )  # fmt: skip
    policy, only = view.attr("keep_aspect_ratio_policy", "stretch"), view.attr("axes")

    def resize(x: Tensor, _: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
        dims = [d % x.ndim for d in only] if only is not None else list(range(x.ndim))
        for dim, axis in zip(dims, _resized([x.shape[d] for d in dims], scales, sizes, policy), strict=True):
            if axis.before != axis.after or axis.scale != 1:
                x = _along(x, dim, *sampling.taps(axis))
        return x

    return resize


def _along(x: Tensor, dim: int, rows: Array, weights: Array) -> Tensor:
    """Sums the elements `rows` [taps, after] of axis `dim` with `weights` [taps, after]."""
    shape = [-1] + [1] * (x.ndim - 1 - dim)
    total: Tensor | None = None
    for picked, weight in zip(rows.astype(np.int64), weights, strict=True):
        part = x.index_select(dim, torch.from_numpy(picked).to(x.device))
        if len(rows) > 1:
            part = part * torch.from_numpy(weight).to(x).reshape(shape)
        total = part if total is None else total + part
    assert total is not None
    return total


@op("GridSample")
def _grid_sample(view: NodeView) -> OpFn:
    mode = {"linear": "bilinear", "nearest": "nearest", "cubic": "bicubic"}.get(view.attr("mode", "linear"))
    padding, corners = view.attr("padding_mode", "zeros"), bool(view.attr("align_corners", 0))
    if mode is None or padding not in ("zeros", "border", "reflection"):
        raise view.unsupported(f"mode {view.attr('mode')!r} with padding {padding!r} is unknown")
    return lambda x, grid: F.grid_sample(x, grid, mode, padding, corners)


@op("AffineGrid")
def _affine_grid(view: NodeView) -> OpFn:
    fixed, corners = view.ints(1), bool(view.attr("align_corners", 0))

    def affine_grid(theta: Tensor, size: Tensor) -> Tensor:
        return F.affine_grid(theta, fixed if fixed is not None else size.tolist(), corners)

    return affine_grid


@op("RoiAlign")
def _roi_align(view: NodeView) -> OpFn:
    from torchvision.ops import roi_align  # type: ignore[import-untyped]  # what few models have; torchvision takes long to import

    if view.attr("mode", "avg") != "avg":
        raise view.unsupported("it takes the maximum of the samples; export it with their mean")
    size = view.attr("output_height", 1), view.attr("output_width", 1)
    scale, samples = view.attr("spatial_scale", 1.0), view.attr("sampling_ratio", 0) or -1
    aligned = view.attr("coordinate_transformation_mode", "half_pixel") == "half_pixel"

    def align(x: Tensor, boxes: Tensor, images: Tensor) -> Tensor:
        rows = torch.cat([images.to(boxes).unsqueeze(1), boxes], 1)
        result: Tensor = roi_align(x, rows, size, scale, samples, aligned)
        return result

    return align
