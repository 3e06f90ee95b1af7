from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qvit_deploy.artifacts.engine_record import (
    Batch,
    EngineRecord,
    Plugin,
    read_engine,
    record_path,
    require_device,
    require_library,
)
from qvit_deploy.artifacts.manifest import FileRecord
from qvit_deploy.errors import InputError
from tests.support.devices.engine_examples import written


def runnable(path: Path, record: EngineRecord, **here: Any) -> None:
    given = {"version": (10, 3, 0), "sm": 87, "gpu": "Orin", "plugins": (), **here}
    require_device(path, record, given["sm"], given["gpu"])
    require_library(path, record, given["version"], given["plugins"])


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
    runnable(path, record)


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


@pytest.mark.parametrize(
    ("record", "here", "reason"),
    [
        ({}, {"version": (10, 16, 2)}, r"built by tensorrt 10\.3\.0 and runs on no other; here is 10\.16\.2"),
        ({}, {"sm": 110, "gpu": "Thor"}, r"built for SM87; this GPU \(Thor\) is SM110"),
        ({}, {"gpu": "Orin NX"}, r"built on Orin; this GPU is Orin NX.*same-capability"),
        ({"hardware": "same-capability"}, {"sm": 86}, r"built for SM87"),
        ({"hardware": "ampere-plus"}, {"sm": 75}, r"built for SM87; this GPU \(Orin\) is SM75"),
    ],
)
def test_engines_for_another_version_or_gpu_are_refused(
    tmp_path: Path, record: dict[str, Any], here: dict[str, Any], reason: str
) -> None:
    path, built = written(tmp_path, **record)
    with pytest.raises(InputError, match=reason):
        runnable(path, built, **here)


def test_compatible_engines_run_on_other_gpus(tmp_path: Path) -> None:
    path, record = written(tmp_path, hardware="same-capability")
    runnable(path, record, gpu="Orin NX")
    path, record = written(tmp_path, hardware="ampere-plus")
    runnable(path, record, gpu="RTX 4090", sm=89)


def test_an_engine_with_a_plugin_needs_that_very_library(tmp_path: Path) -> None:
    library = tmp_path / "libqvit.so"
    library.write_bytes(b"code")
    path, record = written(tmp_path, plugins=(Plugin(name="libqvit.so", sha256=FileRecord.of_file(library).sha256),))
    runnable(path, record, plugins=(library,))
    with pytest.raises(InputError, match=r"needs the plugin library libqvit\.so: pass --plugin"):
        runnable(path, record)
    with pytest.raises(InputError, match="no plugin library at"):
        runnable(path, record, plugins=(tmp_path / "elsewhere" / "libqvit.so",))
    library.write_bytes(b"other code")
    with pytest.raises(InputError, match="is not the library"):
        runnable(path, record, plugins=(library,))
