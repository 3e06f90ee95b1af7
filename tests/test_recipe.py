from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from qvit_deploy.allocate.choose import DEFAULT_MEAN_BITS, choose, site_options
from qvit_deploy.allocate.cost import Allocation, Option, SiteCost, total_cost
from qvit_deploy.errors import BudgetError, InputError
from qvit_deploy.formats.integer import Int
from qvit_deploy.recipe import Recipe, parse_uniform

NAMES = ("patch", "a", "b", "c", "d", "head")
COSTS = [SiteCost(name, 100 * (i + 1), 10_000, 50) for i, name in enumerate(NAMES)]


def allocate(recipe: Recipe, names: tuple[str, ...] = NAMES) -> Allocation:
    """With losses that fall with bits, most of all at `b`."""
    options = site_options(recipe, names, names)
    loss = {n: {o: (1e4 if n == "b" else 1.0) * 4.0 ** -min(o.w_bits, o.a_bits) for o in options[n]} for n in names}
    return choose(recipe, [c for c in COSTS if c.name in names], options, loss)


def widths(allocation: Allocation) -> list[int]:
    return [o.w_bits for o in allocation.values()]


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
        ("meanbits = 4", "recipe: meanbits: Extra inputs are not permitted"),
        ("bits = [4, 9]", "recipe: bits: bits must be between 2 and 8, e.g. 4,6,8"),
        ("bits = []", "recipe: bits: bits must be between 2 and 8"),
        ('uniform = "w8a8"\nmean_bits = 4', "recipe: uniform and mean_bits exclude each other; give one"),
        ('uniform = "w9a8"', "recipe: uniform: 'w9a8' is not a width like w8a8"),
        ('score = "magic"', "recipe: score: Input should be 'lrp', 'relp', 'gradient', 'exact'"),
        ("max_latency_ms = 2", "recipe: max_latency_ms needs a latency_table measured on the device"),
        ("calibration_images = 1", "recipe: calibration_images: Input should be greater than or equal to 2"),
        ("bits = [4,", "r.toml: not valid TOML: "),
    ],
)
def test_what_a_recipe_cannot_say_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        Recipe.load(path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


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


def test_the_first_and_the_last_site_keep_8_bits() -> None:
    allocation = allocate(Recipe(mean_bits=4))
    assert widths(allocation) == [8, 4, 4, 4, 4, 8]
    assert widths(allocate(Recipe(uniform="w4a4"))) == [8, 4, 4, 4, 4, 8]
    assert widths(allocate(Recipe(mean_bits=4, first_last_bits=None))) == [4] * 6
    assert widths(allocate(Recipe(uniform="w4a4"), ("a", "b"))) == [4, 4]  # too few to leave any


def test_weightless_sites_do_not_count_as_first_or_last() -> None:
    options = site_options(Recipe(), ["qk", "patch", "a", "head", "av"], ["patch", "a", "head"])
    assert [len(options[n]) for n in ("qk", "patch", "a", "head", "av")] == [3, 1, 3, 1, 3]


def test_separate_bits_offer_every_pair_to_the_free_sites() -> None:
    options = site_options(Recipe(bits=(3, 5), separate_bits=True), NAMES, NAMES)
    assert options["a"] == (
        Option(Int(3), Int(3)),
        Option(Int(3), Int(5)),
        Option(Int(5), Int(3)),
        Option(Int(5), Int(5)),
    )
    assert options["patch"] == options["head"] == (Option(Int(8), Int(8)),)
    assert site_options(Recipe(uniform="w4a8", separate_bits=True), NAMES, NAMES)["a"] == (Option(Int(4), Int(8)),)


def test_separate_bits_can_meet_what_shared_bits_cannot() -> None:
    """Weights of `a` matter, its activations do not."""
    costs = [SiteCost(n, 100, 100, 100) for n in ("a", "b")]
    loss = {Option(Int(w), Int(a)): 4.0**-w for w in (4, 8) for a in (4, 8)}
    recipe = Recipe(bits=(4, 8), separate_bits=True, max_bitops_g=2 * 100 * 4 * 8 / 1e9)
    options = site_options(recipe, ["a", "b"], ["a", "b"])
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
