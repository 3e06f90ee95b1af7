from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from quantizable_graphs import mixed_vit

from qvit_deploy.bench.runner import OnnxRuntimeRunner
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import find_sites
from qvit_deploy.site_models import _emitted, _shape, _tensor_shapes
from qvit_deploy.targets.onnxruntime import fusion


def emitted(graph: Graph, batch: int, width: tuple[int, int]) -> dict[str, bytes]:
    shapes = _tensor_shapes(graph, batch)
    nodes = {v.name: n for n in graph.nodes() for v in n.outputs}
    return {s.name: _emitted(_shape(s, nodes[s.product], shapes), s, width) for s in find_sites(graph)}


@pytest.mark.parametrize("width", [(4, 4), (8, 8)])
def test_every_site_becomes_a_model_that_runs_as_in_the_whole(width: tuple[int, int], tmp_path: Path) -> None:
    """Linears (with and without bias, on rows too) and attention products on integers, the convolution as it is."""
    graph = mixed_vit(head_bias=False)
    for name, content in emitted(graph, 3, width).items():
        path = tmp_path / "site.onnx"
        path.write_bytes(content)
        runner = OnnxRuntimeRunner(path, None, 1)
        assert runner.batch == 3 and runner.run_ns() > 0
        assert fusion(content).integer_products == (0 if name == "stem" else 1), name


def test_shapes_are_those_of_the_run() -> None:
    graph = mixed_vit()
    found = _tensor_shapes(graph, 2)
    sites = {s.name: s for s in find_sites(graph)}
    assert found[sites["fc1"].input] == (2, 4, 16) and found[sites["head"].input] == (2, 16)
    assert found[sites["stem"].input] == (2, 3, 16, 16)
    assert found[sites["attn.qk"].input] == (2, 2, 4, 8)


def test_the_width_is_emitted() -> None:
    model = onnx.load_from_string(emitted(mixed_vit(), 1, (4, 6))["fc1"])
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    (codes,) = (v for n, v in constants.items() if n.endswith("weight.q4"))
    assert codes.dtype == np.int8 and codes.min() == -8 and codes.max() == 7
    (clip,) = (n for n in model.graph.node if n.op_type == "Clip")
    assert constants[clip.input[2]] / constants[clip.input[1]] == pytest.approx(-31 / 32)


def test_windows_have_their_own_shape(tiny_swin: Graph) -> None:
    """Swin's attention sees windows times batch as its first dimension."""
    shapes = _tensor_shapes(tiny_swin, 2)
    qk = next(s for s in find_sites(tiny_swin) if s.kind == "matmul_qk")
    assert shapes[qk.input][0] == 2 * 4
