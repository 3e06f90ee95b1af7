"""A model on disk to be looked into: a bundle's float or quantized graph, or an ONNX file of any exporter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from qvit_deploy.artifacts.bundle import Bundle
from qvit_deploy.artifacts.manifest import FileRecord, Manifest
from qvit_deploy.artifacts.opening import model_at, preprocess_of
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import BundleError, InputError
from qvit_deploy.frontend.onnx_file import from_canonical, from_onnx
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import Site, find_sites
from qvit_deploy.targets.target import file_of


@dataclass(frozen=True, eq=False)
class ModelFile:
    """A graph and how its images are prepared.

    Attributes:
        path: the .onnx file.
        description: one line for reports.
        manifest: of the bundle that was opened; None for a single .onnx file.
    """

    path: Path
    graph: Graph
    preprocess: Preprocess | None
    description: str
    manifest: Manifest | None

    @property
    def prepared(self) -> Preprocess:
        """How pictures are prepared for it. Raises InputError where nothing says so."""
        if self.preprocess is None:
            raise InputError(
                f"{self.description} does not say how its images are prepared; pass --preprocess F.json with "
                "input_size, mean and std"
            )
        return self.preprocess

    @property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return FileRecord.of_file(self.path).sha256


def read_model(path: Path, target: str, preprocess: Preprocess | None) -> ModelFile:
    """Opens the file for `target` of the bundle at `path` (`FLOAT` for its float model), or the .onnx file there.

    Raises:
        InputError: nothing is there, or nothing says how images are prepared, or they do not fit the model.
        BundleError: the bundle is damaged, or has no such file.
    """
    artifact = model_at(path)
    preprocess = preprocess_of(artifact, preprocess)
    if isinstance(artifact, Bundle):
        file, manifest = artifact.path_of(file_of(target)), artifact.manifest
        description = f"{manifest.source.get('model', path.name)}, {target}"
        graph = replace(from_canonical(file), image_name=manifest.image_name)
        model = ModelFile(file, graph, preprocess, description, manifest)
    else:
        model = ModelFile(path, from_onnx(path, may_be_quantized=True), preprocess, path.name, None)
    if preprocess is None:
        return model
    prepared, takes = preprocess.input_size, model.graph.interface.image_size
    image = model.graph.interface.image
    assert image is not None
    if prepared != takes:
        raise InputError(
            f"preprocessing makes {'x'.join(map(str, prepared))} images, {model.path} takes {'x'.join(map(str, takes))}"
        )
    return replace(model, preprocess=preprocess.taken_by(image))


def quantized_sites(model: ModelFile) -> tuple[Site, ...]:
    """Returns the sites of a bundle's float graph that its plan quantizes.

    Raises:
        BundleError: there is none, or the float graph lacks one of them.
    """
    assert model.manifest is not None
    planned = {site.name for site in model.manifest.sites if site.w_bits is not None}
    if not planned:
        raise BundleError(f"bundle {model.path.parent}: its manifest lists no quantized layer")
    sites = tuple(s for s in find_sites(model.graph) if s.name in planned)
    if missing := planned - {s.name for s in sites}:
        raise BundleError(
            f"bundle {model.path.parent}: the float model has no layer {min(missing)!r}; compile the bundle again"
        )
    return sites
