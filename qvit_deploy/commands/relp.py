"""One run of `qvit-deploy relp`: explains the decisions of a model, or the damage of its quantization."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from matplotlib.figure import Figure

from qvit_deploy.artifacts.atomic import write_files
from qvit_deploy.artifacts.json_text import json_file
from qvit_deploy.data.images import open_images
from qvit_deploy.data.opening import open_examples
from qvit_deploy.data.pairs.files import open_pair, open_pairs
from qvit_deploy.data.pairs.make import EDITS, ImagePair, make_pairs
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.synthetic import blank
from qvit_deploy.patching import cells
from qvit_deploy.patching.components import find_components
from qvit_deploy.patching.relp import Direction
from qvit_deploy.pipeline.exact_comparison import compare_with_exact
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
from qvit_deploy.tasks.registry import task_called, task_of
from qvit_deploy.tasks.task import Task

PAGE, NUMBERS, EXACT = "relp.html", "relp.json", "exact"


@dataclass(frozen=True)
class ExplanationResult:
    """The result of a run.

    Attributes:
        tree: the numbers, as JSON.
        page: draws the HTML page.
        figures: draws the plots, by name.
    """

    tree: dict[str, Any]
    page: Callable[[], bytes]
    figures: Callable[[], Mapping[str, Figure]]

    def write(self, folder: Path) -> None:
        """Writes the page, the numbers and the plots to `folder`. Raises InputError if it cannot be written."""
        write_files(folder, {**pictures(self.figures()), NUMBERS: json_file(self.tree), PAGE: self.page()})


@dataclass(frozen=True)
class PairSource:
    """The source of pairs of images: two images, a folder or .npz of pairs, or images that are edited.

    Attributes:
        clean, corrupt: the two images of one pair.
        files: a folder or an .npz of pairs.
        data: images of which `count` are corrupted by `edit`; `seed` draws images and regions.
    """

    clean: Path | None
    corrupt: Path | None
    files: Path | None
    data: str | None
    edit: str
    count: int
    seed: int

    def open(self, model: ModelFile) -> tuple[ImagePair, ...]:
        """Returns the pairs, prepared for `model`. Raises InputError."""
        sources = [self.clean is not None or self.corrupt is not None, self.files is not None, self.data is not None]
        if sum(sources) != 1:
            raise InputError("pairs come from --clean with --corrupt, from --pairs, or from --data: give one of them")
        patch = patch_size(model)
        if self.files is not None:
            return tuple(open_pairs(self.files, model.prepared, patch))
        if self.data is not None:
            edit = next((e for e in EDITS if e == self.edit), None)
            if edit is None:
                raise InputError(f"there is no edit {self.edit!r}; choose from {', '.join(EDITS)}")
            images = open_images(self.data, model.prepared, split="test")
            return make_pairs(images, edit, patch, self.count, self.seed)
        if self.clean is None or self.corrupt is None:
            raise InputError("a pair needs both --clean and --corrupt")
        return tuple(open_pair(self.clean, self.corrupt, model.prepared, patch))


@dataclass(frozen=True)
class ExactPatching:
    """How exact maps are computed.

    Attributes:
        processes: number of processes that share the work.
        at_once: patches that each process runs as one batch.
        folder: to which maps are written as they are computed, so that a run can be resumed; None for none.
    """

    processes: int
    at_once: int
    folder: Path | None


@dataclass(frozen=True)
class RelpRequest:
    """The input of `relp`.

    Attributes:
        path: a bundle or an .onnx file.
        target: the target whose model of a bundle is explained.
        source: of the pairs of images.
        preprocess: how images are prepared, for a lone ONNX file.
        metric: see `explain`; None for the task's own.
        rules, direction: see `explain`.
        quantizers: their backward pass, straight-through or secant.
        exact: how to patch exactly as well; None for estimates alone.
        task: name of what the outputs mean; None for the bundle's own, or what a lone file's outputs say.
    """

    path: Path
    target: str
    source: PairSource
    preprocess: Preprocess | None
    metric: str | None
    rules: str
    direction: str
    quantizers: str
    exact: ExactPatching | None
    task: str | None


@dataclass(frozen=True)
class DriftRequest:
    """The input of `drift`.

    Attributes:
        source: its data, count and seed choose the images; it must name no pairs.
        exact: whether the user wants exact patching, which drift does not have.

    The other fields are those of a `RelpRequest`.
    """

    path: Path
    target: str
    source: PairSource
    metric: str | None
    rules: str
    quantizers: str
    exact: bool
    task: str | None


def relp(request: RelpRequest, progress: Progress) -> ExplanationResult:
    """Explains pairs of images.

    Raises:
        InputError: an argument cannot be used.
        CheckError: ONNX Runtime does not agree with the executor.
    """
    watch = Stopwatch(progress)
    secant = _secant(request.quantizers)
    rule_set_called(request.rules, secant)
    direction = _direction(request.direction)
    with watch.stage("read"):
        model = read_model(request.path, request.target, request.preprocess)
        task = _task_of(model, request.task)
        metric = request.metric or task.default_metric
        task.parse_metric(metric)
        check_differentiable(model.graph)  # before exact maps, which may take hours
        pairs = request.source.open(model)
    exact = None
    if request.exact is not None:
        patching = request.exact
        with watch.stage("exact", len(pairs)) as advance:
            exact = exact_maps(
                model, pairs, metric=metric, direction=direction, at_once=patching.at_once,
                processes=patching.processes, folder=patching.folder, task=task, advance=advance,
            )  # fmt: skip
    with watch.stage("relp", len(pairs)) as advance:
        explanation = explain(
            model, pairs, metric=metric, rules=request.rules, secant_quantizers=secant,
            direction=direction, exact=exact, task=task, advance=advance,
        )  # fmt: skip
        comparison = None if exact is None else compare_with_exact(model, explanation, task)
    tree = relp_tree(model.description, explanation, comparison, model.graph.interface.image_size, task)
    clean, corrupt = _stacked(pairs, "clean"), _stacked(pairs, "corrupt")
    return ExplanationResult(tree, lambda: relp_page(tree, clean, corrupt), lambda: relp_figures(tree, clean, corrupt))


def drift(request: DriftRequest, progress: Progress) -> ExplanationResult:
    """Explains what quantization did to a bundle.

    Raises:
        InputError: an argument cannot be used.
        CheckError: the bundle's graphs differ outside their quantized layers.
    """
    path, target, source = request.path, request.target, request.source
    _secant(request.quantizers)
    if source.clean or source.corrupt or source.files or request.exact:
        raise InputError("--quantization takes --data only: clean is the float model, corrupt the quantized")
    if source.data is None:
        raise InputError("--quantization needs images: pass --data")
    if target == FLOAT:
        raise InputError("--quantization compares the float model with a quantized one; choose another --target")
    watch = Stopwatch(progress)
    with watch.stage("read"):
        if not path.is_dir():
            raise InputError(f"{path} is not a bundle: --quantization compares a bundle's float and quantized model")
        model, quantized = read_model(path, FLOAT, None), read_model(path, target, None)
        task = _task_of(model, request.task)
        metric = request.metric or task.default_metric
        task.parse_metric(metric)
        images = open_examples(
            source.data, model.graph.interface.inputs, model.preprocess, model.description,
            limit=source.count, seed=source.seed, split="test",
        )  # fmt: skip
    with watch.stage("drift", len(images)) as advance:
        explanation = explain_drift(
            model, quantized, images, metric=metric, rules=request.rules, task=task, advance=advance
        )
    assert model.manifest is not None
    name = f"{model.manifest.source.get('model', path.name)}, {target} against float"
    tree = drift_tree(name, explanation, model.graph.interface.image_size, task)
    return ExplanationResult(tree, lambda: drift_page(tree), lambda: drift_figures(tree))


def _task_of(model: ModelFile, name: str | None) -> Task:
    """Returns the task of that name; without one the bundle's own, or what the outputs say. Raises InputError."""
    if name is None and model.manifest is not None:
        return task_called(model.manifest.task)
    return task_of(model.graph.interface, name)


