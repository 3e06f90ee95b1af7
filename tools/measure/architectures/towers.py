"""Image towers, classifiers and video encoders of the transformers library, in small configurations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from tools.measure.architectures.architecture import IMAGE, Architecture
from tools.measure.architectures.library import Library

hf: Any = Library("transformers")

_PLAIN: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "image_size": 64,
    "patch_size": 16,
}  # fmt: skip
_CLASSES: dict[str, Any] = {"num_labels": 10}
_VIDEO = {**_PLAIN, "num_frames": 4}


def _row(
    name: str,
    model: str,
    config: str,
    arguments: dict[str, Any],
    outputs: Sequence[str],
    size: tuple[int, ...] = (3, 64, 64),
    part: Callable[[Any], nn.Module] = lambda model: model,
    image: str = IMAGE,
) -> Architecture:
    def build() -> nn.Module:
        return part(getattr(hf, model)(getattr(hf, config)(**arguments)))

    return Architecture(f"transformers:{name}", "image and video towers", build, size, outputs, image=image)


def architectures() -> list[Architecture]:
    """Returns the towers: `pixel_values` in; logits, embeddings or tokens out."""
    tokens, logits, pooled = ("last_hidden_state",), ("logits",), ("last_hidden_state", "pooler_output")
    return [
        _row("vit", "ViTForImageClassification", "ViTConfig", {**_PLAIN, **_CLASSES}, logits),
        _row("deit", "DeiTForImageClassificationWithTeacher", "DeiTConfig", {**_PLAIN, **_CLASSES},
             ("logits", "cls_logits", "distillation_logits")),
        _row("beit", "BeitForImageClassification", "BeitConfig",
             {**_PLAIN, **_CLASSES, "use_relative_position_bias": True, "use_mask_token": False}, logits),
        _row("data2vec-vision", "Data2VecVisionForImageClassification", "Data2VecVisionConfig",
             {**_PLAIN, **_CLASSES, "use_relative_position_bias": True}, logits),
        _row("vit-msn", "ViTMSNForImageClassification", "ViTMSNConfig", {**_PLAIN, **_CLASSES}, logits),
        _row("ijepa", "IJepaForImageClassification", "IJepaConfig", {**_PLAIN, **_CLASSES}, logits),
        _row("dinov2", "Dinov2ForImageClassification", "Dinov2Config", {**_PLAIN, **_CLASSES}, logits),
        _row("dinov2-with-registers", "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", _PLAIN, pooled),
        _row("dinov3-vit", "DINOv3ViTModel", "DINOv3ViTConfig", {**_PLAIN, "num_register_tokens": 2}, pooled),
        _row("dinov3-convnext", "DINOv3ConvNextModel", "DINOv3ConvNextConfig",
             {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}, pooled),
        _row("clip-vision", "CLIPVisionModelWithProjection", "CLIPVisionConfig", {**_PLAIN, "projection_dim": 32},
             ("image_embeds", "last_hidden_state")),
        _row("chinese-clip-vision", "ChineseCLIPVisionModel", "ChineseCLIPVisionConfig", _PLAIN, pooled),
        _row("metaclip2-vision", "MetaClip2VisionModelWithProjection", "MetaClip2VisionConfig", _PLAIN,
             ("image_embeds",)),
        _row("siglip-vision", "SiglipVisionModel", "SiglipVisionConfig", _PLAIN, pooled),
        _row("align-vision", "AlignVisionModel", "AlignVisionConfig",
             {"image_size": 64, "width_coefficient": 0.5, "depth_coefficient": 0.3, "hidden_dim": 160}, pooled),
        _row("altclip-vision", "AltCLIPVisionModel", "AltCLIPVisionConfig", _PLAIN, pooled),
        _row("blip-vision", "BlipVisionModel", "BlipVisionConfig", _PLAIN, pooled),
        _row("groupvit-vision", "GroupViTVisionModel", "GroupViTVisionConfig",
             {"hidden_size": 64, "intermediate_size": 128, "image_size": 64, "patch_size": 16,
              "num_attention_heads": 4, "depths": [1, 1, 1], "num_group_tokens": [8, 4, 0],
              "num_output_groups": [8, 4, 0]}, pooled),
        _row("aimv2-vision", "Aimv2VisionModel", "Aimv2VisionConfig", _PLAIN, pooled),
        _row("mlcd-vision", "MLCDVisionModel", "MLCDVisionConfig", {**_PLAIN, "num_key_value_groups": 1}, pooled),
        _row("pixtral-vision", "PixtralVisionModel", "PixtralVisionConfig", {**_PLAIN, "head_dim": 16}, tokens),
        _row("florence2-vision", "Florence2VisionBackbone", "Florence2VisionConfig",
             {"embed_dim": [16, 32, 48, 64], "num_heads": [1, 2, 3, 4], "num_groups": [1, 2, 3, 4],
              "depths": [1, 1, 1, 1], "window_size": 4}, (), (3, 128, 128), image="hidden_states"),
        _row("trocr-encoder", "DeiTModel", "DeiTConfig", _PLAIN, tokens),
        _row("donut-encoder", "DonutSwinModel", "DonutSwinConfig",
             {"image_size": 64, "embed_dim": 24, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4}, tokens),
        _row("swin", "SwinForImageClassification", "SwinConfig",
             {**_CLASSES, "image_size": 64, "embed_dim": 24, "depths": [1, 2], "num_heads": [2, 4],
              "window_size": 4}, logits),
        _row("swinv2", "Swinv2ForImageClassification", "Swinv2Config",
             {**_CLASSES, "image_size": 64, "embed_dim": 24, "depths": [1, 2], "num_heads": [2, 4],
              "window_size": 4}, logits),
        _row("focalnet", "FocalNetForImageClassification", "FocalNetConfig",
             {**_CLASSES, "image_size": 64, "embed_dim": 24, "depths": [1, 1], "focal_levels": [2, 2],
              "focal_windows": [3, 3]}, logits),
        _row("pvt", "PvtForImageClassification", "PvtConfig",
             {**_CLASSES, "image_size": 64, "hidden_sizes": [16, 32, 40, 64], "depths": [1, 1, 1, 1],
              "num_attention_heads": [1, 2, 4, 4]}, logits),
        _row("pvt-v2", "PvtV2ForImageClassification", "PvtV2Config",
             {**_CLASSES, "hidden_sizes": [16, 32, 40, 64], "depths": [1, 1, 1, 1],
              "num_attention_heads": [1, 2, 4, 4]}, logits),
        _row("mobilevit", "MobileViTForImageClassification", "MobileViTConfig",
             {**_CLASSES, "image_size": 64, "hidden_sizes": [32, 48, 64],
              "neck_hidden_sizes": [8, 16, 24, 32, 48, 64, 96]}, logits),
        _row("mobilevit-segmentation", "MobileViTForSemanticSegmentation", "MobileViTConfig",
             {**_CLASSES, "image_size": 64, "hidden_sizes": [32, 48, 64],
              "neck_hidden_sizes": [8, 16, 24, 32, 48, 64, 96],
              "aspp_out_channels": 32}, logits, (3, 128, 128)),
        _row("mobilevitv2", "MobileViTV2ForImageClassification", "MobileViTV2Config",
             {**_CLASSES, "image_size": 64, "width_multiplier": 0.5}, logits),
        _row("levit", "LevitForImageClassification", "LevitConfig",
             {**_CLASSES, "image_size": 64, "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 2, 4],
              "depths": [1, 1, 1], "key_dim": [8, 8, 8],
              }, logits),
        _row("cvt", "CvtForImageClassification", "CvtConfig",
             {**_CLASSES, "embed_dim": [16, 32, 48], "depth": [1, 2, 3], "num_heads": [1, 2, 3]}, logits),
        _row("hiera", "HieraForImageClassification", "HieraConfig",
             {**_CLASSES, "image_size": [64, 64], "embed_dim": 24, "depths": [1, 1, 2, 1],
              "num_heads": [1, 2, 4, 8]}, logits),
        _row("swiftformer", "SwiftFormerForImageClassification", "SwiftFormerConfig",
             {**_CLASSES, "image_size": 64, "embed_dims": [16, 24, 32, 48], "depths": [1, 1, 1, 1]}, logits),
        _row("poolformer", "PoolFormerForImageClassification", "PoolFormerConfig",
             {**_CLASSES, "hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1]}, logits),
        _row("convnextv2", "ConvNextV2ForImageClassification", "ConvNextV2Config",
             {**_CLASSES, "hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1]}, logits),
        _row("vitdet", "VitDetBackbone", "VitDetConfig",
             {**_PLAIN, "window_block_indices": [0], "window_size": 2, "use_relative_position_embeddings": True,
              "out_features": ["stage2"]}, ("feature_maps",)),
        _row("videomae", "VideoMAEForVideoClassification", "VideoMAEConfig", {**_VIDEO, **_CLASSES, "tubelet_size": 2},
             logits, (4, 3, 64, 64)),
        _row("timesformer", "TimesformerForVideoClassification", "TimesformerConfig", {**_VIDEO, **_CLASSES}, logits,
             (4, 3, 64, 64)),
        _row("vivit", "VivitForVideoClassification", "VivitConfig", {**_VIDEO, **_CLASSES, "tubelet_size": [2, 16, 16]},
             logits, (4, 3, 64, 64)),
    ]  # fmt: skip
