"""Formats numbers for people: three digits, a unit, and the interval of a share of a few images."""

from __future__ import annotations

import math

PREFIXES = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
NARROW = "\u202f"
"""The thin space between a number and its unit; it does not break at the end of a line."""


def digits(value: float) -> str:
    """Writes three significant digits, without an exponent from 0.001 up: 1,428 · 85.9 · 0.552."""
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    places = max(0, 2 - math.floor(math.log10(_rounded(abs(value)))))
    return f"{value:,.{places}f}"


def signed(value: float) -> str:
    """Writes `digits` with a sign: +0.552, −12.2."""
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{digits(abs(value))}"


def amount(value: float, unit: str = "", like: float | None = None) -> str:
    """Writes a metric prefix (1 MB = 1e6 bytes): 13.5 MB. The prefix is that of `like`, if given, for comparison."""
    size = _rounded(abs(value if like is None else like))
    prefix, scale = next(((p, s) for p, s in PREFIXES if size >= s), ("", 1.0))
    suffix = prefix + unit
    number = f"{value:,.0f}" if scale == 1 and value == int(value) else digits(value / scale)
    return f"{number}{NARROW}{suffix}" if suffix else number


def _rounded(value: float) -> float:
    """Rounds to three significant digits. The rounded value decides the unit, or 999.9 kB would read as 1,000 kB."""
    return float(f"{value:.3g}")


def percent(share: float) -> str:
    """Writes 0.875 as 87.5 %; only exactly 1 is 100 %."""
    text = digits(100 * share)
    return f"{'99.9' if text == '100' and share < 1 else text}{NARROW}%"


def times(large: float, small: float) -> str | None:
    """Writes the ratio of `large` to `small`: 6.4×. Returns None when `small` is 0."""
    if small <= 0:
        return None
    ratio = large / small
    return f"{ratio:,.0f}×" if ratio >= 100 else f"{ratio:.1f}×"


def interval(share: float, n: int) -> tuple[float, float]:
    """Returns the 95 % Wilson score interval of a share of `n` > 0 images.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927); unlike the normal
    interval it stays inside 0..1 and is not empty at 100 %.
    """
    z = 1.96
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    middle, scale = share + z * z / (2 * n), 1 + z * z / n
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)
