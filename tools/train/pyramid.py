"""Trains a feature pyramid on the trunk of `demo:swin`: maps of several sizes, as a detector's neck puts them out.

    python -m tools.train.pyramid OUT.pt [--epochs 30]

The trunk keeps its weights. What is learnt, from the 512 calibration images that the package carries: laterals,
smoothing convolutions, and one more map behind the coarsest (Lin et al., arXiv 1612.03144 and 1708.02002); heads that
are thrown away afterwards ask every map for the mask of the pixels that are above a threshold, and for the class.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qvit_deploy.frontend.checkpoint import load_weights
from qvit_deploy.frontend.demo import DEMO_FOLDER
from qvit_deploy.frontend.timm_model import create
from tools.train.reference import LABEL_SMOOTHING, REFERENCES, normalise, say
from tools.train.two_heads import BATCH, LEARNING_RATE, THRESHOLD, WEIGHT_DECAY, shipped

TRUNK_CHANNELS, CHANNELS = (64, 128), 32


class Pyramid(nn.Module):
    """Returns maps [batch, 32, side, side] with sides 14, 7 and 4, of images float32 [batch, 1, 28, 28]."""

    def __init__(self) -> None:
        super().__init__()
        reference = REFERENCES["swin"]
        self.trunk: nn.Module = create(reference.timm_name, reference.kwargs)[0]
        load_weights(self.trunk, DEMO_FOLDER / "swin.safetensors")
        self.lateral = nn.ModuleList(nn.Conv2d(channels, CHANNELS, 1) for channels in TRUNK_CHANNELS)
        self.smooth = nn.ModuleList(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in TRUNK_CHANNELS)
        self.more = nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2, padding=1)

    def stages(self, images: Tensor) -> list[Tensor]:
        """Returns what the trunk's stages put out, [batch, channels, side, side]."""
        maps: list[Tensor] = self.trunk.forward_intermediates(images, intermediates_only=True)  # type: ignore[operator]
        return maps

    def neck(self, stages: list[Tensor]) -> tuple[Tensor, ...]:
        """Returns the maps of the pyramid from `stages`."""
        fine, coarse = (conv(x) for conv, x in zip(self.lateral, stages, strict=True))
        fine = fine + F.interpolate(coarse, scale_factor=2.0, mode="nearest")
        maps = [conv(x) for conv, x in zip(self.smooth, (fine, coarse), strict=True)]
        return *maps, self.more(maps[-1].relu())

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.neck(self.stages(images))


def train(images: np.ndarray, labels: np.ndarray, epochs: int, seed: int) -> Pyramid:
    """Returns a pyramid trained on images uint8 [n, 28, 28] and classes [n]."""
    torch.manual_seed(seed)
    model, pixels = Pyramid().eval(), torch.from_numpy(images.copy())
    classes = torch.from_numpy(labels.astype(np.int64))
    masks = nn.ModuleList(nn.Conv2d(CHANNELS, 1, 1) for _ in range(3))
    kinds = nn.ModuleList(nn.Linear(CHANNELS, 10) for _ in range(3))
    with torch.no_grad():
        parts = [model.stages(normalise(some)) for some in pixels.split(BATCH)]
        stages = [torch.cat(level) for level in zip(*parts, strict=True)]
    learnt = [p for m in (model.lateral, model.smooth, model.more, masks, kinds) for p in m.parameters()]
    optimizer = torch.optim.AdamW(learnt, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    above = (pixels > THRESHOLD).float()[:, None]
    for epoch in range(epochs):
        total = 0.0
        for chosen in torch.randperm(len(pixels)).split(BATCH):
            losses = []
            for level, mask, kind in zip(model.neck([s[chosen] for s in stages]), masks, kinds, strict=True):
                share = F.adaptive_avg_pool2d(above[chosen], (level.shape[-2], level.shape[-1]))
                losses.append(F.binary_cross_entropy_with_logits(mask(level), share))
                logits = kind(level.relu().mean((2, 3)))
                losses.append(F.cross_entropy(logits, classes[chosen], label_smoothing=LABEL_SMOOTHING))
            loss = torch.stack(losses).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(chosen) / len(pixels)
        schedule.step()
        if (epoch + 1) % 10 == 0:
            say(f"epoch {epoch + 1}/{epochs}  loss {total:.3f}")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.save(train(*shipped("calib"), arguments.epochs, arguments.seed).state_dict(), arguments.out)


if __name__ == "__main__":
    main()
