"""Chooses the engine of a bundle that is measured."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from qvit_deploy.artifacts.bundle import ENGINES, Bundle
from qvit_deploy.artifacts.engine_record import engines_in
from qvit_deploy.errors import InputError
from qvit_deploy.targets.tensorrt.engine.gpu import require_gpu
from qvit_deploy.targets.tensorrt.engine.run.fit import runs_on


def choose_engine(bundle: Bundle, target: str, files: Collection[str], batch: int | None) -> Path:
    """Returns the one engine of the bundle for this target and batch and for the GPU at hand.

    Args:
        target: the target that the engine was built for.
        files: names of the bundle's files that engines are built from.

    Raises:
        InputError: there is none, or several, or one was built from another file.
    """
    build = f"qvit-deploy build {bundle.root} --target {target}"
    engines = engines_in(bundle.root / ENGINES, target)
    if not engines:
        raise InputError(f"{bundle.root} has no engine for {target}; build one where it will run: {build}")
    sources = [bundle.manifest.files[name] for name in files if name in bundle.manifest.files]
    stale = [path for path, record in engines if record.onnx not in sources]
    if stale:
        raise InputError(f"{stale[0]} was built from a file that the bundle does not hold; build it again: {build}")
    gpu = require_gpu(f"bench --target {target}")
    fitting = [
        path
        for path, record in engines
        if (batch is None or record.batch.least <= batch <= record.batch.most) and runs_on(record, gpu.sm)
    ]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(path.name for path in fitting or [path for path, _ in engines])
    which = "several engines" if fitting else "no engine for this GPU and --batch"
    raise InputError(f"{bundle.root} has {which} for {target}: name one of {bundle.root / ENGINES}: {names}")
