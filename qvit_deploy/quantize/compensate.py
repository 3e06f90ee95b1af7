"""Making good for rounding: regression against quantized inputs, GPTQ rounding, bias correction.

With X the float inputs of a linear, X' their quantized values and Y = X W the float outputs, three steps, each exact
for its part of min ||Y - X' W' - b'||^2 over the calibration rows:

1. ridge regression: W* = (S + damping I)^-1 C W with S = cov(X', X') and C = cov(X', X). It absorbs the part of the
   activation error that is linear in the input;
2. rounding with error feedback (GPTQ, Frantar et al. 2023, algorithm 1; the Hessian is S): each rounded row's error
   is moved onto the rows not rounded yet;
3. bias: b' = b + mean(X) W - mean(X') W', so that the mean output is exactly that of the float layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from qvit_deploy.quantize.grid import Tensor, quantize

DAMPING = 0.01
"""Of the mean diagonal of S, added to it for rounding (GPTQ's default); makes a rank-deficient S solvable too."""

RIDGE = 0.1
"""The same for the regression, which fits noise of the calibration images where it is weak: 64 images of 65 tokens do
not determine 1,536 inputs. Chosen on calibration images held out of the fit."""

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

    def add(self, quantized: Tensor, x: Tensor, weights: Tensor) -> None:
        """Takes in rows [n, K]; `weights` [n] says how much each counts."""
        self.total += float(weights.sum(dtype=torch.float64))
        weighted = quantized * weights[:, None]
        self.quantized.addmm_(weighted.t(), quantized)
        self.cross.addmm_(weighted.t(), x)
        self.mean_quantized += weighted.sum(0, dtype=torch.float64)
        self.mean_float += weights.double() @ x.double()

    def moments(self) -> Moments:
        """Centred second moments (covariances) and means."""
        n = max(self.total, 1e-30)
        mq, mf = self.mean_quantized / n, self.mean_float / n
        # In place: at 3,072 channels each float64 matrix is 75 MB.
        s = self.quantized.double().div_(n).addr_(mq, mq, alpha=-1)
        c = self.cross.double().div_(n).addr_(mq, mf, alpha=-1)
        return Moments(s, c, mq, mf)


@dataclass(frozen=True)
class Moments:
    """cov(X', X') and cov(X', X), float64 [K, K]; means float64 [K]."""

    covariance: Tensor
    cross: Tensor
    mean_quantized: Tensor
    mean_float: Tensor


@dataclass(frozen=True)
class Factor:
    """Cholesky factor L of S + damping I, float64 [K, K], and the damping."""

    lower: Tensor
    damping: float


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


def regress(weight: Tensor, moments: Moments, factor: Factor) -> Tensor:
    """W* of step 1, float32 [K, N]. With X' == X it stays at the float weights: damping pulls towards W, not to 0.

    Minimises ||X W - X' W*||^2 + damping ||W* - W||^2.
    """
    right = moments.cross @ weight.double() + factor.damping * weight.double()
    return torch.cholesky_solve(right, factor.lower).float()


def round_with_feedback(weight: Tensor, scale: Tensor, bits: int, factor: Factor) -> Tensor:
    """Codes [K, N] (float32 integers) of step 2 on the fixed per-column grid `scale` [N]."""
    upper = torch.linalg.cholesky(torch.cholesky_inverse(factor.lower), upper=True).float()
    rest = weight.clone()
    codes = torch.empty_like(rest)
    for start in range(0, len(rest), BLOCK):
        stop = min(start + BLOCK, len(rest))
        block, errors = rest[start:stop].clone(), torch.empty_like(rest[start:stop])
        corner = upper[start:stop, start:stop]
        for i in range(stop - start):
            code = quantize(block[i], scale, bits)
            codes[start + i] = code
            errors[i] = (block[i] - code * scale) / corner[i, i]
            block[i + 1 :].addr_(corner[i, i + 1 :], errors[i], alpha=-1)
        rest[stop:].addmm_(upper[start:stop, stop:].t(), errors, alpha=-1)
    return codes


def corrected_bias(bias: Tensor | None, weight: Tensor, dequantized: Tensor, moments: Moments) -> Tensor:
    """b' of step 3, float32 [N]: the mean output of the quantized layer equals the float layer's."""
    shift = moments.mean_float @ weight.double() - moments.mean_quantized @ dequantized.double()
    return (shift if bias is None else bias.double() + shift).float()
