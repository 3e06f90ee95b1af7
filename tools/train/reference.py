"""Trains the three reference models shipped in `qvit_deploy/data/demo` (`demo:vit`, `demo:deit`, `demo:swin`).

    python -m tools.train.reference --data /usr/share/datasets/fashion-mnist

`--data` is any folder with the four Fashion-MNIST idx files, gzipped or plain (Debian: `apt-get install
dataset-fashion-mnist`). The tool writes to `--out`:

* `<model>.safetensors`: the weights as float16.
* `models.json`: per model the timm name and arguments, the preprocessing, and the top-1 on the 10,000 test
  images, measured with the float16-rounded weights. Models not trained in this run keep their entry, so two
  processes can train different models at the same time.
* `fashion_mnist.npz`: `calib_images`/`calib_labels`, 512 images drawn from the training set;
  `test_images`/`test_labels`, 1,000 images drawn from the test set, 100 of each class and in shuffled order;
  `class_names`. Both draws are seeded with 0 whatever `--seed` says and look at labels only.

A run looks at test images only after its last epoch, and keeps that epoch's weights. The optimiser was chosen on
5,000 held-out training images, after a first recipe (AdamW, 12 and 8 epochs) had ended at 87 and 86 % test top-1.
"""

from __future__ import annotations

import argparse
import fcntl
import gzip
import json
import math
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save
from timm.layers import set_fused_attn
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from qvit_deploy.artifacts.atomic import whole_file, write_file
from qvit_deploy.errors import InputError

CLASS_NAMES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
MEAN, STD = 0.2860, 0.3530  # of the 60,000 training images scaled to [0, 1]
PREPROCESS = {
    "input_size": [1, 28, 28],
    "mean": [MEAN],
    "std": [STD],
    "interpolation": "bicubic",
    "crop_pct": 1.0,
    "color": "grey",
}
BATCH = 128
MUON_LR, ADAM_LR = 6e-3, 1.5e-3
WARMUP_STEPS = 200
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1
MAX_SHIFT = 2  # pixels
CALIB_IMAGES, TEST_IMAGES_PER_CLASS = 512, 100

Split = tuple[np.ndarray, np.ndarray]  # images uint8 [N, 28, 28], labels uint8 [N]


@dataclass(frozen=True)
class Reference:
    """One model to train: `timm.create_model(timm_name, pretrained=False, **kwargs)` for `epochs` epochs."""

    timm_name: str
    kwargs: dict[str, Any]
    epochs: int


_COMMON: dict[str, Any] = {"img_size": 28, "in_chans": 1, "num_classes": 10}
_VIT: dict[str, Any] = {**_COMMON, "patch_size": 4, "embed_dim": 96, "depth": 6, "num_heads": 3}
_SWIN: dict[str, Any] = {
    **_COMMON, "patch_size": 2, "window_size": 7, "embed_dim": 64, "depths": [2, 4], "num_heads": [2, 4]
}  # fmt: skip
REFERENCES: dict[str, Reference] = {
    "vit": Reference("vit_tiny_patch16_224", _VIT, 10),
    "deit": Reference("deit_tiny_distilled_patch16_224", _VIT, 10),
    # 14x14 tokens in 7x7 windows (the second block shifts them by 3), then patch merging to one 7x7 window.
    "swin": Reference("swin_tiny_patch4_window7_224", _SWIN, 8),
}


def say(line: str) -> None:
    """Prints one line of progress on standard error, unbuffered even when it goes to a log file."""
    print(line, file=sys.stderr, flush=True)


def read_idx(folder: Path, stem: str, ndim: int) -> np.ndarray:
    """Reads `folder/stem` or `folder/stem.gz`, an idx file of unsigned bytes with `ndim` dimensions.

    The format is two zero bytes, the type (8 = uint8), the number of dimensions, each size as a big-endian int32, the
    data.

    Raises:
        InputError: the file is missing, damaged or of another type.
    """
    plain, packed = folder / stem, folder / f"{stem}.gz"
    path = plain if plain.is_file() else packed
    try:
        raw = gzip.decompress(path.read_bytes()) if path is packed else path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{folder} has neither {stem} nor {stem}.gz") from None
    except (OSError, EOFError, zlib.error) as e:
        raise InputError(f"{path} cannot be read: {e}") from None
    header = 4 + 4 * ndim
    if len(raw) < header or raw[:4] != bytes([0, 0, 8, ndim]):
        raise InputError(f"{path} is not an idx file of unsigned bytes with {ndim} dimension(s)")
    shape = tuple(np.frombuffer(raw, dtype=">i4", count=ndim, offset=4).tolist())
    if len(raw) - header != math.prod(shape):
        raise InputError(f"{path} is damaged: {math.prod(shape)} bytes announced, {len(raw) - header} present")
    return np.frombuffer(raw, dtype=np.uint8, offset=header).reshape(shape)


