"""Writes a plan into a graph as QuantizeLinear / DequantizeLinear pairs.

Pairs go on the inputs of sites only, never on their outputs or on residual additions, because that is where runtimes
fuse them: ONNX Runtime turns DequantizeLinear x 2 + MatMul + Add into one MatMulIntegerToFloat. All zero points are 0
and all containers int8 (TensorRT takes nothing else); a width below 8 is a float Clip to the grid's ends before the
QuantizeLinear, so the codes are those of the b-bit grid.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qvit_deploy.graph.graph import Graph
from qvit_deploy.quantize.activations import ActivationGrid
from qvit_deploy.quantize.grid import code_range
from qvit_deploy.quantize.plan import Plan, SitePlan


def codes_name(tensor: str, bits: int) -> str:
    """Name of the int8 codes of activation `tensor` quantized at `bits` in an emitted graph."""
    return f"{tensor}.q{bits}"


def emit_qdq(graph: Graph, plan: Plan) -> Graph:
    """A new graph in which every site of `plan` computes with integer codes."""
    emitted = graph.clone()
    writer = _Writer(emitted)
    by_output = {node.outputs[0].name: node for node in emitted.nodes()}
    for site_plan in plan.sites.values():
        writer.site(by_output[site_plan.site.product], site_plan)
    emitted.model.graph.sort()
    _drop_unused_initializers(emitted)
    return emitted


class _Writer:
    """Adds quantizers to one graph; readers of one tensor at one width share a pair."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph.model.graph
        self.pairs: dict[tuple[str, int], ir.Value] = {}

    def site(self, node: ir.Node, plan: SitePlan) -> None:
        x, second = node.inputs[0], node.inputs[1]
        assert x is not None and second is not None
        node.replace_input_with(0, self.activation(x, plan.grid, node))
        if plan.second_grid is not None:
            node.replace_input_with(1, self.activation(second, plan.second_grid, node))
            return
        assert plan.codes is not None and plan.weight_scale is not None
        node.replace_input_with(1, self.weight(node, plan))
        if plan.bias is not None:
            self.bias(node, plan)
        if _is_rows(x):
            self.drop_row_axis(node, plan)

    def activation(self, x: ir.Value, grid: ActivationGrid, reader: ir.Node) -> ir.Value:
        """The dequantized value of x on its grid; shared by all readers at this width."""
        name = x.name or ""
        if (name, grid.bits) in self.pairs:
            return self.pairs[name, grid.bits]
        base = codes_name(name, grid.bits)
        scale = np.float32(grid.scale)
        source = x
        if _is_rows(x):
            source = self.add(reader, "Unsqueeze", [source, self.row_axis()], f"{base}.row")
        if grid.shift:
            shift = self.constant(f"{base}.shift", np.float32(grid.shift))
            source = self.add(reader, "Add", [source, shift], f"{base}.shifted")
        if grid.bits < 8:
            low, high = (np.float32(code) * scale for code in code_range(grid.bits))
            ends = [self.constant(f"{base}.low", low), self.constant(f"{base}.high", high)]
            source = self.add(reader, "Clip", [source, *ends], f"{base}.clipped")
        parameters = [self.constant(f"{base}.scale", scale), self.constant(f"{base}.zero", np.int8(0))]
        codes = self.add(reader, "QuantizeLinear", [source, *parameters], base, dtype=ir.DataType.INT8)
        value = self.add(reader, "DequantizeLinear", [codes, *parameters], f"{base}.value")
        for made in (codes, value):
            made.shape = x.shape if not _is_rows(x) else None
        self.pairs[name, grid.bits] = value
        return value

    def weight(self, node: ir.Node, plan: SitePlan) -> ir.Value:
        site, codes, scale = plan.site, plan.codes, plan.weight_scale
        assert codes is not None and scale is not None
        axis = 1 if site.kind == "linear" else 0
        inputs = [
            self.constant(f"{site.name}.weight.q{plan.w_bits}", codes),
            self.constant(f"{site.name}.weight.scale", scale.astype(np.float32)),
            self.constant(f"{site.name}.weight.zero", np.zeros(scale.shape, np.int8)),
        ]
        return self.add(node, "DequantizeLinear", inputs, f"{site.name}.weight.value", attributes={"axis": axis})

    def bias(self, node: ir.Node, plan: SitePlan) -> None:
        assert plan.bias is not None
        site = plan.site
        bias = self.constant(f"{site.name}.bias.corrected", plan.bias.astype(np.float32))
        if site.kind == "conv":
            node.resize_inputs(3)
            node.replace_input_with(2, bias)
        elif site.bias is not None:
            add = next(use.node for use in node.outputs[0].uses())
            add.replace_input_with(1, bias)
        else:
            product = node.outputs[0]
            add = ir.node("Add", [product, bias], name=f"{site.name}.add_bias")
            add.outputs[0].name = f"{site.name}.biased"
            add.outputs[0].shape, add.outputs[0].type = product.shape, product.type
            ir.convenience.replace_all_uses_with(product, add.outputs[0], replace_graph_outputs=True)
            add.replace_input_with(0, product)
            self.graph.insert_after(node, add)

    def drop_row_axis(self, node: ir.Node, plan: SitePlan) -> None:
        """Takes the axis that `activation` put in out again, after the site's bias."""
        last = node
        if plan.bias is not None:
            last = next(use.node for use in node.outputs[0].uses())
        for inner in (node.outputs[0], last.outputs[0]):
            inner.shape = None
        tall = last.outputs[0]
        flat = self.add(last, "Squeeze", [tall, self.row_axis()], plan.site.output)
        squeeze = flat.producer()
        assert squeeze is not None
        ir.convenience.replace_all_uses_with(tall, flat, replace_graph_outputs=True)
        squeeze.replace_input_with(0, tall)
        tall.name = f"{plan.site.output}.row"

    def row_axis(self) -> ir.Value:
        known = self.graph.initializers.get("row_axis")
        return known if known is not None else self.constant("row_axis", np.array([1], np.int64))

    def add(
        self,
        before: ir.Node,
        op_type: str,
        inputs: list[ir.Value],
        output: str,
        dtype: ir.DataType = ir.DataType.FLOAT,
        attributes: dict[str, int] | None = None,
    ) -> ir.Value:
        node = ir.node(op_type, inputs, attributes or {}, name=output)
        value = node.outputs[0]
        value.name, value.type = output, ir.TensorType(dtype)
        self.graph.insert_before(before, node)
        return value

    def constant(self, name: str, array: np.ndarray | np.generic) -> ir.Value:
        tensor = ir.tensor(np.asarray(array), name=name)
        value = ir.Value(
            name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self.graph.register_initializer(value)
        return value


def _is_rows(x: ir.Value) -> bool:
    """True for [batch, channels] inputs. They are lifted to [batch, 1, channels]: ONNX Runtime makes a Gemm of a
    rank-2 MatMul + Add before it looks for Q/DQ, and would run it in float."""
    return x.shape is not None and len(x.shape) == 2


def _drop_unused_initializers(graph: Graph) -> None:
    initializers = graph.model.graph.initializers
    for name in [n for n, v in initializers.items() if not v.uses() and not v.is_graph_output()]:
        del initializers[name]
