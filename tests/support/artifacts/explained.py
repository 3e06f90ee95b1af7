"""A small trained-like model on disk and pairs of images for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qvit_deploy.data.pairs.make import ImagePair
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.graph.graph import Graph
from qvit_deploy.pipeline.model_files import ModelFile, read_model


def model_file(graph: Graph, folder: Path) -> ModelFile:
    path = folder / "model.onnx"
    path.write_bytes(graph.serialize())
    return read_model(path, "float", Preprocess(input_size=graph.interface.image_size, mean=(0.5,), std=(0.5,)))


def image_pairs(count: int, shape: tuple[int, int, int], seed: int = 0) -> tuple[ImagePair, ...]:
    """Pairs that differ in the upper half."""
    random = np.random.default_rng(seed)
    pairs = []
    for index in range(count):
        clean = random.standard_normal(shape).astype(np.float32)
        corrupt = clean.copy()
        corrupt[:, : shape[1] // 2] = random.standard_normal((shape[0], shape[1] // 2, shape[2]))
        tokens = np.zeros((4, 4), bool)
        tokens[:2] = True
        pairs.append(ImagePair(f"pair {index}", clean, corrupt, "composite", tokens))
    return tuple(pairs)
