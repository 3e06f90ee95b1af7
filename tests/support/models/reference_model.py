"""The DINOv2 reference, where it is present beside the repository; `tools/measure/reference.py` says what it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qvit_deploy.frontend import Source, load_model
from qvit_deploy.pipeline.compile import Compiled, compile
from qvit_deploy.recipe import Recipe
from tests.support.places import REPOSITORY
from tools.measure.reference import MODEL, PREPROCESS

FOLDER = REPOSITORY.parent / "shared" / "reference"


@dataclass(frozen=True)
class Reference:
    """The model, traced, the path of its images, and a folder for results of stages that its compiles share."""

    source: Source
    data: str
    cache: Path

    @classmethod
    def load(cls, cache: Path) -> Reference:
        source = load_model(MODEL, checkpoint=FOLDER / "dinov2_vits14_fmnist.safetensors")
        return cls(source, str(FOLDER / "fashion_mnist_dev.npz"), cache)

    def compile(self, out: Path, recipe: Recipe) -> Compiled:
        return compile(self.source, out, calib=self.data, recipe=recipe, preprocess=PREPROCESS, cache=self.cache)
