"""Reads recordings of trtexec (`--exportTimes`, `--exportProfile`, `--exportLayerInfo`) as measurements.

Times are those of the GPU (`computeMs`), not end to end: whether transfers are part of `latencyMs` depends on flags
whose defaults changed between TensorRT 10 and 11.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from qvit_deploy.artifacts.manifest import FileRecord
from qvit_deploy.artifacts.measurement import Measurement, ModelFile, Process, Profile, Settings
from qvit_deploy.bench.compare.sketch import Sketch
from qvit_deploy.bench.device.environment import environment
from qvit_deploy.bench.measure import BLOCKS, latency_of
from qvit_deploy.errors import InputError
from qvit_deploy.targets.tensorrt.engine.kind import ON_DEVICE
from qvit_deploy.targets.tensorrt.engine.run.layer_info import Layer, layers_of
from qvit_deploy.targets.tensorrt.engine.run.profile import attribute_layers
from qvit_deploy.validation import read_json

_VERSION = re.compile(r"\[TensorRT v(\d+)\]")
_COMMAND = re.compile(r"&&&& RUNNING .*?# (.*)")
QUIET = ("loadEngine", "saveEngine", "onnx", "export", "profilingVerbosity", "verbose", "iterations", "duration")
"""Flags of trtexec that name files or the length of the run; the others change times and are recorded."""


@dataclass(frozen=True)
class Recording:
    """Files that trtexec wrote.

    Attributes:
        times, profile, layers: of `--exportTimes`, `--exportProfile` and `--exportLayerInfo`. Layers map the times of a
            profile to more sites than names alone.
        log: its output, which has its version and flags.
    """

    times: Path
    profile: Path | None = None
    layers: Path | None = None
    log: Path | None = None


def read_trtexec(recording: Recording, engine: Path, batch: int, sites: Sequence[str]) -> Measurement:
    """Returns the recording of `engine` as a measurement of this machine, on which trtexec must have run.

    Args:
        batch: images per run.
        sites: names of the sites that layers are attributed to.

    Raises:
        InputError: a file is not what trtexec writes; names it.
    """
    times = _times(recording.times)
    sketch = Sketch()
    for milliseconds in times:
        sketch.add(max(1, round(1e6 * milliseconds)))
    latency = latency_of([sketch])
    blocks = np.array_split(np.array(times), min(BLOCKS, len(times)))
    process = Process(blocks_ms=tuple(float(np.median(b)) for b in blocks), runs=len(times))
    version, flags = ("unknown", {}) if recording.log is None else _log(recording.log)
    machine = environment()
    return Measurement(
        schema="qvit-deploy/measurement/1",
        source="trtexec",
        measured_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        file=ModelFile(name=engine.name, **FileRecord.of(engine.read_bytes()).model_dump()),
        latency_ms=latency,
        throughput=batch / latency.mean * 1e3,
        processes=(process,),
        profile=None if recording.profile is None else _profile(recording.profile, recording.layers, sites),
        settings=Settings(runtime=ON_DEVICE.name, batch=batch, flags=flags),
        environment=machine.model_copy(update={"versions": {**machine.versions, ON_DEVICE.name: version}}),
    )


def _times(path: Path) -> list[float]:
    rows = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(r, dict) and "computeMs" in r for r in rows):
        raise InputError(f"{path}: is not what trtexec --exportTimes writes (a list of runs with computeMs)")
    times = [row["computeMs"] for row in rows]
    for i, milliseconds in enumerate(times):
        if isinstance(milliseconds, bool) or not isinstance(milliseconds, (int, float)) or not 0 < milliseconds < 1e9:
            raise InputError(f"{path}: run {i} took {milliseconds!r} ms; a time must be a number above 0")
    if len(times) < 2:
        raise InputError(f"{path}: holds {len(times)} runs; two are the least that say anything")
    return [float(t) for t in times]


def _profile(path: Path, layers: Path | None, sites: Sequence[str]) -> Profile:
    rows = read_json(path)
    rows = [r for r in rows if isinstance(r, dict) and "name" in r] if isinstance(rows, list) else []
    if not rows or not all(isinstance(r.get("averageMs"), (int, float)) for r in rows):
        raise InputError(f"{path}: is not what trtexec --exportProfile writes (a list of layers with averageMs)")
    times: dict[str, float] = {}
    for row in rows:
        times[str(row["name"])] = times.get(str(row["name"]), 0.0) + row["averageMs"]
    if not all(milliseconds >= 0 for milliseconds in times.values()) or not 0 < sum(times.values()) < float("inf"):
        raise InputError(f"{path}: layers with negative times, or none above 0")
    return attribute_layers(times, () if layers is None else _layers(layers), sites)


def _layers(path: Path) -> tuple[Layer, ...]:
    tree = read_json(path)
    rows = tree.get("Layers") if isinstance(tree, dict) else None
    if not isinstance(rows, list):
        raise InputError(f"{path}: is not what trtexec --exportLayerInfo writes (an object with Layers)")
    # Without --profilingVerbosity=detailed layers are plain names, which tell nothing.
    return layers_of({"Layers": [row for row in rows if isinstance(row, dict)]})


def _log(path: Path) -> tuple[str, dict[str, str]]:
    """Reads (TensorRT's version, the flags that change times) from trtexec's output."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    # PowerShell writes what it redirects (`trtexec ... > log.txt`) in UTF-16.
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
    text = content.decode(encoding, errors="replace")
    version, command = _VERSION.search(text), _COMMAND.search(text)
    if version is None or command is None:
        raise InputError(f"{path}: is not what trtexec prints (no line with its version and command)")
    flags = dict(part[2:].partition("=")[::2] for part in command[1].split() if part.startswith("--"))
    recorded = {n: v or "on" for n, v in flags.items() if not n.startswith(QUIET)}
    digits = version[1]
    # v100300 is 10.3.0; v8601 is 8.6.1.
    parts = (digits[:-4], digits[-4:-2], digits[-2:]) if len(digits) >= 5 else (digits[0], digits[1], digits[2:])
    return ".".join(str(int(p)) for p in parts), recorded
