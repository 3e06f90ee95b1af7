from __future__ import annotations

import pytest
import torch

from qvit_deploy.execute.executor import Executor
from qvit_deploy.execute.lockstep import Lockstep
from qvit_deploy.execute.ops import OpFn
from qvit_deploy.graph.examples import Examples
from tests.support.examples import image_batches
from tests.support.graphs.quantizable_graphs import images_for, mixed_vit


def test_every_tensor_is_what_the_executor_computes() -> None:
    graph = mixed_vit()
    executor, batches = Executor(graph), images_for(graph, 5).split(2)
    names = [n.outputs[0].name or "" for n in graph.nodes() if n.op_type in ("LayerNormalization", "Softmax", "Gelu")]
    run = Lockstep(executor, [Examples.images(b) for b in batches], names)
    for name in names:
        for batch, value in zip(batches, run.advance(name), strict=True):
            assert torch.equal(value, executor.run(Examples.images(batch), fetch=[name])[name])


def test_what_replaces_a_tensor_is_what_comes_after_it() -> None:
    graph = mixed_vit()
    executor, batches = Executor(graph), images_for(graph, 4).split(2)
    gelu = next(n.outputs[0].name or "" for n in graph.nodes() if n.op_type == "Gelu")
    output = graph.outputs[0].name or ""
    run = Lockstep(executor, [Examples.images(b) for b in batches], [gelu, output])
    values = run.advance(next(n.inputs[0].name or "" for n in graph.nodes() if n.op_type == "Gelu"))

    def doubled(function: OpFn, index: int) -> torch.Tensor:
        value = function(values[index])
        assert isinstance(value, torch.Tensor)
        return 2 * value

    run.replace(gelu, doubled)
    for batch, value in zip(batches, run.advance(output), strict=True):
        with torch.no_grad():
            assert torch.equal(value, executor.run(Examples.images(batch), taps={gelu: lambda x: 2 * x})[output])


def test_tensors_that_are_gone_or_were_never_there_are_named() -> None:
    graph = mixed_vit()
    gelu = next(n.outputs[0].name or "" for n in graph.nodes() if n.op_type == "Gelu")
    output = graph.outputs[0].name or ""
    run = Lockstep(Executor(graph), image_batches(images_for(graph, 2), 2), [gelu, output])
    run.advance(output)
    with pytest.raises(KeyError, match=gelu):
        run.advance(gelu)
    with pytest.raises(KeyError, match="nothing_like_it"):
        run.advance("nothing_like_it")
