"""A session on a board whose tools are shell scripts that print what a Jetson's print."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from qvit_deploy.bench.device.jetson_session import read_session
from qvit_deploy.errors import InputError
from tests.support.graphs.quantizable_graphs import mixed_vit
from tests.support.places import REPOSITORY

ROOT = REPOSITORY
LINE = (
    "RAM 3150/7620MB (lfb 4x2MB) SWAP 0/3810MB (cached 0MB) CPU [60%@1190,0%@729] GR3D_FREQ 97%@[510] "
    "cpu@52.8C tj@{}C VDD_IN 9913mW/9922mW"
)
CLOCKS = """cpu0:  Online=1 Governor=schedutil MinFreq=1510400 MaxFreq=1510400 CurrentFreq=1510400
GPU MinFreq=624750000 MaxFreq=624750000 CurrentFreq=624750000
"""


@pytest.fixture
def board(tmp_path: Path) -> dict[str, str]:
    """An environment in which the board's tools are found."""
    tools = tmp_path / "tools"
    tools.mkdir()
    scripts = {
        "tegrastats": f"while true; do echo '{LINE.format(53.8)}'; sleep 0.1; done",
        "nvpmodel": "printf 'NV Power Mode: MAXN\\n0\\n'",
        "jetson_clocks": f"cat <<'X'\n{CLOCKS}X",
    }
    for name, body in scripts.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    return {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def run(script: str, *arguments: object, env: dict[str, str], where: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "jetson" / script), *map(str, arguments)]
    return subprocess.run(command, env=env, cwd=where, capture_output=True, text=True, check=False)


def test_a_session_is_recorded_and_read(board: dict[str, str], tmp_path: Path) -> None:
    model, out = tmp_path / "model.onnx", tmp_path / "session.tar.gz"
    model.write_bytes(mixed_vit().serialize())
    done = run("session.py", model, "-o", out, "--", "--processes", 1, "--iterations", 36, "--no-profile", env=board)
    assert done.returncode == 0, done.stderr
    session = read_session(out)
    assert session.measurement is not None and session.measurement.latency_ms.samples == 36
    assert session.mode == "MAXN" and session.clocks["GPU"].locked
    assert len(session.samples) > 3 and session.unread <= 1 and session.watts == pytest.approx(9.913)
    assert session.joules_per_run == pytest.approx(9.913 * session.measurement.latency_ms.mean / 1e3)
    assert any("GPU clock fell to 510" in s for s in session.throttled)
    assert any("cpu0 fell to 1190" in s for s in session.throttled)
    assert "nv_tegra_release.txt" in session.facts.missing

    read = run("read_session.py", out, "--measurement", tmp_path / "m.json", env=board)
    assert read.returncode == 0 and "GPU clock fell" in read.stdout and "MAXN" in read.stdout
    assert json.loads((tmp_path / "m.json").read_text())["schema"] == "qvit-deploy/measurement/1"
    again = run("session.py", model, "-o", out, env=board)
    assert again.returncode == 2 and "exists" in again.stderr


def test_a_session_whose_bench_fails_is_kept_and_says_so(board: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "session.tar.gz"
    done = run("session.py", tmp_path / "none.onnx", "-o", out, env=board)
    assert done.returncode == 2 and "exit code 2" in done.stderr
    session = read_session(out)
    assert session.measurement is None and session.facts.exit_code == 2
    read = run("read_session.py", out, "--json", env=board)
    assert "exit code 2" in json.loads(read.stdout)["latency p50, ms"]


@pytest.mark.parametrize(
    ("build", "bench", "target"),
    [(None, [], None), ("tensorrt", [], "tensorrt"), ("tensorrt", ["--target", "onnxruntime"], "onnxruntime")],
)
def test_what_was_built_is_measured(
    board: dict[str, str], tmp_path: Path, build: str, bench: list[str], target: str
) -> None:
    """The program replaced by one that writes down how it was called: there is no board to build on."""
    package = tmp_path / "stand-in" / "qvit_deploy"
    package.mkdir(parents=True)
    (package / "__main__.py").write_text("import sys; print(sys.argv[1:])")
    env = {**board, "PYTHONPATH": str(package.parent)}
    builds = [] if build is None else ["--build", build]
    done = run("session.py", "b", "-o", tmp_path / "s.tar.gz", *builds, "--", *bench, env=env, where=package.parent)
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / "s.tar.gz") as tar:
        texts = {Path(m.name).name: tar.extractfile(m).read().decode() for m in tar if m.isfile()}  # type: ignore[union-attr]
    called = ast.literal_eval(texts["bench.out.txt"])
    assert called[:2] == ["bench", "b"] and ("build.out.txt" in texts) == (build is not None)
    assert (called[called.index("--target") + 1] if "--target" in called else None) == target


def tarball(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


FACTS = {"schema": "qvit-deploy/jetson-session/1", "started": "2026", "interval_ms": 500, "exit_code": 0}


def test_what_is_no_session(tmp_path: Path) -> None:
    path = tmp_path / "s.tar.gz"
    for content in (b"", b"not a tarball"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"s\.tar\.gz: cannot be read"):
            read_session(path)
    with pytest.raises(InputError, match=r"no session\.json"):
        read_session(tarball(path, {"s/other.txt": b""}))
    for facts in (b"{}", b"{", json.dumps({**FACTS, "schema": "qvit-deploy/jetson-session/2"}).encode()):
        with pytest.raises(InputError, match="another version"):
            read_session(tarball(path, {"s/session.json": facts}))
    with pytest.raises(InputError, match=r"s\.tar\.gz: measurement\.json: is empty"):
        read_session(tarball(path, {"s/session.json": json.dumps(FACTS).encode(), "s/measurement.json": b""}))
    whole = tarball(path, {"s/session.json": json.dumps(FACTS).encode(), "s/tegrastats.txt": os.urandom(5000)})
    path.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(InputError, match="cut off"):
        read_session(path)


def test_a_tarball_writes_nothing_outside(tmp_path: Path) -> None:
    path = tarball(
        tmp_path / "s.tar.gz", {"../../session.json": json.dumps(FACTS).encode(), "../tegrastats.txt": LINE.encode()}
    )
    before = sorted(tmp_path.rglob("*"))
    assert read_session(path).facts.exit_code == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_more_signs_of_throttling(tmp_path: Path) -> None:
    facts = {**FACTS, "over_current_events": {"hwmon3/oc3_event_cnt": [2, 5]}}
    files = {"s/session.json": json.dumps(facts).encode(), "s/tegrastats.txt": LINE.format(97.5).encode()}
    session = read_session(tarball(tmp_path / "s.tar.gz", files))
    assert any("3 over-current events" in s for s in session.throttled)
    assert any("97.5 C" in s for s in session.throttled)
