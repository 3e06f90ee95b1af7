"""OpenVINO itself, on real files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.errors import InputError
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.synthetic import noise
from qvit_deploy.targets.batches import DEFAULT_BATCH
from qvit_deploy.targets.onnxruntime.runtime import run, session
from qvit_deploy.targets.openvino.emission import emit_openvino
from qvit_deploy.targets.openvino.runtime import OpenVinoModel, openvino_precision, require_openvino, runs_in_openvino
from qvit_deploy.targets.session import open_model
from tests.support.absent_libraries import without
from tests.support.graphs.quantizable_graphs import Calibrated, calibrate, fixed_batch, mixed_vit


@pytest.fixture(scope="module")
def calibrated() -> Calibrated:
    return calibrate(mixed_vit(), (8,))


@pytest.fixture(scope="module")
def written(calibrated: Calibrated) -> bytes:
    linears = {s.name: (8, 8) for s in calibrated.sites if s.kind == "linear"}
    return emit_openvino(emit_qdq(calibrated.graph, calibrated.plan(linears))).serialize()


def test_a_float_model_gives_what_onnx_runtime_does(calibrated: Calibrated) -> None:
    model, images = calibrated.graph.serialize(), calibrated.images.numpy()
    expected = run(session(model, 1), Examples.images(images))[0]
    compiled = OpenVinoModel(model, threads=1)
    assert compiled.batch == DEFAULT_BATCH and compiled.inputs[0].static_batch is None
    assert np.abs(compiled.run(Examples.images(images))[0] - expected).max() <= 1e-5 * np.abs(expected).max()


def test_the_batch_is_the_file_s_own_or_the_one_asked_for(calibrated: Calibrated) -> None:
    fixed = fixed_batch(calibrated.graph, 3).serialize()
    assert OpenVinoModel(fixed).batch == 3
    assert OpenVinoModel(calibrated.graph.serialize(), batch=2).batch == 2
    assert OpenVinoModel(calibrated.graph.serialize(), any_batch=1).batch == 1
    with pytest.raises(InputError, match="batches of 3 only"):
        OpenVinoModel(fixed, batch=2)


def test_fetched_tensors_are_the_outputs(calibrated: Calibrated) -> None:
    images = calibrated.images.numpy()[:2]
    names = ["norm2_out", "hidden_out"]
    computed = OpenVinoModel(calibrated.graph.serialize(), batch=2, fetch=names).run(Examples.images(images))
    model = calibrated.graph.to_proto()
    del model.graph.output[:]
    model.graph.output.extend(v for v in model.graph.value_info if v.name in names)
    expected = run(session(model.SerializeToString(), 1), Examples.images(images), fetch=names)
    for ours, theirs in zip(computed, expected, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


def test_layers_tell_which_products_run_on_integers(calibrated: Calibrated, written: bytes) -> None:
    linears = sum(s.kind == "linear" for s in calibrated.sites)
    assert sum(layer.on_integers for layer in OpenVinoModel(written).layers()) == linears
    assert not any(layer.on_integers for layer in OpenVinoModel(calibrated.graph.serialize()).layers())


def test_a_layer_that_makes_floats_and_codes_is_told_apart(calibrated: Calibrated) -> None:
    """The query reads the LayerNorm in floating point, key and value its codes: both come out of one layer."""
    planned = {s.name: (8, 8) for s in calibrated.sites if s.kind == "linear" and s.name != "attn.q"}
    model = OpenVinoModel(emit_openvino(emit_qdq(calibrated.graph, calibrated.plan(planned))).serialize())
    layers = model.layers()
    assert sum(layer.on_integers for layer in layers) == len(planned)
    (query,) = [layer for layer in layers if any(name.startswith("attn.q.product") for name in layer.originals)]
    assert not query.on_integers and query.inputs[0][1] == "f32"


def test_the_profiler_times_layers_of_the_graph_that_runs(written: bytes) -> None:
    model = OpenVinoModel(written, batch=1, profiled=True)
    model.infer(noise(model.inputs, 1))
    times = model.layer_ms()
    products = {layer.name for layer in model.layers() if layer.on_integers}
    assert products <= set(times) and sum(times.values()) > 0


def test_files_say_by_their_names_where_they_run(tmp_path: Path, calibrated: Calibrated) -> None:
    names = {"m.xml": True, "model.openvino.onnx": True, "model.onnxruntime.onnx": False, "openvino.onnx": False}
    assert {name: runs_in_openvino(Path(name)) for name in names} == names
    precisions = {"m.xml": None, "m.f32.xml": "f32", "model.openvino.onnx": "f32"}
    assert {name: openvino_precision(Path(name)) for name in precisions} == precisions
    images, outputs = calibrated.images.numpy(), []
    for name in ("m.onnx", "m.openvino.onnx"):
        (tmp_path / name).write_bytes(calibrated.graph.serialize())
        opened = open_model(tmp_path / name, 1)
        assert opened.static_batch is None
        (output,) = opened.run(Examples.images(images)).values()
        outputs.append(output)
    assert np.abs(outputs[0] - outputs[1]).max() <= 1e-5 * np.abs(outputs[0]).max()


def test_what_it_cannot_load_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.openvino.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"model\.openvino\.onnx: OpenVINO cannot load it: .+") as caught:
        OpenVinoModel(path)
    assert "\n" not in str(caught.value)


def test_without_openvino_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, calibrated: Calibrated) -> None:
    without(monkeypatch, "openvino")
    with pytest.raises(
        InputError, match="--target openvino needs OpenVINO, which is not installed: pip install openvino"
    ):
        require_openvino("--target openvino")
    with pytest.raises(InputError, match="pip install openvino"):
        OpenVinoModel(calibrated.graph.serialize())


def test_an_output_has_its_name_where_openvino_knows_the_tensor_by_several() -> None:
    """It drops what only copies, and lists the names of both ends."""
    shape = ["batch", 3, 4, 4]
    inputs = [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, shape)]
    outputs = [onnx.helper.make_tensor_value_info(f"copy_{i}", onnx.TensorProto.FLOAT, shape) for i in range(9)]
    nodes = [onnx.helper.make_node("Relu", ["image"], ["relu"])]
    nodes += [onnx.helper.make_node("Identity", ["relu"], [value.name]) for value in outputs]
    graph = onnx.helper.make_graph(nodes, "copies", inputs, outputs)
    opsets = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    computed = OpenVinoModel(model, threads=1).outputs(Examples.images(np.ones((2, 3, 4, 4), np.float32)))
    assert list(computed) == [value.name for value in outputs]
