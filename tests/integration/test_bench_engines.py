"""`bench` of engines that the real TensorRT-RTX built: everything up to the device, which is not there."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from qvit_deploy.artifacts.engine_record import Batch, BuildOptions, record_path
from qvit_deploy.commands.build import build
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.pipeline.compile import compile
from qvit_deploy.recipe import Recipe
from qvit_deploy.targets.tensorrt.engine.gpu import find_gpu
from tests.support.artifacts.bundle_example import tree
from tests.support.command_line import Command, Inputs, Result, program
from tests.support.devices.driver_stand_in import compiled_driver
from tests.support.devices.engine_examples import written
from tests.support.devices.recorded_device import built as stand_in_build

RTX = ("--target", "tensorrt-rtx")
QUICK = ("--processes", "1", "--iterations", "4")

pytestmark = pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU: engines run")


@pytest.fixture(scope="module")
def built(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with one engine, for SM86 and 1 to 4 images."""
    pytest.importorskip("tensorrt_rtx")
    out = tmp_path_factory.mktemp("built") / "b"
    recipe = Recipe(uniform="w8a8", targets=("tensorrt-rtx", "tensorrt"), compensate="none", row_importance="none")
    preprocess = Preprocess.from_file(inputs.preprocess)
    compile(str(inputs.model), out, calib=str(inputs.calib), recipe=recipe, preprocess=preprocess)
    build(out, "tensorrt-rtx", sms=(86,), options=BuildOptions(batch=Batch.parse("1:2:4")))
    return out


@pytest.fixture
def bundle(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "b"))


def engine_of(bundle: Path) -> Path:
    return bundle / "engines" / "tensorrt-rtx.sm86.b1-2-4.engine"


def refused(result: Result, *words: str) -> None:
    assert result.code == 2 and result.out == "" and len(result.errors) == 1, result
    assert all(word in result.errors[0] for word in words), result.errors[0]


def test_engines_need_a_gpu(qvit: Command, bundle: Path, inputs: Inputs) -> None:
    engine, before = engine_of(bundle), tree(bundle)
    no_gpu = "needs an NVIDIA GPU and its driver, and none was found"
    refused(qvit("bench", engine, *QUICK), f"running {engine} {no_gpu}")
    refused(qvit("bench", bundle, *RTX, *QUICK), f"bench --target tensorrt-rtx {no_gpu}")
    refused(qvit("bench", inputs.model, "--against", engine, *QUICK), f"running {engine} {no_gpu}")
    refused(qvit("bench", engine, "--against", engine, *QUICK), no_gpu)
    assert tree(bundle) == before


def test_engines_that_are_not_whole(qvit: Command, bundle: Path) -> None:
    engine = engine_of(bundle)
    whole, record = engine.read_bytes(), record_path(engine).read_bytes()
    engine.write_bytes(whole[:-1])
    for side in ((engine,), (bundle, *RTX), (bundle, "--against", engine)):
        refused(qvit("bench", *side, *QUICK), f"{engine} is truncated: {len(whole) - 1:,} of {len(whole):,} bytes")
    engine.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused(qvit("bench", engine, *QUICK), f"{engine} was modified since it was built")
    engine.write_bytes(b"")
    refused(qvit("bench", engine, *QUICK), f"{engine} is truncated: 0 of")
    engine.write_bytes(whole)
    for content in (b"", record[:200], b'{"a": 1}', record.replace(b"engine/1", b"engine/2")):
        record_path(engine).write_bytes(content)
        refused(qvit("bench", engine, *QUICK), f"{record_path(engine)} is not the record of an engine")
    record_path(engine).unlink()
    refused(qvit("bench", engine, *QUICK), f"{engine} has no record {record_path(engine).name} beside it")


