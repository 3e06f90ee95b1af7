from __future__ import annotations

import numpy as np
import pytest

from qvit_deploy.artifacts.measurement import Subject
from qvit_deploy.bench.compare.stats import Ratio
from qvit_deploy.bench.measure import BLOCKS, PROCESSES
from tests.support.artifacts.measurements import noisy, subject
from tools.measure.check import NOISES, blocks_of, fails, simulated, spread


@pytest.mark.parametrize("noise", NOISES, ids=lambda n: n.name)
def test_simulated_runs_have_the_slowdown_they_say(noise: object) -> None:
    random = np.random.default_rng(0)
    ratios = [np.median(b / a) for a, b in (simulated(random, noise, (0.0, 0.05)) for _ in range(20))]  # type: ignore
    assert np.mean(ratios) == pytest.approx(1.05, abs=0.01)
    (alone,) = simulated(random, noise, (0.0,))  # type: ignore[arg-type]
    assert alone.shape == (PROCESSES, BLOCKS) and alone.min() > 0


@pytest.mark.parametrize(
    ("value", "interval", "failed"),
    [(1.05, (1.01, 1.09), True), (1.02, (1.01, 1.03), False), (1.05, (0.99, 1.1), False), (0.9, (0.8, 0.95), False)],
)
def test_the_verdict_is_that_of_check(value: float, interval: tuple[float, float], failed: bool) -> None:
    assert fails(Ratio(value, interval, 10, True)) is failed


def test_blocks_are_relative_to_the_reference() -> None:
    tree = subject("old", noisy(5, 1, processes=2, blocks=3))
    for process in tree["processes"]:
        process["yardstick_ms"] = [p / 10 for p in process["blocks_ms"]]
    np.testing.assert_allclose(blocks_of(Subject.model_validate(tree)), np.full((2, 3), 10.0))


def test_spread_tells_processes_from_blocks() -> None:
    random = np.random.default_rng(0)
    blocks = random.lognormal(0, 0.02, (400, 1)) * random.lognormal(0, 0.05, (400, 400))
    blocks[:, :20] *= 3  # interrupted
    between, within = spread(blocks)
    assert between == pytest.approx(0.02, rel=0.25) and within == pytest.approx(0.05, rel=0.25)
