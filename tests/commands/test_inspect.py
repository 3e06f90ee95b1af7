from __future__ import annotations

from pathlib import Path

import pytest
from onnx import TensorProto, helper

from qvit_deploy.commands.inspect import describe
from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.errors import BundleError, InputError
from tests.support.graphs.quantizable_graphs import Calibrated, calibrate, mixed_vit


@pytest.fixture(scope="module")
def calibrated() -> Calibrated:
    return calibrate(mixed_vit(), (2, 3, 4, 5, 6, 8))


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_float_model(tmp_path: Path) -> None:
    graph = mixed_vit()
    path = written(tmp_path / "m.onnx", graph.serialize())
    described = describe(path)
    assert described["type"] == "onnx" and described["bytes"] == path.stat().st_size
    assert described["opset"] == {"ai.onnx": 21}
    assert described["inputs"] == {"image": ["batch", 3, 16, 16]} and described["outputs"] == {"logits": ["batch", 5]}
    operators = described["operators"]
    assert operators["LayerNormalization"] == 3 and list(operators) == sorted(operators)
    assert len(described["products"]) == 11 and described["quantized_products"] == 0
    assert all(o["bits"] is None for p in described["products"] for o in p["operands"])


@pytest.mark.parametrize(("w_bits", "a_bits"), [(4, 8), (8, 4), (6, 6), (2, 3), (5, 5)])
def test_the_widths_of_a_quantized_model(calibrated: Calibrated, tmp_path: Path, w_bits: int, a_bits: int) -> None:
    emitted = emit_qdq(calibrated.graph, calibrated.plan((w_bits, a_bits)))
    described = describe(written(tmp_path / "m.onnx", emitted.serialize()))
    quantized = [p for p in described["products"] if p["quantized"]]
    assert described["quantized_products"] == len(quantized) == 9 and len(described["products"]) == 11
    assert {tuple(o["bits"] for o in p["operands"]) for p in quantized} == {(a_bits, w_bits)}


@pytest.mark.parametrize("bits", [2, 4, 7, 8])
def test_the_widths_of_attention_operands(bits: int, tmp_path: Path) -> None:
    """Levels are int8 whatever the width of their codes; logarithmic codes leave the product in floating point."""
    for softmax, expected in (("uniform", bits), ("levels", 8), ("log2", None if bits <= 4 else bits)):
        attention = calibrate(mixed_vit(), (bits,), True, 6, softmax)  # type: ignore[arg-type]
        emitted = emit_qdq(attention.graph, attention.plan({"attn.av": (bits, bits)}, "none"))
        described = describe(written(tmp_path / "m.onnx", emitted.serialize()))
        (product,) = [p for p in described["products"] if p["operands"][1]["bits"] == bits]
        assert product["operands"][0]["bits"] == (bits if softmax == "levels" and bits > 6 else expected)


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"this is not a model\n" * 9, None])
def test_a_file_that_is_no_model(tmp_path: Path, content: bytes | None) -> None:
    whole = mixed_vit().serialize()
    path = written(tmp_path / "m.onnx", whole[: len(whole) // 3] if content is None else content)
    with pytest.raises(InputError, match="cannot be read as ONNX") as caught:
        describe(path)
    assert "\n" not in str(caught.value)


def test_nothing_there_and_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no bundle, \.onnx file or engine at"):
        describe(tmp_path / "none")
    with pytest.raises(BundleError, match="is not a bundle"):
        describe(tmp_path)


@pytest.mark.parametrize("outputs", [["w"], ["w", "more"]])
def test_a_constant_without_a_value_or_with_two_outputs_is_no_constant(outputs: list[str], tmp_path: Path) -> None:
    nodes = [helper.make_node("Constant", [], outputs), helper.make_node("MatMul", ["x", "w"], ["y"])]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4, 4]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    (product,) = describe(path)["products"]
    assert product["operands"][1]["stored_bytes"] == 0
