"""Every operator of the table against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from qvit_deploy.execute.executor import Executor
from qvit_deploy.execute.ops import OPS
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.interface import IMAGE
from tests.support.graphs.operator_cases import CASES, Case
from tests.support.graphs.single_node import as_graph, onnxruntime_outputs, single_node

torch.set_num_threads(1)


def _label(case: Case) -> str:
    op, inputs, attributes = case
    shapes = "-".join("none" if a is None else "x".join(map(str, np.shape(a))) or "scalar" for a in inputs)
    return f"{op}-{shapes}" + "".join(f"-{k}" for k in attributes)


@pytest.mark.parametrize("case", CASES, ids=_label)
def test_matches_onnx_runtime(case: Case) -> None:
    op, inputs, attributes = case
    arrays = [None if a is None else np.asarray(a) for a in inputs]
    first = arrays[0]
    assert first is not None
    model = single_node(op, arrays, **attributes)  # type: ignore[arg-type]
    expected = onnxruntime_outputs(model, first)
    graph = as_graph(model)
    x = torch.from_numpy(np.array(first))
    computed = Executor(graph).run(Examples.images(x) if x.ndim else Examples({}, {IMAGE: x}))
    for_all = [output.batch_axis is None for output in graph.interface.outputs]  # repeated for each example
    assert len(computed) == len(expected)
    for each, same, theirs in zip(computed.values(), for_all, expected, strict=True):
        ours = each[0] if same else each
        assert tuple(ours.shape) == np.shape(theirs)
        if theirs.dtype.kind == "f" and op not in ("QuantizeLinear", "Round"):
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=2e-5, atol=2e-6)
        else:  # codes are carried as float32 integers
            np.testing.assert_array_equal(ours.numpy().astype(theirs.dtype), theirs)


def test_every_operator_of_the_table_has_a_case() -> None:
    assert set(OPS) - {case[0] for case in CASES} == set()


RUN_TIME = ("Expand", "Pad", "ReduceMean", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Unsqueeze")


@pytest.mark.parametrize("case", [case for case in CASES if case[0] in RUN_TIME], ids=_label)
def test_parameters_computed_at_run_time(case: Case) -> None:
    """Shapes and axes that are not constants: the same result as when they are."""
    op, inputs, attributes = case
    arrays = [None if a is None else np.asarray(a) for a in inputs]
    assert arrays[0] is not None
    fixed = single_node(op, arrays, **attributes)  # type: ignore[arg-type]
    computed = onnx.ModelProto.FromString(fixed.SerializeToString())
    node = computed.graph.node[0]
    for i, (name, array) in enumerate(zip(list(node.input), arrays, strict=True)):
        if i and array is not None and array.dtype == np.int64:
            node.input[i] = f"{name}_computed"
            computed.graph.node.insert(0, onnx.helper.make_node("Identity", [name], [node.input[i]]))
            node = computed.graph.node[-1]
    image = torch.from_numpy(arrays[0])
    ours, expected = (list(Executor(as_graph(m)).run(Examples.images(image)).values()) for m in (computed, fixed))
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))
