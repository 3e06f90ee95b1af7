"""An engine's files without an engine, and stand-ins for libraries that end badly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qvit_deploy.artifacts.engine_record import Batch, BuildResult, EngineRecord, record_path
from qvit_deploy.artifacts.manifest import FileRecord
from qvit_deploy.quantize.half import half_scales
from tests.support.graphs.half_graphs import half, packed
from tests.support.graphs.quantizable_graphs import calibrate, mixed_vit


def written(folder: Path, content: bytes = b"not a plan.", **changes: Any) -> tuple[Path, EngineRecord]:
    """`m.engine` built, so it says, by TensorRT 10.3.0 on an Orin, with its record."""
    path = folder / "m.engine"
    path.write_bytes(content)
    build = BuildResult(
        version="10.3.0", sm=87, gpu="Orin", inputs=(), outputs=(), operators=(), messages=(), layers=1,
        parse_seconds=0.1, build_seconds=1.0, peak_memory_bytes=1,
    )  # fmt: skip
    record = EngineRecord(
        target="tensorrt", batch=Batch(), hardware="none", plugins=(), onnx=FileRecord.of_file(path),
        onnx_name="m.onnx", engine=FileRecord.of_file(path), seconds=1.0, build=build,
    ).model_copy(update=changes)  # fmt: skip
    record_path(path).write_text(record.model_dump_json(by_alias=True))
    return path, record


def small_onnx(folder: Path) -> Path:
    """A w8a8 model of 16 x 16 images in half precision."""
    calibrated = calibrate(mixed_vit(), (8,))
    path = folder / "small.onnx"
    path.write_bytes(half(calibrated, half_scales(calibrated.plan((8, 8)))).graph.serialize())
    return path


def packed_onnx(folder: Path) -> Path:
    """The same with its linears as plugin operators."""
    calibrated = calibrate(mixed_vit(), (8,))
    path = folder / "packed.onnx"
    path.write_bytes(packed(calibrated, half_scales(calibrated.plan((8, 8)))).graph.serialize())
    return path


def attention_onnx(folder: Path) -> Path:
    """A w4a4 model whose logarithmic attention is a plugin operator too."""
    calibrated = calibrate(mixed_vit(), (4,), attention=True, softmax="log2")
    plan, path = half_scales(calibrated.plan((4, 4))), folder / "attention.onnx"
    path.write_bytes(packed(calibrated, plan).graph.serialize())
    return path


def fake_rtx(folder: Path, code: str) -> str:
    """A folder for PYTHONPATH with a `tensorrt_rtx` that does `code` when it is imported."""
    folder.mkdir(exist_ok=True)
    (folder / "tensorrt_rtx.py").write_text(code)
    return str(folder)


def asymmetric_onnx(folder: Path) -> Path:
    """One QuantizeLinear with a zero point, which TensorRT does not take."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="restored"),
    ]
    constants = [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.int8(3), "z")]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 16]) for n in "xy"]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], constants),
        opset_imports=[helper.make_opsetid("", 21)], ir_version=10,
    )  # fmt: skip
    onnx.save(model, folder / "asymmetric.onnx")
    return folder / "asymmetric.onnx"
