"""Rules that rest on TensorRT's parser, asked of the real one. Engines are built for SM 86; no GPU is needed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from qvit_deploy.lint import RULES
from qvit_deploy.lint.structure import NOT_PARSED
from tests.support.graphs.lint_examples import EXAMPLES, linear
from tests.support.graphs.small_files import LINEAR, u8
from tests.support.places import REPOSITORY

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="the module tensorrt_rtx is not installed"
)

PARSER_RULES = [rule.id for rule in RULES if rule.source == "parser"]
NAMING_A_PLUGIN = ("TRT607", "TRT608", "TRT609", "TRT610")
UNTRIED = [
    r.id for r in RULES if r.source == "documentation" and "tensorrt" in r.targets and r.id not in NAMING_A_PLUGIN
]
WARNED = {"TRT301": "at least opset 7", "TRT502": "layernorm nodes in FP16"}
SILENT = ("TRT103", "TRT602")
AT_BUILD = ("TRT110",)
REFUSED = {
    "ONNX101": "must all be positive",
    "TRT101": "Non-zero zero point",
    "TRT102": "unsupported input type of UINT8",
    "TRT104": "Failed to import initializer",
    "TRT105": "has type Int32",
    "ONNX303": "must have same input types",
    "TRT304": "Failed to convert ONNX date type",
    "TRT306": "UInt8",
    "TRT601": "Plugin not found",
    "TRT603": "Plugin not found",
    "TRT604": "false",
    "TRT605": "Plugin not found",
    "RTX601": "Plugin not found",
    "ONNX701": "Failed to import initializer",
    "TRT702": "false",
}
"""Rule -> words of the parser's reason; of an operator without importer it only says \"false\"."""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the parser says of both files of every rule that rests on it."""
    folder = tmp_path_factory.mktemp("files")
    for rule in PARSER_RULES:
        (folder / f"{rule}.breaks").write_bytes(EXAMPLES[rule].breaks.SerializeToString())
        (folder / f"{rule}.clean").write_bytes(EXAMPLES[rule].clean.SerializeToString())
    for rule in UNTRIED:
        (folder / f"{rule}.parse").write_bytes(EXAMPLES[rule].breaks.SerializeToString())
    unsigned = linear({"z": u8(0)}, LINEAR)
    (folder / "unsigned.activation").write_bytes(unsigned.SerializeToString())
    child = REPOSITORY / "tests" / "support" / "devices" / "rtx_child.py"
    done = subprocess.run([sys.executable, str(child), str(folder)], capture_output=True, text=True, timeout=300)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0, f"the library ended the process after {lines[-1:]}: {done.stderr[-500:]}"
    return {line.get("file", "operators"): line for line in lines}


def test_every_rule_that_names_the_parser_is_asked() -> None:
    assert sorted([*REFUSED, *AT_BUILD, *WARNED, *SILENT]) == sorted(PARSER_RULES)


@pytest.mark.parametrize("rule", PARSER_RULES)
def test_a_clean_file_becomes_an_engine(answers: dict[str, dict[str, Any]], rule: str) -> None:
    answer = answers[f"{rule}.clean"]
    assert answer["parsed"] and answer["built"]


@pytest.mark.parametrize("rule", REFUSED)
def test_a_file_that_breaks_a_rule_is_refused(answers: dict[str, dict[str, Any]], rule: str) -> None:
    answer = answers[f"{rule}.breaks"]
    assert not answer["parsed"] and REFUSED[rule] in answer["errors"]


@pytest.mark.parametrize("rule", AT_BUILD)
def test_a_file_that_fails_only_when_the_engine_is_built(answers: dict[str, dict[str, Any]], rule: str) -> None:
    answer = answers[f"{rule}.breaks"]
    assert answer["parsed"] and answer["built"] is False


@pytest.mark.parametrize("rule", WARNED)
def test_a_file_that_is_warned_about(answers: dict[str, dict[str, Any]], rule: str) -> None:
    assert any(WARNED[rule] in warning for warning in answers[f"{rule}.breaks"]["warnings"])
    assert not answers[f"{rule}.clean"]["warnings"]


@pytest.mark.parametrize("rule", SILENT)
def test_a_file_that_is_misread_without_a_word(answers: dict[str, dict[str, Any]], rule: str) -> None:
    answer = answers[f"{rule}.breaks"]
    assert answer["parsed"] and answer["warnings"] == []


@pytest.mark.parametrize("rule", UNTRIED)
def test_the_parser_takes_what_only_documentation_warns_of(answers: dict[str, dict[str, Any]], rule: str) -> None:
    """So these rules say what no parser would; none of them belongs among those above."""
    answer = answers[f"{rule}.parse"]
    assert answer["parsed"] and answer["warnings"] == []


def test_codes_without_a_zero_point_are_int8_to_the_parser(answers: dict[str, dict[str, Any]]) -> None:
    """The standard says uint8."""
    assert answers["TRT103.breaks"]["types"] == ["DataType.INT8"]


def test_uint8_activations_are_read_as_int8_with_a_warning(answers: dict[str, dict[str, Any]]) -> None:
    answer = answers["unsigned.activation"]
    assert answer["parsed"] and answer["types"] == ["DataType.INT8"]
    assert any("Defaulting to INT8" in warning for warning in answer["warnings"])


def test_the_list_of_operators_without_an_importer_is_the_parser_s(answers: dict[str, dict[str, Any]]) -> None:
    assert np.array_equal(sorted(NOT_PARSED), answers["operators"]["not_parsed"])
