"""What `build` does around the building process: files, refusals, and the checks where an engine can run.

Engines are real, by TensorRT-RTX; where a test needs one to run, ONNX Runtime stands in for the GPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from qvit_deploy.artifacts.engine_record import Batch, BuildOptions, BuildRequest, EngineRecord, Tensor, read_engine
from qvit_deploy.commands import build as module
from qvit_deploy.commands.build import build, trtexec
from qvit_deploy.errors import BundleError, CheckError, InputError
from qvit_deploy.graph.examples import Examples
from qvit_deploy.targets.onnxruntime import runtime as onnxruntime
from qvit_deploy.targets.tensorrt.engine.gpu import Gpu
from tests.support.devices.engine_examples import small_onnx, written


class StandIn:
    """ONNX Runtime runs the file an engine was built from; `change` edits its outputs."""

    def __init__(self, model: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
        self.session, self.change = onnxruntime.session(model, 1), change
        self.closed = False

    def run(self, examples: Examples[np.ndarray]) -> list[np.ndarray]:
        return [self.change(np.asarray(o)) for o in onnxruntime.run(self.session, examples)]

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_onnx(tmp_path_factory.mktemp("onnx"))


def runs_here(
    monkeypatch: pytest.MonkeyPatch, model: Path, change: Callable[[np.ndarray], np.ndarray]
) -> list[StandIn]:
    """Lets a GPU for SM86 appear on which engines compute what `change` makes of the right outputs: what a machine
    without that GPU cannot run, and a wrong engine that no GPU gives."""
    runners: list[StandIn] = []

    def load(engine: Path, plugins: tuple[Path, ...]) -> StandIn:
        read_engine(engine)
        source = engine.with_suffix(".onnx")
        runners.append(StandIn(source if source.is_file() else model, change))
        return runners[-1]

    monkeypatch.setattr(module, "find_gpu", lambda: Gpu("Test GPU", 86))
    monkeypatch.setattr(module, "find_spec", lambda name: True)
    monkeypatch.setattr(module, "load", load)
    return runners


def test_an_engine_that_computes_the_right_thing_stays(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    runners = runs_here(monkeypatch, model, lambda o: o)
    pairs = BuildOptions(batch=Batch.parse("2"))
    (built,) = build(model, "tensorrt-rtx", pairs, sms=(86,), out=tmp_path / "m.engine")
    assert built.check is not None and built.check.agreement == 1 and built.check.images == 32
    assert read_engine(tmp_path / "m.engine") == built.record and runners[0].closed


def test_an_engine_that_does_not_is_removed_and_the_first_difference_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine that probes the codes is built for real."""
    pytest.importorskip("tensorrt_rtx")
    runners = runs_here(monkeypatch, model, lambda o: -o)
    with pytest.raises(CheckError, match=r"dB from ONNX Runtime's.*; what differs first is image\.q8"):
        build(model, "tensorrt-rtx", sms=(86,), out=tmp_path / "m.engine")
    assert list(tmp_path.iterdir()) == [] and all(m.closed for m in runners) and len(runners) == 2


