"""What stands between the compiled graphs: proposals, the features of regions, and the boxes that remain.

Numbers and order of steps are those of the test configuration of mmdetection's (Cascade) Mask R-CNN. NMS and RoIAlign
are torchvision's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import (  # type: ignore[import-untyped]
    batched_nms,
    clip_boxes_to_image,
    roi_align,
)

from tools.paper.coco.boxes import anchors, decode, levels
from tools.paper.coco.detector import STRIDES

PER_LEVEL = PROPOSALS = 1000
PROPOSAL_IOU = 0.7
SCORE, IOU, DETECTIONS = 0.05, 0.5, 100
STAGE_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
"""What the deltas of each stage's box head are multiplied by."""


@dataclass(frozen=True)
class Found:
    """The detections of one image: boxes [n, 4] in pixels of the canvas, scores [n], labels int64 [n]."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def proposals(logits: Sequence[Tensor], deltas: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Returns the regions of one image to look at, [n, 4] with n up to 1000, the likeliest first.

    Args:
        logits: [3, h, w] for every level.
        deltas: [12, h, w] for every level.
        size: (height, width) of the picture in its canvas; boxes end there.
    """
    boxes, scores, origin = [], [], []
    for level, (each, moves) in enumerate(zip(logits, deltas, strict=True)):
        flat = each.permute(1, 2, 0).reshape(-1)
        best = flat.topk(min(PER_LEVEL, len(flat)))
        chosen = moves.permute(1, 2, 0).reshape(-1, 4)[best.indices]
        places = anchors(each.shape[1], each.shape[2], STRIDES[level])[best.indices]
        boxes.append(decode(places, chosen, (1.0, 1.0, 1.0, 1.0)))
        scores.append(best.values.sigmoid())
        origin.append(torch.full_like(best.indices, level))
    every = clip_boxes_to_image(torch.cat(boxes), size)
    filled = ((every[:, 2:] - every[:, :2]) > 0).all(1).nonzero()[:, 0]
    every, score, level_of = every[filled], torch.cat(scores)[filled], torch.cat(origin)[filled]
    return every[batched_nms(every, score, level_of, PROPOSAL_IOU)[:PROPOSALS]]


def regions(maps: Sequence[Tensor], boxes: Tensor, side: int) -> Tensor:
    """Returns the features of boxes [n, channels, side, side], each from the map of its size.

    Args:
        maps: [1, channels, h, w], the finest first.
    """
    features = maps[0].new_zeros(len(boxes), maps[0].shape[1], side, side)
    place = levels(boxes, len(maps))
    for level, each in enumerate(maps):
        here = (place == level).nonzero()[:, 0]
        if len(here):
            features[here] = roi_align(each, [boxes[here]], side, 1 / STRIDES[level], 0, aligned=True)
    return features


def refined(boxes: Tensor, logits: Tensor, deltas: Tensor, stage: int, size: tuple[int, int]) -> Tensor:
    """Returns the boxes the next stage of a cascade looks at: moved as the likeliest thing's deltas say."""
    thing = logits[:, :-1].argmax(1)
    chosen = deltas.reshape(len(boxes), -1, 4)[torch.arange(len(boxes)), thing]
    return clip_boxes_to_image(decode(boxes, chosen, STAGE_STDS[stage]), size)


def detections(boxes: Tensor, logits: Tensor, deltas: Tensor, stage: int, size: tuple[int, int]) -> Found:
    """Decodes the last stage's boxes for every class and keeps up to 100 of them by NMS in each class.

    Args:
        boxes: [n, 4], what the last stage looked at.
        logits: [n, classes + 1], the mean over stages.
        deltas: [n, 4 * classes] of the last stage.
    """
    scores = logits.softmax(1)[:, :-1]
    index, labels = (scores > SCORE).nonzero().unbind(1)
    moves = deltas.reshape(len(boxes), -1, 4)[index, labels]
    decoded = clip_boxes_to_image(decode(boxes[index], moves, STAGE_STDS[stage]), size)
    kept = batched_nms(decoded, scores[index, labels], labels, IOU)[:DETECTIONS]
    return Found(decoded[kept], scores[index, labels][kept], labels[kept])
