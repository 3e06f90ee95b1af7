"""Sums of estimates against the true difference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.patching.completeness import FACTOR, completeness, is_beyond, misses
from qvit_deploy.patching.components import find_components


@pytest.mark.parametrize("fixture", ["tiny_vit", "tiny_swin"])
def test_replacing_a_whole_stream_gives_the_whole_difference(fixture: str, request: pytest.FixtureRequest) -> None:
    """What makes 1 the right completeness of the residual stream, at every place of it."""
    graph: Graph = request.getfixturevalue(fixture)
    clean, corrupt = torch.randn(2, 1, *graph.interface.image_size, generator=torch.Generator().manual_seed(0))
    executor = Executor(graph)
    streams = [c.tensor for c in find_components(graph) if c.kind == "residual"]
    with torch.no_grad():
        values, expected = (
            executor.run(Examples.images(clean), fetch=streams),
            executor.run(Examples.images(clean))["logits"],
        )
        for name in streams:
            patched = executor.run(Examples.images(corrupt), {name: lambda _, value=values[name]: value})["logits"]
            torch.testing.assert_close(patched, expected)


def test_a_sum_over_the_difference() -> None:
    assert completeness([1.0, -0.5, 2.0], 5.0) == 0.5
    assert completeness([1.0, 2.0], -3.0) == -1
    assert completeness(np.ones(3), 0.0) is None


def test_what_cannot_be_right() -> None:
    for kind in ("attention", "mlp", "head"):
        assert is_beyond(kind, 2.1) and is_beyond(kind, -2.1) and not is_beyond(kind, 0.0)
    assert not is_beyond("residual", 1 / FACTOR) and not is_beyond("residual", FACTOR)
    assert all(is_beyond("residual", value) for value in (0.49, 2.01, -1.0, 0.0))


def test_a_drift_that_the_sum_misses() -> None:
    assert not misses(1.0, 0.1) and not misses(None, None)
    assert misses(1.0, 0.6) and misses(2.5, 0.1) and misses(0.3, 0.1)
