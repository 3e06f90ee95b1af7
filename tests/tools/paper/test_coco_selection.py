"""Anchors, boxes, regions and masks beside torchvision's own, and beside what is plain by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import MultiScaleRoIAlign, box_iou

from tools.paper.coco.boxes import anchors, decode, levels
from tools.paper.coco.detector import STRIDES
from tools.paper.coco.paste import paste
from tools.paper.coco.selection import IOU, detections, proposals, refined, regions


def some_boxes(count: int, side: float = 300.0) -> torch.Tensor:
    corners = torch.rand(count, 2, generator=torch.Generator().manual_seed(count)) * side
    sizes = torch.rand(count, 2, generator=torch.Generator().manual_seed(count + 1)) * side + 4
    return torch.cat([corners, corners + sizes], 1)


def test_anchors_are_torchvisions_but_for_its_rounding() -> None:
    generator = AnchorGenerator(((64,),), ((0.5, 1.0, 2.0),))
    (theirs,) = generator(ImageList(torch.zeros(1, 3, 32, 48), [(32, 48)]), [torch.zeros(1, 1, 4, 6)])
    ours = anchors(4, 6, 8)
    assert ours.shape == (72, 4) and (ours - theirs).abs().max() <= 0.5
    assert ours[1].tolist() == [-32, -32, 32, 32]
    assert ours[3 * 7 + 1].tolist() == [-24, -24, 40, 40]  # row 1, column 1


def test_deltas_are_decoded_as_torchvision_does() -> None:
    boxes, deltas = some_boxes(40), torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    theirs = BoxCoder((10.0, 10.0, 5.0, 5.0)).decode_single(deltas, boxes)
    torch.testing.assert_close(decode(boxes, deltas, (0.1, 0.1, 0.2, 0.2)), theirs, rtol=1e-5, atol=1e-3)


def test_no_box_grows_more_than_mmdetection_lets_it() -> None:
    grown = decode(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[0.0, 0.0, 50.0, 0.0]]), (1.0, 1.0, 1.0, 1.0))
    torch.testing.assert_close(grown[0, 2] - grown[0, 0], torch.tensor(2 * 1000 / 16))


@pytest.mark.parametrize(("side", "level"), [(8, 0), (111, 0), (112, 1), (223, 1), (224, 2), (448, 3), (3000, 3)])
def test_larger_boxes_look_at_coarser_maps(side: int, level: int) -> None:
    assert levels(torch.tensor([[5.0, 5.0, 5.0 + side, 5.0 + side]]), 4).tolist() == [level]


def test_features_of_regions_are_torchvisions() -> None:
    """Torchvision's detectors take pixels by their corners, half a pixel of the map beside mmdetection's."""
    size, boxes = 512, some_boxes(30)
    maps = [torch.randn(1, 3, size // s, size // s) for s in STRIDES[:4]]
    pool = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 0, canonical_scale=224, canonical_level=4)
    half = torch.tensor(STRIDES)[levels(boxes, 4)][:, None] / 2
    theirs = pool({str(i): each for i, each in enumerate(maps)}, [boxes - half], [(size, size)])
    assert len(levels(boxes, 4).unique()) >= 3
    torch.testing.assert_close(regions(maps, boxes, 7), theirs, rtol=1e-4, atol=1e-4)


def test_proposals_are_the_likeliest_boxes_inside_the_picture() -> None:
    size = (60, 90)
    logits = [torch.full((3, 64 // s, 96 // s), -9.0) for s in STRIDES]
    deltas = [torch.zeros(12, *each.shape[1:]) for each in logits]
    logits[0][1, 8, 10] = 5.0  # ratio 1 at (40, 32), 32 pixels wide
    logits[2][2, 0, 0] = 4.0  # ratio 2 at the corner
    found = proposals(logits, deltas, size)
    assert found[0].tolist() == [24, 16, 56, 48]
    assert found[1, :2].tolist() == [0, 0]
    assert (found[:, 0::2] <= 90).all() and (found[:, 1::2] <= 60).all() and len(found) <= 1000


def test_overlapping_boxes_are_suppressed_in_their_class_only() -> None:
    boxes = torch.tensor([[10.0, 10, 50, 50], [12, 10, 52, 50], [11, 10, 51, 50], [60, 10, 80, 40]])
    logits = torch.tensor([[5.0, 0, 0], [4, 0, 0], [0, 5, 0], [0, 0, 9]])  # the last thing is nothing
    found = detections(boxes, logits, torch.zeros(4, 8), 0, (100, 100))
    assert found.labels.tolist() == [0, 1] and found.boxes.tolist() == [boxes[0].tolist(), boxes[2].tolist()]
    many = some_boxes(200)
    found = detections(many, torch.randn(200, 4), torch.zeros(200, 12), 0, (700, 700))
    assert len(found.boxes) == 100
    for label in range(3):
        same = found.boxes[found.labels == label]
        assert box_iou(same, same).fill_diagonal_(0).max() <= IOU


def test_a_cascade_moves_boxes_by_the_likeliest_things_deltas() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]])
    deltas = torch.tensor([[9.0, 9, 9, 9, 1, 0, 0, 0]])
    moved = refined(boxes, torch.tensor([[0.0, 1.0, 7.0]]), deltas, 1, (100, 100))
    torch.testing.assert_close(moved, torch.tensor([[0.5, 0, 10.5, 10]]))


def test_a_full_mask_fills_its_box() -> None:
    box = torch.tensor([[3.0, 2.0, 9.0, 7.0], [-4.0, -4.0, 4.0, 4.0]])
    pasted = paste(torch.ones(2, 28, 28), box, (10, 12)).numpy()
    expected = np.zeros((2, 10, 12), bool)
    expected[0, 2:7, 3:9] = expected[1, :4, :4] = True
    assert (pasted == expected).all()


def test_masks_agree_with_torchvisions_but_at_borders() -> None:
    """Torchvision rounds boxes to whole pixels first."""
    place = torch.linspace(-1, 1, 28)
    disk = (2.5 - 3 * (place[:, None] ** 2 + place**2)).sigmoid()
    boxes = torch.tensor([[20.3, 11.8, 81.2, 66.4], [5.0, 50.0, 40.0, 95.0]])
    ours = paste(disk.expand(2, 28, 28), boxes, (100, 100))
    theirs = paste_masks_in_image(disk.expand(2, 1, 28, 28), boxes, (100, 100))[:, 0] >= 0.5
    assert ((ours & theirs).sum((1, 2)) / (ours | theirs).sum((1, 2)) > 0.95).all()


def test_a_box_outside_of_the_picture_has_no_mask() -> None:
    assert not paste(torch.ones(1, 28, 28), torch.tensor([[30.0, 5.0, 40.0, 9.0]]), (10, 12)).any()
