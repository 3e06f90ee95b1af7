"""Lists the targets. A new one is a folder next to this file and an entry of `TARGETS`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from qvit_deploy.errors import InputError
from qvit_deploy.recipe import Recipe
from qvit_deploy.targets.onnxruntime.target import OnnxRuntimeTarget
from qvit_deploy.targets.onnxruntime_fused.target import FusedTarget
from qvit_deploy.targets.openvino.target import OpenVinoTarget
from qvit_deploy.targets.runtime import Runtime, RuntimeFacts
from qvit_deploy.targets.target import AnyTarget
from qvit_deploy.targets.tensorrt.target import TENSORRT_TARGETS

REFERENCE: AnyTarget = OnnxRuntimeTarget()
"""The target whose file is in every bundle, and against which all others are verified."""

TARGETS: dict[str, AnyTarget] = {
    target.name: target for target in (REFERENCE, FusedTarget(), OpenVinoTarget(), *TENSORRT_TARGETS)
}
"""By name, in the order in which recipes and manifests list them."""


def target_called(name: str) -> AnyTarget:
    """Returns the target of this name. Raises InputError naming those there are."""
    if name not in TARGETS:
        raise InputError(f"there is no target {name!r}; choose from {', '.join(TARGETS)}")
    return TARGETS[name]


def targets_of(names: Collection[str]) -> tuple[AnyTarget, ...]:
    """Returns the targets of these names and the reference's, in the order of `TARGETS`.

    Raises:
        InputError: there is no target of one of the names.
    """
    for name in names:
        target_called(name)
    return tuple(t for t in TARGETS.values() if t is REFERENCE or t.name in names)


def with_known_targets(recipe: Recipe) -> Recipe:
    """Returns `recipe` with its targets as manifests list them. Raises InputError if one of them does not exist."""
    return recipe.model_copy(update={"targets": tuple(t.name for t in targets_of(recipe.targets))})


def target_of_file(name: str) -> AnyTarget | None:
    """Returns the target whose file in a bundle has this name, or None."""
    return next((t for t in TARGETS.values() if t.file == name), None)


def runtime_of(path: Path) -> Runtime:
    """Returns the runtime of the file at `path`.

    By its name in a bundle it is its target's, else the one that claims the name, else ONNX Runtime, which takes any
    .onnx file.
    """
    target = target_of_file(path.name)
    if target is not None:
        return target.runtime
    claiming = (r for t in TARGETS.values() for r in t.runtimes if r.claims(path))
    return next(claiming, REFERENCE.runtime)


def facts_of(path: Path, batch: int | None = None) -> RuntimeFacts:
    """Returns what is known of the runtime of the file at `path`, with `batch` images, before it is loaded.

    Raises:
        InputError: there is no file, or it is an engine that is damaged, for other batches or for another GPU, or there
            is no GPU.
    """
    if not path.is_file():
        raise InputError(f"no bundle, .onnx file or engine at {path}")
    return runtime_of(path).facts(path, batch)


def libraries() -> tuple[str, ...]:
    """Returns the distributions whose versions decide how fast files run, each once."""
    return tuple(dict.fromkeys(t.library for t in TARGETS.values()))
