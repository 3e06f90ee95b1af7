from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.errors import InputError
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.targets.onnxruntime.runtime import fusion, run, session
from tests.support.graphs.quantizable_graphs import Calibrated, calibrate, fixed_batch, images_for, mixed_vit


@pytest.fixture(scope="module")
def calibrated() -> Calibrated:
    return calibrate(mixed_vit(head_bias=False, qkv_bias=False), (4, 8))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("compensate", ["none", "bias"])
def test_every_linear_runs_on_integers(calibrated: Calibrated, bits: int, compensate: str) -> None:
    """With q, k and v reading one tensor, a head on rows, and products with and without a bias."""
    fused = fusion(emit_qdq(calibrated.graph, calibrated.plan((bits, bits), compensate)).serialize())
    linears = sum(s.kind == "linear" for s in calibrated.sites)
    assert fused.integer_products == fused.ops["MatMulIntegerToFloat"] == linears == 8
    assert fused.float_linears == () and fused.ops["Conv"] == 1


def test_timm_s_vit_runs_on_integers_altogether(tiny_vit: Graph) -> None:
    fused = fusion(emit_qdq(tiny_vit, calibrate(tiny_vit, (8,), images=4).plan((8, 8))).serialize())
    assert fused.integer_products == 10
    assert fused.float_linears == () and "Conv" not in fused.ops
    assert "DequantizeLinear" not in fused.ops


def test_a_linear_that_cannot_be_fused_is_reported(calibrated: Calibrated) -> None:
    """A second reader between the quantizer and its linear, as a careless exporter leaves it."""
    emitted = emit_qdq(calibrated.graph, calibrated.plan({"fc1": (8, 8), "fc2": (8, 8)}))
    proto = emitted.to_proto()
    (product,) = [n for n in proto.graph.node if "fc1.weight.value" in n.input]
    proto.graph.output.append(onnx.ValueInfoProto(name=product.input[0]))
    fused = fusion(proto.SerializeToString())
    assert fused.integer_products == 1 and fused.float_linears == (product.name,)


def test_a_float_model_has_nothing_on_integers() -> None:
    fused = fusion(mixed_vit().serialize())
    assert fused.integer_products == 0 and fused.float_linears == ()


@pytest.mark.parametrize(("wanted", "threads"), [("3", 3), ("2,1", 2), ("", 0), ("many", 0)])
def test_threads_that_nobody_asked_for_are_those_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, wanted: str, threads: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    model = mixed_vit().serialize()
    assert session(model).get_session_options().intra_op_num_threads == threads
    assert session(model, 1).get_session_options().intra_op_num_threads == 1


def test_a_fixed_batch_is_padded_and_cut() -> None:
    images = images_for(mixed_vit(), 7).numpy()
    expected = run(session(mixed_vit().serialize(), 1), Examples.images(images))[0]
    fixed = fixed_batch(mixed_vit(), 3)
    assert fixed.static_batch == 3
    runner = session(fixed.serialize(), 1)
    for count in (1, 3, 7):
        (got,) = run(runner, Examples.images(images[:count]), 3)
        np.testing.assert_allclose(got, expected[:count], rtol=1e-4, atol=1e-5)


def test_any_output_can_be_fetched() -> None:
    images = images_for(mixed_vit(), 2).numpy()
    runner = session(mixed_vit().serialize(), 1)
    assert [o.shape for o in run(runner, Examples.images(images), None, ["logits"])] == [(2, 5)]


@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_what_onnxruntime_does_not_take_is_one_line(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(mixed_vit().serialize()[:2000] if content is None else content)
    for model, name in ((path, str(path)), (path.read_bytes(), "model")):
        with pytest.raises(InputError) as caught:
            session(model, 1)
        message = str(caught.value)
        assert message.startswith(f"{name}: ONNX Runtime cannot load it: ") and "\n" not in message


def test_what_it_loads_but_cannot_run_has_its_reason() -> None:
    """A shape that does not fit is seen when it runs."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 13]>
        odd (float[batch, 3] image) => (float[rows, 2] y) <int64[2] pairs = {-1, 2}> { y = Reshape (image, pairs) }"""
    )
    loaded = session(model.SerializeToString(), threads=1)
    with pytest.raises(InputError, match=r"ONNX Runtime cannot run the model: .+") as caught:
        run(loaded, Examples.images(np.zeros((1, 3), np.float32)))
    assert "\n" not in str(caught.value)
