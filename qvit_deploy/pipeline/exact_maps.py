"""Exact patching of many pairs: kept on disk as it goes, and spread over processes."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from qvit_deploy.artifacts.atomic import make_folder
from qvit_deploy.cache import store as stored
from qvit_deploy.data.pairs.make import ImagePair
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.graph import Graph
from qvit_deploy.patching.components import Component, find_components
from qvit_deploy.patching.exact import patch_effects
from qvit_deploy.patching.relp import Direction
from qvit_deploy.pipeline.model_files import ModelFile
from qvit_deploy.progress import Advance
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.task import Task

VERSION = 2
"""Of the files below; another version is computed again."""


@dataclass(frozen=True, eq=False)
class ExactMaps:
    """Exact effects of the patches of some pairs.

    Attributes:
        effects: digest of a pair -> component's tensor and kind -> float64 [cells].
    """

    effects: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def of(self, pair: ImagePair, components: Sequence[Component]) -> dict[Component, np.ndarray]:
        """The maps of a pair. Raises KeyError when it was not computed."""
        maps = self.effects[_digest(pair)]
        return {c: maps[_key(c)] for c in components}


def exact_maps(
    model: ModelFile,
    pairs: Sequence[ImagePair],
    *,
    metric: str,
    direction: Direction,
    at_once: int = 64,
    processes: int = 1,
    folder: Path | None = None,
    task: Task = CLASSIFY,
    advance: Advance = lambda _: None,
) -> ExactMaps:
    """Patches every cell of every pair; `advance` counts pairs.

    Args:
        at_once: patches that run side by side in each process.
        processes: how many share the pairs.
        folder: where each pair's maps are kept as soon as they are known; what is there already, of the same model,
            images and metric, is not computed again.

    Raises:
        InputError: the folder cannot be written, no such metric, or a graph without attention.
    """
    task.parse_metric(metric)
    components = find_components(model.graph)
    identity = f"{VERSION} {model.digest} {metric} {direction} {len(components)}"
    done = ExactMaps()
    missing: list[ImagePair] = []
    for pair in pairs:
        digest = _digest(pair)
        kept = None if folder is None else _read(_file(folder, identity, digest), components)
        if kept is not None:
            done.effects[digest] = kept
            advance(1)
        elif digest not in done.effects and all(_digest(m) != digest for m in missing):
            missing.append(pair)
        else:
            advance(1)
    work = _Work(model.graph, task, metric, direction, at_once, torch.get_num_threads())

    def keep(pair: ImagePair, maps: dict[str, np.ndarray]) -> None:
        digest = _digest(pair)
        done.effects[digest] = maps
        if folder is not None:
            _write(_file(folder, identity, digest), maps)
        advance(1)

    if processes <= 1 or len(missing) <= 1:
        for pair in missing:
            keep(pair, work.run(pair.clean, pair.corrupt))
        return done
    # A fresh interpreter each: forked children of a process that has run torch's threads may hang.
    context = multiprocessing.get_context("spawn")
    proto = model.graph.serialize()
    count = min(processes, len(missing))
    with ProcessPoolExecutor(
        count, mp_context=context, initializer=_start, initargs=(proto, task, metric, direction, at_once)
    ) as pool:
        futures = {pool.submit(_run, pair.clean, pair.corrupt): pair for pair in missing}
        for future in as_completed(futures):
            keep(futures[future], future.result())
    return done


class _Work:
    """What a process needs to patch pairs of one graph."""

    def __init__(self, graph: Graph, task: Task, metric: str, direction: Direction, at_once: int, threads: int) -> None:
        torch.set_num_threads(threads)
        self.executor, self.components = Executor(graph), find_components(graph)
        self.metric, self.direction, self.at_once = task.parse_metric(metric), direction, at_once

    def run(self, clean: np.ndarray, corrupt: np.ndarray) -> dict[str, np.ndarray]:
        first, second = torch.tensor(clean)[None], torch.tensor(corrupt)[None]
        found = patch_effects(self.executor, self.components, first, second, self.metric, self.direction, self.at_once)
        return {_key(c): effects for c, effects in found.items()}


_work: _Work | None = None  # of a worker process


def _start(proto: bytes, task: Task, metric: str, direction: Direction, at_once: int) -> None:
    global _work
    _work = _Work(Graph.deserialize(proto, "model"), task, metric, direction, at_once, threads=1)


def _run(clean: np.ndarray, corrupt: np.ndarray) -> dict[str, np.ndarray]:
    assert _work is not None
    return _work.run(clean, corrupt)


def _key(component: Component) -> str:
    return f"{component.kind} {component.block} {component.tensor}"


def _digest(pair: ImagePair) -> str:
    return hashlib.sha256(pair.clean.tobytes() + pair.corrupt.tobytes()).hexdigest()


def _file(folder: Path, identity: str, pair: str) -> Path:
    return folder / f"{hashlib.sha256(f'{identity} {pair}'.encode()).hexdigest()[:32]}.safetensors"


def _read(path: Path, components: Sequence[Component]) -> dict[str, np.ndarray] | None:
    """The maps in a file, or None when it is not there or damaged."""
    try:
        maps: dict[str, np.ndarray] = stored.load(path)
    except (OSError, stored.DamagedError):
        return None
    whole = set(maps) == {_key(c) for c in components} and all(np.isfinite(m).all() for m in maps.values())
    return maps if whole else None


def _write(path: Path, maps: dict[str, np.ndarray]) -> None:
    make_folder(path.parent)
    stored.store(maps, path)
