"""Exact patching of many pairs: stored on disk pair by pair, and spread over processes."""

from __future__ import annotations

import hashlib
import multiprocessing
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from qvit_deploy.artifacts.atomic import make_folder
from qvit_deploy.cache import store
from qvit_deploy.data.pairs.make import ImagePair
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.patching.components import Component, find_components
from qvit_deploy.patching.exact import patch_effects
from qvit_deploy.patching.relp import Direction
from qvit_deploy.pipeline.model_files import ModelFile
from qvit_deploy.progress import Advance
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.task import Task

VERSION = 2
"""Version of the stored files; maps of another version are computed again."""


@dataclass(frozen=True, eq=False)
class ExactMaps:
    """Exact effects of the patches of some pairs.

    Attributes:
        effects: digest of a pair -> component's tensor and kind -> float64 [cells].
    """

    effects: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def of(self, pair: ImagePair, components: Sequence[Component]) -> dict[Component, np.ndarray]:
        """Returns the maps of a pair. Raises KeyError when it was not computed."""
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
        folder: where each pair's maps are stored as soon as they are computed; those that are there already, of the
            same model, images and metric, are not computed again.

    Raises:
        InputError: the folder cannot be written, no such metric, or a graph without attention.
    """
    work = _Work(task, metric, direction, at_once)
    work.task.parse_metric(metric)
    components = find_components(model.graph)
    identity = f"{VERSION} {model.digest} {metric} {direction} {len(components)}"
    done = ExactMaps()
    missing: dict[str, ImagePair] = {}
    for pair in pairs:
        digest = _digest(pair)
        on_disk = None if folder is None else _read(_file(folder, identity, digest), components)
        if on_disk is not None:
            done.effects[digest] = on_disk
            advance(1)
        elif digest not in missing:
            missing[digest] = pair
        else:
            advance(1)
    for digest, maps in _computed(model.graph, work, missing, processes):
        done.effects[digest] = maps
        if folder is not None:
            _write(_file(folder, identity, digest), maps)
        advance(1)
    return done


@dataclass(frozen=True)
class _Work:
    """What is computed for every pair."""

    task: Task
    metric: str
    direction: Direction
    at_once: int


def _computed(
    graph: Graph, work: _Work, pairs: Mapping[str, ImagePair], processes: int
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yields (digest of a pair, its maps), as they are done."""
    if processes <= 1 or len(pairs) <= 1:
        patcher = _Patcher(graph, work)
        yield from ((digest, patcher.maps(pair.clean, pair.corrupt)) for digest, pair in pairs.items())
        return
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "model.onnx"
        file.write_bytes(graph.serialize())
        # A fresh interpreter each: forked children of a process that has run torch's threads may hang.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(processes, len(pairs)), mp_context=context) as pool:
            futures = {
                pool.submit(_maps_in_worker, file, work, pair.clean, pair.corrupt): digest
                for digest, pair in pairs.items()
            }
            for future in as_completed(futures):
                yield futures[future], future.result()


class _Patcher:
    """Patches pairs of one graph."""

    def __init__(self, graph: Graph, work: _Work) -> None:
        self._executor, self._components = Executor(graph), find_components(graph)
        self._metric, self._work = work.task.parse_metric(work.metric), work

    def maps(self, clean: np.ndarray, corrupt: np.ndarray) -> dict[str, np.ndarray]:
        """Returns `_key` of a component -> the exact effect of each of its cells, float64 [cells]."""
        first, second = (Examples.images(torch.tensor(image)[None]) for image in (clean, corrupt))
        work = self._work
        effects = patch_effects(
            self._executor, self._components, first, second, self._metric, work.direction, work.at_once
        )  # fmt: skip
        return {_key(component): values for component, values in effects.items()}


@lru_cache(maxsize=1)
def _patcher(file: Path, work: _Work) -> _Patcher:
    """Returns the patcher of a worker process, which patches many pairs of one graph; the processes share the cores."""
    torch.set_num_threads(1)
    return _Patcher(Graph.deserialize(file.read_bytes(), "model"), work)


def _maps_in_worker(file: Path, work: _Work, clean: np.ndarray, corrupt: np.ndarray) -> dict[str, np.ndarray]:
    return _patcher(file, work).maps(clean, corrupt)


def _key(component: Component) -> str:
    return f"{component.kind} {component.block} {component.tensor}"


def _digest(pair: ImagePair) -> str:
    return hashlib.sha256(pair.clean.tobytes() + pair.corrupt.tobytes()).hexdigest()


def _file(folder: Path, identity: str, pair: str) -> Path:
    return folder / f"{hashlib.sha256(f'{identity} {pair}'.encode()).hexdigest()[:32]}.safetensors"


def _read(path: Path, components: Sequence[Component]) -> dict[str, np.ndarray] | None:
    """Returns the maps in a file, or None when it is not there or damaged."""
    try:
        maps: dict[str, np.ndarray] = store.load(path)
    except (OSError, store.DamagedError):
        return None
    complete = set(maps) == {_key(c) for c in components} and all(np.isfinite(m).all() for m in maps.values())
    return maps if complete else None


def _write(path: Path, maps: dict[str, np.ndarray]) -> None:
    make_folder(path.parent)
    store.store(maps, path)
