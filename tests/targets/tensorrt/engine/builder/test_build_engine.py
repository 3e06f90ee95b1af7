"""Engines built by the real TensorRT-RTX, which needs no GPU, and building processes that end badly."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvit_deploy.artifacts.engine_record import Batch, BuildRequest, EngineRecord, read_engine, record_path
from qvit_deploy.artifacts.manifest import FileRecord
from qvit_deploy.errors import CheckError, InputError
from qvit_deploy.quantize.half import half_scales
from qvit_deploy.targets.tensorrt.engine.builder.build_engine import Phases, build_engine
from tests.support.devices.engine_examples import asymmetric_onnx, fake_rtx, small_onnx
from tests.support.graphs.half_graphs import half, wide_vit
from tests.support.graphs.quantizable_graphs import calibrate
from tests.support.places import REPOSITORY

ROOT = str(REPOSITORY)


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_onnx(tmp_path_factory.mktemp("onnx"))


def build(onnx: Path, engine: Path, timeout: float = 120, force: bool = False, **changes: Any) -> EngineRecord:
    request = BuildRequest(target="tensorrt-rtx", onnx=onnx, engine=engine, sm=86).model_copy(update=changes)
    return build_engine(request, timeout=timeout, force=force)


def test_an_engine_is_built_recorded_and_read_back(onnx: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    engine = tmp_path / "engines" / "m.engine"
    record = build(onnx, engine, batch=Batch(least=1, best=2, most=4))
    assert read_engine(engine) == record
    assert record.engine.bytes == engine.stat().st_size > 1_000_000
    assert record.onnx == FileRecord.of_file(onnx) and record.onnx_name == "small.onnx"
    built = record.build
    assert built.sm == 86 and built.gpu is None and built.version.startswith("1.")
    assert [(t.name, t.shape, t.dtype) for t in built.inputs] == [("image", (-1, 3, 16, 16), "float")]
    assert [(t.name, t.shape) for t in built.outputs] == [("logits", (-1, 5))]
    assert 0 < built.build_seconds < record.seconds < 60
    assert 50e6 < built.peak_memory_bytes < 600e6  # its own, not that of the process it was started from
    assert {p.name for p in engine.parent.iterdir()} == {"m.engine", "m.json"}

    before = engine.read_bytes()
    with pytest.raises(InputError, match="--force"):
        build(onnx, engine)
    assert build(onnx, engine, force=True, sm=120).build.sm == 120
    assert engine.read_bytes() != before and read_engine(engine).batch == Batch()


@pytest.mark.parametrize(("gain", "bits"), [(1.0, 6), (3e4, 8)], ids=["int8 attention", "float32 islands"])
def test_every_kind_of_file_we_write_is_parsed_and_built(gain: float, bits: int, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    calibrated = calibrate(wide_vit(gain=gain), (bits,), attention=True)
    emitted = half(calibrated, half_scales(calibrated.plan((bits, bits))))
    assert ("attn.qk" in emitted.plan.sites) == (bits == 6) and bool(emitted.float32) == (gain > 1)
    (tmp_path / "m.onnx").write_bytes(emitted.graph.serialize())
    assert build(tmp_path / "m.onnx", tmp_path / "m.engine").build.messages == ()


def test_what_the_parser_refuses_is_one_line_with_the_node(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(InputError, match=r"tensorrt-rtx cannot parse it: \w+ node ") as caught:
        build(asymmetric_onnx(tmp_path), tmp_path / "m.engine")
    assert "zero" in str(caught.value).lower() and "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["asymmetric.onnx"]


@pytest.mark.parametrize("content", [b"", b"not onnx", b"\x08\x0a" * 400])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("tensorrt_rtx")
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(InputError, match=r"m\.onnx"):
        build(tmp_path / "m.onnx", tmp_path / "m.engine")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_a_process_that_dies_is_reported_with_what_it_said_last(
    onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = fake_rtx(
        tmp_path / "fake", "import os, sys\nprint('terminate called', file=sys.stderr, flush=True)\nos.abort()"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([fake, ROOT]))
    with pytest.raises(
        CheckError, match=r"that builds m\.engine was ended by SIGABRT; it last said: .*terminate called"
    ):
        build(onnx, tmp_path / "m.engine")
    assert [p.name for p in tmp_path.iterdir()] == ["fake"]


def test_a_process_that_exits_without_an_answer(onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_rtx(tmp_path / "fake", "import os; os._exit(3)")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([fake, ROOT]))
    with pytest.raises(CheckError, match=r"ended with exit code 3 and no answer; it last said: nothing"):
        build(onnx, tmp_path / "m.engine")


def test_a_process_that_takes_too_long_is_ended(onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = tmp_path / "pid"
    code = f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([fake_rtx(tmp_path / "fake", code), ROOT]))
    start = time.monotonic()
    with pytest.raises(CheckError, match=r"took more than 3 s; give it more with --timeout"):
        build(onnx, tmp_path / "m.engine", timeout=3)
    assert time.monotonic() - start < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert not (tmp_path / "m.engine").exists()


def test_an_old_library_is_refused(onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_rtx(tmp_path / "fake", "__version__ = '1.0.0.21'")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([fake, ROOT]))
    with pytest.raises(InputError, match=r"tensorrt_rtx 1\.0\.0 is too old"):
        build(onnx, tmp_path / "m.engine")


def test_paths_that_cannot_be_are_refused_before_anything_runs(onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no ONNX file at"):
        build(tmp_path / "none.onnx", tmp_path / "m.engine")
    with pytest.raises(InputError, match="record goes"):
        build(onnx, tmp_path / "m.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        build(onnx, tmp_path / "file" / "m.engine")
    record_path(tmp_path / "m.engine").write_text("someone's")
    with pytest.raises(InputError, match=r"m\.json exists"):
        build(onnx, tmp_path / "m.engine")


def test_phases_fill_one_step_of_their_parent() -> None:
    phases = Phases()
    assert phases.event({"phase": "engine", "parent": None, "steps": 4}) == 0
    assert phases.event({"phase": "tactics", "parent": "engine", "steps": 2}) == 0
    assert phases.event({"step": "tactics", "done": 1}) == pytest.approx(1 / 8)
    assert phases.event({"finished": "tactics"}) == pytest.approx(1 / 4)
    assert phases.event({"step": "engine", "done": 1}) == pytest.approx(1 / 4)
    assert phases.event({"phase": "other", "parent": None, "steps": 1}) == pytest.approx(1 / 4)
    assert phases.event({"finished": "other"}) == pytest.approx(1 / 4)
    assert phases.event({"finished": "engine"}) == 1


events = st.one_of(
    st.fixed_dictionaries(
        {"phase": st.sampled_from("abc"), "parent": st.sampled_from([None, "a", "b", "x"]), "steps": st.integers(0, 5)}
    ),
    st.fixed_dictionaries({"step": st.sampled_from("abcx"), "done": st.integers(0, 9)}),
    st.fixed_dictionaries({"finished": st.sampled_from("abcx")}),
)


@given(st.lists(events, max_size=30))
def test_the_share_never_goes_back_or_beyond_one_whatever_comes(reports: list[dict[str, Any]]) -> None:
    phases, last = Phases(), 0.0
    for event in reports:
        share = phases.event(event)
        assert last <= share <= 1
        last = share


def test_the_process_sees_this_package_and_not_the_folder_it_was_called_from(
    onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file called tensorrt_rtx.py beside one's models must not be run; relative paths still mean what they say."""
    pytest.importorskip("tensorrt_rtx")
    fake_rtx(tmp_path / "here", "raise SystemExit('ran the wrong file')")
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "m.onnx").write_bytes(onnx.read_bytes())
    monkeypatch.delenv("PYTHONPATH", raising=False)
    build(Path("m.onnx"), Path("out/m.engine"))
    assert read_engine(tmp_path / "here" / "out" / "m.engine").build.sm == 86
