"""Pools: maxima, means and lengths over windows and over whole maps."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from qvit_deploy.execute.ops.registry import NodeView, OpFn, Tensor, op
from qvit_deploy.execute.ops.windows import Windows, torch_pads

_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def _windows(view: NodeView) -> Windows:
    kernel = view.attr("kernel_shape")
    if len(kernel) not in _MAX_POOL:
        raise view.unsupported(f"it pools over {len(kernel)} axes; pools over one to three run")
    return Windows.of(view, kernel)


@op("MaxPool")
def _max_pool(view: NodeView) -> OpFn:
    windows = _windows(view)
    if len(view.node.outputs) > 1:
        raise view.unsupported("its output of indices is not computed; export the model without MaxUnpool")
    pool = _MAX_POOL[len(windows.kernel)]

    def max_pool(x: Tensor) -> Tensor:
        padding = windows.padding(x.shape[2:])
        over = windows.overhang(x.shape[2:], padding)
        pads = torch_pads([(front, back + more) for (front, back), more in zip(padding, over, strict=True)])
        x = F.pad(x, pads, value=float("-inf")) if any(pads) else x
        return pool(x, windows.kernel, windows.strides, 0, windows.dilations)

    return max_pool


@op("AveragePool")
def _average_pool(view: NodeView) -> OpFn:
    windows, counts_padding = _windows(view), bool(view.attr("count_include_pad", 0))

    def average_pool(x: Tensor) -> Tensor:
        sizes = x.shape[2:]
        padding = windows.padding(sizes)
        over = windows.overhang(sizes, padding)
        means = _window_means(x, windows, padding, over)
        none = [(0, 0)] * len(sizes)
        counted, around = (padding, none) if counts_padding else (none, padding)
        if not any(over) and not any(map(sum, around)):
            return means
        ones = x.new_ones(1, 1, *(n + sum(pair) for n, pair in zip(sizes, counted, strict=True)))
        return means / _window_means(ones, windows, around, over)  # by the share of each window that counts

    return average_pool


@op("LpPool")
def _lp_pool(view: NodeView) -> OpFn:
    windows, p = _windows(view), view.attr("p", 2)

    def lp_pool(x: Tensor) -> Tensor:
        padding = windows.padding(x.shape[2:])
        over = windows.overhang(x.shape[2:], padding)
        means = _window_means(x.abs() ** p, windows, padding, over)
        return (means * math.prod(windows.kernel)) ** (1 / p)

    return lp_pool


def _window_means(x: Tensor, windows: Windows, padding: list[tuple[int, int]], over: list[int]) -> Tensor:
    """Averages x [batch, channels, ...] over each window; padding and overhang count as zeros."""
    pads = torch_pads([(front, back + more) for (front, back), more in zip(padding, over, strict=True)])
    x = F.pad(x, pads) if any(pads) else x
    spatial = len(windows.kernel)
    if all(d == 1 for d in windows.dilations):
        return _AVERAGE_POOL[spatial](x, windows.kernel, windows.strides)
    kernel = x.new_full((x.shape[1], 1, *windows.kernel), 1 / math.prod(windows.kernel))
    return _CONV[spatial](x, kernel, None, windows.strides, 0, windows.dilations, x.shape[1])


@op("GlobalAveragePool")
def _global_average_pool(_: NodeView) -> OpFn:
    return lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True)


@op("GlobalMaxPool")
def _global_max_pool(_: NodeView) -> OpFn:
    return lambda x: x.amax(tuple(range(2, x.ndim)), keepdim=True)


@op("GlobalLpPool")
def _global_lp_pool(view: NodeView) -> OpFn:
    p = view.attr("p", 2)
    return lambda x: torch.linalg.vector_norm(x, p, tuple(range(2, x.ndim)), keepdim=True)
