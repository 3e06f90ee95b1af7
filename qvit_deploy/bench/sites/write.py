"""Writes folders of site models. Needs the compile half, which a device may lack."""

from __future__ import annotations

from pathlib import Path

from qvit_deploy.artifacts.atomic import write_files
from qvit_deploy.artifacts.bundle import Bundle, read_bundle
from qvit_deploy.bench.sites.models import DEFAULT_BITS, INDEX, SCHEMA, Index, SiteModelRequest
from qvit_deploy.errors import InputError
from qvit_deploy.targets.registry import TARGETS
from qvit_deploy.targets.target import file_of


def write_site_models(bundle: Path, folder: Path, request: SiteModelRequest) -> Index:
    """Writes models of all sites of the bundle into `folder`, the index last.

    Raises:
        InputError: the folder has models or cannot be written, the compile half is not installed, or a site's shape
            is not known; nothing is written then.
        BundleError: the bundle is damaged.
    """
    if (folder / INDEX).exists():
        raise InputError(f"{folder} holds site models already; name another folder")
    try:
        from qvit_deploy.bench.sites.emission import emit_sites
    except ImportError as error:
        raise InputError(
            f"emitting site models needs {error.name}; write them where the compile half is installed (bench-sites "
            "--emit-only --site-models FOLDER) and bring the folder here"
        ) from error
    compiled = read_bundle(bundle)
    file_for = emitted_target(compiled, request)
    widths = [(b, b) for b in sorted(set(request.bits or DEFAULT_BITS))]
    emitted = emit_sites(compiled, widths, request.batch or 1, TARGETS[file_for])
    index = Index(
        schema=SCHEMA,
        target=request.target,
        profile=file_for,
        batch=request.batch or 1,
        sites=emitted.sites,
        baselines=emitted.baselines,
    )
    # The index comes last, so that where there is one all models are there.
    write_files(folder, {**emitted.models, INDEX: index.model_dump_json(by_alias=True, indent=1).encode() + b"\n"})
    return index


def emitted_target(bundle: Bundle, request: SiteModelRequest) -> str:
    """Returns the name of the target as whose file site models are emitted.

    It is chosen as `build` chooses a file: by the plugins, else by the files of the bundle. Where the bundle has none
    of them it is the requested target itself, since a table may precede the compile that it is for.
    """
    targets = request.target_value.part_targets(request.plugins)
    compiled = [name for name in targets if file_of(name) in bundle.manifest.files]
    return targets[0] if request.plugins or not compiled else compiled[0]
