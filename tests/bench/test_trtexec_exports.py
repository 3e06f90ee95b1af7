from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qvit_deploy.artifacts.measurement import read_measurement
from qvit_deploy.bench.trtexec import Recording, read_trtexec
from qvit_deploy.errors import InputError

SITES = ("blocks.0.attn.qkv", "blocks.0.attn.proj", "blocks.1.attn.qkv", "blocks.10.attn.qkv")


def runs(*milliseconds: object) -> list[dict[str, Any]]:
    return [{"startEnqMs": 1.0, "computeMs": ms, "latencyMs": 9.0, "h2dMs": 0.1, "d2hMs": 0.1} for ms in milliseconds]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    profile = [
        {"count": 100},
        {"name": "blocks.0.attn.qkv/MatMul + Add", "timeMs": 30, "averageMs": 0.3, "medianMs": 0.3, "percentage": 50},
        {"name": "fused", "timeMs": 20, "averageMs": 0.2, "medianMs": 0.2, "percentage": 33.3},
        {"name": "Reformat 1", "timeMs": 10, "averageMs": 0.1, "medianMs": 0.1, "percentage": 16.7},
    ]
    metadata = "[ONNX Layer: blocks.0.attn.proj/MatMul]\x1e[ONNX Layer: blocks.10.attn.qkv/MatMul]"
    layers = [
        {"Name": "fused", "LayerType": "gemm", "Metadata": metadata},
        {"Name": "Reformat 1", "LayerType": "Reformat", "Metadata": ""},
    ]
    (tmp_path / "t.json").write_text(json.dumps(runs(*[1.0 + 0.01 * (i % 7) for i in range(700)])))
    (tmp_path / "p.json").write_text(json.dumps(profile))
    (tmp_path / "l.json").write_text(json.dumps({"Layers": layers, "I/O Tensors": ["image"]}))
    (tmp_path / "log.txt").write_text(
        "&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # trtexec --loadEngine=e.plan --exportTimes=t.json "
        "--noDataTransfers --useSpinWait --warmUp=1000 --duration=20\n"
    )
    (tmp_path / "e.plan").write_bytes(b"engine")
    return tmp_path


def test_times_become_a_measurement(folder: Path, tmp_path: Path) -> None:
    recording = Recording(folder / "t.json", folder / "p.json", folder / "l.json", folder / "log.txt")
    measurement = read_trtexec(recording, folder / "e.plan", 4, SITES)
    assert measurement.source == "trtexec" and measurement.settings.runtime == "tensorrt"
    assert measurement.latency_ms.p50 == pytest.approx(1.03, rel=0.01) and measurement.latency_ms.samples == 700
    assert measurement.throughput == pytest.approx(4 / 1.03e-3, rel=0.01)
    assert measurement.environment.versions["tensorrt"] == "10.3.0"
    assert measurement.settings.flags == {"noDataTransfers": "on", "useSpinWait": "on", "warmUp": "1000"}
    assert measurement.profile is not None
    assert {s.name: s.product_ms for s in measurement.profile.sites} == {
        "blocks.0.attn.qkv": 0.3,
        "blocks.0.attn.proj + blocks.10.attn.qkv": 0.2,
    }
    assert measurement.profile.outside_ms == {"Reformat": 0.1} and measurement.profile.total_ms == pytest.approx(0.6)
    path = tmp_path / "m.json"
    path.write_text(measurement.model_dump_json(by_alias=True))
    assert read_measurement(path) == measurement


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_a_log_that_powershell_redirected_is_read(folder: Path, encoding: str) -> None:
    """`trtexec ... > log.txt` of PowerShell: UTF-16 with a byte order mark."""
    mark = "" if encoding == "utf-16" else "\ufeff"
    (folder / "log.txt").write_text(mark + (folder / "log.txt").read_text(), encoding=encoding)
    measurement = read_trtexec(Recording(folder / "t.json", log=folder / "log.txt"), folder / "e.plan", 1, ())
    assert measurement.environment.versions["tensorrt"] == "10.3.0"
    assert measurement.settings.flags["warmUp"] == "1000"


def test_names_alone_will_do(folder: Path) -> None:
    """TensorRT 10 without detailed layer information."""
    (folder / "l.json").write_text(json.dumps({"Layers": ["fused"], "Bindings": ["image"]}))
    measurement = read_trtexec(
        Recording(folder / "t.json", folder / "p.json", folder / "l.json"), folder / "e.plan", 1, SITES
    )
    assert measurement.profile is not None and [s.name for s in measurement.profile.sites] == ["blocks.0.attn.qkv"]
    assert measurement.environment.versions["tensorrt"] == "unknown"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ([], "holds 0 runs"),
        (runs(1.0), "holds 1 runs"),
        (runs(1.0, 0), "run 1 took 0"),
        (runs(1.0, -2.0), "run 1 took -2.0"),
        (runs(1.0, float("nan")), "run 1 took nan"),
        (runs(1.0, "fast"), "run 1 took 'fast'"),
        (runs(1.0, True), "run 1 took True"),
        ({"computeMs": 1}, "is not what trtexec --exportTimes writes"),
        ([{"ms": 1}], "is not what trtexec --exportTimes writes"),
    ],
)
def test_other_times_are_refused(folder: Path, content: object, word: str) -> None:
    path = folder / "t.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        read_trtexec(Recording(path), folder / "e.plan", 1, ())
    assert str(caught.value).startswith(f"{path}: ") and word in str(caught.value)


@pytest.mark.parametrize(("name", "words"), [("p", "exportProfile"), ("l", "exportLayerInfo"), ("log", "its version")])
@pytest.mark.parametrize("content", ["{}", "[]", '[{"name": "a", "averageMs": "x"}]'])
def test_other_files_are_refused(folder: Path, name: str, words: str, content: str) -> None:
    wrong = folder / "wrong"
    wrong.write_text(content)
    files = {n: wrong if n == name else folder / f"{n}.json" for n in ("p", "l")}
    recording = Recording(folder / "t.json", files["p"], files["l"], wrong if name == "log" else None)
    with pytest.raises(InputError, match=words) as caught:
        read_trtexec(recording, folder / "e.plan", 1, ())
    assert str(caught.value).startswith(f"{wrong}: ")
