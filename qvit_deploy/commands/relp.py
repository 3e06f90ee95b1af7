"""One run of `qvit-deploy relp`: from files to the tree of numbers, the page and the plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from matplotlib.figure import Figure

from qvit_deploy.artifacts.atomic import write_files
from qvit_deploy.data.images import open_images
from qvit_deploy.data.pairs.files import open_pair, open_pairs
from qvit_deploy.data.pairs.make import EDITS, ImagePair, make_pairs
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.patching import cells
from qvit_deploy.patching.components import find_components
from qvit_deploy.patching.relp import Direction
from qvit_deploy.pipeline.exact_maps import exact_maps
from qvit_deploy.pipeline.explain import explain, rule_set_called
from qvit_deploy.pipeline.explain_drift import explain_drift
from qvit_deploy.pipeline.explanation_tree import drift_tree, relp_tree
from qvit_deploy.pipeline.model_files import ModelFile, read_model
from qvit_deploy.progress import Progress, Stopwatch
from qvit_deploy.relevance.differentiable import check_differentiable
from qvit_deploy.report.relp.drift_page import drift_page
from qvit_deploy.report.relp.drift_plots import drift_figures
from qvit_deploy.report.relp.page import relp_page
from qvit_deploy.report.relp.plots import relp_figures
from qvit_deploy.report.svg import pictures
from qvit_deploy.targets.target import FLOAT
from qvit_deploy.tasks.classify import CLASSIFY

PAGE, NUMBERS, EXACT = "relp.html", "relp.json", "exact"


@dataclass(frozen=True)
class Session:
    """What a run found: the tree of numbers, and how to draw it."""

    tree: dict[str, Any]
    page: Callable[[], bytes]
    figures: Callable[[], Mapping[str, Figure]]

    def write(self, folder: Path, numbers: str) -> None:
        """Page, numbers and plots into `folder`. Raises InputError when it cannot be written."""
        write_files(folder, {**pictures(self.figures()), NUMBERS: numbers.encode() + b"\n", PAGE: self.page()})


@dataclass(frozen=True)
class Pairs:
    """Where pairs come from: two images, a folder or .npz of pairs, or images that pairs are made of."""

    clean: Path | None
    corrupt: Path | None
    files: Path | None
    data: str | None
    edit: str
    count: int
    seed: int

    def open(self, model: ModelFile) -> tuple[ImagePair, ...]:
        """The pairs as `model` takes them. Raises InputError."""
        ways = [self.clean is not None or self.corrupt is not None, self.files is not None, self.data is not None]
        if sum(ways) != 1:
            raise InputError("pairs come from --clean with --corrupt, from --pairs, or from --data: give one of them")
        patch = patch_size(model)
        if self.files is not None:
            return tuple(open_pairs(self.files, model.preprocess, patch))
        if self.data is not None:
            edit = next((e for e in EDITS if e == self.edit), None)
            if edit is None:
                raise InputError(f"there is no edit {self.edit!r}; choose from {', '.join(EDITS)}")
            images = open_images(self.data, model.preprocess, split="test")
            return make_pairs(images, edit, patch, self.count, self.seed)
        if self.clean is None or self.corrupt is None:
            raise InputError("a pair needs both --clean and --corrupt")
        return tuple(open_pair(self.clean, self.corrupt, model.preprocess, patch))


def relp(
    path: Path,
    target: str,
    source: Pairs,
    *,
    preprocess: Preprocess | None,
    metric: str,
    rules: str,
    secant_quantizers: bool,
    direction: str,
    exact: bool,
    processes: int,
    at_once: int,
    folder: Path | None,
    progress: Progress,
) -> Session:
    """Explains pairs of images. Exact maps are kept in `folder` as they are made.

    Raises:
        InputError: anything handed in cannot be used.
        CheckError: ONNX Runtime does not agree with the executor.
    """
    watch, task = Stopwatch(progress), CLASSIFY
    task.parse_metric(metric)
    rule_set_called(rules, secant_quantizers)
    way = _direction(direction)
    with watch.stage("read"):
        model = read_model(path, target, preprocess)
        check_differentiable(model.graph)  # before exact maps, which may take hours
        pairs = source.open(model)
    truth = None
    if exact:
        with watch.stage("exact", len(pairs)) as advance:
            truth = exact_maps(
                model, pairs, metric=metric, direction=way, at_once=at_once, processes=processes,
                folder=None if folder is None else folder / EXACT, task=task, advance=advance,
            )  # fmt: skip
    with watch.stage("relp", len(pairs)) as advance:
        found = explain(
            model, pairs, metric=metric, rules=rules, secant_quantizers=secant_quantizers, direction=way,
            exact=truth, task=task, advance=advance,
        )  # fmt: skip
    tree = relp_tree(model.description, found, model.graph.interface.image_size)
    clean, corrupt = _stacked(pairs, "clean"), _stacked(pairs, "corrupt")
    return Session(tree, lambda: relp_page(tree, clean, corrupt), lambda: relp_figures(tree, clean, corrupt))


def drift(
    path: Path, target: str, data: str | None, count: int, seed: int, *, metric: str, rules: str, progress: Progress
) -> Session:
    """Explains what quantization did to a bundle, on `count` images of `data`.

    Raises:
        InputError: anything handed in cannot be used.
        CheckError: the bundle's graphs differ outside their quantized layers.
    """
    if data is None:
        raise InputError("--quantization needs images: pass --data")
    if target == FLOAT:
        raise InputError("--quantization compares the float model with a quantized one; choose another --target")
    watch, task = Stopwatch(progress), CLASSIFY
    task.parse_metric(metric)
    with watch.stage("read"):
        if not path.is_dir():
            raise InputError(f"{path} is not a bundle: --quantization compares a bundle's float and quantized model")
        model, quantized = read_model(path, FLOAT, None), read_model(path, target, None)
        images = open_images(data, model.preprocess, limit=count, seed=seed, split="test")
    with watch.stage("drift", len(images)) as advance:
        found = explain_drift(model, quantized, images, metric=metric, rules=rules, task=task, advance=advance)
    assert model.manifest is not None
    name = f"{model.manifest.source.get('model', path.name)}, {target} against float"
    tree = drift_tree(name, found, model.graph.interface.image_size)
    return Session(tree, lambda: drift_page(tree), lambda: drift_figures(tree))


def _direction(name: str) -> Direction:
    for known in get_args(Direction):
        if known == name:
            found: Direction = known
            return found
    raise InputError(f"there is no direction {name!r}; choose {' or '.join(get_args(Direction))}")


def _stacked(pairs: Sequence[ImagePair], which: str) -> np.ndarray:
    return np.stack([getattr(pair, which) for pair in pairs])


def patch_size(model: ModelFile) -> int:
    """Pixels that a token of the first block spans along each side.

    Raises:
        InputError: the tokens are no grid of square patches.
    """
    first = find_components(model.graph)[0]
    _, height, width = model.graph.interface.image_size
    rows = model.graph.static_batch or 1
    with torch.no_grad():
        tensor = Executor(model.graph).run(torch.zeros(rows, *model.graph.interface.image_size), fetch=[first.tensor])
    grid = cells.token_grid(cells.count(first, tensor[first.tensor], rows), height, width)
    if grid is None:
        raise InputError(
            f"the tokens of {model.description} are no grid of square patches on its {width}x{height} input"
        )
    return height // grid[1]
