"""One small model of every family of timm that has attention, or that backbones of transformers are made of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
from torch import nn

from tools.measure.architectures.architecture import Architecture

_FAMILIES: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {"img_size": 64, "depth": 2},
    "vit_small_patch14_dinov2": {"img_size": 70, "depth": 2, "num_classes": 10},
    "vit_small_patch14_reg4_dinov2": {"img_size": 70, "depth": 2, "num_classes": 10},
    "vit_base_patch16_siglip_224": {"img_size": 64, "depth": 2, "embed_dim": 96, "num_heads": 3, "num_classes": 10},
    "vit_base_patch16_clip_224": {"img_size": 64, "depth": 2, "embed_dim": 96, "num_heads": 3},
    "vit_base_patch16_clip_quickgelu_224": {"img_size": 64, "depth": 2, "embed_dim": 96, "num_heads": 3},
    "vit_little_patch16_reg4_gap_256": {"img_size": 64, "depth": 2},
    "vit_medium_patch16_rope_reg1_gap_256": {"img_size": 64, "depth": 2},
    "vit_small_patch16_dinov3": {"img_size": 64, "depth": 2, "num_classes": 10},
    "vit_relpos_small_patch16_224": {"img_size": 64, "depth": 2},
    "vit_srelpos_small_patch16_224": {"img_size": 64, "depth": 2},
    "vit_small_r26_s32_224": {"img_size": 64, "depth": 2},
    "vit_xsmall_patch16_clip_224": {"img_size": 64, "depth": 2},
    "vitamin_small_224": {"img_size": 64},
    "samvit_base_patch16_224": {"img_size": 64, "depth": 2, "embed_dim": 96, "num_heads": 3, "num_classes": 10},
    "deit_tiny_distilled_patch16_224": {"img_size": 64, "depth": 2},
    "deit3_small_patch16_224": {"img_size": 64, "depth": 2},
    "beit_base_patch16_224": {"img_size": 64, "depth": 2, "embed_dim": 96, "num_heads": 3},
    "beitv2_base_patch16_224": {"img_size": 64, "depth": 2, "embed_dim": 96, "num_heads": 3},
    "eva02_tiny_patch14_224": {"img_size": 70, "depth": 2, "num_classes": 10},
    "eva_giant_patch14_224": {"img_size": 70, "depth": 2, "embed_dim": 96, "num_heads": 3, "num_classes": 10},
    "cait_xxs24_224": {"img_size": 64, "depth": 2},
    "xcit_nano_12_p16_224": {"img_size": 64, "depth": 2},
    "crossvit_tiny_240": {"size": 240, "depth": [[1, 1, 0]]},
    "pit_ti_224": {"img_size": 96},
    "visformer_tiny": {"img_size": 64, "depth": [2, 1, 1]},
    "tnt_s_patch16_224": {"img_size": 64, "depth": 2},
    "convit_tiny": {"img_size": 64, "depth": 2},
    "coat_tiny": {"img_size": 64, "serial_depths": [1, 1, 1, 1], "parallel_depth": 1},
    "coatnet_pico_rw_224": {"img_size": 64},
    "coatnext_nano_rw_224": {"img_size": 64},
    "maxvit_pico_rw_256": {"img_size": 64},
    "maxxvit_rmlp_nano_rw_256": {"img_size": 64},
    "swin_tiny_patch4_window7_224": {"img_size": 56, "depths": (1, 2), "window_size": 7},
    "swinv2_tiny_window8_256": {"img_size": 64, "depths": (1, 2)},
    "swinv2_cr_tiny_ns_224": {"img_size": 64, "depths": (1, 2)},
    "swin_s3_tiny_224": {"img_size": 112, "depths": (1, 1, 1, 1)},
    "gcvit_xxtiny": {"img_size": 64},
    "davit_tiny": {"depths": (1, 1, 1, 1)},
    "focalnet_tiny_srf": {},
    "twins_pcpvt_small": {"img_size": 64, "depths": [1, 1, 1, 1]},
    "twins_svt_small": {"img_size": 64, "depths": [1, 1, 2, 1]},
    "pvt_v2_b0": {"depths": (1, 1, 1, 1)},
    "nest_tiny": {"img_size": 64},
    "sequencer2d_s": {"img_size": 64, "layers": [1, 1, 1, 1]},
    "mvitv2_tiny": {"img_size": 64},
    "hiera_tiny_224": {"img_size": 64, "stages": (1, 1, 2, 1)},
    "hieradet_small": {"stages": (1, 1, 2, 1)},
    "levit_128s": {"img_size": 64, "depth": (1, 1, 1)},
    "efficientformer_l1": {"size": 224, "depths": (1, 1, 1, 2)},
    "efficientformerv2_s0": {"img_size": 64, "depths": (1, 1, 2, 2)},
    "efficientvit_b0": {},
    "efficientvit_m0": {"img_size": 64},
    "edgenext_xx_small": {"depths": (1, 2, 2, 2)},
    "mobilevit_xxs": {},
    "mobilevitv2_050": {},
    "mobilenetv4_hybrid_medium": {},
    "fastvit_t8": {"layers": (1, 1, 1, 1)},
    "fastvit_sa12": {"layers": (1, 1, 1, 1)},
    "repvit_m0_9": {},
    "shvit_s1": {},
    "swiftformer_xs": {"layers": [1, 1, 1, 1]},
    "tiny_vit_5m_224": {"depths": (1, 1, 2, 1)},
    "rdnet_tiny": {},
    "starnet_s1": {"depths": (1, 1, 2, 1)},
    "poolformer_s12": {},
    "caformer_s18": {},
    "convformer_s18": {},
    "convnext_atto": {"depths": (1, 1, 1, 1)},
    "convnextv2_atto": {"depths": (1, 1, 1, 1)},
    "inception_next_atto": {"depths": (1, 1, 1, 1)},
    "mambaout_femto": {"depths": (1, 1, 1, 1)},
    "mixer_s32_224": {"img_size": 64},
    "gmlp_ti16_224": {"img_size": 64},
    "resmlp_12_224": {"img_size": 64},
    "halonet26t": {"size": 256},
    "bat_resnext26ts": {"size": 256},
    "botnet26t_256": {"img_size": 64},
    "lambda_resnet26t": {},
    "sehalonet33ts": {"size": 256},
    "csatv2": {},
    "naflexvit_base_patch16_gap": {"img_size": 64, "depth": 2, "embed_dim": 96, "num_heads": 3},
    "nextvit_small": {},
    "resnet18": {},
    "efficientnet_b0": {},
    "mobilenetv3_small_100": {},
}

_IMAGE_SIZE = 64


def _build(name: str, arguments: dict[str, Any]) -> Callable[[], nn.Module]:
    return partial(timm.create_model, name, pretrained=False, **arguments)


def architectures() -> list[Architecture]:
    """Returns the families, each a classifier with the image `pixel_values`."""
    rows = []
    for name, arguments in _FAMILIES.items():
        size = arguments.get("size") or arguments.get("img_size", _IMAGE_SIZE)
        passed = {key: value for key, value in arguments.items() if key != "size"}
        rows.append(Architecture(f"timm:{name}", "classification (timm)", _build(name, passed), (3, size, size)))
    return rows
