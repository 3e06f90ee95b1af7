"""One run of `qvit-deploy eval`: accuracy of a bundle or an ONNX file on images, in its runtime; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from qvit_deploy.artifacts.bundle import Bundle
from qvit_deploy.artifacts.opening import model_at, preprocess_of
from qvit_deploy.commands.model_task import model_task
from qvit_deploy.data.images import open_images
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from qvit_deploy.progress import Progress, Stopwatch
from qvit_deploy.targets.registry import REFERENCE
from qvit_deploy.targets.runtime import ModelSession
from qvit_deploy.targets.session import open_model, outputs
from qvit_deploy.targets.target import FLOAT, file_of
from qvit_deploy.tasks.task import Arrays, Task


@dataclass(frozen=True)
class Evaluation:
    """Results on `n` images.

    Attributes:
        top1: the task's score by the labels, for classifiers the share classified correctly; None without labels.
        float_top1, agreement, sqnr_db: score of the float model, and comparison with it; None for a lone ONNX file.
        sqnr_by_output: of every output, the worst first.
        skipped_images: name and reason of every image that `skip_bad_images` left out.
    """

    task: Task
    n: int
    top1: float | None
    float_top1: float | None
    agreement: float | None
    sqnr_db: float | None
    sqnr_by_output: dict[str, float] | None
    skipped_images: tuple[tuple[str, str], ...]

    def as_dict(self) -> dict[str, object]:
        """Returns the numbers by their names in JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "task"}


def evaluate(
    path: Path,
    data: str,
    *,
    preprocess: Preprocess | None = None,
    task: str | None = None,
    target: str = REFERENCE.name,
    limit: int | None = None,
    skip_bad_images: bool = False,
    threads: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Runs the bundle or .onnx file at `path` on DATA.

    Args:
        data: images: a folder, an .npz or a demo set.
        task: name of what the outputs mean; None for the bundle's own, or what a lone file's outputs say.
        target: the target whose file of a bundle is run.

    Raises:
        InputError: there is no such model or data, preprocessing is not known, or images do not fit the model.
        BundleError: the bundle is damaged.
    """
    watch = Stopwatch(progress)
    artifact = model_at(path)
    models = [path]
    if isinstance(artifact, Bundle):
        models = [artifact.path_of(file_of(target)), artifact.path_of(file_of(FLOAT))]
    preprocess = preprocess_of(artifact, preprocess)
    images = open_images(data, preprocess, limit=limit, skip_bad=skip_bad_images, split="test")
    meaning: Task | None = None
    results: list[Arrays] = []
    for model in models:
        with watch.stage("eval" if not results else "eval float", len(images)) as advance:
            session = open_model(model, threads)
            _require_size(session, preprocess, model)
            meaning = meaning or model_task(artifact, task)
            results.append(outputs(session, images, advance))
    assert meaning is not None
    labels = images.labels
    scores = [None if labels is None else meaning.score(result, labels) for result in results]
    if len(results) == 1:
        return Evaluation(meaning, len(images), scores[0], None, None, None, None, images.skipped)
    quantized, exact = results
    meaning.require_finite(quantized, f"{models[0]}")
    agreement, sqnr = meaning.agreement(exact, quantized), meaning.sqnr_by_output(exact, quantized)
    return Evaluation(meaning, len(images), scores[0], scores[1], agreement, min(sqnr.values()), sqnr, images.skipped)


def _require_size(session: ModelSession, preprocess: Preprocess, model: Path) -> None:
    """Raises InputError if the model takes images of another size than preprocessing gives."""
    declared = next((i.shape[1:] for i in session.inputs if i.kind == "image"), session.inputs[0].shape[1:])
    if len(declared) != 3 or any(
        isinstance(size, int) and size != given for size, given in zip(declared, preprocess.input_size, strict=True)
    ):
        raise InputError(
            f"preprocessing makes {'x'.join(map(str, preprocess.input_size))} images, {model} takes "
            f"{'x'.join(map(str, declared))}"
        )
