"""Slips in the table of published numbers: a wrong digit or a swapped column breaks an order that all of it keeps."""

from __future__ import annotations

from itertools import pairwise

import pytest
from timm.models import get_pretrained_cfg

from tools.paper.published_imagenet import METHODS, MODELS, PaperModel


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda m: m.label)
def test_methods_stand_in_the_order_of_their_accuracy_and_below_float(model: PaperModel) -> None:
    for bits in (4, 6):
        numbers = [n for n in model.top1[bits] if n is not None]
        assert len(model.top1[bits]) == len(METHODS) and all(a < b for a, b in pairwise(numbers))
    for four, six in zip(model.top1[4], model.top1[6], strict=True):
        assert (four is None) == (six is None)
        assert four is None or six is None or four < six < model.float_top1


@pytest.mark.parametrize(
    ("label", "gain"),
    [
        ("ViT-S", 5.76), ("ViT-B", 6.89), ("DeiT-T", 3.81), ("DeiT-S", 3.40), ("DeiT-B", 2.52), ("Swin-S", 1.92),
        ("Swin-B", 2.45),
    ],
)  # fmt: skip
def test_the_gain_of_lrp_qvit_over_repq_at_four_bits(label: str, gain: float) -> None:
    *_, repq, lrp = next(m for m in MODELS.values() if m.label == label).top1[4]
    assert repq is not None and lrp is not None and lrp - repq == pytest.approx(gain, abs=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_timm_has_the_weights_with_a_thousand_classes_at_224(name: str) -> None:
    config = get_pretrained_cfg(f"{name}.{MODELS[name].tag}")
    assert config.has_weights and config.num_classes == 1000 and config.input_size == (3, 224, 224)
