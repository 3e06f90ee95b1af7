"""Small ONNX files in ONNX's own text form, with constants of any type beside it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

f32, f16, i8, u8 = np.float32, np.float16, np.int8, np.uint8

X, Y = "float[1,8,32] x", "float[1,8,32] y"
QDQ = "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)"
PAIR: Mapping[str, object] = {"s": f32(0.1), "z": i8(0)}
WEIGHT: Mapping[str, object] = {"w": np.ones((32, 32), i8), "ws": np.full(32, 0.1, f32), "wz": np.zeros(32, i8)}
W8A8: Mapping[str, object] = {**PAIR, **WEIGHT}
LINEAR = (
    "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) wd = DequantizeLinear<axis=1>(w, ws, wz) "
    "y = MatMul(d, wd)"
)


def model(
    body: str,
    constants: Mapping[str, object] = {},
    inputs: str = X,
    outputs: str = Y,
    opset: int = 21,
    domains: str = "",
    functions: str = "",
) -> onnx.ModelProto:
    """A file of one graph.

    Args:
        body: nodes, e.g. `y = Relu(x)`.
        constants: name -> array (ml_dtypes for the small types).
        domains: more opset imports, e.g. `"viq": 1`.
        functions: local functions in text form.
    """
    imports = f'"": {opset}' + (f", {domains}" if domains else "")
    proto = onnx.parser.parse_model(
        f"<ir_version: 10, opset_import: [{imports}]> g ({inputs}) => ({outputs}) {{ {body} }} {functions}"
    )
    for i, node in enumerate(proto.graph.node):
        node.name = f"n{i}"
    for name, array in constants.items():
        proto.graph.initializer.append(ir.to_proto(ir.tensor(np.asarray(array), name=name)))
    return proto
