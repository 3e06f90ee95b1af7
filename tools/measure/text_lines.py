"""Draws lines of made-up words: as much labelled text as an OCR model is to be calibrated or measured on."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

HEIGHT, WIDTH = 48, 320
_CONSONANTS, _VOWELS = "bcdfghklmnprstvwz", "aeiou"
_LARGEST, _MARGIN, _NOISE = 34, 20, 6.0


def text_lines(count: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Returns (pixels in [-1, 1], float32 [count, 3, 48, 320]; the text of each)."""
    rng = np.random.default_rng(seed)
    texts = [_text(rng) for _ in range(count)]
    return np.stack([_drawn(text, rng) for text in texts]), texts


def decoded(scores: np.ndarray, characters: str) -> list[str]:
    """Returns the texts that CTC scores [n, steps, classes] spell: repeats count once, class 0 is no character.

    Args:
        characters: one on each line, as the model's file lists them; the space comes last.
    """
    alphabet = ["", *characters.split("\n"), " "]
    texts = []
    for steps in scores.argmax(-1):
        changed = np.concatenate([[True], steps[1:] != steps[:-1]])
        texts.append("".join(alphabet[i] for i in steps[changed]))
    return texts


def _text(rng: np.random.Generator) -> str:
    words = []
    for _ in range(rng.integers(2, 4)):
        pairs = rng.integers(1, 4)
        word = "".join(rng.choice(list(_CONSONANTS)) + rng.choice(list(_VOWELS)) for _ in range(pairs))
        words.append(word.capitalize() if rng.random() < 0.3 else word)
    if rng.random() < 0.5:
        words.append(str(rng.integers(10, 9999)))
    return " ".join(words)


def _drawn(text: str, rng: np.random.Generator) -> np.ndarray:
    paper, ink = (tuple(int(v) for v in rng.integers(low, high, 3)) for low, high in ((200, 256), (0, 90)))
    image = Image.new("RGB", (WIDTH, HEIGHT), paper)
    sizes = (ImageFont.load_default(size) for size in range(_LARGEST, 0, -1))
    font = next(f for f in sizes if f.getlength(text) < WIDTH - _MARGIN)
    ImageDraw.Draw(image).text(
        (float(rng.integers(2, _MARGIN - 2)), HEIGHT / 2), text, fill=ink, font=font, anchor="lm"
    )
    pixels = np.asarray(image, np.float32) + rng.normal(0, _NOISE, (HEIGHT, WIDTH, 3))
    return ((pixels.clip(0, 255) / 255 - 0.5) / 0.5).transpose(2, 0, 1).astype(np.float32)
