"""What of a first analysis a second one may use: all that its recipe leaves as it was, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from qvit_deploy.cache.store import store
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.frontend import Source
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.graph.sites import find_sites
from qvit_deploy.pipeline.analysis import Analysis, analyse
from qvit_deploy.pipeline.compile import build
from qvit_deploy.pipeline.fold import AFTER_FOLD, fold
from qvit_deploy.pipeline.input_options import InputOptions
from qvit_deploy.pipeline.inputs import Inputs, open_inputs
from qvit_deploy.progress import Advance, Stopwatch
from qvit_deploy.recipe import Recipe
from qvit_deploy.tasks.classify import CLASSIFY
from tests.support.graphs.quantizable_graphs import mixed_vit

BASE = Recipe(calibration_images=8, batch_size=4, bits=(3, 5, 8), mean_bits=4.5)
STAGES = ["fold", "observe", "ranges", "relevance", "plan"]


class Stages:
    """A `Progress` that keeps the names of stages."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        self.opened.append(name)
        yield lambda _: None

    def cached(self) -> list[str]:
        return [name.removesuffix(" (cached)") for name in self.opened if name.endswith(" (cached)")]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "calib.npz"
    np.savez(path, images=np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8))
    return path


def inputs_of(recipe: Recipe, images: Path, graph: Graph | None = None, mean: float = 0.5) -> Inputs:
    options = InputOptions(str(images), preprocess=Preprocess(input_size=(3, 16, 16), mean=(mean,), std=(0.25,)))
    return open_inputs(Source(graph or mixed_vit(), None, "a graph"), options, recipe, Stopwatch())


def worked_out(inputs: Inputs, recipe: Recipe, cache: Path | None, into: Path) -> tuple[bytes, list[str]]:
    """(all that an analysis and a plan under `recipe` find, as a file's bytes; the stages taken from the cache)."""
    stages = Stages()
    watch = Stopwatch(stages)
    analysis = analyse(inputs, [recipe], watch, cache)
    plan, emitted = build(inputs, analysis, analysis.allocate(recipe), recipe, watch)
    store((*analysed(analysis, recipe), plan, emitted), into)
    return into.read_bytes(), stages.cached()


def analysed(analysis: Analysis, recipe: Recipe) -> tuple[object, ...]:
    known = analysis.calibration
    return (
        known.graph, known.observations, known.grids, known.products, known.importance, known.sites, analysis.folded,
        analysis.table(recipe),
    )  # fmt: skip


