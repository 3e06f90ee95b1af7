from __future__ import annotations

from pathlib import Path

import pytest

from qvit_deploy.artifacts.bundle import write_bundle
from qvit_deploy.artifacts.engine_record import Batch
from qvit_deploy.errors import InputError
from tests.support.artifacts.bundle_example import MANIFEST as EXAMPLE
from tests.support.devices.engine_examples import small_onnx
from tools.measure.engines import COLUMNS, bundles, rows

CHECKED = {
    "codes": 90,
    "code_mismatches": 0,
    "free_codes_equal": 0.9,
    "reference_sqnr_db": 31.0,
    "in_float": {"a": "b"},
}


def bundle(path: Path) -> Path:
    manifest = {**EXAMPLE, "verification": {"profiles": {"tensorrt-rtx": CHECKED}}}
    write_bundle(path, manifest=manifest, files={"model.tensorrt-rtx.onnx": small_onnx(path.parent)}, force=False)
    return path


def test_a_row_for_every_bundle_and_gpu(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    folder = bundle(tmp_path / "first")
    (row,) = rows(bundles([tmp_path]), (86,), Batch())
    cells = dict(zip(COLUMNS, row, strict=True))
    assert cells["bundle"] == "first" and cells["codes equal"] == "90 of 90" and cells["free"] == "90.0%"
    assert cells["SM"] == "86" and float(cells["engine, MB"]) > 1 and not (folder / "engines").exists()


def test_a_folder_without_bundles(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no bundle at"):
        list(bundles([tmp_path]))
