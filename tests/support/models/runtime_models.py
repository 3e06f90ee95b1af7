"""Files for CPU runtimes, spoiled on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
from onnx import numpy_helper

from qvit_deploy.emit.runtime_model import RuntimeModel


def changed(model: RuntimeModel, name: str, edit: Callable[[np.ndarray], np.ndarray]) -> RuntimeModel:
    """`model` with one constant edited."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    (tensor,) = [t for t in proto.graph.initializer if t.name == name]
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(edit(array).astype(array.dtype), name))
    return replace(model, proto=proto)
