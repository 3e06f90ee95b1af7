"""Reads an .onnx file into a canonical graph. Needs neither torch nor timm."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir

from qvit_deploy.errors import InputError, reading
from qvit_deploy.frontend.budget import bounded_memory, require_few_nodes
from qvit_deploy.frontend.duplicates import settle_duplicates
from qvit_deploy.frontend.input_shapes import NO_SHAPES, InputShapes, fix_shapes
from qvit_deploy.graph import external_data
from qvit_deploy.graph.canonicalize import canonicalize
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.op_traits import INTEGER_OPERATORS, QUANTIZERS

_QUANTIZED = QUANTIZERS | INTEGER_OPERATORS


def from_onnx(path: Path, may_be_quantized: bool = False, shapes: InputShapes = NO_SHAPES) -> Graph:
    """Reads `path` and canonicalizes its graph, in which open sizes of inputs are those of `shapes`.

    Raises:
        InputError: the file is missing, damaged or, without `may_be_quantized`, already quantized.
        UnsupportedOpError: the graph has an operator that the compiler does not know.
        NonFiniteError: the model holds constants that are NaN or infinite.
    """
    with bounded_memory(path):
        model = read_foreign(path, shapes)
        _require_float(path, model, may_be_quantized)
        return canonicalize(model, path.stem)


def _require_float(path: Path, model: ir.Model, may_be_quantized: bool) -> None:
    bodies: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    quantized = next((node for body in bodies for node in body.all_nodes() if node.op_type in _QUANTIZED), None)
    if quantized is not None and not may_be_quantized:
        raise InputError(
            f"{path} is already quantized ({quantized.op_type} at node {quantized.name!r}); "
            "compile takes the float model"
        )


def read_foreign(path: Path, shapes: InputShapes = NO_SHAPES) -> ir.Model:
    """Reads a file of any exporter, as `canonicalize` takes it. Raises InputError.

    What it says of the shapes of results is left out: it may be stale, and shapes are measured.
    """
    proto = _read(path)
    with reading(_unparsable(path)):
        settle_duplicates(proto, str(path))
        del proto.graph.value_info[:]
        for function in proto.functions:
            del function.value_info[:]
        inputs = {value.name: value for value in proto.graph.input}
        for output in proto.graph.output:
            if output.name in inputs:  # onnx_ir has one value for both
                output.CopyFrom(inputs[output.name])
            else:
                output.type.tensor_type.ClearField("shape")
        _open_negative_sizes(proto)
        model = _model(path, proto)
        fix_shapes(model, shapes)
    return model


def _open_negative_sizes(proto: onnx.ModelProto) -> None:
    """Some exporters write -1 for the size of an input that is open, as ONNX Runtime reads it."""
    for value in proto.graph.input:
        for size in value.type.tensor_type.shape.dim:
            if size.dim_value < 0:
                size.Clear()


def from_canonical(path: Path) -> Graph:
    """Reads a graph that this compiler wrote, float or quantized, without changing it. Raises InputError."""
    proto = _read(path)
    with reading(_unparsable(path)):
        return Graph(_model(path, proto), path.stem)


def _unparsable(path: Path) -> str:
    return f"{path} cannot be parsed as ONNX (truncated or damaged?); export it again"


def _model(path: Path, proto: onnx.ModelProto) -> ir.Model:
    model = ir.from_proto(proto)
    ir.external_data.set_base_dir(model.graph, path.resolve().parent)
    problem = next((p for t in external_data.tensors(model) if (p := external_data.problem(t)) is not None), None)
    if problem is not None:
        raise InputError(f"{path}: {problem}")
    return model


def _read(path: Path) -> onnx.ModelProto:
    if path.suffix.lower() != ".onnx":
        raise InputError(f"{path} is not an .onnx file; export the model to ONNX first")
    if not path.is_file():
        raise InputError(f"{path} does not exist" if not path.exists() else f"{path} is not a file")
    with reading(_unparsable(path)):
        proto = onnx.load(path, load_external_data=False)
    if not proto.graph.node or not proto.opset_import:
        raise InputError(f"{path} holds no ONNX graph (empty or another format?); export it again")
    require_few_nodes(proto, str(path))
    return proto
