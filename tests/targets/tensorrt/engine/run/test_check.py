from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from qvit_deploy.errors import CheckError
from qvit_deploy.graph.examples import Examples
from qvit_deploy.quantize.half import half_scales
from qvit_deploy.targets.onnxruntime import runtime as onnxruntime
from qvit_deploy.targets.tensorrt.engine.run.check import check_outputs, expose_codes, first_difference, products
from qvit_deploy.tasks.classify import CLASSIFY
from tests.support.devices.engine_examples import packed_onnx, small_onnx
from tests.support.graphs.half_graphs import half, wide_vit
from tests.support.graphs.quantizable_graphs import calibrate


class AsRuntime:
    """ONNX Runtime in the place of an engine, its logits scaled."""

    def __init__(self, model: bytes, factor: float = 1.0) -> None:
        self.session, self.factor = onnxruntime.session(model, 1), factor
        self.sizes: list[int] = []

    def run(self, examples: Examples[np.ndarray]) -> list[np.ndarray]:
        self.sizes.append(len(examples))
        return [self.factor * o for o in onnxruntime.run(self.session, examples)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_onnx(tmp_path_factory.mktemp("onnx"))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((10, 3, 16, 16), np.float32)


def test_equal_engines_pass_in_whole_batches(model: Path, images: np.ndarray) -> None:
    runner = AsRuntime(model.read_bytes())
    check = check_outputs(runner, model.read_bytes(), Examples.images(images), 4, CLASSIFY)
    assert (check.images, check.agreement) == (8, 1.0) and check.sqnr_db > 40
    assert runner.sizes == [4, 4]


@pytest.mark.parametrize("factor", [0.5, -1.0, np.nan])
def test_engines_that_compute_something_else_fail(model: Path, images: np.ndarray, factor: float) -> None:
    with pytest.raises(CheckError, match=r"dB from ONNX Runtime's of the same file|gives NaN or infinity in output"):
        check_outputs(AsRuntime(model.read_bytes(), factor), model.read_bytes(), Examples.images(images), 2, CLASSIFY)


def test_the_probed_file_gives_the_codes_of_every_quantizer(model: Path, images: np.ndarray) -> None:
    content, names = expose_codes(model.read_bytes())
    assert len(names) == sum(n.op_type == "QuantizeLinear" for n in onnx.load(str(model)).graph.node) > 3
    session = onnxruntime.session(content, 1)
    outputs = dict(zip(names, onnxruntime.run(session, Examples.images(images[:2]), None, names), strict=True))
    assert {o.dtype for o in outputs.values()} == {np.dtype(np.int8)}
    assert first_difference(names, outputs, outputs) is None
    for name in (names[1], names[-1]):
        wrong = {**outputs, name: np.roll(outputs[name], 1, axis=-1)}
        assert first_difference(names, outputs, wrong) == name
    late = {**outputs, names[1]: -outputs[names[1]], names[2]: 0 * outputs[names[2]]}
    assert first_difference(names, outputs, late) == names[1]


def test_products_are_named_after_their_sites(model: Path, tmp_path: Path) -> None:
    planned = products(model)
    assert {"stem", "patch", "attn.q", "attn.proj", "fc1", "fc2"} <= set(planned.quantized)
    assert planned.attention == planned.plugins == () and "head" not in planned.quantized
    calibrated = calibrate(wide_vit(), (6,), attention=True)
    (tmp_path / "m.onnx").write_bytes(half(calibrated, half_scales(calibrated.plan((6, 6)))).graph.serialize())
    planned = products(tmp_path / "m.onnx")
    assert len(planned.attention) == 2 and set(planned.attention) < set(planned.quantized)
    nodes = {n.name for n in onnx.load(str(tmp_path / "m.onnx")).graph.node}
    assert set(planned.quantized.values()) <= nodes


def test_a_packed_file_is_probed_where_its_operators_end(images: np.ndarray, tmp_path: Path) -> None:
    path = packed_onnx(tmp_path)
    content, names = expose_codes(path.read_bytes())
    session = onnxruntime.session(content, 1)
    outputs = dict(zip(names, onnxruntime.run(session, Examples.images(images[:2]), None, names), strict=True))
    calls = [n.output[0] for n in onnx.load(str(path)).graph.node if n.domain == "qvit"]
    assert len(calls) == 9 and set(calls) < set(names)
    late = {**outputs, calls[2]: -outputs[calls[2]], calls[4]: 0 * outputs[calls[4]]}
    assert first_difference(names, outputs, late) == calls[2]
    planned = products(path)
    assert {"patch", "attn.q", "fc1", "fc2"} <= set(planned.plugins) < set(planned.quantized)


def test_operators_of_our_own_are_plugins(model: Path, tmp_path: Path) -> None:
    proto = onnx.load(str(model))
    proto.graph.node.append(onnx.helper.make_node("W4A4Linear", ["a"], ["b"], name="fc9", domain="qvit"))
    onnx.save(proto, tmp_path / "m.onnx")
    assert products(tmp_path / "m.onnx").plugins == ("fc9",)
