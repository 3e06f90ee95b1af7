"""What lies at a path that a command is given: a bundle, an engine, or another file, which is taken for ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qvit_deploy.artifacts.bundle import Bundle, read_bundle
from qvit_deploy.artifacts.engine_record import ENGINE_SUFFIXES
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import BundleError, InputError
from qvit_deploy.validation import validated


@dataclass(frozen=True)
class OnnxFile:
    """A lone file, which nobody has looked into yet."""

    path: Path


@dataclass(frozen=True)
class EngineFile:
    """An engine by its name; `read_engine` checks it."""

    path: Path


def artifact_at(path: Path) -> Bundle | OnnxFile | EngineFile:
    """The bundle at `path`, whose digests are checked, or the kind of the file there.

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
    """As `artifact_at`, of what a command runs or reads itself: an engine is refused too."""
    if not path.exists():
        raise InputError(f"no bundle or .onnx file at {path}")
    artifact = artifact_at(path)
    if isinstance(artifact, EngineFile):
        raise InputError(f"{path} is an engine; name the bundle or the .onnx file it was built from")
    return artifact


def preprocess_of(model: Bundle | OnnxFile, given: Preprocess | None) -> Preprocess:
    """How the images of a model are prepared: as `given`, else as the bundle says.

    Raises:
        InputError: nothing says it.
    """
    if given is not None:
        return given
    if isinstance(model, OnnxFile):
        raise InputError(f"{model.path} does not say how its images are prepared; pass --preprocess F.json")
    said = model.manifest.source.get("preprocess")
    return validated(Preprocess, said, f"bundle {model.root}: its preprocessing", BundleError)
