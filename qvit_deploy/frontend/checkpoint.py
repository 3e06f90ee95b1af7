"""Loads weights from a file into a torch module. Files are untrusted: nothing in them is ever executed."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from qvit_deploy.errors import InputError, reading, reason

if TYPE_CHECKING:
    import torch

# What training scripts wrap a state dict in; the averaged weights come first, they are the ones to deploy.
_CONTAINERS = ("model_ema", "state_dict_ema", "state_dict", "model")
_SHOWN = 5  # in an error message


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Loads the state dict in `path` (safetensors, or a torch file of tensors only) into `model`, strictly.

    Raises:
        InputError: the file cannot be read, or a tensor is missing, unexpected or of the wrong shape (named).
    """
    import torch

    state = _strip_prefix(read_state_dict(path), model)
    expected = model.state_dict()
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    shapes = [
        f"{key} is {list(state[key].shape)}, expected {list(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    problems = [
        f"{what}: {', '.join(keys[:_SHOWN])}{f' and {len(keys) - _SHOWN} more' if len(keys) > _SHOWN else ''}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("wrong shape", shapes))
        if keys
    ]
    if problems:
        raise InputError(
            f"{path} does not fit the model ({'; '.join(problems)}); check the model's name and num_classes"
        )
    with reading(f"{path} does not fit the model"), torch.no_grad():
        model.load_state_dict(state, strict=True)


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Reads the tensors in `path` by name. Raises InputError."""
    import torch

    if not path.is_file():
        raise InputError(f"checkpoint {path} does not exist")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise InputError(f"checkpoint {path} is not a readable safetensors file: {error}") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"checkpoint {path} cannot be read without executing code from it, which is refused; "
            "save its state_dict as .safetensors"
        ) from error
    except OSError:
        raise
    except Exception as error:  # torch has no type for it
        raise InputError(f"checkpoint {path} cannot be read (truncated or another format?): {reason(error)}") from error
    for _ in range(len(_CONTAINERS)):  # as deep as all of them in each other; a container may hold itself
        content = next(
            (
                content[key]
                for key in _CONTAINERS
                if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)
            ),
            content,
        )
    if not isinstance(content, Mapping):
        raise InputError(f"checkpoint {path} holds a {type(content).__name__}, not a state dict")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise InputError(f"checkpoint {path} holds no tensors")
    if odd := [
        key for key, value in tensors.items() if value.layout != torch.strided or value.is_meta or value.is_quantized
    ]:
        raise InputError(
            f"checkpoint {path}: {odd[0]!r} is sparse, quantized or without data; save plain floating-point tensors"
        )
    return tensors


def _strip_prefix(state: dict[str, torch.Tensor], model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Removes the prefix that DataParallel ("module.") or torch.compile ("_orig_mod.") puts on every key."""
    expected = model.state_dict().keys()
    for prefix in ("module.", "_orig_mod."):
        if all(key.startswith(prefix) for key in state) and not any(key.startswith(prefix) for key in expected):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state
