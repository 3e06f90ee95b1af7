"""Engines of site models, by the real TensorRT-RTX; what a table is made of is in tests/integration."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from qvit_deploy.artifacts.engine_record import read_engine
from qvit_deploy.bench.sites.emission import overhead
from qvit_deploy.bench.sites.models import OVERHEAD, Index
from qvit_deploy.bench.sites.times import build_site_engines
from qvit_deploy.errors import InputError
from qvit_deploy.graph.graph import Graph
from qvit_deploy.targets.registry import TARGETS
from tests.support.artifacts.site_examples import emitted
from tests.support.graphs.half_graphs import wide_vit
from tests.support.graphs.quantizable_graphs import mixed_vit


def folder_of(folder: Path, models: dict[str, bytes], file_for: str = "tensorrt-rtx") -> Index:
    files = {OVERHEAD: overhead(TARGETS[file_for]), **{f"{name}.onnx": content for name, content in models.items()}}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    sites = {name: {"w4a4": f"{name}.onnx"} for name in models}
    return Index(
        schema="qvit-deploy/site-models/2", target="tensorrt-rtx", profile=file_for, batch=2, sites=sites, baselines={}
    )


@pytest.mark.parametrize(
    ("graph", "site", "bits", "file_for", "inputs"),
    [
        (wide_vit(), "embed", 8, "tensorrt-rtx", [("x", (2, 16, 32), "float")]),
        (wide_vit(), "attn.qk", 6, "tensorrt-rtx", [("x", (2, 2, 16, 16), "half"), ("second", (2, 2, 16, 16), "half")]),
        (wide_vit(), "fc1", 4, "tensorrt-plugin", [("x", (2, 16, 32), "half")]),
        (wide_vit(), "fc2", 6, "tensorrt-plugin", [("x", (2, 16, 64), "half")]),
        (mixed_vit(), "stem", 6, "tensorrt-rtx", [("x", (2, 3, 16, 16), "float")]),
    ],
    ids=["image", "attention", "codes", "packed", "convolution"],
)  # fmt: skip
def test_engines_are_built_with_the_sizes_and_types_of_the_site(
    tmp_path: Path, graph: Graph, site: str, bits: int, file_for: str, inputs: list[tuple[str, tuple[int, ...], str]]
) -> None:
    pytest.importorskip("tensorrt_rtx")
    index = folder_of(tmp_path, {site: emitted(graph, 2, (bits, bits), file_for)[site]}, file_for)
    built = build_site_engines(tmp_path, index, tmp_path / "engines", 86)
    assert list(built) == [OVERHEAD, f"{site}.onnx"]
    record = read_engine(built[f"{site}.onnx"])
    assert [(t.name, t.shape, t.dtype) for t in record.build.inputs] == inputs
    assert [t.dtype for t in record.build.outputs] == ["half"] and record.batch.best == 2 and record.build.sm == 86
    assert record.build.messages == () or site == "stem"  # of convolutions RTX has something to say
    nothing = read_engine(built[OVERHEAD])
    assert [t.dtype for t in (*nothing.build.inputs, *nothing.build.outputs)] == ["half", "half"]


def test_a_site_without_an_engine_is_named(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    shifted = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 21]> g (float[2,16] x) => (float[2,16] y)
        <float s = {0.5}, int8 z = {3}> { q = QuantizeLinear (x, s, z)  y = DequantizeLinear (q, s, z) }"""
    ).SerializeToString()
    index = folder_of(tmp_path, {"fc1": shifted})
    with pytest.raises(InputError, match=r"^site 'fc1' at w4a4: .*cannot parse it: \w+ node ") as caught:
        build_site_engines(tmp_path, index, tmp_path / "engines", 86)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"not onnx", b""])
def test_a_file_that_is_no_model(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("tensorrt_rtx")
    index = folder_of(tmp_path, {"fc1": content})
    (tmp_path / OVERHEAD).write_bytes(content)
    with pytest.raises(InputError, match=r"^the model that does nothing: .*overhead\.onnx"):
        build_site_engines(tmp_path, index, tmp_path / "engines", 86)
    assert not (tmp_path / "engines").exists()


def test_a_gpu_that_no_engine_is_for(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    nothing = overhead(TARGETS["tensorrt-rtx"])
    with pytest.raises(InputError, match=r"builds for .* only"):
        build_site_engines(tmp_path, folder_of(tmp_path, {"fc1": nothing}), tmp_path / "engines", 87)
