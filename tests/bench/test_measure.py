from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from qvit_deploy.bench import measure as measuring
from qvit_deploy.bench.measure import File, MeasureOptions, in_turn, measure, medians_ms
from qvit_deploy.bench.reference_workload import LAYERS, products, reference_workload
from qvit_deploy.bench.worker import MeasureJob
from qvit_deploy.errors import InputError
from tests.support.graphs.quantizable_graphs import fixed_batch, mixed_vit


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(mixed_vit().serialize())
    return path


def test_any_number_of_files_take_turns(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(products(2))
    steps: list[int] = []

    class Counted:
        def stage(self, name: str, total: int | None = None) -> Counted:
            self.total = total
            return self

        def __enter__(self) -> object:
            return steps.append

        def __exit__(self, *_: object) -> None:
            pass

    progress = Counted()
    runs = in_turn([model, other, model], MeasureOptions(processes=2, runs=12), 4, progress)  # type: ignore[arg-type]
    assert [len(f) for f in runs] == [2, 2, 2] and {len(p) for f in runs for p in f} == {4}
    assert sum(steps) == progress.total == 2 * 3 * 4
    assert all(b > 0 for f in runs for p in f for b in p)


def test_parts_of_a_model_have_sizes_of_their_own(model: Path, tmp_path: Path) -> None:
    windows = tmp_path / "windows.onnx"
    windows.write_bytes(fixed_batch(mixed_vit(), 3).serialize())
    plan = MeasureOptions(processes=1, runs=4)
    assert len(medians_ms([model, windows], plan)) == 2
    with pytest.raises(InputError, match="different batches"):
        in_turn([model, windows], plan)


def test_the_file_that_ran_is_the_one_described(model: Path) -> None:
    measurement = measure(File(model, {}), None, MeasureOptions(processes=2, runs=10), profiled=False)
    assert measurement.file.bytes == model.stat().st_size and measurement.latency_ms.samples == 20
    assert measurement.settings.batch == 1 and measurement.profile is None and measurement.against is None
    assert {len(p.blocks_ms) for p in measurement.processes} == {10}
    assert measurement.peak_memory_bytes is None or measurement.peak_memory_bytes > 1e7


class Killing:
    """Progress that kills the processes this one started as soon as one says that it got on."""

    def stage(self, name: str, total: int | None = None) -> Killing:
        return self

    def __enter__(self) -> Callable[[int], None]:
        return self.kill

    def __exit__(self, *_: object) -> None:
        pass

    def kill(self, _: int) -> None:
        for children in Path("/proc/self/task").glob("*/children"):
            for worker in map(int, children.read_text().split()):
                if b"qvit_deploy.bench.worker" in Path(f"/proc/{worker}/cmdline").read_bytes():
                    os.kill(worker, signal.SIGKILL)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds its children in /proc")
def test_a_process_that_dies_is_one_line(model: Path) -> None:
    with pytest.raises(InputError, match=r"model\.onnx: the process that ran it died: .+") as caught:
        measure(File(model), None, MeasureOptions(processes=1, runs=400), profiled=False, progress=Killing())  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not pin")
def test_a_process_that_cannot_be_pinned_says_why(model: Path) -> None:
    """What a worker meets when its CPU went offline after it was chosen."""
    request = {"task": "measure", "job": asdict(MeasureJob((str(model),), None, 1, (4095,), 1, 2))}
    with pytest.raises(InputError, match=r"model\.onnx: the process that ran it died: OSError"):
        measuring._run(request, lambda _: None)


@pytest.mark.parametrize("field", ["batch", "threads", "processes", "runs"])
def test_plans_count_from_one(field: str) -> None:
    with pytest.raises(InputError, match="must be at least 1"):
        MeasureOptions(**{field: 0})


def test_the_reference_workload_never_changes() -> None:
    """Measurements made with another one could not be compared."""
    assert reference_workload() == products(LAYERS) == reference_workload() and LAYERS == 12
