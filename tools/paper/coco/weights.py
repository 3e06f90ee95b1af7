"""Loads published detectors: checkpoints of mmdetection and of Swin's authors, who name the backbone otherwise."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor, nn

from qvit_deploy.errors import InputError
from qvit_deploy.frontend.checkpoint import read_state_dict

_BUFFERS = ("relative_position_index", "num_batches_tracked")
"""Ends of names of what a model computes for itself."""
_SHOWN = 4  # in an error message

_AUTHORS = (
    (r"^backbone\.patch_embed\.proj\.", "backbone.patch_embed.projection."),
    (r"^backbone\.layers\.", "backbone.stages."),
    (r"\.attn\.(?=relative_position|qkv\.|proj\.)", ".attn.w_msa."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
)
"""What Swin's authors call it -> what mmdetection does."""


def load_detector(model: nn.Module, path: Path) -> None:
    """Loads the weights in `path` (`.pth` or `.safetensors`) into a `Detector`, strictly.

    Raises:
        InputError: the file cannot be read, or tensors are missing, unexpected or of other shapes (named).
    """
    given = mmdetection_state(read_state_dict(path))
    expected = {name: value for name, value in model.state_dict().items() if not name.endswith(_BUFFERS)}
    shapes = [
        f"{name} is {list(given[name].shape)}, expected {list(value.shape)}"
        for name, value in expected.items()
        if name in given and given[name].shape != value.shape
    ]
    faults = {
        "missing": [name for name in expected if name not in given],
        "unexpected": [name for name in given if name not in expected],
        "wrong shape": shapes,
    }
    if any(faults.values()):
        told = "; ".join(f"{what}: {_some(names)}" for what, names in faults.items() if names)
        raise InputError(f"{path} does not fit the detector ({told}); check the model's name and COCO's categories")
    model.load_state_dict(given, strict=False)


def mmdetection_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns a state dict with mmdetection's names and order of channels, without buffers."""
    state = {name: value for name, value in state.items() if not name.endswith(_BUFFERS)}
    if not any(name.startswith("backbone.layers.") for name in state):
        return state
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in _AUTHORS:
            if name.startswith("backbone."):
                name = re.sub(pattern, replacement, name)
        merging = re.search(r"\.downsample\.(norm|reduction)\.", name)
        renamed[name] = unfold_order(value) if merging else value
    return renamed


def unfold_order(weights: Tensor) -> Tensor:
    """Returns parameters [..., 4 * c] of a patch merging in unfold's order: channel, row, column. The authors count
    column, row, channel."""
    leading = weights.shape[:-1]
    return weights.reshape(*leading, 2, 2, -1).movedim((-3, -2, -1), (-1, -2, -3)).reshape(weights.shape)


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
