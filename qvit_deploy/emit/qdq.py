"""Writes a plan into a graph as QuantizeLinear / DequantizeLinear pairs.

Pairs go on the inputs of sites only, never on their outputs or on residual additions, because that is where runtimes
fuse them: ONNX Runtime turns DequantizeLinear x 2 + MatMul + Add into one MatMulIntegerToFloat. All zero points are 0
and all containers int8 (TensorRT takes nothing else); a width below 8 is a float Clip to the grid's ends before the
QuantizeLinear, so the codes are those of the b-bit grid.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir

from qvit_deploy.graph.graph import Graph
from qvit_deploy.quantize.activations import ActivationGrid
from qvit_deploy.quantize.grid import code_range
from qvit_deploy.quantize.plan import Plan, SitePlan


def codes_name(tensor: str, bits: int) -> str:
    """Name of the int8 codes of activation `tensor` quantized at `bits` in an emitted graph: the first reader's; the
    others' names go on with `.2`, `.3`, ..."""
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
    """Adds quantizers to one graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph.model.graph
        self.fixed_batch = graph.static_batch is not None
        self.sources: dict[str, ir.Value] = {}
        self.readers: Counter[str] = Counter()

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
        """The dequantized value of x on its grid, for one reader.

        Readers share the shifted and clipped tensor but not the pair: on x86 ONNX Runtime makes an int8 pair uint8
        before it fuses, and passes over pairs with several readers (separate q, k and v would run in float).
        """
        name = x.name or ""
        base = codes_name(name, grid.bits)
        if base not in self.sources:
            self.sources[base] = self.source(x, grid, reader, base)
        self.readers[base] += 1
        pair = base if self.readers[base] == 1 else f"{base}.{self.readers[base]}"
        # Of its own too: pairs with one and the same scale would be merged.
        scale = self.constant(f"{pair}.scale", np.float32(grid.scale))
        parameters = [scale, self.constant(f"{pair}.zero", np.int8(0))]
        codes = self.add(reader, "QuantizeLinear", [self.sources[base], *parameters], pair, dtype=ir.DataType.INT8)
        value = self.add(reader, "DequantizeLinear", [codes, *parameters], f"{pair}.value")
        for made in (codes, value):
            made.shape = x.shape if not _is_rows(x) else None
        return value

    def source(self, x: ir.Value, grid: ActivationGrid, reader: ir.Node, base: str) -> ir.Value:
        """x as its quantizers take it: lifted to rank 3, shifted and clipped where needed."""
        source, scale = x, np.float32(grid.scale)
        if _is_rows(x):
            source = self.add(reader, "Unsqueeze", [source, self.row_axis()], f"{base}.row")
        if grid.shift:
            shift = self.constant(f"{base}.shift", np.float32(grid.shift))
            source = self.add(reader, "Add", [source, shift], f"{base}.shifted")
        if grid.bits < 8:
            low, high = (np.float32(code) * scale for code in code_range(grid.bits))
            ends = [self.constant(f"{base}.low", low), self.constant(f"{base}.high", high)]
            source = self.add(reader, "Clip", [source, *ends], f"{base}.clipped")
        return source

    def weight(self, node: ir.Node, plan: SitePlan) -> ir.Value:
        site, codes, scale = plan.site, plan.codes, plan.weight_scale
        assert codes is not None and scale is not None
        axis = 1 if site.kind == "linear" else 0
        inputs = [
            self.constant(f"{site.name}.weight.q{plan.w_bits}", codes),
            self.constant(f"{site.name}.weight.scale", scale.astype(np.float32)),
            self.constant(f"{site.name}.weight.zero", np.zeros(scale.shape, np.int8)),
        ]
        value = self.add(node, "DequantizeLinear", inputs, f"{site.name}.weight.value", attributes={"axis": axis})
        value.shape = ir.Shape(codes.shape)  # a convolution reads its kernel's size there
        return value

    def bias(self, node: ir.Node, plan: SitePlan) -> None:
        assert plan.bias is not None
        site = plan.site
        array = plan.bias.astype(np.float32)
        if self.fixed_batch and site.kind == "linear":
            # ONNX Runtime 1.32 makes a Gemm of a MatMul and a rank-1 bias when all sizes are known, moves the int8
            # quantizers around it and then refuses the graph it made.
            array = array.reshape(1, 1, -1)
        bias = self.constant(f"{site.name}.bias.corrected", array)
        if site.kind == "conv":
            node.resize_inputs(3)
            node.replace_input_with(2, bias)
        elif site.bias is not None:
            add = next(use.node for use in node.outputs[0].uses())
            add.replace_input_with(1, bias)
        else:
            # The sum takes the product's name: readers, graph outputs and names made from it stay what they were.
            product = node.outputs[0]
            add = ir.node("Add", [product, bias], name=f"{site.name}.add_bias")
            add.outputs[0].shape, add.outputs[0].type = product.shape, product.type
            ir.convenience.replace_all_uses_with(product, add.outputs[0], replace_graph_outputs=True)
            add.replace_input_with(0, product)
            product.name, add.outputs[0].name = f"{site.output}.unbiased", site.output
            self.graph.insert_after(node, add)

    def drop_row_axis(self, node: ir.Node, plan: SitePlan) -> None:
        """Takes the axis that `activation` put in out again, after the site's bias."""
        last = node
        if plan.bias is not None:
            last = next(use.node for use in node.outputs[0].uses())
        tall = last.outputs[0]
        shape, tall.name = tall.shape, f"{plan.site.output}.row"
        node.outputs[0].shape = tall.shape = None
        flat = self.add(last, "Squeeze", [tall, self.row_axis()], plan.site.output)
        flat.shape = shape
        squeeze = flat.producer()
        assert squeeze is not None
        ir.convenience.replace_all_uses_with(tall, flat, replace_graph_outputs=True)
        squeeze.replace_input_with(0, tall)

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
        node = ir.node(op_type, inputs, attributes or {}, name=f"{output}.{op_type}")
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
