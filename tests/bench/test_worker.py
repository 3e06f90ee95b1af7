from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from qvit_deploy.bench import worker
from qvit_deploy.errors import InputError
from tests.support.devices.recorded_device import appear
from tests.support.graphs.quantizable_graphs import mixed_vit


def clocked(times: itertools.cycle[int] | itertools.chain[int], monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """A run that moves the worker's clock by its own time: on a busy machine no real run takes the same time twice."""
    now = [0.0]

    def run() -> int:
        taken = next(times)
        now[0] += taken / 1e9
        return taken

    monkeypatch.setattr(worker.time, "perf_counter", lambda: now[0])
    return run


def test_the_warm_up_ends_when_times_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = [20_000_000 - 400_000 * i for i in range(40)]
    run = clocked(itertools.chain(slow, itertools.repeat(2_000_000)), monkeypatch)
    typical, stable = worker._warm_up(run)
    assert stable and typical == 2_000_000


def test_the_warm_up_gives_up_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    run = clocked(itertools.cycle([1_000_000] * 5 + [3_000_000] * 5), monkeypatch)
    typical, stable = worker._warm_up(run)
    assert not stable and typical in (1_000_000, 3_000_000)


def test_a_model_of_seconds_is_not_run_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    count = itertools.count()
    run = clocked(itertools.chain(4_000_000_000 for _ in count), monkeypatch)
    worker._warm_up(run)
    assert next(count) <= worker.WINDOW + 1


def test_files_take_turns() -> None:
    assert [worker._in_turn(2, n) for n in range(3)] == [[0, 1], [1, 0], [0, 1]]
    assert worker._in_turn(1, 5) == [0]


def test_an_engine_takes_turns_with_an_onnx_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same measurement for both, the engine's times those of the events."""
    engine, memory = appear(tmp_path, monkeypatch)
    model = tmp_path / "m.onnx"
    model.write_bytes(mixed_vit().serialize())
    job = worker.MeasureJob((str(engine), str(model)), 2, 1, None, blocks=3, runs=12, warm_up=False)
    steps: list[int] = []
    measurement = worker.measure(job, steps.append)
    ours, theirs = measurement["files"]
    assert sum(steps) == 6 and ours["batch"] == theirs["batch"] == 2
    assert ours["blocks_ms"] == pytest.approx([1.25] * 3, rel=1e-3) and min(theirs["blocks_ms"]) > 0
    assert ours["device_memory_bytes"] == 48 and theirs["device_memory_bytes"] is None
    # Once before there is a graph, once to have images there, once to know how long it takes, then 3 blocks of 4.
    assert memory.order.count("run") == 1 + 1 + 1 + 12 and memory.order[-1] == "pop"


def test_an_engine_and_a_file_of_other_batches_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine takes the 2 images its kernels were chosen for, the file the 1 of those that name none."""
    engine, memory = appear(tmp_path, monkeypatch)
    model = tmp_path / "m.onnx"
    model.write_bytes(mixed_vit().serialize())
    job = worker.MeasureJob((str(engine), str(model)), None, 1, None, blocks=3, runs=12, warm_up=False)
    with pytest.raises(InputError, match=r"different batches \(.*m\.engine 2, .*m\.onnx 1\); give both the same"):
        worker.measure(job, lambda _: None)
    assert memory.order.count("run") == 2  # what preparing takes, and no measurement
