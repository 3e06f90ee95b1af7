"""`solve` against every allocation there is, on instances small enough to list them all."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvit_deploy.allocate.cost import Budget, Option, SiteCost
from qvit_deploy.allocate.solve import solve
from qvit_deploy.errors import BudgetError, InputError, NonFiniteError
from qvit_deploy.formats.integer import Int

WIDTHS = [Option(Int(w), Int(a)) for w in (4, 6, 8) for a in (4, 6, 8)]
W4, W8 = Option(Int(4), Int(4)), Option(Int(8), Int(8))


def counts(sites, picks):
    """Weight bits, activation bits, BitOps, nanoseconds; written out again, not taken from the code under test."""
    pairs = list(zip(sites, picks, strict=True))
    return (
        sum(s.params * o.w_bits for s, o in pairs),
        sum(s.act_elements * o.a_bits for s, o in pairs),
        sum(s.macs * o.w_bits * o.a_bits for s, o in pairs),
        sum(s.latency_ns.get(o, 0) for s, o in pairs),
    )


def within(sites, picks, budget):
    w, a, ops, nanoseconds = counts(sites, picks)
    params, elements = sum(s.params for s in sites), sum(s.act_elements for s in sites)
    pairs = [
        (budget.mean_w_bits, w, params),
        (budget.mean_a_bits, a, elements),
        (budget.max_weight_bytes, w, 8),
        (budget.max_bitops, ops, 1),
        (budget.max_latency_ms, nanoseconds, 10**6),
    ]
    return all(b is None or count <= Fraction(str(b)) * unit for b, count, unit in pairs)


def every(sites, options):
    return itertools.product(*(options[s.name] for s in sites))


def rank(sites, picks, loss):
    """What `solve` promises to minimise: loss, then fewest bits, then bits on late sites."""
    bits = [o.w_bits + o.a_bits for o in picks]
    total = math.fsum(loss[s.name][o] for s, o in zip(sites, picks, strict=True))
    return total, -sum(bits), sum(i * b for i, b in enumerate(bits))


@st.composite
def problems(draw, losses, sizes):
    names = [f"s{i}" for i in range(draw(st.integers(1, 4)))]
    menus = st.lists(st.sampled_from(WIDTHS), min_size=1, max_size=5, unique=True)
    options = {name: draw(menus) for name in names}
    # Measured times need not grow with the bits.
    times = {name: {o: draw(st.integers(0, 50)) for o in options[name]} for name in names}
    sites = [SiteCost(n, draw(sizes), draw(sizes), draw(sizes), latency_ns=times[n]) for n in names]
    loss = {s.name: {o: draw(losses) for o in options[s.name]} for s in sites}
    bound = {}
    if draw(st.booleans()):
        bound["mean_w_bits"] = draw(st.sampled_from([4.0, 4.1, 5.0, 5.7, 6.0, 7.3, 8.0]))
    if draw(st.booleans()):
        bound["mean_a_bits"] = draw(st.sampled_from([4.0, 4.7, 6.0, 7.0]))
    if draw(st.booleans()):
        bound["max_weight_bytes"] = draw(st.integers(1, 1 + sum(s.params for s in sites)))
    if draw(st.booleans()):
        bound["max_bitops"] = draw(st.integers(1, 1 + 64 * sum(s.macs for s in sites)))
    if draw(st.booleans()):
        bound["max_latency_ms"] = draw(st.integers(1, 60 * len(sites))) / 10**6
    return sites, options, loss, Budget(**bound)


small = st.integers(0, 40)
large = st.integers(10**11, 10**15)
real_losses = st.floats(0, 1e3, allow_subnormal=False)
tied_losses = st.integers(0, 3).map(float)


def best_rank(sites, options, loss, budget):
    fitting = [p for p in every(sites, options) if within(sites, p, budget)]
    return min((rank(sites, p, loss) for p in fitting), default=None)


@settings(max_examples=150, deadline=None)
@given(problems(real_losses, small))
def test_least_loss_of_all_allocations(problem):
    sites, _, loss, budget = problem
    best = best_rank(*problem)
    if best is None:
        with pytest.raises(BudgetError):
            solve(*problem)
        return
    allocation = solve(*problem)
    picks = [allocation[s.name] for s in sites]
    spread = max(max(m.values()) - min(m.values()) for m in loss.values())
    assert within(sites, picks, budget)
    assert rank(sites, picks, loss)[0] <= best[0] + 1e-10 * spread + 1e-12 * best[0]


@settings(max_examples=150, deadline=None)
@given(problems(tied_losses, small))
def test_ties_go_to_more_bits_then_to_earlier_sites(problem):
    sites, _, loss, _ = problem
    best = best_rank(*problem)
    if best is not None:
        allocation = solve(*problem)
        assert rank(sites, [allocation[s.name] for s in sites], loss) == best


@settings(max_examples=60, deadline=None)
@given(problems(real_losses, large))
def test_budget_is_never_exceeded_by_one_bit_however_large_the_layers(problem):
    sites, _, _, budget = problem
    if best_rank(*problem) is not None:
        allocation = solve(*problem)
        assert within(sites, [allocation[s.name] for s in sites], budget)


@settings(max_examples=60, deadline=None)
@given(problems(real_losses, st.integers(1, 10**6)))
def test_budget_equal_to_an_allocations_cost_is_met(problem):
    """The tightest budget that fits, and one bit below it."""
    sites, options, loss, _ = problem
    least = min(counts(sites, p)[0] for p in every(sites, options))
    allocation = solve(sites, options, loss, Budget(max_weight_bytes=least / 8))
    assert counts(sites, [allocation[s.name] for s in sites])[0] == least
    with pytest.raises(BudgetError):
        solve(sites, options, loss, Budget(max_weight_bytes=(least - 1) / 8))


@settings(max_examples=40, deadline=None)
@given(problems(real_losses, small), st.randoms())
def test_order_of_options_does_not_matter(problem, random):
    sites, options, loss, budget = problem
    if best_rank(*problem) is not None:
        shuffled = {name: random.sample(menu, len(menu)) for name, menu in options.items()}
        assert solve(sites, shuffled, loss, budget) == solve(*problem)


def uniform(sites, by_bits):
    return {s.name: dict(by_bits) for s in sites}


SITES = [SiteCost(n, 1_000_000, 10**9, 10_000) for n in ("patch_embed", "fc1", "fc2", "head")]
LOSS = uniform(SITES, {W4: 1.0, W8: 0.0})


def test_a_decimal_budget_means_the_decimal():
    """4.1 as a binary float lies below 41/10; ten weights must still get their 41 bits."""
    sites = [SiteCost("a", 1, 1, 1), SiteCost("b", 9, 1, 1)]
    options = {"a": [Option(Int(4), Int(8)), Option(Int(5), Int(8))], "b": [Option(Int(4), Int(8))]}
    loss = {"a": {Option(Int(4), Int(8)): 1.0, Option(Int(5), Int(8)): 0.0}, "b": {Option(Int(4), Int(8)): 0.0}}
    assert solve(sites, options, loss, Budget(mean_w_bits=4.1))["a"] == Option(Int(5), Int(8))


def test_no_budget_gives_the_least_loss_and_order_follows_the_sites():
    allocation = solve(SITES, uniform(SITES, {W4: 0, W8: 0}), LOSS, Budget())
    assert list(allocation.items()) == [(s.name, W8) for s in SITES]


def test_no_sites():
    assert solve([], {}, {}, Budget(mean_w_bits=4)) == {}


def test_too_small_a_size_names_the_smallest_and_what_is_fixed():
    options = {s.name: [W4, W8] for s in SITES} | {"patch_embed": [W8], "head": [W8]}
    with pytest.raises(BudgetError) as caught:
        solve(SITES, options, LOSS, Budget(max_weight_bytes=1.2e6))
    said = str(caught.value)
    assert "1.2 MB weight size" in said and "smallest possible is 3 MB" in said
    assert "all sites at w4; fixed: patch_embed at w8, head at w8" in said


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (Budget(mean_w_bits=3.5), "a budget of 3.5 mean weight bits cannot be met: the smallest possible is 4 ("),
        (Budget(mean_a_bits=3), "a budget of 3 mean activation bits cannot be met: the smallest possible is 4 ("),
        (Budget(max_bitops=1e9), "a budget of 1 G BitOps cannot be met: the smallest possible is 64 G ("),
    ],
)
def test_each_bound_is_named_in_its_own_units(budget, expected):
    with pytest.raises(BudgetError) as caught:
        solve(SITES, uniform(SITES, {W4: 0, W8: 0}), LOSS, budget)
    assert str(caught.value).startswith(expected)


@given(st.integers(1, 10**9), st.integers(1, 10**6))
@settings(max_examples=25, deadline=None)
def test_the_smallest_budget_named_is_a_budget_that_works(params, other):
    sites = [SiteCost("a", params, 1, 1), SiteCost("b", other, 1, 1)]
    options = {"a": [W4, W8], "b": [W8]}
    loss = uniform(sites, {W4: 1.0, W8: 0.0})
    for field, unit in (("mean_w_bits", 1), ("max_weight_bytes", 10**6)):
        with pytest.raises(BudgetError) as caught:
            solve(sites, options, loss, Budget(**{field: 1e-9}))
        named = float(str(caught.value).split("possible is ")[1].split()[0])
        # Through Fraction, as a user's "--max-size 2.31" is multiplied out.
        assert solve(sites, options, loss, Budget(**{field: float(Fraction(str(named)) * unit)}))


def test_bounds_that_conflict_say_how_far_each_must_move():
    wide, deep = Option(Int(4), Int(8)), Option(Int(8), Int(4))
    site = [SiteCost("a", 10, 10, 10)]
    with pytest.raises(BudgetError, match="together: raise one to mean weight bits of 8 or mean activation bits of 8"):
        solve(site, {"a": [wide, deep]}, {"a": {wide: 0.0, deep: 0.0}}, Budget(mean_w_bits=4, mean_a_bits=4))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_its_site(bad):
    with pytest.raises(NonFiniteError, match="'fc1' at w8a8"):
        solve(SITES, uniform(SITES, {W4: 0, W8: 0}), LOSS | {"fc1": {W4: 1.0, W8: bad}}, Budget())


def test_unusable_menus():
    with pytest.raises(InputError, match="'fc1' has no bit widths"):
        solve(SITES, uniform(SITES, {W4: 0}) | {"fc1": []}, LOSS, Budget())
    with pytest.raises(InputError, match="same name"):
        solve([SITES[0], SITES[0]], uniform(SITES, {W4: 0}), LOSS, Budget())


def test_a_loss_of_one_site_does_not_drown_the_others():
    """Ten orders of magnitude between sites still leave the small one its say."""
    sites = [SiteCost("loud", 1, 1, 1), SiteCost("quiet", 1, 1, 1), SiteCost("still", 1, 1, 1)]
    loss = {"loud": {W4: 1e6, W8: 0.0}, "quiet": {W4: 1e-4, W8: 0.0}, "still": {W4: 0.0, W8: 0.0}}
    allocation = solve(sites, uniform(sites, {W4: 0, W8: 0}), loss, Budget(mean_w_bits=20 / 3))
    assert allocation == {"loud": W8, "quiet": W8, "still": W4}
