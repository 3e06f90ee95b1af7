"""What `compile` and `sweep` are told alike: the choices of a recipe, a model's weights and its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from qvit_deploy.recipe import Recipe
from qvit_deploy.targets.registry import with_known_targets


@dataclass(frozen=True)
class CompileRequest:
    """What a model is compiled with.

    Attributes:
        choices: fields of the recipe, which override the TOML file `recipe`, which overrides those of `effort`.
        preprocess: JSON that says how images are prepared.
        input_shape: shapes as `frontend.input_shapes` reads them.

    The others are those of `pipeline.compile`.
    """

    choices: Mapping[str, Any] = field(default_factory=dict)
    recipe: Path | None = None
    effort: str | None = None
    calib: str | None = None
    checkpoint: Path | None = None
    pretrained: bool = False
    preprocess: Path | None = None
    input_shape: Sequence[str] = ()
    skip_bad_images: bool = False
    cache: Path | None = None

    def load_recipe(self) -> Recipe:
        """Returns the recipe, with targets that exist. Raises InputError, which names the file where it is at fault."""
        recipe = Recipe.load(self.recipe, effort=self.effort, **self.choices)
        try:
            return with_known_targets(recipe)
        except InputError as error:
            if "targets" in self.choices:
                raise
            raise InputError(f"recipe {self.recipe}: targets: {error}") from None

    def load_preprocess(self) -> Preprocess | None:
        """Returns how images are prepared, or None for what the model's source says. Raises InputError."""
        return None if self.preprocess is None else Preprocess.from_file(self.preprocess)


@dataclass(frozen=True)
class SweepRequest(CompileRequest):
    """What the models of a sweep are compiled with.

    Attributes:
        lists: field of the recipe -> its values, for budgets, uniform widths and scores; `choices` are shared by all.
    """

    lists: Mapping[str, Sequence[Any]] = field(default_factory=dict)
