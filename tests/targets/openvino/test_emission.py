from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.emit.runtime_model import CODE_SHIFT
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.targets.onnxruntime.runtime import run, session
from qvit_deploy.targets.openvino import emission
from qvit_deploy.targets.openvino.emission import emit_openvino
from tests.support.graphs.quantizable_graphs import Calibrated, calibrate, mixed_vit


@pytest.fixture(scope="module")
def calibrated() -> Calibrated:
    return calibrate(mixed_vit(), (4, 8))


def emitted(calibrated: Calibrated, bits: int) -> Graph:
    linears = {s.name: (bits, bits) for s in calibrated.sites if s.kind == "linear"}
    return emit_qdq(calibrated.graph, calibrated.plan(linears))


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


@pytest.mark.parametrize("bits", [4, 8])
def test_the_logits_stay_what_they_were(calibrated: Calibrated, bits: int) -> None:
    """ONNX Runtime reads the file too: it is standard ONNX."""
    graph = emitted(calibrated, bits)
    images = calibrated.images.numpy()
    before, after = (run(session(m.serialize(), 1), Examples.images(images))[0] for m in (graph, emit_openvino(graph)))
    assert np.abs(after - before).max() <= 1e-5 * np.abs(before).max()


def test_inputs_of_linears_are_uint8_and_dequantized_without_a_zero_point(calibrated: Calibrated) -> None:
    graph = emitted(calibrated, 8)
    written = emit_openvino(graph)
    known = constants(written.proto)
    makers = {o: n for n in written.proto.graph.node for o in n.output}
    products = [n for n in written.proto.graph.node if n.name in written.linears]
    assert len(products) == sum(s.kind == "linear" for s in calibrated.sites)
    for product in products:
        restore = makers[product.input[0]]
        quantize = makers[restore.input[0]]
        assert [restore.op_type, quantize.op_type] == ["DequantizeLinear", "QuantizeLinear"]
        assert known[quantize.input[2]].dtype == np.uint8 and known[quantize.input[2]] == CODE_SHIFT
        assert known[restore.input[2]].dtype == np.uint8 and known[restore.input[2]] == 0
        assert known[restore.input[1]] == known[quantize.input[1]]
    assert {n.domain for n in written.proto.graph.node} == {""}


def test_the_bias_takes_the_shift_back_column_by_column(calibrated: Calibrated) -> None:
    graph = emitted(calibrated, 8)
    written = emit_openvino(graph)
    known, before = constants(written.proto), constants(graph.to_proto())
    product = next(n for n in written.proto.graph.node if n.name in written.linears and "fc1" in n.name)
    (add,) = [n for n in written.proto.graph.node if product.output[0] in n.input]
    bias = known[next(name for name in add.input if name in known)].reshape(-1)
    makers = {o: n for n in written.proto.graph.node for o in n.output}
    scale = float(known[makers[product.input[0]].input[1]])
    weight = makers[product.input[1]]
    column = known[weight.input[0]].astype(np.int64).sum(0) * known[weight.input[1]].astype(np.float64)
    expected = before["fc1.bias.corrected"].reshape(-1) - CODE_SHIFT * scale * column
    assert np.abs(bias - expected).max() <= 1e-6 * np.abs(expected).max()


def test_a_tensor_that_three_linears_read_is_quantized_once(calibrated: Calibrated) -> None:
    written = emit_openvino(emitted(calibrated, 8))
    _q, k, v = sorted(name for name in written.codes if name.startswith("norm1"))
    assert written.codes[k] == written.codes[v]
    counts = Counter(n.op_type for n in written.proto.graph.node)
    # One DequantizeLinear for each quantizer and each weight.
    assert counts["DequantizeLinear"] == counts["QuantizeLinear"] + len(written.linears)


def test_a_linear_without_a_bias_gets_one(calibrated: Calibrated) -> None:
    graph = emitted(calibrated, 8)
    bare = graph.clone()
    add = next(n for n in bare.nodes() if n.op_type == "Add" and any("fc1.bias" in str(v.name) for v in n.inputs))
    product = next(v for v in add.inputs if v is not None and v.producer() is not None)
    readers = list(add.outputs[0].uses())
    for node, index in readers:
        node.replace_input_with(index, product)
    bare.model.graph.remove(add, safe=True)
    images = calibrated.images.numpy()
    before, after = (run(session(m.serialize(), 1), Examples.images(images))[0] for m in (bare, emit_openvino(bare)))
    assert np.abs(after - before).max() <= 1e-5 * np.abs(before).max()


def test_only_the_class_token_is_computed_behind_the_attention(calibrated: Calibrated) -> None:
    written = emit_openvino(emitted(calibrated, 8))
    behind = {s.output for s in calibrated.sites if s.name in ("attn.proj", "fc1", "fc2")}
    assert behind <= set(written.rows) and set(written.rows.values()) == {(0,)}


def test_the_graph_it_was_made_from_is_untouched_and_the_file_the_same_every_time(calibrated: Calibrated) -> None:
    graph = emitted(calibrated, 8)
    before = graph.serialize()
    assert emit_openvino(graph).serialize() == emit_openvino(graph).serialize()
    assert graph.serialize() == before


def test_the_largest_bias_of_every_linear_is_told(calibrated: Calibrated) -> None:
    written = emit_openvino(emitted(calibrated, 8))
    assert set(written.biases) == {s.output for s in calibrated.sites if s.kind == "linear"}
    known = constants(written.proto)
    largest = max(float(np.abs(known[name]).max()) for name in known if "fc1" in name and "unshift" in name)
    assert written.biases[next(s.output for s in calibrated.sites if s.name == "fc1")] == largest


def test_probabilities_above_the_largest_level_are_looked_up_at_the_end_of_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A quantizer to uint16 does not end them, as the one to int8 does."""
    monkeypatch.setattr(emission, "loads", lambda model: False)
    calibrated = calibrate(mixed_vit(), (4,), attention=True, images=6, softmax="levels")
    graph = emit_qdq(calibrated.graph, calibrated.plan((4, 4)))
    written = emit_openvino(graph)
    known = constants(written.proto)
    (quantize,) = [n for n in written.proto.graph.node if n.output[0].endswith(".fine")]
    (clip,) = [n for n in written.proto.graph.node if n.output[0] == quantize.input[0]]
    (gather,) = [n for n in written.proto.graph.node if n.op_type == "Gather" and n.input[0].endswith(".levels")]
    assert known[quantize.input[2]].dtype == np.uint16 and clip.op_type == "Clip"
    assert known[clip.input[1]] == 0 and known[clip.input[2]] == np.float32(127) * known[quantize.input[1]]
    assert len(known[gather.input[0]]) == 128
    images = calibrated.images.numpy()
    before, after = (run(session(m.serialize(), 1), Examples.images(images))[0] for m in (graph, written))
    assert np.abs(after - before).max() <= 1e-5 * np.abs(before).max()
