"""Options that are fields of the recipe: their type, help and default are the field's, written once."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from rich.markup import escape
from typer.testing import CliRunner

from qvit_deploy.cli import options
from qvit_deploy.cli.options import INPUT_OPTIONS, RECIPE_OPTIONS, REQUEST_OPTIONS, RecipeOption, request_options
from qvit_deploy.commands.request import CompileRequest, SweepRequest
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from qvit_deploy.pipeline.input_options import InputOptions
from qvit_deploy.recipe import BUDGETS, Recipe
from qvit_deploy.targets.registry import TARGETS


def requested(*arguments: object) -> CompileRequest:
    """What `compile` gets for these arguments."""
    app, got = typer.Typer(pretty_exceptions_enable=False), []

    @app.command()
    @request_options
    def command(model: Annotated[str, typer.Argument()], request: CompileRequest, after: int = 3) -> None:
        """Some command."""
        assert model == "m" and after == 3
        got.append(request)

    invoke(app, arguments)
    return got[0]


def requested_of_sweep(*arguments: object) -> SweepRequest:
    app, got = typer.Typer(pretty_exceptions_enable=False), []

    @app.command()
    @request_options
    def command(models: Annotated[list[str], typer.Argument()], request: SweepRequest) -> None:
        assert models == ["m"]
        got.append(request)

    invoke(app, arguments)
    return got[0]


def invoke(app: typer.Typer, arguments: tuple[object, ...]) -> None:
    result = CliRunner().invoke(app, ["m", *map(str, arguments)], catch_exceptions=False, standalone_mode=False)
    assert result.exit_code == 0, result.output


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
    request = requested(*arguments)
    assert request == CompileRequest(choices=fields)
    recipe = request.load_recipe()
    assert all(getattr(recipe, n) == v for n, v in fields.items() if n != "targets")


def test_a_sweep_takes_lists_of_budgets_and_scores() -> None:
    flags = ["--mean-bits", "4,5.5", "--uniform", "w4a4,w8a8", "--score", "lrp", "--images", 8, "--pretrained"]
    request = requested_of_sweep(*flags)
    assert request.options.pretrained
    assert request.lists == {"mean_bits": [4.0, 5.5], "uniform": ["w4a4", "w8a8"], "score": ["lrp"]}
    assert request.choices == {"calibration_images": 8}


def test_lists_that_are_none_are_refused_with_the_name_of_the_option() -> None:
    with pytest.raises(InputError, match=r"--max-size '1;2': give numbers separated by commas, e\.g\. 4,4\.5,5"):
        requested_of_sweep("--max-size", "1;2")
    with pytest.raises(InputError, match=r"--bits '4-8': give whole numbers separated by commas"):
        requested("--bits", "4-8")


def test_the_other_options_are_the_other_fields_of_a_request(tmp_path: Path) -> None:
    assert {*REQUEST_OPTIONS, "choices", "options"} == {f.name for f in dataclasses.fields(CompileRequest)}
    assert {*INPUT_OPTIONS} == {f.name for f in dataclasses.fields(InputOptions)}
    preprocess = Preprocess(input_size=(3, 8, 8), mean=(0.5,), std=(0.25,))
    (tmp_path / "p.json").write_text(preprocess.model_dump_json())
    of_inputs = ["--calib", "photos", "--checkpoint", "w.pt", "--pretrained", "--preprocess", tmp_path / "p.json"]
    of_inputs += ["--input-shape", "3x8x8", "--input-shape", "ids=4", "--skip-bad-images"]
    of_request = ["--recipe", "r.toml", "--effort", "fast", "--cache", "stages"]
    assert requested(*of_inputs, *of_request) == CompileRequest(
        {},
        Path("r.toml"),
        "fast",
        InputOptions("photos", Path("w.pt"), True, preprocess, {"": (3, 8, 8), "ids": (4,)}, True),
        Path("stages"),
    )


def test_every_option_is_a_field_with_words_and_every_budget_has_one() -> None:
    fields = [o.field for o in RECIPE_OPTIONS]
    assert len(set(fields)) == len(fields) and set(BUDGETS) <= set(fields)
    for option in RECIPE_OPTIONS:
        words = Recipe.model_fields[option.field].description
        assert words and escape(words) in option.parameter(False).annotation.__metadata__[0].help


def test_one_line_makes_any_field_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    added = (RecipeOption("attention"), RecipeOption("fold_clip"), RecipeOption("fold", "--fold/--no-fold"))
    monkeypatch.setattr(options, "RECIPE_OPTIONS", (*RECIPE_OPTIONS, *added))
    recipe = requested("--attention", "integer", "--fold-clip", "4", "--no-fold").load_recipe()
    assert (recipe.attention, recipe.fold_clip, recipe.fold) == ("integer", 4.0, False)


def test_the_help_of_targets_names_them_all() -> None:
    (option,) = [o for o in RECIPE_OPTIONS if o.field == "targets"]
    text = option.parameter(several=False).annotation.__metadata__[0].help
    assert all(name in text for name in TARGETS) and "default" not in text