def load_split(folder: Path, prefix: str) -> Split:
    """Reads images uint8 [N, 28, 28] and labels uint8 [N] of `prefix`, "train" or "t10k". Raises InputError."""
    images = read_idx(folder, f"{prefix}-images-idx3-ubyte", 3)
    labels = read_idx(folder, f"{prefix}-labels-idx1-ubyte", 1)
    if images.shape[1:] != (28, 28) or len(images) != len(labels):
        raise InputError(f"{folder}: {prefix} images {images.shape} do not match labels {labels.shape}")
    if np.any(np.bincount(labels, minlength=10)[:10] < TEST_IMAGES_PER_CLASS) or labels.max() > 9:
        raise InputError(f"{folder}: {prefix} labels are not 10 classes of >= {TEST_IMAGES_PER_CLASS} images")
    return images, labels


def normalise(images: Tensor) -> Tensor:
    """Converts uint8 [N, 28, 28] to float32 [N, 1, 28, 28]: (u8 / 255 - mean) / std."""
    return ((images.float() / 255 - MEAN) / STD).unsqueeze(1)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flips each uint8 image [N, 28, 28] left-right with probability 1/2, then shifts it by <= MAX_SHIFT pixels."""
    n, h, w = images.shape
    padded = F.pad(images, (MAX_SHIFT,) * 4)
    dy, dx = torch.randint(0, 2 * MAX_SHIFT + 1, (2, n, 1), generator=generator)
    flip = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.arange(w).expand(n, w)
    columns = torch.where(flip, w - 1 - columns, columns) + dx
    rows = torch.arange(h).expand(n, h) + dy
    return padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Returns Muon for the matrices inside the blocks and AdamW without weight decay for everything else.

    Muon (Jordan et al. 2024; step size matched to AdamW's as in Liu et al., arXiv 2502.16982) learns far more
    per image here: after one epoch the ViT had 80 % of 5,000 held-out training images right, with AdamW 71 %.
    """
    inner: list[nn.Parameter] = []
    outer: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim == 2 and name.endswith(".weight") and not name.startswith("head")
        (inner if matrix else outer).append(parameter)
    return [
        torch.optim.Muon(inner, lr=MUON_LR, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, lr=ADAM_LR, betas=(0.9, 0.99), weight_decay=0.0, fused=True),
    ]


def train(name: str, model: nn.Module, images: Tensor, labels: Tensor, epochs: int, seed: int) -> None:
    """Trains `model` in place with bfloat16 autocast; prints one line per epoch on standard error.

    A distilled model has no teacher here: both of its heads learn the labels.
    """
    generator = torch.Generator().manual_seed(seed)
    per_epoch = len(images) // BATCH
    steps = epochs * per_epoch

    def ramp(step: int) -> float:
        """Linear warm-up to 1, then half a cosine down to 0 after the last step."""
        past = max(0.0, (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS))
        return min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * past))

    both = optimizers(model)
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, ramp) for optimizer in both]
    if isinstance(model, VisionTransformerDistilled):
        model.set_distilled_training(True)  # the forward returns both heads' logits
    model.train()
    began = time.monotonic()
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        total_loss, correct = 0.0, 0
        for i in range(per_epoch):
            picked = order[i * BATCH : (i + 1) * BATCH]
            x, y = normalise(augment(images[picked], generator)), labels[picked]
            with torch.autocast("cpu", torch.bfloat16):
                output = model(x)
            heads = [head.float() for head in (output if isinstance(output, tuple) else (output,))]
            loss = torch.stack([F.cross_entropy(h, y, label_smoothing=LABEL_SMOOTHING) for h in heads]).mean()
            model.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, schedule in zip(both, schedules, strict=True):
                optimizer.step()
                schedule.step()
            total_loss += loss.item()
            correct += int((torch.stack(heads).sum(0).argmax(1) == y).sum())
        say(
            f"{name}  epoch {epoch + 1:2d}/{epochs}  loss {total_loss / per_epoch:.4f}  "
            f"train top-1 {correct / (per_epoch * BATCH):.4f}  {time.monotonic() - began:5.0f} s"
        )
    if isinstance(model, VisionTransformerDistilled):
        model.set_distilled_training(False)  # back to the mean of both heads


