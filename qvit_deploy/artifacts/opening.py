"""Identifies what is at a path of the command line: a bundle, an engine, or any other file, assumed to be ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qvit_deploy.artifacts.bundle import Bundle, read_bundle
from qvit_deploy.artifacts.engine_record import ENGINE_SUFFIXES
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import BundleError, InputError
from qvit_deploy.graph.interface import Input, with_given_name
from qvit_deploy.validation import validated


@dataclass(frozen=True)
class OnnxFile:
    """A file outside of a bundle, not read yet."""

    path: Path


@dataclass(frozen=True)
class EngineFile:
    """An engine by its name; `read_engine` checks it."""

    path: Path


def artifact_at(path: Path) -> Bundle | OnnxFile | EngineFile:
    """Returns the bundle at `path`, with its digests checked, or the kind of the file there.

    Raises:
        InputError: nothing is there.
        BundleError: the folder is no bundle, or a damaged one.
    """
    if path.is_dir():
        return read_bundle(path)
    if not path.is_file():
        raise InputError(f"no bundle, .onnx file or engine at {path}")
    return EngineFile(path) if path.suffix in ENGINE_SUFFIXES else OnnxFile(path)


def model_at(path: Path) -> Bundle | OnnxFile:
    """Returns the bundle or the ONNX file at `path`.

    Raises:
        InputError: nothing is there, or it is an engine.
        BundleError: the folder is no bundle, or a damaged one.
    """
    if not path.exists():
        raise InputError(f"no bundle or .onnx file at {path}")
    artifact = artifact_at(path)
    if isinstance(artifact, EngineFile):
        raise InputError(f"{path} is an engine; name the bundle or the .onnx file it was built from")
    return artifact


def preprocess_of(model: Bundle | OnnxFile, override: Preprocess | None) -> Preprocess | None:
    """Returns how the images of a model are prepared: `override`, or else what the bundle records; None where nothing
    says so, and only ready tensors will do.

    Raises:
        BundleError: the bundle's record is not valid.
    """
    if override is not None or isinstance(model, OnnxFile):
        return override
    if (recorded := model.manifest.source.get("preprocess")) is None:
        return None
    return validated(Preprocess, recorded, f"bundle {model.root}: its preprocessing", BundleError)


def inputs_for_data(model: Bundle | OnnxFile, inputs: tuple[Input, ...]) -> tuple[Input, ...]:
    """Returns the inputs of a file of `model` as DATA may call them: a bundle knows what the model that was handed in
    calls the image."""
    return inputs if isinstance(model, OnnxFile) else with_given_name(inputs, model.manifest.image_name)
