"""A model of one SoftmaxLog2AV."""

from __future__ import annotations

import onnx
import onnx.helper

from qvit_deploy.formats.grids.grid import Grid
from qvit_deploy.formats.grids.scaled import ProbabilityGrid, RowGrid
from qvit_deploy.graph.sites import Site
from qvit_deploy.quantize.plan import ProductPlan
from qvit_deploy.targets.tensorrt.packed.attention import OPERATOR, attention_attributes, attention_function
from qvit_deploy.targets.tensorrt.packed.function_body import PLUGIN

SITE = Site("attn.av", "matmul_av", "post_softmax", "p", "v", None, None, "out", "out", 0)


def planned(grid: ProbabilityGrid | RowGrid, values: Grid) -> ProductPlan:
    return ProductPlan(SITE, grid, "v", values)


def one_attention(site: ProductPlan, dtype: int = onnx.TensorProto.FLOAT) -> onnx.ModelProto:
    node = onnx.helper.make_node(
        OPERATOR, ["scores", "values"], ["out"], domain="qvit", **attention_attributes(site), **PLUGIN
    )
    ends = {"scores": ["b", "h", "t", "s"], "values": ["b", "h", "s", "d"], "out": ["b", "h", "t", "d"]}
    infos = {n: onnx.helper.make_tensor_value_info(n, dtype, shape) for n, shape in ends.items()}
    graph = onnx.helper.make_graph([node], "g", [infos["scores"], infos["values"]], [infos["out"]])
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("qvit", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=[attention_function()])
    onnx.checker.check_model(model, full_check=True)
    return model
