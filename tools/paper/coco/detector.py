"""Mask R-CNN and Cascade Mask R-CNN with Swin and FPN, up to the places where NMS and RoIAlign stand.

Parameter names and forms of the heads are those of mmdetection and of the detectors that Swin's authors published:
Mask R-CNN has two fully connected layers per box, the cascade four convolutions with batch norm and one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from torch import Tensor, nn

from qvit_deploy.errors import InputError
from tools.paper.coco.swin import Swin

LEVELS = 5
"""Feature maps with proposals, strides 4 to 64; boxes look at the first four."""
STRIDES = (4, 8, 16, 32, 64)
ANCHORS = 3
"""Per place: one size, three ratios."""
BOX_SIDE, MASK_SIDE = 7, 14
"""Sides of the features of a region, for boxes and for masks."""


@dataclass(frozen=True)
class Architecture:
    """The sizes of a detector.

    Attributes:
        stages: box heads one after the other, each starting from the boxes of the one before; 1 or 3.
        width: channels of the first stage of Swin.
        channels: of the feature pyramid and of convolutions in heads.
        hidden: of fully connected layers in box heads.
    """

    stages: int
    depths: tuple[int, ...]
    width: int = 96
    heads: tuple[int, ...] = (3, 6, 12, 24)
    channels: int = 256
    hidden: int = 1024


_TINY, _SMALL = (2, 2, 6, 2), (2, 2, 18, 2)
ARCHITECTURES = {
    "mask_rcnn_swin_tiny": Architecture(1, _TINY),
    "mask_rcnn_swin_small": Architecture(1, _SMALL),
    "cascade_mask_rcnn_swin_tiny": Architecture(3, _TINY),
    "cascade_mask_rcnn_swin_small": Architecture(3, _SMALL),
}


def architecture(text: str) -> Architecture:
    """Reads `NAME` or `NAME?width=16&depths=1,1,1,1`, which changes sizes. Raises InputError."""
    name, _, arguments = text.partition("?")
    if name not in ARCHITECTURES:
        raise InputError(f"there is no detector {name!r}; choose from {', '.join(ARCHITECTURES)}")
    chosen, changed = ARCHITECTURES[name], {}
    for argument in filter(None, arguments.split("&")):
        key, _, value = argument.partition("=")
        if key not in ("depths", "width", "heads", "channels", "hidden"):
            raise InputError(f"{text}: {key!r} is none of depths, width, heads, channels and hidden")
        try:
            numbers = tuple(int(number) for number in value.split(","))
        except ValueError:
            numbers = ()
        wanted = 4 if isinstance(getattr(chosen, key), tuple) else 1
        if len(numbers) != wanted or min(numbers) < 1:
            raise InputError(f"{text}: {key} needs {wanted} whole number{'s, a,b,c,d' if wanted > 1 else ''}")
        changed[key] = numbers if wanted > 1 else numbers[0]
    return replace(chosen, **changed)  # type: ignore[arg-type]


class Detector(nn.Module):
    """All layers of a detector; `trunk`, `box_heads` and `masks` are what runs between NMS and RoIAlign.

    Args:
        size: (height, width) of images, multiples of 32.
        classes: things to find; the boxes' logits have one more, the last, for nothing.
    """

    def __init__(self, sizes: Architecture, size: tuple[int, int], classes: int) -> None:
        super().__init__()
        if any(side % 32 for side in size):
            raise InputError(f"images of {size[0]}x{size[1]}: both sides must be multiples of 32")
        self.backbone = Swin(size, sizes.width, sizes.depths, sizes.heads)
        self.neck = Pyramid([sizes.width * 2**i for i in range(4)], sizes.channels)
        self.rpn_head = ProposalHead(sizes.channels)
        single = sizes.stages == 1
        boxes = [BoxHead(sizes.channels, sizes.hidden, classes, plain=single) for _ in range(sizes.stages)]
        masks = [MaskHead(sizes.channels, classes) for _ in range(sizes.stages)]
        self.roi_head = nn.ModuleDict(
            {
                "bbox_head": boxes[0] if single else nn.ModuleList(boxes),
                "mask_head": masks[0] if single else nn.ModuleList(masks),
            }
        )

    @property
    def trunk(self) -> Trunk:
        """Images to feature maps and what the proposals are made of."""
        return Trunk(self.backbone, self.neck, self.rpn_head)

    @property
    def box_heads(self) -> list[BoxHead]:
        """Features of regions to logits and deltas, stage by stage."""
        return [head for head in self.roi_head["bbox_head"].modules() if isinstance(head, BoxHead)]

    @property
    def masks(self) -> Masks:
        """Features of regions to the masks' logits of every stage."""
        return Masks([head for head in self.roi_head["mask_head"].modules() if isinstance(head, MaskHead)])


