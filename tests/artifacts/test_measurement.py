from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qvit_deploy.artifacts.measurement import read_measurement
from qvit_deploy.errors import InputError
from tests.support.artifacts.measurements import noisy, subject, tree, write


def changed(**more: Any) -> dict[str, Any]:
    return {**tree("new", noisy(5, 0)), **more}


def with_latency(**more: Any) -> dict[str, Any]:
    whole = tree("new", noisy(5, 0))
    return {**whole, "latency_ms": {**whole["latency_ms"], **more}}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "m.json", changed(against=subject("old", noisy(5, 1))))
    measurement = read_measurement(path)
    path.write_text(measurement.model_dump_json(by_alias=True, exclude_none=True))
    assert read_measurement(path) == measurement
    assert measurement.tree()["latency_ms"]["p50"] == measurement.latency_ms.p50 and "energy" not in measurement.tree()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (json.dumps(tree("new", noisy(5, 0))).encode()[:700], "cut off"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1, 2]", "is not a measurement"),
        (b'{"latency_ms": {"p50": 3}}', "is not a measurement"),
        (json.dumps(changed(schema="qvit-deploy/measurement/2")).encode(), "this version reads"),
        (json.dumps(changed(schema="qvit-deploy/bundle/1")).encode(), "is not a measurement"),
        (json.dumps(with_latency(p50=0)).encode(), "latency_ms.p50"),
        (json.dumps(with_latency(mean=-1.0)).encode(), "latency_ms.mean"),
        (json.dumps(with_latency(p99="fast")).encode(), "latency_ms.p99"),
        (json.dumps(with_latency(p99=float("nan"))).encode(), "latency_ms.p99"),
        (json.dumps(with_latency(samples=1)).encode(), "latency_ms.samples"),
        (json.dumps(changed(processes=[])).encode(), "processes"),
        (json.dumps(changed(processes=[{"blocks_ms": [], "runs": 1}])).encode(), "blocks_ms"),
        (json.dumps(changed(processes=[{"blocks_ms": [1.0, 0.0], "runs": 2}])).encode(), "blocks_ms"),
        (json.dumps(changed(unheard=1)).encode(), "unheard"),
        (
            json.dumps(changed(processes=[{"blocks_ms": [1.0, 2.0], "runs": 2, "yardstick_ms": [1.0]}])).encode(),
            "yardstick_ms, of the reference workload, has other blocks",
        ),
        (json.dumps(changed(against=subject("old", noisy(5, 1, blocks=3)))).encode(), "different blocks"),
    ],
)
def test_what_is_no_measurement_is_one_line_with_the_file(content: bytes, word: str, tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_measurement(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and word in message and "\n" not in message


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: cannot be read"):
        read_measurement(tmp_path / "none.json")
