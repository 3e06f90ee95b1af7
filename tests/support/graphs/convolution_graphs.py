"""A small canonical model with every kind of convolution site."""

from __future__ import annotations

from qvit_deploy.graph.graph import Graph
from tests.support.graphs.quantizable_graphs import canonical
from tests.support.graphs.relevance_graphs import Builder

WIDTH = 16

DEPTHWISE = ("deep",)
"""Sites with one output channel for each group."""
OTHERS = ("stem", "grouped", "dilated", "cls", "box", "down")
"""The other sites of convolutions; `cls`, which has no bias, `box` and `down` read one tensor."""


def pyramid(seed: int = 0) -> Graph:
    """Returns a classifier of 3 x 16 x 16 images: an overlapping stem, two levels that are added, heads on the sum.

    Its sites are `OTHERS`, `DEPTHWISE` and two linears: `lateral`, a pointwise convolution, and `head`.
    """
    b = Builder(seed)

    def conv(x: str, name: str, rows: int, columns: int, size: int, pad: int, bias: bool = True, **rest: object) -> str:
        groups = int(str(rest.get("group", 1)))
        weight = b.normal(columns, rows // groups, size, size, scale=0.3, name=f"{name}.weight")
        inputs = [x, weight, *([b.normal(columns, scale=0.5, name=f"{name}.bias")] if bias else [])]
        return b.op("Conv", *inputs, name=f"{name}.y", kernel_shape=[size] * 2, pads=[pad] * 4, **rest)

    x = b.op("Gelu", conv("image", "stem", 3, WIDTH, 3, 1, strides=[2, 2]))
    fine = conv(x, "lateral", WIDTH, WIDTH, 1, 0)
    coarse = conv(
        b.op("Relu", conv(x, "deep", WIDTH, WIDTH, 5, 2, group=WIDTH)), "grouped", WIDTH, WIDTH, 3, 1, group=2
    )
    level = b.op("Relu", b.op("Add", fine, conv(coarse, "dilated", WIDTH, WIDTH, 3, 2, dilations=[2, 2])), name="level")
    heads = [conv(level, name, WIDTH, WIDTH, 3, 1, name == "box") for name in ("cls", "box")]
    down = conv(level, "down", WIDTH, WIDTH, 1, 0, strides=[2, 2])
    means = [b.op("ReduceMean", map_, b.constant([2, 3]), keepdims=0) for map_ in (b.op("Mul", *heads), down)]
    pooled = b.op("Add", *means)
    return canonical(b, b.linear(pooled, WIDTH, 5, "head", "logits"), (3, 16, 16), "pyramid")
