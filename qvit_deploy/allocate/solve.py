"""Chooses the bits of every site: the least loss within the budget (multiple-choice knapsack, solved exactly)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from fractions import Fraction

from qvit_deploy.allocate.cost import Allocation, Budget, Option, Resource, SiteCost, limits
from qvit_deploy.allocate.knapsack import Knapsack, Row
from qvit_deploy.errors import BudgetError, InputError, NonFiniteError


def solve(
    sites: Sequence[SiteCost],
    options: Mapping[str, Sequence[Option]],
    loss: Mapping[str, Mapping[Option, float]],
    budget: Budget,
    in_float: Sequence[SiteCost] = (),
) -> dict[str, Option]:
    """Returns one Option per site with the least total loss within `budget`, in the order of `sites`.

    The budget is kept exactly. The loss is the least there is, to 1e-11 of the largest difference between two options
    of one site; below that losses count as equal, and the most bits (w_bits + a_bits over all sites) win, then more
    bits for earlier sites. A site with one option is fixed.

    Args:
        in_float: sites that stay in float, which use up a part of the budget.

    Raises:
        BudgetError: no allocation fits; the message names the smallest budget that can be met.
        NonFiniteError: a loss is NaN or infinite.
        InputError: a site has no options, or two have one name.
    """
    choices_of = _sorted_options(sites, options)
    items = [(site, option) for site in sites for option in choices_of[site.name]]
    for site, option in items:
        if not math.isfinite(loss[site.name][option]):
            raise NonFiniteError(f"the loss of site {site.name!r} at {option.text} is not finite")
    if not sites:
        return {}

    bounds = limits(sites, budget)
    for resource, limit in bounds:
        cheapest = _cheapest(sites, choices_of, resource)
        if resource.total([*sites, *in_float], cheapest) > limit:
            raise BudgetError(_too_small_text(sites, choices_of, budget, resource, cheapest, in_float))

    groups = [len(choices_of[site.name]) for site in sites]
    bounds = [(resource, limit - resource.total(in_float, {})) for resource, limit in bounds]
    rows = [_row(items, resource, limit) for resource, limit in bounds]
    order = {site.name: len(sites) - i for i, site in enumerate(sites)}
    # One bit anywhere outweighs every question of order.
    bits = {name: [o.w_bits + o.a_bits for o in choices] for name, choices in choices_of.items()}
    bit = 1 + sum(order[name] * (max(sums) - min(sums)) for name, sums in bits.items())
    prefer = [(bit + order[site.name]) * (o.w_bits + o.a_bits) for site, o in items]
    picks = Knapsack(groups, rows).minimize([loss[site.name][o] for site, o in items], prefer)
    if picks is None:
        raise BudgetError(_conflict_text(sites, items, groups, budget, bounds, in_float))
    return {items[i][0].name: items[i][1] for i in picks}


def _sorted_options(sites: Sequence[SiteCost], options: Mapping[str, Sequence[Option]]) -> dict[str, list[Option]]:
    choices_of = {site.name: sorted(set(options[site.name])) for site in sites}
    if len(choices_of) != len(sites):
        raise InputError("two sites have the same name; names must be unique")
    for name, choices in choices_of.items():
        if not choices:
            raise InputError(f"site {name!r} has no bit widths to choose from")
    return choices_of


def _row(items: Sequence[tuple[SiteCost, Option]], resource: Resource, limit: int) -> Row:
    return Row(tuple(resource.count(site, option) for site, option in items), limit)


def _cheapest(
    sites: Sequence[SiteCost], choices_of: Mapping[str, list[Option]], resource: Resource
) -> dict[str, Option]:
    return {site.name: min(choices_of[site.name], key=lambda o: (resource.count(site, o), o)) for site in sites}


def _too_small_text(
    sites: Sequence[SiteCost],
    choices_of: Mapping[str, list[Option]],
    budget: Budget,
    resource: Resource,
    cheapest: Allocation,
    in_float: Sequence[SiteCost],
) -> str:
    """Names the smallest budget and what it consists of; sites that do not use the resource are left out."""
    counted = [site.name for site in sites if resource.count(site, cheapest[site.name])]
    free = [name for name in counted if len(choices_of[name]) > 1]
    fixed = [name for name in counted if len(choices_of[name]) == 1]
    widths = sorted({resource.bits(cheapest[name]) for name in free})
    parts = [f"all sites at {' or '.join(widths)}"] if free else []
    if fixed:
        shown = ", ".join(f"{name} at {resource.bits(cheapest[name])}" for name in fixed[:3])
        more = f" and {len(fixed) - 3} more" if len(fixed) > 3 else ""
        parts.append(f"fixed: {shown}{more}")
    if floats := [site.name for site in in_float if resource.in_float(site)]:
        parts.append(f"in float: {', '.join(floats[:3])}" + (f" and {len(floats) - 3} more" if len(floats) > 3 else ""))
    smallest = _in_units(sites, resource, resource.total([*sites, *in_float], cheapest))
    return f"{_bound_text(budget, resource)} cannot be met: the smallest possible is {smallest} ({'; '.join(parts)})"


def _conflict_text(
    sites: Sequence[SiteCost],
    items: Sequence[tuple[SiteCost, Option]],
    groups: Sequence[int],
    budget: Budget,
    bounds: Sequence[tuple[Resource, int]],
    in_float: Sequence[SiteCost],
) -> str:
    """Says, where each bound can be met but not all together, how large each must be if the others stay."""
    hints = []
    for resource, _ in bounds:
        others = [_row(items, m, limit) for m, limit in bounds if m is not resource]
        counts = _row(items, resource, 0).counts
        picks = Knapsack(groups, others).minimize([float(c) for c in counts], [0] * len(items))
        if picks is not None:
            needed = sum(counts[i] for i in picks) + resource.total(in_float, {})
            hints.append(f"{resource.label} of {_in_units(sites, resource, needed)}")
    texts = " and ".join(_bound_text(budget, resource) for resource, _ in bounds)
    return f"{texts} cannot be met together: raise one to " + " or ".join(hints)


def _bound_text(budget: Budget, resource: Resource) -> str:
    return f"a budget of {getattr(budget, resource.field) / resource.unit:g}{resource.suffix} {resource.label}"


def _in_units(sites: Sequence[SiteCost], resource: Resource, count: int) -> str:
    """Writes `count` in the user's unit with four digits, rounded up: the number printed is a budget that works."""
    value = Fraction(count, resource.per_unit(sites) * resource.unit)
    place = Decimal(10) ** (math.floor(math.log10(value)) - 3) if value else Decimal(1)
    steps = math.ceil(value / Fraction(place))
    return f"{(steps * place).quantize(place, ROUND_CEILING).normalize():f}{resource.suffix}"
