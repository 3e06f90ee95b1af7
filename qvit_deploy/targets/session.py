"""Loads files into sessions of their runtimes, and runs images through them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qvit_deploy.data.example_set import ExampleSet
from qvit_deploy.progress import Advance
from qvit_deploy.targets.registry import REFERENCE, runtime_of
from qvit_deploy.targets.runtime import ModelSession
from qvit_deploy.tasks.task import Arrays

BATCH = 16
"""Images per run of a graph that takes any number, where only outputs are stored."""


def open_model(model: Path | bytes, threads: int = 0) -> ModelSession:
    """Loads a file into its runtime, or the bytes of one into ONNX Runtime.

    Args:
        threads: of the runtime; 0 for `OMP_NUM_THREADS`, or one per core.

    Raises:
        InputError: its runtime is not installed or does not take it.
    """
    runtime = runtime_of(model) if isinstance(model, Path) else REFERENCE.runtime
    return runtime.open(model, threads)


def outputs(session: ModelSession, images: ExampleSet, advance: Advance) -> Arrays:
    """Returns the outputs for all images by name, each [n, ...]; `advance` counts images."""
    chunks = []
    for batch in images.batches(session.static_batch or BATCH):
        chunks.append(session.run(batch))
        advance(len(batch))
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
