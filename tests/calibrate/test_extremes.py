from __future__ import annotations

import numpy as np
import pytest

from qvit_deploy.calibrate.extremes import tensor_extremes
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from tests.support.examples import image_batches
from tests.support.graphs.quantizable_graphs import images_for, mixed_vit


def test_every_float_tensor_is_measured_over_all_batches() -> None:
    graph, images = mixed_vit(), images_for(mixed_vit(), 6)
    seen: list[int] = []
    extremes = tensor_extremes(Executor(graph), image_batches(images, 4), seen.append)
    assert sum(seen) == 6
    assert extremes["image"] == float(images.abs().max())
    run = Executor(graph).run(Examples.images(images), fetch=["hidden_out", "out_out", "logits"])
    for name, value in run.items():
        assert extremes[name] == pytest.approx(float(value.abs().max()), rel=1e-6)
    floats = {v.name for n in graph.nodes() for v in n.outputs if v.dtype is not None and v.dtype.is_floating_point()}
    assert floats <= set(extremes)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_nan_and_infinity_count_as_infinite(broken: float) -> None:
    images = images_for(mixed_vit(), 2)
    images[0, 0, 0, 0] = broken
    assert tensor_extremes(Executor(mixed_vit()), [Examples.images(images)], lambda _: None)["image"] == float("inf")
