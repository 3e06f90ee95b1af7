"""com.microsoft's Attention and MultiHeadAttention, written out by head.

Both compute softmax(scale q k^T + attention_bias) v with `num_heads` heads, scale = 1 / sqrt(head size) unless given.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qvit_deploy.graph.canonicalize.rewrites.fused_call import Call
from qvit_deploy.graph.graph import constant


def attention(call: Call) -> list[ir.Value]:
    """Expands Attention(input [batch, tokens, channels], weights [channels, q + k + v], bias, ..., attention_bias)."""
    weights = constant(call.input(1))
    assert weights is not None
    sizes = list(call.attr("qkv_hidden_sizes", []) or [weights.shape[1] // 3] * 3)
    y = call.op("MatMul", call.input(0), call.input(1))
    y = y if call.input(2) is None else call.op("Add", y, call.input(2))
    q, k, v = (_heads(call, part) for part in call.ops("Split", 3, y, call.ints(*sizes), axis=-1))
    return [_by_heads(call, q, k, v, call.input(5))]


def multi_head_attention(call: Call) -> list[ir.Value]:
    """Expands MultiHeadAttention(query, key, value, bias, ..., attention_bias).

    Without value, key holds both [batch, tokens, heads, 2, size]; without key, query holds all three.
    """
    query, key, value = (call.input(i) for i in range(3))
    biases = _biases(call, value)
    if key is None:
        q, k, v = (_part(call, query, i, bias) for i, bias in enumerate(biases))
    elif value is None:
        q = _heads(call, _added(call, query, biases[0]))
        k, v = (_part(call, key, i, bias) for i, bias in enumerate(biases[1:]))
    elif key.shape is not None and len(key.shape) == 4:  # by heads already, without bias
        q, k, v = _heads(call, _added(call, query, biases[0])), key, value
    else:
        q, k, v = (_heads(call, _added(call, t, b)) for t, b in zip((query, key, value), biases, strict=True))
    return [_by_heads(call, q, k, v, call.input(5))]


def _biases(call: Call, value: ir.Value | None) -> list[np.ndarray | None]:
    """Returns the biases of query, key and value, which stand one behind the other; that of value may be longer."""
    bias = constant(call.input(3))
    if bias is None:
        return [None, None, None]
    last = (_width(value) if value is not None else None) or bias.shape[0] // 3
    size = (bias.shape[0] - last) // 2
    return [bias[:size], bias[size : 2 * size], bias[2 * size :]]


def _added(call: Call, x: ir.Value | None, bias: np.ndarray | None) -> ir.Value | None:
    return x if bias is None else call.op("Add", x, call.constant(bias, f"{call.node.name}/bias"))


def _heads(call: Call, x: ir.Value | None) -> ir.Value:
    """[batch, tokens, heads * size] -> [batch, heads, tokens, size]."""
    split = call.op("Reshape", x, call.ints(0, 0, call.attr("num_heads", None), -1))
    return call.op("Transpose", split, perm=[0, 2, 1, 3])


def _part(call: Call, packed: ir.Value | None, index: int, bias: np.ndarray | None) -> ir.Value:
    """Number `index` of [batch, tokens, heads, parts, size], with its bias -> [batch, heads, tokens, size]."""
    part = call.op("Slice", packed, *(call.ints(n) for n in (index, index + 1, 3)))
    part = call.op("Squeeze", part, call.ints(3))
    by_heads = None if bias is None else bias.reshape(call.attr("num_heads", None), -1)
    added = _added(call, part, by_heads)
    return call.op("Transpose", added, perm=[0, 2, 1, 3])


def _by_heads(call: Call, q: ir.Value, k: ir.Value, v: ir.Value, bias: ir.Value | None) -> ir.Value:
    scale = call.attr("scale", 0.0)
    if scale:
        factor = call.number(scale)
    else:  # the head size is known when the model has run: `batch.specialise` computes this
        size = call.op("Cast", call.op("Shape", q, start=3), to=int(ir.DataType.FLOAT))
        factor = call.op("Reciprocal", call.op("Sqrt", call.op("Squeeze", size)))
    scores = call.op("MatMul", call.op("Mul", q, factor), call.op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = scores if bias is None else call.op("Add", scores, bias)
    mixed = call.op("MatMul", call.op("Softmax", scores, axis=-1), v)
    return call.op("Reshape", call.op("Transpose", mixed, perm=[0, 2, 1, 3]), call.ints(0, 0, -1))


def _width(value: ir.Value) -> int | None:
    """Returns the size of the last axis where the file or the weight of the linear layer above says it."""
    node = value.producer()
    weight = constant(node.inputs[1]) if node is not None and node.op_type == "MatMul" else None
    if weight is not None:
        return int(weight.shape[-1])
    last = value.shape[-1] if value.shape is not None and len(value.shape) == 3 else None
    return last if isinstance(last, int) else None
