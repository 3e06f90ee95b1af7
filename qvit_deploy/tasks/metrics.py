"""How far tensors are apart."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


class Noise:
    """The noise in named tensors [n, ...] against exact ones, over batches."""

    def __init__(self) -> None:
        self._powers: dict[str, tuple[float, float]] = {}
        self._first: dict[str, np.ndarray] = {}
        self._differing: set[str] = set()

    def add(self, exact: Mapping[str, np.ndarray], measured: Mapping[str, np.ndarray]) -> None:
        """Takes in a batch, the same tensors every time."""
        for name, value in exact.items():
            signal, noise = self._powers.get(name, (0.0, 0.0))
            more = _signal_and_noise(value, measured[name])
            self._powers[name] = signal + more[0], noise + more[1]
            if name not in self._differing and (value != self._first.setdefault(name, value[:1].copy())).any():
                self._differing.add(name)

    def ratios_db(self) -> dict[str, float]:
        """Returns name -> signal to quantization noise ratio in dB (as `sqnr_db`), the worst first.

        A tensor that is the same for every example is left out, unless all are: it says nothing, and a model that
        gives noise there would be told apart from its float model by that alone.
        """
        telling = [name for name in self._powers if name in self._differing] or list(self._powers)
        ratios = {name: _ratio_db(*self._powers[name]) for name in telling}
        return dict(sorted(ratios.items(), key=lambda item: item[1]))


def sqnr_db(reference: np.ndarray, other: np.ndarray) -> float:
    """Returns the signal to quantization noise ratio of `other` against `reference`, 10 log10(sum y^2 / sum (y -
    y')^2), in dB; 200 when they are equal."""
    return _ratio_db(*_signal_and_noise(reference, other))


def _signal_and_noise(reference: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    noise = float(np.square(reference - other, dtype=np.float64).sum())
    return float(np.square(reference, dtype=np.float64).sum()), noise


def _ratio_db(signal: float, noise: float) -> float:
    return min(200.0, 10 * float(np.log10(signal / noise))) if noise > 0 and signal > 0 else 200.0


def relative_error(reference: np.ndarray, other: np.ndarray) -> float:
    """Returns the largest difference of the two, relative to the largest magnitude in `reference`."""
    return float(np.abs(other - reference).max() / max(np.abs(reference).max(), 1e-12))
