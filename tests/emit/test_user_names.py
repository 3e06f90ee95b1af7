"""Models whose values have the names that we make up: they compile to the same numbers as with names of their own."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.graph.canonicalize import canonicalize
from qvit_deploy.graph.graph import Graph
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.targets.onnxruntime.runtime import session
from qvit_deploy.targets.onnxruntime_fused.emission import emit_fused
from qvit_deploy.targets.openvino.emission import emit_openvino
from qvit_deploy.targets.tensorrt.half.emission import emit_tensorrt
from qvit_deploy.targets.tensorrt.half.precision import to_half
from tests.support.graphs.quantizable_graphs import calibrate, images_for
from tests.support.graphs.relevance_graphs import vit


def source() -> onnx.ModelProto:
    """A ViT before canonicalization; its heads are selected by a Slice and a Squeeze, which become a Gather."""
    proto = vit(1).to_proto()
    del proto.graph.value_info[:]
    gathers = [(i, node) for i, node in enumerate(list(proto.graph.node)) if node.op_type == "Gather"]
    for number, (index, value) in enumerate(gathers):
        axis = value.attribute[0].i
        at = int(onnx.numpy_helper.to_array(next(t for t in proto.graph.initializer if t.name == value.input[1])))
        ends = {"start": at, "end": at + 1, "axis": axis}
        for key, bound in ends.items():
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([bound]), f"{key}{number}"))
        bounds = [f"{key}{number}" for key in ends]
        cut = onnx.helper.make_node("Slice", [value.input[0], *bounds], [f"cut{number}"])
        squeeze = onnx.helper.make_node("Squeeze", [f"cut{number}", bounds[2]], [value.output[0]], name=value.name)
        proto.graph.node[index + number].CopyFrom(squeeze)
        proto.graph.node.insert(index + number, cut)
    return proto


def renamed(model: onnx.ModelProto, names: dict[str, str]) -> onnx.ModelProto:
    """The same model with other names for some of its values."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for output in copy.graph.output:
        output.name = names.get(output.name, output.name)
    for tensor in copy.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in copy.graph.node:
        for field in (node.input, node.output):
            field[:] = [names.get(name, name) for name in field]
        node.name = names.get(node.name, node.name)
    return copy


def emitted(model: onnx.ModelProto) -> tuple[Graph, dict[str, onnx.ModelProto]]:
    """The canonical graph and the file of every target."""
    graph = canonicalize(ir.from_proto(model), "small")
    plan: Plan = calibrate(graph, (8,), attention=True, images=4).plan((8, 8))
    qdq = emit_qdq(graph, plan)
    half = to_half(emit_tensorrt(graph, plan), {}).graph.to_proto()
    files = {"float": graph.to_proto(), "onnxruntime": qdq.to_proto(), "onnxruntime-fused": emit_fused(qdq).proto}
    return graph, {**files, "openvino": emit_openvino(qdq).proto, "tensorrt": half}


def answers(files: dict[str, onnx.ModelProto], images: np.ndarray) -> dict[str, np.ndarray]:
    return {n: session(f.SerializeToString()).run(None, {"image": images})[0] for n, f in files.items()}


@cache
def plain() -> tuple[onnx.ModelProto, dict[str, np.ndarray], tuple[str, ...], tuple[str, ...]]:
    """The model under its own names: the source, what all files answer, its names, and names that were made up."""
    model = source()
    graph, files = emitted(model)
    own = {tensor.name for tensor in model.graph.initializer} | {n for node in model.graph.node for n in node.output}
    made_up = {"ints_0", "index_1", "row_axis", "no_shift", "code_shift", "val_0", "folded/c3", "image_inner"}
    for file in files.values():
        made_up |= {tensor.name for tensor in file.graph.initializer}
        made_up |= {name for node in file.graph.node for name in (*node.output, node.name) if name}
    answered = answers(files, images_for(graph, 4).numpy())
    return model, answered, tuple(sorted(own)), tuple(sorted(made_up - own - {"image"}))


@st.composite
def collisions(draw: st.DrawFn) -> dict[str, str]:
    _, _, own, made_up = plain()
    chosen = draw(st.lists(st.sampled_from(own), min_size=1, max_size=12, unique=True))
    names = draw(st.lists(st.sampled_from(made_up), min_size=len(chosen), max_size=len(chosen), unique=True))
    return dict(zip(chosen, names, strict=True))


@settings(max_examples=12, deadline=None)
@given(collisions())
@example({"head.bias": "index_0", "cls_token": "index_1", "t2": "ints_1_16"})
@example({"logits": "blocks.0.gelu_out.q8", "t2": "blocks.0.k_t_out.q8"})
@example({"logits": "blocks.0.joined_out.q8.value", "head.bias": "blocks.0.norm1_out.q8.scale"})
@example({"norm.weight": "row_axis", "norm.bias": "key_axis", "head.weight": "code_shift", "t2": "no_shift"})
def test_names_that_we_make_up(names: dict[str, str]) -> None:
    model, expected, _, _ = plain()
    graph, files = emitted(renamed(model, names))
    for name, file in files.items():
        values = [t.name for t in file.graph.initializer] + [o for node in file.graph.node for o in node.output if o]
        assert len(values) == len(set(values)), name
        nodes = [node.name for node in file.graph.node]
        assert len(nodes) == len(set(nodes)), name
    computed = answers(files, images_for(graph, 4).numpy())
    for target, value in expected.items():
        np.testing.assert_allclose(computed[target], value, rtol=1e-5, atol=1e-5, err_msg=target)
