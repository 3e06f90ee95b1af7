"""The comparison with the model that was handed in: what it lets pass, names, and says where it cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from qvit_deploy.errors import CheckError
from qvit_deploy.frontend import Source, load_model
from qvit_deploy.frontend.original import TorchOriginal
from qvit_deploy.frontend.torch_module import exported, from_torch
from qvit_deploy.graph import canonicalize as rewriting
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.pipeline.truth import TOLERANCE, compare_with_original
from tests.support.graphs.relevance_graphs import vit

BATCHES = [
    Examples.images(np.random.default_rng(seed).standard_normal((3, 3, 8, 8), dtype=np.float32)) for seed in range(2)
]


def saved(path: Path, model: onnx.ModelProto) -> str:
    onnx.save(model, path)
    return str(path)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return saved(tmp_path / "m.onnx", vit(1).to_proto())


def test_a_file_is_compared_in_onnx_runtime(file: str) -> None:
    source = load_model(file)
    record, truth = compare_with_original(source, BATCHES, BATCHES)
    assert record.runtime == "ONNX Runtime" and record.images == 6 and record.unavailable is None
    assert record.errors.keys() == {"logits"} and 0 < record.errors["logits"] < 1e-5
    assert truth is not None and truth.require_folded(source.graph, record) == record


def test_a_module_is_compared_in_torch() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 4, 4), torch.nn.Flatten(), torch.nn.Linear(16, 5))
    size = (3, 8, 8)
    original = TorchOriginal(lambda: module, lambda m: exported(m, size, "m"))
    record, _ = compare_with_original(Source(from_torch(module, size, "m"), None, "m", original), BATCHES, BATCHES)
    assert record.runtime == "torch" and record.errors["logits"] < 1e-5
    assert module.training


def faulty(model: ir.Model) -> None:
    """A rewrite that forgets a bias."""
    add = next(node for node in model.graph if node.op_type == "Add" and node.outputs[0].is_graph_output())
    bias = add.inputs[1]
    assert bias is not None and bias.const_value is not None
    bias.const_value = ir.tensor(0 * bias.const_value.numpy(), name=bias.name)


@pytest.mark.parametrize("place", [6, 12])
def test_a_wrong_rewrite_is_named(file: str, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    steps = rewriting.REWRITES
    monkeypatch.setattr(rewriting, "REWRITES", (*steps[:place], faulty, *steps[place:]))
    source = load_model(file)
    with pytest.raises(CheckError, match=r"output 'logits' of the canonical graph .* first after the rewrite faulty"):
        compare_with_original(source, BATCHES, BATCHES)


def test_a_wrong_executor_is_told_from_a_wrong_rewrite(file: str) -> None:
    source = load_model(file)
    graph = source.graph.clone()
    faulty(graph.model)
    with pytest.raises(CheckError, match="the executor does not"):
        compare_with_original(Source(graph, None, "m", source.original), BATCHES, BATCHES)


def test_a_fold_that_changes_an_output_is_named(file: str) -> None:
    source = load_model(file)
    record, truth = compare_with_original(source, BATCHES, BATCHES)
    folded = source.graph.clone()
    faulty(folded.model)
    assert truth is not None
    with pytest.raises(CheckError, match="folding scales into the float model moved output 'logits'"):
        truth.require_folded(folded, record)


def test_half_precision_is_noise(tmp_path: Path) -> None:
    model = vit(1).to_proto()
    del model.graph.value_info[:]
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float16), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    record, _ = compare_with_original(load_model(saved(tmp_path / "half.onnx", model)), BATCHES, BATCHES)
    assert 1e-6 < record.errors["logits"] < 0.02


def test_what_floats_decide_by_a_hair_is_noise(tmp_path: Path) -> None:
    """A step function at a value that every pixel is within rounding of: no other runtime need give the same."""
    body = "a = Mul(x, c) b = Div(a, c) d = Sub(b, x) e = Sign(d) y = ReduceMean<keepdims = 0>(e, axes)"
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 21]> g (float[N,3,8,8] x) => (float[N,3] y) '
        f"<float c = {{3.3}}, int64[2] axes = {{2, 3}}> {{ {body} }}"
    )
    source = load_model(saved(tmp_path / "m.onnx", model))
    graph = source.graph.clone()
    constant = graph.initializers["c"]
    constant.const_value = ir.tensor(np.float32(3.1), name="c")  # as good as 3.3: only roundings differ
    record, _ = compare_with_original(Source(graph, None, "m", source.original), BATCHES, BATCHES)
    assert record.errors["y"] > TOLERANCE


def test_an_original_that_cannot_be_run_is_reported(file: str) -> None:
    source = load_model(file)
    record, truth = compare_with_original(Source(source.graph, None, "by hand"), BATCHES, BATCHES)
    assert truth is None and record.worst is None and "only the graph" in str(record.unavailable)
    Path(file).write_bytes(b"gone")
    record, truth = compare_with_original(source, BATCHES, BATCHES)
    assert truth is None and str(record.unavailable).startswith("ONNX Runtime cannot run it: ")


def test_a_shape_that_changes_is_an_error(file: str) -> None:
    source = load_model(file)
    graph: Graph = source.graph.clone()
    last = graph.outputs[0].producer()
    assert last is not None and last.inputs[1] is not None
    last.inputs[1].const_value = ir.tensor(np.zeros((1, 1, 5), np.float32), name=last.inputs[1].name)
    with pytest.raises(CheckError, match="by its shape"):
        compare_with_original(Source(graph, None, "m", source.original), BATCHES, BATCHES)
