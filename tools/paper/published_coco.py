"""Lists published COCO box and mask AP of post-training quantization on the detectors of the LRP-QViT paper's table.

Widths are nominal. Pairs are AP of boxes and of masks.

Sources:

* Float and RepQ-ViT: the README of RepQ-ViT's authors. Its 44.2 box AP of Mask R-CNN with Swin-S at 4 bits comes out
  as 42.7 to 42.8 when others run it (RepQ-ViT's issue 5; the APHQ-ViT paper marks it too), and its 41.4 mask AP of the
  cascade with Swin-T as 41.1 in the APHQ-ViT paper.
* ERQ, I&S-ViT, DopQ-ViT and APHQ-ViT: table 2 of the APHQ-ViT paper (CVPR 2025), 4 bits only.
* LRP-QViT (arXiv 2401.11243) has such a table, but its numbers were not found in any source that could be checked:
  its column is there and empty.
"""

from __future__ import annotations

from dataclasses import dataclass

METHODS = ("RepQ-ViT", "ERQ", "I&S-ViT", "DopQ-ViT", "APHQ-ViT", "LRP-QViT")

Precisions = tuple[float, float]
"""AP of boxes and of masks, percent."""


@dataclass(frozen=True)
class PaperDetector:
    """One detector of the table.

    Attributes:
        aps: nominal width -> one pair for each of `METHODS`; None where nothing was found.
    """

    label: str
    float_ap: Precisions
    aps: dict[int, tuple[Precisions | None, ...]]


def _only_repq(box: float, mask: float) -> tuple[Precisions | None, ...]:
    return ((box, mask), *([None] * (len(METHODS) - 1)))


DETECTORS: dict[str, PaperDetector] = {
    "mask_rcnn_swin_tiny": PaperDetector(
        "Mask R-CNN, Swin-T", (46.0, 41.6),
        {
            4: ((36.1, 36.0), (36.8, 36.6), (37.5, 36.6), (37.5, 36.5), (38.9, 38.1), None),
            6: _only_repq(45.1, 41.2),
        },
    ),
    "mask_rcnn_swin_small": PaperDetector(
        "Mask R-CNN, Swin-S", (48.5, 43.3),
        {
            4: ((44.2, 40.2), (43.4, 40.7), (43.4, 40.3), (43.5, 40.4), (44.1, 41.0), None),
            6: _only_repq(47.8, 43.0),
        },
    ),
    "cascade_mask_rcnn_swin_tiny": PaperDetector(
        "Cascade Mask R-CNN, Swin-T", (50.4, 43.7),
        {
            4: ((47.0, 41.4), (47.9, 42.1), (48.2, 42.0), (48.2, 42.1), (48.9, 42.7), None),
            6: _only_repq(50.0, 43.5),
        },
    ),
    "cascade_mask_rcnn_swin_small": PaperDetector(
        "Cascade Mask R-CNN, Swin-S", (51.9, 45.0),
        {
            4: ((49.3, 43.1), (50.0, 43.6), (50.3, 43.6), (50.3, 43.7), (50.3, 43.7), None),
            6: _only_repq(51.4, 44.6),
        },
    ),
}  # fmt: skip
