"""Choose bits for every site: the least loss that keeps the budget (multiple-choice knapsack, solved exactly)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from fractions import Fraction

from qvit_deploy.allocate.cost import Allocation, Budget, Measure, Option, SiteCost, limits
from qvit_deploy.allocate.knapsack import Knapsack, Row
from qvit_deploy.errors import BudgetError, InputError, NonFiniteError


def solve(
    sites: Sequence[SiteCost],
    options: Mapping[str, Sequence[Option]],
    loss: Mapping[str, Mapping[Option, float]],
    budget: Budget,
) -> dict[str, Option]:
    """One Option per site with the least total loss within `budget`, in the order of `sites`.

    The budget is kept exactly. The loss is the least there is, to 1e-11 of the largest difference between two options
    of one site; below that losses count as equal, and the most bits (w_bits + a_bits over all sites) win, then more
    bits for earlier sites. A site with one option is fixed. Losses are finite and need no common unit of cost.

    Raises BudgetError naming the smallest budget that can be met, NonFiniteError for a loss that is NaN or infinite,
    InputError for a site without options.
    """
    menu = _menu(sites, options)
    items = [(site, option) for site in sites for option in menu[site.name]]
    for site, option in items:
        if not math.isfinite(loss[site.name][option]):
            raise NonFiniteError(f"the loss of site {site.name!r} at {option.text} is not finite")
    if not sites:
        return {}

    bounds = limits(sites, budget)
    for measure, limit in bounds:
        lowest = _lowest(sites, menu, measure)
        if measure.total(sites, lowest) > limit:
            raise BudgetError(_too_small(sites, menu, budget, measure, lowest))

    groups = [len(menu[site.name]) for site in sites]
    rows = [_row(items, measure, limit) for measure, limit in bounds]
    order = {site.name: len(sites) - i for i, site in enumerate(sites)}
    # One bit anywhere outweighs every question of order.
    bits = {name: [o.w_bits + o.a_bits for o in choices] for name, choices in menu.items()}
    bit = 1 + sum(order[name] * (max(sums) - min(sums)) for name, sums in bits.items())
    prefer = [(bit + order[site.name]) * (o.w_bits + o.a_bits) for site, o in items]
    picks = Knapsack(groups, rows).least([loss[site.name][o] for site, o in items], prefer)
    if picks is None:
        raise BudgetError(_conflict(sites, items, groups, budget, bounds))
    return {items[i][0].name: items[i][1] for i in picks}


def _menu(sites: Sequence[SiteCost], options: Mapping[str, Sequence[Option]]) -> dict[str, list[Option]]:
    menu = {site.name: sorted(set(options[site.name])) for site in sites}
    if len(menu) != len(sites):
        raise InputError("two sites have the same name; names must be unique")
    for name, choices in menu.items():
        if not choices:
            raise InputError(f"site {name!r} has no bit widths to choose from")
    return menu


def _row(items: Sequence[tuple[SiteCost, Option]], measure: Measure, limit: int) -> Row:
    return Row(tuple(measure.count(site, option) for site, option in items), limit)


def _lowest(sites: Sequence[SiteCost], menu: Mapping[str, list[Option]], measure: Measure) -> dict[str, Option]:
    return {site.name: min(menu[site.name], key=lambda o: (measure.count(site, o), o)) for site in sites}


def _too_small(
    sites: Sequence[SiteCost],
    menu: Mapping[str, list[Option]],
    budget: Budget,
    measure: Measure,
    lowest: Allocation,
) -> str:
    """Names the smallest budget and what it consists of; sites the measure does not count are left out."""
    counted = [site.name for site in sites if measure.count(site, lowest[site.name])]
    free = [name for name in counted if len(menu[name]) > 1]
    fixed = [name for name in counted if len(menu[name]) == 1]
    widths = sorted({measure.bits(lowest[name]) for name in free})
    parts = [f"all sites at {' or '.join(widths)}"] if free else []
    if fixed:
        shown = ", ".join(f"{name} at {measure.bits(lowest[name])}" for name in fixed[:3])
        more = f" and {len(fixed) - 3} more" if len(fixed) > 3 else ""
        parts.append(f"fixed: {shown}{more}")
    smallest = _in_units(sites, measure, measure.total(sites, lowest))
    return f"{_wish(budget, measure)} cannot be met: the smallest possible is {smallest} ({'; '.join(parts)})"


def _conflict(
    sites: Sequence[SiteCost],
    items: Sequence[tuple[SiteCost, Option]],
    groups: Sequence[int],
    budget: Budget,
    bounds: Sequence[tuple[Measure, int]],
) -> str:
    """Each bound can be met, but not all of them; says how far each would have to move if the others stay."""
    hints = []
    for measure, _ in bounds:
        others = [_row(items, m, limit) for m, limit in bounds if m is not measure]
        counts = _row(items, measure, 0).counts
        picks = Knapsack(groups, others).least([float(c) for c in counts], [0] * len(items))
        if picks is not None:
            hints.append(f"{measure.label} of {_in_units(sites, measure, sum(counts[i] for i in picks))}")
    wishes = " and ".join(_wish(budget, measure) for measure, _ in bounds)
    return f"{wishes} cannot be met together: raise one to " + " or ".join(hints)


def _wish(budget: Budget, measure: Measure) -> str:
    return f"a budget of {getattr(budget, measure.field) / measure.unit:g}{measure.suffix} {measure.label}"


def _in_units(sites: Sequence[SiteCost], measure: Measure, count: int) -> str:
    """`count` in the user's unit with four digits, rounded up so that the number printed is a budget that works."""
    value = Fraction(count, measure.per_unit(sites) * measure.unit)
    place = Decimal(10) ** (math.floor(math.log10(value)) - 3) if value else Decimal(1)
    steps = math.ceil(value / Fraction(place))
    return f"{(steps * place).quantize(place, ROUND_CEILING).normalize():f}{measure.suffix}"
