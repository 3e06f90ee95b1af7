"""Every float tensor becomes float32.

Rules, in order:
1. float16, bfloat16 and float64 initializers and inputs are cast;
2. Cast and every other node with a `dtype`/`to` attribute that names such a type is pointed at float32;
3. value types are forgotten, `batch.py` measures them again.

Why: the quantizer needs one arithmetic to reason about, and half-precision exports surround LayerNorm and
softmax with casts that mean nothing once everything is float32.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qvit_deploy.errors import NonFiniteError

_OTHER_FLOATS = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}
_MASKING = ("Add", "Where")
_TYPE_ATTRIBUTES = ("to", "dtype", "stash_type")


def to_float32(model: ir.Model) -> None:
    """Applies the rules in place. Finite numbers of float64 beyond float32's range become its extremes."""
    graph = model.graph
    for value in (value for each in (graph, *graph.subgraphs()) for value in each.initializers.values()):
        if value.const_value is not None and value.const_value.dtype in _OTHER_FLOATS:
            array = value.const_value.numpy()
            value.const_value = ir.tensor(_clamped_float32(array), name=value.name)
            value.dtype = ir.DataType.FLOAT
    for value in graph.inputs:
        if value.dtype in _OTHER_FLOATS:
            value.dtype = ir.DataType.FLOAT
    for node in graph.all_nodes():
        for name in _TYPE_ATTRIBUTES:
            attribute = node.attributes.get(name)
            if attribute is not None and attribute.as_int() in _OTHER_FLOATS:
                node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))
        fill = node.attributes.get("value")
        if fill is not None and fill.type == ir.AttributeType.TENSOR and fill.as_tensor().dtype in _OTHER_FLOATS:
            tensor = ir.tensor(_clamped_float32(fill.as_tensor().numpy()))
            node.attributes["value"] = ir.AttrTensor("value", tensor)
        for output in node.outputs:
            if output.dtype in _OTHER_FLOATS:
                output.dtype = ir.DataType.FLOAT


def require_finite(model: ir.Model) -> None:
    """Raises NonFiniteError for the first weight with NaN or infinity.

    -inf is how a constant attention mask says "not here": tensors of only 0 and -inf pass, and so do single numbers,
    which exporters write for the same purpose, and for limits that are none. Folded together with a position bias it is
    a tensor of two and more axes that is only added or chosen from.
    """
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or not tensor.dtype.is_floating_point():
            continue
        array = tensor.numpy()
        finite = np.isfinite(array)
        if finite.all() or (array.size == 1 and not np.isnan(array).any()):
            continue
        if ((array == 0) | (array == -np.inf)).all():
            continue
        added = array.ndim > 1 and all(use.node.op_type in _MASKING for use in value.uses())
        if added and (finite | (array == -np.inf)).all():
            continue
        kind = "NaN" if np.isnan(array).any() else "an infinity"
        bad = int(array.size - finite.sum())
        raise NonFiniteError(
            f"weight {name!r} holds {kind} ({bad} of {array.size} values); "
            "load a checkpoint whose training did not diverge"
        )


def _clamped_float32(array: np.ndarray) -> np.ndarray:
    """Casts to float32, with float64's finite extremes (mask constants such as finfo.min) kept finite."""
    if array.dtype == np.float64:
        extremes = np.finfo(np.float32)
        finite = np.isfinite(array)
        array = np.where(finite, np.clip(array, extremes.min, extremes.max), array)
    return array.astype(np.float32)
