"""A weight on its grids: the codes and what a step of each is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qvit_deploy.quantize.grid import Tensor, dequantize


@dataclass(frozen=True)
class RoundedWeight:
    """A weight matrix on its grids.

    Attributes:
        codes: int8 [in, out].
        scale: float32 [out].
    """

    codes: Tensor
    scale: Tensor

    def value(self) -> Tensor:
        """float32 [in, out]."""
        return dequantize(self.codes.float(), self.scale)


RoundedWeights = Mapping[tuple[str, int], RoundedWeight]
"""(site name, bits) -> its weight at that width."""
