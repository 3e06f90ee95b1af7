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
    read = interface(
        "float[N,3,8,6] x, int64[N,L] ids, float[N,L] attention_mask, bool[N] seen, float[2] scale, float s"
    )
    assert [(i.name, i.kind, i.batch_axis) for i in read.inputs] == [
        ("x", "image", 0), ("ids", "tokens", 0), ("attention_mask", "mask", 0), ("seen", "mask", 0),
        ("scale", "tensor", None), ("s", "tensor", None),
    ]  # fmt: skip
    assert read.inputs[1].shape == ("N", "L") and read.inputs[1].dtype == ir.DataType.INT64
    assert [(o.name, o.shape) for o in read.outputs] == [("y", ("N", 2)), ("z", ("N",))]


def test_the_image_of_a_graph_that_takes_one() -> None:
    read = interface("float[4,3,8,6] x")
    assert read.image is not None and read.image.name == "x" and read.image_size == (3, 8, 6) and read.static_batch == 4
    assert interface("float[N,3,8,6] x").static_batch is None


def test_the_only_input_of_three_channels_is_the_image_whatever_it_is_called() -> None:
    assert interface("float[N,3,8,6] masked_pixels, float[N,8] patch_embeds").image_size == (3, 8, 6)
    assert interface("float[1,256,8,8] image_embeddings, float[1,1,32,32] mask_input").image is None


def test_what_counts_examples() -> None:
    """The image's number decides: what is as long or open counts with it, what has another length is for all."""
    read = interface("float[1,256,8,8] embeddings, float[1,3,2] points, float[2] size, float[M,4] boxes")
    assert [i.batch_axis for i in read.inputs] == [0, 0, None, 0] and read.image is None
    assert interface("int64[1,77] ids, float[N,3,8,8] x").inputs[0].batch_axis is None


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ("", r"no image input, or several \(its inputs: none\)"),
        ("float[N,3,8,8] x, float[N,3,8,8] w", r"or several \(its inputs: x, w\)"),
        ("int64[N,8] ids", r"its inputs: ids"),
        ("float[N,3,H,8] x", r"--input-shape x=3xNx8"),
        ("float[N,8,8,3] x", "channels come last"),
    ],
)
def test_a_graph_without_one_says_why(inputs: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        _ = interface(inputs).image_size
