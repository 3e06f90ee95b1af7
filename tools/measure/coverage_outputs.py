"""Runs the models of the coverage table on pictures that their compile did not see, and compares their outputs."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from scipy.optimize import linear_sum_assignment

from qvit_deploy.tasks.metrics import sqnr_db
from tools.measure.architectures.architecture import Architecture

Outputs = Mapping[str, np.ndarray]
"""Output name -> [examples, 1, ...]."""

_SEEDS = range(1000, 1004)
"""Of the pictures."""


def run(model: Path, architecture: Architecture, pixel_noise: float = 0.0) -> dict[str, np.ndarray]:
    """Runs a file in ONNX Runtime.

    Args:
        pixel_noise: deviation of noise that is added to the pixels, relative to theirs.
    """
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names, outputs = [i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()]
    runs = []
    for seed in _SEEDS:
        given = architecture.inputs(seed)
        pixels = given[architecture.image]
        noise = np.random.default_rng(seed).normal(size=pixels.shape, scale=pixel_noise * pixels.std())
        given[architecture.image] = pixels + noise.astype(np.float32)
        runs.append(session.run(None, {n: given.get(n, given[architecture.image]) for n in names}))
    return {name: np.stack([np.asarray(r[i]) for r in runs]) for i, name in enumerate(outputs)}


def run_original(model: Path, architecture: Architecture) -> dict[str, np.ndarray]:
    """Runs the exported file as `run` does, or the torch module where ONNX Runtime cannot run it."""
    try:
        return run(model, architecture)
    except Exception:
        traceback.print_exc()
    module = architecture.module()
    with torch.no_grad():
        runs = [module.named(*map(torch.from_numpy, architecture.inputs(seed).values())) for seed in _SEEDS]
    return {name: np.stack([r[name].numpy() for r in runs]) for name in runs[0]}


def telling(outputs: Outputs) -> dict[str, np.ndarray]:
    """Returns the outputs of floats that are not the same for all examples."""
    return {n: v for n, v in outputs.items() if v.dtype.kind == "f" and not np.allclose(v, v[:1], rtol=1e-4)}


def worst_output(wanted: Outputs, found: Outputs, architecture: Architecture) -> tuple[str, float]:
    """Returns the telling output whose SQNR is least, and that in dB."""
    if architecture.ranked:
        found = in_order_of(wanted, found)
    decibels = {name: sqnr_db(value, found[name]) for name, value in telling(wanted).items()}
    return min(decibels.items(), key=lambda item: item[1])


def in_order_of(wanted: Outputs, found: Outputs) -> dict[str, np.ndarray]:
    """Returns `found`, outputs [examples, 1, queries, ...], with the queries of each example in the order in which they
    are nearest to those `wanted`, each taken once."""
    ordered = {name: value.copy() for name, value in found.items()}
    size = {name: np.square(value).mean() for name, value in wanted.items()}
    for example in range(len(next(iter(wanted.values())))):
        distances = sum(
            np.square(wanted[name][example, 0, :, None] - found[name][example, 0, None]).mean(-1) / size[name]
            for name in wanted
        )
        _, nearest = linear_sum_assignment(distances)
        for name, value in found.items():
            ordered[name][example, 0] = value[example, 0, nearest]
    return ordered
