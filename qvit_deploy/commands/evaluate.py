"""Accuracy of a bundle or an ONNX file on images, run by its runtime; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qvit_deploy.artifacts.bundle import read_bundle
from qvit_deploy.data.images import open_images
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from qvit_deploy.progress import Progress, Stopwatch
from qvit_deploy.targets.registry import REFERENCE
from qvit_deploy.targets.runtime import OpenedModel
from qvit_deploy.targets.session import logits, open_model
from qvit_deploy.targets.target import FLOAT, file_of
from qvit_deploy.tasks.metrics import agreement, sqnr_db


@dataclass(frozen=True)
class Evaluation:
    """Results on `n` images.

    Attributes:
        top1: share classified right; None when the images have no labels.
        float_top1, agreement, sqnr_db: of the float model, and against it; None for a lone ONNX file.
        skipped_images: name and reason of what `skip_bad_images` left out.
    """

    n: int
    top1: float | None
    float_top1: float | None
    agreement: float | None
    sqnr_db: float | None
    skipped_images: tuple[tuple[str, str], ...]


def evaluate(
    path: Path,
    data: str,
    *,
    preprocess: Preprocess | None = None,
    target: str = REFERENCE.name,
    limit: int | None = None,
    skip_bad_images: bool = False,
    threads: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Runs the bundle or .onnx file at `path` on DATA.

    Args:
        target: whose file of a bundle.

    Raises:
        InputError: no such model or images, or nothing says how images are prepared, or they do not fit the model.
        BundleError: the bundle is damaged.
    """
    watch = Stopwatch(progress)
    if path.is_dir():
        bundle = read_bundle(path)
        models = [bundle.path_of(file_of(target)), bundle.path_of(file_of(FLOAT))]
        preprocess = preprocess or Preprocess.model_validate(bundle.manifest.source["preprocess"])
    elif path.is_file():
        models = [path]
        if preprocess is None:
            raise InputError(f"{path} does not say how its images are prepared; pass --preprocess F.json")
    else:
        raise InputError(f"no bundle or .onnx file at {path}")
    images = open_images(data, preprocess, limit=limit, skip_bad=skip_bad_images, split="test")
    outputs: list[np.ndarray] = []
    for model in models:
        with watch.stage("eval" if len(outputs) == 0 else "eval float", len(images)) as advance:
            opened = open_model(model, threads)
            _check_size(opened, preprocess, model)
            outputs.append(logits(opened, images, advance))
    labels = images.labels
    top1 = [None if labels is None else float((o.argmax(1) == labels).mean()) for o in outputs]
    if len(outputs) == 1:
        return Evaluation(len(images), top1[0], None, None, None, images.skipped)
    quantized, reference = outputs
    return Evaluation(
        len(images), top1[0], top1[1], agreement(reference, quantized), sqnr_db(reference, quantized), images.skipped
    )


def _check_size(opened: OpenedModel, preprocess: Preprocess, model: Path) -> None:
    takes, made = opened.shape, [None, *preprocess.input_size]
    if len(takes) != 4 or any(isinstance(t, int) and m not in (t, None) for t, m in zip(takes, made, strict=True)):
        raise InputError(
            f"preprocessing makes {'x'.join(map(str, preprocess.input_size))} images, {model} takes "
            f"{'x'.join(map(str, takes[1:]))}"
        )
