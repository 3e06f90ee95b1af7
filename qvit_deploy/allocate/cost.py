"""Counts what an allocation costs in whole bits and operations, so that a budget is kept exactly and not nearly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from qvit_deploy.errors import InputError
from qvit_deploy.formats.format import Format

FLOAT_BITS = 32
"""Bits that an operand in floating point counts as, whatever type a target computes in."""


def bit_operations(macs: int, w_bits: int | None, a_bits: int | None) -> int:
    """Returns the BitOps of `macs` multiply-accumulates: times the bits of both operands; None is a float operand."""
    return macs * (w_bits or FLOAT_BITS) * (a_bits or FLOAT_BITS)


def storage_bits(elements: int, bits: int | None) -> int:
    """Returns the bits of `elements` numbers packed without gaps; None is float."""
    return elements * (bits or FLOAT_BITS)


def packed_bytes(bits: int) -> int:
    """Returns how many bytes hold so many bits."""
    return -(-bits // 8)


@dataclass(frozen=True, order=True)
class Option:
    """Formats a site can run in. Where both operands are activations (QK, AV), `weights` is the second one's."""

    weights: Format
    activations: Format

    @property
    def w_bits(self) -> int:
        """Returns the bits of the weights' format."""
        return self.weights.bits

    @property
    def a_bits(self) -> int:
        """Returns the bits of the activations' format."""
        return self.activations.bits

    @property
    def text(self) -> str:
        """`w4a8`: what the option is called in files and messages."""
        return f"w{self.weights.short}a{self.activations.short}"


@dataclass(frozen=True)
class SiteCost:
    """The sizes of one site: weight elements (0 for QK and AV), multiply-accumulates and input activation elements.

    A site with `in_means` False (one whose width is not open to choice, or that stays in float) is left out of mean
    widths. `latency_ns` has the nanoseconds of each of its options, and is empty when none were measured.
    """

    name: str
    params: int
    macs: int
    act_elements: int
    in_means: bool = True
    latency_ns: Mapping[Option, int] = field(default_factory=dict)


Allocation = Mapping[str, Option]
"""Site name -> its option; a site without one stays in float."""


@dataclass(frozen=True)
class Cost:
    """The cost of one allocation.

    Means are weighted by `params` and by `act_elements` (0.0 when there are none). `weight_bytes` is the sum of what
    the formats store / 8, rounded up once. `bitops` is the sum of macs * w_bits * a_bits. `latency_ns` is the sum of
    the measured nanoseconds, None when there are none.
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
class Resource:
    """A quantity that a budget can bound, counted in integers.

    Attributes:
        field: name of the bound in `Budget`.
        count: what one site uses at an option.
        in_float: what one site uses that stays in float.
        per_unit: how many counts one unit of the bound stands for.
        bits: names the widths that the count depends on, for messages.
        label: name of the quantity in messages.
        unit: divides the bound in messages, where `suffix` follows it.
    """

    field: str
    count: Callable[[SiteCost, Option], int]
    in_float: Callable[[SiteCost], int]
    per_unit: Callable[[Sequence[SiteCost]], int]
    bits: Callable[[Option], str]
    label: str
    unit: int = 1
    suffix: str = ""

    def total(self, sites: Sequence[SiteCost], allocation: Allocation) -> int:
        """Returns the sum of counts over `sites`."""
        return sum(
            self.count(site, allocation[site.name]) if site.name in allocation else self.in_float(site)
            for site in sites
        )


MEAN_W_BITS = Resource(
    "mean_w_bits",
    lambda s, o: o.weights.stored_bits(s.params) * s.in_means,
    lambda s: 0,
    lambda sites: sum(s.params for s in sites if s.in_means),
    lambda o: f"w{o.weights.short}",
    "mean weight bits",
)
MEAN_A_BITS = Resource(
    "mean_a_bits",
    lambda s, o: o.activations.stored_bits(s.act_elements) * s.in_means,
    lambda s: 0,
    lambda sites: sum(s.act_elements for s in sites if s.in_means),
    lambda o: f"a{o.activations.short}",
    "mean activation bits",
)
WEIGHT_BYTES = Resource(
    "max_weight_bytes",
    lambda s, o: o.weights.stored_bits(s.params),
    lambda s: storage_bits(s.params, None),
    lambda sites: 8,
    lambda o: f"w{o.weights.short}",
    "weight size",
    10**6,
    " MB",
)
BITOPS = Resource(
    "max_bitops",
    lambda s, o: bit_operations(s.macs, o.w_bits, o.a_bits),
    lambda s: bit_operations(s.macs, None, None),
    lambda sites: 1,
    lambda o: o.text,
    "BitOps",
    10**9,
    " G",
)
LATENCY = Resource(
    "max_latency_ms",
    lambda s, o: s.latency_ns[o],
    lambda s: 0,  # tables have the widths of sites
    lambda sites: 10**6,
    lambda o: o.text,
    "latency",
    suffix=" ms",
)
RESOURCES = (MEAN_W_BITS, MEAN_A_BITS, WEIGHT_BYTES, BITOPS, LATENCY)


def total_cost(sites: Sequence[SiteCost], allocation: Allocation) -> Cost:
    """Adds up the cost of `allocation`; sites without an option stay in float and are in no mean."""
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


def limits(sites: Sequence[SiteCost], budget: Budget) -> list[tuple[Resource, int]]:
    """Converts the bounds of `budget` to counts; a total may reach its limit but not exceed it."""
    bounds = [(r, getattr(budget, r.field)) for r in RESOURCES]
    # repr is the shortest decimal that reads back as this float: what the user typed.
    return [(r, math.floor(Fraction(repr(float(b))) * r.per_unit(sites))) for r, b in bounds if b is not None]