@torch.inference_mode()
def top1(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Returns the share of images uint8 [N, 28, 28] whose highest logit is the label, in float32 arithmetic."""
    model.eval()
    logits = torch.cat([model(normalise(batch)) for batch in images.split(500)])
    return int((logits.argmax(1) == labels).sum()) / len(images)


def write_images(out: Path, train_split: Split, test_split: Split) -> np.ndarray:
    """Writes `fashion_mnist.npz` and returns the indices of its test images within the test set."""
    rng = np.random.default_rng(0)
    calib = rng.choice(len(train_split[1]), CALIB_IMAGES, replace=False)
    members = [np.flatnonzero(test_split[1] == c) for c in range(10)]
    test = rng.permutation(np.concatenate([rng.choice(m, TEST_IMAGES_PER_CLASS, replace=False) for m in members]))
    with whole_file(out / "fashion_mnist.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            calib_images=train_split[0][calib],
            calib_labels=train_split[1][calib].astype(np.int64),
            test_images=test_split[0][test],
            test_labels=test_split[1][test].astype(np.int64),
            class_names=np.array(CLASS_NAMES),
        )
    return test


def record(out: Path, name: str, entry: dict[str, Any]) -> None:
    """Sets `models.json[name] = entry`, under a lock: another process may do the same for another model."""
    with (out / "models.json").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        models = {**json.loads(file.read() or "{}"), name: entry}
        file.truncate(0)
        file.write(json.dumps({k: models[k] for k in REFERENCES if k in models}, indent=2) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0 when done, 2 for unusable data."""
    demo = Path(__file__).resolve().parents[2] / "qvit_deploy" / "data" / "demo"
    parser = argparse.ArgumentParser(description="Train the reference models on Fashion-MNIST.")
    parser.add_argument("--data", type=Path, required=True, help="folder with the four idx(.gz) files")
    parser.add_argument("--out", type=Path, default=demo, help="where to write (default: the package)")
    parser.add_argument("--models", nargs="+", choices=list(REFERENCES), default=list(REFERENCES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of this process")
    parser.add_argument("--epochs", type=int, help="override the recipe's epochs, for a quick try")
    args = parser.parse_args(argv)
    try:
        train_split, test_split = load_split(args.data, "train"), load_split(args.data, "t10k")
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        return e.exit_code
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    # torch's fused attention has a slow backward on CPU: the plain one halves the time of a step.
    set_fused_attn(False)
    shipped = torch.from_numpy(write_images(args.out, train_split, test_split))
    train_images, train_labels = (torch.from_numpy(a.copy()) for a in train_split)
    test_images, test_labels = (torch.from_numpy(a.copy()) for a in test_split)
    for name in args.models:
        reference = REFERENCES[name]
        epochs = args.epochs or reference.epochs
        torch.manual_seed(args.seed)
        model = timm.create_model(reference.timm_name, pretrained=False, **reference.kwargs)
        train(name, model, train_images, train_labels.long(), epochs, args.seed)
        weights = {k: v.half().contiguous() for k, v in model.state_dict().items()}
        write_file(args.out / f"{name}.safetensors", save(weights))  # save_file would make it mode 600
        model.load_state_dict(weights)  # from here on the model computes with what was written
        accuracy = top1(model, test_images, test_labels)
        entry = {
            "timm_name": reference.timm_name,
            "kwargs": reference.kwargs,
            "preprocess": PREPROCESS,
            "parameters": sum(p.numel() for p in model.parameters()),
            "top1": accuracy,
            "epochs": epochs,
            "seed": args.seed,
        }
        record(args.out, name, entry)
        on_shipped = top1(model, test_images[shipped], test_labels[shipped])
        say(f"{name}  top-1 {accuracy:.4f} on the 10,000 test images, {on_shipped:.4f} on the 1,000 shipped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
