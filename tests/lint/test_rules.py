from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from qvit_deploy.lint import RULES, Finding, lint
from tests.support.graphs.lint_examples import EXAMPLES, Example

BY_ID = {rule.id: rule for rule in RULES}


def linted(proto: onnx.ModelProto, example: Example) -> list[Finding]:
    return lint(ir.from_proto(proto), example.target, version=example.version)


def test_every_rule_has_an_id_of_its_own_and_an_example() -> None:
    assert len(BY_ID) == len(RULES) and set(BY_ID) == set(EXAMPLES)


@pytest.mark.parametrize("rule", EXAMPLES)
def test_a_rule_finds_what_breaks_it_and_only_that(rule: str) -> None:
    example = EXAMPLES[rule]
    findings = [f for f in linted(example.breaks, example) if f.rule == rule]
    assert findings and all(f.message and f.hint == BY_ID[rule].hint for f in findings)
    assert {f.severity for f in findings} == {BY_ID[rule].severity}
    assert rule not in {f.rule for f in linted(example.clean, example)}


@pytest.mark.parametrize("rule", EXAMPLES)
def test_a_rule_speaks_for_its_targets_only(rule: str) -> None:
    example = EXAMPLES[rule]
    model = ir.from_proto(example.breaks)
    for target in ("tensorrt", "tensorrt-rtx", "onnxruntime"):
        if target not in BY_ID[rule].targets:
            assert rule not in {f.rule for f in lint(model, target)}
