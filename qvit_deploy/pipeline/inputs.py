"""What a compile starts from: the model, what its outputs mean, how its images are prepared, the calibration images."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from qvit_deploy.artifacts.verification import OriginalComparison
from qvit_deploy.data.example_set import ExampleSet
from qvit_deploy.data.held_out import HELD_OUT_IMAGES, open_apart
from qvit_deploy.data.images import ImageSet
from qvit_deploy.data.opening import draw_examples, open_examples
from qvit_deploy.data.padding import padded
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from qvit_deploy.frontend import Source, load_model
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.interface import IMAGE
from qvit_deploy.graph.pixel_input import with_pixel_input
from qvit_deploy.pipeline.input_options import InputOptions
from qvit_deploy.pipeline.truth import IMAGES as TRUTH_IMAGES
from qvit_deploy.pipeline.truth import Truth, compare_with_original
from qvit_deploy.progress import Stopwatch
from qvit_deploy.recipe import Recipe
from qvit_deploy.tasks.registry import task_of
from qvit_deploy.tasks.task import Task

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False)
class Batches:
    """Images as torch batches, decoded again on every pass so that none is kept.

    `static` says that the graph runs exactly `size` images at a time.
    """

    images: ExampleSet
    size: int
    static: bool

    def sample(self, count: int, seed: int, at_once: int | None = None) -> Batches:
        """Returns `count` of the images, balanced over the classes when they are labelled, in batches of `at_once`."""
        size = self.size if at_once is None or self.static else min(at_once, self.size)
        return Batches(self.images.subset(count, seed), size, self.static)

    def halves(self, seed: int) -> tuple[Batches, Batches]:
        """Returns two disjoint halves of two or more images, each balanced over the classes when they are labelled."""
        first = self.images.subset(len(self.images) // 2, seed)
        return Batches(first, self.size, self.static), Batches(self.images.without(first), self.size, self.static)

    def arrays(self) -> Iterator[Examples[np.ndarray]]:
        """Yields `size` examples at a time; the last batch is smaller, or padded for a static graph."""
        for batch in self.images.batches(self.size):
            yield padded(batch, self.size if self.static else None)

    def __iter__(self) -> Iterator[Examples[torch.Tensor]]:
        return (batch.map(torch.from_numpy) for batch in self.arrays())


@dataclass(frozen=True, eq=False)
class Inputs:
    """A model, what its outputs mean, and images.

    Attributes:
        batches: images to calibrate on.
        held_out: others of the same DATA, that nothing is fitted to; None where DATA has too few.
        original: how the graph compares with the model as it was handed in.
        truth: what that computes, where it can be run.
    """

    source: Source
    task: Task
    preprocess: Preprocess | None
    batches: Batches
    held_out: ExampleSet | None
    original: OriginalComparison
    truth: Truth | None

    @property
    def measured(self) -> ExampleSet:
        """The examples that quality is measured on: those held out, or those of calibration where there are none."""
        return self.batches.images if self.held_out is None else self.held_out

    def open_test(self, data: str, skip_bad: bool) -> ExampleSet:
        """Opens test DATA for the model; see `data.opening`. Raises InputError."""
        inputs, described = self.source.graph.interface.inputs, self.source.description
        return open_examples(data, inputs, self.preprocess, described, skip_bad=skip_bad, split="test")


def open_inputs(
    model: str | Source | nn.Module,
    options: InputOptions,
    recipe: Recipe,
    watch: Stopwatch,
    held_out: int = HELD_OUT_IMAGES,
) -> Inputs:
    """Reads the model and draws `recipe.calibration_images` (see `data.held_out`), and others to measure on.

    Args:
        model: as for `pipeline.compile`.
        held_out: how many others, at most.

    Raises:
        InputError: the model or the images cannot be used, or do not fit each other.
        CheckError: the canonical graph does not compute what the model does.
    """
    with watch.stage("trace"):
        source = _source(model, options)
        preprocess = _preprocess(source, options.preprocess)
        if recipe.uint8_input:
            source = _taking_pixels(source, preprocess)
        gc.collect()  # tracing leaves cycles that hold the weights several times over
    calib = _calib(options.calib, model)
    with watch.stage("read images"):
        draw = partial(
            draw_examples, calib, source.graph.interface.inputs, preprocess, source.description,
            seed=recipe.seed, skip_bad=options.skip_bad_images, minimum=2,
        )  # fmt: skip
        images, others = open_apart(lambda limit: draw(limit=limit), recipe.calibration_images, held_out)
        if isinstance(images, ImageSet):
            _require_size(images.preprocess, source)
    static = source.graph.static_batch
    batches = Batches(images, static or recipe.batch_size, static is not None)
    with watch.stage("run original"):
        few = list(batches.sample(TRUTH_IMAGES, recipe.seed).arrays())
        given = [_normalized(batch, preprocess) for batch in few] if recipe.uint8_input else few
        original, truth = compare_with_original(source, given, few)
    task = task_of(source.graph.interface, recipe.task)
    return Inputs(source, task, preprocess, batches, others, original, truth)


def _source(model: str | Source | nn.Module, options: InputOptions) -> Source:
    if isinstance(model, Source):
        return model
    if isinstance(model, str):
        return load_model(
            model, checkpoint=options.checkpoint, pretrained=options.pretrained, input_shapes=options.input_shapes
        )
    from qvit_deploy.frontend.original import TorchOriginal
    from qvit_deploy.frontend.torch_module import exported, from_torch

    if options.preprocess is None:
        raise InputError("a torch module does not say how its images are prepared; pass preprocess=Preprocess(...)")
    name, size = type(model).__name__, options.preprocess.input_size
    original = TorchOriginal(lambda: model, lambda module: exported(module, size, name))
    return Source(from_torch(model, size, name), None, f"torch module {name}", original)


def _preprocess(source: Source, override: Preprocess | None) -> Preprocess | None:
    """Returns how pictures are prepared, or None: then only ready tensors will do."""
    if override is not None or source.preprocess is None:
        return override
    channels = source.graph.interface.image_size[0]
    if channels not in (1, 3):  # what the source says is about pictures
        return None
    return Preprocess.model_validate(source.preprocess)


def _taking_pixels(source: Source, preprocess: Preprocess | None) -> Source:
    """Returns the model with its normalization inside. Raises InputError."""
    if preprocess is None:
        raise InputError(
            "--uint8-input puts the normalization of pixels into the files, and nothing says what it is: pass "
            "--preprocess F.json with input_size, mean and std"
        )
    try:
        _require_size(preprocess, source)
        return replace(source, graph=with_pixel_input(source.graph, preprocess.mean, preprocess.std))
    except InputError as error:
        raise InputError(f"--uint8-input: {error}") from None


def _normalized(pixels: Examples[np.ndarray], preprocess: Preprocess | None) -> Examples[np.ndarray]:
    """Returns examples as the model takes them that has no normalization inside."""
    assert preprocess is not None
    images = preprocess.normalized(pixels.arrays[IMAGE])
    return replace(pixels, arrays={**pixels.arrays, IMAGE: images})


def _require_size(preprocess: Preprocess, source: Source) -> None:
    """Raises InputError if images are not prepared to the size of the model's."""
    prepared, takes = preprocess.input_size, source.graph.interface.image_size
    if prepared != takes:
        raise InputError(
            f"preprocessing makes {'x'.join(map(str, prepared))} images, the model takes {'x'.join(map(str, takes))} "
            "(channels x height x width)"
        )


def _calib(calib: str | None, model: object) -> str:
    """Returns the DATA to calibrate on; the demo models bring theirs."""
    if calib is not None:
        return calib
    if isinstance(model, str) and model.startswith("demo:"):
        return "demo:fashion-mnist"
    raise InputError("calibration images are needed: pass --calib with an image folder or an .npz file")
