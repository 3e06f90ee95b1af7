"""The backward formulas of the relevance rules, as pure functions on tensors.

All are in gradient form: `g` [same shape as y] is what arrives at an operator's output y, the result is what leaves
at an input x, and the relevance of any tensor t is t * g_t elementwise. In this form operators that only move values,
and fan-out (Chefer's Clone), need no rule: autograd's own backward is the rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from qvit_deploy.errors import InputError

Tensor = torch.Tensor
Forward = Callable[..., Tensor]
Backward = Callable[..., "tuple[Tensor | None, ...]"]

EPSILON = 1e-9
"""Keeps a denominator away from zero, on its own side of zero; the value of Chefer's `safe_divide`."""


class _Ruled(torch.autograd.Function):
    """An operator with its own forward and another backward."""

    @staticmethod
    def forward(ctx: Any, forward: Forward, backward: Backward, *inputs: Tensor | None) -> Tensor:
        y = forward(*inputs)
        ctx.rule = backward
        ctx.save_for_backward(*inputs, y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        *inputs, y = ctx.saved_tensors
        return (None, None, *ctx.rule(g, y, *inputs))


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g * ctx.factor, None


def with_backward(forward: Forward, backward: Backward) -> Forward:
    """Returns `forward(*inputs) -> y` with the gradient `backward(g, y, *inputs) -> one gradient or None per input`."""

    def ruled(*inputs: Tensor | None) -> Tensor:
        result: Tensor = _Ruled.apply(forward, backward, *inputs)
        return result

    return ruled


def halved(forward: Forward) -> Forward:
    """Applies the uniform rule of a product: both operands get half of their plain gradient.

    Half-rule of a gate: p/2 + detach(p/2) (Arras et al. 2019; Jafari et al. 2024). Attention products: AttnLRP
    (Achtibat et al. 2024, eq. for bilinear products; LXT `divide_gradient`); Chefer et al. 2021, section 3.2, where
    R_A = A * (S B^T) / 2 with S = R/Z = g.
    """

    def run(*inputs: Tensor) -> Tensor:
        result: Tensor = _Scaled.apply(forward(*inputs), 0.5)
        return result

    return run


def stopped(forward: Forward) -> Forward:
    """Stops the gradient: the AH-rule on a softmax (Ali et al. 2022), or a norm's denominator in the LN-rule.

    The output still receives its gradient (patching an attention map has an effect); the inputs receive none.
    """
    return with_backward(forward, lambda _g, _y, *inputs: tuple(None for _ in inputs))


def divide(a: Tensor, b: Tensor) -> Tensor:
    """Returns a / b with b pushed `EPSILON` away from zero on its own side; 0 where b is exactly 0."""
    return torch.where(b == 0, torch.zeros_like(a), a / (b + torch.copysign(b.new_tensor(EPSILON), b)))


def layer_norm(g: Tensor, x: Tensor, scale: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """Applies the LN-rule (Ali et al. 2022): the denominator is constant, the mean is not.

    g_x = (I - 11^T/d) (scale * g) / sigma, with sigma = sqrt(var + eps) over `dims` and d their size.
    """
    h = g * scale * torch.rsqrt(x.var(dims, correction=0, keepdim=True) + eps)
    return h - h.mean(dims, keepdim=True)


def secant(g: Tensor, y: Tensor, x: Tensor, slope_at_zero: float) -> Tensor:
    """Applies the identity rule of an activation with act(0) = 0 (MambaLRP, Jafari et al. 2024): g_x = g * act(x)/x.

    At x == 0 the factor takes its limit (0.5 for GELU and SiLU), where RelP's own code gives 0.
    """
    return g * torch.where(x == 0, y.new_tensor(slope_at_zero), y / x)


def passed(g: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Passes relevance on unchanged through LayerNorm and softmax (Chefer et al. 2021), x * g_x = y * g."""
    return divide(g * y, x)


def z_plus(g: Tensor, y: Tensor, x: Tensor, w_plus: Tensor, w_minus: Tensor) -> Tensor:
    """Applies the z+ rule of y = x @ w + b: only terms with x_j w_jk >= 0 carry relevance, the bias none.

    R = y*g (the bias inside y), S = R / (x+ W+ + x- W-), R_x = x+ * (S W+^T) + x- * (S W-^T)
    (Montavon et al. 2017; Chefer et al. 2021, eq. 5 with alpha = 1).

    Args:
        x: [..., in]; w_plus, w_minus: [..., in, out]; g, y: [..., out].
    """
    z = x.clamp(min=0) @ w_plus + x.clamp(max=0) @ w_minus
    s = divide(y * g, z)
    g_x = torch.where(x >= 0, s @ w_plus.mT, s @ w_minus.mT)
    return g_x.sum_to_size(x.shape)


def z_plus_linear_map(
    g: Tensor, y: Tensor, x: Tensor, plus: Callable[[Tensor], Tensor], minus: Callable[[Tensor], Tensor]
) -> Tensor:
    """Applies `z_plus` to any linear operator (a convolution): `plus` and `minus` apply it with W+ and W-, without
    bias."""
    with torch.enable_grad():
        x_plus, x_minus = (
            x.detach().clamp(min=0).requires_grad_(),
            x.detach().clamp(max=0).requires_grad_(),
        )
        z = plus(x_plus) + minus(x_minus)
    g_plus, g_minus = torch.autograd.grad(z, (x_plus, x_minus), divide(y * g, z.detach()))
    return torch.where(x >= 0, g_plus, g_minus)


def z_box(
    g: Tensor,
    y: Tensor,
    x: Tensor,
    apply: Callable[[Tensor], Tensor],
    plus: Callable[[Tensor], Tensor],
    minus: Callable[[Tensor], Tensor],
) -> Tensor:
    """Applies the z^B rule of the layer that reads the image (Montavon et al. 2017; Chefer et al. 2021 on the patch
    embedding).

    With l and h the image's lowest and highest pixel, z = W x - W+ l - W- h, S = y*g / z and
    R_x = x * (W^T S) - l * (W+^T S) - h * (W-^T S); returned as R_x / x.
    """
    per_image = (x.shape[0],) + (1,) * (x.ndim - 1)
    flat = x.detach().reshape(x.shape[0], -1)
    low = flat.amin(1).reshape(per_image).expand_as(x)
    high = flat.amax(1).reshape(per_image).expand_as(x)
    with torch.enable_grad():
        points = [t.detach().clone().requires_grad_() for t in (x, low, high)]
        z = apply(points[0]) - plus(points[1]) - minus(points[2])
    pulled = torch.autograd.grad(z, points, divide(y * g, z.detach()))
    relevance = sum(p.detach() * gp for p, gp in zip(points, pulled, strict=True))
    assert isinstance(relevance, Tensor)
    return divide(relevance, x)


def residual(g: Tensor, a: Tensor, b: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Applies the rule of a skip connection y = a + b (Chefer et al. 2021, eq. 9-10), with the sums per image.

    The branches' relevances a*g and b*g, with totals s_a and s_b, are rescaled to totals of
    |s_a| / (|s_a| + |s_b|) and |s_b| / (...) of s_a + s_b. In gradient form that is one factor per image and branch:
    g_a = g * sign(s_a) * (s_a + s_b) / (|s_a| + |s_b|), between -1 and 1, so nothing can blow up here.

    Raises:
        InputError: the leading dimension of a tensor is not a multiple of `batch`.
    """
    sums = []
    for branch in (a, b):
        r = branch * g
        if r.shape[0] % batch:
            raise InputError(f"a sum of shape {tuple(r.shape)} does not start with the batch of {batch} images")
        sums.append(r.reshape(batch, -1).sum(1, dtype=torch.float64))
    s_a, s_b = sums
    size = s_a.abs() + s_b.abs()
    share = torch.where(size > 0, (s_a + s_b) / size.clamp(min=torch.finfo(torch.float64).tiny), size)

    def scaled(branch: Tensor, total: Tensor) -> Tensor:
        factor = (total.sign() * share).to(g.dtype).repeat_interleave(g.shape[0] // batch)
        return (g * factor.reshape(-1, *(1,) * (g.ndim - 1))).sum_to_size(branch.shape)

    return scaled(a, s_a), scaled(b, s_b)
