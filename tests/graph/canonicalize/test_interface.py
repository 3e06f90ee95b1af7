"""Inputs get one form; outputs stay what they were, by name and by shape."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qvit_deploy.errors import InputError
from qvit_deploy.graph.canonicalize import canonicalize
from qvit_deploy.graph.graph import Graph
from tests.support.graphs.canonical_cases import run


def read(body: str, outputs: str, image: str = "float[N,3,8,8] x") -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 21]> g ({image}) => ({outputs}) <float[2] c = {{1.0, 2.0}}> {{ {body} }}'
    )


def canonical(model: onnx.ModelProto) -> Graph:
    """canonicalize(model), which answers as the model does, under the same names."""
    graph = canonicalize(ir.from_proto(model), "test")
    assert [v.name for v in graph.outputs] == [v.name for v in model.graph.output]
    image = np.random.default_rng(0).standard_normal((2, 3, 8, 8), dtype=np.float32)
    for expected, got in zip(run(model, image), run(graph.to_proto(), image), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
        assert got.shape == expected.shape
    return graph


def test_a_single_output_keeps_its_name() -> None:
    assert canonical(read("y = Relu(x)", "float[N,3,8,8] y")).inputs[0].name == "image"


def test_the_name_that_the_image_had_is_kept_and_is_in_no_file() -> None:
    graph = canonical(read("y = Relu(pixel_values)", "float[N,3,8,8] y", "float[N,3,8,8] pixel_values"))
    assert graph.inputs[0].name == "image"
    image = graph.clone().interface.image
    assert image is not None and image.given_name == "pixel_values"
    assert b"pixel_values" not in graph.serialize()
    same = canonical(read("y = Relu(image)", "float[N,3,8,8] y", "float[N,3,8,8] image")).interface.image
    assert same is not None and same.given_name is None


@pytest.mark.parametrize("name", ["image", "logits", "ints_1", "index_0"])
def test_an_output_of_any_name(name: str) -> None:
    graph = canonical(read(f"{name} = Relu(x)", f"float[N,3,8,8] {name}"))
    assert graph.inputs[0].name == ("x" if name == "image" else "image")


def test_an_output_that_is_the_input() -> None:
    graph = canonical(read("y = Relu(x)", "float[N,3,8,8] y, float[N,3,8,8] x"))
    assert [node.op_type for node in graph.nodes()] == ["Relu", "Identity"]
    assert canonical(read("y = Relu(image)", "float[N,3,8,8] image, float[N,3,8,8] y", "float[N,3,8,8] image"))


def test_an_output_listed_twice() -> None:
    canonical(read("y = Relu(x)", "float[N,3,8,8] y, float[N,3,8,8] y"))


def test_a_constant_output_that_is_computed() -> None:
    graph = canonical(read("a = Add(c, c) y = Relu(x)", "float[2] a, float[N,3,8,8] y"))
    assert [o.batch_axis for o in graph.interface.outputs] == [None, 0]
    canonical(read("z = Shape<start=0, end=1>(x) y = Relu(x)", "int64[1] z, float[N,3,8,8] y"))


def test_an_output_that_is_a_constant_is_refused() -> None:
    with pytest.raises(InputError, match="output 'c' is a constant"):
        canonicalize(ir.from_proto(read("y = Relu(x)", "float[N,3,8,8] y, float[2] c")), "test")
