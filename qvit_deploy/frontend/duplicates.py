"""Constants that a file lists more than once, which ONNX does not allow and exporters' scripts do."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import onnx
import onnxruntime as ort

from qvit_deploy.errors import InputError


def settle_duplicates(proto: onnx.ModelProto, where: str) -> None:
    """Leaves one constant of every name, in place: that which ONNX Runtime computes with.

    Which it is depends on sizes there (the last, or the last but one from 128 bytes on), so it is asked.

    Raises:
        InputError: the numbers of constants that are listed twice are in another file.
    """
    listed: dict[str, list[onnx.TensorProto]] = {}
    for tensor in proto.graph.initializer:
        listed.setdefault(tensor.name, []).append(tensor)
    chosen = [tensors[0] if len(tensors) == 1 else _chosen(name, tensors, where) for name, tensors in listed.items()]
    if len(chosen) < len(proto.graph.initializer):
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(chosen)


def _chosen(name: str, tensors: Sequence[onnx.TensorProto], where: str) -> onnx.TensorProto:
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors):
        raise InputError(f"{where} lists the constant {name!r} {len(tensors)} times; export it again")
    if all(tensor == tensors[0] for tensor in tensors[1:]):
        return tensors[0]
    logging.getLogger(__name__).warning(
        "%s lists the constant %r %d times with different values; the one that ONNX Runtime takes is taken",
        where, name, len(tensors),
    )  # fmt: skip
    node = onnx.helper.make_node("Identity", [name], ["value"])
    graph = onnx.helper.make_graph([node], "constant", [], [onnx.ValueInfoProto(name="value")], tensors)
    opset = [onnx.helper.make_opsetid("", 17)]
    options = ort.SessionOptions()
    options.log_severity_level = 4
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    (value,) = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, {})
    return onnx.numpy_helper.from_array(value, name)
