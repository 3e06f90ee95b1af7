from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from qvit_deploy.frontend.onnx_file import from_onnx
from tests.support.graphs.canonical_cases import canonical, ops, parse
from tests.support.models.torch_models import HuggingFaceStyleViT, assert_same, torchscript_onnx


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("back", ["s = Shape(x)", "s = Constant <value = int64[4] {-1, 3, 8, 8}> ()"])
def test_rows_in_a_matrix(op: str, back: str) -> None:
    body = f"{back} m = Flatten <axis = 3> (x) p = {op} <axis = -1> (m) y = Reshape(p, s)"
    assert ops(canonical(parse(body))) == [op]


@pytest.mark.parametrize("shape", [(-1, 3, 8, 8), (-1, 3, 64)])
def test_other_reshapes_stay(shape: tuple[int, ...]) -> None:
    axis = 1 if len(shape) == 4 else 3
    body = f"m = Flatten <axis = {axis}> (x) p = Softmax <axis = -1> (m) y = Reshape(p, s)"
    assert ops(canonical(parse(body, s=np.array(shape)))) == ["Reshape", "Softmax", "Reshape"]


@pytest.mark.filterwarnings("ignore")
def test_attention_of_an_old_opset_is_that_of_a_new_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, graphs = HuggingFaceStyleViT(), []
    for opset in (11, 14):
        (tmp_path / "m.onnx").write_bytes(torchscript_onnx(module, (3, 32, 32), opset))
        graphs.append(from_onnx(tmp_path / "m.onnx"))
    assert_same(graphs[0], module)
    assert ops(graphs[0]) == ops(graphs[1])
