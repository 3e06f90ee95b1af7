from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from qvit_deploy import progress
from qvit_deploy.progress import Advance, Stopwatch


class Recorder:
    """A `Progress` that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        self.told.append((name, total))
        yield self.told.append
        self.told.append("closed")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Times that are read one after the other: no real stage takes the same time twice."""
    times: list[float] = []
    monkeypatch.setattr(progress.time, "perf_counter", lambda: times.pop(0))
    return times


def test_a_stage_is_timed_and_passed_on(clock: list[float]) -> None:
    clock += [10.0, 12.5]
    recorder = Recorder()
    watch = Stopwatch(recorder)
    with watch.stage("calibrate", 8) as advance:
        advance(3)
        advance(5)
    assert recorder.told == [("calibrate", 8), 3, 5, "closed"]
    assert watch.seconds == {"calibrate": 2.5}


def test_nobody_needs_to_listen(clock: list[float]) -> None:
    clock += [1.0, 2.0]
    watch = Stopwatch()
    with watch.stage("emit") as advance:
        advance(1)
    assert watch.seconds == {"emit": 1.0}


def test_stages_of_one_name_add_up(clock: list[float]) -> None:
    clock += [0.0, 1.0, 5.0, 7.0]
    watch = Stopwatch()
    for _ in range(2):
        with watch.stage("round"):
            pass
    watch.add("round", 0.5)
    assert watch.seconds == {"round": 3.5}


def test_a_stage_that_fails_is_timed_too(clock: list[float]) -> None:
    clock += [0.0, 4.0]
    watch = Stopwatch()
    with pytest.raises(ValueError, match="no"), watch.stage("verify"):
        raise ValueError("no")
    assert watch.seconds == {"verify": 4.0}


def test_a_stage_that_is_over_is_shown_with_the_time_it_took(clock: list[float]) -> None:
    clock += [0.0, 0.0]
    recorder = Recorder()
    watch = Stopwatch(recorder)
    watch.mention("plan (from the cache)", 1.5)
    assert recorder.told == [("plan (from the cache)", None), "closed"]
    assert watch.seconds == {"plan (from the cache)": 1.5}
