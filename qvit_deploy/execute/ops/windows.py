"""Where the windows of convolutions and pools lie: strides, dilations and the padding at both ends of every axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qvit_deploy.execute.ops.registry import NodeView


@dataclass(frozen=True)
class Windows:
    """The windows of a Conv, a ConvTranspose or a pool over `len(kernel)` spatial axes, in the order of the axes.

    Attributes:
        pads: elements in front of and behind each axis; None where `auto_pad` makes them depend on the input's size.
        ceil: the last window may reach over the end of the padded input (ceil_mode).
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...] | None
    upper: bool
    ceil: bool

    @classmethod
    def of(cls, view: NodeView, kernel: Sequence[int]) -> Windows:
        """Reads the attributes strides, dilations, pads, auto_pad and ceil_mode. Raises UnsupportedOpError."""
        spatial = len(kernel)
        auto = view.attr("auto_pad", "NOTSET")
        if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
            raise view.unsupported(f"auto_pad {auto!r} is unknown")
        flat = list(view.attr("pads", [0] * (2 * spatial))) if auto == "NOTSET" else [0] * (2 * spatial)
        return cls(
            kernel=tuple(kernel),
            strides=tuple(view.attr("strides", [1] * spatial)),
            dilations=tuple(view.attr("dilations", [1] * spatial)),
            pads=None if auto.startswith("SAME") else tuple(zip(flat[:spatial], flat[spatial:], strict=True)),
            upper=auto != "SAME_LOWER",
            ceil=bool(view.attr("ceil_mode", 0)),
        )

    @property
    def extents(self) -> tuple[int, ...]:
        """How many elements each window spans, the gaps of a dilation included."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    def padding(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        """Returns the elements in front of and behind each axis of an input with spatial `sizes`."""
        if self.pads is not None:
            return list(self.pads)
        needed = (
            max((-(-size // stride) - 1) * stride + extent - size, 0)
            for size, stride, extent in zip(sizes, self.strides, self.extents, strict=True)
        )
        return [self.split(total) for total in needed]

    def split(self, total: int) -> tuple[int, int]:
        """Parts a padding of SAME_UPPER (the odd element behind) or SAME_LOWER (in front)."""
        small, large = total // 2, total - total // 2
        return (small, large) if self.upper else (large, small)

    def overhang(self, sizes: Sequence[int], padding: Sequence[tuple[int, int]]) -> list[int]:
        """Returns by how much the last window of each axis reaches over the padded input: 0 without `ceil`.

        A window that would begin behind the input and its leading padding is left out (ONNX opset 22; torch).
        """
        if not self.ceil:
            return [0] * len(self.kernel)
        over = []
        for size, (front, back), stride, extent in zip(sizes, padding, self.strides, self.extents, strict=True):
            length = size + front + back
            steps = -(-(length - extent) // stride)
            if steps * stride >= size + front:
                steps -= 1
            over.append(max(steps * stride + extent - length, 0))
        return over


def torch_pads(pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Returns (front, back) of each axis in the order of `torch.nn.functional.pad`: the last axis first."""
    return [n for pair in reversed(pairs) for n in pair]
