"""Activation patching in ONNX Runtime by graph surgery: an intermediate tensor becomes a graph input.

It shares nothing with the executor but the file, which makes it a check of the executor's patches.
"""

from __future__ import annotations

import numpy as np
import onnx

from qvit_deploy.errors import InputError
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.targets.onnxruntime import runtime as onnxruntime


def with_tensor_as_input(model: onnx.ModelProto, tensor: str) -> onnx.ModelProto:
    """Returns a copy of `model` in which readers of `tensor` read the new graph input `TENSOR/patch` instead.

    Raises:
        InputError: no node computes the tensor, or nothing reads it.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    patch, readers = f"{tensor}/patch", 0
    if not any(tensor in node.output for node in copy.graph.node):
        raise InputError(f"no node computes tensor {tensor!r}")
    for node in copy.graph.node:
        for index, name in enumerate(node.input):
            if name == tensor:
                node.input[index] = patch
                readers += 1
    if not readers:
        raise InputError(f"nothing reads tensor {tensor!r}, so it cannot be patched")
    copy.graph.input.append(onnx.helper.make_tensor_value_info(patch, onnx.TensorProto.FLOAT, None))
    return copy


def patched_outputs(
    graph: Graph, images: Examples[np.ndarray], tensor: str, value: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns the outputs of `graph` on `images` with `value` in place of `tensor`.

    Raises:
        InputError: as `with_tensor_as_input`.
    """
    session = onnxruntime.session(with_tensor_as_input(graph.to_proto(), tensor).SerializeToString())
    feeds = {**images.feeds_for([v.name or "" for v in graph.inputs]), f"{tensor}/patch": value}
    known = {i.name for i in session.get_inputs()}
    values = session.run(None, {name: v for name, v in feeds.items() if name in known})
    return dict(zip([o.name for o in session.get_outputs()], values, strict=True))
