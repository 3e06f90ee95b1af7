"""Which file an engine is built from, and where engines go."""

from __future__ import annotations

from pathlib import Path

from qvit_deploy.artifacts.atomic import make_folder, write_file
from qvit_deploy.artifacts.bundle import read_bundle
from qvit_deploy.artifacts.engine_record import BuildOptions, Target
from qvit_deploy.emit.local_functions import DOMAIN, plugin_operators, without_plugin_bodies
from qvit_deploy.errors import InputError
from qvit_deploy.recipe import HALF_PROFILES, PACKED_PROFILE, Profile
from qvit_deploy.targets.tensorrt.engine.plugin_build import LIBRARY

ENGINES = "engines"
"""The folder of a bundle that engines go to; the manifest, written by the compile, does not list it."""


def engine_files(
    path: Path,
    target: Target,
    options: BuildOptions,
    profile: Profile | None = None,
    sms: tuple[int, ...] = (),
    out: Path | None = None,
) -> tuple[Path, list[Path]]:
    """(the ONNX file of the bundle or lone file `path`, where the engine for each of `sms` goes).

    Args:
        profile: which of a bundle's files; by default that of the target, but `tensorrt-plugin` where there are plugins
            or no other.
        out: the engine of a lone ONNX file; a bundle keeps its own in `engines/`.

    Raises:
        InputError: there is no such file, `profile` or `out` do not go with it, or it calls plugins and `options`
            name no library. The building process checks what a library holds.
        BundleError: the bundle is damaged.
    """
    profiles = _profiles(profile, target, options)
    onnx, engines = (
        _of_bundle(path, target, options, profiles, sms, out) if path.is_dir() else _of_file(path, profile, sms, out)
    )
    if target == "tensorrt" and not options.plugins and _calls_plugins(onnx):
        raise InputError(
            f"{onnx} runs in the plugins of {LIBRARY}: pass --compile-plugin, or --plugin PATH/{LIBRARY} "
            "(qvit-deploy build-plugin compiles it)"
        )
    return onnx, engines


def bare_file(onnx: Path, to: Path) -> Path:
    """`onnx`, or where it has bodies of plugin operators the file `to` without them. Raises InputError."""
    model = onnx.read_bytes()
    bare = without_plugin_bodies(model)
    if bare == model:
        return onnx
    if to.resolve() == onnx.resolve():
        raise InputError(f"{onnx}: the file without function bodies would replace it; give -o another name")
    make_folder(to.parent)
    write_file(to, bare)
    return to


def profiles_for(target: Target, plugins: tuple[Path, ...]) -> tuple[Profile, ...]:
    """The profiles that serve a target, by default the first that a bundle has."""
    return (PACKED_PROFILE, target) if plugins else (target, PACKED_PROFILE)


def _profiles(profile: Profile | None, target: Target, options: BuildOptions) -> tuple[Profile, ...]:
    """The profiles whose file is built, the first that a bundle has."""
    if profile is None:
        return profiles_for(target, options.plugins)
    if profile not in HALF_PROFILES:
        raise InputError(f"--profile {profile!r} is not one of {', '.join(HALF_PROFILES)}")
    return (profile,)


def _of_bundle(
    path: Path,
    target: Target,
    options: BuildOptions,
    profiles: tuple[Profile, ...],
    sms: tuple[int, ...],
    out: Path | None,
) -> tuple[Path, list[Path]]:
    if out is not None:
        raise InputError(f"-o is for a lone ONNX file; engines of the bundle {path} go to {path / ENGINES}")
    bundle = read_bundle(path)
    found = [p for p in profiles if f"model.{p}.onnx" in bundle.manifest.files]
    if not found:
        wanted = target if target in profiles else profiles[0]
        raise InputError(f"bundle {path} was not compiled for {wanted}: compile it again with --target {wanted}")
    stem = f"{found[0]}{{}}.b{options.batch}.engine"
    places = [f".sm{sm}" for sm in sms] or [""]
    return bundle.path_of(f"model.{found[0]}.onnx"), [path / ENGINES / stem.format(place) for place in places]


def _of_file(path: Path, profile: Profile | None, sms: tuple[int, ...], out: Path | None) -> tuple[Path, list[Path]]:
    if not path.is_file():
        raise InputError(f"no bundle or .onnx file at {path}")
    if profile is not None:
        raise InputError(f"--profile is for bundles: {path} is a lone ONNX file")
    if out is None:
        raise InputError(f"{path} is a lone ONNX file: pass -o ENGINE")
    if len(sms) > 1:
        raise InputError("-o names one engine: give one --sm")
    return path, [out]


def _calls_plugins(onnx: Path) -> bool:
    return any(operator.startswith(f"{DOMAIN}::") for operator in plugin_operators(onnx.read_bytes()))