class Trunk(nn.Module):
    """Images [b, 3, H, W] to maps p2 to p5 [b, channels, h, w], logits [b, 3, h, w] and deltas [b, 12, h, w] of
    anchors on p2 to p6."""

    outputs = (
        *(f"p{level}" for level in range(2, 6)),
        *(f"objectness{level}" for level in range(2, 7)),
        *(f"deltas{level}" for level in range(2, 7)),
    )

    def __init__(self, backbone: nn.Module, neck: nn.Module, proposals: nn.Module) -> None:
        super().__init__()
        self.backbone, self.neck, self.proposals = backbone, neck, proposals

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        maps = self.neck(self.backbone(image))
        found = [self.proposals(level) for level in maps]
        return (*maps[:4], *(logits for logits, _ in found), *(deltas for _, deltas in found))


class ConvModule(nn.Module):
    """A convolution with a bias, or without one and with batch norm. mmdetection names it so."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, normed: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=not normed)
        self.bn = nn.BatchNorm2d(outputs) if normed else None

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(x)
        return result if self.bn is None else self.bn(result)


class Pyramid(nn.Module):
    """The feature pyramid: maps of stride 4 to 32 to maps of stride 4 to 64 with equally many channels."""

    def __init__(self, inputs: list[int], channels: int) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(ConvModule(n, channels, 1) for n in inputs)
        self.fpn_convs = nn.ModuleList(ConvModule(channels, channels, 3) for _ in inputs)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        lateral = [conv(level) for conv, level in zip(self.lateral_convs, maps, strict=True)]
        for fine in range(len(lateral) - 2, -1, -1):
            lateral[fine] = lateral[fine] + nn.functional.interpolate(lateral[fine + 1], scale_factor=2.0)
        merged = [conv(level) for conv, level in zip(self.fpn_convs, lateral, strict=True)]
        return [*merged, nn.functional.max_pool2d(merged[-1], 1, 2)]


class ProposalHead(nn.Module):
    """A map to the logits [b, 3, h, w] and deltas [b, 12, h, w] of the anchors at its places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rpn_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.rpn_cls = nn.Conv2d(channels, ANCHORS, 1)
        self.rpn_reg = nn.Conv2d(channels, 4 * ANCHORS, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.rpn_conv(x).relu()
        return self.rpn_cls(x), self.rpn_reg(x)


class BoxHead(nn.Module):
    """Features [n, channels, 7, 7] to logits [n, classes + 1] and deltas [n, 4 * classes]."""

    outputs = ("logits", "deltas")

    def __init__(self, channels: int, hidden: int, classes: int, *, plain: bool) -> None:
        super().__init__()
        convolutions = 0 if plain else 4
        self.shared_convs = nn.ModuleList(ConvModule(channels, channels, 3, normed=True) for _ in range(convolutions))
        widths = [channels * BOX_SIDE**2, *([hidden] * (2 if plain else 1))]
        self.shared_fcs = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.fc_cls = nn.Linear(hidden, classes + 1)
        self.fc_reg = nn.Linear(hidden, 4 * classes)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        x = features
        for convolution in self.shared_convs:
            x = convolution(x).relu()
        x = x.flatten(1)
        for layer in self.shared_fcs:
            x = layer(x).relu()
        return self.fc_cls(x), self.fc_reg(x)


class MaskHead(nn.Module):
    """Features [n, channels, 14, 14] to the logits of a mask for every class, [n, classes, 28, 28]."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ConvModule(channels, channels, 3) for _ in range(4))
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, 2)
        self.conv_logits = nn.Conv2d(channels, classes, 1)

    def forward(self, features: Tensor) -> Tensor:
        x = features
        for convolution in self.convs:
            x = convolution(x).relu()
        logits: Tensor = self.conv_logits(self.upsample(x).relu())
        return logits


class Masks(nn.Module):
    """The mask heads of all stages, which see the same features: one output each."""

    def __init__(self, heads: list[MaskHead]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.outputs = tuple(f"mask{i}" for i in range(len(heads)))

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        return tuple(head(features) for head in self.heads)
