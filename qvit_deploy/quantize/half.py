"""Activation scales that float16 holds exactly, so that one plan gives the same codes in float32 and in float16.

A QuantizeLinear in half precision has a half-precision scale. If that were the plan's scale rounded, every value near
the middle between two codes would get another code than with the scale itself. Rounding the scale in the plan instead
moves it by at most 2^-11 of itself, which no accuracy can see, and both graphs then divide by the same number.
"""

from __future__ import annotations

from qvit_deploy.quantize.plan import Plan


def half_scales(plan: Plan) -> Plan:
    """Returns `plan` with the scale of every plain grid rounded to the nearest float16.

    Grids with a shift, per head or per row, levels or logarithms keep their scales: none of them is written in half
    precision (`targets.tensorrt.half.emission`). So do scales outside float16's normal range.
    """
    return Plan({name: site.with_half_scales() for name, site in plan.sites.items()})
