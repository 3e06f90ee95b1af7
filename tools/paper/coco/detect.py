"""Runs a detector on one picture: the compiled graphs, and what stands between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tools.paper.coco.detector import BOX_SIDE, LEVELS, MASK_SIDE
from tools.paper.coco.graphs import MASKS, TRUNK, Parts, box_part
from tools.paper.coco.paste import paste
from tools.paper.coco.selection import Found, detections, proposals, refined, regions


def found_in(parts: Parts, image: Tensor, size: tuple[int, int]) -> tuple[Found, Tensor]:
    """Returns the detections in an image, and their masks as probabilities [n, 28, 28].

    Args:
        image: float32 [3, H, W], prepared.
        size: (height, width) of the picture in its canvas.
    """
    seen = parts.run(TRUNK, image[None])
    maps = [seen[f"p{level}"] for level in range(2, 6)]
    levels = range(2, 2 + LEVELS)
    boxes = proposals(
        [seen[f"objectness{level}"][0] for level in levels], [seen[f"deltas{level}"][0] for level in levels], size
    )
    found = _boxes(parts, maps, boxes, size)
    return found, _masks(parts, maps, found)


def _boxes(parts: Parts, maps: list[Tensor], boxes: Tensor, size: tuple[int, int]) -> Found:
    """Passes proposals through the box heads; the logits of all stages are averaged, the last one's boxes count."""
    if not len(boxes):
        return Found(boxes, boxes.new_zeros(0), torch.zeros(0, dtype=torch.long))
    last, logits = parts.stages - 1, []
    for stage in range(parts.stages):
        answer = parts.run(box_part(stage), regions(maps, boxes, BOX_SIDE))
        logits.append(answer["logits"])
        if stage < last:
            boxes = refined(boxes, answer["logits"], answer["deltas"], stage, size)
    return detections(boxes, torch.stack(logits).mean(0), answer["deltas"], last, size)


def _masks(parts: Parts, maps: list[Tensor], found: Found) -> Tensor:
    """Returns the masks of the things found, the mean over the stages' heads."""
    if not len(found.boxes):
        return torch.zeros(0, 2 * MASK_SIDE, 2 * MASK_SIDE)
    stages = parts.run(MASKS, regions(maps, found.boxes, MASK_SIDE)).values()
    chosen = [stage[torch.arange(len(found.labels)), found.labels].sigmoid() for stage in stages]
    return torch.stack(chosen).mean(0)


def rows(
    found: Found, masks: Tensor, inside: tuple[int, int], size: tuple[int, int], image: int, categories: tuple[int, ...]
) -> list[Mapping[str, Any]]:
    """Returns detections as COCO's results: boxes and masks in the pixels of the picture's file.

    Args:
        inside, size: (height, width) of the picture on the canvas and in its file.
    """
    from pycocotools import mask as coding

    scale = found.boxes.new_tensor([size[1] / inside[1], size[0] / inside[0]] * 2)
    boxes = found.boxes * scale
    results: list[Mapping[str, Any]] = []
    for box, score, label, mask in zip(boxes, found.scores, found.labels, masks, strict=True):
        code = coding.encode(np.asfortranarray(paste(mask[None], box[None], size)[0].numpy().astype(np.uint8)))
        left, top, right, bottom = box.tolist()
        results.append(
            {
                "image_id": image,
                "category_id": categories[int(label)],
                "bbox": [left, top, right - left, bottom - top],
                "score": float(score),
                "segmentation": {"size": list(size), "counts": code["counts"].decode()},
            }
        )
    return results
