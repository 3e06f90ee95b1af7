"""Opens the inputs of the ImageNet table, images and models with weights, and checks them before the first run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from qvit_deploy.data.folder import list_folder
from qvit_deploy.errors import InputError
from qvit_deploy.frontend import Source, load_model
from qvit_deploy.frontend.checkpoint import load_weights
from qvit_deploy.frontend.timm_model import create, parse_spec
from tools.paper.published_imagenet import MODELS, PaperModel


@dataclass(frozen=True)
class ImageNet:
    """The two folders; `classes` counts the class folders of `val`, `digest` is of its images' names."""

    train: Path
    val: Path
    classes: int
    digest: str

    @classmethod
    def at(cls, root: Path) -> ImageNet:
        """Opens the data set at `root`. Raises InputError when a folder is missing or `val` has no classes."""
        train, val = root / "train", root / "val"
        if not train.is_dir():
            raise InputError(f"there is no folder {train}; IMAGENET needs train/ with images to calibrate on")
        if not val.is_dir():
            raise InputError(f"there is no folder {val}; IMAGENET needs val/ with one sub-folder of images per class")
        listing = list_folder(val)
        if listing.class_names is None:
            raise InputError(f"{val} has no class folders with images; sort its images into one folder per class")
        digest = hashlib.sha256("\n".join(listing.names).encode("utf-8", "surrogateescape")).hexdigest()
        return cls(train, val, len(listing.class_names), digest[:16])


@dataclass(frozen=True)
class Model:
    """A timm model and its weights.

    Attributes:
        name: `NAME` or `NAME?key=value&...` with arguments of the model.
        checkpoint: None for the weights timm downloads.
    """

    name: str
    checkpoint: Path | None

    @property
    def paper(self) -> PaperModel | None:
        """The published numbers; None for a model that was changed by arguments."""
        return MODELS.get(self.name)

    @property
    def spec(self) -> str:
        """MODEL of the library, with the tag of the weights that the papers used: it decides the preprocessing too."""
        name, mark, arguments = self.name.partition("?")
        return f"timm:{name}.{MODELS[name].tag}{mark}{arguments}" if name in MODELS else f"timm:{self.name}"

    @cached_property
    def weights(self) -> str:
        """Which weights these are. Raises InputError."""
        if self.checkpoint is None:
            return parse_spec(self.spec)[0]
        try:
            return f"sha256 {hashlib.sha256(self.checkpoint.read_bytes()).hexdigest()[:16]}"
        except OSError as error:
            raise InputError(f"checkpoint {self.checkpoint} cannot be read: {error.strerror}") from None

    def check(self, data: ImageNet) -> None:
        """Raises InputError when timm has no such model, its checkpoint does not fit, or the classes do not."""
        module, _ = create(*parse_spec(self.spec))
        if module.num_classes != data.classes:
            raise InputError(
                f"{data.val} has {data.classes} class folders but {self.name} has {module.num_classes} outputs; "
                "every class needs its folder, be it empty"
            )
        if self.checkpoint is not None:
            load_weights(module, self.checkpoint)

    def load(self) -> Source:
        """Loads the model with its weights. Raises InputError."""
        return load_model(self.spec, checkpoint=self.checkpoint, pretrained=self.checkpoint is None)
