"""Maps of each head's channels, folded into the projections around attention products.

Scores q k^T and mixed values P v W do not change when each head's q becomes q T and its k becomes k T^-T, or v becomes
v T and the projection's rows T^-1 W: any invertible T per head is free, and so is a shift of k (it adds one number to
all scores of a query, which the softmax cancels) and of v (probabilities sum to 1, so the projection's bias takes it
back). T is chosen so that rounding both sides to one grid costs least (`balanced`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
import scipy.linalg

from qvit_deploy.calibrate.heads import HeadColumns, ScorePair, ValuePair
from qvit_deploy.calibrate.observe import Observation
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.graph.sites import Site
from qvit_deploy.quantize.folds.norms import replace_constant

Array = np.ndarray

DAMPING = 1e-3
"""Of the mean eigenvalue, added to both second moments: channels that never vary must not be blown up."""


def balanced(left: Array, right: Array) -> Array:
    """Returns T with T^T left T = T^-1 right T^-T and equal diagonals there, float64 [n, n].

    With second moments `left` of x and `right` of y, rounding x T and y T^-T to b bits per channel, each channel on its
    own range, disturbs x y^T by about sum_c (T^T left T)_cc (T^-1 right T^-T)_cc. Its least value over all invertible
    T is (sum_i sqrt(lambda_i))^2 / n with lambda the eigenvalues of left x right: reached where the two moments are one
    and the same matrix (the first factor below) with equal diagonals (the second; an orthogonal change of basis leaves
    the moments equal). That also makes the channels' ranges alike, as one scale for all of them wants.
    """
    n = len(left)
    eye = np.eye(n)
    left = left + (DAMPING * np.trace(left) / n + 1e-30) * eye
    right = right + (DAMPING * np.trace(right) / n + 1e-30) * eye
    lower = np.linalg.cholesky(left)
    vectors, values, _ = np.linalg.svd(lower.T @ right @ lower)
    return np.linalg.solve(lower.T, vectors * values**0.25) @ spread(n)


def spread(n: int) -> Array:
    """Returns an orthogonal matrix [n, n] whose entries are of one size: Hadamard's where n is a power of 2, else the
    real Fourier basis' relative, the discrete Hartley matrix (cas(2 pi j k / n) / sqrt(n), symmetric and
    orthogonal)."""
    if n & (n - 1) == 0:
        return scipy.linalg.hadamard(n) / np.sqrt(n)
    angle = 2 * np.pi * np.outer(np.arange(n), np.arange(n)) / n
    return (np.cos(angle) + np.sin(angle)) / np.sqrt(n)


def fold_heads(
    graph: Graph,
    sites: tuple[Site, ...],
    scores: tuple[ScorePair, ...],
    values: tuple[ValuePair, ...],
    observations: Mapping[str, Observation],
) -> Graph:
    """Returns a new graph computing the same function, every head's channels mapped by `balanced`.

    Arithmetic in float64, stored as float32.

    Args:
        observations: of the `tensor` of every `HeadColumns`.
    """
    folded = graph.clone()
    editor = _Projections(folded, sites)
    for pair in scores:
        _fold_scores(editor, pair, observations)
    for mixed in values:
        _fold_values(editor, mixed, observations)
    return folded


def _fold_scores(editor: _Projections, pair: ScorePair, observations: Mapping[str, Observation]) -> None:
    query, key = _rows(observations[pair.query.tensor]), _rows(observations[pair.key.tensor])
    if pair.free_shift and editor.has_bias(pair.key):
        centre = _weights(observations[pair.key.tensor]) @ key
        editor.columns(pair.key, lambda w, b, c: (w, b - c), [centre[i] for i in pair.key.index])
        key = key - centre
    maps = [
        balanced(query[:, q].T @ query[:, q] / len(query), key[:, k].T @ key[:, k] / len(key))
        for q, k in zip(pair.query.index, pair.key.index, strict=True)
    ]
    editor.columns(pair.query, lambda w, b, t: (w @ t, b @ t), maps)
    editor.columns(pair.key, lambda w, b, t: (np.linalg.solve(t, w.T).T, np.linalg.solve(t, b)), maps)


def _fold_values(editor: _Projections, pair: ValuePair, observations: Mapping[str, Observation]) -> None:
    mixed = observations[pair.projection.tensor]
    rows, weights = _rows(mixed), _weights(mixed)
    if pair.free_shift and editor.has_bias(pair.value) and editor.has_bias(pair.projection):
        centre = weights @ rows
        editor.shift_rows(pair.projection, centre)
        editor.columns(pair.value, lambda w, b, c: (w, b - c), [centre[i] for i in pair.projection.index])
        rows = rows - centre
    weight = editor.weight(pair.projection)
    maps = [
        balanced(rows[:, i].T @ (rows[:, i] * weights[:, None]), weight[i] @ weight[i].T) for i in pair.projection.index
    ]
    editor.columns(pair.value, lambda w, b, t: (w @ t, b @ t), maps)
    editor.map_rows(pair.projection, maps)


def _rows(observation: Observation) -> Array:
    return observation.rows.double().numpy()


def _weights(observation: Observation) -> Array:
    weights = observation.weights.double().numpy()
    return weights / weights.sum()


class _Projections:
    """Weights and biases of one graph's linears, by the columns of a head."""

    def __init__(self, graph: Graph, sites: tuple[Site, ...]) -> None:
        self.values: Mapping[str, ir.Value] = graph.model.graph.initializers
        self.sites = {site.name: site for site in sites}

    def has_bias(self, columns: HeadColumns) -> bool:
        return self.sites[columns.site].bias is not None

    def weight(self, columns: HeadColumns) -> Array:
        name = self.sites[columns.site].weight
        assert name is not None
        return self._read(name)

    def columns(
        self, columns: HeadColumns, change: Callable[[Array, Array, Array], tuple[Array, Array]], each: list[Array]
    ) -> None:
        """Replaces every head's output columns (w [in, d], b [d]) by `change(w, b, each[head])`."""
        site, weight = self.sites[columns.site], self.weight(columns)
        bias = np.zeros(weight.shape[1]) if site.bias is None else self._read(site.bias)
        for index, parameter in zip(columns.index, each, strict=True):
            weight[:, index], bias[index] = change(weight[:, index], bias[index], parameter)
        self._write(site.weight, weight)
        if site.bias is not None:
            self._write(site.bias, bias)

    def shift_rows(self, rows: HeadColumns, centre: Array) -> None:
        """Lets the bias take back what is subtracted from the input: b + centre W, centre [in]."""
        site = self.sites[rows.site]
        assert site.bias is not None
        self._write(site.bias, self._read(site.bias) + centre @ self.weight(rows))

    def map_rows(self, rows: HeadColumns, maps: list[Array]) -> None:
        """Replaces every head's input rows W by T^-1 W."""
        weight = self.weight(rows)
        for index, t in zip(rows.index, maps, strict=True):
            weight[index] = np.linalg.solve(t, weight[index])
        self._write(self.sites[rows.site].weight, weight)

    def _read(self, name: str) -> Array:
        array = constant(self.values[name])
        assert array is not None
        return array.astype(np.float64)

    def _write(self, name: str | None, array: Array) -> None:
        assert name is not None
        replace_constant(self.values[name], array)
