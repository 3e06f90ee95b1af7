"""Lists published ImageNet top-1 of post-training quantization on the models of the LRP-QViT paper's table.

Widths are nominal: W4A4 or W6A6 for PTQ4ViT, APQ-ViT and RepQ-ViT; mixed precision of that mean (MP4, MP6) for
LRP-QViT. RepQ-ViT quantizes everything at that width, the head and both attention products included, but for the
image, which has 8 bits. PTQ4ViT and RepQ-ViT calibrate on 32 training images.

Sources:

* PTQ4ViT: 4 bits as table 1 of the APHQ-ViT paper (CVPR 2025) repeats it; 6 bits from its README and second hand.
* APQ-ViT: 4 bits from the same table; 6 bits second hand.
* RepQ-ViT: the README of its authors; Swin-B at 4 bits from the paper, at 6 bits second hand.
* LRP-QViT (arXiv 2401.11243): **one secondary source only**, table 7 of the GMPQ-TE paper, whose column label is not
  reliable (it calls fixed-width numbers of RepQ-ViT mixed as well). They are most likely the mixed-precision rows. Its
  fixed-width rows, the bits it chooses from and its model sizes were not found.
* Swin-T is not in the LRP-QViT paper: RepQ-ViT's README has it.
"""

from __future__ import annotations

from dataclasses import dataclass

METHODS = ("PTQ4ViT", "APQ-ViT", "RepQ-ViT", "LRP-QViT")


@dataclass(frozen=True)
class PaperModel:
    """One model of the table. Top-1 is in percent; None where nothing was found.

    Attributes:
        tag: the timm weights with the float accuracy the papers print. timm's default for ViT-B and Swin-S is
            another one by now.
        float_top1: as the papers print it. timm's own results for these tags are within 0.04 points of it, but
            81.98 for DeiT-B.
        top1: nominal width -> one number for each of `METHODS`.
    """

    label: str
    tag: str
    float_top1: float
    top1: dict[int, tuple[float | None, float | None, float | None, float | None]]


MODELS: dict[str, PaperModel] = {
    "vit_small_patch16_224": PaperModel(
        "ViT-S", "augreg_in21k_ft_in1k", 81.39, {4: (42.57, 47.95, 65.05, 70.81), 6: (78.63, 79.10, 80.43, 80.59)}
    ),
    "vit_base_patch16_224": PaperModel(
        "ViT-B", "augreg_in21k_ft_in1k", 84.54, {4: (30.69, 41.41, 68.48, 75.37), 6: (81.65, 82.21, 83.62, 83.87)}
    ),
    "deit_tiny_patch16_224": PaperModel(
        "DeiT-T", "fb_in1k", 72.21, {4: (36.96, 47.94, 57.43, 61.24), 6: (69.68, 70.49, 70.76, 71.03)}
    ),
    "deit_small_patch16_224": PaperModel(
        "DeiT-S", "fb_in1k", 79.85, {4: (34.08, 43.55, 69.03, 72.43), 6: (76.28, 77.76, 78.90, 79.03)}
    ),
    "deit_base_patch16_224": PaperModel(
        "DeiT-B", "fb_in1k", 81.80, {4: (64.39, 67.48, 75.61, 78.13), 6: (80.25, 80.42, 81.27, 81.44)}
    ),
    "swin_tiny_patch4_window7_224": PaperModel(
        "Swin-T", "ms_in1k", 81.35, {4: (None, None, 72.31, None), 6: (None, None, 80.69, None)}
    ),
    "swin_small_patch4_window7_224": PaperModel(
        "Swin-S", "ms_in1k", 83.23, {4: (76.09, 77.15, 79.45, 81.37), 6: (82.38, 82.67, 82.79, 82.86)}
    ),
    "swin_base_patch4_window7_224": PaperModel(
        "Swin-B", "ms_in22k_ft_in1k", 85.27, {4: (74.02, 76.48, 78.32, 80.77), 6: (84.01, 84.18, 84.57, 84.72)}
    ),
}
