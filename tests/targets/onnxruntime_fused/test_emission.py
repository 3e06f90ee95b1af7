from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.emit.runtime_model import RuntimeModel
from qvit_deploy.graph.edit import add_constant
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.targets.onnxruntime.runtime import fusion, run, session
from qvit_deploy.targets.onnxruntime_fused.emission import emit_fused
from qvit_deploy.targets.openvino.emission import emit_openvino
from tests.support.graphs.quantizable_graphs import Calibrated, calibrate, fixed_batch, mixed_vit


def operators(fused: RuntimeModel) -> Counter[str]:
    return Counter(node.op_type for node in fused.proto.graph.node)


def emitted(calibrated: Calibrated, bits: int) -> Graph:
    linears = {s.name: (bits, bits) for s in calibrated.sites if s.kind == "linear"}
    return emit_qdq(calibrated.graph, calibrated.plan(linears))


@pytest.fixture(scope="module")
def calibrated() -> Calibrated:
    return calibrate(mixed_vit(), (4, 8))


@pytest.mark.parametrize("bits", [4, 8])
def test_the_logits_stay_what_they_were(calibrated: Calibrated, bits: int) -> None:
    graph = emitted(calibrated, bits)
    images = calibrated.images.numpy()
    before, after = (run(session(m.serialize(), 1), Examples.images(images))[0] for m in (graph, emit_fused(graph)))
    changed = np.abs(after - before).max(axis=1) > 1e-5 * np.abs(before).max()
    assert changed.sum() <= 1  # a tie may fall the other way


def test_biases_and_heads_are_gone_and_shared_inputs_are_quantized_once(calibrated: Calibrated) -> None:
    graph = emitted(calibrated, 8)
    fused = emit_fused(graph)
    types = operators(fused)
    linears = sum(s.kind == "linear" for s in calibrated.sites)
    assert len(fused.linears) == types["MatMulIntegerToFloat"] == linears
    assert fused.attentions == types["Attention"] == 1 and types["Softmax"] == types["MatMul"] == 0
    q, k, v = sorted(name for name in fused.codes if name.startswith("norm1"))
    assert fused.codes[k] == fused.codes[v] and q in fused.rows
    assert types["QuantizeLinear"] == linears - 1 and types["DequantizeLinear"] == 0
    assert all(len(n.input) == 7 and n.input[6] for n in fused.proto.graph.node if n.op_type == "MatMulIntegerToFloat")
    assert sum(n.op_type == "Add" for n in graph.nodes()) - linears == types["Add"]


def test_onnx_runtime_keeps_every_integer_product(calibrated: Calibrated) -> None:
    graph = emitted(calibrated, 8)
    before, after = (fusion(m.serialize()) for m in (graph, emit_fused(graph)))
    assert before.integer_products == after.integer_products and after.ops["Attention"] == 1


def test_the_graph_it_was_made_from_is_untouched(calibrated: Calibrated) -> None:
    graph = emitted(calibrated, 8)
    before = graph.serialize()
    assert emit_fused(graph).serialize() == emit_fused(graph).serialize()
    assert graph.serialize() == before


def test_only_the_class_token_is_computed_behind_the_attention(calibrated: Calibrated) -> None:
    graph = emitted(calibrated, 8)
    fused = emit_fused(graph)
    behind = {s.output for s in calibrated.sites if s.name in ("attn.proj", "fc1", "fc2")}
    assert behind <= set(fused.rows) and set(fused.rows.values()) == {(0,)}
    assert {"embedded", "norm1_out", "attn.k/Add_out", "attn.v/Add_out"}.isdisjoint(fused.rows)


@pytest.mark.parametrize("emit", [emit_fused, emit_openvino])
@pytest.mark.parametrize("other", [3, -1, 0])
def test_two_tokens_that_are_read_are_computed_together(
    calibrated: Calibrated, emit: Callable[[Graph], RuntimeModel], other: int
) -> None:
    """As a model ends that has a distillation token beside the class token."""
    graph = emitted(calibrated, 8)
    gather = next(n for n in graph.nodes() if n.op_type == "Gather" and n.attributes.get_int("axis", 0) == 1)
    index = add_constant(graph.model.graph, "other", np.array(other, np.int64))
    second = ir.node("Gather", [gather.inputs[0], index], {"axis": 1}, name="second")
    both = ir.node("Add", [gather.outputs[0], second.outputs[0]], name="both")
    ir.convenience.replace_all_uses_with(gather.outputs[0], both.outputs[0])
    both.replace_input_with(0, gather.outputs[0])
    second.outputs[0].name, both.outputs[0].name = "second_out", "both_out"
    for value in (second.outputs[0], both.outputs[0]):
        value.shape, value.type = gather.outputs[0].shape, gather.outputs[0].type
    graph.model.graph.insert_after(gather, [second, both])
    fused = emit(graph)
    rows = (0, other) if other else (0,)
    behind = {s.output for s in calibrated.sites if s.name in ("attn.proj", "fc1", "fc2")}
    assert behind <= set(fused.rows) and set(fused.rows.values()) == {rows}
    images = calibrated.images.numpy()
    before, after = (run(session(m.serialize(), 1), Examples.images(images))[0] for m in (graph, fused))
    assert np.abs(after - before).max() <= 1e-5 * np.abs(before).max()


def test_quantized_attention_products_stay_as_they_are() -> None:
    calibrated = calibrate(mixed_vit(), (8,), attention=True)
    graph = emit_qdq(calibrated.graph, calibrated.plan((8, 8)))
    fused = emit_fused(graph)
    assert fused.attentions == 0 and operators(fused)["Softmax"] == 1
    before, after = (fusion(m.serialize()).integer_products for m in (graph, fused))
    assert len(fused.convolutions) == 1 and after == before + 1
    images = calibrated.images.numpy()
    before, after = (run(session(m.serialize(), 1), Examples.images(images))[0] for m in (graph, fused))
    assert np.abs(after - before).max() <= 1e-5 * np.abs(before).max()


def test_a_fixed_batch_and_missing_biases() -> None:
    calibrated = calibrate(mixed_vit(head_bias=False, qkv_bias=False), (8,))
    linears = {s.name: (8, 8) for s in calibrated.sites if s.kind == "linear"}
    graph = emit_qdq(fixed_batch(calibrated.graph, 2), calibrated.plan(linears, "none"))
    fused = emit_fused(graph)
    assert any(not "".join(n.input[6:]) for n in fused.proto.graph.node if n.op_type == "MatMulIntegerToFloat")
    images = calibrated.images.numpy()
    before, after = (run(session(m.serialize(), 1), Examples.images(images), 2)[0] for m in (graph, fused))
    assert np.abs(after - before).max() <= 1e-5 * np.abs(before).max()


@pytest.mark.parametrize("model", ["tiny_vit", "tiny_swin"])
def test_models_of_timm(model: str, request: pytest.FixtureRequest) -> None:
    calibrated = calibrate(request.getfixturevalue(model), (8,))
    graph = emitted(calibrated, 8)
    fused = emit_fused(graph)
    # One Gather serves q, k and v of timm's ViT; a position bias stands in Swin's attention.
    assert (fused.attentions, operators(fused)["Split"]) == ((2, 2) if model == "tiny_vit" else (0, 0))
    assert bool(fused.rows) == (model == "tiny_vit")
    images = calibrated.images.numpy()
    before, after = (run(session(m.serialize(), 1), Examples.images(images))[0] for m in (graph, fused))
    assert np.abs(after - before).max() <= 1e-4 * np.abs(before).max()
