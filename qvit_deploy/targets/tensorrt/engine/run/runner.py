"""Runs engines on the GPU for measurements."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from qvit_deploy.artifacts.engine_record import UINT8, EngineRecord
from qvit_deploy.errors import InputError
from qvit_deploy.graph.examples import Examples
from qvit_deploy.targets.runtime import Runner
from qvit_deploy.targets.tensorrt.engine.run.engine_runner import EngineRunner


class EngineFileRunner(Runner):
    """Runs an engine of either TensorRT on normally distributed inputs in GPU memory; times are of CUDA events.

    Attributes:
        engine: the loaded engine.

    Raises:
        InputError: the engine cannot be run here, or takes another batch.
    """

    def __init__(self, path: Path, batch: int | None, load: Callable[[], EngineRunner]) -> None:
        self.engine = load()
        try:
            shapes, random = engine_shapes(path, self.engine.record, batch), np.random.default_rng(0)
            self.batch = next(iter(shapes.values()))[0]
            dtypes = {tensor.name: tensor.dtype for tensor in self.engine.record.build.inputs}
            arrays = {
                name: random.integers(0, 256, shape, np.uint8) if dtypes[name] == UINT8
                else random.standard_normal(shape).astype(np.float32)
                for name, shape in shapes.items()
            }  # fmt: skip
            self.engine.run(Examples(arrays))
            self.device_memory_bytes = self.engine.device_memory()
        except InputError:
            self.engine.close()
            raise

    def run_ns(self) -> int:
        return max(1, round(1e6 * self.engine.repeat()))

    def close(self) -> None:
        self.engine.close()


def engine_shapes(path: Path, record: EngineRecord, batch: int | None) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every input that an engine is measured on.

    Args:
        batch: images per run; None for the number that its kernels are optimized for.

    Raises:
        InputError: it was not built for this batch, or for other inputs than images.
    """
    sizes, inputs = record.batch, record.build.inputs
    if not inputs or any(len(tensor.shape) < 2 for tensor in inputs):
        raise InputError(f"{path}: has no inputs, or one that is not of images; bench feeds batches of images only")
    count = sizes.best if batch is None else batch
    if not sizes.least <= count <= sizes.most:
        raise InputError(f"{path}: takes {sizes.least} to {sizes.most} images at a time; --batch {count} does not fit")
    fixed = sorted({tensor.shape[0] for tensor in inputs} - {-1})
    if batch is not None and fixed not in ([], [batch]):
        raise InputError(f"{path}: takes exactly {fixed[0]} images at a time; leave --batch out")
    return {t.name: t.shape if t.shape[0] in fixed else (count, *t.shape[1:]) for t in inputs}
