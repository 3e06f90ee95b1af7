"""The lint after emission."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from qvit_deploy.errors import CheckError
from qvit_deploy.graph.graph import Graph
from qvit_deploy.lint import lint
from qvit_deploy.lint.emitted import require_no_errors
from tests.support.graphs.relevance_graphs import Builder


def test_a_clean_graph_counts_nothing_that_stops_it(tiny_vit: Graph) -> None:
    assert "TRT101" not in require_no_errors(lint(tiny_vit.model, "onnxruntime"), "onnxruntime")


def test_an_error_stops_and_names_the_place() -> None:
    builder = Builder()
    scale, zero = builder.constant(0.1), builder.codes(np.array(3, np.int8))
    codes = builder.op("QuantizeLinear", "image", scale, zero, name="codes")
    value = builder.op("DequantizeLinear", codes, scale, zero)
    graph = builder.graph(builder.op("Flatten", value, name="y"), (2, 3, 4))
    findings = lint(ir.from_proto(graph.to_proto()), "tensorrt")
    with pytest.raises(CheckError, match=r"lint: the tensorrt model breaks TRT101 at 'codes': .*, and 1 more error"):
        require_no_errors(findings, "tensorrt")
