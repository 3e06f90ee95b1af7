"""Measures the forward time of the executor against the same timm model in eager PyTorch, interleaved in one run.

python -m tools.measure.executor [--models vit_tiny_patch16_224 ...]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import timm
import torch
from rich.console import Console
from rich.table import Table

from qvit_deploy.execute.executor import Executor
from qvit_deploy.frontend.torch_module import from_torch
from qvit_deploy.graph.examples import Examples

MODELS = ("vit_tiny_patch16_224", "deit3_small_patch16_224", "swin_tiny_patch4_window7_224", "cait_xxs24_224")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    table = Table("model", "eager ms", "executor ms", "executor / eager", "max relative difference")
    for name in arguments.models:
        torch.manual_seed(0)
        module = timm.create_model(name).eval()
        channels, height, width = timm.data.resolve_model_data_config(module)["input_size"]
        shape = (channels, height, width)
        executor = Executor(from_torch(module, shape, name))
        images = torch.randn(arguments.batch, *shape)
        times: tuple[list[float], list[float]] = ([], [])
        with torch.no_grad():
            examples = Examples.images(images)
            expected, actual = module(images), executor.run(examples)["logits"]
            runs: tuple[Callable[[], object], ...] = (partial(module, images), partial(executor.run, examples))
            for _ in range(arguments.repeats):
                for run, milliseconds in zip(runs, times, strict=True):
                    start = time.perf_counter()
                    run()
                    milliseconds.append(1e3 * (time.perf_counter() - start))
        ratio = statistics.median(e / m for m, e in zip(*times, strict=True))
        error = float((expected - actual).abs().max() / expected.abs().max())
        eager, own = (statistics.median(t) for t in times)
        table.add_row(name, f"{eager:.0f}", f"{own:.0f}", f"{ratio:.2f}", f"{error:.1e}")
    Console().print(table)


if __name__ == "__main__":
    main()
