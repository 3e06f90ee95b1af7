"""The architectures the compiler promises to read, as `timm:` takes them. Slow tests trace each of them, and compile
it with fewer blocks."""

from __future__ import annotations

MODELS = (
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "deit3_small_patch16_224",
    "vit_small_patch14_dinov2?img_size=112",
    "vit_small_patch14_reg4_dinov2?img_size=112",
    "swin_tiny_patch4_window7_224",
    "beit_base_patch16_224",
    "eva02_tiny_patch14_224",
    "swinv2_tiny_window8_256",
    "cait_xxs24_224",
)

_SMALLER = {"cait": "&init_values=1.0", "beit": "&embed_dim=192&num_heads=3", "swinv2": "&img_size=128"}


def shallow(model: str) -> str:
    """Returns the spec of the same architecture with three blocks; with five in the four stages of a Swin, the third of
    which has a block of shifted windows. Further blocks are more of the same and take as long; so do BEiT's width and
    SwinV2's picture.

    CaiT's layer scales begin at 1e-5: three blocks of them leave the outputs of all images the same, which bias
    correction then meets to 106 dB, and one code that falls otherwise in OpenVINO counts as much as all noise.
    """
    changes = "depths=1,1,2,1" if model.startswith("swin") else "depth=3"
    changes += "".join(more for name, more in _SMALLER.items() if model.startswith(name))
    return f"timm:{model}{'&' if '?' in model else '?'}{changes}"
