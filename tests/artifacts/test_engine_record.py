from __future__ import annotations

from pathlib import Path

import pytest

from qvit_deploy.artifacts.engine_record import (
    Batch,
    read_engine,
    record_path,
)
from qvit_deploy.errors import InputError
from tests.support.devices.engine_examples import written


@pytest.mark.parametrize(
    ("text", "sizes", "name"), [("1", (1, 1, 1), "1"), ("4", (4, 4, 4), "4"), ("1:4:8", (1, 4, 8), "1-4-8")]
)
def test_batches(text: str, sizes: tuple[int, int, int], name: str) -> None:
    batch = Batch.parse(text)
    assert (batch.least, batch.best, batch.most) == sizes and str(batch) == name


@pytest.mark.parametrize("text", ["", "0", "1:2", "4:2:8", "1:9:8", "a", "1:2:3:4", "-1", "0:1:2"])
def test_other_batches_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="MIN:OPT:MAX"):
        Batch.parse(text)


def test_an_engine_is_read_with_its_record(tmp_path: Path) -> None:
    path, record = written(tmp_path)
    assert read_engine(path) == record


def test_a_missing_engine_and_a_missing_record(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no engine at"):
        read_engine(tmp_path / "m.engine")
    path, _ = written(tmp_path)
    record_path(path).unlink()
    with pytest.raises(InputError, match=r"no record m\.json beside it"):
        read_engine(path)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"schema": "other"}', b"[" * 2000])
def test_a_record_that_is_none(tmp_path: Path, content: bytes) -> None:
    path, _ = written(tmp_path)
    record_path(path).write_bytes(content)
    with pytest.raises(InputError, match=r"is not the record of an engine") as caught:
        read_engine(path)
    assert "\n" not in str(caught.value)


def test_truncated_and_modified_engines(tmp_path: Path) -> None:
    path, _ = written(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(InputError, match=r"is truncated: 10 of 11 bytes"):
        read_engine(path)
    for changed in (whole[:-1] + b"x", whole + b"x"):
        path.write_bytes(changed)
        with pytest.raises(InputError, match="was modified"):
            read_engine(path)
