"""`inspect` on lone files: what it prints, and its exit codes. Bundles are in tests/integration."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from tests.support.command_line import Command
from tests.support.devices.engine_examples import written as engine
from tests.support.graphs.lint_examples import EXAMPLES, external
from tests.support.graphs.small_files import LINEAR, W8A8, i8, model, u8

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def inspect(qvit: Command) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        done = qvit("inspect", *arguments)
        return done.code, done.out, done.err

    return run


def written(path: Path, proto: onnx.ModelProto) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


ASYMMETRIC = model(LINEAR, {**W8A8, "z": i8(3)})
GOOD = model(LINEAR, W8A8)


def test_errors_are_exit_code_1_with_the_rules_on_standard_error(inspect: Run, tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", ASYMMETRIC)
    code, out, err = inspect(path)
    assert code == 1 and err == f"error: {path}: 2 lint errors for tensorrt 10.3 (TRT101)\n"
    assert "error   TRT101 x 2  A zero point is not 0\n        n0: zero point 3\n" in out
    assert "products   1 of 1 matrix products have integer operands: 1 x w2a8" in out
    assert "Q/DQ       1 QuantizeLinear, 2 DequantizeLinear" in out


def test_warnings_and_notes_are_exit_code_0(inspect: Run, tmp_path: Path) -> None:
    code, out, err = inspect(written(tmp_path / "m.onnx", GOOD))
    assert code == 0 and err == "" and "lint for tensorrt 10.3: 1 note" in out
    code, out, err = inspect(written(tmp_path / "w.onnx", EXAMPLES["TRT201"].breaks))
    assert code == 0 and err == "" and "warning TRT201 x 1" in out


def test_json_holds_every_finding_whatever_the_exit_code(inspect: Run, tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", ASYMMETRIC)
    code, out, _ = inspect(path, "--json")
    lint = json.loads(out)["lint"]
    assert code == 1 and lint["profile"] == "tensorrt" and lint["version"] == "10.3"
    assert lint["counts"] == {"error": 2, "warning": 0, "note": 1} and len(lint["findings"]) == 3
    assert lint["findings"][0] | {"hint": ""} == {
        "rule": "TRT101", "severity": "error", "node": "n0", "message": "zero point 3", "hint": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "proto", "flags", "expected"),
    [
        ("m.onnx", GOOD, [], "tensorrt 10.3"),
        ("m.onnx", model("y = Relu(x)"), [], "onnxruntime"),
        ("m.onnx", GOOD, ["--profile", "onnxruntime"], "onnxruntime"),
        ("m.onnx", GOOD, ["--profile", "tensorrt-rtx"], "tensorrt-rtx"),
        ("m.onnx", GOOD, ["--trt-version", "11.4.1"], "tensorrt 11.4"),
        ("model.onnxruntime.onnx", GOOD, [], "onnxruntime"),
        ("model.tensorrt-rtx.onnx", model("y = Relu(x)"), [], "tensorrt-rtx"),
        ("model.tensorrt-rtx.onnx", GOOD, ["--profile", "tensorrt"], "tensorrt 10.3"),
    ],
)
def test_the_profile_that_applies(
    inspect: Run, tmp_path: Path, name: str, proto: onnx.ModelProto, flags: list[str], expected: str
) -> None:
    code, out, _ = inspect(written(tmp_path / name, proto), *flags)
    assert code == 0 and f"lint for {expected}: " in out


@pytest.mark.parametrize(
    ("flags", "words"),
    [(["--profile", "tflite"], "there is no target 'tflite'; choose from onnxruntime, "),
     (["--trt-version", "ten"], "give a version such as 10.3"),
     (["--trt-version", "10.x"], "give a version such as 10.3")],
)  # fmt: skip
def test_flags_that_mean_nothing(inspect: Run, tmp_path: Path, flags: list[str], words: str) -> None:
    code, out, err = inspect(written(tmp_path / "m.onnx", GOOD), *flags)
    assert code == 2 and out == "" and words in err and err.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"not a model", GOOD.SerializeToString()[:-30], b"\x08\x0a" * 40])
def test_files_that_are_no_onnx(inspect: Run, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    code, out, err = inspect(path)
    assert code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1 and str(path) in err


@pytest.mark.parametrize("location", ["weights.bin", "../secret.bin", "/etc/hostname", "link.bin"])
def test_weights_that_are_missing_or_elsewhere(inspect: Run, tmp_path: Path, location: str) -> None:
    """They are named and never read, relative paths included."""
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(4096))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    path = written(folder / "m.onnx", external(location))
    code, out, err = inspect(path)
    assert code == 1 and "ONNX701" in err and "ONNX701 x 1" in out
    assert ("is missing" if location == "weights.bin" else "points outside the model's folder") in out


def test_weights_in_a_file_beside_the_model_are_read(
    inspect: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(GOOD, path, save_as_external_data=True, location="weights.bin", size_threshold=0, convert_attribute=False)
    monkeypatch.chdir(tmp_path)
    code, out, _ = inspect("m.onnx")
    assert code == 0 and "1 x w2a8" in out and "lint for tensorrt 10.3: 1 note" in out


def test_names_are_no_markup(inspect: Run, tmp_path: Path) -> None:
    proto = model(LINEAR, {**W8A8, "z": u8(0)})
    proto.graph.node[0].name = "[bold]blocks[0][/]"
    _, out, _ = inspect(written(tmp_path / "m.onnx", proto))
    assert "[bold]blocks[0][/]: uint8 codes of an activation" in out


def test_an_engine_is_what_its_record_says(inspect: Run, tmp_path: Path) -> None:
    path, record = engine(tmp_path)
    code, out, _ = inspect(path)
    assert code == 0 and out.startswith(f"{path}: tensorrt 10.3.0 for SM87 (Orin), 0.00 MB\n")
    assert f"built from m.onnx (SHA-256 {record.onnx.sha256[:16]})" in out
    printed = json.loads(inspect(path, "--json")[1])
    assert printed["type"] == "engine" and printed["engine"]["sha256"] == record.engine.sha256


def test_an_engine_that_was_changed(inspect: Run, tmp_path: Path) -> None:
    path, _ = engine(tmp_path)
    path.write_bytes(b"another plan")
    code, out, err = inspect(path)
    assert code == 2 and not out and "was modified since it was built" in err
