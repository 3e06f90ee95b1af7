"""Files for runtimes without local functions compute what the file with them does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from qvit_deploy.emit.local_functions import inlined, plugin_operators, without_plugin_bodies
from qvit_deploy.graph.examples import Examples
from qvit_deploy.quantize.half import half_scales
from qvit_deploy.targets.onnxruntime.runtime import run, session
from qvit_deploy.targets.tensorrt.packed.linear import pack_linears
from tests.support.graphs.half_graphs import half
from tests.support.graphs.quantizable_graphs import calibrate, mixed_vit


@pytest.fixture(scope="module")
def packed() -> tuple[bytes, np.ndarray]:
    calibrated = calibrate(mixed_vit(), (4, 8))
    plan = half_scales(calibrated.plan({"fc1": (4, 8), "fc2": (8, 4)}))
    return pack_linears(half(calibrated, plan)).graph.serialize(), calibrated.images.numpy()


def test_inlined_nodes_have_names_of_their_own_and_compute_the_same(packed: tuple[bytes, np.ndarray]) -> None:
    model, images = packed
    opened = inlined(model)
    proto = onnx.load_from_string(opened)
    names = [node.name for node in proto.graph.node]
    assert all(names) and len(set(names)) == len(names) > 100
    assert not proto.functions and {o.domain for o in proto.opset_import} == {""}
    onnx.checker.check_model(proto, full_check=True)
    expected, got = (run(session(m, 1), Examples.images(images))[0] for m in (model, opened))
    np.testing.assert_array_equal(got, expected)
    assert inlined(model) == opened and inlined(opened) == opened


def test_without_bodies_the_operators_are_left(packed: tuple[bytes, np.ndarray]) -> None:
    model, _ = packed
    bare = without_plugin_bodies(model)
    before, after = onnx.load_from_string(model), onnx.load_from_string(bare)
    assert before.functions and not after.functions and after.graph == before.graph
    assert plugin_operators(bare) == plugin_operators(model)
    assert {"qvit::QLinearW4Gelu:1", "qvit::QLinearW8:1"} <= set(plugin_operators(model))
    assert without_plugin_bodies(bare) == bare


def test_functions_of_others_keep_their_bodies() -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 21, "other": 1]> g (float[2] x) => (float[2] y) { y = other.Twice (x) }
        <domain: "other", opset_import: ["": 21]> Twice (x) => (y) { y = Add (x, x) }"""
    )
    model = proto.SerializeToString()
    assert without_plugin_bodies(model) == model and plugin_operators(model) == ()
    assert [n.op_type for n in onnx.load_from_string(inlined(model)).graph.node] == ["Add"]


def test_what_is_no_model_comes_back(tmp_path: Path) -> None:
    for content in (b"", b"\xff\xff"):
        assert inlined(content) == content == without_plugin_bodies(content) and plugin_operators(content) == ()
