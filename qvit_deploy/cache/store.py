"""Stores values of frozen dataclasses, tensors and graphs as a safetensors file, which unlike a pickle runs no code."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from qvit_deploy.artifacts.atomic import whole_file
from qvit_deploy.graph.graph import Graph

_PLAIN = (str, int, float, bool, type(None))


class DamagedError(Exception):
    """A file does not hold what was stored in it."""


def store(value: object, path: Path) -> None:
    """Writes a value made of graphs, frozen dataclasses, mappings, tuples, tensors, arrays, strings, numbers and None.

    The file is written atomically, also when several processes write it at once.

    Raises:
        TypeError: it holds something else, for instance an instance of a class inside of a function.
        InputError: the file cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    tree = json.dumps(_encoded(value, arrays))
    # One entry: safetensors writes several in any order, and equal values have to give equal files.
    metadata = {"tree": f"{_digest(tree, arrays)} {tree}"}
    with whole_file(path) as temporary:
        try:
            save_file(arrays, temporary, metadata=metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def load(path: Path) -> Any:
    """Returns the value stored at `path`; mappings come back as dicts.

    Of the classes that the file names, only frozen dataclasses of modules that are already imported are instantiated:
    reading a file imports nothing and calls nothing else.

    Raises:
        DamagedError: the file was cut short or changed, or was not written by `store`.
        OSError: it cannot be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise DamagedError(f"{path} is not a file")  # opening a pipe would wait for whoever writes to it
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        digest, _, tree = metadata["tree"].partition(" ")
        if digest != _digest(tree, arrays):
            raise DamagedError(f"{path}: its SHA-256 differs")
        return _decoded(json.loads(tree), arrays)
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise DamagedError(f"{path}: {error}") from error


def _encoded(value: object, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, torch.Tensor):
        return {"torch": _named(value.detach().numpy(), arrays)}
    if isinstance(value, np.ndarray):
        return {"numpy": _named(value, arrays)}
    if isinstance(value, Graph):
        return {"graph": _named(np.frombuffer(value.serialize(), dtype=np.uint8), arrays), "name": value.name}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        name = f"{type(value).__module__}:{type(value).__qualname__}"
        if _class(name) is not type(value):
            raise TypeError(f"a {type(value).__name__} cannot be stored: it is no frozen dataclass of a module")
        fields = {f.name: _encoded(getattr(value, f.name), arrays) for f in dataclasses.fields(value)}
        return {"class": name, "fields": fields}
    if isinstance(value, Mapping):
        return {"items": [[_encoded(k, arrays), _encoded(v, arrays)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return [_encoded(v, arrays) for v in value]
    if type(value) in _PLAIN:
        return value
    raise TypeError(f"a {type(value).__name__} cannot be stored")


def _named(array: np.ndarray, arrays: dict[str, np.ndarray]) -> str:
    name = str(len(arrays))
    arrays[name] = np.ascontiguousarray(array).reshape(array.shape)  # ascontiguousarray makes scalars vectors
    return name


def _decoded(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(tree, list):
        return tuple(_decoded(v, arrays) for v in tree)
    if not isinstance(tree, dict):
        return tree
    if "torch" in tree:
        return torch.tensor(arrays[tree["torch"]])
    if "numpy" in tree:
        return arrays[tree["numpy"]]
    if "graph" in tree:
        try:
            return Graph.deserialize(arrays[tree["graph"]].tobytes(), tree["name"])
        except Exception as error:  # protobuf's DecodeError is not part of any public API
            raise ValueError(f"a graph cannot be read: {error}") from error
    if "items" in tree:
        return {_decoded(k, arrays): _decoded(v, arrays) for k, v in tree["items"]}
    cls = _class(tree["class"])
    if cls is None:
        raise ValueError(f"{tree['class']} is no frozen dataclass that is imported")
    return cls(**{n: _decoded(v, arrays) for n, v in tree["fields"].items()})


def _class(name: str) -> type | None:
    """Returns the frozen dataclass `module:name`, or None if no imported module has it."""
    module, _, attribute = name.partition(":")
    value = vars(sys.modules[module]).get(attribute) if module in sys.modules else None
    parameters = getattr(value, "__dataclass_params__", None)
    return value if isinstance(value, type) and parameters is not None and parameters.frozen else None


def _digest(tree: str, arrays: Mapping[str, np.ndarray]) -> str:
    sha = hashlib.sha256(tree.encode())
    for name in sorted(arrays):
        sha.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        sha.update(arrays[name].data)
    return sha.hexdigest()
