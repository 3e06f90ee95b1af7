"""Independent references: RelP's stop-gradient forms and Chefer's relevance forms, in plain torch and numpy.

`ln_rule`, `gelu_rule` and `half_rule` are RelP's (arXiv 2508.21258), `lrp_*` LRP-QViT's (arXiv 2401.11243).
They share no code with the package: relevance here is propagated as relevance, not as gradient.
"""

from __future__ import annotations

import numpy as np
import torch

from qvit_deploy.graph.graph import Graph

Tensor = torch.Tensor


def ln_rule(x: Tensor, w: Tensor, b: Tensor, eps: float) -> Tensor:
    xc = x - x.mean(-1, keepdim=True)
    return xc / (xc.pow(2).mean(-1, keepdim=True) + eps).sqrt().detach() * w + b


def gelu_rule(x: Tensor) -> Tensor:
    return x * (0.5 * (1 + torch.erf(x / 2**0.5))).detach()


def half_rule(a: Tensor, b: Tensor) -> Tensor:
    p = a * b
    return 0.5 * p + (0.5 * p).detach()


def sdiv(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where(b != 0, a / np.where(b == 0, 1, b), 0)


def lrp_linear(x: np.ndarray, w: np.ndarray, r: np.ndarray) -> np.ndarray:
    """w: [out, in]."""
    xp, xn, wp, wn = np.maximum(x, 0), np.minimum(x, 0), np.maximum(w, 0), np.minimum(w, 0)
    s = sdiv(r, xp @ wp.T + xn @ wn.T)
    return xp * (s @ wp) + xn * (s @ wn)


def lrp_box(x: np.ndarray, w: np.ndarray, r: np.ndarray, low: float, high: float) -> np.ndarray:
    """z^B; w: [out, in]."""
    wp, wn = np.maximum(w, 0), np.minimum(w, 0)
    ones = np.ones_like(x)
    s = sdiv(r, x @ w.T - low * ones @ wp.T - high * ones @ wn.T)
    return x * (s @ w) - low * (s @ wp) - high * (s @ wn)


def lrp_matmul(a: np.ndarray, b: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    s = sdiv(r, a @ b)
    return a * (s @ b.swapaxes(-1, -2)) / 2, b * (a.swapaxes(-1, -2) @ s) / 2


def lrp_add(a: np.ndarray, b: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One image."""
    s = sdiv(r, a + b)
    ra, rb = a * s, b * s
    wa, wb, total = abs(ra.sum()), abs(rb.sum()), r.sum()
    return ra * wa / (wa + wb) * total / ra.sum(), rb * wb / (wa + wb) * total / rb.sum()


class VitRelevance:
    """Chefer's relevance propagation of one image through the ViT of conftest.py, operator by operator, float64.

    Activations are read from `tensors` (name -> [1, ...]); `relevance` collects name -> R.
    """

    def __init__(self, graph: Graph, tensors: dict[str, Tensor], blocks: int, heads: int) -> None:
        self.weights = {k: v.const_value.numpy().astype(np.float64) for k, v in graph.initializers.items()}  # type: ignore[union-attr]
        self.t = {k: v.detach().numpy().astype(np.float64)[0] for k, v in tensors.items()}
        self.heads, self.relevance = heads, dict[str, np.ndarray]()
        width = self.t["pooled"].shape[0]
        r = np.zeros(self.t["logits"].shape)
        r[self.t["logits"].argmax()] = 1.0
        r = self._linear("pooled", "head", r)
        r = np.concatenate([r[None], np.zeros((4, width))])  # the class token is row 0; LayerNorm passes
        for i in reversed(range(blocks)):
            r = self._block(f"blocks.{i}", "embedded" if i == 0 else f"blocks.{i - 1}.out", r)
        self.relevance["embedded"] = r

    def _linear(self, x: str, module: str, r: np.ndarray) -> np.ndarray:
        self.relevance[x] = lrp_linear(self.t[x], self.weights[f"{module}.weight"].T, r)
        return self.relevance[x]

    def _clone(self, x: str, *branches: np.ndarray) -> np.ndarray:
        total: np.ndarray = self.t[x] * sum(sdiv(r, self.t[x]) for r in branches)
        return total

    def _block(self, b: str, source: str, r: np.ndarray) -> np.ndarray:
        skip, branch = lrp_add(self.t[f"{b}.mid"], self.t[f"{b}.mlp"], r)
        r = self._linear(f"{b}.gelu", f"{b}.fc2", branch)
        r = self._linear(f"{b}.norm2", f"{b}.fc1", r)
        r = self._clone(f"{b}.mid", skip, r)
        skip, branch = lrp_add(self.t[source], self.t[f"{b}.mid"] - self.t[source], r)
        r = self._linear(f"{b}.joined", f"{b}.proj", branch)
        tokens, width = r.shape
        r = r.reshape(tokens, self.heads, -1).swapaxes(0, 1)
        pattern, v = lrp_matmul(self.t[f"{b}.pattern"], self.t[f"{b}.v"], r)
        q, k = lrp_matmul(self.t[f"{b}.q_scaled"], self.t[f"{b}.k_t"], pattern)  # the softmax passes
        self.relevance |= {f"{b}.pattern": pattern, f"{b}.v": v, f"{b}.q_scaled": q, f"{b}.k_t": k}
        k = k.swapaxes(-1, -2)
        r = np.stack([q, k, v]).transpose(2, 0, 1, 3).reshape(tokens, 3 * width)
        r = self._linear(f"{b}.norm1", f"{b}.qkv", r)
        return self._clone(source, skip, r)
