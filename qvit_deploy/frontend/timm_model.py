"""Creates `timm:NAME?img_size=112&num_classes=10`: a canonical graph and the preprocessing it was trained with."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from qvit_deploy.errors import InputError
from qvit_deploy.frontend.checkpoint import load_weights
from qvit_deploy.frontend.original import TorchOriginal
from qvit_deploy.frontend.torch_module import exported, from_torch
from qvit_deploy.graph.graph import Graph

if TYPE_CHECKING:
    import torch

Argument = Any  # int, float, bool, str or a tuple of them: whatever the model function takes


def from_timm(
    spec: str, *, checkpoint: Path | None = None, pretrained: bool = False
) -> tuple[Graph, dict[str, object], str, TorchOriginal]:
    """Returns (graph, preprocessing, description, original) of the model that `spec` names. Raises InputError."""
    name, arguments = parse_spec(spec)

    def build() -> tuple[torch.nn.Module, tuple[int, int, int]]:
        model, size = create(name, arguments, pretrained=pretrained)
        if checkpoint is not None:
            load_weights(model, checkpoint)
        return model, size

    model, size = build()
    weights = "timm's pretrained weights" if pretrained else "random weights"
    if checkpoint is not None:
        weights = f"weights from {checkpoint.name}"
    original = TorchOriginal(lambda: build()[0], lambda module: exported(module, size, name))
    return from_torch(model, size, name), preprocessing(model, size), f"{spec} with {weights}", original


def parse_spec(spec: str) -> tuple[str, dict[str, Argument]]:
    """Splits `timm:NAME?key=value&...` into (NAME, arguments); numbers, true/false and lists (2,2) are converted.

    Raises:
        InputError: there is no name, or the arguments are not key=value pairs.
    """
    name, _, query = spec.removeprefix("timm:").partition("?")
    if not name:
        raise InputError("timm: needs a model name, e.g. timm:vit_tiny_patch16_224")
    try:
        pairs = parse_qsl(query, strict_parsing=True, keep_blank_values=True) if query else []
    except ValueError as error:
        raise InputError(f"cannot read the arguments {query!r}; write them as key=value&key=value") from error
    return name, {key: _value(text) for key, text in pairs}


def create(
    name: str, arguments: dict[str, Argument], *, pretrained: bool = False
) -> tuple[torch.nn.Module, tuple[int, int, int]]:
    """Returns (model in eval mode, (channels, height, width) of its input). Without `pretrained`, weights are random,
    from seed 0.

    Raises:
        InputError: timm does not know the name or cannot take the arguments.
    """
    import timm
    import torch

    if not timm.is_model(name):
        close = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists them"
        raise InputError(f"timm has no model {name!r}; {hint}")
    state = torch.random.get_rng_state()
    torch.manual_seed(0)  # a model without weights is the same model every time
    try:
        model = timm.create_model(name, pretrained=pretrained, **arguments)
    except Exception as error:  # timm reports unusable arguments and failed downloads in many types
        first = str(error).strip().splitlines()
        raise InputError(f"timm cannot create {name} with {arguments}: {first[0] if first else error!r}") from error
    finally:
        torch.random.set_rng_state(state)
    return model.eval(), _input_size(model, arguments)


def preprocessing(model: torch.nn.Module, size: tuple[int, int, int]) -> dict[str, object]:
    """Returns timm's data config for `model`, with `size` (channels, height, width), the one it really takes."""
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(model)
    channels = size[0]
    return {
        "input_size": list(size),
        "mean": _per_channel(config["mean"], channels),
        "std": _per_channel(config["std"], channels),
        "interpolation": str(config["interpolation"]),
        "crop_pct": float(config["crop_pct"]),
        "color": "rgb",
    }


def _per_channel(values: tuple[float, ...], channels: int) -> list[float]:
    """Averages timm's three statistics for a model with another number of channels."""
    numbers = [float(v) for v in values]
    return numbers if len(numbers) == channels else [sum(numbers) / len(numbers)] * channels


def _input_size(model: torch.nn.Module, arguments: dict[str, Argument]) -> tuple[int, int, int]:
    from timm.data import resolve_model_data_config

    _, height, width = resolve_model_data_config(model)["input_size"]
    embedding = getattr(model, "patch_embed", None)
    real = getattr(embedding, "img_size", None)
    if real is not None:
        height, width = (real, real) if isinstance(real, int) else real
    elif isinstance(arguments.get("img_size"), int):
        height = width = int(arguments["img_size"])
    return int(arguments.get("in_chans", 3)), int(height), int(width)


def _value(text: str) -> Argument:
    if "," in text:
        return tuple(_value(part) for part in text.split(","))
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
