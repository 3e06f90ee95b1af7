"""The two libraries that build engines, as far as they are known without being imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qvit_deploy.artifacts.engine_record import BuildOptions
from qvit_deploy.errors import InputError
from qvit_deploy.lint.tensorrt_versions import OLDEST_TENSORRT
from qvit_deploy.targets.tensorrt import TENSORRT, TENSORRT_RTX


@dataclass(frozen=True)
class EngineKind:
    """One of the libraries.

    Attributes:
        name: of the target, and of the package's extra that installs it.
        module: its Python module.
        oldest: version that is supported.
        on_device: builds for the GPU at hand, and then runs there; else for compute capabilities that are named,
            without a GPU, into kernels that are compiled while they run.
    """

    name: str
    module: str
    oldest: tuple[int, ...]
    on_device: bool

    @property
    def takes_plugins(self) -> bool:
        """Whether operators of plugin libraries run in its engines; else their function bodies do."""
        return self.on_device

    def require_options(self, sms: tuple[int, ...], options: BuildOptions) -> None:
        """Raises InputError when a build of such engines cannot be asked for with these options."""
        if self.on_device:
            if sms:
                raise InputError("--sm is for tensorrt-rtx: TensorRT builds for the GPU of the machine it runs on")
            return
        if not sms:
            raise InputError("--target tensorrt-rtx needs --sm, e.g. --sm 86 --sm 120")
        if options.hardware != "none" or options.timing_cache is not None:
            raise InputError("--hardware and --timing-cache are for --target tensorrt")

    def layer_info(self, engine: Path) -> Path | None:
        """Where a build of `engine` describes its layers, which takes the GPU that it is for."""
        return engine.with_suffix(".layers.json") if self.on_device else None


ON_DEVICE = EngineKind(TENSORRT, "tensorrt", OLDEST_TENSORRT, on_device=True)
# Of RTX, 1.7 is the oldest that was tried.
FOR_NAMED_GPUS = EngineKind(TENSORRT_RTX, "tensorrt_rtx", (1, 7), on_device=False)
ENGINE_KINDS = {kind.name: kind for kind in (ON_DEVICE, FOR_NAMED_GPUS)}


def engine_kind(target: str) -> EngineKind:
    """The library that builds engines for the target of this name. Raises InputError if there is none."""
    kind = ENGINE_KINDS.get(target)
    if kind is None:
        raise InputError(f"--target {target!r} is not one of {', '.join(ENGINE_KINDS)}")
    return kind
