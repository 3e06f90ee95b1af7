"""Checkpoints under both of their names give the same detector, and Swin is timm's where the two have to agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer

from qvit_deploy.errors import InputError
from tools.paper.coco.detector import ARCHITECTURES, Detector, architecture
from tools.paper.coco.swin import WINDOW, Swin, attention_mask
from tools.paper.coco.weights import load_detector, unfold_order

SMALL = "width=16&depths=2,1,1,1&heads=1,1,2,2&channels=16&hidden=32"
SIZE = (64, 96)


def authors_state(detector: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict with the names, buffers and order of channels of Swin's authors."""
    state = {}
    for name, value in detector.state_dict().items():
        if name.startswith("backbone."):
            name = name.replace(".stages.", ".layers.").replace("projection", "proj").replace(".w_msa", "")
            name = re.sub(r"\.ffn\.layers\.0\.0\.", ".mlp.fc1.", name)
            name = re.sub(r"\.ffn\.layers\.1\.", ".mlp.fc2.", name)
        if ".downsample." in name:
            # theirs: the neighbours (0, 0), (1, 0), (0, 1), (1, 1), each with all channels
            each = value.reshape(*value.shape[:-1], -1, 4)
            value = torch.cat([each[..., i] for i in (0, 2, 1, 3)], -1)
        state[name] = value
    state["backbone.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49)
    return state


@pytest.mark.parametrize("name", ["mask_rcnn_swin_tiny", "cascade_mask_rcnn_swin_tiny"])
def test_a_checkpoint_of_the_authors_is_that_of_mmdetection(name: str, tmp_path: Path) -> None:
    first, second = (Detector(architecture(f"{name}?{SMALL}"), SIZE, 3).eval() for _ in range(2))
    torch.save({"state_dict": authors_state(first), "meta": {"epoch": 36}}, tmp_path / "a.pth")
    load_detector(second, tmp_path / "a.pth")
    image = torch.randn(1, 3, *SIZE)
    for one, other in zip(first.trunk(image), second.trunk(image), strict=True):
        assert torch.equal(one, other)
    features = torch.randn(2, 16, 7, 7)
    for head, other_head in zip(first.box_heads, second.box_heads, strict=True):
        assert torch.equal(head(features)[0], other_head(features)[0])


def test_unfold_counts_channels_first() -> None:
    pixels = torch.arange(8.0).reshape(1, 2, 2, 2)  # [b, c, h, w]
    unfolded = torch.nn.functional.unfold(pixels, 2, stride=2)[0, :, 0]
    theirs = torch.cat([pixels[0, :, row, column] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))])
    assert torch.equal(unfold_order(theirs), unfolded)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("rpn_head.rpn_cls.bias"), "(missing: rpn_head.rpn_cls.bias)"),
        (lambda s: s.update({"mask_head.x": torch.zeros(1)}), "(unexpected: mask_head.x)"),
        (
            lambda s: s.update({"neck.fpn_convs.0.conv.bias": torch.zeros(3)}),
            "(wrong shape: neck.fpn_convs.0.conv.bias is [3], expected [16])",
        ),
        (lambda s: [s.pop(name) for name in list(s) if "backbone" in name], "and 82 more"),
    ],
)
def test_what_does_not_fit_is_named(change: object, words: str, tmp_path: Path) -> None:
    detector = Detector(architecture(f"mask_rcnn_swin_tiny?{SMALL}"), SIZE, 3)
    state = detector.state_dict()
    change(state)  # type: ignore[operator]
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(InputError) as raised:
        load_detector(detector, tmp_path / "a.pth")
    assert words in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_published_detectors_have_the_parameters_of_their_checkpoints(name: str) -> None:
    """Swin's authors count 48, 69, 86 and 107 million."""
    with torch.device("meta"):
        count = sum(p.numel() for p in Detector(ARCHITECTURES[name], (64, 64), 80).parameters()) / 1e6
    published = dict(zip(ARCHITECTURES, (48, 69, 86, 107), strict=True))
    assert round(count) == published[name]


def test_without_padding_swin_is_timms() -> None:
    """224 pixels are whole windows at every stage."""
    torch.manual_seed(0)
    ours = Swin((224, 224), 16, (2, 2, 1, 1), (1, 1, 2, 2)).eval()
    theirs = SwinTransformer(embed_dim=16, depths=(2, 2, 1, 1), num_heads=(1, 1, 2, 2), num_classes=0).eval()
    state = {}
    for name, value in ours.state_dict().items():
        if name.startswith("norm") and not name.startswith("norm3"):
            continue
        name = name.replace("norm3", "norm").replace("stages.", "layers.").replace("projection", "proj")
        name = name.replace(".w_msa", "").replace("ffn.layers.0.0", "mlp.fc1").replace("ffn.layers.1", "mlp.fc2")
        if found := re.match(r"layers\.(\d)\.downsample(.*)", name):
            name = f"layers.{int(found[1]) + 1}.downsample{found[2]}"
            each = value.reshape(*value.shape[:-1], -1, 4)
            value = torch.cat([each[..., i] for i in (0, 2, 1, 3)], -1)
        state[name] = value
    assert not theirs.load_state_dict(state, strict=False).unexpected_keys
    image = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(ours(image)[3], theirs.forward_features(image).permute(0, 3, 1, 2), rtol=0, atol=2e-5)


def test_what_pads_a_map_does_not_mix_with_its_other_side() -> None:
    """In a shifted window of a padded map, pixels that were on opposite sides do not see each other."""
    mask = attention_mask((14, 14))
    assert mask.shape == (4, 49, 49) and not mask[0].any()
    last = mask[3].reshape(7, 7, 7, 7)
    assert last[0, 0, 3, 3] == 0 and last[0, 0, 4, 0] == last[0, 0, 0, 4] == last[6, 6, 0, 0] == -100
    assert WINDOW == 7
