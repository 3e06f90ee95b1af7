"""Loads `demo:vit|deit|swin`, the small trained models shipped inside the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from qvit_deploy.errors import InputError
from qvit_deploy.frontend.checkpoint import load_weights
from qvit_deploy.frontend.original import TorchOriginal
from qvit_deploy.frontend.timm_model import create
from qvit_deploy.frontend.torch_module import exported, from_torch
from qvit_deploy.graph.graph import Graph

if TYPE_CHECKING:
    import torch

DEMO_FOLDER = Path(__file__).resolve().parent.parent / "data" / "demo"


def from_demo(name: str, folder: Path = DEMO_FOLDER) -> tuple[Graph, dict[str, object], str, TorchOriginal]:
    """Returns (graph, preprocessing, description, original) of a shipped model. Raises InputError if there is none."""
    try:
        models = json.loads((folder / "models.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"this installation has no demo models ({folder}); install the released package") from error
    entry = models.get(name) if isinstance(models, dict) else None
    weights = folder / f"{name}.safetensors"
    if not isinstance(entry, dict) or "timm_name" not in entry or not weights.is_file():
        available = ", ".join(sorted(models)) if isinstance(models, dict) else ""
        raise InputError(f"there is no demo model {name!r}; available are {available or 'none'}")
    timm_name, arguments = str(entry["timm_name"]), dict(entry.get("kwargs", {}))

    def build() -> tuple[torch.nn.Module, tuple[int, int, int]]:
        model, size = create(timm_name, arguments)
        load_weights(model, weights)
        return model, size

    model, size = build()
    preprocess = dict(entry.get("preprocess", {}))
    declared = preprocess.get("input_size")
    if isinstance(declared, list) and len(declared) == 3:
        size = (int(declared[0]), int(declared[1]), int(declared[2]))
    original = TorchOriginal(lambda: build()[0], lambda module: exported(module, size, name))
    return from_torch(model, size, name), preprocess, f"demo model {name} ({timm_name})", original
