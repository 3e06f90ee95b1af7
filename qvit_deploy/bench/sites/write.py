"""Writes a folder of site models. Needs the compile half, which a device need not have."""

from __future__ import annotations

from pathlib import Path

from qvit_deploy.artifacts.atomic import write_files
from qvit_deploy.artifacts.bundle import Bundle, read_bundle
from qvit_deploy.bench.sites.models import DEFAULT_BITS, INDEX, SCHEMA, Asked, Index
from qvit_deploy.errors import InputError
from qvit_deploy.targets.registry import TARGETS
from qvit_deploy.targets.target import file_of


def write_site_models(bundle: Path, folder: Path, asked: Asked) -> Index:
    """Writes models of all sites of the bundle into `folder`, the index last.

    Raises:
        InputError: the folder has models or cannot be written, the compile half is not installed, or a site's shape
            cannot be told; nothing is written then.
        BundleError: the bundle is damaged.
    """
    if (folder / INDEX).exists():
        raise InputError(f"{folder} holds site models already; name another folder")
    try:
        from qvit_deploy.bench.sites.emission import emit_sites
    except ImportError as error:
        raise InputError(
            f"emitting site models needs {error.name}; write them where the compile half is installed (bench --sites "
            "--emit-only --site-models FOLDER) and bring the folder here"
        ) from error
    found = read_bundle(bundle)
    file_for = file_followed(found, asked)
    widths = [(b, b) for b in sorted(set(asked.bits or DEFAULT_BITS))]
    emitted = emit_sites(found, widths, asked.batch or 1, TARGETS[file_for])
    index = Index(
        schema=SCHEMA,
        target=asked.target,
        profile=file_for,
        batch=asked.batch or 1,
        sites=emitted.sites,
        baselines=emitted.baselines,
    )
    # The index last: who finds it finds all models.
    write_files(folder, {**emitted.models, INDEX: index.model_dump_json(by_alias=True, indent=1).encode() + b"\n"})
    return index


def file_followed(bundle: Bundle, asked: Asked) -> str:
    """The target whose file site models follow, chosen as `build` chooses one: by the plugins, else by what the bundle
    has; the target's own where it has neither, since a table may come before the compile it is for."""
    wanted = asked.where.part_targets(asked.plugins)
    held = [name for name in wanted if file_of(name) in bundle.manifest.files]
    return wanted[0] if asked.plugins or not held else held[0]
