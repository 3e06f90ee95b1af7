from __future__ import annotations

import json
import math
import os
import pickle
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open
from safetensors.numpy import save_file

from qvit_deploy.cache.store import DamagedError, _digest, load, store
from qvit_deploy.errors import InputError
from qvit_deploy.graph.graph import Graph
from tests.support.graphs.quantizable_graphs import mixed_vit


@dataclass(frozen=True)
class Inner:
    number: float
    array: np.ndarray | None


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    by_site: dict[tuple[str, int], object]


numbers = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
dtypes = st.sampled_from(["float32", "float64", "float16", "int8", "int64", "uint8", "bool"])
arrays = dtypes.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)))
leaves = numbers | arrays | arrays.map(torch.tensor) | st.builds(Inner, st.floats(), st.none() | arrays)
keys = st.text(max_size=3) | st.tuples(st.text(max_size=3), st.integers())
values = st.recursive(
    leaves, lambda v: st.lists(v, max_size=3).map(tuple) | st.dictionaries(keys, v, max_size=3), max_leaves=8
)


def same(a: object, b: object) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor)
        return same(a.numpy(), b.numpy())
    if isinstance(a, np.ndarray):
        assert isinstance(b, np.ndarray)
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, Inner | Outer):
        return same(vars(a), vars(b))
    if isinstance(a, dict):
        assert isinstance(b, dict)
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        assert isinstance(b, tuple)
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        assert isinstance(b, float)
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    return a == b


def through_a_file(value: object, folder: Path) -> object:
    store(value, folder / "value")
    return load(folder / "value")


@settings(max_examples=200, deadline=None)
@given(values)
def test_values_come_back_to_the_last_bit(value: object) -> None:
    with TemporaryDirectory() as folder:
        assert same(through_a_file(value, Path(folder)), value)


@pytest.fixture(scope="module")
def example() -> Outer:
    random = np.random.default_rng(0)
    grids = {("a", 4): torch.from_numpy(random.normal(size=(5, 3))).t(), ("b", 8): (1, None, "x")}
    return Outer("outer", Inner(0.1, random.integers(-8, 8, (4, 4), dtype=np.int8)), grids)


def test_dataclasses_keep_their_classes(example: Outer, tmp_path: Path) -> None:
    assert same(through_a_file(example, tmp_path), example)


def test_equal_values_give_equal_files(example: Outer, tmp_path: Path) -> None:
    written = set()
    for _ in range(10):
        store(example, tmp_path / "one")
        store(load(tmp_path / "one"), tmp_path / "two")
        written |= {(tmp_path / name).read_bytes() for name in ("one", "two")}
    assert len(written) == 1


def test_a_graph_comes_back_with_its_name(tmp_path: Path) -> None:
    graph = mixed_vit()
    read_back = through_a_file((graph, "beside"), tmp_path)
    assert isinstance(read_back, tuple) and isinstance(read_back[0], Graph)
    assert read_back[0].serialize() == graph.serialize() and read_back[0].name == graph.name
    assert read_back[0].digest() == graph.digest()


@dataclass
class Mutable:
    number: int


def local(number: int) -> object:
    """A value of a class that no other process can name."""

    @dataclass(frozen=True)
    class Local:
        number: int

    return Local(number)


@pytest.mark.parametrize("value", [object(), [1], {1, 2}, Mutable(1), local(1), np.float64(1), 1j, Inner])
def test_what_would_not_come_back_is_refused(value: object, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot be stored"):
        store((value,), tmp_path / "value")
    assert not (tmp_path / "value").exists()


@pytest.mark.parametrize("name", ["pathlib:Path", "tests.cache.test_store:Mutable", "not_imported:Inner", "Inner", ""])
def test_only_frozen_dataclasses_that_are_imported_are_made(name: str, tmp_path: Path) -> None:
    store(Inner(1.0, None), tmp_path / "value")
    with safe_open(tmp_path / "value", framework="numpy") as file:
        _, _, tree = file.metadata()["tree"].partition(" ")
    known = json.loads(tree)["class"]
    forged = tree.replace(known, name)
    save_file({}, tmp_path / "forged", metadata={"tree": f"{_digest(forged, {})} {forged}"})
    with pytest.raises(DamagedError):
        load(tmp_path / "forged")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_changed_byte_is_noticed(example: Outer, data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "value"
        store(example, path)
        whole = bytearray(path.read_bytes())
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(whole)
        with suppress(DamagedError):
            assert same(load(path), example)  # a byte that says nothing


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.999])
def test_a_file_cut_short(example: Outer, tmp_path: Path, share: float) -> None:
    path = tmp_path / "value"
    store(example, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DamagedError):
        load(path)


class Exploit:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.victim,)


def test_files_of_others_are_damaged_and_run_nothing(tmp_path: Path) -> None:
    path, victim = tmp_path / "value", tmp_path / "victim"
    contents = [b"", b"\0" * 64, b"not one of ours", pickle.dumps(Exploit(victim), protocol=2)]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(DamagedError):
            load(path)
    assert not victim.exists()
    for metadata in (None, {"other": "1"}, {"tree": "1"}, {"tree": f"0 {json.dumps({'class': 'Inner'})}"}):
        save_file({"0": np.zeros(3)}, path, metadata=metadata)
        with pytest.raises(DamagedError):
            load(path)


def test_a_missing_file_and_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none")
    with pytest.raises(InputError):
        store(1, tmp_path / "none" / "value")


def test_a_pipe_in_the_folder_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f")
    with pytest.raises(DamagedError, match="is not a file"):
        load(tmp_path / "f")
