"""Engines for another GPU, another version or another plugin library are refused before anything loads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qvit_deploy.artifacts.engine_record import EngineRecord, Plugin
from qvit_deploy.artifacts.manifest import FileRecord
from qvit_deploy.errors import InputError
from qvit_deploy.targets.tensorrt.engine.run.fit import require_device, require_library
from tests.support.devices.engine_examples import written


def runnable(path: Path, record: EngineRecord, **here: Any) -> None:
    given = {"version": (10, 3, 0), "sm": 87, "gpu": "Orin", "plugins": (), **here}
    require_device(path, record, given["sm"], given["gpu"])
    require_library(path, record, given["version"], given["plugins"])


def test_an_engine_runs_where_it_was_built(tmp_path: Path) -> None:
    runnable(*written(tmp_path))


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
