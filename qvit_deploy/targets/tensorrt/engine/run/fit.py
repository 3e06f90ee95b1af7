"""Checks whether an engine on disk fits the GPU, the library and the plugins at hand."""

from __future__ import annotations

from pathlib import Path

from qvit_deploy.artifacts.engine_record import EngineRecord
from qvit_deploy.artifacts.manifest import FileRecord
from qvit_deploy.errors import InputError


def runs_on(record: EngineRecord, sm: int) -> bool:
    """Returns whether the engine was built for GPUs of this compute capability."""
    return sm >= 80 if record.hardware == "ampere-plus" else sm == record.build.sm


def require_device(path: Path, record: EngineRecord, sm: int, gpu: str) -> None:
    """Raises InputError, which says what to do, if the engine is for another GPU than the one at hand.

    Args:
        sm, gpu: compute capability and name of the GPU at hand.
    """
    built, again = record.build, _again(record)
    if not runs_on(record, sm):
        raise InputError(f"{path} was built for SM{built.sm}; this GPU ({gpu}) is SM{sm}: {again}")
    if record.hardware == "none" and built.gpu not in (None, gpu):
        raise InputError(
            f"{path} was built on {built.gpu}; this GPU is {gpu}: {again}, or with --hardware same-capability"
        )


def require_library(path: Path, record: EngineRecord, version: tuple[int, ...], plugins: tuple[Path, ...]) -> None:
    """Raises InputError, which says what to do, if the engine cannot run with this library or with these plugins.

    Args:
        version: of the installed library.
        plugins: plugin libraries that the user names.
    """
    built, again = record.build, _again(record)
    if tuple(int(n) for n in built.version.split(".")[:3]) != version[:3]:
        here = ".".join(map(str, version))
        raise InputError(
            f"{path} was built by {record.target} {built.version} and runs on no other; here is {here}: {again}"
        )
    given = {p.name: p for p in plugins}
    for plugin in record.plugins:
        if plugin.name not in given:
            raise InputError(f"{path} needs the plugin library {plugin.name}: pass --plugin PATH/{plugin.name}")
        if not given[plugin.name].is_file():
            raise InputError(f"no plugin library at {given[plugin.name]}")
        if FileRecord.of_file(given[plugin.name]).sha256 != plugin.sha256:
            raise InputError(
                f"{given[plugin.name]} is not the library {path} was built with (its SHA-256 differs): {again}"
            )


def _again(record: EngineRecord) -> str:
    return f"build it again on this machine (qvit-deploy build --target {record.target})"
