from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from qvit_deploy.cache.stages import StageCache, code_digest, numerics
from qvit_deploy.errors import InputError
from qvit_deploy.progress import Stopwatch
from tests.support.hostile_files import largest_file


@dataclass(frozen=True)
class Found:
    values: np.ndarray


class Maker:
    """Counts how often it was asked."""

    def __init__(self, size: int = 4) -> None:
        self.size, self.asked = size, 0

    def __call__(self) -> Found:
        self.asked += 1
        return Found(np.full(self.size, self.asked, np.float32))


def opened(folder: Path | None, basis: object = "a model") -> StageCache:
    return StageCache(folder, basis)


def test_without_a_folder_everything_is_made() -> None:
    make, watch = Maker(), Stopwatch()
    for _ in range(2):
        opened(None).result("stage", [1], watch, make)
    assert make.asked == 2 and not watch.seconds


def test_a_result_is_made_once_and_said_to_be_kept(tmp_path: Path) -> None:
    make, first, second = Maker(), Stopwatch(), Stopwatch()
    folder = tmp_path / "deep" / "folder"
    first_result = opened(folder).result("stage", [1], first, make)
    second_result = opened(folder).result("stage", [1], second, make)
    assert make.asked == 1 and isinstance(second_result, Found)
    assert np.array_equal(second_result.values, first_result.values)
    assert list(first.seconds) == ["cache"] and list(second.seconds) == ["stage (cached)"]
    assert [p.suffix for p in folder.iterdir()] == [".safetensors"]


@pytest.mark.parametrize(
    ("stage", "depends_on", "basis"),
    [
        ("other", [1, "x"], "a model"),
        ("stage", [2, "x"], "a model"),
        ("stage", ["1", "x"], "a model"),
        ("stage", [[1, "x"]], "a model"),
        ("stage", [1, "x"], "another model"),
        ("stage", [1], ["a model", "x"]),
    ],
)
def test_whatever_it_depends_on_makes_it_anew(tmp_path: Path, stage: str, depends_on: object, basis: object) -> None:
    make, watch = Maker(), Stopwatch()
    opened(tmp_path).result("stage", [1, "x"], watch, make)
    opened(tmp_path, basis).result(stage, depends_on, watch, make)
    assert make.asked == 2 and len(list(tmp_path.iterdir())) == 2


def test_the_order_of_mappings_does_not_matter(tmp_path: Path) -> None:
    make = Maker()
    for depends_on in ({"a": 1, "b": (2, 3)}, {"b": [2, 3], "a": 1}):
        opened(tmp_path).result("stage", depends_on, Stopwatch(), make)
    assert make.asked == 1


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:-1] + bytes([b[-1] ^ 1])])
def test_a_damaged_file_is_made_anew_and_said(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    make, watch = Maker(), Stopwatch()
    opened(tmp_path).result("stage", [], watch, make)
    [path] = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    opened(tmp_path).result("stage", [], watch, make)
    assert make.asked == 2 and "stage (cached result damaged, made anew)" in watch.seconds
    assert opened(tmp_path).result("stage", [], watch, make).values[0] == 2 and make.asked == 2


def test_a_folder_in_the_place_of_a_result(tmp_path: Path) -> None:
    make, watch = Maker(), Stopwatch()
    opened(tmp_path).result("stage", [], watch, make)
    [path] = tmp_path.iterdir()
    path.unlink()
    path.mkdir()
    assert opened(tmp_path).result("stage", [], watch, make).values[0] == 2
    said = [s for s in watch.seconds if s.startswith("stage (")]
    assert len(said) == 2 and "cannot be cached" in said[1] and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_full_disk_costs_the_cache_not_the_result(tmp_path: Path) -> None:
    make, watch = Maker(100_000), Stopwatch()
    cache = opened(tmp_path)
    with largest_file(20_000):
        assert len(cache.result("stage", [], watch, make).values) == 100_000
    assert any(s.startswith("stage (cannot be cached: ") for s in watch.seconds) and not list(tmp_path.iterdir())


def test_folders_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/self"), Path("/proc/none")):
        with pytest.raises(InputError, match=f"--cache {folder} ") as caught:
            opened(folder)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"


def test_many_that_write_and_read_the_same_result_do_not_meet(tmp_path: Path) -> None:
    """Each finds no file or a whole one; one of them keeps removing it, so that there is always something to write."""
    value = np.arange(300_000)
    watches = [Stopwatch() for _ in range(4)]
    unequal: list[np.ndarray] = []

    def work(watch: Stopwatch) -> None:
        for _ in range(25):
            result = opened(tmp_path).result("stage", [], watch, lambda: Found(value))
            if not np.array_equal(result.values, value):
                unequal.append(result.values)
            if watch is watches[0]:
                for path in tmp_path.glob("*.safetensors"):
                    path.unlink(missing_ok=True)

    threads = [threading.Thread(target=work, args=(w,)) for w in watches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not unequal and {s for w in watches for s in w.seconds} == {"cache", "stage (cached)"}
    assert len(list(tmp_path.iterdir())) <= 1


def test_the_code_is_part_of_the_basis(tmp_path: Path) -> None:
    def digest() -> str:
        return code_digest(tmp_path)

    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "one.py").write_text("x = 1\n")
    digests = [digest()]
    (tmp_path / "notes.txt").write_text("not code")
    assert digest() == digests[0]
    (tmp_path / "deep" / "one.py").write_text("x = 2\n")
    digests.append(digest())
    (tmp_path / "deep" / "one.py").rename(tmp_path / "deep" / "two.py")
    digests.append(digest())
    (tmp_path / "deep" / "empty.py").touch()
    digests.append(digest())
    assert len(set(digests)) == 4

    import qvit_deploy

    assert code_digest(Path(qvit_deploy.__file__).parent) in numerics()


def test_the_number_of_threads_is_part_of_the_basis() -> None:
    threads = torch.get_num_threads()
    one = numerics()
    try:
        torch.set_num_threads(threads + 1)
        assert numerics() != one
    finally:
        torch.set_num_threads(threads)
    assert numerics() == one
