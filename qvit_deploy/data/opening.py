"""Opens DATA of the command line for a model: pictures, which are prepared for it, or ready tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qvit_deploy.data.example_set import ExampleSet, draw
from qvit_deploy.data.folder import ready_files
from qvit_deploy.data.images import ImageSet, locate, open_drawn
from qvit_deploy.data.npz import Split, check_images, element_name, is_ready, read_arrays, read_labels
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.data.ready import TensorSet, fitted_examples, tensors_of_file, tensors_of_folder
from qvit_deploy.errors import InputError
from qvit_deploy.graph.interface import Input


def open_examples(
    spec: str,
    inputs: tuple[Input, ...],
    preprocess: Preprocess | None,
    model: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    split: Split = "calib",
) -> ExampleSet:
    """Opens DATA: an image folder, an `.npz`, `demo:fashion-mnist`, or ready tensors; see `draw_examples`."""
    examples, drawn = draw_examples(
        spec, inputs, preprocess, model, limit=limit, seed=seed, skip_bad=skip_bad, split=split
    )
    return examples if len(drawn) == len(examples) else examples.take(np.sort(drawn))


def draw_examples(
    spec: str,
    inputs: tuple[Input, ...],
    preprocess: Preprocess | None,
    model: str,
    *,
    limit: int | None,
    seed: int,
    skip_bad: bool,
    split: Split = "calib",
    minimum: int = 1,
) -> tuple[ExampleSet, NDArray[np.intp]]:
    """Returns (all that DATA lists, the indices of the examples drawn from it, in the order in which they were drawn).

    Ready are a `.npy` file, a folder of them, and an `.npz` with an array for every input by its name; the image's may
    be called `images`, or as in the model's own file, and may be pictures (uint8), which are prepared. The others are
    those of `open_images`.

    Args:
        inputs: of the model.
        preprocess: how its images are prepared; None where that is not known, and only ready tensors will do.
        model: describes it, for messages.

    Raises:
        InputError: as `open_drawn`; values are not what an input takes; or pictures come without preprocessing.
    """
    image = next((value for value in inputs if value.kind == "image"), inputs[0])
    if preprocess is not None:
        preprocess = preprocess.taken_by(image)
    ready = _ready(locate(spec), inputs, preprocess, split)
    if ready is not None:
        if len(ready) < minimum:
            raise InputError(f"at least {minimum} images are needed, {spec} gives {len(ready)}; add images")
        if limit is None:
            return ready, np.arange(len(ready))
        if limit < 1:
            raise InputError(f"the number of images must be at least 1, got {limit}")
        return ready, draw(len(ready), ready.labels, seed)[:limit]
    if others := [value.name for value in inputs if value is not image]:
        raise InputError(
            f"{model} takes {', '.join(others)} besides {image.name}, and {spec} has no values for them; pass an .npz "
            "with an array of each name"
        )
    if preprocess is None and len(image.shape) == 4 and image.shape[1] not in (1, 3):
        raise InputError(
            f"{model} takes {image.shape[1]} channels, which pictures do not have; pass ready tensors (.npy, or float "
            ".npz) as DATA"
        )
    if preprocess is None:
        raise InputError(
            f"{model} does not say how its images are prepared; pass --preprocess F.json with input_size, mean and "
            "std, or ready tensors (.npy, or float .npz) as DATA"
        )
    return open_drawn(spec, preprocess, limit=limit, seed=seed, skip_bad=skip_bad, split=split, minimum=minimum)


def pictures(examples: ExampleSet, purpose: str) -> ImageSet:
    """Returns a set of pictures as one. Raises InputError, which begins with `purpose`, if it is of ready tensors."""
    if not isinstance(examples, ImageSet):
        raise InputError(f"{purpose} needs images that are prepared here: ready tensors have no pixels to look at")
    return examples


def _ready(path: Path, inputs: tuple[Input, ...], preprocess: Preprocess | None, split: Split) -> ExampleSet | None:
    if path.is_dir():
        files = ready_files(path)
        return tensors_of_folder(files, inputs) if files else None
    if path.suffix.lower() == ".npy":
        return tensors_of_file(path, inputs)
    named = [name for value in inputs for name in _names(value) if name != "images"]
    if not is_ready(path, split, named):
        return None
    return _of_archive(path, inputs, preprocess, split)


def _names(value: Input) -> tuple[str, ...]:
    """Returns what an input's array may be called in an archive, the first that is there counts."""
    given = () if value.given_name is None else (value.given_name,)
    return (value.name, *given, *(("images",) if value.kind == "image" else ()))


def _of_archive(path: Path, inputs: tuple[Input, ...], preprocess: Preprocess | None, split: Split) -> ExampleSet:
    arrays = read_arrays(path, split)
    named: dict[str, NDArray[Any]] = {}
    for value in inputs:
        key = next((k for k in _names(value) if k in arrays), None)
        if key is None:
            raise InputError(
                f"{path} has no array for the input {(value.given_name or value.name)!r} "
                f"(it has {', '.join(arrays) or 'nothing'})"
            )
        named[value.name] = arrays[key]
    image = next((value for value in inputs if value.kind == "image"), None)
    if image is None or preprocess is None or not _are_pictures(named[image.name], image):
        examples = fitted_examples(f"{path}", named, inputs)
        names, labels, class_names, maps = _described(path, split, len(examples))
        return TensorSet(examples, names, labels, class_names, label_maps=maps)
    prepared = check_images(path, image.given_name or image.name, named.pop(image.name))
    others = fitted_examples(f"{path}", named, tuple(i for i in inputs if i is not image)) if named else None
    if others is not None and len(prepared) != len(others):
        raise InputError(f"{path} has {len(prepared)} images and {len(others)} values of {', '.join(named)}")
    names, labels, class_names, maps = _described(path, split, len(prepared))
    return ImageSet(prepared, names, preprocess, labels, class_names, label_maps=maps, others=others)


def _are_pictures(array: NDArray[Any], image: Input) -> bool:
    """Returns whether images have to be prepared: pixels, unless the input takes them in this very form."""
    return array.dtype == np.uint8 and (image.dtype != ir.DataType.UINT8 or array.shape[1:] != image.shape[1:])


def _described(
    path: Path, split: Split, count: int
) -> tuple[tuple[str, ...], NDArray[np.int64] | None, tuple[str, ...] | None, Path | None]:
    """Returns (names, classes, names of classes, the archive if it has label maps) of the `count` examples in it."""
    labels, class_names, maps = read_labels(path, split, count)
    return tuple(element_name("images", i) for i in range(count)), labels, class_names, path if maps else None
