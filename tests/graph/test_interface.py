from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from qvit_deploy.errors import InputError
from qvit_deploy.graph.interface import Interface


def interface(inputs: str) -> Interface:
    body = "(float[N,2] y, float[N] z) { y = Constant<value_floats = [1.0, 2.0]>() z = Identity(y) }"
    return Interface.of(
        ir.from_proto(onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 21]> g ({inputs}) => {body}'))
    )


def test_inputs_by_kind_and_outputs_by_name() -> None:
    found = interface(
        "float[N,3,8,6] x, int64[N,L] ids, float[N,L] attention_mask, bool[N] seen, float[2] scale, float s"
    )
    assert [(i.name, i.kind, i.batch_axis) for i in found.inputs] == [
        ("x", "image", 0), ("ids", "tokens", 0), ("attention_mask", "mask", 0), ("seen", "mask", 0),
        ("scale", "tensor", None), ("s", "tensor", None),
    ]  # fmt: skip
    assert found.inputs[1].shape == ("N", "L") and found.inputs[1].dtype == ir.DataType.INT64
    assert [(o.name, o.shape) for o in found.outputs] == [("y", ("N", 2)), ("z", ("N",))]


def test_the_image_of_a_graph_that_takes_one() -> None:
    found = interface("float[4,3,8,6] x")
    assert found.image.name == "x" and found.image_size == (3, 8, 6) and found.static_batch == 4
    assert interface("float[N,3,8,6] x").static_batch is None


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ("", "one image input, this one has 0"),
        ("float[N,3,8,8] x, float[N,3,8,8] w", r"one image input, this one has 2 \(x, w\)"),
        ("int64[N,8] ids", "four dimensions"),
        ("int64[N,3,8,8] x", "float image input"),
        ("float[N,3,H,8] x", "fixed channels"),
        ("float[N,8,8,3] x", "channels come last"),
    ],
)
def test_a_graph_without_one_says_why(inputs: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        _ = interface(inputs).image_size
