"""Measurements, recordings and latency tables that are none: one line naming the file, exit code 2, nothing written."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.artifacts.measurements import noisy, subject, tree, write
from tests.support.command_line import Command, Inputs, Result
from tests.support.places import REPOSITORY

Change = Callable[[dict[str, Any]], object]


def refused(result: Result, path: Path, word: str) -> None:
    assert result.code == 2 and result.out == "", result
    assert len(result.errors) == 1 and result.err.rstrip().splitlines()[-1] == result.errors[0], result.err
    assert str(path) in result.errors[0] and word in result.errors[0], result.errors[0]


def text(change: Change) -> bytes:
    """A measurement, changed."""
    measurement = tree("new", noisy(5, 0))
    change(measurement)
    return json.dumps(measurement).encode()


def process(**fields: Any) -> Change:
    return lambda t: t["processes"][0].update(fields)


BAD = {
    "empty": (b"", "is empty"),
    "blank": (b" \n", "is empty"),
    "truncated": (text(lambda t: None)[:500], "cut off"),
    "binary": (b"\x89PNG\r\n\x00", "not valid JSON"),
    "foreign list": (b"[1, 2, 3]", "is not a measurement"),
    "foreign object": (b'{"mean": 3.2, "unit": "ms"}', "is not a measurement"),
    "a latency table": (b'{"schema": "qvit-deploy/latency/1", "sites": {}}', "is not a measurement"),
    "newer version": (text(lambda t: t.update(schema="qvit-deploy/measurement/2")), "this version reads"),
    "older version": (text(lambda t: t.update(schema="qvit-deploy/measurement/0")), "this version reads"),
    "field of another version": (text(lambda t: t.update(colour="red")), "colour"),
    "zero": (text(lambda t: t["latency_ms"].update(p50=0)), "latency_ms.p50"),
    "negative": (text(lambda t: t["latency_ms"].update(mean=-0.1)), "latency_ms.mean"),
    "not finite": (text(lambda t: t["latency_ms"].update(p99=float("inf"))), "latency_ms.p99"),
    "zero in a block": (text(process(blocks_ms=[1.0, 0.0])), "blocks_ms"),
    "negative in a block": (text(process(blocks_ms=[1.0, -1.0])), "blocks_ms"),
    "text in a block": (text(process(blocks_ms=["1.0"])), "blocks_ms"),
    "no block": (text(process(blocks_ms=[])), "blocks_ms"),
    "one sample": (text(lambda t: t["latency_ms"].update(samples=1)), "latency_ms.samples"),
    "no process": (text(lambda t: t.update(processes=[])), "processes"),
    "zero of the reference workload": (text(process(yardstick_ms=[0.0])), "yardstick_ms"),
    "half a pair": (text(lambda t: t.update(against=subject("old", noisy(5, 1, blocks=3)))), "different blocks"),
}


@pytest.mark.parametrize("name", BAD)
def test_check_refuses_measurements_that_are_none(qvit: Command, tmp_path: Path, name: str) -> None:
    content, word = BAD[name]
    good, bad, out = write(tmp_path / "good.json", tree("old", noisy(5, 1))), tmp_path / "bad.json", tmp_path / "j.xml"
    bad.write_bytes(content)
    for sides in ((good, bad), (bad, good), (f"{good},{bad}", good)):
        refused(qvit("check", *sides, "--junit", out), bad, word)
    assert not out.exists()


TIMES = [{"computeMs": 1.0 + 0.01 * i} for i in range(50)]
RECORDINGS = {
    "--trtexec-times": {
        "empty": (b"", "is empty"),
        "truncated": (json.dumps(TIMES).encode()[:-9], "cut off"),
        "foreign": (b'{"schema": "qvit-deploy/measurement/1"}', "exportTimes"),
        "zero": (json.dumps([*TIMES, {"computeMs": 0}]).encode(), "run 50 took 0 ms"),
        "negative": (json.dumps([{"computeMs": -1.5}, *TIMES]).encode(), "run 0 took -1.5 ms"),
        "one sample": (json.dumps(TIMES[:1]).encode(), "holds 1 runs"),
    },
    "--trtexec-profile": {
        "empty": (b"", "is empty"),
        "truncated": (b'[{"count": 1}, {"name": "a", "aver', "cut off"),
        "foreign": (json.dumps(TIMES).encode(), "exportProfile"),
        "negative": (b'[{"name": "a", "averageMs": -1}, {"name": "b", "averageMs": 2}]', "negative times"),
        "zero": (b'[{"name": "a", "averageMs": 0}]', "none above 0"),
    },
    "--trtexec-layers": {
        "empty": (b"", "is empty"),
        "truncated": (b'{"Layers": [{"Name": "a"', "cut off"),
        "foreign": (b'{"layers": 3}', "exportLayerInfo"),
    },
    "--trtexec-log": {"empty": (b"", "version and command"), "foreign": (b"hello\n", "version and command")},
}


@pytest.mark.parametrize(("flag", "name"), [(flag, name) for flag, bad in RECORDINGS.items() for name in bad])
def test_bench_refuses_recordings_that_are_none(qvit: Command, tmp_path: Path, flag: str, name: str) -> None:
    content, word = RECORDINGS[flag][name]
    engine, bad, out = tmp_path / "e.engine", tmp_path / "bad.json", tmp_path / "m.json"
    engine.write_bytes(b"engine")
    bad.write_bytes(content)
    good = {"--trtexec-times": tmp_path / "t.json", "--trtexec-profile": tmp_path / "p.json"}
    good["--trtexec-times"].write_text(json.dumps(TIMES))
    good["--trtexec-profile"].write_text('[{"name": "a", "averageMs": 1.0}]')
    flags = [part for pair in {**good, flag: bad}.items() for part in pair]
    refused(qvit("bench", engine, *flags, "-o", out), bad, word)
    assert not out.exists()


TABLE = {"schema": "qvit-deploy/latency/1", "device": "d", "fingerprint": "f", "batch_size": 1}
TABLES = {
    "empty": (b"", "is empty"),
    "truncated": (json.dumps({**TABLE, "sites": {"fc1": {"w8a8": 1.0}}}).encode()[:-12], "cut off"),
    "foreign": (b'{"fc1": 0.3}', "schema"),
    "a measurement": (text(lambda t: None), "schema"),
    "newer version": (json.dumps({**TABLE, "schema": "qvit-deploy/latency/2", "sites": {}}).encode(), "latency/1"),
    "zero": (json.dumps({**TABLE, "sites": {"fc1": {"w8a8": 0}}}).encode(), "greater than 0"),
    "negative": (json.dumps({**TABLE, "sites": {"fc1": {"w8a8": -1.0}}}).encode(), "greater than 0"),
}


@pytest.mark.parametrize("name", TABLES)
def test_compile_refuses_latency_tables_that_are_none(qvit: Command, inputs: Inputs, tmp_path: Path, name: str) -> None:
    content, word = TABLES[name]
    bad = tmp_path / "bad.json"
    bad.write_bytes(content)
    refused(qvit(*inputs.arguments(tmp_path / "b", "--latency-table", bad, "--max-latency", 5)), bad, word)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("name", ["empty", "truncated", "foreign", "newer version", "measurement of one sample"])
def test_sessions_of_a_jetson_that_are_none(tmp_path: Path, name: str) -> None:
    session, good = tmp_path / "session.tar.gz", tmp_path / "session.json"
    facts = {"schema": "qvit-deploy/jetson-session/1", "started": "t", "interval_ms": 500, "exit_code": 0}
    if name == "newer version":
        facts["schema"] = "qvit-deploy/jetson-session/2"
    good.write_text(json.dumps(facts))
    measured = tmp_path / "measurement.json"
    measured.write_bytes(BAD["one sample"][0])
    with tarfile.open(session, "w:gz") as tar:
        for path in (measured,) if name == "foreign" else (good, measured):
            tar.add(path, arcname=f"s/{path.name}")
    whole = session.read_bytes()
    session.write_bytes({"empty": b"", "truncated": whole[: len(whole) // 2]}.get(name, whole))
    tool = REPOSITORY / "tools" / "jetson" / "read_session.py"
    done = subprocess.run([sys.executable, tool, session], capture_output=True, text=True, check=False)
    words = {"foreign": "no session.json", "newer version": "session.json", "measurement of one sample": "samples"}
    refused(Result(done.returncode, done.stdout, done.stderr), session, words.get(name, "cut off"))
