"""The grid of any activation: one scale per tensor."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import torch

from qvit_deploy.formats.emitter import Emitter, write_clip
from qvit_deploy.formats.format import Format
from qvit_deploy.formats.grids.grid import OrdinaryGrid, Prepared, QuantizerPair, Tensor
from qvit_deploy.formats.grids.half import half_scale


@dataclass(frozen=True)
class ActivationGrid(OrdinaryGrid):
    """x is quantized as Q(x + shift) in `format`; the product's output undoes the shift.

    Attributes:
        format: of the codes.
        scale: float > 0.
        shift: 0.0 except for attention probabilities, whose values are all on one side.
    """

    format: Format
    scale: float
    shift: float = 0.0

    @property
    def emitted_scale(self) -> float:
        return self.scale

    @property
    def is_plain(self) -> bool:
        return not self.shift

    @property
    def per_tensor(self) -> ActivationGrid:
        return self

    @property
    def pair(self) -> QuantizerPair:
        return QuantizerPair(self.scale, self.format.container)

    def apply(self, x: Tensor) -> Tensor:
        """Returns the dequantized value of x + shift, float32, what the consumer's product reads."""
        scale = torch.tensor(self.scale, device=x.device)
        return self.format.fake_quantize(x + self.shift if self.shift else x, scale)

    def with_half_scale(self) -> ActivationGrid:
        """Rounds the scale to float16. A grid with a shift keeps its scale: it is not written in half precision."""
        return replace(self, scale=half_scale(self.scale)) if self.is_plain else self

    def prepare(self, x: ir.Value, name: str, emitter: Emitter) -> Prepared:
        """Shifts and clips x, where it needs that."""
        source, scale = x, np.float32(self.scale)
        if self.shift:
            shift = emitter.constant(f"{name}.shift", np.float32(self.shift))
            source = emitter.add("Add", [source, shift], f"{name}.shifted")
        if not self.format.fills_container:
            source = write_clip(emitter, source, scale, self.format.range, name)
        return Prepared(x, source)
