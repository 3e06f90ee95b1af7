"""Chooses the file that an engine is built from, and the engine's path."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from qvit_deploy.artifacts.atomic import make_folder, write_file
from qvit_deploy.artifacts.bundle import ENGINES, read_bundle
from qvit_deploy.artifacts.engine_record import BuildOptions
from qvit_deploy.emit.local_functions import DOMAIN, plugin_operators, without_plugin_bodies
from qvit_deploy.errors import InputError
from qvit_deploy.targets.target import file_of
from qvit_deploy.targets.tensorrt import TENSORRT, TENSORRT_PLUGIN, TENSORRT_RTX
from qvit_deploy.targets.tensorrt.engine.builder.plugin_build import LIBRARY
from qvit_deploy.targets.tensorrt.engine.kind import engine_kind

HALF_TARGETS = (TENSORRT, TENSORRT_RTX, TENSORRT_PLUGIN)
"""Targets whose files engines are built from."""


def engine_files(
    path: Path,
    target: str,
    options: BuildOptions,
    file_for: str | None = None,
    sms: tuple[int, ...] = (),
    out: Path | None = None,
) -> tuple[Path, list[Path]]:
    """Returns (the ONNX file of the bundle or lone file `path`, the path of the engine for each of `sms`).

    Args:
        target: the target that the engines are for.
        file_for: the target whose file of a bundle they are built from; by default `target` itself, or the plugin
            target where there are plugins or no other file.
        out: path of the engine of a lone ONNX file; engines of a bundle go to its folder `engines/`.

    Raises:
        InputError: there is no such file, `file_for` or `out` do not go with it, or it calls plugins and `options`
            name no library. The building process checks the operators of a library.
        BundleError: the bundle is damaged.
    """
    files = _files(file_for, target, options)
    onnx, engines = (
        _of_bundle(path, target, options, files, sms, out) if path.is_dir() else _of_file(path, file_for, sms, out)
    )
    if engine_kind(target).takes_plugins and not options.plugins and _calls_plugins(onnx):
        raise InputError(
            f"{onnx} runs in the plugins of {LIBRARY}: pass --compile-plugin, or --plugin PATH/{LIBRARY} "
            "(qvit-deploy build-plugin compiles it)"
        )
    return onnx, engines


def bare_file(onnx: Path, to: Path) -> Path:
    """Returns `onnx`, or if it has bodies of plugin operators writes a copy without them to `to` and returns that.

    Raises:
        InputError: `to` is `onnx` itself, or cannot be written.
    """
    model = onnx.read_bytes()
    bare = without_plugin_bodies(model)
    if bare == model:
        return onnx
    if to.resolve() == onnx.resolve():
        raise InputError(f"{onnx}: the file without function bodies would replace it; give -o another name")
    make_folder(to.parent)
    write_file(to, bare)
    return to


def files_for(target: str, plugins: Collection[Path]) -> tuple[str, ...]:
    """Returns the targets from whose files engines for `target` can be built, in order of preference."""
    return (TENSORRT_PLUGIN, target) if plugins else (target, TENSORRT_PLUGIN)


def _files(file_for: str | None, target: str, options: BuildOptions) -> tuple[str, ...]:
    """Returns the targets whose file may be built, in order of preference. Raises InputError."""
    if file_for is None:
        return files_for(target, options.plugins)
    if file_for not in HALF_TARGETS:
        raise InputError(f"--file-for {file_for!r} is not one of {', '.join(HALF_TARGETS)}")
    return (file_for,)


def _of_bundle(
    path: Path,
    target: str,
    options: BuildOptions,
    files: tuple[str, ...],
    sms: tuple[int, ...],
    out: Path | None,
) -> tuple[Path, list[Path]]:
    if out is not None:
        raise InputError(f"-o is for a lone ONNX file; engines of the bundle {path} go to {path / ENGINES}")
    bundle = read_bundle(path)
    available = [name for name in files if file_of(name) in bundle.manifest.files]
    if not available:
        missing = target if target in files else files[0]
        raise InputError(f"bundle {path} was not compiled for {missing}: compile it again with --target {missing}")
    source = available[0]
    suffixes = [f".sm{sm}" for sm in sms] or [""]
    engines = [path / ENGINES / f"{source}{suffix}.b{options.batch}.engine" for suffix in suffixes]
    return bundle.path_of(file_of(source)), engines


def _of_file(path: Path, file_for: str | None, sms: tuple[int, ...], out: Path | None) -> tuple[Path, list[Path]]:
    if not path.is_file():
        raise InputError(f"no bundle or .onnx file at {path}")
    if file_for is not None:
        raise InputError(f"--file-for is for bundles: {path} is a lone ONNX file")
    if out is None:
        raise InputError(f"{path} is a lone ONNX file: pass -o ENGINE")
    if len(sms) > 1:
        raise InputError("-o names one engine: give one --sm")
    return path, [out]


def _calls_plugins(onnx: Path) -> bool:
    return any(operator.startswith(f"{DOMAIN}::") for operator in plugin_operators(onnx.read_bytes()))
