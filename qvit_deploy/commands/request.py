"""What `compile` and `sweep` are told alike: the choices of a recipe, a model's weights and its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qvit_deploy.errors import InputError
from qvit_deploy.pipeline.input_options import InputOptions
from qvit_deploy.recipe import Recipe
from qvit_deploy.targets.registry import with_known_targets


@dataclass(frozen=True)
class CompileRequest:
    """What a model is compiled with.

    Attributes:
        choices: fields of the recipe, which override the TOML file `recipe`, which overrides those of `effort`.
        options: how the model and its images are read.
        cache: folder for results of stages.
    """

    choices: Mapping[str, Any] = field(default_factory=dict)
    recipe: Path | None = None
    effort: str | None = None
    options: InputOptions = field(default_factory=InputOptions)
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


@dataclass(frozen=True)
class SweepRequest(CompileRequest):
    """What the models of a sweep are compiled with.

    Attributes:
        lists: field of the recipe -> its values, for budgets, uniform widths and scores; `choices` are shared by all.
    """

    lists: Mapping[str, Sequence[Any]] = field(default_factory=dict)
