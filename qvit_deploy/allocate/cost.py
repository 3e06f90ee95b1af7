"""What an allocation costs, in whole bits and operations, so that a budget is kept exactly and not nearly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from qvit_deploy.errors import InputError

FLOAT_BITS = 32
"""What an operand in floating point counts as, whatever a target computes it in."""


def bit_operations(macs: int, w_bits: int | None, a_bits: int | None) -> int:
    """BitOps of `macs` multiply-accumulates: times the bits of both operands; None is an operand in float."""
    return macs * (w_bits or FLOAT_BITS) * (a_bits or FLOAT_BITS)


def storage_bits(elements: int, bits: int | None) -> int:
    """Bits of `elements` numbers packed without gaps; None is float."""
    return elements * (bits or FLOAT_BITS)


def packed_bytes(bits: int) -> int:
    """The whole bytes that hold so many bits."""
    return -(-bits // 8)


@dataclass(frozen=True, order=True)
class Option:
    """Bit widths a site can run at. Where both operands are activations (QK, AV), `w_bits` is the second one's."""

    w_bits: int
    a_bits: int


@dataclass(frozen=True)
class SiteCost:
    """The sizes of one site: weight elements (0 for QK and AV), multiply-accumulates and input activation elements.

    A site with `in_means` False (one whose width is not open to choice) is left out of mean widths. `latency_ns` has
    the nanoseconds of each of its options, and is empty when none were measured.
    """

    name: str
    params: int
    macs: int
    act_elements: int
    in_means: bool = True
    latency_ns: Mapping[Option, int] = field(default_factory=dict)


Allocation = Mapping[str, Option]


@dataclass(frozen=True)
class Cost:
    """The cost of one allocation.

    Means are weighted by `params` and by `act_elements` (0.0 when there are none). `weight_bytes` is the sum of
    params * w_bits / 8, rounded up once. `bitops` is the sum of macs * w_bits * a_bits. `latency_ns` is the sum of the
    measured nanoseconds, None when there are none.
    """

    mean_w_bits: float
    mean_a_bits: float
    weight_bytes: int
    bitops: int
    latency_ns: int | None


@dataclass(frozen=True)
class Budget:
    """Upper bounds, all of which must hold; None is no bound. Bytes are bytes, BitOps single operations, latency is in
    milliseconds and needs sites with `latency_ns`.

    A float bound means the decimal it prints as: 4.1 is 41/10, so ten weights may take 41 bits. Raises InputError for
    a bound that is not finite or not positive.
    """

    mean_w_bits: float | None = None
    mean_a_bits: float | None = None
    max_weight_bytes: float | None = None
    max_bitops: float | None = None
    max_latency_ms: float | None = None

    def __post_init__(self) -> None:
        for name, bound in vars(self).items():
            if bound is not None and not (math.isfinite(bound) and bound > 0):
                raise InputError(f"budget {name} must be a positive number, got {bound}")


@dataclass(frozen=True)
class Measure:
    """One thing a budget can bound, counted in whole `count`s per site.

    `per_unit(sites)` is how many counts one unit of the user's number stands for; `unit` scales that number for
    messages, where it is called `label` and followed by `suffix`; `bits` names the widths it depends on.
    """

    field: str
    count: Callable[[SiteCost, Option], int]
    per_unit: Callable[[Sequence[SiteCost]], int]
    bits: Callable[[Option], str]
    label: str
    unit: int = 1
    suffix: str = ""

    def total(self, sites: Sequence[SiteCost], allocation: Allocation) -> int:
        return sum(self.count(site, allocation[site.name]) for site in sites)


MEAN_W_BITS = Measure(
    "mean_w_bits",
    lambda s, o: s.params * o.w_bits * s.in_means,
    lambda sites: sum(s.params for s in sites if s.in_means),
    lambda o: f"w{o.w_bits}",
    "mean weight bits",
)
MEAN_A_BITS = Measure(
    "mean_a_bits",
    lambda s, o: s.act_elements * o.a_bits * s.in_means,
    lambda sites: sum(s.act_elements for s in sites if s.in_means),
    lambda o: f"a{o.a_bits}",
    "mean activation bits",
)
WEIGHT_BYTES = Measure(
    "max_weight_bytes",
    lambda s, o: storage_bits(s.params, o.w_bits),
    lambda sites: 8,
    lambda o: f"w{o.w_bits}",
    "weight size",
    10**6,
    " MB",
)
BITOPS = Measure(
    "max_bitops",
    lambda s, o: bit_operations(s.macs, o.w_bits, o.a_bits),
    lambda sites: 1,
    lambda o: f"w{o.w_bits}a{o.a_bits}",
    "BitOps",
    10**9,
    " G",
)
LATENCY = Measure(
    "max_latency_ms",
    lambda s, o: s.latency_ns[o],
    lambda sites: 10**6,
    lambda o: f"w{o.w_bits}a{o.a_bits}",
    "latency",
    suffix=" ms",
)
MEASURES = (MEAN_W_BITS, MEAN_A_BITS, WEIGHT_BYTES, BITOPS, LATENCY)


def total_cost(sites: Sequence[SiteCost], allocation: Allocation) -> Cost:
    """The cost of `allocation`, which has one Option for each of `sites`."""
    w_bits = MEAN_W_BITS.total(sites, allocation)
    a_bits = MEAN_A_BITS.total(sites, allocation)
    params, act_elements = MEAN_W_BITS.per_unit(sites), MEAN_A_BITS.per_unit(sites)
    return Cost(
        mean_w_bits=w_bits / params if params else 0.0,
        mean_a_bits=a_bits / act_elements if act_elements else 0.0,
        weight_bytes=packed_bytes(WEIGHT_BYTES.total(sites, allocation)),
        bitops=BITOPS.total(sites, allocation),
        latency_ns=LATENCY.total(sites, allocation) if any(s.latency_ns for s in sites) else None,
    )


def limits(sites: Sequence[SiteCost], budget: Budget) -> list[tuple[Measure, int]]:
    """The bounds `budget` sets, in whole counts; a count may reach its limit but not pass it."""
    bounds = [(m, getattr(budget, m.field)) for m in MEASURES]
    # repr is the shortest decimal that reads back as this float: what the user typed.
    return [(m, math.floor(Fraction(repr(float(b))) * m.per_unit(sites))) for m, b in bounds if b is not None]
