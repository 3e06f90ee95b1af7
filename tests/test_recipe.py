from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from qvit_deploy.errors import InputError
from qvit_deploy.recipe import Recipe, parse_uniform


def test_a_toml_file_is_read_and_flags_win(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('bits = [8, 4, 4]\nscore = "relp"\nmean_bits = 4.5\nfirst_last_bits = 6\n')
    recipe = Recipe.load(path, mean_bits=5.0, score=None)
    assert (recipe.bits, recipe.score, recipe.mean_bits, recipe.first_last_bits) == ((4, 8), "relp", 5.0, 6)
    assert Recipe.load(path).mean_bits == 4.5
    assert Recipe.load(None) == Recipe()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("meanbits = 4", "r.toml: meanbits: Extra inputs are not permitted"),
        ("bits = [4, 9]", "r.toml: bits: bits must be between 2 and 8, e.g. 4,6,8"),
        ("bits = []", "r.toml: bits: bits must be between 2 and 8"),
        ('uniform = "w8a8"\nmean_bits = 4', "recipe: uniform and mean_bits exclude each other; give one"),
        ('uniform = "w9a8"', "r.toml: uniform: 'w9a8' is not a width like w8a8"),
        ('score = "magic"', "r.toml: score: Input should be 'lrp', 'relp', 'gradient', 'exact'"),
        ("max_latency_ms = 2", "recipe: max_latency_ms needs a latency_table measured on the device"),
        ("calibration_images = 1", "r.toml: calibration_images: Input should be greater than or equal to 2"),
        ("bits = [4,", "r.toml: not valid TOML: "),
    ],
)
def test_what_a_recipe_cannot_say_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        Recipe.load(path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_fault_of_the_command_line_is_not_laid_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('bits = [4, 8]\nscore = "magic"\n')
    for flags, words in (
        ({}, f"recipe {path}: score: Input should be"),
        ({"score": "lrp", "bits": (4, 9)}, "recipe: bits: bits must be between 2 and 8"),
        ({"seed": "one"}, "recipe: score: Input should be"),
    ):
        with pytest.raises(InputError) as caught:
            Recipe.load(path, **flags)
        assert str(caught.value).startswith(words)


def test_a_recipe_that_is_missing_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml: cannot be read"):
        Recipe.load(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.toml: not valid TOML"):
        Recipe.load(tmp_path / "binary.toml")


def test_the_digest_names_the_choices_and_stays_what_it_is() -> None:
    assert Recipe(bits=(8, 4)).digest() == Recipe(bits=(4, 8, 8)).digest()
    others = [Recipe(), Recipe(mean_bits=5), Recipe(seed=1), Recipe(score="relp"), Recipe(fold=False)]
    assert len({r.digest() for r in others}) == len(others)
    assert Recipe.model_validate_json(Recipe(mean_bits=5).model_dump_json()).digest() == Recipe(mean_bits=5).digest()
    with pytest.raises(ValidationError):
        setattr(Recipe(), "seed", 3)  # noqa: B010 - frozen, and mypy knows


@given(st.integers(2, 8), st.integers(2, 8))
def test_uniform_widths_read_back(w_bits: int, a_bits: int) -> None:
    assert parse_uniform(f"W{w_bits}a{a_bits}") == (w_bits, a_bits)


@pytest.mark.parametrize("text", ["w1a4", "w44", "4", "w4a4 ", "a4w4", ""])
def test_other_widths_do_not(text: str) -> None:
    with pytest.raises(ValueError, match="not a width like w8a8"):
        parse_uniform(text)


def test_an_effort_is_a_preset_that_explicit_choices_override(tmp_path: Path) -> None:
    assert Recipe.load(None, effort="default") == Recipe.load(None) == Recipe()
    assert Recipe.load(None, effort="fast").compensate == "bias"
    assert Recipe.load(None, effort="high").distill_epochs > 0
    path = tmp_path / "recipe.toml"
    path.write_text('compensate = "none"\n')
    assert Recipe.load(path, effort="fast").compensate == "none"
    assert Recipe.load(path, effort="fast", compensate="gptq").compensate == "gptq"
    with pytest.raises(InputError, match="fast, default, high"):
        Recipe.load(None, effort="most")
