"""From a recipe to formats: what each site may get, and what the budget counts."""

from __future__ import annotations

import pytest

from qvit_deploy.allocate.choose import DEFAULT_MEAN_BITS, choose, require_feasible, site_options
from qvit_deploy.allocate.cost import Allocation, Option, SiteCost, total_cost
from qvit_deploy.errors import BudgetError, InputError
from qvit_deploy.formats.integer import Int
from qvit_deploy.recipe import Recipe

NAMES = ("patch", "a", "b", "c", "d", "head")
ENDS = ("patch", "head")
COSTS = [SiteCost(name, 100 * (i + 1), 10_000, 50) for i, name in enumerate(NAMES)]


def allocate(recipe: Recipe, names: tuple[str, ...] = NAMES) -> Allocation:
    """With losses that fall with bits, most of all at `b`."""
    options = site_options(recipe, names, ENDS)
    loss = {n: {o: (1e4 if n == "b" else 1.0) * 4.0 ** -min(o.w_bits, o.a_bits) for o in options[n]} for n in names}
    return choose(recipe, [c for c in COSTS if c.name in names], options, loss)


def widths(allocation: Allocation) -> list[int]:
    return [o.w_bits for o in allocation.values()]


def test_the_first_and_the_last_site_keep_8_bits() -> None:
    allocation = allocate(Recipe(mean_bits=4))
    assert widths(allocation) == [8, 4, 4, 4, 4, 8]
    assert widths(allocate(Recipe(uniform="w4a4"))) == [8, 4, 4, 4, 4, 8]
    assert widths(allocate(Recipe(mean_bits=4, first_last_bits=None))) == [4] * 6


def test_ends_that_are_weightless_or_in_float_fix_nothing_else() -> None:
    options = site_options(Recipe(), ["qk", "patch", "a", "head", "av"], ENDS)
    assert [len(options[n]) for n in ("qk", "patch", "a", "head", "av")] == [3, 1, 3, 1, 3]


def test_separate_bits_offer_every_pair_to_the_free_sites() -> None:
    options = site_options(Recipe(bits=(3, 5), separate_bits=True), NAMES, ENDS)
    assert options["a"] == (
        Option(Int(3), Int(3)),
        Option(Int(3), Int(5)),
        Option(Int(5), Int(3)),
        Option(Int(5), Int(5)),
    )
    assert options["patch"] == options["head"] == (Option(Int(8), Int(8)),)
    assert site_options(Recipe(uniform="w4a8", separate_bits=True), NAMES, ENDS)["a"] == (Option(Int(4), Int(8)),)


def test_separate_bits_can_meet_what_shared_bits_cannot() -> None:
    """Weights of `a` matter, its activations do not."""
    costs = [SiteCost(n, 100, 100, 100) for n in ("a", "b")]
    loss = {Option(Int(w), Int(a)): 4.0**-w for w in (4, 8) for a in (4, 8)}
    recipe = Recipe(bits=(4, 8), separate_bits=True, max_bitops_g=2 * 100 * 4 * 8 / 1e9)
    options = site_options(recipe, ["a", "b"], ())
    assert choose(recipe, costs, options, {"a": loss, "b": loss}) == {
        "a": Option(Int(8), Int(4)),
        "b": Option(Int(8), Int(4)),
    }


def test_without_a_budget_the_free_sites_average_six_bits() -> None:
    allocation = allocate(Recipe())
    free = [c for c in COSTS if c.name not in ("patch", "head")]
    cost = total_cost(free, allocation)
    assert DEFAULT_MEAN_BITS == 6 and cost.mean_w_bits <= 6 and cost.mean_a_bits <= 6
    assert allocation["b"] == Option(Int(8), Int(8))  # where bits help most
    assert cost.mean_w_bits > 5


@pytest.mark.parametrize("mean", [4, 4.5, 5, 7, 8])
def test_a_mean_is_kept_over_the_free_sites(mean: float) -> None:
    cost = total_cost([c for c in COSTS if c.name not in ("patch", "head")], allocate(Recipe(mean_bits=mean)))
    assert cost.mean_w_bits <= mean and cost.mean_a_bits <= mean


def test_size_and_bitops_count_all_sites() -> None:
    everything = total_cost(COSTS, allocate(Recipe(max_size_mb=0.0014)))
    assert everything.weight_bytes <= 1400
    assert total_cost(COSTS, allocate(Recipe(max_bitops_g=0.003))).bitops <= 3_000_000


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(mean_bits=3), r"a budget of 3 mean weight bits cannot be met: the smallest possible is 4 "),
        (Recipe(max_size_mb=0.0001), r"0\.0001 MB weight size cannot be met: the smallest possible is 0\.0014 MB"),
        (Recipe(max_bitops_g=1e-6), r"BitOps cannot be met: the smallest possible is 0\.00192 G"),
    ],
)
def test_an_impossible_budget_names_the_smallest(recipe: Recipe, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        allocate(recipe)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_is_a_positive_number(bad: float) -> None:
    with pytest.raises(InputError, match="must be a positive number"):
        allocate(Recipe(mean_bits=bad))


def test_whether_a_budget_can_be_met_is_known_without_losses() -> None:
    options = site_options(Recipe(), NAMES, ENDS)
    require_feasible(Recipe(mean_bits=4), COSTS, options)
    with pytest.raises(BudgetError, match="cannot be met"):
        require_feasible(Recipe(mean_bits=3.9), COSTS, options)
