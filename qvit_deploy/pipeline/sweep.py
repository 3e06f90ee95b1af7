"""Budgets x scores x models -> one table: every model is analysed once, every allocation made from that."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qvit_deploy.allocate.choose import DEFAULT_MEAN_BITS
from qvit_deploy.allocate.cost import Allocation, Option, total_cost
from qvit_deploy.data.example_set import ExampleSet
from qvit_deploy.data.held_out import HELD_OUT_IMAGES
from qvit_deploy.data.labels.opening import NO_LABELS, Labels, open_labels, own_kind
from qvit_deploy.errors import InputError
from qvit_deploy.graph.graph import Graph
from qvit_deploy.pipeline.analysis import Analysis, analyse
from qvit_deploy.pipeline.compile import build
from qvit_deploy.pipeline.input_options import InputOptions
from qvit_deploy.pipeline.inputs import Inputs, open_inputs
from qvit_deploy.progress import Progress, Stopwatch
from qvit_deploy.recipe import BUDGETS, Recipe
from qvit_deploy.report.sweep.table import SweepRow, mark_front
from qvit_deploy.targets.registry import with_known_targets
from qvit_deploy.targets.session import open_model, outputs
from qvit_deploy.tasks.task import Arrays

MEASURED_IMAGES = 256
"""Images that nothing was calibrated on, at most, on which points are measured and may be chosen."""


@dataclass(frozen=True)
class Job:
    """One model of a sweep: all that is needed to run it anywhere that sees the same files.

    Attributes:
        recipes: one per row; they differ in budget, score and seed only.
        measure: emit every model and compare it with the float model.
        data: DATA to measure on too, labelled for what the task measures by labels.
        labels: LABELS of them, as for `eval`.
        cache: as for `pipeline.compile`.
    """

    model: str
    recipes: tuple[Recipe, ...]
    options: InputOptions = field(default_factory=InputOptions)
    measure: bool = False
    data: str | None = None
    labels: str | None = None
    cache: Path | None = None


def plan_recipes(base: Recipe, scores: Sequence[str], budgets: Sequence[tuple[str, float | str]]) -> list[Recipe]:
    """Returns one recipe per score and budget; uniform widths, which no score chooses, once.

    Args:
        base: everything else; its own budget is not used.
        budgets: (field of the recipe, its value).

    Raises:
        InputError: a value is not one the recipe takes.
    """
    rest = {**base.model_dump(), "uniform": None, **dict.fromkeys(BUDGETS)}
    choices = [(s, b) for s in scores for b in budgets if b[0] != "uniform" or s == scores[0]]
    return [Recipe.load(None, **{**rest, "score": score, field: value}) for score, (field, value) in choices]


def sweep(jobs: Sequence[Job], engine: str, progress: Progress | None = None) -> list[SweepRow]:
    """Returns the rows of all `jobs`, in their order, with the Pareto front of each model marked.

    Args:
        engine: "local" runs one model after the other here (each keeps all cores busy); "ray" hands each model to a
            worker of the Ray cluster it finds or starts, whose machines must see the same files.

    Raises:
        InputError: something handed in cannot be used, or `ray` is not installed.
        BudgetError: a budget cannot be met.
    """
    done = _on_ray(jobs) if engine == "ray" else [run(job, progress) for job in jobs]
    return mark_front([row for rows in done for row in rows])


def run(job: Job, progress: Progress | None = None) -> list[SweepRow]:
    """Analyses one model and returns one row per recipe of `job`, in order. Raises what `sweep` raises."""
    watch = Stopwatch(progress)
    job = replace(job, recipes=tuple(with_known_targets(recipe) for recipe in job.recipes))
    recipe, measuring = job.recipes[0], job.measure or job.data is not None
    inputs = open_inputs(
        job.model, job.options, recipe, watch, held_out=MEASURED_IMAGES if measuring else HELD_OUT_IMAGES
    )
    evaluation = _Evaluation(inputs, job, watch) if measuring else None
    analysis = analyse(inputs, job.recipes, watch, job.cache)
    rows = []
    with watch.stage("points", len(job.recipes)) as advance:
        for recipe in job.recipes:
            allocation = analysis.allocate(recipe)
            row = _row(job.model, recipe, analysis, allocation)
            rows.append(row if evaluation is None else evaluation.measured(row, analysis, allocation, recipe))
            advance(1)
    return rows


def _row(model: str, recipe: Recipe, analysis: Analysis, allocation: Allocation) -> SweepRow:
    cost = total_cost(analysis.costs, allocation)
    goal = {n: getattr(recipe, n) for n in ("uniform", *BUDGETS) if getattr(recipe, n) is not None}
    goal = goal or {"mean_bits": DEFAULT_MEAN_BITS}
    return SweepRow(
        model=model,
        score="none" if recipe.uniform else recipe.score,
        budget=",".join(f"{n}={v}" if isinstance(v, str) else f"{n}={v:g}" for n, v in goal.items()),
        loss=analysis.loss(recipe, allocation),
        mean_w_bits=cost.mean_w_bits,
        mean_a_bits=cost.mean_a_bits,
        weight_bytes=cost.weight_bytes,
        bitops=cost.bitops,
        latency_ms=None if cost.latency_ns is None else cost.latency_ns / 1e6,
    )


class _Evaluation:
    """Measures emitted models against the float model: on images nothing was calibrated on, and on the test data."""

    def __init__(self, inputs: Inputs, job: Job, watch: Stopwatch) -> None:
        self.inputs = inputs
        self.images = inputs.measured
        self.test: ExampleSet | None = None
        self.labels: Labels | None = None
        if job.data is not None:
            self.test, task = inputs.open_test(job.data, job.options.skip_bad_images), inputs.task
            # Labels that came with the images may be of another kind: agreement needs none.
            if job.labels is not None or own_kind(self.test) == task.labels:
                self.labels = open_labels(task.name, task.labels, job.labels, self.test)
        with watch.stage("float"):
            self.float_outputs = self._outputs(inputs.source.graph)
        self.results: dict[tuple[tuple[str, Option], ...], dict[str, Any]] = {}

    def measured(self, row: SweepRow, analysis: Analysis, allocation: Allocation, recipe: Recipe) -> SweepRow:
        """Returns `row` with what the model of `allocation` does; equal allocations are built once."""
        key = tuple(allocation.items())
        if key not in self.results:
            _, emitted = build(self.inputs, analysis, allocation, recipe, Stopwatch())
            self.results[key] = self._compared(self._outputs(emitted))
        return replace(row, **self.results[key])

    def _outputs(self, graph: Graph) -> list[Arrays]:
        """Runs ONNX Runtime on the images, and on the test images if there are any."""
        session = open_model(graph.serialize())
        return [outputs(session, images, lambda _: None) for images in (self.images, self.test) if images is not None]

    def _compared(self, measured: list[Arrays]) -> dict[str, Any]:
        task = self.inputs.task
        facts: dict[str, Any] = {
            "sqnr_db": task.sqnr_db(self.float_outputs[0], measured[0]),
            "agreement": task.agreement(self.float_outputs[0], measured[0]),
            "images": len(self.images),
            "held_out": self.inputs.held_out is not None,
        }
        if self.test is not None:
            facts |= {
                "test_agreement": task.agreement(self.float_outputs[1], measured[1]),
                "test_images": len(self.test),
            }
        tally = task.tally(self.labels)
        tally.add(measured[-1], self.float_outputs[-1], slice(0, len(self.test or self.images)))
        if (figure := tally.headline()) is not None and figure.key == "top1":
            return {**facts, "top1": figure.value, "float_top1": figure.of_float}
        return {**facts, "figure": figure}


def _on_ray(jobs: Sequence[Job]) -> list[list[SweepRow]]:
    try:
        import ray
    except ImportError as error:
        raise InputError('the ray engine is not installed: pip install "qvit-deploy[ray]"') from error
    ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level=logging.WARNING)
    try:
        return list(ray.get([ray.remote(run).remote(_absolute(job)) for job in jobs]))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    finally:
        ray.shutdown()


def _absolute(job: Job) -> Job:
    """Returns `job` with absolute paths, since a worker need not run in this folder."""

    def here(spec: str | None) -> str | None:
        return spec if spec is None or spec.startswith(("timm:", "demo:")) else str(Path(spec).expanduser().absolute())

    return replace(
        job,
        model=here(job.model) or "",
        options=replace(
            job.options,
            calib=here(job.options.calib),
            checkpoint=None if job.options.checkpoint is None else job.options.checkpoint.absolute(),
        ),
        data=here(job.data),
        labels=job.labels if job.labels == NO_LABELS else here(job.labels),
        cache=None if job.cache is None else job.cache.absolute(),
        recipes=tuple(
            r.model_copy(update={"latency_table": r.latency_table and r.latency_table.absolute()}) for r in job.recipes
        ),
    )
