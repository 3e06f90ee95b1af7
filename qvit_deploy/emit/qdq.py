"""Writes a plan into a graph as QuantizeLinear / DequantizeLinear pairs.

Pairs go on the inputs of sites only, never on their outputs or on residual additions, because that is where runtimes
fuse them: ONNX Runtime turns DequantizeLinear x 2 + MatMul + Add into one MatMulIntegerToFloat. All zero points are 0
and all containers int8 (TensorRT takes nothing else); a width below 8 is a float Clip to the grid's ends before the
QuantizeLinear, so the codes are those of the b-bit grid. Grids of attention operands need more on the way in and out
(`emit.quantizers`, `_Writer.restore`); only logarithmic codes leave their product in floating point.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qvit_deploy.emit.editor import Editor
from qvit_deploy.emit.quantizers import Quantizers, codes_name
from qvit_deploy.graph.graph import Graph
from qvit_deploy.quantize.plan import Plan, SitePlan
from qvit_deploy.quantize.ranges.attention import HeadGrid, RowGrid, inner_grid


def emit_qdq(graph: Graph, plan: Plan, for_onnxruntime: bool = True) -> Graph:
    """A new graph, float32 between its quantizers, in which every site of `plan` computes with integer codes.

    Args:
        for_onnxruntime: write pairs the way ONNX Runtime fuses them; otherwise one pair serves all readers of a tensor
            and nothing stands beside the quantizers (TensorRT).
    """
    emitted = graph.clone()
    writer = _Writer(emitted, for_onnxruntime)
    by_output = {node.outputs[0].name: node for node in emitted.nodes()}
    for site_plan in plan.sites.values():
        writer.site(by_output[site_plan.site.product], site_plan)
    emitted.model.graph.sort()
    _drop_unused_initializers(emitted)
    return emitted


class _Writer:
    """Adds the quantizers of sites to one graph."""

    def __init__(self, graph: Graph, for_onnxruntime: bool) -> None:
        self.editor = Editor(graph, for_onnxruntime)
        self.activations = Quantizers(self.editor)

    def site(self, node: ir.Node, plan: SitePlan) -> None:
        x, second = node.inputs[0], node.inputs[1]
        assert x is not None and second is not None
        node.replace_input_with(0, self.activations.value(x, plan.grid, node))
        if plan.second_grid is not None:
            node.replace_input_with(1, self.activations.value(second, plan.second_grid, node))
            self.restore(node, plan, x, second)
            return
        assert plan.codes is not None and plan.weight_scale is not None
        node.replace_input_with(1, self.weight(node, plan))
        if plan.bias is not None:
            self.bias(node, plan, x)
        if self.editor.lifts(x):
            self.drop_row_axis(node, plan)

    def restore(self, node: ir.Node, plan: SitePlan, x: ir.Value, second: ir.Value) -> None:
        """Takes back, behind an attention product, what its quantizers did to the operands beside rounding."""
        assert plan.second_grid is not None
        name, steps = plan.site.output, list[tuple[str, ir.Value]]()
        shift = inner_grid(plan.grid).shift
        if shift:
            # (p + c) V = p V + c (sum of V over the keys), with V as the product read it.
            value = self.activations.value(second, plan.second_grid, node)
            keys = self.editor.shared("key_axis", np.array([-2], np.int64))
            total = self.editor.add(node, "ReduceSum", [value, keys], f"{name}.keys")
            back = self.editor.constant(f"{name}.shift", np.float32(-shift))
            steps.append(("Add", self.editor.add(node, "Mul", [total, back], f"{name}.unshift")))
        factors = [np.array(g.factors, np.float32) for g in (plan.grid, plan.second_grid) if isinstance(g, HeadGrid)]
        if factors:
            back = (1 / np.prod(factors, axis=0)).astype(np.float32).reshape(-1, 1, 1)
            steps.append(("Mul", self.editor.constant(f"{name}.heads", back)))
        if isinstance(plan.grid, RowGrid):
            steps.append(("Mul", self.activations.largest[codes_name(x.name or "", plan.grid.bits)]))
        if steps:
            self.editor.behind(node, steps)

    def weight(self, node: ir.Node, plan: SitePlan) -> ir.Value:
        site, codes, scale = plan.site, plan.codes, plan.weight_scale
        assert codes is not None and scale is not None
        axis = 1 if site.kind == "linear" else 0
        inputs = [
            self.editor.constant(f"{site.name}.weight.q{plan.w_bits}", codes),
            self.editor.constant(f"{site.name}.weight.scale", scale.astype(np.float32)),
            self.editor.constant(f"{site.name}.weight.zero", np.zeros(scale.shape, np.int8)),
        ]
        value = self.editor.add(
            node, "DequantizeLinear", inputs, f"{site.name}.weight.value", attributes={"axis": axis}
        )
        value.shape = ir.Shape(codes.shape)  # a convolution reads its kernel's size there
        return value

    def bias(self, node: ir.Node, plan: SitePlan, x: ir.Value) -> None:
        assert plan.bias is not None
        site = plan.site
        array = plan.bias.astype(np.float32)
        tall = self.editor.lifts(x) or (x.shape is not None and len(x.shape) > 2)
        if self.editor.fixed_batch and site.kind == "linear" and tall:
            # ONNX Runtime 1.32 makes a Gemm of a MatMul and a rank-1 bias when all sizes are known, moves the int8
            # quantizers around it and then refuses the graph it made.
            array = array.reshape(1, 1, -1)
        bias = self.editor.constant(f"{site.name}.bias.corrected", array)
        if site.kind == "conv":
            node.resize_inputs(3)
            node.replace_input_with(2, bias)
        elif site.bias is not None:
            add = next(use.node for use in node.outputs[0].uses())
            add.replace_input_with(1, bias)
        else:
            self.editor.behind(node, [("Add", bias)])

    def drop_row_axis(self, node: ir.Node, plan: SitePlan) -> None:
        """Takes the axis that the quantizer put in out again, after the site's bias."""
        last = node
        if plan.bias is not None:
            last = next(use.node for use in node.outputs[0].uses())
        tall = last.outputs[0]
        shape, tall.name = tall.shape, f"{plan.site.output}.row"
        node.outputs[0].shape = tall.shape = None
        flat = self.editor.add(last, "Squeeze", [tall, self.editor.row_axis()], plan.site.output)
        flat.shape = shape
        squeeze = flat.producer()
        assert squeeze is not None
        ir.convenience.replace_all_uses_with(tall, flat, replace_graph_outputs=True)
        squeeze.replace_input_with(0, tall)


def _drop_unused_initializers(graph: Graph) -> None:
    initializers = graph.model.graph.initializers
    for name in [n for n, v in initializers.items() if not v.uses() and not v.is_graph_output()]:
        del initializers[name]
