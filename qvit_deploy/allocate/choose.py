"""Turns a recipe into an allocation: which options each site has, and the budget they must fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import product

from qvit_deploy.allocate.cost import Allocation, Budget, Option, SiteCost
from qvit_deploy.allocate.patterns import fixed_width
from qvit_deploy.allocate.solve import solve
from qvit_deploy.formats.integer import Int
from qvit_deploy.recipe import Recipe, parse_uniform

DEFAULT_MEAN_BITS = 6.0
"""The budget when the recipe names none."""


def site_options(recipe: Recipe, names: Sequence[str], ends: Collection[str]) -> dict[str, tuple[Option, ...]]:
    """Returns, by site name, the formats each site may get.

    Weights and activations of a site share one width, as in LRP-QViT, unless `separate_bits` lets them differ. The
    first weighted site and the last of each output get `first_last_bits`: they are small, and errors there are the
    image's and the answer's own. A width that the recipe gives by name wins.

    Args:
        names: all sites that are quantized, in graph order.
        ends: those first and last sites (`graph.sites.ends`), also if they stay in float.
    """
    if recipe.uniform is not None:
        free: tuple[Option, ...] = (Option(*map(Int, parse_uniform(recipe.uniform))),)
    elif recipe.separate_bits:
        free = tuple(Option(Int(w), Int(a)) for w, a in product(recipe.bits, repeat=2))
    else:
        free = tuple(Option(Int(b), Int(b)) for b in recipe.bits)
    options = dict.fromkeys(names, free)
    if recipe.first_last_bits is not None:
        fixed = Option(Int(recipe.first_last_bits), Int(recipe.first_last_bits))
        options |= {name: (fixed,) for name in ends if name in options}
    own = {name: fixed_width(recipe, name) for name in names}
    return options | {name: (Option(*map(Int, width)),) for name, width in own.items() if width is not None}


def require_feasible(recipe: Recipe, costs: Sequence[SiteCost], options: Mapping[str, tuple[Option, ...]]) -> None:
    """Raises BudgetError when no allocation can fit. Called before the long stages, so that they do not run in vain."""
    choose(recipe, costs, options, {name: dict.fromkeys(choices, 0.0) for name, choices in options.items()})


def choose(
    recipe: Recipe,
    costs: Sequence[SiteCost],
    options: Mapping[str, tuple[Option, ...]],
    loss: Mapping[str, Mapping[Option, float]],
) -> Allocation:
    """Returns the allocation with the least total loss within the recipe's budget.

    A mean counts the sites whose width is free to choose (published W4A4 results do not count an 8-bit first and
    last layer either); size, BitOps and latency count all, and size and BitOps also what stays in float.

    Args:
        costs: of all sites; one without options stays in float.
        loss: the score of every site at each of its options; any unit, as long as it is one.

    Raises:
        BudgetError: no allocation fits; the message names the smallest budget that one fits.
    """
    mean = recipe.mean_bits
    if mean is None and not recipe.has_budget and recipe.uniform is None:
        mean = DEFAULT_MEAN_BITS
    budget = Budget(
        mean_w_bits=mean,
        mean_a_bits=mean,
        max_weight_bytes=None if recipe.max_size_mb is None else recipe.max_size_mb * 1e6,
        max_bitops=None if recipe.max_bitops_g is None else recipe.max_bitops_g * 1e9,
        max_latency_ms=recipe.max_latency_ms,
    )
    open_to_choice = any(len(choices) > 1 for choices in options.values())
    quantized = [c for c in costs if c.name in options]
    counted = [replace(c, in_means=len(options[c.name]) > 1 or not open_to_choice) for c in quantized]
    return solve(counted, options, loss, budget, [c for c in costs if c.name not in options])
