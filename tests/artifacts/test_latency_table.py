from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qvit_deploy.allocate.cost import Option
from qvit_deploy.artifacts.latency_table import LatencyTable, read_latency, site_latencies
from qvit_deploy.errors import InputError
from qvit_deploy.formats.integer import Int

W4, W8 = Option(Int(4), Int(4)), Option(Int(8), Int(8))


def written(folder: Path, **changes: Any) -> Path:
    tree = {
        "schema": "qvit-deploy/latency/1",
        "device": "bench",
        "fingerprint": "abc",
        "batch_size": 1,
        "sites": {"fc1": {"w4a4": 0.5, "w8a8": 1}},
    }
    path = folder / "latency.json"
    path.write_text(json.dumps({k: v for k, v in {**tree, **changes}.items() if v is not None}))
    return path


def test_what_a_writer_writes_is_read_back(tmp_path: Path) -> None:
    table = read_latency(written(tmp_path))
    path = tmp_path / "again.json"
    path.write_text(table.model_dump_json(by_alias=True))
    assert read_latency(path) == table
    assert isinstance(table, LatencyTable) and table.sites["fc1"]["w8a8"] == 1


def test_milliseconds_become_whole_nanoseconds_and_other_models_sites_are_ignored(tmp_path: Path) -> None:
    path = written(tmp_path, sites={"fc1": {"w4a4": 0.0312345678, "w8a8": 1e-3}, "else": {}})
    latencies = site_latencies(read_latency(path), str(path), {"fc1": [W4, W8]})
    assert latencies == {"fc1": {W4: 31235, W8: 1000}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sites": {"fc1": {"w4a4": -0.1}}}, "sites.fc1.w4a4: Input should be greater than 0"),
        ({"sites": {"fc1": {"w4a4": float("nan")}}}, "sites.fc1.w4a4: Input should be a finite number"),
        ({"sites": {"fc1": {"w4a4": float("inf")}}}, "sites.fc1.w4a4: Input should be a finite number"),
        ({"sites": {"fc1": {"w4a4": "0.1"}}}, "sites.fc1.w4a4: Input should be a valid number"),
        ({"sites": {"fc1": {"w4a4": None}}}, "sites.fc1.w4a4: "),
        ({"sites": {"fc1": {"w4a4": 0}}}, "sites.fc1.w4a4: Input should be greater than 0"),
        ({"sites": {"fc1": {"4": 0.1}}}, "sites.fc1.4: String should match pattern"),
        ({"sites": {"fc1": {"w16a16": 0.1}}}, "sites.fc1.w16a16: String should match pattern"),
        ({"sites": [1]}, "sites: "),
        ({"schema": "qvit-deploy/latency/2"}, "schema: Input should be 'qvit-deploy/latency/1'"),
        ({"schema": None}, "schema: Field required"),
        ({"batch_size": 0}, "batch_size: "),
        ({"unit": "s"}, "unit: Extra inputs are not permitted"),
    ],
)
def test_a_bad_table_is_one_line_that_names_the_file_and_the_place(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(InputError) as caught:
        read_latency(path)
    assert f"latency table {path}: {message}" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_table(tmp_path: Path, share: float) -> None:
    path = written(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"latency\.json: (is not valid JSON, or was cut off|is empty)"):
        read_latency(path)


def test_files_that_are_no_text_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(InputError, match=r"binary\.json: is not valid JSON"):
        read_latency(tmp_path / "binary.json")
    with pytest.raises(InputError, match=r"none\.json: cannot be read"):
        read_latency(tmp_path / "none.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(InputError, match=r"list\.json: Input should be"):
        read_latency(tmp_path / "list.json")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fc2": [W4]}, "t.json has no site 'fc2'"),
        ({"fc1": [Option(Int(6), Int(6))]}, "site 'fc1' lacks w6a6 (it has w4a4, w8a8)"),
    ],
)
def test_what_the_model_needs_and_the_table_lacks_is_named(
    tmp_path: Path, options: dict[str, list[Option]], words: str
) -> None:
    with pytest.raises(InputError) as caught:
        site_latencies(read_latency(written(tmp_path)), "t.json", options)
    assert words in str(caught.value)
