from __future__ import annotations

import math

import pytest

from qvit_deploy.allocate.cost import (
    Budget,
    Option,
    SiteCost,
    bit_operations,
    limits,
    packed_bytes,
    storage_bits,
    total_cost,
)
from qvit_deploy.errors import InputError
from qvit_deploy.formats.integer import Int

SITES = [SiteCost("qkv", 3, 30, 5), SiteCost("attn", 0, 7, 5)]


def test_cost_by_hand():
    cost = total_cost(SITES, {"qkv": Option(Int(4), Int(8)), "attn": Option(Int(8), Int(6))})
    assert cost.mean_w_bits == 4.0  # attn has no weights
    assert cost.mean_a_bits == 7.0
    assert cost.weight_bytes == 2  # 12 bits
    assert cost.bitops == 30 * 4 * 8 + 7 * 8 * 6
    assert cost.latency_ns is None


def test_no_weights_cost_nothing():
    cost = total_cost([SiteCost("attn", 0, 7, 0)], {"attn": Option(Int(8), Int(8))})
    assert (cost.mean_w_bits, cost.mean_a_bits, cost.weight_bytes) == (0.0, 0.0, 0)


def test_sites_left_out_of_means_still_take_space():
    sites = [SiteCost("head", 100, 1, 100, in_means=False), SiteCost("fc", 8, 1, 8)]
    cost = total_cost(sites, {"head": Option(Int(8), Int(8)), "fc": Option(Int(4), Int(4))})
    assert (cost.mean_w_bits, cost.mean_a_bits, cost.weight_bytes) == (4.0, 4.0, 104)


def test_limits_are_whole_counts():
    budget = Budget(mean_w_bits=4.1, mean_a_bits=4.5, max_weight_bytes=1.3, max_bitops=99.9)
    assert [limit for _, limit in limits(SITES, budget)] == [12, 45, 10, 99]
    assert limits(SITES, Budget()) == []


def test_latency_is_kept_to_the_nanosecond():
    sites = [
        SiteCost(n, 1, 1, 1, latency_ns={Option(Int(4), Int(4)): 100, Option(Int(8), Int(8)): 333}) for n in ("a", "b")
    ]
    assert total_cost(sites, {"a": Option(Int(4), Int(4)), "b": Option(Int(8), Int(8))}).latency_ns == 433
    [(measure, limit)] = limits(sites, Budget(max_latency_ms=0.000433))
    assert limit == measure.total(sites, {"a": Option(Int(4), Int(4)), "b": Option(Int(8), Int(8))}) == 433


@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf])
def test_budget_must_be_a_positive_number(bad):
    with pytest.raises(InputError, match="mean_w_bits must be a positive number"):
        Budget(mean_w_bits=bad)


def test_an_operand_in_float_counts_as_32_bits() -> None:
    assert bit_operations(10, 4, 8) == 320 and bit_operations(10, None, 8) == 2560
    assert bit_operations(10, None, None) == 10_240
    assert (storage_bits(3, 4), storage_bits(3, None)) == (12, 96)


def test_packed_bits_take_whole_bytes() -> None:
    assert [packed_bytes(b) for b in (0, 1, 8, 9, 12)] == [0, 1, 1, 2, 2]
