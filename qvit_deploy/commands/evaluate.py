"""Accuracy of a bundle or an ONNX file on images, run by its runtime; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from qvit_deploy.artifacts.bundle import Bundle
from qvit_deploy.artifacts.opening import model_at, preprocess_of
from qvit_deploy.data.images import open_images
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from qvit_deploy.progress import Progress, Stopwatch
from qvit_deploy.targets.registry import REFERENCE
from qvit_deploy.targets.runtime import OpenedModel
from qvit_deploy.targets.session import open_model, outputs
from qvit_deploy.targets.target import FLOAT, file_of
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.registry import task_called
from qvit_deploy.tasks.task import Arrays, Task


@dataclass(frozen=True)
class Evaluation:
    """Results on `n` images.

    Attributes:
        top1: the task's score by the labels, for classifiers the share classified right; None without labels.
        float_top1, agreement, sqnr_db: of the float model, and against it; None for a lone ONNX file.
        skipped_images: name and reason of what `skip_bad_images` left out.
    """

    task: Task
    n: int
    top1: float | None
    float_top1: float | None
    agreement: float | None
    sqnr_db: float | None
    skipped_images: tuple[tuple[str, str], ...]

    def as_dict(self) -> dict[str, object]:
        """The numbers by their names in JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "task"}


def evaluate(
    path: Path,
    data: str,
    *,
    preprocess: Preprocess | None = None,
    task: Task | None = None,
    target: str = REFERENCE.name,
    limit: int | None = None,
    skip_bad_images: bool = False,
    threads: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Runs the bundle or .onnx file at `path` on DATA.

    Args:
        task: what its outputs mean; None for what the bundle says, or classification for a lone file.
        target: whose file of a bundle.

    Raises:
        InputError: no such model or images, or nothing says how images are prepared, or they do not fit the model.
        BundleError: the bundle is damaged.
    """
    watch = Stopwatch(progress)
    artifact = model_at(path)
    models = [path]
    if isinstance(artifact, Bundle):
        models = [artifact.path_of(file_of(target)), artifact.path_of(file_of(FLOAT))]
        task = task or task_called(artifact.manifest.task)
    preprocess = preprocess_of(artifact, preprocess)
    images = open_images(data, preprocess, limit=limit, skip_bad=skip_bad_images, split="test")
    results: list[Arrays] = []
    for model in models:
        with watch.stage("eval" if not results else "eval float", len(images)) as advance:
            opened = open_model(model, threads)
            _check_size(opened, preprocess, model)
            results.append(outputs(opened, images, advance))
    labels = images.labels
    task = task or CLASSIFY
    scores = [None if labels is None else task.score(found, labels) for found in results]
    if len(results) == 1:
        return Evaluation(task, len(images), scores[0], None, None, None, images.skipped)
    quantized, exact = results
    agreement, sqnr_db = task.agreement(exact, quantized), task.sqnr_db(exact, quantized)
    return Evaluation(task, len(images), scores[0], scores[1], agreement, sqnr_db, images.skipped)


def _check_size(opened: OpenedModel, preprocess: Preprocess, model: Path) -> None:
    takes, made = opened.shape, [None, *preprocess.input_size]
    if len(takes) != 4 or any(isinstance(t, int) and m not in (t, None) for t, m in zip(takes, made, strict=True)):
        raise InputError(
            f"preprocessing makes {'x'.join(map(str, preprocess.input_size))} images, {model} takes "
            f"{'x'.join(map(str, takes[1:]))}"
        )
