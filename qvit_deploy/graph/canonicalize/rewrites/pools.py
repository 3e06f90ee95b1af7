"""No pool has a window larger than its map.

Rule: an AveragePool or MaxPool whose one window holds the whole map and more is the global pool (ALIGN and
the EfficientNets of transformers pool with a window as large as the model is wide, rounding up).

Why: OpenVINO refuses such a window.
"""

from __future__ import annotations

import onnx_ir as ir

from qvit_deploy.graph.query import dims

_GLOBAL = {"AveragePool": "GlobalAveragePool", "MaxPool": "GlobalMaxPool"}


def normalise_pools(model: ir.Model) -> None:
    """Applies the rule in place; shapes must be known up to the batch."""
    for node in model.graph:
        if node.op_type in _GLOBAL and _holds_more_than_the_map(node):
            node.op_type = _GLOBAL[node.op_type]
            node.attributes.clear()


def _holds_more_than_the_map(node: ir.Node) -> bool:
    x = node.inputs[0]
    assert x is not None
    attributes, sizes = node.attributes, dims(x)[2:]
    kernel, pads = attributes["kernel_shape"].as_ints(), attributes.get_ints("pads", (0,) * 2 * len(sizes))
    windows_apart = any(d != 1 for d in attributes.get_ints("dilations", ())) or len(node.outputs) > 1
    counts_padding = any(pads) and attributes.get_int("count_include_pad", 0) != 0
    if windows_apart or counts_padding or attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return False
    if any(size != 1 for size in dims(node.outputs[0])[2:]):
        return False
    reach = [k - pad - size for k, pad, size in zip(kernel, pads, sizes, strict=False) if isinstance(size, int)]
    return len(reach) == len(sizes) and min(reach) >= 0 and max(reach) > 0
