"""Gives the two Python modules of TensorRT, `tensorrt` 10.3 to 11.x and `tensorrt_rtx`, one interface.

Only this module distinguishes them, and their versions, by version and by the names that exist:

* strong typing is a flag in 10.x and the only way in 11 and in RTX;
* RTX builds for named compute capabilities without a GPU, `tensorrt` for the GPU at hand;
* `SAME_COMPUTE_CAPABILITY` came with 10.9; RTX has neither plugins nor, without a GPU, a timing cache.
"""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvit_deploy.artifacts.atomic import write_file
from qvit_deploy.artifacts.engine_record import BuildRequest, Hardware
from qvit_deploy.errors import InputError
from qvit_deploy.targets.tensorrt.engine.kind import EngineKind, engine_kind

_LEVELS: dict[Hardware, str] = {
    "none": "NONE", "ampere-plus": "AMPERE_PLUS", "same-capability": "SAME_COMPUTE_CAPABILITY",
}  # fmt: skip

_LOADED: dict[tuple[Any, Path], list[str]] = {}
"""Operators by module and plugin library: TensorRT registers a library once per process, so that loading it again for
another engine shows no new operators."""


@dataclass(frozen=True)
class Library:
    """One of the modules, imported, with its kind and version."""

    kind: EngineKind
    module: Any
    version: tuple[int, ...]

    @property
    def target(self) -> str:
        """Returns the name of the target whose engines it builds and runs."""
        return self.kind.name

    @property
    def version_text(self) -> str:
        """Returns the version as its maker writes it: 10.3.0."""
        return ".".join(map(str, self.version))

    def capabilities(self) -> tuple[int, ...]:
        """Returns the compute capabilities that RTX builds for without a GPU, ascending; () of `tensorrt`."""
        enum = getattr(self.module, "ComputeCapability", None)
        return tuple(sorted(int(n[2:]) for n in dir(enum) if re.fullmatch(r"SM\d+", n)))

    def network(self, builder: Any) -> Any:
        """Creates an empty, strongly typed network."""
        if self.kind.on_device and self.version < (11,):
            return builder.create_network(1 << int(self.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        return builder.create_network(0)

    def configure(self, builder: Any, request: BuildRequest) -> Any:
        """Creates the builder configuration for `request`.

        Raises:
            InputError: this target or version does not support the request.
        """
        trt, config = self.module, builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if request.workspace_mb is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_mb << 20)
        if not self.kind.on_device:
            sm = self.require_capability(request.sm)
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), 0)
            return config
        config.hardware_compatibility_level = self.hardware_level(request.hardware)
        if request.timing_cache is not None:
            timings = request.timing_cache.read_bytes() if request.timing_cache.is_file() else b""
            config.set_timing_cache(config.create_timing_cache(timings), ignore_mismatch=False)
        return config

    def require_capability(self, sm: int | None) -> int:
        """Returns `sm`. Raises InputError if RTX does not build for it."""
        known = self.capabilities()
        if sm is None:
            raise InputError(f"--target tensorrt-rtx needs --sm: one of {', '.join(map(str, known))}")
        if sm not in known:
            raise InputError(
                f"--sm {sm}: tensorrt-rtx {self.version_text} builds for {', '.join(map(str, known))} only; "
                "Jetson (87, 110) and data-centre GPUs (90, 100) take --target tensorrt on the device itself"
            )
        return sm

    def hardware_level(self, hardware: Hardware) -> Any:
        """Returns the enum value. Raises InputError if this version has none."""
        levels = self.module.HardwareCompatibilityLevel
        level = getattr(levels, _LEVELS[hardware], None)
        if level is None:
            raise InputError(f"--hardware {hardware} needs TensorRT 10.9; this is {self.version_text}")
        return level

    def load_plugins(self, libraries: tuple[Path, ...]) -> tuple[str, ...]:
        """Loads plugin libraries and returns the operators they add, as namespace::name:version.

        Raises:
            InputError: RTX has no plugins; a library is missing, does not load or adds no operator.
        """
        if not libraries:
            return ()
        if not self.kind.takes_plugins:
            raise InputError("TensorRT-RTX takes no plugins: leave out --plugin, or build with --target tensorrt")
        registry = self.module.get_plugin_registry()
        added: list[str] = []
        for library in libraries:
            if not library.is_file():
                raise InputError(f"no plugin library at {library}")
            if known := _LOADED.get((self.module, library.resolve())):
                added += known
                continue
            before = set(self.operators())
            if registry.load_library(str(library.resolve())) is None:
                raise InputError(f"{library}: TensorRT {self.version_text} does not load it as a plugin library")
            new = sorted(set(self.operators()) - before)
            if not new:
                raise InputError(f"{library} brings no plugin that TensorRT {self.version_text} did not have already")
            _LOADED[self.module, library.resolve()] = new
            added += new
        return tuple(added)

    def logger(self) -> Any:
        """Creates a logger that collects `errors` and `warnings`."""
        trt = self.module

        class Log(trt.ILogger):  # type: ignore[name-defined]
            """Also prints everything to standard error, whose tail is shown after a crash."""

            def __init__(self) -> None:
                trt.ILogger.__init__(self)
                self.warnings: list[str] = []
                self.errors: list[str] = []

            def log(self, severity: Any, message: str) -> None:
                if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                    self.errors.append(message)
                elif severity == trt.ILogger.WARNING:
                    self.warnings.append(message)
                elif severity != trt.ILogger.INFO:
                    return
                print(message, file=sys.stderr, flush=True)

        return Log()

    def layer_info(self, engine: Any) -> str:
        """Returns the inspector's description of every layer of a loaded engine, JSON."""
        inspector = engine.create_engine_inspector()
        return str(inspector.get_engine_information(self.module.LayerInformationFormat.JSON))

    def save_timing_cache(self, config: Any, request: BuildRequest) -> None:
        """Writes the timings of this build to the request's timing cache, if it has one. Raises InputError."""
        if not self.kind.on_device or request.timing_cache is None:
            return
        cache = config.get_timing_cache()
        if cache is not None:
            write_file(request.timing_cache, bytes(memoryview(cache.serialize())))

    def operators(self) -> list[str]:
        """Returns the operators of the registered plugins, as namespace::name:version."""
        creators = self.module.get_plugin_registry().all_creators
        return [f"{c.plugin_namespace}::{c.name}:{c.plugin_version}" for c in creators]


