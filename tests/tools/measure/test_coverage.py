"""The coverage table: the page has a line for every row of the tool, and a few rows are compiled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qvit_deploy.targets.registry import REFERENCE, TARGETS
from tools.measure.architectures.architecture import Architecture
from tools.measure.coverage import EXPORTERS, architectures, one
from tools.measure.coverage_outputs import in_order_of
from tools.measure.coverage_table import Row, names_of, page

PAGE = Path(__file__).parents[3] / "docs/coverage.md"


def test_the_page_has_the_rows_of_the_tool() -> None:
    assert names_of(PAGE.read_text(encoding="utf-8")) == [a.name for a in architectures()], (
        "print the page anew: python -m tools.measure.coverage WORK --markdown docs/coverage.md"
    )


def test_every_row_has_its_own_name_and_a_task() -> None:
    rows = architectures()
    assert len({a.name for a in rows}) == len(rows) and all(a.task for a in rows)


def test_a_line_says_what_each_exporter_came_to_and_what_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.measure.coverage_table.version", lambda library: "1.0")
    architectures = [Architecture("timm:a", "classification", _never), Architecture("hf:b", "depth", _never)]
    outputs = {"logits": [10], "maps": [7, 4, 4], "score": []}
    refusal = {"openvino": "no | such operator"}
    rows = [
        Row("timm:a", "torchscript", "ok", "", outputs, 130.1, 25.4, list(TARGETS)),
        Row("timm:a", "dynamo", "ok", "", outputs, 130.1, 26.4, ["onnxruntime", "openvino"], refusal),
        Row("hf:b", "torchscript", "export", "ValueError: no"),
        Row("hf:b", "dynamo", "wrong", "depth is 3.1 dB away", {"depth": [8, 8]}, 120, 3.1),
    ]
    text = page({(r.name, r.exporter): r for r in rows}, architectures, ["torchscript", "dynamo"])
    lines = text.splitlines()
    assert names_of(text) == ["timm:a", "hf:b"]
    assert "| torchscript | 2 | 1 | 1 export |" in lines and "| dynamo | 2 | 1 | 1 wrong |" in lines
    others = ", ".join(target for target in TARGETS if target != "openvino")
    reason = r"openvino: no \| such operator"
    assert f"| `timm:a` | logits 10, maps 7x4x4, score | 25 | 26 | {others} | {reason} |" in lines
    failing = "torchscript: ValueError: no; dynamo: depth is 3.1 dB away"
    assert f"| `hf:b` | depth 8x8 | **export** | **wrong** 3 |  | {failing} |" in lines
    assert lines.index("## Classification") < lines.index("## Depth")


def test_ranked_queries_are_compared_as_sets() -> None:
    generator, order = np.random.default_rng(0), np.array([[2, 0, 1, 3], [3, 1, 0, 2]])
    wanted = {"logits": generator.normal(size=(2, 1, 4, 3)), "boxes": generator.normal(size=(2, 1, 4, 2))}
    each = np.arange(2)[:, None]
    got = {name: (value[each, 0, order] + 0.01)[:, None] for name, value in wanted.items()}
    ordered = in_order_of(wanted, got)
    for name, value in wanted.items():
        np.testing.assert_allclose(ordered[name], value + 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "timm:xcit_nano_12_p16_224"])
def test_a_family_of_timm_compiles_for_all_targets(name: str, exporter: str, tmp_path: Path) -> None:
    _require_ok(name, exporter, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["detr", "segformer", "depth-anything", "sam", "siglip-vision"])
def test_an_architecture_of_transformers_compiles_for_all_targets(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="rows of transformers need transformers")
    _require_ok(f"transformers:{name}", "torchscript", tmp_path)


def _require_ok(name: str, exporter: str, folder: Path) -> None:
    row = one(
        next(a for a in architectures() if a.name == name),
        exporter,
        folder,
        [t for t in TARGETS if t != REFERENCE.name],
    )
    assert (row.outcome, row.reason, dict(row.without)) == ("ok", "", {})


def _never() -> None:
    raise AssertionError("a page needs no model")
