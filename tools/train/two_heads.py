"""Trains a small ViT with two heads on Fashion-MNIST: the class, and a mask of the pixels that are above a threshold.

    python -m tools.train.two_heads OUT.pt [--data /usr/share/datasets/fashion-mnist] [--epochs 50]

Without `--data` it learns from the 512 calibration images that the package carries, which takes a minute and shows what
quantization does to two trained outputs; 1,000 other images are there to measure on. `--data` is a folder with the four
idx files, as for `tools.train.reference`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qvit_deploy.frontend.demo import DEMO_FOLDER
from tools.train.reference import LABEL_SMOOTHING, Split, augment, load_split, normalise, say

WIDTH, PATCH, SIDE = 64, 4, 7
THRESHOLD = 96
"""Of 255: pixels above it are the mask."""
BATCH, LEARNING_RATE, WEIGHT_DECAY = 64, 2e-3, 0.05


class TwoHeads(nn.Module):
    """Returns (logits [batch, 10], logits of the mask [batch, 1, 28, 28]) of images float32 [batch, 1, 28, 28]."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk: nn.Module = timm.create_model(
            "vit_tiny_patch16_224", img_size=28, in_chans=1, num_classes=10, patch_size=PATCH, embed_dim=WIDTH, depth=4,
            num_heads=2,
        )  # fmt: skip
        self.mask = nn.Linear(WIDTH, PATCH * PATCH)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens: Tensor = self.trunk.forward_features(images)  # type: ignore[operator]
        pixels = self.mask(tokens[:, 1:]).reshape(-1, SIDE, SIDE, PATCH, PATCH)
        logits: Tensor = self.trunk.forward_head(tokens)  # type: ignore[operator]
        return logits, pixels.transpose(2, 3).reshape(-1, 1, SIDE * PATCH, SIDE * PATCH)


def train(images: np.ndarray, labels: np.ndarray, epochs: int, seed: int) -> TwoHeads:
    """Returns a model trained on images uint8 [n, 28, 28] and classes [n]."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model, pixels, classes = TwoHeads(), torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = epochs * (len(pixels) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(epochs):
        total = 0.0
        for chosen in torch.randperm(len(pixels), generator=generator).split(BATCH)[: len(pixels) // BATCH]:
            shown = augment(pixels[chosen], generator)
            logits, mask = model(normalise(shown))
            loss = F.cross_entropy(logits, classes[chosen], label_smoothing=LABEL_SMOOTHING)
            loss = loss + F.binary_cross_entropy_with_logits(mask[:, 0], (shown > THRESHOLD).float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        if (epoch + 1) % 10 == 0:
            say(f"epoch {epoch + 1}/{epochs}  loss {total / (len(pixels) // BATCH):.3f}")
    return model.eval()


@torch.inference_mode()
def quality(model: TwoHeads, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Returns (top-1, intersection over union of the mask) on images uint8 [n, 28, 28] and classes [n]."""
    pixels = torch.from_numpy(images.copy())
    logits, mask = model(normalise(pixels))
    said, right = mask[:, 0] > 0, pixels > THRESHOLD
    top1 = float((logits.argmax(1) == torch.from_numpy(labels.astype(np.int64))).float().mean())
    return top1, float((said & right).sum() / (said | right).sum())


def shipped(split: str) -> Split:
    """Returns the images and classes that the package carries, of "calib" or "test"."""
    with np.load(DEMO_FOLDER / "fashion_mnist.npz") as arrays:
        return arrays[f"{split}_images"], arrays[f"{split}_labels"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    images, labels = shipped("calib") if arguments.data is None else load_split(arguments.data, "train")
    model = train(images, labels, arguments.epochs, arguments.seed)
    top1, overlap = quality(model, *shipped("test"))
    torch.save(model.state_dict(), arguments.out)
    say(f"top-1 {top1:.1%}, mask IoU {overlap:.1%} on the 1,000 test images")


if __name__ == "__main__":
    main()
