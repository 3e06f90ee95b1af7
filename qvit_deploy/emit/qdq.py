"""Writes a plan into a graph as QuantizeLinear / DequantizeLinear pairs.

Pairs go on the inputs of sites only, never on their outputs or on residual additions, because that is where runtimes
fuse them: ONNX Runtime turns DequantizeLinear x 2 + MatMul + Add into one MatMulIntegerToFloat. All zero points are 0
and all containers int8 (TensorRT takes nothing else); a width below 8 is a float Clip to the grid's ends before the
QuantizeLinear, so the codes are those of the b-bit grid. Grids write themselves (`formats.grids`); those of attention
operands need more on the way in, and out (`_Writer.restore`), and only logarithmic codes leave their product in
floating point.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qvit_deploy.emit import names
from qvit_deploy.emit.editor import Editor
from qvit_deploy.emit.emitted import EmittedGraph, EmittedOperand, EmittedSite
from qvit_deploy.emit.quantizers import Quantized, Quantizers
from qvit_deploy.graph.edit import free_value_name
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.graph.op_traits import MOVES
from qvit_deploy.quantize.plan import Plan, ProductPlan, SitePlan, WeightPlan


def emit_qdq(graph: Graph, plan: Plan, for_onnxruntime: bool = True) -> EmittedGraph:
    """Returns a new graph, float32 between its quantizers, in which every site of `plan` computes with integer codes.

    Args:
        for_onnxruntime: write pairs as ONNX Runtime fuses them; otherwise one pair serves all readers of a tensor
            and nothing surrounds the quantizers (TensorRT).
    """
    copy = graph.clone()
    writer = _Writer(copy, for_onnxruntime)
    by_output = {node.outputs[0].name: node for node in copy.nodes()}
    products = {name: by_output[site.site.product] for name, site in plan.sites.items()}
    operands = {name: writer.site(products[name], site) for name, site in plan.sites.items()}
    if for_onnxruntime:
        for name, site in plan.weights().items():
            if site.site.kind == "conv":
                writer.part_bias(products[name])
    copy.model.graph.sort()
    _drop_unused_initializers(copy)
    # Only now: what was put behind a product changed its result's name.
    sites = {
        name: EmittedSite(products[name].outputs[0].name or "", operands[name], site.site.output)
        for name, site in plan.sites.items()
    }
    return EmittedGraph(copy.model, copy.name, sites)


class _Writer:
    """Adds the quantizers of sites to one graph."""

    def __init__(self, graph: Graph, for_onnxruntime: bool) -> None:
        self.editor = Editor(graph, for_onnxruntime)
        self.activations = Quantizers(self.editor)

    def site(self, node: ir.Node, plan: SitePlan) -> tuple[EmittedOperand, EmittedOperand]:
        """Quantizes the operands of the product `node` and returns where they are then."""
        return self.weighted(node, plan) if isinstance(plan, WeightPlan) else self.product(node, plan)

    def weighted(self, node: ir.Node, plan: WeightPlan) -> tuple[EmittedOperand, EmittedOperand]:
        """Quantizes the operands of a linear or a convolution, and gives it its corrected bias."""
        x = node.inputs[0]
        assert x is not None
        activation = self.activations.quantized(x, plan.grid, node)
        node.replace_input_with(0, activation.value)
        codes, value = self.weight(node, plan)
        node.replace_input_with(1, value)
        if plan.bias is not None:
            self.bias(node, plan, plan.bias, x)
        if self.editor.lifts(x):
            self.drop_row_axis(node, plan)
        return _operand(activation), EmittedOperand(None, codes.name or "", value.name or "")

    def product(self, node: ir.Node, plan: ProductPlan) -> tuple[EmittedOperand, EmittedOperand]:
        """Quantizes the operands of an attention product, and puts behind it what they need."""
        x, second = node.inputs[0], node.inputs[1]
        assert x is not None and second is not None
        left = self.activations.quantized(x, plan.grid, node)
        node.replace_input_with(0, left.value)
        right = self.activations.quantized(second, plan.second_grid, node)
        node.replace_input_with(1, right.value)
        self.restore(node, plan, left, second)
        return _operand(left), _operand(right)

    def restore(self, node: ir.Node, plan: ProductPlan, left: Quantized, second: ir.Value) -> None:
        """Undoes, behind an attention product, what its quantizers did to the operands besides rounding."""
        name, steps = plan.site.output, list[tuple[str, ir.Value]]()
        residues = plan.grid.residue, plan.second_grid.residue
        if residues[0].shift:
            # (p + c) V = p V + c (sum of V over the keys), with V as the product read it.
            value = self.activations.quantized(second, plan.second_grid, node).value
            keys = self.editor.shared("key_axis", np.array([-2], np.int64))
            total = self.editor.add(node, "ReduceSum", [value, keys], f"{name}.keys")
            back = self.editor.constant(f"{name}.shift", np.float32(-residues[0].shift))
            steps.append(("Add", self.editor.add(node, "Mul", [total, back], f"{name}.unshift")))
        factors = [np.array(r.factors, np.float32) for r in residues if r.factors]
        if factors:
            back = (1 / np.prod(factors, axis=0)).astype(np.float32).reshape(-1, 1, 1)
            steps.append(("Mul", self.editor.constant(f"{name}.heads", back)))
        if left.largest is not None:
            steps.append(("Mul", left.largest))
        if steps:
            self.editor.behind(node, steps)

    def weight(self, node: ir.Node, plan: WeightPlan) -> tuple[ir.Value, ir.Value]:
        """Writes the weight and returns (its codes, the dequantized weight)."""
        site = plan.site
        inputs = [
            self.editor.constant(names.weight_codes(site.name, plan.format), plan.codes),
            self.editor.constant(names.weight_scale(site.name), plan.weight_scale.astype(np.float32)),
            self.editor.constant(names.weight_zero(site.name), np.zeros(plan.weight_scale.shape, plan.codes.dtype)),
        ]
        axis = 1 if site.kind == "linear" else 0
        value = self.editor.add(
            node, "DequantizeLinear", inputs, names.weight_value(site.name), attributes={"axis": axis}
        )
        value.shape = ir.Shape(plan.codes.shape)  # a convolution reads its kernel's size there
        return inputs[0], value

    def bias(self, node: ir.Node, plan: WeightPlan, bias: np.ndarray, x: ir.Value) -> None:
        """Gives the product, which reads `x`, its corrected bias in place of the float model's."""
        site, array = plan.site, bias.astype(np.float32)
        tall = self.editor.lifts(x) or (x.shape is not None and len(x.shape) > 2)
        if self.editor.fixed_batch and site.kind == "linear" and tall:
            # ONNX Runtime 1.32 makes a Gemm of a MatMul and a rank-1 bias when all sizes are known, moves the int8
            # quantizers around it and then refuses the graph it made.
            array = array.reshape(1, 1, -1)
        constant = self.editor.constant(names.bias(site.name), array)
        if site.kind == "conv":
            node.resize_inputs(3)
            node.replace_input_with(2, constant)
        elif site.bias is not None:
            add = next(use.node for use in node.outputs[0].uses())
            add.replace_input_with(1, constant)
        else:
            self.editor.behind(node, [("Add", constant)])

    def part_bias(self, node: ir.Node) -> None:
        """Adds the bias of a quantized convolution behind it where a quantizer is all that reads the output.

        ONNX Runtime would round the bias of such a convolution to whole steps of input scale x weight scale, at 4 bits
        some thousandths of the output's range.
        """
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if bias is None or not _ends_in_quantizer(node.outputs[0]):
            return
        value = node.inputs[2]
        assert value is not None and value.name is not None
        by_channel = self.editor.constant(f"{value.name}.by_channel", bias.reshape(-1, *[1] * (_rank(node) - 2)))
        node.resize_inputs(2)
        self.editor.behind(node, [("Add", by_channel)])

    def drop_row_axis(self, node: ir.Node, plan: WeightPlan) -> None:
        """Takes the axis that the quantizer put in out again, after the site's bias."""
        last = node
        if plan.bias is not None:
            last = next(use.node for use in node.outputs[0].uses())
        tall = last.outputs[0]
        shape, tall.name = tall.shape, free_value_name(self.editor.graph, f"{plan.site.output}.row")
        node.outputs[0].shape = tall.shape = None
        flat = self.editor.add(last, "Squeeze", [tall, self.editor.row_axis()], plan.site.output)
        flat.shape = shape
        squeeze = flat.producer()
        assert squeeze is not None
        ir.convenience.replace_all_uses_with(tall, flat, replace_graph_outputs=True)
        squeeze.replace_input_with(0, tall)


def _rank(conv: ir.Node) -> int:
    weight = conv.inputs[1]
    assert weight is not None and weight.shape is not None
    return len(weight.shape)


def _ends_in_quantizer(value: ir.Value) -> bool:
    """Returns whether the one node that reads `value` is a quantizer, behind operators that ONNX Runtime sees through.
    It does not count outputs of the graph as readers."""
    reader = _reader(value)
    while reader is not None and reader.op_type in MOVES | {"Relu", "Clip", "MaxPool"}:
        reader = _reader(reader.outputs[0])
    return reader is not None and reader.op_type == "QuantizeLinear"


def _reader(value: ir.Value) -> ir.Node | None:
    nodes = [use.node for use in value.uses()]
    return nodes[0] if len(nodes) == 1 else None


def _operand(quantized: Quantized) -> EmittedOperand:
    return EmittedOperand(quantized.source.name, quantized.codes, quantized.value.name or "")


def _drop_unused_initializers(graph: Graph) -> None:
    initializers = graph.model.graph.initializers
    for name in [n for n, v in initializers.items() if not v.uses() and not v.is_graph_output()]:
        del initializers[name]
