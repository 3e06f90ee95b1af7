"""One run of `qvit-deploy eval`: accuracy of a bundle or an ONNX file on images, in its runtime; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qvit_deploy.artifacts.bundle import Bundle
from qvit_deploy.artifacts.opening import inputs_for_data, model_at, preprocess_of
from qvit_deploy.commands.model_task import model_task
from qvit_deploy.data.images import ImageSet
from qvit_deploy.data.labels.opening import open_labels
from qvit_deploy.data.opening import open_examples
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from qvit_deploy.progress import Progress, Stopwatch
from qvit_deploy.targets.registry import REFERENCE
from qvit_deploy.targets.runtime import ModelSession
from qvit_deploy.targets.session import BATCH, open_model
from qvit_deploy.targets.target import FLOAT, file_of
from qvit_deploy.tasks.metrics import Noise
from qvit_deploy.tasks.tally import Figure
from qvit_deploy.tasks.task import Task


@dataclass(frozen=True)
class Evaluation:
    """Results on `n` images.

    Attributes:
        by_labels: how good the model, and a bundle's float model, are by labels; nothing without labels.
        to_float: how far a bundle's model is from its float model; nothing for a lone ONNX file.
        sqnr_by_output: of every output against the float model's, the worst first; None for a lone file.
        skipped_images: name and reason of every image that `skip_bad_images` left out.
    """

    task: Task
    n: int
    by_labels: tuple[Figure, ...]
    to_float: tuple[Figure, ...]
    sqnr_by_output: dict[str, float] | None
    skipped_images: tuple[tuple[str, str], ...]

    @property
    def top1(self) -> float | None:
        """The share of images classified correctly; None without classes of images."""
        return self._figures.get("top1")

    @property
    def float_top1(self) -> float | None:
        """The same of the float model; None for a lone ONNX file too."""
        return self._figures.get("float_top1")

    @property
    def agreement(self) -> float | None:
        """The task's agreement with the float model, in [0, 1]; None where there is none."""
        return self._figures.get("agreement")

    @property
    def sqnr_db(self) -> float | None:
        """SQNR of the worst output."""
        return None if self.sqnr_by_output is None else min(self.sqnr_by_output.values())

    @property
    def _figures(self) -> dict[str, float | None]:
        """The task's numbers by their names in JSON."""
        figures: dict[str, float | None] = {}
        for figure in (*self.by_labels, *self.to_float):
            figures[figure.key] = figure.value
            if figure in self.by_labels:
                figures[f"float_{figure.key}"] = figure.of_float
        return figures

    def as_dict(self) -> dict[str, object]:
        """Returns the numbers by their names in JSON: those that every task has, None where they are not measured, and
        the task's own."""
        figures = {"top1": None, "float_top1": None, "agreement": None, **self._figures}
        shared = {"sqnr_db": self.sqnr_db, "sqnr_by_output": self.sqnr_by_output}
        return {"n": self.n, **figures, **shared, "skipped_images": self.skipped_images}


def evaluate(
    path: Path,
    data: str,
    *,
    labels: str | None = None,
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
        labels: a folder or an .npz of label maps, a COCO file of boxes, or "none"; None for those that DATA has.
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
    sessions = [open_model(model, threads) for model in models]
    inputs = inputs_for_data(artifact, sessions[0].inputs)
    images = open_examples(
        data, inputs, preprocess, f"{path}", limit=limit, skip_bad=skip_bad_images, split="test"
    )  # fmt: skip
    noise, done = Noise(), 0
    with watch.stage("eval", len(images)) as advance:
        for session, model in zip(sessions, models, strict=True):
            if isinstance(images, ImageSet):
                _require_size(session, images.preprocess, model)
        meaning = model_task(artifact, task)
        tally = meaning.tally(open_labels(meaning.name, meaning.labels, labels, images))
        for batch in images.batches(min(session.static_batch or BATCH for session in sessions)):
            ours, *exact = (session.run(batch) for session in sessions)
            if exact:
                meaning.require_finite(ours, f"{models[0]}")
                noise.add(meaning.signals(exact[0]), meaning.signals(ours))
            tally.add(ours, exact[0] if exact else None, slice(done, done + len(batch)))
            done += len(batch)
            advance(len(batch))
    sqnr = noise.ratios_db() if len(models) > 1 else None
    return Evaluation(meaning, len(images), tuple(tally.by_labels()), tuple(tally.to_float()), sqnr, images.skipped)


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
