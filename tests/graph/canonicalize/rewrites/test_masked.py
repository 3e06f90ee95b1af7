from __future__ import annotations

import io

import onnx
import pytest
import torch
from torch import nn

from qvit_deploy.errors import UnsupportedOpError
from tests.support.graphs.canonical_cases import canonical, ops, parse

PLACES = "h = Constant <value_float = 0.5> () m = Greater(x, h) n = NonZero(m) "
REPEATED = (
    "p = Transpose <perm = [1, 0]> (n) s = Shape(n) b = Constant <value_ints = [1]> () "
    "e = Constant <value_ints = [2]> () k = Slice(s, b, e) v = Constant <value_float = -3.0> () u = Expand(v, k) "
)


def test_what_a_mask_assigns_is_a_where() -> None:
    graph = canonical(parse(PLACES + REPEATED + "y = ScatterND(x, p, u)"))
    assert ops(graph) == ["Greater", "Where"]


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("rows", [False, True])
def test_as_torch_writes_it(opset: int, rows: bool) -> None:
    class Assigns(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mask = (x.sum(-1) > 0.5) if rows else x > 0.5
            y = x * 2
            y[torch.where(mask)] = -3.0
            return y

    file = io.BytesIO()
    torch.onnx.export(Assigns(), torch.randn(1, 3, 8, 8), file, input_names=["x"], opset_version=opset, dynamo=False)
    model = onnx.load_from_string(file.getvalue())
    assert "NonZero" in {node.op_type for node in model.graph.node}
    assert "Where" in ops(canonical(model, batches=(1,)))


@pytest.mark.parametrize("assigned", [False, True])
def test_of_booleans_it_is_an_and_or_an_or(assigned: bool) -> None:
    class Assigns(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mask = x < 0.5
            mask[torch.where(mask.sum(-1) == mask.shape[-1])] = assigned
            return torch.where(mask, 0.0, x)

    file = io.BytesIO()
    torch.onnx.export(Assigns(), torch.randn(1, 3, 8, 2), file, input_names=["x"], opset_version=17, dynamo=False)
    types = ops(canonical(onnx.load_from_string(file.getvalue()), batches=(1,)))
    assert ("Or" if assigned else "And") in types


def test_places_that_are_read_otherwise_are_refused() -> None:
    some = "p = Transpose <perm = [1, 0]> (n) u = GatherND(x, p) w = Relu(u) y = ScatterND(x, p, w)"
    with pytest.raises(UnsupportedOpError, match="NonZero"):
        canonical(parse(PLACES + some))


def test_the_mask_of_other_axes_is_refused() -> None:
    """`y[j, i] = c` of the places (i, j) of a mask is no mask."""
    columns = (
        "i0 = Constant <value_int = 0> () i1 = Constant <value_int = 1> () o = Constant <value_ints = [-1]> () "
        "r = ReduceSum <keepdims = 0> (x, t) m = Greater(r, h) n = NonZero(m) "
        "a = Gather(n, i0) b = Gather(n, i1) c = Unsqueeze(b, o) d = Unsqueeze(a, o) p = Concat <axis = -1> (c, d) "
        "s = Shape(a) v = Constant <value_float = -3.0> () u = Expand(v, s) f = ReduceSum <keepdims = 0> (x, t) "
    )
    body = "h = Constant <value_float = 0.5> () t = Constant <value_ints = [2, 3]> () "
    with pytest.raises(UnsupportedOpError, match="NonZero"):
        canonical(parse(body + columns + "y = ScatterND(f, p, u)", shape="3,3,8,8"), batches=(3,))
