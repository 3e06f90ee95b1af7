from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from qvit_deploy.errors import InputError
from qvit_deploy.frontend.input_shapes import fix_shapes, parse_input_shapes
from qvit_deploy.graph.interface import Interface, Shape


def fixed(inputs: str, *texts: str) -> dict[str, Shape]:
    model = ir.from_proto(
        onnx.parser.parse_model(
            f'<ir_version: 9, opset_import: ["": 21]> g ({inputs}) => (float[] y) {{ y = Identity(x) }}'
        )
    )
    fix_shapes(model, parse_input_shapes(texts))
    return {value.name: value.shape for value in Interface.of(model).inputs}


def test_the_image_s_open_sizes_are_fixed_and_its_batch_stays_open() -> None:
    assert fixed("float[N,3,H,W] x", "3x64x32") == {"x": ("N", 3, 64, 32)}
    assert fixed("float[N,3,H,W] x", "2x3x64x32") == {"x": (2, 3, 64, 32)}
    assert fixed("float[N,3,H,W] x") == {"x": ("N", 3, "H", "W")}


def test_a_name_that_repeats_is_fixed_everywhere() -> None:
    shapes = fixed("float[N,3,H,W] x, float[N,H,W] weights, int64[N,L] ids", "3x64x32", "ids=7")
    assert shapes == {"x": ("N", 3, 64, 32), "weights": ("N", 64, 32), "ids": ("N", 7)}


@pytest.mark.parametrize(
    ("inputs", "text", "message"),
    [
        ("float[N,3,H,W] x", "4x64x64", "does not fit input 'x'"),
        ("float[N,3,H,W] x", "64x64", "does not fit input 'x'"),
        ("float[N,3,H,W] x", "z=3x64x64", r"there is no input 'z' \(it has x\)"),
        ("float[N,L] x, int64[N,L] ids", "4", "say which with NAME="),
        ("float[N,3,H,W] x", "3xax64", "give sizes like 3x512x512"),
        ("float[N,3,H,W] x", "3x0x64", "give sizes like 3x512x512"),
    ],
)
def test_shapes_that_do_not_fit(inputs: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fixed(inputs, text)
