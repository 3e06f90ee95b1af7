"""How well an attribution map agrees with exact patching, per pair of images and over pairs.

Pearson's r alone says little: it ignores the scale, a few large entries decide it, and entries that are zero in both
maps by construction inflate it. So such entries are left out and counted, and every comparison carries several
measures. What an input leaves undefined is None with a reason, never NaN.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from qvit_deploy.errors import NonFiniteError

METRICS = ("pearson", "spearman", "slope", "normalized_error", "sign_agreement", "top_precision")
"""The fields of an `Agreement` that `summarise` averages."""

SIGN_SHARE = 0.01
"""Signs are compared where the truth exceeds this share of its largest magnitude."""

TOP_SHARE = 0.1
"""The share of all entries that counts as the top."""

CONFIDENCE = 0.95

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """An attribution map a against the exact effects g, over the entries that count.

    Attributes:
        pearson: Pearson's r of a and g.
        spearman: Pearson's r of their ranks, ties sharing the mean rank.
        slope: (a . g) / (g . g), the regression of a on g through the origin: 1 is the right magnitude, 2 twice it.
        normalized_error: ||a - g|| / ||g||; the map of zeros has 1.
        sign_agreement: share of the entries with |g| > `tau` where a has g's sign; a zero in a has neither.
        top_precision: |top(|a|) and top(|g|)| / `top`, expected over random orders of equal magnitudes.
        tau: see `sign_agreement`; a magnitude.
        signs: number of entries above `tau`.
        top: k, the number of entries that count as the top.
        top_chance: k / entries, the expected `top_precision` of a random map.
        entries: number of entries that count.
        excluded: number of entries left out.
        excluded_largest: the largest |g| left out; 0 when all of them are structural zeros.
        undefined: metric -> why it is None.
    """

    pearson: float | None
    spearman: float | None
    slope: float | None
    normalized_error: float | None
    sign_agreement: float | None
    top_precision: float | None
    tau: float
    signs: int
    top: int
    top_chance: float | None
    entries: int
    excluded: int
    excluded_largest: float
    undefined: Mapping[str, str]


def compare(
    estimate: ArrayLike,
    truth: ArrayLike,
    counts: ArrayLike | None = None,
    *,
    sign_share: float = SIGN_SHARE,
    top_share: float = TOP_SHARE,
) -> Agreement:
    """Compares two maps of equal shape, any floats.

    Args:
        estimate: the attribution.
        truth: the effect of exact patching.
        counts: boolean, same shape: the entries that count; False at structural zeros. All count when None.
        sign_share: tau as a share of the largest |truth|, in [0, 1).
        top_share: k as a share of the entries, rounded up, in (0, 1].

    Raises:
        NonFiniteError: an entry that counts is NaN or infinite.
        ValueError: shapes differ, or a share is out of its range.
    """
    a, g = np.asarray(estimate), np.asarray(truth)
    keep = np.ones(g.shape, bool) if counts is None else np.asarray(counts)
    if not a.shape == g.shape == keep.shape or keep.dtype != bool:
        raise ValueError(f"maps {a.shape} and {g.shape} and the boolean mask {keep.shape} {keep.dtype} do not match")
    if not 0 <= sign_share < 1 or not 0 < top_share <= 1:
        raise ValueError(f"sign_share {sign_share} must be in [0, 1) and top_share {top_share} in (0, 1]")
    left_out = np.abs(g[~keep]).astype(np.float64)
    a, g = _checked(a[keep], "attribution"), _checked(g[keep], "exact effect")

    magnitudes = np.abs(g).astype(np.float64)
    tau = float(sign_share * magnitudes.max(initial=0))
    above = magnitudes > tau
    top = math.ceil(top_share * g.size - 1e-9)  # a share of a whole number of entries is that number
    undefined: dict[str, str] = {}
    values: dict[str, float] = {}
    for name, value in _measure(a, g, above, top):
        if isinstance(value, str):
            undefined[name] = value
        elif not math.isfinite(value):
            undefined[name] = "it is beyond the range of float64"
        else:
            values[name] = value
    return Agreement(
        pearson=values.get("pearson"),
        spearman=values.get("spearman"),
        slope=values.get("slope"),
        normalized_error=values.get("normalized_error"),
        sign_agreement=values.get("sign_agreement"),
        top_precision=values.get("top_precision"),
        tau=tau,
        signs=int(above.sum()),
        top=top,
        top_chance=top / g.size if g.size else None,
        entries=g.size,
        excluded=left_out.size,
        excluded_largest=float(left_out.max(initial=0)),
        undefined=undefined,
    )


@dataclass(frozen=True)
class Mean:
    """The mean of a metric over pairs of images and its 95 % interval.

    Attributes:
        mean: None when no pair defines the metric.
        low, high: mean -+ t s / sqrt(n), t the 97.5 % quantile of Student's t with n - 1 degrees of freedom; None
            below two pairs. The interval is that of a mean of independent pairs and may pass a metric's own limits.
        pairs: n, the pairs that define the metric.
        undefined: reason -> number of pairs left out for it.
    """

    mean: float | None
    low: float | None
    high: float | None
    pairs: int
    undefined: Mapping[str, int]


@dataclass(frozen=True)
class Summary:
    """The mean of `Agreement` over pairs.

    Attributes:
        metrics: one `Mean` for each of `METRICS`.
        top_chance: mean over the pairs of what `top_precision` is by chance.
        pairs: number of pairs.
        entries, excluded: sums over the pairs.
        excluded_largest: maximum over the pairs.
    """

    metrics: Mapping[str, Mean]
    top_chance: float | None
    pairs: int
    entries: int
    excluded: int
    excluded_largest: float


def summarise(agreements: Sequence[Agreement]) -> Summary:
    """Averages one `Agreement` per pair of images: mean and interval over pairs. Raises ValueError without any."""
    if not agreements:
        raise ValueError("there is no agreement to summarise")
    chances = [a.top_chance for a in agreements if a.top_chance is not None]
    return Summary(
        metrics={name: _mean(agreements, name) for name in METRICS},
        top_chance=float(np.mean(chances)) if chances else None,
        pairs=len(agreements),
        entries=sum(a.entries for a in agreements),
        excluded=sum(a.excluded for a in agreements),
        excluded_largest=max(a.excluded_largest for a in agreements),
    )


def random_map(shape: Sequence[int], seed: int) -> Floats:
    """Returns the baseline that knows nothing: independent standard normal scores, float64 `shape`."""
    return np.random.default_rng(seed).standard_normal(tuple(shape))


def _checked(entries: NDArray[Any], what: str) -> NDArray[Any]:
    if not np.issubdtype(entries.dtype, np.floating):
        entries = entries.astype(np.float64)
    if not np.isfinite(entries).all():
        raise NonFiniteError(f"{int((~np.isfinite(entries)).sum())} entries of the {what} map are NaN or infinite")
    return entries


def _measure(
    estimate: NDArray[Any], truth: NDArray[Any], above: NDArray[np.bool_], top: int
) -> Iterator[tuple[str, float | str]]:
    """Yields (metric, value or why there is none) in the order of `METRICS`."""
    if truth.size < 3:
        yield from ((name, f"fewer than 3 entries ({truth.size})") for name in METRICS)
        return
    constant = "the attribution map is constant" if _is_constant(estimate) else None
    constant = "the exact effects are constant" if _is_constant(truth) else constant
    zero = None if truth.any() else "the exact effects are all zero"
    a: Floats = estimate.astype(np.float64)
    g: Floats = truth.astype(np.float64)

    yield "pearson", constant or _pearson(a, g)
    yield "spearman", constant or _pearson(stats.rankdata(a), stats.rankdata(g))
    if zero:
        yield from ((name, zero) for name in METRICS[2:])
        return
    # Squares of tiny maps underflow, of huge ones overflow; in units of the largest effect neither happens.
    unit = np.abs(g).max()
    with np.errstate(over="ignore", invalid="ignore"):
        scaled, reference = a / unit, g / unit
        power = reference @ reference
        yield "slope", float(scaled @ reference / power)
        yield "normalized_error", float(np.linalg.norm(scaled - reference) / math.sqrt(power))
    yield "sign_agreement", float((np.sign(a) == np.sign(g))[above].mean())
    yield "top_precision", float(np.dot(_top(a, top), _top(g, top)) / top)


def _is_constant(entries: NDArray[Any]) -> bool:
    """Tells whether the entries differ by no more than the rounding of their own type: their correlation would be
    noise."""
    if not entries.any():
        return True
    wide = entries.astype(np.float64)
    wide /= np.abs(wide).max()
    return bool(wide.max() - wide.min() <= 4 * np.finfo(entries.dtype).eps)


def _pearson(a: Floats, g: Floats) -> float:
    def centred(x: Floats) -> Floats:
        x = x / np.abs(x).max()
        x = x - x.mean()
        unit: Floats = x / np.linalg.norm(x)
        return unit

    return float(np.clip(centred(a) @ centred(g), -1, 1))


def _top(entries: Floats, k: int) -> Floats:
    """Returns the chance of each entry to be among the `k` largest magnitudes when equal ones are put in random
    order."""
    magnitudes = np.abs(entries)
    last = np.partition(magnitudes, -k)[-k]
    inside, tied = magnitudes > last, magnitudes == last
    return inside + tied * ((k - inside.sum()) / tied.sum())


def _mean(agreements: Sequence[Agreement], name: str) -> Mean:
    values = np.array([value for a in agreements if (value := getattr(a, name)) is not None])
    undefined = Counter(a.undefined[name] for a in agreements if name in a.undefined)
    if not len(values):
        return Mean(None, None, None, 0, undefined)
    mean = float(values.mean())
    if len(values) < 2:
        return Mean(mean, None, None, 1, undefined)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return Mean(mean, mean - half, mean + half, len(values), undefined)
