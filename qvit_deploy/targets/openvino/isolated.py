"""Runs a file in OpenVINO for its verification, in a process of its own (`openvino_process`).

OpenVINO can end its process without an exception: 2026.4 did on a cross-attention with fixed shapes. A compile then
goes on without the file. All that a verification asks of OpenVINO is asked at once, so that nothing is loaded twice.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qvit_deploy.errors import CheckError
from qvit_deploy.graph.examples import Examples
from qvit_deploy.targets.child_process import ended, environment, tail
from qvit_deploy.targets.openvino import NAME
from qvit_deploy.targets.openvino.runtime import Layer, require_openvino

TIME_LIMIT = 3600.0
"""Seconds: many times what the largest models take."""


@dataclass(frozen=True, eq=False)
class Probe:
    """A file with every tensor that is compared.

    Attributes:
        model: bytes of the file.
        images: to run it on.
        batch: images per run.
        fetch: tensors that become its outputs.
    """

    model: bytes
    images: Examples[np.ndarray]
    batch: int
    fetch: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Request:
    """What OpenVINO is asked.

    Attributes:
        model: bytes of the file, which is loaded.
        images: to run it on; None to load it only.
        probe: what to run besides.
    """

    model: bytes
    images: Examples[np.ndarray] | None = None
    probe: Probe | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """What OpenVINO computed.

    Attributes:
        outputs: of the file by name, each [n, ...].
        tensors: those that the probe fetches, by name.
        layers: of the graph that runs.
        refusal: why OpenVINO does not take the file, or None; everything else is empty then.
    """

    outputs: dict[str, np.ndarray] = field(default_factory=dict)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    refusal: str | None = None


def ask(request: Request) -> Answer:
    """Asks OpenVINO in a process of its own.

    Raises:
        InputError: openvino is not installed.
        CheckError: OpenVINO does not take the file, or ends the process; the message has its reason.
    """
    require_openvino("a file for OpenVINO")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "request").write_bytes(pickle.dumps(request))
        command = [sys.executable, "-m", "qvit_deploy.targets.openvino.openvino_process", folder]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, env=environment(), timeout=TIME_LIMIT
            )
        except subprocess.TimeoutExpired:
            raise CheckError(f"verification of {NAME}: OpenVINO took more than {TIME_LIMIT:g} s for the file") from None
        if done.returncode:
            said = tail(done.stderr or done.stdout)
            raise CheckError(
                f"verification of {NAME}: OpenVINO crashes on the file: its process {ended(done.returncode)}; "
                f"it last said: {said}"
            )
        answer: Answer = pickle.loads(Path(folder, "answer").read_bytes())
    if answer.refusal is not None:
        raise CheckError(f"verification of {NAME}: {answer.refusal}")
    return answer


def loads(model: bytes) -> bool:
    """Returns whether OpenVINO compiles a model for the CPU. Raises InputError when openvino is not installed."""
    try:
        ask(Request(model))
    except CheckError:
        return False
    return True
