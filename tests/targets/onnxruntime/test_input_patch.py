"""Activation patching in ONNX Runtime by graph surgery."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qvit_deploy.errors import InputError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.patching.components import find_components
from qvit_deploy.targets.onnxruntime.input_patch import patched_outputs, with_tensor_as_input


def test_onnx_runtime_and_the_executor_agree_on_every_patch(tiny_vit: Graph) -> None:
    base, source = torch.randn(2, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    executor = Executor(tiny_vit)
    with torch.no_grad():
        for component in find_components(tiny_vit):
            value = executor.run(Examples.images(source), fetch=[component.tensor])[component.tensor]
            ours = executor.run(Examples.images(base), {component.tensor: lambda _, value=value: value})[
                "logits"
            ].numpy()
            theirs = patched_outputs(tiny_vit, Examples.images(base.numpy()), component.tensor, value.numpy())["logits"]
            np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4 * float(np.abs(ours).max()))


def test_the_model_itself_is_not_changed(tiny_vit: Graph) -> None:
    proto = tiny_vit.to_proto()
    before = proto.SerializeToString()
    with_tensor_as_input(proto, find_components(tiny_vit)[0].tensor)
    assert proto.SerializeToString() == before


@pytest.mark.parametrize(("tensor", "message"), [("nowhere", "no node computes"), ("logits", "nothing reads")])
def test_tensors_that_cannot_be_patched(tiny_vit: Graph, tensor: str, message: str) -> None:
    name = tiny_vit.outputs[0].name if tensor == "logits" else tensor
    with pytest.raises(InputError, match=message):
        with_tensor_as_input(tiny_vit.to_proto(), name or "")
