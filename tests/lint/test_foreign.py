"""Files of other tools: ONNX Runtime's quantizers on a small transformer, and a Hugging Face style export."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime.quantization as ortq
import pytest
import torch

from qvit_deploy.commands.inspect import describe
from qvit_deploy.lint import LintTarget, lint
from qvit_deploy.targets.onnxruntime.runtime import fusion
from tests.support.models.torch_models import HuggingFaceStyleViT, torchscript_onnx
from tests.support.places import REPOSITORY

IMAGE = "pixel_values"


class Reader(ortq.CalibrationDataReader):
    """Two random images."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.images = iter([{IMAGE: random.normal(size=(1, 3, 32, 32)).astype(np.float32)} for _ in range(2)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.images, None)


SYMMETRIC = {
    "op_types_to_quantize": ["MatMul"], "activation_type": ortq.QuantType.QInt8, "weight_type": ortq.QuantType.QInt8,
    "per_channel": True, "extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True},
}  # fmt: skip
TOOLS: dict[str, Callable[[str, str], None]] = {
    "defaults": lambda i, o: ortq.quantize_static(i, o, Reader()),
    "uint8": lambda i, o: ortq.quantize_static(i, o, Reader(), activation_type=ortq.QuantType.QUInt8),
    "matmul only": lambda i, o: ortq.quantize_static(i, o, Reader(), **SYMMETRIC),
    "operators": lambda i, o: ortq.quantize_static(i, o, Reader(), quant_format=ortq.QuantFormat.QOperator),
    "float biases": lambda i, o: ortq.quantize_static(i, o, Reader(), extra_options={"QuantizeBias": False}),
    "dynamic": lambda i, o: ortq.quantize_dynamic(i, o),
}


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A one-block ViT as torch exports it, at opsets 14 and 17, and the latter quantized in every way."""
    folder = tmp_path_factory.mktemp("foreign")
    torch.manual_seed(0)
    module = HuggingFaceStyleViT(depth=1)
    files = {name: folder / f"{name.replace(' ', '-')}.onnx" for name in ("opset 14", "opset 17", *TOOLS)}
    for opset in (14, 17):
        files[f"opset {opset}"].write_bytes(torchscript_onnx(module, (3, 32, 32), opset))
    for name, tool in TOOLS.items():
        tool(str(files["opset 17"]), str(files[name]))
    return files


def rules(path: Path, target: LintTarget) -> Counter[str]:
    return Counter(finding.rule for finding in lint(ir.load(path), target))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "expected", "absent"),
    [
        ("defaults", {"TRT101", "TRT105", "TRT201", "TRT202", "TRT205", "TRT404"}, {"TRT102", "TRT601"}),
        ("float biases", {"TRT101", "TRT201"}, {"TRT105"}),
        ("uint8", {"TRT101", "TRT102", "TRT105", "TRT201"}, {"TRT604"}),
        ("matmul only", {"TRT202", "TRT403", "TRT404", "TRT305"}, {"TRT101", "TRT105", "TRT201", "TRT207"}),
        ("operators", {"TRT101", "TRT601", "TRT604", "TRT203"}, {"TRT102", "TRT605"}),
        ("dynamic", {"TRT604"}, {"TRT101"}),
        ("opset 14", {"TRT501", "TRT503", "TRT403"}, {"TRT101", "TRT201", "TRT502"}),
        ("opset 17", {"TRT503", "TRT403"}, {"TRT501"}),
    ],
)
def test_what_is_wrong_with_them(foreign: dict[str, Path], name: str, expected: set[str], absent: set[str]) -> None:
    broken = rules(foreign[name], "tensorrt")
    assert expected <= set(broken) and not absent & set(broken)


@pytest.mark.filterwarnings("ignore")
def test_every_residual_addition_is_found_and_no_bias(foreign: dict[str, Path]) -> None:
    adds = [f.node for f in lint(ir.load(foreign["defaults"]), "tensorrt") if f.rule == "TRT201"]
    assert adds == ["/vit/encoder/layer.0/Add", "/vit/encoder/layer.0/Add_1"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["defaults", "matmul only", "uint8"])
def test_products_left_in_float_are_those_the_lint_names(foreign: dict[str, Path], name: str) -> None:
    """Query, key and value read one pair: with int8 codes ONNX Runtime leaves the three in float, with uint8 none."""
    shared = [f for f in lint(ir.load(foreign[name]), "onnxruntime") if f.rule == "ORT204"]
    ran = fusion(foreign[name].read_bytes())
    assert len(shared) == (0 if name == "uint8" else 1) and ran.ops.get("MatMul", 0) == 3 * len(shared)
    assert all("3 products" in f.message for f in shared)


@pytest.mark.filterwarnings("ignore")
def test_what_inspect_makes_of_them(foreign: dict[str, Path]) -> None:
    descriptions = {name: describe(path) for name, path in foreign.items()}
    assert {name: d["lint"]["profile"] for name, d in descriptions.items()} == {
        "opset 14": "onnxruntime", "opset 17": "onnxruntime", "dynamic": "onnxruntime",
        "defaults": "tensorrt", "uint8": "tensorrt", "matmul only": "tensorrt", "operators": "tensorrt",
        "float biases": "tensorrt",
    }  # fmt: skip
    for name in ("defaults", "uint8"):
        assert descriptions[name]["quantized_products"] == len(descriptions[name]["products"]) == 10
        assert all(o["bits"] == 8 for p in descriptions[name]["products"] for o in p["operands"])
    assert descriptions["matmul only"]["quantized_products"] == 8
    whole = sum(v.size for v in _weights(foreign["opset 17"]))
    assert descriptions["defaults"]["weight_bytes"] == descriptions["defaults"]["packed_weight_bytes"] == whole
    assert descriptions["opset 17"]["weight_bytes"] == 4 * whole
    quantize = [n for n in onnx.load(foreign["defaults"]).graph.node if n.op_type == "QuantizeLinear"]
    assert descriptions["defaults"]["quantizers"]["QuantizeLinear"] == len(quantize) > 0


def _weights(path: Path) -> list[np.ndarray]:
    graph = onnx.load(path).graph
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    products = [n for n in graph.node if n.op_type in ("MatMul", "Gemm", "Conv")]
    return [arrays[i] for n in products for i in n.input[:2] if i in arrays]


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
@pytest.mark.filterwarnings("ignore")
def test_the_parser_refuses_those_with_errors_and_takes_the_others(foreign: dict[str, Path]) -> None:
    child = REPOSITORY / "tests" / "support" / "devices" / "rtx_child.py"
    folder = foreign["defaults"].parent
    done = subprocess.run([sys.executable, str(child), str(folder)], capture_output=True, text=True, timeout=300)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    answers: dict[str, dict[str, Any]] = {line["file"]: line for line in lines if "file" in line}
    for name, path in foreign.items():
        errors = [f for f in lint(ir.load(path), "tensorrt-rtx") if f.severity == "error"]
        assert answers[path.name]["parsed"] == (not errors), name
