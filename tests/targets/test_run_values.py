from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qvit_deploy.data.ready import TensorSet
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.interface import inputs_of
from qvit_deploy.targets.onnxruntime.runner import OnnxRuntimeRunner
from qvit_deploy.targets.run_values import run_values, write_run_values
from qvit_deploy.targets.runtime import RunSettings

INPUTS = inputs_of(
    [
        ("image", ("batch", 1, 2, 2), ir.DataType.FLOAT), ("a/b: ids", ("batch", 3), ir.DataType.INT64),
        ("scale", (2,), ir.DataType.FLOAT), ("seen", ("batch", 3), ir.DataType.BOOL),
    ]
)  # fmt: skip
ARRAYS = {
    "image": np.arange(12, dtype=np.float32).reshape(3, 1, 2, 2),
    "a/b: ids": np.arange(9).reshape(3, 3),
    "seen": np.array([[True, False, True]] * 3),
}
SET = TensorSet(Examples(ARRAYS, {"scale": np.float32([2, 3])}), ("a", "b", "c"))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_run_gets_the_first_examples(tmp_path: Path, batch: int) -> None:
    write_run_values(tmp_path / "values.npz", INPUTS, SET, batch)
    values = run_values(INPUTS, batch, tmp_path / "values.npz")
    assert len(values) == batch and list(values.shared) == ["scale"]
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(values.arrays[name], array[np.arange(batch) % 3])
        assert values.arrays[name].dtype == array.dtype


def test_without_a_file_values_are_made_up() -> None:
    values = run_values(INPUTS, 4, None)
    assert values.arrays["image"].std() > 0 and not values.arrays["a/b: ids"].any() and values.arrays["seen"].all()


def test_onnx_runtime_runs_on_them(tmp_path: Path) -> None:
    """Indices of a table: made-up ones are inside of it, those of the file are not."""
    table = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 17]> g (int64[N,2] ids) => (float[N,2] y) '
        "<float[3] table = {1, 2, 3}> { y = Gather (table, ids) }"
    )
    onnx.save(table, tmp_path / "m.onnx")
    inputs = inputs_of([("ids", ("N", 2), ir.DataType.INT64)])
    write_run_values(tmp_path / "v.npz", inputs, TensorSet(Examples({"ids": np.full((1, 2), 7)}), ("a",)), 1)
    assert OnnxRuntimeRunner(tmp_path / "m.onnx", RunSettings(1)).run_ns() > 0
    with pytest.raises(Exception, match="out of data bounds"):
        OnnxRuntimeRunner(tmp_path / "m.onnx", RunSettings(1, values=tmp_path / "v.npz")).run_ns()