def load_library(target: str) -> Library:
    """Imports the module that builds and runs engines for `target`.

    Raises:
        InputError: no library builds for `target`, or it is not installed, does not load, or is too old.
    """
    kind = engine_kind(target)
    name = kind.module
    install = f'pip install "qvit-deploy[{target}]"'
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(f"--target {target} needs the Python module {error.name}: {install}") from error
    except (ImportError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"the Python module {name} does not load ({reason}): {install}") from error
    return library_of(target, module)


def library_of(target: str, module: Any) -> Library:
    """Returns `module` as a `Library`. Raises InputError if it is too old."""
    kind, version = engine_kind(target), parse_version(str(getattr(module, "__version__", "0")))
    if version < kind.oldest:
        oldest = ".".join(map(str, kind.oldest))
        raise InputError(
            f"{kind.module} {'.'.join(map(str, version))} is too old, {oldest} is needed: "
            f'pip install --upgrade "qvit-deploy[{kind.name}]"'
        )
    return Library(kind, module, version)


def parse_version(text: str) -> tuple[int, ...]:
    """Returns the first three numbers of a version: (10, 3, 0) of '10.3.0.26'; (0,) if it begins with none."""
    match = re.match(r"\d+(?:\.\d+){0,2}", text)
    return tuple(int(n) for n in match[0].split(".")) if match else (0,)