def test_engines_for_another_gpu_are_not_run(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx")
    runners = runs_here(monkeypatch, model, lambda o: -o)
    (built,) = build(model, "tensorrt-rtx", sms=(120,), out=tmp_path / "m.engine")
    assert built.check is None and runners == []


def built_by_tensorrt(monkeypatch: pytest.MonkeyPatch, layers: Callable[[list[str]], list[dict[str, Any]]]) -> None:
    """TensorRT's build replaced, which needs a GPU: an engine appears with layers made of the names of the quantized
    products."""

    def build_engine(request: BuildRequest, **_: Any) -> EngineRecord:
        nodes = list(module.products(request.onnx).quantized.values())
        assert request.layer_info is not None
        request.layer_info.write_text(json.dumps({"Layers": layers(nodes)}))
        path, record = written(request.engine.parent)
        assert path == request.engine
        image = Tensor(name="image", shape=(-1, 3, 16, 16), dtype="float")
        return record.model_copy(update={"build": record.build.model_copy(update={"inputs": (image,)})})

    monkeypatch.setattr(module, "build_engine", build_engine)


def int8(node: str) -> dict[str, Any]:
    tensor = {"Format/Datatype": "Int8"}
    return {"Name": f"{node}_myl0", "LayerType": "gemm", "TacticName": "i8i8_i32", "Inputs": [tensor, tensor],
            "Metadata": f"[ONNX Layer: {node}]"}  # fmt: skip


def test_a_device_build_tells_the_kernel_of_every_site(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs_here(monkeypatch, model, lambda o: o)
    built_by_tensorrt(monkeypatch, lambda nodes: [int8(n) for n in nodes])
    (built,) = build(model, "tensorrt", out=tmp_path / "m.engine")
    assert built.layers is not None and {s.kernel for s in built.layers.sites} == {"int8"}
    assert {"fc1", "fc2", "attn.q"} <= {s.site for s in built.layers.sites} and built.check is not None


def test_a_site_left_in_float_fails_the_build(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs_here(monkeypatch, model, lambda o: o)
    slow = {"TacticName": "f16f16", "Inputs": []}
    built_by_tensorrt(monkeypatch, lambda nodes: [int8(n) | (slow if "fc1" in n else {}) for n in nodes])
    with pytest.raises(CheckError, match=r"does not run as it was emitted: fc1: .* in floating point \(f16f16\)"):
        build(model, "tensorrt", out=tmp_path / "m.engine")
    assert [p.name for p in tmp_path.iterdir()] == ["m.layers.json"]
    (built,) = build(model, "tensorrt", out=tmp_path / "m.engine", keep_slow=True)
    assert len(built.slow) == 1 and built.slow[0].startswith("fc1: ") and built.path.exists()


@pytest.mark.parametrize(
    ("target", "arguments", "reason"),
    [
        ("tensorrt-rtx", {}, "needs --sm"),
        ("tensorrt", {"sms": (86,)}, "--sm is for tensorrt-rtx"),
        ("tensorrt-rtx", {"sms": (86,), "options": BuildOptions(hardware="ampere-plus")}, "are for --target tensorrt"),
        ("tensorrt-rtx", {"sms": (86,), "options": BuildOptions(timing_cache=Path("t"))}, "are for --target tensorrt"),
        ("tensorrt-rtx", {"sms": (86,)}, "pass -o"),
        ("tensorrt-rtx", {"sms": (86, 120), "out": Path("m.engine")}, "give one --sm"),
    ],
)
def test_flags_that_do_not_go_together(model: Path, target: Any, arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        build(model, target, **arguments)


def test_missing_and_foreign_paths(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no bundle or \.onnx file at"):
        build(tmp_path / "none", "tensorrt-rtx", sms=(86,))
    with pytest.raises(BundleError, match="is not a bundle"):
        build(tmp_path, "tensorrt-rtx", sms=(86,))
    with pytest.raises(InputError, match=r"needs (an NVIDIA GPU|the Python module)"):
        (tmp_path / "m.onnx").write_bytes(b"")
        build(tmp_path / "m.onnx", "tensorrt", out=tmp_path / "m.engine")


def test_trtexec_lines_name_the_input(model: Path, tmp_path: Path) -> None:
    line, _ = trtexec(model, "10.3", out=tmp_path / "m.engine", options=BuildOptions(batch=Batch.parse("1:2:4")))
    assert "--optShapes=image:2x3x16x16" in line
    fixed = onnx.load(str(model))
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(fixed, tmp_path / "fixed.onnx")
    assert "Shapes" not in trtexec(tmp_path / "fixed.onnx", "11.4", out=tmp_path / "m.engine")[0]
    with pytest.raises(InputError, match="needs --trt-version"):
        trtexec(model, None, out=tmp_path / "m.engine")
    (tmp_path / "broken.onnx").write_bytes(b"\xff\xff")
    with pytest.raises(InputError, match="cannot be read as ONNX"):
        trtexec(tmp_path / "broken.onnx", "10.3", out=tmp_path / "m.engine")