def _secant(quantizers: str) -> bool:
    """Returns whether the backward pass of quantizers is the secant. Raises InputError for an unknown name."""
    if quantizers not in ("straight-through", "secant"):
        raise InputError(f"quantizers can be straight-through or secant, not {quantizers!r}")
    return quantizers == "secant"


def _direction(name: str) -> Direction:
    for known in get_args(Direction):
        if known == name:
            direction: Direction = known
            return direction
    raise InputError(f"there is no direction {name!r}; choose {' or '.join(get_args(Direction))}")


def _stacked(pairs: Sequence[ImagePair], which: str) -> np.ndarray:
    return np.stack([getattr(pair, which) for pair in pairs])


def patch_size(model: ModelFile) -> int:
    """Returns how many pixels a token of the first block spans along each side.

    Raises:
        InputError: the tokens are no grid of square patches.
    """
    first = find_components(model.graph)[0]
    _, height, width = model.graph.interface.image_size
    rows = model.graph.static_batch or 1
    batch = blank(model.graph.interface.inputs, rows).map(torch.from_numpy)
    with torch.no_grad():
        tensor = Executor(model.graph).run(batch, fetch=[first.tensor])
    grid = cells.token_grid(cells.count(first, tensor[first.tensor], rows), height, width)
    if grid is None:
        raise InputError(
            f"the tokens of {model.description} are no grid of square patches on its {width}x{height} input"
        )
    return height // grid[1]
