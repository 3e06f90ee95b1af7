"""Every Linear is MatMul(x, W[in, out]) followed, when it has a bias, by Add(y, b[out]).

Rules, in order:
1. Gemm becomes MatMul and Add; alpha, beta, transA and transB are folded into the constants;
2. MatMul(W, x) with a constant left operand is left alone (it mixes tokens, not channels);
3. the bias of a MatMul is the second input of its Add and has shape [out];
4. a weight or a bias read by several nodes is given to each under its own name, because every site is
   quantized and folded on its own.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qvit_deploy.graph.edit import add_constant, emit, free_value_name, remove_unused, replace
from qvit_deploy.graph.graph import constant
from qvit_deploy.graph.query import dims, operands, producer, rank


def normalise_linears(model: ir.Model) -> None:
    """Applies the rules in place. A Gemm of two activations stays: the executor knows it."""
    for node in list(model.graph):
        if node.op_type == "Gemm":
            _gemm(model.graph, node)
    for node in list(model.graph):
        if node.op_type == "Add":
            _bias(model.graph, node)
    _unshare(model.graph)
    remove_unused(model)


def _gemm(graph: ir.Graph, node: ir.Node) -> None:
    x, w, b = node.inputs[0], node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    weight = constant(w)
    if x is None or w is None or weight is None:
        return  # a product of two activations written as Gemm; the executor knows Gemm
    if node.attributes.get_int("transA", 0):
        x = emit(node, "Transpose", [x], dims(x)[::-1], {"perm": [1, 0]})
    alpha, beta = node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)
    if node.attributes.get_int("transB", 0) or alpha != 1.0:
        weight = weight.T if node.attributes.get_int("transB", 0) else weight
        w = _derived(graph, w, (alpha * weight).astype(np.float32) if alpha != 1.0 else weight)
    out = emit(node, "MatMul", [x, w], dims(node.outputs[0]))
    bias = constant(b)
    if b is not None:
        if bias is not None and beta != 1.0:
            b = _derived(graph, b, (beta * bias).astype(np.float32))
        elif beta != 1.0:
            factor = add_constant(graph, f"{node.name}/beta", np.asarray(beta, dtype=np.float32))
            b = emit(node, "Mul", [b, factor], dims(b))
        out = emit(node, "Add", [out, b], dims(node.outputs[0]))
    replace(node.outputs[0], out)
    graph.remove(node, safe=True)


def _derived(graph: ir.Graph, old: ir.Value, array: np.ndarray) -> ir.Value:
    """Returns a constant that takes the place and, when nothing else reads it, the name of `old`."""
    name = str(old.name)
    if len(list(old.uses())) == 1:
        old.name = free_value_name(graph, f"{name}/source")
    return add_constant(graph, name, array)


def _bias(graph: ir.Graph, node: ir.Node) -> None:
    """Applies rule 3."""
    for y, b in operands(node):
        matmul = producer(y, "MatMul")
        if matmul is None or matmul.inputs[1] is None or constant(matmul.inputs[1]) is None:
            continue
        array, width = constant(b), dims(matmul.inputs[1])[-1]
        if array is None or rank(matmul.inputs[1]) != 2 or array.size not in (1, width):
            continue
        if array.ndim and array.shape[-1] != array.size:
            continue
        if array.ndim > rank(y):
            continue
        if array.shape != (width,):
            b = _derived(graph, b, np.broadcast_to(array.reshape(-1), (int(width),)))
        node.replace_input_with(0, y)
        node.replace_input_with(1, b)
        return


def _unshare(graph: ir.Graph) -> None:
    """Applies rule 4 to Linear, Conv and LayerNormalization parameters."""
    seen: set[ir.Value] = set()
    for node in graph:
        for index in _parameter_inputs(node):
            value = node.inputs[index]
            if value is None or value.const_value is None:
                continue
            if value in seen:
                array = value.const_value.numpy()
                node.replace_input_with(index, add_constant(graph, str(value.name), array))
            seen.add(value)


def _parameter_inputs(node: ir.Node) -> list[int]:
    if node.op_type in ("Conv", "LayerNormalization"):
        return list(range(1, len(node.inputs)))
    if node.op_type == "MatMul":
        return [1]
    matmul = producer(node.inputs[0], "MatMul") if node.op_type == "Add" else None
    return [1] if matmul is not None and constant(matmul.inputs[1]) is not None else []