@pytest.fixture(scope="module")
def filled(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that `BASE` has been through."""
    folder = tmp_path_factory.mktemp("cache")
    _, cached = worked_out(inputs_of(BASE, images), BASE, folder, folder / "result")
    (folder / "result").unlink()
    assert cached == [] and sorted(p.name.partition("-")[0] for p in folder.iterdir()) == sorted(STAGES)
    return folder


@pytest.fixture
def cache(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(filled, tmp_path / "cache"))


@pytest.fixture(scope="module")
def latency_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("latency") / "table.json"
    sites = [s.name for s in find_sites(mixed_vit()) if s.weight is not None]
    widths = {f"w{b}a{b}": b / 100 for b in (3, 5, 8)}
    path.write_text(
        json.dumps(
            {
                "schema": "qvit-deploy/latency/1",
                "device": "a board",
                "fingerprint": "f",
                "batch_size": 1,
                "sites": dict.fromkeys(sites, widths),
            }
        )
    )
    return path


CHANGES: dict[str, tuple[object, list[str]]] = {
    "mean_bits": (4.0, STAGES[:4]),
    "max_size_mb": (0.006, STAGES[:4]),
    "max_bitops_g": (1.0, STAGES),  # a bound that changes nothing
    "max_latency_ms": (0.4, STAGES[:4]),
    "latency_table": (None, STAGES),
    "uniform": ("w4a4", []),
    "bits": ((3, 4, 5, 8), STAGES[:2]),
    "separate_bits": (True, STAGES[:4]),
    "score": ("lrp", STAGES[:3]),
    "rules": ("relp", [*STAGES[:3], "plan"]),  # which the score does not read
    "first_last_bits": (None, STAGES[:3]),
    "keep_float": (("fc1",), []),
    "widths": (("fc1=w3a3",), STAGES[:3]),
    "attention": ("integer", STAGES[:1]),
    "softmax": ("uniform", STAGES[:2]),
    "softmax_rows": (False, STAGES[:2]),
    "attention_granularity": ("head", STAGES[:2]),
    "compensate": ("bias", STAGES[:3]),
    "distill_epochs": (1, STAGES[:4]),
    "task": ("outputs", []),
    "uint8_input": (True, []),
    "targets": (("onnxruntime", "tensorrt"), STAGES),
    "calibration_images": (10, []),
    "batch_size": (3, []),
    "seed": (1, []),
    "fold": (False, []),
    "fold_clip": (2.0, []),
    "fold_heads": (False, []),
    "equalize": (False, []),
    "row_importance": ("gradient", []),
}
"""Field of a recipe -> (another value, the stages that do not depend on it)."""


def test_every_field_of_a_recipe_is_tried() -> None:
    assert set(CHANGES) == set(Recipe.model_fields)


@pytest.mark.parametrize("field", CHANGES)
def test_a_changed_recipe_uses_what_does_not_depend_on_it_and_finds_the_same(
    field: str, images: Path, cache: Path, tmp_path: Path, latency_table: Path
) -> None:
    value, reused = CHANGES[field]
    changed: dict[str, Any] = {field: value}
    if field in ("uniform", "max_size_mb"):
        changed["mean_bits"] = None
    if field in ("latency_table", "max_latency_ms"):
        changed["latency_table"] = latency_table
    recipe = Recipe.model_validate({**BASE.model_dump(), **changed})
    inputs = inputs_of(recipe, images)
    alone, _ = worked_out(inputs, recipe, None, tmp_path / "alone")
    beside, cached = worked_out(inputs, recipe, cache, tmp_path / "beside")
    assert beside == alone
    assert cached == reused
    again, cached = worked_out(inputs, recipe, cache, tmp_path / "again")
    assert again == alone and cached == STAGES


def edited(graph: Graph) -> Graph:
    weight = graph.initializers["fc1.weight"]
    array = np.array(constant(weight))
    array[0, 0] += 1e-3
    weight.const_value = ir.tensor(array, name="fc1.weight")
    return graph


@pytest.mark.parametrize("other", ["model", "preprocessing", "pixel", "order", "labels"])
def test_another_model_other_images_or_another_preprocessing_use_nothing(
    other: str, images: Path, cache: Path, tmp_path: Path
) -> None:
    pixels = np.load(images)["images"]
    arrays = {"images": pixels[::-1] if other == "order" else pixels ^ (other == "pixel")}
    if other == "labels":
        arrays["labels"] = np.arange(len(pixels)) % 2
    np.savez(tmp_path / "calib.npz", **arrays)
    graph = edited(mixed_vit()) if other == "model" else mixed_vit()
    inputs = inputs_of(BASE, tmp_path / "calib.npz", graph, mean=0.51 if other == "preprocessing" else 0.5)
    alone, _ = worked_out(inputs, BASE, None, tmp_path / "alone")
    beside, cached = worked_out(inputs, BASE, cache, tmp_path / "beside")
    assert cached == [] and beside == alone


def test_a_model_by_another_name_is_the_same_model(images: Path, cache: Path) -> None:
    graph, stages = Graph(mixed_vit().model, "by another name"), Stages()
    analysis = analyse(inputs_of(BASE, images, graph), [BASE], Stopwatch(stages), cache)
    assert stages.cached() == STAGES[:4]
    assert analysis.folded.name == analysis.calibration.graph.name == "by another name"


def test_each_of_several_recipes_has_the_plan_of_its_own_seed(images: Path, cache: Path, tmp_path: Path) -> None:
    first, second = (BASE.model_copy(update={"distill_epochs": 1, "seed": seed}) for seed in (0, 1))
    inputs = inputs_of(BASE, images)
    for folder in (None, cache, cache):
        stages = Stages()
        watch = Stopwatch(stages)
        analysis = analyse(inputs, [first, second], watch, folder)
        plans = [build(inputs, analysis, analysis.allocate(first), r, watch)[0] for r in (first, second)]
        for plan, name in zip(plans, ("first", "second"), strict=True):
            store(plan, tmp_path / f"{name} {folder is None}")
    assert stages.cached() == [*STAGES[:4], "relevance", "plan", "plan"]
    one, other = ((tmp_path / f"{name} True").read_bytes() for name in ("first", "second"))
    assert one == (tmp_path / "first False").read_bytes() and other == (tmp_path / "second False").read_bytes()
    assert one != other


READ: set[str] = set()


class Watched(Recipe):
    """A recipe that keeps the names of the fields that were read."""

    def __getattribute__(self, name: str) -> Any:
        if name in Recipe.model_fields:
            READ.add(name)
        return super().__getattribute__(name)


def test_the_folds_read_no_field_that_their_key_lacks(images: Path) -> None:
    recipe = Watched.model_validate(BASE.model_dump())
    batches = inputs_of(BASE, images).batches
    READ.clear()
    fold(mixed_vit(), recipe, batches, CLASSIFY, Stopwatch())
    assert {"fold", "fold_clip", "fold_heads", "equalize", "row_importance", "seed"} <= READ
    assert {"bits", "uniform"} == READ & AFTER_FOLD  # for the narrowest width, which is in the key
