"""ViTs whose outputs are no logits of an image: tokens, maps, boxes. On 3 x 8 x 8 images, 2 x 2 patches."""

from __future__ import annotations

import numpy as np

from qvit_deploy.graph.canonicalize import canonicalize
from qvit_deploy.graph.graph import Graph
from tests.support.graphs.relevance_graphs import Builder, vit_tokens

IMAGE, WIDTH, PATCHES = (3, 8, 8), 16, 4


def embedder() -> Graph:
    """Outputs `tokens` [batch, 5, 16], and the class token's `vector` [batch, 8]."""
    b = Builder(0)
    tokens = vit_tokens(b)
    first = b.op("Gather", tokens, b.constant(np.int64(0)), axis=1)
    b.op("Identity", tokens, name="tokens")
    b.linear(first, WIDTH, 8, "head", "vector")
    return _canonical(b, {"tokens": ["batch", 5, WIDTH], "vector": ["batch", 8]})


def segmenter(classes: int = 5, last: bool = False) -> Graph:
    """Output `masks` [batch, classes, 2, 2], or with `last` [batch, 2, 2, classes]."""
    b = Builder(0)
    scores = b.linear(_patches(b), WIDTH, classes, "head")
    if last:
        b.op("Reshape", scores, b.constant([0, 2, 2, classes]), name="masks")
        return _canonical(b, {"masks": ["batch", 2, 2, classes]})
    b.op("Reshape", b.op("Transpose", scores, perm=[0, 2, 1]), b.constant([0, classes, 2, 2]), name="masks")
    return _canonical(b, {"masks": ["batch", classes, 2, 2]})


def detector(classes: int = 3) -> Graph:
    """Outputs `logits` [batch, 4, classes + 1] and `pred_boxes` [batch, 4, 4]: DETR's."""
    b = Builder(0)
    patches = _patches(b)
    b.linear(patches, WIDTH, classes + 1, "class_head", "logits")
    b.op("Sigmoid", b.linear(patches, WIDTH, 4, "box_head"), name="pred_boxes")
    return _canonical(b, {"logits": ["batch", PATCHES, classes + 1], "pred_boxes": ["batch", PATCHES, 4]})


def _patches(b: Builder) -> str:
    return b.op("Slice", vit_tokens(b), b.constant([1]), b.constant([5]), b.constant([1]))


def _canonical(b: Builder, outputs: dict[str, list[str | int]]) -> Graph:
    return canonicalize(b.graph_with(outputs, IMAGE).model, "small")
