"""Options that are fields of the recipe: their type, help and default are the field's, written once."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from qvit_deploy.cli import options
from qvit_deploy.cli.options import RECIPE_OPTIONS, Choices, RecipeOption, recipe_options
from qvit_deploy.errors import InputError
from qvit_deploy.recipe import BUDGETS, Recipe
from qvit_deploy.targets.registry import TARGETS


def chosen(*arguments: object, sweep: bool = False) -> Choices:
    """What a command gets for these arguments."""
    app, got = typer.Typer(pretty_exceptions_enable=False), []

    @app.command()
    @recipe_options(sweep=sweep)
    def command(model: Annotated[str, typer.Argument()], *, choices: Choices, after: int = 3) -> None:
        """Some command."""
        assert model == "m" and after == 3
        got.append(choices)

    result = CliRunner().invoke(app, ["m", *map(str, arguments)], catch_exceptions=False, standalone_mode=False)
    assert result.exit_code == 0, result.output
    return got[0]


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        ([], {}),
        (["--mean-bits", 4.5, "--max-size", 12], {"mean_bits": 4.5, "max_size_mb": 12.0}),
        (["--bits", "2,8"], {"bits": (2, 8)}),
        (["--separate-bits"], {"separate_bits": True}),
        (["--shared-bits"], {"separate_bits": False}),
        (["--images", 8, "--score", "lrp"], {"calibration_images": 8, "score": "lrp"}),
        (["--target", "openvino", "--target", "tensorrt"], {"targets": ["openvino", "tensorrt"]}),
    ],
)
def test_options_are_fields_of_the_recipe(arguments: list[object], fields: dict[str, Any]) -> None:
    choices = chosen(*arguments)
    assert dict(choices.fields) == fields and not choices.lists
    recipe = Recipe.load(None, **choices.fields)
    assert all(getattr(recipe, n) == v for n, v in fields.items() if n != "targets")


def test_a_sweep_takes_lists_of_budgets_and_scores() -> None:
    choices = chosen("--mean-bits", "4,5.5", "--uniform", "w4a4,w8a8", "--score", "lrp", "--images", 8, sweep=True)
    assert choices.lists == {"mean_bits": [4.0, 5.5], "uniform": ["w4a4", "w8a8"], "score": ["lrp"]}
    assert choices.fields == {"calibration_images": 8}


def test_lists_that_are_none_are_refused_with_the_name_of_the_option() -> None:
    with pytest.raises(InputError, match=r"--max-size '1;2': give numbers separated by commas, e\.g\. 4,4\.5,5"):
        chosen("--max-size", "1;2", sweep=True)
    with pytest.raises(InputError, match=r"--bits '4-8': give whole numbers separated by commas"):
        chosen("--bits", "4-8")


def test_every_option_is_a_field_with_words_and_every_budget_has_one() -> None:
    fields = [o.field for o in RECIPE_OPTIONS]
    assert len(set(fields)) == len(fields) and set(BUDGETS) <= set(fields)
    for option in RECIPE_OPTIONS:
        words = Recipe.model_fields[option.field].description
        assert words and words in option.parameter(False).annotation.__metadata__[0].help


def test_one_line_makes_any_field_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    added = (RecipeOption("attention"), RecipeOption("fold_clip"), RecipeOption("fold", "--fold/--no-fold"))
    monkeypatch.setattr(options, "RECIPE_OPTIONS", (*RECIPE_OPTIONS, *added))
    choices = chosen("--attention", "integer", "--fold-clip", "4", "--no-fold")
    recipe = Recipe.load(None, **choices.fields)
    assert (recipe.attention, recipe.fold_clip, recipe.fold) == ("integer", 4.0, False)


def test_the_help_of_targets_names_them_all() -> None:
    (option,) = [o for o in RECIPE_OPTIONS if o.field == "targets"]
    text = option.parameter(several=False).annotation.__metadata__[0].help
    assert all(name in text for name in TARGETS) and "default" not in text
