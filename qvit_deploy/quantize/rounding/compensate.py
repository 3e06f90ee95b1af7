"""Compensation of rounding errors: regression against quantized inputs, GPTQ rounding, bias correction.

With X the float inputs of a linear, X' their quantized values and Y = X W the float outputs, three steps, each exact
for its part of min ||Y - X' W' - b'||^2 over the calibration rows:

1. ridge regression: W* = (S + damping I)^-1 (C W + damping W) with S = cov(X', X') and C = cov(X', X). It absorbs the
   part of the activation error that is linear in the input (`ridge` chooses the damping);
2. rounding with error feedback (GPTQ, Frantar et al. 2023, algorithm 1; the Hessian is S): each rounded row's error
   is spread over the rows not rounded yet;
3. bias: b' = b + mean(X) W - mean(X') W', so that the mean output is exactly that of the float layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qvit_deploy.formats.format import Format
from qvit_deploy.graph.sites import Kind
from qvit_deploy.quantize.ranges.clip import weight_scale
from qvit_deploy.quantize.rounded_weight import RoundedWeight

DAMPING = 0.01
"""Share of the mean diagonal of S added to it for rounding (GPTQ's default); makes a rank-deficient S solvable too."""

BLOCK = 128
"""Rows rounded between two updates of the rest (a matter of speed only)."""


class GramAccumulator:
    """Streams the second moments of quantized inputs X' [rows, K] and float inputs X [rows, K]."""

    def __init__(self, channels: int) -> None:
        self.total = 0.0
        self.quantized = torch.zeros(channels, channels)
        self.cross = torch.zeros(channels, channels)
        self.mean_quantized = torch.zeros(channels, dtype=torch.float64)
        self.mean_float = torch.zeros(channels, dtype=torch.float64)

    def add(self, quantized: Tensor, x: Tensor, importance: Tensor | None) -> None:
        """Adds rows [n, K] of full images.

        Args:
            importance: weight of each row of an image, [rows per image]; None: all count alike.
        """
        n = len(quantized)
        weights = torch.ones(n) if importance is None else importance.repeat(n // len(importance))
        self.total += float(weights.sum(dtype=torch.float64))
        weighted = quantized * weights[:, None]
        self.quantized.addmm_(weighted.t(), quantized)
        self.cross.addmm_(weighted.t(), x)
        self.mean_quantized += weighted.sum(0, dtype=torch.float64)
        self.mean_float += weights.double() @ x.double()


@dataclass(frozen=True)
class Moments:
    """cov(X', X') and cov(X', X), [K, K]; means [K]; float64 or float32."""

    covariance: Tensor
    cross: Tensor
    mean_quantized: Tensor
    mean_float: Tensor


def pooled(parts: Sequence[GramAccumulator], dtype: torch.dtype = torch.float64) -> Moments:
    """Returns the centred second moments (covariances) and means of the rows of all `parts`."""
    n = max(sum(p.total for p in parts), 1e-30)
    mq = torch.stack([p.mean_quantized for p in parts]).sum(0).div_(n).to(dtype)
    mf = torch.stack([p.mean_float for p in parts]).sum(0).div_(n).to(dtype)
    # In place: at 3,072 channels each float64 matrix is 75 MB.
    s, c = (first.to(dtype, copy=True) for first in (parts[0].quantized, parts[0].cross))
    for part in parts[1:]:
        s += part.quantized
        c += part.cross
    return Moments(s.div_(n).addr_(mq, mq, alpha=-1), c.div_(n).addr_(mq, mf, alpha=-1), mq, mf)


@dataclass(frozen=True)
class Factor:
    """Cholesky factor L of S + damping I, [K, K], and the damping."""

    lower: Tensor
    damping: float

    def feedback(self) -> Tensor:
        """U, upper triangular float32 [K, K], with (S + damping I)^-1 = U^T U: what step 2 rounds by."""
        return torch.linalg.cholesky(torch.cholesky_inverse(self.lower), upper=True).float()


def factorise(moments: Moments, share: float) -> Factor:
    """Factors the covariance with `share` of its mean diagonal added; more where that is too little for the
    factorisation to exist, so rank deficiency is no error."""
    damping = share * float(moments.covariance.diagonal().mean().clamp_min(1e-12))
    for _ in range(12):
        damped = moments.covariance.clone()
        damped.diagonal().add_(damping)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not int(failed):
            return Factor(lower, damping)
        damping *= 10
    raise ArithmeticError("the input covariance cannot be factorised")


def regress(weight: Tensor, moments: Moments, share: float) -> Tensor:
    """Returns W* of step 1, float32 [K, N]. With X' == X it stays at the float weights: damping pulls towards W, not to
    0.

    Minimises ||X W - X' W*||^2 + damping ||W* - W||^2.

    Args:
        share: the damping, as a share of the mean diagonal of S; infinity keeps W.
    """
    if math.isinf(share):
        return weight
    factor, start = factorise(moments, share), weight.to(moments.cross.dtype)
    return torch.cholesky_solve(moments.cross @ start + factor.damping * start, factor.lower).float()


def round_weight(
    weight: Tensor, format: Format, feedback: Tensor | None, importance: Tensor | None = None
) -> RoundedWeight:
    """Rounds [in, out] to `format` with scales of their own for every output.

    Args:
        feedback: U (`Factor.feedback`): rounds as in step 2. A row's rounding error counts there by what the rows after
            it cannot compensate, which is 1 / U_kk^2. None rounds to nearest.
        importance: without `feedback`, weight of each row's error in the choice of the scales, [in].
    """
    if feedback is None:
        scale = weight_scale(weight, format, importance)
        codes = format.quantize(weight, scale)
    else:
        scale = weight_scale(weight, format, feedback.diagonal().square().reciprocal())
        codes = round_with_feedback(weight, scale, format, feedback)
    return RoundedWeight(format.compact(codes), scale)


def round_with_feedback(weight: Tensor, scale: Tensor, format: Format, feedback: Tensor) -> Tensor:
    """Returns the codes [K, N] (float32) of step 2 on the fixed per-column grid `scale` [N]."""
    rest = weight.clone()
    codes = torch.empty_like(rest)
    for start in range(0, len(rest), BLOCK):
        stop = min(start + BLOCK, len(rest))
        block, errors = rest[start:stop].clone(), torch.empty_like(rest[start:stop])
        corner = feedback[start:stop, start:stop]
        for i in range(stop - start):
            code = format.quantize(block[i], scale)
            codes[start + i] = code
            errors[i] = (block[i] - format.dequantize(code, scale)) / corner[i, i]
            block[i + 1 :].addr_(corner[i, i + 1 :], errors[i], alpha=-1)
        rest[stop:].addmm_(feedback[start:stop, stop:].t(), errors, alpha=-1)
    return codes


def add_bias(product: Tensor, bias: Tensor, kind: Kind) -> Tensor:
    """Adds bias [channels] along the channel axis of a product: the last of a linear, axis 1 of a convolution."""
    shape = [1] * product.ndim
    shape[-1 if kind == "linear" else 1] = -1
    return product + bias.reshape(shape)


def corrected_bias(bias: Tensor | None, weight: Tensor, dequantized: Tensor, moments: Moments) -> Tensor:
    """Returns b' of step 3, float32 [N]: the mean output of the quantized layer equals the float layer's."""
    shift = moments.mean_float @ weight.double() - moments.mean_quantized @ dequantized.double()
    return (shift if bias is None else bias.double() + shift).float()
