"""An .onnx file -> a canonical graph. Needs neither torch nor timm."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir

from qvit_deploy.errors import InputError
from qvit_deploy.graph.canonicalize import canonicalize
from qvit_deploy.graph.graph import Graph

_QUANTIZED = {
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearMatMul",
    "QLinearConv",
    "MatMulInteger",
    "ConvInteger",
}


def from_onnx(path: Path, may_be_quantized: bool = False) -> Graph:
    """Read `path`. Raises InputError, UnsupportedOpError or NonFiniteError with the file's name in front."""
    proto = _read(path)
    _check_external_data(path, proto)
    quantized = next((node for node in proto.graph.node if node.op_type in _QUANTIZED), None)
    if quantized is not None and not may_be_quantized:
        raise InputError(
            f"{path} is already quantized ({quantized.op_type} at node {quantized.name!r}); "
            "compile takes the float model"
        )
    model = ir.from_proto(proto)
    ir.external_data.set_base_dir(model.graph, path.parent)
    return canonicalize(model, path.stem)


def _read(path: Path) -> onnx.ModelProto:
    if path.suffix.lower() != ".onnx":
        raise InputError(f"{path} is not an .onnx file; export the model to ONNX first")
    if not path.is_file():
        raise InputError(f"{path} does not exist" if not path.exists() else f"{path} is not a file")
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError is not part of any public API
        raise InputError(f"{path} cannot be parsed as ONNX (truncated?); export it again") from error
    if not proto.graph.node or not proto.opset_import:
        raise InputError(f"{path} holds no ONNX graph (empty or another format?); export it again")
    return proto


def _check_external_data(path: Path, proto: onnx.ModelProto) -> None:
    """Weights beside the model must be inside its folder, present and long enough.

    A model is untrusted input: without this check its external data could name any file on the machine.
    """
    folder = path.parent.resolve()
    for tensor in _tensors(proto.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        target = (folder / location).resolve()
        if not location or Path(location).is_absolute() or not target.is_relative_to(folder):
            raise InputError(f"{path}: weight {tensor.name!r} points outside the model's folder ({location!r})")
        if not target.is_file():
            raise InputError(f"{path}: weight file {location!r} is missing; keep it beside the .onnx file")
        try:
            end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
        except ValueError as error:
            raise InputError(f"{path}: weight {tensor.name!r} has an unreadable offset or length") from error
        if end > target.stat().st_size:
            raise InputError(f"{path}: weight file {location!r} is truncated (weight {tensor.name!r} ends past it)")


def _tensors(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    tensors = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                tensors.append(attribute.t)
            if attribute.HasField("g"):
                tensors += _tensors(attribute.g)
    return tensors
