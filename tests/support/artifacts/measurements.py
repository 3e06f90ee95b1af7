"""Measurements made by hand: what bench would have written, with the times a test wants."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

SHA = {"old": "a" * 64, "new": "b" * 64}


def noisy(level: float, seed: int, processes: int = 10, blocks: int = 20, spread: float = 0.01) -> list[list[float]]:
    """Block medians in ms: processes differ by `spread`, blocks by twice that."""
    random = np.random.default_rng(seed)
    shift = random.lognormal(0, spread, (processes, 1))
    return (level * shift * random.lognormal(0, 2 * spread, (processes, blocks))).tolist()


def subject(name: str, blocks: Sequence[Sequence[float]], **more: Any) -> dict[str, Any]:
    level = float(np.median([b for p in blocks for b in p]))
    quantiles = ("mean", "p50", "p90", "p99")
    return {
        "file": {"name": f"{name}.onnx", "sha256": SHA.get(name, "c" * 64), "bytes": 1000},
        "latency_ms": {
            **dict.fromkeys(quantiles, level),
            "samples": 600,
            "interval95": {q: [0.99 * level, 1.01 * level] for q in quantiles},
        },
        "throughput": 1e3 / level,
        "processes": [{"blocks_ms": list(p), "runs": 60, "load_ms": 3.0, "stable": True} for p in blocks],
        **more,
    }


def tree(name: str, blocks: Sequence[Sequence[float]], **more: Any) -> dict[str, Any]:
    return {
        "schema": "qvit-deploy/measurement/1",
        "source": "qvit-deploy",
        "measured_at": "2026-01-02T03:04:05+00:00",
        "settings": {"runtime": "onnxruntime", "batch": 1, "threads": 1, "cpus": [1]},
        "environment": {
            "machine": "x86_64", "cpu": "a cpu", "logical_cpus": 2, "os": "Linux 6",
            "versions": {"onnxruntime": "1.32.0"},
        },
        **subject(name, blocks),
        **more,
    }  # fmt: skip


def write(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    return path
