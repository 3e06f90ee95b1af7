"""Detectors, segmenters, depth and other dense models of the transformers library, in small configurations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from tools.measure.architectures.architecture import IMAGE, Architecture
from tools.measure.architectures.library import Library

hf: Any = Library("transformers")

_VIT: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128, "image_size": 64,
    "patch_size": 16,
}  # fmt: skip
_TEXT: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 100,
}  # fmt: skip
_DETR: dict[str, Any] = {
    "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "d_model": 64,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_queries": 12, "num_labels": 7,
}  # fmt: skip
_BOXES = ("logits", "pred_boxes")
_MASKS = ("class_queries_logits", "masks_queries_logits")
_SEGFORMER: dict[str, Any] = {
    "depths": [1, 1, 1, 1], "hidden_sizes": [16, 24, 32, 48], "num_attention_heads": [1, 2, 2, 4]
}  # fmt: skip
_PIXELS = 8 * 8 + 4 * 4 + 2 * 2
"""Of all levels, for an image of 64 x 64: each of them becomes a query."""
_STAGES = ["stage1", "stage2", "stage3", "stage4"]


def _resnet(stages: Sequence[str] = ("stage4",)) -> Any:
    return hf.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=list(stages),
    )  # fmt: skip


def _rt_resnet() -> Any:
    return hf.RTDetrResNetConfig(
        embedding_size=16, hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip


def _hgnet() -> Any:
    return hf.HGNetV2Config(
        stem_channels=[3, 8, 8], hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 1, 1], stage_in_channels=[8, 16, 24, 32],
        stage_mid_channels=[8, 8, 16, 16], stage_out_channels=[16, 24, 32, 48], stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1], out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip


def _swin() -> Any:
    return hf.SwinConfig(
        image_size=64, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 4], window_size=4, out_features=_STAGES
    )


def _dino() -> Any:
    return hf.Dinov2Config(**_VIT, out_indices=[1, 2, 3, 4], apply_layernorm=True, reshape_hidden_states=False)


def _rt_detr(**more: Any) -> dict[str, Any]:
    return {
        "encoder_hidden_dim": 64, "encoder_in_channels": [24, 32, 48], "encoder_ffn_dim": 96,
        "encoder_attention_heads": 4, "d_model": 64, "decoder_in_channels": [64, 64, 64], "decoder_ffn_dim": 96,
        "decoder_layers": 2, "decoder_attention_heads": 4, "num_queries": _PIXELS, "num_labels": 7,
        "num_denoising": 0, "anchor_image_size": None, **more,
    }  # fmt: skip


def _tokens(length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(3, 90, length).astype(np.int64)


def _row(
    name: str,
    model: str,
    config: Callable[[], Any],
    outputs: Sequence[str],
    size: tuple[int, ...] = (3, 64, 64),
    others: Callable[[], Mapping[str, np.ndarray]] = dict,
    part: Callable[[Any], nn.Module] = lambda model: model,
    image: str = IMAGE,
    ranked: bool = False,
) -> Architecture:
    def build() -> nn.Module:
        return part(getattr(hf, model)(config()))

    return Architecture(f"transformers:{name}", "", build, size, outputs, others, image, ranked)


def architectures() -> list[Architecture]:
    """Returns the dense models: pixels (and text or prompts, where they take them) in; boxes, masks or maps out."""
    groups = {
        "detection": _detectors(), "segmentation": _segmenters(), "depth, pose, matting, super-resolution": _maps(),
        "prompts and text": _prompted(),
    }  # fmt: skip
    return [replace(row, task=task) for task, rows in groups.items() for row in rows]


def _detectors() -> list[Architecture]:
    rt, deformable = {"disable_custom_kernels": True}, {"num_feature_levels": 3, "encoder_n_points": 2}
    return [
        _row("detr", "DetrForObjectDetection", lambda: hf.DetrConfig(backbone_config=_resnet(), **_DETR), _BOXES),
        _row("table-transformer", "TableTransformerForObjectDetection",
             lambda: hf.TableTransformerConfig(backbone_config=_resnet(), **_DETR), _BOXES),
        _row("conditional-detr", "ConditionalDetrForObjectDetection",
             lambda: hf.ConditionalDetrConfig(backbone_config=_resnet(), **_DETR), _BOXES),
        _row("dab-detr", "DabDetrForObjectDetection",
             lambda: hf.DabDetrConfig(backbone_config=_resnet(), hidden_size=64, encoder_layers=1, decoder_layers=2,
                                      encoder_ffn_dim=96, decoder_ffn_dim=96, encoder_attention_heads=4,
                                      decoder_attention_heads=4, num_queries=12, num_labels=7), _BOXES),
        _row("deformable-detr", "DeformableDetrForObjectDetection",
             lambda: hf.DeformableDetrConfig(backbone_config=_resnet(["stage2", "stage3", "stage4"]), **_DETR, **rt,
                                             **deformable, decoder_n_points=2), _BOXES, (3, 96, 96)),
        _row("rt-detr", "RTDetrForObjectDetection",
             lambda: hf.RTDetrConfig(backbone_config=_rt_resnet(), **_rt_detr(**rt)), _BOXES, ranked=True),
        _row("rt-detr-v2", "RTDetrV2ForObjectDetection",
             lambda: hf.RTDetrV2Config(backbone_config=_rt_resnet(), **_rt_detr()), _BOXES, ranked=True),
        _row("d-fine", "DFineForObjectDetection",
             lambda: hf.DFineConfig(backbone_config=_hgnet(), **_rt_detr()), _BOXES, ranked=True),
        _row("lw-detr", "LwDetrForObjectDetection",
             lambda: hf.LwDetrConfig(
                 backbone_config=hf.LwDetrViTConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                                                    image_size=64, pretrain_image_size=64, num_windows=4,
                                                    window_block_indices=[0], out_indices=[2]),
                 projector_scale_factors=[1.0], d_model=64, decoder_ffn_dim=96, decoder_layers=2,
                 decoder_self_attention_heads=4, decoder_cross_attention_heads=4, decoder_n_points=2, num_queries=12,
                 group_detr=1, num_labels=7, disable_custom_kernels=True), _BOXES),
        _row("yolos", "YolosForObjectDetection",
             lambda: hf.YolosConfig(**{**_VIT, "image_size": [64, 64]}, num_detection_tokens=12, num_labels=7), _BOXES),
    ]  # fmt: skip


def _segmenters() -> list[Architecture]:
    return [
        _row("segformer", "SegformerForSemanticSegmentation",
             lambda: hf.SegformerConfig(**_SEGFORMER, decoder_hidden_size=48, num_labels=7), ("logits",)),
        _row("beit-segmentation", "BeitForSemanticSegmentation",
             lambda: hf.BeitConfig(**_VIT, out_indices=[1, 2, 3, 4], num_labels=7, use_auxiliary_head=False,
                                   pool_scales=[1, 2], use_mask_token=False), ("logits",)),
        _row("upernet-swin", "UperNetForSemanticSegmentation",
             lambda: hf.UperNetConfig(backbone_config=_swin(), hidden_size=32, pool_scales=[1, 2], num_labels=7,
                                      use_auxiliary_head=False), ("logits",), (3, 128, 128)),
        _row("upernet-beit", "UperNetForSemanticSegmentation",
             lambda: hf.UperNetConfig(
                 backbone_config=hf.BeitConfig(**_VIT, out_features=_STAGES, reshape_hidden_states=True,
                                               add_fpn=True, use_mask_token=False),
                 hidden_size=32, pool_scales=[1, 2], num_labels=7, use_auxiliary_head=False), ("logits",)),
        _row("maskformer", "MaskFormerForInstanceSegmentation",
             lambda: hf.MaskFormerConfig(backbone_config=_swin(), fpn_feature_size=32, mask_feature_size=32,
                                         decoder_config=hf.MaskFormerDetrConfig(**_DETR)), _MASKS, (3, 128, 128)),
        _row("mask2former", "Mask2FormerForUniversalSegmentation",
             lambda: hf.Mask2FormerConfig(backbone_config=_swin(), feature_size=32, mask_feature_size=32, hidden_dim=32,
                                          encoder_feedforward_dim=64, dim_feedforward=64, encoder_layers=1,
                                          decoder_layers=3, num_attention_heads=4, num_queries=12), _MASKS,
             (3, 128, 128)),
        _row("oneformer", "OneFormerForUniversalSegmentation",
             lambda: hf.OneFormerConfig(backbone_config=_swin(), conv_dim=32, mask_dim=32, hidden_dim=32,
                                        encoder_feedforward_dim=64, dim_feedforward=64, encoder_layers=1,
                                        decoder_layers=3, num_attention_heads=4, num_queries=12, task_seq_len=8,
                                        text_encoder_width=32, text_encoder_context_length=8,
                                        text_encoder_num_layers=1, text_encoder_vocab_size=100,
                                        use_auxiliary_loss=False), _MASKS, (3, 128, 128),
             lambda: {"task_inputs": _tokens(8)}),
        _row("eomt", "EomtForUniversalSegmentation",
             lambda: hf.EomtConfig(hidden_size=64, num_hidden_layers=4, num_attention_heads=4, image_size=64,
                                   patch_size=16, num_blocks=2, num_queries=12, mlp_ratio=2), _MASKS),
    ]  # fmt: skip


def _maps() -> list[Architecture]:
    neck: dict[str, Any] = {"neck_hidden_sizes": [16, 24, 32, 48], "fusion_hidden_size": 32}
    depth = ("predicted_depth",)
    beit: Callable[[], Any] = lambda: hf.BeitConfig(  # noqa: E731
        **_VIT, out_features=_STAGES, reshape_hidden_states=False, use_relative_position_bias=True, use_mask_token=False
    )
    return [
        _row("dpt-depth", "DPTForDepthEstimation",
             lambda: hf.DPTConfig(**_VIT, backbone_out_indices=[0, 1, 2, 3], backbone_featmap_shape=None, **neck),
             depth),
        _row("dpt-segmentation", "DPTForSemanticSegmentation",
             lambda: hf.DPTConfig(**_VIT, backbone_out_indices=[0, 1, 2, 3], backbone_featmap_shape=None, **neck,
                                  num_labels=7, use_auxiliary_head=False), ("logits",)),
        _row("depth-anything", "DepthAnythingForDepthEstimation",
             lambda: hf.DepthAnythingConfig(backbone_config=_dino(), patch_size=16, reassemble_hidden_size=64, **neck),
             depth),
        _row("zoedepth", "ZoeDepthForDepthEstimation",
             lambda: hf.ZoeDepthConfig(backbone_config=beit(), **neck, bottleneck_features=32, bin_embedding_dim=16,
                                       num_attractors=[4, 2, 2, 1], num_relative_features=16,
                                       bin_configurations=[{"n_bins": 16, "min_depth": 0.001, "max_depth": 10.0,
                                                            "name": "nyu"}]), depth),
        _row("glpn", "GLPNForDepthEstimation", lambda: hf.GLPNConfig(**_SEGFORMER, decoder_hidden_size=32), depth),
        _row("vitpose", "VitPoseForPoseEstimation",
             lambda: hf.VitPoseConfig(
                 backbone_config=hf.VitPoseBackboneConfig(**{**_VIT, "image_size": [64, 48], "patch_size": [16, 16]},
                                                          out_indices=[4]), num_labels=17), ("heatmaps",), (3, 64, 48)),
        _row("vitmatte", "VitMatteForImageMatting",
             lambda: hf.VitMatteConfig(
                 backbone_config=hf.VitDetConfig(**{**_VIT, "num_channels": 4}, out_features=["stage4"],
                                                 window_block_indices=[0], window_size=2, residual_block_indices=[1]),
                 hidden_size=64, convstream_hidden_sizes=[12, 16, 24], fusion_hidden_sizes=[32, 24, 16, 8]),
             ("alphas",), (4, 64, 64)),
        _row("swin2sr", "Swin2SRForImageSuperResolution",
             lambda: hf.Swin2SRConfig(image_size=32, embed_dim=24, depths=[2], num_heads=[2], window_size=8),
             ("reconstruction",), (3, 32, 32)),
    ]  # fmt: skip


def _sam() -> Any:
    return hf.SamConfig(
        vision_config=hf.SamVisionConfig(
            hidden_size=64, output_channels=32, num_hidden_layers=2, num_attention_heads=4, image_size=64,
            patch_size=16, window_size=2, global_attn_indexes=[1], mlp_dim=128, num_pos_feats=16),
        prompt_encoder_config=hf.SamPromptEncoderConfig(
            hidden_size=32, image_size=64, patch_size=16, mask_input_channels=4),
        mask_decoder_config=hf.SamMaskDecoderConfig(
            hidden_size=32, mlp_dim=64, num_attention_heads=4, iou_head_hidden_dim=32),
    )  # fmt: skip


def _sam2() -> Any:
    return hf.Sam2Config(
        vision_config=hf.Sam2VisionConfig(
            backbone_config=hf.Sam2HieraDetConfig(
                hidden_size=16, image_size=[128, 128], blocks_per_stage=[1, 1, 2, 1],
                embed_dim_per_stage=[16, 32, 64, 128],
                num_attention_heads_per_stage=[1, 2, 4, 8], window_size_per_stage=[8, 4, 4, 4],
                global_attention_blocks=[3], window_positional_embedding_background_size=[4, 4]),
            backbone_channel_list=[128, 64, 32, 16], backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
            fpn_hidden_size=32),
        prompt_encoder_config=hf.Sam2PromptEncoderConfig(hidden_size=32, image_size=128),
        mask_decoder_config=hf.Sam2MaskDecoderConfig(hidden_size=32, mlp_dim=64, num_attention_heads=4,
                                                     iou_head_hidden_dim=32),
    )  # fmt: skip


def _points() -> Mapping[str, np.ndarray]:
    return {
        "input_points": np.array([[[20.0, 30.0]]], np.float32),
        "input_labels": np.array([[1]], np.int64),
    }


def _prompted() -> list[Architecture]:
    owl: Callable[[str], Any] = lambda kind: getattr(hf, f"{kind}Config")(  # noqa: E731
        vision_config={**_VIT, "num_hidden_layers": 2},
        text_config={**_TEXT, "max_position_embeddings": 8, "eos_token_id": 99, "bos_token_id": 0}, projection_dim=64,
    )  # fmt: skip
    text: Callable[[], Mapping[str, np.ndarray]] = lambda: {  # noqa: E731
        "input_ids": _tokens(8), "attention_mask": np.ones(8, np.int64)
    }  # fmt: skip
    owl_boxes = ("logits", "pred_boxes")
    return [
        _row("sam-encoder", "SamModel", _sam, (), part=lambda sam: sam.vision_encoder),
        _row("sam", "SamModel", _sam, ("iou_scores", "pred_masks"),
             others=_points),
        _row("sam2-encoder", "Sam2Model", _sam2, ("fpn_hidden_states",), (3, 128, 128),
             part=lambda sam: sam.vision_encoder),
        _row("sam2", "Sam2Model", _sam2, ("iou_scores", "pred_masks"), (3, 128, 128),
             others=_points),
        _row("owlvit", "OwlViTForObjectDetection", lambda: owl("OwlViT"), owl_boxes, others=text),
        _row("owlv2", "Owlv2ForObjectDetection", lambda: owl("Owlv2"), owl_boxes, others=text),
        _row("grounding-dino", "GroundingDinoForObjectDetection",
             lambda: hf.GroundingDinoConfig(
                 backbone_config=hf.SwinConfig(image_size=64, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 4],
                                               window_size=4, out_features=["stage2", "stage3", "stage4"]),
                 text_config=hf.BertConfig(**_TEXT), **{k: v for k, v in _DETR.items() if k != "num_labels"},
                 num_feature_levels=4, encoder_n_points=2, decoder_n_points=2, max_text_len=8,
                 disable_custom_kernels=True),
             _BOXES, (3, 128, 128), text),
        _row("clipseg", "CLIPSegForImageSegmentation",
             lambda: hf.CLIPSegConfig(vision_config=_VIT, text_config={**_TEXT, "max_position_embeddings": 8},
                                      projection_dim=32, extract_layers=[1, 2], reduce_dim=16,
                                      decoder_intermediate_size=32), ("logits",), others=text),
    ]  # fmt: skip
