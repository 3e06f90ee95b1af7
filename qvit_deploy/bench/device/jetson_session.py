"""Reads the tarball of `tools/jetson/session.py`: a measurement, and the state of the board while it was taken."""

from __future__ import annotations

import statistics
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from qvit_deploy.artifacts.measurement import Measurement, measurement_of
from qvit_deploy.bench.device.telemetry import Clock, Sample, clocks, power_mode, tegra_release, tegrastats, throttling
from qvit_deploy.errors import InputError
from qvit_deploy.validation import parse_json, problems_text

SCHEMA = "qvit-deploy/jetson-session/1"
LARGEST_FILE = 1 << 28
"""Bytes. Hours of tegrastats are megabytes; a tarball from elsewhere must not fill the memory."""


class Facts(BaseModel):
    """`session.json` of a tarball."""

    model_config = ConfigDict(frozen=True)

    schema_id: Annotated[str, Field(alias="schema", pattern=f"^{SCHEMA}$")]
    started: str
    interval_ms: PositiveInt
    exit_code: int
    missing: tuple[str, ...] = ()
    over_current_events: dict[str, tuple[NonNegativeInt, NonNegativeInt]] = {}


@dataclass(frozen=True)
class Session:
    """What a session recorded. None stands for what the board does not report.

    Attributes:
        samples: of tegrastats.
        unread: how many lines of tegrastats' log could not be read.
        release: L4T version.
        mode: power mode of nvpmodel.
        clocks: by unit, before the run.
        throttled: signs that the board was slowed down, one line each.
    """

    facts: Facts
    measurement: Measurement | None
    samples: tuple[Sample, ...]
    unread: int
    board: str | None
    release: str | None
    mode: str | None
    clocks: dict[str, Clock]
    throttled: tuple[str, ...]

    @property
    def watts(self) -> float | None:
        """Returns the mean power, watts, of the whole module over the session, loading and warm-up included."""
        power = [s.input_milliwatts for s in self.samples if s.input_milliwatts is not None]
        return statistics.fmean(power) / 1e3 if power else None

    @property
    def joules_per_run(self) -> float | None:
        """Returns that power times the mean latency: an estimate, since the board idles between processes."""
        if self.watts is None or self.measurement is None:
            return None
        return self.watts * self.measurement.latency_ms.mean / 1e3


def read_session(path: Path) -> Session:
    """Reads the session in the tarball. Raises InputError naming the file and what is wrong with it."""
    files = _files(path)
    try:
        facts = Facts.model_validate(parse_json(files["session.json"]))
    except KeyError:
        raise InputError(f"{path}: is not a session of tools/jetson/session.py (no session.json)") from None
    except ValueError as error:
        reason = problems_text(error) if isinstance(error, ValidationError) else error
        raise InputError(f"{path}: session.json is damaged or of another version: {reason}") from None

    def text(name: str) -> str:
        return files.get(name, b"").decode("utf-8", errors="replace")

    samples, unread = tegrastats(text("tegrastats.txt"))
    clocks_before = clocks(text("jetson_clocks.txt"))
    return Session(
        facts=facts,
        measurement=_measurement(path, files.get("measurement.json")),
        samples=tuple(samples),
        unread=unread,
        board=text("model.txt").strip("\0\n ") or None,
        release=tegra_release(text("nv_tegra_release.txt")),
        mode=power_mode(text("nvpmodel.txt")),
        clocks=clocks_before,
        throttled=tuple(throttling(samples, clocks_before, facts.over_current_events)),
    )


def _files(path: Path) -> dict[str, bytes]:
    """Returns contents by file name without folders, read in place: nothing of a foreign tarball is unpacked."""
    contents = {}
    try:
        with tarfile.open(path, "r:*") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                if member.size > LARGEST_FILE:
                    raise InputError(f"{path}: {member.name} is too large ({member.size} bytes)")
                content = tar.extractfile(member)
                contents[Path(member.name).name] = b"" if content is None else content.read()
    except (OSError, EOFError, tarfile.TarError) as error:
        # tarfile lists a reason for every kind of compression on lines of their own.
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read as a session's tarball, or was cut off: {reason}") from error
    return contents


def _measurement(path: Path, content: bytes | None) -> Measurement | None:
    if content is None:
        return None
    called = f"{path}: measurement.json"
    try:
        return measurement_of(parse_json(content), called)
    except ValueError as error:
        raise InputError(f"{called}: {error}") from None