def test_requests_the_engine_was_not_built_for(qvit: Command, bundle: Path) -> None:
    engine = engine_of(bundle)
    refused(qvit("bench", engine, "--batch", 8, *QUICK), f"{engine}: takes 1 to 4 images at a time")
    refused(qvit("bench", engine, "--data", "demo:fashion-mnist", *QUICK), "--data")
    refused(qvit("bench", bundle, "--target", "tensorrt", *QUICK), f"{bundle} has no engine for tensorrt; build one")
    record = record_path(engine)
    record.write_text(record.read_text().replace('"onnx": {\n    "sha256": "', '"onnx": {\n    "sha256": "0')[:-1])
    refused(qvit("bench", bundle, *RTX, *QUICK), "is not the record of an engine")
    lone = bundle / "engines" / "model.tensorrt-rtx.onnx"
    shutil.copy(bundle / "model.float.onnx", lone)
    assert qvit("build", lone, *RTX, "--sm", 86, "-o", engine, "--force").code == 0
    refused(qvit("bench", bundle, *RTX, *QUICK), f"{engine} was built from a file that the bundle does not hold")


def test_a_gpu_of_another_kind_and_what_is_missing_beside_one(bundle: Path, tmp_path: Path) -> None:
    """A driver's stand-in lets a GPU appear to a real process, in which the real TensorRT-RTX is imported."""
    driver, engine = compiled_driver(tmp_path), engine_of(bundle)
    other = program(driver, 87, "bench", engine, *QUICK)
    refused(other, f"{engine} was built for SM86; this GPU (Test GPU 7) is SM87: build it again")
    if find_spec("pycuda") is None:
        refused(program(driver, 86, "bench", bundle, *RTX, *QUICK), "needs pycuda")


TENSORRT = """
import sys
from types import ModuleType
from tests.support.devices.recorded_device import Memory, doubling
memory = Memory()
sys.modules["pycuda"], sys.modules["pycuda.driver"] = ModuleType("pycuda"), memory.module()
__version__, api = "10.3.0", doubling("10.3.0", memory)
def __getattr__(name):
    return getattr(api, name)
"""


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """The driver of a GPU that is not there, with modules that have TensorRT's and pycuda's names."""
    (tmp_path / "tensorrt.py").write_text(TENSORRT)
    return compiled_driver(tmp_path)


def test_an_engine_against_an_onnx_file_on_a_device_that_is_not_there(
    device: Path, qvit: Command, inputs: Inputs, tmp_path: Path
) -> None:
    """The whole command in real processes; what a real device answers is not tested."""
    engine, _ = written(tmp_path, batch=Batch.parse("1:2:4"), build=stand_in_build("Test GPU 7"))
    out = tmp_path / "out.json"
    done = program(device, 87, "bench", engine, "--against", inputs.model, "--batch", 2, "-o", out, "--json", *QUICK)
    assert done.code == 0, done.err
    printed = json.loads(done.out)
    assert printed["settings"]["runtime"] == "tensorrt" and printed["settings"]["flags"] == {"cuda_graph": "on"}
    assert printed["against"]["runtime"] == "onnxruntime" and printed["settings"]["threads"] == 1
    assert (
        printed["environment"]["gpu"] == "Test GPU 7, SM87"
        and printed["environment"]["versions"]["tensorrt"] == "10.3.0"
    )
    assert printed["latency_ms"]["p50"] == pytest.approx(1.25, rel=1e-3)
    assert printed["throughput"] == pytest.approx(1600)
    assert printed["device_memory_bytes"] == 48 and "device_memory_bytes" not in printed["against"]
    assert printed["profile"]["outside_ms"] == {"layer": 0.5, "kgen": 0.25, "Reformat": 0.125}
    assert printed["against"]["profile"]["sites"] and printed["ratio"]["p50"] > 0
    assert qvit("check", out, "--max-slowdown", "9000%").code == 0


def test_an_engine_alone_has_no_reference_workload(device: Path, qvit: Command, tmp_path: Path) -> None:
    engine, _ = written(tmp_path, batch=Batch.parse("1:2:4"), build=stand_in_build("Test GPU 7"))
    out = tmp_path / "out.json"
    done = program(device, 87, "bench", engine, "-o", out, "--no-profile", *QUICK)
    assert done.code == 0 and "GPU memory" in done.out and "batch 2; tensorrt 10.3.0; Test GPU 7" in done.out, done.err
    printed = json.loads(out.read_text())
    assert "threads" not in printed["settings"] and all("yardstick_ms" not in p for p in printed["processes"])
    checked = qvit("check", out, out, "--max-memory-growth", "1%")
    assert checked.code == 0 and "measured apart" in checked.out and "0.00 -> 0.00 MB" in checked.out
