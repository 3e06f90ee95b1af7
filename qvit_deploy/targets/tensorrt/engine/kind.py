"""The two libraries that build engines, described without importing them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qvit_deploy.artifacts.engine_record import BuildOptions
from qvit_deploy.errors import InputError
from qvit_deploy.lint.tensorrt_versions import OLDEST_TENSORRT
from qvit_deploy.targets.tensorrt import TENSORRT, TENSORRT_RTX


@dataclass(frozen=True)
class EngineKind:
    """A library that builds engines.

    Attributes:
        name: of the target, and of the package's extra that installs it.
        module: its Python module.
        oldest: oldest supported version.
        on_device: whether it builds for the GPU at hand, where engines then run; else it builds without a GPU for
            named compute capabilities, and compiles kernels when an engine runs.
    """

    name: str
    module: str
    oldest: tuple[int, ...]
    on_device: bool

    @property
    def takes_plugins(self) -> bool:
        """Returns whether its engines run operators of plugin libraries; else they run the function bodies."""
        return self.on_device

    def require_options(self, sms: tuple[int, ...], options: BuildOptions) -> None:
        """Raises InputError if engines of this kind cannot be built with these options."""
        if self.on_device:
            if sms:
                raise InputError("--sm is for tensorrt-rtx: TensorRT builds for the GPU of the machine it runs on")
            return
        if not sms:
            raise InputError("--target tensorrt-rtx needs --sm, e.g. --sm 86 --sm 120")
        if options.hardware != "none" or options.timing_cache is not None:
            raise InputError("--hardware and --timing-cache are for --target tensorrt")

    def layer_info(self, engine: Path) -> Path | None:
        """Returns the path to which a build of `engine` writes its layers; None if it runs without the engine's GPU."""
        return engine.with_suffix(".layers.json") if self.on_device else None


ON_DEVICE = EngineKind(TENSORRT, "tensorrt", OLDEST_TENSORRT, on_device=True)
# Of RTX, 1.7 is the oldest that was tried.
FOR_NAMED_GPUS = EngineKind(TENSORRT_RTX, "tensorrt_rtx", (1, 7), on_device=False)
ENGINE_KINDS = {kind.name: kind for kind in (ON_DEVICE, FOR_NAMED_GPUS)}


def engine_kind(target: str) -> EngineKind:
    """Returns the library that builds engines for the target of this name. Raises InputError if there is none."""
    kind = ENGINE_KINDS.get(target)
    if kind is None:
        raise InputError(f"--target {target!r} is not one of {', '.join(ENGINE_KINDS)}")
    return kind
