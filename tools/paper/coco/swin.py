"""Swin as detectors use it: any size of image, four feature maps, the parameter names of mmdetection.

timm's Swin shifts a feature map before it pads it to whole windows. Detectors were trained with the padding first, and
where a map is no multiple of the window, as at 800 x 1344, the two differ; hence a model of our own.

Source: Liu et al., "Swin Transformer" (2021), and the names and the order of channels of mmdetection's
`models/backbones/swin.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

WINDOW = 7
"""Pixels of a window's side in all published detectors with Swin-T and Swin-S."""
PATCH = 4
_SHIFT = WINDOW // 2
_MASKED = -100.0


class Swin(nn.Module):
    """Images [b, 3, H, W], sides multiples of 32, to four maps of stride 4, 8, 16 and 32."""

    def __init__(self, size: tuple[int, int], width: int, depths: Sequence[int], heads: Sequence[int]) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(width)
        stages = []
        for index, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            stride = PATCH * 2**index
            map_size = (size[0] // stride, size[1] // stride)
            stages.append(Stage(width * 2**index, map_size, depth, count, last=index == len(depths) - 1))
        self.stages = nn.ModuleList(stages)
        for index in range(len(depths)):
            self.add_module(f"norm{index}", nn.LayerNorm(width * 2**index))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Returns the maps, [b, width * 2^i, H / (4 * 2^i), W / (4 * 2^i)]."""
        x = self.patch_embed(image)
        maps = []
        for index, stage in enumerate(self.stages):
            assert isinstance(stage, Stage)
            x = stage.blocks(x)
            maps.append(self.get_submodule(f"norm{index}")(x).permute(0, 3, 1, 2))
            x = stage.downsample(x)
        return maps


class PatchEmbed(nn.Module):
    """Patches of 4 x 4 pixels to channels, [b, H / 4, W / 4, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, width, PATCH, PATCH)
        self.norm = nn.LayerNorm(width)

    def forward(self, image: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.projection(image).permute(0, 2, 3, 1))
        return normed


class Stage(nn.Module):
    """The blocks of one resolution, and what leads to the next one."""

    def __init__(self, width: int, size: tuple[int, int], depth: int, heads: int, *, last: bool) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(width, size, heads, shifted=i % 2 == 1) for i in range(depth)))
        self.downsample = nn.Identity() if last else PatchMerging(width)


class PatchMerging(nn.Module):
    """Four neighbours to one pixel of twice the channels; they are counted channel, row, column, as unfold does."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, height, width, channels = x.shape
        neighbours = x.reshape(b, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 5, 2, 4)
        reduced: Tensor = self.reduction(self.norm(neighbours.reshape(b, height // 2, width // 2, 4 * channels)))
        return reduced


class Block(nn.Module):
    """Attention in windows and an MLP, each behind a LayerNorm and around it the identity."""

    def __init__(self, width: int, size: tuple[int, int], heads: int, *, shifted: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, size, heads, shifted=shifted)
        self.norm2 = nn.LayerNorm(width)
        self.ffn = FeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        result: Tensor = x + self.ffn(self.norm2(x))
        return result


class FeedForward(nn.Module):
    """Linear, GELU, Linear; four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(width, 4 * width), nn.GELU()), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x)
        return result


class WindowAttention(nn.Module):
    """Attention in windows of a map [b, *size, width] that is padded below and right to whole windows, then shifted."""

    mask: Tensor | None

    def __init__(self, width: int, size: tuple[int, int], heads: int, *, shifted: bool) -> None:
        super().__init__()
        self.w_msa = WindowProducts(width, heads)
        self.padding = tuple(-side % WINDOW for side in size)
        self.shift = _SHIFT if shifted else 0
        padded = (size[0] + self.padding[0], size[1] + self.padding[1])
        self.register_buffer("mask", attention_mask(padded) if shifted else None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        b, height, width, channels = x.shape
        below, right = self.padding
        if below or right:
            x = nn.functional.pad(x, (0, 0, 0, right, 0, below))
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        rows, columns = (height + below) // WINDOW, (width + right) // WINDOW
        windows = x.reshape(b, rows, WINDOW, columns, WINDOW, channels).permute(0, 1, 3, 2, 4, 5)
        attended = self.w_msa(windows.reshape(-1, WINDOW * WINDOW, channels), self.mask)
        x = attended.reshape(b, rows, columns, WINDOW, WINDOW, channels).permute(0, 1, 3, 2, 4, 5)
        x = x.reshape(b, height + below, width + right, channels)
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), (1, 2))
        return x[:, :height, :width]


class WindowProducts(nn.Module):
    """Attention among the pixels of every window, [windows, 49, width], with a bias for their distance."""

    position_index: Tensor

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(0.02 * torch.randn((2 * WINDOW - 1) ** 2, heads))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.register_buffer("position_index", position_index(), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        count, pixels, channels = x.shape
        qkv = self.qkv(x).reshape(count, pixels, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        scores = (query * self.scale) @ key.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.position_index.reshape(-1)]
        scores = scores + bias.reshape(pixels, pixels, self.heads).permute(2, 0, 1).unsqueeze(0)
        if mask is not None:
            windows = mask.shape[0]
            scores = scores.reshape(-1, windows, self.heads, pixels, pixels) + mask[None, :, None]
            scores = scores.reshape(-1, self.heads, pixels, pixels)
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(count, pixels, channels)
        result: Tensor = self.proj(mixed)
        return result


def position_index() -> Tensor:
    """Returns the row of the table of biases for every pair of a window's pixels, int64 [49, 49]."""
    rows, columns = torch.meshgrid(torch.arange(WINDOW), torch.arange(WINDOW), indexing="ij")
    place = rows.flatten() * (2 * WINDOW - 1) + columns.flatten()
    return place[:, None] - place[None, :] + 2 * WINDOW * (WINDOW - 1)


def attention_mask(size: tuple[int, int]) -> Tensor:
    """Returns what is added to scores in shifted windows of a map of `size`, [windows, 49, 49]: 0 among pixels that
    were neighbours before the shift, else -100."""
    height, width = size
    row, column = (
        (torch.arange(side) >= side - WINDOW).long() + (torch.arange(side) >= side - _SHIFT).long() for side in size
    )
    region = 3 * row[:, None] + column[None, :]
    windows = region.reshape(height // WINDOW, WINDOW, width // WINDOW, WINDOW).permute(0, 2, 1, 3).reshape(-1, 49)
    apart = windows[:, :, None] != windows[:, None, :]
    return apart.float() * _MASKED
