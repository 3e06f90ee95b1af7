"""The files of several targets in a bundle, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from qvit_deploy.artifacts.bundle import read_bundle
from qvit_deploy.targets.tensorrt import verification as half_verification
from tests.support.absent_libraries import without
from tests.support.command_line import Command, Inputs

BOTH = ("--target", "tensorrt-rtx", "--target", "tensorrt")


def test_every_target_is_written_verified_and_listed(qvit: Command, inputs: Inputs, tmp_path: Path) -> None:
    out = tmp_path / "b"
    done = qvit(*inputs.arguments(out, "--uniform", "w6a6", *BOTH, "--json"))
    assert done.code == 0, done.err
    manifest = json.loads(done.out)
    assert manifest["recipe"]["targets"] == ["onnxruntime", "tensorrt", "tensorrt-rtx"]
    assert {f"model.{p}.onnx" for p in manifest["recipe"]["targets"]} < set(manifest["files"])
    read_bundle(out)
    for target in ("tensorrt", "tensorrt-rtx"):
        checked = manifest["verification"]["profiles"][target]
        assert checked["code_mismatches"] == 0 and checked["codes"] > 0
        assert checked["sites"] + len(checked["in_float"]) == len(manifest["sites"])
        assert "head" in checked["in_float"]
        model = onnx.load(str(out / f"model.{target}.onnx"))
        assert model.opset_import[0].version >= 21
        assert not {n.domain for n in model.graph.node} - {""}
        ends = (*model.graph.input, *model.graph.output)
        assert {v.type.tensor_type.elem_type for v in ends} == {onnx.TensorProto.FLOAT}

    evaluated = qvit("eval", out, "--data", inputs.calib, "--target", "tensorrt", "--json")
    assert evaluated.code == 0 and json.loads(evaluated.out)["sqnr_db"] > 15

    for target in manifest["recipe"]["targets"]:
        inspected = qvit("inspect", out, "--target", target, "--json")
        assert inspected.code == 0, inspected.err
        models = json.loads(inspected.out)["models"]
        assert {name: m["lint"]["profile"] for name, m in models.items()} == {f"model.{target}.onnx": target}
    lacking = qvit("inspect", out, "--target", "tensorrt-plugin", "--json")
    assert {n: m["lint"]["profile"] for n, m in json.loads(lacking.out)["models"].items()} == {
        "model.onnxruntime.onnx": "tensorrt"
    }


def packed_bytes(path: Path) -> int:
    """Bytes of the packed weights in a file."""
    graph = onnx.load(str(path)).graph
    names = {node.input[1] for node in graph.node if node.op_type.startswith("QLinear")}
    return sum(len(t.raw_data) for t in graph.initializer if t.name in names)


def test_the_plugin_file_is_as_small_as_its_bits(qvit: Command, inputs: Inputs, tmp_path: Path) -> None:
    sizes = {}
    for bits in (4, 8):
        out = tmp_path / str(bits)
        done = qvit(*inputs.arguments(out, "--uniform", f"w{bits}a8", "--target", "tensorrt-plugin", "--json"))
        assert done.code == 0, done.err
        manifest = json.loads(done.out)
        assert manifest["recipe"]["targets"] == ["onnxruntime", "tensorrt-plugin"]
        checked = manifest["verification"]["profiles"]["tensorrt-plugin"]
        assert checked["code_mismatches"] == 0 and checked["packed"] == 7 and checked["sites"] == 8
        assert checked["norms"] == 2
        assert manifest["verification"]["lint"]["tensorrt-plugin"]["TRT610"] == 9
        bundle = read_bundle(out)
        sizes[bits] = packed_bytes(bundle.path_of("model.tensorrt-plugin.onnx"))
        described = json.loads(qvit("inspect", out, "--json").out)["models"]["model.tensorrt-plugin.onnx"]
        widths = [[o["bits"] for o in p["operands"]] for p in described["products"] if "QLinear" in p["op"]]
        assert widths == [[8, bits]] * 7 and described["lint"]["counts"] == {"error": 0, "warning": 0, "note": 9}
    assert sizes[4] * 2 == sizes[8] > 0
    evaluated = qvit("eval", tmp_path / "8", "--data", inputs.calib, "--target", "tensorrt-plugin", "--json")
    assert evaluated.code == 0 and json.loads(evaluated.out)["sqnr_db"] > 15


def test_the_summary_names_each_target(qvit: Command, inputs: Inputs, tmp_path: Path) -> None:
    done = qvit(*inputs.arguments(tmp_path / "b", "--uniform", "w8a8", "--target", "tensorrt"))
    assert done.code == 0, done.err
    (line,) = [line for line in done.out.splitlines() if line.startswith("tensorrt")]
    assert "codes equal given equal inputs" in line and "1 site stays in float" in line


def test_a_target_that_fails_verification_is_left_out(
    qvit: Command, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A tolerance that no half-precision model keeps: what the compiler emits passes the real one.
    monkeypatch.setattr(half_verification, "OUTPUT_TOLERANCE", 0.0)
    failed = qvit(*inputs.arguments(tmp_path / "b", "--uniform", "w8a8", "--target", "tensorrt"))
    assert failed.code == 1 and len(failed.errors) == 1 and "half precision" in failed.errors[0]
    files = {path.name for path in (tmp_path / "b").iterdir()}
    assert "model.onnxruntime.onnx" in files and "model.tensorrt.onnx" not in files


def test_the_fused_file_is_verified_and_runs(qvit: Command, inputs: Inputs, tmp_path: Path) -> None:
    out = tmp_path / "b"
    done = qvit(*inputs.arguments(out, "--uniform", "w8a8", "--target", "onnxruntime-fused"))
    assert done.code == 0, done.err
    (line,) = [line for line in done.out.splitlines() if line.startswith("onnxruntime-fused")]
    assert "codes equal given equal inputs" in line
    bundle = read_bundle(out)
    assert bundle.manifest.verification.targets["onnxruntime-fused"].code_mismatches == 0
    domains = {n.domain for n in onnx.load(str(bundle.path_of("model.onnxruntime-fused.onnx"))).graph.node}
    assert domains == {"", "com.microsoft"}
    evaluated = qvit("eval", out, "--data", inputs.calib, "--profile", "onnxruntime-fused", "--json")
    assert evaluated.code == 0 and json.loads(evaluated.out)["sqnr_db"] > 15
    inspected = qvit("inspect", out, "--json")
    assert inspected.code == 0, inspected.err


def test_the_openvino_file_is_verified_evaluated_and_measured(qvit: Command, inputs: Inputs, tmp_path: Path) -> None:
    out = tmp_path / "b"
    done = qvit(*inputs.arguments(out, "--uniform", "w8a8", "--target", "openvino"))
    assert done.code == 0, done.err
    (line,) = [line for line in done.out.splitlines() if line.startswith("openvino")]
    assert "codes equal given equal inputs" in line and "9 products run on integers" in line
    bundle = read_bundle(out)
    checked = bundle.manifest.verification.targets["openvino"].model_dump()
    assert checked["code_mismatches"] == 0 and checked["codes"] > 0 and checked["integer_products"] == 9
    assert "File for openvino" in bundle.path_of("report.html").read_text()
    evaluated = qvit("eval", out, "--data", inputs.calib, "--target", "openvino", "--json")
    assert evaluated.code == 0 and json.loads(evaluated.out)["sqnr_db"] > 15
    quick = ("--processes", 2, "--iterations", 24, "--json")
    measured = qvit("bench", out, "--target", "openvino", "--against", out / "model.float.onnx", *quick)
    assert measured.code == 0, measured.err
    printed = json.loads(measured.out)
    assert printed["settings"]["runtime"] == "openvino" and printed["settings"]["flags"] == {"precision": "f32"}
    assert printed["against"]["runtime"] == "onnxruntime" and printed["environment"]["versions"]["openvino"]
    planned = {s.name for s in bundle.manifest.sites}
    assert planned <= {s["name"] for s in printed["profile"]["sites"]}
    inspected = qvit("inspect", out, "--json")
    assert json.loads(inspected.out)["models"]["model.openvino.onnx"]["lint"]["counts"]["error"] == 0


def test_openvino_is_asked_for_before_anything_runs(
    qvit: Command, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "openvino")
    done = qvit(*inputs.arguments(tmp_path / "b", "--uniform", "w8a8", "--target", "openvino"))
    assert done.code == 2 and done.errors == [
        "error: --target openvino needs OpenVINO, which is not installed: pip install openvino"
    ]
    assert list(tmp_path.iterdir()) == []
