"""One run of `qvit-deploy import-trtexec`: reads a recording of NVIDIA's trtexec as a measurement."""

from __future__ import annotations

from pathlib import Path

from qvit_deploy.artifacts.measurement import Measurement
from qvit_deploy.bench.trtexec import Recording, read_trtexec
from qvit_deploy.commands.bench import require_writable, save, sites_of
from qvit_deploy.errors import InputError


def import_trtexec(
    engine: Path, recording: Recording, batch: int | None = None, out: Path | None = None
) -> tuple[Measurement, Path | None]:
    """Returns the recording of `engine` as a measurement, and `out` if it was written there, else None.

    Args:
        engine: the file that trtexec ran. One inside a bundle has the bundle's sites.
        batch: images per run; None for one.

    Raises:
        InputError: there is no engine, a file is not what trtexec writes, or `out` cannot be written.
    """
    if out is not None:
        require_writable(out)
    if batch is not None and batch < 1:
        raise InputError(f"--batch must be at least 1, got {batch}")
    if not engine.is_file():
        raise InputError(f"no engine at {engine}: name the file that trtexec ran")
    measurement = read_trtexec(recording, engine, batch or 1, sites_of(engine))
    return measurement, save(measurement, engine, out)
