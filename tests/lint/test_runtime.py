"""Rules that rest on what ONNX Runtime does, asked of the real one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import ModelProto

from qvit_deploy.errors import InputError
from qvit_deploy.lint import RULES, lint
from qvit_deploy.targets.onnxruntime.runtime import fusion, session
from tests.support.graphs.lint_examples import EXAMPLES, linear
from tests.support.graphs.small_files import LINEAR, f32, i8, u8

MEASURED = [rule.id for rule in RULES if rule.source == "measured"]
REFUSED = {
    "ONNX301": "INVALID_GRAPH", "ONNX302": "No Op registered", "ORT601": "not a registered function/op",
    "ORT201": "output_dtype INT8 does not match", "ORT202": "output_dtype INT8 does not match",
    "ORT212": "output_dtype INT8 does not match",
}  # fmt: skip
"""Rule -> words of ONNX Runtime's reason."""
COMPUTED = ("ONNX102",)
NOT_FUSED = [r for r in MEASURED if r not in REFUSED and r not in COMPUTED]


def products(model: ModelProto) -> tuple[int, int]:
    """(integer products, all) once ONNX Runtime has optimized the model."""
    fused = fusion(model.SerializeToString())
    floats = ("MatMul", "Gemm", "Conv", "FusedMatMul", "FusedConv", "MatMulNBits")
    return fused.integer_products, fused.integer_products + sum(fused.ops.get(op, 0) for op in floats)


@pytest.mark.parametrize("rule", REFUSED)
def test_a_file_that_is_refused(rule: str) -> None:
    with pytest.raises(InputError, match=REFUSED[rule]):
        session(EXAMPLES[rule].breaks.SerializeToString(), 1)
    session(EXAMPLES[rule].clean.SerializeToString(), 1)


@pytest.mark.parametrize("rule", NOT_FUSED)
def test_a_product_that_stays_in_float(rule: str) -> None:
    integer, total = products(EXAMPLES[rule].breaks)
    assert integer == 0 < total
    integer, total = products(EXAMPLES[rule].clean)
    assert integer == total > 0


def test_an_infinite_scale_gives_no_number() -> None:
    runner = session(EXAMPLES["ONNX102"].breaks.SerializeToString(), 1)
    (y,) = runner.run(None, {"x": np.ones((1, 8, 32), np.float32)})
    assert np.isnan(y).all()


TRANSPOSED = LINEAR.replace("MatMul(d", "MatMul(t").replace("wd =", "t = Transpose<perm=[0,1,2]>(d) wd =")
REQUANTIZED = LINEAR.replace("MatMul(d", "MatMul(e").replace(
    "wd =", "t = Transpose<perm=[0,1,2]>(d) r = QuantizeLinear(t, s2, z2) e = DequantizeLinear(r, s2, z2) wd ="
)


@pytest.mark.parametrize(
    ("body", "opset", "zero"),
    [(TRANSPOSED, 20, i8(0)), (TRANSPOSED, 21, u8(128)), (REQUANTIZED, 21, i8(0))],
)
def test_what_saves_an_int8_pair_in_front_of_a_layout_change(body: str, opset: int, zero: object) -> None:
    """The hints of ORT201, and files in which the layout change has a pair behind it too."""
    constants = {"z": zero, "s2": f32(0.1), "z2": i8(0)}
    saved = linear(constants, body, inputs="float[N,8,32] x", outputs="float[N,8,32] y", opset=opset)
    assert products(saved) == (1, 1)
    assert "ORT201" not in {f.rule for f in lint(ir.from_proto(saved), "onnxruntime")}
