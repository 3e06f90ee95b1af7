"""A rounded weight: its codes, and one scale per output channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from qvit_deploy.formats.format import Format


@dataclass(frozen=True)
class RoundedWeight:
    """A weight matrix rounded to a format.

    Attributes:
        codes: [in, out], as `Format.compact` keeps them; int8 of integers.
        scale: float32 [out].
    """

    codes: Tensor
    scale: Tensor

    def value(self) -> Tensor:
        """Returns the dequantized weight, float32 [in, out]."""
        return self.codes.float() * self.scale


RoundedWeights = Mapping[tuple[str, Format], RoundedWeight]
"""(site name, format) -> its weight in that format."""
