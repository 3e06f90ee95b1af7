"""Layers that a recipe names."""

from __future__ import annotations

import pytest

from qvit_deploy.allocate.choose import choose, site_options
from qvit_deploy.allocate.cost import Allocation, Option, SiteCost, total_cost
from qvit_deploy.allocate.patterns import fixed_width, kept_in_float, require_matches
from qvit_deploy.errors import BudgetError, InputError
from qvit_deploy.formats.integer import Int
from qvit_deploy.recipe import Recipe

NAMES = ("patch", "blocks.0.fc1", "blocks.0.fc2", "blocks.1.fc1", "blocks.1.fc2", "head")
ENDS = (NAMES[0], NAMES[-1])


def test_a_pattern_is_a_glob_on_module_paths() -> None:
    recipe = Recipe(keep_float=("head*", "*.fc2"), widths=("blocks.*=w4a8", "blocks.1.*=w8a8"))
    assert kept_in_float(recipe, NAMES) == {"head", "blocks.0.fc2", "blocks.1.fc2"}
    assert fixed_width(recipe, "blocks.0.fc1") == (4, 8)
    assert fixed_width(recipe, "blocks.1.fc1") == (8, 8)  # the last that matches
    assert fixed_width(recipe, "head") is None


def test_what_matches_nothing_is_one_line_with_names_that_are_near() -> None:
    with pytest.raises(InputError, match=r"--keep-float 'hed' matches no layer; of 6 these are near: head"):
        require_matches(Recipe(keep_float=("hed",)), NAMES, NAMES)
    with pytest.raises(InputError, match=r"--width 'blocks.2.\*' matches no layer; of 6 these are near: blocks"):
        require_matches(Recipe(widths=("blocks.2.*=w8a8",)), NAMES, NAMES)
    with pytest.raises(
        InputError, match=r"--width '\*.qk' matches no layer but attention products, which stay in float"
    ):
        require_matches(Recipe(widths=("*.qk=w8a8",)), (*NAMES, "blocks.0.qk"), NAMES)
    require_matches(Recipe(keep_float=("*.qk",), widths=("head=w8a8",)), (*NAMES, "blocks.0.qk"), NAMES)


@pytest.mark.parametrize("text", ["head", "head=w9a9", "=w8a8", "head=float"])
def test_a_width_needs_a_pattern_and_a_width(text: str) -> None:
    with pytest.raises(InputError, match="w8a8"):
        Recipe.load(None, widths=[text])


@pytest.mark.parametrize("goal", [{"uniform": "w4a4"}, {"mean_bits": 4}])
def test_a_named_width_wins_over_every_other_choice(goal: dict[str, object]) -> None:
    recipe = Recipe.model_validate({**goal, "widths": ("head=w2a3", "blocks.0.fc1=w8a8")})
    options = site_options(recipe, NAMES, ENDS)
    assert options["head"] == (Option(Int(2), Int(3)),) and options["blocks.0.fc1"] == (Option(Int(8), Int(8)),)
    assert options["patch"] == (Option(Int(8), Int(8)),)  # first_last_bits


def test_the_first_and_the_last_are_those_of_the_model_whatever_stays_in_float() -> None:
    recipe = Recipe(mean_bits=4, keep_float=("head",))
    assert len(site_options(recipe, NAMES[:-1], ENDS)["blocks.1.fc2"]) == 3


def chosen(recipe: Recipe, costs: list[SiteCost]) -> Allocation:
    names = [c.name for c in costs if c.name not in recipe.keep_float]
    options = site_options(recipe, names, ENDS)
    loss = {n: {o: 4.0**-o.w_bits for o in options[n]} for n in names}
    return choose(recipe, costs, options, loss)


COSTS = [SiteCost(name, 1000, 10_000, 50, in_means=name != "head") for name in NAMES]


def test_a_size_counts_what_stays_in_float_at_32_bits() -> None:
    """8 bits at the first, 32 at the last, and what is left of 10,000 bytes for the four between."""
    recipe = Recipe(max_size_mb=0.0085, keep_float=("head",), bits=(4, 6, 8))
    allocation = chosen(recipe, COSTS)
    assert "head" not in allocation
    cost = total_cost(COSTS, allocation)
    assert 8000 < cost.weight_bytes <= 8500
    assert cost.weight_bytes == 4000 + sum(o.w_bits * 1000 for o in allocation.values()) // 8
    assert cost.mean_w_bits == sum(o.w_bits for o in allocation.values()) / 5
    with pytest.raises(BudgetError, match=r"smallest possible is 0.007 MB .*fixed: patch at w8; in float: head"):
        chosen(Recipe(max_size_mb=0.005, keep_float=("head",)), COSTS)


def test_budgets_together_name_what_is_needed_with_what_stays_in_float() -> None:
    costs = [SiteCost(n, 1000, 10_000, 50, in_means=n != "head") for n in NAMES]
    recipe = Recipe(mean_bits=4, max_bitops_g=0.0116, max_size_mb=0.0071, keep_float=("head",))
    cost = total_cost(costs, chosen(recipe, costs))
    assert cost.bitops == 10_000 * (32 * 32 + 64 + 4 * 16) and cost.weight_bytes == 7000


def test_a_named_width_is_in_no_mean_but_in_the_size() -> None:
    allocation = chosen(Recipe(mean_bits=4, widths=("blocks.0.fc1=w8a8",)), COSTS)
    assert [o.w_bits for o in allocation.values()] == [8, 8, 4, 4, 4, 8]
